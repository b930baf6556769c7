//! The quiescence probes: two statements, sent as soon as the freeze has
//! returned, on connections that were opened before it.
//!
//! They tell three states apart that look alike from outside: nothing held
//! back, only the file system frozen, and the database locked. Neither needs a
//! disk to find out, because on a frozen one the server hangs here and there
//! for reasons of its own:
//!
//! - an UPDATE of a MEMORY table, which only a lock can refuse;
//! - a COMMIT of a transaction whose changes were made before the freeze. The
//!   server asks for its commit lock before it writes anything, and the list
//!   of its threads then says what it waits for. Without a lock the COMMIT
//!   hangs in the write instead.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock;
use crate::database::Access;
use crate::error::{Error, Result};
use crate::history::{Entry, ProbeAnswer, ProbeKind};
use crate::load::HistoryLog;

/// What has not been answered by then hangs below the locks. More than the
/// second after which the server refuses to wait for a lock.
const ANSWER_LIMIT: Duration = Duration::from_millis(2500);

/// How often the list of threads is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Error 1205, ER_LOCK_WAIT_TIMEOUT.
const LOCK_WAIT_TIMEOUT: u16 = 1205;

/// The probes, connected and ready.
#[derive(Debug)]
pub struct Probes {
    memory: Conn,
    transaction: Conn,
    /// Sees what `transaction` waits for.
    observer: Conn,
}

impl Probes {
    /// Opens the connections and the transaction. Must be done before the
    /// freeze: a frozen guest may not accept any.
    pub fn connect(runtime: &Runtime, access: &Access, limit: Duration) -> Result<Self> {
        let open = async |statements: &[&str]| -> mysql_async::Result<Conn> {
            let mut conn = access.connect_patiently(limit).await?;
            for statement in statements {
                conn.query_drop(*statement).await?;
            }
            Ok(conn)
        };
        let connected = runtime.block_on(async {
            Ok(Self {
                // Without the binlog the statement cannot touch a disk.
                memory: open(&["SET SESSION lock_wait_timeout = 1", "SET SESSION sql_log_bin = 0"]).await?,
                transaction: open(&["START TRANSACTION", "UPDATE probe_tx SET n = n + 1 WHERE id = 1"])
                    .await?,
                observer: open(&[]).await?,
            })
        });
        connected.map_err(Error::sql("prepare the quiescence probes"))
    }

    /// Sends both statements at once. The answers go into the history.
    pub fn send(self, runtime: &Runtime, history: &HistoryLog) -> JoinHandle<Result<()>> {
        let history = history.clone();
        runtime.spawn(async move {
            let (memory, transactional) =
                tokio::join!(update_memory(self.memory), commit(self.transaction, self.observer));
            history.write(&memory)?;
            history.write(&transactional)
        })
    }
}

async fn update_memory(mut conn: Conn) -> Entry {
    let t = clock::now();
    let answer = match timeout(ANSWER_LIMIT, conn.query_drop("UPDATE probe SET n = n + 1 WHERE id = 1")).await
    {
        Ok(answer) => answer_of(&answer),
        Err(_) => ProbeAnswer::Hung,
    };
    Entry::Probe { t, end: clock::now(), kind: ProbeKind::Memory, answer }
}

async fn commit(mut conn: Conn, mut observer: Conn) -> Entry {
    let t = clock::now();
    let deadline = Instant::now() + ANSWER_LIMIT;
    let id = conn.id();
    let commit = conn.query_drop("COMMIT");
    tokio::pin!(commit);
    let answer = loop {
        if let Ok(answer) = timeout(LOOK_EVERY, &mut commit).await {
            break answer_of(&answer);
        }
        match timeout_at(deadline, waits_for_a_lock(&mut observer, id)).await {
            Ok(Ok(true)) => break ProbeAnswer::Locked,
            Ok(Ok(false)) if Instant::now() < deadline => {}
            Ok(Err(_)) => break ProbeAnswer::Error,
            Ok(Ok(false)) | Err(_) => break ProbeAnswer::Hung,
        }
    };
    Entry::Probe { t, end: clock::now(), kind: ProbeKind::Transactional, answer }
}

fn answer_of(answer: &mysql_async::Result<()>) -> ProbeAnswer {
    match answer {
        Ok(()) => ProbeAnswer::Done,
        Err(mysql_async::Error::Server(e)) if e.code == LOCK_WAIT_TIMEOUT => ProbeAnswer::Locked,
        Err(_) => ProbeAnswer::Error,
    }
}

/// Whether the server says that this connection waits for a lock: "Waiting for
/// backup lock", "Waiting for commit lock", "Waiting for global read lock".
/// SHOW PROCESSLIST needs no temporary table, which could lie on a frozen disk.
async fn waits_for_a_lock(observer: &mut Conn, id: u32) -> mysql_async::Result<bool> {
    let threads: Vec<Row> = observer.query("SHOW PROCESSLIST").await?;
    Ok(threads.iter().any(|thread| {
        let state = thread.get::<Option<String>, _>("State").flatten().unwrap_or_default();
        thread.get::<u32, _>("Id") == Some(id) && state.starts_with("Waiting for") && state.ends_with("lock")
    }))
}
