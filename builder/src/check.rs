//! Reads images, and the guests saved of them, in full, and removes what is damaged.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use contract::saved_states::{SavedState, SavedStates};
use contract::seal::{self, Damage, Depth};
use tooling::error::Failure;

use super::store::{Store, allocated_mib, remove_unused};

/// What became of an image's build, or of a guest saved of it.
#[derive(Debug)]
pub struct Checked {
    /// Its directory.
    pub path: PathBuf,
    /// The space that it takes or took, MiB.
    pub mib: u64,
    /// What was found.
    pub condition: Condition,
}

/// What the check found.
#[derive(Debug)]
pub enum Condition {
    /// Every file is as it was made.
    Whole,
    /// It is from a version that did not seal its images, so nobody can know.
    NotSealed,
    /// It was damaged, and is removed.
    Removed(Damage),
    /// It is damaged, and somebody uses it.
    InUse(Damage),
}

impl Condition {
    /// Whether something is wrong.
    pub fn is_damaged(&self) -> bool {
        matches!(self, Self::Removed(_) | Self::InUse(_))
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("whole"),
            Self::NotSealed => {
                f.write_str("cannot be checked: it has no seal, as one that an older version built; `images clean` removes it")
            }
            Self::Removed(damage) => write!(f, "damaged, and removed: {damage}"),
            Self::InUse(damage) => write!(
                f,
                "damaged, and in use by a run: {damage}; check it again when that run has ended, to remove it"
            ),
        }
    }
}

/// Checks every build of the images `names`, or of all if none is named, and what was saved of their guests.
pub(crate) fn check(
    store: &Store,
    names: &[String],
    mut report: impl FnMut(&Checked),
) -> Result<(), Failure> {
    let _locked = store.lock()?;
    let mut builds = if names.is_empty() { store.all_builds()? } else { vec![] };
    for name in names.iter().collect::<BTreeSet<_>>() {
        builds.extend(store.builds_of(name)?);
    }
    for build in builds {
        let mib = allocated_mib(&build);
        let condition = check_build(&build)?;
        report(&Checked { path: build.clone(), mib, condition });
        let states = SavedStates::of(&build);
        states.sweep()?;
        for state in states.all()? {
            report(&check_state(&states, state)?);
        }
    }
    Ok(())
}

fn check_build(build: &Path) -> Result<Condition, Failure> {
    let damage = match seal::check(build, Depth::Contents, &|| false) {
        Ok(()) => return Ok(Condition::Whole),
        Err(Damage::NoSeal(_)) if !build.join(seal::FILE).exists() => return Ok(Condition::NotSealed),
        Err(damage) => damage,
    };
    Ok(if remove_unused(build)? { Condition::Removed(damage) } else { Condition::InUse(damage) })
}

fn check_state(states: &SavedStates, state: SavedState) -> Result<Checked, Failure> {
    let path = state.dir().to_owned();
    let mib = allocated_mib(&path);
    let condition = match state.check(Depth::Contents, &|| false) {
        Ok(()) => Condition::Whole,
        Err(damage) => {
            state.throw_away()?;
            drop(state);
            states.sweep()?;
            if path.exists() { Condition::InUse(damage) } else { Condition::Removed(damage) }
        }
    };
    Ok(Checked { path, mib, condition })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    const DIGEST: &str = "0123456789abcdef";
    const DISK: &str = "vda.raw";

    /// A store with one image, of which a guest is saved.
    fn store(root: &Path) -> (Store, PathBuf, SavedState) {
        let store = Store::open(root.join("images")).unwrap();
        let locked = store.lock().unwrap();
        let scratch = locked.scratch("one").unwrap();
        fs::write(scratch.image().join(DISK), vec![7; 3 << 20]).unwrap();
        locked.publish(scratch, "one", DIGEST).unwrap();
        drop(locked);
        let build = store.build_of("one", DIGEST);
        let states = SavedStates::of(&build);
        states.create().unwrap();
        let scratch = states.scratch("key");
        fs::create_dir(&scratch).unwrap();
        fs::write(scratch.join("memory"), vec![7; 3 << 20]).unwrap();
        let state = states.publish("key", &scratch).unwrap();
        (store, build, state)
    }

    /// What is said of each directory, by its name without what is random.
    fn said(store: &Store, names: &[&str]) -> Vec<String> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut said = Vec::new();
        let report = |checked: &Checked| {
            let (name, condition) = (checked.path.file_name().unwrap(), checked.condition.to_string());
            let name = name.to_string_lossy();
            said.push(format!("{}: {condition}", name.split_once('-').unwrap().0));
        };
        check(store, &names, report).unwrap();
        said
    }

    /// Changes a byte so that only reading the file shows it.
    fn rot(file: &Path) {
        let modified = fs::metadata(file).unwrap().modified().unwrap();
        let mut bytes = fs::read(file).unwrap();
        bytes[5] ^= 1;
        fs::write(file, bytes).unwrap();
        File::options().write(true).open(file).unwrap().set_modified(modified).unwrap();
    }

    #[test]
    fn what_is_whole_stays() {
        let root = tempfile::tempdir().unwrap();
        let (store, build, state) = store(root.path());
        for names in [vec![], vec!["one"]] {
            assert_eq!(said(&store, &names), ["one: whole", "key: whole"]);
        }
        assert!(build.join(DISK).exists() && state.dir().join("memory").exists());
        let other = check(&store, &["two".to_owned()], |_| ()).unwrap_err().to_string();
        assert!(other.contains("no built image `two`"), "{other}");
    }

    #[test]
    fn every_kind_of_damage_to_an_image_is_found_and_removed_and_said() {
        type Harm = fn(&Path);
        let harms: [(Harm, &str); 3] = [
            (rot, "has changed since it was made"),
            (
                |file| File::options().write(true).open(file).unwrap().set_len(9).unwrap(),
                "has 9 bytes, and had 3145728",
            ),
            (|file| fs::remove_file(file).unwrap(), "is gone"),
        ];
        for (harm, expected) in harms {
            let root = tempfile::tempdir().unwrap();
            let (store, build, _) = store(root.path());
            harm(&build.join(DISK));
            let [said] = &*said(&store, &[]) else { panic!("the saved guest goes with its image") };
            assert!(said.starts_with("one: damaged, and removed: ") && said.contains(expected), "{said}");
            assert!(!build.exists());
        }
    }

    #[test]
    fn a_damaged_image_stays_while_a_run_uses_it() {
        let root = tempfile::tempdir().unwrap();
        let (store, build, _) = store(root.path());
        let run = File::open(&build).unwrap();
        run.try_lock_shared().unwrap();
        rot(&build.join(DISK));
        assert!(said(&store, &[])[0].starts_with("one: damaged, and in use by a run: "));
        assert!(build.join(DISK).exists());
        drop(run);
        assert!(said(&store, &[])[0].starts_with("one: damaged, and removed: "));
    }

    #[test]
    fn a_damaged_memory_is_removed_as_soon_as_no_trial_stands_on_it() {
        let root = tempfile::tempdir().unwrap();
        let (store, _, state) = store(root.path());
        let memory = state.dir().join("memory");
        rot(&memory);
        let found = said(&store, &[]);
        assert_eq!(found[0], "one: whole");
        assert!(found[1].starts_with("key: damaged, and in use by a run: "), "{}", found[1]);
        assert!(memory.exists());
        drop(state);
        assert_eq!(said(&store, &[]), ["one: whole"]);
        assert!(!memory.exists());
    }

    #[test]
    fn an_image_without_a_seal_is_neither_whole_nor_damaged() {
        let root = tempfile::tempdir().unwrap();
        let (store, build, _) = store(root.path());
        fs::remove_file(build.join("seal.json")).unwrap();
        assert!(said(&store, &[])[0].starts_with("one: cannot be checked: it has no seal"));
        assert!(build.exists());
    }
}
