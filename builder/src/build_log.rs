//! Runs the programs of a build: their output goes to its log, and a failure
//! names the log and shows its end.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use contract::text::quote;
use terminal::live::Steps;
use tooling::command::{self, CommandError};
use tooling::error::Failure;
use xshell::Cmd;

/// How much of a log an error shows: its last lines, and so many characters of each.
const SHOWN_LINES: usize = 12;
const SHOWN_COLUMNS: usize = 200;

/// The log of one build, which also shows how far it is.
#[derive(Debug)]
pub(crate) struct BuildLog {
    image: String,
    path: PathBuf,
    steps: Steps,
}

impl BuildLog {
    /// Creates the log of a build of `image`, or empties that of the last one.
    pub(crate) fn create(path: PathBuf, image: &str) -> Result<Self, Failure> {
        File::create(&path).map_err(|e| Failure::io("create", &path, e))?;
        Ok(Self { image: image.to_owned(), path, steps: Steps::of(image) })
    }

    /// Does one stage of the build, and shows it while it is under way.
    pub(crate) fn stage<T>(
        &self,
        what: &str,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.steps.step(what, work)
    }

    /// The steps of the build.
    pub(crate) fn steps(&self) -> &Steps {
        &self.steps
    }

    /// Runs a command to its end; what it prints goes to the log.
    pub(crate) fn run(&self, cmd: Cmd<'_>) -> Result<(), Failure> {
        let io = |e| Failure::io("write", &self.path, e);
        let mut log = File::options().append(true).open(&self.path).map_err(io)?;
        writeln!(log, "$ {cmd}").map_err(io)?;
        let errors = log.try_clone().map_err(io)?;
        let line = cmd.to_string();
        let program = line.split(' ').next().unwrap_or_default();
        let status = match command::status(cmd, log, errors) {
            Ok(status) => status,
            Err(missing @ CommandError::NotInstalled(_)) => return Err(missing.into()),
            Err(error) => return Err(Failure::Infrastructure(format!("{}: {error}", self.image))),
        };
        if status.success() {
            return Ok(());
        }
        Err(Failure::Infrastructure(format!(
            "{}: {program} failed ({status}). The end of {}:\n{}",
            self.image,
            self.path.display(),
            self.end()
        )))
    }

    fn end(&self) -> String {
        let text = fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].iter();
        let shown: Vec<String> = shown.map(|line| quote(SHOWN_COLUMNS, line)).collect();
        shown.join("\n")
    }
}
