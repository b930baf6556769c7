//! The trials, as tests that `cargo test` and nextest can list, filter and run.
//!
//! `cargo xtask e2e` writes what to run into a `run.json`, whose directory is in `FREEZEFRAME_RUN`.
//! Without that, every scenario runs on the default image.

#![warn(clippy::print_stderr, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use contract::files;
use contract::grade::Outcome;
use contract::image::Manifest;
use contract::plan::{Accel, Plan};
use contract::run::{RUN_DIR_VAR, RunOptions, TrialRequest, checkout};
use contract::seal::Depth;
use contract::text::quote_lines;
use harness::host::accel;
use harness::interrupt;
use harness::trial::supervise;
use judge::verdict::Verdict;
use libtest_mimic::{Arguments, Failed, Trial};
use terminal::log::{self, Verbosity};
use tracing::{error, warn};

fn main() -> ExitCode {
    files::keep_private();
    let arguments = Arguments::from_args();
    log::init(Verbosity::Normal);
    match trials() {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(problem) => {
            error!("{problem}");
            ExitCode::from(2)
        }
    }
}

fn trials() -> Result<Vec<Trial>, Box<dyn std::error::Error>> {
    let options = match std::env::var_os(RUN_DIR_VAR) {
        Some(dir) => {
            // When `cargo xtask e2e` dies, this process must not start further trials.
            interrupt::end_with_parent()?;
            RunOptions::read(Path::new(&dir))?
        }
        None => default_options(),
    };
    let mut requested = options.trials()?;
    // The longest first, so that the run does not end with one of them alone. Unknown ones may be
    // as long.
    let durations = options.durations();
    requested.sort_by_key(|requested| {
        let took = durations.of(&requested.name, requested.scenario.snapshot.cycles);
        std::cmp::Reverse(took.unwrap_or(std::time::Duration::MAX))
    });
    Ok(requested
        .into_iter()
        .map(|requested| {
            let options = options.clone();
            Trial::test(requested.name.clone(), move || test(&options, &requested))
        })
        .collect())
}

/// Runs a trial as a test.
fn test(options: &RunOptions, requested: &TrialRequest) -> Result<(), Failed> {
    let (plan, verdict) = run(options, requested).map_err(|error| {
        error!("{}: {error}", requested.name);
        format!("the trial did not run: {error}")
    })?;
    match verdict.outcome {
        Outcome::Pass => Ok(()),
        Outcome::Fail | Outcome::Unknown => {
            let unmet = quote_lines(usize::MAX, &verdict.unmet.join("\n"));
            Err(format!("{unmet}\nevidence: {}", plan.dir.display()).into())
        }
    }
}

/// Plans and runs a trial, and remembers how long it took.
fn run(
    options: &RunOptions,
    requested: &TrialRequest,
) -> Result<(Plan, Verdict), Box<dyn std::error::Error>> {
    let image = Manifest::read(&options.built, &requested.image)?;
    let _in_use = image.hold()?;
    image.check(Depth::Stamps, &|| false)?;
    let plan = options.plan(requested, image, accelerator(options));
    let verdict = supervise::run(&program()?, &plan)?;
    if let Some(total) = verdict.timings_ms.total.filter(|_| verdict.outcome != Outcome::Unknown) {
        let took = std::time::Duration::from_secs_f64(total / 1000.0);
        if let Err(error) = options.durations().keep(&plan.trial, plan.snapshot.cycles, took) {
            warn!("{}: its duration is not remembered: {error}", plan.trial);
        }
    }
    Ok((plan, verdict))
}

/// The program with the trial's processes, which cargo builds beside this one's folder.
fn program() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let here = std::env::current_exe()?;
    let folder = here.ancestors().nth(2).ok_or("this program is in no folder of cargo's")?;
    Ok(folder.join("trial"))
}

/// The accelerator, found and announced once in this process.
fn accelerator(options: &RunOptions) -> Accel {
    static FOUND: OnceLock<Accel> = OnceLock::new();
    *FOUND.get_or_init(|| {
        if let Some(accel) = options.accel {
            return accel;
        }
        let probe = accel::probe(&checkout().join("target/e2e/.accel.json"));
        if probe.accel == Accel::Tcg {
            warn!(
                "guests run under TCG, QEMU's software emulation, with longer time limits: {}.",
                probe.reason
            );
        }
        probe.accel
    })
}

fn default_options() -> RunOptions {
    let checkout = checkout();
    let dir = checkout.join(format!("target/e2e/by-hand-{}", std::process::id()));
    RunOptions::of(&checkout, dir)
}
