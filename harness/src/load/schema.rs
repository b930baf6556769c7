//! The load's tables.
//!
//! Every row can be recomputed or recognised: transfers conserve the sum of
//! all balances, each account counts its versions, each row carries the
//! checksum of its payload, and each client numbers its transfers densely.

use std::time::Duration;

use contract::history::Follower;
use contract::scenario::{Load, Profile};

use super::bulk::SIDE;
use super::large_table;
use crate::database::{TCP, Target};
use crate::error::{Error, Result};
use crate::names::table;

/// Accounts are numbered from 1 to this: few enough that writers contend for them.
pub const ACCOUNTS: u32 = 64;

/// Every account's opening balance.
pub const OPENING_BALANCE: i64 = 1_000_000;

/// Creates the tables in empty schemas. Returns whether the server keeps a binary log.
pub(super) async fn create(
    target: &Target,
    limit: Duration,
    load: &Load,
    followers: &[Follower],
) -> Result<bool> {
    let connected = target.door(TCP).connect_with_retries(limit).await;
    let mut conn = connected.map_err(Error::sql("accept the load's connection"))?;
    let name = |plain: &str| target.names.table(plain);
    let [counters, accounts] = [table::COUNTERS, table::ACCOUNTS].map(name);
    let dialect = target.dialect();
    let mut statements = dialect.create(&target.names, load, followers);
    let rows = |count: u32, row: fn(u32) -> String| (1..=count).map(row).collect::<Vec<_>>().join(", ");
    statements.push(format!("INSERT INTO {counters} VALUES {}", rows(load.writers, |c| format!("({c}, 0)"))));
    statements.push(format!(
        "INSERT INTO {accounts} VALUES {}",
        rows(ACCOUNTS, |id| format!("({id}, {OPENING_BALANCE}, 0)"))
    ));
    if load.profile == Profile::Bulk {
        let values = (0..SIDE).map(|i| format!("({i})")).collect::<Vec<_>>().join(", ");
        statements.push(format!("INSERT INTO {} VALUES {values}", name(table::BULK_SIDE)));
    }
    for statement in statements {
        let what: String = statement.chars().take(60).collect();
        conn.execute(&statement).await.map_err(Error::sql(format!("run `{what} ...`")))?;
    }
    if load.data_mib > 0 {
        large_table::fill(&mut conn, dialect, &name(table::BIG), load.data_mib).await?;
    }
    let binlog = match dialect.keeps_binlog() {
        None => false,
        Some(query) => {
            let answer = conn.query_value::<u8>(query).await;
            answer.map_err(Error::sql("report whether it keeps a binary log"))? == Some(1)
        }
    };
    conn.close().await;
    Ok(binlog)
}
