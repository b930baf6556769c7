//! The picture of a measurement: a row for each figure, a point for each time
//! that it was measured, and a line at their median.

use contract::history::Nanos;
use maud::{Markup, html};

use super::scale::{MILLISECOND, Scale, ticks};
use super::text::px;

const WIDTH: f64 = 960.0;
const ROW: f64 = 26.0;
const TOP: f64 = 34.0;
const MARGIN: f64 = 16.0;
/// About the width of a letter of the labels.
const LETTER: f64 = 6.8;
/// The longest axis, milliseconds: a day.
const MOST: f64 = 86_400_000.0;

const STYLE: &str = "text{font:12px sans-serif;fill:#222}.grid{stroke:#ddd}.range{stroke:#9bb7d4;stroke-width:6}\
    .median{stroke:#123;stroke-width:2}circle{fill:#1f6fb2;fill-opacity:.65}svg{background:#fff}";

/// Draws times in milliseconds as an SVG file of its own: each row's name, and
/// what was measured. What is not a number is left out.
pub fn plot(title: &str, rows: &[(&str, &[f64])]) -> String {
    let letters = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let left = MARGIN + LETTER * letters as f64 + 10.0;
    let longest = rows.iter().flat_map(|(_, times)| times.iter().copied()).fold(1.0, f64::max);
    let end = nanos(longest * 1.02);
    let scale = Scale::new(0, end, left, WIDTH - left - 2.0 * MARGIN);
    let bottom = TOP + ROW * rows.len() as f64;
    let markup = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {WIDTH} {}", px(bottom + 30.0))) {
            style { (maud::PreEscaped(STYLE)) }
            text x=(px(MARGIN)) y="20" { (title) }
            @for (t, label) in ticks(0, end, 0) {
                line class="grid" x1=(px(scale.x(t))) x2=(px(scale.x(t))) y1=(px(TOP)) y2=(px(bottom + 4.0)) {}
                text x=(px(scale.x(t))) y=(px(bottom + 20.0)) text-anchor="middle" { (label.trim_start_matches('+')) }
            }
            @for ((name, times), row) in rows.iter().zip(0u32..) {
                (row_of(name, times, &scale, left, TOP + ROW * (f64::from(row) + 0.5)))
            }
        }
    };
    markup.into_string()
}

fn row_of(name: &str, times: &[f64], scale: &Scale, left: f64, y: f64) -> Markup {
    let mut places: Vec<_> =
        times.iter().filter(|time| time.is_finite()).map(|time| scale.x(nanos(*time))).collect();
    places.sort_by(f64::total_cmp);
    // Of an even number, the upper one of the two in the middle.
    let median = places.get(places.len() / 2);
    html! {
        text x=(px(left - 10.0)) y=(px(y + 4.0)) text-anchor="end" { (name) }
        @if let (Some(least), Some(most)) = (places.first(), places.last()) {
            line class="range" x1=(px(*least)) x2=(px(*most)) y1=(px(y)) y2=(px(y)) {}
        }
        @for x in &places { circle cx=(px(*x)) cy=(px(y)) r="4" {} }
        @if let Some(x) = median {
            line class="median" x1=(px(*x)) x2=(px(*x)) y1=(px(y - 9.0)) y2=(px(y + 9.0)) {}
        }
    }
}

fn nanos(millis: f64) -> Nanos {
    (millis.clamp(0.0, MOST) * MILLISECOND as f64) as Nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_a_point_right_of_shorter_ones() {
        let svg = plot("a < b", &[("warm", &[500.0, 1000.0, 700.0]), ("cold", &[8000.0]), ("none", &[])]);
        assert!(svg.contains("a &lt; b"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 4);
        assert_eq!(svg.matches("class=\"median\"").count(), 2);
        let x = |at: usize| -> f64 {
            let (_, rest) =
                svg.match_indices("<circle cx=\"").map(|(i, m)| svg.split_at(i + m.len())).nth(at).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        assert!(x(0) < x(1) && x(1) < x(2) && x(2) < x(3));
    }

    #[test]
    fn no_number_breaks_the_picture() {
        let svg = plot("", &[("odd", &[f64::NAN, f64::INFINITY, -1.0, 1e300])]);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(plot("empty", &[]).starts_with("<svg"));
    }
}
