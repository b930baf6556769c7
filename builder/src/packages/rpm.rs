//! The package for Fedora, the RHEL family and openSUSE, made by rpmbuild.

use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tooling::command::{self, shell};
use tooling::error::Failure;
use tooling::host;

use super::layout::{Directories, Entry, EntryKind, Layout, packaging};
use super::packager::{NAME, packager, publish, scratch};

const DIRECTORIES: Directories = Directories {
    own: "/usr/libexec/fsfreeze-hooks",
    // The policy gives what is here a label of its own; no distribution's dispatcher looks here.
    program: "/usr/libexec/qemu-ga/fsfreeze-hook.d/fsfreeze-db",
    hooks: "/etc/qemu-ga/fsfreeze-hook.d",
    settings: "/etc/qemu",
};

/// A drop-in that replaces ours, which the package's script may create.
const OVERRIDE: &str = "/etc/systemd/system/qemu-guest-agent.service.d/00-fsfreeze-hooks.conf";

/// Directories that every installation has. The others are removed with the package.
const EVERYWHERE: [&str; 10] = [
    "/",
    "/etc",
    "/usr",
    "/usr/lib",
    "/usr/lib/systemd",
    "/usr/lib/systemd/system",
    "/usr/libexec",
    "/usr/share",
    "/usr/share/doc",
    "/usr/share/licenses",
];

/// Builds the package into `out`.
pub(super) fn build(version: &str, out: &Path) -> Result<PathBuf, Failure> {
    let scratch = scratch()?;
    let at = |name: &str| scratch.path().join(name);
    let layout = layout();
    layout.stage(&at("staged"))?;
    let list = at("listed");
    fs::write(&list, file_list(&layout)).map_err(|e| Failure::io("write", &list, e))?;

    let from = at("scripts");
    symlink(packaging().join("rpm"), &from).map_err(|e| Failure::io("create", &from, e))?;
    let sh = shell()?;
    let mut defined = Vec::new();
    let mut define = |name: &str, value: &str| {
        defined.extend(["--define".to_owned(), format!("{name} {value}")]);
    };
    define("_topdir", &at("top").to_string_lossy());
    define("_dbpath", &at("database").to_string_lossy());
    define("_rpmdir", &at("made").to_string_lossy());
    define("_rpmfilename", "made.rpm");
    define("version_", version);
    define("staged", &at("staged").to_string_lossy());
    define("listed", &list.to_string_lossy());
    define("scripts", &from.to_string_lossy());
    // Nothing that depends on the date, the host or its configuration.
    define("_buildhost", "localhost");
    define("use_source_date_epoch_as_buildtime", "1");
    define("clamp_mtime_to_source_date_epoch", "1");
    define("__os_install_post", "%{nil}");
    define("debug_package", "%{nil}");
    define("_build_id_links", "none");
    // zstd, where it is the default, is unknown to RHEL 7 and 8.
    define("_binary_payload", "w9.gzdio");
    define("_source_filedigest_algorithm", "8");
    define("_binary_filedigest_algorithm", "8");
    let rpmbuild = packager(&sh, "rpmbuild").args(defined).args(["--quiet", "--target", ARCH, "-bb"]);
    command::read(rpmbuild.arg(from.join("fsfreeze-hooks.spec")))?;
    let package = out.join(format!("{NAME}-{version}-1.{ARCH}.rpm"));
    publish(&at("made/made.rpm"), &package)?;
    Ok(package)
}

fn layout() -> Layout {
    let own = Path::new(DIRECTORIES.own);
    let from = packaging().join("rpm");
    let mut layout = Layout::common(DIRECTORIES);
    layout.add(
        "/usr/lib/systemd/system/qemu-guest-agent.service.d/00-fsfreeze-hooks.conf",
        EntryKind::Data(from.join("agent.conf")),
    );
    layout.add(own.join("environment"), EntryKind::Data(from.join("environment")));
    layout.add(own.join("agent-suse.conf"), EntryKind::Data(from.join("agent-suse.conf")));
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let at = Path::new("/usr/share/licenses").join(NAME).join(name);
        layout.add(at, EntryKind::Licence(host::repository().join(name)));
    }
    layout
}

/// What %files reads.
fn file_list(layout: &Layout) -> String {
    let directories: BTreeSet<_> = layout
        .0
        .iter()
        .flat_map(|entry| {
            entry.target.ancestors().skip(usize::from(!matches!(entry.kind, EntryKind::Directory)))
        })
        .filter(|dir| !EVERYWHERE.iter().any(|known| *dir == Path::new(known)))
        .collect();
    let directories = directories.iter().map(|dir| format!("%dir %attr(0755,root,root) {}\n", dir.display()));
    let files = layout.0.iter().filter(|entry| !matches!(entry.kind, EntryKind::Directory));
    let files = files.map(|Entry { target, kind }| {
        let how = match kind {
            EntryKind::Program(_) => "%attr(0755,root,root)",
            EntryKind::Data(_) => "%attr(0644,root,root)",
            EntryKind::Settings(_) => "%config(noreplace) %attr(0644,root,root)",
            EntryKind::Doc(_) => "%doc %attr(0644,root,root)",
            EntryKind::Licence(_) => "%license %attr(0644,root,root)",
            EntryKind::Link(_) => "%attr(-,root,root)",
            EntryKind::Directory => "%dir %attr(0755,root,root)",
        };
        format!("{how} {}\n", target.display())
    });
    let ghost = format!("%ghost %attr(0644,root,root) {OVERRIDE}\n");
    directories.chain(files).chain([ghost]).collect()
}
