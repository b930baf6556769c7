//! Warm start: an image is booted once, until its server answers and its agent is connected, and
//! saved with its memory (a verifier after its server was stopped). Every trial then starts from
//! there, with its own overlays, sockets and port.
//!
//! A saved state (memory, domain.xml, TARGET.warm.qcow2, paths.json, capabilities/) is in its image's
//! directory and is removed with it; see [`SavedStates`]. It appears by one rename, so it is never seen
//! half written. Its key covers everything that the memory depends on, so it is never used with anything
//! else. One that is damaged, or whose guest does not come up, is thrown away.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use contract::files;
use contract::lock;
use contract::plan::{Accel, Plan};
use contract::saved_states::{SavedState, SavedStates};
use contract::seal::Depth;
use procfs::{CpuInfo, Current as _};
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::error::{Error, Result, SavedMemoryError};
use crate::guest::{Drive, EMULATOR, Machine, Spec, escape_xml};
use crate::host::{capabilities, guest_user};
use crate::interrupt;
use crate::load::heartbeat;
use crate::overlay;
use crate::restore;
use crate::session::Session;

/// Part of every key: raise it when a change here makes old states unusable.
const VERSION: u32 = 5;

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
    state: SavedState,
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
    /// The saved guest of this plan's image in this role, created now if there is none. `notes` tell of one
    /// that was thrown away. On an error the caller can still boot.
    pub fn of(
        session: &Session<'_>,
        role: GuestRole,
        notes: &mut Vec<String>,
    ) -> Result<(Self, MemoryOrigin)> {
        let plan = session.plan;
        let states = SavedStates::of(&plan.image.dir);
        states.create().map_err(SavedMemoryError::File)?;
        guest_user::let_enter(states.dir())?;
        let key = key(plan, role)?;
        if let Some(found) = Self::find(role, &states, &key, notes)? {
            return Ok((found, MemoryOrigin::Found));
        }
        let begin = Instant::now();
        let waits =
            format!("{}: waits for the memory of a {} guest of {}", plan.trial, role.name(), plan.image.name);
        let _lock = lock(&states.lock_file(&key), &waits)?;
        // Whoever held the lock has created it.
        if let Some(found) = Self::find(role, &states, &key, notes)? {
            return Ok((found, MemoryOrigin::Awaited(begin.elapsed())));
        }
        let begin = Instant::now();
        states.sweep().map_err(SavedMemoryError::File)?;
        let scratch = states.scratch(&key);
        if scratch.exists() {
            fs::remove_dir_all(&scratch).map_err(Error::io("remove", &scratch))?;
        }
        fs::create_dir(&scratch).map_err(Error::io("create", &scratch))?;
        guest_user::let_enter(&scratch)?;
        make(session, role, &scratch)?;
        let made = states.publish(&key, &scratch).map_err(SavedMemoryError::File)?;
        Ok((Self::open(role, made)?, MemoryOrigin::Made(begin.elapsed())))
    }

    /// The saved guest with this key. One that is damaged is thrown away.
    fn find(
        role: GuestRole,
        states: &SavedStates,
        key: &str,
        notes: &mut Vec<String>,
    ) -> Result<Option<Self>, SavedMemoryError> {
        let Some(state) = states.find(key)? else { return Ok(None) };
        let Err(damage) = state.check(Depth::Stamps, &|| false) else {
            return Self::open(role, state).map(Some);
        };
        state.throw_away()?;
        let why = SavedMemoryError::Damaged { role: role.name(), damage };
        // `cargo xtask e2e` shows nothing less than a warning.
        warn!("{why}");
        notes.push(why.to_string());
        Ok(None)
    }

    fn open(role: GuestRole, state: SavedState) -> Result<Self, SavedMemoryError> {
        let paths = files::read_json(&state.dir().join(PATHS))?;
        Ok(Self { role, state, paths })
    }

    /// Decides what becomes of it when the guest that started from it failed with this error, or did not
    /// start: unless the host is to blame, it is thrown away, and the result says so. Otherwise the error
    /// is returned.
    pub fn reject(&self, error: Error) -> Result<SavedMemoryError> {
        if error.is_request_to_stop() {
            return Err(error);
        }
        let role = self.role.name();
        // Whoever seems to have ended the guest: QEMU itself may crash of what it is given.
        let why = match self.state.check(Depth::Contents, &interrupt::is_over) {
            Err(damage) => SavedMemoryError::Damaged { role, damage },
            Ok(()) if error.speaks_against_memory() => {
                SavedMemoryError::Failed { role, cause: error.to_string() }
            }
            Ok(()) => return Err(error),
        };
        self.state.throw_away().map_err(SavedMemoryError::File)?;
        Ok(why)
    }

    /// The disks below a trial's overlays, in the plan's order.
    pub fn disks(&self, plan: &Plan) -> Vec<Drive> {
        overlays(plan, self.state.dir())
    }

    /// Starts a guest from the saved memory, with the files of `spec`. Its server answers at once;
    /// call [`wake`] before anything else is done with the guest.
    pub fn start(&self, session: &Session<'_>, spec: &Spec) -> Result<Machine> {
        let Session { plan, libvirt, root, transcript, .. } = session;
        copy_files(&self.state.dir().join(CAPABILITIES), &capabilities(root))?;
        let saved = self.state.dir().join(XML);
        let mut xml = fs::read_to_string(&saved).map_err(Error::io("read", &saved))?;
        for (role, path) in paths(spec) {
            let saved = self.paths.get(&role).ok_or(SavedMemoryError::NoFile(role))?;
            let [old, new] = [saved, &path].map(|path| format!("'{}'", escape_xml(&path.to_string_lossy())));
            if !xml.contains(&old) {
                return Err(SavedMemoryError::NotNamed(saved.clone()).into());
            }
            xml = xml.replace(&old, &new);
        }
        if spec.proxy.is_some() {
            xml = with_proxy(&xml, &spec.agent)?;
        }
        let limit = plan.limits.agent;
        let spec = Spec { name: self.role.saved_name(), ..spec.clone() };
        Machine::restore(
            libvirt,
            &self.state.dir().join(MEMORY),
            &xml,
            &spec,
            self.role.name(),
            transcript,
            limit,
        )
    }
}

/// The saved guests on which the guests of a trial stand. They stay on the disk while this lives.
#[derive(Debug, Default)]
pub struct GuestsInUse(Mutex<Vec<Arc<SavedGuest>>>);

impl GuestsInUse {
    /// Adds one.
    pub fn add(&self, guest: &Arc<SavedGuest>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(guest));
    }

    /// Forgets one on which nothing stands any more.
    pub fn remove(&self, guest: &Arc<SavedGuest>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|used| !Arc::ptr_eq(used, guest));
    }

    /// Checks that they are as they were saved. One that is not is thrown away.
    pub fn check(&self, depth: Depth, is_over: &dyn Fn() -> bool) -> Result<(), SavedMemoryError> {
        for guest in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Err(damage) = guest.state.check(depth, is_over) {
                guest.state.throw_away()?;
                return Err(SavedMemoryError::Damaged { role: guest.role.name(), damage });
            }
        }
        Ok(())
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

/// A definition in which the agent's channel leads to a proxy, which listens where QEMU would.
fn with_proxy(xml: &str, agent: &Path) -> Result<String, SavedMemoryError> {
    let path = escape_xml(&agent.to_string_lossy());
    let [qemu, proxy] = ["bind", "connect"].map(|mode| format!("<source mode='{mode}' path='{path}'/>"));
    if !xml.contains(&qemu) {
        return Err(SavedMemoryError::NotNamed(agent.to_owned()));
    }
    Ok(xml.replace(&qemu, &proxy))
}

/// The files of a spec that differ from trial to trial.
fn paths(spec: &Spec) -> Paths {
    let disks = spec.drives.iter().map(|drive| (format!("disk {}", drive.target), drive.file.clone()));
    let heartbeats =
        spec.heartbeats.iter().map(|(name, socket)| (format!("heartbeat {name}"), socket.clone()));
    let exchange = spec.exchange.iter().map(|file| ("exchange disk".to_owned(), file.clone()));
    let agent = [("agent".to_owned(), spec.agent.clone())];
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
        // Overlays name the disks below them by their whole paths, and a checkout may be copied.
        plan.image.dir.as_os_str().as_bytes(),
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

/// Waits until no other trial is creating this state; `waits` says so.
fn lock(path: &Path, waits: &str) -> Result<File> {
    let file = File::create(path).map_err(Error::io("lock", path))?;
    // A warning, because `cargo xtask e2e` shows nothing less.
    let announce = |holder: &str| warn!("{waits}, which {holder} saves for all trials");
    lock::wait(&file, announce, interrupt::pass).map_err(Error::io("lock", path))??;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io;

    use contract::seal;

    use super::*;
    use crate::error::GuestError;
    use crate::guest_end::GuestEnd;

    /// The state of a guest, with a memory of more than a mebibyte, and the image in whose directory it is.
    fn saved() -> (tempfile::TempDir, SavedStates) {
        let image = tempfile::tempdir().expect("a directory");
        let states = SavedStates::of(image.path());
        states.create().expect("a directory");
        let scratch = states.scratch("key");
        fs::create_dir(&scratch).expect("a directory");
        fs::write(scratch.join(MEMORY), vec![7; 3 << 20]).expect("a memory");
        fs::write(scratch.join(XML), "<domain/>").expect("a definition");
        fs::write(scratch.join(PATHS), "{}").expect("paths");
        states.publish("key", &scratch).expect("a state");
        (image, states)
    }

    fn find(states: &SavedStates) -> (Option<SavedGuest>, Vec<String>) {
        let mut notes = Vec::new();
        let found = SavedGuest::find(GuestRole::Source, states, "key", &mut notes).expect("an answer");
        (found, notes)
    }

    fn truncate(file: &Path) {
        File::options().write(true).open(file).and_then(|file| file.set_len(9)).expect("a short file");
    }

    /// Changes a byte so that only reading the file shows it.
    fn rot(file: &Path) {
        let modified = fs::metadata(file).and_then(|metadata| metadata.modified()).expect("a time");
        let mut bytes = fs::read(file).expect("a file");
        bytes[5] ^= 1;
        fs::write(file, bytes).expect("a file");
        File::options().write(true).open(file).and_then(|file| file.set_modified(modified)).expect("a time");
    }

    #[test]
    fn a_damaged_memory_is_thrown_away_at_its_next_use_and_said() {
        type Harm = fn(&Path);
        let harms: [(Harm, &str); 4] = [
            (|dir| truncate(&dir.join(MEMORY)), "memory has 9 bytes, and had 3145728 when it was made"),
            (|dir| rot(&dir.join(XML)), "domain.xml has changed since it was made"),
            (|dir| fs::remove_file(dir.join(PATHS)).expect("removed"), "paths.json is gone"),
            (|dir| fs::remove_file(dir.join("seal.json")).expect("removed"), "there is no such file)"),
        ];
        for (harm, expected) in harms {
            let (_image, states) = saved();
            let (found, notes) = find(&states);
            let dir = found.expect("a whole guest").state.dir().to_owned();
            assert!(notes.is_empty(), "{notes:?}");
            harm(&dir);
            let (found, notes) = find(&states);
            assert!(found.is_none());
            let [note] = notes.as_slice() else { panic!("{notes:?}") };
            assert!(note.starts_with("the saved memory of the source guest was damaged ("), "{note}");
            assert!(note.ends_with(&format!("{expected}) and is thrown away")), "{note}");
            // Nobody meets it again.
            assert_eq!(find(&states).1, Vec::<String>::new());
            states.sweep().expect("swept");
            assert!(!dir.exists());
        }
    }

    #[test]
    fn a_memory_that_failed_once_is_thrown_away_unless_the_host_is_to_blame() {
        let libvirt = || {
            let refused =
                virt::connect::Connect::open(Some("test:///no/such/file")).expect_err("no such libvirt");
            Error::libvirt("start a guest from its saved memory")(refused)
        };
        let guest = || Error::from(GuestError::UnitFailed { role: "source", unit: "mariadb".to_owned() });
        let host = || Error::io("write", Path::new("/full"))(io::ErrorKind::StorageFull.into());
        let overdue = || Error::Overdue(Duration::ZERO);
        fn ended(end: GuestEnd) -> Error {
            let (console, lines) = (PathBuf::from("/console.log"), String::new());
            Error::GuestEnded { role: "source", end, console, lines }
        }
        type Case = (fn() -> Error, bool, Option<&'static str>);
        let cases: [Case; 11] = [
            (
                || ended(GuestEnd::ShutDown),
                false,
                Some("failed (the source guest shut itself down or panicked"),
            ),
            (|| ended(GuestEnd::QemuGone), false, None),
            (|| ended(GuestEnd::QemuGone), true, Some("was damaged (")),
            (libvirt, false, Some("failed (libvirt cannot start a guest from its saved memory: ")),
            (guest, false, Some("failed (the unit mariadb failed to start in the source guest)")),
            (host, false, None),
            (|| Error::Interrupted, false, None),
            (overdue, false, None),
            // Its memory has rotted meanwhile.
            (guest, true, Some("was damaged (")),
            (host, true, Some("was damaged (")),
            (|| Error::Interrupted, true, None),
        ];
        for (error, rotten, expected) in cases {
            let (_image, states) = saved();
            let guest = find(&states).0.expect("a guest");
            if rotten {
                rot(&guest.state.dir().join(MEMORY));
            }
            match (guest.reject(error()), expected) {
                (Ok(why), Some(expected)) => {
                    let why = why.to_string();
                    assert!(
                        why.starts_with(&format!("the saved memory of the source guest {expected}")),
                        "{why}"
                    );
                    assert!(why.ends_with(" and is thrown away"), "{why}");
                }
                (Err(kept), None) => assert_eq!(kept.to_string(), error().to_string()),
                (decided, expected) => panic!("{decided:?} instead of {expected:?}"),
            }
            assert_eq!(find(&states).0.is_none(), expected.is_some());
        }
    }

    #[test]
    fn the_base_of_a_running_guest_stays_where_it_is() {
        let (_image, states) = saved();
        let (running, failed) = (find(&states).0.expect("a guest"), find(&states).0.expect("a guest"));
        failed
            .reject(GuestError::UnitFailed { role: "source", unit: "s".to_owned() }.into())
            .expect("thrown away");
        drop(failed);
        states.sweep().expect("swept");
        seal::check(running.state.dir(), Depth::Contents, &|| false).expect("whole");
        drop(running);
        states.sweep().expect("swept");
        assert!(states.all().expect("a list").is_empty());
    }

    #[test]
    fn a_trial_throws_away_the_memory_that_rotted_below_it() {
        let (_image, states) = saved();
        let in_use = GuestsInUse::default();
        let guest = Arc::new(find(&states).0.expect("a guest"));
        in_use.add(&guest);
        rot(&guest.state.dir().join(MEMORY));
        in_use.check(Depth::Stamps, &|| false).expect("nothing shows");
        let why = in_use.check(Depth::Contents, &|| false).expect_err("damage").to_string();
        assert!(why.contains("memory has changed since it was made"), "{why}");
        assert!(find(&states).0.is_none());
        in_use.remove(&guest);
        in_use.check(Depth::Contents, &|| false).expect("nothing is in use");
    }

    /// The plan of a trial on an image in this directory, which boots as a real machine does.
    fn plan(image: &str) -> Plan {
        let limits = ["boot", "server", "agent", "freeze", "thaw", "hold", "statement"];
        let limits = limits.map(|name| (name.to_owned(), serde_json::json!({ "secs": 60, "nanos": 0 })));
        let plan = serde_json::json!({
            "trial": "t", "scenario": "s", "summary": "", "hook": "none", "install": null,
            "image": {
                "schema": 3, "name": "one", "digest": "00", "distro": "d", "release": "r", "dir": image,
                "boot": "firmware", "disks": [{"target": "vda", "file": format!("{image}/vda.raw"), "file_systems": []}],
                "memory_mib": 1, "agent": {"unit": "u", "hook": "/h", "enabled_by": "/e"},
                "server": {"database": "mariadb", "unit": "u", "datadir": "/d", "binlogs": "/d", "port": 1,
                    "user": "u", "password_file": "/p"},
                "versions": {},
            },
            "load": {"profile": "durable", "writers": 2, "seconds": 4.0},
            "freeze": true, "snapshot": {"apart_ms": 0, "cycles": 1}, "faults": [],
            "expect": {"grade": ["application-consistent"]},
            "seed": 1, "accel": "tcg", "start": "warm", "connect": null, "dir": "/runs/run/trial",
            "limits": serde_json::Map::from_iter(limits), "keep": "none",
        });
        serde_json::from_value(plan).unwrap()
    }

    /// Its overlays would lead to the disks of the other checkout.
    #[test]
    fn a_state_is_not_used_in_a_copy_of_its_checkout() {
        let key = |image| key(&plan(image), GuestRole::Source).unwrap();
        assert_eq!(key("/one/images/i"), key("/one/images/i"));
        assert_ne!(key("/one/images/i"), key("/copy/images/i"));
    }
}
