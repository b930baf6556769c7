//! What PostgreSQL is asked, through psql in the guest, as its own user.

use super::checks::{Messages, Table};

/// psql without the settings of the user's, with a message for every error and then the next statement.
pub(super) const CLIENT: &str = "runuser -u postgres -- psql -X -q -A -t -F \"$(printf '\\t')\"";

/// Asks for the version, its number, whether pages have checksums, and whether it still follows another server.
pub(super) const IDENTITY: &str = "SELECT 'PostgreSQL ' || current_setting('server_version'), \
     current_setting('server_version_num'), current_setting('data_checksums'), pg_is_in_recovery();\n";

/// Lists the databases.
pub(super) const DATABASES: &str =
    "SELECT datname FROM pg_database WHERE datallowconn ORDER BY pg_database_size(oid);\n";

/// The most tables of a database that are listed.
pub(super) const MOST_TABLES: usize = 5_000;

/// Lists the tables of a database, with those in which long values are kept, small ones first.
pub(super) const TABLES: &str = "SELECT c.oid, n.nspname || '.' || c.relname FROM pg_class c \
     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence = 'p' \
     ORDER BY c.relpages, 1 LIMIT 5001;\n";

/// The first version whose amcheck checks tables, and not indexes only.
const CHECKS_TABLES: u32 = 140_000;

/// What begins the line before the answers about a table; its place in the batch follows.
const MARK: &str = "freezeframe: table ";

/// What ends them.
const END: &str = "freezeframe: checked";

/// Where amcheck comes from, whose functions check tables and indexes.
pub(super) const AMCHECK: &str = "CREATE EXTENSION IF NOT EXISTS amcheck;\n";

/// Reads a list of tables.
pub(super) fn read_tables(database: &str, answer: &str) -> Vec<Table> {
    let table = |line: &str| {
        let (oid, name) = line.split_once('\t')?;
        let oid: u32 = oid.parse().ok()?;
        Some(Table { name: format!("{database}.{name}"), real: oid.to_string(), engine: "heap".to_owned() })
    };
    answer.lines().filter_map(table).collect()
}

/// Checks these tables: all of their rows, and that their B-trees hold each of them. Without amcheck, the rows are
/// only read.
pub(super) fn check(tables: &[Table], version: u32, amcheck: bool) -> String {
    let mut script = String::new();
    for (n, Table { real, .. }) in tables.iter().enumerate() {
        script.push_str(&format!("\\echo '{MARK}{n}'\n"));
        if amcheck && version >= CHECKS_TABLES {
            script.push_str(&format!(
                "SELECT 'error', format('block %s: %s', blkno, replace(msg, E'\\n', ' ')) FROM \
                 verify_heapam({real}::regclass, check_toast := true);\n"
            ));
        } else {
            script.push_str(&format!(
                "SELECT format('SELECT count(t::text) < 0 FROM %s t', {real}::regclass) \\gexec\n"
            ));
        }
        if amcheck {
            script.push_str(&format!(
                "SELECT 'note', count(bt_index_parent_check(i.indexrelid, true)) || ' indexes' FROM pg_index i \
                 JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam \
                 WHERE i.indrelid = {real} AND i.indisready AND i.indisvalid AND a.amname = 'btree';\n"
            ));
        }
        script.push_str(&format!("\\echo '{END}'\n"));
    }
    script
}

/// The messages about the first of these tables that were checked to their end. Errors of the statements stand among
/// the answers.
pub(super) fn read_check(tables: &[Table], answer: &str) -> Vec<Messages> {
    let mut read: Vec<Messages> = Vec::new();
    let mut now: Option<Messages> = None;
    for line in answer.lines() {
        if line == format!("{MARK}{}", read.len()) {
            now = Some(Messages::new());
        } else if line == END {
            match now.take() {
                // psql goes on after it has lost its server.
                Some(messages) if !messages.iter().any(|(_, message)| is_loss(message)) => {
                    read.push(messages);
                }
                Some(_) | None => break,
            }
        } else if let Some(messages) = &mut now {
            let message = match line.split_once('\t') {
                Some((kind @ ("error" | "note"), message)) => (kind.to_owned(), message.to_owned()),
                _ if is_loss(line) || line.contains("ERROR:") => ("error".to_owned(), line.to_owned()),
                _ => ("note".to_owned(), line.to_owned()),
            };
            messages.push(message);
        }
    }
    read.truncate(tables.len());
    read
}

/// Whether psql says that its server is gone.
fn is_loss(line: &str) -> bool {
    [
        "server closed the connection",
        "connection to server was lost",
        "You are currently not connected",
        "FATAL:",
    ]
    .iter()
    .any(|words| line.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Vec<Table> {
        read_tables("shop", "16384\tpublic.orders\n16390\tpg_toast.pg_toast_16384\nnonsense\n1x\ty\n")
    }

    #[test]
    fn tables_are_known_by_their_numbers() {
        let tables = tables();
        assert_eq!(tables.len(), 2);
        assert_eq!((&*tables[0].name, &*tables[0].real), ("shop.public.orders", "16384"));
        let script = check(&tables, 150_000, true);
        assert!(script.contains("verify_heapam(16384::regclass") && script.contains("indrelid = 16390"));
        let old = check(&tables, 130_000, true);
        assert!(
            !old.contains("verify_heapam")
                && old.contains("bt_index_parent_check")
                && old.contains("\\gexec")
        );
        assert!(!check(&tables, 150_000, false).contains("bt_index_parent_check"));
    }

    #[test]
    fn a_check_is_read_table_by_table() {
        let fine = format!("{MARK}0\nnote\t2 indexes\n{END}\n");
        let read = read_check(&tables(), &fine);
        assert_eq!(read, [vec![("note".to_owned(), "2 indexes".to_owned())]]);
        let broken = format!(
            "{fine}{MARK}1\nerror\tblock 3: line pointer\npsql:<stdin>:7: ERROR:  invalid page in block 0\n{END}\n"
        );
        let read = read_check(&tables(), &broken);
        assert!(read[1].iter().all(|(kind, _)| kind == "error") && read[1].len() == 2, "{read:?}");
    }

    #[test]
    fn a_server_that_goes_away_has_not_answered() {
        let fine = format!("{MARK}0\n{END}\n");
        let gone = format!("{fine}{MARK}1\nserver closed the connection unexpectedly\n{END}\n");
        assert_eq!(read_check(&tables(), &gone).len(), 1);
        assert_eq!(read_check(&tables(), &format!("{fine}{MARK}1\n")).len(), 1, "it hangs");
        assert_eq!(read_check(&tables(), "").len(), 0);
    }
}
