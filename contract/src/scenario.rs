//! Scenarios: what was asked. One TOML file is one pass through the pipeline
//! with its variations, faults and expectation.
//!
//! A file is checked whole before anything boots. Unknown keys, bad names and
//! impossible combinations are errors with file, line and a hint.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::grade::{self, Grade};
use crate::image::{Database, Definition};
use crate::property::Property;
use crate::text::printable;

/// The most data that a load can have, MiB.
const MOST_DATA_MIB: u32 = 8192;

/// A scenario, as its file says it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its path under the scenarios' folder without `.toml`: `core/no-hook`.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// Rows of the failure catalogue that it covers.
    pub covers: Vec<String>,
    /// The databases on which it runs.
    pub databases: Vec<Database>,
    /// The releases on which it runs; any when empty.
    pub releases: Vec<String>,
    /// The layout of disks that it needs; any without it.
    pub disks: Option<Disks>,
    /// The load.
    pub load: Load,
    /// How snapshots are taken.
    pub snapshot: Snapshot,
    /// How a snapshot comes to be a server again.
    pub restore: Restore,
    /// Whether the guest is frozen around the snapshot.
    pub freeze: bool,
    /// What goes wrong, and when.
    pub faults: Vec<Fault>,
    /// What must come out, for each hook that the scenario runs with: the built-in ones first.
    pub expect: Vec<(Hook, Expectation)>,
}

/// How an image's data is spread over disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Disks {
    /// Everything on one.
    One,
    /// Data directory and binary logs on two.
    Split,
    /// One file system in a file on another.
    Loop,
}

/// How snapshots are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Milliseconds between one disk and the next; 0 takes all disks in one
    /// atomic transaction.
    #[serde(default)]
    pub apart_ms: u64,
    /// How many times the guest is frozen, snapshotted and thawed under one load.
    #[serde(default = "once")]
    pub cycles: u32,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { apart_ms: 0, cycles: once() }
    }
}

fn once() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// As a verdict names it: `external`, or `external, disks 300 ms apart`.
impl std::fmt::Display for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.apart_ms {
            0 => f.write_str("external"),
            apart => write!(f, "external, disks {apart} ms apart"),
        }
    }
}

/// How a snapshot comes to be a server again, to be looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restore {
    /// A new guest boots from it, when the first one is gone: what an operator does.
    #[default]
    Boot,
    /// Its disks are attached to a guest that runs already, and the server is
    /// started on them there while the load goes on: for many moments in a row.
    Attach,
    /// As `attach` for every cycle but the last, and as `boot` for that one.
    AttachAndBoot,
}

/// What the agent runs at freeze and thaw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// No hook: the agent is not told of any.
    None,
    /// The hook and the agent's unit as the distribution packages them.
    Distro,
    /// The same, and the agent is told to run the hook.
    DistroEnabled,
    /// Our rewriting of the recipe that vendor pages print, for comparison.
    Sample,
    /// The hook that this project ships.
    Freezeframe,
    /// The same, installed as its package does it on what the distribution ships.
    Package,
    /// A file that the user names, or a scenario as one beside it; absolute.
    File(PathBuf),
}

/// The largest hook file: the agent takes it in one message.
const MAX_HOOK_BYTES: u64 = 1024 * 1024;

impl Hook {
    /// Those that go by a name, in the order in which a scenario's trials run.
    pub const BUILT_IN: [Self; 6] =
        [Self::None, Self::Distro, Self::DistroEnabled, Self::Sample, Self::Freezeframe, Self::Package];

    /// The built-in hook of this name.
    pub fn built_in(name: &str) -> Option<Self> {
        Self::BUILT_IN.into_iter().find(|hook| hook.name() == name)
    }

    /// This file, if it can be a hook. An error ends a sentence that begins with its name.
    pub fn file(path: &Path) -> Result<Self, String> {
        let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => "does not exist".to_owned(),
            _ => format!("cannot be read: {e}"),
        })?;
        if !metadata.is_file() {
            return Err("is not a file".to_owned());
        }
        if metadata.len() == 0 {
            return Err("is empty".to_owned());
        }
        if metadata.len() > MAX_HOOK_BYTES {
            return Err(format!("is larger than {} KiB", MAX_HOOK_BYTES / 1024));
        }
        std::fs::File::open(path).map_err(|e| format!("cannot be read: {e}"))?;
        if metadata.permissions().mode() & 0o111 == 0 {
            return Err(format!(
                "is not executable, and the agent would not run it; try `chmod +x {}`",
                path.display()
            ));
        }
        path.canonicalize().map(Self::File).map_err(|e| format!("cannot be found: {e}"))
    }

    /// What a scenario means by this name: a built-in hook, or a file in `folder`.
    fn in_scenario(name: &str, folder: &Path) -> Result<Self, String> {
        let plain = Path::new(name).file_name().is_some_and(|file| file == name);
        match Self::built_in(name) {
            Some(hook) => Ok(hook),
            None if plain && name.ends_with(".sh") => {
                Self::file(&folder.join(name)).map_err(|problem| format!("the hook `{name}` {problem}"))
            }
            None => Err(format!(
                "`{}` is no hook; write {}, or the name of a file beside the scenario that ends in `.sh`",
                printable(name),
                Self::names()
            )),
        }
    }

    /// The names of all built-in hooks, as a message lists them.
    pub fn names() -> String {
        let names = Self::BUILT_IN.map(|hook| format!("`{hook}`"));
        let [first @ .., last] = names.as_slice() else { return String::new() };
        format!("{} or {last}", first.join(", "))
    }

    /// The name used in trial names and verdicts: a file goes by its file name.
    pub fn name(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Distro => "distro".to_owned(),
            Self::DistroEnabled => "distro-enabled".to_owned(),
            Self::Sample => "sample".to_owned(),
            Self::Freezeframe => "freezeframe".to_owned(),
            Self::Package => "package".to_owned(),
            Self::File(path) => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        }
    }
}

/// The built-in hooks go by their names, a file by its path.
impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            hook => f.write_str(&hook.name()),
        }
    }
}

/// The load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Its profile.
    pub profile: Profile,
    /// Concurrent writers, each with one operation in flight.
    pub writers: u32,
    /// The most transfers a second that all of them together make; without it, as many as
    /// are acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Seconds of load before the freeze.
    pub seconds: f64,
    /// MiB of rows that are there before the load begins, and are changed all over while it lasts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub data_mib: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Load {
    /// MiB of disk that an image needs for this load's data beside its own: the table, what the logs keep
    /// of its changes, and the system.
    fn disk_mib(&self) -> u64 {
        if self.data_mib == 0 { 0 } else { 2048 + 2 * u64::from(self.data_mib) }
    }
}

/// What the load writes, and how durable the server's commits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Every commit is on disk before it is acknowledged (the servers' default,
    /// and `sync_binlog=1`). A MyISAM table and, on MariaDB, an Aria table
    /// follow the transactions.
    Durable,
    /// As `durable`, with transactional tables only.
    InnodbOnly,
    /// As `durable`, with a table of every other engine that the server has for
    /// rows on disk.
    MixedEngines,
    /// As `durable`, with one more writer whose statements insert thousands of
    /// rows each into a MyISAM table.
    Bulk,
    /// Commits reach the disk up to ten seconds later
    /// (`innodb_flush_log_at_trx_commit=0`, `sync_binlog=0`).
    Relaxed,
}

/// Something that goes wrong at a named point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When.
    pub at: Point,
    /// A line for the guest's shell, run as root. The stage waits until it
    /// ends; what must go on behind it goes to the background with its output
    /// redirected.
    pub guest: String,
}

/// The points of the pipeline at which a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Point {
    /// The first guest is up, the load has not started.
    AfterBoot,
    /// The load has run its time; the freeze comes next.
    BeforeFreeze,
    /// The thaw has returned.
    AfterThaw,
}

/// What must come out of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// The grades that are right.
    pub grade: Vec<Grade>,
    /// Properties that must be reported as broken where a backup was made.
    #[serde(default)]
    pub findings: Vec<Property>,
    /// Properties of which one at least must be, where chance decides which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub one_of: Vec<Property>,
    /// The freeze must return within this many seconds (on KVM; scaled under TCG).
    #[serde(default)]
    pub within_s: Option<f64>,
    /// Writes must go on after the window. False allows a hook or an agent to
    /// leave the database blocked.
    #[serde(default = "yes")]
    pub writable: bool,
}

impl Expectation {
    /// What a trial of this grade with these findings lacks, in words. Where the freeze was refused, which
    /// is right as well, there is no backup that could show any.
    pub fn lacks(&self, grade: Grade, findings: &[Property]) -> Vec<String> {
        if grade == Grade::Refused && self.grade.contains(&grade) {
            return Vec::new();
        }
        let lacked = |owed: &&Property| !findings.contains(owed);
        let told = |owed: &Property| format!("`{owed}` ({})", owed.id());
        let each = self.findings.iter().filter(lacked);
        let mut lacks: Vec<_> =
            each.map(|owed| format!("expected the finding {}, which did not show", told(owed))).collect();
        if !self.one_of.is_empty() && self.one_of.iter().all(|owed| lacked(&owed)) {
            let any: Vec<_> = self.one_of.iter().map(told).collect();
            lacks.push(format!("expected the finding {}, and none showed", any.join(" or ")));
        }
        lacks
    }

    /// What is expected of a hook that the user names: the top grade.
    pub fn top_grade() -> Self {
        Self {
            grade: vec![Grade::ApplicationConsistent],
            findings: Vec::new(),
            one_of: Vec::new(),
            within_s: None,
            writable: yes(),
        }
    }
}

impl std::fmt::Display for Expectation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", grade::grades(&self.grade))?;
        if !self.findings.is_empty() {
            let names: Vec<_> = self.findings.iter().map(ToString::to_string).collect();
            write!(f, " with {}", names.join(", "))?;
        }
        if !self.one_of.is_empty() {
            let names: Vec<_> = self.one_of.iter().map(ToString::to_string).collect();
            write!(f, " with {}", names.join(" or "))?;
        }
        if let Some(seconds) = self.within_s {
            write!(f, ", frozen within {seconds} s")?;
        }
        if !self.writable {
            write!(f, ", writable afterwards or not")?;
        }
        Ok(())
    }
}

/// Why a scenario file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// It says something that it may not.
    #[error("{}:{line}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong, and a hint.
        problem: String,
    },
}

/// The file's literal shape. `Spanned` keeps the place of what is checked later.
mod file {
    use std::collections::BTreeMap;

    use super::{Database, Deserialize, Disks, Expectation, Fault, Profile, Restore, Snapshot, Spanned};

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Scenario {
        pub(super) summary: Spanned<String>,
        #[serde(default)]
        pub(super) covers: Vec<Spanned<String>>,
        #[serde(default)]
        pub(super) image: Image,
        #[serde(default)]
        pub(super) restore: Restore,
        pub(super) load: Load,
        #[serde(default)]
        pub(super) snapshot: Option<Spanned<Snapshot>>,
        #[serde(default)]
        pub(super) quiesce: Quiesce,
        #[serde(default)]
        pub(super) fault: Vec<Spanned<Fault>>,
        /// By the hook's name, or that of a file beside this one.
        pub(super) expect: Spanned<BTreeMap<String, Spanned<Expectation>>>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Image {
        #[serde(default = "any_database")]
        pub(super) database: Vec<Database>,
        #[serde(default)]
        pub(super) release: Vec<String>,
        #[serde(default)]
        pub(super) disks: Option<Disks>,
    }

    impl Default for Image {
        fn default() -> Self {
            Self { database: any_database(), release: vec![], disks: None }
        }
    }

    fn any_database() -> Vec<Database> {
        vec![Database::Mariadb, Database::Mysql]
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Load {
        pub(super) profile: Profile,
        pub(super) writers: Spanned<u32>,
        pub(super) rate: Option<Spanned<u32>>,
        pub(super) seconds: Spanned<f64>,
        pub(super) data_mib: Option<Spanned<u32>>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Quiesce {
        pub(super) freeze: bool,
    }

    impl Default for Quiesce {
        fn default() -> Self {
            Self { freeze: true }
        }
    }
}

impl Scenario {
    /// Reads and checks one scenario file; `root` is the scenarios' folder.
    pub fn read(root: &Path, path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        let name = path.strip_prefix(root).unwrap_or(path).with_extension("");
        let folder = path.parent().unwrap_or(root);
        Self::parse(&name.to_string_lossy(), folder, &text).map_err(|(offset, problem)| {
            ScenarioError::Content {
                path: path.to_owned(),
                line: 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count(),
                problem,
            }
        })
    }

    /// Reads every scenario under a folder, sorted by name.
    pub fn read_all(root: &Path) -> Result<Vec<Self>, ScenarioError> {
        let mut scenarios = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            let read = |source| ScenarioError::Read { path: folder.clone(), source };
            for entry in std::fs::read_dir(&folder).map_err(read)? {
                let path = entry.map_err(read)?.path();
                // The folder is also a Cargo package: its manifest and sources are not scenarios.
                if path.is_dir() && path.file_name().is_some_and(|name| name != "src") {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "toml") && path.parent() != Some(root) {
                    scenarios.push(Self::read(root, &path)?);
                }
            }
        }
        scenarios.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(scenarios)
    }

    /// Parses the text of a file in `folder`. An error is the byte offset of the trouble and what it is.
    fn parse(name: &str, folder: &Path, text: &str) -> Result<Self, Refusal> {
        let file: file::Scenario = toml::from_str(text)
            .map_err(|e| (e.span().map_or(0, |span| span.start), e.message().to_owned()))?;

        if file.summary.get_ref().trim().is_empty() {
            return refuse(
                file.summary.span(),
                "`summary` is empty; say in one sentence what happens".into(),
            );
        }
        for row in &file.covers {
            let id = row.get_ref();
            let known = id.len() == 3
                && id.starts_with(|c: char| c.is_ascii_uppercase())
                && id[1..].bytes().all(|b| b.is_ascii_digit());
            if !known {
                let problem =
                    format!("`{}` is no row of the failure catalogue; rows read like D01", printable(id));
                return refuse(row.span(), problem);
            }
        }
        let load = load(file.load)?;
        for fault in &file.fault {
            if fault.get_ref().guest.trim().is_empty() {
                return refuse(fault.span(), "`guest` is empty; give a line for the guest's shell".into());
            }
        }
        let snapshot = file.snapshot.map_or(Ok(Snapshot::default()), |it| snapshot(it, file.image.disks))?;
        let span = file.expect.span();
        let mut expect = Vec::new();
        for (name, expectation) in file.expect.into_inner() {
            match Hook::in_scenario(&name, folder) {
                Ok(hook) => expect.push((hook, expectation)),
                Err(problem) => return refuse(expectation.span(), problem),
            }
        }
        let built_ins = Hook::BUILT_IN;
        expect.sort_by_key(|(hook, _)| built_ins.iter().position(|b| b == hook).unwrap_or(built_ins.len()));
        if expect.is_empty() {
            return refuse(span, format!("`[expect]` names no hook; add {}", Hook::names()));
        }
        for (hook, expectation) in &expect {
            check_expectation(hook, expectation, file.quiesce.freeze)?;
        }

        Ok(Self {
            name: name.to_owned(),
            summary: file.summary.into_inner(),
            covers: file.covers.into_iter().map(Spanned::into_inner).collect(),
            databases: file.image.database,
            releases: file.image.release,
            disks: file.image.disks,
            snapshot,
            restore: file.restore,
            load,
            freeze: file.quiesce.freeze,
            faults: file.fault.into_iter().map(Spanned::into_inner).collect(),
            expect: expect.into_iter().map(|(hook, e)| (hook, e.into_inner())).collect(),
        })
    }

    /// Whether it runs on this image.
    pub fn suits(&self, image: &Definition) -> bool {
        let disks = match (image.loops.len(), image.disks.len()) {
            // A vendor's disk is one.
            (0, 0 | 1) => Disks::One,
            (0, _) => Disks::Split,
            _ => Disks::Loop,
        };
        let release = self.releases.is_empty() || self.releases.contains(&image.release);
        release
            && self.databases.contains(&image.database)
            && self.disks.is_none_or(|needed| needed == disks)
            && (self.restore == Restore::Boot || image.can_be_attached())
            // How large a disk is that was made elsewhere, its guest tells.
            && (image.disks.is_empty() || self.load.disk_mib() <= image.disks.iter().map(|disk| disk.size_mib).sum())
    }

    /// Whether a trial of it on this image can be one of several cycles, of which the last is the
    /// one that it says: nothing but the freeze must happen at a moment of its own.
    pub fn can_repeat(&self, image: &Definition) -> bool {
        self.freeze
            && self.faults.is_empty()
            && self.snapshot.cycles == 1
            && self.restore == Restore::Boot
            && image.can_be_attached()
    }

    /// What is expected with this hook: the file's word where it has one,
    /// otherwise the top grade, because then the user named the hook.
    pub fn expectation(&self, hook: &Hook) -> Expectation {
        let listed = self.expect.iter().find(|(h, _)| h == hook);
        listed.map_or_else(Expectation::top_grade, |(_, expectation)| expectation.clone())
    }
}

/// The byte offset of the trouble in a file, and what it is.
type Refusal = (usize, String);

fn refuse<T>(span: std::ops::Range<usize>, problem: String) -> Result<T, Refusal> {
    Err((span.start, problem))
}

/// The load that a file asks for, checked.
fn load(asked: file::Load) -> Result<Load, Refusal> {
    let writers = *asked.writers.get_ref();
    if !(1..=64).contains(&writers) {
        return refuse(asked.writers.span(), format!("`writers = {writers}`: choose 1 to 64"));
    }
    let rate = match asked.rate {
        // A writer that waits for its turn does not end before.
        Some(rate) if !(writers..=10_000).contains(rate.get_ref()) => {
            let problem =
                format!("`rate = {}`: choose {writers} (one for each writer) to 10000", rate.get_ref());
            return refuse(rate.span(), problem);
        }
        rate => rate.map(Spanned::into_inner),
    };
    let seconds = *asked.seconds.get_ref();
    if !(0.5..=600.0).contains(&seconds) {
        return refuse(asked.seconds.span(), format!("`seconds = {seconds}`: choose 0.5 to 600"));
    }
    let data_mib = match asked.data_mib {
        Some(data_mib) if *data_mib.get_ref() > MOST_DATA_MIB => {
            let problem = format!("`data_mib = {}`: choose 0 to {MOST_DATA_MIB}", data_mib.get_ref());
            return refuse(data_mib.span(), problem);
        }
        data_mib => data_mib.map_or(0, Spanned::into_inner),
    };
    Ok(Load { profile: asked.profile, writers, rate, seconds, data_mib })
}

/// The snapshots that a file asks for on these disks, checked.
fn snapshot(asked: Spanned<Snapshot>, disks: Option<Disks>) -> Result<Snapshot, Refusal> {
    let span = asked.span();
    let snapshot = asked.into_inner();
    if snapshot.apart_ms > 10_000 {
        return refuse(span, format!("`apart_ms = {}`: choose 0 to 10000", snapshot.apart_ms));
    }
    if snapshot.apart_ms > 0 && disks != Some(Disks::Split) {
        let hint = "`apart_ms` needs more than one disk; add `disks = \"split\"` under `[image]`";
        return refuse(span, hint.into());
    }
    if !(1..=1000).contains(&snapshot.cycles) {
        return refuse(span, format!("`cycles = {}`: choose 1 to 1000", snapshot.cycles));
    }
    Ok(snapshot)
}

/// Refuses what cannot be expected of a hook, of a guest that is frozen or not.
fn check_expectation(hook: &Hook, expectation: &Spanned<Expectation>, frozen: bool) -> Result<(), Refusal> {
    let span = expectation.span();
    let expectation = expectation.get_ref();
    if expectation.grade.is_empty() {
        return refuse(span, format!("`{}` expects no grade; list at least one", hook.name()));
    }
    if expectation.grade.contains(&Grade::Unknown) {
        let hint = "`unknown` means that the harness could not tell; it cannot be expected";
        return refuse(span, hint.into());
    }
    if !frozen && expectation.grade.contains(&Grade::ApplicationConsistent) {
        return refuse(span, "without a freeze a backup cannot be `application-consistent`".into());
    }
    if !frozen && *hook != Hook::None {
        let hint = format!("without a freeze no hook runs; expect `none` instead of `{}`", hook.name());
        return refuse(span, hint);
    }
    let only_top = expectation.grade == [Grade::ApplicationConsistent];
    if only_top && !(expectation.findings.is_empty() && expectation.one_of.is_empty()) {
        let hint = "an `application-consistent` backup has no findings; drop one or the other";
        return refuse(span, hint.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
summary = "A quiet day"
covers = ["D01"]
[load]
profile = "durable"
writers = 4
seconds = 3
[expect]
freezeframe = { grade = ["application-consistent"] }
none = { grade = ["crash-consistent", "inconsistent"], findings = ["tables-closed"] }
"#;

    /// Hooks that are files lie in `folder`.
    fn refused_in(folder: &Path, text: &str) -> (usize, String) {
        let (offset, problem) = Scenario::parse("core/x", folder, text).unwrap_err();
        (1 + text[..offset].matches('\n').count(), problem)
    }

    fn refused(text: &str) -> (usize, String) {
        refused_in(Path::new("/nowhere"), text)
    }

    #[test]
    fn a_refusal_that_is_right_shows_no_findings() {
        let expected = |grade: &[Grade]| Expectation {
            grade: grade.to_vec(),
            findings: vec![Property::LockIdentity],
            ..Expectation::top_grade()
        };
        let either = expected(&[Grade::CrashConsistent, Grade::Refused]);
        assert_eq!(either.lacks(Grade::Refused, &[]), [""; 0]);
        assert_eq!(either.lacks(Grade::CrashConsistent, &[]).len(), 1);
        assert_eq!(either.lacks(Grade::CrashConsistent, &[Property::LockIdentity]), [""; 0]);
        let never = expected(&[Grade::CrashConsistent]);
        assert_eq!(never.lacks(Grade::Refused, &[]).len(), 1);
    }

    #[test]
    fn one_of_several_findings_is_enough() {
        let one_of = vec![Property::LockProbe, Property::LockIdentity];
        let expected =
            Expectation { grade: vec![Grade::CrashConsistent], one_of, ..Expectation::top_grade() };
        let lacks = |findings: &[Property]| expected.lacks(Grade::CrashConsistent, findings);
        assert_eq!(lacks(&[Property::LockIdentity]), [""; 0]);
        let none = "expected the finding `lock-probe` (Q2) or `lock-identity` (Q4), and none showed";
        assert_eq!(lacks(&[Property::TablesClosed]), [none]);
        assert_eq!(expected.to_string(), "crash-consistent with lock-probe or lock-identity");
    }

    #[test]
    fn a_good_file_is_read() {
        let scenario = Scenario::parse("core/quiet", Path::new("/nowhere"), GOOD).unwrap();
        assert_eq!(scenario.name, "core/quiet");
        assert!(scenario.freeze);
        assert_eq!(scenario.expect.len(), 2);
        assert_eq!(scenario.expectation(&Hook::Sample), Expectation::top_grade());
        assert_eq!(scenario.expectation(&Hook::None).findings, [Property::TablesClosed]);
    }

    #[test]
    fn bad_files_are_refused_with_line_and_hint() {
        let cases = [
            ("summary = \"A quiet day\"", "summary = \" \"", 2, "one sentence"),
            ("covers = [\"D01\"]", "covers = [\"D1\"]", 3, "D01"),
            ("covers = [", "cover = [", 3, "unknown field `cover`"),
            ("writers = 4", "writers = 0", 6, "1 to 64"),
            ("writers = 4", "writers = -1", 6, "u32"),
            ("writers = 4", "writers = 4\nrate = 3", 7, "4 (one for each writer) to 10000"),
            ("seconds = 3", "seconds = 9999", 7, "0.5 to 600"),
            ("seconds = 3", "seconds = 3\ndata_mib = 9999", 8, "0 to 8192"),
            ("\"durable\"", "\"careless\"", 5, "unknown variant"),
            ("[\"application-consistent\"]", "[]", 9, "lists at least one|list at least one"),
            ("[\"application-consistent\"]", "[\"unknown\"]", 9, "cannot be expected"),
            ("[\"application-consistent\"]", "[\"perfect\"]", 9, "unknown variant `perfect`"),
            ("freezeframe =", "freezframe =", 9, "`freezframe` is no hook; write `none`, `distro`"),
            ("[expect]", "[quiesce]\nfreeze = false\n[expect]", 11, "without a freeze"),
            ("seconds = 3", "seconds = 3\n[[fault]]\nat = \"tea-time\"\nguest = \"true\"", 9, "tea-time"),
        ];
        for (from, to, line, hint) in cases {
            assert!(GOOD.contains(from), "{from}");
            let (at, problem) = refused(&GOOD.replacen(from, to, 1));
            assert_eq!(at, line, "{to}: {problem}");
            assert!(hint.split('|').any(|h| problem.contains(h)), "{to}: {problem}");
        }
    }

    #[test]
    fn a_hook_may_be_a_file_beside_the_scenario() {
        let folder = tempfile::tempdir().unwrap();
        let hook = folder.path().join("own.sh");
        let text = GOOD.replace("none =", "\"own.sh\" =");
        let refused = |text: &str| {
            let (line, problem) = refused_in(folder.path(), text);
            assert_eq!(line, 10, "{problem}");
            problem
        };
        assert!(refused(&text).contains("the hook `own.sh` does not exist"));
        std::fs::write(&hook, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(refused(&text).contains("chmod +x"));
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(refused(&text.replace("own.sh", "../own.sh")).contains("beside the scenario"));
        assert!(refused(&text.replace("own.sh", "own")).contains("ends in `.sh`"));

        let scenario = Scenario::parse("core/quiet", folder.path(), &text).unwrap();
        let file = Hook::file(&hook).unwrap();
        let hooks: Vec<_> = scenario.expect.iter().map(|(hook, _)| hook.clone()).collect();
        assert_eq!(hooks, [Hook::Freezeframe, file.clone()]);
        assert_eq!(file.name(), "own.sh");
        assert_eq!(scenario.expectation(&file).findings, [Property::TablesClosed]);
    }

    #[test]
    fn hooks_beside_scenarios_are_no_scenarios() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("own");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("quiet.toml"), GOOD).unwrap();
        std::fs::write(folder.join("own.sh"), "#!/bin/sh\n").unwrap();
        let names: Vec<_> = Scenario::read_all(root.path()).unwrap().into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["own/quiet"]);
    }
}
