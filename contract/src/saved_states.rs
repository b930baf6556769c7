//! The saved guests of an image, as files: one is made once, and many trials lean on it at once.
//!
//! ```text
//! IMAGE/warm/KEY-XXXXXX/            one, sealed and never changed
//! IMAGE/warm/KEY-XXXXXX/thrown-away marks one that nobody starts from any more
//! IMAGE/warm/KEY.lock               locked while one is made
//! IMAGE/warm/tmp-KEY/               one that is being made, or whose maker died
//! ```
//!
//! The overlays of a trial name the files below them by their paths. So a state that is thrown away keeps
//! its path until no trial leans on it, and the next one with its key gets a path of its own: otherwise the
//! disks of a running trial would stand on another base than they were written on.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::files::{self, FileError};
use crate::seal::{self, Damage, Depth};

/// The mark of a state that was thrown away.
const THROWN_AWAY: &str = "thrown-away";

/// The saved guests of one image.
#[derive(Debug)]
pub struct SavedStates {
    dir: PathBuf,
}

/// A saved guest. It stays on the disk while this lives.
#[derive(Debug)]
pub struct SavedState {
    dir: PathBuf,
    _held: File,
}

impl SavedStates {
    /// Those of the image in this directory.
    pub fn of(image: &Path) -> Self {
        Self { dir: image.join("warm") }
    }

    /// Their directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Creates their directory.
    pub fn create(&self) -> Result<(), FileError> {
        files::create_dir(&self.dir)
    }

    /// The state with this key, if there is one that was not thrown away.
    pub fn find(&self, key: &str) -> Result<Option<SavedState>, FileError> {
        let prefix = format!("{key}-");
        for dir in self.dirs()? {
            if dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
                && let Some(state) = SavedState::hold(dir)?
            {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    /// Every state that was not thrown away.
    pub fn all(&self) -> Result<Vec<SavedState>, FileError> {
        let mut all = Vec::new();
        for dir in self.dirs()? {
            all.extend(SavedState::hold(dir)?);
        }
        Ok(all)
    }

    /// The file that is locked while the state with this key is made.
    pub fn lock_file(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.lock"))
    }

    /// Where the state with this key is made.
    pub fn scratch(&self, key: &str) -> PathBuf {
        self.dir.join(format!("tmp-{key}"))
    }

    /// Seals what was made for this key in `scratch`, and makes it the state.
    pub fn publish(&self, key: &str, scratch: &Path) -> Result<SavedState, FileError> {
        seal::make(scratch)?;
        let made = tempfile::Builder::new()
            .prefix(&format!("{key}-"))
            .make_in(&self.dir, |path| fs::rename(scratch, path))
            .and_then(|named| Ok(named.into_temp_path().keep()?));
        let dir = made.map_err(|source| FileError::Write { path: self.dir.clone(), source })?;
        SavedState::hold(dir.clone())?
            .ok_or_else(|| FileError::Read { path: dir, problem: "it was removed just now".to_owned() })
    }

    /// Removes the states that were thrown away, as soon as no trial leans on them.
    pub fn sweep(&self) -> Result<(), FileError> {
        for dir in self.dirs()? {
            let failed = |source| FileError::Write { path: dir.clone(), source };
            if !dir.join(THROWN_AWAY).exists() {
                continue;
            }
            let Some(file) = open(&dir)? else { continue };
            match file.try_lock() {
                Ok(()) => fs::remove_dir_all(&dir).map_err(failed)?,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// The directories of all states.
    fn dirs(&self) -> Result<Vec<PathBuf>, FileError> {
        let list = || -> io::Result<Vec<PathBuf>> {
            let mut dirs = Vec::new();
            for entry in fs::read_dir(&self.dir)? {
                let entry = entry?;
                // Without a part of its own, it is from an older version.
                let name = entry.file_name();
                let made = name.to_string_lossy().split_once('-').is_some_and(|(key, _)| key != "tmp");
                if made && entry.file_type()?.is_dir() {
                    dirs.push(entry.path());
                }
            }
            dirs.sort();
            Ok(dirs)
        };
        match list() {
            Ok(dirs) => Ok(dirs),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
            Err(error) => Err(FileError::Read { path: self.dir.clone(), problem: error.to_string() }),
        }
    }
}

impl SavedState {
    /// `None` when it was thrown away or is just being removed.
    fn hold(dir: PathBuf) -> Result<Option<Self>, FileError> {
        let Some(held) = open(&dir)? else { return Ok(None) };
        match held.try_lock_shared() {
            Ok(()) if dir.exists() && !dir.join(THROWN_AWAY).exists() => Ok(Some(Self { dir, _held: held })),
            Ok(()) | Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(FileError::Write { path: dir, source }),
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Checks that it is as it was made; see [`seal::check`].
    pub fn check(&self, depth: Depth, is_over: &dyn Fn() -> bool) -> Result<(), Damage> {
        seal::check(&self.dir, depth, is_over)
    }

    /// Lets nobody start from it any more. It is removed by [`SavedStates::sweep`].
    pub fn throw_away(&self) -> Result<(), FileError> {
        let path = self.dir.join(THROWN_AWAY);
        File::create(&path).map(drop).map_err(|source| FileError::Write { path, source })
    }
}

/// Opens a state's directory, if it is there.
fn open(dir: &Path) -> Result<Option<File>, FileError> {
    match File::open(dir) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::Read { path: dir.to_owned(), problem: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    fn states() -> (tempfile::TempDir, SavedStates) {
        let image = tempfile::tempdir().unwrap();
        let states = SavedStates::of(image.path());
        states.create().unwrap();
        (image, states)
    }

    fn publish(states: &SavedStates, memory: &str) -> SavedState {
        let scratch = states.scratch("key");
        fs::create_dir(&scratch).unwrap();
        fs::write(scratch.join("memory"), memory).unwrap();
        states.publish("key", &scratch).unwrap()
    }

    #[test]
    fn a_state_is_found_by_its_key_once_it_is_whole() {
        let (image, states) = states();
        assert!(SavedStates::of(&image.path().join("other")).find("key").unwrap().is_none());
        fs::create_dir(states.scratch("key")).unwrap();
        File::create(states.lock_file("key")).unwrap();
        // As older versions left them.
        fs::create_dir(states.dir.join("key")).unwrap();
        assert!(states.find("key").unwrap().is_none());
        fs::remove_dir(states.scratch("key")).unwrap();

        let made = publish(&states, "memory");
        let found = states.find("key").unwrap().unwrap();
        assert_eq!(found.dir(), made.dir());
        found.check(Depth::Contents, &|| false).unwrap();
        assert!(states.find("ke").unwrap().is_none());
        assert!(!states.scratch("key").exists());
    }

    #[test]
    fn what_was_thrown_away_keeps_its_path_while_somebody_leans_on_it() {
        let (_image, states) = states();
        drop(publish(&states, "first"));
        let first = states.find("key").unwrap().unwrap();
        let other = states.find("key").unwrap().unwrap();
        first.throw_away().unwrap();
        assert!(states.find("key").unwrap().is_none());
        assert!(states.all().unwrap().is_empty());

        let second = publish(&states, "second");
        assert_ne!(second.dir(), first.dir());
        // Somebody else has lost it as well: the new one is not thrown away with it.
        other.throw_away().unwrap();
        assert_eq!(states.find("key").unwrap().unwrap().dir(), second.dir());

        let path = first.dir().to_owned();
        drop(first);
        states.sweep().unwrap();
        assert_eq!(fs::read_to_string(path.join("memory")).unwrap(), "first");
        drop(other);
        states.sweep().unwrap();
        assert!(!path.exists());
        assert_eq!(fs::read_to_string(second.dir().join("memory")).unwrap(), "second");
    }

    #[test]
    fn a_state_stays_as_long_as_the_process_lives_that_leans_on_it() {
        let (_image, states) = states();
        let state = publish(&states, "memory");
        let dir = state.dir().to_owned();
        let mut other = Command::new("flock");
        other.args(["--shared", "--no-fork"]).arg(&dir).args(["sh", "-c", "echo leaning; exec sleep 600"]);
        let mut other = other.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(other.stdout.take().unwrap()).read_line(&mut said).unwrap();
        state.throw_away().unwrap();
        drop(state);
        states.sweep().unwrap();
        assert!(dir.exists());
        // Even one that is killed lets go of it.
        other.kill().unwrap();
        other.wait().unwrap();
        states.sweep().unwrap();
        assert!(!dir.exists());
    }

    #[test]
    fn nobody_gets_hold_of_a_state_that_is_being_removed() {
        let (_image, states) = states();
        let dir = publish(&states, "memory").dir().to_owned();
        // As `sweep` does.
        let removing = File::open(&dir).unwrap();
        removing.try_lock().unwrap();
        assert!(states.find("key").unwrap().is_none());
    }
}
