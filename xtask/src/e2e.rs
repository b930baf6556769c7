//! `cargo xtask e2e`: the main job. Setup, images, trials, and a table of
//! verdicts.

mod explain;
mod hook;
mod list;
mod lost;
mod own_commands;
pub(crate) mod processes;
mod question;
mod room;
mod summary;
mod table;
mod watch;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use builder::packages;
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use contract::events;
use contract::files;
use contract::grade::Outcome;
use contract::image::{Definition, DefinitionError, Manifest};
use contract::plan::{Accel, Keep, Plan};
use contract::run::{RUN_DIR_VAR, RunOptions, TrialRequest};
use contract::runtime_dir::Home;
use contract::scenario::{Hook, Scenario, SnapshotMethod};
use jiff::Zoned;
use judge::verdict::Verdict;
use rustix::io::FdFlags;
use terminal::command::Timer;
use terminal::{live, log};
use tooling::command::shell;
use tooling::error::Failure;
use tooling::{cargo, host};
use tracing::{info, warn};
use xshell::cmd;

use crate::number::number;
use crate::{images, leftovers, report, setup};
use lost::{Ended, Said};
use processes::CtrlC;
use table::Row;
use watch::Watch;

/// The scenarios that run by default.
const CORE: &str = "core/";

/// Runs trials on real guests: prepares the host, builds the images, and
/// grades a backup for each scenario, image and hook.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only trials whose name contains one of these, such as `no-hook` [default: `core/`, or with a backup command
    /// of your own `tools/your-own`].
    filters: Vec<String>,
    /// The images to run on; several are separated by commas, or each has its own `--image` [default: for each
    /// scenario one that suits it].
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    image: Vec<String>,
    /// A set of images and scenarios: `core` runs the core scenarios on every
    /// distribution with all on one ext4 disk, `full` every scenario without a backup tool on every image.
    /// Images that are marked `unverified` take part only when `--image` names them.
    #[arg(long, value_enum, conflicts_with = "image")]
    matrix: Option<Matrix>,
    /// One hook for all trials: `none`, `distro`, `distro-enabled` (the same, and
    /// its agent is made to run it), `sample`, `freezeframe`, `package` (its .deb
    /// on what the distribution ships), or your own file, from which
    /// `application-consistent` is then expected.
    #[arg(long, value_name = "HOOK|FILE")]
    hook: Option<PathBuf>,
    /// One way to take snapshots for all trials, instead of what their scenarios say: `external`
    /// (the guest writes to new overlays from then on), `backup-push` (libvirt copies the disks
    /// while the guest runs), `host-copy` (the host's file system clones their files; needs XFS,
    /// btrfs or another that can, under `target/e2e`).
    #[arg(long, value_name = "METHOD", value_parser = snapshot_methods())]
    snapshot: Option<SnapshotMethod>,
    #[command(flatten)]
    own: own_commands::Args,
    /// A running libvirt to use, such as qemu:///session, instead of the one
    /// embedded in each trial. It must run guests as you: their files are for you only.
    #[arg(long, value_name = "URI", value_parser = question::connection)]
    connect: Option<String>,
    /// The accelerator of the guests.
    #[arg(long, value_enum, default_value_t = AccelChoice::Auto)]
    accel: AccelChoice,
    /// Boots every guest, instead of starting the first one of a trial from the
    /// memory that was saved at an earlier boot of its image.
    #[arg(long)]
    cold: bool,
    /// How many times the trials freeze, snapshot and thaw that do it several
    /// times under one load [default: what their scenarios say]. With `--image`, or a file as
    /// `--hook`, that is every trial in which nothing is made to go wrong: N snapshots [default: 5]
    /// are attached to a guest that runs, one more is booted, and the worst grade counts.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u32>(2..=1000))]
    cycles: Option<u32>,
    /// How many trials run at once [default: one for each processor, or for two where
    /// each is repeated].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u16>(1..=1000))]
    jobs: Option<u16>,
    /// Seed of the load; the same seed replays the same operations [default: random].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u64>(0..=u64::MAX))]
    seed: Option<u64>,
    /// Keeps the disks of these trials; logs and verdicts always stay.
    #[arg(long, value_enum)]
    keep: Option<KeepChoice>,
    /// Another folder of scenario files.
    #[arg(long, value_name = "DIR")]
    scenarios: Option<PathBuf>,
    /// Prints the verdicts, or the list, as JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Lists the trials that would run, what each covers and how long it took before, and runs none.
    #[arg(long)]
    list: bool,
    /// Explains a property of verdicts, such as `N1` or `tables-closed`, and runs nothing.
    #[arg(long, value_name = "PROPERTY", exclusive = true)]
    explain: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Matrix {
    /// The core scenarios on every distribution.
    Core,
    /// Every scenario without a backup tool on every image that suits it.
    Full,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AccelChoice {
    /// KVM where a probe has run instructions on it, otherwise TCG.
    Auto,
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KeepChoice {
    /// Those that did not meet their expectation.
    Failed,
    /// All.
    All,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    // Invalid usage or input is found before anything is installed, built or booted.
    if let Some(name) = &args.explain {
        return explain::print(name);
    }
    let (json, list, jobs) = (args.json, args.list, args.jobs);
    let options = options(args)?;
    let requests = options.trials()?;
    leave_out_impossible(&options)?;
    question::check(&options, &requests)?;
    if list {
        return list::print(&options, &requests, json);
    }

    let jobs = jobs.unwrap_or_else(|| default_jobs(options.repeat));
    remove_leftovers()?;
    room::check(&options, &requests, jobs)?;
    let ready = prepare(&options, &requests)?;
    options.write().map_err(Failure::infrastructure)?;
    report::remember(&options.dir, requests.iter().map(|request| request.name.clone()).collect())?;
    // There is a page from now on, however the run ends.
    report::write_beside(&options.dir);
    point_latest_at(&options.dir)?;

    let count = requests.len();
    info!("{count} {} under {}", if count == 1 { "trial" } else { "trials" }, options.dir.display());
    let watch = Watch::begin(&options, &requests, jobs);
    let ended = run_trials(&ready, &options, jobs)?;
    let verdicts = verdicts(&options, &requests, &ended);
    drop(watch);
    let clean = check_for_leftovers(&options.dir);
    if clean.is_ok() {
        info!("Nothing was left behind: no guest, no process, no overlay, no directory.");
    }

    if json {
        table::print_json(&verdicts)?;
    } else {
        table::print(&options.dir, &verdicts);
    }
    report_boots(&options, &requests);
    if let Some(page) = report::write_beside(&options.dir) {
        info!("Report: {}", page.display());
    }
    summary::write(&options.dir, &verdicts);
    record_verified(&options, &verdicts, &requests)?;
    if ended.interrupted {
        // What was left was removed, and is no reason for another end.
        clean.unwrap_or_else(|left| warn!("{left}"));
        return Err(Failure::Interrupted);
    }
    match (outcome(&verdicts), clean) {
        // Only a judged backup can fail an expectation.
        (Err(unmet @ Failure::Expectation(_)), Err(left)) => {
            warn!("{left}");
            Err(unmet)
        }
        (judged, clean) => clean.and(judged),
    }
}

/// What trials need is there.
#[derive(Debug)]
pub(crate) struct Ready {
    /// The program that runs them.
    program: PathBuf,
    /// Keeps their images from being removed.
    _images: Vec<File>,
}

/// Prepares what these trials need.
pub(crate) fn prepare(options: &RunOptions, requests: &[TrialRequest]) -> Result<Ready, Failure> {
    host::check_repository().map_err(Failure::usage)?;
    question::tools_are_there(requests)?;
    // Where trials keep their sockets, and where their files will be: what guests hold is for this user only.
    Home::of_user().map_err(|e| Failure::Infrastructure(format!("{e}.")))?;
    files::create_dir(&host::repository().join("target/e2e"))?;
    setup::ensure()?;
    let program = cargo::build_trials("e2e")?;
    if let Some(uri) = &options.connect {
        question::probe(uri)?;
    }
    let mut needed: Vec<_> = requests.iter().map(|request| request.image.clone()).collect();
    needed.sort();
    needed.dedup();
    images::ensure(&needed)?;
    if requests.iter().any(|request| request.hook == Hook::Package) {
        packages::build_deb()?;
    }
    let images = needed.iter().map(|name| hold(&options.built, name)).collect::<Result<_, _>>()?;
    Ok(Ready { program, _images: images })
}

/// Keeps an image from being removed for as long as a process of the run is alive.
fn hold(built: &Path, name: &str) -> Result<File, Failure> {
    let image = Manifest::read(built, name).map_err(Failure::infrastructure)?;
    let held = image.hold().map_err(Failure::infrastructure)?;
    // The processes of the run inherit it, and outlive this one when it is killed.
    rustix::io::fcntl_setfd(&held, FdFlags::empty())
        .map_err(|e| Failure::io("lock", &image.dir, e.into()))?;
    Ok(held)
}

/// The options by default.
pub(crate) fn default_options() -> RunOptions {
    let repository = host::repository();
    let run = Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
    // With the process number, so that two runs of one second have two directories.
    let dir = repository.join("target/e2e").join(format!("{run}-{}", std::process::id()));
    RunOptions {
        filters: vec![CORE.to_owned()],
        seed: Zoned::now().timestamp().as_nanosecond().unsigned_abs() as u64 >> 8,
        built: host::built_images(),
        package: packages::deb_path(),
        ..RunOptions::of(repository, dir)
    }
}

fn options(args: Args) -> Result<RunOptions, Failure> {
    let default = default_options();
    let hook = args.hook.map(hook::resolve).transpose()?;
    let named = !args.image.is_empty() || matches!(hook, Some(Hook::File(_)));
    let repeat = named && args.matrix.is_none();
    let scenarios = match &args.scenarios {
        None => default.scenarios.clone(),
        Some(dir) => dir
            .canonicalize()
            .map_err(|e| Failure::Usage(format!("cannot read the scenarios in {}: {e}.", dir.display())))?,
    };
    let images = match (args.matrix, args.image.is_empty()) {
        (Some(matrix), _) => matrix_images(matrix, &default.definitions)?,
        (None, true) => default.images.clone(),
        (None, false) => args.image.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
    };
    let own_commands = args.own.commands();
    Ok(RunOptions {
        filters: match (args.filters.as_slice(), &args.scenarios) {
            ([], None) => match (&own_commands, args.matrix) {
                (Some(_), _) => vec![own_commands::SCENARIO.to_owned()],
                (None, Some(Matrix::Full)) => folders_without_tools(&scenarios)?,
                (None, _) => default.filters,
            },
            _ => args.filters,
        },
        every_image: args.matrix.is_some() || !args.image.is_empty(),
        images,
        hook,
        snapshot: args.snapshot,
        own_commands,
        connect: args.connect,
        accel: match args.accel {
            AccelChoice::Auto => None,
            AccelChoice::Kvm => Some(Accel::Kvm),
            AccelChoice::Tcg => Some(Accel::Tcg),
        },
        cold: args.cold,
        cycles: args.cycles,
        repeat,
        seed: args.seed.unwrap_or(default.seed),
        keep: match args.keep {
            None => Keep::None,
            Some(KeepChoice::Failed) => Keep::Failed,
            Some(KeepChoice::All) => Keep::All,
        },
        scenarios,
        ..default
    })
}

/// The methods of snapshots by name.
fn snapshot_methods() -> impl clap::builder::TypedValueParser<Value = SnapshotMethod> {
    let named = |name: String| SnapshotMethod::ALL.into_iter().find(|method| method.name() == name);
    PossibleValuesParser::new(SnapshotMethod::ALL.map(SnapshotMethod::name))
        .try_map(move |name| named(name).ok_or("there is no such method"))
}

/// Says which of the trials that are asked for cannot run like this.
fn leave_out_impossible(options: &RunOptions) -> Result<(), Failure> {
    for (trial, why) in options.impossible()? {
        warn!("left out {trial}: {why}.");
    }
    Ok(())
}

/// The folders of scenarios that need no backup tool, as filters. What a tool does depends little on the image.
fn folders_without_tools(scenarios: &Path) -> Result<Vec<String>, Failure> {
    let all = Scenario::read_all(scenarios).map_err(DefinitionError::from)?;
    let of_us = all.iter().filter(|scenario| scenario.backup.is_none());
    let folders = of_us.filter_map(|scenario| Some(format!("{}/", scenario.name.split_once('/')?.0)));
    Ok(folders.collect::<BTreeSet<_>>().into_iter().collect())
}

/// The names of a matrix's images.
fn matrix_images(matrix: Matrix, definitions: &Path) -> Result<Vec<String>, Failure> {
    let all = Definition::list(definitions)?.into_iter().filter(|image| image.unverified.is_none());
    let chosen = all.filter(|image| matrix == Matrix::Full || image.is_plain());
    Ok(chosen.map(|image| image.name).collect())
}

/// `target/e2e/latest` leads to the newest run.
fn point_latest_at(dir: &Path) -> Result<(), Failure> {
    let latest = dir.with_file_name("latest");
    let (runs, run) = (dir.parent().unwrap_or(dir), dir.file_name().unwrap_or_default());
    tempfile::Builder::new()
        .prefix(".latest-")
        .make_in(runs, |path| std::os::unix::fs::symlink(run, path))
        .and_then(|new| Ok(new.into_temp_path().persist(&latest)?))
        .map_err(|e| Failure::io("point at the newest run with", &latest, e))
}

/// As many guests as there are processors, of which a repeated trial has two: a guest keeps more than one busy
/// while it boots, and what waits for a processor in a freeze window looks like a slow hook.
fn default_jobs(repeat: bool) -> u16 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let guests = if repeat { 2 } else { 1 };
    u16::try_from((processors / guests).max(1)).unwrap_or(u16::MAX)
}

/// Runs the trials of options that were written: runs the test binary, and waits
/// until the last supervisor has cleaned up. Results are read from the verdicts,
/// progress from the event logs.
pub(crate) fn run_trials(ready: &Ready, options: &RunOptions, jobs: u16) -> Result<Ended, Failure> {
    let program = &ready.program;
    let failed =
        |e: std::io::Error| Failure::Infrastructure(format!("cannot run {}: {e}.", program.display()));
    let ctrl_c = CtrlC::outlive().map_err(failed)?;
    processes::adopt_orphans().map_err(failed)?;
    let (sh, jobs) = (shell()?, jobs.to_string());
    let trials = cmd!(sh, "{program} --test-threads {jobs} --format json")
        .env(RUN_DIR_VAR, &options.dir)
        .envs(log::directives_of_trials().map(|directives| ("RUST_LOG", directives)));
    // Started by hand: its messages are forwarded line by line, and its orphans waited for.
    let mut trials = Command::from(trials);
    trials.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let timer = Timer::start(&trials);
    let mut trials = trials.spawn().map_err(failed)?;
    // What they print goes between the live lines.
    if let Some(messages) = trials.stderr.take() {
        live::forward(messages);
    }
    let said = trials.stdout.take().map(Said::listen);
    let ended = processes::wait_for_all(&trials, ctrl_c);
    timer.end(ended.as_ref().map(|(status, _)| *status));
    let (status, interrupted) = ended.map_err(failed)?;
    Ok(Ended { interrupted, status, said: said.map(Said::heard).unwrap_or_default() })
}

/// Removes what killed runs left, and says it: their disks may take the room that this run needs.
fn remove_leftovers() -> Result<(), Failure> {
    for leftover in leftovers::all(&[&host::repository().join("target/e2e")])? {
        leftover.remove()?;
        warn!("A run that was killed had left something, which is removed: {leftover}.");
    }
    Ok(())
}

/// Nothing of a run may outlive it. What did is removed, and fails the run.
pub(crate) fn check_for_leftovers(run: &Path) -> Result<(), Failure> {
    let left = leftovers::of_ended(run)?;
    for leftover in &left {
        leftover.remove()?;
    }
    if left.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = left.iter().map(ToString::to_string).collect();
    Err(Failure::Infrastructure(format!("the run left behind, and its end removed: {}.", names.join(", "))))
}

/// Counts the guests that had to boot although they should have started from saved memory.
fn report_boots(options: &RunOptions, requests: &[TrialRequest]) {
    let notes = requests.iter().flat_map(|request| {
        let log = options.trial_dir(&request.name).join(events::FILE);
        // A trial without a log has said why.
        events::notes(&log).unwrap_or_default()
    });
    let boots: Vec<_> = notes.filter(|note| note.starts_with(events::BOOTED_INSTEAD)).collect();
    match boots.as_slice() {
        [] => {}
        [one] => info!("One guest {one}"),
        [first, ..] => {
            info!("{} guests booted that should not have had to; the first {first}", boots.len());
        }
    }
}

/// The verdict of each trial, in the order of the requests. One that left none gets one that says why.
fn verdicts(options: &RunOptions, requests: &[TrialRequest], ended: &Ended) -> Vec<Row> {
    requests
        .iter()
        .map(|request| {
            let dir = options.trial_dir(&request.name);
            let verdict = Verdict::read(&dir).unwrap_or_else(|error| {
                lost::verdict(options, request, &ended.why_lost(&request.name, &error))
            });
            (request.name.clone(), dir, verdict)
        })
        .collect()
}

/// Records for each image that every trial on it met its expectation.
fn record_verified(options: &RunOptions, verdicts: &[Row], requests: &[TrialRequest]) -> Result<(), Failure> {
    let images: BTreeSet<_> = requests.iter().map(|request| &request.image).collect();
    for image in images {
        let trials = requests.iter().zip(verdicts).filter(|(request, _)| request.image == *image);
        let (mut digests, mut accels, mut count) = (BTreeSet::new(), BTreeSet::new(), 0);
        let all_passed = trials.into_iter().all(|(_, (_, dir, verdict))| {
            let Ok(plan) = Plan::read(dir) else { return false };
            digests.insert(plan.image.digest);
            accels.insert(verdict.accel.clone());
            count += 1;
            verdict.outcome == Outcome::Pass
        });
        // Two digests: another task has rebuilt the image in the meantime.
        if let (true, 1, Some(digest)) = (all_passed, digests.len(), digests.first()) {
            let accel = accels.into_iter().collect::<Vec<_>>().join(", ");
            builder::record_verified(&options.built, image, digest, accel, count)?;
        }
    }
    Ok(())
}

fn outcome(verdicts: &[Row]) -> Result<(), Failure> {
    let count = |outcome| verdicts.iter().filter(|(_, _, verdict)| verdict.outcome == outcome).count();
    let (failed, passed) = (count(Outcome::Fail), count(Outcome::Pass));
    let unknown = verdicts.len() - failed - passed;
    match (failed, unknown) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::Infrastructure(format!(
            "{unknown} of {} trials could not be judged.",
            verdicts.len()
        ))),
        _ => Err(Failure::Expectation(format!(
            "{failed} of {} trials did not meet their expectation.",
            verdicts.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_matrix_leaves_out_backup_tools() {
        let folders = folders_without_tools(&host::repository().join("scenarios")).unwrap();
        assert!(
            folders.contains(&"core/".to_owned()) && folders.contains(&"database/".to_owned()),
            "{folders:?}"
        );
        assert!(!folders.contains(&"tools/".to_owned()), "{folders:?}");
    }

    #[test]
    fn a_matrix_leaves_out_what_was_never_verified() {
        let dir = tempfile::tempdir().unwrap();
        let plain = std::fs::read_to_string(host::repository().join("images/bookworm-mariadb.toml")).unwrap();
        for (name, text) in [
            ("one.toml", plain.clone()),
            ("two.toml", plain.replace("\"ext4\"", "\"xfs\"")),
            ("new.toml", format!("unverified = \"because\"\n{plain}")),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        assert_eq!(matrix_images(Matrix::Core, dir.path()).unwrap(), ["one"]);
        assert_eq!(matrix_images(Matrix::Full, dir.path()).unwrap(), ["one", "two"]);
    }
}
