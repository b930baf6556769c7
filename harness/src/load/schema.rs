//! The load's tables.
//!
//! Every row can be recomputed or recognised: transfers conserve the sum of
//! all balances, each account counts its versions, each row carries the
//! checksum of its payload, and each client numbers its transfers densely.

use std::time::Duration;

use mysql_async::prelude::Queryable;

use super::bulk::SIDE;
use crate::database::{Access, BULK};
use crate::error::{Error, Result};
use crate::history::ddl_tables;
use crate::scenario::{Load, Profile};

/// Accounts are numbered 1 to this. Few enough that writers meet on them.
pub const ACCOUNTS: u32 = 64;

/// The balance with which every account starts.
pub const OPENING_BALANCE: i64 = 1_000_000;

/// Creates the tables on an empty schema.
pub(super) async fn create(
    access: &Access,
    limit: Duration,
    load: &Load,
    followers: &[(&str, &str)],
) -> Result<()> {
    let mut conn =
        access.connect_patiently(limit).await.map_err(Error::sql("accept the load's connection"))?;
    let mut statements = vec![
        "CREATE TABLE cl (c INT UNSIGNED PRIMARY KEY, seq INT UNSIGNED NOT NULL) ENGINE=InnoDB".to_owned(),
        "CREATE TABLE acct (id INT UNSIGNED PRIMARY KEY, bal BIGINT NOT NULL, ver INT UNSIGNED NOT NULL) \
         ENGINE=InnoDB"
            .to_owned(),
        // `rnd` keeps a secondary index busy at random places.
        "CREATE TABLE ledger (c INT UNSIGNED, seq INT UNSIGNED, leg TINYINT UNSIGNED, \
         dc INT UNSIGNED NOT NULL, dseq INT UNSIGNED NOT NULL, acct INT UNSIGNED NOT NULL, \
         amt BIGINT NOT NULL, ver INT UNSIGNED NOT NULL, pay VARBINARY(1024) NOT NULL, \
         crc INT UNSIGNED NOT NULL, rnd INT UNSIGNED NOT NULL, \
         PRIMARY KEY (c, seq, leg), KEY rnd (rnd), KEY acct (acct, amt)) ENGINE=InnoDB"
            .to_owned(),
        // The quiescence probes have tables of their own: their rows prove nothing else.
        "CREATE TABLE probe (id INT UNSIGNED PRIMARY KEY, n INT UNSIGNED NOT NULL) ENGINE=MEMORY".to_owned(),
        "CREATE TABLE probe_tx (id INT UNSIGNED PRIMARY KEY, n INT UNSIGNED NOT NULL) ENGINE=InnoDB"
            .to_owned(),
        "INSERT INTO probe VALUES (1, 0)".to_owned(),
        "INSERT INTO probe_tx VALUES (1, 0)".to_owned(),
    ];
    statements.extend(
        ddl_tables(0)
            .into_iter()
            .map(|table| format!("CREATE TABLE {table} (n INT UNSIGNED PRIMARY KEY) ENGINE=InnoDB")),
    );
    for (table, engine) in followers {
        statements.push(format!(
            "CREATE TABLE {table} (c INT UNSIGNED, seq INT UNSIGNED, crc INT UNSIGNED NOT NULL, \
             pay VARBINARY(1024) NOT NULL, PRIMARY KEY (c, seq), KEY crc (crc)) ENGINE={engine}"
        ));
    }
    let rows = |count: u32, row: fn(u32) -> String| (1..=count).map(row).collect::<Vec<_>>().join(", ");
    statements.push(format!("INSERT INTO cl VALUES {}", rows(load.writers, |c| format!("({c}, 0)"))));
    let accounts = rows(ACCOUNTS, |id| format!("({id}, {OPENING_BALANCE}, 0)"));
    statements.push(format!("INSERT INTO acct VALUES {accounts}"));
    if load.profile == Profile::Bulk {
        statements.push(format!(
            "CREATE TABLE {BULK} (n INT UNSIGNED, i INT UNSIGNED, pay CHAR(32) NOT NULL, \
             crc INT UNSIGNED NOT NULL, PRIMARY KEY (n, i)) ENGINE=MyISAM"
        ));
        statements.push("CREATE TABLE bulk_side (i INT UNSIGNED PRIMARY KEY) ENGINE=InnoDB".to_owned());
        let side = (0..SIDE).map(|i| format!("({i})")).collect::<Vec<_>>().join(", ");
        statements.push(format!("INSERT INTO bulk_side VALUES {side}"));
    }
    for statement in statements {
        let what: String = statement.chars().take(60).collect();
        conn.query_drop(statement).await.map_err(Error::sql(format!("run `{what} ...`")))?;
    }
    // Closing is a courtesy; the server notices anyway.
    let _ = conn.disconnect().await;
    Ok(())
}
