//! Seals: what the files of a directory held when it was complete, so that it shows when they no longer do.
//!
//! A seal is a file beside them. A file whose size, inode and time of modification are still those in the
//! seal is taken to be unchanged, which costs nothing to find out; where they differ, and when everything
//! is to be read, the content decides. Short files are always read.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::files::{self, FileError};

/// The name of a seal.
pub const FILE: &str = "seal.json";

/// The version of its format.
const SCHEMA: u32 = 1;

/// The longest file that is always read, bytes. Measured: looking at an image or a saved guest takes 0.3 ms,
/// most of it for a file of 260 KiB.
const SHORT: u64 = 1 << 20;

/// The unit in which a file is read, bytes. Units of nothing but zeros count as holes, because copies of a
/// file differ in their holes.
const UNIT: usize = 1 << 16;

/// `seal.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    /// Version of this format.
    schema: u32,
    /// Each file, by its path in the directory.
    files: BTreeMap<PathBuf, Sealed>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    bytes: u64,
    /// See [`hash`], lowercase hex.
    sha256: String,
    /// By what it is known without being read; absent once its content was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stamp: Option<Stamp>,
}

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    inode: u64,
    /// The time of its modification, seconds and nanoseconds since 1970.
    modified: (i64, i64),
}

/// How closely files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Files are read that are short, or that somebody seems to have changed.
    Stamps,
    /// All files are read.
    Contents,
}

/// What is wrong with sealed files.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// A file does not exist.
    #[error("{} is gone", .0.display())]
    Gone(PathBuf),
    /// A file has another length.
    #[error("{} has {found} bytes, and had {sealed} when it was made", file.display())]
    Length {
        /// The file.
        file: PathBuf,
        /// Its length, bytes.
        found: u64,
        /// What it was.
        sealed: u64,
    },
    /// A file has another content.
    #[error("{} has changed since it was made", .0.display())]
    Changed(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Nothing says what the files held.
    #[error("it has no seal that can be read ({0})")]
    NoSeal(#[source] FileError),
}

/// Seals all files in a directory and below it.
pub fn make(dir: &Path) -> Result<(), FileError> {
    let mut files = BTreeMap::new();
    for path in files_below(dir).map_err(|error| unreadable(dir, &error))? {
        let name = path.strip_prefix(dir).unwrap_or(&path).to_owned();
        let sealed = Sealed::of(&path).map_err(|error| unreadable(&path, &error))?;
        files.insert(name, sealed);
    }
    files::write_json(&dir.join(FILE), &Seal { schema: SCHEMA, files })
}

/// Checks that the files of a sealed directory are as they were; others in it do not count. What is found
/// out about files that seemed to have changed is kept in the seal, for the next one who checks. Reading ends
/// when `is_over` says so; what is not read then counts as whole.
pub fn check(dir: &Path, depth: Depth, is_over: &dyn Fn() -> bool) -> Result<(), Damage> {
    let path = dir.join(FILE);
    let sealed: Seal = files::read_json(&path).map_err(Damage::NoSeal)?;
    if sealed.schema != SCHEMA {
        let problem = format!("schema {} is not {SCHEMA}", sealed.schema);
        return Err(Damage::NoSeal(FileError::Read { path, problem }));
    }
    let mut found = sealed.clone();
    let checked =
        found.files.iter_mut().try_for_each(|(name, file)| file.check(&dir.join(name), depth, is_over));
    if found != sealed {
        // Without this note, they are read again.
        let _ = files::write_json(&path, &found);
    }
    checked
}

impl Sealed {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let sha256 = hash(path, &|| false)?.unwrap_or_default();
        Ok(Self { bytes: metadata.len(), sha256, stamp: Some(Stamp::of(&metadata)) })
    }

    fn check(&mut self, path: &Path, depth: Depth, is_over: &dyn Fn() -> bool) -> Result<(), Damage> {
        let file = || path.to_owned();
        let metadata = fs::metadata(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Damage::Gone(file()),
            _ => Damage::Unreadable { file: file(), source },
        })?;
        if metadata.len() != self.bytes {
            return Err(Damage::Length { file: file(), found: metadata.len(), sealed: self.bytes });
        }
        // From before the content is read: a change in between shows next time.
        let stamp = Some(Stamp::of(&metadata));
        if depth == Depth::Stamps && self.stamp == stamp && self.bytes > SHORT {
            return Ok(());
        }
        let hashed = hash(path, is_over).map_err(|source| Damage::Unreadable { file: file(), source })?;
        let Some(sha256) = hashed else { return Ok(()) };
        if sha256 != self.sha256 {
            self.stamp = None;
            return Err(Damage::Changed(file()));
        }
        self.stamp = stamp;
        Ok(())
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { inode: metadata.ino(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
    }
}

/// SHA-256 over each unit of a file that is not only zeros, after its place in the file. Holes are passed
/// over without being read. `None` when it `is_over` first.
fn hash(path: &Path, is_over: &dyn Fn() -> bool) -> io::Result<Option<String>> {
    let file = File::open(path)?;
    let mut hash = Sha256::new();
    let zeros = vec![0; UNIT];
    let mut unit = zeros.clone();
    let mut at = 0;
    loop {
        if is_over() {
            return Ok(None);
        }
        at = match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data - data % UNIT as u64,
            // There is nothing but a hole up to its end.
            Err(Errno::NXIO) => break,
            // Its file system does not tell holes from data.
            Err(Errno::INVAL | Errno::NOTSUP) => at,
            Err(error) => return Err(error.into()),
        };
        let read = fill(&file, &mut unit, at)?;
        if read == 0 {
            break;
        }
        if unit[..read] != zeros[..read] {
            hash.update(at.to_le_bytes());
            hash.update(&unit[..read]);
        }
        at += UNIT as u64;
    }
    Ok(Some(hex::encode(hash.finalize())))
}

/// Reads a whole unit, or what is left of the file.
fn fill(file: &File, unit: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < unit.len() {
        match file.read_at(&mut unit[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Every file in a directory and below it.
fn files_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let list = if entry.file_type()?.is_dir() { &mut dirs } else { &mut found };
            list.push(entry.path());
        }
    }
    Ok(found)
}

fn unreadable(path: &Path, error: &io::Error) -> FileError {
    FileError::Read { path: path.to_owned(), problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    const LONG: &str = "memory";
    const BELOW: &str = "capabilities/one.xml";

    /// A sealed directory with a long file and a short one.
    fn sealed() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("capabilities")).unwrap();
        fs::write(dir.path().join(LONG), vec![7; 2 * SHORT as usize]).unwrap();
        fs::write(dir.path().join(BELOW), "<capabilities/>").unwrap();
        make(dir.path()).unwrap();
        dir
    }

    /// Changes a byte; the time of the change is not left to chance.
    fn change(path: &Path, seconds: u64) {
        let file = File::options().write(true).open(path).unwrap();
        file.write_at(&[8], 5).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }

    fn said(dir: &Path, depth: Depth) -> String {
        check(dir, depth, &|| false).map_or_else(|damage| damage.to_string(), |()| "whole".to_owned())
    }

    #[test]
    fn what_was_not_touched_is_whole_and_what_is_beside_does_not_count() {
        let dir = sealed();
        fs::write(dir.path().join("verified.json"), "{}").unwrap();
        for depth in [Depth::Stamps, Depth::Contents] {
            assert_eq!(said(dir.path(), depth), "whole");
        }
    }

    #[test]
    fn every_kind_of_damage_shows_at_a_glance() {
        type Harm = fn(&Path);
        let cases: [(Harm, &str, &str); 5] = [
            (|path| change(path, 1), LONG, "has changed since it was made"),
            (|path| change(path, 1), BELOW, "has changed since it was made"),
            (
                |path| File::options().write(true).open(path).unwrap().set_len(3).unwrap(),
                LONG,
                "has 3 bytes, and had",
            ),
            (|path| fs::remove_file(path).unwrap(), LONG, "is gone"),
            (|path| fs::remove_file(path).unwrap(), BELOW, "is gone"),
        ];
        for (harm, file, expected) in cases {
            let dir = sealed();
            let path = dir.path().join(file);
            harm(&path);
            let said = said(dir.path(), Depth::Stamps);
            assert!(said.starts_with(&format!("{} {expected}", path.display())), "{said}");
        }
    }

    #[test]
    fn a_short_file_is_read_whatever_its_times_say() {
        let dir = sealed();
        let path = dir.path().join(BELOW);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        change(&path, 1);
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert!(said(dir.path(), Depth::Stamps).ends_with("has changed since it was made"));
    }

    #[test]
    fn a_byte_that_rots_is_found_by_reading_and_known_from_then_on() {
        let dir = sealed();
        let path = dir.path().join(LONG);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        change(&path, 1);
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(said(dir.path(), Depth::Stamps), "whole");
        for depth in [Depth::Contents, Depth::Stamps] {
            assert!(said(dir.path(), depth).ends_with("has changed since it was made"), "{depth:?}");
        }
    }

    #[test]
    fn a_copy_is_read_once() {
        let dir = sealed();
        let (path, copy) = (dir.path().join(LONG), dir.path().join("copy"));
        fs::copy(&path, &copy).unwrap();
        fs::rename(&copy, &path).unwrap();
        let before = fs::read(dir.path().join(FILE)).unwrap();
        assert_eq!(said(dir.path(), Depth::Stamps), "whole");
        let renewed = fs::read(dir.path().join(FILE)).unwrap();
        assert_ne!(before, renewed);
        assert_eq!(said(dir.path(), Depth::Stamps), "whole");
        assert_eq!(fs::read(dir.path().join(FILE)).unwrap(), renewed);
    }

    #[test]
    fn holes_are_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let hashed = |name: &str, write: &dyn Fn(&File)| {
            let path = dir.path().join(name);
            write(&File::create(&path).unwrap());
            hash(&path, &|| false).unwrap()
        };
        let size = 5 * UNIT as u64 + 100;
        let at = 3 * UNIT as u64 + 17;
        let sparse = hashed("sparse", &|file| {
            file.write_all_at(b"data", at).unwrap();
            file.set_len(size).unwrap();
        });
        let full = hashed("full", &|file| {
            file.write_all_at(&vec![0; size as usize], 0).unwrap();
            file.write_all_at(b"data", at).unwrap();
        });
        assert_eq!(sparse, full);
        let moved = hashed("moved", &|file| {
            file.write_all_at(b"data", at - UNIT as u64).unwrap();
            file.set_len(size).unwrap();
        });
        assert_ne!(sparse, moved);
    }

    #[test]
    fn without_a_seal_nothing_is_known() {
        let dir = sealed();
        for text in [Some("{}"), Some("{\"schema\": 9, \"files\": {}}"), None] {
            match text {
                Some(text) => fs::write(dir.path().join(FILE), text).unwrap(),
                None => fs::remove_file(dir.path().join(FILE)).unwrap(),
            }
            let said = said(dir.path(), Depth::Stamps);
            assert!(said.starts_with("it has no seal that can be read ("), "{said}");
        }
    }
}
