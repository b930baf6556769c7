//! Commands of the host: built with `xshell`, run here, and logged with their durations.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use contract::run::TOOLS;
use rustix::fs::Access;
use terminal::command::Timer;
use xshell::{Cmd, Shell};

use crate::host;

/// Searched after PATH: where system programs are on distributions that keep
/// them out of a normal user's PATH.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The directory that this process was started in is gone, or cannot be entered.
    #[error("{0}. Start this in a directory that exists.")]
    Directory(#[from] xshell::Error),
    /// There is no such program.
    #[error("`{0}` is not installed. `cargo xtask setup` installs what is missing.")]
    NotInstalled(String),
    /// It could not be started, or not waited for.
    #[error("`{program}` cannot be run: {source}.")]
    Start {
        /// As it was named.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ended badly.
    #[error("`{program}` failed ({status}){}{stderr}", if stderr.is_empty() { "." } else { ". It says:\n" })]
    Failed {
        /// As it was named.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed there, where that was kept.
        stderr: String,
    },
}

/// A shell whose commands also find the programs of [`SYSTEM_DIRS`], and answer in the language in
/// which they are read here, whatever the user's.
pub fn shell() -> Result<Shell, CommandError> {
    let shell = Shell::new()?;
    shell.set_var("PATH", search_path());
    shell.set_var("LC_ALL", "C");
    Ok(shell)
}

/// The same, whose commands run in `dir`.
pub fn shell_in(dir: &Path) -> Result<Shell, CommandError> {
    let shell = shell()?;
    shell.change_dir(dir);
    Ok(shell)
}

/// Like a shell, for commands that see themselves as root, over the files of this user and of
/// the user ids that the host lends him. Root needs none of that.
#[derive(Debug, Clone, Copy)]
pub struct NamespaceRoot<'a>(pub &'a Shell);

impl<'a> NamespaceRoot<'a> {
    /// A command, as of `Shell::cmd`.
    pub fn cmd(self, program: impl AsRef<Path>) -> Cmd<'a> {
        let program = program.as_ref();
        // A program that is missing is found to be so when it is run, and not by `unshare`.
        if host::is_root() || find_program(program).is_none() {
            return self.0.cmd(program);
        }
        self.0.cmd("unshare").args(["--user", "--map-root-user", "--map-auto", "--"]).arg(program)
    }
}

/// The file that running `name` would start.
pub fn find_program(name: impl AsRef<Path>) -> Option<PathBuf> {
    find_in(std::env::split_paths(&search_path()), name.as_ref())
}

/// The same in the command of a backup tool, which may also be one that setup has installed below the checkout.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    find_program(name).or_else(|| find_in([host::repository().join(TOOLS)], name.as_ref()))
}

fn find_in(dirs: impl IntoIterator<Item = PathBuf>, name: &Path) -> Option<PathBuf> {
    dirs.into_iter()
        .map(|dir| dir.join(name))
        .find(|file| file.is_file() && rustix::fs::access(file, Access::EXEC_OK).is_ok())
}

/// Fails where `program` is missing. For those that others start, which run themselves all the same.
pub fn require(program: &str) -> Result<(), CommandError> {
    find_program(program).map(drop).ok_or_else(|| CommandError::NotInstalled(program.to_owned()))
}

fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    for dir in SYSTEM_DIRS {
        if !path.is_empty() {
            path.push(":");
        }
        path.push(dir);
    }
    path
}

/// Runs a command without input to its end, and keeps all that it prints.
pub fn output(cmd: Cmd<'_>) -> Result<Output, CommandError> {
    finish(Command::from(cmd).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()), b"")
}

/// The same, but what it says of errors or of its progress is printed.
pub fn capture_stdout(cmd: Cmd<'_>) -> Result<Output, CommandError> {
    finish(Command::from(cmd).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()), b"")
}

/// What a command prints that must succeed.
pub fn read(cmd: Cmd<'_>) -> Result<Vec<u8>, CommandError> {
    let mut command = Command::from(cmd);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Output { status, stdout, stderr } = finish(&mut command, b"")?;
    if status.success() {
        return Ok(stdout);
    }
    let program = command.get_program().to_string_lossy().into_owned();
    let stderr = String::from_utf8_lossy(&stderr).trim_end().to_owned();
    Err(CommandError::Failed { program, status, stderr })
}

/// Runs a command without input to its end; it prints to `out` and `err`.
pub fn status(
    cmd: Cmd<'_>,
    out: impl Into<Stdio>,
    err: impl Into<Stdio>,
) -> Result<ExitStatus, CommandError> {
    let mut command = Command::from(cmd);
    Ok(finish(command.stdin(Stdio::null()).stdout(out).stderr(err), b"")?.status)
}

/// Runs a command that must succeed with this input; all that it prints goes to standard error, as progress.
pub fn run_with_input(cmd: Cmd<'_>, input: &str) -> Result<(), CommandError> {
    let mut command = Command::from(cmd);
    command.stdin(Stdio::piped()).stdout(io::stderr()).stderr(Stdio::inherit());
    let status = finish(&mut command, input.as_bytes())?.status;
    let program = command.get_program().to_string_lossy().into_owned();
    if status.success() {
        return Ok(());
    }
    Err(CommandError::Failed { program, status, stderr: String::new() })
}

/// Starts the command, hands it its input, and waits for its end.
fn finish(command: &mut Command, input: &[u8]) -> Result<Output, CommandError> {
    let timer = Timer::start(command);
    let ended = command.spawn().and_then(|mut child| {
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends without reading says why by its status.
            let _ = stdin.write_all(input);
        }
        child.wait_with_output()
    });
    timer.end(ended.as_ref().map(|output| output.status));
    ended.map_err(|source| not_run(command, source))
}

/// Why this command could not be run.
pub fn not_run(command: &Command, source: io::Error) -> CommandError {
    let program = command.get_program();
    let shown = program.to_string_lossy().into_owned();
    if source.kind() == io::ErrorKind::NotFound && find_program(program).is_none() {
        return CommandError::NotInstalled(shown);
    }
    CommandError::Start { program: shown, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_is_named_with_its_remedy() {
        let shell = shell().unwrap();
        for cmd in [shell.cmd("no-such-program"), NamespaceRoot(&shell).cmd("no-such-program")] {
            let error = read(cmd).unwrap_err().to_string();
            assert_eq!(
                error,
                "`no-such-program` is not installed. `cargo xtask setup` installs what is missing."
            );
        }
    }

    #[test]
    fn every_command_answers_in_one_language() {
        let shell = shell().unwrap();
        let said = read(shell.cmd("sh").args(["-c", "printf %s \"$LC_ALL\""])).unwrap();
        assert_eq!(said, b"C");
    }

    #[test]
    fn a_command_that_fails_says_why() {
        let shell = shell().unwrap();
        let error = read(shell.cmd("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err().to_string();
        assert_eq!(error, "`sh` failed (exit status: 3). It says:\nwhy");
    }

    #[test]
    fn input_reaches_the_command() {
        let shell = shell().unwrap();
        let command = |text| run_with_input(shell.cmd("grep").args(["-q", "needle"]), text);
        assert!(command("a needle\n").is_ok());
        assert!(command("hay\n").is_err());
    }
}
