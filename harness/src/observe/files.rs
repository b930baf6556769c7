//! Files on a raw image, read without mounting it and without writing to it.
//!
//! ext4 is read with its journal taken into account. XFS and btrfs are read by
//! GRUB's drivers, which know nothing of journals: theirs must be empty.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use contract::image::FsKind;
use ext4_view::Ext4;
use terminal::command::Run as _;

/// Why something on the image was not read, in words.
pub(super) type Why = String;

/// The file system of a raw image.
pub(super) enum Files {
    Ext4(Ext4),
    /// The image, for grub-fstest(1).
    Grub(PathBuf),
}

/// A file that is there.
pub(super) struct Opened {
    /// Bytes.
    pub(super) size: u64,
    pub(super) read: Box<dyn Read>,
}

impl Files {
    pub(super) fn open(kind: FsKind, raw: &Path) -> Result<Self, Why> {
        match kind {
            FsKind::Ext4 => Ext4::load_from_path(raw).map(Self::Ext4).map_err(|e| e.to_string()),
            FsKind::Xfs | FsKind::Btrfs => {
                let this = Self::Grub(raw.to_owned());
                this.names(Path::new("/")).map(|_| this)
            }
        }
    }

    /// The names in a directory that are UTF-8.
    pub(super) fn names(&self, dir: &Path) -> Result<Vec<String>, Why> {
        let dir = text(dir)?;
        match self {
            Self::Ext4(fs) => {
                let mut names = Vec::new();
                for entry in fs.read_dir(dir).map_err(|e| e.to_string())? {
                    let entry = entry.map_err(|e| e.to_string())?;
                    names.extend(entry.file_name().as_str().ok().map(str::to_owned));
                }
                Ok(names)
            }
            // Names with spaces fall apart; nothing that is looked for has any.
            Self::Grub(raw) => {
                let listed = grub(raw, &["ls", &format!("{LOOP}{dir}/")])?;
                let name = |listed: &str| listed.trim_end_matches('/').to_owned();
                Ok(String::from_utf8_lossy(&listed).split_whitespace().map(name).collect())
            }
        }
    }

    /// The directories in a directory, whose names are UTF-8.
    pub(super) fn directories(&self, dir: &Path) -> Result<Vec<String>, Why> {
        let dir = text(dir)?;
        match self {
            Self::Ext4(fs) => {
                let mut names = Vec::new();
                for entry in fs.read_dir(dir).map_err(|e| e.to_string())? {
                    let entry = entry.map_err(|e| e.to_string())?;
                    let Ok(name) = entry.file_name().as_str().map(str::to_owned) else { continue };
                    if name != "." && name != ".." && entry.file_type().map_err(|e| e.to_string())?.is_dir() {
                        names.push(name);
                    }
                }
                Ok(names)
            }
            Self::Grub(raw) => {
                let listed = grub(raw, &["ls", &format!("{LOOP}{dir}/")])?;
                let name = |listed: &str| listed.strip_suffix('/').map(str::to_owned);
                let listed = String::from_utf8_lossy(&listed);
                Ok(listed
                    .split_whitespace()
                    .filter_map(name)
                    .filter(|name| name != "." && name != "..")
                    .collect())
            }
        }
    }

    /// Opens a file; `None` when there is none.
    pub(super) fn file(&self, path: &Path) -> Result<Option<Opened>, Why> {
        let path = text(path)?;
        match self {
            Self::Ext4(fs) => {
                if !fs.exists(path).map_err(|e| e.to_string())? {
                    return Ok(None);
                }
                let size = fs.metadata(path).map_err(|e| e.to_string())?.len();
                let read = Box::new(BufReader::new(fs.open(path).map_err(|e| e.to_string())?));
                Ok(Some(Opened { size, read }))
            }
            Self::Grub(raw) => {
                // A copy beside the image, gone as soon as it is open.
                let copy = tempfile::NamedTempFile::new_in(raw.parent().unwrap_or(Path::new(".")));
                let copy = copy.map_err(|e| e.to_string())?;
                let target = text(copy.path())?;
                match grub(raw, &["cp", &format!("{LOOP}{path}"), target]) {
                    Err(why) if why.contains("not found") => return Ok(None),
                    other => other?,
                };
                let file = File::open(copy.path()).map_err(|e| e.to_string())?;
                let size = file.metadata().map_err(|e| e.to_string())?.len();
                Ok(Some(Opened { size, read: Box::new(BufReader::new(file)) }))
            }
        }
    }

    /// A file that must be there.
    pub(super) fn must(&self, path: &Path) -> Result<Opened, Why> {
        self.file(path)?.ok_or_else(|| "there is no such file".to_owned())
    }
}

/// What grub-fstest calls the image.
const LOOP: &str = "(loop0)";

/// Some distributions give the program another name.
const GRUB: [&str; 2] = ["grub-fstest", "grub2-fstest"];

fn grub(raw: &Path, command: &[&str]) -> Result<Vec<u8>, Why> {
    let run = |name| Command::new(name).arg(raw).args(command).stdin(Stdio::null()).run_output();
    let output = GRUB
        .into_iter()
        .map(run)
        .find(|run| !matches!(run, Err(e) if e.kind() == std::io::ErrorKind::NotFound))
        .ok_or_else(|| format!("{} is not installed", GRUB[0]))?
        .map_err(|e| format!("{} cannot be run: {e}", GRUB[0]))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(words.trim().rsplit("error: ").next().unwrap_or_default().to_owned())
}

fn text(path: &Path) -> Result<&str, Why> {
    path.to_str().ok_or_else(|| "the path is not UTF-8".to_owned())
}
