//! Where a point-in-time recovery starts; it also shows that a backup holds this very freeze.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Where a server's logs are: a name and a value each.
pub(crate) type Position = Vec<(&'static str, String)>;

/// Finds out that positions can be written, before anything is locked.
pub(crate) fn prepare(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let probe = directory.join(".fsfreeze-db");
    let written = create(&probe).and_then(|mut file| file.write_all(b"\n"));
    let _ = fs::remove_file(probe);
    written
}

/// Removes the position of this name: an earlier freeze's would be taken for the one of this backup.
pub(crate) fn forget(directory: &Path, name: &str) -> io::Result<()> {
    remove(&file(directory, name))
}

/// Something new, which tells this freeze from every other.
pub(crate) fn nonce() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

/// Writes a position to the file of this name. The freeze of its file system, which follows, brings it to disk;
/// to wait for that here would keep writers waiting twice, and so would a file system that flushes a file which
/// takes another one's place.
pub(crate) fn write(directory: &Path, name: &str, facts: &[(&str, &str)]) -> io::Result<()> {
    let text: String = facts.iter().map(|(name, value)| format!("{name}\t{value}\n")).collect();
    let position = file(directory, name);
    let written = create(&position).and_then(|mut out| out.write_all(text.as_bytes()));
    if written.is_err() {
        let _ = remove(&position);
    }
    written
}

fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.position"))
}

/// A new file: others may be able to write to the directory, and a link that they have put there is not followed.
fn create(file: &Path) -> io::Result<File> {
    remove(file)?;
    File::options().write(true).create_new(true).mode(0o600).open(file)
}

/// Removes a file, if there is one. A file system that cannot be written to does not say that there is none.
fn remove(file: &Path) -> io::Result<()> {
    let is_absent =
        |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    match fs::remove_file(file) {
        Err(error) if !is_absent(&error) && !fs::symlink_metadata(file).is_err_and(|it| is_absent(&it)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}
