//! Which database servers run on this machine, in containers too.
//!
//! A server is a process, never a path: two of them may have data directories of the same path in two
//! mount namespaces, and each has a lock of its own.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::iter;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use procfs::process::{FDTarget, Process, Stat};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::ours;

/// The most of PostgreSQL's `postmaster.pid` that is read, bytes; the number is at its beginning.
const POSTMASTER: u64 = 4096;

/// How long a server that ends may need to be gone; it gives its memory back first.
const ENDING: Duration = Duration::from_secs(3);

/// How often it is looked at meanwhile.
const POLL: Duration = Duration::from_millis(20);

/// A process, and what distinguishes it from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Its number, as we see it.
    pub(crate) pid: i32,
    /// When it started, clock ticks since the boot.
    pub(crate) started: u64,
}

impl ProcessId {
    /// Our own.
    pub(crate) fn own() -> Option<Self> {
        Self::of(&Process::myself().ok()?)
    }

    /// That of a child that has not ended.
    pub(crate) fn of_child(child: &std::process::Child) -> Option<Self> {
        Self::of(&Process::new(child.id().cast_signed()).ok()?)
    }

    /// That of a process that has not ended.
    pub(crate) fn of(process: &Process) -> Option<Self> {
        let stat = process.stat().ok()?;
        let runs = !matches!(stat.state, 'Z' | 'X');
        runs.then_some(Self { pid: stat.pid, started: stat.starttime })
    }

    /// Whether it ends within this time.
    pub(crate) fn ends_within(self, limit: Duration) -> bool {
        let limit = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() > limit {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }

    /// It runs still.
    pub(crate) fn is_alive(self) -> bool {
        Process::new(self.pid).ok().and_then(|process| Self::of(&process)) == Some(self)
    }
}

/// Which database a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// MariaDB or MySQL: who serves is known when it answers.
    Mysql,
    /// PostgreSQL.
    Postgresql,
}

/// A database server that runs.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Which database it is.
    pub(crate) kind: Kind,
    /// Its process.
    pub(crate) process: ProcessId,
    /// Its data directory, as the server itself sees it.
    pub(crate) data_directory: PathBuf,
    /// Its control group: of a unit, or of a container.
    pub(crate) control_group: String,
    /// The account that it runs as, as we see it; `None` where it could become another one.
    pub(crate) user: Option<u32>,
    /// Its view of the file systems is another one than ours.
    pub(crate) in_container: bool,
    /// The sockets on which it listens.
    pub(crate) sockets: Vec<Socket>,
}

/// A socket of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Socket {
    /// Where it is, as the server itself sees it.
    pub(crate) path: PathBuf,
    /// Nobody else listens under this path: what answers there is this server.
    pub(crate) is_only_one: bool,
}

impl Server {
    /// Opens a file or a directory that the server sees under this path. In a container a link to `/run` leads
    /// to the container's own.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub(crate) fn open(&self, seen: &Path, flags: OFlags) -> io::Result<File> {
        let path = self.data_directory.join(seen);
        let root = format!("/proc/{}/root", self.process.pid);
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = flags | OFlags::CLOEXEC;
        let opened = match rustix::fs::openat2(&root, &path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            // Before Linux 5.6. Such a link then leads nowhere, or to a socket of somebody else, who is not taken
            // for the server.
            Err(Errno::NOSYS) => {
                let below = path.strip_prefix("/").unwrap_or(&path);
                rustix::fs::openat(&root, below, flags, Mode::empty())
            }
            opened => opened,
        };
        Ok(opened?.into())
    }

    /// Its name in messages.
    pub(crate) fn name(&self) -> String {
        let place = if self.in_container { " of its own file systems" } else { "" };
        format!("the server in {}{place}, process {}", self.data_directory.display(), self.process.pid)
    }

    /// A name for files: its data directory, below its control group where it has its own file systems.
    fn file_name(&self) -> String {
        let directory = plain(&self.data_directory.to_string_lossy());
        if self.in_container { format!("{}-{directory}", plain(&self.control_group)) } else { directory }
    }
}

/// Names for the servers' files, no two of them the same.
pub(crate) fn file_names(servers: &[&Server]) -> Vec<String> {
    let names: Vec<String> = servers.iter().map(|server| server.file_name()).collect();
    let is_shared = |name: &String| names.iter().filter(|other| *other == name).count() > 1;
    let name = |(name, server): (&String, &&Server)| {
        if is_shared(name) { format!("{name}-{}", server.process.pid) } else { name.clone() }
    };
    names.iter().zip(servers).map(name).collect()
}

/// Letters and digits stay, and the last 100 of them: what sets two of them apart comes last.
fn plain(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let plain = plain.trim_matches('-');
    plain[plain.len().saturating_sub(100)..].to_owned()
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The servers.
    pub(crate) servers: Vec<Server>,
    /// Why there may be more: a sentence each.
    pub(crate) unseen: Vec<String>,
}

/// Finds the servers.
///
/// # Errors
///
/// If the processes cannot be listed.
pub(crate) fn find() -> io::Result<Found> {
    let mut found = Found::default();
    // With `hidepid` the processes of others are not there at all, the first one included.
    if !Path::new("/proc/1").exists() {
        found.unseen.push("/proc hides the processes of others (hidepid)".to_owned());
    }
    let own_root = fs::metadata("/").map(|root| (root.dev(), root.ino())).ok();
    for pid in pids()? {
        match look_at(pid, own_root) {
            Ok(server) => found.servers.extend(server),
            Err(why) => found.unseen.push(why),
        }
    }
    Ok(found)
}

/// The numbers of all processes.
pub(crate) fn pids() -> io::Result<impl Iterator<Item = i32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// The server that this process is, if it is one, or why that cannot be found out.
fn look_at(pid: i32, own_root: Option<(u64, u64)>) -> Result<Option<Server>, String> {
    let place = Path::new("/proc").join(pid.to_string());
    // From root only a hardened system hides anything; nobody else sees the processes of others. What runs as root
    // may have rights that we lack, and is no server of a name that is unknown here.
    let hidden = |error: io::Error| {
        let is_roots = || Process::new(pid).and_then(|it| it.status()).is_ok_and(|status| status.euid == 0);
        let is_hidden = error.kind() == io::ErrorKind::PermissionDenied
            && rustix::process::geteuid().is_root()
            && !is_roots();
        if is_hidden { Err(format!("process {pid} cannot be looked at: {error}")) } else { Ok(None) }
    };
    let comm = match fs::read(place.join("comm")) {
        Ok(comm) => String::from_utf8_lossy(&comm).into_owned(),
        Err(error) => return hidden(error),
    };
    let cwd = fs::read_link(place.join("cwd"));
    // Most processes have another name and stand in the root directory. Nothing more is asked of them: to the
    // kernel everything else is more work, and a machine may have thousands.
    let stands_elsewhere = cwd.as_ref().is_ok_and(|directory| directory != Path::new("/"));
    if kind_by_name(comm.trim_end()).is_none() && !stands_elsewhere {
        return cwd.map_or_else(hidden, |_| Ok(None));
    }
    let Ok(process) = Process::new(pid) else { return Ok(None) };
    let (Ok(stat), Some(id)) = (process.stat(), ProcessId::of(&process)) else { return Ok(None) };
    let named = match kind_by_name(&stat.comm) {
        Some(Kind::Postgresql) if is_of_server(&stat, &place) => return Ok(None),
        named => named,
    };
    let blind = |error: io::Error| {
        // What is missing of a process is what it has given up on its way to the end, which may take a moment.
        let is_ending = error.kind() == io::ErrorKind::NotFound && id.ends_within(ENDING);
        if named.is_none() || is_ending || !id.is_alive() {
            return Ok(None);
        }
        Err(format!("process {} is called {:?} and cannot be looked at: {error}", id.pid, stat.comm))
    };
    let data_directory = match cwd {
        Ok(directory) => directory,
        Err(error) => return blind(error),
    };
    let by_data = || stands_elsewhere.then(|| kind_by_data(&place.join("cwd"), &process)).flatten();
    let Some(kind) = named.or_else(by_data) else { return Ok(None) };
    let sockets = match listening(&process) {
        Ok(sockets) => sockets,
        Err(procfs::ProcError::NotFound(_)) => return blind(io::ErrorKind::NotFound.into()),
        Err(error) => return blind(io::Error::other(error)),
    };
    // A shell may stand in the directory, and a program that only copies the files as well.
    if named.is_none() && sockets.is_empty() {
        return Ok(None);
    }
    let user = process.status().ok().and_then(|status| ours::only_user(&status));
    // A person may call anything a server, and would refuse every freeze.
    if user.is_some_and(ours::is_person) && sockets.is_empty() && by_data().is_none() {
        return Ok(None);
    }
    let root = fs::metadata(place.join("root")).map(|root| (root.dev(), root.ino())).ok();
    let control_group = fs::read_to_string(place.join("cgroup")).unwrap_or_default();
    Ok(Some(Server {
        kind,
        process: id,
        data_directory,
        control_group: group_of(&control_group).to_owned(),
        user,
        in_container: root != own_root,
        sockets,
    }))
}

/// PostgreSQL's servers have children of the same name, in the same directory. A server that was started in a
/// container may have another server as its parent, whose directory is another one.
fn is_of_server(child: &Stat, place: &Path) -> bool {
    let parent = Path::new("/proc").join(child.ppid.to_string());
    let comm = fs::read(parent.join("comm")).unwrap_or_default();
    let directory = |place: &Path| fs::metadata(place.join("cwd")).map(|it| (it.dev(), it.ino())).ok();
    kind_by_name(String::from_utf8_lossy(&comm).trim_end()) == Some(Kind::Postgresql)
        && directory(&parent) == directory(place)
}

/// Where a process is, in the text of its `/proc/PID/cgroup`: below systemd's own hierarchy, if there is one beside
/// the unified one, in which it may be with all others.
fn group_of(text: &str) -> &str {
    text.lines()
        .find(|line| line.contains(":name=systemd:"))
        .or_else(|| text.lines().last())
        .unwrap_or_default()
}

/// `mysqld`, `mariadbd` and `postgres`, also as vendors call them: `mysqld.bin`, `mysqld-debug`, `mariadbd-11.8`.
/// Not what only begins so: `mysqld_safe` (a script), `mysqld_exporter`, `postgres-operator`. A server of any other
/// name is known by the data that it stands in.
fn kind_by_name(comm: &str) -> Option<Kind> {
    let names = [
        ("mysqld", Kind::Mysql),
        ("mariadbd", Kind::Mysql),
        ("postgres", Kind::Postgresql),
        ("postmaster", Kind::Postgresql),
    ];
    let is_version = |rest: &str| {
        let number = rest.strip_prefix('-').unwrap_or(rest);
        rest.is_empty()
            || rest.starts_with('.') && rest != ".sh"
            || rest == "-debug"
            || number.starts_with(|c: char| c.is_ascii_digit())
    };
    let named = |(name, kind): (&str, Kind)| comm.strip_prefix(name).is_some_and(is_version).then_some(kind);
    names.into_iter().find_map(named)
}

/// Whose data directory it is: a server changes to its own as it starts.
fn kind_by_data(directory: &Path, process: &Process) -> Option<Kind> {
    let has = |name: &str| directory.join(name).exists();
    if has("ibdata1") && (has("mysql") || has("mysql.ibd")) {
        Some(Kind::Mysql)
    } else if has("PG_VERSION") && is_postmaster(directory, process) {
        Some(Kind::Postgresql)
    } else {
        None
    }
}

/// The directory names this very process, by its number in its own namespace, as the server in charge.
fn is_postmaster(directory: &Path, process: &Process) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::open(directory.join("postmaster.pid"), flags, Mode::empty()).ok();
    let text = place.and_then(|place| text_of(&place.into(), POSTMASTER)).unwrap_or_default();
    let named: Option<i32> = text.lines().next().and_then(|line| line.trim().parse().ok());
    let innermost = || process.status().ok()?.nspid?.last().copied();
    named.is_some() && named == innermost()
}

/// What a file says whose owner nobody knows, by its place (`O_PATH`): at most so many bytes of it. Nothing else is
/// opened: a device may do something then, and a FIFO would keep us waiting.
pub(crate) fn text_of(place: &File, most: u64) -> Option<String> {
    if !place.metadata().is_ok_and(|it| it.is_file()) {
        return None;
    }
    let mut text = String::new();
    let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).ok()?;
    file.take(most).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The stream sockets with a path that the process itself listens on.
fn listening(process: &Process) -> procfs::ProcResult<Vec<Socket>> {
    let own: HashSet<u64> = process
        .fd()?
        .flatten()
        .filter_map(|fd| if let FDTarget::Socket(inode) = fd.target { Some(inode) } else { None })
        .collect();
    let text = fs::read(format!("/proc/{}/net/unix", process.pid))?;
    let named: Vec<(PathBuf, u64)> = text.split(|byte| *byte == b'\n').filter_map(unix_socket).collect();
    // One that somebody has made up is there beside the server's own.
    let is_only_one = |path: &PathBuf, inode: &u64| {
        named.iter().filter(|(other, another)| other == path || another == inode).count() == 1
    };
    let mut sockets: Vec<Socket> = named
        .iter()
        .filter(|(_, inode)| own.contains(inode))
        .map(|(path, inode)| Socket { path: path.clone(), is_only_one: is_only_one(path, inode) })
        .collect();
    sockets.sort();
    sockets.dedup();
    Ok(sockets)
}

/// The path and the inode of a socket that somebody listens on, in a line of `/proc/PID/net/unix`. The kernel
/// writes names as they are, which anybody may choose, lines that look like others included.
fn unix_socket(line: &[u8]) -> Option<(PathBuf, u64)> {
    let mut rest = line;
    let next = || {
        rest = rest.trim_ascii_start();
        let (field, after) = rest.split_at(rest.iter().position(|byte| *byte == b' ')?);
        rest = after;
        Some(field)
    };
    let fields: Vec<&[u8]> = iter::repeat_with(next).take(7).map_while(|field| field).collect();
    // Of a stream, whose owner listens.
    let [_, _, _, b"00010000", b"0001", b"01", inode] = fields[..] else { return None };
    let inode = str::from_utf8(inode).ok()?.parse().ok()?;
    // What is no path begins with @.
    let path = rest.strip_prefix(b" ").filter(|path| !path.starts_with(b"@"))?;
    Some((OsStr::from_bytes(path).into(), inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_known_by_the_names_that_vendors_give_them() {
        for name in ["mysqld", "mariadbd", "mysqld.bin", "mysqld-debug", "mariadbd-11.8", "mysqld8.4"] {
            assert_eq!(kind_by_name(name), Some(Kind::Mysql), "{name}");
        }
        for name in ["postgres", "postmaster", "postgres-17", "postgres.bin"] {
            assert_eq!(kind_by_name(name), Some(Kind::Postgresql), "{name}");
        }
        for name in [
            "mysqld_safe",
            "postgres.sh",
            "mysqld_exporter",
            "mysql",
            "mysqldump",
            "mariadb",
            "postgres-operat",
            "psql",
        ] {
            assert_eq!(kind_by_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_control_group_is_that_of_the_container() {
        let unified = "0::/system.slice/docker-5f.scope\n";
        let old = "2:cpu:/\n1:name=systemd:/docker/5f\n";
        let hybrid = "2:cpu:/\n1:name=systemd:/docker/5f\n0::/system.slice/containerd.service\n";
        for (text, group) in [
            (unified, "0::/system.slice/docker-5f.scope"),
            (old, "1:name=systemd:/docker/5f"),
            (hybrid, "1:name=systemd:/docker/5f"),
            ("", ""),
        ] {
            assert_eq!(group_of(text), group);
        }
    }

    #[test]
    fn a_listening_socket_is_a_line_that_nobody_else_has_made_up() {
        let listens =
            |path: &str| format!("00000000478c7ff3: 00000002 00000000 00010000 0001 01 77518 {path}");
        let read = |line: &str| unix_socket(line.as_bytes());
        for path in ["/run/mysqld/mysqld.sock", "relative", "/a path/with  spaces "] {
            assert_eq!(read(&listens(path)), Some((path.into(), 77518)), "{path:?}");
        }
        assert_eq!(
            unix_socket(b"0: 2 0 00010000 0001 01     7 /\xff"),
            Some((OsStr::from_bytes(b"/\xff").into(), 7))
        );
        for line in
            ["", "Num       RefCount Protocol Flags    Type St Inode Path", "\u{fffd}", &listens("@abstract")]
        {
            assert_eq!(read(line), None, "{line:?}");
        }
        for other in ["00010000 0001 03", "00000000 0001 01", "00010000 0002 01"] {
            assert_eq!(read(&listens("/path").replace("00010000 0001 01", other)), None, "{other}");
        }
        assert_eq!(read("00000000478c7ff3: 00000002 00000000 00010000 0001 01 77518"), None);
    }

    #[test]
    fn a_process_is_not_taken_for_another_one_with_its_number() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { started: own.started + 1, ..own }.is_alive());
    }
}
