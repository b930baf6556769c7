//! Why something on a raw disk could not be read.

use std::io;

use contract::binlog;
use ext4_view::Ext4Error;

use crate::error::ToolError;

/// Why something on a raw disk could not be read. That is a fact about the snapshot or the host's
/// programs, and is recorded as such.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Ext4(#[from] Ext4Error),
    #[error(transparent)]
    Binlog(#[from] binlog::BinlogError),
    #[error("there is no such file")]
    NoFile,
    #[error("the path is not UTF-8")]
    NotUtf8,
    #[error("its text is not UTF-8")]
    TextNotUtf8,
    #[error("it is longer than {0} bytes")]
    TooLong(u64),
    #[error("the binary logs are longer than {0} bytes")]
    TooManyLogs(u64),
    #[error("it is damaged at byte {0}")]
    Damaged(u64),
    #[error("there are two, {0} and {1}")]
    TwoIndexes(String, String),
    #[error(transparent)]
    Position(#[from] binlog::PositionError),
    #[error("it has more transfers than were ever sent")]
    TooManyTransfers,
    #[error("there are too many tables")]
    TooManyTables,
    #[error("its journal was not replayed: {0}")]
    NotReplayed(Box<ReadError>),
    #[error("the disk holds no ext4 superblock")]
    NoExt4,
    #[error("xfs_logprint finds no log of an XFS")]
    NoXfs,
    #[error("there is no superblock of a btrfs")]
    NoBtrfs,
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("its superblock describes more than its disk can hold")]
    Ext4Implausible,
    #[error("a directory has more than {0} entries")]
    TooManyNames(usize),
    #[error("there are too many directories")]
    TooManyDirectories,
    /// What a program of the host printed when it failed.
    #[error("{0}")]
    Program(String),
}

impl ReadError {
    /// Whether what was to be read is at fault, and not what the harness or the host's programs can read.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::NoFile | Self::Damaged(_) | Self::Binlog(binlog::BinlogError::NoLog))
    }
}
