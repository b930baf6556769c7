//! The freeze window: opened by a freeze, and closed by a thaw whatever happens.
//!
//! A guest that stays frozen is an outage, so the window thaws on every way out: when it is closed,
//! when it is dropped by an error or a panic, and when it has been open for too long, from a thread
//! of its own. It is armed before the freeze is requested, because a freeze that timed out may
//! still happen.

use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use contract::history::Mark;
use contract::plan::Limits;

use crate::error::{Error, Result};
use crate::guest::Agent;
use crate::history_log::HistoryLog;
use crate::interrupt;

/// What can be frozen and thawed: a guest through its agent.
pub trait Quiesce: Send + Sync + 'static {
    /// Runs the hook, then freezes all file systems; returns how many.
    fn freeze(&self, timeout: Duration) -> Result<u32>;
    /// Thaws all file systems, then runs the hook; returns how many.
    fn thaw(&self, timeout: Duration) -> Result<u32>;
    /// Whether something is frozen now.
    fn is_frozen(&self) -> Result<bool>;
    /// Whether it is gone, so that nothing can be thawed any more.
    fn has_ended(&self) -> bool;
}

impl Quiesce for Agent {
    fn freeze(&self, timeout: Duration) -> Result<u32> {
        Agent::freeze(self, timeout)
    }
    fn thaw(&self, timeout: Duration) -> Result<u32> {
        Agent::thaw(self, timeout)
    }
    fn is_frozen(&self) -> Result<bool> {
        Agent::is_frozen(self)
    }
    fn has_ended(&self) -> bool {
        Agent::has_ended(self)
    }
}

/// An open freeze window.
#[derive(Debug)]
pub struct FreezeWindow {
    guard: Arc<Guard>,
}

/// Why no window was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The freeze failed or timed out. The guest is thawed.
    #[error("the freeze failed: {0}")]
    Refused(Error),
    /// The trial cannot go on.
    #[error(transparent)]
    Stopped(#[from] Error),
}

struct Guard {
    guest: Box<dyn Quiesce>,
    history: HistoryLog,
    limits: Limits,
    state: Mutex<WindowState>,
    changed: Condvar,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("limits", &self.limits)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WindowState {
    Open,
    /// A thread is thawing.
    Closing,
    Closed,
    /// It was open for too long, and its guard thawed.
    Expired,
}

impl FreezeWindow {
    /// Freezes the guest, whose agent opens these mounts for it. On any error the guest is thawed before this returns.
    pub fn open(
        guest: impl Quiesce,
        limits: Limits,
        opened: &[String],
        history: &HistoryLog,
    ) -> Result<Self, OpenError> {
        let guard = Arc::new(Guard {
            guest: Box::new(guest),
            history: history.clone(),
            limits,
            state: Mutex::new(WindowState::Open),
            changed: Condvar::new(),
        });
        let window = Self { guard: Arc::clone(&guard) };

        history.mark(Mark::FreezeCall, "")?;
        let (sender, answer) = mpsc::channel();
        // In a thread of its own, so that Ctrl-C need not wait for a hook that hangs.
        let (freezer, opened) = (Arc::clone(&guard), opened.to_vec());
        thread::spawn(move || {
            let begin = Instant::now();
            let frozen = freezer.guest.freeze(freezer.limits.freeze).map_err(|error| {
                let waited = begin.elapsed();
                // libvirt's error does not say that it gave up waiting.
                if waited < freezer.limits.freeze {
                    return error;
                }
                Error::FreezeUnanswered { waited, opened, source: Box::new(error) }
            });
            let marked = match &frozen {
                Ok(count) => freezer.history.mark(Mark::FreezeOk, count.to_string()),
                Err(e) => freezer.history.mark(Mark::FreezeErr, e.to_string()),
            };
            // The receiver is gone when the trial was interrupted; the guard thaws.
            let _ = sender.send(frozen.and_then(|count| marked.map(|_| count)));
        });
        // libvirt bounds the freeze; the slack is for libvirt itself.
        let deadline = Instant::now() + limits.freeze + limits.agent;
        match interrupt::receive(&answer, deadline)? {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(guard.refused(error)),
            None => {
                let error = Error::FreezeEndless(limits.freeze);
                history.mark(Mark::FreezeErr, error.to_string())?;
                return Err(guard.refused(error));
            }
        }
        thread::spawn(move || guard.watch());
        Ok(window)
    }

    /// Thaws the guest. An error is what the thaw reported, or that the window
    /// had been open for too long; the guest is thawed all the same, unless
    /// the error says otherwise.
    pub fn close(self) -> Result<u32> {
        if self.guard.claim() { self.guard.thaw() } else { Err(self.guard.expired()) }
    }
}

impl Drop for FreezeWindow {
    fn drop(&mut self) {
        if self.guard.claim() {
            // The error that led here is the one to report; the marks record this one.
            let _ = self.guard.thaw();
        }
    }
}

impl Guard {
    fn state(&self) -> MutexGuard<'_, WindowState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the right to thaw; false when the window is closed already. Waits while another thread
    /// thaws.
    fn claim(&self) -> bool {
        let mut state = self
            .changed
            .wait_while(self.state(), |state| *state == WindowState::Closing)
            .unwrap_or_else(PoisonError::into_inner);
        let open = *state == WindowState::Open;
        if open {
            *state = WindowState::Closing;
        }
        open
    }

    /// A freeze that failed needs no thaw, and gets none, when the agent says that nothing is
    /// frozen: it handles one command after another, so no freeze can follow. Otherwise the window
    /// stays open, and is thawed when it is dropped.
    fn refused(&self, error: Error) -> OpenError {
        if self.guest.has_ended() || matches!(self.guest.is_frozen(), Ok(false)) {
            self.finish(WindowState::Closed);
        }
        OpenError::Refused(error)
    }

    fn finish(&self, state: WindowState) {
        *self.state() = state;
        self.changed.notify_all();
    }

    fn thaw(&self) -> Result<u32> {
        let result = self.thaw_until_thawed();
        self.finish(WindowState::Closed);
        result
    }

    /// The answer that counts is that of the thaw that took effect. A thaw that never reached the
    /// agent, or that the agent did not live to carry out, says nothing about the lock, and leaves
    /// the guest frozen.
    fn thaw_until_thawed(&self) -> Result<u32> {
        self.history.mark(Mark::ThawCall, "")?;
        let deadline = Instant::now() + self.limits.thaw * 2;
        let mut failed = None;
        let error = loop {
            match (self.guest.thaw(self.limits.thaw), failed) {
                // Nothing was frozen any more: the thaw before took effect, and reported a failure.
                (Ok(0), Some(error)) => break error,
                (Ok(count), _) => {
                    self.history.mark(Mark::ThawOk, count.to_string())?;
                    return Ok(count);
                }
                (Err(error), _) if self.guest.has_ended() => break error,
                (Err(error), _) if matches!(self.guest.is_frozen(), Ok(false)) => break error,
                (Err(error), _) if Instant::now() > deadline => {
                    break Error::StillFrozen(Box::new(error));
                }
                (Err(error), _) => failed = Some(error),
            }
            // An agent that is busy or gone fails at once; this keeps the loop from spinning.
            thread::sleep(Duration::from_millis(200));
        };
        self.history.mark(Mark::ThawErr, error.to_string())?;
        Err(error)
    }

    /// Thaws when the window stays open for too long.
    fn watch(&self) {
        let (state, timeout) = self
            .changed
            .wait_timeout_while(self.state(), self.limits.hold, |state| *state == WindowState::Open)
            .unwrap_or_else(PoisonError::into_inner);
        drop(state);
        if timeout.timed_out() && self.claim() {
            // The marks record the result; the pipeline learns of it when it closes the window.
            let _ = self.thaw_until_thawed();
            self.finish(WindowState::Expired);
        }
    }

    fn expired(&self) -> Error {
        Error::WindowExpired(self.limits.hold)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;
    use crate::error::AgentError;
    use contract::history::{Entry, KIND};
    use contract::jsonl;
    use contract::plan::Accel;

    /// A guest without a machine, which counts calls and fails on demand.
    #[derive(Default)]
    struct Stub {
        frozen: AtomicBool,
        thaws: AtomicU32,
        freeze_fails: bool,
        /// The freeze reports a failure, yet the guest is frozen afterwards.
        freezes_late: bool,
        /// The number of thaws that do not take effect.
        lost_thaws: AtomicU32,
        /// The thaw takes effect and reports a failure, as when its hook fails.
        thaw_hook_fails: bool,
        /// The agent does not report its state.
        mute: bool,
        /// The guest is gone.
        gone: bool,
    }

    fn refusal(reason: &str) -> Error {
        let (guest, command) = ("source".to_owned(), "guest-fsfreeze".to_owned());
        AgentError::Refused { guest, command, reason: reason.to_owned() }.into()
    }

    #[derive(Clone, Default)]
    struct Guest(Arc<Stub>);

    impl Quiesce for Guest {
        fn freeze(&self, _: Duration) -> Result<u32> {
            if self.0.freezes_late {
                self.0.frozen.store(true, Ordering::SeqCst);
            }
            if self.0.freeze_fails {
                return Err(refusal("hook says no"));
            }
            self.0.frozen.store(true, Ordering::SeqCst);
            Ok(1)
        }
        fn thaw(&self, _: Duration) -> Result<u32> {
            self.0.thaws.fetch_add(1, Ordering::SeqCst);
            let left = self.0.lost_thaws.load(Ordering::SeqCst);
            if left > 0 {
                self.0.lost_thaws.store(left - 1, Ordering::SeqCst);
                return Err(refusal("not connected"));
            }
            let frozen = self.0.frozen.swap(false, Ordering::SeqCst);
            if frozen && self.0.thaw_hook_fails {
                return Err(refusal("the lock was not held"));
            }
            Ok(u32::from(frozen))
        }
        fn is_frozen(&self) -> Result<bool> {
            if self.0.mute {
                return Err(refusal("not connected"));
            }
            Ok(self.0.frozen.load(Ordering::SeqCst))
        }
        fn has_ended(&self) -> bool {
            self.0.gone
        }
    }

    struct Scene {
        guest: Guest,
        history: HistoryLog,
        dir: tempfile::TempDir,
        limits: Limits,
    }

    impl Scene {
        fn new(stub: Stub) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let history = HistoryLog::create(&dir.path().join("history.jsonl"), 1).unwrap();
            Self { guest: Guest(Arc::new(stub)), history, dir, limits: Limits::for_accel(Accel::Kvm) }
        }
        fn open(&self) -> Result<FreezeWindow, OpenError> {
            FreezeWindow::open(self.guest.clone(), self.limits, &["/net (fuseblk)".to_owned()], &self.history)
        }
        fn frozen(&self) -> bool {
            self.guest.is_frozen().unwrap()
        }
        fn marks(&self) -> Vec<Mark> {
            self.history.finish().unwrap();
            jsonl::Reader::<Entry>::open(&self.dir.path().join("history.jsonl"), KIND)
                .unwrap()
                .filter_map(|entry| match entry.unwrap() {
                    Entry::Mark { mark, .. } => Some(mark),
                    _ => None,
                })
                .collect()
        }
    }

    #[test]
    fn closing_thaws_once() {
        let scene = Scene::new(Stub::default());
        let window = scene.open().unwrap();
        assert!(scene.frozen());
        assert_eq!(window.close().unwrap(), 1);
        assert!(!scene.frozen());
        assert_eq!(scene.guest.0.thaws.load(Ordering::SeqCst), 1);
        assert_eq!(scene.marks(), [Mark::FreezeCall, Mark::FreezeOk, Mark::ThawCall, Mark::ThawOk]);
    }

    #[test]
    fn an_error_in_the_window_thaws() {
        let scene = Scene::new(Stub::default());
        let stage = || -> Result<(), OpenError> {
            let _window = scene.open()?;
            Err(OpenError::Stopped(Error::Interrupted))
        };
        assert!(stage().is_err());
        assert!(!scene.frozen());
    }

    #[test]
    fn a_panic_in_the_window_thaws() {
        let scene = Scene::new(Stub::default());
        let window = scene.open().unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _window = window;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert!(!scene.frozen());
    }

    #[test]
    fn a_window_open_for_too_long_thaws_by_itself() {
        let mut scene = Scene::new(Stub::default());
        scene.limits.hold = Duration::from_millis(20);
        let window = scene.open().unwrap();
        let waited = Instant::now();
        while scene.frozen() {
            assert!(waited.elapsed() < Duration::from_secs(30), "the guard slept");
            thread::yield_now();
        }
        let error = window.close().unwrap_err().to_string();
        assert!(error.contains("guard thawed"), "{error}");
        assert_eq!(scene.guest.0.thaws.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_refused_freeze_leaves_nothing_frozen() {
        let scene = Scene::new(Stub { freeze_fails: true, ..Stub::default() });
        assert!(matches!(scene.open(), Err(OpenError::Refused(_))));
        assert!(!scene.frozen());
        assert!(scene.marks().contains(&Mark::FreezeErr));
    }

    #[test]
    fn a_freeze_without_an_answer_names_the_mounts_that_may_keep_the_agent() {
        let mut scene = Scene::new(Stub { freeze_fails: true, ..Stub::default() });
        scene.limits.freeze = Duration::ZERO;
        let error = scene.open().unwrap_err().to_string();
        assert!(error.contains("no answer within 0 s"), "{error}");
        assert!(error.ends_with("which it does in turn: /net (fuseblk)"), "{error}");
    }

    #[test]
    fn a_freeze_that_fails_and_happens_all_the_same_is_thawed() {
        let scene = Scene::new(Stub { freeze_fails: true, freezes_late: true, ..Stub::default() });
        assert!(matches!(scene.open(), Err(OpenError::Refused(_))));
        assert!(!scene.frozen());
    }

    #[test]
    fn a_thaw_that_does_not_happen_is_tried_again_and_counts_for_nothing() {
        for mute in [false, true] {
            let scene = Scene::new(Stub { lost_thaws: AtomicU32::new(2), mute, ..Stub::default() });
            assert_eq!(scene.open().unwrap().close().unwrap(), 1);
            assert_eq!(scene.marks().last(), Some(&Mark::ThawOk));
        }
    }

    #[test]
    fn nobody_thaws_a_guest_that_is_gone() {
        let lost = AtomicU32::new(u32::MAX);
        let scene = Scene::new(Stub { lost_thaws: lost, mute: true, gone: true, ..Stub::default() });
        assert!(scene.open().unwrap().close().is_err());
        assert_eq!(scene.guest.0.thaws.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_thaw_that_reports_a_failure_is_reported() {
        for mute in [false, true] {
            let scene = Scene::new(Stub { thaw_hook_fails: true, mute, ..Stub::default() });
            let error = scene.open().unwrap().close().unwrap_err().to_string();
            assert!(error.ends_with(": the lock was not held"), "{error}");
            assert_eq!(scene.marks().last(), Some(&Mark::ThawErr));
        }
    }
}
