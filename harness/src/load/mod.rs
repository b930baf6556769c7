//! The load: writers on the host, each with one connection and one operation in flight, that record
//! everything they do.

mod bulk;
mod context;
mod ddl;
mod follower;
pub mod heartbeat;
mod large_table;
mod schema;
mod writer;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use contract::history::{Entry, Nanos, Setup};
use contract::scenario::{self, Profile};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock;
use crate::database::{DOORS, Target};
use crate::error::{LoadError, Result};
use crate::history_log::HistoryLog;
use crate::interrupt;
use context::{Ack, LoadContext};
pub use schema::{ACCOUNTS, OPENING_BALANCE};

/// How long writers may take to end when the last awaited write never came.
const BLOCKED_PATIENCE: Duration = Duration::from_secs(5);

/// What a load is to do.
#[derive(Debug)]
pub struct Order<'a> {
    /// What it writes, and how fast.
    pub load: &'a scenario::Load,
    /// The same seed replays the same operations.
    pub seed: u64,
    /// How long a client waits for an answer.
    pub statement_limit: Duration,
    /// The disks whose writes will be counted, by target name.
    pub disks: Vec<String>,
    /// The channels of the heartbeats.
    pub heartbeats: Vec<heartbeat::Channel>,
    /// Whether a backup tool makes the backups.
    pub tool: bool,
}

/// A running load. Dropping it abandons its writers; [`Load::stop`] ends them.
#[derive(Debug)]
pub struct Load {
    context: Arc<LoadContext>,
    tasks: JoinSet<Result<()>>,
    setup: Setup,
    acks: Receiver<Ack>,
    /// Whether the last awaited write never came.
    blocked: Cell<bool>,
}

impl Load {
    /// Creates the tables, and starts the clients and the heartbeats.
    pub fn start(runtime: &Runtime, target: &Target, history: &HistoryLog, order: Order<'_>) -> Result<Self> {
        let Order { load, seed, statement_limit, disks, heartbeats, tool } = order;
        let mut setup = Setup {
            writers: load.writers,
            accounts: ACCOUNTS,
            opening_balance: OPENING_BALANCE,
            doors: DOORS.map(str::to_owned).to_vec(),
            followers: target.dialect().followers(load.profile),
            tables: target.dialect().tables(load),
            disks,
            file_systems: heartbeats.iter().map(|(name, _)| name.clone()).collect(),
            binlog: false,
            quiescence: target.dialect().quiescence(),
            tool,
        };
        setup.binlog = runtime.block_on(schema::create(target, statement_limit, load, &setup.followers))?;
        history.write(&Entry::Setup(setup.clone()))?;
        let (sender, acks) = channel();
        let context = Arc::new(LoadContext {
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
            tasks.spawn_on(writer::run(Arc::clone(&context), client), runtime.handle());
        }
        for place in 0..setup.followers.len() {
            tasks.spawn_on(follower::run(Arc::clone(&context), place), runtime.handle());
        }
        tasks.spawn_on(ddl::run(Arc::clone(&context)), runtime.handle());
        if load.profile == Profile::Bulk {
            tasks.spawn_on(bulk::run(Arc::clone(&context)), runtime.handle());
        }
        if load.data_mib > 0 {
            tasks.spawn_on(large_table::churn(Arc::clone(&context), load.data_mib), runtime.handle());
        }
        for channel in heartbeats {
            tasks.spawn_on(heartbeat::run(Arc::clone(&context), channel), runtime.handle());
        }
        Ok(Self { context, tasks, setup, acks, blocked: Cell::new(false) })
    }

    /// What was set up.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Transfers acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.context.acknowledged.load(Ordering::Relaxed)
    }

    /// Lets the clients rest while `work` runs, which needs the same processors.
    pub fn rest_during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.context.rest.send_replace(true);
        let done = work();
        self.context.rest.send_replace(false);
        done
    }

    /// Waits until the whole load is at work from now on; see [`Load::wait_for_all`].
    pub fn wait_for_power(&self, limit: Duration) -> Result<bool> {
        self.wait_for_all(clock::now(), limit)
    }

    /// Waits until a transfer sent after `since` was acknowledged through every writer's door, and
    /// a row in every follower's table. False when that does not happen within `limit`; what that
    /// means is for the judge.
    pub fn wait_for_all(&self, since: Nanos, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let LoadContext { writers, followers, .. } = &*self.context;
        let mut doors: BTreeSet<u8> = (1..=*writers).map(|client| self.context.door(client)).collect();
        let mut tables: BTreeSet<u32> = (writers + 1..).take(followers.len()).collect();
        while !(doors.is_empty() && tables.is_empty()) {
            match interrupt::receive(&self.acks, deadline)? {
                Some(Ack { sent, client }) if sent > since => {
                    if client <= *writers {
                        doors.remove(&self.context.door(client));
                    } else {
                        tables.remove(&client);
                    }
                }
                Some(_) => {}
                None => break,
            }
        }
        let all = doors.is_empty() && tables.is_empty();
        self.blocked.set(!all);
        Ok(all)
    }

    /// Lets every writer finish its operation and ends, within `patience` or, when the last awaited
    /// write never came, less. Writers that still hang then, because the database is blocked, are
    /// abandoned, and the history has their operations without an outcome. A writer that ended by
    /// itself is an error.
    pub fn stop(mut self, runtime: &Runtime, patience: Duration) -> Result<()> {
        let patience = if self.blocked.get() { patience.min(BLOCKED_PATIENCE) } else { patience };
        self.context.stop.send_replace(true);
        runtime.block_on(async {
            let deadline = tokio::time::Instant::now() + patience;
            let mut first = Ok(());
            while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.tasks.join_next()).await {
                let ended = ended.unwrap_or_else(|e| Err(LoadError::ClientEnded(e).into()));
                first = first.and(ended);
            }
            // Waits until the abandoned ones are gone, so that nobody writes to the history any
            // more.
            self.tasks.shutdown().await;
            first
        })
    }
}
