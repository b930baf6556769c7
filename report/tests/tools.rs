//! The table of what backup tools do.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;

use contract::figures::{BackupFigures, ToolFigures};
use contract::grade::{Grade, Outcome};
use contract::history::{CommandEnd, Level};
use judge::verdict::Verdict;
use report::{read, tools};

/// The verdict that the page about formats shows, over a trial with this tool.
fn verdict(tool: Option<ToolFigures>) -> Verdict {
    let doc = include_str!("../../docs/formats.md").split("\n## `verdict.json`\n").nth(1).unwrap();
    let json = doc.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    Verdict { tool, findings: vec![], ..serde_json::from_str(json).unwrap() }
}

fn backup(ended: CommandEnd, left_frozen_s: Option<f64>, stall_s: f64) -> BackupFigures {
    BackupFigures {
        level: Level::Full,
        ended: Some(ended),
        left_frozen: Some(left_frozen_s.is_some()),
        left_frozen_s,
        window_ms: None,
        write_stall_ms: Some(stall_s * 1e3),
    }
}

fn tool(summary: &str, backups: Vec<BackupFigures>) -> Option<ToolFigures> {
    Some(ToolFigures {
        name: "own".into(),
        version: Some("1.2|3".into()),
        summary: summary.to_owned(),
        backups,
    })
}

/// The cells of the table's rows.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let table = page.lines().skip_while(|line| !line.starts_with("| tool |")).skip(2);
    table
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect()
}

const GOOD: CommandEnd = CommandEnd::Exit(0);

#[test]
fn a_row_says_what_the_tool_did() {
    let page =
        tools(&[verdict(None), verdict(tool("A backup", vec![backup(GOOD, None, 0.52)]))], "a command");
    let expected = [
        "own",
        "1.2\\|3",
        "A backup",
        "none",
        "0",
        "crash-consistent",
        "no",
        "0.5 s",
        "1",
        "`core/freeze-without-hook`",
    ];
    assert_eq!(rows(&page), [expected]);
    assert!(page.ends_with("This page is written by a command, not by hand:\n\n    a command\n"), "{page}");
    assert!(page.contains("bookworm-mariadb, with the accelerator tcg."), "{page}");
    // What the README calls grades is there.
    assert!(include_str!("../../README.md").contains("| grade |"));
}

#[test]
fn trials_that_differ_are_counted() {
    let killed = |left, stall| tool("SIGKILL in the window", vec![backup(CommandEnd::Fault(9), left, stall)]);
    let refused = |tool| Verdict { grade: Grade::Refused, reason: String::new(), ..verdict(tool) };
    let trials = [
        refused(killed(Some(12.34), 13.0)),
        refused(killed(None, 0.4)),
        Verdict { outcome: Outcome::Fail, ..verdict(killed(Some(0.5), 0.6)) },
    ];
    let page = tools(&trials, "");
    let [row] = &*rows(&page) else { panic!("{page}") };
    assert_eq!(
        row[2..],
        [
            "SIGKILL in the window",
            "none",
            "signal 9 of the scenario's fault",
            "crash-consistent (1×) or refused (2×)",
            "**yes** (2 of 3), 12.3 s",
            "0.4 to 13.0 s",
            "3, 1 not as expected",
            "`core/freeze-without-hook`",
        ]
    );
}

#[test]
fn a_row_is_about_one_tool_story_and_hook() {
    let other_hook =
        Verdict { hook: "/srv/scenarios/tools/refuses.sh".into(), ..verdict(tool("A backup", vec![])) };
    let other_story = verdict(tool(
        "4 MiB for scratch files",
        vec![backup(GOOD, None, 1.0), backup(CommandEnd::Exit(1), None, 1.0)],
    ));
    let page = tools(&[verdict(tool("A backup", vec![])), other_hook, other_story], "");
    let rows = rows(&page);
    let cells: Vec<_> = rows.iter().map(|row| [row[2], row[3], row[4], row[6], row[7]]).collect();
    assert_eq!(
        cells,
        [
            ["4 MiB for scratch files", "none", "0, 1", "no", "1.0 s"],
            ["A backup", "none", "?", "?", "?"],
            ["A backup", "refuses.sh", "?", "?", "?"],
        ]
    );
}

#[test]
fn what_a_tool_says_stays_in_its_cell() {
    let mut hostile = tool("a|b\n| c", vec![]).unwrap();
    hostile.version = Some(format!("<script>\u{202e}{}", "x".repeat(9_000)));
    let page = tools(&[verdict(Some(hostile))], "");
    let row = page.lines().find(|line| line.starts_with("| own")).unwrap();
    assert!(!row.contains('<') && !page.contains('\u{202e}') && row.chars().count() < 500, "{row}");
    assert_eq!(row.replace("\\|", "").matches('|').count(), 11, "{row}");
}

#[test]
fn the_verdicts_of_runs_are_read_and_what_is_none_is_passed_over() {
    let run = tempfile::tempdir().unwrap();
    for name in ["one", "two", "three"] {
        fs::create_dir(run.path().join(name)).unwrap();
    }
    let kept = verdict(tool("A backup", vec![backup(GOOD, None, 0.5)]));
    kept.write(&run.path().join("one")).unwrap();
    fs::write(run.path().join("two/verdict.json"), "{").unwrap();
    assert_eq!(read::verdicts(&[run.path().to_owned()]).unwrap(), [kept]);
    assert!(read::verdicts(&[run.path().join("four")]).is_err());
}
