//! Programs that a task builds: they link libvirt, which this program may not, so setup must have
//! run before.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::Failure;
use crate::host;

/// Builds the trials: `e2e` runs them, `trial` is the program of their processes.
pub(crate) fn build_trials(target: &str) -> Result<PathBuf, Failure> {
    build("the trials", &["test", "--package", "scenarios", "--test", "e2e", "--no-run"], target)
}

/// Runs cargo with these arguments, and returns the program of the target of this name.
/// `what` is what an error says cannot be built: "the trials".
pub(crate) fn build(what: &str, args: &[&str], target: &str) -> Result<PathBuf, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let failed = |problem: String| Failure::Infrastructure(format!("{what} cannot be built: {problem}."));
    let mut build = Command::new(cargo)
        .args(args)
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(host::repository())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let mut program = None;
    if let Some(stdout) = build.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let message: serde_json::Value =
                serde_json::from_str(&line.map_err(|e| failed(e.to_string()))?).unwrap_or_default();
            if message["target"]["name"] == target
                && let Some(executable) = message["executable"].as_str()
            {
                program = Some(PathBuf::from(executable));
            }
        }
    }
    let status = build.wait().map_err(|e| failed(e.to_string()))?;
    match program {
        Some(program) if status.success() => Ok(program),
        _ => Err(failed("the compiler's messages stand above".to_owned())),
    }
}
