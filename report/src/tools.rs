//! What backup tools do, as a page of Markdown: one row for each tool, what happens to it and with which hook.

use std::collections::BTreeMap;
use std::path::Path;

use contract::figures::{BackupFigures, ToolFigures};
use contract::grade::Outcome;
use contract::history::CommandEnd;
use contract::property::Property;
use contract::text::quote;
use judge::verdict::Verdict;

/// Characters of a cell that are shown.
const MAX_CELL: usize = 160;

/// How the page begins.
const HEAD: &str = "\
# What backup tools do

Each row is a trial of `cargo xtask e2e`: a tool's own commands back up a guest whose database is under load, and what its restore
command hands back is booted and graded. Where the table names several values, the trials of a row differed.

| column | says |
|---|---|
| what happens | what the tool does, and what goes wrong on purpose |
| hook | what the guest's agent runs at freeze and thaw |
| exit code | how the backup command ended, one after the other where there are several backups. 0 is the tool's word that its backup is good |
| grade | what the last backup is worth: see the grades in the [README](../README.md) |
| left frozen | whether the guest was still frozen when the backup command had ended, and for how long, until Freezeframe thawed it |
| stall | the longest time without an acknowledged write around a backup |
| trials | how many; `cargo xtask e2e SCENARIO` runs them again |

";

const COLUMNS: [&str; 10] = [
    "tool",
    "version",
    "what happens",
    "hook",
    "exit code",
    "grade",
    "left frozen",
    "stall",
    "trials",
    "scenario",
];

/// The table about these verdicts, as the page that `again` writes: a command line. Verdicts without a tool are
/// left out.
pub fn tools(verdicts: &[Verdict], again: &str) -> String {
    let mut rows: BTreeMap<Key, Vec<(&Verdict, &ToolFigures)>> = BTreeMap::new();
    for verdict in verdicts {
        if let Some(tool) = &verdict.tool {
            rows.entry(Key::of(verdict, tool)).or_default().push((verdict, tool));
        }
    }
    let mut page = HEAD.to_owned();
    if rows.is_empty() {
        page.push_str("There was no trial with a backup tool.\n");
    } else {
        page.push_str(&line(COLUMNS.map(str::to_owned)));
        page.push_str(&format!("|{}\n", "---|".repeat(COLUMNS.len())));
        page.extend(rows.iter().map(|(key, trials)| line(key.cells(trials))));
    }
    page.push_str(&format!(
        "\n{}This page is written by a command, not by hand:\n\n    {again}\n",
        on(verdicts)
    ));
    page
}

/// On what the trials ran: stalls are longer under emulation.
fn on(verdicts: &[Verdict]) -> String {
    let of_tools = || verdicts.iter().filter(|verdict| verdict.tool.is_some());
    if of_tools().next().is_none() {
        return String::new();
    }
    let images = distinct(of_tools().map(|verdict| verdict.image.clone())).join(", ");
    let accels = distinct(of_tools().map(|verdict| verdict.accel.clone())).join(", ");
    format!("The guests: {}, with the accelerator {}.\n\n", cell(&images), cell(&accels))
}

/// What a row is about.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    tool: String,
    version: Option<String>,
    scenario: String,
    hook: String,
    summary: String,
}

impl Key {
    fn of(verdict: &Verdict, tool: &ToolFigures) -> Self {
        // A scenario's own hook is named by its path.
        let hook = Path::new(&verdict.hook)
            .file_name()
            .map_or_else(String::new, |it| it.to_string_lossy().into_owned());
        Self {
            tool: tool.name.clone(),
            version: tool.version.clone(),
            scenario: verdict.scenario.clone(),
            hook,
            summary: tool.summary.clone(),
        }
    }

    fn cells(&self, trials: &[(&Verdict, &ToolFigures)]) -> [String; 10] {
        let backups = || trials.iter().flat_map(|(_, tool)| &tool.backups);
        let unexpected = trials.iter().filter(|(verdict, _)| verdict.outcome != Outcome::Pass).count();
        let count = match unexpected {
            0 => trials.len().to_string(),
            n => format!("{}, {n} not as expected", trials.len()),
        };
        [
            self.tool.clone(),
            self.version.clone().unwrap_or_else(|| "?".to_owned()),
            self.summary.clone(),
            self.hook.clone(),
            counted(trials.iter().map(|(_, tool)| ends(tool))),
            counted(trials.iter().map(|(verdict, _)| verdict.grade.to_string())),
            left_frozen(trials),
            stall(backups().filter_map(|backup| backup.write_stall_ms)),
            count,
            format!("`{}`", self.scenario),
        ]
    }
}

/// How the backups of a trial ended: `0`, or `0, 0, 1`.
fn ends(tool: &ToolFigures) -> String {
    let end = |backup: &BackupFigures| match backup.ended {
        None => "?".to_owned(),
        Some(CommandEnd::Exit(code)) => code.to_string(),
        Some(other) => other.to_string(),
    };
    let ends: Vec<_> = tool.backups.iter().map(end).collect();
    match &*ends {
        [] => "?".to_owned(),
        [first, others @ ..] if others.iter().all(|it| it == first) => first.clone(),
        _ => ends.join(", "),
    }
}

fn left_frozen(trials: &[(&Verdict, &ToolFigures)]) -> String {
    let is_frozen = |tool: &ToolFigures| {
        tool.backups.iter().filter_map(|backup| backup.left_frozen).reduce(|a, b| a || b)
    };
    let seen: Vec<_> = trials
        .iter()
        .filter_map(|(verdict, tool)| {
            let found = verdict.findings.iter().any(|finding| finding.property == Property::ThawedGuest);
            if found { Some(true) } else { is_frozen(tool) }
        })
        .collect();
    let frozen = seen.iter().filter(|frozen| **frozen).count();
    let seconds = trials.iter().flat_map(|(_, tool)| &tool.backups).filter_map(|it| it.left_frozen_s);
    let longest = seconds.reduce(f64::max).map(|seconds| format!(", {seconds:.1} s")).unwrap_or_default();
    match (frozen, seen.len()) {
        (_, 0) => "?".to_owned(),
        (0, _) => "no".to_owned(),
        (all, of) if all == of => format!("**yes**{longest}"),
        (some, of) => format!("**yes** ({some} of {of}){longest}"),
    }
}

/// `0.5 s`, or `0.5 to 1.2 s`.
fn stall(ms: impl Iterator<Item = f64>) -> String {
    let ms: Vec<_> = ms.collect();
    let (Some(least), Some(most)) =
        (ms.iter().copied().reduce(f64::min), ms.iter().copied().reduce(f64::max))
    else {
        return "?".to_owned();
    };
    let [least, most] = [least, most].map(|ms| format!("{:.1}", ms / 1e3));
    if least == most { format!("{most} s") } else { format!("{least} to {most} s") }
}

/// The values, and how often each came if there are several.
fn counted(values: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    match counts.len() {
        1 => counts.into_keys().collect(),
        _ => counts.iter().map(|(value, n)| format!("{value} ({n}×)")).collect::<Vec<_>>().join(" or "),
    }
}

fn distinct(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut values: Vec<_> = values.collect();
    values.sort();
    values.dedup();
    values
}

/// Text that came from a tool or a file, in one cell.
fn cell(text: &str) -> String {
    quote(MAX_CELL, text).replace('|', "\\|").replace('<', "&lt;")
}

fn line<const N: usize>(cells: [String; N]) -> String {
    format!("| {} |\n", cells.map(|text| cell(&text)).join(" | "))
}
