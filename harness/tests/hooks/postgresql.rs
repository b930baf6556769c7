//! The PostgreSQL hook against a real server.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::call::{
    AS_TOLD, Outcome, SOON, Shell, call_as_agent, ends_soon, hooks_dir, in_both_shells, install, is_running,
    send_signal, soon, wait_until,
};
use crate::cluster::{Cluster, Paused, give_away};

in_both_shells!(
    backup_mode_lasts_until_the_thaw_and_leaves_nothing,
    a_check_tells_whether_a_freeze_would_work,
    the_position_is_that_of_the_flush,
    every_commit_acknowledged_is_in_the_backup,
    relaxed_durability_is_made_up_for,
    freeze_and_thaw_may_be_repeated,
    a_lost_session_is_reported,
    no_login_is_refused,
    a_password_stays_out_of_sight,
    a_missing_privilege_is_refused,
    a_server_without_backup_mode_is_refused,
    the_sites_own_settings_do_not_matter,
    too_many_connections_are_refused,
    a_missing_client_is_refused,
    a_hung_server_is_refused,
    a_slow_checkpoint_is_given_up,
    no_server_is_no_failure,
    one_of_two_servers_is_not_enough,
    two_servers_have_a_hook_each,
    a_wrong_server_is_not_enough,
    an_unwritable_position_is_refused,
    unsafe_settings_are_refused,
    a_killed_freeze_is_cleaned_up_by_the_thaw,
    stale_state_is_no_obstacle,
    the_server_ends_backup_mode_when_no_thaw_comes,
    a_standby_is_backed_up_too,
    thirty_cycles_under_load,
    works_below_the_dispatcher,
);

/// The hook, set up for one server.
struct Hook {
    dir: TempDir,
    shell: Shell,
    script: PathBuf,
    settings: String,
}

impl Hook {
    fn new(shell: Shell, cluster: &Cluster) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let script = hooks_dir().join("freezeframe/fsfreeze-hook.d/40-postgresql");
        let at = dir.path().display().to_string();
        let mut this = Self { dir, shell, script, settings: String::new() };
        this.set(&format!("RUN={at}/run\nPOSITION={at}/lib/position\nDATADIR={}", cluster.data().display()));
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Adds lines to the settings, which override earlier ones.
    fn set(&mut self, lines: &str) {
        self.settings.push_str(lines);
        self.settings.push('\n');
        install(&self.path("settings"), "600", &self.settings);
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = self.shell.script(&self.script, &self.path("tools"));
        command.arg(verb).env("FSFREEZE_POSTGRESQL_CONF", self.path("settings"));
        command
    }

    fn call(&self, verb: &str) -> Outcome {
        call_as_agent(self.command(verb))
    }

    fn freeze(&self) -> Outcome {
        self.call("freeze")
    }

    fn thaw(&self) -> Outcome {
        self.call("thaw")
    }

    fn session_file(&self, name: &str) -> u32 {
        let text = fs::read_to_string(self.path("run/session").join(name)).expect("a session");
        text.split(' ').next().expect("a process").parse().expect("a number")
    }

    /// The client that holds the session.
    fn holder(&self) -> u32 {
        self.session_file("holder")
    }

    /// The server's process at the other end.
    fn backend(&self) -> u32 {
        self.session_file("conn")
    }

    fn position(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path("lib/position")).expect("a position");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
    }

    /// A freeze that fails with this reason, in one line, and leaves nothing.
    #[track_caller]
    fn refuses(&self, cluster: &Cluster, reason: &str) -> Outcome {
        let outcome = self.freeze().failed_with(reason);
        assert_eq!(outcome.output.lines().count(), 1, "{outcome:?}");
        self.left_nothing(cluster);
        outcome
    }

    #[track_caller]
    fn left_nothing(&self, cluster: &Cluster) {
        assert!(!self.path("run/session").exists());
        soon("the hook has no session", || cluster.hook_sessions().is_empty());
        assert!(!cluster.in_backup_mode());
    }
}

impl Drop for Hook {
    /// After a failed test, the client that still waits for a thaw.
    fn drop(&mut self) {
        let holder = fs::read_to_string(self.path("run/session/holder")).unwrap_or_default();
        let Some(pid) = holder.split(' ').next().and_then(|pid| pid.parse::<u32>().ok()) else { return };
        let ours = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "psql");
        if ours && is_running(pid) {
            send_signal("KILL", pid);
        }
    }
}

fn backup_mode_lasts_until_the_thaw_and_leaves_nothing(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let hook = Hook::new(shell, &cluster);
    assert!(!cluster.in_backup_mode());
    let freeze = hook.freeze().succeeded().within(SOON);
    assert!(cluster.in_backup_mode());
    hook.call("status").succeeded();
    let holder = hook.holder();
    assert!(is_running(holder));
    assert_eq!(cluster.hook_sessions(), hook.backend().to_string());
    let thaw = hook.thaw().succeeded().within(SOON);
    ends_soon(holder);
    hook.left_nothing(&cluster);
    hook.call("status").failed_with("not in backup mode");
    let log = cluster.log();
    assert!(!log.contains("aborting backup") && !log.contains("ERROR") && !log.contains("EOF"), "{log}");
    eprintln!("freeze {:?}, thaw {:?}", freeze.took, thaw.took);
}

fn a_check_tells_whether_a_freeze_would_work(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let mut hook = Hook::new(shell, &cluster);
    let outcome = hook.call("check").succeeded();
    assert!(outcome.output.contains("backup mode and position are fine"), "{outcome:?}");
    assert!(!hook.path("run/check").exists());
    assert!(!hook.path("lib/position").exists(), "no backup was made at this position");
    hook.left_nothing(&cluster);

    // What a freeze holds is left alone, whatever the check finds.
    hook.freeze().succeeded();
    hook.call("check").failed_with("a freeze holds backup mode now");
    hook.set("CLIENT=no-such-client");
    hook.call("check").failed_with("a freeze holds backup mode now");
    let other = Cluster::start(&[]);
    let settings = hook.settings.clone();
    hook.set("CLIENT=\nDATADIR=");
    hook.call("check").failed_with("each needs a hook of its own");
    drop(other);
    hook.settings = settings;
    hook.set("CLIENT=");
    hook.call("status").succeeded();
    assert!(cluster.in_backup_mode());
    hook.thaw().succeeded();

    // Whatever would fail a freeze fails the check, with the same message.
    hook.set("CONNECTION=user=nobody-known");
    hook.call("check").failed_with("login failed: psql: error:");
    assert!(!hook.path("run/check").exists());
    assert_eq!(hook.call("chill").code, Some(2));
}

fn the_position_is_that_of_the_flush(shell: Shell) {
    let cluster = Cluster::start(&["synchronous_commit=off"]);
    let hook = Hook::new(shell, &cluster);
    let _silent = Paused::one(cluster.process("walwriter"));
    cluster.sql("INSERT INTO t VALUES (100, 0)");
    let committed = cluster.sql("SELECT pg_current_wal_insert_lsn()");
    hook.freeze().succeeded();
    let nonce = hook.position("nonce");
    let (start, lsn) = (hook.position("start_lsn"), hook.position("lsn"));
    let order = format!("SELECT '{committed}' <= '{start}'::pg_lsn AND '{start}'::pg_lsn < '{lsn}'");
    assert_eq!(cluster.sql(&order), "t", "{committed} {start} {lsn}");
    assert_eq!(cluster.sql(&format!("SELECT pg_walfile_name('{start}')")), hook.position("wal_file"));
    assert_eq!(hook.position("timeline"), "1");
    assert_eq!(hook.position("role"), "primary");
    assert_eq!(hook.position("server"), cluster.sql("SHOW server_version"));
    // The freeze left its nonce in the WAL, and that is what it flushed.
    let wal = fs::read(cluster.data().join("pg_wal").join(hook.position("wal_file"))).unwrap();
    assert!(wal.windows(nonce.len()).any(|bytes| bytes == nonce.as_bytes()));
    hook.thaw().succeeded();
    hook.freeze().succeeded();
    assert_ne!(hook.position("nonce"), nonce);
    hook.thaw().succeeded();
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
            // The writers must end even when an assertion fails.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            self.stop.store(true, Ordering::Relaxed);
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
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

fn every_commit_acknowledged_is_in_the_backup(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let hook = Hook::new(shell, &cluster);
    let writers = Writers::new(&cluster);
    let (rows, image) = writers.during(|| {
        writers.wait_for(200);
        hook.freeze().succeeded();
        writers.wait_for(40); // nothing is locked
        let rows = writers.rows();
        let image = cluster.crash_image();
        hook.thaw().succeeded();
        (rows, image)
    });
    let restored = Cluster::recover(image);
    assert_eq!(lost(&rows, &restored), 0, "of {}", rows.len());
    assert!(restored.log().contains("database system was not properly shut down"));
    assert!(!restored.data().join("backup_label").exists());
    hook.left_nothing(&cluster);
}

/// Commits that are acknowledged before their WAL is written, with nothing that would write it
/// later; returns those that a restored server lacks.
fn lost_of_relaxed_commits(freeze: impl FnOnce(&Cluster)) -> usize {
    let cluster = Cluster::start(&["synchronous_commit=off"]);
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

fn relaxed_durability_is_made_up_for(shell: Shell) {
    let lost = lost_of_relaxed_commits(|cluster| {
        let hook = Hook::new(shell, cluster);
        hook.freeze().succeeded();
    });
    assert_eq!(lost, 0);
}

#[test]
fn without_the_hook_relaxed_commits_are_lost() {
    assert_eq!(lost_of_relaxed_commits(|_| {}), 20);
}

fn freeze_and_thaw_may_be_repeated(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let hook = Hook::new(shell, &cluster);
    hook.thaw().succeeded();
    hook.freeze().succeeded();
    let first = hook.holder();
    hook.freeze().succeeded();
    ends_soon(first);
    assert!(cluster.in_backup_mode());
    hook.thaw().succeeded();
    hook.left_nothing(&cluster);
    hook.thaw().succeeded();
}

fn a_lost_session_is_reported(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let hook = Hook::new(shell, &cluster);
    let lose: [&dyn Fn(); 3] = [
        &|| send_signal("KILL", hook.holder()),
        &|| drop(cluster.sql(&format!("SELECT pg_terminate_backend({})", hook.backend()))),
        // The server takes this for a crash and restarts, which ends all sessions.
        &|| {
            send_signal("KILL", cluster.process("walwriter"));
            wait_until("the server noticed", || cluster.log().contains("all server processes terminated"));
            wait_until("the server is back", || cluster.answers());
        },
    ];
    for lose in lose {
        hook.freeze().succeeded();
        lose();
        let outcome = hook.thaw().failed_with("backup mode was NOT held until thaw");
        assert_eq!(outcome.output.lines().count(), 1, "{outcome:?}");
        hook.left_nothing(&cluster);
        hook.thaw().succeeded();
    }
    hook.freeze().succeeded();
    assert!(cluster.in_backup_mode());
    send_signal("QUIT", cluster.pid());
    ends_soon(cluster.pid());
    hook.call("status").failed_with("not in backup mode");
    hook.thaw().failed_with("backup mode was NOT held until thaw");
    assert!(!hook.path("run/session").exists());
}

fn no_login_is_refused(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let mut hook = Hook::new(shell, &cluster);
    hook.set("CONNECTION=user=nobody-known");
    hook.refuses(&cluster, "login failed: psql: error:");
    hook.set("CONNECTION=dbname=nowhere");
    hook.refuses(&cluster, "login failed: psql: error:");
}

/// Admits `backup` with a password, and nobody but the owner without one.
fn with_account(cluster: &Cluster, hook: &mut Hook) {
    cluster.sql("CREATE ROLE backup LOGIN PASSWORD 'the-secret'");
    let rules = cluster.data().join("pg_hba.conf");
    let before = fs::read_to_string(&rules).unwrap();
    fs::write(&rules, format!("local all backup scram-sha-256\n{before}")).unwrap();
    cluster.sql("SELECT pg_reload_conf()");
    // The file belongs to the server's user, who may not enter the hook's own directory.
    let passfile = cluster.data().with_file_name("passfile");
    install(&passfile, "600", "*:*:*:backup:the-secret\n");
    give_away(&passfile);
    hook.set(&format!("CONNECTION='user=backup passfile={}'", passfile.display()));
}

const GRANTS: &str =
    "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO backup";
const OLD_GRANTS: &str = "GRANT EXECUTE ON FUNCTION pg_start_backup(text, boolean, boolean),
    pg_stop_backup(boolean, boolean) TO backup";

fn grants(cluster: &Cluster) -> &'static str {
    let new = cluster.sql("SELECT current_setting('server_version_num')::int >= 150000") == "t";
    if new { GRANTS } else { OLD_GRANTS }
}

fn a_password_stays_out_of_sight(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let mut hook = Hook::new(shell, &cluster);
    with_account(&cluster, &mut hook);
    cluster.sql(grants(&cluster));
    hook.freeze().succeeded();
    assert!(cluster.in_backup_mode());
    let pid = hook.holder();
    for of in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{pid}/{of}")).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("secret"));
    }
    hook.thaw().succeeded();
    hook.set("CONNECTION='user=backup passfile=/dev/null'");
    hook.refuses(&cluster, "login failed");
    hook.set("CONNECTION='user=backup password=the-secret'");
    let outcome = hook.freeze().failed_with("a password in CONNECTION would show");
    assert!(!outcome.output.contains("the-secret"));
}

fn a_missing_privilege_is_refused(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let mut hook = Hook::new(shell, &cluster);
    with_account(&cluster, &mut hook);
    hook.refuses(&cluster, "the server did not get into backup mode: ERROR:  permission denied for function");
    // The settings file alone is enough.
    cluster.sql(grants(&cluster));
    hook.freeze().succeeded();
    assert!(cluster.in_backup_mode());
    hook.thaw().succeeded();
}

fn a_server_without_backup_mode_is_refused(shell: Shell) {
    let cluster = Cluster::start(&["wal_level=minimal", "max_wal_senders=0"]);
    let hook = Hook::new(shell, &cluster);
    hook.refuses(&cluster, "ERROR:  WAL level not sufficient for making an online backup");
}

fn the_sites_own_settings_do_not_matter(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let hook = Hook::new(shell, &cluster);
    cluster.sql("CREATE FUNCTION public.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    for setting in [
        "search_path = public, pg_catalog",
        "default_transaction_read_only = on",
        "default_transaction_isolation = serializable",
        "idle_in_transaction_session_timeout = 500",
        "synchronous_commit = off",
        "client_min_messages = debug1",
    ] {
        cluster.sql(&format!("ALTER SYSTEM SET {setting}"));
    }
    cluster.sql("SELECT pg_reload_conf()");
    wait_until("they are in force", || cluster.sql("SELECT pg_backend_pid()") == "1");
    hook.freeze().succeeded();
    thread::sleep(Duration::from_secs(1)); // longer than the site lets a transaction idle
    let holds_back = format!("SELECT backend_xmin FROM pg_stat_activity WHERE pid = {}", hook.backend());
    assert_eq!(cluster.sql(&holds_back), "", "no vacuum waits for this transaction");
    hook.thaw().succeeded();
    assert!(!cluster.log().contains("aborting backup"));
}

fn too_many_connections_are_refused(shell: Shell) {
    let cluster = Cluster::start(&["max_connections=5", "max_wal_senders=0"]);
    let hook = Hook::new(shell, &cluster);
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
    hook.freeze().failed_with("too many clients already");
    drop(crowd);
    wait_until("the crowd has left", || hook.freeze().code == Some(0));
    hook.thaw().succeeded();
    hook.left_nothing(&cluster);
}

fn a_missing_client_is_refused(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let mut hook = Hook::new(shell, &cluster);
    hook.set("CLIENT=no-such-client");
    hook.refuses(&cluster, "there is no client program no-such-client");
}

fn a_hung_server_is_refused(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let hook = Hook::new(shell, &cluster);
    let paused = cluster.pause();
    let outcome = hook.freeze().failed_with("timeout expired").within(SOON);
    drop(paused);
    hook.left_nothing(&cluster);
    eprintln!("given up after {:?}", outcome.took);

    // A server that hangs in the window: the thaw must end, and report that.
    hook.freeze().succeeded();
    let paused = cluster.pause();
    hook.thaw().failed_with("NOT held until thaw").within(SOON);
    drop(paused);
    hook.left_nothing(&cluster);
}

fn a_slow_checkpoint_is_given_up(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let mut hook = Hook::new(shell, &cluster);
    hook.set("START_SECONDS=2");
    let paused = Paused::one(cluster.process("checkpointer"));
    let outcome = hook.freeze().failed_with("did not get into backup mode: ERROR:  canceling statement");
    soon("the hook has no session", || cluster.hook_sessions().is_empty());
    drop(paused);
    hook.left_nothing(&cluster);
    outcome.within(AS_TOLD);

    // A checkpoint that ends in time is waited for.
    hook.set("START_SECONDS=30");
    let paused = Paused::one(cluster.process("checkpointer"));
    let outcome = thread::scope(|scope| {
        let freeze = scope.spawn(|| hook.freeze());
        wait_until("the hook waits", || waits_for_checkpoint(&cluster));
        drop(paused);
        freeze.join().unwrap()
    });
    outcome.succeeded();
    assert!(cluster.in_backup_mode());
    hook.thaw().succeeded();
}

fn waits_for_checkpoint(cluster: &Cluster) -> bool {
    let query = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'fsfreeze-hook' AND query LIKE '%backup%' AND state = 'active'";
    cluster.sql(query) == "1"
}

fn no_server_is_no_failure(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let mut hook = Hook::new(shell, &cluster);
    let empty = tempfile::tempdir().unwrap();
    hook.set(&format!("DATADIR={}", empty.path().display()));
    for verb in ["freeze", "check"] {
        let outcome = hook.call(verb).succeeded();
        assert!(outcome.output.contains("no PostgreSQL server runs"), "{outcome:?}");
    }
    assert!(!cluster.in_backup_mode());
    hook.thaw().succeeded();

    // A typing error must not look like a stopped server.
    hook.set("DATADIR=/no/such/directory");
    hook.refuses(&cluster, "DATADIR=/no/such/directory does not exist");
}

fn one_of_two_servers_is_not_enough(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let _other = Cluster::start(&[]);
    let mut hook = Hook::new(shell, &cluster);
    hook.set("DATADIR=");
    hook.refuses(&cluster, "each needs a hook of its own");
}

fn two_servers_have_a_hook_each(shell: Shell) {
    let (one, two) = (Cluster::start(&[]), Cluster::start(&[]));
    let first = Hook::new(shell, &one);
    let mut second = Hook::new(shell, &two);
    let link = second.path("41-postgresql@two");
    symlink(fs::canonicalize(&second.script).unwrap(), &link).unwrap();
    second.script = link;
    first.freeze().succeeded();
    assert!(one.in_backup_mode() && !two.in_backup_mode());
    let outcome = second.freeze().succeeded();
    assert!(outcome.output.starts_with("fsfreeze-postgresql@two: freeze: "), "{outcome:?}");
    assert!(one.in_backup_mode() && two.in_backup_mode());
    first.thaw().succeeded();
    first.left_nothing(&one);
    assert!(two.in_backup_mode());
    second.thaw().succeeded();
    second.left_nothing(&two);
}

fn a_wrong_server_is_not_enough(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let other = Cluster::start(&[]);
    let mut hook = Hook::new(shell, &cluster);
    hook.set(&format!("CONNECTION='{}'", other.address()));
    hook.refuses(&other, "logged in to a server, but not to the one that runs here");
}

fn an_unwritable_position_is_refused(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let mut hook = Hook::new(shell, &cluster);
    hook.set("POSITION=/proc/no/such/place");
    hook.refuses(&cluster, "cannot write to /proc/no/such/place");
    hook.set("POSITION=");
    hook.freeze().succeeded();
    hook.thaw().succeeded();
}

fn unsafe_settings_are_refused(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let hook = Hook::new(shell, &cluster);
    install(&hook.path("settings"), "620", &hook.settings);
    hook.refuses(&cluster, "refused: others than root may write to");
}

fn a_killed_freeze_is_cleaned_up_by_the_thaw(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let mut hook = Hook::new(shell, &cluster);
    hook.set("START_SECONDS=600"); // so that the server will not give up by itself
    let paused = Paused::one(cluster.process("checkpointer"));
    let mut freeze = hook.command("freeze").spawn().unwrap();
    wait_until("the hook waits", || waits_for_checkpoint(&cluster));
    let holder = hook.holder();
    freeze.kill().unwrap();
    freeze.wait().unwrap();
    let outcome = hook.thaw().succeeded().within(SOON);
    assert!(outcome.output.contains("a freeze that did not finish"), "{outcome:?}");
    // The checkpoint has not ended yet: the wait for it was cancelled.
    soon("the hook has no session", || cluster.hook_sessions().is_empty());
    ends_soon(holder);
    drop(paused);
    hook.left_nothing(&cluster);
}

fn stale_state_is_no_obstacle(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let hook = Hook::new(shell, &cluster);
    // As after a crash: the recorded pids are now other processes.
    let session = hook.path("run/session");
    fs::create_dir_all(&session).unwrap();
    fs::write(session.join("holder"), format!("{} 1\n", std::process::id())).unwrap();
    fs::write(session.join("conn"), format!("{} 1\n", cluster.pid())).unwrap();
    fs::write(session.join("held"), "").unwrap();
    fs::write(session.join("in"), "").unwrap();
    hook.call("status").failed_with("not in backup mode");
    hook.freeze().succeeded();
    assert!(cluster.in_backup_mode());
    hook.thaw().succeeded();
    hook.left_nothing(&cluster);
}

fn the_server_ends_backup_mode_when_no_thaw_comes(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let mut hook = Hook::new(shell, &cluster);
    // Long enough to stop the client, and different from the default, which `soon` does not wait
    // for.
    const HELD: Duration = Duration::from_secs(8);
    hook.set(&format!("HOLD_SECONDS={}", HELD.as_secs()));
    let called = Instant::now();
    hook.freeze().succeeded();
    let client = Paused::one(hook.holder());
    soon("the server ends the session", || cluster.hook_sessions().is_empty());
    assert!(called.elapsed() >= HELD, "ended after {:?}", called.elapsed());
    assert!(!cluster.in_backup_mode());
    drop(client);
    hook.thaw().failed_with("backup mode was NOT held until thaw");
    hook.left_nothing(&cluster);
}

fn a_standby_is_backed_up_too(shell: Shell) {
    let primary = Cluster::start(&[]);
    // Replay on a standby refuses pages that were changed without full_page_writes.
    primary.sql("ALTER SYSTEM SET full_page_writes = on");
    let image = primary.crash_image();
    image.make_standby();
    let standby = Cluster::recover(image);
    assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t", "the premise");
    let hook = Hook::new(shell, &standby);
    hook.freeze().succeeded();
    assert_eq!(hook.position("role"), "standby");
    assert_eq!(hook.position("lsn"), standby.sql("SELECT pg_last_wal_replay_lsn()"));
    hook.call("status").succeeded();
    hook.thaw().succeeded();
    soon("the hook has no session", || standby.hook_sessions().is_empty());

    // A server promoted in the window is not the one that was frozen.
    hook.freeze().succeeded();
    standby.sql("SELECT pg_promote()");
    hook.thaw().failed_with("the standby was promoted during online backup");
    assert!(!hook.path("run/session").exists());
    soon("the hook has no session", || standby.hook_sessions().is_empty());
}

fn thirty_cycles_under_load(shell: Shell) {
    const HOLD: Duration = Duration::from_millis(100);
    let cluster = Cluster::start(&[]);
    let hook = Hook::new(shell, &cluster);
    let writers = Writers::new(&cluster);
    let mut windows = vec![];
    writers.during(|| {
        for _ in 0..30 {
            writers.wait_for(40);
            let called = Instant::now();
            hook.freeze().succeeded();
            let frozen = Instant::now();
            thread::sleep(HOLD);
            hook.thaw().succeeded();
            windows.push((called, frozen, Instant::now()));
        }
    });
    let mut at: Vec<_> = writers.acknowledged.lock().unwrap().iter().map(|(at, _)| *at).collect();
    at.sort();
    let mut stalls: Vec<_> = windows
        .iter()
        .map(|(called, _, thawed)| {
            let around = at.windows(2).filter(|pair| pair[1] > *called && pair[0] < *thawed);
            around.map(|pair| pair[1] - pair[0]).max().unwrap()
        })
        .collect();
    let mut freezes: Vec<_> = windows.iter().map(|(called, frozen, _)| *frozen - *called).collect();
    stalls.sort();
    freezes.sort();
    eprintln!(
        "{} writes; freeze: median {:?}, worst {:?}; no write for: median {:?}, worst {:?}",
        at.len(),
        freezes[15],
        freezes[29],
        stalls[15],
        stalls[29]
    );
    hook.left_nothing(&cluster);
    assert_eq!(cluster.log().matches("aborting backup").count(), 0);
}

fn works_below_the_dispatcher(shell: Shell) {
    let cluster = Cluster::start(&[]);
    let hook = Hook::new(shell, &cluster);
    for directory in ["tools", "etc", "etc/fsfreeze-hook.d"] {
        fs::create_dir(hook.path(directory)).unwrap();
    }
    install(&hook.path("tools/logger"), "755", "#!/bin/sh\nexec cat >/dev/null\n");
    for script in ["fsfreeze-hook", "fsfreeze-hook.d/40-postgresql"] {
        let text = fs::read_to_string(hooks_dir().join("freezeframe").join(script)).unwrap();
        install(&hook.path("etc").join(script), "755", &text);
    }
    // A second application, later in the order, that reports whether the first one was held at its
    // turn.
    let other = |path: &Path, body: &str| {
        let held = hook.path("run/session/held");
        let text = format!(
            "#!/bin/sh\n[ -e {} ] && held=held || held=free\necho \"$1 $held\" >>{}\n{body}\n",
            held.display(),
            hook.path("trace").display()
        );
        install(path, "755", &text);
    };
    let second = hook.path("etc/fsfreeze-hook.d/60-other");
    let call = |verb: &str| {
        let mut command = shell.script(&hook.path("etc/fsfreeze-hook"), &hook.path("tools"));
        command.arg(verb).env("FSFREEZE_HOOK_RUN", hook.path("dispatcher"));
        command.env("FSFREEZE_POSTGRESQL_CONF", hook.path("settings"));
        call_as_agent(command)
    };
    let trace = || fs::read_to_string(hook.path("trace")).unwrap();

    other(&second, "");
    call("freeze").succeeded().within(SOON);
    assert!(cluster.in_backup_mode());
    call("thaw").succeeded();
    hook.left_nothing(&cluster);
    assert_eq!(trace(), "freeze held\nthaw held\n", "frozen before it, thawed after it");

    // The later one fails: the agent gives up, and nobody will call thaw.
    other(&second, "[ \"$1\" = thaw ]");
    call("freeze").failed_with("60-other failed to freeze");
    hook.left_nothing(&cluster);

    other(&second, "");
    call("freeze").succeeded();
    send_signal("KILL", hook.holder());
    call("thaw").failed_with("backup mode was NOT held until thaw");
    hook.left_nothing(&cluster);
}
