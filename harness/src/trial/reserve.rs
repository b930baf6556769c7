//! Memory: a trial waits until there is room for its guests beside those of all other trials on
//! this host.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use contract::plan::{Accel, Plan};
use contract::runtime_dir::{self, Owner};
use contract::scenario::Restore;
use procfs::{Current as _, Meminfo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;
use tracing::info;

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
    memory_mib + qemu
}

/// How much memory a plan's guests take at once, MiB.
pub(super) fn needed_mib(plan: &Plan) -> u64 {
    let guests = match plan.restore {
        Restore::Boot => 1,
        Restore::Attach | Restore::AttachAndBoot => 2,
    };
    guests * guest_mib(plan.accel, plan.image.memory_mib)
}

/// Waits for room, and creates the runtime directory of the trial in `dir`, which holds the
/// reservation. `None` when the test process, at the other end of standard input, ends meanwhile.
pub(super) fn reserve(name: &str, memory_mib: u64, dir: &Path) -> io::Result<Option<TempDir>> {
    let mut announced = false;
    loop {
        if let Some(root) = try_reserve(dir, memory_mib)? {
            return Ok(Some(root));
        }
        if !announced {
            info!("{name}: waits until {memory_mib} MiB of memory are free for its guests");
            announced = true;
        }
        if lifeline_closed(PAUSE)? {
            return Ok(None);
        }
    }
}

fn try_reserve(dir: &Path, memory_mib: u64) -> io::Result<Option<TempDir>> {
    // One trial at a time on this host. Closing the file releases the lock.
    let lock = File::open(std::env::temp_dir())?;
    lock.lock()?;
    let others: Vec<_> = runtime_dir::list()?.into_iter().filter_map(|dir| dir.owner).collect();
    let reserved: Vec<_> =
        others.iter().filter(|owner| owner.supervises()).map(|owner| owner.memory_mib).collect();
    let (total, available) = memory()?;
    if !fits(memory_mib, &reserved, total, available) {
        return Ok(None);
    }
    // Sockets below libvirt's root may not exceed 108 bytes, so it is not in the trial's directory.
    let root = tempfile::Builder::new().prefix(runtime_dir::PREFIX).tempdir()?;
    Owner { pid: std::process::id(), memory_mib, trial: dir.to_owned() }.write(root.path())?;
    Ok(Some(root))
}

/// Whether this much fits beside what others have reserved. A trial alone is never refused: it may
/// fit after all.
fn fits(wanted: u64, reserved: &[u64], total: u64, available: u64) -> bool {
    let all = reserved.iter().sum::<u64>() + wanted;
    reserved.is_empty() || (all as f64 <= total as f64 * SHARE && wanted <= available)
}

/// The host's memory in all, and what is free or could be, MiB.
fn memory() -> io::Result<(u64, u64)> {
    let memory = Meminfo::current().map_err(io::Error::other)?;
    // Every kernel since 3.14 reports it.
    let available = memory.mem_available.unwrap_or(memory.mem_free);
    Ok((memory.mem_total >> 20, available >> 20))
}

/// Waits, and returns whether the other end of standard input was closed meanwhile.
pub(super) fn lifeline_closed(pause: Duration) -> io::Result<bool> {
    let stdin = io::stdin();
    let mut watched = [PollFd::new(&stdin, PollFlags::IN)];
    let pause = Timespec::try_from(pause).map_err(io::Error::other)?;
    Ok(poll(&mut watched, Some(&pause))? > 0)
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
    fn this_host_has_memory() {
        let (total, available) = memory().unwrap();
        assert!(total >= available && available > 0);
    }
}
