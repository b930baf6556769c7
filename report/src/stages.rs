//! How a trial's time splits: its stages as one bar.

use contract::events::{Event, EventKind, Stage};
use contract::history::Nanos;
use maud::{Markup, html};

use super::scale::Scale;
use super::text::{duration, px};

const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 34.0;
/// A narrower stage would not be visible.
const LEAST: f64 = 2.0;

/// One stage of a trial.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StageSpan {
    pub(super) stage: Stage,
    pub(super) from: Nanos,
    /// `None` when the log ends before the stage does.
    pub(super) to: Option<Nanos>,
    pub(super) failed: bool,
    /// The detail of the event at its end.
    pub(super) detail: String,
}

impl StageSpan {
    fn millis(&self) -> Option<f64> {
        self.to.map(|to| to.saturating_sub(self.from) as f64 / 1e6)
    }
}

/// The stages in the order in which they began.
pub(super) fn spans(events: &[Event]) -> Vec<StageSpan> {
    let mut spans: Vec<StageSpan> = Vec::new();
    for event in events {
        match event.event {
            EventKind::Begin => spans.push(StageSpan {
                stage: event.stage,
                from: event.t,
                to: None,
                failed: false,
                detail: String::new(),
            }),
            EventKind::End | EventKind::Failed => {
                let open = spans.iter_mut().rev().find(|span| span.stage == event.stage && span.to.is_none());
                if let Some(span) = open {
                    span.to = Some(event.t);
                    span.failed = event.event == EventKind::Failed;
                    span.detail.clone_from(&event.detail);
                }
            }
            EventKind::Note => {}
        }
    }
    spans
}

/// The bar, and under it each stage with its time.
pub(super) fn draw(spans: &[StageSpan]) -> Markup {
    let from = spans.iter().map(|span| span.from).min().unwrap_or_default();
    let to = spans.iter().map(|span| span.to.unwrap_or(span.from)).max().unwrap_or_default();
    let scale = Scale::new(from, to, 0.0, WIDTH);
    let total = to.saturating_sub(from) as f64 / 1e6;
    let between = (total - spans.iter().filter_map(StageSpan::millis).sum::<f64>()).max(0.0);
    html! {
        div class="scroll" role="group" aria-label="Stages" tabindex="0" {
            // Its width follows the page's, its height does not.
            svg class="stages" preserveAspectRatio="none" viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img"
                aria-label=(format!("Stages of the trial, {} in all", duration(total))) {
                rect class="rest" width=(px(WIDTH)) height=(px(HEIGHT)) rx="4" {}
                @for span in spans {
                    (segment(span, &scale))
                }
            }
        }
        ul class="stages" {
            @for span in spans {
                li class=[span.failed.then_some("failed")] {
                    span class=(format!("chip {}", span.stage)) {}
                    b { (span.stage) } " "
                    (span.millis().map_or("did not end".to_owned(), duration))
                    @if span.failed { " failed" }
                }
            }
            li { span class="chip rest" {} b { "between" } " " (duration(between)) }
            li { b { "from start to end" } " " (duration(total)) }
        }
    }
}

fn segment(span: &StageSpan, scale: &Scale) -> Markup {
    let x = scale.x(span.from).min(WIDTH - LEAST);
    let width = (scale.x(span.to.unwrap_or(span.from)) - x).max(LEAST);
    let name = span.stage.to_string();
    // About seven pixels a letter.
    let fits = width > 12.0 + 7.0 * name.len() as f64;
    html! {
        rect class=(name) x=(px(x)) width=(px(width)) height=(px(HEIGHT)) {
            title {
                (name) ": " (span.millis().map_or("did not end".to_owned(), duration))
            }
        }
        @if fits {
            text x=(px(x + width / 2.0)) y=(px(HEIGHT / 2.0 + 4.0)) text-anchor="middle" { (name) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_that_end_fail_or_stay_open_differ() {
        let event = |t, stage, event| Event { t, stage, event, detail: String::new() };
        let spans = spans(&[
            event(1, Stage::Boot, EventKind::Begin),
            event(5, Stage::Boot, EventKind::End),
            event(6, Stage::Freeze, EventKind::Begin),
            event(8, Stage::Freeze, EventKind::Failed),
            event(9, Stage::Thaw, EventKind::End),
            event(u64::MAX, Stage::Judge, EventKind::Begin),
        ]);
        let seen: Vec<_> = spans.iter().map(|span| (span.stage, span.to, span.failed)).collect();
        let boot = (Stage::Boot, Some(5), false);
        assert_eq!(seen, [boot, (Stage::Freeze, Some(8), true), (Stage::Judge, None, false)]);
        assert!(draw(&spans).into_string().contains("did not end"));
        assert!(draw(&[]).into_string().contains("from start to end"));
    }
}
