//! The bulk writer: statements that insert thousands of rows each into a MyISAM table: only a lock
//! keeps them whole.

use std::sync::Arc;
use std::time::Duration;

use contract::history::Entry;
use tokio::time::{sleep, timeout};

use super::context::{LoadContext, Pending};
use crate::clock;
use crate::database::TCP;
use crate::error::Result;
use crate::names::table;

/// Rows of the table that a statement joins with itself.
pub(super) const SIDE: u64 = 64;

/// The pause between two statements, which leaves the server to the transfers.
const PAUSE: Duration = Duration::from_millis(100);

/// Sends statement after statement until the load stops. A statement without an answer uses up its
/// number, because its rows may be there.
pub(super) async fn run(context: Arc<LoadContext>) -> Result<()> {
    let [bulk, side] = [table::BULK, table::BULK_SIDE].map(|plain| context.target.names.table(plain));
    let mut conn = context.connect(TCP).await?;
    for n in 1.. {
        if context.stopped() {
            break;
        }
        // The rows come from the server itself, so that the statement is long and its text short.
        let statement = format!(
            "INSERT INTO {bulk} SELECT {n}, i, pay, CRC32(pay) FROM \
             (SELECT a.i * {SIDE} + b.i AS i, MD5(CONCAT({n}, ' ', a.i, ' ', b.i)) AS pay \
              FROM {side} a CROSS JOIN {side} b) AS made"
        );
        let rows = SIDE * SIDE;
        let pending =
            Pending::new(&context.history, clock::now(), move |t, end| Entry::Bulk { t, end, n, rows });
        match timeout(context.statement_limit, conn.execute(&statement)).await {
            Ok(Ok(())) => pending.done()?,
            // A failed statement on a non-transactional table proves nothing about its rows.
            Ok(Err(_)) | Err(_) => {
                drop(pending);
                conn = context.connect(TCP).await?;
            }
        }
        sleep(PAUSE).await;
    }
    Ok(())
}
