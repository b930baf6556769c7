//! Copies by the host: its file system lets a new file share the blocks of a disk's file, while QEMU is
//! paused.
//!
//! A copy of the data, where blocks cannot be shared, is not offered: the guest would be held for as long
//! as the host's disk takes.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use contract::plan::Accel;
use rustix::fs::ioctl_ficlone;

use super::method::{Completion, Method, Request, Taken};
use crate::error::{Error, Result, SnapshotError};
use crate::host::{Libvirt, guest_user};
use crate::overlay::overlay;

/// Copies of the files that the guest writes to. What lies below these never changes.
pub(super) struct HostCopy;

impl Method for HostCopy {
    fn probe(&self, _: &Libvirt, _: Accel, dir: &Path) -> Result<()> {
        Ok(share(dir)?)
    }

    /// A guest that is paused has nothing in flight, and QEMU writes out what it keeps of its files when
    /// it pauses one.
    fn take(&self, request: &Request<'_>) -> Result<Taken> {
        let &Request { machine, chosen, dir, cycle, .. } = request;
        let suffix = format!("copy-{cycle}");
        let paused = machine.pause()?;
        let copied = chosen.iter().map(|drive| {
            let copy = overlay(dir, &drive.target, &suffix);
            File::open(&drive.file)
                .and_then(|from| clone(&from, &File::create(&copy.file)?))
                .map_err(Error::io("copy", &drive.file))?;
            guest_user::give(&copy.file)?;
            Ok(copy)
        });
        let snapshot = copied.collect::<Result<_>>()?;
        paused.resume()?;
        Ok(Taken { snapshot, live: chosen.to_vec(), completion: Completion::default() })
    }
}

/// Fails unless files in `dir` can share blocks, which two without names show.
fn share(dir: &Path) -> Result<(), SnapshotError> {
    let shared = tempfile::tempfile_in(dir).and_then(|mut from| {
        // An empty file has no block to share.
        from.write_all(&[1; 4096])?;
        clone(&from, &tempfile::tempfile_in(dir)?)
    });
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    shared.map_err(|source| SnapshotError::NoSharedBlocks { fs: file_system(&dir), dir, source })
}

/// Lets an empty file share all blocks of another. See ioctl_ficlone(2).
fn clone(from: &File, to: &File) -> io::Result<()> {
    Ok(ioctl_ficlone(to, from)?)
}

/// The kind of the file system that holds `dir`, for a message.
fn file_system(dir: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((Path::new(fields.next()?), fields.next()?))
    });
    let holders = mounts.filter(|(at, _)| dir.starts_with(at));
    // Of the mounts at one point the last is on top.
    let holder = holders.max_by_key(|(at, _)| at.components().count());
    holder.map_or_else(|| "an unknown one".to_owned(), |(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A file system in memory has no blocks to share.
    #[test]
    fn a_file_system_that_cannot_share_blocks_is_refused() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let error = share(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        for words in
            ["needs a file system whose files can share blocks", "it is on tmpfs", "--snapshot external"]
        {
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the probe leaves no file");
    }

    /// Whichever file system the tests run on.
    #[test]
    fn the_probe_agrees_with_cp() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
        fs::write(&from, [1; 4096]).unwrap();
        let cp = Command::new("cp").arg("--reflink=always").args([&from, &to]).output().unwrap();
        assert_eq!(share(dir.path()).is_ok(), cp.status.success());
    }
}
