//! The reader of binary logs, on those of a real server under this load.

use std::fs::{self, File};
use std::io::{BufReader, Write as _};
use std::path::Path;

use contract::binlog::{Key, Log, index};

use crate::server::{Database, Server};

const ROWS: &str = "--binlog-format=ROW";

const LEDGER: &str = "CREATE TABLE t.ledger (c INT UNSIGNED, seq INT UNSIGNED, leg TINYINT UNSIGNED, \
    dc INT UNSIGNED NOT NULL, dseq INT UNSIGNED NOT NULL, acct INT UNSIGNED NOT NULL, \
    amt BIGINT NOT NULL, ver INT UNSIGNED NOT NULL, pay VARBINARY(1024) NOT NULL, \
    crc INT UNSIGNED NOT NULL, rnd INT UNSIGNED NOT NULL, \
    PRIMARY KEY (c, seq, leg), KEY rnd (rnd), KEY acct (acct, amt)) ENGINE=InnoDB";

/// A transfer up to its end, both legs in one statement as the load sends them.
fn transfer(c: u32, n: u32) -> String {
    let leg = |leg: u8| format!("({c}, {n}, {leg}, 0, 0, 1, -5, 1, REPEAT('p', {n} * 37 % 1000), 7, 8)");
    format!(
        "BEGIN; INSERT INTO t.ledger VALUES {}, {}; UPDATE t.inno SET v = v + 1 WHERE id = {c};",
        leg(0),
        leg(1)
    )
}

fn logs(datadir: &Path) -> Vec<String> {
    index(&fs::read_to_string(datadir.join("binlog.index")).unwrap()).map(str::to_owned).collect()
}

/// The content of the logs, only the last of which may be torn, and where that one is torn.
fn read(datadir: &Path) -> (Vec<Key>, Option<u64>) {
    let (mut keys, mut torn) = (Vec::new(), None);
    for name in logs(datadir) {
        assert_eq!(torn, None, "a torn log before {name}");
        let file = BufReader::new(File::open(datadir.join(&name)).unwrap());
        let mut log = Log::open(file, "t", "ledger").unwrap();
        while let Some(transaction) = log.next_transaction().unwrap() {
            keys.extend(transaction);
        }
        torn = log.torn_at();
    }
    keys.sort_unstable();
    (keys, torn)
}

fn stored(server: &Server) -> Vec<Key> {
    let rows = server.sql("SELECT DISTINCT c, seq FROM t.ledger ORDER BY c, seq");
    let number = |text: &str| text.parse().unwrap();
    rows.lines().map(|row| row.split_once('\t').unwrap()).map(|(c, n)| (number(c), number(n))).collect()
}

/// Every kind of event that the load causes, in more than one log.
fn work(server: &Server) {
    server.sql(LEDGER);
    for n in 1..=20 {
        let statements: String = (1..=3).map(|c| transfer(c, n) + "COMMIT;").collect();
        server.sql(&statements);
        server.sql(&format!("INSERT INTO t.isam VALUES ({}, 1)", 100 + n));
        if n % 7 == 0 {
            server.sql(&(transfer(4, n) + "ROLLBACK"));
            server.sql("FLUSH BINARY LOGS");
            server.sql(&format!(
                "CREATE TABLE t.ddl{n} (id INT PRIMARY KEY, name ENUM('a','b'), at DATETIME(3))"
            ));
            server.sql(&format!("INSERT INTO t.ddl{n} VALUES (1, 'a', NOW(3))"));
        }
    }
}

fn agrees(options: &[&str]) -> Server {
    let server = Server::with_tables(Database::MARIADB, options);
    work(&server);
    assert_eq!(stored(&server).len(), 60);
    assert_eq!(read(&server.datadir()), (stored(&server), None), "{options:?}");
    server
}

#[test]
fn the_log_holds_what_the_tables_hold() {
    let server = agrees(&[ROWS, "--log-warnings=4"]);
    assert_eq!(logs(&server.datadir()).len(), 3);
    // The server's position is the end of the file.
    let status = server.sql("SHOW MASTER STATUS");
    let mut status = status.split('\t');
    let last = server.datadir().join(status.next().unwrap());
    assert_eq!(status.next().unwrap().parse(), Ok(fs::metadata(last).unwrap().len()));
}

#[test]
fn the_kind_of_checksum_and_of_row_image_does_not_matter() {
    agrees(&[ROWS, "--binlog-checksum=NONE"]);
    agrees(&[ROWS, "--binlog-row-image=MINIMAL"]);
    agrees(&[ROWS, "--binlog-annotate-row-events=OFF", "--binlog-row-metadata=FULL"]);
}

#[test]
fn a_log_cut_in_a_transaction_ends_before_it() {
    let server = agrees(&[ROWS]);
    let before = read(&server.datadir()).0;
    let last = server.datadir().join(logs(&server.datadir()).pop().unwrap());
    let whole = fs::metadata(&last).unwrap().len();
    server.sql(&(transfer(9, 1) + "COMMIT"));
    let bytes = fs::read(&last).unwrap();
    let copy = tempfile::tempdir().unwrap();
    fs::copy(server.datadir().join("binlog.index"), copy.path().join("binlog.index")).unwrap();
    for name in logs(&server.datadir()) {
        fs::copy(server.datadir().join(&name), copy.path().join(&name)).unwrap();
    }
    let last = copy.path().join(last.file_name().unwrap());
    for end in usize::try_from(whole).unwrap()..bytes.len() {
        let mut file = File::create(&last).unwrap();
        file.write_all(&bytes[..end]).unwrap();
        let (keys, torn) = read(copy.path());
        assert_eq!(keys, before, "cut at {end}");
        assert!(torn.is_none_or(|at| (whole..=end as u64).contains(&at)), "cut at {end}: {torn:?}");
    }
    fs::write(&last, &bytes).unwrap();
    assert_eq!(read(copy.path()).0.len(), before.len() + 1);
}

#[test]
fn a_log_that_cannot_be_read_is_refused_by_name() {
    let problem = |options: &[&str]| {
        let server = Server::with_tables(Database::MARIADB, options);
        server.sql(LEDGER);
        server.sql(&(transfer(1, 1) + "COMMIT"));
        let log = server.datadir().join(logs(&server.datadir()).pop().unwrap());
        let mut log = Log::open(BufReader::new(File::open(log).unwrap()), "t", "ledger").unwrap();
        loop {
            match log.next_transaction() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{options:?}: it was read to its end"),
                Err(problem) => return problem.to_string(),
            }
        }
    };
    let compressed = [ROWS, "--log-bin-compress=ON", "--log-bin-compress-min-len=10"];
    assert_eq!(problem(&compressed), "its rows are compressed");
    let statements = "its transfers are logged as statements; `binlog_format` is not ROW";
    assert_eq!(problem(&["--binlog-format=STATEMENT"]), statements);
}
