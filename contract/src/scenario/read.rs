//! Reading scenario files: their shape, and what is checked of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::backup::RawBackup;
use super::fault::RawFault;
use super::{Disks, Expectation, Hook, Load, Profile, Restore, Scenario, Snapshot, SnapshotMethod};
use crate::grade::Grade;
use crate::image::Database;
use crate::input::{Decimal, InputError, Mistake, Source, Whole};
use crate::property::Property;
use crate::text::printable;

/// A scenario as written. `Spanned` keeps the place of what is checked later.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    summary: Spanned<String>,
    #[serde(default)]
    covers: Vec<Spanned<String>>,
    #[serde(default)]
    image: RawImage,
    restore: Option<Spanned<Restore>>,
    load: RawLoad,
    snapshot: Option<Spanned<RawSnapshot>>,
    quiesce: Option<Spanned<RawQuiesce>>,
    #[serde(default)]
    fault: Vec<Spanned<RawFault>>,
    backup: Option<RawBackup>,
    /// By the hook's name, or that of a file beside this one.
    expect: Spanned<BTreeMap<String, Spanned<RawExpectation>>>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawImage {
    database: Vec<Database>,
    release: Vec<String>,
    disks: Option<Disks>,
}

impl Default for RawImage {
    fn default() -> Self {
        Self { database: vec![Database::Mariadb, Database::Mysql], release: vec![], disks: None }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLoad {
    profile: Spanned<Profile>,
    writers: Whole<1, 64>,
    rate: Option<Spanned<Whole<1, 10_000>>>,
    seconds: Decimal<5, 6000>,
    data_mib: Option<Whole<0, 8192>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSnapshot {
    #[serde(default)]
    method: SnapshotMethod,
    apart_ms: Option<Spanned<Whole<0, 10_000>>>,
    cycles: Option<Whole<1, 1000>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuiesce {
    freeze: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpectation {
    grade: Vec<Grade>,
    #[serde(default)]
    findings: Vec<Property>,
    #[serde(default)]
    one_of: Vec<Property>,
    within_s: Option<Decimal<0, 36_000>>,
    #[serde(default = "super::yes")]
    writable: bool,
}

impl Scenario {
    /// Reads and checks one scenario file; `root` is the scenarios' folder.
    pub fn read(root: &Path, path: &Path) -> Result<Self, InputError> {
        let source = Source::read(path)?;
        let name = path.strip_prefix(root).unwrap_or(path).with_extension("");
        let folder = path.parent().unwrap_or(root);
        let raw: RawScenario = source.parse()?;
        raw.check(&name.to_string_lossy(), folder).map_err(|mistake| source.invalid(mistake))
    }

    /// Reads every scenario under a folder, sorted by name.
    pub fn read_all(root: &Path) -> Result<Vec<Self>, InputError> {
        let mut scenarios = Vec::new();
        let mut folders = vec![root.to_owned()];
        // The project's own folder is also a Cargo package: its manifest and sources are not scenarios.
        let package = root.join("Cargo.toml");
        let no_scenario = |path: &Path| package.is_file() && (path == package || path == root.join("src"));
        while let Some(folder) = folders.pop() {
            let read = |source| InputError::Read { path: folder.clone(), source };
            for entry in std::fs::read_dir(&folder).map_err(read)? {
                let path = entry.map_err(read)?.path();
                if no_scenario(&path) {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "toml") {
                    scenarios.push(Self::read(root, &path)?);
                }
            }
        }
        scenarios.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(scenarios)
    }
}

impl RawScenario {
    /// Checks the file of a scenario of this name. Hooks that are files lie in `folder`.
    fn check(self, name: &str, folder: &Path) -> Result<Scenario, Mistake> {
        if self.summary.get_ref().trim().is_empty() {
            let message = "`summary` is empty. Say in one sentence what happens.";
            return Err(Mistake::new(&self.summary.span(), message));
        }
        self.covers.iter().try_for_each(check_row)?;
        self.excludes_backup()?;
        let mut snapshot =
            self.snapshot.map(Spanned::into_inner).unwrap_or_default().check(self.image.disks)?;
        let backup = match self.backup.map(|raw| raw.check(folder)).transpose()? {
            Some((tool, backups)) => {
                snapshot.cycles = backups;
                Some(tool)
            }
            None => None,
        };
        let faults = self.fault.into_iter().map(|fault| RawFault::check(fault, backup.is_some()));
        let faults = faults.collect::<Result<_, _>>()?;
        let freeze = self.quiesce.is_none_or(|quiesce| quiesce.get_ref().freeze);
        let databases = self.image.database;
        self.load.suits(&databases)?;
        let expect = check_expectations(self.expect, folder, freeze, &databases, backup.is_some())?;
        Ok(Scenario {
            name: name.to_owned(),
            summary: self.summary.into_inner(),
            covers: self.covers.into_iter().map(Spanned::into_inner).collect(),
            snapshot,
            databases,
            releases: self.image.release,
            disks: self.image.disks,
            restore: self.restore.map(Spanned::into_inner).unwrap_or_default(),
            load: self.load.check()?,
            freeze,
            faults,
            backup,
            expect,
        })
    }
}

impl RawScenario {
    /// Refuses what a backup tool decides by itself.
    fn excludes_backup(&self) -> Result<(), Mistake> {
        if self.backup.is_none() {
            return Ok(());
        }
        if let Some(quiesce) = &self.quiesce {
            let message = "with `[backup]`, the tool decides whether the guest is frozen. Drop `[quiesce]`.";
            return Err(Mistake::new(&quiesce.span(), message));
        }
        if let Some(snapshot) = &self.snapshot {
            let message = "with `[backup]`, the tool copies the disks. Drop `[snapshot]`; `backups` says how many are made.";
            return Err(Mistake::new(&snapshot.span(), message));
        }
        if let Some(restore) = self.restore.as_ref().filter(|restore| *restore.get_ref() != Restore::Boot) {
            let message =
                "with `[backup]`, the tool restores, and a guest boots from that. Drop `restore` at the top.";
            return Err(Mistake::new(&restore.span(), message));
        }
        Ok(())
    }
}

/// Checks the name of a row of the failure catalogue.
fn check_row(row: &Spanned<String>) -> Result<(), Mistake> {
    let id = row.get_ref();
    let known = id.len() == 3
        && id.starts_with(|c: char| c.is_ascii_uppercase())
        && id[1..].bytes().all(|b| b.is_ascii_digit());
    if known {
        return Ok(());
    }
    let message =
        format!("`{}` is not a row of the failure catalogue. Rows are named like D01.", printable(id));
    Err(Mistake::new(&row.span(), message))
}

impl RawLoad {
    /// Refuses a profile that writes to tables which one of the databases does not have.
    fn suits(&self, databases: &[Database]) -> Result<(), Mistake> {
        let needs_engines = matches!(self.profile.get_ref(), Profile::Bulk | Profile::MixedEngines);
        if needs_engines && databases.contains(&Database::Postgresql) {
            let message = "this profile writes to storage engines that PostgreSQL does not have. Take `postgresql` \
                           from `database`, or another profile.";
            return Err(Mistake::new(&self.profile.span(), message));
        }
        Ok(())
    }

    fn check(self) -> Result<Load, Mistake> {
        let writers = self.writers.0;
        if let Some(rate) = &self.rate
            && rate.get_ref().0 < writers
        {
            // A writer that waits for its turn does not end before it.
            let message =
                format!("`rate` must be at least {writers}, one for each writer, not {}.", rate.get_ref().0);
            return Err(Mistake::new(&rate.span(), message));
        }
        Ok(Load {
            profile: self.profile.into_inner(),
            writers,
            rate: self.rate.map(|rate| rate.get_ref().0),
            seconds: self.seconds.0,
            data_mib: self.data_mib.map_or(0, |data| data.0),
        })
    }
}

impl RawSnapshot {
    fn check(self, disks: Option<Disks>) -> Result<Snapshot, Mistake> {
        let snapshot = Snapshot {
            method: self.method,
            apart_ms: self.apart_ms.as_ref().map_or(0, |apart| apart.get_ref().0.into()),
            cycles: self.cycles.map_or(1, |cycles| cycles.0),
        };
        let Some(apart) = self.apart_ms.filter(|_| snapshot.apart_ms > 0) else { return Ok(snapshot) };
        if disks != Some(Disks::Split) {
            let message = "`apart_ms` needs more than one disk. Add `disks = \"split\"` under `[image]`.";
            return Err(Mistake::new(&apart.span(), message));
        }
        if let Some(why) = snapshot.impossible() {
            return Err(Mistake::new(&apart.span(), format!("{why}. Drop one of the two.")));
        }
        Ok(snapshot)
    }
}

/// Checks what is expected of each hook. The built-in hooks come first.
fn check_expectations(
    raw: Spanned<BTreeMap<String, Spanned<RawExpectation>>>,
    folder: &Path,
    freeze: bool,
    databases: &[Database],
    with_tool: bool,
) -> Result<Vec<(Hook, Expectation)>, Mistake> {
    let span = raw.span();
    let mut expect = Vec::new();
    for (name, expectation) in raw.into_inner() {
        let span = expectation.span();
        let hook =
            Hook::in_scenario(&name, folder).map_err(|error| Mistake::new(&span, error.to_string()))?;
        let expectation = expectation.into_inner().check(&span, &hook, freeze, databases, with_tool)?;
        expect.push((hook, expectation));
    }
    if expect.is_empty() {
        return Err(Mistake::new(&span, format!("`[expect]` names no hook. Add {}.", Hook::names())));
    }
    let built_ins = Hook::BUILT_IN;
    expect.sort_by_key(|(hook, _)| built_ins.iter().position(|b| b == hook).unwrap_or(built_ins.len()));
    Ok(expect)
}

impl RawExpectation {
    /// Refuses what cannot be expected of a hook, of a guest that is frozen or not.
    fn check(
        self,
        span: &Range<usize>,
        hook: &Hook,
        frozen: bool,
        databases: &[Database],
        with_tool: bool,
    ) -> Result<Expectation, Mistake> {
        let refuse = |message: &str| Err(Mistake::new(span, message));
        let Self { grade, findings, one_of, within_s, writable } = self;
        if grade.is_empty() {
            return refuse(&format!("`{}` expects no grade. List at least one.", hook.name()));
        }
        if grade.contains(&Grade::Unknown) {
            return refuse("`unknown` means that the grade could not be determined. It cannot be expected.");
        }
        if !frozen && grade.contains(&Grade::ApplicationConsistent) {
            return refuse("without a freeze a backup cannot be `application-consistent`.");
        }
        if !frozen && *hook != Hook::None {
            return refuse(&format!(
                "without a freeze no hook runs. Expect `none` instead of `{}`.",
                hook.name()
            ));
        }
        let nowhere = |it: &&Property| !databases.iter().any(|database| it.applies_to(*database));
        if let Some(property) = findings.iter().chain(&one_of).find(nowhere) {
            return refuse(&format!(
                "`{property}` cannot be found on any database of this scenario: it does not apply there. Take it out."
            ));
        }
        if let Some(property) = findings.iter().chain(&one_of).find(|it| it.is_of_tools() && !with_tool) {
            return refuse(&format!("`{property}` is about backup tools. Add `[backup]`, or take it out."));
        }
        let lowers = |it: &&Property| !it.is_conduct();
        if grade == [Grade::ApplicationConsistent] && findings.iter().chain(&one_of).any(|it| lowers(&it)) {
            return refuse("an `application-consistent` backup has no findings. Drop one or the other.");
        }
        Ok(Expectation { grade, findings, one_of, within_s: within_s.map(|seconds| seconds.0), writable })
    }
}
