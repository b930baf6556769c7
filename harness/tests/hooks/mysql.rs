//! The MariaDB/MySQL hook against real servers of both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::call::{
    AS_TOLD, Outcome, SOON, Shell, call_as_agent, ends_soon, hooks_dir, install, is_running, quoted,
    send_signal, soon, wait_until,
};
use crate::server::{Database, Server, Stopped, client_program};

/// Makes one test for each server and shell from one function.
macro_rules! on_both_servers {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            use super::{Database, Shell};
            #[test]
            fn mariadb_dash() {
                super::$name(Database::Mariadb, Shell::Dash);
            }
            #[test]
            fn mariadb_busybox() {
                super::$name(Database::Mariadb, Shell::Busybox);
            }
            #[test]
            fn mysql_dash() {
                super::$name(Database::Mysql, Shell::Dash);
            }
            #[test]
            fn mysql_busybox() {
                super::$name(Database::Mysql, Shell::Busybox);
            }
        }
    )*};
}

on_both_servers!(
    locks_until_the_thaw_and_leaves_nothing,
    locks_every_engine_by_ftwrl,
    the_position_is_that_of_the_lock,
    freeze_and_thaw_may_be_repeated,
    a_lost_lock_is_reported,
    no_login_is_refused,
    a_password_stays_out_of_sight,
    a_missing_privilege_is_refused,
    a_client_told_to_ignore_errors_is_not_believed,
    too_many_connections_are_refused,
    a_missing_client_is_refused,
    a_hung_server_is_refused,
    no_server_is_no_failure,
    one_of_two_servers_is_not_enough,
    a_wrong_server_is_not_locked,
    an_unwritable_position_is_refused,
    an_unsafe_settings_file_is_refused,
    relaxed_durability_is_made_up_for,
    a_setting_left_raised_is_restored,
    a_long_update_holds_up_nobody,
    a_table_lock_is_waited_for_and_then_given_up,
    ftwrl_gives_way_in_a_deadlock_with_row_locks,
    ftwrl_does_not_queue_behind_a_long_statement,
    a_killed_freeze_is_cleaned_up_by_the_thaw,
    stale_state_is_no_obstacle,
    the_server_releases_the_lock_when_no_thaw_comes,
    cycles_under_load,
    works_below_the_dispatcher,
    a_check_takes_the_lock_and_releases_it,
);

/// The hook, set up for one server.
pub(crate) struct Hook {
    dir: TempDir,
    shell: Shell,
    settings: String,
}

impl Hook {
    pub(crate) fn new(shell: Shell, server: &Server) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let at = dir.path().display();
        let settings = format!(
            "RUN={at}/run\nPOSITION={at}/lib/position\nDATADIR={}\nCLIENT={}\nCLIENT_OPTS='{}'\n",
            server.datadir().display(),
            quoted(&client_program(server.database)),
            server.login()
        );
        let mut this = Self { dir, shell, settings: String::new() };
        this.set(&settings);
        this
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Adds lines to the settings, which override earlier ones.
    pub(crate) fn set(&mut self, lines: &str) {
        self.settings.push_str(lines);
        self.settings.push('\n');
        install(&self.path("settings"), "600", &self.settings);
    }

    pub(crate) fn command(&self, verb: &str) -> Command {
        let script = hooks_dir().join("freezeframe/fsfreeze-hook.d/50-mysql");
        let mut command = self.shell.script(&script, &self.path("tools"));
        command.arg(verb).env("FSFREEZE_DB_CONF", self.path("settings"));
        command
    }

    pub(crate) fn call(&self, verb: &str) -> Outcome {
        call_as_agent(self.command(verb))
    }

    pub(crate) fn freeze(&self) -> Outcome {
        self.call("freeze")
    }

    pub(crate) fn thaw(&self) -> Outcome {
        self.call("thaw")
    }

    /// The process of the client that holds the lock.
    pub(crate) fn holder(&self) -> u32 {
        let text = fs::read_to_string(self.path("run/session/holder")).expect("a session");
        text.split(' ').next().expect("a process").parse().expect("a number")
    }

    pub(crate) fn connection(&self) -> String {
        fs::read_to_string(self.path("run/session/conn")).expect("a session").trim().to_owned()
    }

    pub(crate) fn position(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path("lib/position")).expect("a position");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
    }

    /// A freeze that fails with this reason, in one line, and has locked nothing.
    #[track_caller]
    pub(crate) fn refuses(&self, server: &Server, reason: &str) -> Outcome {
        let outcome = self.freeze().failed_with(reason);
        assert_eq!(outcome.output.lines().count(), 1, "{outcome:?}");
        // A killed client may still be connected after the hook has returned.
        soon("the server takes writes", || server.takes_writes());
        self.left_nothing();
        outcome
    }

    #[track_caller]
    pub(crate) fn left_nothing(&self) {
        assert!(!self.path("run/session").exists());
    }
}

impl Drop for Hook {
    /// After a failed test, the client that still waits for a thaw.
    fn drop(&mut self) {
        let holder = fs::read_to_string(self.path("run/session/holder")).unwrap_or_default();
        let Some(pid) = holder.split(' ').next().and_then(|pid| pid.parse::<u32>().ok()) else { return };
        let ours = fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|comm| ["mariadb", "mysql"].contains(&comm.trim()));
        if ours && is_running(pid) {
            send_signal("KILL", pid);
        }
    }
}

fn locks_until_the_thaw_and_leaves_nothing(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let hook = Hook::new(shell, &server);
    let freeze = hook.freeze().succeeded().within(SOON);
    assert!(!server.takes_writes());
    hook.call("status").succeeded();
    let (holder, connection) = (hook.holder(), hook.connection());
    assert!(is_running(holder));
    let thaw = hook.thaw().succeeded().within(SOON);
    assert!(server.takes_writes());
    ends_soon(holder);
    hook.left_nothing();
    hook.call("status").failed_with("not locked");
    server.disconnects(&connection);
    assert_eq!(server.busy(), "");
    let log = fs::read_to_string(server.datadir().with_file_name("server.log")).unwrap();
    assert!(!log.contains("Aborted connection"), "{log}");
    eprintln!("freeze {:?}, thaw {:?}", freeze.took, thaw.took);
}

fn locks_every_engine_by_ftwrl(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let mut hook = Hook::new(shell, &server);
    hook.set("METHOD=ftwrl");
    hook.freeze().succeeded();
    let mut writers: Vec<_> = ["inno", "isam", "memory"]
        .map(|table| server.session(&format!("UPDATE t.{table} SET v=v+1 WHERE id=1; SELECT 'written';")))
        .into();
    wait_until("all writers wait", || {
        server.busy().lines().filter(|line| line.starts_with("UPDATE")).count() == 3
    });
    hook.thaw().succeeded();
    for writer in &mut writers {
        assert_eq!(writer.answer().as_deref(), Some("written"));
    }
}

fn the_position_is_that_of_the_lock(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let hook = Hook::new(shell, &server);
    let recorded = || ["binlog_file", "binlog_pos", "gtid"].map(|name| hook.position(name));
    server.sql("UPDATE t.inno SET v=2");
    hook.freeze().succeeded();
    let nonce = hook.position("nonce");
    let before = server.binlog();
    assert_eq!(recorded(), before);
    assert!(hook.position("lsn").parse::<u64>().unwrap() <= server.redo_on_disk());
    hook.thaw().succeeded();
    server.sql("UPDATE t.inno SET v=1");
    hook.freeze().succeeded();
    assert_ne!(hook.position("nonce"), nonce);
    assert_eq!(recorded(), server.binlog());
    assert_ne!(recorded(), before);
    hook.thaw().succeeded();

    let server = Server::with_tables(database, &["--skip-log-bin"]);
    let hook = Hook::new(shell, &server);
    hook.freeze().succeeded();
    assert!(!fs::read_to_string(hook.path("lib/position")).unwrap().contains("binlog_"));
    hook.thaw().succeeded();
}

fn freeze_and_thaw_may_be_repeated(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let hook = Hook::new(shell, &server);
    hook.thaw().succeeded();
    hook.freeze().succeeded();
    let first = hook.holder();
    hook.freeze().succeeded();
    ends_soon(first);
    assert!(!server.takes_writes());
    hook.thaw().succeeded();
    assert!(server.takes_writes());
    hook.thaw().succeeded();
    hook.left_nothing();
}

fn a_lost_lock_is_reported(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let hook = Hook::new(shell, &server);
    let lose: [&dyn Fn(); 2] = [&|| send_signal("KILL", hook.holder()), &|| {
        drop(server.sql(&format!("KILL {}", hook.connection())));
    }];
    for lose in lose {
        hook.freeze().succeeded();
        let connection = hook.connection();
        lose();
        soon("the lock is gone", || server.takes_writes());
        server.disconnects(&connection);
        hook.call("status").failed_with("not locked");
        hook.thaw().failed_with("the lock was NOT held until thaw").within(SOON);
        hook.left_nothing();
    }
    hook.freeze().succeeded();
    hook.thaw().succeeded();
}

fn no_login_is_refused(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    server.sql("CREATE USER backup@localhost IDENTIFIED BY 'right'");
    let mut hook = Hook::new(shell, &server);
    let socket = server.socket();
    for options in ["--user=nobody", "--user=backup", "--user=backup --password=wrong"] {
        hook.set(&format!("CLIENT_OPTS='--no-defaults {options} --socket={}'", socket.display()));
        hook.refuses(&server, "login failed: ERROR 1045");
    }
    hook.set("CLIENT_OPTS='--no-defaults --user=root --socket=/nowhere'");
    hook.refuses(&server, "login failed: ERROR 2002");
}

fn a_password_stays_out_of_sight(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    server.sql(
        "CREATE USER backup@localhost IDENTIFIED BY 'do-not-show'; GRANT ALL ON *.* TO backup@localhost",
    );
    let mut hook = Hook::new(shell, &server);
    let options =
        format!("[client]\nuser=backup\npassword=do-not-show\nsocket={}\n", server.socket().display());
    install(&hook.path("login.cnf"), "600", &options);
    hook.set(&format!("CLIENT_OPTS=--defaults-extra-file={}", hook.path("login.cnf").display()));
    hook.freeze().succeeded();
    assert!(!server.takes_writes());
    for file in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{}/{file}", hook.holder())).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("do-not-show"));
    }
    hook.thaw().succeeded();
}

fn a_missing_privilege_is_refused(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    server.sql("CREATE USER backup@localhost; GRANT SELECT ON *.* TO backup@localhost");
    let mut hook = Hook::new(shell, &server);
    hook.set(&format!("CLIENT_OPTS='--no-defaults --user=backup --socket={}'", server.socket().display()));
    hook.refuses(&server, "the lock was not granted: ERROR 1227");
    // The settings file alone is enough.
    server.sql("REVOKE ALL, GRANT OPTION FROM backup@localhost");
    server.sql(match database {
        Database::Mariadb => {
            "GRANT RELOAD, PROCESS, BINLOG MONITOR, CONNECTION ADMIN ON *.* TO backup@localhost"
        }
        Database::Mysql => {
            "GRANT RELOAD, PROCESS, REPLICATION CLIENT, BACKUP_ADMIN ON *.* TO backup@localhost;
             GRANT SELECT ON performance_schema.* TO backup@localhost"
        }
    });
    hook.freeze().succeeded();
    assert!(!server.takes_writes());
    hook.thaw().succeeded();
}

fn a_client_told_to_ignore_errors_is_not_believed(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    server.sql("CREATE USER backup@localhost; GRANT SELECT ON *.* TO backup@localhost");
    let mut hook = Hook::new(shell, &server);
    let options = format!("[client]\nuser=backup\nsocket={}\n[mysql]\nforce\n", server.socket().display());
    install(&hook.path("login.cnf"), "600", &options);
    hook.set(&format!("CLIENT_OPTS=--defaults-file={}", hook.path("login.cnf").display()));
    hook.refuses(&server, "the lock was not granted: ERROR 1227");
}

fn too_many_connections_are_refused(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &["--max-connections=10"]);
    let hook = Hook::new(shell, &server);
    // One more than the limit: the last connection is reserved for an administrator.
    let crowd = server.crowd(11);
    hook.freeze().failed_with("Too many connections");
    drop(crowd);
    wait_until("the crowd has left", || hook.freeze().code == Some(0));
    hook.thaw().succeeded();
}

fn a_missing_client_is_refused(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let mut hook = Hook::new(shell, &server);
    hook.set("CLIENT=no-such-client");
    hook.refuses(&server, "there is no client program no-such-client");
}

fn a_hung_server_is_refused(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let hook = Hook::new(shell, &server);
    let stopped = Stopped::new(&server);
    let outcome = hook.freeze().failed_with("login failed: no answer within 5 s").within(SOON);
    hook.left_nothing();
    drop(stopped);
    wait_until("the server takes writes", || server.takes_writes());
    eprintln!("given up after {:?}", outcome.took);

    // A server that hangs in the window: the thaw must end, and report that.
    hook.freeze().succeeded();
    let stopped = Stopped::new(&server);
    hook.thaw().failed_with("NOT held until thaw").within(SOON);
    drop(stopped);
    wait_until("the server takes writes", || server.takes_writes());
    hook.left_nothing();
}

fn no_server_is_no_failure(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let mut hook = Hook::new(shell, &server);
    let empty = tempfile::tempdir().unwrap();
    hook.set(&format!("DATADIR={}", empty.path().display()));
    let outcome = hook.freeze().succeeded();
    assert!(outcome.output.contains("no database server runs"), "{outcome:?}");
    assert!(server.takes_writes());
    hook.thaw().succeeded();

    // A typing error must not look like a stopped server.
    hook.set("DATADIR=/no/such/directory");
    hook.refuses(&server, "DATADIR=/no/such/directory does not exist");
}

fn one_of_two_servers_is_not_enough(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let _other = Server::start(database, &[]);
    let mut hook = Hook::new(shell, &server);
    hook.set("DATADIR=");
    hook.refuses(&server, "each needs a hook of its own");
}

fn a_wrong_server_is_not_locked(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let other = Server::with_tables(database, &[]);
    let mut hook = Hook::new(shell, &server);
    hook.set(&format!("CLIENT_OPTS='{}'", other.login()));
    hook.refuses(&other, "logged in to the server in");
}

fn an_unwritable_position_is_refused(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let mut hook = Hook::new(shell, &server);
    hook.set("POSITION=/proc/no/such/place");
    hook.refuses(&server, "cannot write to /proc/no/such/place");
    hook.set("POSITION=");
    hook.freeze().succeeded();
    hook.thaw().succeeded();
}

fn an_unsafe_settings_file_is_refused(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let hook = Hook::new(shell, &server);
    install(&hook.path("settings"), "620", &hook.settings);
    let mut command = hook.command("freeze");
    command.env("FSFREEZE_DB_CONF", hook.path("settings"));
    call_as_agent(command).failed_with("refused: others than root may write to");
    assert!(server.takes_writes());
}

fn relaxed_durability_is_made_up_for(database: Database, shell: Shell) {
    for setting in ["0", "2"] {
        let option = format!("--innodb-flush-log-at-trx-commit={setting}");
        let server = Server::with_tables(database, &[&option, "--innodb-flush-log-at-timeout=2700"]);
        let hook = Hook::new(shell, &server);
        let (_, committed) = server.commit_unflushed();
        let locked = AtomicBool::new(false);
        thread::scope(|scope| {
            // Until the lock is held there is always something to flush.
            scope.spawn(|| {
                let mut writer = server.session("");
                while !locked.load(Ordering::Relaxed) {
                    writer.send("UPDATE t.inno SET v=v+1 WHERE id=7; SELECT 'written';");
                    assert_eq!(writer.answer().as_deref(), Some("written"));
                }
            });
            let freeze = hook.freeze();
            locked.store(true, Ordering::Relaxed);
            let on_disk = server.redo_on_disk();
            let restored = server.sql("SELECT @@innodb_flush_log_at_trx_commit");
            let journal = hook.path("run/session/restore").exists();
            hook.thaw().succeeded();
            freeze.succeeded();
            let recorded = hook.position("lsn").parse().unwrap();
            assert!(on_disk >= committed, "committed up to {committed}, on disk up to {on_disk}");
            assert!(on_disk >= recorded, "recorded {recorded}, on disk up to {on_disk}");
            assert_eq!((restored.as_str(), journal), (setting, false));
        });
        assert_eq!(server.sql("SELECT @@innodb_flush_log_at_trx_commit"), setting);
    }
}

fn a_setting_left_raised_is_restored(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let hook = Hook::new(shell, &server);
    // As if the hook had died between raising and restoring.
    fs::create_dir_all(hook.path("run/session")).unwrap();
    fs::write(hook.path("run/session/restore"), "SET GLOBAL innodb_flush_log_at_trx_commit=0;\n").unwrap();
    let stopped = Stopped::new(&server);
    let outcome = hook.thaw().succeeded();
    assert!(outcome.output.contains("left for the next call"), "{outcome:?}");
    drop(stopped);
    hook.thaw().succeeded();
    assert_eq!(server.sql("SELECT @@innodb_flush_log_at_trx_commit"), "0");
    hook.left_nothing();
}

fn a_long_update_holds_up_nobody(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let mut hook = Hook::new(shell, &server);
    hook.set("LOCK_SECONDS=2");
    let long = server.running("UPDATE t.inno SET v=v+SLEEP(300) WHERE id<3");
    match database {
        Database::Mariadb => {
            let outcome = hook.freeze().succeeded().within(SOON);
            assert!(!server.takes_writes());
            hook.thaw().succeeded();
            assert!(server.takes_writes());
            eprintln!("locked beside a long UPDATE after {:?}", outcome.took);
        }
        Database::Mysql => {
            hook.refuses(&server, "").within(AS_TOLD);
            soon("no request is left behind", || !server.busy().contains("FLUSH"));
        }
    }
    drop(long);
}

/// The hook's request for the lock while it waits, as the server lists it.
fn request(database: Database) -> &'static str {
    match database {
        Database::Mariadb => "BACKUP STAGE",
        Database::Mysql => "FLUSH TABLES WITH READ LOCK",
    }
}

fn a_table_lock_is_waited_for_and_then_given_up(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let mut hook = Hook::new(shell, &server);
    hook.set("LOCK_SECONDS=2\nLONG_STATEMENT=600");
    for blocker in ["LOCK TABLES t.isam WRITE; DO SLEEP(300)", "UPDATE t.isam SET v=v+SLEEP(300)"] {
        let blocker = server.running(blocker);
        hook.refuses(&server, "the lock was not granted: ERROR 1205").within(AS_TOLD);
        soon("no request is left behind", || !server.busy().contains(request(database)));
        server.sql(&format!("KILL {}", blocker.connection));
        wait_until("the blocker is gone", || server.busy().is_empty());
    }

    // When the other lock is released in time, the hook's is granted.
    hook.set("LOCK_SECONDS=30");
    let blocker = server.running("LOCK TABLES t.isam WRITE; DO SLEEP(300)");
    let outcome = thread::scope(|scope| {
        let freeze = scope.spawn(|| hook.freeze());
        wait_until("the hook waits", || server.busy().contains(request(database)));
        server.sql(&format!("KILL {}", blocker.connection));
        freeze.join().unwrap()
    });
    outcome.succeeded();
    assert!(!server.takes_writes());
    hook.thaw().succeeded();
}

/// A statement waits for a row lock whose owner's next statement waits for the request: the server sees
/// no deadlock. The request must give way, and be made again.
fn ftwrl_gives_way_in_a_deadlock_with_row_locks(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let mut hook = Hook::new(shell, &server);
    hook.set("METHOD=ftwrl\nLONG_STATEMENT=600");
    let mut owner = server.session("BEGIN; UPDATE t.inno SET v=v+1 WHERE id=1; SELECT 'locked';");
    assert_eq!(owner.answer().as_deref(), Some("locked"));
    let mut waiter = server.session("UPDATE t.inno SET v=v+1 WHERE id=1; SELECT 'updated';");
    wait_until("a row lock is waited for", || server.busy().contains("UPDATE"));
    let outcome = thread::scope(|scope| {
        let freeze = scope.spawn(|| hook.freeze());
        wait_until("the hook waits", || server.busy().contains(request(Database::Mysql)));
        owner.send("UPDATE t.inno SET v=v+1 WHERE id=2; COMMIT; SELECT 'committed';");
        assert_eq!(owner.answer().as_deref(), Some("committed"));
        assert_eq!(waiter.answer().as_deref(), Some("updated"));
        freeze.join().unwrap()
    });
    let outcome = outcome.succeeded().within(SOON);
    assert!(outcome.took > Duration::from_secs(2), "it was no deadlock: {outcome:?}");
    assert!(!server.takes_writes());
    hook.thaw().succeeded();
    hook.left_nothing();
}

fn ftwrl_does_not_queue_behind_a_long_statement(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let mut hook = Hook::new(shell, &server);
    hook.set("METHOD=ftwrl\nLOCK_SECONDS=2\nLONG_STATEMENT=1");
    let long = server.running("UPDATE t.inno SET v=v+SLEEP(300) WHERE id=1");
    let age = format!("SELECT time FROM information_schema.processlist WHERE id={}", long.connection);
    wait_until("the statement is long", || server.sql(&age).parse::<u32>().unwrap() >= 1);
    let outcome = thread::scope(|scope| {
        let freeze = scope.spawn(|| hook.freeze());
        while !freeze.is_finished() {
            assert!(server.takes_writes(), "writers never wait");
        }
        freeze.join().unwrap()
    });
    outcome.failed_with("did not ask for the lock").within(AS_TOLD);
    hook.left_nothing();

    // Not running for long yet: the lock is requested, waited for and given up.
    hook.set("LONG_STATEMENT=600");
    hook.refuses(&server, "the lock was not granted: ERROR 1205").within(AS_TOLD);
    soon("no request is left behind", || !server.busy().contains("FLUSH"));
}

fn a_killed_freeze_is_cleaned_up_by_the_thaw(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let mut hook = Hook::new(shell, &server);
    // A request that does not end by itself while this test observes it.
    hook.set("LONG_STATEMENT=600\nLOCK_SECONDS=100\nFTWRL_WAIT=100");
    let blocker = server.running("LOCK TABLES t.isam WRITE; DO SLEEP(300)");
    let mut freeze = hook.command("freeze").spawn().unwrap();
    wait_until("the hook waits", || server.busy().contains(request(database)));
    let holder = hook.holder();
    freeze.kill().unwrap();
    freeze.wait().unwrap();
    let outcome = hook.thaw().succeeded();
    assert!(outcome.output.contains("a freeze that did not finish"), "{outcome:?}");
    soon("nothing waits", || !server.busy().contains(request(database)));
    ends_soon(holder);
    hook.left_nothing();
    drop(blocker);
}

fn stale_state_is_no_obstacle(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let hook = Hook::new(shell, &server);
    // As after a crash: the recorded pid is now another process, and the connection is gone.
    let session = hook.path("run/session");
    fs::create_dir_all(&session).unwrap();
    fs::write(session.join("holder"), format!("{} 1\n", std::process::id())).unwrap();
    fs::write(session.join("conn"), "4000000\n").unwrap();
    fs::write(session.join("held"), "").unwrap();
    fs::write(session.join("in"), "").unwrap();
    hook.freeze().succeeded();
    assert!(!server.takes_writes());
    hook.thaw().succeeded();
    hook.left_nothing();
}

fn the_server_releases_the_lock_when_no_thaw_comes(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let mut hook = Hook::new(shell, &server);
    // Long enough to observe the lock, and different from the default, which `soon` does not wait
    // for.
    const HELD: Duration = Duration::from_secs(8);
    hook.set(&format!("HOLD_SECONDS={}", HELD.as_secs()));
    let called = Instant::now();
    hook.freeze().succeeded();
    send_signal("STOP", hook.holder());
    assert!(!server.takes_writes());
    soon("the server releases the lock", || server.takes_writes());
    assert!(called.elapsed() >= HELD, "released after {:?}", called.elapsed());
    hook.thaw().failed_with("the lock was NOT held until thaw");
    hook.left_nothing();
}

/// 30 freezes and thaws, or as many as `FREEZEFRAME_CYCLES` says.
fn cycles_under_load(database: Database, shell: Shell) {
    const HOLD: Duration = Duration::from_millis(100);
    let cycles =
        std::env::var("FREEZEFRAME_CYCLES").map_or(30, |cycles| cycles.parse::<u64>().expect("a number"));
    let server = Server::with_tables(database, &[]);
    let hook = Hook::new(shell, &server);
    let acknowledged = Mutex::new(vec![]);
    let stop = AtomicBool::new(false);
    let mut windows = vec![];
    let (mut freezes, mut thaws) = (vec![], vec![]);
    let recorded = || ["binlog_file", "binlog_pos", "gtid"].map(|name| hook.position(name));
    thread::scope(|scope| {
        for writer in 0..4 {
            let (server, stop, acknowledged) = (&server, &stop, &acknowledged);
            scope.spawn(move || {
                let mut session = server.session("");
                for n in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    // Rows in an order of their own, so that writers wait for each other's row locks.
                    let (first, second) = ((n + writer) % 8 + 1, (n * 3 + writer) % 8 + 1);
                    session.send(&format!(
                        "BEGIN; UPDATE t.inno SET v=v+1 WHERE id={first};
                         UPDATE t.inno SET v=v+1 WHERE id={second}; COMMIT;
                         UPDATE t.isam SET v=v+1 WHERE id={second}; SELECT 1;"
                    ));
                    if session.answer().is_none() {
                        session = server.session(""); // a deadlock ended the client
                        continue;
                    }
                    acknowledged.lock().unwrap().push(Instant::now());
                }
            });
        }
        // The writers must end even when an assertion fails.
        let cycles = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..cycles {
                let seen = acknowledged.lock().unwrap().len();
                wait_until("all write", || acknowledged.lock().unwrap().len() >= seen + 40);
                let called = Instant::now();
                freezes.push(hook.freeze().succeeded().took);
                let frozen = Instant::now();
                thread::sleep(HOLD);
                // The time at which an answer is read says little about the time of the write; the
                // log has that.
                assert_eq!(server.binlog(), recorded(), "written while frozen");
                let thawing = Instant::now();
                thaws.push(hook.thaw().succeeded().took);
                windows.push((called, frozen, thawing));
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = cycles {
            std::panic::resume_unwind(panic);
        }
    });
    let mut acknowledged = acknowledged.into_inner().unwrap();
    acknowledged.sort();
    let mut stalls = vec![];
    for (called, frozen, thawing) in windows {
        let around = acknowledged.windows(2).filter(|pair| pair[1] > called && pair[0] < thawing);
        let longest = around.map(|pair| pair[1] - pair[0]).max().unwrap();
        stalls.push(longest.saturating_sub(thawing - frozen));
    }
    hook.left_nothing();
    left_only(&hook.path("run"), &["last-freeze", "last-thaw"]);
    left_only(&hook.path("lib"), &["position"]);
    let socket = server.socket().display().to_string();
    wait_until("no process is left", || processes_with(&socket) == [server.pid()]);
    eprintln!(
        "{cycles} cycles, {} writes; freeze {}, thaw {}, stall beyond the hold {}; {} retries",
        acknowledged.len(),
        spread(freezes),
        spread(thaws),
        spread(stalls),
        match database {
            // Two statements request the lock, one proves it, one releases it.
            Database::Mariadb => (server.status("Com_backup") - 4 * cycles) / 2,
            Database::Mysql => server.status("Com_lock_instance") - cycles,
        }
    );
}

/// How times are distributed, for people.
pub(crate) fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_millis();
    format!("median {} ms, p95 {} ms, max {} ms", at(50), at(95), at(100))
}

#[track_caller]
fn left_only(dir: &Path, names: &[&str]) {
    let mut found: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, names, "in {}", dir.display());
}

/// The processes with this text in their arguments.
fn processes_with(text: &str) -> Vec<u32> {
    let processes = procfs::process::all_processes().unwrap();
    let with_text = processes.filter_map(Result::ok).filter(|process| {
        process.cmdline().is_ok_and(|arguments| arguments.iter().any(|argument| argument.contains(text)))
    });
    with_text.map(|process| process.pid().unsigned_abs()).collect()
}

fn works_below_the_dispatcher(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let hook = Hook::new(shell, &server);
    for directory in ["tools", "etc", "etc/fsfreeze-hook.d"] {
        fs::create_dir(hook.path(directory)).unwrap();
    }
    install(&hook.path("tools/logger"), "755", "#!/bin/sh\nexec cat >/dev/null\n");
    for script in ["fsfreeze-hook", "fsfreeze-hook.d/50-mysql"] {
        let text = fs::read_to_string(hooks_dir().join("freezeframe").join(script)).unwrap();
        install(&hook.path("etc").join(script), "755", &text);
    }
    let call = |verb: &str| {
        let mut command = shell.script(&hook.path("etc/fsfreeze-hook"), &hook.path("tools"));
        command.arg(verb).env("FSFREEZE_HOOK_RUN", hook.path("dispatcher"));
        command.env("FSFREEZE_DB_CONF", hook.path("settings"));
        call_as_agent(command)
    };
    call("freeze").succeeded().within(SOON);
    assert!(!server.takes_writes());
    send_signal("KILL", hook.holder());
    call("thaw").failed_with("the lock was NOT held until thaw");
    call("freeze").succeeded();
    call("thaw").succeeded();
    assert!(server.takes_writes());
    hook.left_nothing();
}

fn a_check_takes_the_lock_and_releases_it(database: Database, shell: Shell) {
    let server = Server::with_tables(database, &[]);
    let mut hook = Hook::new(shell, &server);
    let outcome = hook.call("check").succeeded();
    assert!(outcome.output.contains("lock and position are fine"), "{outcome:?}");
    assert!(server.takes_writes());
    assert!(!hook.path("lib/position").exists(), "no backup was made at this position");

    // A lock that is held is left alone.
    hook.freeze().succeeded();
    hook.call("check").failed_with("a freeze holds the lock now");
    hook.call("status").succeeded();
    hook.thaw().succeeded();

    // Whatever would fail a freeze fails the check, with the same message.
    server.sql("CREATE USER backup@localhost; GRANT SELECT ON *.* TO backup@localhost");
    hook.set(&format!("CLIENT_OPTS='--no-defaults --user=backup --socket={}'", server.socket().display()));
    hook.call("check").failed_with("the lock was not granted: ERROR 1227");
    assert!(!hook.path("run/check").exists());
}
