//! The page about a backup that was verified without a history.

use std::path::Path;

use contract::text::quote_lines;
use contract::verification::Recovery;
use judge::verification::{Defect, Verification};
use maud::{Markup, html};

use super::page::document;
use super::text::link;

/// The most characters of one text.
const MAX_TEXT: usize = 2000;

/// What a verification leaves besides the page, and what that is.
const FILES: [(&str, &str); 6] = [
    ("verdict.json", "this verdict"),
    ("facts.json", "what was found"),
    ("observation.jsonl", "each file system, log and table, one a line"),
    ("console.log", "what the guest printed"),
    ("agent.jsonl", "what was asked in the guest, and the answers"),
    ("libvirt.log", "what libvirt says"),
];

/// Renders the page about a verification, for its directory.
pub fn render_verification(verification: &Verification, dir: &Path) -> String {
    let Verification { grade, disks, .. } = verification;
    let title = quote_lines(MAX_TEXT, &disks.join(", "));
    let says = match grade {
        Recovery::Recovers => "Nothing wrong was found",
        Recovery::Inconsistent => "The backup starts, but parts of it are damaged",
        Recovery::Unusable => "The backup cannot be used as it is",
        Recovery::Unknown => "It could not be told how good the backup is",
    };
    let main = html! {
        header class="top" {
            p class="brand" { b { "Freezeframe" } " " (title) }
            h1 { (says) }
            p { (badge(*grade)) }
            p class="reason" { (quote_lines(MAX_TEXT, &verification.reason)) "." }
        }
        @for finding in &verification.findings { (card(finding)) }
        (list("Claims that are wrong", &verification.unmet))
        (list("Examined", &verification.examined))
        (list("Not examined", &verification.unexamined))
        (list("Worth knowing", &verification.notes))
        (files(dir))
        (key())
    };
    document(&title, &main)
}

fn badge(grade: Recovery) -> Markup {
    html! { span class=(format!("grade {grade}")) { (grade) } }
}

fn card(finding: &Defect) -> Markup {
    html! {
        section class="card" {
            h2 { (quote_lines(MAX_TEXT, &finding.summary)) " " (badge(finding.grade)) }
            ul { @for line in &finding.evidence { li { code { (quote_lines(MAX_TEXT, line)) } } } }
        }
    }
}

fn list(head: &str, lines: &[String]) -> Markup {
    html! {
        @if !lines.is_empty() {
            section class="card" {
                h2 { (head) }
                ul { @for line in lines { li { (quote_lines(MAX_TEXT, line)) } } }
            }
        }
    }
}

fn files(dir: &Path) -> Markup {
    let there = FILES.iter().filter(|(name, _)| dir.join(name).exists());
    html! {
        section class="card" {
            h2 { "Evidence" }
            ul { @for (name, what) in there { li { a href=(link(dir, &dir.join(name))) { (name) } ": " (what) } } }
        }
    }
}

fn key() -> Markup {
    let grades = [
        (Recovery::Recovers, "it starts, and nothing wrong was found; no proof of consistency"),
        (Recovery::Inconsistent, "it starts, but parts of it are damaged or contradict each other"),
        (Recovery::Unusable, "does not boot, start or pass its checks"),
        (Recovery::Unknown, "could not be told"),
    ];
    html! {
        footer {
            h2 { "Grades" }
            dl { @for (grade, means) in grades { div { dt { (badge(grade)) } dd { (means) } } } }
            p {
                "What the server had promised when the backup was made is not known here. Only a trial shows whether a way \
                 to back up makes application-consistent backups."
            }
        }
    }
}
