//! What the raw disks of the snapshot hold, read without any guest.
//!
//! Nothing here trusts the guest, its agent or its hook: the file system's journal and the headers
//! of index files show whether they had been written out when the disk was snapshotted.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use contract::binlog::Position;
use contract::history::{Holds, Quiescence};
use contract::image::{FileSystem, FsKind, Manifest};
use contract::observation::Record;
use contract::text::printable;

use super::error::ReadError;
use super::file_system::Journal;
use super::files::ImageFiles;
use super::observation_log::ObservationLog;
use super::{binlog, file_system, table_files, wal};
use crate::database::dialect;
use crate::directories::{Directories, Directory, heartbeat_file};
use crate::error::{Error, Result};
use crate::guest::Drive;
use crate::names::Names;
use crate::overlay;

/// The most that is read of a file of heartbeats, which grows by some 90 bytes a second, and shown of what
/// should not be in it, bytes.
const MAX_HEARTBEATS: u64 = 4 << 20;
const MAX_REST: usize = 64;

/// What is known about the layout of a snapshot's disks.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotLayout<'a> {
    /// The guest's image.
    pub image: &'a Manifest,
    /// Where its server keeps its files.
    pub directories: &'a Directories,
    /// The names of its tables.
    pub names: &'a Names,
    /// The most transfers that its binary logs can have.
    pub most_transfers: u64,
}

/// What an inspection finds besides the records.
#[derive(Default)]
struct DiskFindings {
    position: Option<Position>,
    /// The number of index files; `None` when no data directory was read.
    table_files: Option<u32>,
}

/// Inspects every file system of the snapshot, and returns the position that a hook recorded on
/// them. `scratch` is a directory for raw copies.
pub fn disks(
    layout: SnapshotLayout<'_>,
    snapshot: &[Drive],
    scratch: &Path,
    log: &mut ObservationLog,
) -> Result<Option<Position>> {
    let mut found = DiskFindings::default();
    for (disk, drive) in layout.image.disks.iter().zip(snapshot) {
        for fs in &disk.file_systems {
            let raw = overlay::flatten(drive, fs, scratch)?;
            let inspected = layout.inspect(fs, &raw, &mut found, log);
            std::fs::remove_file(&raw).map_err(Error::io("remove", &raw))?;
            inspected?;
        }
    }
    layout.elsewhere(log)?;
    if let Some(files) = found.table_files {
        log.write(&Record::TableFiles { files })?;
    }
    Ok(found.position)
}

impl SnapshotLayout<'_> {
    fn inspect(
        &self,
        fs: &FileSystem,
        raw: &Path,
        found: &mut DiskFindings,
        log: &mut ObservationLog,
    ) -> Result<()> {
        let kind = fs.fs;
        let journal = match file_system::journal(kind, raw) {
            Ok(journal) => journal,
            Err(error) => return self.unreadable(fs, &error, log),
        };
        let dirty = journal == Journal::Dirty;
        log.write(&Record::FileSystem { disk: fs.name.clone(), fs: kind.to_string(), dirty })?;

        // ext4 is read as if its journal had been replayed; the others can only be read after a
        // replay.
        // ext4 lists files that were deleted while open outside its journal, and a mount removes them.
        let settled = journal == Journal::Empty && kind != FsKind::Ext4;
        let replayed = if settled { Ok(()) } else { file_system::replay(kind, raw) };
        let is_replayed = replayed.is_ok();
        let files = match replayed {
            Err(error) if dirty => Err(ReadError::NotReplayed(Box::new(error))),
            _ => ImageFiles::open(kind, raw),
        };
        match files {
            Ok(files) => {
                self.read(&files, fs, found, log)?;
                for inner in &self.image.loops {
                    if let Some(file) = self.path_on(fs, &inner.file) {
                        self.inspect_loop(&inner.file_system, &files, &file, raw, found, log)?;
                    }
                }
            }
            Err(error) => self.unreadable(fs, &error, log)?,
        }
        if !is_replayed {
            return Ok(());
        }
        match file_system::check(kind, raw) {
            Ok((clean, detail)) => Ok(log.write(&Record::Fsck { disk: fs.name.clone(), clean, detail })?),
            // Without a check the judge claims nothing, and here is why.
            Err(error) => {
                let (path, detail) = (format!("/dev/{}", fs.name), printable(&error.to_string()));
                Ok(log.write(&Record::Unreadable { path, detail })?)
            }
        }
    }

    /// Inspects the file system in a file of another one; `outer` is that one's raw copy.
    fn inspect_loop(
        &self,
        fs: &FileSystem,
        files: &ImageFiles,
        file: &Path,
        outer: &Path,
        found: &mut DiskFindings,
        log: &mut ObservationLog,
    ) -> Result<()> {
        let raw = outer.with_file_name(format!("{}.raw", fs.name));
        let copied = files.read(file).and_then(|content| {
            let mut copy = File::create(&raw)?;
            Ok(std::io::copy(&mut content.take(fs.bytes), &mut copy)?)
        });
        let inspected = match copied {
            Ok(_) => self.inspect(fs, &raw, found, log),
            Err(error) => self.unreadable(fs, &error, log),
        };
        if raw.exists() {
            std::fs::remove_file(&raw).map_err(Error::io("remove", &raw))?;
        }
        inspected
    }

    /// Records what the files of the server and of the load hold.
    fn read(
        &self,
        files: &ImageFiles,
        fs: &FileSystem,
        found: &mut DiskFindings,
        log: &mut ObservationLog,
    ) -> Result<()> {
        heartbeats(files, fs, log)?;
        match dialect(self.image.server.database).quiescence() {
            Quiescence::Lock => self.read_mysql(files, fs, found, log),
            Quiescence::BackupMode => self.read_postgresql(files, fs, log),
        }
    }

    fn read_mysql(
        &self,
        files: &ImageFiles,
        fs: &FileSystem,
        found: &mut DiskFindings,
        log: &mut ObservationLog,
    ) -> Result<()> {
        for datadir in self.directories.on(fs, Holds::Data) {
            *found.table_files.get_or_insert(0) += table_files::read(files, datadir, self.names, log)?;
        }
        for dir in self.directories.on(fs, Holds::Binlogs) {
            binlog::logs(files, dir, self.names, self.most_transfers, log)?;
        }
        let file = self.directories.position_file(self.image);
        if let Some(path) = self.path_on(fs, &file) {
            let recorded = binlog::recorded(files, &path, &file, log)?;
            found.position = found.position.take().or(recorded);
        }
        Ok(())
    }

    fn read_postgresql(&self, files: &ImageFiles, fs: &FileSystem, log: &mut ObservationLog) -> Result<()> {
        for datadir in self.directories.on(fs, Holds::Data) {
            wal::checkpoint(files, datadir, log)?;
        }
        let file = self.directories.position_file(self.image);
        match self.path_on(fs, &file) {
            Some(path) => wal::recorded(files, &path, &file, log),
            None => Ok(()),
        }
    }

    /// Records that a file system could not be read.
    fn unreadable(&self, fs: &FileSystem, error: &ReadError, log: &mut ObservationLog) -> Result<()> {
        let (path, detail) = (format!("/dev/{}", fs.name), printable(&error.to_string()));
        log.write(&Record::Unreadable { path: path.clone(), detail: detail.clone() })?;
        if self.directories.on(fs, Holds::Binlogs).next().is_some() {
            log.write(&Record::BinlogError { file: path, error: detail, damaged: false })?;
        }
        Ok(())
    }

    /// Records which of the server's files are on none of these disks.
    fn elsewhere(&self, log: &mut ObservationLog) -> Result<()> {
        let lost = |directory: &Directory| {
            let path = printable(&directory.path.to_string_lossy());
            (path, printable(&format!("it lies on {}, which is on no disk of the snapshot", directory.fs)))
        };
        for directory in self.directories.of(Holds::Data).filter(|directory| directory.on.is_none()) {
            let (path, detail) = lost(directory);
            log.write(&Record::Unreadable { path, detail })?;
        }
        for directory in self.directories.of(Holds::Binlogs).filter(|directory| directory.on.is_none()) {
            let (file, error) = lost(directory);
            log.write(&Record::BinlogError { file, error, damaged: true })?;
        }
        Ok(())
    }

    /// A path of the guest as a path from the root of this file system; `None` when it is on
    /// another one.
    fn path_on(&self, fs: &FileSystem, path: &Path) -> Option<PathBuf> {
        self.image.place(path).filter(|(holder, _)| *holder == fs).map(|(_, inside)| inside)
    }
}

/// Records the heartbeats of a file system; zero when their file is not there.
fn heartbeats(files: &ImageFiles, fs: &FileSystem, log: &mut ObservationLog) -> Result<()> {
    let read = || -> Result<Vec<u8>, ReadError> {
        let read = files.beginning(&heartbeat_file(Path::new("/")), MAX_HEARTBEATS)?;
        Ok(read.unwrap_or_default())
    };
    let record = match read() {
        Ok(bytes) => {
            let (count, rest) = parse_heartbeats(&bytes);
            Record::Heartbeats { disk: fs.name.clone(), count, rest }
        }
        Err(error) => {
            let path = heartbeat_file(&fs.mount).display().to_string();
            Record::Unreadable { path, detail: printable(&error.to_string()) }
        }
    };
    Ok(log.write(&record)?)
}

/// The number of consecutive records from the first, and what follows them.
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
