//! `cargo xtask bench judge`: how long judging takes, and how much memory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use freezeframe::history::Entry;
use freezeframe::jsonl;
use freezeframe::judge;
use freezeframe::judge::synthetic::{self, Files, Logs, Shape};
use freezeframe::observation::Record;
use freezeframe::verdict::Grade;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{median, print_json};
use crate::error::Failure;
use crate::host;

/// The operations of each history; the second is twice the first.
const SIZES: [u64; 2] = [1_000_000, 2_000_000];
/// The longest that judging the first may take, milliseconds.
const MAX_MS: f64 = 2_000.0;
/// The most memory that it may take, MiB.
const MAX_MIB: f64 = 1_024.0;
/// How many times longer the second may take: twice, and a quarter for noise.
const MAX_RATIO: f64 = 2.5;

/// Judges synthetic trials of one and two million operations from files, each
/// run in a process of its own, and prints the medians.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many times each trial is judged.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Seed of the trials.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Prints the measurements as JSON.
    #[arg(long)]
    json: bool,
    /// Judges this directory once and prints a measurement: what a run does.
    #[arg(long, value_name = "DIR", hide = true)]
    measure: Option<PathBuf>,
}

/// One run, or the medians of several.
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

#[derive(Debug, Serialize)]
struct Size {
    /// Transfers and rows that were sent.
    operations: u64,
    /// The length of both logs.
    mib: f64,
    #[serde(flatten)]
    median: Measurement,
}

#[derive(Debug, Serialize)]
struct Goal {
    name: &'static str,
    limit: f64,
    measured: f64,
    met: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    seed: u64,
    runs: u32,
    sizes: Vec<Size>,
    goals: Vec<Goal>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(dir) = &args.measure {
        return print_json(&measure(dir)?);
    }
    let target = host::repository().join("target");
    let trials =
        tempfile::tempdir_in(&target).map_err(|e| Failure::io("create a directory in", &target, &e))?;
    let mut sizes = Vec::new();
    for operations in SIZES {
        sizes.push(size(args, &trials.path().join(operations.to_string()), operations)?);
    }
    let goals = goals(&sizes);
    let report = Report { benchmark: "judge", seed: args.seed, runs: args.runs, sizes, goals };
    if args.json {
        print_json(&report)?;
    } else {
        print(&report);
    }
    let missed: Vec<_> = report.goals.iter().filter(|goal| !goal.met).map(|goal| goal.name).collect();
    if missed.is_empty() {
        return Ok(());
    }
    Err(Failure::Expectation(format!("the judge missed its goal: {}.", missed.join(", "))))
}

fn size(args: &Args, dir: &Path, operations: u64) -> Result<Size, Failure> {
    eprintln!("making a trial of {operations} operations");
    std::fs::create_dir(dir).map_err(|e| Failure::io("create", dir, &e))?;
    let operations =
        generate(dir, args.seed, operations).map_err(|e| Failure::Infrastructure(e.to_string()))?;
    let mut runs = Vec::new();
    for run in 1..=args.runs {
        eprintln!("judging it: {run} of {}", args.runs);
        runs.push(in_a_process(dir)?);
    }
    let bytes: u64 = [judge::HISTORY, judge::OBSERVATION]
        .into_iter()
        .filter_map(|name| std::fs::metadata(dir.join(name)).ok())
        .map(|file| file.len())
        .sum();
    let of = |part: fn(&Measurement) -> f64| median(runs.iter().map(part).collect());
    let median = Measurement {
        read_ms: of(|run| run.read_ms),
        judge_ms: of(|run| run.judge_ms),
        total_ms: of(|run| run.total_ms),
        cpu_ms: of(|run| run.cpu_ms),
        peak_mib: of(|run| run.peak_mib),
    };
    Ok(Size { operations, mib: mib(bytes), median })
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
    // A trial is made to a length of time: a short one tells how long it must be.
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
    let mut counting = Counting { operations: 0, logs: Files::create(dir)? };
    synthetic::make(&shape, &mut counting)?;
    counting.logs.flush()?;
    Ok(counting.operations)
}

/// Judges a directory in a process of its own, whose peak is that of the judge alone.
fn in_a_process(dir: &Path) -> Result<Measurement, Failure> {
    let failed = |problem: String| Failure::Infrastructure(format!("a run of the judge failed: {problem}."));
    let program = std::env::current_exe().map_err(|e| failed(e.to_string()))?;
    let output = Command::new(program)
        .args(["bench", "judge", "--measure"])
        .arg(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| failed(e.to_string()))
}

fn measure(dir: &Path) -> Result<Measurement, Failure> {
    let begin = Instant::now();
    let case = judge::read(dir).map_err(|e| Failure::Question(e.to_string()))?;
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
    let status = std::fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok())
        .map(|kib: u64| mib(kib * 1024))
        .ok_or_else(|| Failure::Infrastructure(format!("{} names no VmHWM.", path.display())))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn goals(sizes: &[Size]) -> Vec<Goal> {
    let [one, two] = sizes else { return Vec::new() };
    let goal = |name, limit, measured| Goal { name, limit, measured, met: measured < limit };
    vec![
        goal("milliseconds for a million", MAX_MS, one.median.total_ms),
        goal("MiB for a million", MAX_MIB, one.median.peak_mib),
        goal("two millions to one", MAX_RATIO, two.median.total_ms / one.median.total_ms),
    ]
}

fn print(report: &Report) {
    let heads = ["logs", "read", "judge", "total", "processor", "peak"].map(|head| format!("{head:>9}"));
    println!("operations  {}", heads.join("  "));
    for Size { operations, mib, median } in &report.sizes {
        let Measurement { read_ms, judge_ms, total_ms, cpu_ms, peak_mib } = median;
        let times = [read_ms, judge_ms, total_ms, cpu_ms].map(|ms| format!("{ms:>6.0} ms"));
        println!("{operations:>10}  {mib:>5.0} MiB  {}  {peak_mib:>5.0} MiB", times.join("  "));
    }
    println!("Medians of {} runs, seed {}.", report.runs, report.seed);
    for Goal { name, limit, measured, met } in &report.goals {
        let met = if *met { "met" } else { "MISSED" };
        println!("{name}: {measured:.2}, goal below {limit}: {met}");
    }
}
