//! Reports of generated trial directories, honest and hostile.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "../../contract/tests/hidden/mod.rs"]
mod hidden;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use contract::events::{Stage, StageTimes};
use contract::figures::ToolFigures;
use contract::grade::Outcome;
use contract::plan::Plan;
use contract::run::RunOptions;
use contract::scenario::OwnCommands;
use judge::verdict::Verdict;
use judge::{judge, read as judge_read};
use report::{read, render};
use serde_json::json;

use hidden::{LEGAL, hides, hostile};

const NAME: &str = "core/small::tiny-image::mine";
const DIR: &str = "core-small.tiny-image.mine";

/// A run with one small trial: two clients, a transfer of each before and
/// after the snapshot.
fn run() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().canonicalize().unwrap().join("some-run");
    let trial = run.join(DIR);
    fs::create_dir_all(trial.join("guest")).unwrap();
    fs::write(trial.join("guest/server log.txt"), "hello").unwrap();
    fs::write(trial.join("plan.json"), plan(&trial).to_string()).unwrap();
    write_log(&trial, "events", &EVENTS.join("\n"));
    write_log(&trial, "history", &history(1));
    write_log(&trial, "observation", &OBSERVATION.join("\n"));
    let plan = Plan::read(&trial).unwrap();
    let judgement = judge(&judge_read(&trial).unwrap());
    let mut verdict = Verdict::new(&plan, judgement);
    let boot = Duration::from_secs(9);
    verdict.timings_ms.add(&StageTimes { stages: [(Stage::Boot, boot)].into(), wall: boot });
    verdict.write(&trial).unwrap();
    (root, run)
}

fn write_log(trial: &Path, kind: &str, lines: &str) {
    let text = format!("{{\"schema\":1,\"kind\":\"{kind}\"}}\n{lines}\n");
    fs::write(trial.join(format!("{kind}.jsonl")), text).unwrap();
}

fn plan(trial: &Path) -> serde_json::Value {
    let limits = ["boot", "server", "agent", "freeze", "thaw", "hold", "statement"]
        .map(|name| (name.to_owned(), json!({ "secs": 60, "nanos": 0 })));
    json!({
        "trial": NAME, "scenario": "core/small", "summary": "A small trial",
        "image": {
            "schema": 1, "name": "tiny-image", "digest": "0123456789abcdef", "distro": "debian",
            "release": "12", "dir": "/", "boot": "firmware", "disks": [], "memory_mib": 1,
            "agent": { "unit": "agent", "hook": "/hook", "enabled_by": "/conf" },
            "server": {
                "database": "mariadb", "unit": "mariadb", "datadir": "/d", "binlogs": "/d", "port": 1, "user": "u",
                "password_file": "/p"
            },
            "versions": {}
        },
        "hook": { "file": "/my hooks/mine" }, "install": "/my hooks/mine",
        "load": { "profile": "durable", "writers": 2, "seconds": 4.0 },
        "freeze": true, "snapshot": {"apart_ms": 0, "cycles": 1}, "faults": [],
        "expect": { "grade": ["application-consistent"] },
        "seed": 4242, "accel": "tcg", "start": "warm", "connect": null, "dir": trial,
        "limits": serde_json::Map::from_iter(limits), "keep": "none"
    })
}

const EVENTS: [&str; 4] = [
    r#"{"t":1000,"stage":"boot","event":"begin"}"#,
    r#"{"t":5000000000,"stage":"boot","event":"end"}"#,
    r#"{"t":5000000100,"stage":"freeze","event":"begin"}"#,
    r#"{"t":5100000000,"stage":"freeze","event":"failed","detail":"the agent <b>said</b> no"}"#,
];

const OBSERVATION: [&str; 4] = [
    r#"{"o":"server","started":true,"detail":"10.11"}"#,
    r#"{"o":"leg","c":1,"n":1,"leg":0,"dep":[2,0],"acct":1,"amt":5,"ver":1,"crc":7,"sum":7}"#,
    r#"{"o":"leg","c":1,"n":1,"leg":1,"dep":[2,0],"acct":2,"amt":-5,"ver":1,"crc":7,"sum":7}"#,
    r#"{"o":"end"}"#,
];

/// Client 1 writes `each` transfers before the freeze and one after the thaw, client 2 one before.
fn history(each: u64) -> String {
    let mut log = r#"{"e":"setup","writers":2,"accounts":2,"opening_balance":100,"doors":["tcp"],"followers":[],"tables":[],"disks":["vda"],"file_systems":["vda"],"binlog":false}"#
        .to_owned();
    let mut ver = 0;
    let mut transfer = |log: &mut String, c: u64, n: u64, from: u64| {
        let to = from + 40_000;
        ver += 1;
        write!(
            log,
            "\n{{\"e\":\"invoke\",\"t\":{from},\"c\":{c},\"n\":{n},\"op\":{{\"k\":\"transfer\",\"dep\":[{},0],\
             \"legs\":[[1,5],[2,-5]],\"crc\":7}}}}\n{{\"e\":\"ok\",\"t\":{to},\"c\":{c},\"n\":{n},\"ver\":[{ver},{ver}]}}",
            3 - c
        )
        .unwrap();
    };
    let start = 9_800_000_000;
    for n in 1..=each {
        transfer(&mut log, 1, n, start + n * 50_000);
    }
    transfer(&mut log, 2, 1, 9_990_000_000);
    let marks = [
        ("freeze_call", 10_000_000_000u64),
        ("freeze_ok", 10_100_000_000),
        ("snap_begin", 10_100_100_000),
        ("snap_end", 10_150_000_000),
        ("thaw_call", 10_200_000_000),
        ("thaw_ok", 10_250_000_000),
    ];
    for (mark, t) in marks {
        write!(log, "\n{{\"e\":\"mark\",\"t\":{t},\"mark\":\"{mark}\"}}").unwrap();
    }
    transfer(&mut log, 1, each + 1, 10_300_000_000);
    log + "\n{\"e\":\"end\",\"t\":11000000000}"
}

fn page(run: &Path) -> String {
    render(&read::page(&[run.to_owned()], run, Path::new("/nowhere")).unwrap())
}

fn assert_shows(page: &str, wanted: &[&str]) {
    for text in wanted {
        assert!(page.contains(text), "`{text}` is not on the page:\n{page}");
    }
}

#[test]
fn a_small_trial_is_all_there() {
    let (_root, run) = run();
    let page = page(&run);
    assert_shows(
        &page,
        &[
            "some-run",
            "The trial did not meet its expectation",
            "core/small",
            "tiny-image · mine",
            "A small trial.",
            "inconsistent",
            "snapshot complete",
            "no transfer acknowledged for",
            "through tcp: 2 writers",
            "What it could see",
            "Not examined",
            "only the hook claims",
            "1 transfer restored",
            "1 transfer acknowledged before the snapshot, but lost",
            "1 transfer not restored, and not owed",
            "client 2, transfer 1",
            "<b>durability</b>",
            "freeze failed: the agent &lt;b&gt;said&lt;/b&gt; no",
            "./core-small.tiny-image.mine/guest/server%20log.txt",
            "cargo xtask e2e core/small::tiny-image::mine --image tiny-image --hook '/my hooks/mine' \
             --snapshot external --accel tcg --seed 4242",
            "cargo xtask judge",
        ],
    );
    // Self-contained: nothing is loaded, and nothing runs.
    for never in ["<script", "http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(never), "{never}");
    }
}

#[test]
fn a_checkout_that_was_moved_is_not_named_by_its_old_path() {
    for (scenarios, then) in [
        ("/old home/us/scenarios", ""),
        ("/old home/us/mine", "--scenarios '/new home/us/mine' "),
        ("/elsewhere", "--scenarios /elsewhere "),
    ] {
        let (_root, run) = run();
        let mut options =
            RunOptions::of(Path::new("/old home/us"), "/old home/us/target/e2e/some-run".into());
        options.scenarios = scenarios.into();
        fs::write(run.join(RunOptions::FILE), serde_json::to_string(&options).unwrap()).unwrap();
        let path = run.join(DIR).join("plan.json");
        let mut plan = plan(&run.join(DIR));
        plan["hook"] = json!({ "file": "/old home/us/hooks/mine" });
        fs::write(path, plan.to_string()).unwrap();

        let page = render(&read::page(std::slice::from_ref(&run), &run, Path::new("/new home/us")).unwrap());
        let command = format!("--hook '/new home/us/hooks/mine' {then}--snapshot external");
        assert!(page.contains(&command) && !page.contains("/old home"), "{command}\n{page}");
    }
}

#[test]
fn the_command_that_runs_a_trial_again_has_the_users_own_commands() {
    let (_root, run) = run();
    let path = run.join(DIR).join("plan.json");
    let mut plan = plan(&run.join(DIR));
    plan["backup"] = json!({ "name": "own", "backup": "own $D", "restore": "r", "backup_seconds": 7, "restore_seconds": 9, "folder": "/s" });
    fs::write(&path, plan.to_string()).unwrap();
    let mut options = RunOptions::of(Path::new("/checkout"), run.clone());
    let say = |options: &RunOptions| {
        fs::write(run.join(RunOptions::FILE), serde_json::to_string(options).unwrap()).unwrap();
        page(&run)
    };
    let by_scenario = say(&options);
    assert!(
        !by_scenario.contains("--backup-command") && !by_scenario.contains("--snapshot"),
        "{by_scenario}"
    );
    let (backup, restore) = ("own $D".to_owned(), "r".to_owned());
    options.own_commands =
        Some(OwnCommands { backup, restore, backups: None, backup_seconds: None, restore_seconds: None });
    let again = "--backup-command 'own $D' --restore-command r --backups 1 --backup-seconds 7 --restore-seconds 9 --accel";
    assert_shows(&say(&options), &[again]);
}

#[test]
fn what_a_guest_wrote_stays_text() {
    let (_root, run) = run();
    let path = run.join(DIR).join("verdict.json");
    let mut verdict: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let hostile = "</p><script>alert(1)</script>\"' onload=x \u{202e}\u{0}";
    for field in ["reason", "hook", "expected", "trial"] {
        verdict[field] = json!(hostile);
    }
    verdict["findings"] = json!([{ "property": "starts", "id": hostile, "summary": hostile,
        "evidence": vec![hostile; 500] }]);
    verdict["properties"] = json!({ "starts": format!("not-applicable: {hostile}") });
    verdict["timings_ms"]["total"] = json!(1e300);
    fs::write(&path, verdict.to_string()).unwrap();
    fs::write(run.join(DIR).join("<img src=x onerror=alert(1)>"), "").unwrap();
    let page = page(&run);
    assert!(!page.contains("<script") && !page.contains("<img") && !page.contains('\u{202e}'));
    assert_shows(&page, &["&lt;script&gt;alert(1)", "&lt;img src=x", "460 more in verdict.json"]);
}

#[test]
fn nothing_hides_in_a_verdict_or_on_a_page() {
    let (_root, run) = run();
    let dir = run.join(DIR);
    let text = hostile() + LEGAL;
    let mut verdict = Verdict::read(&dir).unwrap();
    for field in [&mut verdict.trial, &mut verdict.reason, &mut verdict.hook, &mut verdict.expected] {
        field.clone_from(&text);
    }
    verdict.unmet = vec![format!("not {text}")];
    verdict.findings[0].summary.clone_from(&text);
    verdict.findings[0].evidence = vec![text.clone()];
    let tool = ToolFigures {
        name: text.clone(),
        version: Some(text.clone()),
        summary: text.clone(),
        backups: vec![],
    };
    verdict.tool = Some(tool);
    verdict.write(&dir).unwrap();
    let json = fs::read_to_string(dir.join("verdict.json")).unwrap();
    assert!(!hides(&json) && json.contains("हिन्दी"), "{json}");
    assert_eq!(Verdict::read(&dir).unwrap(), verdict);

    let mut plan = plan(&dir);
    plan["trial"] = json!(text);
    plan["summary"] = json!(text);
    plan["backup"] = json!({ "name": text, "backup": text, "restore": text, "backup_seconds": 1, "restore_seconds": 1, "folder": "/s" });
    plan["faults"] = json!([{ "at": "in-window", "host": text }]);
    fs::write(dir.join("plan.json"), plan.to_string()).unwrap();
    let failed = json!({ "t": 6_000_000_000u64, "stage": "freeze", "event": "failed", "detail": text });
    write_log(&dir, "events", &[EVENTS[0], &failed.to_string()].join("\n"));
    fs::write(dir.join("a\u{202e}\u{9b}file"), "").unwrap();
    for _ in ["a trial", "a plan that cannot be read"] {
        let page = page(&run);
        assert!(!hides(&page), "{page}");
        // Whole plane 14 is more than a page shows of one text.
        assert_shows(&page, &["\\u{202e}", "a\\u{202e}\\u{9b}file"]);
        fs::write(dir.join("plan.json"), format!("{{\"{}\": 1}}", "\u{202e}\u{9b}")).unwrap();
    }
    verdict.reason = LEGAL.to_owned();
    verdict.write(&dir).unwrap();
    assert_shows(&page(&run), &[LEGAL]);
}

#[test]
fn missing_and_damaged_files_leave_a_row_that_says_so() {
    for (file, content, says) in [
        ("verdict.json", None, "no verdict: "),
        ("verdict.json", Some("{"), "no verdict: "),
        ("plan.json", None, "No plan: "),
        ("events.jsonl", Some("{\"schema\":9,\"kind\":\"x\"}\n"), "events.jsonl:1: "),
        ("history.jsonl", None, "cannot open history.jsonl"),
        ("history.jsonl", Some("{\"schema\":1,\"kind\":\"history\"}\n{\"e\":"), "history.jsonl:2: "),
        (
            "observation.jsonl",
            Some("{\"schema\":1,\"kind\":\"observation\"}\n"),
            "breaks off before its last line",
        ),
    ] {
        let (_root, run) = run();
        let path = run.join(DIR).join(file);
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        assert_shows(&page(&run), &["core/small", says]);
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();
        assert_shows(&page(&run), &["core/small", "is not a regular file"]);
    }
    let root = tempfile::tempdir().unwrap();
    assert_shows(&page(root.path()), &["No trial was run"]);
    fs::create_dir(root.path().join("empty-trial")).unwrap();
    assert_shows(&page(root.path()), &["empty-trial", "could not be judged"]);
    assert!(read::page(&[root.path().join("none")], root.path(), root.path()).is_err());
}

#[test]
fn a_trial_that_left_nothing_is_missed() {
    let (_root, run) = run();
    read::remember(&run, &[NAME.to_owned(), "core/gone::tiny-image::mine".to_owned()]).unwrap();
    let page = page(&run);
    assert_shows(&page, &["core/gone", "left no directory", "1 of 2 trials did not meet"]);
    assert_eq!(page.matches("left no directory").count(), 3, "only the one that is gone");
}

#[test]
fn several_runs_make_one_page() {
    let (_one, first) = run();
    let (_two, second) = run();
    let page = render(&read::page(&[first.clone(), second], &first, Path::new("/nowhere")).unwrap());
    assert_eq!(page.matches("<details class=\"card\"").count(), 2);
    assert_shows(&page, &["2 of 2 trials", "./../", "<dt>run</dt>", "<th>run</th>"]);
    assert!(!page.contains("without a verdict"));
}

#[test]
fn a_lost_trial_is_missed_although_another_run_has_one_of_its_name() {
    let (_one, first) = run();
    let (_two, second) = run();
    fs::remove_dir_all(second.join(DIR)).unwrap();
    read::remember(&second, &[NAME.to_owned()]).unwrap();
    let page = render(&read::page(&[first.clone(), second], &first, Path::new("/nowhere")).unwrap());
    assert_shows(&page, &["of 2 trials", "left no directory", "1 trial without a verdict"]);
    assert_eq!(page.matches("<details class=\"card\"").count(), 2);
}

#[test]
fn a_page_that_is_written_before_the_first_trial_says_so() {
    let root = tempfile::tempdir().unwrap();
    read::remember(root.path(), &[NAME.to_owned(), "core/other::tiny-image::mine".to_owned()]).unwrap();
    let page = page(root.path());
    assert_shows(&page, &["core/small", "core/other", "2 trials without a verdict", "cargo xtask report"]);
}

#[test]
fn what_came_out_as_expected_comes_last_and_is_closed() {
    let (_root, run) = run();
    let other = run.join("core-other.tiny-image.mine");
    fs::create_dir(&other).unwrap();
    for file in
        fs::read_dir(run.join(DIR)).unwrap().map(|entry| entry.unwrap().path()).filter(|it| it.is_file())
    {
        fs::copy(&file, other.join(file.file_name().unwrap())).unwrap();
    }
    let mut verdict = Verdict::read(&run.join(DIR)).unwrap();
    (verdict.outcome, verdict.unmet) = (Outcome::Pass, vec![]);
    verdict.write(&run.join(DIR)).unwrap();
    let page = page(&run);
    let cards: Vec<_> = page.split("<details class=\"card\"").skip(1).collect();
    assert_eq!(cards.len(), 2);
    assert!(cards[0].starts_with(" open>") && cards[1].starts_with('>'));
    assert!(cards[0].contains("not as expected") && cards[1].contains("✓ as expected"));
}

#[test]
fn many_transfers_are_merged_and_the_page_says_so() {
    let (_root, run) = run();
    write_log(&run.join(DIR), "history", &history(3_000));
    let page = page(&run);
    assert_shows(&page, &["3000 transfers acknowledged", "apart are drawn as one"]);
    assert!(page.matches("<rect").count() < 100, "{}", page.matches("<rect").count());
    assert!(page.len() < 100_000, "{}", page.len());
}

#[test]
fn flipped_bytes_do_not_panic() {
    let (_root, run) = run();
    let mut random = 88172645463325252u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    for file in ["verdict.json", "plan.json", "events.jsonl", "history.jsonl", "observation.jsonl"] {
        let path = run.join(DIR).join(file);
        let whole = fs::read(&path).unwrap();
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..=next(3) {
                let at = next(bytes.len());
                bytes[at] = b"0123456789-\"{}[],:e\xff\0\n"[next(22)];
            }
            fs::write(&path, bytes).unwrap();
            assert!(page(&run).ends_with("</html>"));
        }
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn a_backup_tool_is_shown_with_its_commands_and_each_run() {
    let (_root, run) = run();
    let trial = run.join(DIR);
    let mut plan: Plan = serde_json::from_value(plan(&trial)).unwrap();
    let tool = r#"{"name":"own","backup":"own <b> $D","restore":"own r","backup_seconds":1,"restore_seconds":1,"folder":"/s"}"#;
    plan.backup = serde_json::from_str(tool).unwrap();
    plan.write().unwrap();
    let mut verdict = Verdict::read(&trial).unwrap();
    let tool = r#"{"name":"own","version":"1.2","summary":"a trial","backups":[{"level":"full","ended":{"exit":0},
        "left_frozen":true,"left_frozen_s":12.34,"window_ms":40.0,"write_stall_ms":700.0}]}"#;
    verdict.tool = serde_json::from_str(tool).unwrap();
    verdict.write(&trial).unwrap();
    let page = render(&read::page(std::slice::from_ref(&run), &run, Path::new("/checkout")).unwrap());
    for shown in [
        "<dt>backup tool</dt><dd>own (1.2)</dd>",
        "1, full: exit code 0, left the guest frozen for 12.3 s, write stall 700 ms",
        "own &lt;b&gt; $D",
    ] {
        assert!(page.contains(shown), "{shown} is not on the page");
    }
    assert!(!page.contains("<dt>snapshot</dt>"));
}
