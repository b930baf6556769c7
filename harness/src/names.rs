//! The names of a trial's schemas, tables and accounts on the server. They come from the operating
//! system's random numbers and not from the seed, so that nothing in a guest can know them before
//! they are used.
//!
//! Logs and records use the plain names below instead.

use std::collections::BTreeMap;

use contract::history::Schema;
use rand::distr::{Alphanumeric, SampleString};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// The plain names of a trial's tables, except those of the schema changes.
pub mod table {
    /// Each client's last transfer.
    pub const COUNTERS: &str = "cl";
    /// The accounts.
    pub const ACCOUNTS: &str = "acct";
    /// The legs of all transfers.
    pub const LEDGER: &str = "ledger";
    /// The rows of the bulk writer.
    pub const BULK: &str = "bulk";
    /// The small table that the bulk writer's statements multiply by itself.
    pub const BULK_SIDE: &str = "bulk_side";
    /// The rows of `data_mib`.
    pub const BIG: &str = "big";
    /// The table in memory that a quiescence probe updates. The others are transactional (`TX`) or
    /// not (`NT`).
    pub const PROBE: &str = "probe";
    /// See [`PROBE`].
    pub const PROBE_TX: &str = "probe_tx";
    /// See [`PROBE`].
    pub const PROBE_NT: &str = "probe_nt";
    /// See [`PROBE`]; in the second schema.
    pub const SECOND_PROBE_TX: &str = "second_probe_tx";
    /// See [`PROBE`]; in the second schema.
    pub const SECOND_PROBE_NT: &str = "second_probe_nt";
}

/// Every plain name of [`table`] and of the followers, and the schema that the table is in.
const TABLES: [(&str, Schema); 17] = [
    (table::COUNTERS, Schema::Load),
    (table::ACCOUNTS, Schema::Load),
    (table::LEDGER, Schema::Load),
    ("nt", Schema::Load),
    ("ar", Schema::Load),
    ("art", Schema::Load),
    ("second_tx", Schema::Second),
    ("second_nt", Schema::Second),
    ("second_ar", Schema::Second),
    (table::BULK, Schema::Load),
    (table::BULK_SIDE, Schema::Load),
    (table::BIG, Schema::Second),
    (table::PROBE, Schema::Load),
    (table::PROBE_TX, Schema::Load),
    (table::PROBE_NT, Schema::Load),
    (table::SECOND_PROBE_TX, Schema::Second),
    (table::SECOND_PROBE_NT, Schema::Second),
];

/// How the plain names of the tables of the schema changes begin.
const DDL: &str = "ddl";

/// The length of a name. Names are letters only, so that none needs quotes, and too long to be a
/// reserved word by chance.
const LENGTH: usize = 12;

/// How long a password is.
const PASSWORD: usize = 24;

/// An account of the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub user: String,
    /// Its password: letters, digits and a hyphen.
    pub password: String,
}

impl std::fmt::Debug for Account {
    // Derived output would show the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({})", self.user)
    }
}

/// The names of one trial.
#[derive(Debug, Clone)]
pub struct Names {
    /// The schema of the transfers.
    pub load: String,
    /// The second schema.
    pub second: String,
    /// May do everything in both schemas.
    pub ordinary: Account,
    /// May do everything.
    pub administrator: Account,
    /// The administrator of a restored server. The first server has no such account, so nothing in
    /// the backup conflicts with it.
    pub observer: Account,
    /// By their plain names, without a schema.
    tables: BTreeMap<&'static str, String>,
    /// How the names of the tables of the schema changes begin.
    ddl: String,
}

impl Names {
    /// Draws names that nobody knows yet.
    pub fn random() -> Self {
        let mut random = ChaCha20Rng::from_os_rng();
        let tables = TABLES.iter().map(|(plain, _)| (*plain, name(&mut random))).collect();
        Self {
            load: name(&mut random),
            second: name(&mut random),
            ordinary: account(&mut random),
            administrator: account(&mut random),
            observer: account(&mut random),
            tables,
            ddl: name(&mut random),
        }
    }

    /// What a schema is called.
    pub fn schema(&self, schema: Schema) -> &str {
        match schema {
            Schema::Load => &self.load,
            Schema::Second => &self.second,
        }
    }

    /// A table's name in statements, with its schema. `plain` is one of [`table`], of a follower,
    /// or of [`contract::history::ddl_tables`].
    pub fn table(&self, plain: &str) -> String {
        match TABLES.iter().find(|(known, _)| *known == plain) {
            Some((known, schema)) => format!("{}.{}", self.schema(*schema), self.tables[known]),
            None => format!("{}.{}", self.load, plain.replacen(DDL, &self.ddl, 1)),
        }
    }

    /// A table without its schema.
    pub fn without_schema(&self, plain: &str) -> String {
        self.table(plain).rsplit('.').next().unwrap_or_default().to_owned()
    }

    /// The query that lists the tables of the schema changes.
    pub fn ddl_tables_query(&self) -> String {
        format!(
            "SELECT table_name FROM information_schema.tables \
             WHERE table_schema = '{}' AND table_name LIKE '{}\\_%'",
            self.load, self.ddl
        )
    }

    /// What the names of the tables of the schema changes begin with.
    pub fn ddl(&self) -> &str {
        &self.ddl
    }

    /// The plain name of a table on the server; `None` when it is not one of the trial's.
    pub fn plain(&self, schema: &str, table: &str) -> Option<String> {
        let here =
            |(plain, at): &&(&'static str, Schema)| self.schema(*at) == schema && self.tables[plain] == table;
        match TABLES.iter().find(here) {
            Some((plain, _)) => Some((*plain).to_owned()),
            None if schema == self.load => Some(format!("{DDL}{}", table.strip_prefix(&self.ddl)?)),
            None => None,
        }
    }
}

fn name(random: &mut ChaCha20Rng) -> String {
    (0..LENGTH).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
}

fn account(random: &mut ChaCha20Rng) -> Account {
    // The suffix satisfies servers that demand a character of each kind.
    let password = format!("{}-aA1", Alphanumeric.sample_string(random, PASSWORD));
    Account { user: name(random), password }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::history::ddl_tables;

    #[test]
    fn names_lead_there_and_back() {
        let names = Names::random();
        for plain in TABLES.iter().map(|(plain, _)| (*plain).to_owned()).chain(ddl_tables(5)) {
            let real = names.table(&plain);
            let (schema, table) = real.split_once('.').expect("two parts");
            // Two letters are somewhere in twelve by chance.
            assert!(table != plain && (plain.len() < 4 || !table.contains(&plain)), "{real}");
            assert_eq!(names.plain(schema, table), Some(plain));
        }
        assert_eq!(names.plain("mysql", "user"), None);
        assert_eq!(names.plain(&names.load, "user"), None);
    }

    #[test]
    fn passwords_are_not_shown() {
        let names = Names::random();
        assert!(!format!("{names:?}").contains(&names.administrator.password));
        assert_ne!(names.load, Names::random().load);
    }
}
