//! Commands of the host, each logged with its duration.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, ExitStatus, Output};
use std::time::Instant;

use tracing::debug;

/// Runs a program to its end.
pub trait Run {
    /// And keeps what it printed.
    fn run_output(&mut self) -> io::Result<Output>;
    /// And lets it print.
    fn run_status(&mut self) -> io::Result<ExitStatus>;
}

impl Run for Command {
    fn run_output(&mut self) -> io::Result<Output> {
        let timer = Timer::start(self);
        let output = self.output();
        timer.end(output.as_ref().map(|output| output.status));
        output
    }

    fn run_status(&mut self) -> io::Result<ExitStatus> {
        let timer = Timer::start(self);
        let status = self.status();
        timer.end(status.as_ref().copied());
        status
    }
}

/// Times a command that this process starts by itself and waits for in a way of its own.
#[derive(Debug)]
pub struct Timer {
    /// Without the environment, which may hold secrets.
    line: String,
    start: Instant,
}

impl Timer {
    /// To be called just before the command is started.
    pub fn start(command: &Command) -> Self {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
        Self { line: words.join(" "), start: Instant::now() }
    }

    /// Logs how the command ended and how long it took.
    pub fn end(self, ended: Result<ExitStatus, &io::Error>) {
        let (line, seconds) = (self.line, self.start.elapsed().as_secs_f64());
        match ended {
            Ok(status) => debug!("`{line}` ended after {seconds:.3} s with {status}"),
            Err(error) => debug!("`{line}` could not be run: {error}"),
        }
    }
}
