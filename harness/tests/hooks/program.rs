//! `fsfreeze-db`, the static program, against real servers.

use std::collections::HashSet;
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::call::{
    AS_TOLD, Outcome, SOON, StopAtEnd, call_as_agent, ends_soon, fsfreeze_db, install, is_running,
    send_signal, soon, wait_until,
};
use crate::server::{Database, Server, Stopped};

/// Makes one test for each server from one function.
macro_rules! on_every_server {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            use super::Database;
            #[test]
            fn mariadb() {
                super::$name(Database::MARIADB);
            }
            #[test]
            fn mariadb_10_5() {
                super::$name(Database::MARIADB_10_5);
            }
            #[test]
            fn mariadb_11_8() {
                super::$name(Database::MARIADB_11_8);
            }
            #[test]
            fn mysql() {
                super::$name(Database::Mysql);
            }
        }
    )*};
}
pub(crate) use on_every_server;

on_every_server!(
    locks_until_the_thaw_and_leaves_nothing,
    locks_every_engine_by_ftwrl,
    the_position_is_that_of_the_lock,
    a_lost_lock_is_reported,
    no_login_is_refused,
    passwords_and_plugins,
    a_missing_privilege_is_refused,
    full_connections_are_named,
    only_a_server_that_hangs_for_long_is_refused,
    what_is_required_must_be_there,
    two_servers_are_locked_together,
    one_of_two_servers_is_not_enough,
    the_limit_is_counted_from_the_first_lock,
    a_server_of_any_name_is_found,
    the_same_path_in_two_mount_namespaces,
    a_socket_of_another_server_is_refused,
    an_absolute_link_of_a_container_leads_to_no_other_server,
    anybodys_sockets_do_not_matter,
    a_call_that_hears_too_late_is_refused,
    a_short_limit_ends_no_freeze,
    a_server_that_starts_meanwhile_is_refused,
    a_refused_raise_changes_nothing_later,
    an_unwritable_position_is_the_sites_choice,
    no_older_position_stays,
    an_unsafe_settings_file_is_refused,
    relaxed_durability_is_made_up_for,
    a_setting_left_raised_is_set_back,
    a_second_freeze_leaves_the_first_alone,
    a_thaw_that_comes_too_late_fails,
    a_removed_directory_is_no_obstacle,
    settings_that_break_keep_no_lock,
    a_rollback_takes_back_only_its_own_freeze,
    a_freeze_may_follow_a_thaw_at_once,
    hostile_settings_of_the_server_do_not_matter,
    what_only_waits_blocks_nobody,
    a_long_event_is_waited_for,
    long_statements_end_only_where_that_is_set,
    a_freeze_that_is_under_way_is_left_alone,
    a_killed_freeze_leaves_no_lock,
    stale_state_is_no_obstacle,
    the_server_releases_the_lock_when_no_thaw_comes,
    a_check_takes_the_lock_and_releases_it,
    killed_at_any_moment,
    cycles_under_load,
);

/// The program, set up for some servers of this machine, which has others.
pub(crate) struct Program {
    dir: TempDir,
    settings: String,
}

/// The settings of a server: those of the program, and of this server.
pub(crate) fn of(server: &Server, lines: &str) -> String {
    of_data(&server.datadir(), lines)
}

/// The same, by its data directory.
pub(crate) fn of_data(directory: &Path, lines: &str) -> String {
    format!("[[server]]\ndata_directory = '{}'\n{lines}\n", directory.display())
}

impl Program {
    /// With all the defaults.
    pub(crate) fn new(servers: &[&Server]) -> Self {
        let own: Vec<String> = servers.iter().map(|server| of(server, "")).collect();
        Self::set_up("", &own.concat())
    }

    pub(crate) fn set_up(own: &str, servers: &str) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        Self { dir, settings: String::new() }.with(own, servers)
    }

    /// With these settings, and of the servers; all others are left out.
    fn with(mut self, own: &str, servers: &str) -> Self {
        self.set(own, servers);
        self
    }

    pub(crate) fn set(&mut self, own: &str, servers: &str) {
        let at = self.dir.path().display();
        self.settings = format!(
            "run_directory = '{at}/run'\nposition_directory = '{at}/lib'\n{own}\n{servers}\n[[server]]\nignore = true\n"
        );
        install(&self.path("settings"), "600", &self.settings);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(fsfreeze_db());
        // What a shell of an administrator may have set.
        command.args(words).env_clear().env("MYSQL_HOST", "192.0.2.1").env("MYSQL_PWD", "wrong");
        command.env("FSFREEZE_DB_SETTINGS", self.path("settings"));
        command
    }

    pub(crate) fn call(&self, verb: &str) -> Outcome {
        call_as_agent(self.command(&[verb]))
    }

    pub(crate) fn freeze(&self) -> Outcome {
        self.call("freeze")
    }

    pub(crate) fn thaw(&self) -> Outcome {
        self.call("thaw")
    }

    /// The process that holds the locks.
    pub(crate) fn holder(&self) -> u32 {
        self.find_holder().expect("a process holds the locks")
    }

    pub(crate) fn find_holder(&self) -> Option<u32> {
        let run = self.path("run").display().to_string();
        let is_ours = |process: &procfs::process::Process| {
            process.cmdline().is_ok_and(|words| words.get(1..) == Some(&["hold".to_owned(), run.clone()]))
        };
        let mut processes = procfs::process::all_processes().unwrap().filter_map(Result::ok);
        Some(processes.find(is_ours)?.pid().unsigned_abs()).filter(|pid| is_running(*pid))
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let outcome = call_as_agent(self.command(&["status", "--json"]));
        serde_json::from_str(&outcome.output).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
    }

    pub(crate) fn position(&self, server: &Server, name: &str) -> String {
        self.position_of(&server.datadir(), name)
    }

    pub(crate) fn position_of(&self, data_directory: &Path, name: &str) -> String {
        let file = data_directory.display().to_string();
        let file: String =
            file.trim_matches('/').chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let text = fs::read_to_string(self.path("lib").join(file + ".position")).expect("a position");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
    }

    /// A freeze that fails with this status and reason, in one line, and has locked nothing.
    #[track_caller]
    pub(crate) fn refuses(&self, server: &Server, code: i32, reason: &str) -> Outcome {
        let outcome = self.freeze_fails(code, reason);
        soon("the server takes writes", || server.takes_writes());
        outcome
    }

    /// The same, without a look at the server.
    #[track_caller]
    pub(crate) fn freeze_fails(&self, code: i32, reason: &str) -> Outcome {
        let outcome = self.freeze();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.output.contains(reason), "expected {reason:?} in {outcome:?}");
        assert_eq!(outcome.output.lines().count(), 1, "{outcome:?}");
        // That of an earlier freeze ends a moment after it has answered the thaw.
        soon("nobody holds", || self.find_holder().is_none());
        outcome
    }

    /// A freeze while the server hangs for some seconds, as with a disk that stalls; `paused` ends that.
    pub(crate) fn freezes_after_a_pause(&self, paused: impl Sized) {
        const PAUSE: Duration = Duration::from_secs(6);
        thread::scope(|scope| {
            let freeze = scope.spawn(|| self.freeze());
            wait_until("it has begun", || self.find_holder().is_some());
            thread::sleep(PAUSE);
            drop(paused);
            let freeze = freeze.join().expect("no panic").succeeded();
            assert!(freeze.took >= PAUSE, "the premise: {freeze:?}");
        });
        self.thaw().succeeded();
    }

    /// 20 kills, or as many as `FREEZEFRAME_CYCLES` says: of the call, of the process that holds, or of both. `after` is
    /// told of each, once a thaw has followed.
    pub(crate) fn kill_at_any_moment(&self, after: impl Fn(&str)) {
        let kills = std::env::var("FREEZEFRAME_CYCLES").map_or(20, |kills| kills.parse().expect("a number"));
        // One after the other through the time that a freeze takes, in an order that looks like none.
        const STEPS: u64 = 20;
        let begun = Instant::now();
        self.freeze().succeeded();
        let usual = begun.elapsed();
        self.thaw().succeeded();
        let mut reported = 0;
        for n in 0..kills {
            let wait = usual * u32::try_from(n * 7 % STEPS).unwrap() / u32::try_from(STEPS).unwrap();
            let kill = format!("kill {n} after {wait:?}");
            let mut freeze = self.command(&["freeze"]).stderr(Stdio::null()).spawn().unwrap();
            thread::sleep(wait);
            if n % 3 != 1 {
                freeze.kill().unwrap();
            }
            if n % 3 != 0
                && let Some(holder) = self.find_holder()
            {
                let mut kill = Command::new("kill");
                let _ = kill.args(["-s", "KILL", &holder.to_string()]).stderr(Stdio::null()).status();
                soon("it ends", || !is_running(holder));
            }
            let froze = freeze.wait().unwrap().success();
            reported += u32::from(froze);
            let is_held = self.find_holder().is_some();
            let thaw = self.thaw();
            if froze && !is_held {
                assert_eq!(thaw.code, Some(LOCK_LOST), "{kill}: {thaw:?}");
            }
            after(&kill);
        }
        eprintln!("{kills} kills within {usual:?}; {reported} freezes had succeeded");
    }

    /// A thaw that fails with this status, in these words.
    #[track_caller]
    pub(crate) fn thaw_fails(&self, code: i32, reason: &str) {
        let outcome = self.thaw().within(SOON);
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.output.contains(reason), "expected {reason:?} in {outcome:?}");
    }
}

impl Drop for Program {
    /// After a failed test.
    fn drop(&mut self) {
        if let Some(holder) = self.find_holder() {
            send_signal("KILL", holder);
        }
    }
}

pub(crate) const REFUSED: i32 = 1;
pub(crate) const NO_LOGIN: i32 = 3;
pub(crate) const LOCK_LOST: i32 = 4;
pub(crate) const HELD_TOO_LONG: i32 = 5;
const RELEASED_BEFORE: i32 = 6;

fn locks_until_the_thaw_and_leaves_nothing(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[&server]);
    let freeze = program.freeze().succeeded().within(SOON);
    assert!(!server.takes_writes());
    assert_eq!(program.status()["locked"], true);
    let holder = program.holder();
    let thaw = program.thaw().succeeded().within(SOON);
    assert!(server.takes_writes());
    ends_soon(holder);
    let status = program.status();
    assert_eq!(status["locked"], false);
    assert_eq!(status["latest_freeze"]["servers"][0]["attempts"], 1, "{status:#}");
    assert!(status["latest_freeze"]["held_milliseconds"].as_u64().is_some(), "{status:#}");
    program.call("status").failed_with("not locked");
    assert_eq!(server.busy(), "");
    let log = fs::read_to_string(server.datadir().with_file_name("server.log")).unwrap();
    assert!(!log.contains("Aborted connection"), "{log}");
    eprintln!("freeze {:?}, thaw {:?}", freeze.took, thaw.took);
}

fn locks_every_engine_by_ftwrl(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[]).with("", &of(&server, "method = 'ftwrl'"));
    program.freeze().succeeded();
    let mut writers: Vec<_> = ["inno", "isam", "memory"]
        .map(|table| server.session(&format!("UPDATE t.{table} SET v=v+1 WHERE id=1; SELECT 'written';")))
        .into();
    wait_until("all writers wait", || {
        server.busy().lines().filter(|line| line.starts_with("UPDATE")).count() == 3
    });
    program.thaw().succeeded();
    for writer in &mut writers {
        assert_eq!(writer.answer().as_deref(), Some("written"));
    }
}

fn the_position_is_that_of_the_lock(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[&server]);
    let recorded = || ["binlog_file", "binlog_pos", "gtid"].map(|name| program.position(&server, name));
    server.sql("UPDATE t.inno SET v=2");
    program.freeze().succeeded();
    let nonce = program.position(&server, "nonce");
    let before = server.binlog();
    assert_eq!(recorded(), before);
    assert!(program.position(&server, "lsn").parse::<u64>().unwrap() <= server.redo_on_disk());
    program.thaw().succeeded();
    server.sql("UPDATE t.inno SET v=1");
    program.freeze().succeeded();
    assert_ne!(program.position(&server, "nonce"), nonce);
    assert_eq!(recorded(), server.binlog());
    assert_ne!(recorded(), before);
    program.thaw().succeeded();

    let server = Server::with_tables(database, &["--skip-log-bin"]);
    let program = Program::new(&[&server]);
    program.freeze().succeeded();
    let lib = fs::read_dir(program.path("lib")).unwrap().next().unwrap().unwrap();
    assert!(!fs::read_to_string(lib.path()).unwrap().contains("binlog_"));
    program.thaw().succeeded();
}

fn a_lost_lock_is_reported(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[&server]);
    let connections = || {
        let query = "SELECT id FROM information_schema.processlist WHERE command='Sleep'";
        server.sql(query).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let lose: [&dyn Fn(); 2] = [&|| send_signal("KILL", program.holder()), &|| {
        for connection in connections() {
            // Unless it has just ended by itself.
            server.try_sql(&format!("KILL {connection}"));
        }
    }];
    for lose in lose {
        program.freeze().succeeded();
        lose();
        soon("the lock is gone", || server.takes_writes());
        soon("the connections are gone", || connections().is_empty());
        assert_ne!(program.call("status").code, Some(0));
        program.thaw_fails(LOCK_LOST, "the lock was NOT held until thaw");
        soon("the holder has ended", || program.find_holder().is_none());
    }
    program.freeze().succeeded();
    program.thaw().succeeded();
}

fn no_login_is_refused(database: Database) {
    let server = Server::with_tables(database, &[]);
    server.sql("CREATE USER backup@localhost IDENTIFIED BY 'right'");
    let mut program = Program::new(&[]);
    install(&program.path("wrong"), "600", "wrong\n");
    let wrong = format!("user = 'backup'\npassword_file = '{}'", program.path("wrong").display());
    for lines in ["user = 'nobody'", "user = 'backup'", &wrong] {
        program.set("", &of(&server, lines));
        program.refuses(&server, NO_LOGIN, "does not let us in");
    }
    program.set("", &of(&server, "password_file = '/no/such/file'"));
    program.refuses(&server, NO_LOGIN, "cannot read /no/such/file");
    install(&program.path("wrong"), "640", "wrong\n");
    program.set("", &of(&server, &wrong));
    program.refuses(&server, REFUSED, "others than its owner");
}

fn passwords_and_plugins(database: Database) {
    let plugins: &[(&str, &str)] = match database {
        Database::Mariadb(_) => &[
            ("native", "IDENTIFIED VIA mysql_native_password USING PASSWORD('do-not-show')"),
            ("socket", "IDENTIFIED VIA unix_socket"),
            ("either", "IDENTIFIED VIA mysql_native_password USING 'invalid' OR unix_socket"),
            ("curve", "IDENTIFIED VIA ed25519 USING PASSWORD('do-not-show')"),
        ],
        Database::Mysql => &[
            ("sha2", "IDENTIFIED WITH caching_sha2_password BY 'do-not-show'"),
            ("socket", "IDENTIFIED WITH auth_socket"),
        ],
    };
    let server = Server::with_tables(database, &[]);
    for plugin in match database {
        Database::Mariadb(_) => &["auth_ed25519", "auth_socket"][..],
        Database::Mysql => &["auth_socket"],
    } {
        // Some are built in.
        server.try_sql(&format!("INSTALL SONAME '{plugin}'"));
        server.try_sql(&format!("INSTALL PLUGIN {plugin} SONAME '{plugin}.so'"));
    }
    let mut program = Program::new(&[]);
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    for (name, identified) in plugins {
        // Peers log in as themselves.
        let account = if identified.contains("socket") { user.trim() } else { name };
        let create = format!("CREATE OR REPLACE USER '{account}'@localhost {identified}");
        let create = match database {
            Database::Mariadb(_) => create,
            Database::Mysql => format!(
                "DROP USER IF EXISTS '{account}'@localhost; {}",
                create.replace("CREATE OR REPLACE", "CREATE")
            ),
        };
        if account == "root" {
            // Our own way in must stay.
            server.sql("CREATE USER IF NOT EXISTS other@localhost; GRANT ALL ON *.* TO other@localhost");
            continue;
        }
        if !server.try_sql(&create) {
            eprintln!("skipped: {identified}: this server has no such plugin");
            continue;
        }
        server.sql(&format!("GRANT ALL ON *.* TO '{account}'@localhost"));
        let options = format!("[client]\nuser = {account}\npassword = 'do-not-show'\n");
        install(&program.path("login.cnf"), "600", &options);
        program.set("", &of(&server, &format!("option_file = '{}'", program.path("login.cnf").display())));
        // The first login of caching_sha2 needs the password itself, later ones do not.
        for _ in 0..2 {
            program.freeze().succeeded();
            assert!(!server.takes_writes());
            for file in ["cmdline", "environ"] {
                let text = fs::read(format!("/proc/{}/{file}", program.holder())).unwrap();
                assert!(!String::from_utf8_lossy(&text).contains("do-not-show"));
            }
            program.thaw().succeeded();
        }
    }
}

fn a_missing_privilege_is_refused(database: Database) {
    let server = Server::with_tables(database, &[]);
    server.sql("CREATE USER backup@localhost; GRANT SELECT ON *.* TO backup@localhost");
    let mut program = Program::new(&[]).with("", &of(&server, "user = 'backup'"));
    program.refuses(&server, REFUSED, "Access denied; you need");
    // Whichever of the statements that are sent at once it is, it is named.
    let (all_but_one, refused) = match database {
        Database::Mariadb(_) => ("RELOAD, PROCESS, CONNECTION ADMIN", "does not say its binary log position"),
        Database::Mysql => ("RELOAD, PROCESS, REPLICATION CLIENT", "did not grant the lock"),
    };
    server.sql(&format!("GRANT {all_but_one} ON *.* TO backup@localhost"));
    program.refuses(&server, REFUSED, &format!("{refused}: error 1227"));
    // What the settings file names is enough.
    server.sql("REVOKE ALL, GRANT OPTION FROM backup@localhost");
    server.sql(match database {
        Database::Mariadb(_) => {
            "GRANT RELOAD, PROCESS, BINLOG MONITOR, CONNECTION ADMIN ON *.* TO backup@localhost"
        }
        Database::Mysql => {
            "GRANT RELOAD, PROCESS, REPLICATION CLIENT, BACKUP_ADMIN ON *.* TO backup@localhost;
             GRANT SELECT ON performance_schema.* TO backup@localhost"
        }
    });
    for method in ["auto", "ftwrl"] {
        program.set("", &of(&server, &format!("user = 'backup'\nmethod = '{method}'")));
        program.freeze().succeeded();
        assert!(!server.takes_writes());
        program.thaw().succeeded();
        if database != Database::Mysql {
            server.sql("GRANT CREATE, DROP ON mysql.fsfreeze_db_is_not_there TO backup@localhost");
        }
    }
}

fn full_connections_are_named(database: Database) {
    let server = Server::with_tables(database, &["--max-connections=10"]);
    let program = Program::new(&[&server]);
    // One more than the limit: the last connection is reserved for an administrator.
    let crowd = server.crowd(11);
    let outcome = program.freeze();
    assert_eq!(outcome.code, Some(NO_LOGIN), "{outcome:?}");
    assert!(outcome.output.contains("all connections of the server in"), "{outcome:?}");
    drop(crowd);
    wait_until("the crowd has left", || program.freeze().code == Some(0));
    program.thaw().succeeded();
    // With exactly one left, it does not begin what it cannot prove.
    let crowd = server.crowd(10);
    match (database, program.freeze()) {
        (Database::Mysql, outcome) => drop(outcome.succeeded()),
        (Database::Mariadb(_), outcome) => assert_eq!(outcome.code, Some(NO_LOGIN), "{outcome:?}"),
    }
    drop(crowd);
    program.thaw().succeeded();
    soon("nothing is locked", || server.takes_writes());
}

fn only_a_server_that_hangs_for_long_is_refused(database: Database) {
    let server = Server::with_tables(database, &[]);
    let mut program = Program::new(&[&server]);
    program.freezes_after_a_pause(Stopped::new(&server));

    program.set("lock_seconds = 3", &of(&server, ""));
    let stopped = Stopped::new(&server);
    let outcome = program.freeze().failed_with("no answer within 3 s").within(SOON);
    drop(stopped);
    wait_until("the server takes writes", || server.takes_writes());
    eprintln!("given up after {:?}", outcome.took);

    // A server that hangs in the window: the thaw must end, and report that.
    program.set("", &of(&server, ""));
    program.freeze().succeeded();
    let stopped = Stopped::new(&server);
    program.thaw_fails(LOCK_LOST, "NOT held until thaw");
    drop(stopped);
    wait_until("the server takes writes", || server.takes_writes());
}

fn what_is_required_must_be_there(database: Database) {
    let server = Server::with_tables(database, &[]);
    let mut program = Program::new(&[]);
    let outcome = program.freeze().succeeded();
    assert!(outcome.output.contains("no database server runs"), "{outcome:?}");
    assert!(server.takes_writes());
    program.thaw().succeeded();
    // A typing error must not look like a stopped server.
    let typo = "[[server]]\ndata_directory = '/var/lib/mysq'\nrequired = true\n";
    program.set("", typo);
    program.refuses(&server, REFUSED, "no server runs that matches data_directory = \"/var/lib/mysq\"");
    program.set("", &of(&server, "required = true"));
    program.freeze().succeeded();
    assert!(!server.takes_writes());
    program.thaw().succeeded();
    program.set("hold_secs = 3", "");
    program.refuses(&server, REFUSED, "unknown field `hold_secs`");
}

fn two_servers_are_locked_together(database: Database) {
    let servers = [Server::with_tables(database, &[]), Server::with_tables(Database::MARIADB, &[])];
    let program = Program::new(&[&servers[0], &servers[1]]);
    program.freeze().succeeded();
    for server in &servers {
        assert!(!server.takes_writes());
        program.position(server, "nonce");
    }
    program.thaw().succeeded();
    for server in &servers {
        assert!(server.takes_writes());
    }
}

fn one_of_two_servers_is_not_enough(database: Database) {
    let server = Server::with_tables(database, &[]);
    let mut other = Server::with_tables(database, &[]);
    let both = [of(&server, ""), of(&other, "")].concat();
    let mut program = Program::set_up("lock_seconds = 3", &both);
    let stopped = Stopped::new(&other);
    program.refuses(&server, REFUSED, "no answer within 3 s");
    drop(stopped);
    // One of them ends in the window.
    program.set("", &both);
    program.freeze().succeeded();
    other.kill();
    program.thaw_fails(LOCK_LOST, &other.datadir().display().to_string());
    assert!(server.takes_writes());
}

/// A server ends an idle session after as long as the locks may be held, and the first has been idle while the
/// second was waited for: that is the limit, and no lock that was lost.
fn the_limit_is_counted_from_the_first_lock(database: Database) {
    let [first, second] = [(); 2].map(|()| Server::with_tables(database, &[]));
    let lines = "long_statement_seconds = 600";
    let program = Program::set_up("hold_seconds = 2", &[of(&first, lines), of(&second, lines)].concat());
    let pause = || thread::sleep(Duration::from_millis(500));
    beside_a_table_lock(&second, database, || program.freeze(), pause).succeeded();
    soon("the first is released", || first.takes_writes());
    program.thaw_fails(HELD_TOO_LONG, "after 2 s without a thaw");
    assert!(second.takes_writes());
}

/// `mysqld.bin` is Bitnami's and XAMPP's.
fn a_server_of_any_name_is_found(database: Database) {
    for name in ["mysqld.bin", "mariadbd-11.8", "somethingelse"] {
        let server = Server::called(database, name);
        let program = Program::new(&[]).with("", &of(&server, "required = true"));
        program.freeze().succeeded();
        assert!(!server.takes_writes(), "{name}");
        program.thaw().succeeded();
    }
}

/// The program's request for the lock while it waits, as the server lists it.
pub(crate) fn request(database: Database) -> &'static str {
    match database {
        Database::Mariadb(_) => "BACKUP STAGE",
        Database::Mysql => "FLUSH TABLES WITH READ LOCK",
    }
}

/// A freeze that waits for a table which another session has locked, until something has been done meanwhile.
pub(crate) fn beside_a_table_lock<T: Send>(
    server: &Server,
    database: Database,
    freeze: impl FnOnce() -> T + Send,
    meanwhile: impl FnOnce(),
) -> T {
    let blocker = server.running("LOCK TABLES t.isam WRITE; DO SLEEP(300)");
    thread::scope(|scope| {
        let freeze = scope.spawn(freeze);
        wait_until("the program waits", || server.busy().contains(request(database)));
        meanwhile();
        server.sql(&format!("KILL {}", blocker.connection));
        freeze.join().expect("no panic")
    })
}

/// In a container an absolute link leads to the container's own file systems, and read from outside to another
/// server.
fn an_absolute_link_of_a_container_leads_to_no_other_server(database: Database) {
    if !crate::server::is_root() {
        eprintln!("skipped: only root makes mount namespaces here");
        return;
    }
    let outer = Server::with_tables(database, &[]);
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(outer.datadir().parent().unwrap(), &link).unwrap();
    let inner = Server::mounted_at(database, &link);
    let program = Program::new(&[&outer]);
    program.freeze().succeeded();
    assert!(!outer.takes_writes());
    assert!(!inner.takes_writes());
    program.thaw().succeeded();
    assert!(outer.takes_writes());
    assert!(inner.takes_writes());
}

/// The kernel lists sockets by names that anybody chooses.
fn anybodys_sockets_do_not_matter(database: Database) {
    let server = Server::with_tables(database, &[]);
    let socket = server.datadir().parent().unwrap().join("socket").display().to_string();
    // Beside the names of another of these tests.
    let text = String::from_utf8_lossy(&fs::read("/proc/net/unix").unwrap()).into_owned();
    let line = text.lines().find(|line| line.ends_with(&format!(" {socket}"))).expect("the server's");
    // The line of a socket of the server's own, which another process serves.
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("a").display().to_string();
    let _other = std::os::unix::net::UnixListener::bind(&other).unwrap();
    let forged = format!("x\n{}\n\u{fffd}", line.replace(&socket, &other));
    let _names: Vec<_> = [forged.as_bytes(), b"a\nname\xff", b"\n", b"0: 0 0 0 0 0"]
        .map(|name| {
            SocketAddr::from_abstract_name([name, dir.path().as_os_str().as_bytes()].concat()).unwrap()
        })
        .map(|name| std::os::unix::net::UnixListener::bind_addr(&name).unwrap())
        .into();
    let program = Program::new(&[&server]);
    program.freeze().succeeded();
    assert!(!server.takes_writes());
    program.thaw().succeeded();
}

/// What a user leaves where a process of his stands.
#[test]
fn hostile_files_hold_up_nobody() {
    let server = Server::with_tables(Database::MARIADB, &[]);
    let program = Program::new(&[&server]);
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut standing = Vec::new();
    for dir in &dirs {
        fs::write(dir.path().join("PG_VERSION"), "17").unwrap();
        standing.push(Ending(Command::new("sleep").arg("300").current_dir(dir.path()).spawn().unwrap()));
    }
    let made = Command::new("mkfifo").arg(dirs[0].path().join("postmaster.pid")).status();
    assert!(made.unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", dirs[1].path().join("postmaster.pid")).unwrap();
    program.freeze().succeeded().within(AS_TOLD);
    program.thaw().succeeded().within(AS_TOLD);
    // Without a holder it looks for what is left to set back.
    program.freeze().succeeded();
    send_signal("KILL", program.holder());
    fs::write(program.path("run/restore-1"), "").unwrap();
    assert!(program.thaw().within(AS_TOLD).code == Some(LOCK_LOST));
}

/// The call stands still until the process that holds no longer waits for it.
fn a_call_that_hears_too_late_is_refused(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::set_up("lock_seconds = 60", &of(&server, "long_statement_seconds = 600"));
    let blocker = server.running("LOCK TABLES t.isam WRITE; DO SLEEP(300)");
    let mut freeze = program.command(&["freeze"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the program waits", || server.busy().contains(request(database)));
    send_signal("STOP", freeze.id());
    server.sql(&format!("KILL {}", blocker.connection));
    soon("that one has given up", || program.find_holder().is_none());
    assert!(server.takes_writes());
    let state = program.status()["latest_freeze"]["stage"].clone();
    assert!(state["lost"]["why"].as_str().unwrap().contains("did not hear"), "{state}");
    send_signal("CONT", freeze.id());
    let status = freeze.wait().unwrap();
    assert_eq!(status.code(), Some(REFUSED));
    program.thaw_fails(LOCK_LOST, "whoever froze did not hear of them in time");
    program.thaw().succeeded();
}

/// Our own sessions, which have nothing to do until the lock is theirs, last for longer than the lock may.
fn a_short_limit_ends_no_freeze(database: Database) {
    let server = Server::with_tables(database, &[]);
    let lines = "long_statement_seconds = 600";
    let program = Program::set_up("hold_seconds = 3\nlock_seconds = 60", &of(&server, lines));
    let pause = || thread::sleep(Duration::from_secs(6));
    beside_a_table_lock(&server, database, || program.freeze(), pause).succeeded();
}

/// While the locks of others are waited for.
fn a_server_that_starts_meanwhile_is_refused(database: Database) {
    if !crate::server::is_root() {
        eprintln!("skipped: only root makes mount namespaces here");
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    let first = Server::mounted_at(database, shared.path());
    let seen = shared.path().join("data").display().to_string();
    let lines = format!("[[server]]\ndata_directory = '{seen}'\nlong_statement_seconds = 600\n");
    let program = Program::set_up("lock_seconds = 60", &lines);
    let mut second = None;
    let freeze = || program.freeze_fails(REFUSED, "has started while the locks of others");
    beside_a_table_lock(&first, database, freeze, || {
        second = Some(Server::mounted_at(database, shared.path()));
        // Only a freeze that takes so long looks again.
        thread::sleep(Duration::from_secs(1));
    });
    assert!(first.takes_writes());
    assert!(second.expect("it has started").takes_writes());
}

/// An account that may not raise it; nothing is noted then that a later freeze would set back.
fn a_refused_raise_changes_nothing_later(database: Database) {
    if database == Database::Mysql {
        return;
    }
    let server = Server::with_tables(database, &["--innodb-flush-log-at-trx-commit=2"]);
    server.sql(
        "CREATE USER backup@localhost; \
         GRANT RELOAD, PROCESS, BINLOG MONITOR, CONNECTION ADMIN ON *.* TO backup@localhost",
    );
    let mut program = Program::new(&[]).with("", &of(&server, "user = 'backup'"));
    program.refuses(&server, REFUSED, "SUPER");
    server.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 1");
    program.freeze().succeeded();
    program.thaw().succeeded();
    program.set("", &of(&server, ""));
    program.freeze().succeeded();
    program.thaw().succeeded();
    assert_eq!(server.sql("SELECT @@global.innodb_flush_log_at_trx_commit"), "1");
}

/// Ends its processes when dropped.
pub(crate) struct Ending(pub(crate) std::process::Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is found may be gone, or about to go, when it is looked at.
#[test]
fn a_server_that_ends_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let short = dir.path().join("mysqld");
    fs::copy(crate::call::program("sleep"), &short).unwrap();
    let script = "while [ -x ./mysqld ]; do ./mysqld 0.05; sleep 0.02; done";
    let mut processes = Command::new("sh");
    let processes = processes.args(["-c", script]).current_dir(&dir);
    let _ends = Ending(processes.spawn().unwrap());
    let program = Program::set_up("", &of_data(dir.path(), ""));
    for _ in 0..20 {
        program.freeze().succeeded();
        program.thaw().succeeded();
    }
    // One that stays is none.
    let mut stays = Command::new(&short);
    let _stays = Ending(stays.arg("300").current_dir(&dir).spawn().unwrap());
    program.freeze().failed_with("listens on no socket that we can see");
}

/// A host's server and a container's, or two containers'.
fn the_same_path_in_two_mount_namespaces(database: Database) {
    if !crate::server::is_root() {
        eprintln!("skipped: only root makes mount namespaces here");
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    let servers = [0, 1].map(|_| Server::mounted_at(database, shared.path()));
    let seen = shared.path().join("data");
    let program = Program::new(&[]).with("", &format!("[[server]]\ndata_directory = '{}'\n", seen.display()));
    program.freeze().succeeded();
    for server in &servers {
        assert!(!server.takes_writes());
    }
    let positions: HashSet<_> =
        fs::read_dir(program.path("lib")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(positions.len(), 2, "{positions:?}");
    program.thaw().succeeded();
    for server in &servers {
        assert!(server.takes_writes());
    }
}

fn a_socket_of_another_server_is_refused(database: Database) {
    let server = Server::with_tables(database, &[]);
    let other = Server::with_tables(database, &[]);
    let line = format!("socket = '{}'", other.socket().display());
    let program = Program::new(&[]).with("", &of(&server, &line));
    program.refuses(&server, REFUSED, &format!("process {} listens there", other.pid()));
    assert!(other.takes_writes());
}

fn an_unwritable_position_is_the_sites_choice(database: Database) {
    let server = Server::with_tables(database, &[]);
    let at = |program: &Program, place: &str, more: &str| {
        let run = program.path("run").display().to_string();
        let text = format!(
            "run_directory = '{run}'\nposition_directory = '{place}'\n{more}\n{}[[server]]\nignore = true\n",
            of(&server, "")
        );
        install(&program.path("settings"), "600", &text);
    };
    let program = Program::new(&[]);
    at(&program, "/proc/no/such/place", "position_required = true");
    program.refuses(&server, REFUSED, "cannot write to /proc/no/such/place");
    program.call("check").failed_with("cannot write to /proc/no/such/place");
    for verb in ["check", "freeze"] {
        at(&program, "/proc/no/such/place", "");
        let outcome = program.call(verb).succeeded();
        assert!(outcome.output.contains("position NOT written (cannot write to /proc/no"), "{outcome:?}");
    }
    program.thaw().succeeded();
    at(&program, "", "position_required = true");
    program.freeze().succeeded();
    program.thaw().succeeded();
}

/// A full disk, on which the position of an earlier freeze would be taken for this one's.
fn no_older_position_stays(database: Database) {
    if !crate::server::is_root() {
        eprintln!("skipped: only root mounts a small disk here");
        return;
    }
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[&server]);
    program.freeze().succeeded();
    program.thaw().succeeded();
    let text = program.position(&server, "nonce");
    // In a mount namespace of its own, where the directory is a tmpfs that the first position fills, by another name too.
    let script = "mount -t tmpfs -o size=4k none \"$1\" && cp -a \"$2\"/. \"$1\" &&
            ln \"$1\"/*.position \"$1\"/kept || exit
        \"$0\" freeze; status=$?; ls \"$1\"; exit $status";
    fs::rename(program.path("lib"), program.path("before")).unwrap();
    fs::create_dir(program.path("lib")).unwrap();
    let freeze = program.command(&[]);
    let mut apart = Command::new("unshare");
    apart.args(["--mount", "sh", "-c", script]).arg(freeze.get_program());
    apart.args([program.path("lib"), program.path("before")]);
    apart.envs(freeze.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let outcome = call_as_agent(apart).succeeded();
    assert!(outcome.output.contains("position NOT written"), "{outcome:?}");
    assert!(!outcome.output.contains(".position"), "{text} stays: {outcome:?}");
    program.thaw().succeeded();
}

fn an_unsafe_settings_file_is_refused(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[&server]);
    install(&program.path("settings"), "620", &program.settings);
    program.refuses(&server, REFUSED, "may write to");
}

fn relaxed_durability_is_made_up_for(database: Database) {
    for setting in ["0", "2", "3"] {
        if (database, setting) == (Database::Mysql, "3") {
            continue;
        }
        let option = format!("--innodb-flush-log-at-trx-commit={setting}");
        let server = Server::with_tables(database, &[&option, "--innodb-flush-log-at-timeout=2700"]);
        let program = Program::new(&[&server]);
        let (_, committed) = if setting == "3" { (0, 0) } else { server.commit_unflushed() };
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
            let freeze = program.freeze();
            locked.store(true, Ordering::Relaxed);
            let on_disk = server.redo_on_disk();
            let restored = server.sql("SELECT @@innodb_flush_log_at_trx_commit");
            let left = fs::read_dir(program.path("run")).unwrap().filter_map(Result::ok);
            let left =
                left.filter(|entry| entry.file_name().to_string_lossy().starts_with("restore")).count();
            program.thaw().succeeded();
            freeze.succeeded();
            let recorded = program.position(&server, "lsn").parse().unwrap();
            assert!(on_disk >= committed, "committed up to {committed}, on disk up to {on_disk}");
            assert!(on_disk >= recorded, "recorded {recorded}, on disk up to {on_disk}");
            assert_eq!((restored.as_str(), left), (setting, 0));
        });
    }
}

fn a_setting_left_raised_is_set_back(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[&server]);
    // As if the holder had died between raising and restoring.
    let stat = procfs::process::Process::new(server.pid().cast_signed()).unwrap().stat().unwrap();
    let note = program.path("run").join(format!("restore-{}", server.pid()));
    fs::create_dir_all(program.path("run")).unwrap();
    let text = format!(r#"{{"process":{{"pid":{},"started":{}}},"value":0}}"#, stat.pid, stat.starttime);
    fs::write(&note, text).unwrap();
    let stopped = Stopped::new(&server);
    let outcome = program.thaw().succeeded();
    assert!(outcome.output.contains("left for the next call"), "{outcome:?}");
    drop(stopped);
    program.thaw().succeeded();
    assert_eq!(server.sql("SELECT @@innodb_flush_log_at_trx_commit"), "0");
    assert!(!note.exists());
}

fn a_second_freeze_leaves_the_first_alone(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[&server]);
    program.thaw().succeeded();
    program.freeze().succeeded();
    let holder = program.holder();
    program.freeze().failed_with("the locks of another freeze are held since");
    program.call("check").failed_with("a freeze holds the locks now");
    assert_eq!(program.holder(), holder);
    assert!(!server.takes_writes());
    program.thaw().succeeded();
    assert!(server.takes_writes());
}

fn a_thaw_that_comes_too_late_fails(database: Database) {
    let server = Server::with_tables(database, &[]);
    let mut program = Program::new(&[]).with("hold_seconds = 8", &of(&server, ""));
    program.freeze().succeeded();
    // A second tool's.
    program.thaw().succeeded();
    program.thaw_fails(RELEASED_BEFORE, "by an earlier thaw (called by");
    program.thaw_fails(RELEASED_BEFORE, "by an earlier thaw (called by");
    // The window can be longer than the locks would have lasted.
    thread::sleep(Duration::from_secs(9));
    program.thaw_fails(RELEASED_BEFORE, "by an earlier thaw (called by");

    // Nobody thaws in time.
    program.set("hold_seconds = 3", &of(&server, ""));
    program.freeze().succeeded();
    soon("the lock is released", || server.takes_writes());
    soon("the holder has ended", || program.find_holder().is_none());
    program.thaw_fails(HELD_TOO_LONG, "after 3 s without a thaw");
    program.thaw().succeeded();
}

/// A package's removal may do that.
fn a_removed_directory_is_no_obstacle(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[&server]);
    program.freeze().succeeded();
    fs::remove_dir_all(program.path("run")).unwrap();
    assert!(!server.takes_writes());
    program.thaw().succeeded();
    assert!(server.takes_writes());
    // And with a holder that is gone as well, there is nothing to know, and nothing is locked.
    program.freeze().succeeded();
    send_signal("KILL", program.holder());
    fs::remove_dir_all(program.path("run")).unwrap();
    soon("nothing is locked", || server.takes_writes());
}

/// Somebody edits them in the window.
fn settings_that_break_keep_no_lock(database: Database) {
    let server = Server::with_tables(database, &[]);
    let mut program = Program::new(&[&server]);
    program.freeze().succeeded();
    let broken = format!("run_directory = '{}'\nhold_secs = 3", program.path("run").display());
    install(&program.path("settings"), "600", &broken);
    program.thaw().succeeded();
    assert!(server.takes_writes());
    // What became of a freeze whose state cannot be found is unknown.
    program.thaw_fails(REFUSED, "unknown field `hold_secs`");
    program.set("", &of(&server, ""));
    program.thaw_fails(RELEASED_BEFORE, "by an earlier thaw");
}

fn a_rollback_takes_back_only_its_own_freeze(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[&server]);
    let call = |verb: &str, name: &str, value: &str| {
        let mut command = program.command(&[verb]);
        command.env(name, value);
        call_as_agent(command)
    };
    call("freeze", "FSFREEZE_HOOK_CALL", "one").succeeded();
    call("freeze", "FSFREEZE_HOOK_CALL", "two").failed_with("another freeze");
    let outcome = call("thaw", "FSFREEZE_HOOK_ROLLS_BACK", "two").succeeded();
    assert!(outcome.output.contains("left alone"), "{outcome:?}");
    assert!(!server.takes_writes());
    call("thaw", "FSFREEZE_HOOK_ROLLS_BACK", "one").succeeded();
    assert!(server.takes_writes());
    call("thaw", "FSFREEZE_HOOK_ROLLS_BACK", "one").succeeded();
}

fn a_freeze_may_follow_a_thaw_at_once(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[&server]);
    for _ in 0..20 {
        let freeze = program.freeze().succeeded();
        assert!(freeze.output.contains("locked by"), "{freeze:?}");
        let thaw = program.thaw().succeeded();
        assert!(thaw.output.contains("held until now"), "{thaw:?}");
        program.call("check").succeeded();
    }
}

fn hostile_settings_of_the_server_do_not_matter(database: Database) {
    let server = Server::with_tables(database, &[]);
    server.sql(
        "SET GLOBAL sql_select_limit=0; SET GLOBAL max_join_size=1; SET GLOBAL sql_mode='ANSI,PIPES_AS_CONCAT';
         SET GLOBAL lock_wait_timeout=1; SET GLOBAL completion_type=2; SET GLOBAL autocommit=0;",
    );
    server.sql(match database {
        Database::Mariadb(_) => "SET GLOBAL max_statement_time=0.1; SET GLOBAL sql_safe_updates=1",
        Database::Mysql => "SET GLOBAL max_execution_time=1; SET GLOBAL sql_safe_updates=1",
    });
    let program = Program::new(&[&server]);
    program.freeze().succeeded();
    program.thaw().succeeded();
}

fn what_only_waits_blocks_nobody(database: Database) {
    let server = Server::with_tables(database, &[]);
    let mut owner = server.session("SELECT GET_LOCK('a', 1);");
    assert_eq!(owner.answer().as_deref(), Some("1"));
    let _waits = server.session("SELECT GET_LOCK('a', 300);");
    let sleeper = server.running("DO SLEEP(300)");
    let age = format!("SELECT time FROM information_schema.processlist WHERE id={}", sleeper.connection);
    wait_until("it has slept for long", || server.sql(&age).parse::<u32>().unwrap() >= 2);
    let program = Program::new(&[]).with("", &of(&server, "method = 'ftwrl'\nlong_statement_seconds = 1"));
    program.freeze().succeeded().within(SOON);
    assert!(!server.takes_writes());
    assert_eq!(program.status()["latest_freeze"]["servers"][0]["attempts"], 1);
    program.thaw().succeeded();
}

fn a_long_event_is_waited_for(database: Database) {
    let server = Server::with_tables(database, &["--event-scheduler=ON"]);
    server.sql("CREATE EVENT t.e ON SCHEDULE EVERY 1 DAY DO UPDATE t.inno SET v=v+SLEEP(300) WHERE id=1");
    let running = "SELECT COUNT(*) FROM information_schema.processlist \
                   WHERE state LIKE '%sleep%' AND time >= 2 AND id <> CONNECTION_ID()";
    wait_until("the event has run for long", || server.sql(running) == "1");
    let program = Program::new(&[])
        .with("lock_seconds = 4", &of(&server, "method = 'ftwrl'\nlong_statement_seconds = 1"));
    let outcome = thread::scope(|scope| {
        let freeze = scope.spawn(|| program.freeze());
        while !freeze.is_finished() {
            assert!(server.takes_writes(), "writers never wait");
        }
        freeze.join().unwrap()
    });
    outcome.failed_with("did not ask for the lock: a statement would keep it").within(AS_TOLD);
}

fn long_statements_end_only_where_that_is_set(database: Database) {
    let server = Server::with_tables(database, &[]);
    let long = server.running("UPDATE t.inno SET v=v+SLEEP(300) WHERE id=1 AND 'do-not-show'<>''");
    let age = format!("SELECT time FROM information_schema.processlist WHERE id={}", long.connection);
    wait_until("the statement is long", || server.sql(&age).parse::<u32>().unwrap() >= 1);
    let lines = "method = 'ftwrl'\nlong_statement_seconds = 1";
    let mut program = Program::new(&[]).with("lock_seconds = 4", &of(&server, lines));
    let refusal = program.refuses(&server, REFUSED, "did not ask for the lock: a statement would keep it");
    let refusal = refusal.within(AS_TOLD);
    assert!(refusal.output.ends_with(": UPDATE\n"), "{refusal:?}");
    assert!(server.busy().contains("SLEEP"));
    program.set("lock_seconds = 10", &of(&server, &format!("{lines}\nkill_long_statements = true")));
    program.freeze().succeeded().within(SOON);
    assert!(!server.takes_writes());
    assert!(!server.busy().contains("SLEEP"));
    program.thaw().succeeded();
}

/// It has no socket yet, and must not be taken for one that has lost it.
fn a_freeze_that_is_under_way_is_left_alone(database: Database) {
    let server = Server::with_tables(database, &[]);
    let lines = "method = 'ftwrl'\nlong_statement_seconds = 600\nflush_wait_seconds = 100";
    let program = Program::new(&[]).with("lock_seconds = 100", &of(&server, lines));
    let blocker = server.running("LOCK TABLES t.isam WRITE; DO SLEEP(300)");
    let outcome = thread::scope(|scope| {
        let freeze = scope.spawn(|| program.freeze());
        wait_until("a process takes the locks", || program.find_holder().is_some());
        // From its first moment on.
        program.call("status").failed_with("");
        wait_until("the program waits", || server.busy().contains("FLUSH TABLES WITH READ LOCK"));
        program.call("status").failed_with("");
        program.thaw_fails(REFUSED, "nothing is locked yet");
        program.freeze().failed_with("another freeze");
        server.sql(&format!("KILL {}", blocker.connection));
        freeze.join().unwrap()
    });
    outcome.succeeded();
    assert!(!server.takes_writes());
    program.thaw().succeeded();
    assert!(server.takes_writes());
}

fn a_killed_freeze_leaves_no_lock(database: Database) {
    let server = Server::with_tables(database, &[]);
    let lines = "method = 'ftwrl'\nlong_statement_seconds = 600\nflush_wait_seconds = 100";
    let program = Program::new(&[]).with("lock_seconds = 100", &of(&server, lines));
    let blocker = server.running("LOCK TABLES t.isam WRITE; DO SLEEP(300)");
    for signal in ["KILL", "TERM"] {
        let mut command = program.command(&["freeze"]);
        let mut freeze = command.process_group(0).spawn().unwrap();
        wait_until("the program waits", || server.busy().contains("FLUSH TABLES WITH READ LOCK"));
        send_signal(signal, freeze.id());
        freeze.wait().unwrap();
        soon("nothing holds", || program.find_holder().is_none());
        program.thaw().succeeded();
        soon("nothing waits", || !server.busy().contains("FLUSH"));
    }
    drop(blocker);
    wait_until("the server takes writes", || server.takes_writes());
    program.freeze().succeeded();
    program.thaw().succeeded();
}

fn stale_state_is_no_obstacle(database: Database) {
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[&server]);
    // As after a crash: the recorded pid is now another process.
    fs::create_dir_all(program.path("run")).unwrap();
    let state = format!(
        r#"{{"holder":{{"pid":{},"started":1}},"stage":"held","since":"","uptime_seconds":0,"servers":[]}}"#,
        std::process::id()
    );
    fs::write(program.path("run/state"), state).unwrap();
    fs::write(program.path("run/socket"), "").unwrap();
    program.freeze().succeeded();
    assert!(!server.takes_writes());
    program.thaw().succeeded();
    assert!(server.takes_writes());
}

fn the_server_releases_the_lock_when_no_thaw_comes(database: Database) {
    // Long enough to observe the lock, and different from the default, which `soon` does not wait for.
    const HELD: Duration = Duration::from_secs(8);
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[]).with(&format!("hold_seconds = {}", HELD.as_secs()), &of(&server, ""));
    let called = Instant::now();
    program.freeze().succeeded();
    send_signal("STOP", program.holder());
    assert!(!server.takes_writes());
    soon("the server releases the lock", || server.takes_writes());
    assert!(called.elapsed() >= HELD, "released after {:?}", called.elapsed());
    program.thaw_fails(LOCK_LOST, "NOT held until thaw");
    soon("the holder has ended", || program.find_holder().is_none());
}

fn a_check_takes_the_lock_and_releases_it(database: Database) {
    let server = Server::with_tables(database, &[]);
    let mut program = Program::new(&[&server]);
    let outcome = program.call("check").succeeded();
    assert!(outcome.output.contains("lock and position are fine"), "{outcome:?}");
    assert!(server.takes_writes());
    assert_eq!(fs::read_dir(program.path("lib")).unwrap().count(), 0, "no backup was made at this position");
    // Whatever would fail a freeze fails the check, with the same message.
    server.sql("CREATE USER backup@localhost; GRANT SELECT ON *.* TO backup@localhost");
    program.set("", &of(&server, "user = 'backup'"));
    program.call("check").failed_with("Access denied; you need");
}

fn killed_at_any_moment(database: Database) {
    let server = Server::with_tables(database, &["--innodb-flush-log-at-trx-commit=0"]);
    let program = Program::new(&[]).with("hold_seconds = 20", &of(&server, ""));
    program.kill_at_any_moment(|kill| {
        soon("the server takes writes", || server.takes_writes());
        soon("nobody holds a lock", || program.find_holder().is_none());
        // What it had raised is set back by the thaw, or by the next freeze.
        program.thaw();
        assert_eq!(server.sql("SELECT @@innodb_flush_log_at_trx_commit"), "0", "{kill}");
    });
    program.freeze().succeeded();
    program.thaw().succeeded();
}

/// 30 freezes and thaws, or as many as `FREEZEFRAME_CYCLES` says.
fn cycles_under_load(database: Database) {
    const HOLD: Duration = Duration::from_millis(100);
    let cycles = std::env::var("FREEZEFRAME_CYCLES").map_or(30, |cycles| cycles.parse().expect("a number"));
    let server = Server::with_tables(database, &[]);
    let program = Program::new(&[&server]);
    let acknowledged = Mutex::new(vec![]);
    let stop = AtomicBool::new(false);
    let mut windows = vec![];
    let recorded = || ["binlog_file", "binlog_pos", "gtid"].map(|name| program.position(&server, name));
    thread::scope(|scope| {
        for writer in 0..4 {
            let (server, stop, acknowledged) = (&server, &stop, &acknowledged);
            scope.spawn(move || {
                let mut session = server.session("");
                for n in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
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
        let _stop = StopAtEnd(&stop);
        for _ in 0..cycles {
            let seen = acknowledged.lock().unwrap().len();
            wait_until("all write", || acknowledged.lock().unwrap().len() >= seen + 40);
            let called = Instant::now();
            program.freeze().succeeded();
            let frozen = Instant::now();
            thread::sleep(HOLD);
            // The time at which an answer is read says little about the time of the write; the
            // log has that.
            assert_eq!(server.binlog(), recorded(), "written while frozen");
            let thawing = Instant::now();
            program.thaw().succeeded();
            windows.push((called, frozen, thawing, Instant::now()));
        }
    });
    let mut acknowledged = acknowledged.into_inner().unwrap();
    acknowledged.sort();
    let longest = |from: Instant, to: Instant| {
        let around = acknowledged.windows(2).filter(|pair| pair[1] > from && pair[0] < to);
        around.map(|pair| pair[1] - pair[0]).max().unwrap()
    };
    let beyond = windows
        .iter()
        .map(|(called, frozen, thawing, _)| longest(*called, *thawing).saturating_sub(*thawing - *frozen));
    eprintln!(
        "{cycles} cycles, {} writes; freeze {}, thaw {}, stall beyond the hold {}",
        acknowledged.len(),
        spread(windows.iter().map(|(called, frozen, ..)| *frozen - *called).collect()),
        spread(windows.iter().map(|(_, _, thawing, thawed)| *thawed - *thawing).collect()),
        spread(beyond.collect()),
    );
}

/// How times are distributed, for people.
pub(crate) fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_millis();
    format!("median {} ms, p95 {} ms, max {} ms", at(50), at(95), at(100))
}
