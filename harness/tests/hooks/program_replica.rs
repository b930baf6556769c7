//! `fsfreeze-db` on a replica that applies in parallel, and in its source's order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::call::{StopAtEnd, free_ports, soon, wait_until};
use crate::program::{Program, of, on_every_server};
use crate::server::{Database, Server};

on_every_server!(
    a_replica_says_how_far_it_is,
    workers_that_wait_for_each_other_are_no_deadlock,
    a_replica_is_frozen_under_load,
);

/// A server, and one that replicates it.
struct Replicated {
    source: Server,
    replica: Server,
}

impl Replicated {
    /// With the same tables.
    fn start(database: Database) -> Self {
        let [port] = free_ports();
        let at = format!("--port={port}");
        let network = ["--skip-networking=OFF", "--bind-address=127.0.0.1", "--skip-name-resolve", &at];
        let source = Server::start(database, &network);
        let replica = Server::start(
            database,
            match database {
                Database::Mariadb(_) => &[
                    "--server-id=2",
                    "--slave-parallel-threads=4",
                    "--slave-parallel-mode=optimistic",
                    "--log-slave-updates",
                ],
                Database::Mysql => {
                    &["--server-id=2", "--replica-parallel-workers=4", "--replica-preserve-commit-order=ON"]
                }
            },
        );
        source.sql(
            "CREATE USER replica@'127.0.0.1' IDENTIFIED BY 'word'; \
             GRANT REPLICATION SLAVE ON *.* TO replica@'127.0.0.1'",
        );
        replica.sql(&match database {
            Database::Mariadb(_) => format!(
                "CHANGE MASTER TO master_host='127.0.0.1', master_port={port}, master_user='replica', \
                 master_password='word', master_log_file='binlog.000001', master_log_pos=4; START SLAVE"
            ),
            Database::Mysql => format!(
                "CHANGE REPLICATION SOURCE TO source_host='127.0.0.1', source_port={port}, \
                 source_user='replica', source_password='word', get_source_public_key=1, \
                 source_auto_position=1; START REPLICA"
            ),
        });
        source.make_tables();
        let this = Self { source, replica };
        this.catch_up();
        this
    }

    /// A fact of the replica's state.
    fn fact(&self, mariadb: &str, mysql: &str) -> String {
        let (statement, name) = match self.replica.database {
            Database::Mariadb(_) => ("SHOW SLAVE STATUS", mariadb),
            Database::Mysql => ("SHOW REPLICA STATUS", mysql),
        };
        self.replica.row(statement).remove(name).unwrap_or_else(|| panic!("{statement} says no {name}"))
    }

    fn position(&self) -> String {
        let log = self.fact("Relay_Master_Log_File", "Relay_Source_Log_File");
        format!("{log}:{}", self.fact("Exec_Master_Log_Pos", "Exec_Source_Log_Pos"))
    }

    /// Waits until the replica has applied what is in the source's log now.
    fn catch_up(&self) {
        let [log, place, _] = self.source.binlog();
        wait_until("the replica catches up", || {
            assert_eq!(self.fact("Last_Error", "Last_Error"), "");
            self.position() == format!("{log}:{place}")
        });
    }

    fn value(&self, row: u32) -> String {
        self.replica.sql(&format!("SELECT v FROM t.inno WHERE id={row}"))
    }

    /// Whether a session of the replica is in a state like this.
    fn waits(&self, state: &str) -> bool {
        let asked = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE '{state}'");
        self.replica.sql(&asked) != "0"
    }
}

/// What a MariaDB may be locked by, and MySQL.
fn methods(database: Database) -> &'static [&'static str] {
    match database {
        Database::Mariadb(_) => &["backup-stage", "ftwrl"],
        Database::Mysql => &["ftwrl"],
    }
}

fn a_replica_says_how_far_it_is(database: Database) {
    let pair = Replicated::start(database);
    for method in methods(database) {
        let program = Program::set_up("", &of(&pair.replica, &format!("method = '{method}'")));
        program.freeze().succeeded();
        let position = program.position_of(&pair.replica.datadir(), "source_position");
        let before = pair.value(1);
        pair.source.sql("UPDATE t.inno SET v=v+1 WHERE id=1");
        let [log, place, _] = pair.source.binlog();
        wait_until("the replica has it", || {
            pair.fact("Read_Master_Log_Pos", "Read_Source_Log_Pos") == place
                && pair.fact("Master_Log_File", "Source_Log_File") == log
        });
        assert_eq!(pair.position(), position, "applied while frozen");
        assert_eq!(pair.value(1), before, "applied while frozen");
        if let Database::Mariadb(_) = database {
            let gtid = program.position_of(&pair.replica.datadir(), "gtid_slave_pos");
            assert_eq!(pair.replica.sql("SELECT @@gtid_slave_pos"), gtid);
        }
        program.thaw().succeeded();
        pair.catch_up();
        assert_ne!(pair.value(1), before);
    }
    // The source is no replica.
    let program = Program::new(&[&pair.source]);
    program.freeze().succeeded();
    let position = std::fs::read_dir(program.path("lib")).unwrap().flatten().next().expect("a position");
    let text = std::fs::read_to_string(position.path()).unwrap();
    assert!(!text.contains("source_position"), "{text}");
    program.thaw().succeeded();
}

/// A worker that has to commit after another one keeps a lock that the freeze waits for, while the freeze keeps
/// the other one, which has not got so far, from going on.
fn workers_that_wait_for_each_other_are_no_deadlock(database: Database) {
    let pair = Replicated::start(database);
    for method in methods(database) {
        let program = Program::set_up("", &of(&pair.replica, &format!("method = '{method}'")));
        let mut holds = pair.replica.session("BEGIN; SELECT v FROM t.inno WHERE id=1 FOR UPDATE;");
        holds.answer().expect("it holds the row");
        pair.source.sql(
            "BEGIN; UPDATE t.inno SET v=v+1 WHERE id=1; UPDATE t.inno SET v=v+1 WHERE id=2; COMMIT;
             UPDATE t.inno SET v=v+1 WHERE id=3",
        );
        wait_until("a worker waits for the other one", || {
            pair.waits("Waiting for p% transaction to commit%")
        });
        thread::scope(|scope| {
            let freeze = scope.spawn(|| program.freeze());
            // MariaDB's backup lock does not have to: a worker that waits for its turn has given way to it.
            let gives_way = *method == "backup-stage";
            wait_until("the freeze waits as well", || {
                gives_way && freeze.is_finished() || pair.waits("Waiting for % lock")
            });
            holds.send("ROLLBACK; SELECT 1;");
            holds.answer().expect("it has let the row go");
            freeze.join().expect("no panic").succeeded();
        });
        assert_eq!(
            program.position_of(&pair.replica.datadir(), "source_position"),
            pair.position(),
            "applied while frozen"
        );
        program.thaw().succeeded();
        pair.catch_up();
        assert!(!pair.waits("Waiting for % lock"));
    }
}

fn a_replica_is_frozen_under_load(database: Database) {
    const CYCLES: usize = 10;
    let pair = Replicated::start(database);
    for method in methods(database) {
        let program = Program::set_up("", &of(&pair.replica, &format!("method = '{method}'")));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for writer in 0..4 {
                let (pair, stop) = (&pair, &stop);
                scope.spawn(move || {
                    let mut session = pair.source.session("");
                    while !stop.load(Ordering::Relaxed) {
                        let rows = [writer * 2 + 1, writer * 2 + 2];
                        session.send(&format!(
                            "BEGIN; UPDATE t.inno SET v=v+1 WHERE id={}; UPDATE t.inno SET v=v+1 WHERE id={}; COMMIT; SELECT 1;",
                            rows[0], rows[1]
                        ));
                        session.answer().expect("the source answers");
                    }
                });
            }
            let _stop = StopAtEnd(&stop);
            for _ in 0..CYCLES {
                let seen = pair.position();
                wait_until("it replicates", || pair.position() != seen);
                program.freeze().succeeded();
                let recorded = program.position_of(&pair.replica.datadir(), "source_position");
                assert_eq!(recorded, pair.position(), "applied while frozen");
                program.thaw().succeeded();
            }
        });
        pair.catch_up();
    }
    soon("nothing is locked", || pair.replica.takes_writes());
}
