//! Files that one program writes and another reads: bounded when they are read, whole when they are written.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{json, text};

/// The mode of a directory for this user only.
pub const PRIVATE_DIR: u32 = 0o700;

/// The same of a file.
pub const PRIVATE_FILE: u32 = 0o600;

/// The number of the user and of the group as whom QEMU runs guests where the harness is root: one of those that no
/// distribution and no service manager gives anybody. See <https://systemd.io/UIDS-GIDS/>.
pub const GUEST_USER: u32 = 65_522;

/// The longest JSON file that is read, bytes.
const MAX_JSON: u64 = 4 << 20;

/// Why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read, or its content is not what it must be.
    #[error("{}: {problem}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// It cannot be written.
    #[error("cannot write {}: {source}{}", path.display(), foreign(path, source))]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// After an error about a path: whose it is, where another user's files stand in the way, and what to do.
/// Empty for every other error.
pub fn foreign(path: &Path, error: &io::Error) -> String {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return String::new();
    }
    let uid = |path: &Path| path.symlink_metadata().map(|metadata| metadata.uid()).ok();
    // The directory of a process belongs to its user.
    let Some(own) = uid(Path::new("/proc/self")) else { return String::new() };
    foreign_to(own, path, uid)
}

fn foreign_to(own: u32, path: &Path, uid: impl Fn(&Path) -> Option<u32>) -> String {
    let mut there = path.ancestors().filter_map(|path| Some((path, uid(path)?))).peekable();
    let Some((first, owner)) = there.next_if(|(_, owner)| *owner != own) else { return String::new() };
    // The whole tree of that user below a directory of one's own, if there is one.
    let mut tree = first;
    while let Some((above, _)) = there.next_if(|(_, above)| *above == owner) {
        tree = above;
    }
    let tree = if there.peek().is_some() { tree } else { first };
    let whose = |id: u32| if id == 0 { "root".to_owned() } else { format!("the user with the id {id}") };
    format!(
        ". {} belongs to {owner}, and this is {}: run it as {owner}, or take the files over by \
         `sudo chown -R {own} '{}'`",
        first.display(),
        whose(own),
        tree.display(),
        owner = whose(owner),
    )
}

/// Opens a file that can be read to its end: opening a pipe could wait for ever.
pub fn open_regular(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(path)
}

/// Keeps to this user whatever this process and its children create from now on: for programs that
/// write only what guests hold and say.
pub fn keep_private() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o777 & !PRIVATE_DIR));
}

/// Writes a file for this user only, as a whole or not at all: a reader never finds half of it.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, content, PRIVATE_FILE)
}

/// The same of a file that is meant for others as well: for those whom the umask allows.
pub fn publish(path: &Path, content: &[u8]) -> io::Result<()> {
    write(path, content, 0o666)
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mode = Permissions::from_mode(mode);
    let mut new = tempfile::Builder::new().prefix(".new-").permissions(mode).tempfile_in(dir)?;
    new.write_all(content)?;
    new.persist(path)?;
    Ok(())
}

/// Reads a JSON file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let mut json = Vec::new();
    let read = open_regular(path).and_then(|file| file.take(MAX_JSON + 1).read_to_end(&mut json));
    let problem = match read {
        Err(e) if e.kind() == io::ErrorKind::NotFound => "there is no such file".to_owned(),
        Err(e) => e.to_string(),
        Ok(_) if json.len() as u64 > MAX_JSON => format!("the file is longer than {MAX_JSON} bytes"),
        Ok(_) => match serde_json::from_slice(&json) {
            Ok(value) => return Ok(value),
            Err(e) => format!("line {}: {}", e.line(), text::json_problem(&e)),
        },
    };
    Err(FileError::Read { path: path.to_owned(), problem })
}

/// Writes a JSON file, as a whole or not at all. Its directory must exist.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    json::pretty(value)
        .map_err(io::Error::from)
        .and_then(|json| replace(path, json.as_bytes()))
        .map_err(|source| FileError::Write { path: path.to_owned(), source })
}

/// Creates a directory for this user only, and those above it. One of his that is there is closed
/// to others: an older version of this program may have made it.
pub fn create_dir(dir: &Path) -> Result<(), FileError> {
    let created = DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(dir).and_then(|()| {
        let found = fs::metadata(dir)?;
        let own = found.uid() == rustix::process::geteuid().as_raw();
        // What QEMU may enter, nobody else may.
        let others = found.mode() & 0o077;
        if !own || others == 0 || (others == 0o010 && found.gid() == GUEST_USER) {
            return Ok(());
        }
        fs::set_permissions(dir, Permissions::from_mode(PRIVATE_DIR))
    });
    created.map_err(|source| FileError::Write { path: dir.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.json");
        for value in [1, 2] {
            write_json(&path, &value).unwrap();
            assert_eq!(read_json::<u32>(&path).unwrap(), value);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        publish(&path, b"for all").unwrap();
        // What the umask leaves of it.
        File::create(dir.path().join("other")).unwrap();
        assert_eq!(mode(&path), mode(&dir.path().join("other")));
    }

    #[test]
    fn a_directory_is_closed_to_others_even_if_it_was_open() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let deep = dir.path().join("runs/one");
        create_dir(&deep).unwrap();
        assert_eq!((mode(&deep), mode(deep.parent().unwrap())), (0o700, 0o700));
        fs::set_permissions(&deep, Permissions::from_mode(0o755)).unwrap();
        create_dir(&deep).unwrap();
        assert_eq!(mode(&deep), 0o700);
    }

    #[test]
    fn a_tree_of_another_user_is_named_with_the_remedy() {
        let owner = |root: u32| {
            move |path: &Path| match path.to_str()? {
                "/checkout/target/images/.store/lock" => None,
                "/checkout" => Some(1000),
                "/" => Some(0),
                _ => Some(root),
            }
        };
        let lock = Path::new("/checkout/target/images/.store/lock");
        assert_eq!(
            foreign_to(1000, lock, owner(0)),
            ". /checkout/target/images/.store belongs to root, and this is the user with the id 1000: run it as root, or \
             take the files over by `sudo chown -R 1000 '/checkout/target'`"
        );
        // What is the user's own is denied for another reason.
        assert_eq!(foreign_to(1000, lock, owner(1000)), "");
        // Nobody is told to take over a whole system.
        assert!(foreign_to(1000, Path::new("/etc/x"), |_| Some(0)).ends_with("'/etc/x'`"));
        let error = |kind: io::ErrorKind| foreign(Path::new("/proc/1/mem"), &kind.into());
        assert_eq!(error(io::ErrorKind::StorageFull), "");
    }

    #[test]
    fn what_cannot_be_read_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.json");
        let problem = |path: &Path| read_json::<u32>(path).unwrap_err().to_string();
        assert_eq!(problem(&path), format!("{}: there is no such file", path.display()));
        assert_eq!(problem(dir.path()), format!("{}: it is not a regular file", dir.path().display()));
        fs::write(&path, "\n\"six\"").unwrap();
        assert!(problem(&path).starts_with(&format!("{}: line 2: ", path.display())));
    }
}
