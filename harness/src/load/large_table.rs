//! Bulk data that is not read back: a table that the server fills by itself before the load begins,
//! and a client that changes rows all over it, so that a freeze meets dirty pages.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::{sleep, timeout};

use super::context::LoadContext;
use crate::database::{Connection, Dialect, TCP_ADMIN};
use crate::error::{Error, Result};
use crate::names::table;

/// Rows per MiB; each is about a KiB.
const ROWS_A_MIB: u32 = 1000;

/// Rows per filling statement; MariaDB and MySQL make them of four decimal digits.
const ROWS_AT_ONCE: u32 = 10_000;

/// Rows changed by one statement.
const CHANGED: u32 = 8;

/// The pause after a change that failed.
const AGAIN: Duration = Duration::from_millis(100);

fn rows(data_mib: u32) -> u32 {
    data_mib * ROWS_A_MIB
}

/// Fills the table; `real` is its name on the server.
pub(super) async fn fill(
    conn: &mut Connection,
    dialect: &dyn Dialect,
    real: &str,
    data_mib: u32,
) -> Result<()> {
    let rows = rows(data_mib);
    for first in (0..rows).step_by(ROWS_AT_ONCE as usize) {
        let statement = dialect.fill(real, first, rows.min(first + ROWS_AT_ONCE));
        conn.execute(&statement).await.map_err(Error::sql("fill the table of `data_mib`"))?;
    }
    Ok(())
}

/// Changes rows at random places until the load stops. The outcome of a change is not recorded.
pub(super) async fn churn(context: Arc<LoadContext>, data_mib: u32) -> Result<()> {
    let real = context.target.names.table(table::BIG);
    let mut random = context.random(u32::MAX);
    let mut conn = context.connect(TCP_ADMIN).await?;
    while !context.stopped() {
        let first = random.random_range(0..rows(data_mib));
        let statement = context.dialect().churn(&real, first, first + CHANGED - 1);
        if !matches!(timeout(context.statement_limit, conn.execute(&statement)).await, Ok(Ok(()))) {
            conn = context.connect(TCP_ADMIN).await?;
            sleep(AGAIN).await;
        }
    }
    Ok(())
}
