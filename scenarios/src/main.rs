//! The processes behind one trial. The test binary starts them; people need not.

// See `words`.
#![warn(clippy::print_stderr, clippy::print_stdout)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use contract::tell;
use harness::trial::supervise::{self, Task};
use harness::{examine, trial};

/// A trial's own processes.
#[derive(Parser)]
enum Role {
    /// Runs the trial planned in DIR in a child process and cleans up after it.
    Supervise {
        /// The disk that DIR has the claims of is examined instead.
        #[arg(long)]
        examine: bool,
        /// The trial's directory.
        dir: PathBuf,
    },
    /// Runs the trial planned in DIR.
    Run {
        /// The trial's directory.
        dir: PathBuf,
        /// A short-lived directory with a short path, for libvirt.
        root: PathBuf,
    },
    /// Examines the disk that DIR has the claims of.
    Examine {
        /// A directory with `claims.json`.
        dir: PathBuf,
        /// A short-lived directory with a short path, for libvirt.
        root: PathBuf,
    },
}

fn main() -> ExitCode {
    match Role::parse() {
        Role::Supervise { examine, dir } => match std::env::current_exe() {
            Ok(program) => {
                let task = if examine { Task::Examination } else { Task::Trial };
                supervise::supervise(&program, task, &dir)
            }
            Err(e) => {
                tell!("cannot find this program's own file: {e}");
                ExitCode::from(3)
            }
        },
        Role::Run { dir, root } => trial::main(&dir, &root),
        Role::Examine { dir, root } => examine::main(&dir, &root),
    }
}
