//! The root file system of the RPM family, made with dnf from any distribution.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use terminal::command::Run as _;

use super::overlay::{self, BUILD_DIR};
use super::recipe::Recipe;
use super::repositories::{RPM_DATABASE, Repositories};
use super::run::Log;
use crate::error::Failure;
use crate::host;

/// Runs a program with what the scripts of packages expect mounted in the root
/// `$1`. In namespaces of their own, so that mounts and processes end with it,
/// even when it is killed.
const WITH_MOUNTS: &str = r#"
root=$1
shift
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 none "$root/dev"
for node in null zero full random urandom; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
exec "$@"
"#;

/// Installs the packages with the overlay under them, customizes the result,
/// and leaves it in `rootfs` under `scratch`, with what the host wants in `freezeframe`.
pub(super) fn install(
    recipe: &Recipe,
    repositories: &Repositories,
    scratch: &Path,
    log: &Log,
) -> Result<(), Failure> {
    let root = scratch.join("rootfs");
    for dir in ["", "dev", "proc", "sys"] {
        overlay::create_dir(&root.join(dir))?;
    }
    let mut tar = host::as_namespace_root("tar")?;
    // Before the packages, so that their scripts see masks and configuration.
    tar.args(["--extract", "--numeric-owner", "--preserve-permissions", "--file"])
        .arg(scratch.join("overlay.tar"))
        .arg("--directory")
        .arg(&root);
    log.run(tar)?;

    let mut dnf = with_mounts(&root, &repositories.dnf(&root)?)?;
    dnf.args(["--assumeyes", "install"]).args(recipe.packages());
    log.run(dnf)?;
    for script in overlay::scripts(recipe) {
        let mut chroot = host::command("chroot")?;
        chroot.arg(&root).args(["/bin/sh", &script]);
        let mut chroot = with_mounts(&root, &chroot)?;
        chroot.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        log.run(chroot)?;
    }

    let left = root.join(BUILD_DIR);
    let mut take = host::as_namespace_root("mv")?;
    take.arg(&left).arg(scratch);
    log.run(take)?;
    let versions = scratch.join("freezeframe/versions");
    fs::write(&versions, versions_in(&root)?).map_err(|e| Failure::io("write", &versions, &e))?;
    let mut find = host::as_namespace_root("find")?;
    find.arg(root.join("run")).args(["-mindepth", "1", "-delete"]);
    log.run(find)
}

/// `command`, its environment included, with the mounts of [`WITH_MOUNTS`].
fn with_mounts(root: &Path, command: &Command) -> Result<Command, Failure> {
    let mut unshare = host::command("unshare")?;
    if !host::is_root() {
        unshare.args(["--user", "--map-root-user", "--map-auto"]);
    }
    unshare.args(["--mount", "--pid", "--fork", "--kill-child", "--", "/bin/sh", "-euc", WITH_MOUNTS, "sh"]);
    unshare.arg(root).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            unshare.env(name, value);
        }
    }
    Ok(unshare)
}

/// Name and version of every package in a root, one a line.
fn versions_in(root: &Path) -> Result<String, Failure> {
    let mut rpm = host::as_namespace_root("rpm")?;
    rpm.arg("--root").arg(root).args(["--dbpath", RPM_DATABASE]);
    rpm.args(["--query", "--all", "--queryformat", "%{NAME} %{EVR}\\n"]);
    let output = rpm.stdin(Stdio::null()).run_output().map_err(|e| Failure::io("look into", root, &e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(Failure::Infrastructure(format!("rpm cannot tell what is in {}: {}.", root.display(), why.trim())))
}

#[cfg(test)]
mod tests;
