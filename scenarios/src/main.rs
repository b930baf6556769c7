//! The processes behind one trial. The test binary starts them; people need not.

#![warn(clippy::print_stderr, clippy::print_stdout)]

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use contract::files;
use harness::host::Libvirt;
use harness::trial::supervise::{self, Task};
use harness::{inspect, trial, verify};
use terminal::log::{self, Verbosity};
use tracing::{error, warn};

/// A trial's own processes.
#[derive(Parser)]
enum Command {
    /// Runs the trial planned in DIR in a child process and cleans up after it.
    Supervise {
        /// Inspects the disk of the claims in DIR instead.
        #[arg(long)]
        inspect: bool,
        /// Verifies the backup of the request in DIR instead.
        #[arg(long, conflicts_with = "inspect")]
        verify: bool,
        /// This process is the first one of a PID namespace.
        #[arg(long, hide = true)]
        isolated: bool,
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
    /// Inspects the disk of the claims in DIR.
    Inspect {
        /// A directory with `claims.json`.
        dir: PathBuf,
        /// A short-lived directory with a short path, for libvirt.
        root: PathBuf,
    },
    /// Verifies the backup of the request in DIR.
    Verify {
        /// A directory with `request.json`.
        dir: PathBuf,
        /// A short-lived directory with a short path, for libvirt.
        root: PathBuf,
    },
    /// Connects to a libvirt, to see whether it is there.
    Connect {
        /// Its URI.
        uri: String,
    },
}

fn main() -> ExitCode {
    files::keep_private();
    let command = Command::parse();
    init_log(&command);
    match command {
        Command::Supervise { inspect, verify, isolated, dir } => match std::env::current_exe() {
            Ok(program) => {
                let (task, again): (_, &[&str]) = match (inspect, verify) {
                    (true, _) => (Task::Inspection, &["supervise", "--inspect"]),
                    (_, true) => (Task::Verification, &["supervise", "--verify"]),
                    (false, false) => (Task::Trial, &["supervise"]),
                };
                let again = again.iter().map(OsStr::new).chain([OsStr::new("--isolated"), dir.as_os_str()]);
                supervise::supervise(&program, task, &dir, isolated, again)
            }
            Err(e) => {
                error!("cannot find this program's own file: {e}");
                ExitCode::from(3)
            }
        },
        Command::Run { dir, root } => trial::main(&dir, &root),
        Command::Inspect { dir, root } => inspect::main(&dir, &root),
        Command::Verify { dir, root } => verify::main(&dir, &root),
        Command::Connect { uri } => match Libvirt::connect(&uri) {
            Ok(_) => ExitCode::SUCCESS,
            Err(e) => {
                error!("{e}");
                ExitCode::from(3)
            }
        },
    }
}

/// What happens goes to standard error; that of a trial goes to its directory as well.
fn init_log(command: &Command) {
    match command {
        Command::Run { dir, .. } => {
            if let Err(e) = log::init_traced(Verbosity::Normal, dir) {
                warn!("there is no trace of {}: {e}", dir.display());
            }
        }
        Command::Supervise { .. }
        | Command::Inspect { .. }
        | Command::Verify { .. }
        | Command::Connect { .. } => {
            log::init(Verbosity::Normal);
        }
    }
}
