//! The package for Debian, Ubuntu and their kin, made by dpkg-deb.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use contract::run;
use tooling::command::{self, shell, shell_in};
use tooling::error::Failure;

use super::layout::{self, Directories, Entry, EntryKind, Layout, packaging};
use super::packager::{NAME, packager, publish, scratch};

const DIRECTORIES: Directories = Directories {
    own: "/usr/lib/fsfreeze-hooks",
    program: "/usr/lib/fsfreeze-hooks/fsfreeze-db",
    hooks: "/etc/qemu/fsfreeze-hook.d",
    settings: "/etc/qemu",
};

/// Builds the package into `out`.
pub(super) fn build(version: &str, out: &Path) -> Result<PathBuf, Failure> {
    let scratch = scratch()?;
    let root = scratch.path().join("root");
    let layout = layout();
    layout.stage(&root)?;
    write_changelog(version, &root)?;
    write_control(version, &layout, &root)?;

    let made = scratch.path().join("made.deb");
    let sh = shell()?;
    // zstd, where it is the default, is unknown to Debian 11.
    let dpkg_deb = packager(&sh, "dpkg-deb").args(["--root-owner-group", "-Zxz", "--build"]);
    command::read(dpkg_deb.arg(&root).arg(&made))?;
    let package = out.join(run::package(version));
    publish(&made, &package)?;
    Ok(package)
}

fn layout() -> Layout {
    let from = packaging().join("deb");
    let mut layout = Layout::common(DIRECTORIES);
    layout.add(
        "/usr/lib/systemd/system/qemu-guest-agent.service.d/00-fsfreeze-hooks.conf",
        EntryKind::Data(from.join("agent.conf")),
    );
    layout.add(
        Path::new("/usr/share/doc").join(NAME).join("copyright"),
        EntryKind::Doc(from.join("copyright")),
    );
    layout.add(
        Path::new("/usr/share/lintian/overrides").join(NAME),
        EntryKind::Doc(from.join("lintian-overrides")),
    );
    layout
}

/// The changelog, packed as Debian wants it.
fn write_changelog(version: &str, root: &Path) -> Result<(), Failure> {
    let name = root.join(changelog()).with_extension("");
    write(&name, &template("changelog", version)?)?;
    let sh = shell()?;
    command::read(sh.cmd("gzip").args(["-9", "--no-name"]).arg(&name))?;
    Ok(())
}

/// Where it is, from the root.
fn changelog() -> PathBuf {
    Path::new("usr/share/doc").join(NAME).join("changelog.gz")
}

/// A file of ours, for this version.
fn template(name: &str, version: &str) -> Result<String, Failure> {
    let file = packaging().join("deb").join(name);
    let text = fs::read_to_string(&file).map_err(|e| Failure::io("read", &file, e))?;
    Ok(text.replace("@VERSION@", version).replace("@ARCHITECTURE@", run::debian_architecture()))
}

/// What dpkg reads.
fn write_control(version: &str, layout: &Layout, root: &Path) -> Result<(), Failure> {
    let from = packaging().join("deb");
    let control = root.join("DEBIAN");
    layout::create_dirs(&control)?;
    for script in ["preinst", "postinst", "prerm", "postrm"] {
        layout::copy(&from.join(script), &control.join(script), 0o755)?;
    }
    write(&control.join("control"), &template("control", version)?)?;

    let conffiles = layout.0.iter().filter(|entry| matches!(entry.kind, EntryKind::Settings(_)));
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
    let sums = command::read(sh.cmd("md5sum").args(summed).arg(changelog()))?;
    write(&control.join("md5sums"), &String::from_utf8_lossy(&sums))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)))
        .map_err(|e| Failure::io("write", path, e))
}
