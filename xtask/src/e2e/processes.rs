//! The processes of a run, from the first to the last that ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{self, Pid, Signal, WaitOptions};
use signal_hook::consts::SIGINT;
use signal_hook::iterator::{Handle, Signals};
use tracing::{info, warn};

/// How long supervisors may go on after the test binary: they thaw a guest first.
const GRACE: Duration = Duration::from_secs(90);

/// The pause between two looks at processes that are ending.
const PAUSE: Duration = Duration::from_millis(50);

/// Ctrl-C, which this process outlives, to wait for all others and to report the outcome.
#[derive(Debug)]
pub(crate) struct CtrlC(Signals);

impl CtrlC {
    /// From here on Ctrl-C does not end this process.
    pub(crate) fn outlive() -> io::Result<Self> {
        Signals::new([SIGINT]).map(Self)
    }
}

/// Makes this process the parent of orphaned descendants, so that no process of
/// the run can escape it.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(process::set_child_subreaper(Some(process::getpid()))?)
}

/// Waits for the test binary, then for every orphan, at most for [`GRACE`].
/// What is still there then is a leftover of the run. Returns how the test binary ended, and
/// whether Ctrl-C was pressed: once, it ends the test binary, whose supervisors then clean up; twice,
/// it kills every process of the run.
pub(crate) fn wait_for_all(trials: &Child, CtrlC(mut signals): CtrlC) -> io::Result<(ExitStatus, bool)> {
    let trials = Pid::from_child(trials);
    let (handle, watched) = (signals.handle(), signals.handle());
    let presses = thread::spawn(move || {
        let mut presses = signals.forever();
        if presses.next().is_none() {
            return false;
        }
        info!(
            "Ctrl-C: each trial that runs thaws its guest and ends it, which takes up to {} s. Press it again to kill \
             them all at once.",
            GRACE.as_secs()
        );
        // The terminal signals all processes, but somebody may have signalled this one only.
        let _ = process::kill_process(trials, Signal::TERM);
        if presses.next().is_some() {
            warn!("Ctrl-C again: killing every process of the run.");
            kill_descendants_until(&watched);
        }
        true
    });
    let ended = wait(trials);
    handle.close();
    // It counts presses, and cannot panic.
    let pressed = presses.join().unwrap_or_default();
    Ok((ended?, pressed))
}

fn wait(trials: Pid) -> io::Result<ExitStatus> {
    let (mut deadline, mut ended) = (None, ExitStatus::default());
    loop {
        let options = if deadline.is_some() { WaitOptions::NOHANG } else { WaitOptions::empty() };
        match process::wait(options) {
            Ok(Some((pid, status))) if pid == trials => {
                ended = ExitStatus::from_raw(status.as_raw());
                deadline = Some(Instant::now() + GRACE);
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) if deadline.is_some_and(|deadline| Instant::now() > deadline) => return Ok(ended),
            Ok(None) => thread::sleep(PAUSE),
            Err(Errno::CHILD) => return Ok(ended),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Kills all processes that descend from this one, again and again until this is closed: when they have ended.
pub(crate) fn kill_descendants_until(ended: &Handle) {
    while !ended.is_closed() {
        kill_descendants();
        thread::sleep(PAUSE);
    }
}

fn kill_descendants() {
    let Ok(all) = procfs::process::all_processes() else { return };
    // One that has just ended cannot be read.
    let parents: BTreeMap<i32, i32> =
        all.filter_map(|process| process.ok()?.stat().ok()).map(|stat| (stat.pid, stat.ppid)).collect();
    for pid in descendants(process::getpid().as_raw_nonzero().get(), &parents) {
        let _ = Pid::from_raw(pid).map(|pid| process::kill_process(pid, Signal::KILL));
    }
}

/// The processes below this one. `parents` has the parent of each.
pub(crate) fn descendants(root: i32, parents: &BTreeMap<i32, i32>) -> BTreeSet<i32> {
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        let below = parents.iter().filter(|(_, parent)| found.contains(parent)).map(|(pid, _)| *pid);
        found.extend(below.collect::<Vec<_>>());
        if found.len() == before {
            // Nobody descends from himself.
            found.remove(&root);
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_through_their_parents() {
        let parents = BTreeMap::from([(2, 1), (30, 9), (9, 2), (31, 9), (4, 1), (5, 4)]);
        assert_eq!(descendants(2, &parents), BTreeSet::from([9, 30, 31]));
        assert_eq!(descendants(7, &parents), BTreeSet::new());
    }
}
