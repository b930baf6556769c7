//! One trial on the page.

use contract::events::EventKind;
use contract::figures::ToolFigures;
use contract::finding::{Finding, Status};
use contract::grade::Outcome;
use contract::history::Quiescence;
use contract::plan::Plan;
use contract::property::Property;
use contract::text::quote_lines;
use judge::verdict::Verdict;
use maud::{Markup, html};

use super::page_data::TrialPage;
use super::text::{count, meaning, size};
use super::{badges, cycles, power, stages};

/// Characters of one text that are shown.
const MAX_TEXT: usize = 2_000;
/// Findings of a trial, and lines of evidence of a finding, that are shown.
const MAX_LINES: usize = 40;

/// The section about one trial.
pub(super) fn card(trial: &TrialPage, id: &str) -> Markup {
    // What came out as expected is closed; a link to what is inside opens it.
    html! {
        details class="card" open[trial.outcome() != Outcome::Pass] {
            summary { (head(trial)) }
            div id=(id) {
            @if let Ok(plan) = &trial.plan { p class="summary" { (quote_lines(MAX_TEXT, &plan.summary)) "." } }
            @match &trial.verdict {
                Ok(verdict) => { (reason(verdict)) (power::power(verdict, trial.quiescence())) }
                Err(why) => { p class="reason" { "No verdict: " (quote_lines(MAX_TEXT, &why.0)) } }
            }
            @if let Err(why) = &trial.plan {
                p class="note bad" { "No plan: " (quote_lines(MAX_TEXT, &why.0)) }
            }
            (facts(trial))
            (pictures(trial, id))
            @if let Ok(verdict) = &trial.verdict { (findings(&verdict.findings, trial.quiescence())) (properties(verdict, trial.quiescence())) }
            (files(trial))
            }
        }
    }
}

fn head(trial: &TrialPage) -> Markup {
    let (scenario, on) = badges::names(trial);
    html! {
        header {
            h2 {
                (quote_lines(MAX_TEXT, &scenario))
                @if !on.is_empty() { " " small { (quote_lines(MAX_TEXT, &on)) } }
            }
            div { (badges::outcome(trial)) " " (badges::grade(trial)) }
        }
    }
}

fn reason(verdict: &Verdict) -> Markup {
    html! {
        p class="reason" { (quote_lines(MAX_TEXT, &verdict.reason)) }
        @for unmet in verdict.unmet.iter().filter(|unmet| **unmet != verdict.reason).take(MAX_LINES) {
            // The reason stands above already.
            @let unmet = unmet.strip_suffix(&verdict.reason).map_or(&**unmet, |head| head.trim_end_matches("; came out "));
            p class="note bad" { "Not met: " (quote_lines(MAX_TEXT, unmet)) "." }
        }
    }
}

fn facts(trial: &TrialPage) -> Markup {
    let mut facts: Vec<(&str, String)> = trial.run.iter().map(|run| ("run", run.clone())).collect();
    if let Ok(verdict) = &trial.verdict {
        let counts = &verdict.counts;
        facts.push(("expected", verdict.expected.clone()));
        facts.push((
            "transfers",
            format!(
                "{} acknowledged, {} unknown, {} restored",
                counts.acknowledged, counts.unknown, counts.restored
            ),
        ));
        facts.push(("hook", verdict.hook.clone()));
        match &verdict.tool {
            None => facts.push(("snapshot", verdict.snapshot.clone())),
            Some(tool) => facts.extend(backups(tool)),
        }
        facts.push(("accelerator", verdict.accel.clone()));
        facts.push(("seed", verdict.seed.to_string()));
    }
    if let Ok(plan) = &trial.plan {
        facts.push(("load", load(plan)));
        if let Some(tool) = &plan.backup {
            facts.push(("backup command", tool.backup.clone()));
            facts.push(("restore command", tool.restore.clone()));
        }
        for fault in plan.faults.iter().take(MAX_LINES) {
            facts.push(("fault", fault.to_string()));
        }
        facts.push(("image", format!("{} {}", plan.image.name, plan.image.digest.get(..12).unwrap_or("?"))));
    }
    html! {
        dl class="facts" {
            @for (name, value) in facts {
                div { dt { (name) } dd { (quote_lines(MAX_TEXT, &value)) } }
            }
        }
    }
}

/// The backup tool, and how each run of its command ended.
fn backups(tool: &ToolFigures) -> Vec<(&'static str, String)> {
    let version = tool.version.iter().map(|version| format!(" ({version})"));
    let mut facts = vec![("backup tool", format!("{}{}", tool.name, version.collect::<String>()))];
    for (n, backup) in (1..).zip(&tool.backups).take(MAX_LINES) {
        let ended = backup.ended.map_or("not ended".to_owned(), |end| end.to_string());
        let frozen = match (backup.left_frozen, backup.left_frozen_s) {
            (Some(true), Some(seconds)) => format!(", left the guest frozen for {seconds:.1} s"),
            (Some(true), None) => ", left the guest frozen".to_owned(),
            _ => String::new(),
        };
        let stall = badges::time(backup.write_stall_ms);
        facts.push(("backup", format!("{n}, {}: {ended}{frozen}, write stall {stall}", backup.level)));
    }
    facts
}

fn load(plan: &Plan) -> String {
    let profile = in_words(&plan.load.profile);
    let rate = plan.load.rate.map(|rate| format!(", at most {} a second", count(rate as usize, "transfer")));
    let writers = count(plan.load.writers as usize, "writer");
    format!("{profile}, {writers}{} for {} s", rate.unwrap_or_default(), plan.load.seconds)
}

/// A plain enum's name as files spell it.
fn in_words(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default().trim_matches('"').to_owned()
}

fn pictures(trial: &TrialPage, id: &str) -> Markup {
    let spans = stages::spans(&trial.events.got);
    let failures =
        trial.events.got.iter().filter(|event| event.event == EventKind::Failed && !event.detail.is_empty());
    html! {
        (cycles::cycles(&trial.cycles, id))
        (problems(&trial.cycles.problems))
        figure {
            figcaption { "The whole trial" }
            @if spans.is_empty() { p class="note" { "No picture: the event log has no stage." } }
            @else { (stages::draw(&spans)) }
            @for event in failures.take(MAX_LINES) {
                p class="note bad" { (event.stage) " failed: " (quote_lines(MAX_TEXT, &event.detail)) }
            }
            (problems(&trial.events.problems))
        }
    }
}

fn problems(problems: &[String]) -> Markup {
    html! {
        @for problem in problems.iter().take(MAX_LINES) {
            p class="note bad" { "Not all could be read: " (quote_lines(MAX_TEXT, problem)) }
        }
    }
}

fn findings(findings: &[Finding], quiescence: Quiescence) -> Markup {
    html! {
        @if !findings.is_empty() {
            h3 { "Findings" }
            ol class="findings" {
                @for finding in findings.iter().take(MAX_LINES) {
                    li {
                        p {
                            span class="id" title=(finding.property) { (finding.property.id()) }
                            " " b { (finding.property) } " "
                            (quote_lines(MAX_TEXT, &finding.summary))
                        }
                        p class="claim" { "Required: " (meaning(finding.property, quiescence)) }
                        @if !finding.evidence.is_empty() {
                            ul {
                                @for line in finding.evidence.iter().take(MAX_LINES) {
                                    li { (quote_lines(MAX_TEXT, line)) }
                                }
                                (more(finding.evidence.len()))
                            }
                        }
                    }
                }
                (more(findings.len()))
            }
        }
    }
}

fn more(of: usize) -> Markup {
    html! {
        @if of > MAX_LINES { li { (of - MAX_LINES) " more in verdict.json" } }
    }
}

fn properties(verdict: &Verdict, quiescence: Quiescence) -> Markup {
    let of = |wanted: fn(&Status) -> bool| verdict.properties.values().filter(|s| wanted(s)).count();
    let holds = of(|status| *status == Status::Holds);
    let broken = of(|status| *status == Status::Broken);
    let other = verdict.properties.len() - holds - broken;
    html! {
        @if !verdict.properties.is_empty() {
            details {
                summary {
                    b { "Properties" }
                    " " (holds) " hold, " (broken) " broken, " (other) " not applicable"
                }
                table class="properties" {
                    @for (property, status) in &verdict.properties { (row(*property, status, quiescence)) }
                }
            }
        }
    }
}

fn row(property: Property, status: &Status, quiescence: Quiescence) -> Markup {
    let (class, word) = match status {
        Status::Holds => ("holds", "holds"),
        Status::Broken => ("broken", "broken"),
        Status::NotApplicable(_) => ("absent", "not applicable"),
    };
    html! {
        tr class=(class) {
            td { span class="id" { (property.id()) } }
            td { b { (property) } br; span class="claim" { (meaning(property, quiescence)) } }
            td {
                span class="status" { (word) }
                @if let Status::NotApplicable(why) = status { br; span class="claim" { (quote_lines(MAX_TEXT, why)) } }
            }
        }
    }
}

fn files(trial: &TrialPage) -> Markup {
    html! {
        @if !trial.files.is_empty() {
            h3 { "Files" }
            ul class="files" {
                @for file in &trial.files {
                    li { a href=(file.href) { (quote_lines(200, &file.name)) } " " small { (size(file.size)) } }
                }
            }
        }
        @if trial.again.is_some() || trial.judge.is_some() {
            h3 { "Again" }
            dl class="again" {
                @for (does, command) in [("run it", &trial.again), ("judge its files", &trial.judge)] {
                    @if let Some(command) = command {
                        dt { (does) } dd { code { (quote_lines(MAX_TEXT, command)) } }
                    }
                }
            }
        }
    }
}
