//! The load: writers on the host, each with one connection and one operation
//! in flight, that write down everything they do.

mod log;
mod schema;
mod writer;

pub use log::HistoryLog;
pub use schema::{ACCOUNTS, OPENING_BALANCE};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::database::{self, Access};
use crate::error::{Error, Result};
use crate::history::{Entry, Nanos};
use crate::image::Database;
use crate::interrupt;
use crate::scenario;

/// What all writers share.
#[derive(Debug)]
struct Shared {
    access: Access,
    history: HistoryLog,
    followers: Vec<String>,
    writers: u32,
    seed: u64,
    statement_limit: Duration,
    stop: AtomicBool,
    /// Transfers acknowledged so far.
    acknowledged: AtomicU64,
    /// Told the invoke time of each acknowledged transfer.
    acks: Sender<Nanos>,
}

/// A running load. Dropping it abandons its writers; [`Load::stop`] ends them.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<()>>,
    acks: Receiver<Nanos>,
}

impl Load {
    /// Creates the schema and starts the writers.
    pub fn start(
        runtime: &Runtime,
        access: &Access,
        database: Database,
        load: &scenario::Load,
        seed: u64,
        statement_limit: Duration,
        history: &HistoryLog,
    ) -> Result<Self> {
        let tables = database::follower_tables(database);
        let followers: Vec<String> = tables.iter().map(|(table, _)| (*table).to_owned()).collect();
        runtime.block_on(schema::create(access, statement_limit, load.writers, tables))?;
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
        Ok(Self { shared, tasks, acks })
    }

    /// Transfers acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until a transfer that was sent after `since` is acknowledged;
    /// false when that does not happen within `limit`.
    pub fn wait_for_write(&self, since: Nanos, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            match interrupt::receive(&self.acks, deadline)? {
                Some(invoked) if invoked > since => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            }
        }
    }

    /// Lets every writer finish its operation and ends, at most within
    /// `patience`: writers that hang by then, because the database is blocked,
    /// are abandoned, and the history shows their operations without an
    /// outcome. A writer that ended by itself is an error.
    pub fn stop(mut self, runtime: &Runtime, patience: Duration) -> Result<()> {
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
