//! A command of a backup tool: a line for the host's shell that somebody wrote, in a session of its own.
//!
//! Its environment has nothing of the harness's but PATH, HOME and the user's names: what a tool does must depend on
//! its command, and a secret belongs in a file that the command names. See [`Surroundings`] for what is added. It
//! works in the folder for what is kept only while it runs, which also takes its temporary files, so that whatever
//! it forgets is found there.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use contract::history::{CommandEnd, Level, Nanos};
use contract::run::{TOOLS, checkout};
use contract::text::{printable, quote};
use procfs::process::{Process, all_processes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{StatVfs, statvfs};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tracing::{debug, warn};

use crate::clock;
use crate::error::{Error, Result};
use crate::host::daemon::Client;
use crate::interrupt;
use crate::kept::Kept;
use crate::tool::search_path;

/// What ends a command, one after the other, and how long each may take. Some tools clean up at the first only.
const STOP: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(10)),
    (Signal::TERM, Duration::from_secs(10)),
    (Signal::KILL, Duration::from_secs(10)),
];

/// How soon it is noticed that the trial is to stop, or that another process has joined the session.
const REACTION: Duration = Duration::from_millis(50);

/// The longest line, bytes; a longer one is cut into several.
const LINE: usize = 4096;

/// How many of the last lines are kept, and of each so many characters.
const LAST_LINES: usize = 20;
const LAST_LINE: usize = 300;

/// Free space below which a command that fails may have failed for the lack of it, bytes. It is looked at as often as
/// the command itself, and a disk takes so much in between.
const LEAST_ROOM: u64 = 64 << 20;

/// What is passed on of the harness's own environment.
const PASSED_ON: [&str; 3] = ["HOME", "LOGNAME", "USER"];

/// What all commands of one tool are told.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The libvirt that has the guest.
    pub client: &'a Client,
    /// The guest's name there.
    pub domain: &'a str,
    /// Its UUID.
    pub uuid: &'a str,
    /// The names of its disks: `vda`.
    pub disks: &'a [String],
    /// The folder of all backups.
    pub chain: &'a Path,
    /// The folder for what is kept only while a command runs, whose path must be short.
    pub scratch: &'a Path,
    /// The folder of the scenario's file, with its scripts.
    pub scenario: &'a Path,
}

/// What a command is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The number of the backup, from 0: the one to make, or the one to restore.
    pub number: u32,
    /// Its level.
    pub level: Level,
    /// The folder of the backup before it.
    pub previous: Option<&'a Path>,
    /// Its own folder.
    pub backup: &'a Path,
    /// To restore: the folder for the disks.
    pub target: Option<&'a Path>,
}

impl Surroundings<'_> {
    /// The environment of a command.
    fn environment(&self, request: &Request<'_>) -> Vec<(&'static str, OsString)> {
        let Self { client, domain, uuid, disks, chain, scratch, scenario } = self;
        let passed_on = PASSED_ON.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let fixed = [
            ("PATH", tools_path()),
            ("LC_ALL", "C.UTF-8".into()),
            ("TERM", "dumb".into()),
            ("NO_COLOR", "1".into()),
            ("TMPDIR", scratch.into()),
            ("FREEZEFRAME_URI", client.uri().into()),
            ("FREEZEFRAME_DOMAIN", domain.into()),
            ("FREEZEFRAME_UUID", uuid.into()),
            ("FREEZEFRAME_DISKS", disks.join(" ").into()),
            ("FREEZEFRAME_CHAIN", chain.into()),
            ("FREEZEFRAME_SCRATCH", scratch.into()),
            ("FREEZEFRAME_SCENARIO", scenario.into()),
            ("FREEZEFRAME_NUMBER", request.number.to_string().into()),
            ("FREEZEFRAME_LEVEL", request.level.to_string().into()),
            ("FREEZEFRAME_PREVIOUS", request.previous.map(Into::into).unwrap_or_default()),
            ("FREEZEFRAME_BACKUP", request.backup.into()),
            ("FREEZEFRAME_PHASE", if request.target.is_some() { "restore" } else { "backup" }.into()),
        ];
        let target = request.target.map(|target| ("FREEZEFRAME_TARGET", target.into()));
        // The libvirt's own come last: the tool may have to be another user.
        passed_on.chain(fixed).chain(target).chain(client.variables()).collect()
    }

    /// Starts a command, which may take so long. What it prints goes to `log`, line by line with the trial's time.
    pub fn start(&self, request: &Request<'_>, line: &str, log: &Path, limit: Duration) -> Result<Running> {
        let output = Output::new(log).map_err(Error::io("write", log))?;
        // A session of its own, so that nothing of it can be missed; see setsid(1).
        let mut command = self.client.command("setsid");
        command.args(["/bin/sh", "-c", line]);
        command.env_clear().envs(self.environment(request)).current_dir(self.scratch);
        let spawn = || -> io::Result<Running> {
            let (reader, writer) = io::pipe()?;
            let reader = File::from(OwnedFd::from(reader));
            ioctl_fionbio(&reader, true)?;
            command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
            let begin = clock::now();
            let mut child = command.spawn()?;
            let leader = Pid::from_child(&child);
            let end = pidfd_open(leader, PidfdFlags::empty()).inspect_err(|_| {
                let _ = child.kill();
            })?;
            let session = Session(Arc::new(Mutex::new(Some(leader))));
            let deadline = Instant::now() + limit;
            let room = Room { place: self.chain.to_owned(), least: LEAST_ROOM, was_lacking: false };
            let ended_for_memory = ended_for_memory();
            let reader = Some(reader);
            Ok(Running { child, end, session, reader, output, room, ended_for_memory, begin, deadline })
        };
        spawn().map_err(Error::io("start a command in", self.scratch))
    }
}

/// Where tools are looked for: last where setup has installed those that the host has no package of.
fn tools_path() -> OsString {
    let mut path = search_path();
    path.push(":");
    path.push(checkout().join(TOOLS));
    path
}

/// A command that runs. Dropping it ends it, and all that it has started.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Readable once its shell has ended.
    end: OwnedFd,
    session: Session,
    /// `None` at the end of its output.
    reader: Option<File>,
    output: Output,
    room: Room,
    /// What [`ended_for_memory`] counted before it began.
    ended_for_memory: Option<u64>,
    begin: Nanos,
    deadline: Instant,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Just before it was started.
    pub begin: Nanos,
    /// When its end was noticed, or when it was out of time.
    pub end: Nanos,
    /// How it ended. A code with which a shell reports a signal is that signal.
    pub how: CommandEnd,
    /// The last lines that it printed, fit to be shown.
    pub said: Vec<String>,
    /// The names of the processes that it left running, fit to be shown. They were ended.
    pub left_running: Vec<String>,
}

impl Running {
    /// What sends it signals.
    pub fn signaller(&self) -> Signaller {
        Signaller(self.session.clone())
    }

    /// Waits for its end. When the trial is to stop, or its time is over, it is ended, and so is whatever it has
    /// left running.
    ///
    /// # Errors
    ///
    /// If it failed while the host's disk or memory was full: that is no fact about the tool.
    pub fn finish(mut self) -> Result<Ended> {
        let is_in_time = match self.wait() {
            Ok(is_in_time) => is_in_time,
            Err(error) => {
                self.stop(&STOP);
                return Err(error);
            }
        };
        let end = clock::now();
        let mut left_running = Vec::new();
        if is_in_time {
            left_running.extend(self.session.members().iter().map(|member| printable(&member.name)));
            self.stop(&STOP[1..]);
        } else {
            self.stop(&STOP);
        }
        self.output.end();
        let said = self.output.last.iter().cloned().collect();
        let status = self
            .reap()
            .map_err(Error::io("wait for the end of a command, whose log is", &self.output.path))?;
        let how = if is_in_time { how(status) } else { CommandEnd::OutOfTime };
        if how != CommandEnd::Exit(0) && self.room.was_lacking {
            return Err(Error::NoRoom { place: self.room.place.clone(), log: self.output.path.clone() });
        }
        if how != CommandEnd::Exit(0) && ended_for_memory() != self.ended_for_memory {
            return Err(Error::NoMemory { log: self.output.path.clone() });
        }
        Ok(Ended { begin: self.begin, end, how, said, left_running })
    }

    /// Waits until its shell has ended; false when its time is over first.
    fn wait(&mut self) -> Result<bool> {
        loop {
            interrupt::check()?;
            let left = self.deadline.saturating_duration_since(Instant::now());
            if self.take_in_until(left.min(REACTION), &[]) {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// Takes in what it prints, until its shell or another of these processes has ended, or for so long. Whether its
    /// shell has ended.
    fn take_in_until(&mut self, limit: Duration, others: &[Member]) -> bool {
        let ends = others.iter().map(|member| member.process.as_fd()).chain([self.end.as_fd()]);
        let watched = self.reader.iter().map(File::as_fd).chain(ends);
        let mut watched: Vec<_> =
            watched.map(|fd: BorrowedFd<'_>| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        self.room.look();
        let limit = Timespec::try_from(limit).unwrap_or_default();
        // A signal only shortens it.
        let _ = poll(&mut watched, Some(&limit));
        let has_ended = watched.last().is_some_and(|end| !end.revents().is_empty());
        self.take_in();
        has_ended
    }

    /// Takes in what is there now, at most so much that a command which never stops does not hold anything up.
    fn take_in(&mut self) {
        let mut chunk = [0; 64 * 1024];
        for _ in 0..16 {
            let Some(reader) = &mut self.reader else { return };
            match reader.read(&mut chunk) {
                Ok(read) if read > 0 => self.output.push(chunk.get(..read).unwrap_or_default(), clock::now()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => self.reader = None,
            }
        }
    }

    /// Ends all of its processes that still run.
    fn stop(&mut self, order: &[(Signal, Duration)]) {
        for (signal, patience) in order {
            let deadline = Instant::now() + *patience;
            let mut is_told = false;
            loop {
                let members = self.session.members();
                if members.is_empty() {
                    return;
                }
                if !is_told || *signal == Signal::KILL {
                    members.iter().for_each(|member| member.send(*signal));
                    is_told = true;
                }
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                self.take_in_until(left.min(REACTION), &members);
            }
        }
        warn!("process {} of a backup tool cannot be ended", self.child.id());
    }

    /// Its status. Its number may be another process's from here on.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        self.session.forget();
        self.child.try_wait()?.ok_or_else(|| io::Error::other("it cannot be ended"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop(&STOP);
        let _ = self.reap();
    }
}

/// Whether there was always room on the disk that has the backups. The scratch folder may be small on purpose.
#[derive(Debug)]
struct Room {
    place: PathBuf,
    /// Bytes.
    least: u64,
    /// Whether there was less than that at some moment.
    was_lacking: bool,
}

impl Room {
    fn look(&mut self) {
        // Some file systems do not say how large they are, or how many files they hold.
        let is_full = |stat: StatVfs| {
            stat.f_blocks > 0 && stat.f_bavail.saturating_mul(stat.f_frsize) < self.least
                || stat.f_files > 0 && stat.f_favail == 0
        };
        self.was_lacking |= statvfs(&self.place).is_ok_and(is_full);
    }
}

/// How many processes the kernel has ended for lack of memory since the boot, of a machine or of a control group; see
/// proc_vmstat(5). Before Linux 4.13 it did not count them.
fn ended_for_memory() -> Option<u64> {
    let counts = fs::read_to_string("/proc/vmstat").ok()?;
    counts.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Sends signals to a command: to each of its processes, as Ctrl-C does.
#[derive(Debug, Clone)]
pub struct Signaller(Session);

impl Signaller {
    /// Sends a signal. Nothing happens when the command has ended.
    pub fn send(&self, signal: contract::scenario::Signal) {
        let signal = match signal {
            contract::scenario::Signal::Int => Signal::INT,
            contract::scenario::Signal::Term => Signal::TERM,
            contract::scenario::Signal::Kill => Signal::KILL,
        };
        self.0.members().iter().for_each(|member| member.send(signal));
    }
}

/// The processes of a command, by the one that leads their session; `None` once it may be another's number.
#[derive(Debug, Clone)]
struct Session(Arc<Mutex<Option<Pid>>>);

/// A process of a session, as long as it runs.
struct Member {
    process: OwnedFd,
    name: String,
}

impl Member {
    fn send(&self, signal: Signal) {
        // It may have ended.
        let _ = pidfd_send_signal(&self.process, signal);
    }
}

impl Session {
    fn leader(&self) -> MutexGuard<'_, Option<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self) {
        *self.leader() = None;
    }

    /// Those that run now.
    fn members(&self) -> Vec<Member> {
        // Held while they are looked for, so that they are not another session's.
        let leader = self.leader();
        let Some(leader) = *leader else { return Vec::new() };
        let leader = leader.as_raw_nonzero().get();
        let member = |process: Process| {
            // First, so that both are of the same process, or this one of one that has ended.
            let opened = pidfd_open(Pid::from_raw(process.pid())?, PidfdFlags::empty()).ok()?;
            let stat = process.stat().ok()?;
            // Its leader is not in it from the first moment on.
            let belongs = stat.session == leader || stat.pid == leader;
            let runs = belongs && !matches!(stat.state, 'Z' | 'X');
            runs.then(|| Member { process: opened, name: stat.comm })
        };
        let processes = all_processes().inspect_err(|error| debug!("processes cannot be listed: {error}"));
        processes.into_iter().flatten().filter_map(|process| member(process.ok()?)).collect()
    }
}

/// How a command ended. Its shell reports a signal of its own child's as a code above 128.
fn how(status: ExitStatus) -> CommandEnd {
    match (status.code(), status.signal()) {
        (Some(code @ 129..=192), _) => CommandEnd::Signal(code - 128),
        (Some(code), _) => CommandEnd::Exit(code),
        (None, signal) => CommandEnd::Signal(signal.unwrap_or_default()),
    }
}

/// What a command prints, in a log.
#[derive(Debug)]
struct Output {
    path: PathBuf,
    log: Kept,
    /// A line that is not whole yet.
    partial: Vec<u8>,
    /// When its latest part came.
    t: Nanos,
    last: VecDeque<String>,
}

impl Output {
    fn new(path: &Path) -> io::Result<Self> {
        let (path, log) = (path.to_owned(), Kept::create(path)?);
        Ok(Self { path, log, partial: Vec::new(), t: 0, last: VecDeque::new() })
    }

    /// Takes in what came at this time. A carriage return ends a line as well, as programs that show their progress
    /// use it.
    fn push(&mut self, bytes: &[u8], t: Nanos) {
        self.t = t;
        for byte in bytes {
            let is_end = matches!(byte, b'\n' | b'\r');
            if !is_end {
                self.partial.push(*byte);
            }
            if is_end || self.partial.len() == LINE {
                self.end();
            }
        }
    }

    /// Ends the last line.
    fn end(&mut self) {
        let line = std::mem::take(&mut self.partial);
        if line.is_empty() {
            return;
        }
        let line = String::from_utf8_lossy(&line);
        // Of the trial's clock, as in its other logs, but in seconds.
        let (seconds, micros) = (self.t / 1_000_000_000, self.t / 1000 % 1_000_000);
        self.log.write(format!("[{seconds:>6}.{micros:06}] {}\n", quote(LINE, &line)).as_bytes());
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(quote(LAST_LINE, line.trim_end()));
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{sleep, spawn};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// The folders of a tool.
    struct Scene {
        dir: tempfile::TempDir,
        client: Client,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for folder in ["chain", "scratch", "target"] {
                std::fs::create_dir(dir.path().join(folder)).unwrap();
            }
            Self { dir, client: Client::of("test:///default") }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn start(&self, line: &str, limit: Duration) -> Running {
            let [chain, scratch] = ["chain", "scratch"].map(|name| self.path(name));
            let disks = ["vda".to_owned(), "vdb".to_owned()];
            let around = Surroundings {
                client: &self.client,
                domain: "the guest",
                uuid: "u-u",
                disks: &disks,
                chain: &chain,
                scratch: &scratch,
                scenario: self.dir.path(),
            };
            let backup = chain.join("1");
            let request = Request {
                number: 1,
                level: Level::Incremental,
                previous: Some(&chain),
                backup: &backup,
                target: None,
            };
            around.start(&request, line, &self.path("log"), limit).unwrap()
        }

        fn run(&self, line: &str) -> Ended {
            self.start(line, LONG).finish().unwrap()
        }

        fn log(&self) -> String {
            std::fs::read_to_string(self.path("log")).unwrap()
        }

        /// Waits until a file is there, which is how a command says how far it is.
        fn wait_for(&self, name: &str) {
            let file = self.path("scratch").join(name);
            wait_until(name, || file.exists());
        }
    }

    fn wait_until(what: &str, it_is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + LONG;
        while !it_is_so() {
            assert!(Instant::now() < deadline, "no {what}");
            sleep(Duration::from_millis(1));
        }
    }

    fn lives(mark: &str) -> bool {
        all_processes().unwrap().any(|process| {
            process.and_then(|it| it.cmdline()).is_ok_and(|line| line.iter().any(|word| word == mark))
        })
    }

    /// A number of seconds by which a process of this test is known.
    fn mark(n: u32) -> String {
        (10_000_000 + 10 * std::process::id() + n).to_string()
    }

    #[test]
    fn a_command_has_its_own_environment_and_nothing_of_the_harness() {
        let scene = Scene::new();
        let ended = scene.run(
            // Long lines are cut.
            "printenv | cut -d= -f1 | LC_ALL=C sort | sed s/FREEZEFRAME// | xargs echo; pwd; cat; echo end",
        );
        assert_eq!(ended.how, CommandEnd::Exit(0));
        let known = PASSED_ON.iter().filter(|name| std::env::var_os(name).is_some());
        let mut names: Vec<_> = known.copied().collect();
        names.extend(["PATH", "LC_ALL", "TERM", "NO_COLOR", "TMPDIR", "PWD"]);
        let client = Client::of("test:///default");
        names.extend(client.variables().map(|(name, _)| name));
        let own = [
            "URI", "DOMAIN", "UUID", "DISKS", "CHAIN", "SCRATCH", "SCENARIO", "NUMBER", "LEVEL", "PREVIOUS",
            "BACKUP", "PHASE",
        ];
        let own: Vec<_> = own.iter().map(|name| format!("FREEZEFRAME_{name}")).collect();
        names.extend(own.iter().map(String::as_str));
        names.sort_unstable();
        let scratch = scene.path("scratch").canonicalize().unwrap().display().to_string();
        let names = names.join(" ").replace("FREEZEFRAME", "");
        assert_eq!(ended.said, [names, scratch, "end".to_owned()]);
        let all = "$FREEZEFRAME_PHASE $FREEZEFRAME_URI $LIBVIRT_DEFAULT_URI $FREEZEFRAME_DOMAIN $FREEZEFRAME_UUID \
                   $FREEZEFRAME_DISKS $FREEZEFRAME_NUMBER $FREEZEFRAME_LEVEL $FREEZEFRAME_TARGET";
        let said = scene.run(&format!("echo \"{all}\"")).said;
        assert_eq!(said, ["backup test:///default test:///default the guest u-u vda vdb 1 incremental"]);
        let folders = "$FREEZEFRAME_CHAIN $FREEZEFRAME_PREVIOUS $FREEZEFRAME_BACKUP";
        let chain = scene.path("chain").display().to_string();
        assert_eq!(scene.run(&format!("echo \"{folders}\"")).said, [format!("{chain} {chain} {chain}/1")]);
    }

    /// Where the harness is root; otherwise it is that user anyway.
    #[test]
    fn a_tool_of_roots_is_another_user_with_a_name() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir_in("/tmp").unwrap();
        let daemon = crate::host::daemon::Daemon::start(root.path(), &root.path().join("log")).unwrap();
        let scene = Scene { client: daemon.client(), ..Scene::new() };
        let said = scene.run("id -u; id -un; id -gn; echo $HOME; touch ~/made && echo made").said;
        let home = daemon.dir().display().to_string();
        assert_eq!(
            said,
            [&*contract::files::GUEST_USER.to_string(), "freezeframe", "freezeframe", &home, "made"]
        );
    }

    #[test]
    fn what_is_printed_is_kept_with_its_time() {
        let scene = Scene::new();
        let begin = clock::now();
        let ended =
            scene.run("echo one; echo two >&2; printf '10%%\\r20%%\\r\\n\\033[2J\\377'; echo; printf end");
        assert!(begin <= ended.begin && ended.begin < ended.end && ended.end <= clock::now());
        let lines = ["one", "two", "10%", "20%", "\\u{1b}[2J\u{fffd}", "end"];
        assert_eq!(ended.said, lines);
        let log = scene.log();
        for (line, expected) in log.lines().zip(lines) {
            let (time, text) = line.strip_prefix('[').and_then(|line| line.split_once("] ")).unwrap();
            let seconds: f64 = time.trim().parse().unwrap();
            let t = (seconds * 1e9) as Nanos;
            assert!(ended.begin <= t + 1000 && t <= ended.end, "{line}");
            assert_eq!(text, expected);
        }
        assert_eq!(log.lines().count(), lines.len());
    }

    #[test]
    fn what_is_printed_is_bounded() {
        let scene = Scene::new();
        let ended = scene.run("seq 100; head -c 20000000 /dev/zero | tr '\\0' x; seq 100");
        assert_eq!(ended.said.len(), LAST_LINES);
        assert_eq!(ended.said.last().unwrap(), "100");
        let log = scene.log();
        assert!(log.len() < 13 << 20, "{}", log.len());
        assert!(log.contains("] 7\n") && log.contains(" bytes are left out]\n") && log.ends_with("] 100\n"));
        assert!(scene.run("head -c 5000 /dev/zero | tr '\\0' x").said[0].chars().count() <= LAST_LINE + 1);
    }

    #[test]
    fn a_command_ends_as_it_says() {
        let scene = Scene::new();
        for (line, how) in [
            ("exit 0", CommandEnd::Exit(0)),
            ("exit 7", CommandEnd::Exit(7)),
            ("no-such-program-here", CommandEnd::Exit(127)),
            ("exit 255", CommandEnd::Exit(255)),
            ("kill -TERM $$", CommandEnd::Signal(15)),
            ("sh -c 'kill -KILL $$'; exit $?", CommandEnd::Signal(9)),
        ] {
            assert_eq!(scene.run(line).how, how, "{line}");
        }
    }

    #[test]
    fn a_failure_on_a_full_disk_is_not_the_tools() {
        let scene = Scene::new();
        let ends = |line: &str, least| {
            let mut running = scene.start(line, LONG);
            running.room.least = least;
            running.finish()
        };
        let error = ends("echo no room; exit 1", u64::MAX).unwrap_err();
        assert!(!error.is_of_guest() && error.to_string().contains("was full"), "{error}");
        assert_eq!(ends("exit 1", 0).unwrap().how, CommandEnd::Exit(1));
        assert_eq!(ends("true", u64::MAX).unwrap().how, CommandEnd::Exit(0));
    }

    #[test]
    fn a_command_out_of_time_is_ended() {
        let scene = Scene::new();
        let (sleeper, limit, begin) = (mark(1), Duration::from_millis(300), Instant::now());
        let ended = scene.start(&format!("sleep {sleeper}; true"), limit).finish().unwrap();
        assert_eq!((ended.how, ended.left_running.len()), (CommandEnd::OutOfTime, 0));
        assert!(begin.elapsed() >= limit && !lives(&sleeper));
    }

    #[test]
    fn all_that_a_command_has_started_ends_with_it() {
        let scene = Scene::new();
        let marks = [2, 3, 7].map(mark);
        let [own, other_group, orphan] = &marks;
        // timeout(1) leads a group of its own, and the last has lost its parent.
        let line = format!(
            "timeout 100000 sleep {other_group} & (sleep {orphan} &); touch ready; sleep {own}; true"
        );
        let mut running = scene.start(&line, LONG);
        scene.wait_for("ready");
        // What a shell puts into the background ignores SIGINT.
        running.stop(&STOP[1..]);
        for mark in &marks {
            assert!(!lives(mark), "{mark}");
        }
    }

    #[test]
    fn a_command_is_told_to_end_before_it_is_killed() {
        let scene = Scene::new();
        let sleeper = mark(4);
        // The shell ends only when it has cleaned up, which takes longer than its child's end.
        let child = format!("touch ready; exec sleep {sleeper}");
        let line = format!("trap 'sleep 0.2; touch cleaned; exit' INT; sh -c '{child}'");
        let running = scene.start(&line, LONG);
        scene.wait_for("ready");
        drop(running);
        assert!(scene.path("scratch/cleaned").exists() && !lives(&sleeper));

        let sleeper = mark(5);
        let line = format!("trap '' INT TERM; touch ready2; sleep {sleeper} & while :; do sleep 1; done");
        let mut running = scene.start(&line, LONG);
        scene.wait_for("ready2");
        wait_until("child", || lives(&sleeper));
        let short = Duration::from_millis(50);
        running.stop(&[(Signal::INT, short), (Signal::TERM, short)]);
        assert!(lives(&sleeper));
        running.stop(&[(Signal::KILL, LONG)]);
        assert!(!lives(&sleeper));
    }

    #[test]
    fn what_a_command_leaves_running_is_told_and_holds_nothing_up() {
        let scene = Scene::new();
        let sleeper = mark(6);
        let begin = Instant::now();
        let ended = scene.run(&format!("sleep {sleeper} & echo started"));
        assert_eq!((ended.how, &*ended.said), (CommandEnd::Exit(0), &["started".to_owned()][..]));
        assert_eq!(ended.left_running.len(), 1, "{:?}", ended.left_running);
        assert!(begin.elapsed() < LONG && !lives(&sleeper));
    }

    #[test]
    fn a_signal_can_be_sent_at_any_moment() {
        let scene = Scene::new();
        let running = scene.start("touch ready; sleep 100000; exit 0", LONG);
        let signaller = running.signaller();
        let waiting = spawn(move || running.finish().unwrap());
        scene.wait_for("ready");
        signaller.send(contract::scenario::Signal::Term);
        assert_eq!(waiting.join().unwrap().how, CommandEnd::Signal(15));
        // It may be another's number by now.
        signaller.send(contract::scenario::Signal::Kill);
        assert!(signaller.0.members().is_empty());
    }

    const SCENE: &str = "FREEZEFRAME_TEST_SCENE";

    #[test]
    fn ctrl_c_ends_a_command() {
        let scene = Scene::new();
        let mut program = std::process::Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", "--ignored", "backup_tool::command::tests::a_trial_that_is_interrupted"]);
        let trial = program.env(SCENE, scene.dir.path()).stdout(Stdio::null()).spawn().unwrap();
        scene.wait_for("ready");
        rustix::process::kill_process(Pid::from_child(&trial), Signal::INT).unwrap();
        assert!(trial.wait_with_output().unwrap().status.success());
        assert!(scene.path("scratch/cleaned").exists());
    }

    #[test]
    #[ignore = "another test runs it and sends it a signal"]
    fn a_trial_that_is_interrupted() {
        interrupt::listen().unwrap();
        let mut scene = Scene::new();
        let outer = PathBuf::from(std::env::var_os(SCENE).unwrap());
        for folder in ["chain", "scratch", "target"] {
            let own = scene.path(folder);
            std::fs::remove_dir(&own).unwrap();
            std::os::unix::fs::symlink(outer.join(folder), own).unwrap();
        }
        scene.client = Client::of("test:///default");
        let line = "trap 'touch cleaned; exit' INT; touch ready; while :; do sleep 0.1; done";
        let stopped = scene.start(line, LONG).finish();
        assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    }
}
