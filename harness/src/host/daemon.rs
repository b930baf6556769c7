//! A libvirt daemon for one trial, so that a backup tool, which is a process of its own, can work with the trial's
//! guest and with nothing else.
//!
//! It is a user's daemon, which keeps its state where the XDG variables say, and listens at a Unix socket only. Root
//! has none: with root's number, libvirt's client goes to the daemon of the system. So there the daemon, its guests'
//! QEMU and the tools are those of the user as whom QEMU runs anyway, see [`guest_user`](super::guest_user). libvirt
//! wants users to have a name, so they see a table of users in which he has one.

use std::ffi::{OsStr, OsString};
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

use super::guest_user;
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

/// The name of the user as whom root's tools run.
const USER: &str = "freezeframe";

/// Runs a program as another user, who sees other tables of users and groups. It is told the directory of these
/// tables and the user's number, and then the program with its arguments. See mount(8) and setpriv(1).
const AS_USER: &str = r#"dir=$1 id=$2
shift 2
mount --bind "$dir/passwd" /etc/passwd && mount --bind "$dir/group" /etc/group &&
exec setpriv --reuid="$id" --regid="$id" --clear-groups -- "$@""#;

/// The directory of a daemon in a trial's runtime directory; see [`contract::runtime_dir`] for how long its name
/// may be.
const DIR: &str = "d";

/// The name of a daemon's log there.
const LOG: &str = "daemon.log";

/// A daemon. Dropping it ends it, but not its guests.
#[derive(Debug)]
pub struct Daemon {
    /// Readable once it has ended.
    process: OwnedFd,
    ended: Receiver<io::Result<ExitStatus>>,
    dir: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

/// How programs of the host reach a libvirt.
#[derive(Debug, Clone)]
pub struct Client {
    uri: String,
    variables: Vec<(&'static str, OsString)>,
    /// What makes a program one of the user whose daemon it is.
    launcher: Vec<OsString>,
}

impl Daemon {
    /// Starts a daemon with its state in the trial's runtime directory, and waits until it can be connected to.
    /// What it has to say is in `log`.
    pub fn start(root: &Path, log: &Path) -> Result<Self> {
        let installed = DAEMONS.into_iter().find(|(program, _)| tool::is_installed(program));
        let (program, name) = installed.ok_or(DaemonError::NotInstalled)?;
        if rustix::process::geteuid().is_root() && guest_user::id().is_none() {
            return Err(DaemonError::NotAsRoot.into());
        }
        let dir = root.join(DIR);
        guest_user::let_enter(root)?;
        let sockets = prepare(&dir, program)?;
        let changes = watch(&sockets).map_err(Error::io("watch", &sockets))?;
        let config = config(&dir, program);
        // Innermost, because another user's number would undo it.
        let mut command = command(&launcher(&dir), OsStr::new(WITH_PARENT[0]));
        command.args(&WITH_PARENT[1..]).arg(program).arg("--config").arg(config);
        command.env_clear().envs(std::env::var_os("HOME").map(|home| ("HOME", home)));
        command.envs(variables(&dir)).env("PATH", tool::search_path()).env("LC_ALL", "C");
        let opened = File::options().create(true).append(true).mode(PRIVATE_FILE).open(log);
        let output = opened.map_err(Error::io("write", log))?;
        // By this name it is found where logs are kept short.
        symlink(log, dir.join(LOG)).map_err(Error::io("name", log))?;
        let (process, ended) = spawn(command, output).map_err(Error::io("start", Path::new(program)))?;
        let socket = sockets.join(format!("{name}-sock"));
        let daemon = Self { process, ended, dir, socket, log: log.to_owned() };
        daemon.wait(&changes, &sockets.join(format!("{name}-admin-sock")), log)?;
        Ok(daemon)
    }

    /// The directory in which sockets and FIFOs of its guests can be made: by it, and by QEMU.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the harness connects, whoever it runs as.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///session?socket={}", self.socket.display())
    }

    /// Fails when it has ended: whatever a tool does or says then, it says nothing about its backup.
    pub fn check(&self) -> Result<()> {
        let mut watched = [PollFd::new(&self.process, PollFlags::IN)];
        let ended = poll(&mut watched, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
        if ended { Err(DaemonError::Gone { log: self.log.clone() }.into()) } else { Ok(()) }
    }

    /// How tools connect.
    pub fn client(&self) -> Client {
        let uri = "qemu:///session".to_owned();
        Client { uri, variables: variables(&self.dir), launcher: launcher(&self.dir) }
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
    /// Of a libvirt that is there already. Where a user's own is, its variables say.
    pub fn of(uri: &str) -> Self {
        Self::in_environment(uri, |name| std::env::var_os(name))
    }

    fn in_environment(uri: &str, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = DIRECTORIES.iter().filter_map(|(name, _)| Some((*name, variable(name)?)));
        let variables = set.chain([(NO_AUTOSTART.0, NO_AUTOSTART.1.into())]).collect();
        Self { uri: uri.to_owned(), variables, launcher: Vec::new() }
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
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        command(&self.launcher, program.as_ref())
    }
}

/// The logs of a daemon and of its guest of this name, by [`Daemon::dir`].
pub(crate) fn logs(dir: &Path, guest: &str) -> [PathBuf; 2] {
    [dir.join(LOG), dir.join("cache/libvirt/qemu/log").join(format!("{guest}.log"))]
}

/// Makes what a daemon needs, and returns the directory of its sockets.
fn prepare(dir: &Path, program: &str) -> Result<PathBuf> {
    let make = |dir: &Path| {
        DirBuilder::new().mode(PRIVATE_DIR).create(dir).map_err(Error::io("create", dir))?;
        guest_user::give(dir)
    };
    let write = |file: &Path, text: &str| {
        fs::write(file, text).map_err(Error::io("write", file))?;
        guest_user::give(file)
    };
    ["", "run", "run/libvirt", "etc", "etc/libvirt"].iter().try_for_each(|sub| make(&dir.join(sub)))?;
    write(&dir.join("etc/libvirt/qemu.conf"), QEMU_CONF)?;
    guest_user::id().map_or(Ok(()), |id| name_user(dir, id))?;
    // Neither reads what the other knows; that nothing listens on the network is the default of both.
    write(&config(dir, program), "log_outputs = \"2:stderr\"\nauth_unix_rw = \"none\"\n")?;
    Ok(dir.join("run/libvirt"))
}

fn config(dir: &Path, program: &str) -> PathBuf {
    dir.join("etc/libvirt").join(format!("{program}.conf"))
}

/// Tells libvirt, the daemon and its clients, where a user's files are; and where those of a trial's own daemon are.
const DIRECTORIES: [(&str, &str); 4] = [
    ("XDG_RUNTIME_DIR", "run"),
    ("XDG_CONFIG_HOME", "etc"),
    ("XDG_CACHE_HOME", "cache"),
    ("XDG_DATA_HOME", "data"),
];

/// A client must not start a daemon of its own, which nobody would end.
const NO_AUTOSTART: (&str, &str) = ("LIBVIRT_AUTOSTART", "0");

fn variables(dir: &Path) -> Vec<(&'static str, OsString)> {
    let dirs = DIRECTORIES.map(|(name, sub)| (name, dir.join(sub).into_os_string()));
    let mut variables: Vec<_> = dirs.into_iter().chain([(NO_AUTOSTART.0, NO_AUTOSTART.1.into())]).collect();
    if guest_user::id().is_some() {
        variables.extend([("HOME", dir.into()), ("USER", USER.into()), ("LOGNAME", USER.into())]);
    }
    variables
}

/// What makes a program one of the user whose daemon it is. Whoever is not root is this user already.
fn launcher(dir: &Path) -> Vec<OsString> {
    let Some(id) = guest_user::id() else { return Vec::new() };
    let words = ["unshare", "--mount", "--", "/bin/sh", "-c", AS_USER, "sh"].map(OsString::from);
    words.into_iter().chain([dir.into(), id.to_string().into()]).collect()
}

/// Copies the tables of users and groups, with one more user.
fn name_user(dir: &Path, id: u32) -> Result<()> {
    let home = dir.display();
    for (table, line) in
        [("passwd", format!("{USER}:x:{id}:{id}::{home}:/bin/sh\n")), ("group", format!("{USER}:x:{id}:\n"))]
    {
        let known = Path::new("/etc").join(table);
        let mut text = fs::read(&known).map_err(Error::io("read", &known))?;
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        text.extend(line.as_bytes());
        let file = dir.join(table);
        fs::write(&file, text).map_err(Error::io("write", &file))?;
        guest_user::give(&file)?;
    }
    Ok(())
}

fn command(launcher: &[OsString], program: &OsStr) -> Command {
    let mut words = launcher.iter().map(OsString::as_os_str).chain([program]);
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
fn spawn(mut command: Command, output: File) -> io::Result<(OwnedFd, Receiver<io::Result<ExitStatus>>)> {
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // Ctrl-C at a terminal goes to the trial, which still needs it.
    command.process_group(0);
    let (started, start) = channel();
    let (sender, ended) = channel();
    thread::Builder::new().name("libvirt daemon".to_owned()).spawn(move || {
        let spawned = command.spawn().and_then(|mut child| {
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

    use rustix::net::sockopt::socket_peercred;
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

    /// Whether a tool that is told nothing but its environment finds the domain. It is this program, in a
    /// directory that its user can enter.
    fn tool_finds_domain(daemon: &Daemon) -> bool {
        let (client, program) = (daemon.client(), daemon.dir().join("tool"));
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut tool = client.command(program);
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
        assert_eq!([&daemon, &other].map(tool_finds_domain), [true, false]);
    }

    #[test]
    fn a_daemon_ends_when_it_is_dropped_even_one_that_hangs() {
        for hangs in [false, true] {
            let (_root, daemon) = start();
            let (socket, pid) = (daemon.socket.clone(), daemon.process.try_clone().unwrap());
            let user = socket_peercred(UnixStream::connect(&socket).unwrap()).unwrap().uid;
            assert!(!user.is_root());
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
    fn a_libvirt_that_is_there_is_named_with_where_it_is() {
        let uri = "qemu+ssh://host/system";
        let client = Client::in_environment(uri, |_| None);
        let variables: Vec<_> = client.variables().collect();
        assert_eq!(variables, [("LIBVIRT_AUTOSTART", "0".into()), ("LIBVIRT_DEFAULT_URI", uri.into())]);
        let is_set = |name: &str| (name != "XDG_DATA_HOME").then(|| format!("/at/{name}").into());
        let session = Client::in_environment("qemu:///session", is_set);
        let names: Vec<_> = session.variables().map(|(name, _)| name).collect();
        let set = ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"];
        assert_eq!(names, [&set[..], &["LIBVIRT_AUTOSTART", "LIBVIRT_DEFAULT_URI"]].concat());
        assert_eq!(session.variables().next().unwrap().1, "/at/XDG_RUNTIME_DIR");
        assert_eq!(client.command("virsh").get_program(), "virsh");
    }
}
