//! The results of a run for other programs: JUnit beside the report, and the step summary in GitHub
//! Actions. If one cannot be written, that is only a warning: the verdicts do not depend on it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use contract::files;
use contract::grade::Outcome;
use contract::text::{quote, quote_lines};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use tracing::warn;

use super::table::Row;

/// The file beside the report.
const JUNIT: &str = "junit.xml";

/// Where GitHub Actions wants the summary of a step, as Markdown.
const STEP_SUMMARY: &str = "GITHUB_STEP_SUMMARY";

/// Characters of a reason that a cell shows.
const MAX_REASON: usize = 200;

/// Writes both.
pub(super) fn write(run: &Path, rows: &[Row]) {
    let junit = run.join(JUNIT);
    let written = report(run, rows).to_string().map_err(|e| e.to_string());
    if let Err(problem) =
        written.and_then(|xml| files::replace(&junit, xml.as_bytes()).map_err(|e| e.to_string()))
    {
        warn!("{} could not be written: {problem}", junit.display());
    }
    let Some(path) = std::env::var_os(STEP_SUMMARY).filter(|path| !path.is_empty()) else { return };
    let file = OpenOptions::new().append(true).create(true).open(&path);
    if let Err(error) = file.and_then(|mut file| file.write_all(markdown(rows).as_bytes())) {
        warn!("the summary could not be written to {}: {error}", Path::new(&path).display());
    }
}

/// A test case for each trial, with its reason and its evidence where it did not come out as expected.
fn report(run: &Path, rows: &[Row]) -> Report {
    let mut suite = TestSuite::new("freezeframe");
    for (name, dir, verdict) in rows {
        let not_passed = |kind, message: String, details: String| {
            let mut status = TestCaseStatus::non_success(kind);
            let details = format!("{details}\nevidence: {}", dir.display());
            status.set_message(shown(&message)).set_description(shown(&details));
            status
        };
        let (reason, unmet) = (&verdict.reason, &verdict.unmet);
        let status = match verdict.outcome {
            Outcome::Pass => TestCaseStatus::success(),
            Outcome::Fail => not_passed(NonSuccessKind::Failure, unmet.join("; "), reason.clone()),
            Outcome::Unknown => not_passed(NonSuccessKind::Error, reason.clone(), unmet.join("\n")),
        };
        let mut case = TestCase::new(name.as_str(), status);
        let total = verdict.timings_ms.total;
        if let Some(time) = total.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok()) {
            case.set_time(time);
        }
        case.set_system_out(format!("{}\n", shown(reason)));
        suite.add_test_case(case);
    }
    let name = run.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut report = Report::new(name);
    report.add_test_suite(suite);
    report
}

/// Whoever shows the file shows these words as they are.
fn shown(text: &str) -> String {
    quote_lines(usize::MAX, text)
}

/// A table of the trials, those first that did not come out as expected.
fn markdown(rows: &[Row]) -> String {
    let mut sorted: Vec<_> = rows.iter().collect();
    sorted.sort_by_key(|(_, _, verdict)| match verdict.outcome {
        Outcome::Fail => 0,
        Outcome::Unknown => 1,
        Outcome::Pass => 2,
    });
    let line = |(name, _, verdict): &&Row| {
        let word = match verdict.outcome {
            Outcome::Pass => "as expected",
            Outcome::Fail => "**not as expected**",
            Outcome::Unknown => "**unknown**",
        };
        let cells = [&format!("`{name}`"), word, &verdict.grade.to_string(), &verdict.reason];
        let cells = cells.map(|cell| quote(MAX_REASON, cell).replace('|', "\\|"));
        format!("| {} |\n", cells.join(" | "))
    };
    let lines: String = sorted.iter().map(line).collect();
    format!("| trial | outcome | grade | reason |\n|---|---|---|---|\n{lines}\n")
}

#[cfg(test)]
mod tests {
    use judge::verdict::Verdict;

    use super::super::table::tests::{example, lost};
    use super::*;

    fn rows() -> Vec<Row> {
        let verdict = |outcome, reason: &str| Verdict {
            outcome,
            reason: reason.into(),
            unmet: vec!["expected something <else>".into()],
            ..example()
        };
        vec![
            ("core/good::i::h".into(), "/e/good".into(), verdict(Outcome::Pass, "fine")),
            ("core/bad::i::h".into(), "/e/bad".into(), verdict(Outcome::Fail, "a|b\u{202e}")),
            ("core/none::i::h".into(), "/e/none".into(), lost("core/none::i::h")),
        ]
    }

    #[test]
    fn junit_tells_failures_from_what_is_not_known() {
        let xml = report(Path::new("/runs/today"), &rows()).to_string().unwrap();
        assert!(xml.contains("tests=\"3\" failures=\"1\" errors=\"1\""), "{xml}");
        assert!(xml.contains("a|b\\u{202e}") && !xml.contains('\u{202e}'), "{xml}");
        assert!(xml.contains("evidence: /e/bad") && xml.contains("expected something &lt;else&gt;"), "{xml}");
        assert!(xml.contains("message=\"unknown: the disk is full\""), "{xml}");
    }

    #[test]
    fn a_step_tells_first_what_is_not_as_expected() {
        let markdown = markdown(&rows());
        let lines: Vec<_> = markdown.lines().collect();
        assert!(lines[2].contains("core/bad") && lines[2].contains("a\\|b\\u{202e}"), "{markdown}");
        assert!(lines[3].contains("the disk is full") && lines[4].contains("core/good"), "{markdown}");
    }
}
