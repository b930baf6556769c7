//! Runs the programs of a build: their output goes to its log, and a failure
//! names the log and shows its end.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use terminal::command::Run as _;
use tracing::info;

use crate::error::Failure;

/// As much of a log as an error shows.
const SHOWN_LINES: usize = 12;
const SHOWN_COLUMNS: usize = 200;

/// The log of one build, which also tells the user how far it is.
#[derive(Debug)]
pub(crate) struct Log {
    image: String,
    path: PathBuf,
}

impl Log {
    /// Starts the log of a build of `image` anew.
    pub(crate) fn create(path: PathBuf, image: &str) -> Result<Self, Failure> {
        File::create(&path).map_err(|e| Failure::io("create", &path, &e))?;
        Ok(Self { image: image.to_owned(), path })
    }

    /// Does `work`, and tells that it began and how long it took.
    pub(crate) fn stage<T>(
        &self,
        what: &str,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        info!("{}: {what} ...", self.image);
        let start = Instant::now();
        let value = work()?;
        info!("{}: {what}: {:.1} s", self.image, start.elapsed().as_secs_f64());
        Ok(value)
    }

    /// Runs `command` to its end.
    pub(crate) fn run(&self, mut command: Command) -> Result<(), Failure> {
        let io = |e| Failure::io("write", &self.path, &e);
        let mut log = File::options().append(true).open(&self.path).map_err(io)?;
        writeln!(log, "$ {command:?}").map_err(io)?;
        let errors = log.try_clone().map_err(io)?;
        let status = command.stdin(Stdio::null()).stdout(log).stderr(errors).run_status();
        let program = Path::new(command.get_program()).display();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::Infrastructure(format!(
                "{}: {program} failed ({status}). The end of {}:\n{}",
                self.image,
                self.path.display(),
                self.end()
            ))),
            Err(source) => {
                Err(Failure::Infrastructure(format!("{}: cannot start {program}: {source}.", self.image)))
            }
        }
    }

    fn end(&self) -> String {
        let text = fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].iter();
        let shown: Vec<String> = shown.map(|line| line.chars().take(SHOWN_COLUMNS).collect()).collect();
        shown.join("\n")
    }
}
