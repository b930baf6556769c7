//! `fsfreeze-db`, the static program, against real PostgreSQL servers.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::call::{AS_TOLD, Outcome, SOON, StopAtEnd, ends_soon, install, send_signal, soon, wait_until};
use crate::cluster::{Cluster, Paused, Version};
use crate::program::{LOCK_LOST, NO_LOGIN, Program, REFUSED, of_data, spread};
use crate::server::{Database, Server, is_root};

/// Makes one test for each version from one function.
macro_rules! on_every_version {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            use super::Version;
            #[test]
            fn postgresql() {
                super::$name(Version::Host);
            }
            #[test]
            fn postgresql_17() {
                super::$name(Version::V17);
            }
            #[test]
            fn postgresql_18() {
                super::$name(Version::V18);
            }
        }
    )*};
}

on_every_version!(
    backup_mode_lasts_until_the_thaw_and_leaves_nothing,
    a_check_tells_whether_a_freeze_would_work,
    the_position_is_that_of_the_flush,
    every_commit_acknowledged_is_in_the_backup,
    relaxed_durability_is_made_up_for,
    without_the_program_relaxed_commits_are_lost,
    a_lost_session_is_reported,
    no_login_is_refused,
    a_password_stays_out_of_sight,
    a_missing_privilege_is_refused,
    a_server_without_backup_mode_is_flushed,
    the_sites_own_settings_do_not_matter,
    too_many_connections_are_refused,
    only_a_server_that_hangs_for_long_is_refused,
    a_checkpoint_that_takes_too_long_is_done_without,
    another_servers_writers_do_not_wait_for_a_checkpoint,
    two_servers_are_held_together,
    a_server_of_any_name_is_found,
    the_same_path_in_two_mount_namespaces,
    a_socket_of_another_server_is_refused,
    a_server_without_a_socket_is_refused,
    a_killed_freeze_is_cleaned_up,
    the_server_ends_backup_mode_when_no_thaw_comes,
    a_standby_is_backed_up_too,
    killed_at_any_moment,
    cycles_under_load,
);

fn of(cluster: &Cluster, lines: &str) -> String {
    of_data(&cluster.data(), lines)
}

fn program_for(cluster: &Cluster) -> Program {
    Program::set_up("", &of(cluster, ""))
}

impl Program {
    #[track_caller]
    fn refuses_it(&self, cluster: &Cluster, code: i32, reason: &str) -> Outcome {
        let outcome = self.freeze_fails(code, reason);
        left_nothing(cluster);
        outcome
    }
}

#[track_caller]
fn left_nothing(cluster: &Cluster) {
    soon("the program has no session", || cluster.program_sessions().is_empty());
    assert!(!cluster.in_backup_mode());
}

fn backup_mode_lasts_until_the_thaw_and_leaves_nothing(version: Version) {
    let cluster = Cluster::of(version, &[]);
    let program = program_for(&cluster);
    assert!(!cluster.in_backup_mode());
    let freeze = program.freeze().succeeded().within(SOON);
    assert!(freeze.output.contains("in backup mode"), "{freeze:?}");
    assert!(cluster.in_backup_mode());
    let status = program.status();
    assert_eq!(status["locked"], true);
    assert_eq!(status["latest_freeze"]["servers"][0]["method"], "backup-mode");
    let holder = program.holder();
    assert_eq!(cluster.program_sessions().lines().count(), 1);
    let thaw = program.thaw().succeeded().within(SOON);
    ends_soon(holder);
    left_nothing(&cluster);
    program.call("status").failed_with("not locked");
    let log = cluster.log();
    assert!(!log.contains("aborting backup") && !log.contains("ERROR") && !log.contains("EOF"), "{log}");
    eprintln!("freeze {:?}, thaw {:?}", freeze.took, thaw.took);
}

fn a_check_tells_whether_a_freeze_would_work(version: Version) {
    let cluster = Cluster::of(version, &[]);
    let mut program = program_for(&cluster);
    let outcome = program.call("check").succeeded();
    assert!(outcome.output.contains("lock and position are fine"), "{outcome:?}");
    assert_eq!(fs::read_dir(program.path("lib")).unwrap().count(), 0, "no backup was made at this position");
    left_nothing(&cluster);
    program.set("", &of(&cluster, "user = 'nobody-known'"));
    let outcome = program.call("check");
    assert_eq!(outcome.code, Some(NO_LOGIN), "{outcome:?}");
}

fn the_position_is_that_of_the_flush(version: Version) {
    let cluster = Cluster::of(version, &["synchronous_commit=off"]);
    let mut program = program_for(&cluster);
    let _silent = Paused::one(cluster.process("walwriter"));
    cluster.sql("INSERT INTO t VALUES (100, 0)");
    let committed = cluster.sql("SELECT pg_current_wal_insert_lsn()");
    program.freeze().succeeded();
    let position = |program: &Program, name| program.position_of(&cluster.data(), name);
    let nonce = position(&program, "nonce");
    let (start, lsn) = (position(&program, "start_lsn"), position(&program, "lsn"));
    let order = format!("SELECT '{committed}' <= '{start}'::pg_lsn AND '{start}'::pg_lsn < '{lsn}'");
    assert_eq!(cluster.sql(&order), "t", "{committed} {start} {lsn}");
    assert_eq!(cluster.sql(&format!("SELECT pg_walfile_name('{start}')")), position(&program, "wal_file"));
    assert_eq!(position(&program, "timeline"), "1");
    assert_eq!(position(&program, "role"), "primary");
    assert_eq!(position(&program, "method"), "backup-mode");
    assert_eq!(position(&program, "server"), cluster.sql("SHOW server_version"));
    let in_wal = |nonce: &str, file: &str| {
        let wal = fs::read(cluster.data().join("pg_wal").join(file)).unwrap();
        wal.windows(nonce.len()).any(|bytes| bytes == nonce.as_bytes())
    };
    // The freeze left its nonce in the WAL, and that is what it flushed.
    assert!(in_wal(&nonce, &position(&program, "wal_file")));
    program.thaw().succeeded();

    // Without backup mode, the same but for its beginning.
    program.set("", &of(&cluster, "method = 'flush'"));
    program.freeze().succeeded();
    assert_ne!(position(&program, "nonce"), nonce);
    assert_eq!(position(&program, "method"), "flush");
    let wal_file = cluster.sql("SELECT pg_walfile_name(pg_current_wal_flush_lsn())");
    assert!(in_wal(&position(&program, "nonce"), &wal_file));
    let text = fs::read_dir(program.path("lib")).unwrap().next().unwrap().unwrap().path();
    assert!(!fs::read_to_string(text).unwrap().contains("start_lsn"));
    program.thaw().succeeded();
}

/// Clients that insert rows of their own into the table `log`, and the rows acknowledged to them.
struct Writers<'a> {
    cluster: &'a Cluster,
    stop: AtomicBool,
    acknowledged: Mutex<Vec<(Instant, String)>>,
}

impl<'a> Writers<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        cluster.sql("CREATE TABLE log (writer INT, n INT, PRIMARY KEY (writer, n))");
        Self { cluster, stop: AtomicBool::new(false), acknowledged: Mutex::new(vec![]) }
    }

    /// Runs `work` while they write.
    fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        thread::scope(|scope| {
            for writer in 0..4 {
                scope.spawn(move || {
                    let mut session = self.cluster.session();
                    for n in 0.. {
                        if self.stop.load(Ordering::Relaxed) {
                            break;
                        }
                        session.send(&format!(
                            "BEGIN; INSERT INTO log VALUES ({writer}, {n});
                             UPDATE t SET v = v + 1 WHERE id = {}; COMMIT; SELECT 1;",
                            (n + writer) % 8 + 1
                        ));
                        if session.answer().is_none() {
                            break; // the server ended; the test says whether it may
                        }
                        self.acknowledged.lock().unwrap().push((Instant::now(), format!("{writer}|{n}")));
                    }
                });
            }
            let _stop = StopAtEnd(&self.stop);
            work()
        })
    }

    fn number(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    fn wait_for(&self, more: usize) {
        let seen = self.number();
        wait_until("all write", || self.number() >= seen + more);
    }

    fn rows(&self) -> Vec<String> {
        self.acknowledged.lock().unwrap().iter().map(|(_, row)| row.clone()).collect()
    }
}

/// The rows that the server lacks.
fn lost(rows: &[String], cluster: &Cluster) -> usize {
    let there = cluster.sql("SELECT writer, n FROM log");
    let there: BTreeSet<_> = there.lines().collect();
    rows.iter().filter(|row| !there.contains(row.as_str())).count()
}

fn every_commit_acknowledged_is_in_the_backup(version: Version) {
    for method in ["auto", "flush"] {
        let cluster = Cluster::of(version, &[]);
        let program = Program::set_up("", &of(&cluster, &format!("method = '{method}'")));
        let writers = Writers::new(&cluster);
        let (rows, image) = writers.during(|| {
            writers.wait_for(200);
            program.freeze().succeeded();
            writers.wait_for(40); // nothing is locked
            let rows = writers.rows();
            let image = cluster.crash_image();
            program.thaw().succeeded();
            (rows, image)
        });
        let restored = Cluster::recover(image);
        assert_eq!(lost(&rows, &restored), 0, "{method}: of {}", rows.len());
        assert!(restored.log().contains("database system was not properly shut down"));
        assert!(!restored.data().join("backup_label").exists());
        left_nothing(&cluster);
    }
}

/// Commits that are acknowledged before their WAL is written, with nothing that would write it
/// later; returns those that a restored server lacks.
fn lost_of_relaxed_commits(version: Version, freeze: impl FnOnce(&Cluster)) -> usize {
    let cluster = Cluster::of(version, &["synchronous_commit=off"]);
    cluster.sql("CREATE TABLE log (writer INT, n INT)");
    cluster.sql("CHECKPOINT");
    let _silent = Paused::one(cluster.process("walwriter"));
    let rows: Vec<_> = (0..20).map(|n| format!("9|{n}")).collect();
    let mut session = cluster.session();
    for n in 0..rows.len() {
        session.send(&format!("INSERT INTO log VALUES (9, {n}); SELECT 1;"));
        assert_eq!(session.answer().as_deref(), Some("1"));
    }
    freeze(&cluster);
    lost(&rows, &Cluster::recover(cluster.crash_image()))
}

fn relaxed_durability_is_made_up_for(version: Version) {
    for method in ["auto", "flush"] {
        let lost = lost_of_relaxed_commits(version, |cluster| {
            let program = Program::set_up("", &of(cluster, &format!("method = '{method}'")));
            program.freeze().succeeded();
        });
        assert_eq!(lost, 0, "{method}");
    }
}

fn without_the_program_relaxed_commits_are_lost(version: Version) {
    assert_eq!(lost_of_relaxed_commits(version, |_| {}), 20);
}

fn a_lost_session_is_reported(version: Version) {
    for method in ["backup-mode", "flush"] {
        let cluster = Cluster::of(version, &[]);
        let program = Program::set_up("", &of(&cluster, &format!("method = '{method}'")));
        let lose: [&dyn Fn(); 3] = [
            &|| send_signal("KILL", program.holder()),
            &|| drop(cluster.sql(&format!("SELECT pg_terminate_backend({})", cluster.program_sessions()))),
            // The server takes this for a crash and restarts, which ends all sessions.
            &|| {
                send_signal("KILL", cluster.process("walwriter"));
                wait_until("the server noticed", || {
                    cluster.log().contains("all server processes terminated")
                });
                wait_until("the server is back", || cluster.answers());
            },
        ];
        for lose in lose {
            program.freeze().succeeded();
            lose();
            program.thaw_fails(LOCK_LOST, "the lock was NOT held until thaw");
            left_nothing(&cluster);
        }
        program.freeze().succeeded();
        send_signal("QUIT", cluster.pid());
        ends_soon(cluster.pid());
        assert_ne!(program.call("status").code, Some(0));
        program.thaw_fails(LOCK_LOST, "the lock was NOT held until thaw");
    }
}

fn no_login_is_refused(version: Version) {
    let cluster = Cluster::of(version, &[]);
    let mut program = Program::set_up("", &of(&cluster, "user = 'nobody-known'"));
    program.refuses_it(&cluster, NO_LOGIN, "does not let us in: Peer authentication failed");
    program.set("", &of(&cluster, "database = 'nowhere'"));
    program.refuses_it(&cluster, REFUSED, "database \"nowhere\" does not exist");
}

/// Admits `backup` with a password, and nobody but the owner without one; gives the settings.
fn with_account(cluster: &Cluster, program: &Program) -> String {
    cluster.sql("CREATE ROLE backup LOGIN PASSWORD 'the-secret'");
    let rules = cluster.data().join("pg_hba.conf");
    let before = fs::read_to_string(&rules).unwrap();
    fs::write(&rules, format!("local all backup scram-sha-256\n{before}")).unwrap();
    cluster.sql("SELECT pg_reload_conf()");
    let file = program.path("password");
    install(&file, "600", "the-secret\n");
    format!("user = 'backup'\npassword_file = '{}'", file.display())
}

fn grants(cluster: &Cluster) -> &'static str {
    if cluster.sql("SELECT current_setting('server_version_num')::int >= 150000") == "t" {
        "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO backup"
    } else {
        "GRANT EXECUTE ON FUNCTION pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean) TO backup"
    }
}

fn a_password_stays_out_of_sight(version: Version) {
    let cluster = Cluster::of(version, &[]);
    let mut program = program_for(&cluster);
    let account = with_account(&cluster, &program);
    cluster.sql(grants(&cluster));
    program.set("", &of(&cluster, &account));
    let freeze = program.freeze().succeeded();
    assert!(cluster.in_backup_mode());
    for file in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{}/{file}", program.holder())).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("the-secret"));
    }
    let thaw = program.thaw().succeeded();
    assert!(!format!("{freeze:?}{thaw:?}").contains("the-secret"));
    install(&program.path("password"), "600", "wrong\n");
    program.refuses_it(&cluster, NO_LOGIN, "does not let us in: password authentication failed");
    program.set("", &of(&cluster, "user = 'backup'"));
    program.refuses_it(&cluster, NO_LOGIN, "does not let us in: password missing");
}

fn a_missing_privilege_is_refused(version: Version) {
    let cluster = Cluster::of(version, &[]);
    let mut program = program_for(&cluster);
    let account = with_account(&cluster, &program);
    program.set("", &of(&cluster, &account));
    program.refuses_it(&cluster, REFUSED, "did not get into backup mode: permission denied for function");
    // What the page names is enough; and a mere flush needs nothing.
    program.set("", &of(&cluster, &format!("{account}\nmethod = 'flush'")));
    program.freeze().succeeded();
    program.thaw().succeeded();
    cluster.sql(grants(&cluster));
    program.set("", &of(&cluster, &account));
    program.freeze().succeeded();
    assert!(cluster.in_backup_mode());
    program.thaw().succeeded();
}

fn a_server_without_backup_mode_is_flushed(version: Version) {
    let cluster = Cluster::of(version, &["wal_level=minimal", "max_wal_senders=0"]);
    let mut program = Program::set_up("", &of(&cluster, "method = 'backup-mode'"));
    program.refuses_it(&cluster, REFUSED, "WAL level not sufficient for making an online backup");
    program.set("", &of(&cluster, ""));
    let outcome = program.freeze().succeeded();
    assert!(outcome.output.contains("but not in backup mode (WAL level not sufficient"), "{outcome:?}");
    assert_eq!(program.status()["latest_freeze"]["servers"][0]["method"], "flush");
    program.thaw().succeeded();
    program.set("", &of(&cluster, "method = 'ftwrl'"));
    program.refuses_it(&cluster, REFUSED, "are MariaDB's and MySQL's");
}

fn the_sites_own_settings_do_not_matter(version: Version) {
    let cluster = Cluster::of(version, &[]);
    let program = program_for(&cluster);
    cluster.sql("CREATE FUNCTION public.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    for setting in [
        "search_path = public, pg_catalog",
        "default_transaction_isolation = serializable",
        "default_transaction_deferrable = on",
        "idle_in_transaction_session_timeout = 500",
        "statement_timeout = 1",
        "synchronous_commit = off",
        "client_min_messages = debug1",
        "datestyle = 'SQL, DMY'",
        "default_transaction_read_only = on", // the last: no more can be set
    ] {
        cluster.sql(&format!("ALTER ROLE ALL SET {setting}"));
    }
    assert_eq!(cluster.sql("SELECT pg_backend_pid()"), "1", "the premise");
    program.freeze().succeeded();
    thread::sleep(Duration::from_secs(1)); // longer than the site lets a transaction idle
    let session = "SELECT backend_xmin FROM pg_stat_activity WHERE application_name = 'fsfreeze-db'";
    assert_eq!(cluster.sql(session), "", "no vacuum waits for this transaction");
    program.thaw().succeeded();
    assert!(!cluster.log().contains("aborting backup"));
}

fn too_many_connections_are_refused(version: Version) {
    let cluster = Cluster::of(version, &["max_connections=5", "max_wal_senders=0"]);
    let program = program_for(&cluster);
    // Some connections are reserved for administrators, and these are administrators.
    let crowd: Vec<_> = (0..5)
        .map(|_| {
            let mut entered = None;
            // The server may still be ending an earlier session, and have no room until then.
            wait_until("there is a place", || {
                let session = entered.insert(cluster.session());
                session.try_send("SELECT 1;") && session.answer().is_some()
            });
            entered
        })
        .collect();
    program.freeze_fails(NO_LOGIN, "all connections of the server in");
    drop(crowd);
    wait_until("the crowd has left", || program.freeze().code == Some(0));
    program.thaw().succeeded();
    left_nothing(&cluster);
}

fn only_a_server_that_hangs_for_long_is_refused(version: Version) {
    let cluster = Cluster::of(version, &[]);
    let mut program = program_for(&cluster);
    program.freezes_after_a_pause(cluster.pause());

    program.set("lock_seconds = 3", &of(&cluster, ""));
    let paused = cluster.pause();
    let outcome = program.freeze().failed_with("no answer within 3 s").within(SOON);
    drop(paused);
    left_nothing(&cluster);
    eprintln!("given up after {:?}", outcome.took);

    // A server that hangs in the window: the thaw must end, and report that.
    program.set("", &of(&cluster, ""));
    program.freeze().succeeded();
    let paused = cluster.pause();
    program.thaw_fails(LOCK_LOST, "NOT held until thaw");
    drop(paused);
    left_nothing(&cluster);
}

/// The program waits for the checkpoint that backup mode begins with.
fn waits_for_checkpoint(cluster: &Cluster) -> bool {
    let query = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'fsfreeze-db' AND query LIKE '%backup%' AND state = 'active'";
    cluster.sql(query) == "1"
}

fn a_checkpoint_that_takes_too_long_is_done_without(version: Version) {
    let cluster = Cluster::of(version, &[]);
    let mut program = Program::set_up("lock_seconds = 4", &of(&cluster, "method = 'backup-mode'"));
    let paused = Paused::one(cluster.process("checkpointer"));
    let outcome = program.freeze().failed_with("did not get into backup mode: canceling statement");
    soon("the program has no session", || cluster.program_sessions().is_empty());
    outcome.within(AS_TOLD);
    program.set("lock_seconds = 4", &of(&cluster, ""));
    let outcome = program.freeze().succeeded().within(AS_TOLD);
    let said = "with its WAL flushed, but not in backup mode (its checkpoint was not over within 1 s)";
    assert!(outcome.output.contains(said), "{outcome:?}");
    program.thaw().succeeded();
    drop(paused);
    left_nothing(&cluster);

    // One that ends in time is waited for.
    program.set("lock_seconds = 30", &of(&cluster, ""));
    let paused = Paused::one(cluster.process("checkpointer"));
    let outcome = thread::scope(|scope| {
        let freeze = scope.spawn(|| program.freeze());
        wait_until("the program waits", || waits_for_checkpoint(&cluster));
        drop(paused);
        freeze.join().unwrap()
    });
    outcome.succeeded();
    assert!(cluster.in_backup_mode());
    program.thaw().succeeded();
}

fn another_servers_writers_do_not_wait_for_a_checkpoint(version: Version) {
    let cluster = Cluster::of(version, &[]);
    let server = Server::with_tables(Database::MARIADB, &[]);
    let both = of(&cluster, "") + &of_data(&server.datadir(), "method = 'ftwrl'");
    let mut program = Program::set_up("lock_seconds = 30", &both);
    let paused = Paused::one(cluster.process("checkpointer"));
    thread::scope(|scope| {
        let freeze = scope.spawn(|| program.freeze());
        wait_until("the program waits", || waits_for_checkpoint(&cluster));
        assert!(server.takes_writes());
        drop(paused);
        freeze.join().unwrap().succeeded();
    });
    assert!(cluster.in_backup_mode() && !server.takes_writes());
    let nonce = program.position_of(&cluster.data(), "nonce");
    assert_eq!(program.position_of(&server.datadir(), "nonce"), nonce, "of one freeze");
    program.thaw().succeeded();
    assert!(server.takes_writes());
    left_nothing(&cluster);

    // The one that cannot be locked takes the other back.
    let blocker = server.running("LOCK TABLES t.isam WRITE; DO SLEEP(300)");
    program.set("lock_seconds = 4", &both);
    program.refuses_it(&cluster, REFUSED, "did not");
    drop(blocker);
}

fn two_servers_are_held_together(version: Version) {
    let (one, two) = (Cluster::of(version, &[]), Cluster::of(version, &[]));
    let program = Program::set_up("", &(of(&one, "") + &of(&two, "")));
    program.freeze().succeeded();
    assert!(one.in_backup_mode() && two.in_backup_mode());
    program.thaw().succeeded();
    left_nothing(&one);
    left_nothing(&two);
}

fn a_server_of_any_name_is_found(version: Version) {
    for name in ["postgres-17", "postmaster", "somethingelse"] {
        let cluster = Cluster::called(version, name);
        let comm = fs::read_to_string(format!("/proc/{}/comm", cluster.pid())).unwrap();
        assert_eq!(comm.trim(), name, "the premise");
        let program = Program::set_up("", &of(&cluster, "required = true"));
        program.freeze().succeeded();
        assert_eq!(program.status()["latest_freeze"]["servers"].as_array().unwrap().len(), 1, "{name}");
        assert_eq!(cluster.program_sessions().lines().count(), 1, "{name}");
        program.thaw().succeeded();
    }
}

/// A host's server and a container's, or two containers'.
fn the_same_path_in_two_mount_namespaces(version: Version) {
    if !is_root() {
        eprintln!("skipped: only root makes mount namespaces here");
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(shared.path(), mode).unwrap();
    let clusters = [0, 1].map(|_| Cluster::mounted_at(version, shared.path()));
    let program = Program::set_up("", &of_data(&shared.path().join("data"), ""));
    program.freeze().succeeded();
    for cluster in &clusters {
        assert_eq!(cluster.program_sessions().lines().count(), 1);
    }
    let positions: HashSet<_> =
        fs::read_dir(program.path("lib")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(positions.len(), 2, "{positions:?}");
    program.thaw().succeeded();
    for cluster in &clusters {
        soon("the program has no session", || cluster.program_sessions().is_empty());
    }
}

fn a_socket_of_another_server_is_refused(version: Version) {
    let cluster = Cluster::of(version, &[]);
    let other = Cluster::of(version, &[]);
    let socket = other.data().with_file_name(".s.PGSQL.5432");
    let program = Program::set_up("", &of(&cluster, &format!("socket = '{}'", socket.display())));
    program.refuses_it(&other, REFUSED, &format!("process {} listens there", other.pid()));
}

fn a_server_without_a_socket_is_refused(version: Version) {
    let cluster = Cluster::of(version, &["port=5433"]);
    fs::remove_file(cluster.data().with_file_name(".s.PGSQL.5433")).unwrap();
    let program = program_for(&cluster);
    program.freeze_fails(REFUSED, "cannot be reached by");
}

fn a_killed_freeze_is_cleaned_up(version: Version) {
    let cluster = Cluster::of(version, &[]);
    // So that the server will not give up by itself.
    let program = Program::set_up("lock_seconds = 600", &of(&cluster, ""));
    let paused = Paused::one(cluster.process("checkpointer"));
    for signal in ["KILL", "TERM"] {
        let mut freeze = program.command(&["freeze"]).stderr(Stdio::null()).spawn().unwrap();
        wait_until("the program waits", || waits_for_checkpoint(&cluster));
        send_signal(signal, freeze.id());
        freeze.wait().unwrap();
        soon("nobody holds", || program.find_holder().is_none());
        // The checkpoint has not ended yet: the wait for it was cancelled.
        soon("the program has no session", || cluster.program_sessions().is_empty());
    }
    drop(paused);
    program.thaw().succeeded();
    left_nothing(&cluster);
}

fn the_server_ends_backup_mode_when_no_thaw_comes(version: Version) {
    // Long enough to stop the holder, and different from the default, which `soon` does not wait for.
    const HELD: Duration = Duration::from_secs(8);
    let cluster = Cluster::of(version, &[]);
    let program = Program::set_up(&format!("hold_seconds = {}", HELD.as_secs()), &of(&cluster, ""));
    let called = Instant::now();
    program.freeze().succeeded();
    send_signal("STOP", program.holder());
    soon("the server ends the session", || cluster.program_sessions().is_empty());
    assert!(called.elapsed() >= HELD, "ended after {:?}", called.elapsed());
    assert!(!cluster.in_backup_mode());
    program.thaw_fails(LOCK_LOST, "NOT held until thaw");
    soon("the holder has ended", || program.find_holder().is_none());
    left_nothing(&cluster);
}

fn a_standby_is_backed_up_too(version: Version) {
    let primary = Cluster::of(version, &[]);
    // Replay on a standby refuses pages that were changed without full_page_writes.
    primary.sql("ALTER SYSTEM SET full_page_writes = on");
    let image = primary.crash_image();
    image.make_standby();
    let standby = Cluster::recover(image);
    assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t", "the premise");
    let mut program = program_for(&standby);
    program.freeze().succeeded();
    assert_eq!(program.position_of(&standby.data(), "role"), "standby");
    let lsn = program.position_of(&standby.data(), "lsn");
    assert_eq!(lsn, standby.sql("SELECT pg_last_wal_replay_lsn()"));
    program.call("status").succeeded();
    program.thaw().succeeded();
    soon("the program has no session", || standby.program_sessions().is_empty());

    // A server promoted in the window is not the one that was frozen, with backup mode and without.
    program.set("", &of(&standby, "method = 'flush'"));
    program.freeze().succeeded();
    standby.sql("SELECT pg_promote()");
    program.thaw_fails(LOCK_LOST, "the standby was promoted");
    soon("the program has no session", || standby.program_sessions().is_empty());
}

fn killed_at_any_moment(version: Version) {
    let cluster = Cluster::of(version, &[]);
    let program = Program::set_up("hold_seconds = 20", &of(&cluster, ""));
    program.kill_at_any_moment(|_| {
        soon("nobody holds", || program.find_holder().is_none());
        soon("the program has no session", || cluster.program_sessions().is_empty());
    });
    program.thaw();
    program.freeze().succeeded();
    program.thaw().succeeded();
    left_nothing(&cluster);
}

/// 30 freezes and thaws, or as many as `FREEZEFRAME_CYCLES` says.
fn cycles_under_load(version: Version) {
    const HOLD: Duration = Duration::from_millis(100);
    let cycles = std::env::var("FREEZEFRAME_CYCLES").map_or(30, |cycles| cycles.parse().expect("a number"));
    let cluster = Cluster::of(version, &[]);
    let program = program_for(&cluster);
    let writers = Writers::new(&cluster);
    let mut windows = vec![];
    writers.during(|| {
        for _ in 0..cycles {
            writers.wait_for(40);
            let called = Instant::now();
            program.freeze().succeeded();
            let frozen = Instant::now();
            thread::sleep(HOLD);
            let thawing = Instant::now();
            program.thaw().succeeded();
            windows.push((called, frozen, thawing, Instant::now()));
        }
    });
    let mut at: Vec<_> = writers.acknowledged.lock().unwrap().iter().map(|(at, _)| *at).collect();
    at.sort();
    let stall = |from: Instant, to: Instant| {
        let around = at.windows(2).filter(|pair| pair[1] > from && pair[0] < to);
        around.map(|pair| pair[1] - pair[0]).max().unwrap()
    };
    eprintln!(
        "{cycles} cycles, {} writes; freeze {}, thaw {}, no write for {}",
        at.len(),
        spread(windows.iter().map(|(called, frozen, ..)| *frozen - *called).collect()),
        spread(windows.iter().map(|(_, _, thawing, thawed)| *thawed - *thawing).collect()),
        spread(windows.iter().map(|(called, _, _, thawed)| stall(*called, *thawed)).collect()),
    );
    left_nothing(&cluster);
    assert_eq!(cluster.log().matches("aborting backup").count(), 0);
}
