//! Logs of what prints without an end: a guest's console, a backup tool.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::bounds::KEPT;

/// A file with the beginning and the end of what is written to it.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    /// `None` once writing has failed.
    file: Option<File>,
    length: u64,
    /// How many bytes are left out.
    left_out: u64,
}

impl Kept {
    /// Creates the file, or empties it.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Self { path: path.to_owned(), file: Some(file), length: 0, left_out: 0 })
    }

    /// Appends this. A failure is reported once: whoever prints must not wait for a disk of the host.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let Some(file) = &self.file else { return };
        let (written, left_out) = (self.length, self.left_out);
        let write = || -> io::Result<(u64, u64)> {
            file.write_all_at(bytes, written)?;
            let length = written + bytes.len() as u64;
            if length <= 3 * KEPT {
                return Ok((length, left_out));
            }
            let mut end = vec![0; usize::try_from(KEPT).map_err(io::Error::other)?];
            file.read_exact_at(&mut end, length - KEPT)?;
            let note = |left_out: u64| format!("\n[here {left_out:>20} bytes are left out]\n").into_bytes();
            let noted = if left_out == 0 { 0 } else { note(left_out).len() as u64 };
            let left_out = left_out + length - 2 * KEPT - noted;
            let end = [note(left_out), end].concat();
            file.write_all_at(&end, KEPT)?;
            let length = KEPT + end.len() as u64;
            file.set_len(length)?;
            Ok((length, left_out))
        };
        match write() {
            Ok((length, left_out)) => (self.length, self.left_out) = (length, left_out),
            Err(error) => {
                warn!("cannot write {}: {error}", self.path.display());
                self.file = None;
            }
        }
    }
}
