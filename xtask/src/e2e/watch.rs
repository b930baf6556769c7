//! Shows what runs: a line for each trial under way with its stage, and one for all of them. It reads
//! the event logs; on a pipe it reports only what ends.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use contract::events::{self, Event, EventKind};
use contract::grade::Outcome;
use contract::run::{RunOptions, TrialRequest};
use contract::text::quote;
use indicatif::ProgressBar;
use judge::verdict::Verdict;
use terminal::live::{self, Live};
use tracing::info;

/// How often the lines are brought up to date.
const FRAME: Duration = Duration::from_millis(100);

/// The most that is read of an event log in one frame, bytes; the rest comes with the next.
const MAX_READ: u64 = 1 << 20;

/// Characters of a trial's name that a line shows.
const MAX_NAME: usize = 120;

/// Shows the trials of a run until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn begin(options: &RunOptions, requests: &[TrialRequest], jobs: u16) -> Self {
        let durations = options.durations();
        let watched = |request: &TrialRequest| TrialLine {
            name: request.name.clone(),
            dir: options.trial_dir(&request.name),
            usually: durations.of(&request.name, request.scenario.snapshot.cycles),
            state: LineState::Waiting,
            read: 0,
            line: None,
        };
        let mut trials: Vec<_> = requests.iter().map(watched).collect();
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let live = Live::begin();
            let total = live.lines().add(line("{wide_msg}"));
            let begun = Instant::now();
            loop {
                let last = ends.load(Ordering::SeqCst);
                for trial in &mut trials {
                    trial.update(&live, &total);
                }
                total.set_message(summary(&trials, begun.elapsed(), jobs));
                if last {
                    total.finish_and_clear();
                    live.lines().remove(&total);
                    return;
                }
                thread::park_timeout(FRAME);
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It shows; what came out is in files.
            let _ = thread.join();
        }
    }
}

fn line(template: &str) -> ProgressBar {
    live::line(template, |_, _| {})
}

/// One trial of the run.
#[derive(Debug)]
struct TrialLine {
    name: String,
    dir: PathBuf,
    /// How long it took when it was judged last.
    usually: Option<Duration>,
    state: LineState,
    /// How much of its event log was read, bytes.
    read: u64,
    line: Option<ProgressBar>,
}

#[derive(Debug)]
enum LineState {
    Waiting,
    Running { stage: String, since: Instant, begun: Instant },
    Ended,
}

impl TrialLine {
    /// Reads what is new, and shows it above the line of all.
    fn update(&mut self, live: &Live, total: &ProgressBar) {
        if matches!(self.state, LineState::Ended) {
            return;
        }
        for event in self.new_events() {
            let now = Instant::now();
            match (&mut self.state, event.event) {
                (LineState::Running { stage, since, .. }, EventKind::Begin) => {
                    (*stage, *since) = (event.stage.to_string(), now);
                }
                (state @ LineState::Waiting, _) => {
                    if live.lines().is_hidden() {
                        info!("begins        {}", quote(MAX_NAME, &self.name));
                    }
                    *state = LineState::Running { stage: event.stage.to_string(), since: now, begun: now };
                }
                _ => {}
            }
        }
        if let Ok(verdict) = Verdict::read(&self.dir) {
            self.state = LineState::Ended;
            if let Some(line) = self.line.take() {
                line.finish_and_clear();
            }
            for line in ended(&self.name, &verdict, live.columns()) {
                info!("{line}");
            }
            return;
        }
        if let LineState::Running { stage, since, begun } = &self.state {
            let line = self
                .line
                .get_or_insert_with(|| live.lines().insert_before(total, line("{spinner} {wide_msg}")));
            line.set_message(format!(
                "{stage:8} {:>5}  {:>5}  {}",
                seconds(since.elapsed()),
                seconds(begun.elapsed()),
                quote(MAX_NAME, &self.name)
            ));
            line.tick();
        }
    }

    /// The events that were written since the last update.
    fn new_events(&mut self) -> Vec<Event> {
        let mut text = Vec::new();
        let read = File::open(self.dir.join(events::FILE)).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read))?;
            file.take(MAX_READ).read_to_end(&mut text)
        });
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        // A log that does not exist yet, or cannot be read, shows nothing.
        if read.is_err() || whole == 0 {
            return Vec::new();
        }
        self.read += whole as u64;
        // The header is no event.
        text[..whole]
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }
}

/// How a trial ended: a line, or two where a terminal has fewer columns.
fn ended(name: &str, verdict: &Verdict, columns: Option<usize>) -> Vec<String> {
    let expected = match verdict.outcome {
        Outcome::Pass => "as expected",
        Outcome::Fail => "NOT EXPECTED",
        Outcome::Unknown => "unknown",
    };
    let took = verdict
        .timings_ms
        .total
        .map_or(Duration::ZERO, |ms| Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default());
    let result = format!("{expected:12}  {:22}  {:>5}", verdict.grade, seconds(took));
    fold(result, &quote(MAX_NAME, name), columns)
}

/// A result and the name of its trial, below each other where they do not fit side by side.
fn fold(result: String, name: &str, columns: Option<usize>) -> Vec<String> {
    if columns.is_some_and(|columns| result.chars().count() + 2 + name.chars().count() > columns) {
        return vec![result, format!("{:12}  {name}", "")];
    }
    vec![format!("{result}  {name}")]
}

/// How far the run is, and what is left by how long trials took before.
fn summary(trials: &[TrialLine], elapsed: Duration, jobs: u16) -> String {
    let ended = trials.iter().filter(|trial| matches!(trial.state, LineState::Ended)).count();
    let so_far = format!("{ended} of {} trials, {}", trials.len(), seconds(elapsed));
    match left(trials, jobs) {
        (Some(left), 0) => format!("{so_far}, about {} left", seconds(left)),
        (Some(left), unknown) => {
            format!("{so_far}, at least {} left ({unknown} never measured)", seconds(left))
        }
        (None, _) => so_far,
    }
}

/// What the trials that have not ended need, so many at once; and how many of them were never
/// measured. Nothing is known when none was.
fn left(trials: &[TrialLine], jobs: u16) -> (Option<Duration>, usize) {
    let (mut sum, mut longest, mut known, mut unknown) = (Duration::ZERO, Duration::ZERO, 0, 0);
    for trial in trials {
        let gone = match &trial.state {
            LineState::Waiting => Duration::ZERO,
            LineState::Running { begun, .. } => begun.elapsed(),
            LineState::Ended => continue,
        };
        let Some(usually) = trial.usually else {
            unknown += 1;
            continue;
        };
        let left = usually.saturating_sub(gone);
        (sum, longest, known) = (sum + left, longest.max(left), known + 1);
    }
    let left = longest.max(sum / u32::from(jobs));
    ((known > 0).then_some(left), unknown)
}

/// `43 s`, `2 min 5 s`.
fn seconds(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn trial(usually: Option<u64>, state: LineState) -> TrialLine {
        let usually = usually.map(Duration::from_secs);
        TrialLine { name: "core/x::i::h".into(), dir: PathBuf::new(), usually, state, read: 0, line: None }
    }

    #[test]
    fn what_is_left_is_estimated_from_measured_times_only() {
        let waiting = |seconds| trial(seconds, LineState::Waiting);
        assert_eq!(left(&[waiting(None)], 2), (None, 1));
        assert_eq!(
            left(&[waiting(Some(30)), waiting(Some(50)), waiting(None)], 2),
            (Some(Duration::from_secs(50)), 1)
        );
        assert_eq!(
            left(&[waiting(Some(30)), trial(Some(9), LineState::Ended)], 1),
            (Some(Duration::from_secs(30)), 0)
        );
        let shown = summary(&[waiting(Some(200)), trial(None, LineState::Ended)], Duration::from_secs(7), 1);
        assert_eq!(shown, "1 of 2 trials, 7 s, about 3 min 20 s left");
    }

    #[test]
    fn a_result_fits_the_terminal() {
        let fold = |columns| fold("unknown".to_owned(), "core/x::i::h", columns);
        assert_eq!([fold(None), fold(Some(21))], [["unknown  core/x::i::h"], ["unknown  core/x::i::h"]]);
        assert_eq!(fold(Some(20)), ["unknown", "              core/x::i::h"]);
    }

    #[test]
    fn a_log_is_read_line_by_line_as_it_grows() {
        let dir = tempfile::tempdir().unwrap();
        let mut trial = TrialLine { dir: dir.path().to_owned(), ..trial(None, LineState::Waiting) };
        assert!(trial.new_events().is_empty());
        let mut file = File::create(dir.path().join(events::FILE)).unwrap();
        let event = r#"{"t":1,"stage":"boot","event":"begin"}"#;
        write!(file, "{{\"schema\":1,\"kind\":\"events\"}}\n{event}\n{}", &event[..9]).unwrap();
        assert_eq!(trial.new_events().len(), 1);
        assert!(trial.new_events().is_empty());
        writeln!(file, "{}", &event[9..]).unwrap();
        assert_eq!(trial.new_events().len(), 1);
    }
}
