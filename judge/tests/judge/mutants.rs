//! One thing wrong at a time: each must be found by the property that is there
//! for it, and lead to the right grade. `cargo xtask test` shows the table.

use std::collections::BTreeMap;
use std::path::Path;

use Grade::{ApplicationConsistent, CrashConsistent, Inconsistent, Refused, Unknown, Unusable};
use contract::finding::Status;
use contract::grade::Grade;
use contract::history::{
    Entry, Holds, Mark, Nanos, Op, Probe, ProbeAnswer, ProbeKind, Round, Schema, Setup, ddl_tables,
};
use contract::observation::{Record, ServerState, position_file};
use contract::property::Property;
use judge::Judgement;

use crate::world::{MarkTimes, Shape, World};

pub(crate) type Mutation = fn(&mut World);

/// A row of the table: the mutant, the property that must be broken, the grade.
pub(crate) type Mutant = (&'static str, Property, Grade, Mutation);

pub(crate) const MUTANTS: &[Mutant] = &[
    ("server does not start", Property::Starts, Unusable, server_down),
    ("file system damaged", Property::Starts, Unusable, fsck_damage),
    ("payload bit flipped", Property::Checksums, Unusable, flip_payload),
    ("stored crc flipped with payload", Property::Checksums, Unusable, flip_both),
    ("amount of a leg changed", Property::Checksums, Unusable, change_amount),
    ("dependency of a leg changed", Property::Checksums, Unusable, change_dep),
    ("payload of a MyISAM row flipped", Property::Checksums, Unusable, flip_row),
    ("ledger unreadable", Property::Checksums, Unusable, ledger_unreadable),
    ("one leg dropped", Property::Atomicity, Inconsistent, drop_leg),
    ("one leg dropped (D*)", Property::QuiescedDurability, Inconsistent, drop_leg),
    ("leg twice", Property::Atomicity, Inconsistent, double_leg),
    ("leg twice (R3)", Property::Conservation, Inconsistent, double_leg),
    ("third leg", Property::Atomicity, Inconsistent, third_leg),
    ("rolled back, yet there", Property::Atomicity, Inconsistent, revive),
    ("balance changed", Property::Conservation, Inconsistent, change_balance),
    ("two balances changed, same sum", Property::Conservation, Inconsistent, shift_balances),
    ("account version changed", Property::Conservation, Inconsistent, change_version),
    ("account missing", Property::Conservation, Inconsistent, drop_account),
    ("account twice", Property::Conservation, Inconsistent, double_account),
    ("leg version repeated", Property::Conservation, Inconsistent, repeat_leg_version),
    ("index row dropped", Property::IndexAgreement, Unusable, drop_index_row),
    ("index row replaced", Property::IndexAgreement, Unusable, replace_index_row),
    ("counter behind", Property::ClientPrefix, Inconsistent, counter_behind),
    ("counter ahead", Property::ClientPrefix, Inconsistent, counter_ahead),
    ("middle transfer lost (R5)", Property::ClientPrefix, Inconsistent, lose_middle),
    ("middle transfer lost (C1)", Property::RealTimeOrder, Inconsistent, lose_middle),
    ("middle transfer lost (C3)", Property::VersionOrder, Inconsistent, lose_middle),
    ("middle transfer lost, rest mended", Property::Durability, Inconsistent, lose_middle_mended),
    ("last acked before the snapshot lost", Property::Durability, Inconsistent, lose_last_before_snapshot),
    ("acked inside the window lost", Property::QuiescedDurability, CrashConsistent, lose_acked_in_window),
    ("sent after the snapshot, there", Property::NoFuture, Inconsistent, from_the_future),
    ("sent after the freeze, there", Property::NoFutureStrict, CrashConsistent, sent_under_freeze),
    ("row sent under the freeze, there", Property::NoFutureStrict, CrashConsistent, row_under_freeze),
    ("transfer of an unknown client", Property::NoFuture, Inconsistent, unknown_client),
    ("transfer that was never sent", Property::NoFuture, Inconsistent, unsent_transfer),
    ("row that was never sent", Property::NoFuture, Inconsistent, unsent_row),
    ("counter of an unknown client", Property::NoFuture, Inconsistent, unknown_counter),
    ("what was read is lost", Property::CausalOrder, Inconsistent, lose_dependency),
    (
        "what was read is lost, never answered",
        Property::CausalOrder,
        Inconsistent,
        lose_unanswered_dependency,
    ),
    ("late cut of one client only", Property::RealTimeOrder, Inconsistent, cut_twice),
    ("versions of two transfers swapped", Property::VersionOrder, Inconsistent, swap_versions),
    ("transfer inside the window", Property::WindowSilence, CrashConsistent, write_in_window),
    ("row inside the window", Property::WindowSilence, CrashConsistent, row_in_window),
    ("both probes executed", Property::LockProbe, CrashConsistent, probes_done),
    ("only the file system frozen", Property::LockProbe, CrashConsistent, probe_hangs),
    ("lock lost inside the window", Property::LockProbe, CrashConsistent, lock_lost),
    ("disk written to in the window", Property::DiskSilence, CrashConsistent, disk_is_loud),
    ("write count goes backwards", Property::DiskSilence, CrashConsistent, count_goes_backwards),
    ("freeze left a volume out", Property::DiskSilence, CrashConsistent, volume_left_out),
    ("freeze reached nothing", Property::DiskSilence, CrashConsistent, nothing_frozen),
    ("thaw reports a lost lock", Property::LockIdentity, CrashConsistent, thaw_fails),
    ("acked MyISAM row lost", Property::NonTransactionalDurability, Inconsistent, lose_row),
    (
        "MyISAM row acked in the window lost",
        Property::NonTransactionalDurability,
        CrashConsistent,
        lose_late_row,
    ),
    ("MyISAM row without its transfer", Property::NonTransactionalDurability, Inconsistent, |world| {
        lose_followed(world, "nt");
    }),
    ("InnoDB row without its transfer", Property::CausalOrder, Inconsistent, |world| {
        lose_followed(world, "second_tx");
    }),
    ("MyISAM row twice", Property::NonTransactionalDurability, Inconsistent, double_row),
    ("MyISAM table open", Property::TablesClosed, CrashConsistent, table_open),
    ("table check warns", Property::TableCheck, CrashConsistent, check_warns),
    ("MyISAM table crashed", Property::TableCheck, Inconsistent, check_crashed),
    ("MyISAM table unreadable", Property::TableCheck, Inconsistent, follower_unreadable),
    ("MyISAM table of the probes unreadable", Property::TableCheck, Inconsistent, probe_table_unreadable),
    ("InnoDB table corrupt", Property::TableCheck, Unusable, ledger_corrupt),
    ("binlog event missing", Property::BinlogAgreement, Inconsistent, drop_logged),
    ("one binlog event too many", Property::BinlogAgreement, Inconsistent, log_one_more),
    ("binlog event twice", Property::BinlogAgreement, Inconsistent, log_twice),
    ("position one event early", Property::RecordedPosition, CrashConsistent, position_early),
    ("position one event late", Property::RecordedPosition, CrashConsistent, position_late),
    ("position in an older file", Property::RecordedPosition, CrashConsistent, position_rotated),
    ("prepared transactions", Property::NoPreparedTransactions, CrashConsistent, prepared),
    ("journal dirty", Property::FilesystemClean, CrashConsistent, journal_dirty),
    ("live guest observed", Property::FreshBoot, Unknown, live_guest),
    ("every row of every table lost", Property::Durability, Inconsistent, lose_everything),
    ("recorded GTID behind", Property::RecordedPosition, CrashConsistent, gtid_behind),
    ("roll-forward not applied", Property::RollForward, Inconsistent, replay_fails),
    ("roll-forward skips a row", Property::RollForward, Inconsistent, replay_skips),
    ("roll-forward leads to other content", Property::RollForward, Inconsistent, replay_differs),
    ("roll-forward loses a table", Property::RollForward, Inconsistent, replay_loses_table),
    ("roll-forward finds one more table", Property::RollForward, Inconsistent, replay_adds_table),
    ("roll-forward ends at another GTID", Property::RollForward, Inconsistent, replay_gtid),
    ("source and roll-forward both empty", Property::RollForward, Inconsistent, both_empty),
    ("synced heartbeat lost", Property::OutsideFiles, Inconsistent, lose_heartbeat),
    ("all heartbeats of a disk lost", Property::OutsideFiles, Inconsistent, lose_heartbeats),
    ("heartbeat from after the freeze", Property::OutsideFiles, CrashConsistent, late_heartbeat),
    ("heartbeat that was never requested", Property::OutsideFiles, Inconsistent, stray_heartbeat),
    ("heartbeat torn", Property::OutsideFiles, CrashConsistent, torn_heartbeat),
    ("one disk stopped earlier", Property::DiskAgreement, Inconsistent, early_disk),
    ("one disk stopped later", Property::DiskAgreement, Inconsistent, late_disk),
    ("acked schema change lost", Property::Durability, Inconsistent, lose_schema_change),
    ("acked schema change lost (D*)", Property::QuiescedDurability, Inconsistent, lose_schema_change),
    ("acked schema change lost (C1)", Property::RealTimeOrder, Inconsistent, lose_schema_change),
    ("schema change from after the snapshot", Property::NoFuture, Inconsistent, late_schema_change),
    ("tables that no schema change leaves", Property::ClientPrefix, Inconsistent, impossible_tables),
    ("bulk statement half there", Property::Atomicity, Inconsistent, half_bulk),
    ("bulk statement half there (N1)", Property::NonTransactionalDurability, Inconsistent, half_bulk),
    ("acked bulk statement lost", Property::NonTransactionalDurability, Inconsistent, lose_bulk),
    ("bulk row damaged", Property::Checksums, Unusable, torn_bulk),
    ("bulk statement from after the snapshot", Property::NoFuture, Inconsistent, late_bulk),
    ("bulk statement that was never sent", Property::NoFuture, Inconsistent, stray_bulk),
    ("bulk table crashed", Property::TableCheck, Inconsistent, bulk_crashed),
    ("recorded GTID ahead", Property::RecordedPosition, CrashConsistent, gtid_ahead),
    ("restored server without GTIDs", Property::RecordedPosition, CrashConsistent, gtid_forgotten),
    ("source lacks an acked transfer", Property::RollForward, Inconsistent, source_lacks),
    ("heartbeat from after the snapshot", Property::OutsideFiles, Inconsistent, future_heartbeat),
    ("heartbeat on a disk that had none", Property::OutsideFiles, Inconsistent, stray_disk),
    ("synced heartbeat lost, another disk unread", Property::OutsideFiles, Inconsistent, lose_and_hide),
    ("schema change acked in the window lost", Property::QuiescedDurability, CrashConsistent, |world| {
        one_more_step(world, world.times.f1, Some(world.times.s0), false);
    }),
    ("schema change sent under the freeze, there", Property::NoFutureStrict, CrashConsistent, |world| {
        one_more_step(world, world.times.f1 + 1, None, true);
    }),
    ("schema change that was never sent", Property::NoFuture, Inconsistent, |world| {
        let held = schema_changes_held(world);
        cut_schema_changes(world, held);
        set_schema_changes(world, held + 1);
    }),
    ("bulk statement with too many rows", Property::Atomicity, Inconsistent, |world| {
        one_more_statement(world, world.times.f1, Some(world.times.t1), 101);
    }),
    ("bulk statement in flight torn", Property::Atomicity, Inconsistent, |world| {
        one_more_statement(world, world.times.f1, Some(world.times.t1), 40);
    }),
    (
        "bulk statement acked in the window lost",
        Property::NonTransactionalDurability,
        CrashConsistent,
        |world| {
            one_more_statement(world, world.times.f1, Some(world.times.s0), 0);
        },
    ),
    ("bulk statement sent under the freeze, there", Property::NoFutureStrict, CrashConsistent, |world| {
        one_more_statement(world, world.times.f1 + 1, None, 100);
    }),
    // What a hook may do to some ways to the server, or to some tables, instead of a lock.
    ("only the MEMORY table locked", Property::LockProbe, CrashConsistent, |world| {
        answer(world, ProbeAnswer::Hung, ProbeAnswer::Locked);
    }),
    ("only the MEMORY table locked, commits executed", Property::LockProbe, CrashConsistent, |world| {
        answer(world, ProbeAnswer::Done, ProbeAnswer::Locked);
    }),
    ("one door was let in", Property::LockProbe, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Done, |probe| probe.kind == ProbeKind::Commit && probe.door == 1);
    }),
    ("one door was cut off by a firewall", Property::LockProbe, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Hung, |probe| probe.kind == ProbeKind::Commit && probe.door == 0);
    }),
    ("the second schema was not locked", Property::LockProbe, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Done, |probe| probe.schema == Schema::Second);
    }),
    ("rows of the second schema went in", Property::LockProbe, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Done, |it| it.kind == ProbeKind::Row && it.schema == Schema::Second);
    }),
    ("rows of the load's schema went in", Property::LockProbe, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Done, |it| it.kind == ProbeKind::Row && it.schema == Schema::Load);
    }),
    ("rows waited for no lock", Property::LockProbe, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Hung, |it| it.kind == ProbeKind::Row);
    }),
    ("accounts may only read", Property::LockProbe, CrashConsistent, |world| {
        answer(world, ProbeAnswer::Hung, ProbeAnswer::Done);
        answer_where(world, ProbeAnswer::Refused, |probe| probe.door == 0);
        probes(world).filter(|probe| probe.door == 0).for_each(|probe| probe.code = Some("1290".into()));
    }),
    ("all accounts may only read", Property::LockProbe, CrashConsistent, |world| {
        answer(world, ProbeAnswer::Refused, ProbeAnswer::Refused);
    }),
    ("connections were cut", Property::LockProbe, CrashConsistent, |world| {
        answer(world, ProbeAnswer::Cut, ProbeAnswer::Cut);
    }),
    ("some connections were cut", Property::LockProbe, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Cut, |probe| probe.door == 0);
    }),
    ("the server did not answer", Property::LockProbe, CrashConsistent, |world| {
        answer(world, ProbeAnswer::Hung, ProbeAnswer::Hung);
    }),
    ("the server was killed", Property::LockProbe, CrashConsistent, |world| {
        stop_server(world);
        set_server(world, |server| *server.recovered = Some(true));
    }),
    (
        "all sessions were ended, and the server was too slow to take others",
        Property::LockProbe,
        CrashConsistent,
        |world| {
            answer(world, ProbeAnswer::Error, ProbeAnswer::Error);
            set_server(world, |server| *server.recovered = Some(true));
        },
    ),
    ("the server was hidden, its binary log open", Property::LockProbe, CrashConsistent, |world| {
        stop_server(world);
        set_log_in_use(world, true);
    }),
    (
        "a stopped server that executed a write of a MEMORY table",
        Property::LockProbe,
        CrashConsistent,
        |world| {
            stop_server(world);
            answer_where(world, ProbeAnswer::Done, |probe| probe.kind == ProbeKind::Memory);
        },
    ),
    ("rows refused beside a lock, and by none", Property::LockProbe, CrashConsistent, |world| {
        for probe in probes(world).filter(|probe| probe.kind == ProbeKind::Row) {
            (probe.answer, probe.since, probe.code) = (ProbeAnswer::Refused, None, Some("1142".into()));
        }
    }),
    ("a read-only server without a lock", Property::LockProbe, CrashConsistent, |world| {
        answer(world, ProbeAnswer::Refused, ProbeAnswer::Refused);
        probes(world).for_each(|probe| probe.code = Some("1290".into()));
    }),
    ("the server was there for some", Property::LockProbe, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Gone, |probe| probe.door == 0 && probe.kind == ProbeKind::Commit);
    }),
    ("the server went away for rows only", Property::LockProbe, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Gone, |probe| probe.kind == ProbeKind::Row);
    }),
    ("the lock came late", Property::LockProbe, CrashConsistent, |world| {
        let late = world.times.s0 + 1;
        probes(world).filter(|it| it.round == Round::Snapshot && it.since.is_some()).for_each(|probe| {
            probe.since = Some(late);
        });
    }),
    ("the lock came late for one door", Property::LockProbe, CrashConsistent, |world| {
        let late = world.times.s1;
        let first =
            |it: &&mut Probe| it.round == Round::Snapshot && it.door == 1 && it.kind == ProbeKind::Commit;
        probes(world).filter(first).for_each(|probe| probe.since = Some(late));
    }),
    ("the lock ended while the snapshot was taken", Property::LockProbe, CrashConsistent, |world| {
        let during = world.times.s1 - 1;
        release_lock(world, during);
    }),
    ("the lock ended before the snapshot", Property::LockProbe, CrashConsistent, |world| {
        let before = world.times.s0 - 1;
        release_lock(world, before);
    }),
    ("the lock ended before the thaw was requested", Property::LockIdentity, CrashConsistent, |world| {
        let early = world.times.s1 + 1;
        release_lock(world, early);
    }),
    ("the lock was gone for later commits", Property::LockIdentity, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Hung, |probe| probe.round == Round::Thaw);
    }),
    ("the connections were cut before the thaw", Property::LockIdentity, CrashConsistent, |world| {
        answer_where(world, ProbeAnswer::Cut, |probe| probe.round == Round::Thaw);
    }),
    // What others in the guest froze and thawed.
    ("thawed by another", Property::LockIdentity, CrashConsistent, |world| {
        replace_mark(world, Mark::ThawOk, Mark::ThawOk, "0");
    }),
    ("one of two thawed by another", Property::LockIdentity, CrashConsistent, |world| {
        replace_mark(world, Mark::ThawOk, Mark::ThawOk, "1");
    }),
    ("frozen by another before", Property::DiskSilence, CrashConsistent, |world| {
        replace_mark(world, Mark::FreezeOk, Mark::FreezeOk, "1");
        replace_mark(world, Mark::ThawOk, Mark::ThawOk, "2");
    }),
    ("a volume more than there are", Property::DiskSilence, CrashConsistent, |world| {
        replace_mark(world, Mark::FreezeOk, Mark::FreezeOk, "3");
        replace_mark(world, Mark::ThawOk, Mark::ThawOk, "3");
    }),
    // Where the server has its files.
    ("data directory on a tmpfs", Property::Starts, Unusable, |world| {
        set_directory(world, Holds::Data, |fs, on, reached| {
            (*fs, *on, *reached) = ("tmpfs".into(), None, false);
        });
    }),
    ("data directory on another disk", Property::Starts, Unusable, |world| {
        set_directory(world, Holds::Data, |_, on, _| *on = None);
    }),
    ("redo log on a tmpfs", Property::Starts, Unusable, |world| {
        let last = world.history.len() - 1;
        let (path, fs) = ("/run/redo".into(), "tmpfs".into());
        let redo = Entry::Directory { t: 0, holds: Holds::Redo, path, fs, on: None, reached: false };
        world.history.insert(last, redo);
    }),
    ("binary logs on no disk of the snapshot", Property::Starts, Inconsistent, |world| {
        set_directory(world, Holds::Binlogs, |_, on, _| *on = None);
    }),
    ("data directory mounted for the server alone", Property::DiskSilence, CrashConsistent, |world| {
        set_directory(world, Holds::Data, |_, _, reached| *reached = false);
    }),
    ("binary logs mounted for the server alone", Property::DiskSilence, CrashConsistent, |world| {
        set_directory(world, Holds::Binlogs, |_, _, reached| *reached = false);
    }),
    ("another schema's MyISAM table open", Property::TablesClosed, CrashConsistent, others_table_open),
    ("Aria table open", Property::TablesClosed, CrashConsistent, |world| {
        let file = middle(world, |record| is_file_of(record, "ar"));
        if let Record::TableFile { open_count, .. } = file {
            *open_count = 2;
        }
    }),
    // What the restored server says.
    ("InnoDB reports corruption", Property::TableCheck, Unusable, |world| {
        let line = "[ERROR] InnoDB: Database page corruption on disk or a failed read of file space 5 page 9";
        set_server(world, |server| server.corruption.push(line.into()));
    }),
    ("MyISAM reports corruption", Property::TableCheck, Inconsistent, |world| {
        let line = "[ERROR] Index for table './shop/orders.MYI' is corrupt; try to repair it";
        set_server(world, |server| server.corruption.push(line.into()));
    }),
    ("the restored server knows no ledger", Property::Durability, Unusable, |world| {
        drop_records(world, |it| is_leg(it) || matches!(it, Record::Account { .. } | Record::Counter { .. }));
        for table in ["ledger", "acct", "cl"] {
            let error = "ERROR 42S02 (1146): Table 'x.y' doesn't exist".into();
            insert(world, Record::TableError { table: table.into(), error, gone: true });
        }
    }),
    (
        "the row of a probe that nobody heard of is there",
        Property::NoFutureStrict,
        CrashConsistent,
        |world| {
            unseen_probe(world);
            for record in &mut world.image {
                if let Record::ProbeRows { rows } = record {
                    rows.push(UNSEEN_ROW);
                }
            }
        },
    ),
    ("a probe's row is there", Property::NoFutureStrict, CrashConsistent, |world| {
        let row = probes(world).find_map(|probe| probe.row).expect("a row");
        for record in &mut world.image {
            if let Record::ProbeRows { rows } = record {
                rows.push(row);
            }
        }
    }),
    // The second schema, and rows that a transaction protects.
    ("acked row of the second schema lost", Property::Durability, Inconsistent, |world| {
        lose_row_of(world, "second_tx");
    }),
    ("acked row of the second schema lost (C1)", Property::RealTimeOrder, Inconsistent, |world| {
        lose_row_of(world, "second_tx");
    }),
    ("acked row of the second schema lost (R5)", Property::ClientPrefix, Inconsistent, |world| {
        lose_row_of(world, "second_tx");
    }),
    (
        "row of the second schema acked in the window lost",
        Property::QuiescedDurability,
        CrashConsistent,
        |world| {
            one_more_row_of(world, "second_tx", world.times.f1, Some(world.times.t0 - 1), false);
        },
    ),
    ("row of the second schema sent under the freeze", Property::NoFutureStrict, CrashConsistent, |world| {
        one_more_row_of(world, "second_tx", world.times.f1 + 1, None, true);
    }),
    ("row of the second schema from the future", Property::NoFuture, Inconsistent, |world| {
        one_more_row_of(world, "second_tx", world.times.s1 + 1, None, true);
    }),
    ("row of the second schema inside the window", Property::WindowSilence, CrashConsistent, |world| {
        one_more_row_of(world, "second_tx", world.times.f1 + 1, Some(world.times.t0 - 1), false);
    }),
    (
        "acked MyISAM row of the second schema lost",
        Property::NonTransactionalDurability,
        Inconsistent,
        |world| {
            lose_row_of(world, "second_nt");
        },
    ),
    (
        "MyISAM row of the second schema without its transfer",
        Property::NonTransactionalDurability,
        Inconsistent,
        |world| {
            lose_followed(world, "second_nt");
        },
    ),
    ("MyISAM row of the second schema in the window", Property::WindowSilence, CrashConsistent, |world| {
        one_more_row_of(world, "second_nt", world.times.f1 + 1, Some(world.times.t0 - 1), true);
    }),
    ("row follows another transfer than it did", Property::Checksums, Unusable, |world| {
        if let Record::Follow { of, .. } = middle(world, |record| matches!(record, Record::Follow { .. })) {
            of[1] += 1;
        }
    }),
    ("row of a client that writes another table", Property::NoFuture, Inconsistent, |world| {
        if let Record::Follow { c, .. } =
            middle(world, |it| matches!(it, Record::Follow { table, .. } if table == "nt"))
        {
            *c += 1;
        }
    }),
    ("table of the second schema warns", Property::TableCheck, CrashConsistent, |world| {
        check(world, "second_nt", true, "warning: 1 client is using or hasn't closed the table properly");
    }),
    ("table of the second schema crashed", Property::TableCheck, Inconsistent, |world| {
        check(world, "second_nt", false, "error: Table is marked as crashed");
    }),
    ("InnoDB table of the second schema corrupt", Property::TableCheck, Unusable, |world| {
        check(world, "second_tx", false, "error: Corrupt");
    }),
    ("index of the second schema behind", Property::IndexAgreement, Unusable, |world| {
        let index = middle(world, |it| matches!(it, Record::Index { table, .. } if table == "second_tx"));
        if let Record::Index { secondary, .. } = index {
            secondary[0] -= 1;
        }
    }),
    ("bulk statement inside the window", Property::WindowSilence, CrashConsistent, |world| {
        one_more_statement(world, world.times.f1 + 1, Some(world.times.t0 - 1), 100);
    }),
    ("schema changed, although the load changes none", Property::NoFuture, Inconsistent, |world| {
        world.history.retain(|entry| !matches!(entry, Entry::SchemaChange { .. }));
        set_schema_changes(world, 1);
    }),
    // The second disk.
    ("second disk written to in the window", Property::DiskSilence, CrashConsistent, |world| {
        let last = world.history.iter_mut().rev().find_map(|entry| match entry {
            Entry::BlockStats { disk, bytes, .. } if disk == "vdb" => Some(bytes),
            _ => None,
        });
        *last.expect("a count") += 1 << 20;
    }),
    ("journal of the second disk dirty", Property::FilesystemClean, CrashConsistent, |world| {
        let of_disk = |it: &Record| matches!(it, Record::FileSystem { disk, .. } if disk == "vdb");
        if let Record::FileSystem { dirty, .. } = middle(world, of_disk) {
            *dirty = true;
        }
    }),
    ("file system of the second disk damaged", Property::Starts, Unusable, |world| {
        let of_disk = |it: &Record| matches!(it, Record::Fsck { disk, .. } if disk == "vdb");
        if let Record::Fsck { clean, .. } = middle(world, of_disk) {
            *clean = false;
        }
    }),
];

/// The same with nothing frozen.
pub(crate) const LIVE_MUTANTS: &[Mutant] = &[
    ("live: synced heartbeat lost", Property::OutsideFiles, Inconsistent, lose_heartbeats),
    ("live: heartbeat lost, its rest torn", Property::OutsideFiles, Inconsistent, |world| {
        lose_heartbeats(world);
        torn_heartbeat(world);
    }),
    ("live: heartbeat from after the snapshot", Property::OutsideFiles, Inconsistent, future_heartbeat),
    ("live: torn, and no record was under way", Property::OutsideFiles, CrashConsistent, |world| {
        unanswer_last(world, "vdb", true);
        torn_heartbeat(world);
    }),
    ("live: one disk stopped earlier", Property::DiskAgreement, Inconsistent, early_disk),
    ("live: acked schema change lost", Property::Durability, Inconsistent, lose_schema_change),
    ("live: acked bulk statement lost", Property::NonTransactionalDurability, Inconsistent, |world| {
        one_more_statement(world, world.times.f0, Some(world.times.s0 - 1), 0);
    }),
    ("live: bulk statement in flight torn", Property::NonTransactionalDurability, Inconsistent, |world| {
        one_more_statement(world, world.times.s0, Some(world.times.t1), 40);
    }),
    ("live: bulk statement from after the snapshot", Property::NoFuture, Inconsistent, |world| {
        one_more_statement(world, world.times.s1 + 1, None, 1);
    }),
];

/// What is legal with nothing frozen.
pub(crate) const LIVE_LEGAL: &[(&str, Mutation)] = &[
    ("live: nothing planted", |_| {}),
    ("live: next heartbeat torn", torn_heartbeat),
    ("live: bulk statement in flight, not there", |world| {
        one_more_statement(world, world.times.s0, Some(world.times.t1), 0);
    }),
    ("live: bulk statement killed, in part there", |world| {
        one_more_statement(world, world.times.s0, None, 40);
    }),
    ("live: schema change in flight, there", |world| {
        one_more_step(world, world.times.s0, Some(world.times.t1), true);
    }),
];

/// Defects of the trial itself: the grade, and a word of the reason.
pub(crate) const BROKEN_TRIALS: &[(&str, Grade, &str, Mutation)] = &[
    ("freeze refused", Refused, "lock wait timeout", refuse),
    ("freeze failed, snapshot taken", CrashConsistent, "although the freeze failed", freeze_failed),
    ("observation without end", Unknown, "breaks off", |world| world.image.truncate(world.image.len() - 1)),
    ("history without end", Unknown, "breaks off", |world| world.history.truncate(world.history.len() - 1)),
    ("no snapshot", Unknown, "no snapshot", |world| drop_marks(world, &[Mark::SnapBegin, Mark::SnapEnd])),
    ("snapshot not completed", Unknown, "never completed", |world| drop_marks(world, &[Mark::SnapEnd])),
    ("no thaw", Unknown, "no thaw", |world| drop_marks(world, &[Mark::ThawCall, Mark::ThawOk])),
    ("thaw not answered", Unknown, "how the thaw ended", |world| drop_marks(world, &[Mark::ThawOk])),
    ("no probes", Unknown, "no probe", |world| {
        world.history.retain(|entry| !matches!(entry, Entry::Probe { .. }));
    }),
    ("probe outside the window", Unknown, "no probe", late_probes),
    ("all probes failed, and the disks are clean", Unknown, "whether it was running", |world| {
        stop_server(world);
        answer(world, ProbeAnswer::Error, ProbeAnswer::Error);
    }),
    ("the server was gone on one side only", Unknown, "whether it was running", |world| {
        stop_server(world);
        answer_where(world, ProbeAnswer::Error, |probe| probe.door == 0);
    }),
    ("all probes failed, and the log says nothing", Unknown, "could not be read", |world| {
        answer(world, ProbeAnswer::Error, ProbeAnswer::Error);
        set_server(world, |server| *server.recovered = None);
    }),
    ("server record missing", Unknown, "whether the server started", |world| {
        drop_records(world, |record| matches!(record, Record::Server { .. }));
    }),
    ("recovery log unreadable", Unknown, "could not be read", |world| set_prepared(world, None)),
    ("index not compared", Unknown, "was not compared", |world| {
        drop_records(world, |record| matches!(record, Record::Index { .. }));
    }),
    ("memory rows not counted", Unknown, "MEMORY", |world| {
        drop_records(world, |record| matches!(record, Record::MemoryRows { .. }));
    }),
    ("table header not read", Unknown, "header of `nt`", |world| {
        drop_records(world, |record| is_file_of(record, "nt"));
    }),
    ("table header unreadable", Unknown, "nt.MYI", header_unreadable),
    ("table not checked", Unknown, "was not checked", |world| {
        drop_records(world, |record| matches!(record, Record::CheckTable { table, .. } if table == "nt"));
    }),
    ("no file system read", Unknown, "was not read raw", |world| {
        drop_records(world, |record| matches!(record, Record::FileSystem { .. }));
    }),
    ("schema not listed", Unknown, "not listed", |world| {
        drop_records(world, |record| matches!(record, Record::DdlTables { .. }));
    }),
    ("no row read", Unknown, "no row", |world| {
        drop_records(world, |record| {
            matches!(
                record,
                Record::Leg { .. } | Record::Account { .. } | Record::Counter { .. } | Record::Follow { .. }
            )
        });
        for record in &mut world.image {
            if let Record::Index { primary, secondary, .. } = record {
                (*primary, *secondary) = ([9, 9], [9, 9]);
            }
        }
    }),
];

/// How many worlds each mutant, and each right trial, is tried in.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=3;

/// The table of a kind of server: what was planted, and what was not right about it.
#[derive(Debug, Default)]
pub(crate) struct MutationTable {
    planted: usize,
    missed: Vec<String>,
    right: usize,
    alarms: Vec<String>,
}

impl MutationTable {
    pub(crate) fn begin() -> Self {
        println!("{:<52} {:<33} {:<22} also", "planted", "caught by", "grade");
        Self::default()
    }

    /// Plants a defect in a right trial of each seed, and prints what caught it.
    pub(crate) fn plant(&mut self, (name, property, grade, mutate): &Mutant, shape: impl Fn(u64) -> Shape) {
        self.planted += 1;
        let mut row = None;
        for seed in SEEDS {
            let mut world = World::new(&shape(seed));
            mutate(&mut world);
            let judgement = world.judge();
            check_form(name, &judgement);
            let (own, others): (Vec<_>, Vec<_>) =
                judgement.findings.iter().partition(|finding| finding.property == *property);
            if own.is_empty() || judgement.grade != *grade {
                self.missed.push(format!(
                    "{name}, seed {seed}: expected {property} and {grade}, got {} with {:?}",
                    judgement.reason,
                    judgement.findings.iter().map(|finding| &finding.id).collect::<Vec<_>>()
                ));
                row = Some("MISSED".to_owned());
            }
            let others: Vec<_> = others.iter().map(|finding| finding.id.as_str()).collect();
            row.get_or_insert_with(|| {
                format!("{:<33} {grade:<22} {}", format!("{:<3} {property}", property.id()), others.join(" "))
            });
        }
        println!("{name:<52} {}", row.unwrap_or_default().trim_end());
    }

    /// What is legal in a trial that is frozen must keep the top grade, without a finding.
    pub(crate) fn allow(&mut self, (name, change): &(&str, Mutation), shape: impl Fn(u64) -> Shape) {
        self.no_alarm(name, *change, shape, ApplicationConsistent, |judgement| judgement.findings.is_empty());
    }

    /// With nothing frozen, that is all there is to find.
    pub(crate) fn allow_live(&mut self, (name, change): &(&str, Mutation), shape: impl Fn(u64) -> Shape) {
        self.no_alarm(name, *change, shape, CrashConsistent, |judgement| {
            judgement.findings.iter().all(|finding| finding.id == "Q1")
        });
    }

    fn no_alarm(
        &mut self,
        name: &str,
        change: Mutation,
        shape: impl Fn(u64) -> Shape,
        grade: Grade,
        is_quiet: fn(&Judgement) -> bool,
    ) {
        self.right += 1;
        for seed in SEEDS {
            let mut world = World::new(&shape(seed));
            change(&mut world);
            let judgement = world.judge();
            if judgement.grade != grade || !is_quiet(&judgement) {
                self.alarms.push(format!("{name}, seed {seed}: {}", judgement.reason));
            }
        }
        println!("{name:<52} {:<33} {grade}", "nothing");
    }

    /// Prints the sums. Nothing may be missed, and nothing alarm.
    pub(crate) fn end(mut self) {
        println!(
            "{} defects planted, {} missed; {} right trials, {} false alarms; each with {} seeds.",
            self.planted,
            self.missed.len(),
            self.right,
            self.alarms.len(),
            SEEDS.count()
        );
        self.missed.append(&mut self.alarms);
        assert!(self.missed.is_empty(), "{}", self.missed.join("\n"));
    }
}

/// What is planted in a right trial that is to stay one.
pub(crate) const NOTHING: (&str, Mutation) = ("nothing planted", |_| {});

/// The same of a running guest.
pub(crate) fn live(shape: Shape) -> Shape {
    Shape { freeze: false, ..shape }
}

#[test]
fn the_mutation_table() {
    let mut table = MutationTable::begin();
    MUTANTS.iter().for_each(|mutant| table.plant(mutant, Shape::new));
    LIVE_MUTANTS.iter().for_each(|mutant| table.plant(mutant, |seed| live(Shape::new(seed))));
    [NOTHING].iter().chain(LEGAL).for_each(|legal| table.allow(legal, Shape::new));
    LIVE_LEGAL.iter().for_each(|legal| table.allow_live(legal, |seed| live(Shape::new(seed))));
    table.end();
}

/// What every judgement looks like, whatever it says.
fn check_form(name: &str, judgement: &Judgement) {
    assert!(judgement.reason.starts_with(&format!("{}: ", judgement.grade)));
    assert!(!judgement.reason.contains('\n'));
    for finding in &judgement.findings {
        assert_eq!(judgement.properties[&finding.property], Status::Broken);
        assert!(finding.evidence.len() <= 13, "{name}: {:#?}", finding.evidence);
    }
}

#[test]
fn every_measured_property_has_a_mutant() {
    let properties = World::new(&Shape::new(1)).judge().properties;
    assert_eq!(properties.len(), Property::ALL.into_iter().filter(|it| !it.is_of_tools()).count());
    for (property, status) in properties {
        let covered = MUTANTS.iter().any(|(_, other, _, _)| *other == property);
        match status {
            Status::Holds => assert!(covered, "{property} has no mutant"),
            Status::NotApplicable(why) => panic!("{property} is not examined in a right trial: {why}"),
            Status::Broken => panic!("{property} is broken in a right trial"),
        }
    }
}

/// What stands at the very edge of a rule, or may be there or not, is no defect.
pub(crate) const LEGAL: &[(&str, Mutation)] = &[
    ("a probe that nobody heard of", unseen_probe),
    ("sent as the freeze returned, there", |world| {
        one_more(world, world.times.f1, Some(world.times.f1), true);
    }),
    ("acked late inside the window, there", |world| {
        one_more(world, world.times.f1, Some(world.times.s0), true);
    }),
    ("acked as the thaw was called, not there", |world| {
        one_more(world, world.times.f1, Some(world.times.t0), false);
    }),
    ("sent inside the window, acked after it", |world| {
        one_more(world, world.times.s0, Some(world.times.t1), false);
    }),
    ("never answered, there", |world| one_more(world, world.times.f1, None, true)),
    ("never answered, not there", |world| one_more(world, world.times.f1, None, false)),
    ("row never answered, there", |world| one_more_row(world, world.times.f1, None, true)),
    ("row never answered, not there", |world| one_more_row(world, world.times.f1, None, false)),
    ("row acked after the thaw, not there", |world| {
        one_more_row(world, world.times.s1, Some(world.times.t1), false);
    }),
    ("no hook recorded a position", |world| {
        drop_records(world, |record| matches!(record, Record::Position { .. }));
    }),
    ("recorded position not readable", |world| {
        drop_records(world, |record| matches!(record, Record::Position { .. }));
        let path = position_file(Path::new("/var/lib/mysql")).display().to_string();
        insert(world, Record::Unreadable { path, detail: "no number".into() });
    }),
    ("server without a binary log", |world| {
        setup(world).binlog = false;
        drop_records(world, |record| {
            matches!(
                record,
                Record::BinlogEnd { .. } | Record::BinlogTransfer { .. } | Record::Position { .. }
            )
        });
    }),
    ("a lock that refuses MEMORY tables as well", |world| {
        answer_where(world, ProbeAnswer::Locked, |probe| probe.kind == ProbeKind::Memory);
    }),
    ("the server was stopped cleanly", stop_server),
    ("a server that is read-only beside its lock", |world| {
        for probe in probes(world).filter(|probe| probe.kind == ProbeKind::Row) {
            (probe.answer, probe.since, probe.code) = (ProbeAnswer::Refused, None, Some("1290".into()));
        }
    }),
    ("the server was stopped cleanly, and nothing was under way", |world| {
        stop_server(world);
        (1..=writers(world)).for_each(|client| settle(world, client, world.times.f1));
        mend_source(world);
    }),
    ("the server was stopped cleanly, and its start took longer than the thaw may", |world| {
        stop_server(world);
        thaw_fails(world);
    }),
    ("the server was stopped cleanly, and one probe shows nothing", |world| {
        stop_server(world);
        answer_where(world, ProbeAnswer::Error, |probe| probe.kind == ProbeKind::Commit && probe.door == 1);
    }),
    ("an agent that does not list what it must reach", |world| {
        for entry in &mut world.history {
            if let Entry::Guest { volumes, .. } = entry {
                *volumes = None;
            }
        }
    }),
    ("row of the second schema never answered, there", |world| {
        one_more_row_of(world, "second_tx", world.times.f1, None, true);
    }),
    ("row of the second schema never answered, not there", |world| {
        one_more_row_of(world, "second_tx", world.times.f1, None, false);
    }),
    ("heartbeat never answered, there", |world| unanswer_last(world, "vdb", true)),
    ("heartbeat never answered, not there", |world| unanswer_last(world, "vdb", false)),
    ("nothing rolled forward", |world| {
        drop_records(world, |record| {
            matches!(record, Record::RollForward { .. } | Record::Table { .. })
                || matches!(record, Record::Gtid { of, .. } if *of != ServerState::Restored)
        });
    }),
    ("a table without a checksum", |world| {
        for record in &mut world.image {
            if let Record::Table { checksum, .. } = record {
                *checksum = None;
            }
        }
    }),
    ("GTIDs broken into lines", |world| {
        for record in &mut world.image {
            if let Record::Gtid { of: ServerState::Restored, gtid } = record {
                *gtid = format!("{gtid},\\n ");
            }
        }
    }),
    ("bulk statement killed, in part there", |world| one_more_statement(world, world.times.f0, None, 40)),
    ("bulk statement never answered, there", |world| one_more_statement(world, world.times.f1, None, 100)),
    ("bulk statement never answered, not there", |world| one_more_statement(world, world.times.f1, None, 0)),
    ("schema change in flight, there", |world| {
        one_more_step(world, world.times.f1, Some(world.times.t0), true);
    }),
    ("schema change in flight, not there", |world| {
        one_more_step(world, world.times.f1, Some(world.times.t0), false);
    }),
    ("no schema changes", |world| {
        set_schema_changes(world, 0);
        world.history.retain(|entry| !matches!(entry, Entry::SchemaChange { .. }));
    }),
    ("schema change never answered, there", |world| {
        let held = schema_changes_held(world);
        cut_schema_changes(world, held);
        if let Some(Entry::SchemaChange { end, .. }) = last_schema_change(world) {
            *end = None;
        }
    }),
    ("another cycle before", |world| {
        let first: Vec<Entry> = world.history.iter().filter(|entry| is_of_a_cycle(entry)).cloned().collect();
        // Long enough before that all of the load was at work again.
        let start = world.history.iter().find_map(|entry| match entry {
            Entry::Invoke { t, .. } => Some(*t),
            _ => None,
        });
        let gap = (world.times.f0 - start.unwrap()) * 3 / 4;
        let begin = world.times.f0 - gap;
        let at = world.history.iter().position(is_of_a_cycle).unwrap_or_default();
        // The same marks once more, as those of a cycle that came first.
        let shift = |entry: &Entry| earlier(entry, world.times.t1 - world.times.f0 + gap + 1);
        let before: Vec<Entry> = first.iter().map(shift).collect();
        world.history.splice(at..at, before.into_iter().chain([Entry::Cycle { t: begin, n: 2 }]));
        world.cycle = 2;
    }),
    ("thawed twice, the second in vain", |world| {
        let t = world.times.t1 + 1;
        let end = world.history.len() - 1;
        let mark = |mark| Entry::Mark { t, mark, detail: String::new() };
        world.history.splice(end..end, [mark(Mark::ThawCall), mark(Mark::ThawErr)]);
    }),
];

#[test]
fn what_is_legal_raises_no_finding() {
    for (name, change) in LEGAL {
        for seed in 1..=5 {
            let mut world = World::new(&Shape::new(seed));
            change(&mut world);
            let judgement = world.judge();
            assert_eq!(judgement.grade, ApplicationConsistent, "{name}, seed {seed}: {}", judgement.reason);
            assert!(judgement.findings.is_empty(), "{name}, seed {seed}");
        }
    }
}

#[test]
fn a_broken_trial_is_never_a_pass() {
    println!("{:<40} reason", "trial");
    for (name, grade, reason, mutate) in BROKEN_TRIALS {
        let mut world = World::new(&Shape::new(1));
        mutate(&mut world);
        let judgement = world.judge();
        println!("{name:<40} {}", judgement.reason);
        assert_eq!(judgement.grade, *grade, "{name}: {}", judgement.reason);
        assert!(judgement.reason.contains(reason), "{name}: {} should say {reason}", judgement.reason);
    }
}

#[test]
fn a_right_trial_is_application_consistent() {
    let world = World::new(&Shape::new(1));
    let judgement = world.judge();
    println!("{}\n{:#?}\n{:?}", judgement.reason, judgement.timings, judgement.counts);
    assert_eq!(judgement.grade, ApplicationConsistent, "{}", judgement.reason);
    assert!(judgement.findings.is_empty());
    let MarkTimes { f0, f1, s0, s1, t0, t1 } = world.times;
    let millis = |from, to| Some((to - from) as f64 / 1e6);
    assert_eq!(judgement.timings.freeze, millis(f0, f1));
    assert_eq!(judgement.timings.snapshot, millis(s0, s1));
    assert_eq!(judgement.timings.window, millis(f1, t0));
    assert_eq!(judgement.timings.thaw, millis(t0, t1));
    let held = (t0 - f1) as f64 / 1e6;
    assert!(judgement.timings.write_stall.is_some_and(|stall| stall > held / 2.0));
    assert!(judgement.counts.restored > 0 && judgement.counts.restored < judgement.counts.acknowledged);
}

#[test]
fn a_snapshot_without_a_freeze_shows_in_the_window_and_on_the_disk() {
    let mut world = World::new(&Shape { freeze: false, ..Shape::new(1) });
    journal_dirty(&mut world);
    let judgement = world.judge();
    assert_eq!(judgement.grade, CrashConsistent, "{}", judgement.reason);
    assert!(judgement.reason.contains("no freeze took place"), "{}", judgement.reason);
    let found: Vec<_> = judgement.findings.iter().map(|finding| finding.id.as_str()).collect();
    assert_eq!(found, ["Q1", "L2"]);
}

#[test]
fn reasons_read_well() {
    let say = |mutate: Mutation| {
        let mut world = World::new(&Shape::new(1));
        mutate(&mut world);
        world.judge().reason
    };
    assert_eq!(
        say(table_open),
        "crash-consistent: the table `nt` was still open when the disk stopped: no hook flushed it (N2)"
    );
    assert_eq!(
        say(probe_hangs),
        "crash-consistent: only the file system was frozen: no server lock was held (Q2)"
    );
    assert_eq!(
        say(refuse),
        "refused: the freeze failed and no backup was made: hook: 1205 lock wait timeout\\u{1b}[31m"
    );
}

// The mutations.

fn is_leg(record: &Record) -> bool {
    matches!(record, Record::Leg { .. })
}

pub(crate) fn drop_records(world: &mut World, which: impl Fn(&Record) -> bool) {
    world.image.retain(|record| !which(record));
}

/// The middle one of the records of a kind.
pub(crate) fn middle(world: &mut World, which: impl Fn(&Record) -> bool) -> &mut Record {
    let places: Vec<usize> = (0..world.image.len()).filter(|at| which(&world.image[*at])).collect();
    &mut world.image[places[places.len() / 2]]
}

pub(crate) fn insert(world: &mut World, record: Record) {
    let end = world.image.len() - 1;
    world.image.insert(end, record);
}

/// A mutation of the middle record of a kind.
macro_rules! mutate {
    ($($name:ident: $kind:ident { $($field:ident $(: $value:pat)?),* } => $change:expr;)*) => {$(
        fn $name(world: &mut World) {
            #[allow(unused_variables, reason = "the pattern selects")]
            let record = middle(world, |record| matches!(record, Record::$kind { $($field $(: $value)?,)* .. }));
            let Record::$kind { $($field,)* .. } = record else { unreachable!("selected above") };
            $change;
        }
    )*};
}

mutate! {
    gtid_behind: Position { gtid } => *gtid = "0-1-3".into();
    gtid_ahead: Position { gtid } => *gtid = "0-1-999999".into();
    replay_fails: RollForward { applied, detail } =>
        (*applied = false, *detail = "ERROR 1062 (23000): Duplicate entry".into());
    early_disk: Heartbeats { count } => *count -= 2;
    late_disk: Heartbeats { count } => *count += 2;
    torn_heartbeat: Heartbeats { rest } => *rest = "0000".into();
    stray_heartbeat: Heartbeats { count } => *count = 1_000_000;
    lose_heartbeats: Heartbeats { count } => *count = 0;
    impossible_tables: DdlTables { tables } => *tables = vec!["ddl_1".into(), "ddl_7_renamed".into()];
    half_bulk: Bulk { rows } => *rows /= 2;
    torn_bulk: Bulk { torn } => *torn = 1;
    flip_payload: Leg { sum } => *sum ^= 1;
    flip_both: Leg { crc, sum } => (*crc ^= 1, *sum ^= 1);
    change_amount: Leg { amt } => *amt += 1;
    change_dep: Leg { dep } => *dep = [9_999, 0];
    flip_row: Follow { sum } => *sum ^= 1;
    change_balance: Account { balance } => *balance += 1;
    change_version: Account { ver } => *ver += 1;
    repeat_leg_version: Leg { ver: 2.. } => *ver = 1;
    drop_index_row: Index { secondary } => secondary[0] -= 1;
    replace_index_row: Index { secondary } => secondary[1] ^= 1;
    counter_behind: Counter { n: 1.. } => *n -= 1;
    counter_ahead: Counter { n } => *n += 1;
    table_open: TableFile { open_count } => *open_count = 1;
    journal_dirty: FileSystem { dirty } => *dirty = true;
    live_guest: MemoryRows { rows } => *rows = 1;
    position_early: Position { pos } => *pos -= 700;
    position_late: Position { pos } => *pos += 700;
    position_rotated: Position { file } => *file = "binlog.000001".into();
    fsck_damage: Fsck { clean } => *clean = false;
}

/// A table that is not the load's, such as that of another schema.
fn others_table_open(world: &mut World) {
    let record = middle(world, |record| matches!(record, Record::TableFile { table: None, .. }));
    if let Record::TableFile { open_count, .. } = record {
        *open_count = 1;
    }
}

fn server_down(world: &mut World) {
    let record = middle(world, |record| matches!(record, Record::Server { .. }));
    *record = Record::Server {
        started: false,
        detail: "timed out".into(),
        prepared: None,
        recovered: None,
        recovery: vec![],
        corruption: vec![],
    };
}

pub(crate) fn set_prepared(world: &mut World, value: Option<u64>) {
    if let Record::Server { prepared, .. } = middle(world, |record| matches!(record, Record::Server { .. })) {
        *prepared = value;
    }
}

fn prepared(world: &mut World) {
    set_prepared(world, Some(2));
}

pub(crate) fn check(world: &mut World, name: &str, works: bool, message: &str) {
    let record = middle(world, |record| matches!(record, Record::CheckTable { table, .. } if table == name));
    if let Record::CheckTable { clean, usable, messages, .. } = record {
        *clean = false;
        *usable = works;
        *messages = vec![message.into()];
    }
}

fn check_warns(world: &mut World) {
    check(world, "nt", true, "warning: 1 client is using or hasn't closed the table properly");
}

fn check_crashed(world: &mut World) {
    check(world, "nt", false, "error: Table is marked as crashed");
}

fn ledger_corrupt(world: &mut World) {
    check(world, "ledger", false, "error: Corrupt");
}

pub(crate) fn table_error(table: &str, error: &str) -> Record {
    Record::TableError { table: table.into(), error: error.into(), gone: false }
}

fn ledger_unreadable(world: &mut World) {
    drop_records(world, is_leg);
    insert(world, table_error("ledger", "1034"));
}

fn probe_table_unreadable(world: &mut World) {
    let mut files = 0;
    for record in &mut world.image {
        if let Record::TableFiles { files: there } = record {
            *there += 1;
            files += 1;
        }
    }
    assert_eq!(files, 1, "the world counts its files");
    let table = "probe_nt".to_owned();
    insert(world, Record::TableFile { file: "p/p.MYI".into(), table: Some(table), open_count: 0 });
    insert(world, table_error("probe_nt", "145 crashed"));
}

fn follower_unreadable(world: &mut World) {
    drop_records(world, |record| matches!(record, Record::Follow { table, .. } if table == "nt"));
    insert(world, table_error("nt", "145 crashed"));
}

fn is_file_of(record: &Record, name: &str) -> bool {
    matches!(record, Record::TableFile { table: Some(table), .. } if table == name)
}

fn header_unreadable(world: &mut World) {
    drop_records(world, |record| is_file_of(record, "nt"));
    let path = "/var/lib/mysql/ff/nt.MYI".into();
    insert(world, Record::Unreadable { path, detail: "not found".into() });
}

fn is_logged(record: &Record) -> bool {
    matches!(record, Record::BinlogTransfer { .. })
}

fn drop_logged(world: &mut World) {
    let lost = copy_of(world, is_logged);
    drop_records(world, |record| *record == lost);
}

fn log_one_more(world: &mut World) {
    let n = counters(world)[0] + 1;
    insert(world, Record::BinlogTransfer { c: 1, n });
}

fn log_twice(world: &mut World) {
    let logged = copy_of(world, is_logged);
    insert(world, logged);
}

fn drop_leg(world: &mut World) {
    let (c, n) = middle_transfer(world);
    drop_records(
        world,
        |record| matches!(record, Record::Leg { c: a, n: b, leg: 1, .. } if (*a, *b) == (c, n)),
    );
}

fn copy_of(world: &mut World, which: impl Fn(&Record) -> bool) -> Record {
    middle(world, which).clone()
}

fn double_leg(world: &mut World) {
    let leg = copy_of(world, is_leg);
    insert(world, leg);
}

fn third_leg(world: &mut World) {
    let mut copy = copy_of(world, is_leg);
    if let Record::Leg { leg, .. } = &mut copy {
        *leg = 2;
    }
    insert(world, copy);
}

fn double_row(world: &mut World) {
    let row = copy_of(world, |record| matches!(record, Record::Follow { .. }));
    insert(world, row);
}

fn double_account(world: &mut World) {
    let account = copy_of(world, |record| matches!(record, Record::Account { .. }));
    insert(world, account);
}

fn drop_account(world: &mut World) {
    drop_records(world, |record| matches!(record, Record::Account { id: 3, .. }));
}

fn shift_balances(world: &mut World) {
    for record in &mut world.image {
        match record {
            Record::Account { id: 1, balance, .. } => *balance += 5,
            Record::Account { id: 2, balance, .. } => *balance -= 5,
            _ => {}
        }
    }
}

/// The legs of an attempt that was rolled back, as if it had taken effect.
fn revive(world: &mut World) {
    let failed = world.history.iter().position(|entry| matches!(entry, Entry::Fail { .. })).unwrap();
    let Entry::Fail { c, n, .. } = world.history[failed] else { unreachable!("selected above") };
    let sent = world.history[..failed].iter().rev().find_map(|entry| match entry {
        Entry::Invoke { c: a, n: b, op, .. } if (*a, *b) == (c, n) => Some(op.clone()),
        _ => None,
    });
    apply(world, c, n, &sent.unwrap());
}

/// Inserts a transfer or a row into the image, as the server would.
fn apply(world: &mut World, c: u32, n: u32, op: &Op) -> Option<[u32; 2]> {
    match op {
        Op::Transfer { dep, legs, crc } => {
            let mut versions = [0; 2];
            for (leg, (acct, amt)) in (0u8..).zip(legs) {
                for record in &mut world.image {
                    match record {
                        Record::Account { id, balance, ver } if id == acct => {
                            *balance += amt;
                            *ver += 1;
                            versions[usize::from(leg)] = *ver;
                        }
                        Record::Counter { c: client, n: number } if *client == c => *number = n,
                        _ => {}
                    }
                }
                let ver = versions[usize::from(leg)];
                let (acct, amt, crc) = (*acct, *amt, *crc);
                insert(world, Record::Leg { c, n, leg, dep: *dep, acct, amt, ver, crc, sum: crc });
            }
            if setup(world).binlog {
                insert(world, Record::BinlogTransfer { c, n });
            }
            Some(versions)
        }
        Op::Follow { table, of, crc } => {
            insert(world, Record::Follow { table: table.clone(), c, n, of: *of, crc: *crc, sum: *crc });
            None
        }
    }
}

/// An acknowledged transfer from the middle of a client's sequence, whose
/// accounts were changed again later.
fn middle_transfer(world: &World) -> (u32, u32) {
    let last = counters(world)[0];
    (1, last / 2)
}

fn counters(world: &World) -> Vec<u32> {
    let counters = world.image.iter().filter_map(|record| match record {
        Record::Counter { n, .. } => Some(*n),
        _ => None,
    });
    counters.collect()
}

fn of(record: &Record, c: u32, n: u32) -> bool {
    matches!(record, Record::Leg { c: a, n: b, .. } if (*a, *b) == (c, n))
}

fn lose_middle(world: &mut World) {
    let (c, n) = middle_transfer(world);
    drop_records(world, |record| of(record, c, n));
}

/// Loses a transfer and mends accounts, versions and binary log, so that the image agrees with itself.
fn lose_middle_mended(world: &mut World) {
    let (c, n) = middle_transfer(world);
    lose_mended(world, c, n);
}

fn lose_mended(world: &mut World, c: u32, n: u32) {
    let lost: Vec<Record> = world.image.iter().filter(|record| of(record, c, n)).cloned().collect();
    drop_records(world, |record| of(record, c, n) || *record == Record::BinlogTransfer { c, n });
    for leg in lost {
        let Record::Leg { acct: account, amt: amount, ver: version, .. } = leg else { continue };
        for record in &mut world.image {
            match record {
                Record::Account { id, balance, ver } if *id == account => {
                    *balance -= amount;
                    *ver -= 1;
                }
                Record::Leg { acct, ver, .. } if *acct == account && *ver > version => *ver -= 1,
                _ => {}
            }
        }
    }
}

/// Loses a transfer that a row of a follower follows, and mends the rest.
fn lose_followed(world: &mut World, name: &str) {
    let row = copy_of(world, |record| matches!(record, Record::Follow { table, .. } if table == name));
    let Record::Follow { of: [c, n], .. } = row else { unreachable!("selected above") };
    lose_mended(world, c, n);
}

fn lose_dependency(world: &mut World) {
    let read = copy_of(world, |record| matches!(record, Record::Leg { dep: [_, 1..=u32::MAX], .. }));
    let Record::Leg { dep: [c, n], .. } = read else { unreachable!("selected above") };
    lose_mended(world, c, n);
}

fn swap_versions(world: &mut World) {
    for record in &mut world.image {
        if let Record::Leg { acct: 4, ver, .. } = record {
            *ver = match *ver {
                1 => 2,
                2 => 1,
                other => other,
            };
        }
    }
}

pub(crate) fn client_of(entry: &Entry) -> Option<u32> {
    match entry {
        Entry::Invoke { c, .. }
        | Entry::Ok { c, .. }
        | Entry::Fail { c, .. }
        | Entry::Unknown { c, .. }
        | Entry::Resolved { c, .. } => Some(*c),
        _ => None,
    }
}

/// Makes a client stop: its history keeps only what is in the image, all
/// acknowledged at `t` at the latest.
pub(crate) fn settle(world: &mut World, client: u32, t: Nanos) {
    let held = world.image.clone();
    let there = |n: u32, op: &Op| {
        held.iter().any(|record| match (record, op) {
            (Record::Leg { c, n: b, crc, .. }, Op::Transfer { crc: sent, .. }) => {
                (*c, *b) == (client, n) && crc == sent
            }
            (Record::Follow { c, n: b, crc, .. }, Op::Follow { crc: sent, .. }) => {
                (*c, *b) == (client, n) && crc == sent
            }
            _ => false,
        })
    };
    // The versions that a transfer reached.
    let versions = |number: u32| {
        let leg = |wanted: u8| {
            held.iter().find_map(|record| match record {
                Record::Leg { c, n, leg, ver, .. } if (*c, *n, *leg) == (client, number, wanted) => {
                    Some(*ver)
                }
                _ => None,
            })
        };
        Some([leg(0)?, leg(1)?])
    };
    let mut kept = Vec::new();
    let mut open = None;
    for entry in world.history.drain(..) {
        if client_of(&entry) != Some(client) {
            kept.extend(open.filter(|_| matches!(entry, Entry::End { .. })).map(|n| Entry::Ok {
                t,
                c: client,
                n,
                ver: versions(n),
            }));
            kept.push(entry);
            continue;
        }
        match &entry {
            Entry::Invoke { n, op, .. } if there(*n, op) => {
                open = Some(*n);
                kept.push(entry);
            }
            Entry::Ok { t: acked, n, ver, .. } if open == Some(*n) => {
                open = None;
                kept.push(Entry::Ok { t: t.min(*acked), c: client, n: *n, ver: *ver });
            }
            Entry::Resolved { t: acked, n, .. } if open == Some(*n) => {
                open = None;
                kept.push(Entry::Ok { t: t.min(*acked), c: client, n: *n, ver: versions(*n) });
            }
            _ => {}
        }
    }
    world.history = kept;
    stop_followers(world, client);
}

/// Followers end before the first row that would follow what a client has not sent any more.
fn stop_followers(world: &mut World, client: u32) {
    let sent: Vec<u32> = world
        .history
        .iter()
        .filter_map(|entry| match entry {
            Entry::Ok { c, n, .. } if *c == client => Some(*n),
            _ => None,
        })
        .collect();
    let mut ended: BTreeMap<u32, u32> = BTreeMap::new();
    world.history.retain(|entry| {
        if let Entry::Invoke { c, n, op: Op::Follow { of: [of, number], .. }, .. } = entry
            && *of == client
            && !sent.contains(number)
        {
            ended.entry(*c).or_insert(*n);
        }
        match entry {
            Entry::Invoke { c, n, .. } | Entry::Ok { c, n, .. } => ended.get(c).is_none_or(|end| n < end),
            _ => true,
        }
    });
}

/// Adds an operation of a client to the history.
pub(crate) fn send(world: &mut World, c: u32, n: u32, op: Op, sent: Nanos, acked: Option<Nanos>) {
    let end = world.history.len() - 1;
    // The versions that its accounts reach.
    let version = |account: u32| {
        let of_it = |record: &Record| match record {
            Record::Account { id, ver, .. } if *id == account => Some(ver + 1),
            _ => None,
        };
        world.image.iter().find_map(of_it).unwrap_or(1)
    };
    let ver = match &op {
        Op::Transfer { legs, .. } => Some(legs.map(|(account, _)| version(account))),
        Op::Follow { .. } => None,
    };
    let answer = acked.map(|t| Entry::Ok { t, c, n, ver });
    world.history.splice(end..end, [Entry::Invoke { t: sent, c, n, op }].into_iter().chain(answer));
    mend_source(world);
}

/// Lets the source's ledger hold what the history says, and a replay lead there.
pub(crate) fn mend_source(world: &mut World) {
    let mut open: BTreeMap<u32, bool> = BTreeMap::new();
    let mut legs = 0;
    for entry in &world.history {
        match entry {
            Entry::Invoke { c, op, .. } => drop(open.insert(*c, matches!(op, Op::Transfer { .. }))),
            Entry::Ok { c, .. } | Entry::Resolved { c, present: true, .. }
                if open.remove(c) == Some(true) =>
            {
                legs += 2;
            }
            _ => {}
        }
    }
    for record in &mut world.image {
        if let Record::Table { table, rows, .. } = record
            && table == "ledger"
        {
            *rows = legs;
        }
    }
}

fn writers(world: &mut World) -> u32 {
    setup(world).writers
}

fn transfer() -> Op {
    Op::Transfer { dep: [0, 0], legs: [(1, -3), (2, 3)], crc: 77 }
}

/// What the load set up.
pub(crate) fn setup(world: &mut World) -> &mut Setup {
    match world.history.first_mut() {
        Some(Entry::Setup(setup)) => setup,
        _ => unreachable!("the first record is the setup"),
    }
}

/// The client that writes the rows of a follower.
pub(crate) fn follower(world: &mut World, name: &str) -> u32 {
    let setup = setup(world);
    let place = setup.followers.iter().position(|it| it.table == name).expect("a follower");
    setup.writers + 1 + u32::try_from(place).unwrap_or(u32::MAX)
}

/// Client 1 stops at the freeze and then sends one more transfer.
fn one_more(world: &mut World, sent: Nanos, acked: Option<Nanos>, there: bool) {
    settle(world, 1, world.times.f1);
    let n = counters(world)[0] + 1;
    send(world, 1, n, transfer(), sent, acked);
    if there {
        apply(world, 1, n, &transfer());
    }
}

pub(crate) fn lose_last_before_snapshot(world: &mut World) {
    let times = world.times;
    one_more(world, times.f1, Some(times.s0 - 1), false);
}

fn lose_acked_in_window(world: &mut World) {
    let times = world.times;
    one_more(world, times.f1, Some(times.s0), false);
}

fn from_the_future(world: &mut World) {
    one_more(world, world.times.s1 + 1, None, true);
}

fn sent_under_freeze(world: &mut World) {
    one_more(world, world.times.f1 + 1, None, true);
}

fn write_in_window(world: &mut World) {
    let times = world.times;
    one_more(world, times.s0 + 1, Some(times.t0 - 1), false);
}

/// Client 2 had read a transfer of client 1 that was never answered and is missing.
fn lose_unanswered_dependency(world: &mut World) {
    let f1 = world.times.f1;
    one_more(world, f1, None, false);
    let [read, own] = [counters(world)[0] + 1, counters(world)[1] + 1];
    settle(world, 2, f1);
    let op = Op::Transfer { dep: [1, read], legs: [(1, -3), (2, 3)], crc: 79 };
    send(world, 2, own, op.clone(), f1, None);
    apply(world, 2, own, &op);
}

/// Client 1's last transfer is missing although client 2 sent a later one, as
/// when two disks are cut at different instants.
fn cut_twice(world: &mut World) {
    let MarkTimes { f1, s0, .. } = world.times;
    one_more(world, f1, Some(s0 + 1), false);
    let own = counters(world)[1] + 1;
    settle(world, 2, f1);
    send(world, 2, own, transfer(), s0 + 2, None);
    apply(world, 2, own, &transfer());
}

/// The follower stops at the freeze and then sends one more row, after a transfer that is there.
fn one_more_row_of(world: &mut World, table: &str, sent: Nanos, acked: Option<Nanos>, there: bool) {
    let times = world.times;
    one_more(world, times.f1, Some(times.f1), true);
    let client = follower(world, table);
    settle(world, client, times.f1);
    let rows = world.image.iter().filter(|record| matches!(record, Record::Follow { c, .. } if *c == client));
    let n = u32::try_from(rows.count()).unwrap_or(u32::MAX) + 1;
    let op = Op::Follow { table: table.into(), of: [1, counters(world)[0]], crc: 78 };
    send(world, client, n, op.clone(), sent, acked);
    if there {
        apply(world, client, n, &op);
    }
}

fn one_more_row(world: &mut World, sent: Nanos, acked: Option<Nanos>, there: bool) {
    one_more_row_of(world, "nt", sent, acked, there);
}

fn row_under_freeze(world: &mut World) {
    one_more_row(world, world.times.f1 + 1, None, true);
}

fn row_in_window(world: &mut World) {
    let times = world.times;
    one_more_row(world, times.f1 + 1, Some(times.t0 - 1), true);
}

fn lose_late_row(world: &mut World) {
    let times = world.times;
    one_more_row(world, times.f1, Some(times.t0 - 1), false);
}

fn lose_everything(world: &mut World) {
    drop_records(world, |record| {
        matches!(
            record,
            Record::Leg { .. } | Record::Account { .. } | Record::Counter { .. } | Record::Follow { .. }
        )
    });
    for record in &mut world.image {
        if let Record::Index { primary, secondary, .. } = record {
            (*primary, *secondary) = ([0, 0], [0, 0]);
        }
    }
}

fn replayed<'a>(world: &'a mut World, name: &'a str) -> &'a mut Record {
    middle(
        world,
        move |record| matches!(record, Record::Table { of: ServerState::RolledForward, table, .. } if table == name),
    )
}

fn replay_skips(world: &mut World) {
    if let Record::Table { rows, .. } = replayed(world, "ledger") {
        *rows -= 2;
    }
}

fn replay_differs(world: &mut World) {
    if let Record::Table { checksum, .. } = replayed(world, "acct") {
        *checksum = Some(1);
    }
}

fn replay_loses_table(world: &mut World) {
    let lost = replayed(world, "acct").clone();
    drop_records(world, |record| *record == lost);
}

fn replay_adds_table(world: &mut World) {
    let table = "ddl_1".to_owned();
    insert(world, Record::Table { of: ServerState::RolledForward, table, rows: 0, checksum: Some(0) });
}

fn replay_gtid(world: &mut World) {
    for record in &mut world.image {
        if let Record::Gtid { of: ServerState::RolledForward, gtid } = record {
            *gtid = "0-1-1".into();
        }
    }
}

fn both_empty(world: &mut World) {
    for record in &mut world.image {
        if let Record::Table { rows, checksum, .. } = record {
            (*rows, *checksum) = (0, Some(0));
        }
    }
}

/// How many heartbeats a disk holds.
fn held<'a>(world: &'a mut World, name: &'a str) -> &'a mut u32 {
    match middle(world, move |record| matches!(record, Record::Heartbeats { disk, .. } if disk == name)) {
        Record::Heartbeats { count, .. } => count,
        _ => unreachable!("selected above"),
    }
}

fn lose_heartbeat(world: &mut World) {
    *held(world, "vda") -= 1;
    *held(world, "vdb") -= 1;
}

fn late_heartbeat(world: &mut World) {
    let (f1, t0) = (world.times.f1, world.times.t0);
    let last = *held(world, "vda");
    // The first one that the freeze held up was sent inside the window.
    for entry in &mut world.history {
        if let Entry::Heartbeat { t, disk, n, end } = entry
            && disk == "vda"
            && *n == last + 1
        {
            (*t, *end) = ((*t).max(f1 + 1), Some((*end).unwrap_or(t0).max(t0)));
        }
    }
    *held(world, "vda") += 1;
}

/// Every heartbeat that was ever requested is there.
fn future_heartbeat(world: &mut World) {
    let sent =
        world.history.iter().filter(|entry| matches!(entry, Entry::Heartbeat { disk, .. } if disk == "vda"));
    *held(world, "vda") = u32::try_from(sent.count()).unwrap_or(u32::MAX);
}

fn stray_disk(world: &mut World) {
    insert(world, Record::Heartbeats { disk: "vdc".into(), count: 1, rest: String::new() });
}

fn lose_and_hide(world: &mut World) {
    *held(world, "vda") = 0;
    drop_records(world, |record| matches!(record, Record::Heartbeats { disk, .. } if disk == "vdb"));
}

fn gtid_forgotten(world: &mut World) {
    for record in &mut world.image {
        if let Record::Gtid { of: ServerState::Restored, gtid } = record {
            gtid.clear();
        }
    }
}

/// The source and the replay agree, but lack transfers.
fn source_lacks(world: &mut World) {
    for record in &mut world.image {
        if let Record::Table { table, rows, .. } = record
            && table == "ledger"
        {
            // More are missing than were never answered.
            *rows /= 2;
        }
    }
}

/// The load ends with one more schema change than the image held.
fn one_more_step(world: &mut World, t: Nanos, end: Option<Nanos>, there: bool) {
    let held = schema_changes_held(world);
    cut_schema_changes(world, held);
    for entry in &mut world.history {
        if let Entry::SchemaChange { t: sent, end, .. } = entry {
            (*sent, *end) = ((*sent).min(t), end.map(|end| end.min(t)));
        }
    }
    let last = world.history.len() - 1;
    world.history.insert(last, Entry::SchemaChange { t, end, n: held + 1 });
    if there {
        set_schema_changes(world, held + 1);
    }
}

/// The load ends with one more bulk statement than the image held, of 100 rows,
/// of which so many are there.
fn one_more_statement(world: &mut World, t: Nanos, end: Option<Nanos>, rows: u64) {
    let held = world.image.iter().filter(|record| matches!(record, Record::Bulk { .. })).count();
    let n = u32::try_from(held + 1).unwrap_or(u32::MAX);
    world.history.retain(|entry| !matches!(entry, Entry::Bulk { n: other, .. } if *other >= n));
    for entry in &mut world.history {
        if let Entry::Bulk { t: sent, end, .. } = entry {
            (*sent, *end) = ((*sent).min(t), end.map(|end| end.min(t)));
        }
    }
    let last = world.history.len() - 1;
    world.history.insert(last, Entry::Bulk { t, end, n, rows: 100 });
    if rows > 0 {
        insert(world, Record::Bulk { n, rows, torn: 0 });
    }
}

/// The load ends with a heartbeat that is never answered.
fn unanswer_last(world: &mut World, name: &str, there: bool) {
    let count = *held(world, name);
    let kept = if there { count } else { count + 1 };
    world
        .history
        .retain(|entry| !matches!(entry, Entry::Heartbeat { disk, n, .. } if disk == name && *n > kept));
    for entry in &mut world.history {
        if let Entry::Heartbeat { disk, n, end, .. } = entry
            && disk == name
            && *n == kept
        {
            *end = None;
        }
    }
}

fn schema_changes_held(world: &World) -> u32 {
    let tables = world.image.iter().find_map(|record| match record {
        Record::DdlTables { tables } => Some(tables),
        _ => None,
    });
    (0..1000).find(|steps| Some(&ddl_tables(*steps)) == tables).expect("a possible state")
}

fn cut_schema_changes(world: &mut World, last: u32) {
    world.history.retain(|entry| !matches!(entry, Entry::SchemaChange { n, .. } if *n > last));
}

fn last_schema_change(world: &mut World) -> Option<&mut Entry> {
    world.history.iter_mut().rev().find(|entry| matches!(entry, Entry::SchemaChange { .. }))
}

fn set_schema_changes(world: &mut World, steps: u32) {
    for record in &mut world.image {
        if let Record::DdlTables { tables } = record {
            *tables = ddl_tables(steps);
        }
    }
}

fn lose_schema_change(world: &mut World) {
    let held = schema_changes_held(world);
    set_schema_changes(world, held - 2);
}

fn late_schema_change(world: &mut World) {
    let sent = world.history.iter().filter(|entry| matches!(entry, Entry::SchemaChange { .. })).count();
    set_schema_changes(world, u32::try_from(sent).unwrap_or(u32::MAX));
}

fn lose_bulk(world: &mut World) {
    let lost = copy_of(world, |record| matches!(record, Record::Bulk { .. }));
    drop_records(world, |record| *record == lost);
}

fn late_bulk(world: &mut World) {
    let last = world.history.iter().rev().find_map(|entry| match entry {
        Entry::Bulk { n, rows, .. } => Some((*n, *rows)),
        _ => None,
    });
    let (n, rows) = last.expect("bulk statements");
    insert(world, Record::Bulk { n, rows, torn: 0 });
}

fn stray_bulk(world: &mut World) {
    insert(world, Record::Bulk { n: 1_000_000, rows: 64, torn: 0 });
}

fn bulk_crashed(world: &mut World) {
    check(world, "bulk", false, "error: Table is marked as crashed");
}

fn is_of_a_cycle(entry: &Entry) -> bool {
    matches!(
        entry,
        Entry::Mark { .. }
            | Entry::Probe(_)
            | Entry::BlockStats { .. }
            | Entry::WalEnd { .. }
            | Entry::BackupModes { .. }
    )
}

/// The same entry so many nanoseconds before.
fn earlier(entry: &Entry, by: Nanos) -> Entry {
    let mut entry = entry.clone();
    match &mut entry {
        Entry::Mark { t, .. } | Entry::BlockStats { t, .. } | Entry::BackupModes { t, .. } => *t -= by,
        Entry::WalEnd { t, end, .. } => (*t, *end) = (*t - by, *end - by),
        Entry::Probe(probe) => {
            (probe.t, probe.end) = (probe.t - by, probe.end - by);
            probe.since = probe.since.map(|since| since - by);
        }
        _ => {}
    }
    entry
}

fn lose_row(world: &mut World) {
    let lost = copy_of(world, |record| matches!(record, Record::Follow { .. }));
    drop_records(world, |record| *record == lost);
}

fn stray_leg(c: u32, n: u32) -> Record {
    Record::Leg { c, n, leg: 0, dep: [0, 0], acct: 1, amt: 1, ver: 1, crc: 1, sum: 1 }
}

fn unknown_client(world: &mut World) {
    insert(world, stray_leg(u32::MAX, 1));
}

fn unsent_transfer(world: &mut World) {
    insert(world, stray_leg(1, u32::MAX));
}

fn unsent_row(world: &mut World) {
    insert(world, Record::Follow { table: "nt".into(), c: 6, n: 1_000_000, of: [1, 1], crc: 1, sum: 1 });
}

fn unknown_counter(world: &mut World) {
    insert(world, Record::Counter { c: 99, n: 1 });
}

/// The row of a probe that is there once more.
const UNSEEN_ROW: u32 = 900;

/// One more probe was sent before the thaw, and the host stood still.
fn unseen_probe(world: &mut World) {
    let sent = probes(world).find(|probe| probe.row.is_some()).expect("a probe with a row").clone();
    let t = world.times.t0 - 1;
    let answer = ProbeAnswer::Unseen;
    let unseen = Probe { t, end: t, since: None, round: Round::Thaw, row: Some(UNSEEN_ROW), answer, ..sent };
    let end = world.history.len() - 1;
    world.history.insert(end, Entry::Probe(unseen));
}

/// The probes of the window.
pub(crate) fn probes(world: &mut World) -> impl Iterator<Item = &mut Probe> {
    world.history.iter_mut().filter_map(|entry| match entry {
        Entry::Probe(probe) => Some(probe),
        _ => None,
    })
}

pub(crate) fn drop_probes(world: &mut World, which: impl Fn(&Probe) -> bool) {
    world.history.retain(|entry| !matches!(entry, Entry::Probe(probe) if which(probe)));
}

pub(crate) fn answer(world: &mut World, writes: ProbeAnswer, memory: ProbeAnswer) {
    for probe in probes(world) {
        let of_memory = probe.kind == ProbeKind::Memory;
        probe.answer = if of_memory { memory } else { writes };
        if !of_memory && !matches!(writes, ProbeAnswer::Locked | ProbeAnswer::Released) {
            probe.since = None;
        }
    }
}

pub(crate) fn answer_where(world: &mut World, what: ProbeAnswer, which: impl Fn(&Probe) -> bool) {
    for probe in probes(world).filter(|probe| which(probe)) {
        (probe.answer, probe.since) = (what, None);
    }
}

/// The lock that the first probes wait for ends, and the later ones wait for none.
fn release_lock(world: &mut World, at: Nanos) {
    for probe in probes(world).filter(|probe| probe.kind != ProbeKind::Memory) {
        match probe.round {
            Round::Snapshot => (probe.answer, probe.end) = (ProbeAnswer::Released, at.max(probe.t)),
            Round::Thaw => (probe.answer, probe.since) = (ProbeAnswer::Hung, None),
        }
        probe.since = probe.since.map(|since| since.min(probe.end));
    }
}

/// No server answers in the window, and what was on its disk is closed.
pub(crate) fn stop_server(world: &mut World) {
    drop_probes(world, |probe| probe.round == Round::Thaw);
    answer(world, ProbeAnswer::Gone, ProbeAnswer::Gone);
    set_server(world, |server| *server.recovered = Some(false));
    set_log_in_use(world, false);
    // Nothing but the disks' control file says so of a server with a write-ahead log.
    let f0 = world.times.f0;
    world.history.retain(|entry| !matches!(entry, Entry::WalEnd { end, .. } if *end > f0));
    for entry in &mut world.history {
        if let Entry::BackupModes { ended, .. } = entry {
            ended.clear();
        }
    }
    drop_records(world, |record| matches!(record, Record::WalPosition { .. }));
    set_shut_down(world, true);
}

pub(crate) fn set_shut_down(world: &mut World, cleanly: bool) {
    for record in &mut world.image {
        if let Record::Checkpoint { shut_down, .. } = record {
            *shut_down = cleanly;
        }
    }
}

fn set_log_in_use(world: &mut World, open: bool) {
    for record in &mut world.image {
        if let Record::BinlogEnd { in_use, .. } = record {
            *in_use = open;
        }
    }
}

/// Sets what the restored server's log contains.
pub(crate) struct Told<'a> {
    pub(crate) recovered: &'a mut Option<bool>,
    pub(crate) corruption: &'a mut Vec<String>,
}

pub(crate) fn set_server(world: &mut World, change: impl FnOnce(&mut Told<'_>)) {
    let server = middle(world, |record| matches!(record, Record::Server { .. }));
    let Record::Server { recovered, corruption, .. } = server else { unreachable!("selected above") };
    change(&mut Told { recovered, corruption });
}

pub(crate) fn set_directory(
    world: &mut World,
    what: Holds,
    change: impl Fn(&mut String, &mut Option<String>, &mut bool),
) {
    for entry in &mut world.history {
        if let Entry::Directory { holds, fs, on, reached, .. } = entry
            && *holds == what
        {
            change(fs, on, reached);
        }
    }
}

fn lose_row_of(world: &mut World, name: &str) {
    let lost = copy_of(world, |record| matches!(record, Record::Follow { table, .. } if table == name));
    drop_records(world, |record| *record == lost);
}

fn probes_done(world: &mut World) {
    answer(world, ProbeAnswer::Done, ProbeAnswer::Done);
}

fn probe_hangs(world: &mut World) {
    answer(world, ProbeAnswer::Hung, ProbeAnswer::Done);
}

fn last_count(world: &mut World) -> (&mut u64, &mut u64) {
    let counts = world.history.iter_mut().filter_map(|entry| match entry {
        Entry::BlockStats { writes, bytes, .. } => Some((writes, bytes)),
        _ => None,
    });
    counts.last().unwrap()
}

fn disk_is_loud(world: &mut World) {
    *last_count(world).0 += 100;
}

fn volume_left_out(world: &mut World) {
    replace_mark(world, Mark::FreezeOk, Mark::FreezeOk, "1");
    replace_mark(world, Mark::ThawOk, Mark::ThawOk, "1");
}

fn nothing_frozen(world: &mut World) {
    replace_mark(world, Mark::FreezeOk, Mark::FreezeOk, "0");
}

fn count_goes_backwards(world: &mut World) {
    *last_count(world).1 = 0;
}

fn lock_lost(world: &mut World) {
    let (s1, t0) = (world.times.s1, world.times.t0);
    for probe in probes(world).filter(|probe| probe.round == Round::Thaw) {
        (probe.answer, probe.since, probe.t, probe.end) = (ProbeAnswer::Done, None, s1, t0);
    }
}

fn late_probes(world: &mut World) {
    let after = world.times.t1;
    probes(world).for_each(|probe| probe.end = after);
}

pub(crate) fn replace_mark(world: &mut World, from: Mark, to: Mark, because: &str) {
    for entry in &mut world.history {
        if let Entry::Mark { mark, detail, .. } = entry
            && *mark == from
        {
            *mark = to;
            *detail = because.into();
        }
    }
}

fn drop_marks(world: &mut World, marks: &[Mark]) {
    world.history.retain(|entry| !matches!(entry, Entry::Mark { mark, .. } if marks.contains(mark)));
}

fn thaw_fails(world: &mut World) {
    replace_mark(world, Mark::ThawOk, Mark::ThawErr, "lock was NOT held until thaw");
}

fn freeze_failed(world: &mut World) {
    replace_mark(world, Mark::FreezeOk, Mark::FreezeErr, "hook: 1205 lock wait timeout\u{1b}[31m");
}

fn refuse(world: &mut World) {
    freeze_failed(world);
    drop_marks(world, &[Mark::SnapBegin, Mark::SnapEnd]);
}
