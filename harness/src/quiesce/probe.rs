//! The quiescence probes: two statements, sent as soon as the freeze has
//! returned, on connections that were opened before it.
//!
//! They tell three states apart that look alike from outside: nothing held
//! back, only the file system frozen, and the database locked. Which statement
//! each lock refuses is measured: `FLUSH TABLES WITH READ LOCK` refuses both,
//! MariaDB's `BACKUP STAGE BLOCK_COMMIT` only the transactional one, and a
//! frozen file system alone lets the MEMORY table through and hangs the other.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clock;
use crate::database::Access;
use crate::error::{Error, Result};
use crate::history::{Entry, ProbeAnswer, ProbeKind};
use crate::load::HistoryLog;

/// The server's own limit for lock waits, so that a lock answers with error 1205.
const LOCK_WAIT: &str = "SET SESSION lock_wait_timeout = 1";

/// The client's limit; what has not been answered by then hangs below the locks.
const ANSWER_LIMIT: Duration = Duration::from_millis(2500);

/// Error 1205, ER_LOCK_WAIT_TIMEOUT.
const LOCK_WAIT_TIMEOUT: u16 = 1205;

/// The probes, connected and ready.
#[derive(Debug)]
pub struct Probes {
    memory: Conn,
    transactional: Conn,
}

impl Probes {
    /// Opens the connections. Must be done before the freeze: a frozen guest
    /// may not accept any.
    pub fn connect(runtime: &Runtime, access: &Access) -> Result<Self> {
        let open = || async {
            let mut conn = access.connect().await?;
            conn.query_drop(LOCK_WAIT).await?;
            Ok(conn)
        };
        runtime.block_on(async {
            let mut memory = open().await.map_err(Error::sql("accept the probes' connections"))?;
            let transactional = open().await.map_err(Error::sql("accept the probes' connections"))?;
            // Without the binlog the statement cannot touch a disk.
            memory
                .query_drop("SET SESSION sql_log_bin = 0")
                .await
                .map_err(Error::sql("keep the probe out of the binlog"))?;
            Ok(Self { memory, transactional })
        })
    }

    /// Sends both statements at once. The answers go into the history.
    pub fn send(self, runtime: &Runtime, history: &HistoryLog) -> JoinHandle<Result<()>> {
        let history = history.clone();
        runtime.spawn(async move {
            let (memory, transactional) = tokio::join!(
                ask(self.memory, ProbeKind::Memory, "UPDATE probe SET n = n + 1 WHERE id = 1"),
                ask(
                    self.transactional,
                    ProbeKind::Transactional,
                    "UPDATE probe_tx SET n = n + 1 WHERE id = 1"
                ),
            );
            history.write(&memory)?;
            history.write(&transactional)
        })
    }
}

async fn ask(mut conn: Conn, kind: ProbeKind, statement: &str) -> Entry {
    let t = clock::now();
    let answer = match timeout(ANSWER_LIMIT, conn.query_drop(statement)).await {
        Ok(Ok(())) => ProbeAnswer::Done,
        Ok(Err(mysql_async::Error::Server(e))) if e.code == LOCK_WAIT_TIMEOUT => ProbeAnswer::Locked,
        Ok(Err(_)) => ProbeAnswer::Error,
        Err(_) => ProbeAnswer::Hung,
    };
    Entry::Probe { t, end: clock::now(), kind, answer }
}
