//! A libvirt daemon for one trial, so that a backup tool, which is a process of its own, can work with the trial's
//! guest and with nothing else.
//!
//! It is a user's daemon, which keeps its state where the XDG variables say, and listens at a Unix socket only. Root
//! has none: with root's number, libvirt's client goes to the daemon of the system. So there the daemon and whoever
//! speaks with it become a user with root's files, in a user namespace.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use contract::files::{PRIVATE_DIR, PRIVATE_FILE};
use contract::text::quote;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::libvirt::QEMU_CONF;
use crate::error::{DaemonError, Error, Result};
use crate::interrupt;
use crate::tool;

/// The daemon of QEMU's driver alone, and the one of all drivers, which some distributions have instead. Each with
/// the beginning of its sockets' names.
const DAEMONS: [(&str, &str); 2] = [("virtqemud", "virtqemud"), ("libvirtd", "libvirt")];

/// How long its start may take: some seconds where it asks QEMU what it can do.
const START: Duration = Duration::from_secs(60);

/// How long it may take to end.
const END: Duration = Duration::from_secs(10);

/// How soon a wait notices that the trial is to stop.
const REACTION: Duration = Duration::from_millis(50);

/// How much of its last words an error has, characters.
const SAID: usize = 300;

/// Kills a program when the thread that started it ends. See setpriv(1).
const WITH_PARENT: [&str; 3] = ["setpriv", "--pdeathsig=KILL", "--"];

/// What makes root a user with root's files. See unshare(1).
const AS_USER: &[&str] = &["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"];

/// What a daemon's files are below, in a trial's runtime directory; see [`contract::runtime_dir`] for how long
/// it may be.
const DIR: &str = "d";

/// The name of its log in a trial's runtime directory.
const LOG: &str = "daemon.log";

/// A daemon. Dropping it ends it, but not its guests.
#[derive(Debug)]
pub struct Daemon {
    /// Readable once it has ended.
    process: OwnedFd,
    ended: Receiver<io::Result<ExitStatus>>,
    dir: PathBuf,
    socket: PathBuf,
}

/// How programs of the host reach a libvirt.
#[derive(Debug, Clone)]
pub struct Client {
    uri: String,
    variables: Vec<(&'static str, OsString)>,
    launcher: &'static [&'static str],
}

impl Daemon {
    /// Starts a daemon with its state in the trial's runtime directory, and waits until it can be connected to.
    /// What it has to say is in `log`.
    pub fn start(root: &Path, log: &Path) -> Result<Self> {
        let installed = DAEMONS.into_iter().find(|(program, _)| tool::is_installed(program));
        let (program, name) = installed.ok_or(DaemonError::NotInstalled)?;
        let dir = root.join(DIR);
        let sockets =
            prepare(&dir, program).map_err(Error::io("make the libvirt daemon's directory", &dir))?;
        let changes = watch(&sockets).map_err(Error::io("watch", &sockets))?;
        let config = config(&dir, program);
        let mut command = command(launcher(), program);
        command.arg("--config").arg(config).envs(variables(&dir));
        let opened = File::options().create(true).append(true).mode(PRIVATE_FILE).open(log);
        let output = opened.map_err(Error::io("write", log))?;
        // By this name it is found where logs are kept short.
        symlink(log, root.join(LOG)).map_err(Error::io("name", log))?;
        let (process, ended) = spawn(command, output).map_err(Error::io("start", Path::new(program)))?;
        let daemon = Self { process, ended, socket: sockets.join(format!("{name}-sock")), dir };
        daemon.wait(&changes, &sockets.join(format!("{name}-admin-sock")), log)?;
        Ok(daemon)
    }

    /// Where the harness connects, whoever it runs as.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///session?socket={}", self.socket.display())
    }

    /// How tools connect.
    pub fn client(&self) -> Client {
        let uri = "qemu:///session".to_owned();
        Client { uri, variables: variables(&self.dir), launcher: launcher() }
    }

    /// Waits for its last socket: it makes the one for clients before that for administrators.
    fn wait(&self, changes: &OwnedFd, last: &Path, log: &Path) -> Result<()> {
        let deadline = Instant::now() + START;
        while !last.exists() {
            interrupt::check()?;
            if let Ok(ended) = self.ended.try_recv() {
                let ended = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                return Err(DaemonError::Ended { ended, said: last_words(log), log: log.to_owned() }.into());
            }
            if Instant::now() > deadline {
                return Err(DaemonError::Silent { limit: START, log: log.to_owned() }.into());
            }
            let watched = [changes.as_fd(), self.process.as_fd()];
            let mut watched = watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            let slice = Timespec::try_from(REACTION).unwrap_or_default();
            // Whatever it returns, the loop looks for itself.
            let _ = poll(&mut watched, Some(&slice));
            while rustix::io::read(changes, &mut [0; 4096]).is_ok() {}
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for (signal, patience) in [(Signal::TERM, END), (Signal::KILL, END)] {
            // One that has ended gets none.
            let _ = pidfd_send_signal(&self.process, signal);
            if self.ended.recv_timeout(patience).is_ok() {
                return;
            }
        }
    }
}

impl Client {
    /// Of a libvirt that is there already.
    pub fn of(uri: &str) -> Self {
        Self { uri: uri.to_owned(), variables: Vec::new(), launcher: &[] }
    }

    /// Where it connects.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// What it needs in its environment.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, OsString)> {
        let default = [("LIBVIRT_DEFAULT_URI", self.uri.clone().into())];
        self.variables.iter().cloned().chain(default)
    }

    /// A program that is to run as one of its clients, still without its environment.
    pub fn command(&self, program: &str) -> Command {
        command(self.launcher, program)
    }
}

/// The logs of a daemon and of its guest of this name, by the trial's runtime directory.
pub(crate) fn logs(root: &Path, guest: &str) -> [PathBuf; 2] {
    [root.join(LOG), root.join(DIR).join("cache/libvirt/qemu/log").join(format!("{guest}.log"))]
}

/// Makes what a daemon needs, and returns the directory of its sockets.
fn prepare(dir: &Path, program: &str) -> io::Result<PathBuf> {
    let (sockets, etc) = (dir.join("run/libvirt"), dir.join("etc/libvirt"));
    for dir in [&sockets, &etc] {
        DirBuilder::new().mode(PRIVATE_DIR).recursive(true).create(dir)?;
    }
    fs::write(etc.join("qemu.conf"), QEMU_CONF)?;
    // Neither reads what the other knows; that nothing listens on the network is the default of both.
    fs::write(config(dir, program), "log_outputs = \"2:stderr\"\nauth_unix_rw = \"none\"\n")?;
    Ok(sockets)
}

fn config(dir: &Path, program: &str) -> PathBuf {
    dir.join("etc/libvirt").join(format!("{program}.conf"))
}

/// What tells libvirt, the daemon and its clients, where a user's files are. A client must not start a daemon of
/// its own, which nobody would end.
fn variables(dir: &Path) -> Vec<(&'static str, OsString)> {
    let dirs = [
        ("XDG_RUNTIME_DIR", "run"),
        ("XDG_CONFIG_HOME", "etc"),
        ("XDG_CACHE_HOME", "cache"),
        ("XDG_DATA_HOME", "data"),
    ];
    let dirs = dirs.map(|(name, sub)| (name, dir.join(sub).into_os_string()));
    dirs.into_iter().chain([("LIBVIRT_AUTOSTART", "0".into())]).collect()
}

fn launcher() -> &'static [&'static str] {
    if rustix::process::geteuid().is_root() { AS_USER } else { &[] }
}

fn command(launcher: &[&str], program: &str) -> Command {
    let mut words = launcher.iter().copied().chain([program]);
    let mut command = Command::new(words.next().unwrap_or(program));
    command.args(words);
    command
}

fn watch(dir: &Path) -> io::Result<OwnedFd> {
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&changes, dir, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
    Ok(changes)
}

/// Starts a daemon, and a thread that waits for its end and with which it would end.
fn spawn(command: Command, output: File) -> io::Result<(OwnedFd, Receiver<io::Result<ExitStatus>>)> {
    let [program, options @ ..] = WITH_PARENT;
    let mut supervised = Command::new(program);
    supervised.args(options).arg(command.get_program()).args(command.get_args());
    let own = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    supervised.env_clear().envs(own).env("PATH", tool::search_path()).env("LC_ALL", "C");
    supervised.envs(std::env::var_os("HOME").map(|home| ("HOME", home)));
    supervised.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // Ctrl-C at a terminal goes to the trial, which still needs it.
    supervised.process_group(0);
    let (started, start) = channel();
    let (sender, ended) = channel();
    thread::Builder::new().name("libvirt daemon".to_owned()).spawn(move || {
        let spawned = supervised.spawn().and_then(|mut child| {
            let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map_err(|errno| {
                let _ = child.kill();
                io::Error::from(errno)
            });
            Ok((process?, child))
        });
        // The other ends wait for the first, and need not wait for the second.
        match spawned {
            Ok((process, mut child)) => {
                let _ = started.send(Ok(process));
                let _ = sender.send(child.wait());
            }
            Err(error) => drop(started.send(Err(error))),
        }
    })?;
    let process = start.recv().map_err(io::Error::other)??;
    Ok((process, ended))
}

/// The last line of a log.
fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
    quote(SAID, last.trim())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use virt::connect::Connect;

    use super::*;
    use crate::host::Libvirt;

    const NAME: &str = "freezeframe-test";

    /// A daemon, and the directory with its state.
    fn start() -> (tempfile::TempDir, Daemon) {
        // As short as that of a trial.
        let root = tempfile::tempdir_in("/tmp").unwrap();
        let daemon = Daemon::start(root.path(), &root.path().join("my log, 100%.txt")).unwrap();
        (root, daemon)
    }

    /// Whether a tool that is told nothing but its environment finds the domain.
    fn tool_finds_domain(client: &Client) -> bool {
        let program = std::env::current_exe().unwrap();
        let mut tool = client.command(program.to_str().unwrap());
        tool.args(["--exact", "--ignored", "--nocapture", "host::daemon::tests::a_tool"]);
        let output = tool.envs(client.variables()).output().unwrap();
        let [said, problems] =
            [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        assert!(output.status.success() && said.contains("finds it: "), "{said}{problems}");
        said.contains("finds it: true")
    }

    #[test]
    #[ignore = "another test runs it as a client of its daemon"]
    fn a_tool() {
        assert!(!rustix::process::geteuid().is_root());
        let connect = Connect::open(None).unwrap();
        let found = connect.lookup_domain_by_name(NAME).is_ok();
        writeln!(io::stdout(), "finds it: {found}").unwrap();
    }

    #[test]
    fn the_harness_and_tools_share_a_daemon_with_nobody_else() {
        let (_root, daemon) = start();
        let connect = Libvirt::connect(&daemon.uri()).unwrap();
        drop(connect);
        let connect = Connect::open(Some(&daemon.uri())).unwrap();
        let xml = format!(
            "<domain type='qemu'><name>{NAME}</name><memory unit='MiB'>64</memory>\
               <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
        );
        connect.define_domain_xml(&xml).unwrap();
        let (_other_root, other) = start();
        assert_eq!([&daemon, &other].map(|it| tool_finds_domain(&it.client())), [true, false]);
    }

    #[test]
    fn a_daemon_ends_when_it_is_dropped_even_one_that_hangs() {
        for hangs in [false, true] {
            let (_root, daemon) = start();
            let (socket, pid) = (daemon.socket.clone(), daemon.process.try_clone().unwrap());
            assert!(UnixStream::connect(&socket).is_ok());
            if hangs {
                pidfd_send_signal(&pid, Signal::STOP).unwrap();
            }
            drop(daemon);
            assert!(UnixStream::connect(&socket).is_err());
            assert!(pidfd_send_signal(&pid, Signal::CONT).is_err(), "it is there");
        }
    }

    #[test]
    fn a_daemon_that_does_not_start_says_why() {
        let root = tempfile::tempdir_in("/tmp").unwrap();
        let long = root.path().join("x".repeat(100));
        fs::create_dir(&long).unwrap();
        let log = root.path().join("log");
        let error = Daemon::start(&long, &log).unwrap_err().to_string();
        assert!(
            error.starts_with("the trial's own libvirt daemon ended when it was started (exit status: "),
            "{error}"
        );
        assert!(error.contains("too long") && error.ends_with(&log.display().to_string()), "{error}");
    }

    #[test]
    fn a_libvirt_that_is_there_is_named_and_nothing_else() {
        let client = Client::of("qemu+ssh://host/system");
        let variables: Vec<_> = client.variables().collect();
        assert_eq!(variables, [("LIBVIRT_DEFAULT_URI", "qemu+ssh://host/system".into())]);
        assert_eq!(client.command("virsh").get_program(), "virsh");
    }
}
