//! The index files of MyISAM and Aria, whose headers show whether a server had them open for
//! writing when the disk was snapshotted.

use std::io;
use std::path::{Path, PathBuf};

use contract::observation::Record;
use contract::text::printable;

use super::error::ReadError;
use super::files::ImageFiles;
use super::observation_log::ObservationLog;
use crate::error::Result;
use crate::names::Names;

/// `state.open_count`, big endian at this offset of both kinds. See
/// `mi_state_info_write` and the layout in MySQL's "MyISAM Index File" documentation, and
/// `_ma_state_info_write` in MariaDB's `storage/maria/ma_open.c`.
const OPEN_COUNT_AT: usize = 24;

/// How deep directories are searched, how many of them, and how many files are read.
const DEPTH: usize = 4;
const MOST_DIRECTORIES: usize = 10_000;
const MOST_FILES: u32 = 100_000;

/// Reads every index file below a data directory, a path from the file system's own root. Returns
/// their number.
pub(super) fn read(
    files: &ImageFiles,
    datadir: &Path,
    names: &Names,
    log: &mut ObservationLog,
) -> Result<u32> {
    let mut count = 0;
    let mut dirs = vec![PathBuf::new()];
    let mut found = dirs.len();
    while let Some(dir) = dirs.pop() {
        let listed = files
            .names(&datadir.join(&dir))
            .and_then(|names| Ok((names, files.directories(&datadir.join(&dir))?)));
        let (mut inside, below) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                unreadable(&datadir.join(&dir), &error, log)?;
                continue;
            }
        };
        if dir.components().count() < DEPTH {
            found += below.len();
            if found > MOST_DIRECTORIES {
                unreadable(&datadir.join(&dir), &ReadError::TooManyDirectories, log)?;
                return Ok(count);
            }
            dirs.extend(below.into_iter().map(|name| dir.join(name)));
        }
        inside.sort();
        for name in inside.iter().filter(|name| is_index(name)) {
            if count == MOST_FILES {
                unreadable(&datadir.join(&dir), &ReadError::TooManyTables, log)?;
                return Ok(count);
            }
            let file = dir.join(name);
            match open_count(files, &datadir.join(&file)) {
                Ok(open_count) => {
                    let schema = dir.to_string_lossy();
                    let table = name.rsplit_once('.').and_then(|(table, _)| names.plain(&schema, table));
                    let file = printable(&file.to_string_lossy());
                    log.write(&Record::TableFile { file, table, open_count })?;
                }
                Err(error) => unreadable(&datadir.join(&file), &error, log)?,
            }
            count += 1;
        }
    }
    Ok(count)
}

/// Temporary tables, which a server throws away, begin with `#sql`.
fn is_index(name: &str) -> bool {
    !name.starts_with("#sql") && (name.ends_with(".MYI") || name.ends_with(".MAI"))
}

/// The open count of a table, as a mount would see its file.
fn open_count(files: &ImageFiles, path: &Path) -> Result<u16, ReadError> {
    let header = files.beginning(path, OPEN_COUNT_AT as u64 + 2)?.ok_or(ReadError::NoFile)?;
    match header.get(OPEN_COUNT_AT..) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

fn unreadable(path: &Path, error: &ReadError, log: &mut ObservationLog) -> Result<()> {
    let path = printable(&path.to_string_lossy());
    Ok(log.write(&Record::Unreadable { path, detail: printable(&error.to_string()) })?)
}
