//! Roll-forward: replays on a restored backup the logs that the source has written since, as an
//! operator would. They reach the restored guest on the exchange disk, as a bare tar archive.

pub mod binlog;
pub mod wal;

use std::fs::File;
use std::path::Path;

use contract::history::Quiescence;
use contract::image::Manifest;

use crate::error::{Error, Result};
use crate::guest::Machine;
use crate::host::guest_user;
use crate::session::Session;

/// Which part of the disks' size the exchange disk has. The logs that a guest copies to it are on these disks,
/// besides the data that they tell of; and a guest could fill the host's disk through it.
const EXCHANGE_PART: u64 = 4;

/// The size of an exchange disk is a multiple of this, bytes.
const EXCHANGE_UNIT: u64 = 1 << 20;

/// Creates an empty exchange disk for a guest of this image. The file is sparse.
pub fn create_exchange(file: &Path, image: &Manifest) -> Result<()> {
    let disks: u64 = image.file_systems().map(|fs| fs.bytes).sum();
    let bytes = (disks / EXCHANGE_PART).next_multiple_of(EXCHANGE_UNIT);
    File::create(file).and_then(|file| file.set_len(bytes)).map_err(Error::io("create", file))?;
    guest_user::give(file)
}

/// Copies the source's logs to the exchange disk. False when its hook recorded no position to roll
/// forward from, which would be in the file `position`, or the server keeps none.
pub fn save_logs(session: &Session<'_>, machine: &Machine, position: &Path) -> Result<bool> {
    match session.dialect().quiescence() {
        Quiescence::Lock => binlog::save(session, machine, position),
        Quiescence::BackupMode => wal::save(session, machine, position),
    }
}
