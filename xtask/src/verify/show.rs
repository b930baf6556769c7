//! What is printed at the end.

use std::path::Path;

use contract::json;
use contract::verification::Recovery;
use judge::verification::Verification;
use terminal::results;
use tooling::error::Failure;

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BOLD: &str = "1";

/// Prints the verdict, and where its evidence is.
pub(super) fn show(verdict: &Verification, dir: &Path, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let json = json::pretty(verdict).map_err(|e| Failure::Json { what: "the verdict", source: e })?;
        results::line(json);
        return Ok(());
    }
    let grade = verdict.grade.to_string();
    let colour = match verdict.grade {
        Recovery::Recovers => GREEN,
        Recovery::Inconsistent | Recovery::Unusable => RED,
        Recovery::Unknown => YELLOW,
    };
    let why = verdict.reason.strip_prefix(&grade).unwrap_or(&verdict.reason).trim_start_matches(": ");
    results::line("");
    results::row([(&*grade, colour), (why, "")]);
    for finding in &verdict.findings {
        results::line(format_args!("\n  {} ({})", finding.summary, finding.grade));
        finding.evidence.iter().for_each(|line| results::line(format_args!("      {line}")));
    }
    for (head, lines) in [
        ("Claims that are wrong", &verdict.unmet),
        ("Examined", &verdict.examined),
        ("Not examined", &verdict.unexamined),
        ("Worth knowing", &verdict.notes),
    ] {
        if !lines.is_empty() {
            results::line("");
            results::row([(head, BOLD)]);
            lines.iter().for_each(|line| results::line(format_args!("  {line}")));
        }
    }
    results::line(format_args!(
        "\nEvidence: {}\nReport: {}",
        dir.display(),
        dir.join("index.html").display()
    ));
    Ok(())
}
