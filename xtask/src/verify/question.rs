//! What the user names: files that are there, in a format that is known, each with all that it is based on.
//! What is wrong is told before anything boots.

use std::path::{Path, PathBuf};

use contract::text::printable;
use contract::verification::{DiskFormat, GivenDisk, Layer};
use serde::Deserialize;
use tooling::command::{self, CommandError, shell};
use tooling::error::Failure;
use xshell::cmd;

/// Disks that a guest can have.
const MOST_DISKS: usize = 20;

/// Files that a disk can be made of.
const MOST_LAYERS: usize = 200;

/// The disks' uppermost files, with their formats.
pub(super) fn named(disks: &[PathBuf]) -> Result<Vec<Layer>, Failure> {
    if disks.len() > MOST_DISKS {
        return Err(Failure::Usage(format!(
            "a guest can have {MOST_DISKS} disks, and {} are named.",
            disks.len()
        )));
    }
    let mut layers: Vec<Layer> = Vec::new();
    for disk in disks {
        let layer = layer(disk)?;
        if layers.iter().any(|other| other.file == layer.file) {
            return Err(Failure::Usage(format!("{} is named twice.", layer.file.display())));
        }
        layers.push(layer);
    }
    Ok(layers)
}

fn layer(disk: &Path) -> Result<Layer, Failure> {
    let (format, file) = match given(disk) {
        Some((format, file)) => (Some(format), file),
        None => (DiskFormat::of_file(disk), disk),
    };
    let problem = match file.metadata() {
        Ok(found) if found.is_file() => None,
        Ok(found) if found.is_dir() => {
            Some("it is a directory: name the files of the disks in it".to_owned())
        }
        Ok(_) => Some("it is no regular file".to_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(problem) = problem {
        return Err(Failure::Usage(format!("cannot use the disk {}: {problem}.", file.display())));
    }
    let format = format.ok_or_else(|| {
        let formats = DiskFormat::ALL.map(DiskFormat::name).join(", ");
        Failure::Usage(format!(
            "the name {} does not tell the format of the disk, which is not guessed. Write it in front, as in `raw:{}`; \
             the formats are {formats}. An archive must be unpacked first.",
            file.display(),
            file.display()
        ))
    })?;
    let file = file.canonicalize().map_err(|e| Failure::io("find", file, e))?;
    Ok(Layer { file, format })
}

/// `FORMAT:FILE`.
fn given(disk: &Path) -> Option<(DiskFormat, &Path)> {
    let (format, file) = disk.to_str()?.split_once(':')?;
    Some((DiskFormat::of_name(format)?, Path::new(file)))
}

/// The disks with everything that they are based on.
pub(super) fn disks(named: &[Layer]) -> Result<Vec<GivenDisk>, Failure> {
    let targets = ('a'..='z').map(|letter| format!("vd{letter}"));
    named.iter().zip(targets).map(|(top, target)| disk(top, target)).collect()
}

/// Follows a chain file by file, because QEMU would guess a format that an overlay does not name.
fn disk(top: &Layer, target: String) -> Result<GivenDisk, Failure> {
    let mut info = inspect(top)?;
    let bytes = info.virtual_size;
    let mut layers = vec![top.clone()];
    while let Some(layer) = below(&layers, &info)? {
        info = inspect(&layer)?;
        layers.push(layer);
    }
    Ok(GivenDisk { target, bytes, layers })
}

/// What `qemu-img info` says of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    #[serde(default)]
    encrypted: bool,
    backing_filename: Option<String>,
    full_backing_filename: Option<String>,
    backing_filename_format: Option<String>,
    #[serde(default)]
    format_specific: serde_json::Value,
}

fn inspect(Layer { file, format }: &Layer) -> Result<Info, Failure> {
    let sh = shell()?;
    let format = format.name();
    // Somebody else's file: what it asks of qemu-img has an end. The memory is in bytes.
    let read = command::read(cmd!(
        sh,
        "timeout 60 prlimit --as=536870912 -- qemu-img info --format {format} --output json {file}"
    ));
    let json = read.map_err(|error| match error {
        CommandError::Failed { stderr, .. } if is_locked(&stderr) => Failure::Usage(format!(
            "{} is in use: another QEMU writes to it, so it is no finished backup. Name a copy, or end that guest.",
            file.display()
        )),
        CommandError::Failed { stderr, .. } => Failure::Usage(format!(
            "{} cannot be read as {format}: {}. If that is not its format, write the right one in front of its name; if \
             it is, the file is damaged or cut off, and so is the backup.",
            file.display(),
            printable(stderr.trim())
        )),
        error => error.into(),
    })?;
    serde_json::from_slice(&json).map_err(|error| {
        Failure::Infrastructure(format!("cannot read what qemu-img reports of {}: {error}.", file.display()))
    })
}

/// See the QEMU documentation, "Disk image file locking".
fn is_locked(words: &str) -> bool {
    words.contains("Is another process using the image") || words.contains("Failed to get shared")
}

/// The file that the last of these is based on, if any.
fn below(layers: &[Layer], info: &Info) -> Result<Option<Layer>, Failure> {
    let Some(Layer { file: layer, .. }) = layers.last() else { return Ok(None) };
    let file = layer.display();
    let problem = |problem: String| Err(Failure::Usage(problem));
    if info.encrypted {
        return problem(format!("{file} is encrypted. Decrypt a copy of it, and name that."));
    }
    let data = &info.format_specific["data"];
    let extents = data["extents"].as_array().into_iter().flatten().map(|extent| &extent["filename"]);
    let mut others = extents.chain([&data["data-file"]]).filter_map(serde_json::Value::as_str);
    if let Some(data) = others.find(|name| Path::new(name) != layer) {
        return problem(format!(
            "{file} has its data in another file, {}. `qemu-img convert -O qcow2` makes one of the two.",
            printable(data)
        ));
    }
    let Some(named) = &info.backing_filename else { return Ok(None) };
    let named = printable(named);
    let path = PathBuf::from(
        info.full_backing_filename.as_ref().or(info.backing_filename.as_ref()).map_or("", |it| it),
    );
    if !path.is_file() {
        return problem(format!(
            "{file} is based on {named}, which is no file that is there. A chain of backups needs all of its files, where \
             each of them names the next; then verify the last one."
        ));
    }
    let format = info.backing_filename_format.as_deref();
    let Some(format) = format.and_then(DiskFormat::of_name) else {
        return problem(format!(
            "{file} does not say in which format {named} is, or not in one that is known here ({}), and it is not guessed. \
             `qemu-img convert -O qcow2` makes one file of the chain; or let a copy say it: `qemu-img rebase -u`.",
            printable(format.unwrap_or("none"))
        ));
    };
    let path = path.canonicalize().map_err(|e| Failure::io("find", &path, e))?;
    if layers.len() == MOST_LAYERS || layers.iter().any(|layer| layer.file == path) {
        return problem(format!("{file} is based on {named}, and so on without end."));
    }
    Ok(Some(Layer { file: path, format }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn qemu_img(arguments: &[&str], dir: &Path) {
        let output = Command::new("qemu-img").args(arguments).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn ask(names: &[&Path]) -> Result<Vec<GivenDisk>, String> {
        let paths: Vec<_> = names.iter().map(|path| path.to_path_buf()).collect();
        named(&paths).and_then(|named| disks(&named)).map_err(|failure| {
            assert!(matches!(failure, Failure::Usage(_)), "{failure:?}");
            failure.to_string()
        })
    }

    #[test]
    fn a_chain_is_followed_file_by_file() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap();
        qemu_img(&["create", "-q", "-f", "raw", "base.img", "8M"], &dir);
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.img", "full"], &dir);
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "full", "top.qcow2"], &dir);
        let disks = ask(&[&dir.join("top.qcow2"), &dir.join("base.img")]).unwrap();
        let files: Vec<_> = disks[0].layers.iter().map(|it| (it.file.clone(), it.format)).collect();
        let expected = [
            (dir.join("top.qcow2"), DiskFormat::Qcow2),
            (dir.join("full"), DiskFormat::Qcow2),
            (dir.join("base.img"), DiskFormat::Raw),
        ];
        assert_eq!(files, expected);
        assert_eq!((disks[0].bytes, &*disks[0].target, &*disks[1].target), (8 << 20, "vda", "vdb"));
        fs::remove_file(dir.join("base.img")).unwrap();
        let said = ask(&[&dir.join("top.qcow2")]).unwrap_err();
        assert!(said.contains("full is based on base.img, which is no file that is there"), "{said}");
    }

    #[test]
    fn a_format_is_never_guessed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap();
        qemu_img(&["create", "-q", "-f", "qcow2", "hidden", "8M"], &dir);
        let said = ask(&[&dir.join("hidden")]).unwrap_err();
        assert!(said.contains("does not tell the format of the disk") && said.contains("raw:"), "{said}");
        // A raw disk whose guest wrote the header of a qcow2 stays raw.
        let raw = PathBuf::from(format!("raw:{}", dir.join("hidden").display()));
        assert_eq!(ask(&[&raw]).unwrap()[0].layers[0].format, DiskFormat::Raw);
        fs::rename(dir.join("hidden"), dir.join("base")).unwrap();
        // What QEMU wrote before it demanded the format.
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base", "a.qcow2"], &dir);
        qemu_img(&["rebase", "-u", "-f", "qcow2", "-b", "", "a.qcow2"], &dir);
        assert_eq!(ask(&[&dir.join("a.qcow2")]).unwrap()[0].layers.len(), 1);
        let info = Info { backing_filename: Some("base".to_owned()), ..Info::default() };
        let info = Info { full_backing_filename: Some(dir.join("base").display().to_string()), ..info };
        let top = Layer { file: dir.join("a.qcow2"), format: DiskFormat::Qcow2 };
        let said = below(&[top], &info).unwrap_err().to_string();
        assert!(said.contains("does not say in which format base is"), "{said}");
    }

    #[test]
    fn data_in_another_file_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap();
        qemu_img(&["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", "a.vmdk", "8M"], &dir);
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", "data_file=a.raw", "b.qcow2", "8M"], &dir);
        for file in ["a.vmdk", "b.qcow2"] {
            let said = ask(&[&dir.join(file)]).unwrap_err();
            assert!(said.contains("has its data in another file, "), "{said}");
        }
        qemu_img(&["create", "-q", "-f", "vmdk", "c.vmdk", "8M"], &dir);
        assert_eq!(ask(&[&dir.join("c.vmdk")]).unwrap()[0].bytes, 8 << 20);
    }

    #[test]
    fn a_wrong_name_is_a_wrong_question() {
        let temp = tempfile::tempdir().unwrap();
        let raw = temp.path().join("a.raw");
        fs::write(&raw, [0; 512]).unwrap();
        for (disks, words) in [
            (vec![&*temp.path().join("no.raw")], "No such file"),
            (vec![temp.path()], "name the files of the disks in it"),
            (
                vec![&*raw, &*temp.path().join("../").join(temp.path().file_name().unwrap()).join("a.raw")],
                "named twice",
            ),
        ] {
            let said = ask(&disks).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
        let packed = temp.path().join("a.qcow2");
        fs::write(&packed, b"QFI\xfb\0\0\0\x03").unwrap();
        let said = ask(&[&packed]).unwrap_err();
        assert!(said.contains("cannot be read as qcow2") && said.contains("damaged or cut off"), "{said}");
    }

    #[test]
    fn a_disk_of_a_running_guest_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        qemu_img(&["create", "-q", "-f", "qcow2", "a.qcow2", "8M"], temp.path());
        let file = temp.path().join("a.qcow2");
        let mut qemu = Command::new("qemu-io");
        qemu.args(["-f", "qcow2"]).arg(&file).stdin(std::process::Stdio::piped());
        qemu.stdout(std::process::Stdio::piped());
        let mut qemu = qemu.spawn().unwrap();
        let mut answer = [0];
        // Its prompt: the file is open and locked by then.
        std::io::Read::read_exact(qemu.stdout.as_mut().unwrap(), &mut answer).unwrap();
        let said = ask(&[&file]).unwrap_err();
        drop(qemu.stdin.take());
        qemu.wait().unwrap();
        assert!(said.contains("is in use: another QEMU writes to it"), "{said}");
        assert!(ask(&[&file]).is_ok());
    }
}
