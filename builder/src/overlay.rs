//! Everything that we add to a guest before its packages are installed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use contract::image::Origin;
use tooling::command::shell_in;
use tooling::error::Failure;
use xshell::cmd;

use super::build_log::BuildLog;
use super::disks;
use super::recipe::{Recipe, is_executable, sorted_entries};
use crate::hook_program;

/// Where the scripts of the build run in the guest, and leave what the host wants.
pub(super) const BUILD_DIR: &str = "run/freezeframe";

/// Where the guest keeps our hooks, in every family. The layers' scripts make its agent run them.
const HOOKS: &str = "usr/lib/fsfreeze-hooks";

/// A file for the layer's script that makes the initrd: the kernel modules that it needs to mount
/// the root besides the drivers of the disk.
const INITRD_MODULES: &str = "initrd-modules";

/// Writes `overlay.tar` under `scratch`: everything that we add to the guest, with the
/// modes and the owner that it has there.
pub(super) fn write(recipe: &Recipe, scratch: &Path, log: &BuildLog) -> Result<(), Failure> {
    let overlay = scratch.join("overlay");
    for layer in &recipe.layers {
        let guest = layer.dir.join("guest");
        if guest.is_dir() {
            copy_tree(&guest, &overlay)?;
        }
    }
    write_hooks(recipe, &overlay.join(HOOKS))?;

    if recipe.definition.origin == Origin::Packages {
        write_mounts(recipe, &overlay)?;
    }

    let units = overlay.join("etc/systemd/system");
    create_dir(&units)?;
    for mask in recipe.masks() {
        let link = units.join(&mask.unit);
        symlink("/dev/null", &link).map_err(|e| Failure::io("create", &link, e))?;
    }

    let build = overlay.join(BUILD_DIR);
    create_dir(&build)?;
    append(&build.join(INITRD_MODULES), &format!("{}\n", recipe.root()))?;
    for layer in &recipe.layers {
        let script = layer.dir.join("customize.sh");
        if script.is_file() {
            copy_file(&script, &build.join(format!("customize-{}.sh", layer.name)))?;
        }
    }
    append(&build.join("cmdline"), &format!("{}\n", recipe.cmdline()))?;
    let secret = make_secret()?;
    write_secret(&build.join("load.secret"), &secret)?;
    write_secret(&scratch.join("image/load.secret"), &secret)?;

    // By name, so that the root directory itself keeps what its package gave it.
    let entries = sorted_entries(&overlay)?;
    let names = entries.iter().filter_map(|entry| entry.file_name());
    let sh = shell_in(scratch)?;
    log.run(cmd!(
        sh,
        "tar --create --owner=0 --group=0 --numeric-owner --file overlay.tar --directory {overlay} {names...}"
    ))
}

/// Adds the settings, the program, and the link that the agent calls.
fn write_hooks(recipe: &Recipe, own: &Path) -> Result<(), Failure> {
    copy_tree(&recipe.hook, own)?;
    copy_file(&recipe.program, &own.join(hook_program::NAME))?;
    let link = own.join(hook_program::DISPATCHER);
    symlink(hook_program::NAME, &link).map_err(|e| Failure::io("create", &link, e))
}

/// Adds what a guest must know about its disks.
fn write_mounts(recipe: &Recipe, overlay: &Path) -> Result<(), Failure> {
    let layout = &recipe.definition.disks;
    append(&overlay.join("etc/fstab"), &format!("/dev/vda / {} defaults 0 0\n", recipe.root()))?;
    append(&overlay.join("etc/fstab"), &disks::fstab(&recipe.definition))?;
    // Volumes appear as soon as their disk does, and nothing waits for the module
    // then; a loop device is expected to exist already.
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

/// Adds a line or more to a file of the layers, or makes it.
fn append(file: &Path, lines: &str) -> Result<(), Failure> {
    File::options()
        .append(true)
        .create(true)
        .open(file)
        .and_then(|mut file| file.write_all(lines.as_bytes()))
        .map_err(|e| Failure::io("write", file, e))
}

/// The scripts of the layers that run in the guest's root once its packages are
/// installed, in their order, as paths of the guest.
pub(super) fn scripts(recipe: &Recipe) -> Vec<String> {
    let layers = recipe.layers.iter().filter(|layer| layer.dir.join("customize.sh").is_file());
    layers.map(|layer| format!("/{BUILD_DIR}/customize-{}.sh", layer.name)).collect()
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

pub(super) fn create_dir(path: &Path) -> Result<(), Failure> {
    let mut missing = Vec::new();
    for dir in path.ancestors().take_while(|dir| !dir.exists()) {
        missing.push(dir);
    }
    for dir in missing.into_iter().rev() {
        fs::create_dir(dir).map_err(|e| Failure::io("create", dir, e))?;
        set_mode(dir, 0o755)?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::copy(from, to).map_err(|e| Failure::io("copy", from, e))?;
    set_mode(to, if is_executable(from)? { 0o755 } else { 0o644 })
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Failure> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| Failure::io("change", path, e))
}

/// A new password: 160 random bits as hex.
fn make_secret() -> Result<String, Failure> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 20];
    File::open(source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| Failure::io("read", source, e))?;
    Ok(hex::encode(bytes))
}

fn write_secret(path: &Path, secret: &str) -> Result<(), Failure> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(secret.as_bytes()))
        .map_err(|e| Failure::io("write", path, e))
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
