//! Who a guest's QEMU runs as: this user, or, where that is root, a user whom nothing else on the host has.
//!
//! A guest that breaks out of its QEMU then finds itself with the rights of nobody. QEMU opens files by
//! their paths, so that user must be able to enter each directory above them. Those that are the
//! harness's own it opens to him by group; those above, such as a `/root` that nobody else may enter, it
//! opens in the trial's own mount namespace, where no other process sees it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use contract::files::GUEST_USER;
use contract::image::{Boot, Manifest};
use contract::plan::Accel;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive};
use rustix::process::{geteuid, getppid};
use tracing::warn;

use crate::error::{Error, Result};

/// What the group may do with a directory that it may enter, and with a file that it may read.
const ENTER: u32 = 0o010;
const READ: u32 = 0o040;

/// The mode of a directory that stands for one which others may not enter.
const PASSAGE: &std::ffi::CStr = c"mode=0711";

/// The device through which QEMU uses KVM.
const KVM: &str = "/dev/kvm";

/// Why QEMU runs as root although there is a better user.
static STAYS_ROOT: OnceLock<String> = OnceLock::new();

/// The number of the user and group as whom QEMU runs; `None` when that is this process's own user.
pub(super) fn id() -> Option<u32> {
    if STAYS_ROOT.get().is_some() { None } else { unprivileged() }
}

/// The same, whether or not that user can reach what he must.
fn unprivileged() -> Option<u32> {
    static OTHER: OnceLock<Option<u32>> = OnceLock::new();
    *OTHER.get_or_init(|| {
        let maps = ["/proc/self/uid_map", "/proc/self/gid_map"];
        let mapped = maps.iter().all(|map| fs::read_to_string(map).is_ok_and(|map| has(&map, GUEST_USER)));
        (geteuid().is_root() && mapped).then_some(GUEST_USER)
    })
}

/// Whether a user namespace has this number. See user_namespaces(7): lines of the first number inside,
/// the first outside, and how many there are.
fn has(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => (first..first + count).contains(&u64::from(id)),
            _ => false,
        }
    })
}

/// Lets QEMU run guests of an image with these files, which lie in `disks` and `root`
/// when they are its own: `root` is the directory of its libvirt.
pub(crate) fn let_run(image: &Manifest, accel: Accel, disks: &Path, root: &Path) -> Result<()> {
    if unprivileged().is_none() {
        return Ok(());
    }
    open_ways(&[&state_of(root)?, &image.dir, disks])?;
    image
        .disks
        .iter()
        .map(|disk| &disk.file)
        .chain(kernel(&image.boot))
        .try_for_each(|file| let_read(file))?;
    settle_kvm(root, accel)
}

/// The same of a guest from disks that are somebody's own: their `files` stay as they are. Where the user of
/// QEMU may not read one, QEMU runs as root.
pub(crate) fn let_run_given(
    files: &[&Path],
    boot: &Boot,
    accel: Accel,
    disks: &Path,
    root: &Path,
) -> Result<()> {
    if unprivileged().is_none() {
        return Ok(());
    }
    let state = state_of(root)?;
    let folders = kernel(boot).filter_map(|file| file.parent());
    open_ways(&[&*state, disks].into_iter().chain(folders).collect::<Vec<_>>())?;
    kernel(boot).try_for_each(|file| let_read(file))?;
    for file in files {
        let found = fs::metadata(file).map_err(Error::io("inspect", file))?;
        if !has_right(&found, 0o4) {
            stay_root(format!("only root may read {}, whose mode stays as it is", file.display()));
        }
        reach(file).unwrap_or_else(stay_root);
    }
    settle_kvm(root, accel)
}

/// The directory in which libvirt keeps one for each guest.
fn state_of(root: &Path) -> Result<PathBuf> {
    let state = root.join("lib");
    fs::create_dir_all(&state).map_err(Error::io("create", &state))?;
    Ok(state)
}

/// The files that a guest is started with by QEMU itself.
fn kernel(boot: &Boot) -> impl Iterator<Item = &PathBuf> {
    let files = match boot {
        Boot::Direct { kernel, initrd, .. } => [Some(kernel), Some(initrd)],
        Boot::Firmware => [None, None],
    };
    files.into_iter().flatten()
}

/// Lets QEMU reach these directories of the harness's, and enter them. Where that is not possible QEMU runs as
/// root, and a warning says so.
fn open_ways(dirs: &[&Path]) -> Result<()> {
    for dir in dirs {
        let dir = dir.canonicalize().map_err(Error::io("find", dir))?;
        // What is created in the one above must be seen outside.
        dir.parent().into_iter().chain([&*dir]).try_for_each(let_enter)?;
        reach(&dir).unwrap_or_else(stay_root);
    }
    Ok(())
}

/// Decides for libvirt and QEMU whether there is KVM, where its device is root's alone: in the trial's own mount
/// namespace they get one of their own, made in `dir`, or none. Otherwise libvirt, which looks for it with more rights
/// than QEMU has, would find it, find it missing, and query QEMU again at each start.
fn settle_kvm(dir: &Path, accel: Accel) -> Result<()> {
    let Some(id) = id() else { return Ok(()) };
    let Ok(found) = fs::metadata(KVM) else { return Ok(()) };
    if found.mode() & 0o006 == 0o006 {
        return Ok(());
    }
    if !has_own_mounts() {
        if accel == Accel::Kvm {
            stay_root(format!(
                "only root may use {KVM}, and there is no mount namespace in which that could be changed"
            ));
        }
        return Ok(());
    }
    let devices = dir.join("dev");
    let own = devices.join("kvm");
    let make = || -> io::Result<()> {
        fs::create_dir(&devices)?;
        // The directory itself may be on a file system without devices.
        mount("tmpfs", &devices, "tmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, PASSAGE)?;
        match accel {
            Accel::Kvm => {
                mknodat(CWD, &own, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, found.rdev())?;
                chown(&own, Some(id), Some(id))?;
            }
            // No device, and nobody may open it.
            Accel::Tcg => File::create(&own)?.set_permissions(Permissions::from_mode(0o000))?,
        }
        Ok(mount_bind(&own, KVM)?)
    };
    make().map_err(Error::io("give QEMU its own", Path::new(KVM)))
}

/// Remembers why QEMU runs as root.
fn stay_root(why: String) {
    if STAYS_ROOT.set(why).is_ok() {
        warn!("the guests' QEMU runs as root: {}", STAYS_ROOT.get().map_or("", |why| why));
    }
}

/// Lets QEMU enter a directory, which nobody else may.
pub(crate) fn let_enter(dir: &Path) -> Result<()> {
    let_group(dir, ENTER)
}

/// Lets QEMU read a file.
fn let_read(file: &Path) -> Result<()> {
    let_group(file, READ)
}

fn let_group(path: &Path, right: u32) -> Result<()> {
    let Some(id) = unprivileged() else { return Ok(()) };
    let allow = || {
        let found = fs::metadata(path)?;
        if found.gid() == id && found.mode() & right != 0 {
            return Ok(());
        }
        chown(path, None, Some(id))?;
        fs::set_permissions(path, Permissions::from_mode(found.mode() & 0o7700 | right))
    };
    allow().map_err(Error::io("give QEMU its right to", path))
}

/// Hands a file over to QEMU, to write to it.
pub(crate) fn give(file: &Path) -> Result<()> {
    let Some(id) = unprivileged() else { return Ok(()) };
    chown(file, Some(id), Some(id)).map_err(Error::io("hand over to QEMU", file))
}

/// Takes a directory and all that is below it over from QEMU, and from tools that were the same user. QEMU may read it
/// afterwards. What a link leads to stays as it is.
pub(crate) fn take_back(dir: &Path) -> Result<()> {
    let Some(id) = unprivileged() else { return Ok(()) };
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let take = || -> io::Result<Vec<PathBuf>> {
            let found = fs::symlink_metadata(&path)?;
            if found.is_symlink() {
                return Ok(Vec::new());
            }
            let (own, right) = if found.is_dir() { (0o700, READ | ENTER) } else { (0o400, READ) };
            chown(&path, Some(0), Some(id))?;
            fs::set_permissions(&path, Permissions::from_mode(found.mode() & 0o700 | own | right))?;
            if !found.is_dir() {
                return Ok(Vec::new());
            }
            fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect()
        };
        left.extend(take().map_err(Error::io("take over from a backup tool", &path))?);
    }
    Ok(())
}

/// Makes every directory above this one a passage. An error is the reason why that cannot be.
fn reach(dir: &Path) -> std::result::Result<(), String> {
    let mut above: Vec<_> = dir.ancestors().skip(1).collect();
    above.reverse();
    for closed in above {
        let metadata = fs::metadata(closed).map_err(|error| format!("{}: {error}", closed.display()))?;
        if can_enter(&metadata) {
            continue;
        }
        if !has_own_mounts() {
            return Err(format!(
                "only root may enter {}, and there is no mount namespace in which that could be changed",
                closed.display()
            ));
        }
        make_passage(closed).map_err(|error| format!("only root may enter {}: {error}", closed.display()))?;
    }
    Ok(())
}

/// Whether QEMU's user may enter a directory.
fn can_enter(dir: &fs::Metadata) -> bool {
    has_right(dir, 0o1)
}

/// Whether QEMU's user has this right, as it is written for others.
fn has_right(found: &fs::Metadata, right: u32) -> bool {
    let shift = match (found.uid() == GUEST_USER, found.gid() == GUEST_USER) {
        (true, _) => 6,
        (false, true) => 3,
        (false, false) => 0,
    };
    found.mode() & (right << shift) != 0
}

/// Whether this process's mounts are not those of its parent, the supervisor.
fn has_own_mounts() -> bool {
    let mounts = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let parent = getppid().map(|parent| parent.as_raw_nonzero().to_string());
    let (own, parents) = (mounts("self"), parent.and_then(|parent| mounts(&parent)));
    own.is_some() && parents.is_some() && own != parents
}

/// Bounds how much a directory holds, MiB: what is created in it is in memory, and gone with this process. Not everybody
/// may do that.
pub(crate) fn bound(dir: &Path, mib: u32) -> Result<()> {
    let mount_small = || {
        if !has_own_mounts() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let options = std::ffi::CString::new(format!("size={mib}m,mode=0700"))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", dir, "tmpfs", flags, options.as_c_str())?;
        Ok(())
    };
    mount_small().map_err(Error::io("give a size (`scratch_mib`), which only root can, to", dir))?;
    give(dir)
}

/// Puts another directory in the place of one that others may not enter: it holds the same, and can be
/// entered. What is created in it itself, and not below, is lost.
fn make_passage(closed: &Path) -> io::Result<()> {
    let entries = fs::read_dir(closed)?.collect::<io::Result<Vec<_>>>()?;
    let kept = open(closed, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    mount("tmpfs", closed, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, PASSAGE)?;
    // The way to what is now below the new directory.
    let below = PathBuf::from(format!("/proc/self/fd/{}", kept.as_raw_fd()));
    for entry in entries {
        let (from, to) = (below.join(entry.file_name()), closed.join(entry.file_name()));
        let kind = match fs::symlink_metadata(&from) {
            Ok(found) => found.file_type(),
            // It was removed meanwhile.
            Err(_) => continue,
        };
        if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
            continue;
        }
        let made = if kind.is_dir() { fs::create_dir(&to) } else { File::create(&to).map(drop) };
        made?;
        mount_bind_recursive(&from, &to)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_namespace_has_the_numbers_of_its_map() {
        for (map, expected) in [
            ("         0          0 4294967295\n", true),
            ("0 1000 1\n", false),
            ("0 1000 1\n1 100000 65536\n", true),
            ("0 100000 65522\n", false),
            ("0 100000 65523\n", true),
            ("", false),
            ("0 0\n", false),
        ] {
            assert_eq!(has(map, 65_522), expected, "{map}");
        }
    }

    #[test]
    fn a_file_of_somebodys_is_read_by_the_right_of_others() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, expected) in [(0o644, true), (0o600, false), (0o640, false), (0o604, true)] {
            file.as_file().set_permissions(Permissions::from_mode(mode)).unwrap();
            assert_eq!(has_right(&file.as_file().metadata().unwrap(), 0o4), expected, "{mode:o}");
        }
    }

    #[test]
    fn a_directory_is_entered_by_the_right_that_counts() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, expected) in [(0o755, true), (0o711, true), (0o700, false), (0o750, false), (0o766, false)]
        {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(can_enter(&fs::metadata(dir.path()).unwrap()), expected, "{mode:o}");
        }
    }

    /// In a mount namespace, because nobody else shall see what it mounts.
    #[test]
    fn a_passage_shows_what_was_there_and_can_be_entered() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        fs::create_dir_all(closed.join("my dir, it's/deep")).unwrap();
        fs::write(closed.join("my dir, it's/deep/file"), "old").unwrap();
        fs::write(closed.join("file"), "plain").unwrap();
        symlink("my dir, it's/deep", closed.join("link")).unwrap();
        fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
        let test = "host::guest_user::tests::makes_a_passage_where_it_may";
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--user", "--map-root-user", "--mount", "--"])
            .arg(std::env::current_exe().unwrap())
            .args([test, "--exact", "--ignored", "--nocapture"])
            .env(CLOSED, &closed);
        let output = unshare.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if said.contains("unshare failed") {
            // Not every host grants user namespaces.
            assert!(!geteuid().is_root(), "{said}");
            return;
        }
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        // Outside it is as it was, and has what was written below.
        assert!(!can_enter(&fs::metadata(&closed).unwrap()));
        assert_eq!(fs::read_to_string(closed.join("my dir, it's/deep/file")).unwrap(), "new");
        assert!(!closed.join("lost").exists());
    }

    const CLOSED: &str = "CLOSED_DIRECTORY";

    #[test]
    #[ignore = "mounts: run by the test above, in a namespace"]
    fn makes_a_passage_where_it_may() {
        let closed = PathBuf::from(std::env::var_os(CLOSED).unwrap());
        assert!(!can_enter(&fs::metadata(&closed).unwrap()));
        make_passage(&closed).unwrap();
        assert!(can_enter(&fs::metadata(&closed).unwrap()));
        assert_eq!(fs::read_to_string(closed.join("file")).unwrap(), "plain");
        assert_eq!(fs::read_to_string(closed.join("link/file")).unwrap(), "old");
        fs::write(closed.join("link/file"), "new").unwrap();
        fs::write(closed.join("lost"), "").unwrap();
    }
}
