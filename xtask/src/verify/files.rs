//! The files of the disks as they were before, to show that nobody has changed them.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use contract::verification::GivenDisk;
use tooling::error::Failure;

/// Each file with what any change of it would change.
#[derive(Debug)]
pub(super) struct FileStates(Vec<(PathBuf, State)>);

/// Mode, length, and the times of the last change of content and of the file itself.
type State = (u32, u64, [i64; 4]);

fn state(found: &Metadata) -> State {
    (found.mode(), found.len(), [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()])
}

impl FileStates {
    /// Those of these disks.
    pub(super) fn of(disks: &[GivenDisk]) -> Result<Self, Failure> {
        let files = disks.iter().flat_map(|disk| &disk.layers).map(|layer| &layer.file);
        let states = files.map(|file| {
            let found = file.metadata().map_err(|e| Failure::io("inspect", file, e))?;
            Ok((file.clone(), state(&found)))
        });
        states.collect::<Result<_, Failure>>().map(Self)
    }

    /// A file that is not as it was.
    pub(super) fn changed(&self) -> Option<&Path> {
        let is_changed = |(file, before): &&(PathBuf, State)| {
            file.metadata().map_or(true, |found| state(&found) != *before)
        };
        self.0.iter().find(is_changed).map(|(file, _)| &**file)
    }

    /// What the largest of the disks takes, MiB.
    pub(super) fn largest_mib(&self, disks: &[GivenDisk]) -> u64 {
        let mib = |disk: &GivenDisk| {
            // These blocks have 512 bytes on every file system.
            let blocks = disk.layers.iter().filter_map(|layer| layer.file.metadata().ok());
            blocks.map(|found| found.blocks()).sum::<u64>() / 2048
        };
        disks.iter().map(mib).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use contract::verification::{DiskFormat, Layer};

    use super::*;

    #[test]
    fn every_change_of_a_file_is_seen() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.raw");
        let harms: [fn(&Path); 4] = [
            |file| std::fs::write(file, "two").unwrap(),
            |file| std::fs::File::options().append(true).open(file).unwrap().set_len(9).unwrap(),
            |file| std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap(),
            |file| std::fs::remove_file(file).unwrap(),
        ];
        for harm in harms {
            std::fs::write(&file, "one").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o444)).unwrap();
            let layers = vec![Layer { file: file.clone(), format: DiskFormat::Raw }];
            let disks = [GivenDisk { target: "vda".to_owned(), bytes: 3, layers }];
            let states = FileStates::of(&disks).unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), b"one");
            assert_eq!(states.changed(), None, "reading changes nothing");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
            let states = FileStates::of(&disks).unwrap();
            // A clock of the file system's may tick slowly.
            std::fs::File::options()
                .write(true)
                .open(&file)
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH)
                .unwrap();
            let before = FileStates::of(&disks).unwrap();
            assert!(states.changed().is_some());
            harm(&file);
            assert_eq!(before.changed(), Some(&*file));
        }
    }
}
