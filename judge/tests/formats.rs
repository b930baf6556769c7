//! `docs/formats.md` says what the types say: its examples are read, and it
//! names every record, field and value.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the lint knows only test functions")]

use std::collections::BTreeSet;
use std::fmt::Debug;

use contract::events::{self, Event, EventKind, Stage};
use contract::figures::{BackupFigures, ToolFigures};
use contract::grade::{Grade, Outcome};
use contract::history::{
    self, CommandEnd, DiskProblem, DiskProblemKind, Entry, Follower, Holds, Leftover, LeftoverKind, Level,
    Mark, Op, Probe, ProbeAnswer, ProbeKind, Quiescence, Round, Schema, Sender, Setup, Table, ToolStep,
};
use contract::jsonl::{self, Reader};
use contract::observation::{self, Record};
use contract::plan::{Accel, Keep, Plan};
use contract::property::Property;
use judge::verdict::Verdict;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const DOC: &str = include_str!("../../docs/formats.md");

/// The text under a heading.
fn section(name: &str) -> &'static str {
    let (_, rest) = DOC.split_once(&format!("\n## `{name}`\n")).unwrap();
    rest.split("\n## ").next().unwrap()
}

/// The one example in a section.
fn example(name: &str) -> &'static str {
    let (_, rest) = section(name).split_once("\n```json").unwrap();
    rest.split_once('\n').unwrap().1.split_once("```").unwrap().0
}

/// Reads the example of a log, and checks that it is to the letter what is written.
fn records<T: jsonl::LogRecord + Serialize>(name: &str, kind: &str) -> Vec<T> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, example(name)).unwrap();
    let records: Vec<T> = Reader::open(&path, kind).unwrap().map(Result::unwrap).collect();
    for (record, line) in records.iter().zip(example(name).lines().skip(1)) {
        assert_eq!(serde_json::to_string(record).unwrap(), line);
    }
    records
}

/// The names in serde's answer to JSON that is wrong: what it would have taken.
fn wanted<T: DeserializeOwned + Debug>(wrong: &Value) -> BTreeSet<String> {
    let error = serde_json::from_value::<T>(wrong.clone()).unwrap_err().to_string();
    let (_, expected) = error.split_once("expected").unwrap_or_else(|| panic!("{wrong}: {error}"));
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Checks that the section has a row for each variant that names each field,
/// and an example of each variant.
fn check_variants<T: DeserializeOwned + Debug + Serialize>(file: &str, tag: &str) {
    let variants = wanted::<T>(&json!({ tag: "?" }));
    assert!(variants.len() > 1);
    for variant in variants {
        let row = section(file).lines().find(|line| line.starts_with(&format!("| `{variant}` |")));
        let row = row.unwrap_or_else(|| panic!("{file}: no row for `{variant}`"));
        assert!(
            example(file).contains(&format!("{{\"{tag}\":\"{variant}\"")),
            "{file}: no example of {variant}"
        );
        if serde_json::from_value::<T>(json!({ tag: variant })).is_ok() {
            continue;
        }
        for field in wanted::<T>(&json!({ tag: variant, "?": 0 })) {
            assert!(row.contains(&format!("`{field}`")), "{file}: `{variant}` has a field `{field}`");
        }
    }
}

fn check_values<T: DeserializeOwned + Debug>(file: &str) {
    for value in wanted::<T>(&json!("?")) {
        assert!(section(file).contains(&format!("`{value}`")), "{file} does not name `{value}`");
    }
}

/// Checks that the section names each field of what stands inside a record.
fn check_fields<T: DeserializeOwned + Debug>(file: &str) {
    for field in wanted::<T>(&json!({ "?": 0 })) {
        assert!(section(file).contains(&format!("`{field}`")), "{file} does not name `{field}`");
    }
}

#[test]
fn the_history() {
    records::<Entry>("history.jsonl", history::KIND);
    check_variants::<Entry>("history.jsonl", "e");
    check_variants::<Op>("history.jsonl", "k");
    check_variants::<ToolStep>("history.jsonl", "what");
    check_values::<Level>("history.jsonl");
    check_values::<LeftoverKind>("history.jsonl");
    check_values::<DiskProblemKind>("history.jsonl");
    check_values::<Sender>("history.jsonl");
    check_fields::<Leftover>("history.jsonl");
    check_fields::<DiskProblem>("history.jsonl");
    check_values::<Mark>("history.jsonl");
    check_values::<ProbeKind>("history.jsonl");
    check_values::<ProbeAnswer>("history.jsonl");
    check_values::<Holds>("history.jsonl");
    check_values::<Round>("history.jsonl");
    check_values::<Schema>("history.jsonl");
    check_values::<Quiescence>("history.jsonl");
    check_fields::<Setup>("history.jsonl");
    check_fields::<Follower>("history.jsonl");
    check_fields::<Table>("history.jsonl");
    check_fields::<Probe>("history.jsonl");
}

#[test]
fn the_events() {
    records::<Event>("events.jsonl", events::KIND);
    check_values::<Stage>("events.jsonl");
    check_values::<EventKind>("events.jsonl");
    check_fields::<Event>("events.jsonl");
}

#[test]
fn the_observation() {
    records::<Record>("observation.jsonl", observation::KIND);
    check_variants::<Record>("observation.jsonl", "o");
}

/// As the agent's client writes it; that one is private, and needs libvirt.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    t: u64,
    end: u64,
    guest: String,
    command: String,
    answer: String,
}

impl jsonl::LogRecord for Exchange {}

#[test]
fn the_agents_transcript() {
    assert_eq!(records::<Exchange>("agent.jsonl", "agent").len(), 1);
}

/// Reads the example of a file that is one object, and checks that it leaves
/// nothing out and says nothing more.
fn object<T: DeserializeOwned + Serialize>(file: &str) -> Value {
    let value: Value = serde_json::from_str(example(file)).unwrap();
    let read: T = serde_json::from_str(example(file)).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), value);
    value
}

#[test]
fn the_plan() {
    object::<Plan>("plan.json");
    check_values::<Accel>("plan.json");
    check_values::<Keep>("plan.json");
}

#[test]
fn the_verdict() {
    let verdict = object::<Verdict>("verdict.json");
    check_values::<Grade>("verdict.json");
    check_values::<Outcome>("verdict.json");
    let nested =
        [&verdict, &verdict["findings"][0], &verdict["timings_ms"], &verdict["counts"], &verdict["power"]];
    // The example is of a trial without one.
    let backup = BackupFigures {
        level: Level::Full,
        ended: Some(CommandEnd::Exit(0)),
        left_frozen: None,
        left_frozen_s: None,
        window_ms: None,
        write_stall_ms: None,
    };
    let tool =
        ToolFigures { name: String::new(), version: None, summary: String::new(), backups: vec![backup] };
    let tool = json!({ "tool": tool });
    let nested = nested.into_iter().chain([&tool, &tool["tool"], &tool["tool"]["backups"][0]]);
    for (field, _) in nested.into_iter().flat_map(|object| object.as_object().unwrap()) {
        assert!(section("verdict.json").contains(&format!("`{field}`")), "{field}");
    }
    for property in Property::ALL {
        let row = format!(
            "| {} | `{property}` | {} | {} |\n",
            property.id(),
            property.claim(),
            property.on_postgresql()
        );
        assert!(section("verdict.json").contains(&row), "missing: {row}");
    }
}
