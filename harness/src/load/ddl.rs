//! One slow client that creates, renames and drops tables, so that a change of
//! the schema is in flight when the freeze comes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error as SqlError};
use tokio::time::{sleep, timeout};

use super::{Pending, Shared, connect};
use crate::clock;
use crate::error::Result;
use crate::history::{Entry, ddl_tables};

/// The pause between two steps: the load is about rows.
const PAUSE: Duration = Duration::from_millis(200);

/// The pause before a step that failed is sent again.
const AGAIN: Duration = Duration::from_millis(100);

/// Takes step after step until told to stop.
pub(super) async fn run(shared: Arc<Shared>) -> Result<()> {
    let mut conn = connect(&shared).await?;
    for n in 1.. {
        let pending =
            Pending::new(&shared.history, clock::now(), move |t, end| Entry::SchemaChange { t, end, n });
        loop {
            if shared.stop.load(Ordering::Relaxed) {
                // Not sent again: whether it is done is for the judge to find.
                return Ok(());
            }
            match timeout(shared.statement_limit, step(&mut conn, n)).await {
                Ok(Ok(())) => break,
                Ok(Err(SqlError::Server(_))) => {}
                Ok(Err(_)) | Err(_) => conn = connect(&shared).await?,
            }
            sleep(AGAIN).await;
        }
        pending.done()?;
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Takes a step, unless it is already taken: its answer may have been lost.
async fn step(conn: &mut Conn, n: u32) -> mysql_async::Result<()> {
    let there: BTreeSet<String> = conn
        .query("SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name LIKE 'ddl\\_%'")
        .await?
        .into_iter()
        .collect();
    if there.into_iter().eq(ddl_tables(n)) { Ok(()) } else { conn.query_drop(statement(n)).await }
}

/// The statement that leads from the tables after `n - 1` steps to those after `n`.
fn statement(n: u32) -> String {
    let k = n / 3;
    match n % 3 {
        1 => format!("CREATE TABLE ddl_{} (n INT UNSIGNED PRIMARY KEY) ENGINE=InnoDB", k + 1),
        2 => format!("RENAME TABLE ddl_{0} TO ddl_{0}_renamed", k + 1),
        _ => format!("DROP TABLE ddl_{}_renamed", k - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_statement_leads_to_the_next_tables() {
        let mut tables: BTreeSet<String> = ddl_tables(0).into_iter().collect();
        for n in 1..=12 {
            let statement = statement(n);
            let words: Vec<_> = statement.split(' ').collect();
            match words[0] {
                "CREATE" => assert!(tables.insert(words[2].to_owned())),
                "RENAME" => assert!(tables.remove(words[2]) && tables.insert(words[4].to_owned())),
                _ => assert!(tables.remove(words[2])),
            }
            assert!(tables.iter().eq(&ddl_tables(n)), "after {n}: {tables:?}");
        }
    }
}
