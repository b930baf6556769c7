//! A real PostgreSQL server in a temporary directory, sessions with it, and crash images of it.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use tempfile::TempDir;

use crate::call::{is_running, loader_options, program, root, send_signal, wait_until};

/// Which PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Version {
    /// The newest that the host has.
    Host,
    /// One from the programs of another release.
    Of { release: &'static str, number: &'static str },
}

impl Version {
    pub(crate) const V17: Self = Self::Of { release: "trixie", number: "17" };
    pub(crate) const V18: Self = Self::Of { release: "sid", number: "18" };

    /// How a program of the server is started.
    fn program(self, name: &str) -> PathBuf {
        match self {
            Self::Host => bin(name),
            Self::Of { .. } => self.root().join("run").join(name),
        }
    }

    /// Where a server of another release sees its programs.
    fn root(self) -> PathBuf {
        match (self, owner()) {
            (Self::Host, _) => "/".into(),
            (Self::Of { .. }, Some(_)) => MOUNTED.into(),
            (Self::Of { release, .. }, None) => root(release),
        }
    }

    /// Runs a program of the server as the owner of the data directories.
    fn command(self, program: &Path) -> Command {
        match (self, owner()) {
            (Self::Of { .. }, Some(_)) => self.apart(&[], program),
            _ => as_owner(program),
        }
    }

    /// Runs it in a mount namespace of its own, where each directory is found under another path as well.
    fn apart(self, directories: &[(&Path, &Path)], program: &Path) -> Command {
        const SCRIPT: &str = "while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\" || exit; shift 2; done
            shift; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]);
        if let Self::Of { release, .. } = self {
            // The owner may not enter the directories above a checkout.
            command.arg(root(release)).arg(MOUNTED);
        }
        for (from, to) in directories {
            command.args([from, to]);
        }
        let (uid, gid) = owner().expect("only root makes mount namespaces");
        command.args(["--", "setpriv", "--clear-groups"]);
        command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg(program);
        command.current_dir("/").env_clear().env("LC_ALL", "C").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

/// Where the programs of another release are for servers that do not run as the user of the tests.
const MOUNTED: &str = "/mnt";

/// A server that admits its own user by peer authentication and others by password. It ends when
/// this is dropped.
pub(crate) struct Cluster {
    version: Version,
    dir: TempDir,
    process: Child,
    /// Part of its socket's name.
    port: String,
}

impl Cluster {
    /// Of the host's version, with a table `t` that has the rows 1 to 8.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::of(Version::Host, options)
    }

    /// With a table `t` that has the rows 1 to 8.
    pub(crate) fn of(version: Version, options: &[&str]) -> Self {
        let this = Self::run(version, with_data(version), options);
        this.sql(
            "CREATE TABLE t (id INT PRIMARY KEY, v BIGINT NOT NULL);
             INSERT INTO t SELECT n, 0 FROM generate_series(1, 8) n",
        );
        this
    }

    /// A server that has to recover from this.
    pub(crate) fn recover(image: CrashImage) -> Self {
        Self::run(image.version, image.dir, &[])
    }

    fn run(version: Version, dir: TempDir, options: &[&str]) -> Self {
        Self::launch(version, dir, options, version.command(&version.program("postgres")), None)
    }

    /// A server whose process is called so.
    pub(crate) fn called(version: Version, name: &str) -> Self {
        let dir = with_data(version);
        let link = dir.path().join(name);
        let mut command = version.command(&link);
        let program = match version {
            Version::Host => bin("postgres"),
            // As its launcher does.
            Version::Of { number, .. } => {
                let root = version.root();
                command.args(loader_options(&root));
                command.arg(root.join(format!("usr/lib/postgresql/{number}/bin/postgres")));
                root.join("run/loader/postgres")
            }
        };
        std::os::unix::fs::symlink(program, &link).expect("make a link");
        Self::launch(version, dir, &[], command, None)
    }

    /// A server in a mount namespace of its own, in which its directory is found under this path.
    pub(crate) fn mounted_at(version: Version, path: &Path) -> Self {
        let dir = with_data(version);
        let apart = version.apart(&[(dir.path(), path)], &version.program("postgres"));
        Self::launch(version, dir, &[], apart, Some(path))
    }

    /// Starts the server on the data in `dir`, which it sees as `seen`, if that is given.
    fn launch(
        version: Version,
        dir: TempDir,
        options: &[&str],
        mut command: Command,
        seen: Option<&Path>,
    ) -> Self {
        let at = seen.unwrap_or(dir.path()).display().to_string();
        let log = fs::File::create(dir.path().join("server.log")).expect("create the log");
        // Backup mode is visible by the whole pages in the WAL, which nothing else writes here.
        // That the server calls fsync is PostgreSQL's own business: a freeze of the file system
        // does as much.
        command
            .args(["-c", "full_page_writes=off", "-c", "fsync=off", "-c", "listen_addresses="])
            .args(["-c", "shared_buffers=16MB", "-c", "max_connections=20", "-c", "autovacuum=off"])
            .args(["-c", "wal_level=replica", "-D", &format!("{at}/data"), "-k", &at])
            .args(options.iter().flat_map(|option| ["-c", option]))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = command.spawn().expect("start postgres");
        let port = options.iter().find_map(|option| option.strip_prefix("port=")).unwrap_or("5432");
        let mut this = Self { version, dir, process, port: port.to_owned() };
        wait_until("the server answers", || {
            let ended = this.process.try_wait().expect("check the server").is_some();
            assert!(!ended, "the server ended: {}", this.log());
            this.answers()
        });
        this
    }

    pub(crate) fn answers(&self) -> bool {
        self.query("SELECT 1").status.success()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("server.log")).expect("the log")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A connection string of this server.
    pub(crate) fn address(&self) -> String {
        format!("host={} port={} dbname=postgres", self.dir.path().display(), self.port)
    }

    fn client(&self) -> Command {
        let mut command = as_owner(&bin("psql"));
        // What a test sets for everybody must not end the test's own statements.
        command.env("PGOPTIONS", "-c statement_timeout=0");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.address()]);
        command
    }

    fn query(&self, statements: &str) -> Output {
        self.client().args(["-c", statements]).stdin(Stdio::null()).output().expect("run psql")
    }

    /// Executes statements in this database, which must succeed.
    #[track_caller]
    pub(crate) fn sql_in(&self, database: &str, statements: &str) {
        let mut client = self.client();
        let address = self.address().replace("postgres", database);
        let output = client.args(["-d", &address, "-c", statements]).stdin(Stdio::null()).output();
        let output = output.expect("run psql");
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What the statements return, which must succeed.
    #[track_caller]
    pub(crate) fn sql(&self, statements: &str) -> String {
        let output = self.query(statements);
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Whether the first change after a checkpoint puts the whole page into the WAL, which here
    /// means that a session holds backup mode. The server does not report that.
    pub(crate) fn in_backup_mode(&self) -> bool {
        self.sql("CHECKPOINT");
        let start = self.sql("SELECT pg_current_wal_insert_lsn()");
        self.sql("UPDATE t SET v = v + 1 WHERE id = 8");
        let end = self.sql("SELECT pg_current_wal_flush_lsn()");
        let wal = self.data().join("pg_wal");
        let output = self
            .version
            .command(&self.version.program("pg_waldump"))
            .args(["--start", &start, "--end", &end, "--path"])
            .arg(wal)
            .output()
            .expect("run pg_waldump");
        let records = String::from_utf8_lossy(&output.stdout);
        assert!(records.contains("COMMIT"), "{records}{}", String::from_utf8_lossy(&output.stderr));
        records.contains("FPW")
    }

    /// The hook's sessions with the server.
    pub(crate) fn hook_sessions(&self) -> String {
        self.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'fsfreeze-hook'")
    }

    /// The sessions of `fsfreeze-db` with the server.
    pub(crate) fn program_sessions(&self) -> String {
        self.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'fsfreeze-db'")
    }

    /// One of the server's own processes.
    pub(crate) fn process(&self, kind: &str) -> u32 {
        let query = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = '{kind}'");
        self.sql(&query).parse().expect("a process")
    }

    /// Stops the server and all of its processes.
    pub(crate) fn pause(&self) -> Paused {
        let mut paused = Paused(vec![]);
        // Its parent first: a stopped process creates no more children.
        paused.stop(self.pid());
        for child in self.children() {
            paused.stop(child);
        }
        paused
    }

    fn children(&self) -> Vec<u32> {
        let list = format!("/proc/{0}/task/{0}/children", self.pid());
        let list = fs::read_to_string(list).expect("the server's children");
        list.split_whitespace().map(|pid| pid.parse().expect("a process")).collect()
    }

    /// What the disk would hold if the power failed now: no process writes while it is copied.
    pub(crate) fn crash_image(&self) -> CrashImage {
        let dir = new_directory();
        let paused = self.pause();
        copy(&self.data(), &dir.path().join("data"));
        drop(paused);
        fs::remove_file(dir.path().join("data/postmaster.pid")).expect("remove the lock file");
        CrashImage { version: self.version, dir }
    }

    /// A session of its own.
    pub(crate) fn session(&self) -> Session {
        let mut process = self
            .client()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start psql");
        let input = process.stdin.take().expect("its stdin");
        let answers = BufReader::new(process.stdout.take().expect("its stdout")).lines();
        Session { process, input, answers }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if is_running(self.pid()) {
            // An immediate shutdown: unlike a kill, it leaves no shared memory behind.
            send_signal("QUIT", self.pid());
        }
        let _ = self.process.wait();
    }
}

/// Processes that are stopped until this is dropped.
pub(crate) struct Paused(Vec<u32>);

impl Paused {
    pub(crate) fn one(pid: u32) -> Self {
        let mut this = Self(vec![]);
        this.stop(pid);
        this
    }

    fn stop(&mut self, pid: u32) {
        send_signal("STOP", pid);
        self.0.push(pid);
        wait_until("the process is stopped", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // Or has ended, which its stopped parent cannot notice.
            stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['T', 'Z', 'X']))
        });
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        for pid in self.0.iter().rev() {
            send_signal("CONT", *pid);
        }
    }
}

/// A copy of a data directory, to which no server has written since.
pub(crate) struct CrashImage {
    version: Version,
    dir: TempDir,
}

impl CrashImage {
    /// The server that starts on it will be a standby.
    pub(crate) fn make_standby(&self) {
        let signal = self.dir.path().join("data/standby.signal");
        fs::write(&signal, "").expect("write standby.signal");
        give_away(&signal);
    }
}

/// A client with one connection; ends when dropped.
pub(crate) struct Session {
    process: Child,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Session {
    pub(crate) fn send(&mut self, statements: &str) {
        assert!(self.try_send(statements), "the client is gone");
    }

    /// Sends statements; false when the client is gone, as after the server has refused it.
    pub(crate) fn try_send(&mut self, statements: &str) -> bool {
        writeln!(self.input, "{statements}").is_ok()
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
    }
}

/// A program of the newest PostgreSQL that is installed.
pub(crate) fn bin(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |dir: &PathBuf| dir.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    versions
        .map(|entry| entry.path())
        .filter(|dir| dir.join("bin/postgres").is_file())
        .max_by_key(version)
        .map_or_else(|| program(name), |dir| dir.join("bin").join(name))
}

/// Runs it as the owner of the data directories: the server refuses to run as root.
pub(crate) fn as_owner(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env_clear().env("LC_ALL", "C");
    if let Some((uid, gid)) = owner() {
        command.uid(uid).gid(gid);
    }
    command
}

/// The owner for data directories: the packages' own user when this is root, otherwise nobody else.
fn owner() -> Option<(u32, u32)> {
    if uid() != 0 {
        return None;
    }
    let id = |which: &str| {
        let output = Command::new("id").args([which, "postgres"]).output().expect("run id");
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().expect("the account postgres, which comes with the server's package")
    };
    Some((id("-u"), id("-g")))
}

fn uid() -> u32 {
    fs::metadata("/proc/self").expect("/proc").uid()
}

pub(crate) fn give_away(path: &Path) {
    if let Some((uid, gid)) = owner() {
        chown(path, Some(uid), Some(gid)).expect("change the owner");
    }
}

fn new_directory() -> TempDir {
    let dir = tempfile::tempdir().expect("make a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("open the directory");
    give_away(dir.path());
    dir
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--reflink=auto"]).args([from, to]).status();
    assert!(copied.expect("run cp").success());
}

/// A new directory with the data of an empty server.
fn with_data(version: Version) -> TempDir {
    let dir = new_directory();
    copy(&empty_data(version), &dir.path().join("data"));
    dir
}

/// An initialised data directory, created once and kept beside the build.
fn empty_data(version: Version) -> PathBuf {
    let text = version.command(&version.program("postgres")).arg("--version").output().expect("run postgres");
    let text: String = String::from_utf8_lossy(&text.stdout)
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '.')
        .collect();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("data-{text}-{}", uid()));
    if !kept.is_dir() {
        // In a directory that the server's user may enter, as the build's may not be.
        let made = new_directory();
        let output = initdb(version)
            .args(["--no-sync", "--wal-segsize=1", "--locale=C"])
            .args(["--auth-local=peer", "--auth-host=scram-sha-256", "--pgdata"])
            .arg(made.path().join("data"))
            .output()
            .expect("run initdb");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
        copy(&made.path().join("data"), &new.path().join("data"));
        // When several are created at a time, the first one stays.
        let renamed = fs::rename(new.path().join("data"), &kept);
        assert!(renamed.is_ok() || kept.is_dir(), "{renamed:?}");
    }
    kept
}

fn initdb(version: Version) -> Command {
    let Version::Of { number, .. } = version else { return as_owner(&bin("initdb")) };
    let root = version.root();
    let mut command = version.command(&root.join("run/loader/postgres"));
    command
        // It starts the `postgres` beside it, which has to be the launcher.
        .arg("--argv0")
        .arg(root.join("run/postgres"))
        .args(loader_options(&root))
        .arg(root.join(format!("usr/lib/postgresql/{number}/bin/initdb")))
        .arg("-L")
        .arg(root.join(format!("usr/share/postgresql/{number}")));
    command
}
