//! Trials that are right by construction: a small model of a database under
//! load, frozen, snapshotted and restored, from a seed.
//!
//! The judge's own tests plant defects in them, and benchmarks make them long;
//! only the operations in flight and the accounts are kept in memory.

mod tool;

use std::collections::BTreeMap;
use std::path::Path;

use contract::history::{
    self, AgentCommand, CopyInstant, DiskWrites, Entry, Follower, Holds, Lsn, Mark, Nanos, Op, Probe,
    ProbeAnswer, ProbeKind, Quiescence, Round, Schema, Setup, Table, ToolStep, ddl_tables,
};
use contract::jsonl::{self, Writer};
use contract::observation::{self, Record, ServerState};

const MS: Nanos = 1_000_000;

/// The balance with which every account starts.
const OPENING: i64 = 1_000;

/// The rows of a bulk statement.
const BULK_ROWS: u64 = 64;

/// What the sums of every index come to.
pub const SUM: u64 = 0x1234;

/// The ways to the server.
const DOORS: [&str; 2] = ["tcp", "socket-admin"];

/// The disks, each with one file system.
const DISKS: [&str; 2] = ["vda", "vdb"];

/// What kind of trial to make.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The same seed makes the same trial.
    pub seed: u64,
    /// How many clients write.
    pub writers: u32,
    /// How many accounts there are.
    pub accounts: u32,
    /// The tables whose rows follow transfers.
    pub followers: Vec<Follower>,
    /// How long the clients run, milliseconds.
    pub load_ms: u64,
    /// When the freeze is called, out of a hundred parts of the load.
    pub freeze_at: u64,
    /// How many transfers are rolled back, out of a hundred.
    pub failing: u64,
    /// How many transfers lose their connection, out of a hundred.
    pub losing: u64,
    /// Freeze, or take the snapshot of the running guest.
    pub freeze: bool,
    /// The freeze holds a lock, or backup mode, until the thaw. Otherwise it only claims to.
    pub held: bool,
    /// Which of the two: a server like MySQL or like PostgreSQL.
    pub quiescence: Quiescence,
    /// A backup tool froze the guest and copied its disks.
    pub tool: bool,
}

impl Shape {
    /// A short trial with a bit of everything.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            writers: 5,
            accounts: 12,
            followers: followers(),
            load_ms: 400,
            freeze_at: 50,
            failing: 6,
            losing: 4,
            freeze: true,
            held: true,
            quiescence: Quiescence::Lock,
            tool: false,
        }
    }

    /// The same of a server like PostgreSQL.
    pub fn postgresql(seed: u64) -> Self {
        Self {
            writers: 8,
            followers: postgresql_followers(),
            quiescence: Quiescence::BackupMode,
            ..Self::new(seed)
        }
    }

    /// The storage engine of the tables that a transaction protects.
    fn engine(&self) -> &'static str {
        if self.quiescence.is_lock() { "InnoDB" } else { "heap" }
    }
}

/// One table of each kind: two that no transaction protects, one that it does, in both schemas.
pub fn followers() -> Vec<Follower> {
    vec![
        follower("nt", "MyISAM", Schema::Load, 0),
        follower("ar", "Aria", Schema::Load, 0),
        follower("second_tx", "InnoDB", Schema::Second, 1),
        follower("second_nt", "MyISAM", Schema::Second, 1),
    ]
}

/// The tables of PostgreSQL, which transactions protect, in both schemas.
pub fn postgresql_followers() -> Vec<Follower> {
    vec![follower("tx", "heap", Schema::Load, 0), follower("second_tx", "heap", Schema::Second, 1)]
}

fn follower(table: &str, engine: &str, schema: Schema, door: u8) -> Follower {
    Follower {
        table: table.into(),
        engine: engine.into(),
        transactional: matches!(engine, "InnoDB" | "heap"),
        schema,
        door,
        indexes: vec!["crc".into()],
    }
}

/// When a trial crossed its marks: F0, F1, S0, S1, T0, T1.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the names are the judge's")]
pub struct MarkTimes {
    pub f0: Nanos,
    pub f1: Nanos,
    pub s0: Nanos,
    pub s1: Nanos,
    pub t0: Nanos,
    pub t1: Nanos,
}

/// Takes the records of both logs in the order in which they happen.
pub trait Logs {
    /// Why a record could not be taken.
    type Error;
    /// Takes the next entry of the history.
    fn entry(&mut self, entry: Entry) -> Result<(), Self::Error>;
    /// Takes the next record of the observation.
    fn record(&mut self, record: Record) -> Result<(), Self::Error>;
}

/// The two logs of a trial directory.
#[derive(Debug)]
pub struct LogFiles {
    history: Writer<Entry>,
    observation: Writer<Record>,
}

impl LogFiles {
    /// Creates both in a directory.
    pub fn create(dir: &Path) -> Result<Self, jsonl::Error> {
        Ok(Self {
            history: Writer::create(&dir.join(history::FILE), history::KIND)?,
            observation: Writer::create(&dir.join(observation::FILE), observation::KIND)?,
        })
    }

    /// Hands everything written so far to the operating system.
    pub fn flush(&mut self) -> Result<(), jsonl::Error> {
        self.history.flush()?;
        self.observation.flush()
    }
}

impl Logs for LogFiles {
    type Error = jsonl::Error;

    fn entry(&mut self, entry: Entry) -> Result<(), jsonl::Error> {
        self.history.write(&entry)
    }

    fn record(&mut self, record: Record) -> Result<(), jsonl::Error> {
        self.observation.write(&record)
    }
}

/// SplitMix64: small, and the same on every machine.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "an endless source is no iterator to its callers")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True in `n` of a hundred cases.
    pub fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    fn between(&mut self, low: Nanos, high: Nanos) -> Nanos {
        low + self.below(high - low)
    }
}

impl MarkTimes {
    fn choose(shape: &Shape, random: &mut Random, start: Nanos) -> (Self, Nanos) {
        let f0 = start + shape.load_ms * MS / 100 * shape.freeze_at;
        let lock = f0 + random.between(4 * MS, 12 * MS);
        let f1 = lock + random.between(MS, 4 * MS);
        let s0 = f1 + random.between(20 * MS, 30 * MS);
        let s1 = s0 + random.between(5 * MS, 10 * MS);
        let t0 = s1 + random.between(4 * MS, 20 * MS);
        let t1 = t0 + random.between(2 * MS, 6 * MS);
        (Self { f0, f1, s0, s1, t0, t1 }, lock)
    }

    /// What the harness writes into the history.
    fn entries(&self, shape: &Shape) -> Vec<Entry> {
        let Self { f0, f1, s0, s1, t0, t1 } = *self;
        let mark = |t, mark, detail: &str| Entry::Mark { t, mark, detail: detail.into() };
        let mut entries = vec![mark(s0, Mark::SnapBegin, ""), mark(s1, Mark::SnapEnd, "")];
        if shape.freeze {
            entries.extend([
                mark(f0, Mark::FreezeCall, ""),
                mark(f1, Mark::FreezeOk, "2"),
                mark(t0, Mark::ThawCall, ""),
                mark(t1, Mark::ThawOk, "2"),
            ]);
            for disk in DISKS {
                let written = |t, writes, bytes| Entry::BlockStats { t, disk: disk.into(), writes, bytes };
                entries.extend([written(f1 + 5, 900, 14_000_000), written(t0 - 5, 902, 14_008_192)]);
            }
            entries.extend(self.probes(shape).into_iter().map(Entry::Probe));
            if !shape.quiescence.is_lock() {
                entries.extend(self.wal(shape));
            }
        }
        if shape.tool {
            entries.extend(tool::beside([f0, f1, s0, s1, t0, t1], shape.freeze, &DISKS));
        }
        entries
    }

    /// What the write-ahead log shows of the window.
    fn wal(&self, shape: &Shape) -> [Entry; 4] {
        let Self { f0, f1, t0, t1, .. } = *self;
        let Wal { called, start, frozen, thaw, end, .. } = Wal::of(shape);
        let wal_end = |t, end, lsn| Entry::WalEnd { t, end, lsn };
        [
            wal_end(f0 - 3 * MS, f0 - MS, called),
            wal_end(f1 + 20, f1 + MS, frozen),
            wal_end(t0 - MS, t0 - 5, thaw),
            Entry::BackupModes {
                t: t1 + MS,
                from: called,
                to: end + 16_384,
                ended: if shape.held { vec![[start, end]] } else { Vec::new() },
            },
        ]
    }
}

/// Positions in the write-ahead log, in their order.
struct Wal {
    /// Where it ended before the freeze was called.
    called: Lsn,
    /// Where backup mode began.
    start: Lsn,
    /// Up to where it was flushed then.
    flushed: Lsn,
    /// Where it ended when the freeze had returned, and before the thaw was called.
    frozen: Lsn,
    thaw: Lsn,
    /// Where the record of the end of backup mode lies.
    end: Lsn,
}

impl Wal {
    fn of(shape: &Shape) -> Self {
        let random = &mut Random(!shape.seed);
        let mut last = 0x300_0000;
        // Nothing may have been written from one to the next.
        let mut next = |least, most| {
            last += least + 8 * random.below(most);
            last
        };
        Self {
            called: next(0, 9_000),
            start: next(0, 3),
            flushed: next(160, 900),
            frozen: next(0, 90),
            thaw: next(0, 9),
            end: next(0, 3),
        }
    }
}

impl MarkTimes {
    /// Everything waits for the lock, or the frozen file system, from before the snapshot until just
    /// before the thaw.
    fn probes(&self, shape: &Shape) -> Vec<Probe> {
        let Self { f1, s0, s1, t0, .. } = *self;
        let mut row = 0;
        let mut locked = |round, door, schema, kind| {
            row += 1;
            let (t, since) = match round {
                Round::Snapshot => (f1 + 10, s0 - 20),
                Round::Thaw => (s1 + 10, t0 - 20),
            };
            let (since, answer) = match shape.quiescence {
                Quiescence::Lock => (Some(since), ProbeAnswer::Locked),
                Quiescence::BackupMode => (None, ProbeAnswer::Hung),
            };
            Probe { t, end: t0 - 10, since, round, door, schema, kind, row: Some(row), answer, code: None }
        };
        let mut probes = Vec::new();
        for (door, schema) in [(0, Schema::Load), (1, Schema::Second)] {
            probes.push(locked(Round::Snapshot, door, schema, ProbeKind::Commit));
            if shape.followers.iter().any(|it| it.schema == schema && !it.transactional) {
                probes.push(locked(Round::Snapshot, door, schema, ProbeKind::Row));
            }
            probes.push(locked(Round::Thaw, door, schema, ProbeKind::Commit));
        }
        let memory = locked(Round::Snapshot, 0, Schema::Load, ProbeKind::Memory);
        probes.push(Probe { end: s0 - 10, since: None, row: None, answer: ProbeAnswer::Done, ..memory });
        probes
    }
}

/// What the load sets up.
fn set_up(shape: &Shape) -> Setup {
    let table = |name: &str, engine: &str, indexes: &[&str]| Table {
        table: name.into(),
        engine: engine.into(),
        indexes: indexes.iter().map(|&index| index.into()).collect(),
    };
    let (engine, by_lock) = (shape.engine(), shape.quiescence.is_lock());
    let mut tables =
        vec![table("ledger", engine, &["rnd", "acct"]), table("acct", engine, &[]), table("cl", engine, &[])];
    tables.extend(by_lock.then(|| table("bulk", "MyISAM", &[])));
    Setup {
        writers: shape.writers,
        accounts: shape.accounts,
        opening_balance: OPENING,
        doors: DOORS.map(String::from).to_vec(),
        followers: shape.followers.clone(),
        tables,
        disks: DISKS.map(String::from).to_vec(),
        file_systems: DISKS.map(String::from).to_vec(),
        binlog: by_lock,
        quiescence: shape.quiescence,
        tool: shape.tool,
    }
}

/// Makes a trial. Entries come in the order of their times, records in any.
#[expect(clippy::too_many_lines, reason = "one trial from its first record to its last")]
pub fn make<L: Logs>(shape: &Shape, logs: &mut L) -> Result<MarkTimes, L::Error> {
    let random = &mut Random(shape.seed);
    let start = 1_000 * MS;
    let (times, lock) = MarkTimes::choose(shape, random, start);
    let MarkTimes { f0, s0, s1, t0, t1, .. } = times;
    let locked = shape.freeze && shape.held;
    let live = random.between(s0, s1);
    let cut = if locked { lock } else { live };
    let load_ends = start + shape.load_ms * MS + (t1 - f0);

    logs.entry(Entry::Setup(set_up(shape)))?;
    logs.entry(Entry::Guest { t: start, os: "debian".into(), volumes: Some(2) })?;
    let by_lock = shape.quiescence.is_lock();
    let directories: &[_] = match shape.quiescence {
        Quiescence::Lock => &[
            (Holds::Data, "/var/lib/mysql", "vda"),
            (Holds::Redo, "/var/lib/mysql-redo", "vda"),
            (Holds::Undo, "/var/lib/mysql", "vda"),
            (Holds::Binlogs, "/srv/binlog", "vdb"),
        ],
        Quiescence::BackupMode => {
            &[(Holds::Data, "/var/lib/postgresql", "vda"), (Holds::Redo, "/srv/pg_wal", "vdb")]
        }
    };
    for &(holds, path, on) in directories {
        logs.entry(Entry::Directory {
            t: start,
            holds,
            path: path.into(),
            fs: "ext4".into(),
            on: Some(on.into()),
            reached: true,
        })?;
    }
    let mut db = ModelDatabase::new(shape);
    let mut clients: Vec<ModelClient> = Vec::new();
    for at in 0..shape.writers as usize {
        let client = ModelClient::default();
        let begin = start + random.below(2 * MS);
        let next = Some(client.plan(shape, random, &db, at, begin));
        clients.push(ModelClient { next, ..client });
    }
    // The followers wait for something to follow.
    clients.extend(shape.followers.iter().map(|_| ModelClient::default()));
    // What was seen and is not written yet, because something earlier may follow.
    let mut recorded: BTreeMap<(Nanos, u64), Entry> = BTreeMap::new();
    let mut number = 0;
    let mut record = |recorded: &mut BTreeMap<_, _>, entry: Entry| {
        number += 1;
        recorded.insert((time(&entry), number), entry);
    };
    times.entries(shape).into_iter().for_each(|entry| record(&mut recorded, entry));

    // What runs beside the clients: a disk stops when it is frozen, the rest when the lock is taken.
    let frozen = if shape.freeze { random.between(lock, times.f1) } else { live };
    for disk in DISKS {
        let beats = Side::run(random, [start, load_ends], shape.freeze.then_some([frozen, t0]), 20 * MS);
        let count = Side::before(&beats, frozen);
        logs.record(Record::Heartbeats { disk: disk.into(), count, rest: String::new() })?;
        for Side { n, sent: t, answered, .. } in beats {
            record(&mut recorded, Entry::Heartbeat { t, end: Some(answered), disk: disk.into(), n });
        }
    }
    let steps = Side::run(random, [start, load_ends], locked.then_some([lock, t0]), 30 * MS);
    logs.record(Record::DdlTables { tables: ddl_tables(Side::before(&steps, cut)) })?;
    for Side { n, sent: t, answered, .. } in steps {
        record(&mut recorded, Entry::SchemaChange { t, end: Some(answered), n });
    }
    let statements = match by_lock {
        true => Side::run(random, [start, load_ends], locked.then_some([lock, t0]), 40 * MS),
        false => Vec::new(),
    };
    for n in 1..=Side::before(&statements, cut) {
        logs.record(Record::Bulk { n, rows: BULK_ROWS, torn: 0 })?;
    }
    for Side { n, sent: t, answered, .. } in statements {
        db.bulk += BULK_ROWS;
        record(&mut recorded, Entry::Bulk { t, end: Some(answered), n, rows: BULK_ROWS });
    }

    let mut image_is_made = false;
    // In the order in which operations take effect.
    while let Some((at, mut pending)) = take_earliest(&mut clients) {
        if locked && pending.effect >= lock && pending.effect < t0 {
            // Waits for the lock.
            let later = t0 + 1 + random.below(3 * MS);
            pending.answered += later - pending.effect;
            pending.effect = later;
            clients[at].next = Some(pending);
            continue;
        }
        if pending.effect >= cut && !image_is_made {
            db.image(shape, logs)?;
            image_is_made = true;
        }
        let is_kept =
            |record: &Record| !image_is_made && (by_lock || !matches!(record, Record::BinlogTransfer { .. }));
        let versions =
            db.apply(&pending, at, |record| if is_kept(&record) { logs.record(record) } else { Ok(()) })?;
        for entry in pending.recorded(at, versions) {
            record(&mut recorded, entry);
        }
        let goes_on = clients[at].answered(&pending);
        // A lost connection takes a while to be read back.
        let free = pending.answered + if pending.end == End::Ok { 0 } else { 2 * MS };
        let begin = free + 1 + random.below(MS);
        let writers = shape.writers as usize;
        if at >= writers {
            clients[at].free = free;
            clients[at].follow(shape, random, at - writers, begin, load_ends);
        } else if goes_on && begin < load_ends {
            clients[at].next = Some(clients[at].plan(shape, random, &db, at, begin));
        }
        if versions.is_some() && pending.is_acknowledged() {
            for place in 0..shape.followers.len() {
                let follower = &mut clients[writers + place];
                follower.newest = Some((free, [client_number(at), pending.n]));
                let sent = free.max(follower.free) + 1 + random.below(MS);
                follower.follow(shape, random, place, sent, load_ends);
            }
        }
        let earliest = clients.iter().filter_map(|client| Some(client.next.as_ref()?.sent)).min();
        while let Some(first) = recorded.first_entry()
            && earliest.is_none_or(|earliest| first.key().0 < earliest)
        {
            logs.entry(first.remove())?;
        }
    }
    let mut last = t1;
    while let Some(((t, _), entry)) = recorded.pop_first() {
        last = t;
        logs.entry(entry)?;
    }
    if !image_is_made {
        db.image(shape, logs)?;
    }
    if locked {
        db.roll_forward(shape, logs)?;
    }
    if shape.tool {
        tool::after(last, &DISKS).into_iter().try_for_each(|entry| logs.entry(entry))?;
    }
    logs.record(Record::End)?;
    logs.entry(Entry::End { t: last })?;
    Ok(times)
}

/// An operation of what runs beside the clients, one after the other.
#[derive(Debug)]
struct Side {
    n: u32,
    sent: Nanos,
    effect: Nanos,
    answered: Nanos,
}

impl Side {
    /// Operations over a span of time, `pace` apart, none of which takes effect while it is held.
    fn run(
        random: &mut Random,
        [start, end]: [Nanos; 2],
        held: Option<[Nanos; 2]>,
        pace: Nanos,
    ) -> Vec<Self> {
        let mut sent = start + random.below(pace);
        let mut all = Vec::new();
        while sent < end {
            let mut effect = sent + random.between(MS / 10, 3 * MS);
            if let Some([from, until]) = held
                && (from..until).contains(&effect)
            {
                effect = until + 1 + random.below(3 * MS);
            }
            let answered = effect + random.between(MS / 10, MS);
            all.push(Self { n: client_number(all.len()), sent, effect, answered });
            sent = answered + 1 + random.below(pace);
        }
        all
    }

    /// How many took effect before a time.
    fn before(all: &[Self], time: Nanos) -> u32 {
        all.iter().filter(|side| side.effect < time).map(|side| side.n).max().unwrap_or(0)
    }
}

/// An operation on its way: when it is sent, takes effect and is answered.
#[derive(Debug)]
struct Pending {
    sent: Nanos,
    effect: Nanos,
    answered: Nanos,
    n: u32,
    op: Op,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Ok,
    Fail,
    /// Connection lost; the transfer took effect or not, and is read back or
    /// the client gives up.
    Lost {
        effective: bool,
        read_back: bool,
    },
}

#[derive(Debug, Default)]
struct ModelClient {
    committed: u32,
    next: Option<Pending>,
    /// Of a follower: the transfer that it would follow, and since when it may.
    newest: Option<(Nanos, [u32; 2])>,
    /// Of a follower: when it had its last answer.
    free: Nanos,
}

/// Takes the operation that takes effect before all others.
fn take_earliest(clients: &mut [ModelClient]) -> Option<(usize, Pending)> {
    let effect = |client: &ModelClient| Some(client.next.as_ref()?.effect);
    let (at, client) = clients
        .iter_mut()
        .enumerate()
        .filter(|(_, client)| client.next.is_some())
        .min_by_key(|(_, client)| effect(client))?;
    Some((at, client.next.take()?))
}

impl ModelClient {
    /// What the client at `at` sends next.
    fn plan(
        &self,
        shape: &Shape,
        random: &mut Random,
        db: &ModelDatabase,
        at: usize,
        sent: Nanos,
    ) -> Pending {
        let effect = sent + random.between(MS / 10, 3 * MS);
        // Some answers travel for long, so that they arrive inside the window.
        let slow = if random.percent(20) { 45 * MS } else { 2 * MS };
        let answered = effect + random.between(MS / 10, slow);
        let other = random.below(u64::from(shape.writers)) as usize;
        let dep = if other == at { [0, 0] } else { [client_number(other), db.counter[other]] };
        let from = random.below(u64::from(shape.accounts)) as u32 + 1;
        let to = from % shape.accounts + 1;
        let amount = random.below(50) as i64 + 1;
        let end = if random.percent(shape.failing) {
            End::Fail
        } else if random.percent(shape.losing) {
            End::Lost { effective: random.percent(50), read_back: random.percent(70) }
        } else {
            End::Ok
        };
        let op = Op::Transfer { dep, legs: [(from, -amount), (to, amount)], crc: random.next() as u32 };
        Pending { sent, effect, answered, n: self.committed + 1, op, end }
    }

    /// Sends a row after the newest transfer, if there is one that it may follow and nothing in flight.
    fn follow(&mut self, shape: &Shape, random: &mut Random, place: usize, sent: Nanos, load_ends: Nanos) {
        let Some((_, of)) = self.newest.filter(|(since, _)| *since < sent && sent < load_ends) else {
            return;
        };
        if self.next.is_some() {
            return;
        }
        self.newest = None;
        let effect = sent + random.between(MS / 10, 3 * MS);
        let answered = effect + random.between(MS / 10, 2 * MS);
        let op = Op::Follow { table: shape.followers[place].table.clone(), of, crc: random.next() as u32 };
        self.next = Some(Pending { sent, effect, answered, n: self.committed + 1, op, end: End::Ok });
    }

    /// Records an answer; false when the client gives up.
    fn answered(&mut self, pending: &Pending) -> bool {
        self.committed += u32::from(!matches!(pending.end, End::Fail | End::Lost { effective: false, .. }));
        !matches!(pending.end, End::Lost { read_back: false, .. })
    }
}

impl Pending {
    /// Its client learns that it took effect.
    fn is_acknowledged(&self) -> bool {
        matches!(self.end, End::Ok | End::Lost { effective: true, read_back: true })
    }

    /// What the client writes down.
    fn recorded(&self, at: usize, ver: Option<[u32; 2]>) -> impl Iterator<Item = Entry> + use<> {
        let c = client_number(at);
        let Self { sent, answered: t, n, .. } = *self;
        let invoke = Entry::Invoke { t: sent, c, n, op: self.op.clone() };
        let (answer, more) = match self.end {
            End::Ok => (Entry::Ok { t, c, n, ver }, None),
            End::Fail => (Entry::Fail { t, c, n, error: "1213 deadlock".into() }, None),
            End::Lost { effective, read_back } => (
                Entry::Unknown { t, c, n, error: "2013 lost connection".into() },
                read_back.then_some(Entry::Resolved { t: t + 2 * MS, c, n, present: effective }),
            ),
        };
        [invoke, answer].into_iter().chain(more)
    }
}

#[derive(Debug)]
struct ModelDatabase {
    balance: Vec<i64>,
    version: Vec<u32>,
    counter: Vec<u32>,
    legs: u64,
    transfers: u64,
    /// Rows of each follower.
    rows: BTreeMap<String, u64>,
    /// Rows of the bulk statements.
    bulk: u64,
}

impl ModelDatabase {
    fn new(shape: &Shape) -> Self {
        Self {
            balance: vec![OPENING; shape.accounts as usize],
            version: vec![0; shape.accounts as usize],
            counter: vec![0; shape.writers as usize],
            legs: 0,
            transfers: 0,
            rows: BTreeMap::new(),
            bulk: 0,
        }
    }

    /// Executes an operation; gives the new rows away, and the versions reached.
    fn apply<E>(
        &mut self,
        pending: &Pending,
        at: usize,
        mut row: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<Option<[u32; 2]>, E> {
        let c = client_number(at);
        let n = pending.n;
        if matches!(pending.end, End::Fail | End::Lost { effective: false, .. }) {
            return Ok(None);
        }
        match &pending.op {
            Op::Transfer { dep, legs, crc } => {
                self.counter[at] = n;
                let (dep, crc) = (*dep, *crc);
                let mut versions = [0; 2];
                for (leg, (acct, amt)) in (0u8..).zip(*legs) {
                    let slot = acct as usize - 1;
                    self.balance[slot] += amt;
                    self.version[slot] += 1;
                    self.legs += 1;
                    let ver = self.version[slot];
                    versions[usize::from(leg)] = ver;
                    row(Record::Leg { c, n, leg, dep, acct, amt, ver, crc, sum: crc })?;
                }
                self.transfers += 1;
                row(Record::BinlogTransfer { c, n })?;
                Ok(Some(versions))
            }
            Op::Follow { table, of, crc } => {
                *self.rows.entry(table.clone()).or_default() += 1;
                row(Record::Follow { table: table.clone(), c, n, of: *of, crc: *crc, sum: *crc })?;
                Ok(None)
            }
        }
    }

    fn rows_of(&self, follower: &str) -> u64 {
        self.rows.get(follower).copied().unwrap_or(0)
    }

    /// What a replay of the source's logs leads to: the same as the source holds.
    fn roll_forward<L: Logs>(&self, shape: &Shape, logs: &mut L) -> Result<(), L::Error> {
        let of_load =
            [("ledger", self.legs), ("acct", self.balance.len() as u64), ("cl", shape.writers.into())];
        let bulk = shape.quiescence.is_lock().then_some(("bulk", self.bulk));
        let followers = shape.followers.iter().map(|it| (it.table.as_str(), self.rows_of(&it.table)));
        let tables: Vec<_> = of_load.into_iter().chain(bulk).chain(followers).collect();
        for of in [ServerState::Live, ServerState::RolledForward] {
            if bulk.is_some() {
                logs.record(Record::Gtid { of, gtid: format!("0-1-{}", self.transfers) })?;
            }
            for &(table, rows) in &tables {
                let checksum = Some(rows.wrapping_mul(0x9e37_79b9));
                logs.record(Record::Table { of, table: table.into(), rows, checksum })?;
            }
        }
        logs.record(Record::RollForward { applied: true, detail: String::new() })
    }

    /// What a restored guest would hold besides the rows, were the disk cut now.
    fn image<L: Logs>(&self, shape: &Shape, logs: &mut L) -> Result<(), L::Error> {
        let check = |table: &str, engine: &str| Record::CheckTable {
            table: table.into(),
            engine: engine.into(),
            clean: true,
            usable: true,
            messages: vec!["OK".into()],
        };
        let mut image = vec![
            Record::FileSystem { disk: "vda".into(), fs: "ext4".into(), dirty: false },
            Record::FileSystem { disk: "vdb".into(), fs: "ext4".into(), dirty: false },
        ];
        image.extend(DISKS.map(|disk| Record::Fsck {
            disk: disk.into(),
            clean: true,
            detail: String::new(),
        }));
        image.extend(match shape.quiescence {
            Quiescence::Lock => self.closed_tables_and_binlog(shape),
            Quiescence::BackupMode => write_ahead_log(shape),
        });
        let by_lock = shape.quiescence.is_lock();
        image.push(Record::Server {
            started: true,
            detail: if by_lock { "11.8.6-MariaDB" } else { "PostgreSQL 15.14" }.into(),
            prepared: Some(0),
            recovered: Some(true),
            recovery: Vec::new(),
            corruption: Vec::new(),
        });
        image.extend(["ledger", "acct", "cl"].map(|table| check(table, shape.engine())));
        image.extend(by_lock.then(|| check("bulk", "MyISAM")));
        image.extend(shape.followers.iter().map(|it| check(&it.table, &it.engine)));
        let index = |table: &str, index: &str, rows| Record::Index {
            table: table.into(),
            index: index.into(),
            primary: [rows, SUM],
            secondary: [rows, SUM],
        };
        image.extend(["rnd", "acct"].map(|name| index("ledger", name, self.legs)));
        image.extend(shape.followers.iter().map(|it| index(&it.table, "crc", self.rows_of(&it.table))));
        image.push(Record::MemoryRows { rows: 0 });
        image.push(Record::ProbeRows { rows: Vec::new() });
        image.extend((1..).zip(&self.counter).map(|(c, n)| Record::Counter { c, n: *n }));
        image.extend(
            (1..).zip(self.balance.iter().zip(&self.version)).map(|(id, (balance, ver))| Record::Account {
                id,
                balance: *balance,
                ver: *ver,
            }),
        );
        image.into_iter().try_for_each(|record| logs.record(record))
    }

    /// What the raw disks of a server like MySQL show.
    fn closed_tables_and_binlog(&self, shape: &Shape) -> Vec<Record> {
        let mut image = Vec::new();
        let closed = |folder: &str, name: &str, table: Option<&str>| Record::TableFile {
            file: format!("{folder}/{name}"),
            table: table.map(str::to_owned),
            open_count: 0,
        };
        let mut files = vec![closed("shop", "orders.MYI", None), closed("qd", "b.MYI", Some("bulk"))];
        files.extend(
            shape
                .followers
                .iter()
                .filter(|it| !it.transactional)
                .map(|it| closed("qd", &format!("{}.MYI", it.table), Some(&it.table))),
        );
        image.push(Record::TableFiles { files: u32::try_from(files.len()).unwrap_or(u32::MAX) });
        image.extend(files);
        let (file, size) = ("binlog.000002".to_owned(), 400 + 700 * self.transfers);
        if shape.freeze && shape.held {
            let gtid = format!("0-1-{}", self.transfers);
            image.push(Record::Position { file: file.clone(), pos: size, gtid });
        }
        image.push(Record::BinlogEnd { file, size, in_use: true });
        image.push(Record::Gtid { of: ServerState::Restored, gtid: format!("0-1-{}", self.transfers) });
        image
    }
}

/// What the raw disks of a server like PostgreSQL show, and up to where it recovers.
fn write_ahead_log(shape: &Shape) -> Vec<Record> {
    let Wal { called, start, flushed, .. } = Wal::of(shape);
    let held = shape.freeze && shape.held;
    let redo = if held { start } else { called - 4096 };
    let mut image = vec![
        Record::Checkpoint { redo, timeline: 1, shut_down: false },
        Record::WalEnd { timeline: 1, lsn: flushed },
    ];
    image.extend(held.then_some(Record::WalPosition { timeline: 1, start: Some(start), lsn: flushed }));
    image
}

fn client_number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX).saturating_add(1)
}

fn time(entry: &Entry) -> Nanos {
    match entry {
        Entry::Setup(_) => 0,
        Entry::Invoke { t, .. }
        | Entry::Ok { t, .. }
        | Entry::Fail { t, .. }
        | Entry::Unknown { t, .. }
        | Entry::Resolved { t, .. }
        | Entry::Mark { t, .. }
        | Entry::Probe(Probe { t, .. })
        | Entry::Directory { t, .. }
        | Entry::Guest { t, .. }
        | Entry::BlockStats { t, .. }
        | Entry::Heartbeat { t, .. }
        | Entry::SchemaChange { t, .. }
        | Entry::Bulk { t, .. }
        | Entry::WalEnd { t, .. }
        | Entry::BackupModes { t, .. }
        | Entry::AgentCommand(AgentCommand { t, .. })
        | Entry::CopyInstant(CopyInstant { t, .. })
        | Entry::DiskWrites(DiskWrites { to: t, .. })
        | Entry::Tool {
            step:
                ToolStep::Version { t, .. }
                | ToolStep::Began { t, .. }
                | ToolStep::Ended { t, .. }
                | ToolStep::Left { t, .. }
                | ToolStep::Restored { end: t, .. }
                | ToolStep::HandedBack { t, .. }
                | ToolStep::Image { t, .. },
        }
        | Entry::Cycle { t, .. }
        | Entry::End { t } => *t,
    }
}
