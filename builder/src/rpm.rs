//! The root file system of the RPM family, made with dnf from any distribution.

use std::fs;
use std::path::Path;

use tooling::command::{self, NamespaceRoot, shell_in};
use tooling::error::Failure;
use tooling::host;
use xshell::{Cmd, Shell, cmd};

use super::build_log::BuildLog;
use super::overlay::{self, BUILD_DIR};
use super::recipe::Recipe;
use super::repositories::{RPM_DATABASE, Repositories};

/// Runs a program with what the scripts of packages expect mounted in the root
/// `$1`. In namespaces of their own, so that mounts and processes end with it,
/// even when it is killed. What scripts create does not depend on the umask of this user.
const WITH_MOUNTS: &str = r#"
umask 022
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
    log: &BuildLog,
) -> Result<(), Failure> {
    let root = scratch.join("rootfs");
    for dir in ["", "dev", "proc", "sys"] {
        overlay::create_dir(&root.join(dir))?;
    }
    let sh = shell_in(scratch)?;
    let as_root = NamespaceRoot(&sh);
    // Before the packages, so that their scripts see masks and configuration.
    log.run(cmd!(
        as_root,
        "tar --extract --numeric-owner --preserve-permissions --file overlay.tar --directory {root}"
    ))?;

    command::require("dnf")?;
    let dnf = repositories.configure(with_mounts(&sh, &root).arg("dnf"), &root);
    log.run(dnf.args(["--assumeyes", "install"]).args(recipe.packages()))?;
    for script in overlay::scripts(recipe) {
        let chroot = with_mounts(&sh, &root).arg("chroot").arg(&root).args(["/bin/sh", &script]);
        log.run(chroot.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"))?;
    }

    let left = root.join(BUILD_DIR);
    log.run(cmd!(as_root, "mv {left} {scratch}"))?;
    let versions = scratch.join("freezeframe/versions");
    fs::write(&versions, versions_in(as_root, &root)?).map_err(|e| Failure::io("write", &versions, e))?;
    let run = root.join("run");
    log.run(cmd!(as_root, "find {run} -mindepth 1 -delete"))
}

/// Runs the command that its next words make, with the mounts of [`WITH_MOUNTS`].
fn with_mounts<'a>(sh: &'a Shell, root: &Path) -> Cmd<'a> {
    let user = if host::is_root() { &[][..] } else { &["--user", "--map-root-user", "--map-auto"] };
    cmd!(sh, "unshare {user...} --mount --pid --fork --kill-child -- /bin/sh -euc {WITH_MOUNTS} sh {root}")
}

/// Name and version of every package in a root, one a line.
fn versions_in(as_root: NamespaceRoot<'_>, root: &Path) -> Result<String, Failure> {
    const LINE: &str = "%{NAME} %{EVR}\\n";
    let rpm = cmd!(as_root, "rpm --root {root} --dbpath {RPM_DATABASE} --query --all --queryformat {LINE}");
    let versions = command::read(rpm).map_err(|reason| {
        Failure::Infrastructure(format!("the packages in {} cannot be listed. {reason}", root.display()))
    })?;
    Ok(String::from_utf8_lossy(&versions).into_owned())
}

#[cfg(test)]
mod tests;
