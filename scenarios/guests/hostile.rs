//! What a hostile guest costs the host.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use contract::grade::Grade;
use contract::image::Manifest;
use contract::plan::Accel;
use contract::scenario::{Fault, Hook, Point, Strike};
use harness::trial::supervise;
use judge::verdict::Verdict;
use procfs::process::all_processes;

use super::{EMULATOR, PATIENCE, options};

/// What a trial cost the host besides its guests' memory: the most that its own processes and tools had
/// at one time, and its files, MiB.
#[derive(Debug, Default)]
struct Cost {
    memory: u64,
    disk: u64,
}

/// How much more than a normal one a hostile guest may cost, MiB.
const MEMORY: u64 = 256;
const DISK: u64 = 1024;

/// Runs a trial on saved memory, with this done in the guest at some point, and this hook. The verdict, and what it cost.
fn hostile(name: &str, at: Point, guest: &str, hook: Option<&str>) -> (Verdict, Cost) {
    let options = options(name);
    let requested = &options.trials().unwrap()[0];
    let image = Manifest::read(&options.built, &requested.image).unwrap();
    let mut plan = options.plan(requested, image, Accel::Tcg);
    plan.faults.push(Fault { at, what: Strike::Guest(guest.to_owned()) });
    let folder = tempfile::tempdir().unwrap();
    if let Some(hook) = hook {
        let file = folder.path().join("hook.sh");
        fs::write(&file, hook).unwrap();
        (plan.hook, plan.install) = (Hook::File(file.clone()), Some(file));
    }
    let needle = plan.dir.to_string_lossy().into_owned();
    let ended = AtomicBool::new(false);
    let (verdict, cost) = std::thread::scope(|scope| {
        let sampling = scope.spawn(|| {
            let mut most = Cost::default();
            while !ended.load(Ordering::SeqCst) {
                most.memory = most.memory.max(memory_of(&needle));
                most.disk = most.disk.max(files_mib(&plan.dir));
                std::thread::sleep(Duration::from_millis(100));
            }
            most
        });
        let verdict = supervise::run(Path::new(env!("CARGO_BIN_EXE_trial")), &plan);
        ended.store(true, Ordering::SeqCst);
        (verdict.unwrap(), sampling.join().unwrap())
    });
    fs::remove_dir_all(&options.dir).unwrap();
    println!("{name}: {cost:?}; {}", verdict.reason);
    (verdict, cost)
}

/// The resident memory of all processes that name this directory, but for guests, MiB.
fn memory_of(dir: &str) -> u64 {
    let ours = all_processes().unwrap().flatten().filter(|process| {
        process
            .cmdline()
            .is_ok_and(|line| line.iter().any(|word| word.contains(dir)) && !line[0].starts_with(EMULATOR))
    });
    let kib: u64 = ours.filter_map(|process| process.status().ok()?.vmrss).sum();
    kib / 1024
}

/// What the files below a directory take, MiB.
fn files_mib(dir: &Path) -> u64 {
    fn blocks(dir: &Path) -> u64 {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let sizes = entries.map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => blocks(&entry.path()),
            Ok(found) => found.blocks(),
            Err(_) => 0,
        });
        sizes.sum()
    }
    blocks(dir) / 2048
}

/// Fills a guest's console and every file that is read from its disks.
const FLOOD: &str = "for file in /.freezeframe-heartbeats /var/lib/mysql/giant.ibd /var/lib/mysql/giant.MYI \
    /var/lib/mysql/binlog.999999 /var/log/mysql.err; do truncate -s 30G $file 2>/dev/null; done
(while :; do tr '\\0' x </dev/zero | head -c 100000000; done >/dev/console 2>/dev/null </dev/null &)
(while :; do logger -p daemon.err \"$(head -c 60000 /dev/zero | tr '\\0' y)\"; done >/dev/null 2>&1 </dev/null &)";

/// Answers the heartbeats of a guest without an end.
const ENDLESS_HEARTBEAT: &str = "systemctl stop 'freezeframe-heartbeats-*'
for port in /dev/virtio-ports/freezeframe.heartbeat.*; do
    (while :; do tr '\\0' x </dev/zero >$port; done >/dev/null 2>&1 </dev/null &)
done";

/// A hook that starts processes and prints for as long as it is let.
const ENDLESS_HOOK: &str = "#!/bin/sh
for n in 1 2 3 4 5 6 7 8; do (while :; do head -c 1000000 /dev/zero | tr '\\0' z; done) & done
while :; do (:) & echo \"$(head -c 60000 /dev/zero | tr '\\0' z)\"; done";

/// Fails when a hostile guest costs much more than a normal one, or its trial does not end in time.
fn costs_little(name: &str, at: Point, guest: &str, hook: Option<&str>) {
    let (verdict, normal) = hostile("normal", Point::AfterBoot, "true", None);
    assert_eq!(verdict.grade, Grade::ApplicationConsistent, "{}", verdict.reason);
    let begin = Instant::now();
    let (_, cost) = hostile(name, at, guest, hook);
    assert!(cost.memory < normal.memory + MEMORY, "{name} took {cost:?}, and a normal trial {normal:?}");
    assert!(cost.disk < normal.disk + DISK, "{name} took {cost:?}, and a normal trial {normal:?}");
    assert!(begin.elapsed() < 2 * PATIENCE, "{name} took {:?}", begin.elapsed());
}

#[test]
fn a_guest_that_fills_its_console_and_its_files_costs_little() {
    costs_little("flood", Point::BeforeFreeze, FLOOD, None);
}

#[test]
fn a_guest_that_answers_without_an_end_costs_little() {
    costs_little("heartbeats", Point::BeforeFreeze, ENDLESS_HEARTBEAT, None);
}

#[test]
#[ignore = "six minutes, because every limit of freeze and thaw is reached; see nightly.yml"]
fn a_hook_without_an_end_costs_little() {
    costs_little("hook", Point::AfterBoot, "true", Some(ENDLESS_HOOK));
}
