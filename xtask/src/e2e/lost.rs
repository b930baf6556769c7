//! Trials that left no verdict: what is known of them, and the verdict that they get.
//!
//! The trials' program tells on its standard output how each trial ended, as libtest-mimic does with
//! `--format json`: a file may not fit on a disk that is full.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read};
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use contract::files::{self, FileError};
use contract::image::Definition;
use contract::plan::Plan;
use contract::run::{RunOptions, TrialRequest};
use judge::verdict::Verdict;
use serde::Deserialize;
use tracing::warn;

/// How long the last words of a program that has ended may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// By Ctrl-C.
    pub(crate) interrupted: bool,
    /// How the trials' program ended.
    pub(super) status: ExitStatus,
    /// What that program said of trials that did not pass, by their names.
    pub(super) said: BTreeMap<String, String>,
}

impl Ended {
    /// Why a trial has no verdict that can be read.
    pub(crate) fn why_lost(&self, trial: &str, error: &FileError) -> String {
        match self.said.get(trial) {
            Some(said) => said.clone(),
            None if self.interrupted => "the run was interrupted before this trial had a verdict".to_owned(),
            None => {
                format!("the trial left no verdict ({error}); its run's program ended with {}", self.status)
            }
        }
    }
}

/// What the trials' program says, read in a thread of its own.
#[derive(Debug)]
pub(super) struct Said(Receiver<(String, String)>);

/// A line of the program.
#[derive(Debug, Deserialize)]
struct TestEvent {
    name: String,
    event: String,
    stdout: String,
}

impl Said {
    /// Listens until the program ends.
    pub(super) fn listen(program: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            for line in BufReader::new(program).split(b'\n').map_while(Result::ok) {
                // Other lines tell of starts and passes.
                let Ok(TestEvent { name, event, stdout }) = serde_json::from_slice(&line) else { continue };
                if event == "failed" && sender.send((name, reason(&stdout).to_owned())).is_err() {
                    return;
                }
            }
        });
        Self(receiver)
    }

    /// What a program that has ended said, by the names of the trials.
    pub(super) fn heard(self) -> BTreeMap<String, String> {
        let next = || self.0.recv_timeout(LAST_WORDS).ok();
        std::iter::from_fn(next).collect()
    }
}

/// The reason in the message of a test that failed: without libtest-mimic's own words, the grade, and the
/// place of the evidence, which stand beside it.
fn reason(message: &str) -> &str {
    let message = message.trim_end();
    let message = message.strip_prefix("Error: \"").and_then(|it| it.strip_suffix('"')).unwrap_or(message);
    let message = message.split("\nevidence: ").next().unwrap_or(message);
    message.strip_prefix("unknown: ").unwrap_or(message)
}

/// The verdict over a trial that was lost for this reason, which its directory keeps if it can.
pub(super) fn verdict(options: &RunOptions, request: &TrialRequest, reason: &str) -> Verdict {
    let dir = options.trial_dir(&request.name);
    let verdict =
        Plan::read(&dir).map(|plan| Verdict::unknown(&plan, reason.to_owned())).unwrap_or_else(|_| {
            let image = Definition::named(&options.definitions, &request.image).ok();
            let expected =
                image.map(|image| request.scenario.expectation(&request.hook, image.database).to_string());
            Verdict::lost(request, options.seed, expected.unwrap_or_default(), reason)
        });
    if let Err(error) = files::create_dir(&dir).and_then(|()| verdict.write(&dir)) {
        warn!("{}: {error}", request.name);
    }
    verdict
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use contract::grade::{Grade, Outcome};
    use tooling::host;

    use super::*;

    #[test]
    fn the_reason_of_a_trial_that_was_lost_is_heard() {
        let full = "cannot write plan.json: No space left on device (os error 28)";
        let lines = format!(
            "{{ \"type\": \"suite\", \"event\": \"started\", \"test_count\": 3 }}\n\
             {{ \"type\": \"test\", \"event\": \"started\", \"name\": \"a\" }}\n\
             {{ \"type\": \"test\", \"name\": \"a\", \"event\": \"failed\", \"stdout\": \"Error: \\\"unknown: {full}\
             \\nevidence: /runs/a\\\"\\n\" }}\n\
             {{ \"type\": \"test\", \"name\": \"b\", \"event\": \"ok\" }}\n"
        );
        let said = Said::listen(Cursor::new(lines)).heard();
        let ended = |interrupted| Ended { interrupted, status: ExitStatus::default(), said: said.clone() };
        let error = FileError::Read { path: "verdict.json".into(), problem: "there is no such file".into() };
        assert_eq!(ended(true).why_lost("a", &error), full);
        assert!(ended(true).why_lost("c", &error).contains("interrupted"));
        let why = ended(false).why_lost("c", &error);
        assert!(why.contains("no such file") && why.ends_with("ended with exit status: 0"), "{why}");
    }

    #[test]
    fn a_trial_that_was_lost_has_a_verdict_that_stays() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let options = RunOptions::of(host::repository(), run);
        let request = options.trials().unwrap().swap_remove(0);
        let made = verdict(&options, &request, "the disk is full");
        assert_eq!((made.grade, made.outcome), (Grade::Unknown, Outcome::Unknown));
        assert_eq!(made.reason, "unknown: the disk is full");
        assert!(!made.expected.is_empty());
        assert_eq!(Verdict::read(&options.trial_dir(&request.name)).unwrap(), made);
        // It counts although there is no room for it.
        let nowhere = RunOptions { dir: "/dev/null/run".into(), ..options };
        assert_eq!(verdict(&nowhere, &request, "the disk is full"), made);
    }
}
