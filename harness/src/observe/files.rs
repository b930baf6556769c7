//! Files on a raw image, read without mounting it and without writing to it.
//!
//! ext4 is read with its journal taken into account. XFS and btrfs are read by GRUB's drivers,
//! which ignore journals: theirs must be empty.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use contract::image::FsKind;
use ext4_view::Ext4;
use terminal::command::Run as _;

use super::error::ReadError;

/// The file system of a raw image.
pub(super) enum ImageFiles {
    Ext4(Ext4),
    /// The image, for grub-fstest(1).
    Grub(PathBuf),
}

/// A file that was found.
pub(super) struct OpenFile {
    /// Its length, bytes.
    pub(super) size: u64,
    pub(super) read: Box<dyn Read>,
}

impl ImageFiles {
    pub(super) fn open(kind: FsKind, raw: &Path) -> Result<Self, ReadError> {
        match kind {
            FsKind::Ext4 => Ok(Self::Ext4(Ext4::load_from_path(raw)?)),
            FsKind::Xfs | FsKind::Btrfs => {
                let this = Self::Grub(raw.to_owned());
                this.names(Path::new("/")).map(|_| this)
            }
        }
    }

    /// The names in a directory that are UTF-8.
    pub(super) fn names(&self, dir: &Path) -> Result<Vec<String>, ReadError> {
        let dir = utf8(dir)?;
        match self {
            Self::Ext4(fs) => {
                let mut names = Vec::new();
                for entry in fs.read_dir(dir)? {
                    let entry = entry?;
                    names.extend(entry.file_name().as_str().ok().map(str::to_owned));
                }
                Ok(names)
            }
            // Names with spaces are split, but no name that matters has any.
            Self::Grub(raw) => {
                let listed = grub(raw, &["ls", &format!("{LOOP}{dir}/")])?;
                let name = |listed: &str| listed.trim_end_matches('/').to_owned();
                Ok(String::from_utf8_lossy(&listed).split_whitespace().map(name).collect())
            }
        }
    }

    /// The directories in a directory, whose names are UTF-8.
    pub(super) fn directories(&self, dir: &Path) -> Result<Vec<String>, ReadError> {
        let dir = utf8(dir)?;
        match self {
            Self::Ext4(fs) => {
                let mut names = Vec::new();
                for entry in fs.read_dir(dir)? {
                    let entry = entry?;
                    let Ok(name) = entry.file_name().as_str().map(str::to_owned) else { continue };
                    if name != "." && name != ".." && entry.file_type()?.is_dir() {
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
    pub(super) fn file(&self, path: &Path) -> Result<Option<OpenFile>, ReadError> {
        let path = utf8(path)?;
        match self {
            Self::Ext4(fs) => {
                if !fs.exists(path)? {
                    return Ok(None);
                }
                let size = fs.metadata(path)?.len();
                let read = Box::new(BufReader::new(fs.open(path)?));
                Ok(Some(OpenFile { size, read }))
            }
            Self::Grub(raw) => {
                // A copy beside the image, which is removed as soon as it is open.
                let copy = tempfile::NamedTempFile::new_in(raw.parent().unwrap_or(Path::new(".")))?;
                let target = utf8(copy.path())?;
                match grub(raw, &["cp", &format!("{LOOP}{path}"), target]) {
                    Err(ReadError::Program(message)) if message.contains("not found") => return Ok(None),
                    other => other?,
                };
                let file = File::open(copy.path())?;
                let size = file.metadata()?.len();
                Ok(Some(OpenFile { size, read: Box::new(BufReader::new(file)) }))
            }
        }
    }

    /// A file that must be there.
    pub(super) fn existing_file(&self, path: &Path) -> Result<OpenFile, ReadError> {
        self.file(path)?.ok_or(ReadError::NoFile)
    }
}

/// What grub-fstest calls the image.
const LOOP: &str = "(loop0)";

/// Some distributions give the program another name.
const GRUB: [&str; 2] = ["grub-fstest", "grub2-fstest"];

fn grub(raw: &Path, command: &[&str]) -> Result<Vec<u8>, ReadError> {
    let run = |name| Command::new(name).arg(raw).args(command).stdin(Stdio::null()).run_output();
    let output = GRUB
        .into_iter()
        .map(run)
        .find(|run| !matches!(run, Err(e) if e.kind() == std::io::ErrorKind::NotFound))
        .ok_or_else(|| ReadError::NotInstalled(GRUB[0].to_owned()))?
        .map_err(|source| ReadError::NotRun { program: GRUB[0].to_owned(), source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let printed = String::from_utf8_lossy(&output.stderr);
    Err(ReadError::Program(printed.trim().rsplit("error: ").next().unwrap_or_default().to_owned()))
}

fn utf8(path: &Path) -> Result<&str, ReadError> {
    path.to_str().ok_or(ReadError::NotUtf8)
}
