//! Whether a guest's QEMU still answers.
//!
//! A QEMU that is stopped, or waits for the host's storage, is still there: no event says so, and a
//! call of libvirt that needs its monitor waits for ever.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use virt::domain::Domain;

use crate::guest_end::{Fate, GuestEnd};

/// How long QEMU may give no answer. Most take milliseconds, and one behind a snapshot some seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// How long QEMU may give no answer before its guest counts as one that did not run.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);

/// The pause between two queries, and between two looks at the time of the last answer.
const PAUSE: Duration = Duration::from_secs(2);

/// Ends a guest whose QEMU hangs, for as long as this lives. Calls that wait for it fail then.
#[derive(Debug)]
pub(super) struct MonitorWatch {
    answers: Arc<Mutex<Answers>>,
    _ends: [Sender<()>; 2],
}

/// When QEMU answered.
#[derive(Debug)]
pub(crate) struct Answers {
    latest: Instant,
    /// The latest answer that came after a silence, if any did.
    after_silence: Option<Instant>,
}

impl Answers {
    /// The first is awaited from now on.
    pub(crate) fn awaited(now: Instant) -> Self {
        Self { latest: now, after_silence: None }
    }

    pub(crate) fn answered(&mut self, now: Instant) {
        if now.duration_since(self.latest) > SILENCE {
            self.after_silence = Some(now);
        }
        self.latest = now;
    }

    /// Whether there was a silence at `since` or after it, or is one `now`.
    pub(crate) fn was_silent(&self, since: Instant, now: Instant) -> bool {
        self.after_silence.is_some_and(|ended| ended > since) || now.duration_since(self.latest) > SILENCE
    }
}

impl MonitorWatch {
    /// Queries QEMU about this disk of the guest.
    pub(super) fn start(domain: &Domain, disk: &str, fate: Fate) -> Self {
        let (query_ends, querier) = channel::<()>();
        let (watch_ends, watcher) = channel::<()>();
        let answers = Arc::new(Mutex::new(Answers::awaited(Instant::now())));
        let (queried, disk, heard) = (domain.clone(), disk.to_owned(), Arc::clone(&answers));
        // In a thread of its own, because it ends no sooner than its last query. libvirt lets such a
        // query in beside every job but a snapshot.
        thread::spawn(move || {
            while querier.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                if queried.block_stats(&disk).is_ok() {
                    lock(&heard).answered(Instant::now());
                }
            }
        });
        let (watched, heard) = (domain.clone(), Arc::clone(&answers));
        thread::spawn(move || {
            while watcher.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) && fate.end().is_none() {
                if lock(&heard).latest.elapsed() > LIMIT {
                    fate.seal(GuestEnd::Hung(LIMIT));
                    let _ = watched.destroy();
                }
            }
        });
        Self { answers, _ends: [query_ends, watch_ends] }
    }

    /// Whether QEMU was silent for so long, at `since` or after it, that its guest cannot have run.
    pub(super) fn was_silent_since(&self, since: Instant) -> bool {
        lock(&self.answers).was_silent(since, Instant::now())
    }
}

fn lock(answers: &Mutex<Answers>) -> MutexGuard<'_, Answers> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_counts_while_it_lasts_and_once_it_is_over() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut answers = Answers::awaited(begin);
        answers.answered(at(3));
        assert!(!answers.was_silent(at(2), at(5)));
        assert!(answers.was_silent(at(2), at(14)), "it lasts");
        answers.answered(at(33));
        assert!(answers.was_silent(at(2), at(34)), "it is over");
        assert!(!answers.was_silent(at(34), at(40)), "it was before");
    }
}
