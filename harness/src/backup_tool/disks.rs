//! The disks that a restore command hands back: `TARGET/DISK.FORMAT`, or whatever the file `TARGET/disks` names, with a
//! line of disk, path and format, with tabs between them.
//!
//! The format of a file is what its name or that line says, and never what is in it: a guest can write whatever it
//! wants into a raw disk, such as the header of another format that leans on a file of the host's. For the same
//! reason a file must say in which format it leans on another. All of them must be in the folder of the restore or in that of the
//! backups: a backup that leans on the source's disks is none.

use std::fs;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use contract::files::open_regular;
use contract::history::{DiskProblem, DiskProblemKind};
use contract::text::quote;
use contract::verification::DiskFormat;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::host::guest_user;
use crate::image_check::{self, Check};
use crate::overlay::DiskFile;
use crate::tool::{self, Access};

/// The ends of names, and the formats that they stand for.
const FORMATS: [(&str, DiskFormat); 6] = [
    ("qcow2", DiskFormat::Qcow2),
    ("raw", DiskFormat::Raw),
    ("img", DiskFormat::Raw),
    ("vmdk", DiskFormat::Vmdk),
    ("vdi", DiskFormat::Vdi),
    ("vhdx", DiskFormat::Vhdx),
];

/// The formats whose files can lean on others.
const LEANING: [DiskFormat; 2] = [DiskFormat::Qcow2, DiskFormat::Vmdk];

/// The file that names disks.
const LIST: &str = "disks";

/// The longest of it, bytes.
const LONGEST_LIST: u64 = 64 << 10;

/// The most files that one disk may lean on: as many incremental backups are made at most, and some more.
const LONGEST_CHAIN: usize = 256;

/// How much is kept of the words about a problem, characters.
const DETAIL: usize = 300;

/// Why qemu-img cannot read a file that may well be whole: what the host lacks, or another process has.
const OF_HOST: [&str; 3] = ["Cannot allocate memory", "Too many open files", "Failed to get"];

/// A disk that was to be handed back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandedBack {
    /// Its name: `vda`.
    pub disk: String,
    /// What to boot from, if there is nothing wrong with it.
    pub file: Option<DiskFile>,
    /// All files that it is in, as far as they were found: its own, then each that the one before leans on.
    pub chain: Vec<PathBuf>,
    /// What is wrong with it.
    pub problems: Vec<DiskProblem>,
}

/// Looks for these disks, of so many bytes, in the folder of a restore; `chain` is that of the backups. What another
/// user made in these is the harness's from here on.
pub fn handed_back(target: &Path, chain: &Path, disks: &[(&str, u64)]) -> Result<Vec<HandedBack>> {
    [target, chain].into_iter().try_for_each(guest_user::take_back)?;
    let canonical = |dir: &Path| dir.canonicalize().map_err(Error::io("find", dir));
    let folders = Folders([canonical(target)?, canonical(chain)?]);
    let list = List::read(target);
    let look = |(disk, bytes): &(&str, u64)| {
        let (disk, mut chain) = ((*disk).to_owned(), Vec::new());
        let (problems, format) = match list.file_of(&disk, target) {
            Ok((file, format)) => (folders.examine(&file, format, *bytes, &mut chain)?, Some(format)),
            Err(detail) => (vec![problem(DiskProblemKind::Missing, &detail)], None),
        };
        let file = chain.first().filter(|_| problems.is_empty()).cloned().zip(format);
        let file = file.map(|(file, format)| DiskFile { target: disk.clone(), file, format });
        Ok(HandedBack { disk, file, chain, problems })
    };
    disks.iter().map(look).collect()
}

fn problem(kind: DiskProblemKind, detail: &str) -> DiskProblem {
    DiskProblem { kind, detail: quote(DETAIL, detail) }
}

/// Which files the disks are in.
enum List {
    /// Those of their names.
    ByName,
    /// Those that a file lists, or what is wrong with it.
    Listed(Result<Vec<(String, PathBuf, DiskFormat)>, String>),
}

impl List {
    fn read(target: &Path) -> Self {
        let file = target.join(LIST);
        if fs::symlink_metadata(&file).is_err() {
            return Self::ByName;
        }
        let read = || -> std::io::Result<String> {
            let mut text = String::new();
            open_regular(&file)?.take(LONGEST_LIST + 1).read_to_string(&mut text)?;
            Ok(text)
        };
        Self::Listed(match read() {
            Ok(text) if text.len() as u64 > LONGEST_LIST => {
                Err(format!("TARGET/{LIST} has more than {LONGEST_LIST} bytes"))
            }
            Ok(text) => {
                text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(line).collect()
            }
            Err(error) => Err(format!("TARGET/{LIST} cannot be read: {error}")),
        })
    }

    /// The file of a disk and its format, or why it cannot be told.
    fn file_of(&self, disk: &str, target: &Path) -> Result<(PathBuf, DiskFormat), String> {
        let mut found: Vec<_> = match self {
            Self::ByName => {
                let file = |(end, format): (&str, DiskFormat)| (target.join(format!("{disk}.{end}")), format);
                FORMATS.into_iter().map(file).filter(|(file, _)| fs::symlink_metadata(file).is_ok()).collect()
            }
            Self::Listed(Err(problem)) => return Err(problem.clone()),
            Self::Listed(Ok(lines)) => {
                let lines = lines.iter().filter(|(name, ..)| name == disk);
                lines.map(|(_, file, format)| (target.join(file), *format)).collect()
            }
        };
        match (found.pop(), found.pop(), self) {
            (Some(file), None, _) => Ok(file),
            (Some((one, _)), Some((other, _)), _) => {
                Err(format!("it cannot be told whether it is in {} or in {}", other.display(), one.display()))
            }
            (None, _, Self::ByName) => {
                let ends = FORMATS.map(|(end, _)| end).join(", ");
                Err(format!(
                    "there is no TARGET/{disk}.* ({ends}), and no TARGET/{LIST} that names another file"
                ))
            }
            (None, _, Self::Listed(_)) => Err(format!("TARGET/{LIST} does not name it")),
        }
    }
}

/// What a line of the list says, by its number from 0.
fn line((at, line): (usize, &str)) -> Result<(String, PathBuf, DiskFormat), String> {
    let wrong = |what: &str| format!("TARGET/{LIST}:{}: {what}", at + 1);
    let fields: Vec<_> = line.split('\t').collect();
    let &[disk, file, format] = fields.as_slice() else {
        return Err(wrong(
            "a line must have a disk, its file and its format, with a tab after the first and the second",
        ));
    };
    let known = FORMATS.into_iter().find(|(_, known)| known.name() == format.trim_end());
    let (_, format) = known.ok_or_else(|| wrong("the format must be qcow2, raw, vmdk, vdi or vhdx"))?;
    Ok((disk.to_owned(), file.into(), format))
}

/// What `qemu-img info` says of one file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    backing_filename: Option<String>,
    backing_filename_format: Option<String>,
    #[serde(default)]
    format_specific: Value,
}

/// Why a file's chain is not followed any further.
enum Stop {
    /// Something is wrong with it.
    Problem(DiskProblem),
    /// It could not be examined, which says nothing about it.
    Error(Error),
}

impl From<DiskProblem> for Stop {
    fn from(problem: DiskProblem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Where the files of a disk may be.
struct Folders([PathBuf; 2]);

impl Folders {
    /// Follows the files that a disk is in, from its own on, and adds them to `chain`. What is wrong with them.
    fn examine(
        &self,
        file: &Path,
        format: DiskFormat,
        bytes: u64,
        chain: &mut Vec<PathBuf>,
    ) -> Result<Vec<DiskProblem>> {
        let mut problems = Vec::new();
        let mut next = Some((file.to_owned(), format));
        while let Some((file, format)) = next.take() {
            match self.step(&file, format, bytes, chain, &mut problems) {
                Ok(below) => next = below,
                Err(Stop::Problem(found)) => problems.push(found),
                Err(Stop::Error(error)) => return Err(error),
            }
        }
        Ok(problems)
    }

    /// Examines one file. Returns the one that it leans on, with its format.
    fn step(
        &self,
        file: &Path,
        format: DiskFormat,
        bytes: u64,
        chain: &mut Vec<PathBuf>,
        problems: &mut Vec<DiskProblem>,
    ) -> Result<Option<(PathBuf, DiskFormat)>, Stop> {
        let file = self.inside(file)?;
        if chain.contains(&file) || chain.len() == LONGEST_CHAIN {
            let detail =
                format!("the files that it is in lean on each other without an end, as {}", file.display());
            return Err(problem(DiskProblemKind::Damaged, &detail).into());
        }
        chain.push(file.clone());
        let info = info(&file, format)?;
        if chain.len() == 1 && info.virtual_size != bytes {
            let detail =
                format!("{} holds {} bytes, and the disk had {bytes}", file.display(), info.virtual_size);
            problems.push(problem(DiskProblemKind::OtherSize, &detail));
        }
        problems.extend(match other_file(&file, &info) {
            // qemu-img could not read it: only the file itself can be seen.
            Some(other) => Some(other),
            None => check(&file, format)?,
        });
        Ok(next(&file, &info)?)
    }

    /// The file, with links resolved, if it is one that a disk may be in.
    fn inside(&self, file: &Path) -> Result<PathBuf, DiskProblem> {
        let shown = file.display();
        let is_inside = |path: &Path| self.0.iter().any(|folder| path.starts_with(folder));
        let outside = |path: &Path| {
            let detail = format!("it needs {}, which is in neither TARGET nor CHAIN", path.display());
            problem(DiskProblemKind::Outside, &detail)
        };
        let damaged =
            |what: &str| problem(DiskProblemKind::Damaged, &format!("it needs {shown}, which {what}"));
        match file.canonicalize() {
            Ok(found) if !is_inside(&found) => Err(outside(&found)),
            Ok(found) if !found.is_file() => Err(damaged("is not a regular file")),
            Ok(found) => Ok(found),
            Err(_) if !is_inside(&without_file(file)) => Err(outside(file)),
            Err(error) => Err(damaged(&format!("cannot be opened: {error}"))),
        }
    }
}

/// Where a file would be that does not exist, as far as links can be resolved.
fn without_file(file: &Path) -> PathBuf {
    let mut path = PathBuf::new();
    for component in file.components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            other => path.push(other),
        }
        path = path.canonicalize().unwrap_or(path);
    }
    path
}

/// The file that this one leans on, and its format.
fn next(file: &Path, info: &Info) -> Result<Option<(PathBuf, DiskFormat)>, DiskProblem> {
    let Some(below) = &info.backing_filename else { return Ok(None) };
    // To QEMU this is a protocol, as in `json:` or `nbd:`.
    if below.split('/').next().is_some_and(|begin| begin.contains(':')) {
        let detail = format!("{} leans on {below}, which is not the path of a file", file.display());
        return Err(problem(DiskProblemKind::Outside, &detail));
    }
    let format = info.backing_filename_format.as_deref();
    let known = FORMATS.into_iter().find(|(_, known)| Some(known.name()) == format);
    let (_, format) = known.ok_or_else(|| {
        let detail = format!(
            "{} leans on {below} and says no format of it that can be used ({}): QEMU would guess it from what a guest wrote",
            file.display(),
            format.unwrap_or("none")
        );
        problem(DiskProblemKind::Damaged, &detail)
    })?;
    let dir = file.parent().unwrap_or(Path::new("/"));
    Ok(Some((dir.join(below), format)))
}

/// What is wrong with a file whose data are in another one, which is not its backing file: there QEMU would read
/// whatever path it names.
fn other_file(file: &Path, info: &Info) -> Option<DiskProblem> {
    let data = &info.format_specific["data"];
    let extents = data["extents"].as_array().into_iter().flatten().map(|extent| &extent["filename"]);
    let mut named = extents.chain([&data["data-file"]]).filter_map(Value::as_str);
    let other = named.find(|name| Path::new(name) != file)?;
    let detail = format!("the data of {} are in another file, {other}", file.display());
    Some(problem(DiskProblemKind::Outside, &detail))
}

/// The file as QEMU opens it: in this format, and alone.
fn alone(file: &Path, format: DiskFormat) -> String {
    let mut options =
        json!({ "driver": format.name(), "file": { "driver": "file", "filename": file.to_string_lossy() } });
    if LEANING.contains(&format) {
        options["backing"] = Value::Null;
    }
    format!("json:{options}")
}

/// What a file says of itself.
fn info(file: &Path, format: DiskFormat) -> Result<Info, Stop> {
    let program = "qemu-img";
    let mut command = Command::new(program);
    command.args(["info", "--output=json"]).arg(alone(file, format));
    let printed = tool::run(&mut command, Access::Read(file)).map_err(Error::from)?;
    if !printed.status.success() {
        let said = tool::said(&printed);
        if OF_HOST.iter().any(|words| said.contains(words)) {
            let arguments = format!("info {}", file.display());
            return Err(Error::QemuImg { arguments, stderr: said }.into());
        }
        let detail = format!("{} cannot be read as {}: {said}", file.display(), format.name());
        return Err(problem(DiskProblemKind::Damaged, &detail).into());
    }
    let json = printed.whole(program).map_err(Error::from)?;
    let failed = |source| Error::QemuImgReport { disk: file.to_owned(), source };
    Ok(serde_json::from_slice(&json).map_err(failed)?)
}

/// What is wrong with a file's own tables.
fn check(file: &Path, format: DiskFormat) -> Result<Option<DiskProblem>> {
    let name = alone(file, format);
    match image_check::check(&[name.as_ref()], Access::Read(file))? {
        Check::Clean => Ok(None),
        Check::Damaged(errors) => {
            let detail =
                format!("{} is damaged: qemu-img finds {errors} errors in its structure", file.display());
            Ok(Some(problem(DiskProblemKind::Damaged, &detail)))
        }
        Check::Failed(stderr) => {
            let arguments = format!("check {}", file.display());
            Err(Error::QemuImg { arguments, stderr })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::overlay;

    const SIZE: u64 = 4 << 20;

    /// The folders of a trial: `target`, `chain`, and `source`, which holds what nothing may lean on.
    struct Scene(tempfile::TempDir);

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::Builder::new().prefix("it's 100%, ").tempdir().unwrap();
            for folder in ["target", "chain", "source"] {
                fs::create_dir(dir.path().join(folder)).unwrap();
            }
            Self(dir)
        }

        fn path(&self, file: &str) -> PathBuf {
            self.0.path().canonicalize().unwrap().join(file)
        }

        /// Makes an image, over another one if there is one, which is named like this.
        fn make(&self, file: &str, format: &str, below: Option<(&str, &str)>) -> PathBuf {
            let path = self.path(file);
            let mut qemu_img = Command::new("qemu-img");
            qemu_img.args(["create", "-q", "-f", format]);
            if let Some((below, format)) = below {
                qemu_img.args(["-u", "-F", format, "-b", below]);
            }
            assert!(qemu_img.arg(&path).arg(SIZE.to_string()).status().unwrap().success());
            path
        }

        fn look(&self, disks: &[(&str, u64)]) -> Vec<HandedBack> {
            handed_back(&self.path("target"), &self.path("chain"), disks).unwrap()
        }

        fn vda(&self) -> HandedBack {
            self.look(&[("vda", SIZE)]).pop().unwrap()
        }

        /// The only problem of the only disk.
        fn problem(&self) -> (DiskProblemKind, String) {
            let HandedBack { file, mut problems, .. } = self.vda();
            assert_eq!((file, problems.len()), (None, 1), "{problems:?}");
            let DiskProblem { kind, detail } = problems.remove(0);
            (kind, detail)
        }

        fn expect(&self, kind: DiskProblemKind, words: &str) {
            let (found, detail) = self.problem();
            assert!(found == kind && detail.contains(words), "{found:?}: {detail}");
        }

        fn list(&self, text: &str) {
            fs::write(self.path("target/disks"), text).unwrap();
        }
    }

    use DiskProblemKind::{Damaged, Missing, OtherSize, Outside};

    #[test]
    fn a_disk_is_found_by_its_name_in_each_format() {
        for (end, format) in FORMATS {
            let scene = Scene::new();
            let file = scene.make(&format!("target/vda.{end}"), format.name(), None);
            let found = scene.vda();
            assert_eq!((found.problems, &found.chain[..]), (vec![], &[file.clone()][..]));
            let base = found.file.unwrap();
            assert_eq!((&*base.target, &base.file, base.format), ("vda", &file, format));
            let drives = overlay::over_files(&scene.path("source"), "boot", &[base]).unwrap();
            assert!(drives[0].file.exists());
        }
    }

    #[test]
    fn a_list_may_name_files_in_both_folders() {
        let scene = Scene::new();
        let vda = scene.make("target/a b.data", "qcow2", None);
        let vdb = scene.make("chain/deep", "raw", None);
        scene.list(&format!("vda\ta b.data\tqcow2\n\nvdb\t{}\traw\n", vdb.display()));
        // What only has its name is not looked for then.
        scene.make("target/vda.qcow2", "qcow2", None);
        let found = scene.look(&[("vda", SIZE), ("vdb", SIZE)]);
        let files: Vec<_> =
            found.iter().map(|it| it.file.clone().unwrap()).map(|it| (it.file, it.format)).collect();
        assert_eq!(files, [(vda, DiskFormat::Qcow2), (vdb, DiskFormat::Raw)]);
    }

    #[test]
    fn a_disk_that_is_not_there_or_not_named_is_missing() {
        let scene = Scene::new();
        scene.expect(
            Missing,
            "there is no TARGET/vda.* (qcow2, raw, img, vmdk, vdi, vhdx), and no TARGET/disks",
        );
        scene.make("target/vdb.qcow2", "qcow2", None);
        scene.expect(Missing, "there is no TARGET/vda.*");
        for file in ["target/vda.qcow2", "target/vda.raw"] {
            scene.make(file, "raw", None);
        }
        scene.expect(Missing, "it cannot be told whether it is in ");
        scene.list("vdb\tvdb.qcow2\tqcow2\n");
        scene.expect(Missing, "TARGET/disks does not name it");
        scene.list("vda\tx\traw\nvda\ty\traw\n");
        scene.expect(Missing, "it cannot be told whether");
        scene.list("\nvda\tvda.raw\n");
        scene.expect(Missing, "TARGET/disks:2: a line must have a disk, its file and its format");
        scene.list("vda\tvda.raw\thost_device\n");
        scene.expect(Missing, "TARGET/disks:1: the format must be qcow2, raw, vmdk, vdi or vhdx");
        scene.list(&"\n".repeat(70_000));
        scene.expect(Missing, "TARGET/disks has more than 65536 bytes");
        fs::remove_file(scene.path("target/disks")).unwrap();
        symlink("/dev/zero", scene.path("target/disks")).unwrap();
        scene.expect(Missing, "TARGET/disks cannot be read");
    }

    #[test]
    fn incremental_backups_may_lean_on_those_before_them() {
        let scene = Scene::new();
        let full = scene.make("chain/full.raw", "raw", None);
        let first = scene.make("chain/1.qcow2", "qcow2", Some(("full.raw", "raw")));
        let top = scene.make("target/vda.qcow2", "qcow2", Some(("../chain/1.qcow2", "qcow2")));
        let found = scene.vda();
        assert_eq!((found.problems, found.chain), (vec![], vec![top.clone(), first, full]));
        // A link to a file inside is as good as the file, from which the next path begins then.
        fs::remove_file(&top).unwrap();
        symlink("../chain/2.qcow2", &top).unwrap();
        scene.make("chain/2.qcow2", "qcow2", Some(("1.qcow2", "qcow2")));
        assert_eq!(scene.vda().file.unwrap().file, scene.path("chain/2.qcow2"));
        fs::remove_file(scene.path("chain/full.raw")).unwrap();
        scene.expect(Damaged, "chain/full.raw, which cannot be opened: No such file or directory");
    }

    #[test]
    fn a_backup_that_leans_on_the_source_is_none() {
        let scene = Scene::new();
        let source = scene.make("source/vda.qcow2", "qcow2", None);
        let named = [
            source.display().to_string(),
            "../source/vda.qcow2".to_owned(),
            "../target/../source/vda.qcow2".to_owned(),
        ];
        for below in &named {
            scene.make("target/vda.qcow2", "qcow2", Some((below, "qcow2")));
            scene.expect(Outside, "source/vda.qcow2, which is in neither TARGET nor CHAIN");
        }
        // The same one step further, and when the source is not there any more.
        scene.make("chain/1.qcow2", "qcow2", Some((&named[0], "qcow2")));
        scene.make("target/vda.qcow2", "qcow2", Some(("../chain/1.qcow2", "qcow2")));
        scene.expect(Outside, "source/vda.qcow2");
        fs::rename(scene.path("source"), scene.path("moved")).unwrap();
        for below in &named {
            scene.make("target/vda.qcow2", "qcow2", Some((below, "qcow2")));
            scene.expect(Outside, "source/vda.qcow2");
        }
    }

    #[test]
    fn links_and_paths_lead_nowhere_else() {
        let scene = Scene::new();
        let source = scene.make("source/vda.qcow2", "qcow2", None);
        symlink(&source, scene.path("target/vda.qcow2")).unwrap();
        scene.expect(Outside, "source/vda.qcow2, which is in neither");
        fs::remove_file(scene.path("target/vda.qcow2")).unwrap();
        symlink(scene.path("source"), scene.path("target/way")).unwrap();
        scene.make("target/vda.qcow2", "qcow2", Some(("way/vda.qcow2", "qcow2")));
        scene.expect(Outside, "source/vda.qcow2");
        for listed in ["../source/vda.qcow2", "way/vda.qcow2", "/etc/passwd", "way/gone"] {
            scene.list(&format!("vda\t{listed}\tqcow2\n"));
            scene.expect(Outside, "which is in neither TARGET nor CHAIN");
        }
        scene.list("vda\t../target\tqcow2\n");
        scene.expect(Damaged, "is not a regular file");
    }

    #[test]
    fn a_file_must_name_another_by_its_path_and_with_its_format() {
        let scene = Scene::new();
        let inside = scene.make("target/base", "qcow2", None).display().to_string();
        let json = json!({ "driver": "qcow2", "file": { "driver": "file", "filename": inside } });
        for below in [format!("json:{json}"), "nbd:localhost:10809".to_owned(), "file:base".to_owned()] {
            scene.make("target/vda.qcow2", "qcow2", Some((&below, "qcow2")));
            scene.expect(Outside, "which is not the path of a file");
        }
        for format in ["luks", "host_device"] {
            scene.make("target/vda.qcow2", "qcow2", Some(("base", format)));
            scene.expect(Damaged, &format!("says no format of it that can be used ({format})"));
        }
        // QEMU of today makes none without a format: the extension that has it is made unknown.
        let top = scene.make("target/vda.qcow2", "qcow2", Some(("base", "qcow2")));
        let mut bytes = fs::read(&top).unwrap();
        let magic = 0xe279_2aca_u32.to_be_bytes();
        let at = bytes.windows(4).position(|it| it == magic).unwrap();
        bytes[at..at + 4].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
        fs::write(&top, bytes).unwrap();
        scene.expect(Damaged, "says no format of it that can be used (none)");
    }

    #[test]
    fn a_chain_that_has_no_end_is_damaged() {
        let scene = Scene::new();
        scene.make("target/vda.qcow2", "qcow2", Some(("a.qcow2", "qcow2")));
        scene.make("target/a.qcow2", "qcow2", Some(("vda.qcow2", "qcow2")));
        scene.expect(Damaged, "lean on each other without an end");
        scene.make("target/vda.qcow2", "qcow2", Some(("vda.qcow2", "qcow2")));
        scene.expect(Damaged, "lean on each other without an end");
    }

    /// The guest writes the header of a qcow2 file that leans on a file of the host's into its raw disk.
    #[test]
    fn what_a_guest_wrote_decides_nothing() {
        let scene = Scene::new();
        let header = scene.make("source/evil.qcow2", "qcow2", Some(("/etc/passwd", "raw")));
        let raw = scene.make("target/vda.raw", "raw", None);
        let mut bytes = fs::read(&raw).unwrap();
        let evil = fs::read(&header).unwrap();
        bytes[..evil.len()].copy_from_slice(&evil);
        fs::write(&raw, bytes).unwrap();
        let found = scene.vda();
        assert_eq!((found.problems, found.chain), (vec![], vec![raw.clone()]));
        let base = found.file.unwrap();
        assert_eq!(base.format, DiskFormat::Raw);
        let drives = overlay::over_files(&scene.path("source"), "boot", &[base]).unwrap();
        let info =
            Command::new("qemu-img").args(["info", "--backing-chain"]).arg(&drives[0].file).output().unwrap();
        let info = String::from_utf8(info.stdout).unwrap();
        assert!(info.contains("backing file format: raw") && !info.contains("/etc/passwd"), "{info}");
        // As qcow2, which its name would say, it leans on that file.
        fs::rename(&raw, scene.path("target/vda.qcow2")).unwrap();
        scene.expect(Outside, "/etc/passwd");
    }

    #[test]
    fn data_in_another_file_are_not_read() {
        let scene = Scene::new();
        let vda = scene.path("target/vda.qcow2");
        let outside = scene.path("source/data.raw");
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-o"])
            .arg(format!("data_file={}", outside.display().to_string().replace(',', ",,")))
            .arg(&vda)
            .arg(SIZE.to_string())
            .status();
        assert!(made.unwrap().success());
        let kinds: Vec<_> = scene.vda().problems.into_iter().map(|it| it.kind).collect();
        assert!(!kinds.is_empty() && scene.vda().file.is_none(), "{kinds:?}");
        let flat = scene.path("target/vda.vmdk");
        fs::remove_file(&vda).unwrap();
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat"])
            .arg(&flat)
            .arg(SIZE.to_string())
            .status();
        assert!(made.unwrap().success());
        let text = fs::read_to_string(&flat).unwrap();
        fs::write(&flat, text.replace("vda-flat.vmdk", "/etc/passwd")).unwrap();
        assert!(scene.vda().file.is_none());
    }

    #[test]
    fn a_disk_of_another_size_is_told_and_so_is_a_damaged_one() {
        let scene = Scene::new();
        let vda = scene.make("target/vda.qcow2", "qcow2", None);
        let found = scene.look(&[("vda", SIZE + 512)]).remove(0);
        assert_eq!(found.problems[0].kind, OtherSize);
        let detail = format!("{} holds 4194304 bytes, and the disk had 4194816", vda.display());
        assert_eq!((&*found.problems[0].detail, found.problems.len()), (&*detail, 1));

        // A table of the second level that lies beyond the end of the file.
        let write = Command::new("qemu-io").args(["-c", "write 0 64k"]).arg(&vda).output().unwrap();
        assert!(write.status.success());
        let mut bytes = fs::read(&vda).unwrap();
        let table = u64::from_be_bytes(bytes[40..48].try_into().unwrap()) as usize;
        bytes[table..table + 8].copy_from_slice(&(0x8000_0000_0000_0000_u64 | 0x7fff_0000).to_be_bytes());
        fs::write(&vda, &bytes).unwrap();
        scene.expect(Damaged, "vda.qcow2 is damaged: ");
        // Cut off, or of another format.
        fs::write(&vda, &bytes[..100]).unwrap();
        scene.expect(Damaged, "vda.qcow2 cannot be read as qcow2: ");
        fs::remove_file(&vda).unwrap();
        scene.make("target/vda.qcow2", "vdi", None);
        scene.expect(Damaged, "cannot be read as qcow2: ");
    }

    /// Where the harness is root: tools are another user then, and so is QEMU, which must read the files.
    #[test]
    fn files_of_another_user_are_taken_over() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

        if !rustix::process::geteuid().is_root() {
            return;
        }
        let scene = Scene::new();
        fs::create_dir(scene.path("chain/deep")).unwrap();
        let base = scene.make("chain/deep/full.qcow2", "qcow2", None);
        let top = scene.make("target/vda.qcow2", "qcow2", Some(("../chain/deep/full.qcow2", "qcow2")));
        let other = scene.make("source/other.qcow2", "qcow2", None);
        symlink(&other, scene.path("target/link")).unwrap();
        let user = Some(contract::files::GUEST_USER);
        for (path, mode) in
            [(&base, 0o600), (&top, 0o400), (&scene.path("chain/deep"), 0o700), (&other, 0o640)]
        {
            chown(path, user, user).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        assert_eq!(scene.vda().problems, []);
        let of = |path: &Path| fs::metadata(path).map(|it| (it.uid(), it.gid(), it.mode() & 0o777)).unwrap();
        let group = contract::files::GUEST_USER;
        assert_eq!([of(&base), of(&top)], [(0, group, 0o640), (0, group, 0o440)]);
        assert_eq!(of(&scene.path("chain/deep")), (0, group, 0o750));
        assert_eq!(of(&other), (group, group, 0o640));
    }
}
