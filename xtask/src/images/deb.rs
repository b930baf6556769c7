//! The root file system of the deb family, made with mmdebstrap.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use freezeframe::image::Origin;

use super::archive::{TAKE_EXPIRED, mmdebstrap, prefer_released};
use super::disks;
use super::recipe::{LayerDir, Recipe, hex, is_executable, sorted_entries};
use super::run::Log;
use crate::error::Failure;
use crate::host;

/// What only documents a package.
const LEFT_OUT: [&str; 4] =
    ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*"];

/// Where the scripts of the build run, and leave what the host wants. mmdebstrap empties `/run` at the end.
const BUILD_DIR: &str = "run/freezeframe";

/// The script of a layer.
const SCRIPT: &str = "customize.sh";

/// What the initrd needs to mount the root disk, module by module.
const INITRD_MODULES: &str = "usr/share/initramfs-tools/modules.d/freezeframe";

/// Where the guest keeps the hook as it is in the repository.
const HOOK_DIR: &str = "usr/share/freezeframe/hook";

/// Writes `overlay.tar` under `scratch`: all that we add to the guest, with
/// the modes and the owner that it has there.
pub(super) fn write_overlay(recipe: &Recipe, scratch: &Path, log: &Log) -> Result<(), Failure> {
    let overlay = scratch.join("overlay");
    for layer in &recipe.layers {
        let guest = layer.dir.join("guest");
        if guest.is_dir() {
            copy_tree(&guest, &overlay)?;
        }
    }
    copy_tree(&recipe.hook, &overlay.join(HOOK_DIR))?;

    if recipe.definition.origin == Origin::Packages {
        write_mounts(recipe, &overlay)?;
    }

    let units = overlay.join("etc/systemd/system");
    create_dir(&units)?;
    for mask in recipe.masks() {
        let link = units.join(&mask.unit);
        symlink("/dev/null", &link).map_err(|e| Failure::io("create", &link, &e))?;
    }

    let build = overlay.join(BUILD_DIR);
    create_dir(&build)?;
    for (layer, name) in scripts(recipe) {
        copy_file(&layer.dir.join(SCRIPT), &build.join(name))?;
    }
    append(&build.join("cmdline"), &format!("{}\n", recipe.cmdline()))?;
    let secret = make_secret()?;
    write_secret(&build.join("load.secret"), &secret)?;
    write_secret(&scratch.join("image/load.secret"), &secret)?;

    let mut tar = host::command("tar")?;
    tar.args(["--create", "--owner=0", "--group=0", "--numeric-owner", "--file"])
        .arg(scratch.join("overlay.tar"))
        .arg("--directory")
        .arg(&overlay);
    // By name, so that the root directory itself keeps what its package gave it.
    tar.args(sorted_entries(&overlay)?.iter().filter_map(|entry| entry.file_name()));
    log.run(tar)
}

/// Adds what an image needs to know of the disks that are made for it.
fn write_mounts(recipe: &Recipe, overlay: &Path) -> Result<(), Failure> {
    let layout = &recipe.definition.disks;
    append(&overlay.join("etc/fstab"), &format!("/dev/vda / {} defaults 0 0\n", recipe.root()))?;
    append(&overlay.join("etc/fstab"), &disks::fstab(&recipe.definition))?;
    append(&overlay.join(INITRD_MODULES), &format!("{}\n", recipe.root()))?;
    // Volumes appear as soon as their disk does, and nothing waits for the module
    // then; a loop device is looked for and not asked for.
    let groups = layout.iter().any(|disk| disk.group.is_some()).then_some("dm_mod\n");
    let loops = (!recipe.definition.loops.is_empty()).then_some("loop\n");
    let modules: String = groups.into_iter().chain(loops).collect();
    if !modules.is_empty() {
        let dir = overlay.join("etc/modules-load.d");
        create_dir(&dir)?;
        append(&dir.join("freezeframe.conf"), &modules)?;
    }
    Ok(())
}

/// The layers that have a script for the guest, and its name in the guest, in
/// the order in which they run.
pub(super) fn scripts(recipe: &Recipe) -> impl Iterator<Item = (&LayerDir, String)> {
    let with_script = recipe.layers.iter().filter(|layer| layer.dir.join(SCRIPT).is_file());
    with_script.map(|layer| (layer, format!("customize-{}.sh", layer.name)))
}

/// Adds a line or more to a file of the layers, or makes it.
fn append(file: &Path, lines: &str) -> Result<(), Failure> {
    File::options()
        .append(true)
        .create(true)
        .open(file)
        .and_then(|mut file| file.write_all(lines.as_bytes()))
        .map_err(|e| Failure::io("write", file, &e))
}

/// Installs the packages with the overlay under them, customizes the result,
/// and leaves it in `rootfs` under `scratch`, with what the host wants in `freezeframe`.
pub(super) fn install(recipe: &Recipe, scratch: &Path, log: &Log) -> Result<(), Failure> {
    let definition = &recipe.definition;
    let mut mmdebstrap = mmdebstrap(scratch)?;
    mmdebstrap
        .arg("--variant=apt")
        // A root that is thrown away when anything fails need not be synced file by file.
        .arg("--dpkgopt=force-unsafe-io")
        .arg(format!("--aptopt={TAKE_EXPIRED}"))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")))
        .arg(format!("--include={}", recipe.packages().join(",")))
        // Before the packages, so that their scripts see masks and configuration.
        .arg("--essential-hook=tar-in overlay.tar /");
    if !definition.security_updates {
        mmdebstrap.arg(format!("--aptopt={}", prefer_released(&definition.release)));
    }
    for (_, name) in scripts(recipe) {
        mmdebstrap.arg(format!("--customize-hook=chroot \"$1\" sh /{BUILD_DIR}/{name}"));
    }
    mmdebstrap.arg(format!("--customize-hook=copy-out /{BUILD_DIR} ."));
    if host::is_root() {
        mmdebstrap.args(["--format=directory", &definition.release, "rootfs"]);
    } else {
        mmdebstrap.args(["--format=tar", &definition.release, "rootfs.tar"]);
    }
    mmdebstrap.args(&definition.mirror);
    log.run(mmdebstrap)?;

    if !host::is_root() {
        let rootfs = scratch.join("rootfs");
        create_dir(&rootfs)?;
        // Device nodes need real root; a running guest makes its own.
        let mut tar = host::as_namespace_root("tar")?;
        tar.current_dir(scratch)
            .args(["--extract", "--numeric-owner", "--preserve-permissions", "--exclude=./dev/*"])
            .args(["--file", "rootfs.tar", "--directory", "rootfs"]);
        log.run(tar)?;
    }
    Ok(())
}

/// Copies a tree over another. A checkout depends on the umask of its user, a guest does not.
fn copy_tree(from: &Path, to: &Path) -> Result<(), Failure> {
    create_dir(to)?;
    for entry in sorted_entries(from)? {
        let target = to.join(entry.file_name().unwrap_or_default());
        if entry.is_dir() {
            copy_tree(&entry, &target)?;
        } else {
            copy_file(&entry, &target)?;
        }
    }
    Ok(())
}

fn create_dir(path: &Path) -> Result<(), Failure> {
    let mut missing = Vec::new();
    for dir in path.ancestors().take_while(|dir| !dir.exists()) {
        missing.push(dir);
    }
    for dir in missing.into_iter().rev() {
        fs::create_dir(dir).map_err(|e| Failure::io("create", dir, &e))?;
        set_mode(dir, 0o755)?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::copy(from, to).map_err(|e| Failure::io("copy", from, &e))?;
    set_mode(to, if is_executable(from)? { 0o755 } else { 0o644 })
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Failure> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| Failure::io("change", path, &e))
}

/// Makes up a password: 160 random bits as hex.
fn make_secret() -> Result<String, Failure> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 20];
    File::open(source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| Failure::io("read", source, &e))?;
    Ok(hex(&bytes))
}

fn write_secret(path: &Path, secret: &str) -> Result<(), Failure> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(secret.as_bytes()))
        .map_err(|e| Failure::io("write", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_does_not_depend_on_the_umask_of_a_checkout() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("etc")).unwrap();
        for (name, mode) in [("plain", 0o600), ("shared", 0o664), ("program", 0o700)] {
            let file = from.join("etc").join(name);
            fs::write(&file, name).unwrap();
            set_mode(&file, mode).unwrap();
        }
        set_mode(&from.join("etc"), 0o700).unwrap();
        copy_tree(&from, &to.join("deep")).unwrap();

        let mode = |name: &str| fs::metadata(to.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(""), 0o755);
        assert_eq!(mode("deep/etc"), 0o755);
        assert_eq!(mode("deep/etc/plain"), 0o644);
        assert_eq!(mode("deep/etc/shared"), 0o644);
        assert_eq!(mode("deep/etc/program"), 0o755);
    }

    #[test]
    fn secrets_differ_and_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("load.secret");
        let secret = make_secret().unwrap();
        assert_ne!(secret, make_secret().unwrap());
        write_secret(&path, &secret).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), secret);
    }
}
