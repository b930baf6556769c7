//! Warm start: an image is booted once, until its server answers and its agent is connected, and
//! saved with its memory (a verifier after its server was stopped). Every trial then starts from
//! there, with its own overlays, sockets and port.
//!
//! ```text
//! IMAGE/warm/KEY/      memory, domain.xml, TARGET.warm.qcow2, paths.json, capabilities/: never changed
//! IMAGE/warm/KEY.lock  locked while one is made
//! IMAGE/warm/tmp-KEY/  one that is being made, or whose maker died
//! ```
//!
//! A saved state is in its image's directory and is removed with it. It appears by one rename, so
//! it is never seen half written. Its key covers everything that the memory depends on, so it is
//! never used with anything else.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use contract::plan::{Accel, Plan};
use procfs::{CpuInfo, Current as _};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, SavedMemoryError};
use crate::guest::{Drive, EMULATOR, Machine, Spec, escape_xml};
use crate::host::capabilities;
use crate::interrupt;
use crate::load::heartbeat;
use crate::overlay;
use crate::restore;
use crate::session::Session;

/// Part of every key: raise it when a change here makes old states unusable.
const VERSION: u32 = 4;

/// The role in which a saved guest starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestRole {
    /// The first guest of a trial.
    Source,
    /// The guest to which snapshots are attached.
    Verifier,
}

impl GuestRole {
    /// Its name in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Verifier => "verifier",
        }
    }

    /// A guest in this role, on these disks. Sockets are in `root`, whose path
    /// must be short; `exchange` and heartbeats are for the first guest.
    pub fn spec(self, plan: &Plan, drives: Vec<Drive>, exchange: &Path, root: &Path) -> Spec {
        let spec = Spec::of(plan, self.name(), drives, root);
        match self {
            Self::Source => Spec {
                exchange: Some(exchange.to_owned()),
                heartbeats: heartbeat::sockets(&plan.image, root),
                ..spec
            },
            Self::Verifier => Spec { hotplug: true, ..spec },
        }
    }

    /// The name of the domain in its saved state. A restored domain may have no
    /// other; in a trial's own libvirt nobody else has it.
    fn saved_name(self) -> String {
        format!("freezeframe-warm-{}", self.name())
    }
}

const MEMORY: &str = "memory";
const XML: &str = "domain.xml";
const PATHS: &str = "paths.json";
const CAPABILITIES: &str = "capabilities";

/// The pause between two attempts to take a lock that another trial holds.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The guest's side of [`wake`]: one script, because each program takes its time under emulation.
const WAKE: &str = "set -e; read -r now; read -r seed
date -u -s \"@$now\" >/dev/null; echo \"$seed\" >/dev/urandom
IFS=-; read -r id </proc/sys/kernel/random/uuid; printf %s $id >/etc/machine-id; echo >>/etc/machine-id";

/// How many bytes of randomness a guest is given.
const SEED: usize = 64;

/// How much of its hash is a key, bytes.
const KEY: usize = 8;

/// A saved guest, ready to start from.
#[derive(Debug)]
pub struct SavedGuest {
    role: GuestRole,
    dir: PathBuf,
    /// The files named in its domain definition, by their purpose.
    paths: Paths,
}

/// Where a saved guest came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryOrigin {
    /// It was there.
    Found,
    /// Another trial was making it; how long this one waited.
    Awaited(Duration),
    /// This trial made it; how long that took.
    Made(Duration),
}

/// Files named in a domain definition, by their purpose.
type Paths = BTreeMap<String, PathBuf>;

impl SavedGuest {
    /// The saved guest of this plan's image in this role, created now if there is none. On an error
    /// the caller can still boot.
    pub fn of(session: &Session<'_>, role: GuestRole) -> Result<(Self, MemoryOrigin)> {
        let plan = session.plan;
        let states = plan.image.dir.join("warm");
        fs::create_dir_all(&states).map_err(Error::io("create", &states))?;
        let key = key(plan, role)?;
        let dir = states.join(&key);
        if let Some(found) = Self::read(role, &dir)? {
            return Ok((found, MemoryOrigin::Found));
        }
        let begin = Instant::now();
        let _lock = lock(&states.join(format!("{key}.lock")))?;
        // Whoever held the lock has created it.
        if let Some(found) = Self::read(role, &dir)? {
            return Ok((found, MemoryOrigin::Awaited(begin.elapsed())));
        }
        let begin = Instant::now();
        let scratch = states.join(format!("tmp-{key}"));
        if scratch.exists() {
            fs::remove_dir_all(&scratch).map_err(Error::io("remove", &scratch))?;
        }
        fs::create_dir(&scratch).map_err(Error::io("create", &scratch))?;
        make(session, role, &scratch)?;
        fs::rename(&scratch, &dir).map_err(Error::io("create", &dir))?;
        let made = Self::read(role, &dir)?.ok_or(SavedMemoryError::Gone(dir))?;
        Ok((made, MemoryOrigin::Made(begin.elapsed())))
    }

    fn read(role: GuestRole, dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(PATHS);
        match fs::read(&path) {
            Ok(json) => {
                let paths = serde_json::from_slice(&json)
                    .map_err(|source| SavedMemoryError::Unreadable { file: path, source })?;
                Ok(Some(Self { role, dir: dir.to_owned(), paths }))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &path)(e)),
        }
    }

    /// The disks below a trial's overlays, in the plan's order.
    pub fn disks(&self, plan: &Plan) -> Vec<Drive> {
        overlays(plan, &self.dir)
    }

    /// Starts a guest from the saved memory, with the files of `spec`. Its server answers at once;
    /// call [`wake`] before anything else is done with the guest.
    pub fn start(&self, session: &Session<'_>, spec: &Spec) -> Result<Machine> {
        let Session { plan, libvirt, root, transcript, .. } = session;
        copy_files(&self.dir.join(CAPABILITIES), &capabilities(root))?;
        let saved = self.dir.join(XML);
        let mut xml = fs::read_to_string(&saved).map_err(Error::io("read", &saved))?;
        for (role, path) in paths(spec) {
            let saved = self.paths.get(&role).ok_or(SavedMemoryError::NoFile(role))?;
            let [old, new] = [saved, &path].map(|path| format!("'{}'", escape_xml(&path.to_string_lossy())));
            if !xml.contains(&old) {
                return Err(SavedMemoryError::NotNamed(saved.clone()).into());
            }
            xml = xml.replace(&old, &new);
        }
        let limit = plan.limits.agent;
        let spec = Spec { name: self.role.saved_name(), ..spec.clone() };
        Machine::restore(libvirt, &self.dir.join(MEMORY), &xml, &spec, self.role.name(), transcript, limit)
    }
}

/// Brings a guest from a saved memory up to date: waits until its agent answers, and gives it the
/// host's time, fresh randomness and a machine id of its own.
pub fn wake(machine: &Machine, limit: Duration) -> Result<()> {
    machine.wait_for_answer(limit)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let source = Path::new("/dev/urandom");
    let mut seed = [0; SEED];
    File::open(source).and_then(|mut file| file.read_exact(&mut seed)).map_err(Error::io("read", source))?;
    let input = format!("{}.{:09}\n{}\n", now.as_secs(), now.subsec_nanos(), BASE64.encode(seed));
    machine.agent().script(WAKE, input.as_bytes(), limit).map(drop)
}

/// Boots the image, waits until its server answers, and saves the guest in `scratch`.
fn make(session: &Session<'_>, role: GuestRole, scratch: &Path) -> Result<()> {
    let Session { plan, libvirt, root, .. } = session;
    let Plan { image, limits, .. } = plan;
    let drives = overlay::over_image(scratch, "warm", image)?;
    let exchange = scratch.join("exchange.raw");
    crate::roll_forward::create_exchange(&exchange, image)?;
    let spec = Spec {
        name: role.saved_name(),
        console: scratch.join("console.log"),
        ..role.spec(plan, drives, &exchange, root)
    };
    let (mut machine, _) = session.boot(&spec, role.name())?;
    session.wait_for_server(&mut machine)?;
    if role == GuestRole::Verifier {
        restore::prepare(&machine, plan)?;
    }
    // What a boot still does in the background, every trial would repeat.
    machine.agent().script("systemctl is-system-running --wait; sync", b"", limits.boot)?;
    let memory = scratch.join(MEMORY);
    machine.save(&memory)?;
    let xml = libvirt.saved_xml(&memory)?;
    let file = scratch.join(XML);
    fs::write(&file, xml).map_err(Error::io("write", &file))?;
    let file = scratch.join(PATHS);
    let json = contract::json::pretty(&paths(&spec)).unwrap_or_default();
    fs::write(&file, json).map_err(Error::io("write", &file))?;
    copy_files(&capabilities(root), &scratch.join(CAPABILITIES))?;
    // Otherwise the rename could reach the disk before the files' contents.
    for entry in fs::read_dir(scratch).map_err(Error::io("read", scratch))? {
        let path = entry.map_err(Error::io("read", scratch))?.path();
        File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io("write", &path))?;
    }
    Ok(())
}

/// Copies the files of one directory to another.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(Error::io("create", to))?;
    for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
        let entry = entry.map_err(Error::io("read", from))?;
        fs::copy(entry.path(), to.join(entry.file_name())).map_err(Error::io("copy", &entry.path()))?;
    }
    Ok(())
}

/// The overlays of a saved guest in `dir`.
fn overlays(plan: &Plan, dir: &Path) -> Vec<Drive> {
    plan.image.disks.iter().map(|disk| overlay::overlay(dir, &disk.target, "warm")).collect()
}

/// The files of a spec that differ from trial to trial.
fn paths(spec: &Spec) -> Paths {
    let disks = spec.drives.iter().map(|drive| (format!("disk {}", drive.target), drive.file.clone()));
    let heartbeats =
        spec.heartbeats.iter().map(|(name, socket)| (format!("heartbeat {name}"), socket.clone()));
    let exchange = spec.exchange.iter().map(|file| ("exchange disk".to_owned(), file.clone()));
    let agent = spec.agent.iter().map(|socket| ("agent".to_owned(), socket.clone()));
    disks
        .chain(heartbeats)
        .chain(exchange)
        .chain(agent)
        .chain([("console".to_owned(), spec.console_socket.clone())])
        .collect()
}

/// A hash of everything that a saved memory depends on: the image, the programs that run it, and
/// the virtual machine that they provide.
fn key(plan: &Plan, role: GuestRole) -> Result<String> {
    // Faster than running it for its version, and just as specific.
    let qemu = fs::metadata(EMULATOR).map_err(Error::io("read", Path::new(EMULATOR)))?;
    let qemu = format!("{} {} {}", qemu.len(), qemu.mtime(), qemu.mtime_nsec());
    let libvirt = virt::connect::Connect::version().map_err(Error::libvirt("report its version"))?;
    // The guest sees the host's processor only under KVM.
    let cpu = match plan.accel {
        Accel::Tcg => String::new(),
        Accel::Kvm => CpuInfo::current()
            .map_or_else(|_| String::new(), |cpu| format!("{:?} {:?}", cpu.model_name(0), cpu.flags(0))),
    };
    let nowhere = Path::new("");
    let machine = Spec {
        name: role.saved_name(),
        console: PathBuf::new(),
        ..role.spec(plan, overlays(plan, nowhere), nowhere, nowhere)
    };
    let mut hash = Sha256::new();
    for part in [
        VERSION.to_string().as_bytes(),
        plan.image.digest.as_bytes(),
        qemu.as_bytes(),
        libvirt.to_string().as_bytes(),
        cpu.as_bytes(),
        machine.xml().as_bytes(),
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Ok(hex::encode(&hash.finalize()[..KEY]))
}

/// Waits until no other trial is creating this state.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).map_err(Error::io("lock", path))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => interrupt::pass(LOCK_PAUSE)?,
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
        }
    }
}
