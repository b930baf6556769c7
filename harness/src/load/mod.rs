//! The load: writers on the host, each with one connection and one operation
//! in flight, that write down everything they do.

mod big;
mod bulk;
mod ddl;
mod follower;
pub mod heartbeat;
mod log;
mod schema;
mod writer;

pub(crate) use ddl::tables_query as ddl_tables_query;
pub use log::HistoryLog;
pub(crate) use schema::PROBE_TABLES;
pub use schema::{ACCOUNTS, OPENING_BALANCE};

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::clock;
use crate::database::{self, DOORS, TCP, TCP_ADMIN, Target};
use crate::error::{Error, Result};
use crate::history::{Entry, Follower, Nanos, Setup};
use crate::interrupt;
use crate::scenario::{self, Profile};

/// Bytes of payload in each row.
const PAYLOAD: std::ops::RangeInclusive<usize> = 32..=256;

/// What all clients share.
#[derive(Debug)]
struct Shared {
    target: Target,
    history: HistoryLog,
    followers: Vec<Follower>,
    writers: u32,
    rate: Option<u32>,
    seed: u64,
    statement_limit: Duration,
    stop: watch::Sender<bool>,
    rest: watch::Sender<bool>,
    /// Transfers acknowledged so far.
    acknowledged: AtomicU64,
    /// The transfer that was acknowledged last: client and number.
    newest: watch::Sender<Option<[u32; 2]>>,
    /// Told of each acknowledged transfer, and of each row of a follower.
    acks: Sender<Ack>,
}

/// An acknowledged transfer or a follower's row: when it was sent, and by which client.
#[derive(Debug, Clone, Copy)]
struct Ack {
    sent: Nanos,
    client: u32,
}

impl Shared {
    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// The door of a writer.
    fn door(&self, client: u32) -> u8 {
        u8::try_from((client - 1) % DOORS_COUNT).unwrap_or(0)
    }

    async fn connect(&self, door: u8) -> Result<Conn> {
        let connected = self.target.door(door).connect_patiently(self.statement_limit).await;
        let name = DOORS[usize::from(door)];
        connected.map_err(Error::sql(format!("accept a connection of the load through the door `{name}`")))
    }

    /// One stream of numbers a client, so that the same seed replays the same
    /// operations whatever the others do.
    fn random(&self, client: u32) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(u64::from(client));
        random
    }

    /// Waits three times as long as the last operation took, then until the load does not rest, or
    /// until it stops: a guest under emulation has no processor to spare, and whatever its hook does
    /// would wait behind the load.
    async fn think(&self, took: Duration) {
        let (mut stop, mut rest) = (self.stop.subscribe(), self.rest.subscribe());
        let thought = async {
            sleep(LONGEST_THOUGHT.min(3 * took)).await;
            let _ = rest.wait_for(|resting| !*resting).await;
        };
        tokio::select! {
            _ = stop.wait_for(|stopped| *stopped) => {}
            () = thought => {}
        }
    }

    /// The pace of one of so many clients that have the load's rate together.
    fn pace(&self, clients: u32) -> Option<Interval> {
        let mut pace = interval(Duration::from_secs(1) * clients / self.rate?);
        // What a freeze held up is not made up for.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(pace)
    }
}

/// How long a client thinks at the most before its next operation. Less than a hook needs from its
/// lock until the freeze returns, so that every client has something in flight by then.
const LONGEST_THOUGHT: Duration = Duration::from_millis(400);

/// How many doors there are.
const DOORS_COUNT: u32 = DOORS.len() as u32;

/// Random bytes, and their checksum.
fn payload(random: &mut ChaCha8Rng) -> (Vec<u8>, u32) {
    let mut payload = vec![0; random.random_range(PAYLOAD)];
    random.fill_bytes(&mut payload);
    let crc = crc32fast::hash(&payload);
    (payload, crc)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An operation that is written down once, when its outcome is known or
/// nobody waits for it any more.
struct Pending<F: Fn(Nanos, Option<Nanos>) -> Entry> {
    history: HistoryLog,
    sent: Nanos,
    entry: F,
    written: bool,
}

impl<F: Fn(Nanos, Option<Nanos>) -> Entry> Pending<F> {
    /// Sent now; `entry` makes the record from this time and that of the answer.
    fn new(history: &HistoryLog, sent: Nanos, entry: F) -> Self {
        Self { history: history.clone(), sent, entry, written: false }
    }

    /// Acknowledged now.
    fn done(mut self) -> Result<()> {
        self.written = true;
        self.history.write(&(self.entry)(self.sent, Some(clock::now())))
    }
}

/// Also when the task that waits is abandoned: the operation may have taken effect.
impl<F: Fn(Nanos, Option<Nanos>) -> Entry> Drop for Pending<F> {
    fn drop(&mut self) {
        if !self.written {
            // A full disk shows at the next entry.
            let _ = self.history.write(&(self.entry)(self.sent, None));
        }
    }
}

/// How long writers are given to end when a write was waited for in vain already.
const BLOCKED_PATIENCE: Duration = Duration::from_secs(5);

/// A running load. Dropping it abandons its writers; [`Load::stop`] ends them.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<()>>,
    setup: Setup,
    acks: Receiver<Ack>,
    /// Whether the last write that was waited for did not come.
    blocked: Cell<bool>,
}

impl Load {
    /// Creates the tables and starts the clients, and the heartbeats on these channels.
    /// `disks` are those whose writes are going to be counted.
    #[expect(clippy::too_many_arguments, reason = "a load is made of these, in one place")]
    pub fn start(
        runtime: &Runtime,
        target: &Target,
        load: &scenario::Load,
        seed: u64,
        statement_limit: Duration,
        history: &HistoryLog,
        disks: Vec<String>,
        heartbeats: Vec<heartbeat::Channel>,
    ) -> Result<Self> {
        let mut setup = Setup {
            writers: load.writers,
            accounts: ACCOUNTS,
            opening_balance: OPENING_BALANCE,
            doors: DOORS.map(str::to_owned).to_vec(),
            followers: database::followers(target.database, load.profile),
            tables: database::tables(load),
            disks,
            file_systems: heartbeats.iter().map(|(name, _)| name.clone()).collect(),
            binlog: false,
        };
        setup.binlog = runtime.block_on(schema::create(target, statement_limit, load, &setup.followers))?;
        history.write(&Entry::Setup(setup.clone()))?;
        let (sender, acks) = channel();
        let shared = Arc::new(Shared {
            target: target.clone(),
            history: history.clone(),
            followers: setup.followers.clone(),
            writers: load.writers,
            rate: load.rate,
            seed,
            statement_limit,
            stop: watch::Sender::new(false),
            rest: watch::Sender::new(false),
            acknowledged: AtomicU64::new(0),
            newest: watch::Sender::new(None),
            acks: sender,
        });
        let mut tasks = JoinSet::new();
        for client in 1..=load.writers {
            tasks.spawn_on(writer::run(Arc::clone(&shared), client), runtime.handle());
        }
        for place in 0..setup.followers.len() {
            tasks.spawn_on(follower::run(Arc::clone(&shared), place), runtime.handle());
        }
        tasks.spawn_on(ddl::run(Arc::clone(&shared)), runtime.handle());
        if load.profile == Profile::Bulk {
            tasks.spawn_on(bulk::run(Arc::clone(&shared)), runtime.handle());
        }
        if load.data_mib > 0 {
            tasks.spawn_on(big::churn(Arc::clone(&shared), load.data_mib), runtime.handle());
        }
        for channel in heartbeats {
            tasks.spawn_on(heartbeat::run(Arc::clone(&shared), channel), runtime.handle());
        }
        Ok(Self { shared, tasks, setup, acks, blocked: Cell::new(false) })
    }

    /// What was set up.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Transfers acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Lets the clients rest while `work` is done, which the same processors do.
    pub fn rest_during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.shared.rest.send_replace(true);
        let done = work();
        self.shared.rest.send_replace(false);
        done
    }

    /// Waits until a transfer that was sent after `since` is acknowledged;
    /// false when that does not happen within `limit`.
    pub fn wait_for_write(&self, since: Nanos, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let written = loop {
            match interrupt::receive(&self.acks, deadline)? {
                Some(Ack { sent, client }) if sent > since && client <= self.shared.writers => break true,
                Some(_) => {}
                None => break false,
            }
        };
        self.blocked.set(!written);
        Ok(written)
    }

    /// Waits until through every door that a writer takes a transfer was acknowledged that was sent
    /// from now on, and a row in every follower's table: then all of them are at work. False when that
    /// does not happen within `limit`, which is the judge's business.
    pub fn wait_for_power(&self, limit: Duration) -> Result<bool> {
        let (since, deadline) = (clock::now(), Instant::now() + limit);
        let Shared { writers, followers, .. } = &*self.shared;
        let mut doors: BTreeSet<u8> = (1..=*writers).map(|client| self.shared.door(client)).collect();
        let mut tables: BTreeSet<u32> = (writers + 1..).take(followers.len()).collect();
        while !(doors.is_empty() && tables.is_empty()) {
            match interrupt::receive(&self.acks, deadline)? {
                Some(Ack { sent, client }) if sent > since => {
                    if client <= *writers {
                        doors.remove(&self.shared.door(client));
                    } else {
                        tables.remove(&client);
                    }
                }
                Some(_) => {}
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Lets every writer finish its operation and ends, at most within
    /// `patience`, or less when the last write that was waited for did not come: writers that
    /// hang by then, because the database is blocked, are abandoned, and the history shows
    /// their operations without an outcome. A writer that ended by itself is an error.
    pub fn stop(mut self, runtime: &Runtime, patience: Duration) -> Result<()> {
        let patience = if self.blocked.get() { patience.min(BLOCKED_PATIENCE) } else { patience };
        self.shared.stop.send_replace(true);
        runtime.block_on(async {
            let deadline = tokio::time::Instant::now() + patience;
            let mut first = Ok(());
            while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
                let ended =
                    ended.unwrap_or_else(|e| Err(Error::Guest(format!("a writer of the load ended: {e}"))));
                first = first.and(ended);
            }
            // Waits until the abandoned ones are gone: nobody writes to the history any more.
            self.tasks.shutdown().await;
            first
        })
    }
}
