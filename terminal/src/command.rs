//! Commands of the host, each told of with its duration.

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
        let begin = Instant::now();
        let output = self.output();
        tell(self, begin, output.as_ref().map(|output| output.status));
        output
    }

    fn run_status(&mut self) -> io::Result<ExitStatus> {
        let begin = Instant::now();
        let status = self.status();
        tell(self, begin, status.as_ref().copied());
        status
    }
}

/// Without the environment, which may hold what nobody else shall read.
fn tell(command: &Command, begin: Instant, ended: Result<ExitStatus, &io::Error>) {
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy);
    let line = words.collect::<Vec<_>>().join(" ");
    let took = begin.elapsed().as_secs_f64();
    match ended {
        Ok(status) => debug!("`{line}` ended after {took:.3} s with {status}"),
        Err(error) => debug!("`{line}` could not be run: {error}"),
    }
}
