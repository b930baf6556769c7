//! Whether a guest's QEMU still answers.
//!
//! A QEMU that is stopped, or waits for the host's storage, is still there: no event says so, and a
//! call of libvirt that needs its monitor waits for ever.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use virt::domain::Domain;

use crate::guest_end::{Fate, GuestEnd};

/// How long QEMU may give no answer. Most take milliseconds, and one behind a snapshot some seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// The pause between two queries, and between two looks at the time of the last answer.
const PAUSE: Duration = Duration::from_secs(2);

/// Ends a guest whose QEMU hangs, for as long as this lives. Calls that wait for it fail then.
#[derive(Debug)]
pub(super) struct MonitorWatch {
    _ends: [Sender<()>; 2],
}

impl MonitorWatch {
    /// Queries QEMU about this disk of the guest.
    pub(super) fn start(domain: &Domain, disk: &str, fate: Fate) -> Self {
        let (query_ends, querier) = channel::<()>();
        let (watch_ends, watcher) = channel::<()>();
        let answered = Arc::new(Mutex::new(Instant::now()));
        let (queried, disk, answer) = (domain.clone(), disk.to_owned(), Arc::clone(&answered));
        // In a thread of its own, because it ends no sooner than its last query. libvirt lets such a
        // query in beside every job but a snapshot.
        thread::spawn(move || {
            while querier.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                if queried.block_stats(&disk).is_ok() {
                    *answer.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                }
            }
        });
        let watched = domain.clone();
        thread::spawn(move || {
            while watcher.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) && fate.end().is_none() {
                let answered = *answered.lock().unwrap_or_else(PoisonError::into_inner);
                if answered.elapsed() > LIMIT {
                    fate.seal(GuestEnd::Hung(LIMIT));
                    let _ = watched.destroy();
                }
            }
        });
        Self { _ends: [query_ends, watch_ends] }
    }
}
