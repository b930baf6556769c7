//! Calling a hook the way the agent does, and a few tools that all tests need.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here may take: anything that takes longer hangs.
pub(crate) const HANGS: Duration = Duration::from_secs(60);

/// For what is in progress and only needs the processor: even a busy machine takes no longer. Less
/// than the 60 s after which a server ends the session of a hook that nobody has thawed.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// For a hook that is configured to wait 2 s: less than the 11 to 12 s that it waits by default.
pub(crate) const AS_TOLD: Duration = Duration::from_secs(10);

/// A script as the agent starts it where sh is dash: no HOME, and hardly a PATH, in which `tools` comes first.
pub(crate) fn script(script: &Path, tools: &Path) -> Command {
    let mut command = Command::new(program("dash"));
    command.arg(script).env_clear().env("PATH", tools);
    command
}

/// Tells the threads that look at it to stop, also when an assertion fails.
pub(crate) struct StopAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Ports of this machine, no two of them the same, which nobody has until the servers take them.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let taken = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    taken.each_ref().map(|it| it.local_addr().expect("its port").port())
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit status; none when a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it wrote to stdout and stderr.
    pub(crate) output: String,
    /// The time until its output ended and it was gone.
    pub(crate) took: Duration,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Exit status 1, with a line on stderr that contains the reason.
    #[track_caller]
    pub(crate) fn failed_with(self, reason: &str) -> Self {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert!(self.output.contains(reason), "expected {reason:?} in {self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn within(self, limit: Duration) -> Self {
        assert!(self.took < limit, "took longer than {limit:?}: {self:?}");
        self
    }
}

/// Runs a hook like agents from QEMU 9.1 on: stdout and stderr are one pipe, read to its end before the
/// process is waited for. A background process that keeps the pipe open would hold the agent.
pub(crate) fn call_as_agent(mut command: Command) -> Outcome {
    let started = Instant::now();
    let (mut reader, writer) = std::io::pipe().expect("make a pipe");
    command.stdin(Stdio::null()).stdout(writer.try_clone().expect("clone the pipe")).stderr(writer);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    drop(command);
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut output = Vec::new();
        let _ = reader.read_to_end(&mut output);
        let _ = send.send(output);
    });
    let Ok(output) = receive.recv_timeout(HANGS) else {
        let _ = child.kill();
        panic!("the hook's output did not end within {HANGS:?}");
    };
    let status = child.wait().expect("wait for the hook");
    Outcome {
        code: status.code(),
        output: String::from_utf8_lossy(&output).into_owned(),
        took: started.elapsed(),
    }
}

/// Waits for an event.
#[track_caller]
pub(crate) fn wait_until(event: &str, happened: impl FnMut() -> bool) {
    wait_for(HANGS, event, happened);
}

/// Waits for the end of something that was stopped, which must come before it would end by itself.
#[track_caller]
pub(crate) fn soon(event: &str, happened: impl FnMut() -> bool) {
    wait_for(SOON, event, happened);
}

/// Waits for the end of a process: its killer may not have waited for that.
#[track_caller]
pub(crate) fn ends_soon(pid: u32) {
    soon("the process ends", || !is_running(pid));
}

#[track_caller]
fn wait_for(limit: Duration, event: &str, mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < limit, "waited {limit:?} in vain: {event}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The full path of a program that the tests need.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let administrators = ["/usr/sbin", "/usr/libexec"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(administrators)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: run `cargo xtask setup`"))
}

/// The program of the hooks, as guests get it.
pub(crate) fn fsfreeze_db() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("hook");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let program = target.join(triple).join("hook/fsfreeze-db");
    assert!(program.is_file(), "{} is not there: run `cargo xtask test`", program.display());
    program
}

/// A path as one word of a shell, whatever the checkout is called.
pub(crate) fn quoted(path: &Path) -> String {
    shlex::try_quote(&path.to_string_lossy()).expect("a path without NUL").into_owned()
}

/// Programs of another Debian release, with launchers under `run`.
pub(crate) fn root(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("roots").join(name);
    assert!(root.join("run/made-by").is_file(), "{} is not there: run `cargo xtask test`", root.display());
    root
}

/// What the launchers of a root tell its loader.
pub(crate) fn loader_options(root: &Path) -> [String; 2] {
    let at = |path: &str| root.join(path).display().to_string();
    [
        "--library-path".to_owned(),
        format!("{}:{}", at("lib/x86_64-linux-gnu"), at("usr/lib/x86_64-linux-gnu")),
    ]
}

pub(crate) fn hooks_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/hooks")
}

/// Writes a file with this mode, by another process: a descriptor of ours, inherited by a fork in
/// another test's thread, would make the new program "busy" for a moment.
pub(crate) fn install(path: &Path, mode: &str, text: &str) {
    let mut install = Command::new("install")
        .args(["-m", mode, "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("run install");
    install.stdin.take().expect("its stdin").write_all(text.as_bytes()).expect("write the file");
    assert!(install.wait().expect("wait for install").success());
}

pub(crate) fn send_signal(signal: &str, pid: u32) {
    let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
    assert!(status.expect("run kill").success(), "kill -s {signal} {pid}");
}

/// Whether it is neither gone nor a zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])))
}

/// The children of a process, each with its state.
pub(crate) fn children(parent: u32) -> Vec<(u32, char)> {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    let mut children = vec![];
    for pid in processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()) {
        // One that has ended meanwhile is nobody's child.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let state = fields.next().and_then(|state| state.chars().next());
        if fields.next() == Some(parent.to_string().as_str()) {
            children.push((pid, state.expect("a state")));
        }
    }
    children
}
