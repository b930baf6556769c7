//! One slow client that creates, renames and drops tables, so that a change of
//! the schema is in flight when the freeze comes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use contract::history::{Entry, ddl_tables};
use tokio::time::{sleep, timeout};

use super::context::{LoadContext, Pending};
use crate::clock;
use crate::database::{Connection, Dialect, SqlResult, TCP};
use crate::error::{Result, SqlError};
use crate::names::Names;

/// The pause between two steps, because the load is mainly about rows.
const PAUSE: Duration = Duration::from_millis(200);

/// The pause before a step that failed is sent again.
const AGAIN: Duration = Duration::from_millis(100);

/// Takes step after step until the load stops.
pub(super) async fn run(context: Arc<LoadContext>) -> Result<()> {
    let mut conn = context.connect(TCP).await?;
    for n in 1.. {
        let pending =
            Pending::new(&context.history, clock::now(), move |t, end| Entry::SchemaChange { t, end, n });
        loop {
            if context.stopped() {
                // Not sent again: whether it is done is for the judge to find.
                return Ok(());
            }
            match timeout(
                context.statement_limit,
                step(&mut conn, context.dialect(), &context.target.names, n),
            )
            .await
            {
                Ok(Ok(())) => break,
                Ok(Err(SqlError::Server { .. })) => {}
                Ok(Err(_)) | Err(_) => conn = context.connect(TCP).await?,
            }
            sleep(AGAIN).await;
        }
        pending.done()?;
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Takes a step, unless it is already taken: its answer may have been lost.
async fn step(conn: &mut Connection, dialect: &dyn Dialect, names: &Names, n: u32) -> SqlResult<()> {
    let rows = conn.query(&names.ddl_tables_query()).await?;
    let there: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect::<SqlResult<_>>()?;
    let done: BTreeSet<String> = ddl_tables(n).iter().map(|table| names.without_schema(table)).collect();
    if there == done {
        Ok(())
    } else {
        conn.execute(&statement(dialect, n, |plain| names.table(plain))).await
    }
}

/// The statement that leads from the tables after `n - 1` steps to those after `n`.
fn statement(dialect: &dyn Dialect, n: u32, name: impl Fn(&str) -> String) -> String {
    let k = n / 3;
    let new = name(&format!("ddl_{}", k + 1));
    match n % 3 {
        1 => dialect.create_small(&new),
        2 => dialect.rename(&new, &format!("{new}_renamed")),
        _ => format!("DROP TABLE {}_renamed", name(&format!("ddl_{}", k - 1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::dialect;
    use contract::image::Database;

    #[test]
    fn each_statement_leads_to_the_next_tables() {
        let mut tables: BTreeSet<String> = ddl_tables(0).into_iter().collect();
        for n in 1..=12 {
            let statement = statement(dialect(Database::Mysql), n, str::to_owned);
            let tokens: Vec<_> = statement.split(' ').collect();
            match tokens[0] {
                "CREATE" => assert!(tables.insert(tokens[2].to_owned())),
                "RENAME" => assert!(tables.remove(tokens[2]) && tables.insert(tokens[4].to_owned())),
                _ => assert!(tables.remove(tokens[2])),
            }
            assert!(tables.iter().eq(&ddl_tables(n)), "after {n}: {tables:?}");
        }
    }
}
