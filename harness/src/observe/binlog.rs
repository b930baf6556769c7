//! The binary logs on the raw image, and the position that a hook recorded.
//!
//! They are read as a mount would see them, the journal taken into account, and before any server
//! starts, because a server would continue in a new log.

use std::io::{BufReader, Read};
use std::path::Path;

use contract::binlog::{Log, Position, index, is_in_use, position};
use contract::observation::Record;
use contract::text::printable;

use super::error::ReadError;
use super::files::ImageFiles;
use super::observation_log::ObservationLog;
use crate::error::Result;
use crate::names::{Names, table};

/// The longest index or position file, bytes, and the most logs that are read
/// together. A trial writes a few MiB.
const MAX_TEXT: u64 = 1 << 20;
const MAX_LOGS: u64 = 4 << 30;

/// How much of a log is read at once, bytes.
const PIECE: usize = 256 * 1024;

/// Records what the binary logs hold and where they end. `dir` is a path from the file system's own
/// root.
pub(super) fn logs(
    files: &ImageFiles,
    dir: &Path,
    names: &Names,
    most_transfers: u64,
    log: &mut ObservationLog,
) -> Result<()> {
    let logs = match index_name(files, dir) {
        // A server that keeps binary logs has an index.
        Ok(None) => return Ok(()),
        Ok(Some(name)) => read_text(files, &dir.join(&name)).map_err(|error| (name, error)),
        Err(error) => Err(("binary log index".to_owned(), error)),
    };
    let logs: Vec<String> = match &logs {
        Ok(text) => index(text).map(str::to_owned).collect(),
        Err((name, error)) => return failed(name, error, log),
    };
    let Some(last) = logs.last() else { return Ok(()) };
    let sizes = match files.sizes(dir) {
        Ok(sizes) => sizes,
        Err(error) => return failed("binary logs", &error, log),
    };
    let (mut room, mut transfers_left) = (MAX_LOGS, most_transfers);
    for name in &logs {
        let path = dir.join(name);
        let read = match sizes.get(name).copied() {
            None => Err(ReadError::NoFile),
            Some(size) if size > room => Err(ReadError::TooManyLogs(MAX_LOGS)),
            Some(size) => {
                room -= size;
                if name == last {
                    let in_use = buffered(files, &path).map_or(true, is_in_use);
                    log.write(&Record::BinlogEnd { file: printable(name), size, in_use })?;
                }
                transfers(files, &path, names, &mut transfers_left, log)?
            }
        };
        match read {
            // A crash may tear the log that was being written.
            Ok(Some(at)) if name != last => failed(name, &ReadError::Damaged(at), log)?,
            Ok(_) => {}
            Err(error) => failed(name, &error, log)?,
        }
    }
    Ok(())
}

/// Records the hook's position, if there is one, and returns it. `path` is that of `file` from the file system's own
/// root.
pub(super) fn recorded(
    files: &ImageFiles,
    path: &Path,
    file: &Path,
    log: &mut ObservationLog,
) -> Result<Option<Position>> {
    let read = match files.beginning(path, MAX_TEXT + 1) {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => text(bytes).and_then(|text| Ok(position(&text)?)),
        Err(error) => Err(error),
    };
    match read {
        Ok(recorded) => {
            if let Some(Position { file, pos, gtid }) = &recorded {
                let (file, gtid) = (printable(file), printable(gtid));
                log.write(&Record::Position { file, pos: *pos, gtid })?;
            }
            return Ok(recorded);
        }
        Err(error) => {
            let path = printable(&file.to_string_lossy());
            log.write(&Record::Unreadable { path, detail: printable(&error.to_string()) })?;
        }
    }
    Ok(None)
}

fn failed(file: &str, error: &ReadError, log: &mut ObservationLog) -> Result<()> {
    let damaged = error.is_damage();
    let error = printable(&error.to_string());
    Ok(log.write(&Record::BinlogError { file: printable(file), error, damaged })?)
}

/// The name of the index of binary logs in the directory. A replica's relay logs have another one.
fn index_name(files: &ImageFiles, dir: &Path) -> Result<Option<String>, ReadError> {
    let mut found: Option<String> = None;
    for name in files.names(dir)? {
        if !name.ends_with(".index") || name.contains("relay") {
            continue;
        }
        if let Some(other) = &found {
            return Err(ReadError::TwoIndexes(other.clone(), name));
        }
        found = Some(name);
    }
    Ok(found)
}

/// Records the transfers of one log. Returns where it is torn, if it is.
fn transfers(
    files: &ImageFiles,
    path: &Path,
    names: &Names,
    left: &mut u64,
    log: &mut ObservationLog,
) -> Result<Result<Option<u64>, ReadError>> {
    let ledger = names.without_schema(table::LEDGER);
    let opened = buffered(files, path).and_then(|file| Ok(Log::open(file, &names.load, &ledger)?));
    let mut input = match opened {
        Ok(input) => input,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        match input.next_transaction() {
            Ok(Some(transaction)) => {
                for &(c, n) in transaction {
                    let Some(rest) = left.checked_sub(1) else { return Ok(Err(ReadError::TooManyTransfers)) };
                    *left = rest;
                    log.write(&Record::BinlogTransfer { c, n })?;
                }
            }
            Ok(None) => return Ok(Ok(input.torn_at())),
            Err(problem) => return Ok(Err(problem.into())),
        }
    }
}

/// Reads a log in large pieces.
fn buffered(files: &ImageFiles, path: &Path) -> Result<impl Read, ReadError> {
    Ok(BufReader::with_capacity(PIECE, files.read(path)?))
}

fn read_text(files: &ImageFiles, path: &Path) -> Result<String, ReadError> {
    text(files.beginning(path, MAX_TEXT + 1)?.ok_or(ReadError::NoFile)?)
}

fn text(bytes: Vec<u8>) -> Result<String, ReadError> {
    if bytes.len() as u64 > MAX_TEXT {
        return Err(ReadError::TooLong(MAX_TEXT));
    }
    String::from_utf8(bytes).map_err(|_| ReadError::TextNotUtf8)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;
    use contract::image::FsKind;
    use contract::jsonl::Reader;
    use contract::observation::KIND;

    /// Where a hook leaves its position in the guest.
    const FILE: &str = "/var/lib/fsfreeze-db/var-lib-mysql.position";

    /// The observation of a file system with these files in `/data`, and this position.
    fn observed(files: &[(&str, &[u8])], position: Option<&str>) -> Vec<Record> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("data")).unwrap();
        for (name, content) in files {
            fs::write(root.join("data").join(name), content).unwrap();
        }
        if let Some(position) = position {
            fs::write(root.join("position"), position).unwrap();
        }
        let image = dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg("-d").arg(&root).arg(&image).status();
        assert!(made.unwrap().success());
        let files = ImageFiles::open(FsKind::Ext4, &image).unwrap();
        let path = dir.path().join("observation.jsonl");
        let mut log = super::super::observation_log::create(&path).unwrap();
        logs(&files, Path::new("/data"), &Names::random(), 100, &mut log).unwrap();
        recorded(&files, Path::new("/position"), Path::new(FILE), &mut log).unwrap();
        log.flush().unwrap();
        Reader::open(&path, KIND).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn without_an_index_there_is_no_log() {
        assert_eq!(observed(&[("relay-bin.index", b"./relay-bin.000001\n")], None), []);
        assert_eq!(observed(&[("binlog.index", b"")], Some("nonce\t1\n")), []);
    }

    #[test]
    fn the_end_and_the_position_are_found() {
        let files: [(&str, &[u8]); 3] = [
            ("binlog.index", b"/srv/binlog.000001\n./binlog.000002\n"),
            ("binlog.000001", b"\xfebin"),
            ("binlog.000002", b"\xfebintorn"),
        ];
        let position = "gtid\t0-1-7\nbinlog_file\tbinlog.000002\nbinlog_pos\t8\n";
        let file = "binlog.000002".to_owned();
        let expected = [
            Record::BinlogEnd { file: file.clone(), size: 8, in_use: true },
            Record::Position { file, pos: 8, gtid: "0-1-7".into() },
        ];
        assert_eq!(observed(&files, Some(position)), expected);
    }

    #[test]
    fn what_cannot_be_read_is_recorded() {
        let error_of = |files: &[(&str, &[u8])]| match observed(files, None).as_slice() {
            [.., Record::BinlogError { file, error, .. }] => format!("{file}: {error}"),
            other => panic!("{other:?}"),
        };
        assert!(error_of(&[("binlog.index", b"binlog.000001\n")]).starts_with("binlog.000001: "));
        assert!(error_of(&[("a.index", b""), ("b.index", b"")]).contains("there are two"));
        let torn: [(&str, &[u8]); 2] = [("b.index", b"b.000001\nb.000002\n"), ("b.000001", b"\xfebin?")];
        assert!(error_of(&torn).starts_with("b.000002: "));
        let garbage: [(&str, &[u8]); 2] = [("b.index", b"b.000001\n"), ("b.000001", b"garbage")];
        assert_eq!(error_of(&garbage), "b.000001: it is not a binary log of version 4");
        let unreadable = observed(&[], Some("binlog_file\tbinlog.000002\nbinlog_pos\tx\n"));
        assert!(
            matches!(&unreadable[..], [Record::Unreadable { path, .. }] if path == FILE),
            "{unreadable:?}"
        );
    }
}
