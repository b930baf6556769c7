//! Whether a guest's QEMU still answers.
//!
//! A QEMU that is stopped, or waits for the host's storage, is still there: no event says so, and a
//! call of libvirt that needs its monitor waits for ever.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use virt::domain::Domain;
use virt::sys;

use crate::guest_end::{Fate, GuestEnd};
use crate::host;

/// How long QEMU may take for one command of its monitor. The slowest takes a part of a second, and
/// flushing a disk some seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// The pause between two looks at the monitor.
const PAUSE: Duration = Duration::from_secs(2);

/// Ends a guest whose QEMU hangs, for as long as this lives. Calls that wait for it fail then.
#[derive(Debug)]
pub(super) struct MonitorWatch {
    _ends: [Sender<()>; 2],
}

impl MonitorWatch {
    pub(super) fn start(domain: &Domain, fate: Fate) -> Self {
        let (query_ends, querier) = channel::<()>();
        let (watch_ends, watcher) = channel::<()>();
        let queried = domain.clone();
        // A hang shows only while somebody waits for an answer. Its own end may take as long as the
        // call does.
        thread::spawn(move || {
            while querier.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                let flags = sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP;
                let _ = queried.qemu_monitor_command("info status", flags);
            }
        });
        let watched = domain.clone();
        thread::spawn(move || {
            while watcher.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                // A domain that is gone is reported by its event.
                let Ok(busy) = host::monitor_busy(&watched) else { return };
                if busy > LIMIT {
                    fate.seal(GuestEnd::Hung(LIMIT));
                    let _ = watched.destroy();
                    return;
                }
            }
        });
        Self { _ends: [query_ends, watch_ends] }
    }
}
