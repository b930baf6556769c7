//! Where built images stand.
//!
//! ```text
//! target/images/NAME                  -> .store/NAME-DIGEST12
//! target/images/.store/NAME-DIGEST12/ an image, complete, sealed and never changed, but for
//!                                     the note that trials verified it
//! target/images/.store/tmp-*/         builds under way, or dead
//! target/images/.store/{apt,dnf}/     the indexes of the distributions, kept between builds
//! target/images/.store/cloud/         vendors' cloud images by their digests, see `cloud/fetch.rs`
//! target/images/.store/log/NAME.log   the last build
//! ```
//!
//! An image appears under its name by one rename, so there is never half of one.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use contract::image::Manifest;
use contract::seal::{self, Depth};
use contract::{files, lock};
use procfs::process::Process;
use rustix::io::FdFlags;
use serde::Serialize;
use tooling::command::{self, NamespaceRoot, shell};
use tooling::error::Failure;
use tooling::host;
use tracing::{info, warn};
use xshell::cmd;

use super::recipe::sorted_entries;

/// How many builds of one image stay: the last one, and the one before it, on
/// which the disks of kept trials may stand.
const KEPT_BUILDS: usize = 2;

/// What is known of an image without asking the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageState {
    /// There is none.
    Missing,
    /// There is one, but what it was built from has changed.
    Stale,
    /// There is one, but its files are not as they were built.
    Damaged,
    /// There is one.
    Built,
}

impl fmt::Display for ImageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Missing => "missing",
            Self::Stale => "stale",
            Self::Damaged => "damaged",
            Self::Built => "built",
        })
    }
}

/// `target/images`.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// The store, with the right to change it.
#[derive(Debug)]
pub(crate) struct LockedStore<'a> {
    store: &'a Store,
    _lock: File,
}

impl Store {
    /// Opens the store and makes its directories. They are for this user only: images hold
    /// passwords, and the disks of somebody's own server.
    pub(crate) fn open(root: PathBuf) -> Result<Self, Failure> {
        files::create_dir(&root)?;
        for dir in ["apt", "dnf", "log"] {
            let path = root.join(".store").join(dir);
            files::create_dir(&path)?;
        }
        Ok(Self { root })
    }

    /// The image `name`, built or not.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The directory of the build of `name` with this digest.
    pub(crate) fn build_of(&self, name: &str, digest: &str) -> PathBuf {
        self.inner().join(entry_name(name, digest))
    }

    /// The package state of the distributions.
    pub(crate) fn apt(&self) -> PathBuf {
        self.inner().join("apt")
    }

    /// The same of those of the RPM family, with their packages.
    pub(crate) fn dnf(&self) -> PathBuf {
        self.inner().join("dnf")
    }

    /// The verified files of vendors, and what is being downloaded of them.
    pub(crate) fn cloud(&self) -> PathBuf {
        self.inner().join("cloud")
    }

    /// The log of the last build of `name`.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.inner().join("log").join(format!("{name}.log"))
    }

    /// The manifest of image `name`, if it is built.
    pub(crate) fn manifest(&self, name: &str) -> Option<Manifest> {
        Manifest::read(&self.root, name).ok()
    }

    /// The state of image `name`, where `wanted` is the digest that a build would give it now.
    pub(crate) fn state(&self, name: &str, wanted: Option<&str>) -> ImageState {
        match self.manifest(name) {
            None => ImageState::Missing,
            Some(manifest) if wanted.is_some_and(|wanted| wanted != manifest.digest) => ImageState::Stale,
            Some(manifest) if manifest.check(Depth::Stamps, &|| false).is_err() => ImageState::Damaged,
            Some(_) => ImageState::Built,
        }
    }

    /// Waits until no other process changes the store.
    pub(crate) fn lock(&self) -> Result<LockedStore<'_>, Failure> {
        let path = self.lock_file();
        let failed = |e: std::io::Error| Failure::io("lock", &path, e);
        let file = File::create(&path).map_err(failed)?;
        let announce = |holder: &str| {
            warn!("waiting for another build to finish: {holder} has locked {}", path.display());
        };
        // Ctrl-C ends this process.
        let pause = |pause| {
            std::thread::sleep(pause);
            Ok::<_, Infallible>(())
        };
        let Ok(()) = lock::wait(&file, announce, pause).map_err(failed)?;
        // Programs of the build inherit it: when this process is killed, what
        // it started keeps the lock until it ends.
        rustix::io::fcntl_setfd(&file, FdFlags::empty()).map_err(|e| failed(e.into()))?;
        Ok(LockedStore { store: self, _lock: file })
    }

    /// Removes the builds of the images `names`, and reports each.
    pub(crate) fn clean(&self, names: &[String], report: impl FnMut(&Removed)) -> Result<(), Failure> {
        let _locked = self.lock()?;
        let (mut builds, mut links) = (Vec::new(), Vec::new());
        for name in names.iter().collect::<BTreeSet<_>>() {
            builds.extend(self.builds_of(name)?);
            links.push(self.image(name));
        }
        remove_all_unused(&builds, &links, report)
    }

    /// Removes every build, and what is kept between builds, and reports each.
    pub(crate) fn clean_all(&self, report: impl FnMut(&Removed)) -> Result<(), Failure> {
        let _locked = self.lock()?;
        let mut kept = sorted_entries(&self.inner())?;
        // Whoever waits for it must find the same file.
        kept.retain(|path| *path != self.lock_file());
        let mut links = sorted_entries(&self.root)?;
        links.retain(|path| *path != self.inner());
        remove_all_unused(&kept, &links, report)
    }

    /// Every build of `name`, of which there must be one.
    pub(crate) fn builds_of(&self, name: &str) -> Result<Vec<PathBuf>, Failure> {
        let found = self.builds(name)?;
        if found.is_empty() || name.contains('/') {
            return Err(Failure::Usage(format!(
                "there is no built image `{name}`, so nothing was done. `cargo xtask images list` shows those that are."
            )));
        }
        Ok(found)
    }

    /// Every build of every image.
    pub(crate) fn all_builds(&self) -> Result<Vec<PathBuf>, Failure> {
        let mut builds = sorted_entries(&self.inner())?;
        builds.retain(|path| image_of(path).is_some());
        Ok(builds)
    }

    fn lock_file(&self) -> PathBuf {
        self.inner().join("lock")
    }

    fn inner(&self) -> PathBuf {
        self.root.join(".store")
    }

    /// Every build of `name`, newest first.
    fn builds(&self, name: &str) -> Result<Vec<PathBuf>, Failure> {
        let mut builds = self.all_builds()?;
        builds.retain(|path| image_of(path).as_deref() == Some(name));
        builds.sort_by_key(|path| {
            let time = fs::metadata(path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            std::cmp::Reverse(time)
        });
        Ok(builds)
    }
}

impl LockedStore<'_> {
    /// The store.
    pub(crate) fn store(&self) -> &Store {
        self.store
    }

    /// Makes the build with this digest the image `name`, if there is one.
    pub(crate) fn reuse(&self, name: &str, digest: &str) -> Result<bool, Failure> {
        let entry = entry_name(name, digest);
        if Manifest::read(&self.store.inner(), &entry).is_err() {
            return Ok(false);
        }
        self.link(name, &entry)?;
        Ok(true)
    }

    /// A directory for a build of `name`. What dead builds left goes first.
    pub(crate) fn scratch(&self, name: &str) -> Result<Scratch, Failure> {
        for entry in sorted_entries(&self.store.inner())? {
            let dead = entry.file_name().unwrap_or_default().to_string_lossy().starts_with("tmp-");
            if dead {
                info!("{name}: removing {}, left by an interrupted build", entry.display());
                remove(&entry)?;
            }
        }
        let path = self.store.inner().join(format!("tmp-{name}"));
        files::create_dir(&path)?;
        let scratch = Scratch { path };
        files::create_dir(&scratch.image())?;
        Ok(scratch)
    }

    /// Seals what was built in `scratch`, and makes it the image `name`.
    pub(crate) fn publish(&self, scratch: Scratch, name: &str, digest: &str) -> Result<(), Failure> {
        seal::make(&scratch.image())?;
        let entry = entry_name(name, digest);
        let path = self.store.build_of(name, digest);
        if path.exists() {
            remove(&path)?;
        }
        fs::rename(scratch.image(), &path).map_err(|e| Failure::io("create", &path, e))?;
        self.link(name, &entry)?;
        for old in self.store.builds(name)?.into_iter().skip(KEPT_BUILDS) {
            // One that a run uses goes after a later build.
            remove_unused(&old)?;
        }
        Ok(())
    }

    fn link(&self, name: &str, entry: &str) -> Result<(), Failure> {
        let link = self.store.image(name);
        let target = Path::new(".store").join(entry);
        tempfile::Builder::new()
            .prefix("tmp-link-")
            .make_in(self.store.inner(), |path| symlink(&target, path))
            .and_then(|new| Ok(new.into_temp_path().persist(&link)?))
            .map_err(|e| Failure::io("create", &link, e))
    }
}

/// The directory of one build under way; removed when the build ends, however it ends.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What becomes the image.
    pub(crate) fn image(&self) -> PathBuf {
        self.path.join("image")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(failure) = remove(&self.path) {
            warn!("{failure}");
        }
    }
}

fn entry_name(name: &str, digest: &str) -> String {
    format!("{name}-{}", &digest[..12.min(digest.len())])
}

/// The image of which this directory is a build, if it is one.
fn image_of(build: &Path) -> Option<String> {
    let entry = build.file_name()?.to_string_lossy();
    let (image, digest) = entry.rsplit_once('-')?;
    (digest.len() == 12 && digest.bytes().all(|b| b.is_ascii_hexdigit())).then(|| image.to_owned())
}

/// Something that was removed from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Where it was: an image's build, or something that is kept between builds.
    pub path: PathBuf,
    /// The space that it took, MiB.
    pub mib: u64,
}

/// Removes these trees and links, or none of them when one is in use.
fn remove_all_unused(
    trees: &[PathBuf],
    links: &[PathBuf],
    mut report: impl FnMut(&Removed),
) -> Result<(), Failure> {
    let mut seized = Vec::new();
    for tree in trees {
        match seize(tree)? {
            Some(file) => seized.push(file),
            None => {
                return Err(Failure::Infrastructure(format!(
                    "{} is in use by a run, so nothing was removed. Try again when that run has ended.",
                    tree.display()
                )));
            }
        }
    }
    for link in links.iter().filter(|link| link.is_symlink() || link.exists()) {
        remove(link)?;
    }
    for tree in trees {
        let removed = Removed { path: tree.clone(), mib: allocated_mib(tree) };
        remove(tree)?;
        report(&removed);
    }
    Ok(())
}

/// Removes a build that nobody uses. Whether it did.
pub(crate) fn remove_unused(build: &Path) -> Result<bool, Failure> {
    match seize(build)? {
        Some(_seized) => remove(build).map(|()| true),
        None => Ok(false),
    }
}

/// Keeps everybody else from using a build (see `Manifest::hold`) while the result lives; `None` when
/// somebody uses it now.
fn seize(build: &Path) -> Result<Option<File>, Failure> {
    let failed = |e| Failure::io("lock", build, e);
    let file = File::open(build).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(failed(e)),
    }
}

/// What a tree takes on the disk, MiB, as far as it can be read.
pub(crate) fn allocated_mib(path: &Path) -> u64 {
    fn blocks(path: &Path) -> u64 {
        let Ok(metadata) = path.symlink_metadata() else { return 0 };
        let below = if metadata.is_dir() { sorted_entries(path).unwrap_or_default() } else { Vec::new() };
        metadata.blocks() + below.iter().map(|path| blocks(path)).sum::<u64>()
    }
    // These blocks have 512 bytes on every file system.
    blocks(path) / 2048
}

/// Removes a file, a link or a tree; never through a mount point.
fn remove(path: &Path) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::io("remove", path, e);
    if !path.symlink_metadata().map_err(failed)?.is_dir() {
        return fs::remove_file(path).map_err(failed);
    }
    if let Some(mount) = mount_below(path) {
        let mount = mount.display();
        return Err(Failure::Infrastructure(format!(
            "{} holds the mount point {mount}, left by an interrupted build. Run `umount -R {mount}` as root, then try again.",
            path.display()
        )));
    }
    match fs::remove_dir_all(path) {
        // A root file system that was unpacked without root belongs to other users.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && !host::is_root() => {
            let sh = shell()?;
            let rm = cmd!(NamespaceRoot(&sh), "rm -rf --one-file-system {path}");
            command::read(rm).map(drop).map_err(|_| failed(e))
        }
        done => done.map_err(failed),
    }
}

fn mount_below(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let mounts = Process::myself().and_then(|process| process.mountinfo()).ok()?;
    mounts.into_iter().map(|mount| mount.mount_point).find(|point| point.starts_with(&path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const DIGEST: &str = "0123456789abcdef";

    fn fill(scratch: &Scratch, digest: &str) {
        for file in ["root.raw", "vmlinuz", "initrd.img", "load.secret"] {
            fs::write(scratch.image().join(file), "").unwrap();
        }
        let manifest = format!(
            r#"{{"schema": 3, "name": "one", "digest": "{digest}", "distro": "d", "release": "r",
                "dir": ".", "boot": {{"direct": {{"kernel": "vmlinuz", "initrd": "initrd.img", "cmdline": "rw"}}}},
                "disks": [{{"target": "vda", "file": "root.raw", "file_systems": []}}],
                "memory_mib": 512, "agent": {{"unit": "u", "hook": "/h", "enabled_by": "/e"}},
                "server": {{"database": "mariadb", "unit": "s", "datadir": "/d", "binlogs": "/d", "port": 1, "user": "u",
                            "password_file": "load.secret"}}, "versions": {{}}}}"#
        );
        fs::write(scratch.image().join("manifest.json"), manifest).unwrap();
    }

    #[test]
    fn an_image_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("images")).unwrap();
        let locked = store.lock().unwrap();
        assert_eq!(store.state("one", None), ImageState::Missing);
        assert!(!locked.reuse("one", DIGEST).unwrap());

        let failed = locked.scratch("one").unwrap();
        fs::write(failed.image().join("root.raw"), "half").unwrap();
        let path = failed.path().to_owned();
        drop(failed);
        assert!(!path.exists());

        let scratch = locked.scratch("one").unwrap();
        fill(&scratch, DIGEST);
        locked.publish(scratch, "one", DIGEST).unwrap();
        assert_eq!(store.state("one", Some(DIGEST)), ImageState::Built);
        assert_eq!(store.state("one", Some("other")), ImageState::Stale);
        let disk = store.image("one").join("root.raw");
        fs::write(&disk, "half").unwrap();
        assert_eq!(store.state("one", Some(DIGEST)), ImageState::Damaged);
        fs::write(&disk, "").unwrap();
        assert!(locked.reuse("one", DIGEST).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn an_image_is_for_its_user_only_wherever_it_was_built_before() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("images");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        // As an older version left it.
        fs::create_dir_all(root.join(".store/one-0123456789ab")).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let store = Store::open(root.clone()).unwrap();
        assert_eq!((mode(&root), mode(&root.join(".store/log"))), (0o700, 0o700));

        let locked = store.lock().unwrap();
        let scratch = locked.scratch("one").unwrap();
        fill(&scratch, DIGEST);
        let disk = scratch.image().join("root.raw");
        crate::disks::read_only(&disk).unwrap();
        assert_eq!((mode(scratch.path()), mode(&disk)), (0o700, 0o400));
        locked.publish(scratch, "one", DIGEST).unwrap();
        assert_eq!(mode(&store.image("one")), 0o700);
    }

    #[test]
    fn the_last_two_builds_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("images")).unwrap();
        let locked = store.lock().unwrap();
        for build in 0..4 {
            let digest = format!("{build}{DIGEST}");
            let scratch = locked.scratch("one").unwrap();
            fill(&scratch, &digest);
            locked.publish(scratch, "one", &digest).unwrap();
        }
        assert_eq!(store.builds("one").unwrap().len(), KEPT_BUILDS);
        assert_eq!(store.builds("on").unwrap().len(), 0);
        drop(locked);
        let clean =
            |removed: &mut Vec<_>| store.clean(&["one".to_owned()], |it| removed.push(it.path.clone()));
        let built = store.builds("one").unwrap();
        let mut removed = Vec::new();
        clean(&mut removed).unwrap();
        assert_eq!(removed, built);
        assert_eq!(store.state("one", None), ImageState::Missing);
        assert!(clean(&mut removed).unwrap_err().to_string().contains("nothing was done"));
    }

    #[test]
    fn what_a_run_uses_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("images")).unwrap();
        let build = |n: u32| {
            let locked = store.lock().unwrap();
            let scratch = locked.scratch("one").unwrap();
            let digest = format!("{n}{DIGEST}");
            fill(&scratch, &digest);
            locked.publish(scratch, "one", &digest).unwrap();
        };
        build(0);
        let used = store.manifest("one").unwrap();
        let held = used.hold().unwrap();
        File::open(&used.dir).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        for clean in [store.clean(&["one".to_owned()], |_| ()), store.clean_all(|_| ())] {
            let said = clean.unwrap_err().to_string();
            assert!(said.contains("in use by a run, so nothing was removed"), "{said}");
        }
        assert_eq!(store.state("one", None), ImageState::Built);
        (1..=KEPT_BUILDS as u32 + 1).for_each(build);
        assert!(used.dir.exists());
        drop(held);
        build(9);
        assert!(!used.dir.exists());
        assert!(used.hold().unwrap_err().to_string().contains("images build one"));

        let mut removed = Vec::new();
        store.clean_all(|it| removed.push(it.path.file_name().unwrap().to_owned())).unwrap();
        let kept_between_builds = ["apt", "dnf", "log"];
        assert!(kept_between_builds.iter().all(|name| removed.contains(&(*name).into())), "{removed:?}");
        assert_eq!(removed.len(), KEPT_BUILDS + kept_between_builds.len(), "{removed:?}");
        assert!(store.lock_file().exists() && store.manifest("one").is_none());
    }

    #[test]
    fn what_a_dead_build_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("images")).unwrap();
        let left = dir.path().join("images/.store/tmp-two");
        fs::create_dir_all(left.join("rootfs")).unwrap();
        let _scratch = store.lock().unwrap().scratch("one").unwrap();
        assert!(!left.exists());
    }
}
