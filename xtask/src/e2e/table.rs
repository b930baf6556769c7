//! What a run prints at its end.

use std::path::{Path, PathBuf};

use freezeframe::verdict::{Outcome, Verdict};

use crate::error::Failure;

type Row = (String, PathBuf, Result<Verdict, String>);

/// A small table of trials and verdicts, and where the evidence lies.
pub(super) fn print(run: &Path, rows: &[Row]) {
    let width = rows.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0).max("trial".len());
    println!("\n{:width$}  {:7}  {:22}  {:>6}  {:>8}", "trial", "outcome", "grade", "total", "stall");
    for (name, _, verdict) in rows {
        match verdict {
            Ok(verdict) => {
                let seconds =
                    |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{:.0} s", ms / 1000.0));
                let millis = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.0} ms"));
                println!(
                    "{name:width$}  {:7}  {:22}  {:>6}  {:>8}",
                    word(verdict.outcome),
                    verdict.grade,
                    seconds(verdict.timings_ms.total),
                    millis(verdict.timings_ms.write_stall)
                );
            }
            Err(_) => println!("{name:width$}  {:7}  {:22}  {:>6}  {:>8}", "none", "-", "-", "-"),
        }
    }
    println!();
    for (name, dir, verdict) in rows {
        match verdict {
            Ok(verdict) => {
                println!("{name}\n  {}", verdict.reason);
                if verdict.outcome != Outcome::Pass {
                    for unmet in verdict.unmet.iter().filter(|unmet| **unmet != verdict.reason) {
                        println!("  not met: {unmet}");
                    }
                    for finding in &verdict.findings {
                        println!("  {} {}: {}", finding.id, finding.property, finding.summary);
                        for line in finding.evidence.iter().take(3) {
                            println!("      {line}");
                        }
                    }
                    println!("  evidence: {}", dir.display());
                }
            }
            Err(problem) => println!("{name}\n  the trial left no verdict: {problem}"),
        }
    }
    println!("\nEvidence of every trial: {}", run.display());
}

/// The verdicts as one JSON array.
pub(super) fn print_json(rows: &[Row]) -> Result<(), Failure> {
    let verdicts: Vec<_> = rows.iter().filter_map(|(_, _, verdict)| verdict.as_ref().ok()).collect();
    let json = serde_json::to_string_pretty(&verdicts)
        .map_err(|e| Failure::Infrastructure(format!("cannot write the verdicts as JSON: {e}.")))?;
    println!("{json}");
    Ok(())
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Fail => "FAIL",
        Outcome::Unknown => "unknown",
    }
}
