//! Bulk data that is not read back: a table that the server fills by itself before the load begins,
//! and a client that changes rows all over it, so that a freeze meets dirty pages.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rand::Rng;
use tokio::time::{sleep, timeout};

use super::context::LoadContext;
use crate::database::TCP_ADMIN;
use crate::error::{Error, Result};
use crate::names::table;

/// Rows per MiB; each is about a KiB.
const ROWS_A_MIB: u32 = 1000;

/// Rows per filling statement: the fourth power of the rows of [`DIGITS`].
const ROWS_AT_ONCE: u32 = 10_000;

const DIGITS: &str = "(SELECT 0 AS i UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 \
                      UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)";

/// Rows changed by one statement.
const CHANGED: u32 = 8;

/// The pause after a change that failed.
const AGAIN: Duration = Duration::from_millis(100);

fn rows(data_mib: u32) -> u32 {
    data_mib * ROWS_A_MIB
}

/// Creates and fills the table, bypassing the binary log: its rows are part of what a backup starts
/// from. `real` is the table's name on the server.
pub(super) async fn fill(conn: &mut Conn, real: &str, data_mib: u32) -> Result<()> {
    let mut run = async |statement: String| {
        conn.query_drop(statement).await.map_err(Error::sql("fill the table of `data_mib`"))
    };
    run(format!(
        "CREATE TABLE {real} (id INT UNSIGNED PRIMARY KEY, ver INT UNSIGNED NOT NULL, \
         pay VARBINARY(1024) NOT NULL) ENGINE=InnoDB"
    ))
    .await?;
    run("SET SESSION sql_log_bin = 0".to_owned()).await?;
    for first in (0..rows(data_mib)).step_by(ROWS_AT_ONCE as usize) {
        // In key order, so that pages fill up one after the other.
        run(format!(
            "INSERT INTO {real} SELECT n, 0, REPEAT(MD5(n), 31) FROM \
             (SELECT {first} + 1000 * a.i + 100 * b.i + 10 * c.i + d.i AS n \
              FROM {DIGITS} a CROSS JOIN {DIGITS} b CROSS JOIN {DIGITS} c CROSS JOIN {DIGITS} d) AS made \
             WHERE n < {} ORDER BY n",
            rows(data_mib)
        ))
        .await?;
    }
    run("SET SESSION sql_log_bin = 1".to_owned()).await
}

/// Changes rows at random places until the load stops. The outcome of a change is not recorded.
pub(super) async fn churn(context: Arc<LoadContext>, data_mib: u32) -> Result<()> {
    let real = context.target.names.table(table::BIG);
    let mut random = context.random(u32::MAX);
    let mut conn = context.connect(TCP_ADMIN).await?;
    while !context.stopped() {
        let first = random.random_range(0..rows(data_mib));
        let statement = format!(
            "UPDATE {real} SET ver = ver + 1, pay = REPEAT(MD5(id + ver), 31) WHERE id BETWEEN {first} AND {}",
            first + CHANGED - 1
        );
        if !matches!(timeout(context.statement_limit, conn.query_drop(statement)).await, Ok(Ok(()))) {
            conn = context.connect(TCP_ADMIN).await?;
            sleep(AGAIN).await;
        }
    }
    Ok(())
}
