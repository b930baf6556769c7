//! What a run prints at its end.

use std::path::{Path, PathBuf};

use contract::grade::{Grade, Outcome};
use contract::{json, say, words};
use judge::verdict::Verdict;

use crate::columns::align;
use crate::error::Failure;

type Row = (String, PathBuf, Result<Verdict, String>);

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BOLD: &str = "1";
const PLAIN: &str = "";

/// A small table of trials and verdicts, and where the evidence lies.
pub(super) fn print(run: &Path, rows: &[Row]) {
    let head = ["trial", "outcome", "grade", "total", "stall"];
    let cells: Vec<_> =
        [head.map(|name| (name.to_owned(), BOLD))].into_iter().chain(rows.iter().map(cells)).collect();
    // Aligned before it is painted: colours have no width.
    let mut texts: Vec<_> = cells.iter().map(|row| row.clone().map(|(text, _)| text)).collect();
    align(&mut texts, [false, false, false, true, true]);
    say!("");
    for (texts, cells) in texts.iter().zip(&cells) {
        words::row(texts.iter().zip(cells).map(|(text, (_, colour))| (&**text, *colour)));
    }
    say!("");
    for (name, dir, verdict) in rows {
        words::row([(&**name, BOLD)]);
        match verdict {
            Ok(verdict) => {
                say!("  {}", verdict.reason);
                if let Some(unexamined) = verdict.unexamined() {
                    say!("  {unexamined}");
                }
                if verdict.outcome != Outcome::Pass {
                    evidence(verdict);
                    say!("  evidence: {}", dir.display());
                }
            }
            Err(problem) => say!("  the trial left no verdict: {problem}"),
        }
    }
    say!("\nEvidence of every trial: {}", run.display());
}

fn cells((name, _, verdict): &Row) -> [(String, &'static str); 5] {
    let name = (name.clone(), PLAIN);
    let Ok(verdict) = verdict else {
        let none = || ("-".to_owned(), PLAIN);
        return [name, ("none".to_owned(), YELLOW), none(), none(), none()];
    };
    let (outcome, colour) = match verdict.outcome {
        Outcome::Pass => ("pass", GREEN),
        Outcome::Fail => ("FAIL", RED),
        Outcome::Unknown => ("unknown", YELLOW),
    };
    let grade = match verdict.grade {
        Grade::ApplicationConsistent => GREEN,
        Grade::Inconsistent | Grade::Unusable => RED,
        Grade::CrashConsistent | Grade::Refused | Grade::Unknown => YELLOW,
    };
    let seconds = |ms: Option<f64>| (ms.map_or("-".to_owned(), |ms| format!("{:.0} s", ms / 1000.0)), PLAIN);
    let millis = |ms: Option<f64>| (ms.map_or("-".to_owned(), |ms| format!("{ms:.0} ms")), PLAIN);
    let times = &verdict.timings_ms;
    let (total, stall) = (seconds(times.total), millis(times.write_stall));
    [name, (outcome.to_owned(), colour), (verdict.grade.to_string(), grade), total, stall]
}

fn evidence(verdict: &Verdict) {
    for unmet in verdict.unmet.iter().filter(|unmet| **unmet != verdict.reason) {
        say!("  not met: {unmet}");
    }
    for finding in &verdict.findings {
        say!("  {} {}: {}", finding.id, finding.property, finding.summary);
        for line in finding.evidence.iter().take(3) {
            say!("      {line}");
        }
    }
}

/// The verdicts as one JSON array.
pub(super) fn print_json(rows: &[Row]) -> Result<(), Failure> {
    let verdicts: Vec<_> = rows.iter().filter_map(|(_, _, verdict)| verdict.as_ref().ok()).collect();
    let json = json::pretty(&verdicts)
        .map_err(|e| Failure::Infrastructure(format!("cannot write the verdicts as JSON: {e}.")))?;
    say!("{json}");
    Ok(())
}
