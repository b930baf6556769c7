//! Roll-forward: replays on a restored backup the logs that the source has written since, as an
//! operator would. They reach the restored guest on the exchange disk, as a bare tar archive.

pub mod binlog;
pub mod wal;

use std::fs::File;
use std::path::Path;

use contract::history::Quiescence;

use crate::error::{Error, Result};
use crate::guest::Machine;
use crate::session::Session;

/// The size of the exchange disk, bytes; the file is sparse.
const EXCHANGE_BYTES: u64 = 4 << 30;

/// Creates an empty exchange disk.
pub fn create_exchange(file: &Path) -> Result<()> {
    File::create(file).and_then(|file| file.set_len(EXCHANGE_BYTES)).map_err(Error::io("create", file))
}

/// Copies the source's logs to the exchange disk. False when its hook recorded no position to roll
/// forward from, or the server keeps none.
pub fn save_logs(session: &Session<'_>, machine: &Machine) -> Result<bool> {
    match session.dialect().quiescence() {
        Quiescence::Lock => binlog::save(session, machine),
        Quiescence::BackupMode => wal::save(session, machine),
    }
}
