//! The load: writers on the host, each with one connection and one operation
//! in flight, that write down everything they do.

mod bulk;
mod ddl;
pub mod heartbeat;
mod log;
mod schema;
mod writer;

pub use log::HistoryLog;
pub use schema::{ACCOUNTS, OPENING_BALANCE};

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use mysql_async::Conn;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::clock;
use crate::database::{self, Access};
use crate::error::{Error, Result};
use crate::history::{Entry, Nanos};
use crate::image::Database;
use crate::interrupt;
use crate::scenario::{self, Profile};

/// What all writers share.
#[derive(Debug)]
struct Shared {
    access: Access,
    history: HistoryLog,
    followers: Vec<String>,
    writers: u32,
    rate: Option<u32>,
    seed: u64,
    statement_limit: Duration,
    stop: AtomicBool,
    /// Transfers acknowledged so far.
    acknowledged: AtomicU64,
    /// Told the invoke time of each acknowledged transfer.
    acks: Sender<Nanos>,
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

async fn connect(shared: &Shared) -> Result<Conn> {
    let connected = shared.access.connect_patiently(shared.statement_limit).await;
    connected.map_err(Error::sql("accept a connection of the load"))
}

/// A running load. Dropping it abandons its writers; [`Load::stop`] ends them.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<()>>,
    acks: Receiver<Nanos>,
    /// Whether the last write that was waited for did not come.
    blocked: Cell<bool>,
}

impl Load {
    /// Creates the schema and starts the writers, and the heartbeats on these channels.
    #[expect(clippy::too_many_arguments, reason = "a load is made of these, in one place")]
    pub fn start(
        runtime: &Runtime,
        access: &Access,
        database: Database,
        load: &scenario::Load,
        seed: u64,
        statement_limit: Duration,
        history: &HistoryLog,
        heartbeats: impl IntoIterator<Item = heartbeat::Channel>,
    ) -> Result<Self> {
        let tables = database::follower_tables(database, load.profile);
        let followers: Vec<String> = tables.iter().map(|(table, _)| (*table).to_owned()).collect();
        runtime.block_on(schema::create(access, statement_limit, load, tables))?;
        history.write(&Entry::Setup {
            writers: load.writers,
            accounts: ACCOUNTS,
            opening_balance: OPENING_BALANCE,
            followers: followers.clone(),
        })?;
        let (sender, acks) = channel();
        let shared = Arc::new(Shared {
            access: access.clone(),
            history: history.clone(),
            followers,
            writers: load.writers,
            rate: load.rate,
            seed,
            statement_limit,
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            acks: sender,
        });
        let mut tasks = JoinSet::new();
        for client in 1..=load.writers {
            tasks.spawn_on(writer::run(Arc::clone(&shared), client), runtime.handle());
        }
        tasks.spawn_on(ddl::run(Arc::clone(&shared)), runtime.handle());
        if load.profile == Profile::Bulk {
            tasks.spawn_on(bulk::run(Arc::clone(&shared)), runtime.handle());
        }
        for channel in heartbeats {
            tasks.spawn_on(heartbeat::run(Arc::clone(&shared), channel), runtime.handle());
        }
        Ok(Self { shared, tasks, acks, blocked: Cell::new(false) })
    }

    /// Transfers acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until a transfer that was sent after `since` is acknowledged;
    /// false when that does not happen within `limit`.
    pub fn wait_for_write(&self, since: Nanos, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let written = loop {
            match interrupt::receive(&self.acks, deadline)? {
                Some(invoked) if invoked > since => break true,
                Some(_) => {}
                None => break false,
            }
        };
        self.blocked.set(!written);
        Ok(written)
    }

    /// Lets every writer finish its operation and ends, at most within
    /// `patience`, or less when the last write that was waited for did not come: writers that
    /// hang by then, because the database is blocked, are abandoned, and the history shows
    /// their operations without an outcome. A writer that ended by itself is an error.
    pub fn stop(mut self, runtime: &Runtime, patience: Duration) -> Result<()> {
        let patience = if self.blocked.get() { patience.min(BLOCKED_PATIENCE) } else { patience };
        self.shared.stop.store(true, Ordering::Relaxed);
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
