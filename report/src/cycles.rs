//! The cycles of a trial: one picture, or a small one of each and the pictures of
//! the worst in full.

use std::cmp::Reverse;

use contract::grade::{self, Grade, Outcome, Rank};
use contract::text::{quote, quote_lines};
use judge::verdict::Verdict;
use maud::{Markup, PreEscaped, html};

use super::badges::{grade_of, time};
use super::page_data::{CyclePage, Drawing, ReadPart};
use super::power::power;

/// Cycles that are shown open.
const OPEN: usize = 4;
/// Characters of one text that are shown.
const MAX_TEXT: usize = 1_000;
/// Findings of a cycle that are shown.
const MAX_FINDINGS: usize = 10;

/// The pictures of a trial whose section is named `id`.
pub(super) fn cycles(read: &ReadPart<Vec<CyclePage>>, id: &str) -> Markup {
    match &*read.got {
        [] => html! { figure { figcaption { "Around the freeze" } (no_picture()) } },
        [cycle] => html! {
            figure {
                figcaption { "Around the " (if cycle.frozen || cycle.picture.is_none() { "freeze" } else { "snapshot" }) }
                (picture(cycle))
            }
        },
        cycles => several(cycles, id),
    }
}

fn no_picture() -> Markup {
    html! { p class="note" { "No picture: the trial neither froze the guest nor took a snapshot." } }
}

fn picture(cycle: &CyclePage) -> Markup {
    html! {
        @match &cycle.picture {
            Some(picture) => { (drawn(picture)) }
            None if cycle.small.is_some() => {
                p class="note" { "No picture of its own: there are too many cycles for one page." }
            }
            None => { (no_picture()) }
        }
        @if let Some(problem) = &cycle.problem {
            p class="note bad" { "Not all could be read: " (quote_lines(MAX_TEXT, problem)) }
        }
    }
}

/// A drawing is the report's own, and was escaped when it was drawn.
fn drawn(Drawing(svg): &Drawing) -> Markup {
    PreEscaped(svg.clone())
}

fn several(cycles: &[CyclePage], id: &str) -> Markup {
    let open = open(cycles);
    let rest = cycles.iter().filter(|cycle| !open.iter().any(|it| it.number == cycle.number));
    let more = cycles.len() - open.len();
    html! {
        figure {
            figcaption { (cycles.len()) " cycles under one load" }
            ol class="cycles" {
                @for cycle in cycles {
                    li class=(class(cycle)) title=(reason(cycle)) {
                        a href=(format!("#{id}-{}", cycle.number)) {
                            b { (cycle.number) } " " (stall(cycle))
                            @if let Some(small) = &cycle.small { (drawn(small)) }
                        }
                    }
                }
            }
            @for cycle in &open { (one(cycle, id, true)) }
            @if more > 0 {
                details class="rest" {
                    summary { b { "The other " (more) } }
                    @for cycle in rest { (one(cycle, id, false)) }
                }
            }
        }
    }
}

/// The cycles that are shown open: the worst, then others that did not come out as expected or
/// have findings.
fn open(cycles: &[CyclePage]) -> Vec<&CyclePage> {
    let mut worst: Vec<_> = cycles.iter().collect();
    // A stable sort keeps the order of those that are equally bad.
    worst.sort_by_key(|cycle| Reverse(rank(cycle)));
    let others = worst.iter().skip(1).filter(|cycle| needs_attention(cycle));
    worst.iter().take(1).chain(others).take(OPEN).copied().collect()
}

fn rank(cycle: &CyclePage) -> Rank {
    match &cycle.verdict {
        Some(Ok(verdict)) => verdict.rank(),
        _ => grade::rank(Grade::Unknown, Outcome::Unknown),
    }
}

fn needs_attention(cycle: &CyclePage) -> bool {
    !matches!(&cycle.verdict, Some(Ok(it)) if it.outcome == Outcome::Pass && it.findings.is_empty())
}

fn one(cycle: &CyclePage, id: &str, open: bool) -> Markup {
    html! {
        details open[open] {
            summary {
                b { "Cycle " (cycle.number) }
                @if let Some(Ok(verdict)) = &cycle.verdict { (grade_of(verdict.grade)) " " }
                (stall(cycle)) " without an acknowledged write"
            }
            // A link to what is inside opens it.
            div id=(format!("{id}-{}", cycle.number)) {
                @match &cycle.verdict {
                    Some(Ok(verdict)) => { (findings(verdict)) }
                    Some(Err(why)) => { p class="note bad" { "No verdict: " (quote_lines(MAX_TEXT, &why.0)) } }
                    None => {}
                }
                (picture(cycle))
                @if open && let Some(Ok(verdict)) = &cycle.verdict { (power(verdict, cycle.quiescence)) }
            }
        }
    }
}

fn findings(verdict: &Verdict) -> Markup {
    html! {
        p class="note" { (quote_lines(MAX_TEXT, &verdict.reason)) }
        @for finding in verdict.findings.iter().take(MAX_FINDINGS).skip(1) {
            p class="note" {
                span class="id" { (finding.property.id()) }
                " " b { (finding.property) } " " (quote_lines(MAX_TEXT, &finding.summary))
            }
        }
    }
}

fn class(cycle: &CyclePage) -> &'static str {
    match &cycle.verdict {
        Some(Ok(verdict)) => match verdict.outcome {
            Outcome::Pass => "pass",
            Outcome::Fail => "fail",
            Outcome::Unknown => "unknown",
        },
        _ => "unknown",
    }
}

fn reason(cycle: &CyclePage) -> String {
    match &cycle.verdict {
        Some(Ok(verdict)) => quote(300, &verdict.reason),
        Some(Err(why)) => quote(300, &why.0),
        None => String::new(),
    }
}

fn stall(cycle: &CyclePage) -> String {
    let verdict = cycle.verdict.as_ref().and_then(|verdict| verdict.as_ref().ok());
    time(verdict.and_then(|verdict| verdict.timings_ms.write_stall))
}
