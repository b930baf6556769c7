//! The page: what came out in one glance, then each trial.

use std::collections::{BTreeMap, BTreeSet};

use contract::figures::Timings;
use contract::grade::{Grade, Outcome};
use contract::text::quote_lines;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::badges::{grade, names, outcome, parts, time};
use super::card::card;
use super::page_data::{Page, TrialPage};
use super::text::count;

/// The style of every page.
const STYLE: &str = include_str!("style.css");

/// Renders a page.
pub fn render(page: &Page) -> String {
    let title = quote_lines(200, &page.runs.join(", "));
    let main = html! {
        (headline(page, &title))
        (matrix(&page.trials))
        (table(&page.trials))
        @for (trial, n) in worst_first(&page.trials) { (card(trial, &id(n))) }
        (key())
    };
    document(&title, &main)
}

/// A whole page with this content.
pub(super) fn document(title: &str, main: &Markup) -> String {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // Nothing on the page needs more, and guests wrote some of it.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { "Freezeframe: " (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (main) } }
        }
    };
    markup.into_string()
}

fn id(n: usize) -> String {
    format!("trial-{n}")
}

fn headline(page: &Page, title: &str) -> Markup {
    let of = |outcome| page.trials.iter().filter(|trial| trial.outcome() == outcome).count();
    let (pass, fail, unknown) = (of(Outcome::Pass), of(Outcome::Fail), of(Outcome::Unknown));
    let all = count(page.trials.len(), "trial");
    let says = match (page.trials.len(), fail, unknown) {
        (0, ..) => "No trial was run".to_owned(),
        (1, 0, 0) => "The trial met its expectation".to_owned(),
        (_, 0, 0) => format!("All {all} met their expectations"),
        (1, 1, _) => "The trial did not meet its expectation".to_owned(),
        (1, _, _) => "The trial could not be judged".to_owned(),
        (_, 0, _) => format!("{unknown} of {all} could not be judged"),
        _ => format!("{fail} of {all} did not meet {} expectation", if fail == 1 { "its" } else { "their" }),
    };
    let open = page.trials.iter().filter(|trial| trial.verdict.is_err()).count();
    html! {
        header class="top" {
            p class="brand" { b { "Freezeframe" } " " (title) }
            h1 { (says) }
            @if open > 0 {
                p class="note" {
                    (count(open, "trial")) " without a verdict: the run had not ended when this page was written, or was \
                     killed. " code { "cargo xtask report" } " writes the page again."
                }
            }
            p class="tally" {
                @for (n, word, class) in [(fail, "not as expected", "fail"), (unknown, "unknown", "unknown"), (pass, "as expected", "pass")] {
                    @if n > 0 { span class=(format!("outcome {class}")) { (n) " " (word) } " " }
                }
            }
        }
    }
}

/// Scenario and hook against image, where there is more than one image.
fn matrix(trials: &[TrialPage]) -> Markup {
    let mut images = BTreeSet::new();
    let mut rows = BTreeSet::new();
    let mut cells: BTreeMap<_, Vec<(usize, &TrialPage)>> = BTreeMap::new();
    for (trial, n) in trials.iter().zip(1..) {
        let (scenario, image, hook) = parts(&trial.name);
        images.insert(image);
        rows.insert((scenario, hook));
        cells.entry((scenario, hook, image)).or_default().push((n, trial));
    }
    if images.len() < 2 {
        return html! {};
    }
    html! {
        div class="scroll" role="group" aria-label="Trials by image" tabindex="0" {
            table class="matrix" {
                thead {
                    tr { th { "scenario" } th { "hook" } @for image in &images { th { (quote_lines(100, image)) } } }
                }
                @for (scenario, hook) in &rows {
                    tr {
                        th { (quote_lines(200, scenario)) } td { (quote_lines(100, hook)) }
                        @for image in &images {
                            td {
                                @for (n, trial) in cells.get(&(*scenario, *hook, *image)).into_iter().flatten() {
                                    a href=(format!("#{}", id(*n))) { (outcome(trial)) " " (grade(trial)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The trials with their numbers: first what did not come out as expected, then what is not known.
fn worst_first(trials: &[TrialPage]) -> Vec<(&TrialPage, usize)> {
    let mut sorted: Vec<_> = trials.iter().zip(1..).collect();
    sorted.sort_by_key(|(trial, _)| match trial.outcome() {
        Outcome::Fail => 0,
        Outcome::Unknown => 1,
        Outcome::Pass => 2,
    });
    sorted
}

fn table(trials: &[TrialPage]) -> Markup {
    let runs = trials.iter().any(|trial| trial.run.is_some());
    html! {
        @if !trials.is_empty() {
            table class="trials" {
                thead {
                    tr {
                        th { "outcome" } th { "grade" } th { "trial" } @if runs { th { "run" } }
                        th class="n" { "freeze" } th class="n" { "window" } th class="n" { "write stall" }
                        th class="n" { "restore" } th class="n" { "total" }
                    }
                }
                @for (trial, n) in worst_first(trials) { (row(trial, &id(n), runs)) }
            }
        }
    }
}

fn row(trial: &TrialPage, id: &str, runs: bool) -> Markup {
    let absent = Timings::default();
    let timings = trial.verdict.as_ref().map_or(&absent, |verdict| &verdict.timings_ms);
    let (scenario, on) = names(trial);
    let times = [
        ("freeze", timings.freeze),
        ("window", timings.window),
        ("write stall", timings.write_stall),
        ("restore", timings.restore),
        ("total", timings.total),
    ];
    html! {
        tr {
            td { (outcome(trial)) }
            td { (grade(trial)) }
            td class="what" {
                a href=(format!("#{id}")) { b { (quote_lines(300, &scenario)) } }
                " " small { (quote_lines(300, &on)) }
                p { (why(trial)) }
            }
            @if runs { td { small { (quote_lines(100, trial.run.as_deref().unwrap_or_default())) } } }
            @for (name, ms) in times { td class="n" data-name=(name) { (time(ms)) } }
        }
    }
}

/// The reason in one line, without the grade that stands beside it.
fn why(trial: &TrialPage) -> String {
    match &trial.verdict {
        Err(why) => format!("no verdict: {}", quote_lines(300, &why.0)),
        Ok(verdict) => {
            let grade = verdict.grade.to_string();
            let reason = verdict
                .reason
                .strip_prefix(&grade)
                .map_or(&*verdict.reason, |rest| rest.trim_start_matches([':', ',', ' ']));
            quote_lines(300, reason)
        }
    }
}

fn key() -> Markup {
    let grades = [
        (Grade::ApplicationConsistent, "one instant inside the freeze window, nothing in flight, proven"),
        (Grade::CrashConsistent, "one instant, after recovery"),
        (Grade::Inconsistent, "opens, but an acknowledged operation is lost, or parts disagree"),
        (Grade::Unusable, "does not boot, mount, start or pass its checks"),
        (Grade::Refused, "the freeze failed and said so, or the backup tool did: no backup was made"),
        (Grade::Unknown, "could not be determined; never counts as a pass"),
    ];
    html! {
        footer {
            h2 { "Grades" }
            dl {
                @for (grade, means) in grades {
                    div { dt { span class=(format!("grade {grade}")) { (grade) } } dd { (means) } }
                }
            }
            p { "As expected: the trial came out as its scenario says, whatever the grade." }
        }
    }
}
