//! What a run prints at its end.

use std::path::{Path, PathBuf};

use contract::grade::{Grade, Outcome};
use contract::json;
use judge::verdict::Verdict;
use terminal::results;
use tooling::error::Failure;

use crate::align::align;

/// A trial, its directory, and its verdict.
pub(super) type Row = (String, PathBuf, Verdict);

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BOLD: &str = "1";
const PLAIN: &str = "";

/// A small table of trials and verdicts, and where the evidence lies.
pub(super) fn print(run: &Path, rows: &[Row]) {
    results::line("");
    for (texts, colours) in lines(rows) {
        results::row(texts.iter().zip(&colours).map(|(text, colour)| (&**text, *colour)));
    }
    results::line("");
    for (name, dir, verdict) in rows {
        results::row([(&**name, BOLD)]);
        results::line(format_args!("  {}", verdict.reason));
        if let Some(unexamined) = verdict.unexamined() {
            results::line(format_args!("  {unexamined}"));
        }
        if verdict.outcome != Outcome::Pass {
            evidence(verdict);
            results::line(format_args!("  evidence: {}", dir.display()));
        }
    }
    results::line(format_args!("\nEvidence of every trial: {}", run.display()));
}

/// The lines of the table, cell by cell with their colours: a scenario has one of its own above
/// its trials, so that 80 columns are enough.
fn lines(rows: &[Row]) -> Vec<(Vec<String>, Vec<&'static str>)> {
    let head = ["  image", "hook", "grade", "expected", "total", "stall"];
    let cells: Vec<_> =
        [head.map(|name| (name.to_owned(), BOLD))].into_iter().chain(rows.iter().map(cells)).collect();
    // Aligned before it is painted: colours have no width.
    let mut texts: Vec<_> = cells.iter().map(|row| row.clone().map(|(text, _)| text)).collect();
    align(&mut texts, [false, false, false, false, true, true]);
    let mut table = texts.into_iter().zip(&cells);
    let mut line = || {
        let (texts, cells) = table.next()?;
        Some((texts.to_vec(), cells.iter().map(|(_, colour)| *colour).collect()))
    };
    let mut lines: Vec<_> = line().into_iter().collect();
    let mut above = "";
    for (name, ..) in rows {
        let scenario = parts(name)[0];
        if scenario != above {
            lines.push((vec![scenario.to_owned()], vec![BOLD]));
            above = scenario;
        }
        lines.extend(line());
    }
    lines
}

/// Scenario, image and hook of a trial's name.
fn parts(name: &str) -> [&str; 3] {
    let mut parts = name.splitn(3, "::");
    [(); 3].map(|()| parts.next().unwrap_or_default())
}

fn cells((name, _, verdict): &Row) -> [(String, &'static str); 6] {
    let [_, image, hook] = parts(name);
    let (image, hook) = ((format!("  {image}"), PLAIN), (hook.to_owned(), PLAIN));
    let (expected, colour) = match verdict.outcome {
        Outcome::Pass => ("yes", GREEN),
        Outcome::Fail => ("NO", RED),
        Outcome::Unknown => ("unknown", YELLOW),
    };
    let grade = match verdict.grade {
        Grade::ApplicationConsistent => GREEN,
        Grade::Inconsistent | Grade::Unusable => RED,
        Grade::CrashConsistent | Grade::Refused | Grade::Unknown => YELLOW,
    };
    let seconds = |ms: Option<f64>, digits: usize| {
        (ms.map_or("-".to_owned(), |ms| format!("{:.digits$} s", ms / 1000.0)), PLAIN)
    };
    let (total, stall) = (seconds(verdict.timings_ms.total, 0), seconds(verdict.timings_ms.write_stall, 1));
    [image, hook, (verdict.grade.to_string(), grade), (expected.to_owned(), colour), total, stall]
}

fn evidence(verdict: &Verdict) {
    for unmet in verdict.unmet.iter().filter(|unmet| **unmet != verdict.reason) {
        results::line(format_args!("  not met: {unmet}"));
    }
    for finding in &verdict.findings {
        results::line(format_args!("  {} {}: {}", finding.id, finding.property, finding.summary));
        for line in finding.evidence.iter().take(3) {
            results::line(format_args!("      {line}"));
        }
    }
}

/// The verdicts as one JSON array.
pub(super) fn print_json(rows: &[Row]) -> Result<(), Failure> {
    results::line(as_json(rows)?);
    Ok(())
}

fn as_json(rows: &[Row]) -> Result<String, Failure> {
    let verdicts: Vec<_> = rows.iter().map(|(_, _, verdict)| verdict).collect();
    json::pretty(&verdicts).map_err(|e| Failure::Json { what: "the verdicts", source: e })
}

#[cfg(test)]
pub(super) mod tests {
    use contract::run::{RunOptions, TrialRequest};
    use tooling::host;

    use super::*;

    /// The verdict that the page about formats shows.
    pub(in super::super) fn example() -> Verdict {
        let json = include_str!("../../../docs/formats.md").split("\n## `verdict.json`\n").nth(1).unwrap();
        serde_json::from_str(json.split("```json\n").nth(1).unwrap().split("```").next().unwrap()).unwrap()
    }

    /// The verdict over a trial that was lost.
    pub(in super::super) fn lost(name: &str) -> Verdict {
        let options = RunOptions::of(host::repository(), "/runs/one".into());
        let request = TrialRequest { name: name.to_owned(), ..options.trials().unwrap().swap_remove(0) };
        Verdict::lost(&request, 1, "crash-consistent".to_owned(), "the disk is full")
    }

    #[test]
    fn a_trial_that_was_lost_is_in_the_table_and_in_the_json() {
        let rows = [("core/none::i::h".into(), PathBuf::new(), lost("core/none::i::h"))];
        let table: String = lines(&rows).into_iter().map(|(cells, _)| cells.join(" ")).collect();
        assert!(table.contains("unknown"), "{table}");
        let json: serde_json::Value = serde_json::from_str(&as_json(&rows).unwrap()).unwrap();
        assert_eq!(json[0]["trial"], "core/none::i::h");
        assert_eq!(json[0]["reason"], "unknown: the disk is full");
        assert_eq!(json[0]["outcome"], "unknown");
    }

    #[test]
    fn eighty_columns_are_enough() {
        let mut verdict = example();
        verdict.grade = Grade::ApplicationConsistent;
        (verdict.timings_ms.total, verdict.timings_ms.write_stall) = (Some(123_456.0), Some(10_845.0));
        let row = |hook: &str| {
            (format!("core/vendor-sample::bookworm-mariadb::{hook}"), PathBuf::new(), verdict.clone())
        };
        let rows = [
            row("sample"),
            row("freezeframe"),
            ("core/other::i::h".into(), PathBuf::new(), lost("core/other::i::h")),
        ];
        let lines: Vec<_> = lines(&rows).into_iter().map(|(cells, _)| cells.join("  ")).collect();
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        let titles: Vec<_> = lines.iter().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(titles, ["core/vendor-sample", "core/other"]);
    }
}
