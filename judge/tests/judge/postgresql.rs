//! The judge against trials of PostgreSQL, which has no lock that keeps commits out: what is planted in
//! the others, where it can be, and what only PostgreSQL's own evidence shows.

use std::path::Path;

use Grade::{ApplicationConsistent, CrashConsistent, Inconsistent, Unknown, Unusable};
use contract::finding::Status;
use contract::grade::Grade;
use contract::history::{Entry, Holds, Lsn, Nanos, ProbeAnswer, ProbeKind, Quiescence, Round};
use contract::observation::{Record, position_file};
use contract::property::Property;

use crate::evidence::{WEAKENED, no_property_holds_without_what_it_needs};
use crate::mutants::{
    BROKEN_TRIALS, LEGAL, LIVE_LEGAL, LIVE_MUTANTS, MUTANTS, Mutant, Mutation, MutationTable, NOTHING,
    answer, answer_where, check, drop_probes, drop_records, insert, live, lose_last_before_snapshot, probes,
    set_directory, set_server, set_shut_down, setup, stop_server, table_error,
};
use crate::world::{Shape, World};

/// What cannot be planted in a trial of PostgreSQL, and why.
const IMPOSSIBLE: &[(&str, &[&str])] = &[
    (
        "a transaction protects every table: there are none of MyISAM or Aria, and no bulk writer",
        &[
            "MyISAM row acked in the window lost",
            "MyISAM row without its transfer",
            "MyISAM row twice",
            "acked MyISAM row lost",
            "MyISAM table open",
            "Aria table open",
            "another schema's MyISAM table open",
            "table check warns",
            "MyISAM table crashed",
            "MyISAM table unreadable",
            "MyISAM table of the probes unreadable",
            "MyISAM reports corruption",
            "payload of a MyISAM row flipped",
            "row inside the window",
            "row sent under the freeze, there",
            "row that was never sent",
            "row of a client that writes another table",
            "row never answered, there",
            "row never answered, not there",
            "row acked after the thaw, not there",
            "acked MyISAM row of the second schema lost",
            "MyISAM row of the second schema without its transfer",
            "MyISAM row of the second schema in the window",
            "table of the second schema warns",
            "table of the second schema crashed",
            "rows of the second schema went in",
            "rows of the load's schema went in",
            "rows waited for no lock",
            "rows refused beside a lock, and by none",
            "the server went away for rows only",
            "bulk statement half there",
            "bulk statement half there (N1)",
            "acked bulk statement lost",
            "bulk row damaged",
            "bulk statement from after the snapshot",
            "bulk statement that was never sent",
            "bulk table crashed",
            "bulk statement with too many rows",
            "bulk statement in flight torn",
            "bulk statement acked in the window lost",
            "bulk statement sent under the freeze, there",
            "bulk statement inside the window",
            "live: acked bulk statement lost",
            "live: bulk statement in flight torn",
            "live: bulk statement from after the snapshot",
            "live: bulk statement in flight, not there",
            "live: bulk statement killed, in part there",
            "bulk statement killed, in part there",
            "bulk statement never answered, there",
            "bulk statement never answered, not there",
            "a server that is read-only beside its lock",
            "the server was stopped cleanly, and one probe shows nothing",
            "table header not read",
            "table header unreadable",
            "table not checked",
            "no probe of rows",
            "no probe of the second schema's rows",
            "a disk not readable",
            "a table file not readable",
            "another's table file not read",
            "a directory of tables that cannot be listed",
            "one table file read twice in another's place",
            "no row of one table was acknowledged",
            "a table of the probes that cannot be read",
            "a table of the probes that cannot be read (F)",
            "a follower that cannot be read",
            "the bulk table that cannot be read",
            "roll-forward compared with a follower that lost its rows",
            "a replay compared without the bulk rows",
        ],
    ),
    (
        "it has no binary log, and no GTIDs",
        &[
            "binlog event missing",
            "one binlog event too many",
            "binlog event twice",
            "position one event early",
            "position one event late",
            "position in an older file",
            "recorded GTID behind",
            "recorded GTID ahead",
            "restored server without GTIDs",
            "roll-forward ends at another GTID",
            "binary logs on no disk of the snapshot",
            "binary logs mounted for the server alone",
            "the server was hidden, its binary log open",
            "no hook recorded a position",
            "recorded position not readable",
            "server without a binary log",
            "GTIDs broken into lines",
            "binary log not readable",
            "roll-forward compared without GTIDs",
            "position held against no GTIDs",
            "where the binary logs are is not known",
            "roll-forward from a position that is not known",
            "roll-forward compared with empty GTIDs",
            "a lock, and the log of a server that was stopped",
            "a position without its GTIDs",
        ],
    ),
    (
        "no lock of it keeps commits out: they get no answer, and nothing says that they wait",
        &[
            "only the file system frozen",
            "only the MEMORY table locked",
            "one door was cut off by a firewall",
            "the server did not answer",
            "the lock came late",
            "the lock came late for one door",
            "the lock ended before the thaw was requested",
            "the lock was gone for later commits",
            "probes refused by a time limit, never seen to wait",
            "no probe before the thaw",
            "no probe before the thaw through one door",
            "probes of the thaw sent before the snapshot",
            "one COMMIT let go while others wait on",
        ],
    ),
    (
        "it keeps no undo log, and what is prepared stands in a view and in no log",
        &[
            "where the undo log is is not known",
            "recovery log unreadable",
            "prepared transactions counted in a log without messages of the engine",
        ],
    ),
    ("its table in memory is UNLOGGED", &["memory rows not counted"]),
];

/// Whether it can be planted in a trial of PostgreSQL.
fn is_possible(name: &str) -> bool {
    !IMPOSSIBLE.iter().any(|(_, names)| names.contains(&name))
}

#[test]
fn what_is_impossible_is_planted_elsewhere() {
    let mut known: Vec<&str> = MUTANTS.iter().chain(LIVE_MUTANTS).map(|it| it.0).collect();
    known.extend(LEGAL.iter().chain(LIVE_LEGAL).map(|it| it.0));
    known.extend(BROKEN_TRIALS.iter().map(|it| it.0));
    known.extend(WEAKENED.iter().map(|it| it.0));
    let mut all: Vec<&str> = IMPOSSIBLE.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let unknown: Vec<_> = all.iter().filter(|name| !known.contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

/// What only a trial of PostgreSQL can have.
const OWN: &[Mutant] = &[
    ("no backup mode", Property::LockProbe, CrashConsistent, |world| {
        modes(world).clear();
        drop_position(world);
    }),
    ("the session ended early", Property::LockProbe, CrashConsistent, |world| modes(world).clear()),
    ("the session ended early (Q4)", Property::LockIdentity, CrashConsistent, |world| modes(world).clear()),
    ("the session ended early (B2)", Property::RecordedPosition, CrashConsistent, |world| {
        modes(world).clear();
    }),
    ("backup mode ended inside the window", Property::LockProbe, CrashConsistent, |world| {
        modes(world)[0][1] = lsns(world)[2] - 1;
    }),
    ("backup mode ended inside the window (Q4)", Property::LockIdentity, CrashConsistent, |world| {
        modes(world)[0][1] = lsns(world)[2] - 1;
    }),
    ("backup mode had ended when the freeze returned", Property::LockProbe, CrashConsistent, |world| {
        let mode = &mut modes(world)[0];
        mode[1] = mode[0] + 1;
    }),
    ("backup mode began when the freeze had returned", Property::LockProbe, CrashConsistent, |world| {
        drop_position(world);
        let frozen = lsns(world)[1];
        let mode = &mut modes(world)[0];
        *mode = [frozen + 1, mode[1] + 8];
    }),
    ("backup mode of another backup, from before", Property::LockProbe, CrashConsistent, |world| {
        drop_position(world);
        modes(world)[0][0] = lsns(world)[0] - 1;
    }),
    (
        "backup mode of another backup, whose position was recorded",
        Property::RecordedPosition,
        CrashConsistent,
        |world| {
            let start = lsns(world)[0] - 1;
            modes(world)[0][0] = start;
            position(world, |recorded, _, _| *recorded = start);
        },
    ),
    ("one's own ended early, another's lasted", Property::LockProbe, CrashConsistent, |world| {
        let [called, _, thaw] = lsns(world);
        let modes = modes(world);
        modes.push([called - 64, thaw + 8]);
        modes[0][1] = thaw - 1;
    }),
    ("the write-ahead log went back", Property::LockProbe, CrashConsistent, |world| {
        let before = lsns(world)[0] - 8;
        *wal_ends(world).nth(2).expect("before the thaw").2 = before;
    }),
    ("the hook only flushed the log", Property::LockProbe, CrashConsistent, |world| {
        modes(world).clear();
        only_flushed(world);
    }),
    // The recorded position.
    ("the hook only flushed the log (B2)", Property::RecordedPosition, CrashConsistent, |world| {
        modes(world).clear();
        only_flushed(world);
    }),
    (
        "the hook only flushed the log in another's backup mode",
        Property::RecordedPosition,
        CrashConsistent,
        only_flushed,
    ),
    ("a position of no backup mode", Property::RecordedPosition, CrashConsistent, |world| {
        position(world, |start, _, _| *start += 8);
    }),
    ("a position of another's backup mode", Property::RecordedPosition, CrashConsistent, |world| {
        let [called, _, thaw] = lsns(world);
        modes(world).push([called - 64, thaw + 64]);
        position(world, |start, _, _| *start = called - 64);
    }),
    ("a position beyond the snapshot's log", Property::RecordedPosition, CrashConsistent, |world| {
        position(world, |_, lsn, _| *lsn += 1);
    }),
    ("a position before its own backup mode", Property::RecordedPosition, CrashConsistent, |world| {
        position(world, |start, lsn, _| *lsn = *start - 1);
    }),
    ("a position on another timeline", Property::RecordedPosition, CrashConsistent, |world| {
        position(world, |_, _, timeline| *timeline = 2);
    }),
    ("a control file on another timeline", Property::RecordedPosition, CrashConsistent, |world| {
        for record in &mut world.image {
            if let Record::Checkpoint { timeline, .. } = record {
                *timeline = 2;
            }
        }
    }),
    ("a restored server on another timeline", Property::RecordedPosition, CrashConsistent, |world| {
        for record in &mut world.image {
            if let Record::WalEnd { timeline, .. } = record {
                *timeline = 2;
            }
        }
    }),
    ("a snapshot from before the checkpoint", Property::RecordedPosition, CrashConsistent, |world| {
        for record in &mut world.image {
            if let Record::Checkpoint { redo, .. } = record {
                *redo -= 1;
            }
        }
    }),
    // The probes.
    ("one COMMIT executed in the window", Property::LockProbe, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Done, |it| it.kind == ProbeKind::Commit && it.door == 1);
    }),
    ("COMMITs executed just before the thaw", Property::LockProbe, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Done, |it| it.round == Round::Thaw);
    }),
    ("COMMITs executed just before the thaw (Q4)", Property::LockIdentity, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Done, |it| it.round == Round::Thaw);
    }),
    ("a COMMIT that waited for a lock, and got it", Property::LockProbe, CrashConsistent, |world| {
        let late = world.times.s1 + 1;
        for probe in probes(world).filter(|it| it.kind == ProbeKind::Commit && it.door == 0) {
            (probe.answer, probe.since) = (ProbeAnswer::Released, Some(probe.t));
            probe.end = late.max(probe.t);
        }
    }),
    ("a server that is read-only", Property::LockProbe, CrashConsistent, |world| {
        answer(world, ProbeAnswer::Refused, ProbeAnswer::Refused);
        probes(world).for_each(|probe| probe.code = Some("25006".into()));
    }),
    ("a server that was hidden, and ran", Property::LockProbe, CrashConsistent, |world| {
        stop_server(world);
        set_shut_down(world, false);
    }),
    ("an asynchronous commit lost", Property::Durability, Inconsistent, lose_last_before_snapshot),
    // What the restored disks and server show.
    ("write-ahead log on no disk of the snapshot", Property::Starts, Unusable, |world| {
        set_directory(world, Holds::Redo, |_, on, _| *on = None);
    }),
    ("write-ahead log mounted for the server alone", Property::DiskSilence, CrashConsistent, |world| {
        set_directory(world, Holds::Redo, |_, _, reached| *reached = false);
    }),
    ("an index that amcheck finds corrupt", Property::TableCheck, Unusable, |world| {
        check(world, "tx", false, "item order invariant violated for index \"tx_crc\"");
    }),
    ("a follower that cannot be read", Property::Checksums, Unusable, |world| {
        drop_records(world, |record| matches!(record, Record::Follow { table, .. } if table == "tx"));
        insert(world, table_error("tx", "XX001 invalid page in block 3 of relation base/16384/16401"));
    }),
    ("the server's log reports corruption", Property::TableCheck, Unusable, |world| {
        let line = "WARNING:  page verification failed, calculated checksum 5 but expected 7";
        set_server(world, |server| server.corruption.push(line.into()));
    }),
    ("the restored server's log reports no valid checkpoint", Property::TableCheck, Unusable, |world| {
        let line = "PANIC:  could not locate a valid checkpoint record";
        set_server(world, |server| server.corruption.push(line.into()));
    }),
];

/// What PostgreSQL's evidence may look like in a right trial.
const OWN_LEGAL: &[(&str, Mutation)] = &[
    ("no hook recorded a position of the log", drop_position),
    ("recorded position of the log not readable", |world| {
        drop_position(world);
        let path = position_file(Path::new("/var/lib/postgresql/15/main")).display().to_string();
        insert(world, Record::Unreadable { path, detail: "no number".into() });
    }),
    ("nothing was written to the log all the time", |world| {
        let start = modes(world)[0][0];
        wal_ends(world).for_each(|(_, _, lsn)| *lsn = start);
        position(world, |_, lsn, _| *lsn = start);
        *read_from(world) = start;
    }),
    ("an end at the last position before the thaw", |world| {
        modes(world)[0][1] = lsns(world)[2];
    }),
    ("another backup's mode from long before until long after", |world| {
        let [called, _, thaw] = lsns(world);
        modes(world).insert(0, [called - 64, thaw + 64]);
    }),
    ("an older backup mode that had ended", |world| {
        let called = lsns(world)[0];
        *read_from(world) = called - 1_000;
        modes(world).insert(0, [called - 900, called - 500]);
    }),
    ("another position was asked long before the freeze", |world| {
        let [called, ..] = lsns(world);
        let t = world.times.f0 - 90;
        let at = world.history.iter().position(|it| matches!(it, Entry::WalEnd { .. })).expect("positions");
        world.history.insert(at, Entry::WalEnd { t: t - 9_000_000, end: t - 8_000_000, lsn: called - 64 });
    }),
    ("a COMMIT that the server says waits", |world| {
        for probe in probes(world).filter(|it| it.kind == ProbeKind::Commit && it.door == 0) {
            (probe.answer, probe.since) = (ProbeAnswer::Locked, Some(probe.t + 1));
        }
    }),
    ("an UNLOGGED table that cannot be written to", |world| {
        answer_where(world, ProbeAnswer::Hung, |it| it.kind == ProbeKind::Memory);
    }),
    ("no COMMIT was sent after the snapshot", |world| drop_probes(world, |it| it.round == Round::Thaw)),
];

/// What was taken away or moved: the property that must not hold any more, and must not be broken.
const OWN_WEAKENED: &[(&str, Property, Mutation)] = &[
    ("no position from before the freeze", Property::LockProbe, |world| drop_wal_end(world, 0)),
    ("no position when the freeze had returned", Property::LockProbe, |world| drop_wal_end(world, 1)),
    ("no position before the thaw", Property::LockProbe, |world| drop_wal_end(world, 2)),
    ("no position before the thaw (Q4)", Property::LockIdentity, |world| drop_wal_end(world, 2)),
    ("no position before the thaw (B2)", Property::RecordedPosition, |world| drop_wal_end(world, 2)),
    ("a position that came only when the freeze was called", Property::LockProbe, |world| {
        let f0 = world.times.f0;
        *wal_ends(world).next().expect("a position").1 = f0 + 1;
    }),
    ("a position that was asked before the freeze returned", Property::LockProbe, |world| {
        let f1 = world.times.f1;
        *wal_ends(world).nth(1).expect("a position").0 = f1 - 1;
    }),
    ("a position that came only during the snapshot", Property::LockProbe, |world| {
        let s0 = world.times.s0;
        *wal_ends(world).nth(1).expect("a position").1 = s0 + 1;
    }),
    ("a last position that was asked during the snapshot", Property::LockProbe, |world| {
        let s1 = world.times.s1;
        *wal_ends(world).nth(2).expect("a position").0 = s1 - 1;
    }),
    ("a last position that came only when the thaw was called", Property::LockProbe, |world| {
        let t0 = world.times.t0;
        *wal_ends(world).nth(2).expect("a position").1 = t0 + 1;
    }),
    ("a last position long before the thaw", Property::LockIdentity, |world| {
        let by = 2_000_000_000;
        thaw_later(world, by);
        probes(world).for_each(|probe| probe.end += by);
    }),
    ("COMMITs last seen long before the thaw", Property::LockIdentity, |world| {
        let by = 2_000_000_000;
        thaw_later(world, by);
        *wal_ends(world).nth(2).expect("a position").1 += by;
    }),
    ("the log was not read", Property::LockProbe, |world| {
        world.history.retain(|entry| !matches!(entry, Entry::BackupModes { .. }));
    }),
    ("the log was not read (Q4)", Property::LockIdentity, |world| {
        world.history.retain(|entry| !matches!(entry, Entry::BackupModes { .. }));
    }),
    ("the log was read from after the freeze was called", Property::LockProbe, |world| {
        *read_from(world) += 1;
    }),
    ("the log was read up to before the thaw only", Property::LockProbe, |world| {
        let thaw = lsns(world)[2];
        modes(world).clear();
        for entry in &mut world.history {
            if let Entry::BackupModes { to, .. } = entry {
                *to = thaw - 1;
            }
        }
    }),
    ("the log was read before the thaw had an answer", Property::LockProbe, |world| {
        let t1 = world.times.t1;
        modes(world).clear();
        for entry in &mut world.history {
            if let Entry::BackupModes { t, .. } = entry {
                *t = t1 - 1;
            }
        }
    }),
    ("COMMITs given up while the snapshot was taken", Property::LockProbe, |world| {
        let s1 = world.times.s1;
        probes(world).filter(|it| it.round == Round::Snapshot).for_each(|probe| probe.end = s1 - 1);
    }),
    ("a server that was stopped cleanly, by its disks alone", Property::LockProbe, |world| {
        set_shut_down(world, true);
    }),
    ("prepared transactions that were not counted", Property::NoPreparedTransactions, |world| {
        for record in &mut world.image {
            if let Record::Server { prepared, .. } = record {
                *prepared = None;
            }
        }
    }),
    ("a follower's check that is missing", Property::TableCheck, |world| {
        drop_records(world, |record| matches!(record, Record::CheckTable { table, .. } if table == "tx"));
    }),
    ("a roll-forward from a position that is not known", Property::RollForward, drop_position),
];

#[test]
fn the_mutation_table() {
    let mut table = MutationTable::begin();
    let possible = |it: &&Mutant| is_possible(it.0);
    let shape = Shape::postgresql;
    let running = |seed| live(Shape::postgresql(seed));
    MUTANTS.iter().filter(possible).chain(OWN).for_each(|mutant| table.plant(mutant, shape));
    LIVE_MUTANTS.iter().filter(possible).for_each(|mutant| table.plant(mutant, running));
    let legal = LEGAL.iter().filter(|it| is_possible(it.0)).chain(OWN_LEGAL);
    [NOTHING].iter().chain(legal).for_each(|legal| table.allow(legal, shape));
    LIVE_LEGAL.iter().filter(|it| is_possible(it.0)).for_each(|legal| table.allow_live(legal, running));
    table.end();
    for (why, names) in IMPOSSIBLE {
        println!("not planted, {why}: {}", names.join("; "));
    }
}

#[test]
fn every_property_that_postgresql_has_is_examined_and_has_a_mutant() {
    let absent = [Property::NonTransactionalDurability, Property::TablesClosed, Property::BinlogAgreement];
    for (property, status) in World::new(&Shape::postgresql(1)).judge().properties {
        let planted = MUTANTS.iter().filter(|it| is_possible(it.0)).chain(OWN).any(|it| it.1 == property);
        match status {
            Status::Holds => assert!(planted && !absent.contains(&property), "{property}"),
            Status::NotApplicable(why) => {
                assert!(absent.contains(&property) && !planted, "{property}: {why}");
            }
            Status::Broken => panic!("{property} is broken in a right trial"),
        }
        let is_absent = property.on_postgresql().starts_with("Not applicable: ");
        assert_eq!(is_absent, absent.contains(&property), "{property}");
    }
}

#[test]
fn weakened_evidence_proves_nothing() {
    let possible = WEAKENED.iter().filter(|it| is_possible(it.0));
    for (name, property, weaken) in possible {
        weakened(name, *property, *weaken, false);
    }
    for (name, property, weaken) in OWN_WEAKENED {
        weakened(name, *property, *weaken, true);
    }
}

/// The property does not hold, and without what the top grade rests on, there is none.
fn weakened(name: &str, property: Property, weaken: Mutation, quietly: bool) {
    for seed in 1..=3 {
        let mut world = World::new(&Shape::postgresql(seed));
        assert_eq!(world.judge().properties[&property], Status::Holds, "{name}");
        weaken(&mut world);
        let judgement = world.judge();
        let status = &judgement.properties[&property];
        assert_ne!(*status, Status::Holds, "{name}, seed {seed}");
        let owed = property.needed_for().is_some();
        assert!(!owed || judgement.grade != ApplicationConsistent, "{name}, seed {seed}");
        if quietly {
            assert!(matches!(status, Status::NotApplicable(_)), "{name}, seed {seed}: {}", judgement.reason);
            assert!(judgement.findings.is_empty(), "{name}, seed {seed}: {}", judgement.reason);
            assert!(!owed || judgement.grade == Unknown, "{name}, seed {seed}: {}", judgement.reason);
        }
    }
}

#[test]
fn no_property_holds_without_any_kind_of_record_that_it_needs() {
    no_property_holds_without_what_it_needs(Shape::postgresql);
}

#[test]
fn a_broken_trial_is_never_a_pass() {
    for (name, grade, reason, mutate) in BROKEN_TRIALS.iter().filter(|it| is_possible(it.0)) {
        let mut world = World::new(&Shape::postgresql(1));
        mutate(&mut world);
        let judgement = world.judge();
        assert_eq!(judgement.grade, *grade, "{name}: {}", judgement.reason);
        assert!(judgement.reason.contains(reason), "{name}: {} should say {reason}", judgement.reason);
    }
}

#[test]
fn reasons_read_well() {
    let say = |mutate: Mutation| {
        let mut world = World::new(&Shape { losing: 0, ..Shape::postgresql(1) });
        mutate(&mut world);
        world.judge().reason
    };
    assert!(
        say(|_| {}).ends_with("2 COMMITs waited for the frozen file system in backup mode until the thaw")
    );
    let hook_less: Mutation = |world| {
        modes(world).clear();
        drop_position(world);
    };
    assert_eq!(
        say(hook_less),
        "crash-consistent: only the file system was frozen: no session held backup mode until the thaw (Q2)"
    );
    assert_eq!(
        say(|world| modes(world)[0][1] = lsns(world)[2] - 1).split("; ").next(),
        Some("crash-consistent: backup mode was not held until the thaw (Q4)")
    );
    assert_eq!(
        say(|world| position(world, |_, lsn, _| *lsn += 7)),
        "crash-consistent: the snapshot's write-ahead log ends 7 bytes before the recorded position (B2)"
    );
    assert_eq!(
        say(|world| answer_where(world, ProbeAnswer::Done, |it| it.kind == ProbeKind::Commit)),
        "crash-consistent: nothing kept commits out: they were executed inside the window (Q2)"
    );
}

/// No word of a judgement is about another kind of server.
#[test]
fn nothing_is_said_of_locks_and_binary_logs() {
    let mut said = 0;
    let all = MUTANTS.iter().filter(|it| is_possible(it.0)).chain(OWN);
    // These plant a text of their own.
    let own_words = |it: &&Mutant| !it.0.starts_with("InnoDB") && it.0 != "thaw reports a lost lock";
    for (name, _, _, mutate) in all.filter(own_words) {
        let mut world = World::new(&Shape::postgresql(1));
        mutate(&mut world);
        let judgement = world.judge();
        let mut texts = vec![judgement.reason];
        texts.extend(judgement.power.lock);
        for finding in judgement.findings {
            texts.push(finding.summary);
            texts.extend(finding.evidence);
        }
        // Why B1 is not examined names what there is none of.
        let unexamined = judgement.power.not_examined.into_iter();
        texts.extend(unexamined.filter(|(it, _)| *it != Property::BinlogAgreement).map(|(_, why)| why));
        // A probe may well have met some lock.
        for text in texts.iter().map(|text| text.replace("a lock", "")) {
            said += 1;
            for word in [" lock", "binary", "MEMORY", "MyISAM", "InnoDB", "GTID"] {
                assert!(!text.contains(word), "{name}: {text}");
            }
        }
    }
    assert!(said > 300, "{said}");
}

/// What no honest writer could have written, and a word of the refusal.
const DISHONEST: &[(&str, Mutation)] = &[
    ("a second `backup_modes`", |world| {
        let read = world.history.iter().find(|it| matches!(it, Entry::BackupModes { .. })).cloned();
        let last = world.history.len() - 1;
        world.history.insert(last, read.expect("backup modes"));
    }),
    ("a backup mode from", |world| modes(world)[0].reverse()),
    ("a backup mode from", |world| modes(world)[0][1] = Lsn::MAX),
    ("was read from", |world| *read_from(world) = Lsn::MAX),
    ("is known before it is asked", |world| {
        let (asked, answered, _) = wal_ends(world).next().expect("a position");
        std::mem::swap(asked, answered);
    }),
    ("more than 256 ends of the write-ahead log", |world| {
        let first = world.history.iter().find(|it| matches!(it, Entry::WalEnd { .. })).cloned();
        let first = first.expect("a position");
        world.history.splice(1..1, std::iter::repeat_n(first, 256));
    }),
    ("`wal_end` of a server that has no backup mode", |world| {
        setup(world).quiescence = Quiescence::Lock;
        setup(world).followers.clear();
        world.history.retain(|it| matches!(it, Entry::Setup(_) | Entry::WalEnd { .. } | Entry::End { .. }));
    }),
    ("`backup_modes` of a server that has no backup mode", |world| {
        setup(world).quiescence = Quiescence::Lock;
        setup(world).followers.clear();
        world
            .history
            .retain(|it| matches!(it, Entry::Setup(_) | Entry::BackupModes { .. } | Entry::End { .. }));
    }),
    ("a binary log or the bulk writer's table", |world| setup(world).binlog = true),
    ("a binary log or the bulk writer's table", |world| {
        setup(world).tables[0].table = "bulk".into();
    }),
    ("is said to be not transactional", |world| setup(world).followers[0].transactional = false),
    ("a record of a binary log", |world| insert(world, Record::BinlogTransfer { c: 1, n: 1 })),
    ("a record of a binary log", |world| {
        insert(world, Record::Position { file: "a".into(), pos: 4, gtid: String::new() });
    }),
    ("a second `wal_position`", |world| {
        insert(world, Record::WalPosition { timeline: 1, start: Some(1), lsn: 2 });
    }),
    ("a second `checkpoint`", |world| {
        insert(world, Record::Checkpoint { redo: 1, timeline: 1, shut_down: false });
    }),
    ("a second `wal_end`", |world| insert(world, Record::WalEnd { timeline: 1, lsn: 1 })),
];

#[test]
fn what_no_honest_writer_could_have_written_is_refused() {
    for (word, change) in DISHONEST {
        let mut world = World::new(&Shape::postgresql(1));
        assert!(world.case().is_ok());
        change(&mut world);
        let refusal = world.case().expect_err(word);
        assert!(refusal.contains(word), "{refusal} should say {word}");
    }
    for record in [
        Record::WalPosition { timeline: 1, start: Some(1), lsn: 2 },
        Record::Checkpoint { redo: 1, timeline: 1, shut_down: false },
        Record::WalEnd { timeline: 1, lsn: 1 },
    ] {
        let mut world = World::new(&Shape::new(1));
        insert(&mut world, record);
        assert!(world.case().expect_err("a lock").contains("a record of a write-ahead log"));
    }
}

/// The evidence of one cycle says nothing about another.
#[test]
fn a_cycle_without_evidence_of_its_own_is_not_proven_by_the_one_before() {
    let another_cycle = LEGAL.iter().find(|it| it.0 == "another cycle before").expect("a legal trial");
    let mut world = World::new(&Shape::postgresql(1));
    another_cycle.1(&mut world);
    assert_eq!(world.judge().grade, ApplicationConsistent);
    let second = world.history.iter().position(|it| matches!(it, Entry::Cycle { .. })).expect("a cycle");
    for own in [
        |it: &Entry| matches!(it, Entry::WalEnd { .. }),
        |it: &Entry| matches!(it, Entry::BackupModes { .. }),
    ] {
        let mut without = world.clone();
        let kept = world.history.iter().enumerate().filter(|(at, it)| *at < second || !own(it));
        without.history = kept.map(|(_, it)| it.clone()).collect();
        assert!(without.history.iter().any(own));
        assert_eq!(without.judge().grade, Unknown);
    }
}

fn modes(world: &mut World) -> &mut Vec<[Lsn; 2]> {
    read(world).1
}

/// From where the log was read.
fn read_from(world: &mut World) -> &mut Lsn {
    read(world).0
}

fn read(world: &mut World) -> (&mut Lsn, &mut Vec<[Lsn; 2]>) {
    let read = world.history.iter_mut().find_map(|entry| match entry {
        Entry::BackupModes { from, ended, .. } => Some((from, ended)),
        _ => None,
    });
    read.expect("a log that was read")
}

/// When each position was asked and answered, and the position.
fn wal_ends(world: &mut World) -> impl Iterator<Item = (&mut Nanos, &mut Nanos, &mut Lsn)> {
    world.history.iter_mut().filter_map(|entry| match entry {
        Entry::WalEnd { t, end, lsn } => Some((t, end, lsn)),
        _ => None,
    })
}

/// The positions before the freeze, when it had returned, and before the thaw.
fn lsns(world: &mut World) -> [Lsn; 3] {
    let lsns: Vec<_> = wal_ends(world).map(|(_, _, lsn)| *lsn).collect();
    lsns.try_into().expect("three positions")
}

fn drop_wal_end(world: &mut World, which: usize) {
    let asked = *wal_ends(world).nth(which).expect("a position").0;
    world.history.retain(|entry| !matches!(entry, Entry::WalEnd { t, .. } if *t == asked));
}

fn position(world: &mut World, change: impl Fn(&mut Lsn, &mut Lsn, &mut u32)) {
    for record in &mut world.image {
        if let Record::WalPosition { timeline, start: Some(start), lsn } = record {
            change(start, lsn, timeline);
        }
    }
}

/// As a hook writes it that was not in backup mode.
fn only_flushed(world: &mut World) {
    for record in &mut world.image {
        if let Record::WalPosition { start, .. } = record {
            *start = None;
        }
    }
}

fn drop_position(world: &mut World) {
    drop_records(world, |record| matches!(record, Record::WalPosition { .. }));
}

/// The thaw, and whatever comes after it, comes so much later.
fn thaw_later(world: &mut World, by: Nanos) {
    let thaw = world.times.t0;
    let later = |t: &mut Nanos| *t += if *t >= thaw { by } else { 0 };
    for entry in &mut world.history {
        match entry {
            Entry::Invoke { t, .. }
            | Entry::Ok { t, .. }
            | Entry::Fail { t, .. }
            | Entry::Unknown { t, .. }
            | Entry::Resolved { t, .. }
            | Entry::Mark { t, .. }
            | Entry::BackupModes { t, .. }
            | Entry::End { t } => later(t),
            Entry::Heartbeat { t, end, .. } | Entry::SchemaChange { t, end, .. } => {
                later(t);
                end.iter_mut().for_each(later);
            }
            _ => {}
        }
    }
}
