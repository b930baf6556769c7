//! Which hooks there are, in which order: our own, and the site's in `fsfreeze-hook.d`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::exit::Failure;
use crate::ours;
use crate::settings::Settings;

/// The name of our own among them. A file of the site's with this name takes its place; a link to
/// /dev/null switches it off.
const OWN: &str = "50-fsfreeze-db";

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

/// What runs at a verb.
pub(super) enum Hook {
    /// The databases, or why their settings cannot be read.
    Databases(Result<Settings, Failure>),
    /// A program of the site's.
    Program(PathBuf),
}

impl Hook {
    /// Its name in messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Databases(_) => OWN.to_owned(),
            Self::Program(file) => base_name(file),
        }
    }

    /// Why it is not safe to run: whoever can write to a hook becomes root at the next backup.
    pub(super) fn others_may_write(&self) -> Option<String> {
        match self {
            Self::Databases(_) => None,
            Self::Program(file) => ours::only(file, 0o022, "write to").err(),
        }
    }
}

/// Those of this machine.
pub(super) struct Hooks {
    /// In the order in which they freeze.
    pub(super) all: Vec<Hook>,
    /// Names of files that would be hooks.
    pub(super) not_executable: Vec<String>,
    /// Why none may be run: a sentence each.
    pub(super) refusals: Vec<String>,
}

impl Hooks {
    /// Looks beside the path by which we were called, which may be a link of the site's, then beside what that
    /// leads to, and at last beside this program itself.
    pub(super) fn find(called_as: &str, settings: &Result<Settings, Failure>) -> Self {
        // A name alone was found in the PATH, and says nothing of a place: least of all the one where we stand.
        let called_as = Some(PathBuf::from(called_as)).filter(|it| it.parent() != Some(Path::new("")));
        let mut links: Vec<PathBuf> = called_as.into_iter().collect();
        while let Some(last) = links.last()
            && let Ok(next) = fs::read_link(last)
            && links.len() < MOST_LINKS
        {
            links.push(last.with_file_name("").join(next));
        }
        links.extend(fs::read_link("/proc/self/exe"));
        let directory =
            links.iter().map(|program| program.with_file_name("fsfreeze-hook.d")).find(|it| it.is_dir());
        let mut found = Self { all: vec![], not_executable: vec![], refusals: vec![] };
        let mut files: Vec<PathBuf> = directory
            .iter()
            .flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .filter(|file| has_hook_name(&base_name(file)))
            .collect();
        if !files.iter().any(|file| base_name(file) == OWN) {
            files.push(OWN.into());
        }
        // One order on every machine, whatever its language.
        files.sort_by_key(|file| base_name(file));
        for file in files {
            let is_own = file.as_os_str() == OWN;
            let mode =
                fs::metadata(&file).ok().filter(fs::Metadata::is_file).map(|it| it.permissions().mode());
            match mode {
                _ if is_own => found.all.push(Hook::Databases(settings.clone())),
                Some(mode) if mode & 0o111 != 0 => found.all.push(Hook::Program(file)),
                Some(_) => found.not_executable.push(base_name(&file)),
                // It has taken the place of our own, and only /dev/null means that.
                None if base_name(&file) == OWN && !leads_to_nothing(&file) => {
                    found
                        .refusals
                        .push(format!("{} is no program, and no link to /dev/null", file.display()));
                }
                None => {}
            }
        }
        let unsafe_directory = directory.and_then(|it| ours::only(&it, 0o022, "write to").err());
        found.refusals.extend(unsafe_directory);
        found.refusals.extend(found.all.iter().filter_map(Hook::others_may_write));
        found
    }
}

/// Not what editors and package managers leave behind, nor notes.
fn has_hook_name(name: &str) -> bool {
    const ENDS: [&str; 18] = [
        "~",
        ".bak",
        ".old",
        ".orig",
        ".rej",
        ".save",
        ".swo",
        ".swp",
        ".tmp",
        ".sample",
        ".rpmnew",
        ".rpmorig",
        ".rpmsave",
        ".rpmmoved",
        ".apk-new",
        ".conf",
        ".md",
        ".txt",
    ];
    let is_left = name.starts_with(['.', '#'])
        || ENDS.iter().any(|end| name.ends_with(end))
        || [".dpkg-", ".ucf-", ".pac"].iter().any(|part| name.contains(part));
    !is_left
}

fn leads_to_nothing(file: &Path) -> bool {
    fs::canonicalize(file).is_ok_and(|file| file == Path::new("/dev/null"))
}

fn base_name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_beside_hooks_is_none() {
        for name in ["10-a", "10-a.sh", "50-fsfreeze-db", "99 with a space", "conf"] {
            assert!(has_hook_name(name), "{name}");
        }
        for name in
            [".hidden", "#10-a#", "10-a~", "10-a.dpkg-old", "10-a.ucf-dist", "10-a.pacnew", "notes.txt"]
        {
            assert!(!has_hook_name(name), "{name}");
        }
    }
}
