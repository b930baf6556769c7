//! What a trial waits for before it starts: that no other process runs it, and that there is room for
//! its guests beside those of all other trials of this user. Those of other users count as soon as
//! they use their memory.
//!
//! Every wait is announced, as a warning because `cargo xtask e2e` shows nothing less, and ends when
//! the lifeline to the test process is closed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use contract::lock;
use contract::plan::{Accel, Plan};
use contract::runtime_dir::{Home, Owner, RuntimeDir};
use contract::scenario::Restore;
use procfs::{Current as _, Meminfo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing::warn;

/// The part of the host's memory that all guests together may take: the rest is
/// for the page cache, which holds their disks, and for whatever else runs.
const SHARE: f64 = 0.75;

/// The pause between two attempts: there is no event for freed memory.
const PAUSE: Duration = Duration::from_millis(500);

/// How much memory a guest takes, MiB: its own and QEMU's, which under TCG keeps
/// translated code as well (measured: 100 to 300 MiB).
pub(super) fn guest_mib(accel: Accel, memory_mib: u64) -> u64 {
    let qemu = match accel {
        Accel::Kvm => 128,
        Accel::Tcg => 320,
    };
    memory_mib.saturating_add(qemu)
}

/// How much memory a plan's guests take at once, MiB.
pub(super) fn needed_mib(plan: &Plan) -> u64 {
    let guests = match plan.restore {
        Restore::Boot => 1,
        Restore::Attach | Restore::AttachAndBoot => 2,
    };
    guest_mib(plan.accel, plan.image.memory_mib).saturating_mul(guests)
}

/// Waits until nobody else holds the lock of this file of a trial, and takes it for as long as the
/// returned file is open. `None` when the lifeline is closed meanwhile.
pub(super) fn hold(name: &str, file: &Path, lifeline: impl AsFd) -> io::Result<Option<File>> {
    // Over NFS only a file that may be written can be locked.
    let held = File::options().read(true).write(true).open(file)?;
    Ok(locked(&held, &format!("{name}: another supervisor runs it"), lifeline)?.then_some(held))
}

/// Waits for room, and creates the runtime directory of the trial in `dir`, which holds the
/// reservation. `None` when the lifeline is closed meanwhile.
pub(super) fn reserve(
    name: &str,
    memory_mib: u64,
    dir: &Path,
    home: &Home,
    lifeline: impl AsFd,
) -> io::Result<Option<RuntimeDir>> {
    let lock = home.lock_file()?;
    let waits = format!("{name}: waits to reserve memory, one trial at a time");
    let mut announced = false;
    loop {
        if !locked(&lock, &waits, &lifeline)? {
            return Ok(None);
        }
        let alive = home.list()?.into_iter().filter(|found| found.alive);
        let reserved: Vec<_> = alive.filter_map(|found| Some(found.owner?.memory_mib)).collect();
        let (total, available) = memory()?;
        if fits(memory_mib, &reserved, total, available) {
            return home.create(&Owner { memory_mib, trial: dir.to_owned() }).map(Some);
        }
        lock.unlock()?;
        if !announced {
            warn!(
                "{name}: waits until {memory_mib} MiB of memory are free for its guests. {available} of {total} MiB are \
                 available, and {} MiB reserved by other trials: {}",
                sum(&reserved),
                reserved.len()
            );
            announced = true;
        }
        if lifeline_closed(&lifeline, PAUSE)? {
            return Ok(None);
        }
    }
}

/// Takes the lock of this file, and says `waits` and who holds it when that takes a while. False when
/// the lifeline is closed first.
fn locked(file: &File, waits: &str, lifeline: impl AsFd) -> io::Result<bool> {
    let announce = |holder: &str| warn!("{waits}: {holder} holds the lock");
    let pause = |pause| match lifeline_closed(&lifeline, pause) {
        Ok(false) => Ok(()),
        Ok(true) => Err(None),
        Err(error) => Err(Some(error)),
    };
    match lock::wait(file, announce, pause)? {
        Ok(()) => Ok(true),
        Err(None) => Ok(false),
        Err(Some(error)) => Err(error),
    }
}

/// Whether this much fits beside what others have reserved. A trial alone is never refused: it may
/// fit after all.
fn fits(wanted: u64, reserved: &[u64], total: u64, available: u64) -> bool {
    let all = sum(reserved).saturating_add(wanted);
    reserved.is_empty() || (all as f64 <= total as f64 * SHARE && wanted <= available)
}

fn sum(reserved: &[u64]) -> u64 {
    reserved.iter().fold(0, |sum: u64, one| sum.saturating_add(*one))
}

/// The host's memory in all, and what is free or could be, MiB.
fn memory() -> io::Result<(u64, u64)> {
    let memory = Meminfo::current().map_err(io::Error::other)?;
    // Every kernel since 3.14 reports it.
    let available = memory.mem_available.unwrap_or(memory.mem_free);
    Ok((memory.mem_total >> 20, available >> 20))
}

/// Waits, and returns whether the other end of the lifeline was closed meanwhile.
pub(super) fn lifeline_closed(lifeline: impl AsFd, pause: Duration) -> io::Result<bool> {
    let mut watched = [PollFd::new(&lifeline, PollFlags::IN)];
    let end = Instant::now() + pause;
    loop {
        let left =
            Timespec::try_from(end.saturating_duration_since(Instant::now())).map_err(io::Error::other)?;
        match poll(&mut watched, Some(&left)) {
            // As when this process was stopped and goes on.
            Err(Errno::INTR) => {}
            polled => return Ok(polled? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_one_and_then_as_long_as_it_lasts() {
        assert!(fits(900, &[], 1000, 100));
        assert!(fits(900, &[900, 900], 4000, 1000));
        assert!(!fits(900, &[900, 900], 3500, 1000), "reserved, though not yet in use");
        assert!(!fits(900, &[900], 4000, 800), "in use by others");
    }

    #[test]
    fn no_number_is_too_large() {
        assert!(!fits(u64::MAX, &[u64::MAX, 1], 4000, 1000));
        assert!(!fits(1, &[u64::MAX, u64::MAX], 4000, 1000));
        assert_eq!(guest_mib(Accel::Kvm, u64::MAX), u64::MAX);
    }

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path().join("home")).unwrap();
        (dir, home)
    }

    #[test]
    fn a_reservation_lasts_as_long_as_its_directory() {
        let (_dir, home) = home();
        let (lifeline, _test) = io::pipe().unwrap();
        let one = reserve("one", 1, Path::new("/runs/one"), &home, &lifeline).unwrap().unwrap();
        let found = home.list().unwrap().pop().unwrap();
        let owner = Owner { memory_mib: 1, trial: "/runs/one".into() };
        assert_eq!((found.dir.as_path(), found.alive, found.owner), (one.path(), true, Some(owner)));
        drop(one);
        assert_eq!(home.list().unwrap().len(), 0);
    }

    #[test]
    fn no_wait_outlasts_the_test_process() {
        let (dir, home) = home();
        let (lifeline, test) = io::pipe().unwrap();
        let plan = dir.path().join("plan.json");
        File::create(&plan).unwrap();
        // Others, who never let go.
        let other = home.lock_file().unwrap();
        other.lock().unwrap();
        let other_plan = File::open(&plan).unwrap();
        other_plan.lock().unwrap();
        drop(test);
        assert!(reserve("one", 1, Path::new("/runs/one"), &home, &lifeline).unwrap().is_none());
        assert!(hold("one", &plan, &lifeline).unwrap().is_none());
        other.unlock().unwrap();
        // And one that has all the memory.
        let all = home.create(&Owner { memory_mib: u64::MAX, trial: "/runs/other".into() }).unwrap();
        assert!(reserve("one", 1, Path::new("/runs/one"), &home, &lifeline).unwrap().is_none());
        drop(all);
        assert!(reserve("one", 1, Path::new("/runs/one"), &home, &lifeline).unwrap().is_some());
    }

    #[test]
    fn this_host_has_memory() {
        let (total, available) = memory().unwrap();
        assert!(total >= available && available > 0);
    }
}
