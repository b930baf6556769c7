//! `cargo xtask bench judge`: how long judging takes, and how much memory.

use std::path::{Path, PathBuf};
use std::time::Instant;

use contract::grade::Grade;
use contract::history::Entry;
use contract::jsonl;
use contract::observation::Record;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use synthetic::{self, LogFiles, Logs, Shape};
use terminal::live::Steps;
use terminal::results;
use tooling::command::{self, shell};
use tooling::error::Failure;
use tooling::host;
use xshell::cmd;

use super::report::{Figure, Goal, Report, Unit};
use crate::number::number;

/// The operations of each history.
const SMALL: u64 = 100_000;
const MILLION: u64 = 1_000_000;
const TWO_MILLIONS: u64 = 2_000_000;
/// The longest that judging a million may take, milliseconds.
const MAX_MS: f64 = 2_000.0;
/// The most memory that it may take, MiB.
const MAX_MIB: f64 = 1_024.0;
/// How many times longer two millions may take: twice, and a quarter for noise.
const MAX_RATIO: f64 = 2.5;

/// Judges synthetic trials of a hundred thousand, one and two million operations
/// from files, each time in a process of its own.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many times each trial is judged.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = number::<u32>(1..=1000))]
    repeat: u32,
    /// Seed of the trials.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number::<u64>(0..=u64::MAX))]
    seed: u64,
}

/// Judges a directory once and prints a measurement: what `judge` runs.
#[derive(Debug, clap::Args)]
pub(crate) struct OnceArgs {
    dir: PathBuf,
}

/// One run.
#[derive(Debug, Serialize, Deserialize)]
struct Measurement {
    /// From the first byte read to the last record checked.
    read_ms: f64,
    /// From there to the grade.
    judge_ms: f64,
    /// Both.
    total_ms: f64,
    /// The processor's time in it, which other programs on the host do not stretch.
    cpu_ms: f64,
    /// The most memory that the process ever held.
    peak_mib: f64,
}

/// What the runs over one trial came to.
struct Size {
    total: Figure,
    peak: Figure,
    others: Vec<Figure>,
}

pub(super) fn run(args: &Args) -> Result<Report, Failure> {
    let target = host::repository().join("target");
    let trials =
        tempfile::tempdir_in(&target).map_err(|e| Failure::io("create a directory in", &target, e))?;
    let steps = Steps::counted("bench judge", 3 * (1 + args.repeat as usize));
    let size = |operations: u64| size(args, &steps, &trials.path().join(operations.to_string()), operations);
    let (small, one, two) = (size(SMALL)?, size(MILLION)?, size(TWO_MILLIONS)?);
    let goals = vec![
        Goal::at_most("milliseconds for a million", MAX_MS, one.total.median),
        Goal::at_most("MiB for a million", MAX_MIB, one.peak.median),
        Goal::at_most("time of two millions to that of one", MAX_RATIO, two.total.median / one.total.median),
    ];
    let figures = [small, one, two]
        .into_iter()
        .flat_map(|size| [size.total].into_iter().chain(size.others).chain([size.peak]))
        .collect();
    let measured = format!(
        "Judging a trial's files, {} times in a process of its own, seed {}.",
        args.repeat, args.seed
    );
    Ok(Report { benchmark: "judge", measured, figures, goals })
}

fn size(args: &Args, steps: &Steps, dir: &Path, operations: u64) -> Result<Size, Failure> {
    std::fs::create_dir(dir).map_err(|e| Failure::io("create", dir, e))?;
    steps
        .step(format_args!("making a trial of {operations} operations"), || {
            generate(dir, args.seed, operations)
        })
        .map_err(Failure::infrastructure)?;
    let mut runs = Vec::new();
    for _ in 0..args.repeat {
        runs.push(steps.step(format_args!("judging {operations} operations"), || in_a_process(dir))?);
    }
    let figure = |what: &str, unit, part: fn(&Measurement) -> f64| {
        Figure::of(format!("{operations} {what}"), unit, runs.iter().map(part).collect())
    };
    Ok(Size {
        total: figure("in all", Unit::Millis, |run| run.total_ms),
        peak: figure("memory", Unit::Mib, |run| run.peak_mib),
        others: vec![
            figure("reading", Unit::Millis, |run| run.read_ms),
            figure("judging", Unit::Millis, |run| run.judge_ms),
            figure("processor", Unit::Millis, |run| run.cpu_ms),
        ],
    })
}

/// Prints one measurement.
pub(super) fn once(args: &OnceArgs) -> Result<(), Failure> {
    let json = serde_json::to_string(&measure(&args.dir)?)
        .map_err(|e| Failure::Json { what: "the measurement", source: e })?;
    results::line(format_args!("{json}"));
    Ok(())
}

/// Counts the operations sent, and hands everything on.
struct Counting<L> {
    operations: u64,
    logs: L,
}

impl<L: Logs> Logs for Counting<L> {
    type Error = L::Error;

    fn entry(&mut self, entry: Entry) -> Result<(), L::Error> {
        self.operations += u64::from(matches!(entry, Entry::Invoke { .. }));
        self.logs.entry(entry)
    }

    fn record(&mut self, record: Record) -> Result<(), L::Error> {
        self.logs.record(record)
    }
}

struct Nowhere;

impl Logs for Nowhere {
    type Error = jsonl::Error;

    fn entry(&mut self, _: Entry) -> Result<(), jsonl::Error> {
        Ok(())
    }

    fn record(&mut self, _: Record) -> Result<(), jsonl::Error> {
        Ok(())
    }
}

/// Writes a trial of at least so many operations, most of them before the
/// freeze; returns how many they are.
fn generate(dir: &Path, seed: u64, operations: u64) -> Result<u64, jsonl::Error> {
    // A trial is made to a length of time: a short one shows how long it must be.
    let sample_ms = 100_000;
    let sample = Shape {
        writers: 8,
        accounts: 1_000,
        load_ms: sample_ms,
        freeze_at: 95,
        losing: 0,
        ..Shape::new(seed)
    };
    let mut counting = Counting { operations: 0, logs: Nowhere };
    synthetic::make(&sample, &mut counting)?;
    let exact = operations as f64 / counting.operations as f64 * sample_ms as f64;
    // One in a hundred more, because the rate varies.
    let shape = Shape { load_ms: (exact * 1.01) as u64, ..sample };
    let mut counting = Counting { operations: 0, logs: LogFiles::create(dir)? };
    synthetic::make(&shape, &mut counting)?;
    counting.logs.flush()?;
    Ok(counting.operations)
}

/// Judges a directory in a process of its own, whose peak is that of the judge alone.
fn in_a_process(dir: &Path) -> Result<Measurement, Failure> {
    let failed = |problem: String| Failure::Infrastructure(format!("a run of the judge failed: {problem}."));
    let program = std::env::current_exe().map_err(|e| failed(e.to_string()))?;
    let sh = shell()?;
    let printed = command::read(cmd!(sh, "{program} bench judge-once {dir}"))?;
    serde_json::from_slice(&printed).map_err(|e| failed(e.to_string()))
}

fn measure(dir: &Path) -> Result<Measurement, Failure> {
    let begin = Instant::now();
    let case = judge::read(dir).map_err(Failure::usage)?;
    let read = begin.elapsed();
    let judgement = judge::judge(&case);
    let total = begin.elapsed();
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    if judgement.grade != Grade::ApplicationConsistent {
        return Err(Failure::Infrastructure(format!("a right trial was misjudged: {}.", judgement.reason)));
    }
    let millis = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    Ok(Measurement {
        read_ms: millis(read),
        judge_ms: millis(total - read),
        total_ms: millis(total),
        cpu_ms: cpu.tv_sec as f64 * 1e3 + cpu.tv_nsec as f64 / 1e6,
        peak_mib: peak_mib()?,
    })
}

/// The most memory that this process ever held.
fn peak_mib() -> Result<f64, Failure> {
    let path = Path::new("/proc/self/status");
    let status = std::fs::read_to_string(path).map_err(|e| Failure::io("read", path, e))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok())
        .map(|kib: u64| mib(kib * 1024))
        .ok_or_else(|| Failure::Infrastructure(format!("{} names no VmHWM.", path.display())))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}
