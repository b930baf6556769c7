//! Trial directories as they should not be: the reader names the line.

use std::fs;
use std::path::Path;

use contract::grade::Grade;
use contract::history::{self, Entry};
use contract::jsonl::{self, Writer};
use contract::observation::{self, Record};
use judge::{Judgement, judge, read};
use proptest::prelude::*;

use crate::world::{Random, Shape, World};

fn write(dir: &Path, world: &World) {
    let mut out = Writer::<Entry>::create(&dir.join(history::FILE), history::KIND).unwrap();
    world.history.iter().for_each(|entry| out.write(entry).unwrap());
    out.flush().unwrap();
    let mut out = Writer::<Record>::create(&dir.join(observation::FILE), observation::KIND).unwrap();
    world.image.iter().for_each(|record| out.write(record).unwrap());
    out.flush().unwrap();
}

#[test]
fn a_directory_is_judged_like_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(&Shape::new(1));
    write(dir.path(), &world);
    assert_eq!(judge(&read(dir.path()).unwrap()), world.judge());
}

#[test]
fn evidence_beyond_a_screenful_is_kept_in_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(&Shape::new(1));
    world.image.retain(|record| !matches!(record, Record::Leg { c: 1..=3, .. }));
    let mut judgement = world.judge();
    let shown = judgement.clone();
    judgement.keep_details(dir.path(), dir.path()).unwrap();
    let finding = judgement.findings.iter().find(|finding| finding.id == "D").unwrap();
    assert_eq!(finding.evidence.len(), 13);
    assert!(finding.evidence[12].ends_with(" more, all in findings/durability.txt"), "{finding:?}");
    let file = fs::read_to_string(dir.path().join("findings/durability.txt")).unwrap();
    assert!(finding.summary.starts_with(&format!("{} transfers ", file.lines().count())), "{finding:?}");
    assert!(file.lines().zip(&finding.evidence[..12]).all(|(line, evidence)| line == evidence));
    // What is a screenful needs no file.
    let files = fs::read_dir(dir.path().join("findings")).unwrap().count();
    assert_eq!(files, shown.details.len());
    assert!(files < shown.findings.len());
}

#[test]
fn a_trial_without_an_observation_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &World::new(&Shape::new(1)));
    fs::remove_file(dir.path().join(observation::FILE)).unwrap();
    let judgement = judge(&read(dir.path()).unwrap());
    assert_eq!(judgement.grade, Grade::Unknown);
    assert!(judgement.reason.contains("before the snapshot was observed"), "{}", judgement.reason);
}

fn invoke_of(c: u32) -> String {
    format!(
        r#"{{"e":"invoke","t":10,"c":{c},"n":1,"op":{{"k":"transfer","dep":[2,0],"legs":[[1,-5],[2,5]],"crc":7}}}}"#
    )
}

/// What the agent's channel carried of a window, beside the marks of the harness that opened it.
#[test]
fn the_agents_channel_must_have_carried_the_window() {
    let setup = r#"{"e":"setup","writers":2,"accounts":4,"opening_balance":10,"doors":["tcp"],"followers":[],"tables":[],"disks":["vda"],"file_systems":["vda"],"binlog":true}"#;
    let of_tool = setup.replace("\"binlog\"", "\"tool\":true,\"binlog\"");
    let marks: String = [("freeze_call", 20), ("freeze_ok", 30), ("thaw_call", 40), ("thaw_ok", 50)]
        .iter()
        .map(|(mark, t)| format!("{{\"e\":\"mark\",\"t\":{t},\"mark\":\"{mark}\"}}\n"))
        .collect();
    let command = |name: &str, t: u64, end: u64| {
        format!(
            r#"{{"e":"agent_command","t":{t},"end":{end},"command":"guest-fsfreeze-{name}","by":"harness"}}"#
        )
    };
    let (freeze, thaw) = (command("freeze", 21, 29), command("thaw", 41, 49));
    let refused = freeze.replace("\"by\"", "\"error\":\"no\",\"by\"");
    let (late, early) = (command("freeze", 21, 31), command("freeze", 19, 29));
    let foreign = command("thaw", 32, 38);
    let read_these = |setup: &str, commands: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let commands = commands.join("\n");
        let end = "{\"e\":\"end\",\"t\":99}";
        let text = format!("{{\"schema\":1,\"kind\":\"history\"}}\n{setup}\n{marks}{commands}\n{end}\n");
        fs::write(dir.path().join(history::FILE), text).unwrap();
        read(dir.path()).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(read_these(setup, &[&freeze, &thaw]), Ok(()));
    for (commands, reason) in [
        (&[&thaw][..], "carried out guest-fsfreeze-freeze between 20 and 30"),
        (&[&refused, &thaw], "carried out guest-fsfreeze-freeze"),
        (&[&late, &thaw], "carried out guest-fsfreeze-freeze"),
        (&[&early, &thaw], "carried out guest-fsfreeze-freeze"),
        (&[&freeze], "carried out guest-fsfreeze-thaw between 40 and 50"),
        (&[&freeze, &foreign, &thaw], "somebody else told the agent to thaw between 30 and 40"),
    ] {
        let commands: Vec<_> = commands.iter().map(|it| it.as_str()).collect();
        let error = read_these(setup, &commands).unwrap_err();
        assert!(error.contains(reason), "{error} should say {reason}");
        // What a tool does in its own window is for the properties to say.
        assert_eq!(read_these(&of_tool, &commands), Ok(()));
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn the_reader_names_file_line_and_reason() {
    let setup = r#"{"e":"setup","writers":2,"accounts":4,"opening_balance":10,"doors":["tcp"],"followers":[{"table":"nt","engine":"MyISAM","transactional":false,"schema":"load","door":0}],"tables":[],"disks":["vda"],"file_systems":["vda"],"binlog":true}"#;
    let no_door = setup.replace("[\"tcp\"]", "[]");
    let far_door = setup.replace("\"door\":0", "\"door\":1");
    let twice = setup.replace("\"tables\":[]", "\"tables\":[{\"table\":\"nt\",\"engine\":\"InnoDB\"}]");
    let row = r#"{"e":"invoke","t":20,"c":3,"n":1,"op":{"k":"follow","table":"nt","of":[1,1],"crc":7}}"#;
    let others_row = row.replace("\"c\":3", "\"c\":2");
    let others_transfer = invoke_of(3);
    let probe = r#"{"e":"probe","t":20,"end":30,"round":"snapshot","door":0,"schema":"load","kind":"commit","answer":"done"}"#;
    let early_probe = probe.replace("\"end\":30", "\"end\":19");
    let odd_probe = probe.replace("\"end\":30", "\"end\":30,\"since\":31");
    let lost_probe = probe.replace("\"door\":0", "\"door\":7");
    let guest = r#"{"e":"guest","t":1,"os":"mswindows","volumes":4294967295}"#;
    let invoke = r#"{"e":"invoke","t":10,"c":1,"n":1,"op":{"k":"transfer","dep":[2,0],"legs":[[1,-5],[2,5]],"crc":7}}"#;
    let ok = r#"{"e":"ok","t":11,"c":1,"n":1,"ver":[1,1]}"#;
    let call = r#"{"e":"mark","t":12,"mark":"freeze_call"}"#;
    let many_writers = setup.replace("\"writers\":2", "\"writers\":4000000000");
    let stranger = invoke.replace("\"c\":1", "\"c\":4");
    let nobody = invoke.replace("\"c\":1", "\"c\":0");
    let gap = invoke.replace("\"n\":1", "\"n\":2");
    let unbalanced = invoke.replace("[2,5]", "[2,9223372036854775807]");
    let foreign = invoke.replace("[2,5]", "[5,5]");
    let early = ok.replace("\"t\":11", "\"t\":9");
    let snap = r#"{"e":"mark","t":12,"mark":"snap_end"}"#;
    let early_mark = r#"{"e":"mark","t":11,"mark":"freeze_ok"}"#;
    let unknown = r#"{"e":"unknown","t":11,"c":1,"n":1,"error":"2013"}"#;
    let next = r#"{"e":"invoke","t":20,"c":1,"n":2,"op":{"k":"transfer","dep":[2,0],"legs":[[1,-5],[2,5]],"crc":7}}"#;
    let follow = r#"{"e":"invoke","t":20,"c":1,"n":1,"op":{"k":"follow","table":"zz","of":[1,1],"crc":7}}"#;
    let end = r#"{"e":"end","t":99}"#;
    let beat = r#"{"e":"heartbeat","t":20,"end":30,"disk":"vda","n":1}"#;
    let far_beat = beat.replace("\"n\":1", "\"n\":4000000000");
    let no_beat = beat.replace("\"n\":1", "\"n\":0");
    let next_beat = beat.replace("\"n\":1", "\"n\":2");
    let backwards = beat.replace("\"end\":30", "\"end\":19");
    let endless = beat.replace("\"t\":20,\"end\":30", "\"t\":18446744073709551615");
    let step = r#"{"e":"schema_change","t":20,"n":1}"#;
    let early_step = r#"{"e":"schema_change","t":19,"n":2}"#;
    let far_step = r#"{"e":"schema_change","t":20,"n":3}"#;
    let bulk = r#"{"e":"bulk","t":20,"end":21,"n":1,"rows":18446744073709551615}"#;
    let far_bulk = bulk.replace("\"n\":1", "\"n\":3");
    let cycle = r#"{"e":"cycle","t":15,"n":2}"#;
    let first_cycle = cycle.replace("\"n\":2", "\"n\":1");
    let far_cycle = cycle.replace("\"n\":2", "\"n\":3");
    let early_cycle = cycle.replace("\"t\":15", "\"t\":11");
    let third_cycle = r#"{"e":"cycle","t":14,"n":3}"#;
    let written = r#"{"e":"block_stats","t":20,"disk":"vda","writes":1,"bytes":1}"#;
    let early_written = written.replace("\"t\":20", "\"t\":19");
    let cases: &[(&[&str], u64, &str)] = &[
        (&[invoke], 2, "the first record must be `setup`"),
        (&[setup, setup], 3, "second `setup`"),
        (&[setup, guest, guest], 4, "second `guest`"),
        (&[&many_writers], 2, "4000000000 writers"),
        (&[&no_door], 2, "0 doors"),
        (&[&far_door], 2, "has no door"),
        (&[&twice], 2, "`nt` is named twice"),
        (&[setup, row], 3, "transfer 1 of client 1, which is not acknowledged"),
        (&[setup, invoke, ok, &others_row], 5, "which client 3 writes"),
        (&[setup, &others_transfer], 3, "client 3 sends a transfer"),
        (&[setup, &early_probe], 3, "the probe ends at 19"),
        (&[setup, &odd_probe], 3, "the probe ends at 30"),
        (&[setup, &lost_probe], 3, "the door 7"),
        (&[setup, ok], 3, "no operation in flight"),
        (&[setup, invoke, invoke], 4, "two operations in flight"),
        (&[setup, &stranger], 3, "client 4"),
        (&[setup, &nobody], 3, "client 0"),
        (&[setup, &gap], 3, "1 is its next"),
        (&[setup, &unbalanced], 3, "sum to 0"),
        (&[setup, &foreign], 3, "account 5"),
        (&[setup, invoke, &early], 4, "back in time"),
        (&[setup, snap], 3, "SnapEnd cannot be the first"),
        (&[setup, call, call], 4, "cannot come after FreezeCall"),
        (&[setup, call, early_mark], 4, "earlier than"),
        (&[setup, invoke, unknown, next], 5, "must be `resolved` first"),
        (&[setup, invoke, ok, follow], 5, "`zz` is not among"),
        (&[setup, end, call], 4, "after `end`"),
        (&[setup, &far_beat], 3, "1 is the next"),
        (&[setup, &no_beat], 3, "1 is the next"),
        (&[setup, beat, &next_beat], 4, "back in time"),
        (&[setup, &backwards], 3, "before it is sent"),
        (&[setup, &endless], 3, "beyond any clock"),
        (&[setup, step, early_step], 4, "back in time"),
        (&[setup, step, far_step], 4, "2 is the next"),
        (&[setup, bulk, &far_bulk], 4, "2 is the next"),
        (&[setup, &first_cycle], 3, "cycle 1 after cycle 1"),
        (&[setup, &far_cycle], 3, "cycle 3 after cycle 1"),
        (&[setup, cycle, cycle], 4, "cycle 2 after cycle 2"),
        (&[setup, call, &early_cycle], 4, "before the one before it ends"),
        (&[setup, cycle, third_cycle], 4, "before the one before it ends"),
        (&[setup, cycle, call], 4, "earlier than its cycle"),
        (&[setup, written, &early_written], 4, "back in time"),
        (&[setup, "{\"e\":\"nonsense\"}"], 3, "nonsense"),
        (&[setup, "\u{7f}not json"], 3, ""),
    ];
    for (lines, line, reason) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut text = "{\"schema\":1,\"kind\":\"history\"}\n".to_owned();
        for line in *lines {
            text.push_str(line);
            text.push('\n');
        }
        fs::write(dir.path().join(history::FILE), text).unwrap();
        let error = read(dir.path()).unwrap_err();
        assert_eq!(Judgement::unreadable(&error).grade, Grade::Unknown);
        let error = error.to_string();
        assert!(error.contains(&format!("{}:{line}: ", history::FILE)), "{error} should name line {line}");
        assert!(error.contains(reason), "{error} should say {reason}");
    }
}

#[test]
fn a_record_that_an_observation_has_once_is_refused_the_second_time() {
    let records = [
        r#"{"o":"heartbeats","disk":"vda","count":1}"#,
        r#"{"o":"ddl_tables","tables":[]}"#,
        r#"{"o":"bulk","n":1,"rows":1,"torn":0}"#,
        r#"{"o":"gtid","of":"live","gtid":"0-1-1"}"#,
        r#"{"o":"table","of":"rolled_forward","table":"ledger","rows":1}"#,
        r#"{"o":"roll_forward","applied":true,"detail":""}"#,
        r#"{"o":"position","file":"b","pos":1}"#,
        r#"{"o":"binlog_end","file":"b","size":1,"in_use":true}"#,
        r#"{"o":"table_files","files":1}"#,
        r#"{"o":"probe_rows","rows":[]}"#,
        r#"{"o":"memory_rows","rows":0}"#,
    ];
    for record in records {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &World::new(&Shape { load_ms: 20, ..Shape::new(1) }));
        let header = "{\"schema\":1,\"kind\":\"observation\"}";
        fs::write(dir.path().join(observation::FILE), format!("{header}\n{record}\n{record}\n")).unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("{}:3: a second `", observation::FILE)), "{record}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_pass(seed in any::<u64>(), cut in any::<u16>(), junk in proptest::collection::vec(any::<u8>(), 1..80), second in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &World::new(&Shape { load_ms: 60, ..Shape::new(seed) }));
        let path = dir.path().join(if second { observation::FILE } else { history::FILE });
        let mut bytes = fs::read(&path).unwrap();
        let at = usize::from(cut) % bytes.len();
        if cut % 2 == 0 {
            bytes.truncate(at);
        } else {
            bytes.splice(at.., junk);
        }
        fs::write(&path, bytes).unwrap();
        if let Ok(case) = read(dir.path()) {
            prop_assert_eq!(judge(&case).grade, Grade::Unknown);
        }
    }

    #[test]
    fn a_history_cut_at_a_line_never_passes(seed in any::<u64>(), keep in any::<u16>()) {
        let mut world = World::new(&Shape { load_ms: 60, ..Shape::new(seed) });
        world.history.truncate(usize::from(keep) % world.history.len());
        if let Ok(case) = world.case() {
            prop_assert_eq!(judge(&case).grade, Grade::Unknown);
        }
    }

    #[test]
    fn an_observation_cut_at_a_line_never_passes(seed in any::<u64>(), keep in any::<u16>()) {
        let mut world = World::new(&Shape { load_ms: 60, ..Shape::new(seed) });
        world.image.truncate(usize::from(keep) % world.image.len());
        prop_assert_eq!(world.judge().grade, Grade::Unknown);
    }
}

/// What the quick reader makes of a line is what serde makes of it.
fn agree<T: jsonl::LogRecord + PartialEq + std::fmt::Debug>(line: &[u8]) -> bool {
    let quick = T::quick(line);
    if let Some(record) = &quick {
        assert_eq!(serde_json::from_slice::<T>(line).ok().as_ref(), Some(record));
    }
    quick.is_some()
}

fn line(record: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(record).unwrap();
    line.push(b'\n');
    line
}

#[test]
fn the_records_of_which_there_are_millions_are_read_quickly() {
    let world = World::new(&Shape::new(1));
    for entry in &world.history {
        let quick = agree::<Entry>(&line(entry));
        assert_eq!(quick, matches!(entry, Entry::Invoke { .. } | Entry::Ok { .. }), "{entry:?}");
    }
    for record in &world.image {
        let quick = agree::<Record>(&line(record));
        let many =
            matches!(record, Record::Leg { .. } | Record::Follow { .. } | Record::BinlogTransfer { .. });
        assert_eq!(quick, many, "{record:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_quick_reader_and_serde_agree(seed in any::<u64>(), changes in 1u64..4) {
        const BYTES: &[u8] = b"0123456789-+.eE\"\\,:[]{} \n\0\x7f\xe9tcn";
        let world = World::new(&Shape { load_ms: 20, ..Shape::new(seed) });
        let random = &mut Random(seed);
        let mut lines: Vec<Vec<u8>> = world.history.iter().map(line).collect();
        lines.extend(world.image.iter().map(line));
        for mut line in lines {
            for _ in 0..changes {
                let at = random.below(line.len() as u64) as usize;
                let byte = BYTES[random.below(BYTES.len() as u64) as usize];
                match random.below(4) {
                    0 => line[at] = byte,
                    1 => line.insert(at, byte),
                    2 if line.len() > 1 => drop(line.remove(at)),
                    _ => {
                        let end = at + random.below((line.len() - at) as u64) as usize;
                        let copy = line[at..end].to_vec();
                        line.splice(end..end, copy);
                    }
                }
            }
            agree::<Entry>(&line);
            agree::<Record>(&line);
        }
    }
}
