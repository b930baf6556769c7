//! A small model of a database under load, frozen, snapshotted and restored:
//! it makes trials that are right by construction, from a seed.

use freezeframe::history::{Entry, Mark, Nanos, Op, ProbeAnswer, ProbeKind};
use freezeframe::judge::{Case, Judgement, judge};
use freezeframe::observation::Record;

const MS: Nanos = 1_000_000;

/// What kind of trial to make.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) seed: u64,
    pub(crate) writers: u32,
    pub(crate) accounts: u32,
    pub(crate) followers: Vec<String>,
    /// How long the clients run, milliseconds.
    pub load_ms: u64,
    /// Out of a hundred transfers, how many are rolled back and how many lose
    /// their connection.
    pub(crate) failing: u64,
    pub(crate) losing: u64,
    /// Freeze, or take the snapshot of the running guest.
    pub(crate) freeze: bool,
    /// The freeze holds a lock until the thaw. Otherwise it only says so.
    pub(crate) held: bool,
}

impl Shape {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            writers: 5,
            accounts: 12,
            followers: vec!["nt".into(), "ar".into()],
            load_ms: 400,
            failing: 6,
            losing: 4,
            freeze: true,
            held: true,
        }
    }
}

/// The two logs of a trial, and when its marks were crossed.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) history: Vec<Entry>,
    pub(crate) image: Vec<Record>,
    pub(crate) times: Times,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) f0: Nanos,
    pub(crate) f1: Nanos,
    pub(crate) s0: Nanos,
    pub(crate) s1: Nanos,
    pub(crate) t0: Nanos,
    pub(crate) t1: Nanos,
}

/// SplitMix64: small, and the same on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    fn between(&mut self, low: Nanos, high: Nanos) -> Nanos {
        low + self.below(high - low)
    }
}

/// An operation on its way: when it is sent, takes effect and is answered.
#[derive(Clone)]
struct Pending {
    sent: Nanos,
    effect: Nanos,
    answered: Nanos,
    n: u32,
    op: Op,
    end: End,
}

#[derive(Clone, Copy, PartialEq)]
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

struct Client {
    committed: u32,
    /// How many followers of the last transfer are still to be sent.
    owed: usize,
    next: Option<Pending>,
}

struct Database {
    balance: Vec<i64>,
    version: Vec<u32>,
    counter: Vec<u32>,
    legs: Vec<Record>,
    rows: Vec<Record>,
}

const OPENING: i64 = 1_000;

impl World {
    pub(crate) fn new(shape: &Shape) -> Self {
        let random = &mut Random(shape.seed);
        let load = shape.load_ms * MS;
        let start = 1_000 * MS;
        let f0 = start + load / 2;
        let lock = f0 + random.between(4 * MS, 12 * MS);
        let f1 = lock + random.between(MS, 4 * MS);
        let s0 = f1 + random.between(20 * MS, 30 * MS);
        let s1 = s0 + random.between(5 * MS, 10 * MS);
        let t0 = s1 + random.between(4 * MS, 20 * MS);
        let t1 = t0 + random.between(2 * MS, 6 * MS);
        let times = Times { f0, f1, s0, s1, t0, t1 };
        let locked = shape.freeze && shape.held;
        let live = random.between(s0, s1);
        let cut = if locked { lock } else { live };

        let mut history = Vec::new();
        let mut db = Database {
            balance: vec![OPENING; shape.accounts as usize],
            version: vec![0; shape.accounts as usize],
            counter: vec![0; shape.writers as usize],
            legs: Vec::new(),
            rows: Vec::new(),
        };
        let mut clients: Vec<Client> =
            (0..shape.writers).map(|_| Client { committed: 0, owed: 0, next: None }).collect();
        for (at, client) in clients.iter_mut().enumerate() {
            let begin = start + random.below(2 * MS);
            client.next = Some(plan(shape, random, &db, at, client.committed, client.owed, begin));
        }

        let mut image = None;
        // In the order in which operations take effect.
        while let Some(at) = (0..clients.len())
            .filter(|at| clients[*at].next.is_some())
            .min_by_key(|at| clients[*at].next.as_ref().unwrap().effect)
        {
            let mut pending = clients[at].next.take().unwrap();
            let held = locked && pending.effect >= lock && pending.effect < t0;
            if held {
                // Waits for the lock.
                let later = t0 + 1 + random.below(3 * MS);
                pending.answered += later - pending.effect;
                pending.effect = later;
                clients[at].next = Some(pending);
                continue;
            }
            if pending.effect >= cut && image.is_none() {
                image = Some(db.image(shape));
            }
            let versions = db.apply(&pending, at);
            let client = &mut clients[at];
            record(&mut history, at, &pending, versions);
            let goes_on = match (&pending.op, pending.end) {
                (_, End::Lost { read_back, .. }) if !read_back => false,
                (Op::Transfer { .. }, End::Ok | End::Lost { effective: true, .. }) => {
                    client.committed += 1;
                    client.owed = shape.followers.len();
                    true
                }
                (Op::Transfer { .. }, _) => true,
                (Op::Follow { .. }, _) => {
                    client.owed -= 1;
                    true
                }
            };
            // A lost connection takes a while to be read back.
            let free = pending.answered + if pending.end == End::Ok { 0 } else { 2 * MS };
            let begin = free + 1 + random.below(MS);
            if goes_on && begin < start + load + (t1 - f0) {
                client.next = Some(plan(shape, random, &db, at, client.committed, client.owed, begin));
            }
        }
        let image = image.unwrap_or_else(|| db.image(shape));

        let mark = |t, mark, detail: &str| Entry::Mark { t, mark, detail: detail.into() };
        if shape.freeze {
            history.push(mark(f0, Mark::FreezeCall, ""));
            history.push(mark(f1, Mark::FreezeOk, "2"));
            let probe = |kind, answer| Entry::Probe { t: f1 + 10, end: s0 - 10, kind, answer };
            history.push(probe(ProbeKind::Transactional, ProbeAnswer::Locked));
            history.push(probe(ProbeKind::Memory, ProbeAnswer::Done));
            history.push(mark(t0, Mark::ThawCall, ""));
            history.push(mark(t1, Mark::ThawOk, "2"));
        }
        history.push(mark(s0, Mark::SnapBegin, ""));
        history.push(mark(s1, Mark::SnapEnd, ""));
        history.sort_by_key(time);
        let end = history.last().map_or(0, time);
        history.insert(
            0,
            Entry::Setup {
                writers: shape.writers,
                accounts: shape.accounts,
                opening_balance: OPENING,
                followers: shape.followers.clone(),
            },
        );
        history.push(Entry::End { t: end });
        Self { history, image, times }
    }

    pub(crate) fn case(&self) -> Result<Case, String> {
        Case::new(self.history.clone(), Some(self.image.clone()))
    }

    pub(crate) fn judge(&self) -> Judgement {
        judge(&self.case().expect("a well-formed world"))
    }
}

fn plan(
    shape: &Shape,
    random: &mut Random,
    db: &Database,
    at: usize,
    committed: u32,
    owed: usize,
    sent: Nanos,
) -> Pending {
    let effect = sent + random.between(MS / 10, 3 * MS);
    // Some answers travel for long, so that they arrive inside the window.
    let slow = if random.percent(20) { 45 * MS } else { 2 * MS };
    let answered = effect + random.between(MS / 10, slow);
    if owed > 0 {
        let table = shape.followers[shape.followers.len() - owed].clone();
        let crc = random.next() as u32;
        return Pending { sent, effect, answered, n: committed, op: Op::Follow { table, crc }, end: End::Ok };
    }
    let other = random.below(u64::from(shape.writers)) as usize;
    let dep = if other == at { [0, 0] } else { [other as u32 + 1, db.counter[other]] };
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
    Pending { sent, effect, answered, n: committed + 1, op, end }
}

/// Writes down what the client saw.
fn record(history: &mut Vec<Entry>, at: usize, pending: &Pending, versions: Option<[u32; 2]>) {
    let c = at as u32 + 1;
    let Pending { sent, answered: t, n, op, end, .. } = pending.clone();
    history.push(Entry::Invoke { t: sent, c, n, op });
    match end {
        End::Ok => history.push(Entry::Ok { t, c, n, ver: versions }),
        End::Fail => history.push(Entry::Fail { t, c, n, error: "1213 deadlock".into() }),
        End::Lost { effective, read_back } => {
            history.push(Entry::Unknown { t, c, n, error: "2013 lost connection".into() });
            if read_back {
                history.push(Entry::Resolved { t: t + 2 * MS, c, n, present: effective });
            }
        }
    }
}

impl Database {
    fn apply(&mut self, pending: &Pending, at: usize) -> Option<[u32; 2]> {
        let c = at as u32 + 1;
        if matches!(pending.end, End::Fail | End::Lost { effective: false, .. }) {
            return None;
        }
        match &pending.op {
            Op::Transfer { dep, legs, crc } => {
                self.counter[at] = pending.n;
                let mut versions = [0; 2];
                for (leg, (account, amount)) in legs.iter().enumerate() {
                    let slot = *account as usize - 1;
                    self.balance[slot] += amount;
                    self.version[slot] += 1;
                    versions[leg] = self.version[slot];
                    self.legs.push(Record::Leg {
                        c,
                        n: pending.n,
                        leg: leg as u8,
                        dep: *dep,
                        acct: *account,
                        amt: *amount,
                        ver: self.version[slot],
                        crc: *crc,
                        sum: *crc,
                    });
                }
                Some(versions)
            }
            Op::Follow { table, crc } => {
                let row = Record::Follow { table: table.clone(), c, n: pending.n, crc: *crc, sum: *crc };
                self.rows.push(row);
                None
            }
        }
    }

    /// What a restored guest would hold, were the disk cut now.
    fn image(&self, shape: &Shape) -> Vec<Record> {
        let check = |table: &str, engine: &str| Record::CheckTable {
            table: table.into(),
            engine: engine.into(),
            clean: true,
            usable: true,
            messages: vec!["OK".into()],
        };
        let rows = self.legs.len() as u64;
        let mut image = vec![
            Record::FileSystem { disk: "vda".into(), fs: "ext4".into(), dirty: false },
            Record::FileSystem { disk: "vdb".into(), fs: "ext4".into(), dirty: false },
            Record::Fsck { disk: "vda".into(), clean: true, detail: String::new() },
        ];
        image.extend(
            shape.followers.iter().map(|table| Record::MyisamHeader { table: table.clone(), open_count: 0 }),
        );
        image.push(Record::Server {
            started: true,
            detail: "11.8.6-MariaDB".into(),
            prepared: Some(0),
            recovery: Vec::new(),
        });
        image.extend(["ledger", "acct", "cl"].map(|table| check(table, "InnoDB")));
        image.extend(shape.followers.iter().map(|table| check(table, "MyISAM")));
        image.push(Record::Index {
            table: "ledger".into(),
            index: "rnd".into(),
            primary: [rows, 0x1234],
            secondary: [rows, 0x1234],
        });
        image.push(Record::MemoryRows { rows: 0 });
        image.extend((1..).zip(&self.counter).map(|(c, n)| Record::Counter { c, n: *n }));
        image.extend(
            (1..).zip(self.balance.iter().zip(&self.version)).map(|(id, (balance, ver))| Record::Account {
                id,
                balance: *balance,
                ver: *ver,
            }),
        );
        image.extend(self.legs.iter().cloned());
        image.extend(self.rows.iter().cloned());
        image.push(Record::End);
        image
    }
}

fn time(entry: &Entry) -> Nanos {
    match entry {
        Entry::Setup { .. } => 0,
        Entry::Invoke { t, .. }
        | Entry::Ok { t, .. }
        | Entry::Fail { t, .. }
        | Entry::Unknown { t, .. }
        | Entry::Resolved { t, .. }
        | Entry::Mark { t, .. }
        | Entry::Probe { t, .. }
        | Entry::End { t } => *t,
    }
}
