//! Where a server keeps its files, as the server itself sees them: through its own mount table,
//! with links resolved. What the image's manifest says, or what the agent sees, may be another
//! place.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use contract::history::{Entry, Holds, Nanos};
use contract::image::{FileSystem, Manifest};
use contract::observation::position_file;
use contract::text::printable;

use crate::database::dialect;
use crate::error::{DirectoriesError, Result};
use crate::guest::{Agent, quote_shell};

/// The kinds of file systems that Linux can freeze.
const FREEZABLE: [&str; 10] =
    ["btrfs", "ext2", "ext3", "ext4", "f2fs", "gfs2", "jfs", "nilfs2", "reiserfs", "xfs"];

/// The unit of a partition's start in sysfs, bytes.
const SECTOR: u64 = 512;

/// The file of heartbeats on the file system mounted at `mount`.
pub fn heartbeat_file(mount: &Path) -> PathBuf {
    mount.join(".freezeframe-heartbeats")
}

/// The directories of one server.
#[derive(Debug, Clone, Default)]
pub struct Directories(Vec<Directory>);

/// A directory of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// What it holds.
    pub holds: Holds,
    /// Its path, as the server sees it.
    pub path: PathBuf,
    /// The kind of its file system.
    pub fs: String,
    /// The image's file system that it is on, and its path there; `None` when it is on none of
    /// them.
    pub on: Option<(String, PathBuf)>,
    /// Whether a freeze reaches it: the agent's own mount table has its device.
    pub reached: bool,
}

/// What an agent has to do with at a freeze.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mounts {
    /// How many devices it must reach.
    pub(crate) volumes: u32,
    /// What it opens, one after the other, with the kind of each, fit to be shown. One that does not answer keeps it
    /// for ever.
    pub(crate) opened: Vec<String>,
}

/// The most mounts that are named.
const MOST_NAMED: usize = 20;

/// Asks a guest whose server runs for the server's directories, and for what a freeze has to do with.
pub(crate) fn find(agent: &Agent, image: &Manifest, limit: Duration) -> Result<(Directories, Mounts)> {
    find_by(dialect(image.server.database).root_client(), agent, image, limit)
}

/// The same by another client of the server's root; see [`crate::database::Dialect::root_client`].
pub(crate) fn find_by(
    client: &str,
    agent: &Agent,
    image: &Manifest,
    limit: Duration,
) -> Result<(Directories, Mounts)> {
    let dialect = dialect(image.server.database);
    let unit = quote_shell(&image.server.unit);
    let line = FIND.replace("UNIT", &unit).replace("CLIENT", client);
    let report = agent.script(&line, dialect.directories().as_bytes(), limit)?;
    Ok(parse(&String::from_utf8_lossy(&report), image)?)
}

impl Directories {
    /// The directories that hold this.
    pub fn of(&self, holds: Holds) -> impl Iterator<Item = &Directory> {
        self.0.iter().filter(move |directory| directory.holds == holds)
    }

    /// The directories on this file system that hold this, as paths from its root.
    pub fn on<'a>(&'a self, fs: &'a FileSystem, holds: Holds) -> impl Iterator<Item = &'a Path> {
        self.of(holds)
            .filter_map(|directory| directory.on.as_ref())
            .filter(|(on, _)| *on == fs.name)
            .map(|(_, dir)| &**dir)
    }

    /// Where a hook of ours leaves the server's position. The server itself says best what its data directory is
    /// called.
    pub(crate) fn position_file(&self, image: &Manifest) -> PathBuf {
        let asked = self.of(Holds::Data).next();
        position_file(asked.map_or(&image.server.datadir, |directory| &directory.path))
    }

    /// Takes out those that are on none of the image's file systems.
    pub(crate) fn take_foreign(&mut self) -> Vec<Directory> {
        self.0.extract_if(.., |directory| directory.on.is_none()).collect()
    }

    /// The directories as entries of the history.
    pub(crate) fn entries(&self, t: Nanos) -> impl Iterator<Item = Entry> {
        self.0.iter().map(move |directory| Entry::Directory {
            t,
            holds: directory.holds,
            path: printable(&directory.path.to_string_lossy()),
            fs: printable(&directory.fs),
            on: directory.on.as_ref().map(|(on, _)| on.clone()),
            reached: directory.reached,
        })
    }
}

/// Prints four parts: the directories, the server's mount table, the agent's, and the block devices.
const FIND: &str = r#"set -e
PATH=$PATH:/usr/sbin:/sbin
tab=$(printf '\t')
pid=$(systemctl show --property MainPID --value UNIT)
[ "${pid:-0}" -gt 0 ] || { echo "no process of the unit runs" >&2; exit 1; }
answers=$(CLIENT)
data=
echo "$answers" | while IFS=$tab read -r holds path; do
    case $path in
        /*) ;;
        *) path=$data/$path ;;
    esac
    [ "$holds" != data ] || data=$path
    [ "$holds" != binlogs ] || path=${path%/*}
    printf '%s\t%s\n' "$holds" "$(chroot "/proc/$pid/root" readlink -f "$path")"
done
echo; cat "/proc/$pid/mountinfo"
echo; cat /proc/self/mountinfo
echo
for device in /sys/dev/block/*; do
    start=0 name=
    [ ! -r "$device/start" ] || read -r start <"$device/start"
    [ ! -r "$device/dm/name" ] || read -r name <"$device/dm/name"
    [ ! -r "$device/loop/backing_file" ] || IFS= read -r name <"$device/loop/backing_file"
    printf '%s\t%s\t%s\t%s\n' "${device##*/}" "$(readlink "$device")" "$start" "$name"
done
"#;

/// A line of a mount table; see proc_pid_mountinfo(5).
#[derive(Debug)]
struct Mount {
    id: String,
    parent: String,
    /// Major and minor number.
    device: String,
    /// Which directory of the file system is mounted.
    root: PathBuf,
    at: PathBuf,
    fs: String,
    source: String,
}

/// A block device.
#[derive(Debug)]
struct Device<'a> {
    numbers: &'a str,
    /// Its path in sysfs, which ends with the disk's name and, for a partition, its own.
    path: &'a Path,
    /// Where it begins on its disk, bytes.
    start: u64,
    /// Its device mapper name, or the file behind a loop device.
    name: &'a str,
}

fn parse(text: &str, image: &Manifest) -> Result<(Directories, Mounts), DirectoriesError> {
    let mut parts = text.splitn(4, "\n\n");
    let mut part = |what| parts.next().ok_or(DirectoriesError::Missing(what));
    let (dirs, server) = (part("the directories")?, part("the server's mounts")?);
    let (agent, devices) = (part("the agent's mounts")?, part("the devices")?);
    let [server, agent] = [server, agent].map(|table| table.lines().filter_map(mount).collect::<Vec<_>>());
    let devices: Vec<_> = devices.lines().filter_map(device).collect();
    // A later mount at the same point hides the one below.
    let hidden = |below: &Mount| agent.iter().any(|mount| mount.parent == below.id && mount.at == below.at);
    let frozen: BTreeSet<&str> = agent
        .iter()
        .filter(|mount| is_freezable(mount) && !hidden(mount))
        .map(|mount| mount.device.as_str())
        .collect();
    let directory = |holds, path: PathBuf| {
        // Of the mounts at one point the last is on top.
        let holders = server.iter().filter(|mount| path.starts_with(&mount.at));
        let mount = holders.max_by_key(|mount| mount.at.components().count())?;
        let inside = mount.root.join(path.strip_prefix(&mount.at).ok()?);
        let on = file_system(mount, &devices, image).map(|fs| (fs.name.clone(), inside));
        let reached = frozen.contains(mount.device.as_str());
        Some(Directory { holds, path, fs: mount.fs.clone(), on, reached })
    };
    let mut directories = Vec::new();
    for line in dirs.lines() {
        let (holds, path) = line.split_once('\t').ok_or(DirectoriesError::NoPath)?;
        let holds = match holds {
            "data" => Holds::Data,
            "redo" => Holds::Redo,
            "undo" => Holds::Undo,
            "binlogs" => Holds::Binlogs,
            _ => return Err(DirectoriesError::UnknownContent),
        };
        let path = PathBuf::from(path);
        // A part of the data may be a mount of its own.
        let below = server
            .iter()
            .filter(|mount| holds == Holds::Data && mount.at != path && mount.at.starts_with(&path));
        let below: Vec<_> = below.filter_map(|mount| directory(holds, mount.at.clone())).collect();
        directories.push(directory(holds, path).ok_or(DirectoriesError::NoMount)?);
        directories.extend(below);
    }
    if !directories.iter().any(|directory| directory.holds == Holds::Data) {
        return Err(DirectoriesError::Missing("the data directory"));
    }
    let volumes = u32::try_from(frozen.len()).unwrap_or(u32::MAX);
    let name = |it: &Mount| printable(&format!("{} ({})", it.at.display(), it.fs));
    let opened = agent.iter().filter(|mount| is_opened(mount)).map(name).take(MOST_NAMED).collect();
    Ok((Directories(directories), Mounts { volumes, opened }))
}

/// Whether an agent freezes this mount.
fn is_freezable(mount: &Mount) -> bool {
    FREEZABLE.contains(&mount.fs.as_str()) && is_opened(mount)
}

/// Whether an agent tries to. Agents skip mounts without a block device of their own, except btrfs; see
/// `build_fs_mount_list` in QEMU's `qga/commands-linux.c`.
fn is_opened(mount: &Mount) -> bool {
    mount.fs == "btrfs" || !mount.device.starts_with("0:")
}

/// The file system of the image that is mounted here.
fn file_system<'a>(mount: &Mount, devices: &[Device<'_>], image: &'a Manifest) -> Option<&'a FileSystem> {
    // A btrfs mount has no device number, but it has the device's name.
    let source = Path::new(&mount.source).file_name()?;
    let named =
        |device: &&Device<'_>| device.path.file_name() == Some(source) || Path::new(device.name) == source;
    let device = match mount.device.starts_with("0:") {
        false => devices.iter().find(|device| device.numbers == mount.device),
        true if mount.fs == "btrfs" => devices.iter().find(named),
        true => None,
    }?;
    let looped = image.loops.iter().find(|looped| looped.file == Path::new(device.name));
    let on_disks = || image.disks.iter().flat_map(|disk| &disk.file_systems);
    looped
        .map(|looped| &looped.file_system)
        .or_else(|| on_disks().find(|fs| !device.name.is_empty() && fs.name == device.name))
        .or_else(|| {
            let names = || device.path.iter().rev().take(2);
            let disk = image.disks.iter().find(|disk| names().any(|name| name == disk.target.as_str()))?;
            disk.file_systems.iter().find(|fs| fs.start == device.start && device.name.is_empty())
        })
}

fn mount(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let mut field = || fields.next();
    let (id, parent, device) = (field()?.to_owned(), field()?.to_owned(), field()?.to_owned());
    let (root, at) = (unescape(field()?), unescape(field()?));
    // Any number of optional fields end with a hyphen.
    fields.by_ref().find(|field| *field == "-")?;
    let (fs, source) = (fields.next()?.to_owned(), unescape(fields.next()?));
    let source = source.to_string_lossy().into_owned();
    Some(Mount { id, parent, device, root, at, fs, source })
}

fn device(line: &str) -> Option<Device<'_>> {
    let fields: Vec<_> = line.splitn(4, '\t').collect();
    let &[numbers, path, start, name] = fields.as_slice() else { return None };
    Some(Device { numbers, path: Path::new(path), start: start.parse::<u64>().ok()? * SECTOR, name })
}

/// Mount tables write blanks and backslashes as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut pieces = text.split('\\');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_at_checked(3).map(|(digits, rest)| (u8::from_str_radix(digits, 8), rest)) {
            Some((Ok(byte), rest)) => {
                plain.push(char::from(byte));
                plain.push_str(rest);
            }
            _ => plain.extend(["\\", piece]),
        }
    }
    PathBuf::from(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::image::{Database, FsKind};

    fn image() -> Manifest {
        let fs = |name: &str, start, mount: &str| FileSystem {
            name: name.to_owned(),
            start,
            bytes: 1 << 30,
            fs: FsKind::Ext4,
            mount: mount.into(),
        };
        let disk = |target: &str, file_systems| contract::image::Disk {
            target: target.to_owned(),
            file: PathBuf::new(),
            file_systems,
        };
        let inner = fs("loop0", 0, "/var/lib/mysql-binlog");
        let disks = vec![
            disk("vda", vec![fs("vda", 1 << 20, "/")]),
            disk("vdb", vec![fs("data-tables", 4096, "/var/lib/mysql"), fs("data-redo", 1 << 21, "/redo")]),
        ];
        let loops = vec![contract::image::Loop { file: "/srv/inner.img".into(), file_system: inner }];
        let agent = contract::image::AgentFacts {
            unit: String::new(),
            hook: PathBuf::new(),
            enabled_by: PathBuf::new(),
        };
        let server = contract::image::Server {
            database: Database::Mariadb,
            unit: "mariadb.service".to_owned(),
            datadir: "/var/lib/mysql".into(),
            binlogs: Some("/var/lib/mysql-binlog".into()),
            port: 3306,
            user: String::new(),
            password_file: PathBuf::new(),
        };
        Manifest {
            schema: 3,
            name: String::new(),
            digest: String::new(),
            distro: String::new(),
            release: String::new(),
            dir: PathBuf::new(),
            boot: contract::image::Boot::Firmware,
            disks,
            loops,
            binds: Vec::new(),
            memory_mib: 512,
            cpu: None,
            agent,
            channel: contract::image::AgentChannel::default(),
            server,
            versions: Default::default(),
        }
    }

    /// A root partition, a volume, a loop, and what only the server sees.
    const REPORT: &str = "data\t/var/lib/mysql
redo\t/srv/re do
undo\t/var/lib/mysql/undo
binlogs\t/var/lib/mysql-binlog/now

60 1 252:1 / / rw shared:1 - ext4 /dev/vda1 rw
61 60 253:0 / /var/lib/mysql rw shared:2 - ext4 /dev/mapper/data-tables rw
62 60 7:0 /sub /var/lib/mysql-binlog rw - ext4 /dev/loop0 rw
63 60 0:40 / /srv rw - tmpfs tmpfs rw
64 61 0:41 / /var/lib/mysql/shop rw - tmpfs tmpfs rw

20 1 252:1 / / rw shared:1 - ext4 /dev/vda1 rw
21 20 253:0 / /var/lib/mysql rw shared:2 - ext4 /dev/mapper/data-tables rw
22 20 252:1 /srv /mnt/a\\040bind rw shared:2 - ext4 /dev/vda1 rw
23 20 7:0 / /over rw - ext4 /dev/loop0 rw
24 23 0:42 / /over rw - tmpfs tmpfs rw
25 20 0:43 / /proc rw - proc proc rw

252:0\t../../devices/pci0000:00/virtio1/block/vda\t0\t
252:1\t../../devices/pci0000:00/virtio1/block/vda/vda1\t2048\t
253:0\t../../devices/virtual/block/dm-0\t0\tdata-tables
7:0\t../../devices/virtual/block/loop0\t0\t/srv/inner.img
";

    #[test]
    fn directories_are_found_where_the_server_sees_them() {
        let (directories, mounts) = parse(REPORT, &image()).unwrap();
        let found: Vec<_> = directories
            .0
            .iter()
            .map(|Directory { holds, path, on, reached, .. }| {
                let on = on.as_ref().map(|(fs, dir)| format!("{fs}:{}", dir.display()));
                (*holds, path.display().to_string(), on, *reached)
            })
            .collect();
        let on = |text: &str| Some(text.to_owned());
        assert_eq!(
            found,
            [
                (Holds::Data, "/var/lib/mysql".to_owned(), on("data-tables:/"), true),
                (Holds::Data, "/var/lib/mysql/shop".to_owned(), None, false),
                (Holds::Redo, "/srv/re do".to_owned(), None, false),
                (Holds::Undo, "/var/lib/mysql/undo".to_owned(), on("data-tables:/undo"), true),
                // In the agent's mount table another mount hides it.
                (Holds::Binlogs, "/var/lib/mysql-binlog/now".to_owned(), on("loop0:/sub/now"), false),
            ]
        );
        let position = Path::new("/var/lib/fsfreeze-db/var-lib-mysql.position");
        assert_eq!(directories.position_file(&image()), position);
        assert_eq!(Directories::default().position_file(&image()), position);
        assert_eq!(mounts.volumes, 2);
        let opened = ["/ (ext4)", "/var/lib/mysql (ext4)", "/mnt/a bind (ext4)", "/over (ext4)"];
        assert_eq!(mounts.opened, opened);
    }

    #[test]
    fn btrfs_is_known_by_the_name_of_its_device() {
        let report = "data\t/data/mysql\n\n\
                    60 1 0:30 /top /data rw - btrfs /dev/vda1 rw\n\n\
                    20 1 0:30 /top /data rw - btrfs /dev/vda1 rw\n\n\
                    252:1\t../../devices/pci0000:00/virtio1/block/vda/vda1\t2048\t\n";
        let (directories, mounts) = parse(report, &image()).unwrap();
        let directory = &directories.0[0];
        assert_eq!(directory.on, Some(("vda".to_owned(), "/top/mysql".into())));
        assert!(directory.reached);
        assert_eq!(mounts, Mounts { volumes: 1, opened: vec!["/data (btrfs)".to_owned()] });
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for report in ["", "data\t/x", "\n\n\n\n\n\n", "data\t/x\n\n\n\n\n\n"] {
            assert!(parse(report, &image()).is_err(), "{report:?}");
        }
        assert_eq!(unescape(r"/a\040b\134c\09"), PathBuf::from(r"/a b\c\09"));
        assert_eq!(unescape(r"/a\"), PathBuf::from(r"/a\"));
    }
}
