//! Where a point-in-time recovery starts; it also shows that a backup holds this very freeze.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::mysql::{Position, Session};

/// Finds out that positions can be written, before anything is locked.
pub(crate) fn prepare(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let probe = directory.join(".fsfreeze-db");
    create(&probe)?.write_all(b"\n")?;
    fs::remove_file(probe)
}

/// Writes the position of a locked server to the file of this name, and waits until it is on disk.
pub(crate) fn write(directory: &Path, name: &str, session: &Session, facts: &Position) -> io::Result<()> {
    let nonce = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let common = [
        ("nonce", nonce.trim().to_owned()),
        ("time", crate::state::now()),
        ("server", session.version().to_owned()),
        ("method", session.method().name().to_owned()),
    ];
    let mut text = String::new();
    for (name, value) in common.iter().chain(facts) {
        text.push_str(&format!("{name}\t{value}\n"));
    }
    let position = directory.join(format!("{name}.position"));
    let new = position.with_extension("new");
    let mut out = create(&new)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&new, &position)?;
    File::open(directory)?.sync_all()
}

fn create(file: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(file)
}
