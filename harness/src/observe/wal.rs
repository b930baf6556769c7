//! PostgreSQL's files on the raw image: the position that its hook recorded, and the control file,
//! read before any server starts from them.

use std::io;
use std::path::Path;

use contract::history::Lsn;
use contract::observation::Record;
use contract::text::printable;

use super::error::ReadError;
use super::files::ImageFiles;
use super::observation_log::ObservationLog;
use crate::database::lsn;
use crate::error::Result;

/// The longest file of a position, bytes.
const MAX_POSITION: u64 = 4096;

/// The control file's versions whose layout is known: those of PostgreSQL 11 to 18.
const CONTROL_VERSIONS: std::ops::RangeInclusive<u32> = 1100..=1800;

/// Records the hook's position, if there is one. `path` is that of `file` from the file system's own root.
pub(super) fn recorded(files: &ImageFiles, path: &Path, file: &Path, log: &mut ObservationLog) -> Result<()> {
    let file = file.to_string_lossy();
    let read = || -> Result<Option<String>, ReadError> {
        let bytes = files.beginning(path, MAX_POSITION)?;
        bytes.map(|bytes| String::from_utf8(bytes).map_err(|_| ReadError::TextNotUtf8)).transpose()
    };
    let record = match read() {
        Ok(None) => return Ok(()),
        Ok(Some(text)) => match position(&text) {
            Some(record) => record,
            None => unreadable(&file, "it names no timeline and `lsn`, or not as the hook writes them"),
        },
        Err(error) => unreadable(&file, &error.to_string()),
    };
    Ok(log.write(&record)?)
}

/// Reads lines of a key, a tab and a value.
fn position(text: &str) -> Option<Record> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'));
    let at = |key: &str| lsn(value(key)?);
    // A hook that only flushes the log names none.
    let start = match value("start_lsn") {
        Some(start) => Some(lsn(start)?),
        None => None,
    };
    Some(Record::WalPosition { timeline: value("timeline")?.parse().ok()?, start, lsn: at("lsn")? })
}

/// Records the last checkpoint of the server whose data directory this is, a path from the file
/// system's own root.
pub(super) fn checkpoint(files: &ImageFiles, datadir: &Path, log: &mut ObservationLog) -> Result<()> {
    let path = datadir.join("global/pg_control");
    let read = || -> Result<Option<[u8; CONTROL_BYTES]>, ReadError> {
        let Some(bytes) = files.beginning(&path, CONTROL_BYTES as u64)? else { return Ok(None) };
        bytes.try_into().map(Some).map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof).into())
    };
    let shown = path.to_string_lossy();
    let record = match read() {
        // A tablespace has none.
        Ok(None) => return Ok(()),
        Ok(Some(bytes)) => match control(&bytes) {
            Some(record) => record,
            None => unreadable(&shown, "it is not a control file of PostgreSQL 11 to 18"),
        },
        Err(error) => unreadable(&shown, &error.to_string()),
    };
    Ok(log.write(&record)?)
}

/// How much of a control file is read, bytes.
const CONTROL_BYTES: usize = 52;

/// Reads a control file: `ControlFileData` in PostgreSQL's `src/include/catalog/pg_control.h`.
fn control(bytes: &[u8; CONTROL_BYTES]) -> Option<Record> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes[at..at + 4].try_into().ok()?));
    let (version, state) = (number(8)?, number(16)?);
    if !CONTROL_VERSIONS.contains(&version) {
        return None;
    }
    Some(Record::Checkpoint {
        redo: Lsn::from_le_bytes(bytes[40..48].try_into().ok()?),
        timeline: number(48)?,
        // DB_SHUTDOWNED and DB_SHUTDOWNED_IN_RECOVERY.
        shut_down: matches!(state, 1 | 2),
    })
}

fn unreadable(path: &str, why: &str) -> Record {
    Record::Unreadable { path: printable(path), detail: printable(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_what_the_hook_writes() {
        let text = "nonce\t1-2\nserver\t15.8\nrole\tprimary\ntimeline\t1\nstart_lsn\t0/2000028\n\
                    wal_file\t000000010000000000000002\nlsn\t0/20001D0\n";
        let expected = Record::WalPosition { timeline: 1, start: Some(0x200_0028), lsn: 0x200_01d0 };
        assert_eq!(position(text), Some(expected));
        for line in ["timeline\t1\n", "\nlsn\t0/20001D0\n"] {
            assert_eq!(position(&text.replace(line, "\n")), None, "{line}");
        }
        let flushed = text.replace("start_lsn\t0/2000028\n", "");
        let expected = Record::WalPosition { timeline: 1, start: None, lsn: 0x200_01d0 };
        assert_eq!(position(&flushed), Some(expected));
        assert_eq!(position(&text.replace("0/2000028", "somewhere")), None);
    }

    #[test]
    fn a_control_file_tells_its_checkpoint() {
        let mut bytes = [0; CONTROL_BYTES];
        bytes[8..12].copy_from_slice(&1300_u32.to_le_bytes());
        bytes[16] = 6;
        bytes[40..48].copy_from_slice(&0x200_0028_u64.to_le_bytes());
        bytes[48] = 3;
        let expected = Record::Checkpoint { redo: 0x200_0028, timeline: 3, shut_down: false };
        assert_eq!(control(&bytes), Some(expected));
        bytes[16] = 1;
        assert!(matches!(control(&bytes), Some(Record::Checkpoint { shut_down: true, .. })));
        bytes[8..12].copy_from_slice(&900_u32.to_le_bytes());
        assert_eq!(control(&bytes), None, "another layout");
    }
}
