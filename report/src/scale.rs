//! Where things go on a time axis: scaling, ticks, merging, rows of labels.

use contract::history::Nanos;

/// One millisecond.
pub(super) const MILLISECOND: Nanos = 1_000_000;

/// Maps a span of time to a span of pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    from: Nanos,
    span: f64,
    left: f64,
    width: f64,
}

impl Scale {
    pub(super) fn new(from: Nanos, to: Nanos, left: f64, width: f64) -> Self {
        Self { from, span: to.saturating_sub(from).max(1) as f64, left, width }
    }

    /// Where a time is; one outside the span is at its edge.
    pub(super) fn x(&self, t: Nanos) -> f64 {
        let part = t.saturating_sub(self.from) as f64 / self.span;
        self.left + part.clamp(0.0, 1.0) * self.width
    }

    pub(super) fn right(&self) -> f64 {
        self.left + self.width
    }
}

/// Round times between `from` and `to`, counted from `origin`: at most a dozen.
pub(super) fn ticks(from: Nanos, to: Nanos, origin: Nanos) -> Vec<(Nanos, String)> {
    const ROUND: [f64; 3] = [1.0, 2.0, 5.0];
    let (first, last) = (signed(from, origin), signed(to, origin));
    let least = (last - first).max(1.0) / 11.0;
    let decade = 10f64.powf(least.log10().floor());
    let step = ROUND.iter().map(|round| round * decade).find(|step| *step >= least).unwrap_or(10.0 * decade);
    let mut ticks = Vec::new();
    let mut at = (first / step).ceil();
    while at * step <= last && ticks.len() < 12 {
        let offset = at * step;
        ticks.push((moved(origin, offset), label(offset, step)));
        at += 1.0;
    }
    ticks
}

fn signed(t: Nanos, origin: Nanos) -> f64 {
    t as f64 - origin as f64
}

fn moved(origin: Nanos, offset: f64) -> Nanos {
    if offset < 0.0 {
        origin.saturating_sub(-offset as Nanos)
    } else {
        origin.saturating_add(offset as Nanos)
    }
}

/// `+0.5 s`, with a true minus sign.
fn label(offset: f64, step: f64) -> String {
    if offset.abs() < step / 2.0 {
        return "0".to_owned();
    }
    let sign = if offset < 0.0 { "\u{2212}" } else { "+" };
    let (unit, name) = if step >= 0.1e9 { (1e9, "s") } else { (1e6, "ms") };
    let decimals = if step < unit { 1 } else { 0 };
    format!("{sign}{:.decimals$} {name}", offset.abs() / unit)
}

/// Joins spans that overlap or are nearer than `gap` to one another.
pub(super) fn merge(mut spans: Vec<(f64, f64)>, gap: f64) -> Vec<(f64, f64)> {
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut merged: Vec<(f64, f64)> = Vec::new();
    for (from, to) in spans {
        match merged.last_mut() {
            Some(last) if from - last.1 <= gap => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// A row for each of these labels, given as spans in order of where their
/// lines go down: below every earlier label that the line would cross.
pub(super) fn rows(spans: &[(f64, f64)]) -> Vec<usize> {
    let mut ends: Vec<f64> = Vec::new();
    let mut row_of = |&(from, to): &(f64, f64)| {
        let row = ends.iter().rposition(|end| *end > from).map_or(0, |last| last + 1);
        ends.truncate(row);
        ends.push(to);
        row
    };
    spans.iter().map(&mut row_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000 * MILLISECOND;

    #[test]
    fn times_outside_the_span_are_at_its_edges() {
        let scale = Scale::new(1000, 2000, 100.0, 50.0);
        assert_eq!([0, 1000, 1500, 2000, u64::MAX].map(|t| scale.x(t)), [100.0, 100.0, 125.0, 150.0, 150.0]);
        assert_eq!(scale.right(), 150.0);
        assert!(Scale::new(5, 5, 0.0, 10.0).x(5).is_finite());
    }

    #[test]
    fn ticks_are_round_and_few() {
        let of = |from, to, origin| {
            ticks(from, to, origin).into_iter().map(|(_, label)| label).collect::<Vec<_>>()
        };
        assert_eq!(
            of(0, 4 * SECOND, 2 * SECOND),
            ["−2.0 s", "−1.5 s", "−1.0 s", "−0.5 s", "0", "+0.5 s", "+1.0 s", "+1.5 s", "+2.0 s"]
        );
        assert_eq!(
            of(0, 3 * MILLISECOND, 0),
            ["0", "+0.5 ms", "+1.0 ms", "+1.5 ms", "+2.0 ms", "+2.5 ms", "+3.0 ms"]
        );
        for (from, to, origin) in [(0, u64::MAX, 7), (9, 9, 9), (u64::MAX - 1, u64::MAX, 0), (10, 2, 5)] {
            assert!(ticks(from, to, origin).len() <= 12);
        }
    }

    #[test]
    fn near_spans_become_one_and_far_ones_stay_apart() {
        let spans = vec![(10.0, 11.0), (0.0, 5.0), (3.0, 4.0), (5.5, 6.0)];
        assert_eq!(merge(spans, 0.5), [(0.0, 6.0), (10.0, 11.0)]);
    }

    #[test]
    fn no_line_crosses_the_label_of_another() {
        assert_eq!(
            rows(&[(0.0, 10.0), (5.0, 15.0), (6.0, 16.0), (11.0, 21.0), (30.0, 40.0)]),
            [0, 1, 2, 3, 0]
        );
    }
}
