//! The processes behind one trial. The test binary starts them; people need not.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use freezeframe::trial;
use freezeframe::trial::supervise;

/// A trial's own processes.
#[derive(Parser)]
enum Role {
    /// Runs the trial planned in DIR in a child process and cleans up after it.
    Supervise {
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
}

fn main() -> ExitCode {
    match Role::parse() {
        Role::Supervise { dir } => match std::env::current_exe() {
            Ok(program) => supervise::supervise(&program, &dir),
            Err(e) => {
                eprintln!("cannot find this program's own file: {e}");
                ExitCode::from(3)
            }
        },
        Role::Run { dir, root } => trial::main(&dir, &root),
    }
}
