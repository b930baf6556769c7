//! The index files of MyISAM and Aria, whose headers tell by themselves whether a
//! server had them open for writing when the disk stopped.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::ObservationLog;
use super::files::{Files, Why};
use crate::error::Result;
use crate::names::Names;
use crate::observation::Record;
use crate::text::printable;

/// `state.open_count`, big endian at this offset of both kinds. See
/// `mi_state_info_write` and the layout in MySQL's "MyISAM Index File" documentation, and
/// `_ma_state_info_write` in MariaDB's `storage/maria/ma_open.c`.
const OPEN_COUNT_AT: usize = 24;

/// Where the header of an Aria file says where its base information is, and where in that it says
/// that a log protects the table; see `_ma_base_info_write`.
const BASE_AT: usize = 12;
const TRANSACTIONAL_AT: usize = 106;

/// How deep directories are looked into, and how many files are read.
const DEPTH: usize = 4;
const MOST_FILES: u32 = 100_000;

/// Reads every index file below a data directory, which is seen from the file system's own root;
/// how many there are.
pub(super) fn read(files: &Files, datadir: &Path, names: &Names, log: &mut ObservationLog) -> Result<u32> {
    let mut count = 0;
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        let listed = files
            .names(&datadir.join(&dir))
            .and_then(|names| Ok((names, files.directories(&datadir.join(&dir))?)));
        let (mut inside, below) = match listed {
            Ok(listed) => listed,
            Err(why) => {
                unreadable(&datadir.join(&dir), &why, log)?;
                continue;
            }
        };
        if dir.components().count() < DEPTH {
            dirs.extend(below.into_iter().map(|name| dir.join(name)));
        }
        inside.sort();
        for name in inside.iter().filter(|name| is_index(name)) {
            if count == MOST_FILES {
                unreadable(&datadir.join(&dir), "there are too many tables", log)?;
                return Ok(count);
            }
            let file = dir.join(name);
            match header(files, &datadir.join(&file)) {
                // The log of the server protects it, and it may stay open under any lock.
                Ok(Header { protected: true, .. }) => continue,
                Ok(Header { open_count, .. }) => {
                    let schema = dir.to_string_lossy();
                    let table = name.rsplit_once('.').and_then(|(table, _)| names.plain(&schema, table));
                    let file = printable(&file.to_string_lossy());
                    log.write(&Record::TableFile { file, table, open_count })?;
                }
                Err(why) => unreadable(&datadir.join(&file), &why, log)?,
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

struct Header {
    open_count: u16,
    /// An Aria table of which a log is kept.
    protected: bool,
}

/// The header of an index file, as a mount would see it.
fn header(files: &Files, path: &Path) -> Result<Header, Why> {
    // More than any header and its base information have.
    let mut bytes = Vec::new();
    files.must(path)?.read.take(4096).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let number = |at: usize| -> Result<u16, Why> {
        let two = bytes.get(at..at + 2).ok_or("it ends within its header")?;
        Ok(u16::from_be_bytes([two[0], two[1]]))
    };
    let open_count = number(OPEN_COUNT_AT)?;
    let protected = path.extension().is_some_and(|kind| kind == "MAI")
        && bytes.get(usize::from(number(BASE_AT)?) + TRANSACTIONAL_AT) == Some(&1);
    Ok(Header { open_count, protected })
}

fn unreadable(path: &Path, why: &str, log: &mut ObservationLog) -> Result<()> {
    let path = printable(&path.to_string_lossy());
    Ok(log.write(&Record::Unreadable { path, detail: printable(why) })?)
}
