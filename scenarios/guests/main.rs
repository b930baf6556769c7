//! The harness itself on real guests: what a trial does when it is killed in
//! the middle of its freeze window, when its guest dies, or is hostile.
//!
//! These tests boot real guests: `cargo xtask images build` must have run.
#![expect(clippy::unwrap_used, reason = "a failure of the test's own helpers fails the test")]

mod hostile;
mod verify;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use contract::events;
use contract::files::GUEST_USER;
use contract::grade::Grade;
use contract::history::{self, Entry, Mark};
use contract::image::{Boot, Manifest};
use contract::jsonl;
use contract::plan::{Accel, Plan, Start};
use contract::run::{RUN_DIR_VAR, RunOptions, checkout};
use contract::runtime_dir::Home;
use contract::saved_states::SavedStates;
use contract::scenario::SnapshotMethod;
use harness::trial::supervise;
use judge::verdict::Verdict;
use procfs::process::{Process, all_processes};
use rustix::process::{Pid, Signal, geteuid, kill_process};

const TRIAL: &str = "core/quiesced-snapshot::bookworm-mariadb::freezeframe";

/// What the command line of a guest's QEMU begins with.
const EMULATOR: &str = "/usr/bin/qemu-system";

/// More time than a boot under TCG and the thaw of a guest take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A run of one trial by the test binary, in a process group of its own.
struct Run {
    test: Child,
    dir: PathBuf,
}

/// One trial, in a run of its own.
fn options(name: &str) -> RunOptions {
    let checkout = checkout();
    // With spaces, as the path of a checkout may have them.
    let dir = checkout.join("target/e2e").join(format!("guests {name} {}", std::process::id()));
    RunOptions {
        filters: vec![TRIAL.to_owned()],
        images: vec!["bookworm-mariadb".to_owned()],
        every_image: true,
        ..RunOptions::of(&checkout, dir)
    }
}

/// The plan of their only trial, with a guest that boots under emulation, which works everywhere.
fn booted(options: &RunOptions) -> Plan {
    let requested = &options.trials().unwrap()[0];
    let image = Manifest::read(&options.built, &requested.image).unwrap();
    Plan { start: Start::Cold, ..options.plan(requested, image, Accel::Tcg) }
}

impl Run {
    fn start(name: &str) -> Self {
        let options = options(name);
        options.write().unwrap();
        let dir = options.dir;
        let test = Command::new(e2e_program()).env(RUN_DIR_VAR, &dir).stdout(Stdio::null()).spawn().unwrap();
        Self { test, dir }
    }

    fn trial(&self) -> PathBuf {
        self.dir.join("core-quiesced-snapshot.bookworm-mariadb.freezeframe")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.test), signal).unwrap();
    }

    /// The snapshot begins when the freeze has returned, and the thaw waits for
    /// the probes' second.
    fn wait_for_window(&self) {
        let events = self.trial().join("events.jsonl");
        wait("the freeze window", || {
            fs::read_to_string(&events).is_ok_and(|text| text.contains(r#""stage":"snapshot""#))
        });
    }

    /// The processes that name the trial's directory.
    fn processes(&self) -> Vec<String> {
        self.named_processes().into_iter().map(|(_, line)| line).collect()
    }

    /// The same with their numbers.
    fn named_processes(&self) -> Vec<(Pid, String)> {
        let needle = self.trial().to_string_lossy().into_owned();
        let commands = all_processes().unwrap().filter_map(|process| {
            let process = process.ok()?;
            Some((Pid::from_raw(process.pid)?, process.cmdline().ok()?.join(" ")))
        });
        commands.filter(|(_, line)| line.contains(&needle)).collect()
    }

    /// The QEMU of the guest in this role, once it runs.
    fn qemu(&self, role: &str) -> Pid {
        let mut found = None;
        wait("the guest", || {
            let guest = format!("-{role},");
            let mut processes = self.named_processes().into_iter();
            found = processes
                .find(|(_, line)| line.starts_with(EMULATOR) && line.contains(&guest))
                .map(|(pid, _)| pid);
            found.is_some()
        });
        found.unwrap()
    }

    fn verdict(&self) -> Verdict {
        Verdict::read(&self.trial()).unwrap()
    }

    /// The runtime directories of this trial.
    fn runtime_dirs(&self) -> Vec<PathBuf> {
        let ours = Home::of_user().unwrap().list().unwrap().into_iter();
        ours.filter(|root| root.owner.as_ref().is_some_and(|owner| owner.trial == self.trial()))
            .map(|root| root.dir)
            .collect()
    }

    fn wait_for_clean_end(&mut self) {
        let _ = self.test.wait();
        wait("the supervisor", || self.processes().is_empty() && self.runtime_dirs().is_empty());
        assert!(!self.trial().join("disks").exists(), "overlays are left");
    }

    fn history(&self) -> impl Iterator<Item = Entry> {
        let history = self.trial().join("history.jsonl");
        jsonl::Reader::<Entry>::open(&history, history::KIND).unwrap().map(Result::unwrap)
    }

    fn marks(&self) -> Vec<Mark> {
        let marks = self.history().filter_map(|entry| match entry {
            Entry::Mark { mark, .. } => Some(mark),
            _ => None,
        });
        marks.collect()
    }

    /// What the proxy in the first guest's agent's channel saw of the window.
    fn agent_commands(&self) -> Vec<String> {
        let commands = self.history().filter_map(|entry| match entry {
            Entry::AgentCommand(command) if command.error.is_none() => Some(command.command),
            _ => None,
        });
        commands.collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.test.kill();
        let _ = self.test.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Nothing below this directory may be of use to another user.
fn assert_private(dir: &Path) {
    let mut next = vec![dir.to_owned()];
    while let Some(path) = next.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        assert!(found.is_symlink() || is_private(&found), "others may use {}: {found:?}", path.display());
        if found.is_dir() {
            next.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

/// What QEMU may enter where it has a user of its own, nobody else may.
fn is_private(found: &fs::Metadata) -> bool {
    match found.permissions().mode() & 0o077 {
        0 => true,
        0o010 => found.is_dir() && found.gid() == GUEST_USER,
        _ => false,
    }
}

/// Whoever breaks out of his guest finds himself with no right that matters.
fn assert_unprivileged(qemu: Pid) {
    let status = Process::new(qemu.as_raw_nonzero().get()).and_then(|qemu| qemu.status()).unwrap();
    let own = geteuid();
    let expected = if own.is_root() { GUEST_USER } else { own.as_raw() };
    assert_eq!([status.ruid, status.euid, status.suid, status.fuid], [expected; 4]);
    if own.is_root() {
        assert_eq!([status.rgid, status.egid, status.sgid, status.fgid], [expected; 4]);
        assert!(status.groups.iter().all(|group| *group == expected), "{:?}", status.groups);
        assert_eq!((status.capeff, status.capprm), (0, 0), "QEMU has privileges");
    }
}

fn wait(what: &str, mut there: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !there() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The test binary with the trials, which cargo builds beside this one.
fn e2e_program() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let newest = fs::read_dir(deps).unwrap().filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?.to_owned();
        (name.starts_with("e2e-") && !name.contains('.'))
            .then(|| Some((path.metadata().ok()?.modified().ok()?, path)))?
    });
    newest.max().expect("`cargo test --package scenarios` builds the trials as well").1
}

#[test]
fn sigkill_in_the_window_leaves_no_guest_behind() {
    let mut run = Run::start("sigkill");
    run.wait_for_window();
    assert!(run.processes().iter().any(|line| line.contains("qemu-system")), "there is a guest to lose");
    run.signal(Signal::KILL);
    run.wait_for_clean_end();
    assert!(run.marks().contains(&Mark::ThawOk), "{:?}", run.marks());
}

#[test]
fn ctrl_c_thaws_the_guest_before_it_ends() {
    let mut run = Run::start("ctrl-c");
    run.wait_for_window();
    // While everything is there. Sockets are as open as libvirt makes them, and cannot be reached.
    assert_private(&run.dir);
    for dir in run.runtime_dirs() {
        assert!(is_private(&fs::metadata(&dir).unwrap()), "{}", dir.display());
    }
    assert_unprivileged(run.qemu("source"));
    run.signal(Signal::INT);
    run.wait_for_clean_end();
    assert!(run.marks().contains(&Mark::ThawOk), "{:?}", run.marks());
}

#[test]
fn sigkill_of_the_trial_itself_leaves_no_guest_behind() {
    let mut run = Run::start("trial");
    run.wait_for_window();
    let trial = run.named_processes().into_iter().find(|(_, line)| line.contains("trial run "));
    kill_process(trial.expect("the trial's process runs").0, Signal::KILL).unwrap();
    run.wait_for_clean_end();
    let reason = run.verdict().reason;
    assert!(reason.contains("signal 9 ended its process"), "{reason}");
}

/// Even when nobody is left to clean up, no guest outlives its trial.
#[test]
fn sigkill_of_all_at_once_leaves_no_process_behind() {
    let run = Run::start("all");
    run.wait_for_window();
    let (qemu, others): (Vec<_>, Vec<_>) =
        run.named_processes().into_iter().partition(|(_, line)| line.starts_with(EMULATOR));
    assert!(!qemu.is_empty(), "there is a guest to lose");
    run.signal(Signal::KILL);
    for (pid, _) in others {
        // The kernel may have ended it already, after the one before.
        let _ = kill_process(pid, Signal::KILL);
    }
    wait("the end of all processes", || run.processes().is_empty());
    // What the next run does with the files.
    run.runtime_dirs().iter().for_each(|dir| fs::remove_dir_all(dir).unwrap());
}

/// As those do it who make room when memory runs out, and care little for what was restored well.
#[test]
fn the_end_of_a_restored_guests_qemu_is_no_fact_about_the_backup() {
    for signal in [Signal::KILL, Signal::TERM] {
        end_restored_guest(signal);
    }
}

fn end_restored_guest(signal: Signal) {
    let mut run = Run::start("restored");
    let console = run.trial().join("restored-console.log");
    wait("the restored kernel", || fs::read_to_string(&console).is_ok_and(|text| text.contains("[vda]")));
    kill_process(run.qemu("restored"), signal).unwrap();
    run.wait_for_clean_end();
    let verdict = run.verdict();
    assert_eq!(verdict.grade, Grade::Unknown, "{}", verdict.reason);
    let words = "restore failed: the restored guest lost its QEMU, which crashed or was killed";
    assert!(verdict.reason.contains(words), "{}", verdict.reason);
    assert_eq!(run.agent_commands(), [history::FREEZE, history::THAW]);
}

#[test]
fn a_source_that_dies_in_the_window_ends_the_trial_at_once() {
    let mut run = Run::start("dies");
    run.wait_for_window();
    kill_process(run.qemu("source"), Signal::KILL).unwrap();
    let begin = Instant::now();
    run.wait_for_clean_end();
    // No thaw, and nothing else, is tried in vain. It takes 2 s.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    let reason = run.verdict().reason;
    assert!(reason.contains("the source guest lost its QEMU, which crashed or was killed"), "{reason}");
}

/// A QEMU that is stopped, or waits for a dead disk, answers to nobody.
#[test]
fn a_source_that_hangs_in_the_window_ends_the_trial() {
    let mut run = Run::start("hangs");
    run.wait_for_window();
    kill_process(run.qemu("source"), Signal::STOP).unwrap();
    run.wait_for_clean_end();
    let reason = run.verdict().reason;
    assert!(reason.contains("the source guest hangs: its QEMU has not answered"), "{reason}");
}

#[test]
fn a_kernel_panic_ends_the_wait_at_once_with_the_console() {
    let options = options("panic");
    let mut plan = booted(&options);
    let Boot::Direct { cmdline, .. } = &mut plan.image.boot else { panic!("{:?}", plan.image.boot) };
    cmdline.push_str(" init=/bin/false");

    let begin = Instant::now();
    let verdict = supervise::run(Path::new(env!("CARGO_BIN_EXE_trial")), &plan).unwrap();
    let took = begin.elapsed();
    fs::remove_dir_all(&options.dir).unwrap();

    assert!(took < plan.limits.boot / 2, "{took:?}");
    assert_eq!(verdict.grade, Grade::Unknown);
    for words in ["boot failed", "the source guest stopped while it booted", "Kernel panic"] {
        assert!(verdict.reason.contains(words), "{}", verdict.reason);
    }
}

/// A trial that fails before it has a guest, with an image that is not there.
fn without_a_guest(options: &RunOptions) -> Plan {
    let image = serde_json::json!({
        "schema": 3, "name": "none", "digest": "00", "distro": "d", "release": "r", "dir": "/", "boot": "firmware",
        "disks": [], "memory_mib": 1, "agent": {"unit": "u", "hook": "/h", "enabled_by": "/e"},
        "server": {"database": "mariadb", "unit": "u", "datadir": "/d", "binlogs": "/d", "port": 1, "user": "u",
            "password_file": "/p"},
        "versions": {},
    });
    let image = serde_json::from_value(image).unwrap();
    options.plan(&options.trials().unwrap()[0], image, Accel::Tcg)
}

#[test]
fn what_a_trial_writes_is_for_its_user_only() {
    let options = RunOptions { connect: Some("nosuch:///".to_owned()), ..options("private") };
    let plan = without_a_guest(&options);
    let verdict = supervise::run(Path::new(env!("CARGO_BIN_EXE_trial")), &plan).unwrap();
    assert_eq!(verdict.grade, Grade::Unknown);
    assert!(plan.dir.join("trace.jsonl").exists() && plan.dir.join("guest").exists());
    assert_private(&options.dir);
    fs::remove_dir_all(&options.dir).unwrap();
}

/// Somebody who holds every lock keeps no run from ending.
#[test]
fn a_supervisor_that_waits_for_a_lock_says_so_and_ends_with_its_test() {
    let options = RunOptions { connect: Some("nosuch:///".to_owned()), ..options("locked") };
    let plan = without_a_guest(&options);
    plan.write().unwrap();
    let held = File::open(plan.dir.join(Plan::FILE)).unwrap();
    held.lock().unwrap();
    let mut supervisor = Command::new(env!("CARGO_BIN_EXE_trial"))
        .arg("supervise")
        .arg(&plan.dir)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(supervisor.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("another supervisor runs it") && said.contains("holds the lock"), "{said}");
    drop(supervisor.stdin.take());
    assert!(supervisor.wait().unwrap().success());
    assert!(!plan.dir.join("events.jsonl").exists(), "the trial ran");
    fs::remove_dir_all(&options.dir).unwrap();
}

#[test]
fn a_method_that_cannot_work_here_is_refused_before_a_guest_boots() {
    // Files in memory share no blocks.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = RunOptions {
        snapshot: Some(SnapshotMethod::HostCopy),
        dir: memory.path().join("run"),
        ..options("host-copy")
    };
    let plan = booted(&options);
    let verdict = supervise::run(Path::new(env!("CARGO_BIN_EXE_trial")), &plan).unwrap();

    assert_eq!((verdict.grade, &*verdict.snapshot), (Grade::Unknown, "host-copy"));
    for words in ["prepare failed", "`host-copy` needs a file system", "it is on tmpfs"] {
        assert!(verdict.reason.contains(words), "{}", verdict.reason);
    }
    assert!(!plan.dir.join("console.log").exists(), "a guest was powered on");
}

/// A kernel without its initial file system finds no disk and stops: that says nothing about the
/// disks, and each next power-on must find libvirt ready for it.
#[test]
fn a_guest_that_stops_before_its_disks_is_powered_on_again() {
    let options = options("no-disks");
    let mut plan = booted(&options);
    let Boot::Direct { initrd, .. } = &mut plan.image.boot else { panic!("{:?}", plan.image.boot) };
    let empty = tempfile::NamedTempFile::new().unwrap();
    empty.path().clone_into(initrd);

    let verdict = supervise::run(Path::new(env!("CARGO_BIN_EXE_trial")), &plan).unwrap();
    fs::remove_dir_all(&options.dir).unwrap();

    assert_eq!(verdict.grade, Grade::Unknown);
    assert!(
        verdict.reason.contains("stalled before it found its disks, 3 times in a row"),
        "{}",
        verdict.reason
    );
}

/// What is damaged is met once: the guest comes up all the same, and the next one starts from memory again.
#[test]
fn a_damaged_memory_is_thrown_away_and_its_guest_comes_up() {
    type Harm = fn(&Path);
    // The first shows when the file is looked at, the second only when QEMU reads it.
    let harms: [(Harm, &str); 2] = [
        (
            |memory| File::options().write(true).open(memory).unwrap().set_len(1 << 20).unwrap(),
            "the saved memory",
        ),
        (rot, events::BOOTED_INSTEAD),
    ];
    started_from_memory("whole memory");
    for (harm, said) in harms {
        for state in SavedStates::of(&booted(&options("")).image.dir).all().unwrap() {
            harm(&state.dir().join("memory"));
        }
        let notes = started_from_memory("damaged memory");
        let note = notes.iter().find(|note| note.starts_with(said));
        let note = note.unwrap_or_else(|| panic!("{said} is not among {notes:?}"));
        assert!(note.contains("was damaged") && note.contains("is thrown away"), "{note}");
        let notes = started_from_memory("another memory");
        assert_eq!(notes.last().map(String::as_str), Some(events::FROM_MEMORY), "{notes:?}");
    }
}

/// Starts a guest from saved memory as far as its server's first answer, and returns the notes.
fn started_from_memory(name: &str) -> Vec<String> {
    let options = RunOptions { start_only: true, ..options(name) };
    let plan = Plan { start: Start::Warm, ..booted(&options) };
    let verdict = supervise::run(Path::new(env!("CARGO_BIN_EXE_trial")), &plan).unwrap();
    assert!(verdict.reason.ends_with("only the start of its guest was requested"), "{}", verdict.reason);
    let notes = events::notes(&plan.dir.join(events::FILE)).unwrap();
    fs::remove_dir_all(&options.dir).unwrap();
    notes
}

/// Destroys the beginning of a file so that only reading it shows that.
fn rot(file: &Path) {
    let modified = fs::metadata(file).unwrap().modified().unwrap();
    let mut file = File::options().write(true).open(file).unwrap();
    file.write_all(&[0xff; 4096]).unwrap();
    file.set_modified(modified).unwrap();
}
