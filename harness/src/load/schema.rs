//! The load's tables.
//!
//! Every row can be recomputed or recognised: transfers conserve the sum of
//! all balances, each account counts its versions, each row carries the
//! checksum of its payload, and each client numbers its transfers densely.

use std::time::Duration;

use contract::history::{Follower, ddl_tables};
use contract::scenario::{Load, Profile};
use mysql_async::prelude::Queryable;

use super::bulk::SIDE;
use super::large_table;
use crate::database::{self, PROBE_TABLES, TCP, Target};
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
    let [counters, accounts, ledger] = [table::COUNTERS, table::ACCOUNTS, table::LEDGER].map(name);
    let mut statements = vec![
        format!(
            "CREATE TABLE {counters} (c INT UNSIGNED PRIMARY KEY, seq INT UNSIGNED NOT NULL) ENGINE=InnoDB"
        ),
        format!(
            "CREATE TABLE {accounts} (id INT UNSIGNED PRIMARY KEY, bal BIGINT NOT NULL, ver INT UNSIGNED NOT NULL) \
             ENGINE=InnoDB"
        ),
        // `rnd` makes a secondary index change at random places.
        format!(
            "CREATE TABLE {ledger} (c INT UNSIGNED, seq INT UNSIGNED, leg TINYINT UNSIGNED, \
             dc INT UNSIGNED NOT NULL, dseq INT UNSIGNED NOT NULL, acct INT UNSIGNED NOT NULL, \
             amt BIGINT NOT NULL, ver INT UNSIGNED NOT NULL, pay VARBINARY(1024) NOT NULL, \
             crc INT UNSIGNED NOT NULL, rnd INT UNSIGNED NOT NULL, \
             PRIMARY KEY (c, seq, leg), KEY rnd (rnd), KEY acct (acct, amt)) ENGINE=InnoDB"
        ),
        format!(
            "CREATE TABLE {} (id INT UNSIGNED PRIMARY KEY, n INT UNSIGNED NOT NULL) ENGINE=MEMORY",
            name(table::PROBE)
        ),
        format!("INSERT INTO {} VALUES (1, 0)", name(table::PROBE)),
    ];
    // The quiescence probes have tables of their own, with AUTO_INCREMENT keys: a row written again
    // with a key of its own may meet the first one while that is rolled back, and the check for a
    // duplicate would lock the gap before the next probe's row, which then waits for that instead
    // of the server's lock.
    for (plain, engine) in PROBE_TABLES {
        statements.push(format!(
            "CREATE TABLE {} (id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY, n INT UNSIGNED NOT NULL) \
             ENGINE={engine}",
            name(plain)
        ));
    }
    for plain in ddl_tables(0) {
        statements.push(format!("CREATE TABLE {} (n INT UNSIGNED PRIMARY KEY) ENGINE=InnoDB", name(&plain)));
    }
    for follower in followers {
        // The index covers everything that is compared through it, so only the index is read.
        statements.push(format!(
            "CREATE TABLE {} (c INT UNSIGNED, n INT UNSIGNED, of_c INT UNSIGNED NOT NULL, \
             of_n INT UNSIGNED NOT NULL, crc INT UNSIGNED NOT NULL, pay VARBINARY(1024) NOT NULL, \
             PRIMARY KEY (c, n), KEY crc (crc, c, n)) ENGINE={}",
            name(&follower.table),
            database::engine_clause(follower)
        ));
    }
    let rows = |count: u32, row: fn(u32) -> String| (1..=count).map(row).collect::<Vec<_>>().join(", ");
    statements.push(format!("INSERT INTO {counters} VALUES {}", rows(load.writers, |c| format!("({c}, 0)"))));
    statements.push(format!(
        "INSERT INTO {accounts} VALUES {}",
        rows(ACCOUNTS, |id| format!("({id}, {OPENING_BALANCE}, 0)"))
    ));
    if load.profile == Profile::Bulk {
        let [bulk, side] = [table::BULK, table::BULK_SIDE].map(name);
        statements.push(format!(
            "CREATE TABLE {bulk} (n INT UNSIGNED, i INT UNSIGNED, pay CHAR(32) NOT NULL, \
             crc INT UNSIGNED NOT NULL, PRIMARY KEY (n, i)) ENGINE=MyISAM"
        ));
        statements.push(format!("CREATE TABLE {side} (i INT UNSIGNED PRIMARY KEY) ENGINE=InnoDB"));
        let values = (0..SIDE).map(|i| format!("({i})")).collect::<Vec<_>>().join(", ");
        statements.push(format!("INSERT INTO {side} VALUES {values}"));
    }
    for statement in statements {
        let what: String = statement.chars().take(60).collect();
        conn.query_drop(statement).await.map_err(Error::sql(format!("run `{what} ...`")))?;
    }
    if load.data_mib > 0 {
        large_table::fill(&mut conn, &name(table::BIG), load.data_mib).await?;
    }
    let binlog: Option<u8> = conn
        .query_first("SELECT @@log_bin")
        .await
        .map_err(Error::sql("report whether it keeps a binary log"))?;
    // Closing is a courtesy; the server notices anyway.
    let _ = conn.disconnect().await;
    Ok(binlog == Some(1))
}
