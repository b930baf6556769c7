//! The transfers that a binary log holds, read from the file itself.
//!
//! Events are framed as MySQL's "Binary Log" chapter of the source documentation
//! and MariaDB's "Replication Protocol" pages describe them: version 4, the only
//! one since MySQL 5.0. Whatever does not belong to a transaction or the rows
//! of one table is skipped by its length, so the kinds of event that only
//! one of the servers writes need no decoder.
//!
//! The files come from a guest and may hold anything: no number in them decides
//! what is allocated, and what does not parse ends the reading.

mod index;
mod rows;

use std::collections::BTreeMap;
use std::io::{self, Read};

pub use index::{Position, PositionError, index, position};
pub use rows::{BinlogError, Key};
use rows::{Bytes, Layout};

const MAGIC: &[u8; 4] = b"\xfebin";
const MYSQL_ENCRYPTED_MAGIC: &[u8; 4] = b"\xfdbin";

/// The common header of every event.
mod header {
    pub(super) const LENGTH: usize = 19;
    pub(super) const KIND: usize = 4;
    pub(super) const SIZE: std::ops::Range<usize> = 9..13;
    pub(super) const FLAGS: usize = 17;
    /// Set in the file while it is written, and not part of the checksum.
    pub(super) const IN_USE: u8 = 1;
}

/// The kinds of event that matter here.
mod kind {
    pub(super) const QUERY: u8 = 2;
    /// The end of a log when the server stops, and that of a log which another one follows.
    pub(super) const STOP: u8 = 3;
    pub(super) const ROTATE: u8 = 4;
    pub(super) const FORMAT_DESCRIPTION: u8 = 15;
    pub(super) const XID: u8 = 16;
    pub(super) const TABLE_MAP: u8 = 19;
    pub(super) const WRITE_ROWS_V1: u8 = 23;
    pub(super) const WRITE_ROWS_V2: u8 = 30;
    pub(super) const GTID: u8 = 33;
    pub(super) const ANONYMOUS_GTID: u8 = 34;
    pub(super) const XA_PREPARE: u8 = 38;
    pub(super) const TRANSACTION_PAYLOAD: u8 = 40;
    pub(super) const MARIADB_GTID: u8 = 162;
    pub(super) const MARIADB_START_ENCRYPTION: u8 = 164;
    pub(super) const MARIADB_COMPRESSED_ROWS_V1: u8 = 166;
    pub(super) const MARIADB_COMPRESSED_ROWS_V2: u8 = 169;
}

/// Where the version, the length of headers and the checksum's kind stand in a
/// format description, and how long it is at least.
mod description {
    pub(super) const VERSION: std::ops::Range<usize> = 0..2;
    pub(super) const HEADER_LENGTH: usize = 56;
    /// Counted from its end; the checksum itself always follows, used or not.
    pub(super) const CHECKSUM_FROM_END: usize = 5;
}

const CHECKSUM: usize = 4;

/// The longest event that is read. The load's are below 10 KiB.
const MAX_EVENT: usize = 64 << 20;
/// The most rows of one transaction that are kept. The load's have two.
const MAX_ROWS: usize = 1 << 20;

/// A binary log, read from its start.
#[derive(Debug)]
pub struct Log<'a, R> {
    input: R,
    schema: &'a str,
    table: &'a str,
    /// Where the next event begins.
    at: u64,
    described: bool,
    checksums: bool,
    torn: bool,
    event: Vec<u8>,
    /// The columns of the table by the number that events of this statement use.
    layouts: BTreeMap<u64, Layout>,
    open: Vec<Key>,
    committed: Vec<Key>,
}

/// What an event says about the transaction that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nothing,
    Forget,
    Commit,
}

impl<'a, R: Read> Log<'a, R> {
    /// Reads the log's first bytes. What counts are rows of this table, whose
    /// first columns are client, number and leg.
    pub fn open(input: R, schema: &'a str, table: &'a str) -> Result<Self, BinlogError> {
        let mut log = Self {
            input,
            schema,
            table,
            at: 0,
            described: false,
            checksums: false,
            torn: false,
            event: Vec::new(),
            layouts: BTreeMap::new(),
            open: Vec::new(),
            committed: Vec::new(),
        };
        let whole = log.append(MAGIC.len())?;
        match log.event.first_chunk() {
            Some(MAGIC) => log.at = MAGIC.len() as u64,
            Some(MYSQL_ENCRYPTED_MAGIC) => return Err(BinlogError::Encrypted),
            // A crash left this log before its first bytes were written.
            _ if !whole || log.event == [0; 4] => log.torn = true,
            _ => return Err(BinlogError::NoLog),
        }
        Ok(log)
    }

    /// The transfers of the next committed transaction that has any; `None` at
    /// the end of the log, or where it is torn.
    pub fn next_transaction(&mut self) -> Result<Option<&[Key]>, BinlogError> {
        while !self.torn && self.read_event()? {
            match self.step()? {
                None => self.torn = true,
                Some(Step::Nothing) => {}
                Some(Step::Forget) => self.forget(),
                Some(Step::Commit) => {
                    std::mem::swap(&mut self.open, &mut self.committed);
                    self.forget();
                    // Both legs name their transfer.
                    self.committed.sort_unstable();
                    self.committed.dedup();
                    if !self.committed.is_empty() {
                        return Ok(Some(&self.committed));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Where the log breaks off, in the middle of an event or before one that is
    /// damaged. Meaningful once the log has been read to its end.
    pub fn torn_at(&self) -> Option<u64> {
        self.torn.then_some(self.at)
    }

    fn forget(&mut self) {
        self.open.clear();
        self.layouts.clear();
    }

    /// Appends this many bytes to the event; false when there are fewer.
    fn append(&mut self, count: usize) -> Result<bool, BinlogError> {
        let wanted = count as u64;
        Ok((&mut self.input).take(wanted).read_to_end(&mut self.event)? == count)
    }

    /// Reads the next event; false at the end of the log, also where it is torn.
    fn read_event(&mut self) -> Result<bool, BinlogError> {
        self.event.clear();
        if !self.append(header::LENGTH)? {
            self.torn = !self.event.is_empty();
            return Ok(false);
        }
        let size = Bytes(&self.event[header::SIZE]).number(4).and_then(|size| usize::try_from(size).ok());
        let Some(rest) = size.and_then(|size| size.checked_sub(header::LENGTH)) else {
            self.torn = true;
            return Ok(false);
        };
        if rest > MAX_EVENT {
            return Err(BinlogError::TooLong(self.at));
        }
        self.torn = !self.append(rest)?;
        Ok(!self.torn)
    }

    /// What the event says; `None` when it is damaged.
    fn step(&mut self) -> Result<Option<Step>, BinlogError> {
        let kind = self.event[header::KIND];
        if kind == kind::FORMAT_DESCRIPTION {
            self.event[header::FLAGS] &= !header::IN_USE;
            let Some(checksums) = describe(&self.event[header::LENGTH..])? else { return Ok(None) };
            self.checksums = checksums;
            self.described = true;
        } else if !self.described {
            return Err(BinlogError::NoLog);
        }
        let Some(end) = self.checked_end() else { return Ok(None) };
        let body = &self.event[header::LENGTH..end];
        let step = match kind {
            kind::XID => Some(Step::Commit),
            kind::GTID | kind::ANONYMOUS_GTID | kind::MARIADB_GTID | kind::XA_PREPARE => Some(Step::Forget),
            kind::QUERY => match query(body) {
                Some(b"COMMIT") => Some(Step::Commit),
                Some(b"BEGIN" | b"ROLLBACK") => Some(Step::Forget),
                Some(statement) if inserts(statement, self.table) => return Err(BinlogError::Statements),
                other => other.map(|_| Step::Nothing),
            },
            kind::TABLE_MAP => {
                let Some((id, body)) = rows::table_map(body, self.schema, self.table) else {
                    return Ok(None);
                };
                match body {
                    None => drop(self.layouts.remove(&id)),
                    Some(columns) => match Layout::read(columns)? {
                        None => return Ok(None),
                        Some(layout) => drop(self.layouts.insert(id, layout)),
                    },
                }
                Some(Step::Nothing)
            }
            kind::WRITE_ROWS_V1 | kind::WRITE_ROWS_V2 => {
                let read = rows::written(body, kind == kind::WRITE_ROWS_V2, &self.layouts, &mut self.open);
                if self.open.len() > MAX_ROWS {
                    return Err(BinlogError::TooLong(self.at));
                }
                read.map(|()| Step::Nothing)
            }
            kind::MARIADB_START_ENCRYPTION => return Err(BinlogError::Encrypted),
            kind::TRANSACTION_PAYLOAD
            | kind::MARIADB_COMPRESSED_ROWS_V1
            | kind::MARIADB_COMPRESSED_ROWS_V2 => return Err(BinlogError::Compressed),
            _ => Some(Step::Nothing),
        };
        if step.is_some() {
            self.at += self.event.len() as u64;
        }
        Ok(step)
    }

    /// Where the event's content ends, if its checksum is right.
    fn checked_end(&self) -> Option<usize> {
        if !self.checksums {
            return Some(self.event.len());
        }
        let end = self.event.len().checked_sub(CHECKSUM).filter(|end| *end >= header::LENGTH)?;
        let stored = Bytes(&self.event[end..]).number(CHECKSUM)?;
        (u64::from(crc32fast::hash(&self.event[..end])) == stored).then_some(end)
    }
}

/// Whether the server had not closed this log: its first event says so, or its last event does not
/// close a log, or it cannot be read to its end.
pub fn is_in_use(log: impl Read) -> bool {
    is_closed(log) != Some(true)
}

/// `None` for what cannot be read to its end.
fn is_closed(mut log: impl Read) -> Option<bool> {
    let mut magic = [0; MAGIC.len()];
    log.read_exact(&mut magic).ok()?;
    let (mut first, mut last) = (None, None);
    loop {
        let mut event = Vec::with_capacity(header::LENGTH);
        (&mut log).take(header::LENGTH as u64).read_to_end(&mut event).ok()?;
        if event.is_empty() {
            break;
        }
        let (flags, kind) = (*event.get(header::FLAGS)?, *event.get(header::KIND)?);
        let rest = Bytes(event.get(header::SIZE)?).number(4)?.checked_sub(header::LENGTH as u64)?;
        if io::copy(&mut (&mut log).take(rest), &mut io::sink()).ok()? != rest {
            return None;
        }
        first = first.or(Some(flags));
        last = Some(kind);
    }
    let written = first.is_none_or(|flags| flags & header::IN_USE != 0);
    Some(magic == *MAGIC && !written && matches!(last, Some(kind::STOP | kind::ROTATE)))
}

/// Whether the events have checksums; `None` when the description is damaged.
fn describe(body: &[u8]) -> Result<Option<bool>, BinlogError> {
    let Some(kind_at) = body.len().checked_sub(description::CHECKSUM_FROM_END) else { return Ok(None) };
    if kind_at <= description::HEADER_LENGTH {
        return Ok(None);
    }
    let version = Bytes(&body[description::VERSION]).number(2);
    if version != Some(4) || usize::from(body[description::HEADER_LENGTH]) != header::LENGTH {
        return Ok(None);
    }
    match body[kind_at] {
        0 => Ok(Some(false)),
        1 => Ok(Some(true)),
        other => Err(BinlogError::Checksum(other)),
    }
}

/// The statement of a query event.
fn query(body: &[u8]) -> Option<&[u8]> {
    let mut body = Bytes(body);
    // The thread and how long it took.
    body.take(8)?;
    let schema = body.number(1)?;
    // An error code.
    body.take(2)?;
    let variables = body.number(2)?;
    body.take(usize::try_from(variables).ok()?)?;
    // The schema's name ends with a zero.
    body.take(usize::try_from(schema).ok()?.checked_add(1)?)?;
    Some(body.0)
}

/// Whether a statement of the load adds to the table.
fn inserts(statement: &[u8], table: &str) -> bool {
    statement.starts_with(b"INSERT")
        && statement.windows(table.len().max(1)).any(|part| part == table.as_bytes())
}

#[cfg(test)]
mod tests;
