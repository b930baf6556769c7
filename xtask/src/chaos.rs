//! `cargo xtask chaos`: runs in which something goes wrong on the host, and what they leave and say.

mod check;
mod fault;
mod processes;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use contract::events::{self, Event, EventKind};
use contract::jsonl;
use contract::run::RunOptions;
use jiff::Zoned;
use rand::SeedableRng as _;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use terminal::results;
use tooling::error::Failure;
use tooling::host;
use tracing::info;

use crate::number::number;
use crate::{images, setup};
use check::Ended;
use fault::{Fault, Moment};
use processes::PAUSE;

/// The trials: one that must come out on top, and one that must not.
const TRIALS: [&str; 2] =
    ["core/quiesced-snapshot::bookworm-mariadb::freezeframe", "core/no-hook::bookworm-mariadb::none"];

/// How long a trial is taken to last that was never measured.
const UNMEASURED: Duration = Duration::from_secs(40);

/// How long a run may take beyond its trial's own limit: two times for a trial to stop, and the
/// start and end of everything.
const BEYOND_LIMIT: Duration = Duration::from_secs(240);

/// Kills, stops and starves processes of runs at random moments, and checks after each run that
/// nothing is left, that no grade and no exit code is wrong, and that it ended in time.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many runs of one trial each.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = number::<u32>(1..=10000))]
    rounds: u32,
    /// Seed of the first round's choices; each next round has the next [default: random]. The same
    /// seed makes the same choices, but not the same moments to the microsecond.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u64>(0..=u64::MAX))]
    seed: Option<u64>,
    /// The trial to run, by its whole name, such as `tools/virsh-push::bookworm-mariadb::freezeframe` [default: one
    /// of two core trials at random].
    #[arg(long, value_name = "NAME", value_parser = trial_name)]
    trial: Option<String>,
}

/// A trial's whole name.
fn trial_name(name: &str) -> Result<String, String> {
    match image(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err("a trial's name is `FOLDER/SCENARIO::IMAGE::HOOK`, as `e2e` prints it".to_owned()),
    }
}

/// The image in a trial's whole name.
fn image(trial: &str) -> Option<&str> {
    match trial.split("::").collect::<Vec<_>>()[..] {
        [_, image, _] => Some(image),
        _ => None,
    }
}

/// One round: what was done to which trial, and what came of it.
#[derive(Debug)]
struct Round {
    seed: u64,
    trial: String,
    /// What was done, to whom, and in which stage of the trial; nothing when the run had ended.
    done: Option<Moment>,
    ended: Ended,
    took: Duration,
    /// What is wrong with the end, as sentences.
    wrong: Vec<String>,
    /// The run's directory.
    dir: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    setup::ensure()?;
    let trials =
        args.trial.as_ref().map_or_else(|| TRIALS.map(str::to_owned).to_vec(), |it| vec![it.clone()]);
    let mut images: Vec<_> = trials.iter().filter_map(|it| image(it)).map(str::to_owned).collect();
    images.dedup();
    images::ensure(&images)?;
    let first = args.seed.unwrap_or_else(|| Zoned::now().timestamp().as_millisecond().unsigned_abs());
    info!("{} rounds from seed {first}", args.rounds);
    let mut wrong = 0;
    for n in 0..args.rounds {
        let round = round(first.wrapping_add(n.into()), &trials)?;
        results::line(line(n + 1, &round));
        for problem in &round.wrong {
            results::line(format_args!("     WRONG: {problem}"));
        }
        if !round.wrong.is_empty() {
            wrong += 1;
            results::line(format_args!("     its files: {}", round.dir.display()));
        }
    }
    let of = args.rounds;
    if wrong == 0 {
        results::line(format_args!("{of} rounds: nothing was left, nothing was wrong, nothing hung."));
        return Ok(());
    }
    Err(Failure::Expectation(format!("{wrong} of {of} rounds went wrong; the first seed was {first}.")))
}

/// `  3  seed 17  SIGKILL the trial in freeze   unknown   exit 3   12 s  core/no-hook::...`.
fn line(n: u32, round: &Round) -> String {
    let done = round.done.as_ref().map_or_else(|| "nothing: it had ended".to_owned(), ToString::to_string);
    format!(
        "{n:4}  seed {}  {done:46}  {:22}  {:9}  {:>4} s  {}",
        round.seed,
        round.ended.grade(),
        round.ended.exit(),
        round.took.as_secs(),
        round.trial
    )
}

fn round(seed: u64, trials: &[String]) -> Result<Round, Failure> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let trial = trials.choose(&mut random).map_or("", |it| it);
    let (mut run, output) = start(trial)?;
    let begin = Instant::now();
    let runs = host::repository().join("target/e2e");
    let dir = runs.join(find_run(&runs, &mut run, output.path())?);
    let options = RunOptions::read(&dir).map_err(Failure::infrastructure)?;
    let (trial_dir, durations) = (options.trial_dir(trial), options.durations());
    let usually = durations.of(trial, 1).unwrap_or(UNMEASURED);
    let fault = Fault::choose(&mut random, usually);
    let limit = durations.limit(trial, 1) + BEYOND_LIMIT;

    let pid = Pid::from_child(&run);
    let done = fault.strike(&mut random, &mut run, &dir, || stage(&trial_dir))?;
    let status = wait(&mut run, limit)?;
    let hung = status.is_none();
    let status = match status {
        Some(status) => status,
        None => end_by_force(&mut run, pid, &dir)?,
    };
    let ended = Ended::read(status, &trial_dir);
    let mut wrong = ended.problems(done.as_ref());
    if hung {
        wrong.push(format!("the run had not ended after {} s", limit.as_secs()));
    }
    wrong.extend(check::left(pid, &dir, done.as_ref())?);
    let took = begin.elapsed();
    if wrong.is_empty() {
        // Hundreds of rounds should not fill the disk.
        fs::remove_dir_all(&dir).map_err(|e| Failure::io("remove", &dir, e))?;
    } else {
        let kept = dir.join("output.log");
        fs::copy(output.path(), &kept).map_err(|e| Failure::io("write", &kept, e))?;
    }
    Ok(Round { seed, trial: trial.to_owned(), done, ended, took, wrong, dir })
}

/// Starts a run of one trial. Returns it with the file of what it prints.
fn start(trial: &str) -> Result<(Child, tempfile::NamedTempFile), Failure> {
    let failed = |e: std::io::Error| Failure::Infrastructure(format!("cannot start a run: {e}."));
    let output = tempfile::NamedTempFile::new().map_err(failed)?;
    let file = || output.reopen().map_err(failed);
    let mut run = Command::new(std::env::current_exe().map_err(failed)?);
    run.args(["e2e", trial, "--image", image(trial).unwrap_or_default(), "--jobs", "1"]);
    run.stdin(Stdio::null()).stdout(file()?).stderr(file()?);
    Ok((run.spawn().map_err(failed)?, output))
}

/// The name of a run's directory, which ends with the number of its process.
fn find_run(runs: &Path, run: &mut Child, output: &Path) -> Result<String, Failure> {
    let suffix = format!("-{}", run.id());
    loop {
        let entries = fs::read_dir(runs).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut ours =
            names.filter(|name| name.ends_with(&suffix) && runs.join(name).join(RunOptions::FILE).exists());
        if let Some(name) = ours.next() {
            return Ok(name);
        }
        if run.try_wait().is_ok_and(|ended| ended.is_some()) {
            let said = fs::read_to_string(output).unwrap_or_default();
            let said = said.lines().next_back().unwrap_or("nothing");
            return Err(Failure::Infrastructure(format!(
                "a run ended before it had a directory; the last that it said: {said}"
            )));
        }
        thread::sleep(PAUSE);
    }
}

/// The stage in which a trial is, or `before`.
fn stage(trial: &Path) -> String {
    let log = jsonl::Reader::<Event>::open(&trial.join(events::FILE), events::KIND);
    // Its last line may be half written.
    let last = log.into_iter().flatten().flatten().filter(|event| event.event == EventKind::Begin).last();
    last.map_or_else(|| "before".to_owned(), |event| event.stage.to_string())
}

/// Waits for the end of a run; `None` when it does not come in time.
fn wait(run: &mut Child, limit: Duration) -> Result<Option<ExitStatus>, Failure> {
    let deadline = Instant::now() + limit;
    loop {
        let ended =
            run.try_wait().map_err(|e| Failure::Infrastructure(format!("cannot wait for a run: {e}.")))?;
        if ended.is_some() || Instant::now() > deadline {
            return Ok(ended);
        }
        thread::sleep(PAUSE);
    }
}

/// Kills a run that does not end.
fn end_by_force(run: &mut Child, pid: Pid, dir: &Path) -> Result<ExitStatus, Failure> {
    for process in processes::of_run(pid, dir)? {
        let _ = kill_process(process.pid, Signal::KILL);
    }
    run.wait().map_err(|e| Failure::Infrastructure(format!("cannot wait for a run: {e}.")))
}
