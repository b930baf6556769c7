//! Overlays: creates the qcow2 files of a disk's backing chain, and reads a chain as one disk.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use contract::image::{Disk, FileSystem, Manifest};
use contract::verification::{DiskFormat, GivenDisk};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result, ToolError};
use crate::guest::Drive;
use crate::host::guest_user;
use crate::tool::{self, Access};

/// Creates an empty overlay over each disk of an image, in `dir`, named
/// `TARGET.SUFFIX.qcow2`. The image is never written.
pub fn over_image(dir: &Path, suffix: &str, image: &Manifest) -> Result<Vec<Drive>> {
    overlays(dir, suffix, image.disks.iter().map(|disk| (&*disk.target, &*disk.file, "raw")))
}

/// The same over the uppermost file of each disk that somebody gave.
pub(crate) fn over_given(dir: &Path, suffix: &str, disks: &[GivenDisk]) -> Result<Vec<Drive>> {
    let layers = disks.iter().filter_map(|disk| Some((&*disk.target, disk.layers.first()?)));
    overlays(dir, suffix, layers.map(|(target, layer)| (target, &*layer.file, layer.format.name())))
}

/// The same over each of these overlays.
pub fn over(dir: &Path, suffix: &str, drives: &[Drive]) -> Result<Vec<Drive>> {
    overlays(dir, suffix, drives.iter().map(|drive| (&*drive.target, &*drive.file, "qcow2")))
}

/// The same over each of these files, which somebody else made.
pub fn over_files(dir: &Path, suffix: &str, files: &[DiskFile]) -> Result<Vec<Drive>> {
    overlays(dir, suffix, files.iter().map(|it| (&*it.target, &*it.file, it.format.name())))
}

/// The file that a disk is to be read from, in whichever format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFile {
    /// The disk: `vda`.
    pub target: String,
    /// The file. Others that it leans on are named in it.
    pub file: PathBuf,
    /// Its format.
    pub format: DiskFormat,
}

fn overlays<'a>(
    dir: &Path,
    suffix: &str,
    bases: impl Iterator<Item = (&'a str, &'a Path, &'static str)>,
) -> Result<Vec<Drive>> {
    bases
        .map(|(target, base, format)| {
            let drive = overlay(dir, target, suffix);
            let options = ["create", "-q", "-f", "qcow2", "-F", format, "-b"];
            qemu_img(&options, &[base, &drive.file], MOST_METADATA)?;
            guest_user::give(&drive.file)?;
            Ok(drive)
        })
        .collect()
}

/// Creates the file of a disk that QEMU is about to write to, so that it has the right to: empty, of this size in
/// bytes, and over the file `below` if there is one, which QEMU may be using.
pub(crate) fn create(drive: &Drive, bytes: u64, below: Option<&Path>) -> Result<()> {
    let size = bytes.to_string();
    let options: &[&str] = if below.is_some() {
        &["create", "-q", "-f", "qcow2", "-u", "-F", "qcow2", "-b"]
    } else {
        &["create", "-q", "-f", "qcow2"]
    };
    let files: Vec<_> = below.into_iter().chain([&*drive.file, Path::new(&size)]).collect();
    qemu_img(options, &files, MOST_METADATA)?;
    guest_user::give(&drive.file)
}

/// The overlay of one disk, whether it exists or not.
pub(crate) fn overlay(dir: &Path, target: &str, suffix: &str) -> Drive {
    Drive { target: target.to_owned(), file: dir.join(format!("{target}.{suffix}.qcow2")) }
}

/// Copies each disk of an image to one qcow2 file in `dir`, named `TARGET.qcow2`, which leans on no other.
pub(crate) fn flat(dir: &Path, image: &Manifest) -> Result<Vec<Drive>> {
    let copy = |disk: &Disk| {
        let file = dir.join(format!("{}.qcow2", disk.target));
        let bytes = fs::metadata(&disk.file).map_err(Error::io("read", &disk.file))?.len();
        let options = ["convert", "-q", "-f", "raw", "-O", "qcow2"];
        qemu_img(&options, &[&disk.file, &file], bytes.saturating_add(MOST_METADATA))?;
        guest_user::give(&file)?;
        Ok(Drive { target: disk.target.clone(), file })
    };
    image.disks.iter().map(copy).collect()
}

/// Writes one file system of an overlay and its backing chain to a sparse raw file.
pub fn flatten(drive: &Drive, fs: &FileSystem, dir: &Path) -> Result<PathBuf> {
    let raw = dir.join(format!("{}.raw", fs.name));
    match pieces(drive)? {
        Some(pieces) => gather(&pieces, fs, &raw).map_err(Error::io("write", &raw))?,
        None => convert(drive, fs, &raw)?,
    }
    Ok(raw)
}

/// The most that an empty overlay takes, bytes: its tables, which grow with its disk.
const MOST_METADATA: u64 = 1 << 30;

/// The unit of a disk's size, bytes.
const SECTOR: u64 = 512;

/// A range of a disk that is in a file unchanged.
struct Piece {
    /// Where on the disk.
    at: u64,
    bytes: u64,
    file: PathBuf,
    offset: u64,
}

/// Where the data of a disk is; `None` when some of it is not in a file unchanged, as when it is
/// compressed. See qemu-img(1), `map` and `info`.
fn pieces(drive: &Drive) -> Result<Option<Vec<Piece>>> {
    #[derive(Deserialize)]
    struct Extent {
        start: u64,
        length: u64,
        depth: usize,
        data: bool,
        #[serde(default)]
        compressed: bool,
        offset: Option<u64>,
    }
    #[derive(Deserialize)]
    struct Layer {
        filename: PathBuf,
        format: String,
        #[serde(default, rename = "format-specific")]
        specific: serde_json::Value,
    }
    let extents: Vec<Extent> = match qemu_img_json(&["map", "--output=json"], &drive.file) {
        // A disk in so many pieces is copied by QEMU.
        Err(Error::Tool(ToolError::Endless(..))) => return Ok(None),
        extents => extents?,
    };
    let chain: Vec<Layer> = qemu_img_json(&["info", "--backing-chain", "--output=json"], &drive.file)?;
    let plain = |layer: &&Layer| {
        matches!(&*layer.format, "raw" | "qcow2")
            && layer.specific["data"]["data-file"].is_null()
            && layer.filename.is_file()
    };
    let piece = |extent: Extent| {
        let layer = chain.get(extent.depth).filter(plain)?;
        let offset = extent.offset.filter(|_| !extent.compressed)?;
        Some(Piece { at: extent.start, bytes: extent.length, file: layer.filename.clone(), offset })
    };
    Ok(extents.into_iter().filter(|extent| extent.data).map(piece).collect())
}

/// Copies the part of these pieces that belongs to a file system. The kernel copies, which is
/// several times faster than `qemu-img convert`, and takes no time where files can share blocks.
fn gather(pieces: &[Piece], fs: &FileSystem, raw: &Path) -> io::Result<()> {
    let mut to = File::create(raw)?;
    to.set_len(fs.bytes)?;
    for Piece { at, bytes, file, offset } in pieces {
        let begin = fs.start.max(*at);
        let end = (fs.start + fs.bytes).min(at + bytes);
        if begin >= end {
            continue;
        }
        let mut from = File::open(file)?;
        from.seek(SeekFrom::Start(offset + (begin - at)))?;
        to.seek(SeekFrom::Start(begin - fs.start))?;
        let copied = io::copy(&mut from.take(end - begin), &mut to)?;
        // A raw file may end before its disk does, which is rounded up to a sector: the rest is zero.
        if end - begin - copied >= SECTOR {
            return Err(io::Error::other(format!("{} ends before its data do", file.display())));
        }
    }
    Ok(())
}

/// The same by QEMU, for any kind of file.
///
/// See qemu(1), `-blockdev`, for the options of the raw driver.
fn convert(drive: &Drive, fs: &FileSystem, raw: &Path) -> Result<()> {
    // Commas separate options, and are doubled in a value.
    let file = drive.file.to_string_lossy().replace(',', ",,");
    let part = format!(
        "driver=raw,offset={},size={},file.driver=qcow2,file.file.driver=file,file.file.filename={file}",
        fs.start, fs.bytes
    );
    qemu_img(&["convert", "--image-opts", "-O", "raw", &part], &[raw], fs.bytes).map(drop)
}

fn qemu_img_json<T: DeserializeOwned>(options: &[&str], file: &Path) -> Result<T> {
    let json = qemu_img(options, &[file], 0)?;
    serde_json::from_slice(&json).map_err(|source| Error::QemuImgReport { disk: file.to_owned(), source })
}

/// Runs `qemu-img` and returns its standard output. It may make no file longer than this, bytes.
fn qemu_img(options: &[&str], files: &[&Path], longest: u64) -> Result<Vec<u8>> {
    let program = "qemu-img";
    let printed = tool::run(Command::new(program).args(options).args(files), Access::Host { longest })?;
    if printed.status.success() {
        return Ok(printed.whole(program)?);
    }
    let files = files.iter().map(|file| file.to_string_lossy().into_owned());
    let arguments =
        options.iter().map(|option| (*option).to_owned()).chain(files).collect::<Vec<_>>().join(" ");
    Err(Error::QemuImg { arguments, stderr: String::from_utf8_lossy(&printed.stderr).trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::image::FsKind;

    fn write(file: &Path, commands: &[&str]) {
        let mut qemu_io = Command::new("qemu-io");
        qemu_io.args(commands.iter().flat_map(|command| ["-c", *command])).arg(file);
        assert!(qemu_io.output().expect("qemu-io runs").status.success());
    }

    #[test]
    fn a_chain_is_gathered_as_qemu_would_convert_it() {
        let temp = tempfile::tempdir().expect("a directory");
        // As the path of a checkout may be.
        let dir = temp.path().join("my dir, it's 100%41 \"größe\"");
        std::fs::create_dir(&dir).expect("a directory");
        let base = dir.join("base.raw");
        File::create(&base).and_then(|file| file.set_len(8 << 20)).expect("a raw file");
        write(&base, &["write -P 1 64k 1M", "write -P 2 5M 512k"]);
        let drive = |name| overlay(&dir, "vda", name);
        overlays(&dir, "lower", [("vda", &*base, "raw")].into_iter()).expect("an overlay");
        write(&drive("lower").file, &["write -P 3 100k 200k", "write -z 5M 64k"]);
        over(&dir, "upper", &[drive("lower")]).expect("an overlay");
        write(&drive("upper").file, &["write -P 4 0 4k", "write -P 5 7M 1M", "discard 512k 64k"]);
        for (start, bytes) in [(0, 8 << 20), (1 << 16, 5 << 20), (137 * SECTOR, 7 << 20)] {
            let (name, mount) = ("vda".to_owned(), PathBuf::from("/"));
            let fs = FileSystem { name, start, bytes, fs: FsKind::Ext4, mount };
            let gathered = flatten(&drive("upper"), &fs, &dir).expect("a raw file");
            let converted = dir.join("converted");
            convert(&drive("upper"), &fs, &converted).expect("a raw file");
            assert!(pieces(&drive("upper")).expect("a map").is_some());
            let [gathered, converted] =
                [gathered, converted].map(|file| std::fs::read(file).expect("a file"));
            assert_eq!(gathered.len(), converted.len());
            assert!(gathered == converted, "{bytes} bytes from {start}");
        }
    }

    #[test]
    fn compressed_data_is_left_to_qemu() {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path().join("base.raw");
        File::create(&base).and_then(|file| file.set_len(1 << 20)).expect("a raw file");
        write(&base, &["write -P 1 0 512k"]);
        let drive = overlay(dir.path(), "vda", "packed");
        let options = ["convert", "-c", "-f", "raw", "-O", "qcow2"];
        qemu_img(&options, &[&base, &drive.file], 1 << 20).expect("an image");
        assert!(pieces(&drive).expect("a map").is_none());
        let (name, mount) = ("vda".to_owned(), PathBuf::from("/"));
        let fs = FileSystem { name, start: 0, bytes: 1 << 20, fs: FsKind::Ext4, mount };
        let raw = flatten(&drive, &fs, dir.path()).expect("a raw file");
        assert!(std::fs::read(raw).expect("a file") == std::fs::read(base).expect("a file"));
    }
}
