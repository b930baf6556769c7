//! What MariaDB and MySQL are asked, through their own client in the guest.

use std::collections::BTreeMap;

use super::checks::{Messages, Table};

/// Prints the line of a client that gets in as the server's root: by the socket, as the guest's root is set up, or
/// by the account that Debian's packages make. Fails with what the server said.
pub(super) const CLIENT: &str = r#"
export HOME=/root
program=$(command -v mariadb || command -v mysql) || { echo "there is no client of MariaDB or MySQL" >&2; exit 127; }
for account in "" --defaults-extra-file=/etc/mysql/debian.cnf; do
    [ -z "$account" ] || [ -r "${account#*=}" ] || continue
    line="$program $account --batch --skip-column-names --connect-timeout=20"
    if echo 'SELECT 1' | $line >/dev/null; then
        echo "env HOME=/root $line"
        exit 0
    fi
done
exit 1
"#;

/// Lets a server start that was set up for another machine, or that lets nobody in whose password is not known: it
/// listens to nobody, takes little memory, and asks for no password. Only the overlay gets this file.
pub(super) const PLAIN: &str = r#"
for dir in /etc/mysql/mariadb.conf.d /etc/mysql/mysql.conf.d /etc/mysql/conf.d /etc/my.cnf.d; do
    [ ! -d "$dir" ] || printf '[mysqld]\n%s\n' "$settings" >"$dir/zzz-freezeframe.cnf"
done
systemctl reset-failed "$unit"
systemctl restart "$unit"
"#;

/// The settings of a server that does not start as it is set up.
pub(super) const SMALL: &str = "skip-networking\ninnodb_buffer_pool_size = 134217728";

/// The same where no password is known.
pub(super) const OPEN: &str = "skip-networking\ninnodb_buffer_pool_size = 134217728\nskip-grant-tables";

/// Asks for the version, the log, and two settings that hide what is wrong.
pub(super) const IDENTITY: &str = "SELECT VERSION(), @@version_comment, IFNULL(@@log_error, ''), \
                                   @@innodb_force_recovery, @@read_only;\n";

/// The most tables that are listed; an answer has room for some more.
pub(super) const MOST_TABLES: usize = 5_000;

/// Lists the tables, small ones first, so that most are checked when the time is over.
pub(super) const TABLES: &str = "SELECT table_schema, table_name, IFNULL(engine, '') FROM information_schema.tables \
     WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') \
     AND table_schema NOT IN ('information_schema', 'performance_schema', 'sys') \
     ORDER BY IFNULL(data_length, 0) + IFNULL(index_length, 0), table_schema, table_name LIMIT 5001;\n";

/// Reads such a list.
pub(super) fn read_tables(answer: &str) -> Vec<Table> {
    let table = |line: &str| {
        let fields: Vec<_> = line.split('\t').map(unescape).collect();
        let [schema, table, engine] = fields.as_slice() else { return None };
        let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
        Some(Table {
            name: format!("{schema}.{table}"),
            real: format!("{}.{}", quoted(schema), quoted(table)),
            engine: engine.clone(),
        })
    };
    answer.lines().filter_map(table).collect()
}

/// Checks these tables.
pub(super) fn check(tables: &[Table]) -> String {
    tables.iter().map(|table| format!("CHECK TABLE {} EXTENDED;\n", table.real)).collect()
}

/// The messages about the first of these tables that have any; the answer's rows are
/// `Table, Op, Msg_type, Msg_text`. The last row about a table says how its check ended.
pub(super) fn read_check(tables: &[Table], answer: &str) -> Vec<Messages> {
    let mut said: BTreeMap<String, Messages> = BTreeMap::new();
    for line in answer.lines() {
        let mut fields = line.splitn(4, '\t').map(unescape);
        if let (Some(table), Some(_), Some(kind), Some(message)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        {
            said.entry(table).or_default().push((kind, message));
        }
    }
    tables.iter().map_while(|table| said.remove(&table.name)).collect()
}

/// The client writes what would end a line or a column as two characters.
fn unescape(field: &str) -> String {
    let mut plain = String::with_capacity(field.len());
    let mut rest = field.chars();
    while let Some(c) = rest.next() {
        match (c, if c == '\\' { rest.next() } else { None }) {
            ('\\', Some('t')) => plain.push('\t'),
            ('\\', Some('n')) => plain.push('\n'),
            ('\\', Some('0')) => plain.push('\0'),
            ('\\', Some(other)) => plain.push(other),
            (c, _) => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_listed_whatever_their_names() {
        let tables = read_tables("shop\torders\tInnoDB\na\\\\b\tx\\ty`z\tMyISAM\nbroken\tt\t\nnonsense\n");
        let real: Vec<_> = tables.iter().map(|table| &*table.real).collect();
        assert_eq!(real, ["`shop`.`orders`", "`a\\b`.`x\ty``z`", "`broken`.`t`"]);
        assert_eq!((&*tables[1].name, &*tables[1].engine), ("a\\b.x\ty`z", "MyISAM"));
    }

    /// Answers of MariaDB 10.11.
    #[test]
    fn a_check_is_read_table_by_table() {
        let tables = read_tables("s\ta\tInnoDB\ns\tb\tMyISAM\ns\tc\tInnoDB\n");
        let answer = "s.a\tcheck\tstatus\tOK\n\
                      s.b\tcheck\twarning\t1 client is using or hasn't closed the table properly\n\
                      s.b\tcheck\terror\tSize of datafile is: 7 Should be: 9\n\
                      s.b\tcheck\terror\tCorrupt\n";
        let read = read_check(&tables, answer);
        assert_eq!(read.len(), 2, "nothing was said of the third");
        assert_eq!(read[0], [("status".to_owned(), "OK".to_owned())]);
        assert_eq!(read[1].len(), 3);
        assert!(read_check(&tables, "s.c\tcheck\tstatus\tOK\n").is_empty());
    }
}
