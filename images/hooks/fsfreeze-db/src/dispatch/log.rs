//! What the hooks have said: kept in memory until the thaw, and then given to the journal.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::run::path;

/// The log, in a directory on a tmpfs: `FSFREEZE_HOOK_RUN`. Where it cannot be written, hooks still run.
pub(super) struct Log(PathBuf);

impl Log {
    pub(super) fn new() -> Self {
        let directory =
            env::var_os("FSFREEZE_HOOK_RUN").map_or_else(|| "/run/fsfreeze-hook".into(), PathBuf::from);
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        Self(directory.join("log"))
    }

    /// Forgets what is left of an earlier call.
    pub(super) fn empty(&self) {
        let _ = fs::remove_file(&self.0);
    }

    /// Says something, to the caller as well.
    pub(super) fn tell(&self, words: &str) {
        self.pass_on(&format!("fsfreeze-hook: {words}\n"));
    }

    /// Keeps what a hook has said, and passes it on to the caller.
    pub(super) fn pass_on(&self, output: &str) {
        // The caller may have gone.
        let _ = std::io::stderr().write_all(output.as_bytes());
        self.keep(output);
    }

    /// Keeps what a hook has said.
    pub(super) fn keep(&self, output: &str) {
        if let Ok(mut log) = File::options().create(true).append(true).open(&self.0) {
            let _ = log.write_all(output.as_bytes());
        }
    }

    /// Gives all of it to the journal; without `logger` it stays. A journal that hangs costs no more than 2 s
    /// of a process in the background, which holds nothing open.
    pub(super) fn send(&self) {
        let Ok(log) = File::open(&self.0) else { return };
        if log.metadata().map_or(0, |it| it.len()) == 0 || !is_there("logger") {
            return;
        }
        self.empty();
        let _ = Command::new("timeout")
            .env("PATH", path())
            .args(["-s", "KILL", "2", "logger", "-t", "fsfreeze-hook"])
            .stdin(log)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
    }
}

fn is_there(program: &str) -> bool {
    env::split_paths(&path()).any(|directory| directory.join(program).is_file())
}
