//! The directory of a user for what is short-lived: locks, and the runtime directories of running
//! trials, each with libvirt's state, sockets, and a file that names its owner.
//!
//! ```text
//! HOME/lock           held while a trial reserves memory
//! HOME/t-XXXXXX/      a trial's runtime directory; `.t-XXXXXX` is one that is being made or removed
//! HOME/t-XXXXXX/owner whose lock the supervisor holds as long as it lives
//! ```
//!
//! Others can neither enter the directory nor hold its locks. Its path is short, because sockets
//! may have no longer one, and plain, because libvirt takes it apart at blanks and colons.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::verification::Request;
use crate::{files, json, lock};

/// What the names of runtime directories begin with.
const PREFIX: &str = "t-";

/// The same while one is being made or removed.
const UNDER_WAY: &str = ".t-";

/// The file that names a directory's owner.
const OWNER: &str = "owner";

/// The longest path of a user's directory, bytes. The path of a socket has at most 107; the longest
/// below it is `t-XXXXXX/d/etc/libvirt/qemu/lib/domain-NN-` with 20 characters and `/monitor.sock`, of a
/// libvirt daemon's own.
const MAX_PATH: usize = 107 - 76;

/// Why a user's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It cannot be made or read.
    #[error("cannot make the directory {} for locks and sockets: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// It is there, but not safe.
    #[error(
        "{} is to hold this user's locks and sockets, but {problem}. Whoever made it could see or stop guests: have it \
         removed, or let XDG_RUNTIME_DIR or TMPDIR name a directory that nobody else can enter",
        path.display()
    )]
    Unsafe {
        /// What is in its place.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// A user's directory.
#[derive(Debug)]
pub struct Home(PathBuf);

impl Home {
    /// That of this user: `freezeframe` in `XDG_RUNTIME_DIR` where that is his alone, otherwise
    /// `freezeframe-UID` in the directory for temporary files, or in `/tmp` where the path of that
    /// one is too long for sockets or has characters that libvirt does not take.
    pub fn of_user() -> Result<Self, HomeError> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        Self::open(place(runtime, std::env::temp_dir()))
    }

    /// Makes the directory at this path, or takes over one that is this user's alone.
    pub fn open(path: PathBuf) -> Result<Self, HomeError> {
        match DirBuilder::new().mode(files::PRIVATE_DIR).create(&path) {
            Err(source) if source.kind() != ErrorKind::AlreadyExists => {
                return Err(HomeError::Io { path, source });
            }
            _ => {}
        }
        match fs::symlink_metadata(&path).map(|found| problem(&found)) {
            Ok(None) => Ok(Self(path)),
            Ok(Some(problem)) => Err(HomeError::Unsafe { path, problem }),
            Err(source) => Err(HomeError::Io { path, source }),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file whose lock is held while a trial reserves memory.
    pub fn lock_file(&self) -> io::Result<File> {
        File::options().create(true).append(true).mode(files::PRIVATE_FILE).open(self.0.join("lock"))
    }

    /// Makes a runtime directory. The caller holds the lock of [`Home::lock_file`].
    pub fn create(&self, owner: &Owner) -> io::Result<RuntimeDir> {
        self.remove_halves();
        let new = tempfile::Builder::new()
            .prefix(UNDER_WAY)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(files::PRIVATE_DIR))
            .tempdir_in(&self.0)?;
        let mut held = File::options()
            .create_new(true)
            .write(true)
            .mode(files::PRIVATE_FILE)
            .open(new.path().join(OWNER))?;
        held.lock()?;
        io::Write::write_all(&mut held, json::pretty(owner)?.as_bytes())?;
        // It appears with its owner's lock held, so it never looks dead.
        let name = new.path().file_name().unwrap_or_default().as_bytes();
        let path = self.0.join(OsStr::from_bytes(&name[1..]));
        fs::rename(new.path(), &path)?;
        let _ = new.keep();
        Ok(RuntimeDir { path, _held: held })
    }

    /// Removes what processes left that were killed while they made or removed a directory.
    fn remove_halves(&self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.file_name().as_bytes().starts_with(UNDER_WAY.as_bytes()) {
                // Whoever is just removing it does the rest.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// The runtime directories of all trials, running or dead.
    pub fn list(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if !entry.file_name().as_bytes().starts_with(PREFIX.as_bytes()) || !entry.file_type()?.is_dir() {
                continue;
            }
            let dir = entry.path();
            let file = dir.join(OWNER);
            let alive = match File::open(&file) {
                Ok(held) => lock::is_held(&held)?,
                // It was removed meanwhile.
                Err(e) if e.kind() == ErrorKind::NotFound && !dir.exists() => continue,
                Err(e) if e.kind() == ErrorKind::NotFound => false,
                Err(e) => return Err(e),
            };
            found.push(Found { owner: files::read_json(&file).ok(), dir, alive });
        }
        Ok(found)
    }
}

/// Where a user's directory is, by his runtime directory and that for temporary files.
fn place(runtime: Option<PathBuf>, temp: PathBuf) -> PathBuf {
    let own = runtime
        .filter(|dir| fs::symlink_metadata(dir).is_ok_and(|found| problem(&found).is_none()))
        .map(|dir| dir.join("freezeframe"));
    let name = format!("freezeframe-{}", rustix::process::geteuid().as_raw());
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let suits = |path: &PathBuf| {
        let bytes = path.as_os_str().as_bytes();
        path.is_absolute() && bytes.len() <= MAX_PATH && bytes.iter().all(plain)
    };
    let fallback = Path::new("/tmp").join(&name);
    own.into_iter().chain([temp.join(name)]).find(suits).unwrap_or(fallback)
}

/// Why what was found is not a directory of this user alone.
fn problem(found: &fs::Metadata) -> Option<String> {
    let (user, mode) = (rustix::process::geteuid().as_raw(), found.mode() & 0o777);
    if !found.is_dir() {
        Some("something else is there".to_owned())
    } else if found.uid() != user {
        Some(format!("it belongs to user {} and not to user {user}", found.uid()))
    } else if mode != files::PRIVATE_DIR {
        Some(format!("its mode is {mode:04o} and not {:04o}", files::PRIVATE_DIR))
    } else {
        None
    }
}

/// A trial's runtime directory, which others see to be in use until this is dropped; it is removed then.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
    /// Closed in every program that this one starts, so that only this process keeps the lock.
    _held: File,
}

impl RuntimeDir {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        // First out of sight: half of it would look like one that a dead trial left. What stays is
        // removed when the next one is made.
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let going = self.path.with_file_name(format!(".{name}"));
        let _ = fs::rename(&self.path, &going).and_then(|()| fs::remove_dir_all(&going));
    }
}

/// A runtime directory as others find it.
#[derive(Debug)]
pub struct Found {
    /// The directory.
    pub dir: PathBuf,
    /// Whether its supervisor lives.
    pub alive: bool,
    /// Its owner, where that can be read: another version of this program may have written it.
    pub owner: Option<Owner>,
}

/// What a runtime directory is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// How much memory the trial's guests may take at once, MiB.
    pub memory_mib: u64,
    /// The trial's directory.
    pub trial: PathBuf,
}

/// Whether the supervisor of the trial or verification in this directory lives: it holds the lock of its plan or
/// request as well,
/// because the user's directory may be another one where this is asked, as for root.
pub fn is_supervised(trial: &Path) -> io::Result<bool> {
    let plan = File::open(trial.join(Plan::FILE));
    let plan = match plan {
        Err(error) if error.kind() == ErrorKind::NotFound => File::open(trial.join(Request::FILE)),
        plan => plan,
    };
    lock::is_held(&plan?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path().join("home")).unwrap();
        (dir, home)
    }

    fn owner() -> Owner {
        Owner { memory_mib: 896, trial: "/runs/one two, it's 100%\n".into() }
    }

    #[test]
    fn a_directory_is_alive_as_long_as_its_owner() {
        let (_dir, home) = home();
        let root = home.create(&owner()).unwrap();
        let found = home.list().unwrap().pop().unwrap();
        assert_eq!((found.dir.as_path(), found.alive, found.owner), (root.path(), true, Some(owner())));
        // As after a kill: nobody holds the lock, and the directory is there.
        let killed = root.path().with_file_name("t-killed");
        fs::create_dir(&killed).unwrap();
        fs::copy(root.path().join(OWNER), killed.join(OWNER)).unwrap();
        drop(root);
        let found = home.list().unwrap().pop().unwrap();
        assert_eq!((found.dir, found.alive, found.owner), (killed, false, Some(owner())));
    }

    #[test]
    fn nothing_of_it_is_for_others() {
        let (_dir, home) = home();
        let root = home.create(&owner()).unwrap();
        home.lock_file().unwrap();
        for (path, wanted) in [
            (home.path().to_owned(), 0o700),
            (home.path().join("lock"), 0o600),
            (root.path().to_owned(), 0o700),
            (root.path().join(OWNER), 0o600),
        ] {
            let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
            assert_eq!(mode, wanted, "{}: {mode:o}", path.display());
        }
    }

    #[test]
    fn what_is_half_made_or_foreign_is_no_trial() {
        let (_dir, home) = home();
        for name in [".t-half", "hooks-of-a-package"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        assert_eq!(home.list().unwrap().len(), 0);
        let root = home.create(&owner()).unwrap();
        assert!(!home.path().join(".t-half").exists() && home.path().join("hooks-of-a-package").exists());
        drop(root);
        assert_eq!(home.list().unwrap().len(), 0);
    }

    #[test]
    fn a_directory_that_others_could_have_made_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("home");
        let refused = |what: &str| {
            let error = Home::open(path.clone()).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(&*path.to_string_lossy()), "{error}");
        };
        fs::write(&path, "").unwrap();
        refused("something else is there");
        fs::remove_file(&path).unwrap();

        let elsewhere = dir.path().join("elsewhere");
        DirBuilder::new().mode(0o700).create(&elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        refused("something else is there");
        fs::remove_file(&path).unwrap();

        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        refused("its mode is 0750");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Home::open(path.clone()).unwrap();
        // Only root can give a file away.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            refused("it belongs to user 12345");
        }
    }

    #[test]
    fn the_place_is_private_short_and_plain() {
        let runtime = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in("/tmp")
            .unwrap();
        let runtime = runtime.path();
        let name = format!("freezeframe-{}", rustix::process::geteuid().as_raw());
        let own = |dir: &Path| place(Some(dir.to_owned()), "/var/tmp".into());
        assert_eq!(own(runtime), runtime.join("freezeframe"));
        assert_eq!(place(None, "/var/tmp".into()), Path::new("/var/tmp").join(&name));

        let temp = Path::new("/var/tmp").join(&name);
        // A link, one that others may enter, one with a blank, one that is not there.
        let blank = runtime.join("a b");
        DirBuilder::new().mode(0o700).create(&blank).unwrap();
        symlink(&blank, runtime.join("link")).unwrap();
        let open = runtime.join("open");
        DirBuilder::new().mode(0o755).create(&open).unwrap();
        for unfit in [runtime.join("link"), open, blank, runtime.join("none")] {
            assert_eq!(own(&unfit), temp, "{}", unfit.display());
        }
        let fallback = Path::new("/tmp").join(&name);
        for temp in ["/var/t mp", "/var/100%", "/vär", "/a:b", "relative", &format!("/{}", "x".repeat(100))]
        {
            assert_eq!(place(None, temp.into()), fallback, "{temp}");
        }
        assert!(fallback.as_os_str().len() <= MAX_PATH);
    }
}
