//! Programs that a task builds: they link libvirt, which this program may not, so setup must have
//! run before.

use std::path::PathBuf;

use xshell::{Cmd, Shell};

use crate::command;
use crate::error::Failure;
use crate::host;

/// The cargo that runs this program, in the repository.
pub fn cargo(sh: &Shell) -> Cmd<'_> {
    sh.change_dir(host::repository());
    sh.cmd(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Builds the trials: `e2e` runs them, `trial` is the program of their processes.
pub fn build_trials(target: &str) -> Result<PathBuf, Failure> {
    build("the trials", &["test", "--package", "scenarios", "--test", "e2e", "--no-run"], target)
}

/// Runs cargo with these arguments, and returns the program of the target of this name.
/// `what` is what an error says cannot be built: "the trials".
pub fn build(what: &str, args: &[&str], target: &str) -> Result<PathBuf, Failure> {
    let failed = |problem: String| Failure::Infrastructure(format!("{what} cannot be built: {problem}"));
    let sh = command::shell()?;
    let build = cargo(&sh).args(args).args(["--message-format", "json-render-diagnostics"]);
    let output = command::capture_stdout(build).map_err(|e| failed(e.to_string()))?;
    let program = output.stdout.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_slice(line).ok()?;
        let program = message["executable"].as_str().filter(|_| message["target"]["name"] == target)?;
        Some(PathBuf::from(program))
    });
    match program {
        Some(program) if output.status.success() => Ok(program),
        _ => Err(failed("the compiler's messages stand above.".to_owned())),
    }
}
