//! Files on a raw image, read without mounting it and without writing to it.
//!
//! ext4 is read with its journal taken into account. XFS and btrfs are read by GRUB's drivers,
//! which ignore journals: theirs must be empty.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use contract::image::FsKind;
use ext4_view::{Ext4, Ext4Error};

use super::error::ReadError;
use crate::error::ToolError;
use crate::tool::{self, Access};

/// The most entries of a directory that are read. A server has a few files for each table.
const MOST_NAMES: usize = 100_000;

/// The file system of a raw image.
pub(crate) enum ImageFiles {
    Ext4(Ext4),
    /// The image, for grub-fstest(1).
    Grub(PathBuf),
}

impl ImageFiles {
    pub(crate) fn open(kind: FsKind, raw: &Path) -> Result<Self, ReadError> {
        match kind {
            FsKind::Ext4 => Ok(Self::Ext4(Ext4::load_from_path(raw)?)),
            FsKind::Xfs | FsKind::Btrfs => {
                let this = Self::Grub(raw.to_owned());
                this.names(Path::new("/")).map(|_| this)
            }
        }
    }

    /// The names in a directory that are UTF-8.
    pub(crate) fn names(&self, dir: &Path) -> Result<Vec<String>, ReadError> {
        let dir = utf8(dir)?;
        match self {
            Self::Ext4(fs) => {
                let mut names = Vec::new();
                for entry in bounded(fs.read_dir(dir)?) {
                    names.extend(entry?.file_name().as_str().ok().map(str::to_owned));
                }
                Ok(names)
            }
            Self::Grub(raw) => {
                let name = |listed: &str| listed.trim_end_matches('/').to_owned();
                Ok(list(raw, dir)?.split_whitespace().map(name).collect())
            }
        }
    }

    /// The directories in a directory, whose names are UTF-8.
    pub(super) fn directories(&self, dir: &Path) -> Result<Vec<String>, ReadError> {
        let dir = utf8(dir)?;
        match self {
            Self::Ext4(fs) => {
                let mut names = Vec::new();
                for entry in bounded(fs.read_dir(dir)?) {
                    let entry = entry?;
                    let Ok(name) = entry.file_name().as_str().map(str::to_owned) else { continue };
                    if name != "." && name != ".." && entry.file_type()?.is_dir() {
                        names.push(name);
                    }
                }
                Ok(names)
            }
            Self::Grub(raw) => {
                let name = |listed: &str| listed.strip_suffix('/').map(str::to_owned);
                let listed = list(raw, dir)?;
                let names = listed.split_whitespace().filter_map(name);
                Ok(names.filter(|name| name != "." && name != "..").collect())
            }
        }
    }

    /// The lengths of the files in a directory, bytes.
    pub(super) fn sizes(&self, dir: &Path) -> Result<BTreeMap<String, u64>, ReadError> {
        let dir = utf8(dir)?;
        match self {
            Self::Ext4(fs) => {
                let mut sizes = BTreeMap::new();
                for entry in bounded(fs.read_dir(dir)?) {
                    let entry = entry?;
                    let Ok(name) = entry.file_name().as_str().map(str::to_owned) else { continue };
                    // Not through a link that leads nowhere.
                    if let Ok(file) = fs.metadata(&entry.path()) {
                        sizes.insert(name, file.len());
                    }
                }
                Ok(sizes)
            }
            Self::Grub(raw) => {
                let mut ls = grub()?;
                ls.arg(raw).args(["ls", "--", "-l"]).arg(format!("{LOOP}{dir}/"));
                Ok(String::from_utf8_lossy(&printed(&mut ls, raw)?).lines().filter_map(size).collect())
            }
        }
    }

    /// Up to this many bytes of the beginning of a file; `None` when there is none.
    pub(super) fn beginning(&self, path: &Path, most: u64) -> Result<Option<Vec<u8>>, ReadError> {
        let name = utf8(path)?;
        match self {
            Self::Ext4(fs) => {
                if !fs.exists(name)? {
                    return Ok(None);
                }
                let mut bytes = Vec::new();
                fs.open(name)?.take(most).read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
            Self::Grub(raw) => {
                let mut cat = grub()?;
                cat.arg("-n").arg(most.to_string()).arg(raw).arg("cat").arg(format!("{LOOP}{name}"));
                match printed(&mut cat, raw) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(ReadError::Program(message)) if message.contains("not found") => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Reads a file that must be there from its beginning. It is not copied, because its length is a guest's word.
    pub(crate) fn read(&self, path: &Path) -> Result<Box<dyn Read>, ReadError> {
        let name = utf8(path)?;
        match self {
            Self::Ext4(fs) if fs.exists(name)? => Ok(Box::new(fs.open(name)?)),
            Self::Ext4(_) => Err(ReadError::NoFile),
            Self::Grub(raw) => {
                let mut cat = grub()?;
                cat.arg(raw).arg("cat").arg(format!("{LOOP}{name}"));
                Ok(Box::new(tool::stream(&cat, Access::Read(raw))?))
            }
        }
    }
}

/// The entries of a directory, up to [`MOST_NAMES`] and an error instead of more.
fn bounded<T>(dir: impl Iterator<Item = Result<T, Ext4Error>>) -> impl Iterator<Item = Result<T, ReadError>> {
    dir.take(MOST_NAMES + 1).enumerate().map(|(n, entry)| match entry {
        _ if n == MOST_NAMES => Err(ReadError::TooManyNames(MOST_NAMES)),
        entry => Ok(entry?),
    })
}

/// What grub-fstest calls the image.
const LOOP: &str = "(loop0)";

/// Some distributions give the program another name.
const GRUB: [&str; 2] = ["grub-fstest", "grub2-fstest"];

fn grub() -> Result<Command, ReadError> {
    let found = GRUB.into_iter().find(|name| tool::is_installed(name));
    Ok(Command::new(found.ok_or_else(|| ToolError::NotInstalled(GRUB[0].to_owned()))?))
}

/// The names in a directory; those of directories end with a slash. Names with spaces are split, but no name that
/// matters has any.
fn list(raw: &Path, dir: &str) -> Result<String, ReadError> {
    let mut ls = grub()?;
    let listed = printed(ls.arg(raw).arg("ls").arg(format!("{LOOP}{dir}/")), raw)?;
    Ok(String::from_utf8_lossy(&listed).into_owned())
}

/// A file and its length, of `5242880      20261129192842 log`. A directory has `DIR` instead.
fn size(listed: &str) -> Option<(String, u64)> {
    let (size, rest) = listed.split_once(' ')?;
    let (_, name) = rest.trim_start().split_once(' ')?;
    Some((name.to_owned(), size.parse().ok()?))
}

/// All that a program prints that must succeed.
fn printed(grub: &mut Command, raw: &Path) -> Result<Vec<u8>, ReadError> {
    let printed = tool::run(grub, Access::Read(raw))?;
    if printed.status.success() {
        return Ok(printed.whole(GRUB[0])?);
    }
    Err(ReadError::Program(tool::said(&printed)))
}

fn utf8(path: &Path) -> Result<&str, ReadError> {
    path.to_str().ok_or(ReadError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;

    use contract::jsonl::Reader;
    use contract::observation::{KIND, Record};

    use super::super::{binlog, observation_log, table_files};
    use super::*;
    use crate::names::Names;

    /// What a file claims to have, which is more than its disk and this host can take.
    const GIANT: u64 = 30 << 30;

    /// The files of a hostile data directory, and those of them that are giants.
    const FILES: [(&str, &[u8]); 5] = [
        ("binlog.index", b"./binlog.000001\n./binlog.000002\n"),
        ("binlog.000001", b"\xfebin"),
        ("binlog.000002", b"\xfebin"),
        ("position", b"binlog_file\tbinlog.000002\nbinlog_pos\t4\n"),
        ("t.MYI", &[1; 26]),
    ];
    const GIANTS: [&str; 3] = ["binlog.000002", "position", "t.MYI"];

    fn succeeds(command: &mut Command) {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A file system in `dir` with these files in `/data`, and one of them links to nothing.
    fn image(kind: FsKind, dir: &Path) -> PathBuf {
        let (root, raw) = (dir.join("root"), dir.join("raw"));
        let data = root.join("data");
        fs::create_dir_all(&data).unwrap();
        for (name, content) in FILES {
            fs::write(data.join(name), content).unwrap();
        }
        fs::File::create(&raw).unwrap().set_len(320 << 20).unwrap();
        match kind {
            FsKind::Ext4 => {
                for giant in GIANTS {
                    fs::File::options().write(true).open(data.join(giant)).unwrap().set_len(GIANT).unwrap();
                }
                succeeds(Command::new("mkfs.ext4").arg("-q").arg("-d").arg(&root).arg(&raw));
            }
            FsKind::Btrfs => {
                succeeds(Command::new("mkfs.btrfs").arg("-q").arg("--rootdir").arg(&root).arg(&raw));
            }
            FsKind::Xfs => {
                let prototype = dir.join("prototype");
                let line = |(name, _)| format!("{name} ---644 0 0 {}\n", data.join(name).display());
                let lines: String = FILES.map(line).concat();
                fs::write(&prototype, format!("/none\n0 0\nd--755 0 0\ndata d--755 0 0\n{lines}$\n$\n"))
                    .unwrap();
                succeeds(Command::new("mkfs.xfs").args(["-q", "-f", "-p"]).arg(&prototype).arg(&raw));
                for giant in GIANTS {
                    let mut grow = Command::new("xfs_db");
                    grow.arg("-x").args(["-c", &format!("path /data/{giant}")]);
                    succeeds(grow.args(["-c", &format!("write core.size {GIANT}")]).arg(&raw));
                }
            }
        }
        raw
    }

    #[test]
    fn a_giant_is_known_by_its_size_and_read_in_part_without_a_copy() {
        for kind in [FsKind::Ext4, FsKind::Xfs] {
            let dir = tempfile::tempdir().unwrap();
            let raw = image(kind, dir.path());
            let used = raw.metadata().unwrap().blocks();
            let files = ImageFiles::open(kind, &raw).unwrap();
            let data = Path::new("/data");
            let sizes = files.sizes(data).unwrap();
            assert_eq!((sizes["binlog.000001"], sizes["binlog.000002"]), (4, GIANT), "{kind}");

            let path = dir.path().join("observation.jsonl");
            let mut log = observation_log::create(&path).unwrap();
            let names = Names::random();
            binlog::logs(&files, data, &names, 100, &mut log).unwrap();
            let position = data.join("position");
            assert_eq!(binlog::recorded(&files, &position, &position, &mut log).unwrap(), None);
            table_files::read(&files, data, &names, &mut log).unwrap();
            log.flush().unwrap();
            let records: Vec<Record> = Reader::open(&path, KIND).unwrap().map(Result::unwrap).collect();
            let [
                Record::BinlogError { file, error, damaged: false },
                Record::Unreadable { detail, .. },
                Record::TableFile { open_count, .. },
            ] = &records[..]
            else {
                panic!("{kind}: {records:?}")
            };
            assert_eq!(file, "binlog.000002");
            assert_eq!(error, "the binary logs are longer than 4294967296 bytes");
            assert_eq!(detail, "it is longer than 1048576 bytes");
            assert_eq!(*open_count, 0x0101);

            let mut some = [0; 6];
            files.read(&data.join("binlog.000002")).unwrap().read_exact(&mut some).unwrap();
            assert_eq!(&some, b"\xfebin\0\0");
            let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
            assert!(
                names.iter().all(|name| name != "copy") && raw.metadata().unwrap().blocks() == used,
                "{names:?}"
            );
        }
    }

    #[test]
    fn every_kind_of_file_system_is_read_alike() {
        for kind in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs] {
            let dir = tempfile::tempdir().unwrap();
            let raw = image(kind, dir.path());
            let files = ImageFiles::open(kind, &raw).unwrap();
            let data = Path::new("/data");
            let mut names = files.names(data).unwrap();
            names.retain(|name| name != "." && name != "..");
            names.sort();
            let mut all = FILES.map(|(name, _)| name);
            all.sort_unstable();
            assert_eq!(names, all, "{kind}");
            assert!(files.directories(Path::new("/")).unwrap().contains(&"data".to_owned()), "{kind}");
            assert_eq!(files.sizes(data).unwrap()["binlog.000001"], 4);
            let index = data.join("binlog.index");
            assert_eq!(files.beginning(&index, 4).unwrap().unwrap(), b"./bi", "{kind}");
            assert_eq!(files.beginning(&index, 1 << 20).unwrap().unwrap(), FILES[0].1, "{kind}");
            assert_eq!(files.beginning(&data.join("nothing"), 4).unwrap(), None, "{kind}");
            let mut text = Vec::new();
            files.read(&index).unwrap().read_to_end(&mut text).unwrap();
            assert_eq!(text, FILES[0].1, "{kind}");
            let nothing = files.read(&data.join("nothing")).and_then(|mut it| Ok(it.read(&mut [0])?));
            assert!(nothing.is_err(), "{kind}");
        }
    }

    #[test]
    fn a_directory_without_end_is_an_error() {
        let read =
            |entries: usize| bounded(std::iter::repeat_n((), entries).map(Ok)).collect::<Result<Vec<_>, _>>();
        assert_eq!(read(MOST_NAMES).unwrap().len(), MOST_NAMES);
        assert!(matches!(read(usize::MAX), Err(ReadError::TooManyNames(_))));
    }

    #[test]
    fn a_size_is_read_from_a_listing() {
        let log = ("a log".to_owned(), 5_242_880);
        assert_eq!(size("5242880      20261129192842 a log"), Some(log));
        assert_eq!(size("DIR          20261129192842 data/"), None);
        assert_eq!(size(""), None);
    }
}
