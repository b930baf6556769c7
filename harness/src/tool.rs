//! Programs of the host that read what a guest has written: file system checkers, GRUB's drivers, qemu-img.
//!
//! A guest may have made its disks to harm them. So each has limits of time, memory, output and file
//! size, and sees one disk's file, for reading unless it must write. It has no network, no privilege,
//! and nothing else to write to, in a sandbox of bubblewrap's or, where that is missing, in a user namespace, which
//! lets it see the host's files. See prlimit(1), bwrap(1), unshare(1), setpriv(1).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use contract::text::quote;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use terminal::command::Timer;

use crate::error::ToolError;
use crate::interrupt;

/// How long a program may run, and how much processor time it may take. A check of a disk with some
/// gigabytes takes seconds.
const TIME: Duration = Duration::from_secs(600);

/// How much address space it may take, bytes. The most that any needs of a disk of 200 GiB was between 256 and 384 MiB:
/// `xfs_repair`, which uses little of it.
const MEMORY: u64 = 512 << 20;

/// The stack of each thread of `qemu-img`, bytes. It has up to 64 of them (QEMU's `thread-pool-max`), as many as
/// requests wait for the disk: on a busy host their stacks of 8 MiB alone would be all its address space.
const STACK: u64 = 1 << 20;

/// How much is kept of each of its outputs, bytes; the rest is thrown away.
const KEPT: usize = 4 << 20;

/// How much of its words an error has, characters.
const SAID: usize = 300;

/// How soon it is noticed that the trial is to stop.
const REACTION: Duration = Duration::from_millis(50);

/// How long a killed program is waited for: one in a system call of the kernel's may not end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Searched after PATH, which lacks them for some users.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// What a program may do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Access<'a> {
    /// Read this file.
    Read(&'a Path),
    /// Read and change this file, without making it longer.
    Write(&'a Path),
    /// Whatever this process may: it must mount, or follow a chain of files. No file gets longer than this, bytes.
    Host {
        /// The longest file that it may write.
        longest: u64,
    },
}

/// What a program printed.
#[derive(Debug)]
pub(crate) struct Printed {
    /// How it ended, which was not by a signal.
    pub(crate) status: ExitStatus,
    /// The beginning of its standard output.
    pub(crate) stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub(crate) stderr: Vec<u8>,
    /// Whether there was more on its standard output.
    pub(crate) is_cut: bool,
}

impl Printed {
    /// Its standard output as a whole.
    pub(crate) fn whole(self, program: &str) -> Result<Vec<u8>, ToolError> {
        if self.is_cut { Err(ToolError::Endless(program.to_owned(), KEPT)) } else { Ok(self.stdout) }
    }
}

/// Runs a program to its end. One that does not end within its limits is an error, whatever it has printed.
pub(crate) fn run(tool: &mut Command, access: Access<'_>) -> Result<Printed, ToolError> {
    let timer = Timer::start(tool);
    let printed = Running::start(tool, access).and_then(Running::finish);
    match &printed {
        Ok(printed) => timer.end(Ok(printed.status)),
        Err(error) => timer.end(Err(&io::Error::other(error.to_string()))),
    }
    printed
}

/// Starts a program whose standard output is read as it comes. Its end is the end of the stream only if it
/// succeeds, otherwise an error.
pub(crate) fn stream(tool: &Command, access: Access<'_>) -> Result<Stream, ToolError> {
    Ok(Stream { running: Running::start(tool, access)?, is_over: false })
}

/// A program that runs. Dropping it kills it, and all that it has started.
#[derive(Debug)]
struct Running {
    program: String,
    child: Child,
    /// Readable once it has ended.
    end: OwnedFd,
    deadline: Instant,
    limit: Duration,
    stdout: Output,
    stderr: Output,
}

impl Running {
    fn start(tool: &Command, access: Access<'_>) -> Result<Self, ToolError> {
        Self::start_within(TIME, tool, access)
    }

    fn start_within(limit: Duration, tool: &Command, access: Access<'_>) -> Result<Self, ToolError> {
        interrupt::check().map_err(|_| ToolError::Stopped)?;
        let program = tool.get_program().to_string_lossy().into_owned();
        let failed = |source| ToolError::NotRun { program: program.clone(), source };
        let mut child = confined(tool, access)?.spawn().map_err(failed)?;
        let opened = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .map_err(io::Error::from)
            .and_then(|end| Ok((end, Output::new(child.stdout.take())?, Output::new(child.stderr.take())?)));
        match opened {
            Ok((end, stdout, stderr)) => {
                Ok(Self { program, child, end, deadline: Instant::now() + limit, limit, stdout, stderr })
            }
            Err(error) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(failed(error))
            }
        }
    }

    /// Waits for its end, and keeps what it prints.
    fn finish(mut self) -> Result<Printed, ToolError> {
        while !self.wait(true)? {
            self.stdout.take_in();
            self.stderr.take_in();
        }
        let status = self.status()?;
        self.stdout.take_in_rest();
        self.stderr.take_in_rest();
        let (stdout, stderr) = (std::mem::take(&mut self.stdout), std::mem::take(&mut self.stderr));
        // Such words are not the program's, which was not started.
        let said = String::from_utf8_lossy(&stderr.kept);
        if !status.success() && LAUNCHERS.iter().any(|launcher| said.starts_with(launcher)) {
            let source = io::Error::other(quote(SAID, said.trim()));
            return Err(ToolError::NotRun { program: self.program.clone(), source });
        }
        Ok(Printed { status, stdout: stdout.kept, stderr: stderr.kept, is_cut: stdout.is_cut })
    }

    /// Waits until it has ended, or `by_output` until there is something to read. Whether it has ended.
    fn wait(&self, by_output: bool) -> Result<bool, ToolError> {
        loop {
            interrupt::check().map_err(|_| ToolError::Stopped)?;
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ToolError::Slow { program: self.program.clone(), limit: self.limit });
            }
            let outputs = [&self.stdout.file, &self.stderr.file].into_iter().flatten().filter(|_| by_output);
            let watched = outputs.map(File::as_fd).chain([self.end.as_fd()]);
            let mut watched: Vec<_> = watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            let slice = Timespec::try_from(left.min(REACTION)).unwrap_or_default();
            match poll(&mut watched, Some(&slice)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(watched.last().is_some_and(|end| !end.revents().is_empty())),
                Err(errno) => {
                    return Err(ToolError::NotRun { program: self.program.clone(), source: errno.into() });
                }
            }
        }
    }

    /// How it ended. A signal is an error: it says nothing about what the program read.
    fn status(&mut self) -> Result<ExitStatus, ToolError> {
        let program = self.program.clone();
        match self.child.wait() {
            // A sandbox reports its child's signal as a code above 128, as shells do.
            Ok(status) if status.code().is_none_or(|code| code > 128) => {
                Err(ToolError::Killed { program, status })
            }
            Ok(status) => Ok(status),
            Err(source) => Err(ToolError::NotRun { program, source }),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        // Once it was waited for, its number may be another's, and its sandbox ended with it.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(group, Signal::KILL);
            let farewell = Timespec::try_from(FAREWELL).unwrap_or_default();
            let _ = poll(&mut [PollFd::new(&self.end, PollFlags::IN)], Some(&farewell));
            let _ = self.child.try_wait();
        }
    }
}

/// One output of a program.
#[derive(Debug, Default)]
struct Output {
    /// `None` at its end.
    file: Option<File>,
    kept: Vec<u8>,
    is_cut: bool,
}

impl Output {
    fn new(pipe: Option<impl Into<OwnedFd>>) -> io::Result<Self> {
        let file = pipe.map(|pipe| File::from(pipe.into()));
        if let Some(file) = &file {
            ioctl_fionbio(file, true)?;
        }
        Ok(Self { file, ..Self::default() })
    }

    /// Takes in what is there now, at most one chunk; false when nothing is.
    fn take_in(&mut self) -> bool {
        let Some(file) = &mut self.file else { return false };
        let mut chunk = [0; 64 * 1024];
        match file.read(&mut chunk) {
            Ok(read) if read > 0 => {
                let room = KEPT - self.kept.len();
                self.is_cut |= read > room;
                self.kept.extend(chunk.iter().take(read.min(room)));
                true
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Ok(_) | Err(_) => {
                self.file = None;
                false
            }
        }
    }

    /// The same to its end, where a process that was left behind may print for ever.
    fn take_in_rest(&mut self) {
        while !self.is_cut && self.take_in() {}
    }

    /// Its last error, or all of its text.
    fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        let text = text.trim();
        quote(SAID, text.rsplit("error: ").next().unwrap_or(text))
    }
}

/// What a program prints, as it comes.
#[derive(Debug)]
pub(crate) struct Stream {
    running: Running,
    is_over: bool,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.is_over {
            let ended = self.running.wait(true).map_err(io::Error::other)?;
            self.running.stderr.take_in();
            match self.running.stdout.file.as_mut().map(|file| file.read(buffer)) {
                Some(Ok(read)) if read > 0 => return Ok(read),
                Some(Err(error)) if error.kind() == ErrorKind::WouldBlock && !ended => {}
                Some(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Some(Ok(_) | Err(_)) | None => self.end()?,
            }
        }
        Ok(0)
    }
}

impl Stream {
    /// The program has closed its output: what it printed is whole only if it succeeds.
    fn end(&mut self) -> io::Result<()> {
        self.running.stdout.file = None;
        while !self.running.wait(false).map_err(io::Error::other)? {}
        self.running.stderr.take_in_rest();
        let status = self.running.status().map_err(io::Error::other)?;
        self.is_over = true;
        if status.success() { Ok(()) } else { Err(io::Error::other(self.running.stderr.said())) }
    }
}

/// Whether there is such a program.
pub(crate) fn is_installed(program: &str) -> bool {
    find(OsStr::new(program)).is_some()
}

/// What a program said that failed.
pub(crate) fn said(printed: &Printed) -> String {
    Output { kept: printed.stderr.clone(), ..Output::default() }.said()
}

/// The same program within its limits, and in a sandbox where it needs no more.
fn confined(tool: &Command, access: Access<'_>) -> Result<Command, ToolError> {
    let name = tool.get_program();
    let program = find(name).ok_or_else(|| ToolError::NotInstalled(name.to_string_lossy().into_owned()))?;
    let (disk, bind) = match access {
        Access::Read(disk) => (Some(disk), "--ro-bind"),
        Access::Write(disk) => (Some(disk), "--bind"),
        Access::Host { .. } => (None, ""),
    };
    let longest = match access {
        Access::Host { longest } => Some(longest),
        Access::Write(disk) => Some(disk.metadata().map_or(0, |disk| disk.len())),
        // `xfs_repair` insists on no limit, and there is nothing to write to.
        Access::Read(_) => None,
    };
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--as={MEMORY}"))
        .arg(format!("--cpu={}", TIME.as_secs()))
        .args((name == "qemu-img").then(|| format!("--stack={STACK}")))
        .args(longest.map(|longest| format!("--fsize={longest}")))
        .args(["--core=0", "--"]);
    if let Some(disk) = disk {
        let sandbox = sandbox();
        command.args(sandbox);
        if sandbox.first().is_some_and(|first| *first == BUBBLEWRAP[0]) {
            command.arg("--ro-bind").args([&program, &program]);
            command.arg(bind).args([disk, disk]).args(["--remount-ro", "/dev", "--remount-ro", "/", "--"]);
        }
    }
    command.arg(program).args(tool.get_args());
    command
        .env_clear()
        .env("PATH", search_path())
        .env("LC_ALL", "C")
        // Each thread would reserve address space of its own.
        .env("MALLOC_ARENA_MAX", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    Ok(command)
}

/// A sandbox with nothing but the host's programs. See bwrap(1).
const BUBBLEWRAP: &[&str] = &[
    "bwrap",
    "--unshare-all",
    "--die-with-parent",
    "--cap-drop",
    "ALL",
    "--ro-bind",
    "/usr",
    "/usr",
    "--ro-bind-try",
    "/lib",
    "/lib",
    "--ro-bind-try",
    "/lib64",
    "/lib64",
    "--ro-bind-try",
    "/bin",
    "/bin",
    "--ro-bind-try",
    "/sbin",
    "/sbin",
    "--ro-bind-try",
    "/etc/ld.so.cache",
    "/etc/ld.so.cache",
    "--dev",
    "/dev",
    "--proc",
    "/proc",
];

/// The next best: no network, no other process in sight and no privilege, but the host's files.
const NAMESPACES: &[&str] = &[
    "unshare",
    "--user",
    "--net",
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child",
    "--",
    "setpriv",
    "--no-new-privs",
    "--",
];

/// Where neither is permitted.
const NO_NEW_PRIVILEGES: &[&str] = &["setpriv", "--no-new-privs", "--"];

/// What the errors of these programs begin with.
const LAUNCHERS: [&str; 4] = ["prlimit: ", "bwrap: ", "unshare: ", "setpriv: "];

/// The best sandbox of this host, tried once.
fn sandbox() -> &'static [&'static str] {
    static FOUND: OnceLock<&'static [&'static str]> = OnceLock::new();
    FOUND.get_or_init(|| {
        let works = |sandbox: &&&[&str]| {
            let [program, options @ ..] = **sandbox else { return false };
            let mut trial = Command::new(program);
            trial.args(options).arg("true").env("PATH", search_path());
            trial.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            trial.status().is_ok_and(|status| status.success())
        };
        [BUBBLEWRAP, NAMESPACES].iter().find(works).copied().unwrap_or(NO_NEW_PRIVILEGES)
    })
}

fn find(program: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// PATH, with the directories of system programs.
pub(crate) fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(SYSTEM_DIRS.map(PathBuf::from));
    std::env::join_paths(dirs).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than any of these needs, and less than their own limits.
    const SHORT: Duration = Duration::from_millis(1500);

    fn disk() -> tempfile::NamedTempFile {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(1 << 20).unwrap();
        disk
    }

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell
    }

    fn read(script: &str) -> Result<Printed, ToolError> {
        let disk = disk();
        run(&mut shell(script), Access::Read(disk.path()))
    }

    fn slow(script: &str) -> (ToolError, Duration) {
        let (disk, begin) = (disk(), Instant::now());
        let running = Running::start_within(SHORT, &shell(script), Access::Read(disk.path())).unwrap();
        (running.finish().unwrap_err(), begin.elapsed())
    }

    #[test]
    fn what_a_program_prints_is_bounded_and_so_is_its_time() {
        let printed = read(&format!("head -c {} /dev/zero; echo error: no >&2; exit 3", 3 * KEPT)).unwrap();
        assert_eq!((printed.stdout.len(), printed.is_cut, printed.status.code()), (KEPT, true, Some(3)));
        assert_eq!(said(&printed), "no");
        assert!(printed.whole("sh").is_err());
        for endless in
            ["yes; true", "yes >&2; true", "while :; do :; done", "exec 1>&- 2>&-; sleep 1000; true"]
        {
            let (error, took) = slow(endless);
            assert!(matches!(error, ToolError::Slow { .. }), "{endless}: {error}");
            assert!(took < Duration::from_secs(60), "{endless}: {took:?}");
        }
    }

    #[test]
    fn all_the_threads_of_qemu_img_have_room() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(64 << 20).unwrap();
        // As many requests at once as QEMU has threads for.
        let mut bench = Command::new("qemu-img");
        bench.args(["bench", "-q", "-f", "raw", "-c", "4096", "-d", "256", "-s", "65536"]).arg(disk.path());
        for access in [Access::Host { longest: 64 << 20 }, Access::Read(disk.path())] {
            let printed = run(&mut bench, access).unwrap();
            assert!(printed.status.success(), "{access:?}: {}", said(&printed));
        }
    }

    #[test]
    fn nothing_is_left_of_a_program_that_forks_and_does_not_end() {
        let mark = format!("{}", 1_000_000 + std::process::id());
        let forks = format!("while :; do sleep {mark} & sleep 0.05; done");
        assert!(matches!(slow(&forks).0, ToolError::Slow { .. }));
        let deadline = Instant::now() + Duration::from_secs(10);
        let lives = || {
            procfs::process::all_processes()
                .unwrap()
                .any(|process| process.and_then(|it| it.cmdline()).is_ok_and(|line| line.contains(&mark)))
        };
        while lives() {
            assert!(Instant::now() < deadline, "a child still runs");
            std::thread::yield_now();
        }
        // One that is left behind by a program that ends does not hold it up either.
        let begin = Instant::now();
        let _ = read("sleep 1000 & echo started").unwrap();
        assert!(begin.elapsed() < Duration::from_secs(100));
    }

    #[test]
    fn memory_and_files_are_bounded() {
        let error =
            read("x=$(head -c 900000000 /dev/zero | tr '\\0' x); echo ${#x}").map(|it| it.status.code());
        assert!(!matches!(error, Ok(Some(0))), "{error:?}");
        let disk = disk();
        let grow = format!(
            "dd if=/dev/zero of={0} bs=1M count=8 conv=notrunc 2>&1; wc -c <{0}",
            disk.path().display()
        );
        let _ = run(&mut shell(&grow), Access::Write(disk.path()));
        assert_eq!(disk.as_file().metadata().unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_program_has_its_disk_and_nothing_else() {
        let (disk, other) = (disk(), disk());
        std::fs::write(other.path(), "secret").unwrap();
        let [file, other] = [&disk, &other].map(|file| file.path().display().to_string());
        let code = |script: String, access| run(&mut shell(&script), access).unwrap().status.code();
        let written = format!("echo x | dd of={file} conv=notrunc status=none");
        assert_eq!(code(format!("head -c 1 {file} >/dev/null"), Access::Read(disk.path())), Some(0));
        assert_eq!(code(written.clone(), Access::Write(disk.path())), Some(0));
        // No interface but the loopback, which is down.
        assert_eq!(code("[ $(wc -l </proc/net/dev) -le 3 ]".into(), Access::Read(disk.path())), Some(0));
        assert_eq!(
            code("grep -q '^NoNewPrivs:.*1' /proc/self/status".into(), Access::Read(disk.path())),
            Some(0)
        );
        if sandbox() == BUBBLEWRAP {
            assert_ne!(code(written, Access::Read(disk.path())), Some(0));
            for script in [
                format!("cat {other}"),
                "ls /root /home".into(),
                "echo >/made".into(),
                "cat /etc/passwd".into(),
            ] {
                assert_ne!(code(script.clone(), Access::Read(disk.path())), Some(0), "{script}");
            }
        }
    }

    #[test]
    fn a_stream_is_whole_or_an_error() {
        let disk = disk();
        let read = |script: &str| {
            let mut stream = stream(&shell(script), Access::Read(disk.path())).unwrap();
            io::copy(&mut stream, &mut io::sink()).map_err(|error| error.to_string())
        };
        assert_eq!(read("head -c 10000000 /dev/zero"), Ok(10_000_000));
        assert_eq!(read("echo half; echo 'x: error: cannot read' >&2; exit 1"), Err("cannot read".into()));
        let killed = read("echo half; sh -c 'kill -KILL $$'; exit $?").unwrap_err();
        assert!(killed.contains("sh was killed"), "{killed}");
        // One that is read in part only does not live on.
        let mut endless = stream(&shell("yes"), Access::Read(disk.path())).unwrap();
        let mut some = [0; 4];
        endless.read_exact(&mut some).unwrap();
        assert_eq!(&some, b"y\ny\n");
        drop(endless);
    }

    #[test]
    fn a_sandbox_that_does_not_start_is_no_answer_of_its_program() {
        let gone = Path::new("/no/such/disk");
        let run = run(&mut shell("exit 1"), Access::Read(gone));
        assert!(sandbox() != BUBBLEWRAP || matches!(run, Err(ToolError::NotRun { .. })), "{run:?}");
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let missing = run(&mut Command::new("no-such-program"), Access::Host { longest: 0 }).unwrap_err();
        assert_eq!(missing.to_string(), "no-such-program is not installed: `cargo xtask setup` installs it");
    }
}
