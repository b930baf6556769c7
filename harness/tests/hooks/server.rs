//! A real MariaDB or MySQL server in a temporary directory, and sessions with it.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use tempfile::TempDir;

use crate::call::{is_running, loader_options, program, root, send_signal, soon, wait_until};

/// Which of those that one hook serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    /// The host's, or one from the programs of another release.
    Mariadb(Option<&'static str>),
    Mysql,
}

impl Database {
    pub(crate) const MARIADB: Self = Self::Mariadb(None);
    pub(crate) const MARIADB_10_5: Self = Self::Mariadb(Some("bullseye"));
    pub(crate) const MARIADB_11_8: Self = Self::Mariadb(Some("trixie"));

    /// The root of its programs, unless they are the host's.
    fn root(self) -> Option<PathBuf> {
        match self {
            Self::Mariadb(release) => release.map(root),
            Self::Mysql => Some(root("sid")),
        }
    }
}

/// A server whose root account has no password. It ends when this is dropped.
pub(crate) struct Server {
    pub(crate) database: Database,
    dir: TempDir,
    command: Command,
    process: Child,
}

impl Server {
    pub(crate) fn start(database: Database, options: &[&str]) -> Self {
        Self::launch(database, options, None, |command, _| command)
    }

    /// Starts a server that sees its own directory under this path, if one is given. `launch` may start the
    /// program in another way; it is given the directory.
    pub(crate) fn launch(
        database: Database,
        options: &[&str],
        seen: Option<&Path>,
        launch: impl FnOnce(Command, &Path) -> Command,
    ) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        // Most of a new data directory is zeros.
        let mut copy = Command::new("cp");
        copy.args(["-a", "--reflink=auto", "--sparse=always"]);
        let copied = copy.arg(empty_datadir(database)).arg(dir.path().join("data")).status();
        assert!(copied.expect("run cp").success());
        fs::create_dir(dir.path().join("tmp")).expect("make a directory");
        let root = seen.unwrap_or(dir.path()).to_owned();
        let at = |name: &str| root.join(name).display().to_string();
        let mut command = server_program(database);
        command
            .args(["--skip-networking", "--log-bin=binlog", "--server-id=1"])
            .args(["--innodb-buffer-pool-size=16M", "--key-buffer-size=1M"])
            .arg(format!("--datadir={}", at("data")))
            // A starting server removes what it takes for leftovers there, which must not be
            // another server's files.
            .arg(format!("--tmpdir={}", at("tmp")))
            .arg(format!("--socket={}", at("socket")))
            .arg(format!("--pid-file={}", at("pid")))
            .arg(format!("--log-error={}", at("server.log")))
            .args(options);
        let mut command = launch(command, dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("start the server");
        let mut this = Self { database, dir, command, process };
        this.wait_until_it_answers();
        this
    }

    /// With tables; its process is called so.
    pub(crate) fn called(database: Database, name: &str) -> Self {
        let this = Self::launch(database, &[], None, |command, dir| {
            let link = dir.join(name);
            let mut renamed = Command::new(&link);
            let program = match database.root() {
                None => command.get_program().into(),
                // As its launcher does.
                Some(root) => {
                    let name = Path::new(command.get_program()).file_name().expect("a name");
                    renamed.args(loader_options(&root)).arg(root.join("usr/sbin").join(name));
                    root.join("run/loader").join(name)
                }
            };
            std::os::unix::fs::symlink(program, link).expect("make a link");
            renamed.args(command.get_args());
            renamed
        });
        this.make_tables();
        this
    }

    /// With tables, in a mount namespace of its own, in which its directory is found under this path.
    pub(crate) fn mounted_at(database: Database, path: &Path) -> Self {
        let this = Self::launch(database, &[], Some(path), |command, dir| {
            let mut apart = Command::new("unshare");
            apart
                .args(["--mount", "--propagation", "private", "sh", "-c"])
                .arg("mount --bind \"$0\" \"$1\" && shift && exec \"$@\"")
                .args([dir, path])
                .arg(command.get_program())
                .args(command.get_args());
            apart
        });
        this.make_tables();
        this
    }

    /// Ends the server without any warning.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("kill the server");
        self.process.wait().expect("wait for the server");
    }

    /// Ends the server without any warning and starts it again on the files that it left.
    pub(crate) fn crash_and_restart(&mut self) {
        self.kill();
        self.process = self.command.spawn().expect("start the server");
        self.wait_until_it_answers();
    }

    fn wait_until_it_answers(&mut self) {
        let (log, socket) = (self.dir.path().join("server.log"), self.socket());
        wait_until("the server answers", || {
            let ended = self.process.try_wait().expect("check the server").is_some();
            assert!(!ended, "the server ended: {}", fs::read_to_string(&log).unwrap_or_default());
            // Running a client costs more than checking for the socket.
            socket.exists() && self.query("SELECT 1").status.success()
        });
    }

    /// With tables to write to: `inno`, `isam` and `memory`, each with the rows 1 to 8.
    pub(crate) fn with_tables(database: Database, options: &[&str]) -> Self {
        let this = Self::start(database, options);
        this.make_tables();
        this
    }

    pub(crate) fn make_tables(&self) {
        let mut statements = "CREATE DATABASE t;".to_owned();
        for (table, engine) in [("inno", "InnoDB"), ("isam", "MyISAM"), ("memory", "MEMORY")] {
            statements.push_str(&format!(
                "CREATE TABLE t.{table} (id INT PRIMARY KEY, v BIGINT NOT NULL) ENGINE={engine};
                 INSERT INTO t.{table} VALUES (1,0),(2,0),(3,0),(4,0),(5,0),(6,0),(7,0),(8,0);"
            ));
        }
        self.sql(&statements);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn datadir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// The options that log a client in to this server.
    pub(crate) fn login(&self) -> String {
        format!("--no-defaults --user=root --socket={}", self.socket().display())
    }

    fn client(&self) -> Command {
        let mut command = Command::new(client_program(self.database));
        command.args(self.login().split(' ')).args(["--batch", "--skip-column-names"]);
        command
    }

    fn query(&self, statements: &str) -> Output {
        self.client().args(["-e", statements]).stdin(Stdio::null()).output().expect("run the client")
    }

    /// Whether the statements succeed.
    pub(crate) fn try_sql(&self, statements: &str) -> bool {
        self.query(statements).status.success()
    }

    /// What the statements return, which must succeed.
    #[track_caller]
    pub(crate) fn sql(&self, statements: &str) -> String {
        let output = self.query(statements);
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// The first row of an answer, by the names of its columns.
    #[track_caller]
    pub(crate) fn row(&self, statement: &str) -> HashMap<String, String> {
        let output =
            self.client().args(["--column-names", "-e", statement]).output().expect("run the client");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines();
        let mut fields = || lines.next().expect("a line").split('\t').map(str::to_owned);
        fields().zip(fields()).collect()
    }

    /// Whether a write that does not wait for locks succeeds; if not, a lock must be the reason.
    #[track_caller]
    pub(crate) fn takes_writes(&self) -> bool {
        let output = self.query("SET SESSION lock_wait_timeout=0; UPDATE t.inno SET v=v+1 WHERE id=8");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || error.contains("ERROR 1205"), "{error}");
        output.status.success()
    }

    pub(crate) fn status(&self, variable: &str) -> u64 {
        let answer = self.sql(&format!("SHOW GLOBAL STATUS LIKE '{variable}'"));
        answer.split('\t').nth(1).and_then(|value| value.parse().ok()).expect("a number")
    }

    /// How far the redo log goes.
    pub(crate) fn redo(&self) -> u64 {
        self.status(match self.database {
            Database::Mariadb(_) => "Innodb_lsn_current",
            Database::Mysql => "Innodb_redo_log_current_lsn",
        })
    }

    /// How far the redo log is on disk.
    pub(crate) fn redo_on_disk(&self) -> u64 {
        self.status(match self.database {
            Database::Mariadb(_) => "Innodb_lsn_flushed",
            Database::Mysql => "Innodb_redo_log_flushed_to_disk_lsn",
        })
    }

    /// Commits rows until one is not flushed; returns which one, and the end of the redo log then.
    /// This needs relaxed durability, and does not last on MySQL, which flushes each second in any
    /// case.
    pub(crate) fn commit_unflushed(&self) -> (u32, u64) {
        let mut row = 100;
        loop {
            row += 1;
            self.sql(&format!("INSERT INTO t.inno VALUES ({row}, 1)"));
            let committed = self.redo();
            if self.redo_on_disk() < committed {
                return (row, committed);
            }
            assert!(row < 200, "the premise: commits are not flushed");
        }
    }

    /// The current binary log, its length, and the GTIDs in it.
    pub(crate) fn binlog(&self) -> [String; 3] {
        let (status, gtid) = match self.database {
            Database::Mariadb(_) => ("SHOW MASTER STATUS", "SELECT @@gtid_binlog_pos"),
            Database::Mysql => ("SHOW BINARY LOG STATUS", "SELECT @@gtid_executed"),
        };
        let status = self.sql(status);
        let mut fields = status.split('\t').map(str::to_owned);
        let mut field = || fields.next().expect("a field");
        [field(), field(), self.sql(gtid)]
    }

    /// A session of its own that has sent these statements and does not wait for the answer.
    #[track_caller]
    pub(crate) fn session(&self, statements: &str) -> Session {
        let mut session = self.log_in().expect("the session answers");
        session.send(statements);
        session
    }

    /// This many sessions. The server may still be ending earlier ones, and have no room until
    /// then.
    #[track_caller]
    pub(crate) fn crowd(&self, size: usize) -> Vec<Session> {
        let enter = |_| {
            let mut session = None;
            wait_until("there is a place", || {
                session = self.log_in();
                session.is_some()
            });
            session.expect("a session")
        };
        (0..size).map(enter).collect()
    }

    /// None when the server refuses.
    fn log_in(&self) -> Option<Session> {
        let mut process = self
            .client()
            .args(["--unbuffered", "--skip-reconnect"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start a client");
        let mut input = process.stdin.take().expect("its stdin");
        let answers = BufReader::new(process.stdout.take().expect("its stdout")).lines();
        // A client that was refused may be gone by now.
        let _ = writeln!(input, "SELECT CONNECTION_ID();");
        let mut this = Session { process, input, answers, connection: String::new() };
        this.connection = this.answer()?;
        Some(this)
    }

    /// A session whose statement runs at the server now.
    pub(crate) fn running(&self, statement: &str) -> Session {
        let session = self.session(&format!("{statement};"));
        let query = format!(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE id={} AND state LIKE '%sleep%'",
            session.connection
        );
        wait_until("the statement runs", || self.sql(&query) == "1");
        session
    }

    /// Waits until the server has ended this connection.
    #[track_caller]
    pub(crate) fn disconnects(&self, connection: &str) {
        let query = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE id={connection}");
        soon("the connection ends", || self.sql(&query) == "0");
    }

    /// The statements that are being executed, except this one.
    pub(crate) fn busy(&self) -> String {
        self.sql(
            "SELECT info FROM information_schema.processlist
             WHERE command='Query' AND id<>CONNECTION_ID() AND info IS NOT NULL",
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL also ends a stopped process.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A client with one connection; ends, and its statement with it, when dropped.
pub(crate) struct Session {
    process: Child,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    pub(crate) connection: String,
}

impl Session {
    pub(crate) fn send(&mut self, statements: &str) {
        writeln!(self.input, "{statements}").expect("send statements");
    }

    /// The next line of an answer; none when the client ended.
    pub(crate) fn answer(&mut self) -> Option<String> {
        self.answers.next().and_then(Result::ok)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        debug_assert!(!is_running(self.process.id()));
    }
}

/// A stopped server, which continues when this is dropped.
pub(crate) struct Stopped<'a>(&'a Server);

impl<'a> Stopped<'a> {
    pub(crate) fn new(server: &'a Server) -> Self {
        send_signal("STOP", server.pid());
        let this = Self(server);
        // The signal reaches one thread after the other, and one that still runs still answers.
        wait_until("every thread is stopped", || {
            let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("its threads");
            threads.filter_map(Result::ok).all(|thread| {
                let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                stat.rsplit(") ").next().is_some_and(|fields| fields.starts_with('T'))
            })
        });
        this
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        send_signal("CONT", self.0.pid());
    }
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc").uid() == 0
}

fn as_root() -> Option<&'static str> {
    is_root().then_some("--user=root")
}

/// The server's program with the options that it needs everywhere.
fn server_program(database: Database) -> Command {
    let name = match database {
        Database::Mariadb(_) => "mariadbd",
        Database::Mysql => "mysqld",
    };
    let root = database.root();
    let mut command =
        Command::new(root.as_ref().map_or_else(|| program(name), |root| root.join("run").join(name)));
    command.arg("--no-defaults");
    if let Some(root) = &root {
        command.arg(format!("--basedir={}", root.join("usr").display()));
    }
    match database {
        Database::Mariadb(_) => command.arg("--innodb-log-file-size=4M"),
        Database::Mysql => command
            .args(["--secure-file-priv=NULL", "--mysqlx=OFF", "--innodb-redo-log-capacity=8M"])
            .args(["--gtid-mode=ON", "--enforce-gtid-consistency=ON"]),
    };
    command.args(as_root());
    command
}

/// A client that the server knows: the host's, for every MariaDB.
pub(crate) fn client_program(database: Database) -> PathBuf {
    match database {
        Database::Mariadb(_) => program("mariadb"),
        Database::Mysql => root("sid").join("run/mysql"),
    }
}

/// An initialised data directory, created once and kept beside the build.
fn empty_datadir(database: Database) -> PathBuf {
    let version = server_program(database).arg("--version").output().expect("run the server");
    // The name of the program before it may be any path.
    let version: String = String::from_utf8_lossy(&version.stdout)
        .rsplit("Ver ")
        .next()
        .into_iter()
        .flat_map(str::chars)
        .filter(|c| c.is_ascii_alphanumeric() || *c == '.')
        .collect();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("datadir-{version}"));
    if !kept.is_dir() {
        let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
        let output = match (database, database.root()) {
            (Database::Mariadb(_), Some(root)) => bootstrap(database, &root, new.path()),
            (Database::Mariadb(_), None) => Command::new(program("mariadb-install-db"))
                .current_dir(new.path())
                // As it begins it removes the temporary tables of any other there.
                .env("TMPDIR", new.path())
                .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
                .arg("--innodb-log-file-size=4M")
                // It takes a path with a space in it for two.
                .arg("--datadir=./data")
                .args(as_root())
                .output(),
            (Database::Mysql, _) => server_program(database)
                .args(["--initialize-insecure", "--skip-log-bin"])
                .arg(format!("--datadir={}", new.path().join("data").display()))
                .output(),
        };
        let output = output.expect("make a data directory");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Each server creates its own identity at its first start.
        let _ = fs::remove_file(new.path().join("data/auto.cnf"));
        // When several are created at a time, the first one stays.
        let renamed = fs::rename(new.path().join("data"), &kept);
        assert!(renamed.is_ok() || kept.is_dir(), "{renamed:?}");
    }
    kept
}

/// What `mariadb-install-db` does: that of a root would start the programs there without their loader.
fn bootstrap(database: Database, root: &Path, dir: &Path) -> std::io::Result<Output> {
    // Their names begin with `mysql` or `mariadb`, and so does that of their directory.
    let shared = ["usr/share/mysql", "usr/share/mariadb"].map(|share| root.join(share));
    let files: Vec<PathBuf> = shared
        .iter()
        .filter_map(|share| fs::read_dir(share).ok())
        .flatten()
        .flatten()
        .map(|it| it.path())
        .collect();
    // It reads line by line.
    let mut statements = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n".to_owned();
    for end in ["_system_tables.sql", "_performance_tables.sql", "_system_tables_data.sql"] {
        let file = files.iter().find(|file| file.to_string_lossy().ends_with(end));
        statements += &fs::read_to_string(file.unwrap_or_else(|| panic!("{} has no {end}", root.display())))?;
    }
    fs::write(dir.join("statements"), statements)?;
    fs::create_dir(dir.join("data"))?;
    server_program(database)
        .arg("--bootstrap")
        .arg(format!("--datadir={}", dir.join("data").display()))
        .arg(format!("--tmpdir={}", dir.display()))
        .stdin(fs::File::open(dir.join("statements"))?)
        .output()
}
