//! The hooks beside scenarios, against real servers: those that consist of statements alone. The
//! others stop servers, networks and file systems, and need a guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::call::{Outcome, call_as_agent, install, quoted, script, wait_until};
use crate::server::{Database, Server, client_program};

/// Makes one test for each server from one function and the name of a hook.
macro_rules! on_both_servers {
    ($($name:ident: $check:ident($hook:literal)),* $(,)?) => {$(
        mod $name {
            use super::Database;
            #[test]
            fn mariadb() {
                super::$check(Database::MARIADB, $hook);
            }
            #[test]
            fn mysql() {
                super::$check(Database::Mysql, $hook);
            }
        }
    )*};
}

on_both_servers!(
    all_tables: leaves_nothing_behind("deceivers/all-tables"),
    backup_lock_only: leaves_nothing_behind("deceivers/backup-lock-only"),
    nobody_stays: ends_all_sessions("deceivers/locked-out"),
    late_lock: leaves_nothing_behind("deceivers/late-lock"),
    locked_out: leaves_nothing_behind("deceivers/locked-out"),
    one_schema: leaves_nothing_behind("deceivers/one-schema"),
    read_only: leaves_nothing_behind("deceivers/read-only"),
    says_yes: leaves_nothing_behind("deceivers/says-yes"),
    session_ends: leaves_nothing_behind("deceivers/session-ends"),
    short_lock: leaves_nothing_behind("deceivers/short-lock"),
    suspended: leaves_nothing_behind("deceivers/suspended"),
    until_frozen: leaves_nothing_behind("deceivers/until-frozen"),
    backup_tool_locks: locks_or_fails("honest/backup-tool-locks"),
    copy_inside: locks_or_fails("honest/copy-inside"),
    lock_by_hand: locks_or_fails("honest/lock-by-hand"),
);

/// Whatever the hook pretends, it returns at once, keeps none of the agent's files open, and undoes
/// its changes.
fn leaves_nothing_behind(database: Database, hook: &str) {
    let server = Server::with_tables(database, &[]);
    let client = Client::working_on(&server);
    let hook = Hook::new(&server, hook);
    for _ in 0..2 {
        hook.call("freeze").succeeded().within(SOON);
        hook.call("thaw").succeeded().within(SOON);
        hook.call("thaw").succeeded().within(SOON);
        wait_until("an ordinary account can write", || client.writes());
        wait_until("no session is left", || sessions(&server).is_empty());
    }
    wait_until("it is clean", || hook.is_clean());
}

fn ends_all_sessions(database: Database, hook: &str) {
    let server = Server::with_tables(database, &[]);
    let client = Client::working_on(&server);
    let hook = Hook::new(&server, hook);
    hook.call("freeze").succeeded();
    assert!(!client.writes());
    let app = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'";
    wait_until("all are ended", || server.sql(app) == "0");
}

fn locks_or_fails(database: Database, hook: &str) {
    let server = Server::with_tables(database, &[]);
    let hook = Hook::new(&server, hook);
    for _ in 0..2 {
        hook.call("freeze").succeeded().within(SOON);
        assert!(!server.takes_writes());
        hook.call("thaw").succeeded().within(SOON);
        wait_until("the lock is released", || server.takes_writes());
        hook.call("thaw").succeeded().within(SOON);
    }

    hook.call("freeze").succeeded();
    let mut holder = String::new();
    wait_until("the holder is the only session", || {
        holder = sessions(&server);
        holder.parse::<u64>().is_ok()
    });
    server.sql(&format!("KILL {holder}"));
    assert_ne!(hook.call("thaw").code, Some(0), "a lock that was lost is reported");

    let mut session = server.session("LOCK TABLES t.inno WRITE; SELECT 1;");
    session.answer().expect("the table is locked");
    let failed = hook.call("freeze");
    assert!(failed.code.is_some_and(|code| code != 0), "{failed:?}");
    drop(session);
    wait_until("nothing stays locked", || server.takes_writes());
    assert!(hook.is_clean());
}

/// More than any of them takes on a busy machine; an agent's freeze may take longer.
const SOON: Duration = Duration::from_secs(20);

/// A hook, with all its files in a directory of the test's own and a client for its server.
struct Hook {
    dir: TempDir,
}

impl Hook {
    fn new(server: &Server, name: &str) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let at = |name: &str| dir.path().join(name);
        for folder in ["tools", "files"] {
            fs::create_dir(at(folder)).expect("make a directory");
        }
        let files = at("files").display().to_string();
        let text = fs::read_to_string(scenarios_dir().join(format!("{name}.sh"))).expect("the hook");
        let text = text.replace("=/run/", &format!("={files}/")).replace("=/var/tmp/", &format!("={files}/"));
        install(&at("hook"), "755", &text);
        let client = client_program(server.database);
        // Options after the login, so that a hook's own win.
        let call = format!("#!/bin/sh\nexec {} {} \"$@\"\n", quoted(&client), server.login());
        install(&at("tools/mariadb"), "755", &call);
        // There may be no systemd here.
        install(&at("tools/systemd-run"), "755", "#!/bin/sh\nshift 2\nexec \"$@\"\n");
        Self { dir }
    }

    fn call(&self, verb: &str) -> Outcome {
        let tools = self.dir.path().join("tools");
        let mut command = script(&self.dir.path().join("hook"), &tools);
        command.arg(verb).env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display()));
        call_as_agent(command)
    }

    fn is_clean(&self) -> bool {
        fs::read_dir(self.dir.path().join("files")).expect("read the directory").next().is_none()
    }
}

/// An ordinary account with a session that lasts, as a load has.
struct Client {
    login: Vec<String>,
    program: PathBuf,
    idle: Child,
}

impl Client {
    fn working_on(server: &Server) -> Self {
        server.sql("CREATE USER app@localhost; GRANT ALL ON t.* TO app@localhost");
        let mut login: Vec<_> = server.login().split(' ').map(str::to_owned).collect();
        login.extend(["--user=app", "t"].map(str::to_owned));
        let program = client_program(server.database);
        let idle = Command::new(&program)
            .args(&login)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start a client");
        let app = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'";
        wait_until("the client is there", || server.sql(app) == "1");
        Self { login, program, idle }
    }

    fn writes(&self) -> bool {
        let mut command = Command::new(&self.program);
        command.args(&self.login).args(["-e", "UPDATE inno SET v = v + 1 WHERE id = 8"]);
        command.stdin(Stdio::null()).stderr(Stdio::null()).status().expect("run the client").success()
    }
}

/// The administrator's sessions, except the one that runs this query.
fn sessions(server: &Server) -> String {
    server.sql("SELECT id FROM information_schema.processlist WHERE user = 'root' AND id <> CONNECTION_ID()")
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.idle.kill();
        let _ = self.idle.wait();
    }
}

pub(crate) fn scenarios_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios")
}
