//! What the raw disks of the snapshot say; no guest has a part in it.
//!
//! Nothing here trusts the guest, its agent or its hook: the file system's
//! journal and the header of a MyISAM index tell by themselves whether they
//! were written out when the disk stopped.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::files::{Files, Why};
use super::{ObservationLog, binlog, file_system};
use crate::binlog::Position;
use crate::database::SCHEMA;
use crate::error::{Error, Result};
use crate::guest::Drive;
use crate::image::{FileSystem, Manifest};
use crate::load::heartbeat;
use crate::observation::{POSITION_FILE, Record};
use crate::snapshot;
use crate::text::printable;

/// `state.open_count`, big endian at this offset of a `.MYI` file. See
/// `mi_state_info_write` and the layout in MySQL's "MyISAM Index File" documentation.
const MYI_OPEN_COUNT_AT: usize = 24;

/// The most that is read of a file of heartbeats, and of what should not be in it, bytes.
const MAX_HEARTBEATS: u64 = 64 << 20;
const MAX_REST: usize = 64;

/// Examines every file system of the snapshot, and returns the position that a hook
/// recorded on them. `scratch` holds a raw copy meanwhile.
pub fn disks(
    image: &Manifest,
    snapshot: &[Drive],
    myisam_tables: &[&str],
    scratch: &Path,
    log: &mut ObservationLog,
) -> Result<Option<Position>> {
    let mut position = None;
    for (disk, drive) in image.disks.iter().zip(snapshot) {
        for fs in &disk.file_systems {
            let raw = snapshot::flatten(drive, fs, scratch)?;
            let examined = examine(fs, image, &raw, myisam_tables, log);
            std::fs::remove_file(&raw).map_err(Error::io("remove", &raw))?;
            position = position.or(examined?);
        }
    }
    Ok(position)
}

fn examine(
    fs: &FileSystem,
    image: &Manifest,
    raw: &Path,
    tables: &[&str],
    log: &mut ObservationLog,
) -> Result<Option<Position>> {
    let kind = fs.fs;
    let dirty = match file_system::dirty(kind, raw) {
        Ok(dirty) => dirty,
        Err(why) => {
            unreadable(fs, image, &why, log)?;
            return Ok(None);
        }
    };
    log.write(&Record::FileSystem { disk: fs.name.clone(), fs: kind.to_string(), dirty })?;

    // ext4 is read as if its journal had been replayed, the others only after that.
    let replayed = file_system::replay(kind, raw);
    let files = match &replayed {
        Err(why) if dirty => Err(format!("its journal was not replayed: {why}")),
        _ => Files::open(kind, raw),
    };
    let mut recorded = None;
    match files {
        Ok(files) => {
            recorded = read(&files, fs, image, tables, log)?;
            for inner in &image.loops {
                if let Some(file) = here(image, fs, &inner.file) {
                    let found = examine_loop(&inner.file_system, &files, &file, image, raw, tables, log)?;
                    recorded = recorded.or(found);
                }
            }
        }
        Err(why) => unreadable(fs, image, &why, log)?,
    }
    if replayed.is_ok()
        && let Ok((clean, detail)) = file_system::check(kind, raw)
    {
        log.write(&Record::Fsck { disk: fs.name.clone(), clean, detail })?;
    }
    Ok(recorded)
}

/// Examines the file system in a file of another one; `outer` is that one's raw copy.
fn examine_loop(
    fs: &FileSystem,
    files: &Files,
    file: &Path,
    image: &Manifest,
    outer: &Path,
    tables: &[&str],
    log: &mut ObservationLog,
) -> Result<Option<Position>> {
    let raw = outer.with_file_name(format!("{}.raw", fs.name));
    let copied = files.must(file).and_then(|opened| {
        let mut copy = File::create(&raw).map_err(|e| e.to_string())?;
        std::io::copy(&mut opened.read.take(fs.bytes), &mut copy).map_err(|e| e.to_string())
    });
    let examined = match copied {
        Ok(_) => examine(fs, image, &raw, tables, log),
        Err(why) => unreadable(fs, image, &why, log).map(|()| None),
    };
    if raw.exists() {
        std::fs::remove_file(&raw).map_err(Error::io("remove", &raw))?;
    }
    examined
}

/// Writes down what the files of the server and of the load say.
fn read(
    files: &Files,
    fs: &FileSystem,
    image: &Manifest,
    tables: &[&str],
    log: &mut ObservationLog,
) -> Result<Option<Position>> {
    if let Some(datadir) = here(image, fs, &image.server.datadir) {
        for table in tables {
            let path = datadir.join(SCHEMA).join(format!("{table}.MYI"));
            log.write(&match open_count(files, &path) {
                Ok(open_count) => Record::MyisamHeader { table: (*table).to_owned(), open_count },
                Err(detail) => {
                    Record::Unreadable { path: path.display().to_string(), detail: printable(&detail) }
                }
            })?;
        }
    }
    heartbeats(files, fs, log)?;
    if let Some(dir) = here(image, fs, &image.server.binlogs) {
        binlog::logs(files, &dir, log)?;
    }
    match here(image, fs, Path::new(POSITION_FILE)) {
        Some(path) => binlog::recorded(files, &path, log),
        None => Ok(None),
    }
}

/// Nothing of a file system could be read.
fn unreadable(fs: &FileSystem, image: &Manifest, why: &str, log: &mut ObservationLog) -> Result<()> {
    let (path, detail) = (format!("/dev/{}", fs.name), printable(why));
    log.write(&Record::Unreadable { path: path.clone(), detail: detail.clone() })?;
    if here(image, fs, &image.server.binlogs).is_some() {
        log.write(&Record::BinlogError { file: path, error: detail })?;
    }
    Ok(())
}

/// A path of the guest as seen from the root of this file system; `None` when
/// it lies on another.
fn here(image: &Manifest, fs: &FileSystem, path: &Path) -> Option<PathBuf> {
    image.place(path).filter(|(holder, _)| *holder == fs).map(|(_, inside)| inside)
}

/// Writes down the heartbeats of a file system; none when their file is not there.
fn heartbeats(files: &Files, fs: &FileSystem, log: &mut ObservationLog) -> Result<()> {
    let read = || -> Result<Vec<u8>, Why> {
        let mut bytes = Vec::new();
        if let Some(file) = files.file(&heartbeat::file(Path::new("/")))? {
            file.read.take(MAX_HEARTBEATS).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        }
        Ok(bytes)
    };
    let record = match read() {
        Ok(bytes) => {
            let (count, rest) = parse_heartbeats(&bytes);
            Record::Heartbeats { disk: fs.name.clone(), count, rest }
        }
        Err(error) => {
            let path = heartbeat::file(&fs.mount).display().to_string();
            Record::Unreadable { path, detail: printable(&error) }
        }
    };
    Ok(log.write(&record)?)
}

/// How many records follow each other from the first, and what follows them.
fn parse_heartbeats(bytes: &[u8]) -> (u32, String) {
    let mut rest = bytes;
    let mut count = 0;
    while let Some(after) = rest.strip_prefix(format!("{:08}\n", count + 1).as_bytes()) {
        count += 1;
        rest = after;
    }
    let shown = &rest[..rest.len().min(MAX_REST)];
    (count, printable(&String::from_utf8_lossy(shown)))
}

/// The open count of a MyISAM table, as a mount would see the file.
fn open_count(files: &Files, path: &Path) -> Result<u16, Why> {
    let mut header = [0; MYI_OPEN_COUNT_AT + 2];
    files.must(path)?.read.read_exact(&mut header).map_err(|e| e.to_string())?;
    Ok(u16::from_be_bytes([header[MYI_OPEN_COUNT_AT], header[MYI_OPEN_COUNT_AT + 1]]))
}
