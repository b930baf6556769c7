//! Real guest agents, of the Debian releases that are unpacked beside the build.
//!
//! They freeze a mount point that does not exist: that runs the hook and freezes nothing. More is
//! impossible here: the agent runs without the privilege to freeze.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::call::{HANGS, children, program, root, wait_until};
use crate::server::is_root;

/// A listening agent with a hook. It ends when this is dropped.
pub(crate) struct Agent {
    process: Child,
    connection: BufReader<UnixStream>,
    _dir: TempDir,
}

/// The agent's answer: what the command returned, or why it failed.
pub(crate) type Answer = Result<Value, AgentFailure>;

/// The agent's reason for a failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AgentFailure(pub(crate) String);

impl Agent {
    /// `set_up` gets the command before it is started, to set the hook's environment.
    pub(crate) fn start(release: &str, hook: &Path, set_up: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let socket = dir.path().join("socket");
        let mut command = without_the_right_to_freeze(&qemu_ga(release));
        command
            .args(["-m", "unix-listen", "-p"])
            .arg(&socket)
            .arg("-t")
            .arg(dir.path())
            .arg(format!("-F{}", hook.display()))
            .env_clear()
            // Not the host's own settings.
            .env("QGA_CONF", dir.path().join("none"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        set_up(&mut command);
        let mut process = command.spawn().expect("start the agent");
        let mut stream = None;
        wait_until("the agent listens", || {
            let ended = process.try_wait().expect("check the agent");
            assert!(ended.is_none(), "the agent ended: {ended:?}");
            stream = UnixStream::connect(&socket).ok();
            stream.is_some()
        });
        Self { process, connection: BufReader::new(stream.expect("a connection")), _dir: dir }
    }

    /// Runs the freeze hook, and freezes nothing.
    pub(crate) fn run_freeze_hook(&mut self) -> Answer {
        self.request_the_freeze_hook();
        self.answer(HANGS).expect("the agent answers")
    }

    pub(crate) fn request_the_freeze_hook(&mut self) {
        let command = json!({
            "execute": "guest-fsfreeze-freeze-list",
            "arguments": { "mountpoints": ["/no/such/mount/point"] }
        });
        writeln!(self.connection.get_mut(), "{command}").expect("send the command");
    }

    /// The answer to the last command, if it comes in time.
    pub(crate) fn answer(&mut self, limit: Duration) -> Option<Answer> {
        self.connection.get_ref().set_read_timeout(Some(limit)).expect("set a limit");
        let mut line = String::new();
        match self.connection.read_line(&mut line) {
            Ok(0) => panic!("the agent closed the connection"),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            Err(error) => panic!("cannot read from the agent: {error}"),
        }
        let answer: Value = serde_json::from_str(&line).expect("an answer");
        Some(match answer["error"]["desc"].as_str() {
            Some(reason) => Err(AgentFailure(reason.to_owned())),
            None => Ok(answer["return"].clone()),
        })
    }

    /// Waits until the hook's process is gone, reaped or not.
    pub(crate) fn wait_for_the_end_of_the_hook(&self) {
        wait_until("the hook has ended", || {
            children(self.process.id()).iter().all(|(_, state)| *state == 'Z')
        });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The version that a release's agent reports.
pub(crate) fn version(release: &str) -> String {
    let output = Command::new(qemu_ga(release)).arg("--version").output().expect("run the agent");
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().last().expect("a version").to_owned()
}

/// From 9.1 on agents read a hook's output to its end before they wait for the hook, and hand it on.
pub(crate) fn reads_output(release: &str) -> bool {
    let version = version(release);
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().expect("a number"));
    (numbers.next(), numbers.next()) >= (Some(9), Some(1))
}

/// The dispatcher that comes with a release's agent.
pub(crate) fn packaged_dispatcher(release: &str) -> PathBuf {
    root(release).join("etc/qemu/fsfreeze-hook")
}

fn qemu_ga(release: &str) -> PathBuf {
    root(release).join("run/qemu-ga")
}

fn without_the_right_to_freeze(program_file: &Path) -> Command {
    if !is_root() {
        return Command::new(program_file);
    }
    let mut command = Command::new(program("setpriv"));
    command.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"]).arg(program_file);
    command
}
