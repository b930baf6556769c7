//! Evidence that was taken away, weakened or moved in time: whatever needed it
//! never holds, and the top grade is never given.

use contract::finding::Status;
use contract::grade::Grade::{self, ApplicationConsistent, Unknown};
use contract::history::{
    Entry, Holds, Mark, Nanos, Op, Probe, ProbeAnswer, ProbeKind, Round, Schema, ToolStep,
};
use contract::observation::{Record, ServerState};
use contract::property::Property;

use crate::mutants::{
    client_of, drop_probes, drop_records, follower, mend_source, probes, send, settle, stop_server,
};
use crate::world::{Shape, World};

type Mutation = fn(&mut World);

/// A kind of record, by a name for people, and the properties that rest on it.
type Needed = (&'static str, &'static [Property]);

const MARKS: Needed = (
    "mark",
    &[Property::QuiescedDurability, Property::WindowSilence, Property::LockProbe, Property::LockIdentity],
);

/// What needs a record of the history. A new kind of record does not compile before it has its line here.
fn needed_by_entry(entry: &Entry) -> Needed {
    match entry {
        // Without these the rest is refused, or has operations that were never sent.
        Entry::Setup(_) => ("setup", &[Property::Starts, Property::LockProbe, Property::TableCheck]),
        Entry::Invoke { .. } => ("invoke", &[Property::NoFuture]),
        Entry::Ok { .. } => ("ok", &[Property::Durability]),
        Entry::Fail { .. } => ("fail", &[Property::Atomicity]),
        Entry::Unknown { .. } => ("unknown", &[Property::Durability]),
        Entry::Resolved { .. } => ("resolved", &[Property::Durability]),
        Entry::Guest { .. } => ("guest", &[Property::DiskSilence]),
        Entry::Directory { .. } => ("directory", &[Property::Starts]),
        Entry::Mark { .. } => MARKS,
        Entry::Probe(_) => ("probe", &[Property::LockProbe, Property::LockIdentity]),
        Entry::BlockStats { .. } => ("block_stats", &[Property::DiskSilence]),
        Entry::Heartbeat { .. } => ("heartbeat", &[Property::OutsideFiles]),
        Entry::SchemaChange { .. } => ("schema_change", &[Property::NoFuture]),
        Entry::Bulk { .. } => ("bulk", &[Property::NoFuture]),
        Entry::WalEnd { .. } => ("wal_end", &[Property::LockProbe, Property::LockIdentity]),
        Entry::BackupModes { .. } => ("backup_modes", &[Property::LockProbe, Property::LockIdentity]),
        Entry::AgentCommand(_) => {
            ("agent_command", &[Property::HeededFreeze, Property::HeededThaw, Property::ThawedGuest])
        }
        Entry::CopyInstant(_) => ("copy_instant", &[Property::CopyInstant]),
        Entry::DiskWrites(_) => ("disk_writes", &[Property::TracedSilence]),
        Entry::Tool { step } => match step {
            ToolStep::Version { .. } => ("version", &[]),
            // Without these the rest is refused, or there is no backup.
            ToolStep::Began { .. } => ("began", &[Property::HeededFreeze, Property::WholeRestore]),
            ToolStep::Ended { .. } => ("ended", &[Property::HeededFreeze, Property::HeededThaw]),
            ToolStep::Restored { .. } => ("restored", &[Property::WholeRestore]),
            ToolStep::Left { .. } => ("left", &[Property::ThawedGuest, Property::NothingLeft]),
            ToolStep::HandedBack { .. } => ("handed_back", &[Property::WholeRestore]),
            ToolStep::Image { .. } => ("image", &[Property::UntouchedImage]),
        },
        Entry::Cycle { .. } => ("cycle", &[]),
        Entry::End { .. } => ("end", &[]),
    }
}

/// What needs a record of the observation.
fn needed_by_record(record: &Record) -> Needed {
    match record {
        Record::FileSystem { .. } => ("file_system", &[Property::FilesystemClean]),
        Record::Fsck { .. } => ("fsck", &[Property::Starts]),
        Record::TableFile { .. } => ("table_file", &[Property::TablesClosed]),
        Record::TableFiles { .. } => ("table_files", &[Property::TablesClosed]),
        Record::Unreadable { .. } => ("unreadable", &[]),
        Record::BinlogTransfer { .. } => ("binlog_transfer", &[Property::BinlogAgreement]),
        Record::BinlogEnd { .. } => ("binlog_end", &[Property::BinlogAgreement, Property::RecordedPosition]),
        Record::BinlogError { .. } => ("binlog_error", &[]),
        Record::Position { .. } => ("position", &[Property::RecordedPosition]),
        Record::WalPosition { .. } => ("wal_position", &[Property::RecordedPosition]),
        Record::Checkpoint { .. } => ("checkpoint", &[Property::RecordedPosition]),
        Record::WalEnd { .. } => ("wal_end of the restored server", &[Property::RecordedPosition]),
        Record::Heartbeats { .. } => ("heartbeats", &[Property::OutsideFiles, Property::DiskAgreement]),
        Record::Server { .. } => {
            ("server", &[Property::Starts, Property::NoPreparedTransactions, Property::Durability])
        }
        Record::CheckTable { .. } => ("check_table", &[Property::TableCheck]),
        Record::Index { .. } => ("index", &[Property::IndexAgreement]),
        Record::MemoryRows { .. } => ("memory_rows", &[Property::FreshBoot]),
        Record::ProbeRows { .. } => ("probe_rows", &[Property::NoFutureStrict]),
        Record::Counter { .. } => ("counter", &[Property::ClientPrefix]),
        Record::Account { .. } => ("account", &[Property::Conservation]),
        Record::Leg { .. } => ("leg", &[Property::Conservation]),
        // Those of a table that a transaction protects are durable, the others are N1's.
        Record::Follow { table, .. } if table.ends_with("tx") => ("row", &[Property::Durability]),
        Record::Follow { .. } => ("row of no transaction", &[Property::NonTransactionalDurability]),
        Record::DdlTables { .. } => (
            "ddl_tables",
            &[Property::ClientPrefix, Property::Durability, Property::NoFuture, Property::RealTimeOrder],
        ),
        Record::Bulk { .. } => ("bulk", &[Property::NonTransactionalDurability]),
        Record::Gtid { of: ServerState::Restored, .. } => ("gtid", &[Property::RecordedPosition]),
        Record::Gtid { .. } => ("gtid of a roll-forward", &[Property::RollForward]),
        Record::Table { .. } => ("table", &[Property::RollForward]),
        Record::RollForward { .. } => ("roll_forward", &[Property::RollForward]),
        Record::TableError { .. } => ("table_error", &[]),
        Record::End => ("end", &[]),
    }
}

/// Not of a property that rests only on what no hook must provide, or that is about a tool's conduct: the top
/// grade stands without it.
fn is_owed(property: Property) -> bool {
    property.needed_for().is_some()
}

/// What is wrong when evidence is missing: a property that holds all the same, or the top grade.
fn hold_without(world: &World, name: &str, needed: &[Property]) -> Option<String> {
    // A history that no honest writer could have written is refused whole.
    let Ok(case) = world.case() else { return None };
    let judgement = judge::judge(&case);
    let holds = needed.iter().find(|property| judgement.properties[property] == Status::Holds);
    if let Some(property) =
        holds.filter(|_| judgement.grade != Unknown || !judgement.reason.contains("breaks off"))
    {
        return Some(format!("without {name} {property} still holds: {}", judgement.reason));
    }
    let top = judgement.grade == ApplicationConsistent && needed.iter().any(|it| is_owed(*it));
    if top {
        return Some(format!("without {name} the grade is {}", judgement.reason));
    }
    let reported = needed.iter().all(|property| {
        judgement.power.not_examined.contains_key(property)
            || judgement.properties[property] != Status::NotApplicable(String::new())
    });
    (!reported).then(|| format!("without {name} nothing reports what was not examined"))
}

#[test]
fn no_property_holds_without_any_kind_of_record_that_it_needs() {
    no_property_holds_without_what_it_needs(Shape::new);
}

pub(crate) fn no_property_holds_without_what_it_needs(shape: impl Fn(u64) -> Shape) {
    let mut wrong = Vec::new();
    for seed in 1..=3 {
        let world = World::new(&Shape { losing: 0, ..shape(seed) });
        let mut kinds: Vec<Needed> = world.history.iter().map(needed_by_entry).collect();
        kinds.extend(world.image.iter().map(needed_by_record));
        kinds.sort_unstable();
        kinds.dedup();
        assert!(kinds.len() > 30, "a right trial has nearly every kind of record: {kinds:?}");
        for (kind, needed) in kinds {
            let mut without = world.clone();
            without.history.retain(|entry| needed_by_entry(entry) != (kind, needed));
            without.image.retain(|record| needed_by_record(record) != (kind, needed));
            wrong.extend(hold_without(&without, &format!("`{kind}` (seed {seed})"), needed));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_property_holds_without_any_one_record_that_it_needs() {
    let world = World::new(&Shape { load_ms: 120, losing: 0, ..Shape::new(4) });
    assert_eq!(world.judge().grade, ApplicationConsistent);
    let mut wrong = Vec::new();
    for at in 0..world.image.len() {
        let mut without = world.clone();
        let record = without.image.remove(at);
        let (_, needed) = needed_by_record(&record);
        wrong.extend(hold_without(&without, &format!("{record:?}"), needed));
    }
    // One probe among others, one count among others: what is owed is more than one of a kind.
    for at in 0..world.history.len() {
        let (kind, needed) = needed_by_entry(&world.history[at]);
        if !["probe", "block_stats", "guest", "mark"].contains(&kind) {
            continue;
        }
        let mut without = world.clone();
        let entry = without.history.remove(at);
        // Each probe is of the first round or of the second, and the one in memory decides nothing.
        let needed: &[Property] = match &entry {
            Entry::Probe(Probe { kind: ProbeKind::Memory, .. }) => &[],
            Entry::Probe(Probe { round: Round::Thaw, .. }) => &[Property::LockIdentity],
            Entry::Probe(_) => &[Property::LockProbe],
            Entry::Mark { mark: Mark::ThawOk, .. } => &[Property::LockIdentity],
            Entry::Mark { mark: Mark::SnapEnd | Mark::SnapBegin, .. } => &[Property::Durability],
            _ => needed,
        };
        wrong.extend(hold_without(&without, &format!("{entry:?}"), needed));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn drop_directories(world: &mut World, which: impl Fn(Holds) -> bool) {
    world.history.retain(|entry| !matches!(entry, Entry::Directory { holds, .. } if which(*holds)));
}

fn drop_counts(world: &mut World, which: impl Fn(&str, Nanos) -> bool) {
    world.history.retain(|it| !matches!(it, Entry::BlockStats { disk, t, .. } if which(disk, *t)));
}

fn forget_detail(world: &mut World, of: Mark) {
    for entry in &mut world.history {
        if let Entry::Mark { mark, detail, .. } = entry
            && *mark == of
        {
            detail.clear();
        }
    }
}

/// What was weakened or moved: the property that must not hold any more.
pub(crate) const WEAKENED: &[(&str, Property, Mutation)] = &[
    ("probes answered as the freeze returned", Property::LockProbe, |world| {
        let f1 = world.times.f1;
        probes(world).for_each(|probe| {
            (probe.t, probe.end, probe.since) = (f1, f1 + 1, probe.since.and(Some(f1 + 1)));
        });
    }),
    ("probes polled before the snapshot only", Property::LockProbe, |world| {
        let s0 = world.times.s0;
        for probe in probes(world).filter(|probe| probe.round == Round::Snapshot) {
            (probe.end, probe.since) = (s0 - 1, probe.since.map(|since| since.min(s0 - 1)));
        }
    }),
    ("probes polled until the middle of the snapshot", Property::LockProbe, |world| {
        let s1 = world.times.s1;
        probes(world).filter(|probe| probe.round == Round::Snapshot).for_each(|probe| probe.end = s1 - 1);
    }),
    ("probes sent after the snapshot only", Property::LockProbe, |world| {
        let s1 = world.times.s1;
        for probe in probes(world) {
            probe.t = probe.t.max(s1 + 1);
            probe.since = probe.since.map(|since| since.max(s1 + 2));
            probe.end = probe.end.max(s1 + 3);
        }
    }),
    ("probes sent in the round of the thaw only", Property::LockProbe, |world| {
        drop_probes(world, |probe| probe.round == Round::Snapshot);
    }),
    ("probes of a MEMORY table only", Property::LockProbe, |world| {
        drop_probes(world, |probe| probe.kind != ProbeKind::Memory);
    }),
    ("probes of a MEMORY table only, refused", Property::LockProbe, |world| {
        drop_probes(world, |probe| probe.kind != ProbeKind::Memory);
        probes(world).for_each(|probe| probe.answer = ProbeAnswer::Locked);
    }),
    ("probes of rows only", Property::LockProbe, |world| {
        drop_probes(world, |probe| probe.kind == ProbeKind::Commit);
    }),
    ("no probe of rows", Property::LockProbe, |world| {
        drop_probes(world, |probe| probe.kind == ProbeKind::Row);
    }),
    ("no probe of the second schema's rows", Property::LockProbe, |world| {
        drop_probes(world, |probe| probe.kind == ProbeKind::Row && probe.schema == Schema::Second);
    }),
    ("probes in the load's schema only", Property::LockProbe, |world| {
        probes(world).for_each(|probe| probe.schema = Schema::Load);
    }),
    ("probes through one door only", Property::LockProbe, |world| {
        drop_probes(world, |probe| probe.door == 0);
    }),
    ("probes failed for one door", Property::LockProbe, |world| {
        for probe in probes(world).filter(|probe| probe.door == 0) {
            (probe.answer, probe.since) = (ProbeAnswer::Error, None);
        }
    }),
    ("probes refused by a time limit, never seen to wait", Property::LockProbe, |world| {
        probes(world).for_each(|probe| probe.since = None);
    }),
    ("no probe before the thaw", Property::LockIdentity, |world| {
        drop_probes(world, |probe| probe.round == Round::Thaw);
    }),
    ("no probe before the thaw through one door", Property::LockIdentity, |world| {
        drop_probes(world, |probe| probe.round == Round::Thaw && probe.door == 1);
    }),
    ("probes of the thaw sent before the snapshot", Property::LockIdentity, |world| {
        let s0 = world.times.s0;
        for probe in probes(world).filter(|probe| probe.round == Round::Thaw) {
            (probe.t, probe.since) = (s0 - 2, Some(s0 - 1));
        }
    }),
    ("the thaw reported no count", Property::LockIdentity, |world| forget_detail(world, Mark::ThawOk)),
    ("the freeze reported no count", Property::DiskSilence, |world| forget_detail(world, Mark::FreezeOk)),
    ("writes counted twice within a moment", Property::DiskSilence, |world| {
        let f1 = world.times.f1;
        for entry in &mut world.history {
            if let Entry::BlockStats { t, .. } = entry {
                *t = f1 + (*t - f1).min(10);
            }
        }
    }),
    ("writes counted after the snapshot only", Property::DiskSilence, |world| {
        let s1 = world.times.s1;
        drop_counts(world, |_, t| t < s1);
    }),
    ("writes of one of two disks counted", Property::DiskSilence, |world| {
        drop_counts(world, |disk, _| disk == "vdb");
    }),
    ("writes of one of two disks counted once", Property::DiskSilence, |world| {
        let s1 = world.times.s1;
        drop_counts(world, |disk, t| disk == "vdb" && t > s1);
    }),
    ("heartbeats were never answered", Property::OutsideFiles, |world| {
        for entry in &mut world.history {
            if let Entry::Heartbeat { end, .. } = entry {
                *end = None;
            }
        }
    }),
    ("heartbeats were never answered (X2)", Property::DiskAgreement, |world| {
        for entry in &mut world.history {
            if let Entry::Heartbeat { end, .. } = entry {
                *end = None;
            }
        }
    }),
    ("no heartbeats at all", Property::OutsideFiles, |world| {
        world.history.retain(|entry| !matches!(entry, Entry::Heartbeat { .. }));
        drop_records(world, |record| matches!(record, Record::Heartbeats { .. }));
    }),
    ("no heartbeats on one disk", Property::DiskAgreement, |world| {
        world.history.retain(|entry| !matches!(entry, Entry::Heartbeat { disk, .. } if disk == "vdb"));
        drop_records(world, |record| matches!(record, Record::Heartbeats { disk, .. } if disk == "vdb"));
    }),
    ("heartbeats of one disk not read", Property::OutsideFiles, |world| {
        drop_records(world, |record| matches!(record, Record::Heartbeats { disk, .. } if disk == "vdb"));
    }),
    ("raw state of the second disk not read", Property::FilesystemClean, |world| {
        drop_records(world, |record| matches!(record, Record::FileSystem { disk, .. } if disk == "vdb"));
    }),
    ("the second disk not checked", Property::Starts, |world| {
        drop_records(world, |record| matches!(record, Record::Fsck { disk, .. } if disk == "vdb"));
    }),
    ("a disk not readable", Property::TablesClosed, |world| {
        let unreadable = Record::Unreadable { path: "/dev/vdb".into(), detail: "bad superblock".into() };
        world.image.insert(0, unreadable);
    }),
    ("a table file not readable", Property::TablesClosed, |world| {
        let path = "/var/lib/mysql/shop/orders.MYI".into();
        drop_records(world, |record| matches!(record, Record::TableFile { table: None, .. }));
        world.image.insert(0, Record::Unreadable { path, detail: "a hole".into() });
    }),
    ("another's table file not read", Property::TablesClosed, |world| {
        drop_records(world, |record| matches!(record, Record::TableFile { table: None, .. }));
    }),
    ("indexes of some tables compared", Property::IndexAgreement, |world| {
        drop_records(world, |record| matches!(record, Record::Index { table, .. } if table == "second_tx"));
    }),
    ("one index of two compared", Property::IndexAgreement, |world| {
        drop_records(
            world,
            |it| matches!(it, Record::Index { table, index, .. } if table == "ledger" && index == "acct"),
        );
    }),
    ("index sums that cancel out", Property::IndexAgreement, |world| {
        for record in &mut world.image {
            if let Record::Index { primary, secondary, .. } = record {
                (primary[1], secondary[1]) = (0, 0);
            }
        }
    }),
    ("the second schema's tables not checked", Property::TableCheck, |world| {
        drop_records(
            world,
            |it| matches!(it, Record::CheckTable { table, .. } if table.starts_with("second")),
        );
    }),
    ("a table of the second schema not read to its end", Property::Durability, |world| {
        let error = "lost connection".into();
        world.image.insert(0, Record::TableError { table: "second_tx".into(), error, gone: false });
    }),
    ("binary log not readable", Property::BinlogAgreement, |world| {
        drop_records(world, |record| matches!(record, Record::BinlogTransfer { .. }));
        world.image.insert(
            0,
            Record::BinlogError {
                file: "binlog.000001".into(),
                error: "it is encrypted".into(),
                damaged: false,
            },
        );
    }),
    ("roll-forward compared for one table", Property::RollForward, |world| {
        drop_records(world, |record| matches!(record, Record::Table { table, .. } if table != "ledger"));
    }),
    ("roll-forward compared without GTIDs", Property::RollForward, |world| {
        drop_records(
            world,
            |record| matches!(record, Record::Gtid { of, .. } if *of != ServerState::Restored),
        );
    }),
    ("roll-forward compared without checksums", Property::RollForward, |world| {
        for record in &mut world.image {
            if let Record::Table { checksum, .. } = record {
                *checksum = None;
            }
        }
    }),
    ("position held against no GTIDs", Property::RecordedPosition, |world| {
        drop_records(world, |record| matches!(record, Record::Gtid { of: ServerState::Restored, .. }));
    }),
    ("a stopped server that may have recovered or not", Property::LockProbe, |world| {
        stop_server(world);
        for record in &mut world.image {
            if let Record::Server { recovered, .. } = record {
                *recovered = None;
            }
        }
    }),
    ("a log of the restored server's start that was not readable", Property::TableCheck, |world| {
        for record in &mut world.image {
            if let Record::Server { prepared, recovered, .. } = record {
                (*prepared, *recovered) = (None, None);
            }
        }
    }),
    (
        "prepared transactions counted in a log without messages of the engine",
        Property::NoPreparedTransactions,
        |world| {
            for record in &mut world.image {
                if let Record::Server { recovered, .. } = record {
                    *recovered = None;
                }
            }
        },
    ),
    ("where the data are is not known", Property::Starts, |world| drop_directories(world, |_| true)),
    ("where the redo log is is not known", Property::Starts, |world| {
        drop_directories(world, |holds| holds == Holds::Redo);
    }),
    ("where the undo log is is not known", Property::Starts, |world| {
        drop_directories(world, |holds| holds == Holds::Undo);
    }),
    ("where the binary logs are is not known", Property::Starts, |world| {
        drop_directories(world, |holds| holds == Holds::Binlogs);
    }),
    ("data on a disk that was not examined", Property::Starts, |world| {
        for entry in &mut world.history {
            if let Entry::Directory { on, .. } = entry {
                *on = Some("vdz".into());
            }
        }
    }),
    ("a directory of tables that cannot be listed", Property::TablesClosed, |world| {
        let path = "/var/lib/mysql/shop".into();
        world.image.insert(0, Record::Unreadable { path, detail: "too many tables".into() });
    }),
    ("one table file read twice in another's place", Property::TablesClosed, |world| {
        let mut files = world.image.iter_mut().filter_map(|record| match record {
            Record::TableFile { file, table: Some(_), .. } => Some(file),
            _ => None,
        });
        let first = files.next().cloned();
        drop(files);
        for record in &mut world.image {
            if let (Record::TableFile { file, table: None, .. }, Some(first)) = (record, &first) {
                file.clone_from(first);
            }
        }
    }),
    ("index sums over other rows than those read", Property::IndexAgreement, |world| {
        for record in &mut world.image {
            if let Record::Index { primary, secondary, .. } = record {
                (*primary, *secondary) = ([0, 5], [0, 5]);
            }
        }
    }),
    ("no row of one table was acknowledged", Property::NonTransactionalDurability, |world| {
        let idle = follower(world, "second_nt");
        world.history.retain(|entry| client_of(entry) != Some(idle));
        drop_records(world, |record| matches!(record, Record::Follow { table, .. } if table == "second_nt"));
    }),
    ("probes that name no row", Property::NoFutureStrict, |world| {
        probes(world).for_each(|probe| probe.row = None);
    }),
    ("the lock last seen long before the thaw", Property::LockIdentity, |world| {
        let thaw = world.times.t0;
        for entry in &mut world.history {
            match entry {
                Entry::Mark { t, .. }
                | Entry::BlockStats { t, .. }
                | Entry::BackupModes { t, .. }
                | Entry::End { t }
                    if *t >= thaw =>
                {
                    *t += 2_000_000_000;
                }
                _ => {}
            }
        }
    }),
    ("one COMMIT let go while others wait on", Property::LockIdentity, |world| {
        let let_go = world.times.s1 + 1;
        let first = |probe: &&mut Probe| probe.round == Round::Snapshot && probe.kind == ProbeKind::Commit;
        probes(world).filter(first).for_each(|probe| probe.end = let_go + 1);
        let one = probes(world).find(first).expect("a COMMIT");
        (one.answer, one.end) = (ProbeAnswer::Released, let_go);
    }),
    ("heartbeats that ended long before the freeze", Property::OutsideFiles, one_early_heartbeat),
    ("heartbeats that ended long before the freeze (X2)", Property::DiskAgreement, one_early_heartbeat),
    ("roll-forward from a position that is not known", Property::RollForward, |world| {
        drop_records(world, |record| matches!(record, Record::Position { .. }));
    }),
    ("roll-forward compared with empty GTIDs", Property::RollForward, |world| {
        for record in &mut world.image {
            if let Record::Gtid { gtid, .. } = record {
                gtid.clear();
            }
        }
    }),
    ("roll-forward compared with a follower that lost its rows", Property::RollForward, |world| {
        for record in &mut world.image {
            if let Record::Table { table, rows, .. } = record
                && table == "nt"
            {
                *rows = 0;
            }
        }
    }),
    ("a table of the probes that cannot be read", Property::NoFutureStrict, |world| {
        cut_table(world, "probe_nt");
    }),
    ("a table of the probes that cannot be read (F)", Property::NoFuture, |world| {
        cut_table(world, "probe_nt");
    }),
    ("a follower that cannot be read", Property::NoFuture, |world| cut_table(world, "nt")),
    ("the bulk table that cannot be read", Property::Atomicity, |world| cut_table(world, "bulk")),
    ("two probes that write one row", Property::NoFutureStrict, |world| {
        for probe in probes(world) {
            probe.row = probe.row.map(|_| 1);
        }
    }),
    ("a row of a probe that had not been sent", Property::NoFuture, |world| {
        for record in &mut world.image {
            if let Record::ProbeRows { rows } = record {
                rows.push(9_999);
            }
        }
    }),
    ("a lock, and the log of a server that was stopped", Property::LockProbe, |world| {
        for record in &mut world.image {
            if let Record::BinlogEnd { in_use, .. } = record {
                *in_use = false;
            }
        }
    }),
    ("one acknowledgement without versions", Property::VersionOrder, |world| {
        let first = world.history.iter_mut().find_map(|entry| match entry {
            Entry::Ok { ver: ver @ Some(_), .. } => Some(ver),
            _ => None,
        });
        *first.expect("an acknowledgement") = None;
    }),
    ("one acknowledgement of the version 0", Property::VersionOrder, |world| {
        let first = world.history.iter_mut().find_map(|entry| match entry {
            Entry::Ok { ver: Some(ver), .. } => Some(ver),
            _ => None,
        });
        first.expect("an acknowledgement")[1] = 0;
    }),
    ("a disk whose later heartbeats were never answered", Property::DiskAgreement, |world| {
        let kept = world.image.iter().find_map(|record| match record {
            Record::Heartbeats { disk, count, .. } if disk == "vdb" => Some(*count),
            _ => None,
        });
        let kept = kept.expect("heartbeats of vdb");
        world
            .history
            .retain(|entry| !matches!(entry, Entry::Heartbeat { disk, n, .. } if disk == "vdb" && *n > kept));
        if let Some(Entry::End { t }) = world.history.last_mut() {
            *t += 9_000_000_000;
        }
    }),
    ("an index summed up over no account", Property::IndexAgreement, |world| {
        if let Some(Entry::Setup(setup)) = world.history.first_mut() {
            let table = setup.tables.iter_mut().find(|table| table.table == "acct").expect("the accounts");
            table.indexes.push("bal".into());
        }
        let last = world.image.len() - 1;
        let index =
            Record::Index { table: "acct".into(), index: "bal".into(), primary: [0, 0], secondary: [0, 0] };
        world.image.insert(last, index);
    }),
    ("a replay compared without the accounts' rows", Property::RollForward, |world| {
        rows_of(world, "acct", 0);
    }),
    ("a replay compared without the counters' rows", Property::RollForward, |world| rows_of(world, "cl", 0)),
    ("a replay compared without the bulk rows", Property::RollForward, |world| rows_of(world, "bulk", 0)),
    ("a position without its GTIDs", Property::RecordedPosition, |world| {
        for record in &mut world.image {
            if let Record::Position { gtid, .. } = record {
                gtid.clear();
            }
        }
    }),
    ("disks counted long after the freeze had returned", Property::DiskSilence, |world| {
        later(world, 3_000_000_000);
        for entry in &mut world.history {
            if let Entry::Mark { t, mark: Mark::FreezeCall | Mark::FreezeOk, .. } = entry {
                *t -= 2_500_000_000;
            }
        }
    }),
    ("a freeze that reached fewer file systems than the image has", Property::DiskSilence, |world| {
        for entry in &mut world.history {
            match entry {
                Entry::Guest { volumes, .. } => *volumes = None,
                Entry::Mark { mark: Mark::FreezeOk | Mark::ThawOk, detail, .. } => *detail = "1".into(),
                _ => {}
            }
        }
    }),
    ("a stopped server, and a thaw that found nothing frozen", Property::DiskSilence, |world| {
        stop_server(world);
        for entry in &mut world.history {
            if let Entry::Mark { mark: Mark::ThawOk, detail, .. } = entry {
                *detail = "0".into();
            }
        }
    }),
    ("a stopped server, and a thaw that does not report what it found", Property::DiskSilence, |world| {
        stop_server(world);
        forget_detail(world, Mark::ThawOk);
    }),
    ("what the freeze must reach is not known", Property::DiskSilence, |world| {
        world.history.retain(|entry| !matches!(entry, Entry::Guest { .. }));
    }),
];

#[test]
fn weakened_evidence_proves_nothing() {
    println!("{:<58} not examined", "weakened");
    let mut wrong = Vec::new();
    for (name, property, weaken) in WEAKENED {
        for seed in 1..=3 {
            let mut world = World::new(&Shape::new(seed));
            weaken(&mut world);
            let judgement = world.judge();
            let status = &judgement.properties[property];
            let top = judgement.grade == ApplicationConsistent && is_owed(*property);
            if *status == Status::Holds || top {
                wrong.push(format!("{name}, seed {seed}: {property} {status}; {}", judgement.reason));
            }
            if seed == 1 {
                println!("{name:<58} {:<3} {status}", property.id());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Trials in which nothing is wrong, and nothing was under way that could have shown it.
const POWERLESS: &[(&str, &str, Mutation)] = &[
    ("nothing in flight", "no transfer was in flight", |world| all_end_before(world, world.times.f1)),
    (
        "a follower that never wrote",
        "no row of `second_tx` was acknowledged shortly before the freeze",
        |world| never_writes(world, "second_tx"),
    ),
    ("nothing sent for two seconds", "no transfer was acknowledged for", |world| {
        all_end_before(world, world.times.f1);
        later(world, 3_000_000_000);
    }),
];

/// A follower never wrote a row.
fn never_writes(world: &mut World, name: &str) {
    let client = follower(world, name);
    world.history.retain(|entry| client_of(entry) != Some(client));
    drop_records(world, |record| matches!(record, Record::Follow { table, .. } if table == name));
    rows_of(world, name, 0);
    for record in &mut world.image {
        if let Record::Index { table, primary, secondary, .. } = record
            && table == name
        {
            (*primary, *secondary) = ([0, 0], [0, 0]);
        }
    }
}

/// The server says that a table cannot be read.
fn cut_table(world: &mut World, table: &str) {
    let last = world.image.len() - 1;
    let error = Record::TableError { table: table.into(), error: "crashed".into(), gone: false };
    world.image.insert(last, error);
}

/// Source and replay are both read with so many rows of a table.
fn rows_of(world: &mut World, name: &str, count: u64) {
    for record in &mut world.image {
        if let Record::Table { table, rows, .. } = record
            && table == name
        {
            *rows = count;
        }
    }
}

/// The load ends before the freeze, and everything that it sent is there.
fn all_end_before(world: &mut World, t: Nanos) {
    let clients = match &world.history[0] {
        Entry::Setup(setup) => setup.writers + u32::try_from(setup.followers.len()).unwrap_or(u32::MAX),
        _ => unreachable!("the first record is the setup"),
    };
    for client in 1..=clients {
        settle(world, client, t);
    }
    mend_source(world);
}

/// Each disk has one heartbeat, six seconds and more before the freeze.
fn one_early_heartbeat(world: &mut World) {
    world.history.retain(|entry| !matches!(entry, Entry::Heartbeat { n, .. } if *n > 1));
    for record in &mut world.image {
        if let Record::Heartbeats { count, .. } = record {
            *count = 1;
        }
    }
    later(world, 6_000_000_000);
}

/// Everything from the freeze on comes so much later.
fn later(world: &mut World, by: Nanos) {
    let from = world.times.f0;
    for entry in &mut world.history {
        match entry {
            Entry::Mark { t, .. } | Entry::BlockStats { t, .. } | Entry::BackupModes { t, .. } => *t += by,
            Entry::WalEnd { t, end, .. } => (*t, *end) = (*t + by, *end + by),
            Entry::Probe(probe) => {
                (probe.t, probe.end) = (probe.t + by, probe.end + by);
                probe.since = probe.since.map(|since| since + by);
            }
            Entry::Heartbeat { t, end, .. }
            | Entry::SchemaChange { t, end, .. }
            | Entry::Bulk { t, end, .. } => {
                let shift = |t: Nanos| if t > from { t + by } else { t };
                (*t, *end) = (shift(*t), end.map(shift));
            }
            Entry::End { t } => *t += by,
            _ => {}
        }
    }
}

#[test]
fn without_power_the_grade_is_unknown_and_says_why() {
    for (name, why, mutate) in POWERLESS {
        for seed in 1..=3 {
            let mut world = World::new(&Shape { losing: 0, failing: 0, ..Shape::new(seed) });
            mutate(&mut world);
            let judgement = world.judge();
            assert_eq!(
                judgement.grade, Unknown,
                "{name}, seed {seed}: {} {:#?}",
                judgement.reason, judgement.findings
            );
            assert!(judgement.reason.contains(why), "{name}, seed {seed}: {}", judgement.reason);
        }
    }
}

#[test]
fn transfers_that_are_only_read_back_prove_nothing() {
    let mut unnamed = 0;
    for seed in 1..200 {
        let shape = Shape { writers: 1, followers: Vec::new(), losing: 100, ..Shape::new(seed) };
        let judgement = World::new(&shape).judge();
        assert_eq!(judgement.grade, Unknown, "seed {seed}: {}", judgement.reason);
        assert!(judgement.findings.is_empty(), "seed {seed}: {:#?}", judgement.findings);
        unnamed += u32::from(judgement.reason.contains("no acknowledgement named the versions"));
    }
    assert!(unnamed > 0, "in none of these trials was a transfer read back");
}

/// Of all that is written to one table alone may stay locked after the thaw.
#[test]
fn one_way_that_stays_blocked_is_not_resumed() {
    for (patience, resumed) in [(9, true), (12, false)] {
        let mut world = World::new(&Shape { losing: 0, ..Shape::new(1) });
        let times = world.times;
        let client = follower(&mut world, "second_nt");
        settle(&mut world, client, times.f1);
        let n = world
            .history
            .iter()
            .filter(|entry| matches!(entry, Entry::Invoke { c, .. } if *c == client))
            .count();
        let op = Op::Follow { table: "second_nt".into(), of: [1, 1], crc: 7 };
        send(&mut world, client, n as u32 + 1, op, times.f1, None);
        if let Some(Entry::End { t }) = world.history.last_mut() {
            *t = times.t1 + patience * 1_000_000_000;
        }
        assert_eq!(world.judge().resumed, Some(resumed), "{patience} s");
    }
}

#[test]
fn a_top_grade_names_its_power() {
    let judgement = World::new(&Shape { losing: 0, ..Shape::new(1) }).judge();
    assert_eq!(judgement.grade, Grade::ApplicationConsistent);
    let power = &judgement.power;
    assert!(power.transfers_in_flight > 0 && power.in_flight >= power.transfers_in_flight);
    assert_eq!(power.in_flight, power.in_flight_by.values().sum::<u64>());
    assert_eq!(power.probes_over_snapshot, 2);
    assert!(power.resolution_ms.is_some_and(|ms| (1.0..200.0).contains(&ms)), "{:?}", power.resolution_ms);
    assert!(power.silence_ms.is_some_and(|ms| ms < 100.0));
    assert!(power.not_examined.is_empty(), "{:?}", power.not_examined);
    let expected = format!("{} writes in flight through", power.in_flight);
    assert!(judgement.reason.contains(&expected), "{}", judgement.reason);
    assert!(
        judgement.reason.contains("2 COMMITs waited for the server's lock until the thaw"),
        "{}",
        judgement.reason
    );
}
