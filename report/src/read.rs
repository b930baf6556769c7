//! Reads runs and trial directories: the report's only contact with files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use contract::events::{self, Event};
use contract::files;
use contract::grade::Outcome;
use contract::history::Mark;
use contract::json;
use contract::jsonl::{self, Error, Reader};
use contract::plan::{Plan, trial_dir_name};
use contract::run::RunOptions;
use contract::scenario::{Hook, OwnCommands};
use judge::judge;
use judge::picture::{Picture, picture};
use judge::verdict::Verdict;
use serde::de::DeserializeOwned;

use super::draw;
use super::page_data::{CyclePage, Drawing, Link, Page, ReadPart, TrialPage, Unreadable};
use super::text::{link, quoted};

/// The names of the trials that a run requests, as a JSON array in its directory.
const REQUESTED: &str = "trials.json";
/// The largest `verdict.json`, `plan.json` and `run.json` that is read.
const MAX_JSON: u64 = 4 << 20;
/// Events of one trial that are read; an honest log has some thirty.
const MAX_EVENTS: usize = 1_000;
/// Files of one trial that are listed.
const MAX_FILES: usize = 60;
/// The largest `verdict.json` of one of several cycles that is read.
const MAX_CYCLE_JSON: u64 = 256 << 10;
/// Bytes of pictures: on a page, and of one cycle at the most and at the least.
const MAX_PICTURES: usize = 8 << 20;
const MAX_PICTURE: usize = 400 << 10;
const MIN_PICTURE: usize = 8 << 10;
/// The most bytes of all pictures of one trial with many cycles.
const MAX_CYCLES: usize = 2 << 20;

/// Writes the names of the requested trials into a run's directory, so that one that
/// leaves nothing behind is still missed.
pub fn remember(run: &Path, trials: &[String]) -> std::io::Result<()> {
    files::replace(&run.join(REQUESTED), json::pretty(trials)?.as_bytes())
}

/// Why a run cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the run {}: {source}", run.display())]
pub struct RunError {
    run: PathBuf,
    source: std::io::Error,
}

/// Reads the trials of these runs for a page that will stand in `beside`.
///
/// All paths are absolute. The commands on the page are for a shell in
/// `repository`.
pub fn page(runs: &[PathBuf], beside: &Path, repository: &Path) -> Result<Page, RunError> {
    let mut page = Page::default();
    let mut dirs = Vec::new();
    for run in runs {
        dirs.push(trial_dirs(run)?);
    }
    let room = MAX_PICTURES / dirs.iter().map(Vec::len).sum::<usize>().max(1);
    for (run, dirs) in runs.iter().zip(dirs) {
        page.runs.push(run.file_name().unwrap_or(run.as_os_str()).to_string_lossy().into_owned());
        let shown = page.runs.last().filter(|_| runs.len() > 1).cloned();
        let checkout = Checkout::of(repository, json::<RunOptions>(&run.join(RunOptions::FILE)).ok());
        // Each run misses its own: another one may have a trial of the same name.
        let mut missed: BTreeSet<String> = json(&run.join(REQUESTED)).unwrap_or_default();
        missed.retain(|name| !dirs.contains(&run.join(trial_dir_name(name))));
        let trials = dirs.iter().map(|dir| trial(dir, beside, &checkout, room));
        let trials = trials.chain(missed.iter().map(|name| left_nothing(name)));
        page.trials.extend(trials.map(|trial| TrialPage { run: shown.clone(), ..trial }));
    }
    page.trials.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(page)
}

/// The verdicts of these runs; a trial that left none is not among them.
pub fn verdicts(runs: &[PathBuf]) -> Result<Vec<Verdict>, RunError> {
    let mut verdicts = Vec::new();
    for run in runs {
        let read = |dir: &PathBuf| {
            regular(&dir.join(Verdict::FILE), MAX_JSON).ok().and_then(|()| Verdict::read(dir).ok())
        };
        verdicts.extend(trial_dirs(run)?.iter().filter_map(read));
    }
    Ok(verdicts)
}

fn trial_dirs(run: &Path) -> Result<Vec<PathBuf>, RunError> {
    let entries = fs::read_dir(run).map_err(|source| RunError { run: run.to_owned(), source })?;
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut dirs: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !path.is_symlink() && path.is_dir() && !hidden(path))
        .collect();
    dirs.sort();
    Ok(dirs)
}

/// The checkout in which commands are to run, and that of a run, which may have been moved or copied since.
struct Checkout<'a> {
    repository: &'a Path,
    of_run: Option<PathBuf>,
    /// The folder of the run's scenarios, unless it is the checkout's.
    scenarios: Option<PathBuf>,
    /// The user's own backup tool.
    own_commands: Option<OwnCommands>,
}

impl<'a> Checkout<'a> {
    fn of(repository: &'a Path, options: Option<RunOptions>) -> Self {
        // The definitions are always those of the checkout.
        let of_run = options.as_ref().and_then(|options| Some(options.definitions.parent()?.to_owned()));
        let own_commands = options.as_ref().and_then(|options| options.own_commands.clone());
        let this = Self { repository, of_run, scenarios: None, own_commands };
        let scenarios = options.map(|options| this.now(&options.scenarios));
        Self { scenarios: scenarios.filter(|folder| *folder != repository.join("scenarios")), ..this }
    }

    /// Where a file that the run used is now.
    fn now(&self, file: &Path) -> PathBuf {
        let inside = self.of_run.as_ref().and_then(|of_run| file.strip_prefix(of_run).ok());
        inside.map_or_else(|| file.to_owned(), |inside| self.repository.join(inside))
    }
}

/// Reads a trial, whose pictures may take about `room` bytes.
fn trial(dir: &Path, beside: &Path, checkout: &Checkout<'_>, room: usize) -> TrialPage {
    let plan = regular(&dir.join(Plan::FILE), MAX_JSON).and_then(|()| Plan::read(dir).map_err(unreadable));
    let verdict =
        regular(&dir.join(Verdict::FILE), MAX_JSON).and_then(|()| Verdict::read(dir).map_err(unreadable));
    let name = match (&plan, &verdict) {
        (Ok(plan), _) => plan.trial.clone(),
        (_, Ok(verdict)) => verdict.trial.clone(),
        _ => dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let shown = dir.strip_prefix(checkout.repository).unwrap_or(dir);
    let mut files = Vec::new();
    list(dir, dir, beside, &mut files);
    TrialPage {
        name,
        run: None,
        events: events(dir),
        cycles: cycles(dir, plan.as_ref().ok(), room),
        files,
        again: plan.as_ref().ok().map(|plan| again(plan, checkout)),
        judge: Some(format!("cargo xtask judge {}", quoted(&shown.to_string_lossy()))),
        plan,
        verdict,
    }
}

fn left_nothing(name: &str) -> TrialPage {
    let why = || Unreadable("the run requested this trial, but it left no directory".to_owned());
    TrialPage {
        name: name.to_owned(),
        run: None,
        plan: Err(why()),
        verdict: Err(why()),
        events: ReadPart::default(),
        cycles: ReadPart::default(),
        files: Vec::new(),
        again: None,
        judge: None,
    }
}

fn again(plan: &Plan, checkout: &Checkout<'_>) -> String {
    let mut arguments = vec![plan.trial.clone(), "--image".to_owned(), plan.image.name.clone()];
    if let Hook::File(path) = &plan.hook {
        arguments.extend(["--hook".to_owned(), checkout.now(path).to_string_lossy().into_owned()]);
    }
    if let Some(uri) = &plan.connect {
        arguments.extend(["--connect".to_owned(), uri.clone()]);
    }
    if let Some(folder) = &checkout.scenarios {
        arguments.extend(["--scenarios".to_owned(), folder.to_string_lossy().into_owned()]);
    }
    match (&plan.backup, &checkout.own_commands) {
        (None, _) => arguments.extend(["--snapshot".to_owned(), plan.snapshot.method.to_string()]),
        (Some(_), None) => {}
        (Some(tool), Some(_)) => arguments.extend([
            "--backup-command".to_owned(),
            tool.backup.clone(),
            "--restore-command".to_owned(),
            tool.restore.clone(),
            "--backups".to_owned(),
            plan.snapshot.cycles.to_string(),
            "--backup-seconds".to_owned(),
            tool.backup_seconds.to_string(),
            "--restore-seconds".to_owned(),
            tool.restore_seconds.to_string(),
        ]),
    }
    arguments.extend([
        "--accel".to_owned(),
        plan.accel.to_string(),
        "--seed".to_owned(),
        plan.seed.to_string(),
    ]);
    let arguments: Vec<_> = arguments.iter().map(|argument| quoted(argument)).collect();
    format!("cargo xtask e2e {}", arguments.join(" "))
}

fn events(dir: &Path) -> ReadPart<Vec<Event>> {
    let mut read = ReadPart::<Vec<Event>>::default();
    let end = each(&dir.join(events::FILE), events::KIND, |event| {
        read.got.push(event);
        read.got.len() < MAX_EVENTS
    });
    read.problems.extend(end.err().map(|error| error.to_string()));
    read
}

/// The cycles of a trial, each as the judge reads it.
fn cycles(dir: &Path, plan: Option<&Plan>, room: usize) -> ReadPart<Vec<CyclePage>> {
    let mut read = ReadPart::<Vec<CyclePage>>::default();
    let mut trial = match judge::TrialFiles::open(dir) {
        Ok(trial) => trial,
        Err(error) => {
            read.problems.push(problem(&error).to_string());
            return read;
        }
    };
    let several = trial.cycles() > 1;
    let mut room = if several { room.min(MAX_CYCLES) } else { room };
    let each = (room / trial.cycles() as usize).clamp(MIN_PICTURE, MAX_PICTURE);
    let quiescence = trial.setup().quiescence;
    for number in 1..=trial.cycles() {
        let mut cycle = CyclePage { number, quiescence, ..CyclePage::default() };
        let place = trial.observation_dir(number);
        let (picture, verdict) = match trial.cycle(number) {
            Ok(case) => {
                let anew = || {
                    plan.map(|plan| Verdict::new(plan, judge(case)))
                        .ok_or(Unreadable("there is no plan".to_owned()))
                };
                let verdict = several.then(|| of_cycle(&place).or_else(|_| anew()));
                (picture(case), verdict)
            }
            Err(error) => {
                cycle.problem = Some(problem(&error).to_string());
                let why = || problem(&error);
                (picture(trial.unobserved(number)), several.then(|| of_cycle(&place).map_err(|_| why())))
            }
        };
        cycle.verdict = verdict;
        if let Some(picture) = picture {
            draw_into(&mut cycle, &picture, several, each, &mut room);
        }
        read.got.push(cycle);
    }
    read
}

/// Draws a cycle if there is room for it, or if its verdict needs attention.
fn draw_into(cycle: &mut CyclePage, picture: &Picture, several: bool, most: usize, room: &mut usize) {
    cycle.frozen = picture.marks.iter().any(|(mark, _)| *mark == Mark::FreezeCall);
    let needs_attention = cycle
        .verdict
        .as_ref()
        .is_some_and(|verdict| !matches!(verdict, Ok(it) if it.outcome == Outcome::Pass));
    if *room > 0 || needs_attention {
        let drawn = draw::draw(picture, most).into_string();
        *room = room.saturating_sub(drawn.len());
        cycle.picture = Some(Drawing(drawn));
    }
    if several {
        cycle.small = Some(Drawing(draw::small(picture).into_string()));
    }
}

/// The verdict that a cycle of several left.
fn of_cycle(place: &Path) -> Result<Verdict, Unreadable> {
    regular(&place.join(Verdict::FILE), MAX_CYCLE_JSON)?;
    Verdict::read(place).map_err(unreadable)
}

/// Why a log cannot be read, with its name and without the place of its directory.
fn problem(error: &Error) -> Unreadable {
    Unreadable(match error {
        Error::Io { action, source, path } => format!("cannot {action} {}: {source}", name_of(path)),
        Error::Full { path } => format!("{} has become too long", name_of(path)),
        Error::Line { line, problem, path } => format!("{}:{line}: {problem}", name_of(path)),
    })
}

fn unreadable(error: impl std::error::Error) -> Unreadable {
    Unreadable(error.to_string())
}

/// Reads a log record by record until `take` has enough. The error is a
/// sentence about what could not be read; the records before it were taken.
fn each<T: jsonl::LogRecord>(
    path: &Path,
    kind: &str,
    mut take: impl FnMut(T) -> bool,
) -> Result<(), Unreadable> {
    regular(path, u64::MAX)?;
    for record in Reader::<T>::open(path, kind).map_err(|e| problem(&e))? {
        if !take(record.map_err(|e| problem(&e))?) {
            break;
        }
    }
    Ok(())
}

/// Refuses what cannot be read like a file, such as a pipe, and what is too large.
fn regular(path: &Path, most: u64) -> Result<(), Unreadable> {
    Err(Unreadable(match path.symlink_metadata() {
        Err(e) => format!("cannot read {}: {e}", name_of(path)),
        Ok(metadata) if !metadata.is_file() => format!("{} is not a regular file", name_of(path)),
        Ok(metadata) if metadata.len() > most => format!("{} is larger than {most} bytes", name_of(path)),
        Ok(_) => return Ok(()),
    }))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, Unreadable> {
    regular(path, MAX_JSON)?;
    files::read_json(path).map_err(unreadable)
}

/// Lists a directory's files, and those of its folders one level down.
fn list(root: &Path, dir: &Path, beside: &Path, files: &mut Vec<Link>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort_by_key(|path| (path.is_dir(), path.clone()));
    for path in paths {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_dir() && root == dir {
            list(root, &path, beside, files);
        } else if metadata.is_file() && files.len() < MAX_FILES {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.push(Link { name, href: link(beside, &path), size: metadata.len() });
        }
    }
}
