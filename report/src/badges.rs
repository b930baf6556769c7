//! Outcomes, grades, names and times, wherever they stand on the page.

use contract::grade::{Grade, Outcome};
use maud::{Markup, html};

use super::page_data::TrialPage;
use super::text::duration;

/// Scenario, image and hook of a trial's name.
pub(super) fn parts(name: &str) -> (&str, &str, &str) {
    let mut parts = name.splitn(3, "::");
    let mut part = || parts.next().unwrap_or_default();
    (part(), part(), part())
}

/// The scenario, and on what it ran with which hook.
pub(super) fn names(trial: &TrialPage) -> (String, String) {
    let (scenario, image, hook) = parts(&trial.name);
    let on = [image, hook].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    (scenario.to_owned(), on.join(" · "))
}

/// Whether the expectation was met, as a badge.
pub(super) fn outcome(trial: &TrialPage) -> Markup {
    let (class, sign, word) = match trial.outcome() {
        Outcome::Pass => ("pass", "✓", "as expected"),
        Outcome::Fail => ("fail", "✗", "not as expected"),
        Outcome::Unknown => ("unknown", "?", "unknown"),
    };
    html! { span class=(format!("outcome {class}")) { (sign) " " (word) } }
}

/// The grade, as a badge.
pub(super) fn grade(trial: &TrialPage) -> Markup {
    grade_of(trial.verdict.as_ref().map_or(Grade::Unknown, |verdict| verdict.grade))
}

pub(super) fn grade_of(grade: Grade) -> Markup {
    html! { span class=(format!("grade {grade}")) { (grade) } }
}

/// The time that a stage took, where it ran.
pub(super) fn time(ms: Option<f64>) -> String {
    ms.map_or("\u{2013}".to_owned(), duration)
}
