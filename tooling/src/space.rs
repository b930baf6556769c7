//! Whether there is room on a disk, asked before it is needed.

use std::path::Path;

use crate::error::Failure;

const MIB: u64 = 1024 * 1024;

/// Fails unless this many MiB are free for this user where `path` is or will be. `what` begins the sentence:
/// "building `one` needs".
pub fn require(what: &str, path: &Path, needed_mib: u64) -> Result<(), Failure> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there).map_err(|e| Failure::io("inspect", there, e.into()))?;
    check(what, path, needed_mib, stat.f_bavail.saturating_mul(stat.f_frsize) / MIB)
}

fn check(what: &str, path: &Path, needed: u64, free: u64) -> Result<(), Failure> {
    if free >= needed {
        return Ok(());
    }
    Err(Failure::Infrastructure(format!(
        "{what} at least {needed} MiB in {}, and {free} MiB are free. Make room: `cargo xtask tidy` removes what dead \
         runs left, `cargo xtask images clean NAME` an image (`images list` shows their sizes), and old runs are \
         directories in target/e2e.",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mebibyte_decides() {
        let check = |free| check("the trials need", Path::new("/runs"), 700, free);
        assert!(check(700).is_ok());
        let said = check(699).unwrap_err().to_string();
        assert!(
            said.starts_with("the trials need at least 700 MiB in /runs, and 699 MiB are free. Make room: "),
            "{said}"
        );
    }

    #[test]
    fn a_directory_to_come_has_the_room_of_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let to_come = dir.path().join("a/b/c");
        assert!(require("this needs", &to_come, 0).is_ok());
        assert!(require("this needs", &to_come, u64::MAX).is_err());
    }
}
