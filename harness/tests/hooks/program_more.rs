//! `fsfreeze-db`, the static program, where others hold what it needs, and where it is the dispatcher.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::thread;

use crate::call::{
    AS_TOLD, SOON, call_as_agent, ends_soon, fsfreeze_db, install, send_signal, soon, wait_until,
};
use crate::program::{LOCK_LOST, Program, REFUSED, beside_a_table_lock, of, on_every_server, request};
use crate::server::{Database, Server, is_root};

on_every_server!(
    a_long_update_holds_up_nobody,
    a_table_lock_is_waited_for_and_then_given_up,
    ftwrl_gives_way_in_a_deadlock_with_row_locks,
    ftwrl_waits_for_row_locks_that_are_passed_on,
    ftwrl_waits_for_commits_that_take_long,
    ftwrl_is_given_up,
    works_below_the_dispatcher,
    leaves_only_what_it_must,
    needs_nothing_of_its_guest,
);

/// No library, no shell, no client: less than any guest has, one with nothing but busybox included.
fn needs_nothing_of_its_guest(database: Database) {
    if !is_root() {
        eprintln!("skipped: only root changes the root directory here");
        return;
    }
    let server = Server::with_tables(database, &[]);
    let guest = tempfile::tempdir().unwrap();
    let at = |name: &str| guest.path().join(name);
    for directory in ["proc", "dev", "run", "fsfreeze-hook.d"] {
        fs::create_dir(at(directory)).unwrap();
    }
    let copied = Command::new("cp").arg(fsfreeze_db()).arg(at("fsfreeze-db")).status();
    assert!(copied.unwrap().success());
    symlink("fsfreeze-db", at("fsfreeze-hook")).unwrap();
    let settings =
        format!("position_directory = '/positions'\n{}[[server]]\nignore = true\n", of(&server, ""));
    install(&at("settings"), "600", &settings);
    let call = |verb: &str| {
        let script = "for it in proc dev; do mount --rbind /$it \"$0/$it\"; done; exec chroot \"$0\" /fsfreeze-hook \"$1\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(guest.path()).arg(verb);
        command.env("FSFREEZE_DB_SETTINGS", "/settings");
        call_as_agent(command)
    };
    call("freeze").succeeded();
    assert!(!server.takes_writes());
    call("status").succeeded();
    assert_eq!(fs::read_dir(at("positions")).unwrap().count(), 1);
    call("thaw").succeeded();
    assert!(server.takes_writes());
    let log = fs::read_to_string(at("run/fsfreeze-hook/log")).unwrap();
    assert!(log.contains("thaw: the locks were held until now"), "without a logger it stays: {log}");
}

fn a_long_update_holds_up_nobody(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::set_up("lock_seconds = 4", &of(&server, ""));
    let long = server.running("UPDATE t.inno SET v=v+SLEEP(300) WHERE id<3");
    match database {
        Database::Mariadb(_) => {
            let outcome = program.freeze().succeeded().within(SOON);
            assert!(!server.takes_writes());
            program.thaw().succeeded();
            assert!(server.takes_writes());
            eprintln!("locked beside a long UPDATE after {:?}", outcome.took);
        }
        Database::Mysql => {
            program.refuses(&server, REFUSED, "").within(AS_TOLD);
            soon("no request is left behind", || !server.busy().contains("FLUSH"));
        }
    }
    drop(long);
}

fn a_table_lock_is_waited_for_and_then_given_up(database: Database) {
    let server = Server::with_tables(database, &[]);
    let lines = "long_statement_seconds = 600";
    let mut program = Program::set_up("lock_seconds = 4", &of(&server, lines));
    for blocker in ["LOCK TABLES t.isam WRITE; DO SLEEP(300)", "UPDATE t.isam SET v=v+SLEEP(300)"] {
        let blocker = server.running(blocker);
        program.refuses(&server, REFUSED, "did not grant the lock: error 1205").within(AS_TOLD);
        soon("no request is left behind", || !server.busy().contains(request(database)));
        server.sql(&format!("KILL {}", blocker.connection));
        wait_until("the blocker is gone", || server.busy().is_empty());
    }

    // When the other lock is released in time, ours is granted.
    program.set("lock_seconds = 30", &of(&server, lines));
    beside_a_table_lock(&server, database, || program.freeze(), || {}).succeeded();
    assert!(!server.takes_writes());
    program.thaw().succeeded();
}

/// A statement waits for a row lock whose owner's next statement waits for the request: the server sees
/// no deadlock. The request must give way long before its time is over, and be made again.
fn ftwrl_gives_way_in_a_deadlock_with_row_locks(database: Database) {
    let server = Server::with_tables(database, &[]);
    let lines = "method = 'ftwrl'\nlong_statement_seconds = 600\nflush_wait_seconds = 600";
    let mut program = Program::set_up("lock_seconds = 60", &of(&server, lines));
    let mut owner = server.session("BEGIN; UPDATE t.inno SET v=v+1 WHERE id=1; SELECT 'locked';");
    assert_eq!(owner.answer().as_deref(), Some("locked"));
    let mut waiter = server.session("UPDATE t.inno SET v=v+1 WHERE id=1; SELECT 'updated';");
    wait_until("a row lock is waited for", || server.busy().contains("UPDATE"));
    let outcome = thread::scope(|scope| {
        let freeze = scope.spawn(|| program.freeze());
        wait_until("the program waits", || server.busy().contains(request(Database::Mysql)));
        owner.send("UPDATE t.inno SET v=v+1 WHERE id=2; COMMIT; SELECT 'committed';");
        assert_eq!(owner.answer().as_deref(), Some("committed"));
        assert_eq!(waiter.answer().as_deref(), Some("updated"));
        freeze.join().unwrap()
    });
    outcome.succeeded().within(SOON);
    assert!(attempts(&program) > 1, "it was no deadlock");
    assert!(!server.takes_writes());
    program.thaw().succeeded();

    // One that lasts.
    let mut owner = server.session("BEGIN; UPDATE t.inno SET v=v+1 WHERE id=1; SELECT 'locked';");
    assert_eq!(owner.answer().as_deref(), Some("locked"));
    let waiter = server.session("SET innodb_lock_wait_timeout=300; UPDATE t.inno SET v=v+1 WHERE id=1;");
    wait_until("a row lock is waited for", || server.busy().contains("UPDATE"));
    program.set("lock_seconds = 4", &of(&server, lines));
    program.refuses(&server, REFUSED, "it and row locks waited for each other").within(AS_TOLD);
    soon("no request is left behind", || !server.busy().contains("FLUSH"));
    drop((owner, waiter));
}

/// A row lock is waited for, but its owner gets on: no deadlock, and no reason to give way.
fn ftwrl_waits_for_row_locks_that_are_passed_on(database: Database) {
    let server = Server::with_tables(database, &[]);
    let lines = "method = 'ftwrl'\nlong_statement_seconds = 600\nflush_wait_seconds = 600";
    let program = Program::set_up("lock_seconds = 60", &of(&server, lines));
    let _owner = server.running("UPDATE t.inno SET v=v+SLEEP(8) WHERE id=1");
    let mut waiter = server.session("UPDATE t.inno SET v=v+1 WHERE id=1; SELECT 'updated';");
    wait_until("both run", || server.busy().matches("UPDATE").count() == 2);
    program.freeze().succeeded();
    assert_eq!(attempts(&program), 1);
    assert_eq!(waiter.answer().as_deref(), Some("updated"));
    program.thaw().succeeded();
}

/// Commits that take their time are no deadlock either: each passes the row on.
fn ftwrl_waits_for_commits_that_take_long(database: Database) {
    let options: &[&str] = match database {
        Database::Mariadb(_) => &["--binlog-commit-wait-count=99", "--binlog-commit-wait-usec=120000"],
        Database::Mysql => &["--binlog-group-commit-sync-delay=120000"],
    };
    let server = Server::with_tables(database, options);
    let lines = "method = 'ftwrl'\nlong_statement_seconds = 600\nflush_wait_seconds = 600";
    let program = Program::set_up("lock_seconds = 60", &of(&server, lines));
    let mut clients: Vec<_> =
        (0..6).map(|_| server.session("UPDATE t.inno SET v=v+1 WHERE id=1; SELECT 'updated';")).collect();
    program.freeze().succeeded();
    assert_eq!(attempts(&program), 1);
    program.thaw().succeeded();
    for client in &mut clients {
        assert_eq!(client.answer().as_deref(), Some("updated"));
    }
}

/// How often the latest freeze asked for its locks.
fn attempts(program: &Program) -> u64 {
    program.status()["latest_freeze"]["servers"][0]["attempts"].as_u64().unwrap()
}

/// A statement that has not run for long yet: the lock is requested, waited for and given up.
fn ftwrl_is_given_up(database: Database) {
    let server = Server::with_tables(database, &[]);
    let lines = "method = 'ftwrl'\nlong_statement_seconds = 600";
    let program = Program::set_up("lock_seconds = 4", &of(&server, lines));
    let long = server.running("UPDATE t.inno SET v=v+SLEEP(300) WHERE id=1");
    program.refuses(&server, REFUSED, "did not grant the lock: error 1205").within(AS_TOLD);
    soon("no request is left behind", || !server.busy().contains("FLUSH"));
    drop(long);
}

fn leaves_only_what_it_must(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::set_up("", &of(&server, ""));
    for _ in 0..3 {
        program.freeze().succeeded();
        let holder = program.holder();
        program.thaw().succeeded();
        ends_soon(holder);
    }
    let names = |directory: &str| {
        let entries = fs::read_dir(program.path(directory)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names("run"), ["state"]);
    let positions = names("lib");
    assert!(matches!(positions.as_slice(), [one] if one.ends_with(".position")), "{positions:?}");
    soon("no session is left", || server.busy().is_empty());
}

fn works_below_the_dispatcher(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::set_up("", &of(&server, ""));
    fs::create_dir(program.path("tools")).unwrap();
    install(&program.path("tools/logger"), "755", "#!/bin/sh\nexec cat >/dev/null\n");
    symlink(fsfreeze_db(), program.path("fsfreeze-hook")).unwrap();
    let call = |verb: &str| {
        let mut command = Command::new(program.path("fsfreeze-hook"));
        command.arg(verb).env_clear().env("PATH", program.path("tools"));
        command.env("FSFREEZE_HOOK_RUN", program.path("dispatcher"));
        command.env("FSFREEZE_DB_SETTINGS", program.path("settings"));
        call_as_agent(command)
    };
    call("freeze").succeeded().within(SOON);
    assert!(!server.takes_writes());
    call("status").succeeded();
    // A second freeze takes back what it has done itself, and leaves the first one's lock alone.
    call("freeze").failed_with("another freeze");
    assert!(!server.takes_writes());
    send_signal("KILL", program.holder());
    let thaw = call("thaw").failed_with("the lock was NOT held until thaw");
    assert!(thaw.output.contains(&format!("exit status {LOCK_LOST}")), "{thaw:?}");
    call("freeze").succeeded();
    call("thaw").succeeded();
    assert!(server.takes_writes());
}
