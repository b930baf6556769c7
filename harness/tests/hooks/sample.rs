//! The vendor's sample, as the comparison beside our hook.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use crate::call::{Outcome, hooks_dir, install, program, quoted, script, wait_until};
use crate::server::{Database, Server, client_program};

/// The sample, with login and fifo moved to a server and directory of the test's own.
pub(crate) struct Sample {
    dir: TempDir,
}

impl Sample {
    /// On MySQL with the option that its client commands need there: without it they do not work
    /// (D05).
    pub(crate) fn new(server: &Server) -> Self {
        let commands = if server.database == Database::Mysql { " --commands" } else { "" };
        Self::with(server, &format!("{}{commands}", server.login()))
    }

    /// Logs in with these options.
    pub(crate) fn with(server: &Server, options: &str) -> Self {
        Self::by(&client_program(server.database), options)
    }

    pub(crate) fn by(client: &Path, options: &str) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let mut text = fs::read_to_string(hooks_dir().join("sample/fsfreeze-hook")).expect("the sample");
        let dash = program("dash");
        for (from, to) in [
            ("#!/bin/sh", format!("#!{}", dash.display())),
            ("client=/usr/bin/mysql", format!("client={}", quoted(client))),
            ("\"-uroot\"", format!("\"{options}\"")),
            ("/var/run/mysql-flush.fifo", dir.path().join("fifo").display().to_string()),
            ("/tmp/mysql-flush", dir.path().join("report").display().to_string()),
        ] {
            assert!(text.contains(from));
            text = text.replacen(from, &to, 1);
        }
        install(&dir.path().join("hook"), "755", &text);
        Self { dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("hook")
    }

    pub(crate) fn fifo(&self) -> PathBuf {
        self.dir.path().join("fifo")
    }

    /// Its output goes nowhere, as with agents before QEMU 9.1; later ones wait for its end (A05).
    pub(crate) fn command(&self, verb: &str) -> Command {
        let mut command = script(&self.path(), self.dir.path());
        // It relies on the PATH that it inherits.
        command.arg(verb).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    pub(crate) fn start(&self, verb: &str) -> Child {
        self.command(verb).spawn().expect("start the sample")
    }

    pub(crate) fn call(&self, verb: &str) -> Outcome {
        self.wait_for(self.start(verb))
    }

    /// Calls it by the words of another command, such as `nice`.
    pub(crate) fn call_under(&self, launcher: &[&str], verb: &str) -> Outcome {
        let sample = self.command(verb);
        let mut command = Command::new(program(launcher[0]));
        command.args(&launcher[1..]).arg(sample.get_program()).args(sample.get_args());
        command.env_clear().envs(sample.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.wait_for(command.spawn().expect("start the sample"))
    }

    fn wait_for(&self, mut child: Child) -> Outcome {
        let started = Instant::now();
        let mut status = None;
        wait_until("the sample ends", || {
            status = child.try_wait().expect("check the sample");
            status.is_some()
        });
        let code = status.and_then(|status| status.code());
        Outcome { code, output: String::new(), took: started.elapsed() }
    }

    /// Releases its background client, which waits for the fifo to be opened.
    pub(crate) fn release(&self) {
        // Opens both ends, so that this does not wait when nobody reads.
        let _ = fs::File::options().read(true).write(true).open(self.fifo());
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        self.release();
    }
}
