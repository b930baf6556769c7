//! The row events of one table.

use std::collections::BTreeMap;
use std::io;

/// A transfer: its client and its number.
pub type Key = (u32, u32);

/// Why a binary log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BinlogError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It does not begin as one.
    #[error("it is not a binary log of version 4")]
    NoLog,
    /// Its content is encrypted.
    #[error("it is encrypted")]
    Encrypted,
    /// Its rows are compressed.
    #[error("its rows are compressed")]
    Compressed,
    /// Its transfers are statements, not rows.
    #[error("its transfers are logged as statements; `binlog_format` is not ROW")]
    Statements,
    /// Its events carry a checksum of another kind.
    #[error("its events have checksums of the unknown kind {0}")]
    Checksum(u8),
    /// An event or transaction is beyond all bounds.
    #[error("the event at byte {0} is too long")]
    TooLong(u64),
    /// The table has a column that the load's table does not have.
    #[error("the table has a column of the unexpected type {0}")]
    Column(u8),
}

/// Bytes that are taken from the front; `None` where there are too few.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of up to eight bytes, little endian.
    pub(super) fn number(&mut self, bytes: usize) -> Option<u64> {
        let mut number = [0; 8];
        number.get_mut(..bytes)?.copy_from_slice(self.take(bytes)?);
        Some(u64::from_le_bytes(number))
    }

    /// A length-encoded integer.
    fn packed(&mut self) -> Option<usize> {
        let number = match self.number(1)? {
            0xfb | 0xff => return None,
            0xfc => self.number(2)?,
            0xfd => self.number(3)?,
            0xfe => self.number(8)?,
            small => small,
        };
        usize::try_from(number).ok()
    }

    /// Text after its length in one byte, followed by a zero.
    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number(1)?).ok()?;
        let text = self.take(length)?;
        self.take(1)?;
        Some(text)
    }
}

/// Types of columns, as MySQL's `field_types.h` numbers them.
mod column {
    pub(super) const TINY: u8 = 1;
    pub(super) const SHORT: u8 = 2;
    pub(super) const LONG: u8 = 3;
    pub(super) const LONGLONG: u8 = 8;
    pub(super) const INT24: u8 = 9;
    pub(super) const VARCHAR: u8 = 15;
}

/// How the values of a column are stored in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Fixed(usize),
    /// After a length of this many bytes.
    Prefixed(usize),
}

/// The columns of the table, of which the first are client, number and leg.
#[derive(Debug)]
pub(super) struct Layout(Vec<Column>);

/// The number that a table map gives to its table, and what follows the names
/// when the table is the one wanted.
pub(super) fn table_map<'a>(body: &'a [u8], schema: &str, table: &str) -> Option<(u64, Option<Bytes<'a>>)> {
    let mut body = Bytes(body);
    let id = body.number(6)?;
    // Flags.
    body.take(2)?;
    let wanted = body.text()? == schema.as_bytes();
    let wanted = body.text()? == table.as_bytes() && wanted;
    Some((id, wanted.then_some(body)))
}

impl Layout {
    /// Reads the columns of a table map; `None` when it is damaged.
    pub(super) fn read(mut body: Bytes<'_>) -> Result<Option<Self>, BinlogError> {
        let kinds = body.packed().and_then(|count| body.take(count));
        let metadata = body.packed().and_then(|length| body.take(length));
        let (Some(kinds), Some(metadata)) = (kinds, metadata) else { return Ok(None) };
        let leading = [column::LONG, column::LONG, column::TINY];
        if let Some((kind, _)) = kinds.iter().zip(leading).find(|(kind, expected)| *kind != expected) {
            return Err(BinlogError::Column(*kind));
        }
        if kinds.len() < leading.len() {
            return Ok(None);
        }
        let mut metadata = Bytes(metadata);
        let mut columns = Vec::with_capacity(kinds.len());
        for kind in kinds {
            columns.push(match *kind {
                column::TINY => Column::Fixed(1),
                column::SHORT => Column::Fixed(2),
                column::INT24 => Column::Fixed(3),
                column::LONG => Column::Fixed(4),
                column::LONGLONG => Column::Fixed(8),
                column::VARCHAR => match metadata.number(2) {
                    None => return Ok(None),
                    Some(longest) => Column::Prefixed(if longest < 256 { 1 } else { 2 }),
                },
                other => return Err(BinlogError::Column(other)),
            });
        }
        Ok(Some(Self(columns)))
    }

    /// Reads the next row, of which only the columns in the bitmap are there.
    fn row(&self, present: &[u8], rows: &mut Bytes<'_>) -> Option<Key> {
        let there = (0..self.0.len()).filter(|at| bit(present, *at)).count();
        let nulls = rows.take(there.div_ceil(8))?;
        let mut key = [None; 2];
        let columns = self.0.iter().enumerate().filter(|(at, _)| bit(present, *at));
        for (nth, (at, column)) in columns.enumerate() {
            if bit(nulls, nth) {
                continue;
            }
            let mut value = match *column {
                Column::Fixed(width) => Bytes(rows.take(width)?),
                Column::Prefixed(width) => {
                    let length = usize::try_from(rows.number(width)?).ok()?;
                    Bytes(rows.take(length)?)
                }
            };
            if let Some(part) = key.get_mut(at) {
                *part = u32::try_from(value.number(4)?).ok();
            }
        }
        Some((key[0]?, key[1]?))
    }
}

/// Appends what a write rows event adds to the table. Events of other tables
/// add nothing.
pub(super) fn written(
    body: &[u8],
    second_version: bool,
    layouts: &BTreeMap<u64, Layout>,
    keys: &mut Vec<Key>,
) -> Option<()> {
    let mut body = Bytes(body);
    let id = body.number(6)?;
    let Some(layout) = layouts.get(&id) else { return Some(()) };
    // Flags.
    body.take(2)?;
    if second_version {
        let extra = usize::try_from(body.number(2)?).ok()?;
        // The length counts itself.
        body.take(extra.checked_sub(2)?)?;
    }
    let columns = body.packed()?;
    if columns != layout.0.len() {
        return None;
    }
    let present = body.take(columns.div_ceil(8))?;
    while !body.0.is_empty() {
        let key = layout.row(present, &mut body)?;
        keys.push(key);
    }
    Some(())
}

fn bit(bitmap: &[u8], at: usize) -> bool {
    bitmap.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
}
