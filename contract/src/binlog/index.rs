//! The small text files around the binary logs.

/// The position of a binary log that a hook recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The log, without its directory.
    pub file: String,
    /// The byte at which the next event begins.
    pub pos: u64,
    /// The GTIDs committed, as the server wrote them; may be empty.
    pub gtid: String,
}

/// Why a position file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    /// The position is not a number of bytes.
    #[error("its `binlog_pos` is not a number")]
    NotANumber,
    /// There is a file, but no position in it.
    #[error("it names a `binlog_file` without a `binlog_pos`")]
    NoPosition,
    /// There is a position, but no file.
    #[error("it names a `binlog_pos` without a `binlog_file`")]
    NoFile,
}

/// The names of the logs in an index, oldest first, without their directories.
pub fn index(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(file_name).filter(|name| !name.is_empty())
}

/// Reads a position file: one `name<TAB>value` a line. `None` when it names no
/// binary log, as that of a server that keeps none.
pub fn position(text: &str) -> Result<Option<Position>, PositionError> {
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t')).map(str::trim);
    match (value("binlog_file"), value("binlog_pos")) {
        (None, None) => Ok(None),
        (Some(file), Some(pos)) => {
            let pos = pos.parse().map_err(|_| PositionError::NotANumber)?;
            let gtid = value("gtid").unwrap_or_default().to_owned();
            Ok(Some(Position { file: file_name(file).to_owned(), pos, gtid }))
        }
        (Some(_), None) => Err(PositionError::NoPosition),
        (None, Some(_)) => Err(PositionError::NoFile),
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_names_logs_with_or_without_a_directory() {
        let names: Vec<_> =
            index("./binlog.000001\n\n/var/lib/mysql/binlog.000002\nbinlog.000003\n").collect();
        assert_eq!(names, ["binlog.000001", "binlog.000002", "binlog.000003"]);
    }

    #[test]
    fn a_position_is_whole_or_absent() {
        let text = "nonce\tabc\nserver\t10.11\ngtid\t0-1-7\nlsn\t123\nbinlog_file\tbinlog.000002\nbinlog_pos\t4711\n";
        let expected = Position { file: "binlog.000002".into(), pos: 4711, gtid: "0-1-7".into() };
        assert_eq!(position(text), Ok(Some(expected)));
        assert_eq!(position("nonce\tabc\nserver\t10.11\n"), Ok(None));
        assert!(position("binlog_file\tbinlog.000002\nbinlog_pos\t-4\n").is_err());
        assert!(position("binlog_pos\t4\n").is_err());
        assert!(position("binlog_file\tbinlog.000002\n").is_err());
    }
}
