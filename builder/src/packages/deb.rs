//! The package for Debian, Ubuntu and their kin, made by dpkg-deb.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tooling::command::{self, shell, shell_in};
use tooling::error::Failure;

use super::layout::{self, Directories, Entry, EntryKind, Layout, packaging};
use super::packager::{NAME, packager, publish, scratch};

const DIRECTORIES: Directories =
    Directories { own: "/usr/lib/fsfreeze-hooks", hooks: "/etc/qemu/fsfreeze-hook.d", settings: "/etc/qemu" };

/// What the package of this version is called.
pub(super) fn file_name(version: &str) -> String {
    format!("{NAME}_{version}_all.deb")
}

/// Builds the package into `out`.
pub(super) fn build(version: &str, out: &Path) -> Result<PathBuf, Failure> {
    let scratch = scratch()?;
    let root = scratch.path().join("root");
    let layout = layout()?;
    layout.stage(&root)?;
    write_control(version, &layout, &root)?;

    let made = scratch.path().join("made.deb");
    let sh = shell()?;
    // zstd, where it is the default, is unknown to Debian 11.
    let dpkg_deb = packager(&sh, "dpkg-deb").args(["--root-owner-group", "-Zxz", "--build"]);
    command::read(dpkg_deb.arg(&root).arg(&made))?;
    let package = out.join(file_name(version));
    publish(&made, &package)?;
    Ok(package)
}

fn layout() -> Result<Layout, Failure> {
    let mut layout = Layout::common(DIRECTORIES)?;
    layout.add(
        "/usr/lib/systemd/system/qemu-guest-agent.service.d/00-fsfreeze-hooks.conf",
        EntryKind::Data(packaging().join("deb/agent.conf")),
    );
    Ok(layout)
}

/// What dpkg reads.
fn write_control(version: &str, layout: &Layout, root: &Path) -> Result<(), Failure> {
    let from = packaging().join("deb");
    let control = root.join("DEBIAN");
    layout::create_dirs(&control)?;
    for script in ["postinst", "postrm"] {
        layout::copy(&from.join(script), &control.join(script), 0o755)?;
    }
    let template = from.join("control");
    let text = fs::read_to_string(&template).map_err(|e| Failure::io("read", &template, e))?;
    write(&control.join("control"), &text.replace("@VERSION@", version))?;

    let conffiles =
        layout.0.iter().filter(|entry| matches!(entry.kind, EntryKind::Hook(_) | EntryKind::Settings(_)));
    write(
        &control.join("conffiles"),
        &conffiles.map(|e| format!("{}\n", e.target.display())).collect::<String>(),
    )?;

    // So that `dpkg --verify` finds what was changed.
    let summed = layout
        .0
        .iter()
        .filter(|entry| matches!(entry.kind, EntryKind::Program(_) | EntryKind::Data(_) | EntryKind::Doc(_)))
        .map(|Entry { target, .. }| target.strip_prefix("/").unwrap_or(target));
    let sh = shell_in(root)?;
    let sums = command::read(sh.cmd("md5sum").args(summed))?;
    write(&control.join("md5sums"), &String::from_utf8_lossy(&sums))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)))
        .map_err(|e| Failure::io("write", path, e))
}
