//! What a package holds, and where: the same for both families but for the directories.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tooling::error::Failure;
use tooling::host;

use super::packager::NAME;
use crate::hook_program;

/// Everything of one package.
#[derive(Debug)]
pub(super) struct Layout(pub(super) Vec<Entry>);

/// One thing in a package.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where it is installed.
    pub(super) target: PathBuf,
    pub(super) kind: EntryKind,
}

#[derive(Debug)]
pub(super) enum EntryKind {
    /// A program.
    Program(PathBuf),
    /// A file that programs read.
    Data(PathBuf),
    /// A configuration file, which administrators may edit.
    Settings(PathBuf),
    /// Documentation.
    Doc(PathBuf),
    /// A licence.
    Licence(PathBuf),
    /// A symbolic link to this path.
    Link(PathBuf),
    /// A directory that is there even while it is empty.
    Directory,
}

/// Where a family keeps things.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directories {
    /// Our own directory. What the agent calls is here, where it conflicts with no file of the agent's package.
    pub(super) own: &'static str,
    /// The program, where SELinux lets it reach the servers.
    pub(super) program: &'static str,
    /// The site's own hooks, where the family's administrators look for them.
    pub(super) hooks: &'static str,
    /// The agent's configuration.
    pub(super) settings: &'static str,
}

impl Layout {
    /// What both families have.
    pub(super) fn common(directories: Directories) -> Self {
        let Directories { own, program, hooks, settings } = directories;
        let (own, hooks, settings) = (Path::new(own), Path::new(hooks), Path::new(settings));
        let from = sources().join("freezeframe");
        let mut layout = Self(vec![]);
        layout.add(program, EntryKind::Program(hook_program::path()));
        let called = own.join(hook_program::NAME);
        if called != Path::new(program) {
            let beside = own.parent().and_then(|parent| Path::new(program).strip_prefix(parent).ok());
            let to = beside.map_or_else(|| program.into(), |beside| Path::new("..").join(beside));
            layout.add(called, EntryKind::Link(to));
        }
        layout.add(own.join(hook_program::DISPATCHER), EntryKind::Link(hook_program::NAME.into()));
        // The dispatcher looks for the site's own beside it.
        layout.add(own.join("fsfreeze-hook.d"), EntryKind::Link(hooks.to_owned()));
        layout.add(hooks, EntryKind::Directory);
        layout.add(own.join("start-agent"), EntryKind::Program(packaging().join("start-agent")));
        let file = "fsfreeze-db.toml";
        layout.add(settings.join(file), EntryKind::Settings(from.join(file)));
        let doc = Path::new("/usr/share/doc").join(NAME);
        layout.add(doc.join("hooks.md"), EntryKind::Doc(host::repository().join("docs/hooks.md")));
        layout
    }

    pub(super) fn add(&mut self, target: impl Into<PathBuf>, kind: EntryKind) {
        self.0.push(Entry { target: target.into(), kind });
    }

    /// Copies everything below `root`, with modes that do not depend on this checkout.
    pub(super) fn stage(&self, root: &Path) -> Result<(), Failure> {
        for Entry { target, kind } in &self.0 {
            let at = root.join(target.strip_prefix("/").unwrap_or(target));
            create_dirs(at.parent().unwrap_or(root))?;
            match kind {
                EntryKind::Link(to) => symlink(to, &at).map_err(|e| Failure::io("create", &at, e))?,
                EntryKind::Directory => create_dirs(&at)?,
                EntryKind::Program(from) => copy(from, &at, 0o755)?,
                EntryKind::Data(from)
                | EntryKind::Settings(from)
                | EntryKind::Doc(from)
                | EntryKind::Licence(from) => copy(from, &at, 0o644)?,
            }
        }
        Ok(())
    }
}

/// The hooks.
fn sources() -> PathBuf {
    host::repository().join("images/hooks")
}

/// What only the packages need.
pub(super) fn packaging() -> PathBuf {
    sources().join("package")
}

/// Creates a directory and those above it, readable by everyone.
pub(super) fn create_dirs(dir: &Path) -> Result<(), Failure> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        create_dirs(parent)?;
    }
    fs::create_dir(dir)
        .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o755)))
        .map_err(|e| Failure::io("create", dir, e))
}

/// Copies a file and sets its mode.
pub(super) fn copy(from: &Path, to: &Path, mode: u32) -> Result<(), Failure> {
    fs::copy(from, to)
        .and_then(|_| fs::set_permissions(to, fs::Permissions::from_mode(mode)))
        .map_err(|e| Failure::io("copy", from, e))
}
