//! `cargo xtask judge` on trial directories, good ones and others.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the lint knows only test functions")]

#[path = "../../contract/tests/hidden/mod.rs"]
mod hidden;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use serde_json::{Value, json};
use synthetic::{self, LogFiles, Shape};
use tempfile::TempDir;

use hidden::{LEGAL, hides, hostile};

/// A trial that is right by construction.
fn trial(seed: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut files = LogFiles::create(dir.path()).unwrap();
    synthetic::make(&Shape { load_ms: 100, losing: 0, ..Shape::new(seed) }, &mut files).unwrap();
    files.flush().unwrap();
    let plan = serde_json::to_vec_pretty(&plan(dir.path(), seed)).unwrap();
    fs::write(dir.path().join("plan.json"), plan).unwrap();
    let events = r#"{"schema":1,"kind":"events"}
{"t":1000000,"stage":"boot","event":"begin"}
{"t":2000000,"stage":"boot","event":"note","detail":"hook freezeframe"}
{"t":3500000,"stage":"boot","event":"end"}
"#;
    fs::write(dir.path().join("events.jsonl"), events).unwrap();
    dir
}

fn plan(dir: &Path, seed: u64) -> Value {
    let limit = json!({ "secs": 60, "nanos": 0 });
    json!({
        "trial": "core/quiet::bookworm-mariadb::freezeframe",
        "scenario": "core/quiet",
        "summary": "A synthetic trial",
        "image": {
            "schema": 2, "name": "bookworm-mariadb", "digest": "00", "distro": "debian", "release": "bookworm",
            "dir": "/", "boot": "firmware",
            "disks": [{ "target": "vda", "file": "/d", "file_systems": [] }],
            "memory_mib": 512,
            "agent": { "unit": "u", "hook": "/h", "enabled_by": "/e" },
            "server": {
                "database": "mariadb", "unit": "u", "datadir": "/v", "binlogs": "/v", "port": 3306, "user": "u",
                "password_file": "/p",
            },
            "versions": {},
        },
        "hook": "freezeframe", "install": null,
        "load": { "profile": "durable", "writers": 5, "seconds": 1.0 },
        "freeze": true, "snapshot": {"apart_ms": 0, "cycles": 1}, "faults": [],
        "expect": { "grade": ["application-consistent"] },
        "seed": seed, "accel": "tcg", "start": "cold", "connect": null, "dir": dir,
        "limits": {
            "boot": limit, "server": limit, "agent": limit, "freeze": limit, "thaw": limit, "hold": limit,
            "statement": limit,
        },
        "keep": "none",
    })
}

#[derive(Debug)]
struct Answer {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn judge(dir: &Path, options: &[&str]) -> Answer {
    let output =
        Command::new(env!("CARGO_BIN_EXE_xtask")).arg("judge").args(options).arg(dir).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let answer =
        Answer { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) };
    assert!(!answer.stderr.contains("panicked"), "{answer:?}");
    assert!(!hides(&answer.stdout) && !hides(&answer.stderr), "{answer:?}");
    assert!(answer.stderr.len() < 2_000, "{answer:?}");
    answer
}

fn change(dir: &Path, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let path = dir.join(file);
    fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
}

#[test]
fn a_good_trial_passes() {
    let dir = trial(1);
    let answer = judge(dir.path(), &[]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert!(answer.stdout.starts_with("application-consistent: "), "{answer:?}");
    assert_eq!(answer.stderr, "");
    let verdict: Value = serde_json::from_str(&judge(dir.path(), &["--json"]).stdout).unwrap();
    assert_eq!(verdict["outcome"], "pass");
    assert_eq!(verdict["timings_ms"]["boot"], 2.5);
    assert!(!dir.path().join("verdict.json").exists());
}

#[test]
fn one_acknowledged_row_less_is_inconsistent() {
    let dir = trial(1);
    change(dir.path(), "observation.jsonl", |bytes| {
        let text = String::from_utf8(bytes).unwrap();
        let rows = text.lines().filter(|line| line.contains(r#""o":"leg""#)).count();
        let mut row = 0;
        let kept = text.lines().filter(|line| {
            row += usize::from(line.contains(r#""o":"leg""#));
            !(line.contains(r#""o":"leg""#) && row == rows / 2)
        });
        kept.flat_map(|line| [line, "\n"]).collect::<String>().into_bytes()
    });
    let answer = judge(dir.path(), &[]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stdout.starts_with("inconsistent: "), "{answer:?}");
    assert!(answer.stdout.contains("\n  D* quiesced-durability: 1 transfer acknowledged"), "{answer:?}");
}

#[test]
fn what_a_guest_wrote_gives_a_terminal_no_orders() {
    let dir = trial(1);
    let text = hostile() + LEGAL;
    change(dir.path(), "plan.json", |bytes| {
        let mut plan: Value = serde_json::from_slice(&bytes).unwrap();
        plan["trial"] = json!(text);
        plan.to_string().into_bytes()
    });
    let messages: Vec<_> = hostile().chars().take(100).map(String::from).chain([LEGAL.to_owned()]).collect();
    change(dir.path(), "observation.jsonl", |bytes| {
        let lines = String::from_utf8(bytes).unwrap();
        let lines = lines.lines().map(|line| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            if record["o"] == "check_table" {
                record["clean"] = json!(false);
                record["messages"] = json!(messages);
            }
            record.to_string() + "\n"
        });
        lines.collect::<String>().into_bytes()
    });
    let shown = judge(dir.path(), &[]);
    assert!(shown.stdout.contains("\\u{8}"), "{shown:?}");
    let json = judge(dir.path(), &["--json"]).stdout;
    assert!(json.contains("\\u009b") && json.contains("\\udb40"), "{json}");
    let verdict: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(verdict["trial"], text);
}

#[test]
fn missing_files_are_named() {
    for (file, code, says) in [
        ("plan.json", 2, "is this the directory of a trial?"),
        ("history.jsonl", 2, "history.jsonl"),
        ("observation.jsonl", 3, "before the snapshot was observed"),
        ("events.jsonl", 0, "goes without the times"),
    ] {
        let dir = trial(1);
        fs::remove_file(dir.path().join(file)).unwrap();
        let answer = judge(dir.path(), &[]);
        assert_eq!(answer.code, Some(code), "{file}: {answer:?}");
        assert!(answer.stderr.contains(says), "{file}: {answer:?}");
        // A directory in its place is no better.
        fs::create_dir(dir.path().join(file)).unwrap();
        let answer = judge(dir.path(), &[]);
        assert_eq!(answer.code, Some(if file == "events.jsonl" { 0 } else { 2 }), "{file}: {answer:?}");
        assert!(answer.stderr.contains(file), "{file}: {answer:?}");
        // Nor is one that never ends.
        fs::remove_dir(dir.path().join(file)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join(file)).unwrap();
        let answer = judge(dir.path(), &[]);
        assert!(answer.stderr.contains("not a regular file"), "{file}: {answer:?}");
    }
    assert_eq!(judge(Path::new("/nonexistent"), &[]).code, Some(2));
}

#[test]
fn an_error_names_the_line() {
    for (file, line) in [("plan.json", "line 3"), ("history.jsonl", ":3: "), ("observation.jsonl", ":3: ")] {
        let dir = trial(1);
        change(dir.path(), file, |bytes| {
            let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
            lines[2] = b"\x1b[2J{\"e\":\"\\u001b[31m\"}\n";
            lines.concat()
        });
        let answer = judge(dir.path(), &[]);
        assert_eq!(answer.code, Some(2), "{file}: {answer:?}");
        assert!(answer.stderr.contains(file) && answer.stderr.contains(line), "{answer:?}");
    }
}

#[test]
fn endless_lines_and_files_are_refused() {
    for file in ["plan.json", "history.jsonl", "observation.jsonl", "events.jsonl"] {
        let dir = trial(1);
        fs::write(dir.path().join(file), vec![b'['; 5 << 20]).unwrap();
        let answer = judge(dir.path(), &[]);
        assert_eq!(answer.code, Some(if file == "events.jsonl" { 0 } else { 2 }), "{file}: {answer:?}");
        assert!(answer.stderr.contains("longer than"), "{file}: {answer:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_torn_file_never_passes(seed in 0u64..8, at in any::<u32>(), junk in proptest::collection::vec(any::<u8>(), 0..60), file in 0usize..3) {
        let dir = trial(seed);
        let file = ["plan.json", "history.jsonl", "observation.jsonl"][file];
        change(dir.path(), file, |mut bytes| {
            bytes.truncate(at as usize % bytes.len());
            bytes.extend(junk);
            bytes
        });
        let answer = judge(dir.path(), &[]);
        prop_assert!(matches!(answer.code, Some(2 | 3)), "{file}: {answer:?}");
        prop_assert!(answer.code != Some(2) || answer.stderr.contains(file), "{answer:?}");
    }

    #[test]
    fn changed_bytes_are_answered(seed in 0u64..8, changes in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..4), file in 0usize..3) {
        let dir = trial(seed);
        let file = ["plan.json", "history.jsonl", "observation.jsonl"][file];
        change(dir.path(), file, |mut bytes| {
            for (at, byte) in changes {
                let at = at as usize % bytes.len();
                bytes[at] = byte;
            }
            bytes
        });
        let answer = judge(dir.path(), &[]);
        prop_assert!(matches!(answer.code, Some(0..=3)), "{file}: {answer:?}");
    }

    #[test]
    fn reordered_lines_mean_the_same_or_are_refused(seed in 0u64..8, a in any::<u32>(), b in any::<u32>(), second in any::<bool>()) {
        let dir = trial(seed);
        let before = judge(dir.path(), &["--json"]).stdout;
        let file = if second { "observation.jsonl" } else { "history.jsonl" };
        change(dir.path(), file, |bytes| {
            let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
            let (a, b) = (a as usize % lines.len(), b as usize % lines.len());
            lines.swap(a, b);
            lines.concat()
        });
        let answer = judge(dir.path(), &["--json"]);
        prop_assert!(answer.code == Some(2) || answer.stdout == before, "{file}: {answer:?}");
    }

    #[test]
    fn events_and_an_old_verdict_decide_nothing(seed in 0u64..8, bytes in proptest::collection::vec(any::<u8>(), 0..200), pass in any::<bool>()) {
        let dir = trial(seed);
        change(dir.path(), "events.jsonl", |_| bytes.clone());
        let lie = if pass { br#"{"schema":1,"grade":"application-consistent","outcome":"pass"}"#.to_vec() } else { bytes };
        fs::write(dir.path().join("verdict.json"), &lie).unwrap();
        let answer = judge(dir.path(), &[]);
        prop_assert_eq!(answer.code, Some(0), "{:?}", answer);
        fs::remove_file(dir.path().join("observation.jsonl")).unwrap();
        prop_assert_eq!(judge(dir.path(), &[]).code, Some(3));
        prop_assert_eq!(fs::read(dir.path().join("verdict.json")).unwrap(), lie);
    }
}

#[test]
fn results_may_go_unread_but_not_be_lost() {
    let trial = trial(8);
    let judge = |stdout: Stdio| {
        let mut judge = Command::new(env!("CARGO_BIN_EXE_xtask"));
        let judged = judge.arg("judge").arg(trial.path()).stdout(stdout).output().unwrap();
        (judged.status.code(), String::from_utf8(judged.stderr).unwrap())
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(judge(writer.into()), (Some(0), String::new()));
    let (code, error) = judge(File::options().write(true).open("/dev/full").unwrap().into());
    assert_eq!(code, Some(3));
    assert!(error.starts_with("error: cannot write the results: No space left on device"), "{error}");
}
