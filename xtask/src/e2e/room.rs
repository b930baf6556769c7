//! Whether the disks have room for a run, asked before anything is installed or built.
//!
//! These are lower bounds: a run may need more, and without this much it cannot end well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use contract::image::{Definition, Manifest};
use contract::plan::Keep;
use contract::run::{RunOptions, TrialRequest};
use contract::scenario::Restore;
use tooling::error::Failure;
use tooling::space;

/// The files of the smallest image, MiB (measured: 447 to 649).
const IMAGE_MIB: u64 = 440;

/// What a guest writes to its overlays in a trial, besides the load's own data, MiB.
const OVERLAYS_MIB: u64 = 64;

/// How often a trial with a backup tool has its disks besides: those that the tool backs up are whole, and so are
/// its backup and what it restores. A tool that runs out of room cannot be told from one that fails.
const TOOL_COPIES: u64 = 3;

/// What stays of a trial: logs and observations, MiB.
const FILES_MIB: u64 = 4;

/// Fails where there is no room for these trials, `jobs` at a time, or for the images that they lack.
pub(super) fn check(options: &RunOptions, requests: &[TrialRequest], jobs: u16) -> Result<(), Failure> {
    let images: BTreeMap<_, _> = requests
        .iter()
        .map(|request| (&*request.image, Manifest::read(&options.built, &request.image).ok()))
        .collect();
    let trials = of_trials(
        options.keep,
        jobs,
        requests.iter().map(|request| {
            let image = images.get(&*request.image).and_then(Option::as_ref).map_or(IMAGE_MIB, disks_mib);
            of_trial(request, image)
        }),
    );
    let missing = images.iter().filter(|(_, built)| built.is_none());
    let missing = missing.map(|(name, _)| Definition::named(&options.definitions, name));
    let missing: Vec<_> = missing.collect::<Result<_, _>>()?;
    let built = of_builds(&missing)? + saved_mib(options, requests, &images);
    let (runs, store) = (options.dir.parent().unwrap_or(&options.dir), &options.built);
    if device(runs) == device(store) {
        return space::require("the trials need", runs, trials + built);
    }
    space::require("the trials need", runs, trials)?;
    space::require("the images of these trials need", store, built)
}

/// What a trial needs while it runs, and of that, what kept disks take, MiB.
fn of_trial(request: &TrialRequest, image_mib: u64) -> [u64; 2] {
    let overlays = OVERLAYS_MIB + u64::from(request.scenario.load.data_mib);
    // Its disks are copied to be read raw, one snapshot at a time.
    let copies = if request.scenario.backup.is_some() { 1 + TOOL_COPIES } else { 1 };
    [copies * image_mib + overlays, overlays]
}

fn of_trials(keep: Keep, jobs: u16, trials: impl Iterator<Item = [u64; 2]>) -> u64 {
    let mut trials: Vec<_> = trials.collect();
    trials.sort_unstable_by(|a, b| b.cmp(a));
    let at_once: u64 = trials.iter().take(jobs.into()).map(|[running, _]| running).sum();
    let kept: u64 = match keep {
        Keep::All => trials.iter().skip(jobs.into()).map(|[_, kept]| kept).sum(),
        Keep::None | Keep::Failed => 0,
    };
    at_once + kept + FILES_MIB * trials.len() as u64
}

/// What building these images needs: each stays, and the largest build needs more while it is under way.
fn of_builds(missing: &[Definition]) -> Result<u64, Failure> {
    let mut largest = 0;
    for image in missing {
        largest = largest.max(builder::needed_mib(image)?);
    }
    Ok(largest + IMAGE_MIB * (missing.len() as u64).saturating_sub(1))
}

/// What the memories of guests need that are yet to be saved, MiB: some half of a guest's memory (measured:
/// 226 of 512).
fn saved_mib(
    options: &RunOptions,
    requests: &[TrialRequest],
    images: &BTreeMap<&str, Option<Manifest>>,
) -> u64 {
    // Such trials save none.
    if options.cold || options.connect.is_some() {
        return 0;
    }
    let guest = |request: &TrialRequest| match images.get(&*request.image).and_then(Option::as_ref) {
        Some(built) if has_saved(&built.dir) => 0,
        Some(built) => built.memory_mib / 2,
        None => {
            Definition::named(&options.definitions, &request.image).map_or(0, |image| image.memory_mib / 2)
        }
    };
    let attached = |request: &TrialRequest| request.scenario.restore != Restore::Boot;
    // One of each kind of guest.
    let guests: BTreeSet<_> = requests
        .iter()
        .flat_map(|request| {
            [Some((&request.image, false)), attached(request).then_some((&request.image, true))]
        })
        .flatten()
        .collect();
    let of = |image: &String| requests.iter().find(|request| request.image == *image).map_or(0, guest);
    guests.into_iter().map(|(image, _)| of(image)).sum()
}

fn has_saved(image: &Path) -> bool {
    fs::read_dir(image.join("warm")).is_ok_and(|mut entries| entries.next().is_some())
}

/// What an image's disks take, MiB.
fn disks_mib(image: &Manifest) -> u64 {
    let blocks = |file: &Path| file.metadata().map_or(0, |metadata| metadata.blocks());
    // These blocks have 512 bytes on every file system.
    image.disks.iter().map(|disk| blocks(&disk.file)).sum::<u64>() / 2048
}

/// The file system that holds a path, or will.
fn device(path: &Path) -> Option<u64> {
    path.ancestors().find_map(|path| path.metadata().ok()).map(|metadata| metadata.dev())
}

#[cfg(test)]
mod tests {
    use tooling::host;

    use super::*;

    #[test]
    fn trials_need_room_while_they_run_and_for_what_stays() {
        let trials = || [[500, 60], [700, 80], [500, 60]].into_iter();
        assert_eq!(of_trials(Keep::None, 1, trials()), 700 + 3 * FILES_MIB);
        assert_eq!(of_trials(Keep::Failed, 2, trials()), 1200 + 3 * FILES_MIB);
        assert_eq!(of_trials(Keep::All, 1, trials()), 700 + 120 + 3 * FILES_MIB);
        assert_eq!(of_trials(Keep::All, 9, trials()), 1700 + 3 * FILES_MIB);
    }

    #[test]
    fn a_backup_tool_needs_room_for_its_copies() {
        let options = RunOptions::of(host::repository(), "/runs/one".into());
        let requests = options.trials().unwrap();
        let needs = |with_tool: bool| {
            let one = requests.iter().find(|it| it.scenario.backup.is_some() == with_tool).unwrap();
            of_trial(one, 500)[0] - of_trial(one, 0)[0]
        };
        assert_eq!((needs(false), needs(true)), (500, 2000));
    }

    #[test]
    fn a_run_that_cannot_fit_is_refused_before_it_begins() {
        let dir = tempfile::tempdir().unwrap();
        let options = RunOptions {
            filters: vec!["core/".to_owned()],
            built: dir.path().join("images"),
            ..RunOptions::of(host::repository(), dir.path().join("e2e/run"))
        };
        let requests = options.trials().unwrap();
        // Nothing is built: a root, downloads and a saved memory come on top of the disks.
        let missing = [Definition::named(&options.definitions, "bookworm-mariadb").unwrap()];
        let image = of_builds(&missing).unwrap();
        assert!(image > 2048, "{image}");
        let built = requests.iter().map(|request| (&*request.image, None)).collect();
        // Some of these trials boot their snapshot, and some attach it to a second guest.
        assert_eq!(saved_mib(&options, &requests, &built), missing[0].memory_mib / 2 * 2);
        let cold = RunOptions { cold: true, ..options.clone() };
        assert_eq!(saved_mib(&cold, &requests, &built), 0);
        let mut endless = requests.clone();
        endless.iter_mut().for_each(|request| request.scenario.load.data_mib = u32::MAX);
        let said = check(&options, &endless, 1).unwrap_err().to_string();
        let runs = dir.path().join("e2e");
        assert!(said.starts_with("the trials need at least 4294"), "{said}");
        assert!(said.contains(&format!(" MiB in {}, and ", runs.display())), "{said}");
    }
}
