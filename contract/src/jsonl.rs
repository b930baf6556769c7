//! JSON lines with a header: how every log of a trial is written and read.
//!
//! The first line names the kind of file and its schema version; every other
//! line is one record. Readers bound the length of a line and name the file
//! and line of whatever they refuse, because a log may come from a hostile
//! guest or an interrupted run.

mod scan;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::files::{foreign, open_regular};
use crate::{json, text};
pub use scan::Scan;

/// The longest line a reader accepts, in bytes.
pub const MAX_LINE: usize = 64 * 1024;

/// The schema version of every log in a trial directory.
pub const SCHEMA: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    schema: u32,
    kind: String,
}

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened, read or written.
    #[error("cannot {action} {}: {source}{}", path.display(), foreign(path, source))]
    Io {
        /// What was tried: "open", "read", "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// It has got as long as it may.
    #[error("{} has become longer than any honest guest makes it", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// A line is not what its schema says.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// What is wrong, as a sentence fragment with a hint.
        problem: String,
    },
}

/// A record of a log that can be read.
pub trait LogRecord: DeserializeOwned {
    /// Reads a line, its end included, that is exactly as the writer writes it.
    /// `None` leaves the line to serde; a result must be the one that serde reads.
    fn quick(line: &[u8]) -> Option<Self> {
        let _ = line;
        None
    }
}

/// Appends records to a log. Every record is one complete line.
#[derive(Debug)]
pub struct Writer<T> {
    path: PathBuf,
    out: BufWriter<File>,
    /// How many more bytes it may have.
    left: u64,
    record: PhantomData<fn(&T)>,
}

impl<T: Serialize> Writer<T> {
    /// Creates (or empties) the log and writes its header.
    pub fn create(path: &Path, kind: &str) -> Result<Self, Error> {
        let io = |source| Error::Io { action: "create", path: path.to_owned(), source };
        let out = BufWriter::new(File::create(path).map_err(io)?);
        let mut writer = Self { path: path.to_owned(), out, left: u64::MAX, record: PhantomData };
        writer.line(&Header { schema: SCHEMA, kind: kind.to_owned() })?;
        Ok(writer)
    }

    /// The same for a log that may get no longer than this, bytes.
    pub fn bounded(path: &Path, kind: &str, most: u64) -> Result<Self, Error> {
        Ok(Self { left: most, ..Self::create(path, kind)? })
    }

    /// Appends one record.
    pub fn write(&mut self, record: &T) -> Result<(), Error> {
        self.line(record)
    }

    /// Hands everything written so far to the operating system.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(|source| self.failed(source))
    }

    fn line(&mut self, value: &impl Serialize) -> Result<(), Error> {
        let json = json::line(value).map_err(|error| self.failed(error.into()))?;
        match self.left.checked_sub(json.len() as u64 + 1) {
            Some(left) => self.left = left,
            // What is written stays a log, and nothing follows a record that is missing.
            None => {
                self.left = 0;
                return Err(Error::Full { path: self.path.clone() });
            }
        }
        writeln!(self.out, "{json}").map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::Io { action: "write", path: self.path.clone(), source }
    }
}

/// Reads a log record by record, so that memory stays flat.
#[derive(Debug)]
pub struct Reader<T> {
    path: PathBuf,
    input: BufReader<File>,
    line: u64,
    buffer: Vec<u8>,
    record: PhantomData<fn() -> T>,
}

impl<T: LogRecord> Reader<T> {
    /// Opens a log and checks that its header names this kind and [`SCHEMA`].
    pub fn open(path: &Path, kind: &str) -> Result<Self, Error> {
        let file = open_regular(path).map_err(|source| Error::Io {
            action: "open",
            path: path.to_owned(),
            source,
        })?;
        let mut reader = Self {
            path: path.to_owned(),
            input: BufReader::with_capacity(256 * 1024, file),
            line: 0,
            buffer: Vec::new(),
            record: PhantomData,
        };
        let header: Header = match reader.next_line() {
            Some(bytes) => {
                bytes?;
                reader.parse()?
            }
            None => return Err(reader.problem("the file is empty; its first line must be the header")),
        };
        if header.kind != kind || header.schema != SCHEMA {
            return Err(reader.problem(format!(
                "this is a `{}` of schema {}; expected a `{kind}` of schema {SCHEMA}",
                text::quote(40, &header.kind),
                header.schema
            )));
        }
        Ok(reader)
    }

    /// An error about the line read last.
    pub fn problem(&self, problem: impl Into<String>) -> Error {
        Error::Line { path: self.path.clone(), line: self.line, problem: problem.into() }
    }

    fn next_line(&mut self) -> Option<Result<(), Error>> {
        self.buffer.clear();
        self.line += 1;
        let limit = MAX_LINE as u64 + 1;
        match (&mut self.input).take(limit).read_until(b'\n', &mut self.buffer) {
            Ok(0) => None,
            Ok(_) if self.buffer.last() == Some(&b'\n') => Some(Ok(())),
            Ok(n) if n > MAX_LINE => {
                Some(Err(self.problem(format!("the line is longer than {MAX_LINE} bytes"))))
            }
            Ok(_) => Some(Err(self.problem("the last line is cut short; the writer was interrupted"))),
            Err(source) => Some(Err(Error::Io { action: "read", path: self.path.clone(), source })),
        }
    }

    fn parse<R: DeserializeOwned>(&self) -> Result<R, Error> {
        let text = std::str::from_utf8(&self.buffer).map_err(|e| {
            self.problem(format!("byte {} is not UTF-8; the file is damaged", e.valid_up_to() + 1))
        })?;
        serde_json::from_str(text)
            .map_err(|e| self.problem(format!("{} (column {})", text::json_problem(&e), e.column())))
    }
}

impl<T: LogRecord> Iterator for Reader<T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.next_line()?;
        Some(read.and_then(|()| T::quick(&self.buffer).map_or_else(|| self.parse(), Ok)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl LogRecord for u32 {}

    #[test]
    fn a_log_that_is_full_takes_no_more_and_can_still_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let mut log = Writer::<u32>::bounded(&path, "numbers", 10).unwrap();
        for _ in 0..2 {
            log.write(&1000).unwrap();
        }
        // Also one that would fit: what comes after a gap would be a lie.
        for n in [1000, 1] {
            assert!(matches!(log.write(&n), Err(Error::Full { .. })));
        }
        log.flush().unwrap();
        let read: Vec<_> = Reader::<u32>::open(&path, "numbers").unwrap().map(Result::unwrap).collect();
        assert_eq!(read, [1000, 1000]);
    }
}
