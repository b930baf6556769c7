//! Hooks: what the agent runs at freeze and thaw.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::text::printable;

/// What the agent runs at freeze and thaw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// No hook: the agent is not configured to run one.
    None,
    /// The hook and the agent's unit as the distribution packages them.
    Distro,
    /// The same, with the agent configured to run the hook.
    DistroEnabled,
    /// Our rewriting of the recipe that vendor pages print, for comparison.
    Sample,
    /// The hook that this project ships.
    Freezeframe,
    /// The same, installed as its package does it on what the distribution ships.
    Package,
    /// A file that the user names, or a scenario as one beside it; absolute.
    File(PathBuf),
}

/// The largest hook file: the agent takes it in one message.
const MAX_HOOK_BYTES: u64 = 1024 * 1024;

impl Hook {
    /// Those that go by a name, in the order in which a scenario's trials run.
    pub const BUILT_IN: [Self; 6] =
        [Self::None, Self::Distro, Self::DistroEnabled, Self::Sample, Self::Freezeframe, Self::Package];

    /// The built-in hook of this name.
    pub fn built_in(name: &str) -> Option<Self> {
        Self::BUILT_IN.into_iter().find(|hook| hook.name() == name)
    }

    /// This file, if it can be a hook.
    pub fn file(path: &Path) -> Result<Self, HookError> {
        let error = |problem: String| HookError::File { path: path.to_owned(), problem };
        let io = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => error("does not exist".into()),
            _ => error(format!("cannot be read: {e}")),
        };
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Err(error("is not a file".into()));
        }
        if metadata.len() == 0 {
            return Err(error("is empty".into()));
        }
        if metadata.len() > MAX_HOOK_BYTES {
            return Err(error(format!("is larger than {} KiB", MAX_HOOK_BYTES / 1024)));
        }
        std::fs::File::open(path).map_err(io)?;
        if metadata.permissions().mode() & 0o111 == 0 {
            let try_this = format!("try `chmod +x {}`", path.display());
            return Err(error(format!("is not executable, and the agent would not run it; {try_this}")));
        }
        path.canonicalize().map(Self::File).map_err(io)
    }

    /// What a scenario means by this name: a built-in hook, or a file in `folder`.
    pub(super) fn in_scenario(name: &str, folder: &Path) -> Result<Self, HookError> {
        let plain = Path::new(name).file_name().is_some_and(|file| file == name);
        match Self::built_in(name) {
            Some(hook) => Ok(hook),
            None if plain && name.ends_with(".sh") => Self::file(&folder.join(name)),
            None => Err(HookError::Unknown(name.to_owned())),
        }
    }

    /// The names of all built-in hooks, as a message lists them.
    pub fn names() -> String {
        let names = Self::BUILT_IN.map(|hook| format!("`{hook}`"));
        let [first @ .., last] = names.as_slice() else { return String::new() };
        format!("{} or {last}", first.join(", "))
    }

    /// The name used in trial names and verdicts: a file goes by its file name.
    pub fn name(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Distro => "distro".to_owned(),
            Self::DistroEnabled => "distro-enabled".to_owned(),
            Self::Sample => "sample".to_owned(),
            Self::Freezeframe => "freezeframe".to_owned(),
            Self::Package => "package".to_owned(),
            Self::File(path) => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        }
    }
}

/// Why something cannot be a hook.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// A scenario names neither a built-in hook nor a file beside it.
    #[error(
        "`{}` is not a hook. Write {}, or the name of a file beside the scenario that ends in `.sh`.",
        printable(.0),
        Hook::names()
    )]
    Unknown(String),
    /// The file cannot be one.
    #[error("the hook {} {problem}.", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; continues a sentence that names it.
        problem: String,
    },
}

/// The built-in hooks go by their names, a file by its path.
impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            hook => f.write_str(&hook.name()),
        }
    }
}
