//! Runs: which trials a command line requests, and where their files are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::durations::TrialDurations;
use crate::files::{self, FileError};
use crate::image::{Definition, DefinitionError, Manifest};
use crate::plan::{Accel, Keep, Limits, Plan, Start, trial_dir_name};
use crate::scenario::{Hook, OwnCommands, Restore, Scenario, SnapshotMethod};

/// Names the run's directory to the test binary.
pub const RUN_DIR_VAR: &str = "FREEZEFRAME_RUN";

/// The images that are used when none is named: each scenario runs on the
/// first that suits it.
pub const DEFAULT_IMAGES: [&str; 3] =
    ["bookworm-mariadb", "bookworm-mariadb-split", "bookworm-mariadb-large"];

/// How many cycles come before the one that a repeated trial is about.
pub const REPETITIONS: u32 = 5;

/// The name of the hooks' .deb of this version, for this machine's architecture.
pub fn package(version: &str) -> String {
    format!("fsfreeze-hooks_{version}_{}.deb", debian_architecture())
}

/// What Debian calls this machine's architecture.
pub fn debian_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `run.json`: what the user requested, with absolute paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunOptions {
    /// Trials whose name contains any of these; all when empty.
    pub filters: Vec<String>,
    /// The images.
    pub images: Vec<String>,
    /// Whether each scenario runs on every image that suits it, or on the first one.
    pub every_image: bool,
    /// One hook for all trials, instead of those that the scenarios list.
    pub hook: Option<Hook>,
    /// One way to take snapshots for all trials, instead of the scenarios' own.
    #[serde(default)]
    pub snapshot: Option<SnapshotMethod>,
    /// The user's own commands, instead of those of the scenarios with a backup tool, and for these scenarios only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_commands: Option<OwnCommands>,
    /// A libvirt connection instead of the embedded driver.
    pub connect: Option<String>,
    /// The accelerator; `None` leaves it to a probe.
    pub accel: Option<Accel>,
    /// Whether every guest boots, instead of starting from saved memory.
    pub cold: bool,
    /// How many cycles the trials go through that have several; `None` leaves it to the scenarios.
    pub cycles: Option<u32>,
    /// Whether trials of one cycle that can be repeated go through several before it.
    #[serde(default)]
    pub repeat: bool,
    /// Whether each trial ends with the first answer of its first guest's server, and without a grade.
    #[serde(default)]
    pub start_only: bool,
    /// The seed of every trial's load.
    pub seed: u64,
    /// When disks stay.
    pub keep: Keep,
    /// The scenarios' folder.
    pub scenarios: PathBuf,
    /// The image definitions' folder, which also holds the hooks.
    pub definitions: PathBuf,
    /// The built images' folder.
    pub built: PathBuf,
    /// The hooks' package, which is there when a trial asks for it.
    pub package: PathBuf,
    /// The run's directory.
    pub dir: PathBuf,
}

/// One trial that a run requests.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialRequest {
    /// `core/no-hook::bookworm-mariadb::none`.
    pub name: String,
    /// The scenario.
    pub scenario: Scenario,
    /// The image.
    pub image: String,
    /// The hook.
    pub hook: Hook,
}

/// Where in a checkout the backup tools are that its host has no package of. Their commands find it last on their PATH.
pub const TOOLS: &str = "target/tools/bin";

/// The checkout that this program belongs to, found while it runs: a checkout may have been moved
/// since it was built. Cargo names the package whose program or test it runs; without it, the
/// program lies below the checkout, or is called inside it.
pub fn checkout() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let (program, here) = (std::env::current_exe().ok(), std::env::current_dir().ok());
    let is_one = |dir: &&Path| dir.join("scenarios/Cargo.toml").is_file();
    let found = [&package, &program, &here].into_iter().flatten().find_map(|it| it.ancestors().find(is_one));
    found.map_or_else(PathBuf::new, Path::to_owned)
}

/// The longest name of a trial, characters. Its guests, their logs and their sockets are called so, with more.
const LONGEST_NAME: usize = 150;

/// Whether each trial has a directory of its own.
fn names_suit(trials: &[TrialRequest]) -> Result<(), String> {
    let mut taken = BTreeMap::new();
    for TrialRequest { name, .. } in trials {
        let dir = trial_dir_name(name);
        if dir.len() > LONGEST_NAME {
            return Err(format!(
                "the name of the trial `{name}` has {} characters, and may have {LONGEST_NAME}. Shorten the name of \
                 its scenario, or of its hook's file.",
                dir.len()
            ));
        }
        if let Some(other) = taken.insert(dir.clone(), name) {
            return Err(format!(
                "the trials `{other}` and `{name}` would both be kept in `{dir}`. Rename a scenario, or a hook's file."
            ));
        }
    }
    Ok(())
}

impl RunOptions {
    /// The file's name in a run's directory.
    pub const FILE: &str = "run.json";

    /// What a run in `dir` requests by default: every scenario of this
    /// repository, each on the first image that suits it.
    pub fn of(repository: &Path, dir: PathBuf) -> Self {
        Self {
            filters: Vec::new(),
            images: DEFAULT_IMAGES.map(str::to_owned).to_vec(),
            every_image: false,
            hook: None,
            snapshot: None,
            own_commands: None,
            connect: None,
            accel: None,
            cold: false,
            cycles: None,
            repeat: false,
            start_only: false,
            seed: 1,
            keep: Keep::None,
            scenarios: repository.join("scenarios"),
            definitions: repository.join("images"),
            built: repository.join("target/images"),
            package: repository.join("target/packages").join(package(env!("CARGO_PKG_VERSION"))),
            dir,
        }
    }

    /// Every requested trial that is possible: scenario by image by hook.
    ///
    /// An error is about a scenario file, a definition, a name that no definition has, or the trials' own names.
    pub fn trials(&self) -> Result<Vec<TrialRequest>, DefinitionError> {
        let mut trials = self.requested()?;
        trials.retain(|trial| trial.scenario.snapshot.impossible().is_none());
        Ok(trials)
    }

    /// The requested trials that are not possible, and why.
    pub fn impossible(&self) -> Result<Vec<(String, String)>, DefinitionError> {
        let why = |trial: TrialRequest| Some((trial.name, trial.scenario.snapshot.impossible()?));
        Ok(self.requested()?.into_iter().filter_map(why).collect())
    }

    fn requested(&self) -> Result<Vec<TrialRequest>, DefinitionError> {
        let scenarios = Scenario::read_all(&self.scenarios)?;
        let named = |name: &String| Definition::named(&self.definitions, name);
        let images: Vec<_> = self.images.iter().map(named).collect::<Result<_, _>>()?;
        let mut trials = Vec::new();
        for mut scenario in scenarios {
            match (&self.own_commands, &mut scenario.backup) {
                (Some(own), Some(tool)) => {
                    *tool = own.instead_of(tool);
                    scenario.snapshot.cycles = own.backups.unwrap_or(scenario.snapshot.cycles);
                }
                (Some(_), None) => continue,
                (None, Some(tool)) if tool.needs_commands() => continue,
                (None, _) => {}
            }
            // A backup tool copies the disks as it does, and its scenario says how often.
            if scenario.backup.is_none() {
                if let Some(cycles) = self.cycles.filter(|_| scenario.snapshot.cycles > 1) {
                    scenario.snapshot.cycles = cycles;
                }
                if let Some(method) = self.snapshot {
                    scenario.snapshot.method = method;
                }
            }
            let suitable = images.iter().filter(|image| scenario.suits(image));
            for image in suitable.take(if self.every_image { usize::MAX } else { 1 }) {
                let mut scenario = scenario.clone();
                if self.repeat && scenario.can_repeat(image) {
                    scenario.snapshot.cycles = self.cycles.unwrap_or(REPETITIONS) + 1;
                    scenario.restore = Restore::AttachAndBoot;
                }
                for hook in self.hooks_of(&scenario) {
                    let name = format!("{}::{}::{}", scenario.name, image.name, hook.name());
                    if self.is_wanted(&name) {
                        let (scenario, image) = (scenario.clone(), image.name.clone());
                        trials.push(TrialRequest { name, scenario, image, hook });
                    }
                }
            }
        }
        names_suit(&trials).map_err(DefinitionError::Names)?;
        Ok(trials)
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }

    /// A hook that the user names replaces those of the file, where hooks run at all.
    fn hooks_of(&self, scenario: &Scenario) -> Vec<Hook> {
        match &self.hook {
            Some(hook) if scenario.freeze => vec![hook.clone()],
            Some(_) => vec![],
            None => scenario.expect.iter().map(|(hook, _)| hook.clone()).collect(),
        }
    }

    /// Resolves one trial.
    pub fn plan(&self, request: &TrialRequest, image: Manifest, accel: Accel) -> Plan {
        let TrialRequest { name, scenario, hook, .. } = request;
        let expect = scenario.expectation(hook, image.server.database);
        // What was measured of an earlier trial says nothing about a command that hangs in this one.
        let commands =
            scenario.backup.as_ref().map_or(Duration::ZERO, |tool| tool.longest(scenario.snapshot.cycles));
        Plan {
            trial: name.clone(),
            scenario: scenario.name.clone(),
            summary: scenario.summary.clone(),
            image,
            hook: hook.clone(),
            install: match hook {
                Hook::None | Hook::Distro | Hook::DistroEnabled | Hook::Freezeframe => None,
                Hook::Package => Some(self.package.clone()),
                Hook::Sample => Some(self.definitions.join("hooks/sample/fsfreeze-hook")),
                Hook::File(path) => Some(path.clone()),
            },
            load: scenario.load.clone(),
            freeze: scenario.freeze,
            snapshot: scenario.snapshot,
            restore: scenario.restore,
            faults: scenario.faults.clone(),
            backup: scenario.backup.clone(),
            expect,
            seed: self.seed,
            accel,
            // A saved domain keeps its name, and a libvirt that is shared can have it only once.
            start: if self.cold || self.connect.is_some() { Start::Cold } else { Start::Warm },
            start_only: self.start_only,
            connect: self.connect.clone(),
            dir: self.trial_dir(name),
            limits: Limits {
                trial: self.durations().limit(name, scenario.snapshot.cycles) + commands,
                ..Limits::for_accel(accel)
            },
            keep: self.keep,
        }
    }

    /// How long trials took in earlier runs.
    pub fn durations(&self) -> TrialDurations {
        TrialDurations::beside(&self.dir)
    }

    /// Where a trial's files go.
    pub fn trial_dir(&self, name: &str) -> PathBuf {
        self.dir.join(trial_dir_name(name))
    }

    /// Reads `run.json`.
    pub fn read(dir: &Path) -> Result<Self, FileError> {
        files::read_json(&dir.join(Self::FILE))
    }

    /// Creates the run's directory and writes `run.json`.
    pub fn write(&self) -> Result<(), FileError> {
        files::create_dir(&self.dir)?;
        files::write_json(&self.dir.join(Self::FILE), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::BackupTool;

    fn two_disks(snapshot: Option<SnapshotMethod>) -> RunOptions {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let filters = vec!["database/two-disks::".to_owned(), "database/two-disks-apart::".to_owned()];
        RunOptions { filters, snapshot, ..RunOptions::of(repository, "/runs/one".into()) }
    }

    #[test]
    fn a_method_of_snapshots_is_for_all_trials_that_it_can_take() {
        let names = |options: &RunOptions| -> Vec<_> {
            options.trials().unwrap().into_iter().map(|trial| trial.scenario.name).collect()
        };
        for method in [None, Some(SnapshotMethod::HostCopy)] {
            let options = two_disks(method);
            assert!(names(&options).contains(&"database/two-disks-apart".to_owned()));
            assert_eq!(options.impossible().unwrap(), []);
            let used = |trial: TrialRequest| trial.scenario.snapshot.method == method.unwrap_or_default();
            assert!(options.trials().unwrap().into_iter().all(used));
        }
        let options = two_disks(Some(SnapshotMethod::BackupPush));
        assert!(names(&options).iter().all(|name| name == "database/two-disks"));
        let (trial, why) = options.impossible().unwrap().swap_remove(0);
        assert!(
            trial.starts_with("database/two-disks-apart::") && why.contains("one job at a time"),
            "{why}"
        );
    }

    #[test]
    fn every_trial_has_a_directory_of_its_own() {
        let trials = two_disks(None).trials().unwrap();
        let named = |names: &[&str]| {
            let trial = |name: &&str| TrialRequest { name: (*name).to_owned(), ..trials[0].clone() };
            names_suit(&names.iter().map(trial).collect::<Vec<_>>())
        };
        named(&["a/b-c::x::none", "a/b-d::x::none"]).unwrap();
        let said = named(&["a/b-c::x::none", "a-b/c::x::none"]).unwrap_err();
        assert!(said.starts_with("the trials `a/b-c::x::none` and `a-b/c::x::none` would both be"), "{said}");
        let said = named(&[&format!("a::x::{}", "y".repeat(LONGEST_NAME))]).unwrap_err();
        assert!(said.contains("has 154 characters"), "{said}");
    }

    #[test]
    fn the_users_commands_take_the_place_of_those_in_scenarios_with_a_tool() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let by_default = RunOptions::of(repository, "/runs/one".into());
        let is_own = |trial: &TrialRequest| trial.scenario.name == "tools/your-own";
        assert!(!by_default.trials().unwrap().iter().any(is_own), "it has no commands");
        let backup = "A=1 /opt/mine/bin/own-backup --to $FREEZEFRAME_BACKUP".to_owned();
        let (restore, backups) = ("own-restore".to_owned(), Some(3));
        let own = OwnCommands { backup, restore, backups, backup_seconds: Some(7), restore_seconds: None };
        let options = RunOptions { own_commands: Some(own.clone()), ..by_default };
        let trials = options.trials().unwrap();
        assert!(trials.iter().any(is_own));
        for trial in trials {
            let tool = trial.scenario.backup.unwrap();
            assert_eq!((&*tool.name, &tool.backup, &tool.restore), ("own-backup", &own.backup, &own.restore));
            assert_eq!((tool.backup_seconds, trial.scenario.snapshot.cycles), (7, 3));
        }
        for odd in ["A=1", "/", "$(x)/\u{202e}", "", &"x".repeat(41)] {
            let tool = OwnCommands { backup: odd.to_owned(), ..own.clone() };
            let name = tool.instead_of(&tool_of(repository)).name;
            assert_eq!(name, "your own", "{odd}");
        }
        let json = serde_json::to_value(&options).unwrap();
        assert_eq!(serde_json::from_value::<RunOptions>(json).unwrap(), options);
    }

    fn tool_of(repository: &Path) -> BackupTool {
        let scenario = Scenario::read(repository, &repository.join("scenarios/tools/your-own.toml")).unwrap();
        scenario.backup.unwrap()
    }

    #[test]
    fn an_old_run_names_no_method() {
        let options = two_disks(None);
        let mut json = serde_json::to_value(&options).unwrap();
        assert!(json.as_object_mut().unwrap().remove("snapshot").is_some());
        assert_eq!(serde_json::from_value::<RunOptions>(json).unwrap(), options);
    }
}
