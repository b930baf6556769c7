//! The request to stop: made by a signal, by time, or by the end of a guest; honoured by every wait.
//!
//! It only raises a flag. The stage that runs returns [`Error::Interrupted`], [`Error::Overdue`] or
//! [`Error::GuestEnded`], and the guards on its stack clean up in order: the guest is thawed first,
//! then ended.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::guest_end::Fate;

/// How soon a wait notices the request. Waits end at once on their own event;
/// this bounds only the reaction to a signal.
const REACTION: Duration = Duration::from_millis(50);

static REQUESTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// When this process will have taken too long, and its time limit.
static DEADLINE: OnceLock<(Instant, Duration)> = OnceLock::new();

/// The guests of this process.
static GUESTS: Mutex<Vec<Watched>> = Mutex::new(Vec::new());

/// A guest whose end may stop everything.
#[derive(Debug)]
struct Watched {
    role: &'static str,
    console: PathBuf,
    fate: Fate,
    /// Whether every end counts, and not only one that the host brought about.
    needed: bool,
}

/// Lets SIGINT and SIGTERM request a stop instead of ending the process.
pub fn listen() -> Result<()> {
    let flag = REQUESTED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(flag)).map_err(Error::Signals)?;
    }
    Ok(())
}

/// Sends SIGTERM to this process when its parent ends, for whatever reason.
pub fn end_with_parent() -> Result<()> {
    let set = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    set.map_err(|errno| Error::Signals(errno.into()))
}

/// Makes every wait fail after this time.
pub fn end_after(limit: Duration) {
    // A process has one limit: the first.
    let _ = DEADLINE.set((Instant::now() + limit, limit));
}

/// Lets the end of this guest fail every wait, if the host brought it about.
pub(crate) fn end_with(role: &'static str, console: PathBuf, fate: Fate) {
    guests().push(Watched { role, console, fate, needed: false });
}

/// Lets any other end of this guest do so as well.
pub(crate) fn need(fate: &Fate) {
    guests().iter_mut().filter(|guest| guest.fate.is(fate)).for_each(|guest| guest.needed = true);
}

/// Forgets a guest that may end now, or whose end is a fact like others.
pub(crate) fn forget(fate: &Fate) {
    guests().retain(|guest| !guest.fate.is(fate));
}

fn guests() -> MutexGuard<'static, Vec<Watched>> {
    GUESTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a stop was requested or the time is up.
pub(crate) fn is_over() -> bool {
    let requested = REQUESTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed));
    requested || DEADLINE.get().is_some_and(|(deadline, _)| Instant::now() > *deadline)
}

/// Fails when a stop was requested, the time is up, or a guest has ended that should not have.
pub(crate) fn check() -> Result<()> {
    if REQUESTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
        return Err(Error::Interrupted);
    }
    for Watched { role, console, fate, needed } in guests().iter() {
        if let Some(end) = fate.end().filter(|end| *needed || end.is_of_host()) {
            return Err(Error::guest_ended(role, end, console));
        }
    }
    match DEADLINE.get() {
        Some((deadline, limit)) if Instant::now() > *deadline => Err(Error::Overdue(*limit)),
        _ => Ok(()),
    }
}

/// Waits for the next message; `None` when `deadline` comes first.
pub(crate) fn receive<T>(channel: &Receiver<T>, deadline: Instant) -> Result<Option<T>> {
    loop {
        check()?;
        let left = deadline.saturating_duration_since(Instant::now());
        match channel.recv_timeout(left.min(REACTION)) {
            Ok(message) => return Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) if left > REACTION => {}
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// What this gives, unless a stop comes first: a server that accepts a statement may never answer it.
pub(crate) async fn or_stop<T>(waiting: impl Future<Output = Result<T>>) -> Result<T> {
    let stop = async {
        loop {
            if let Err(stop) = check() {
                return stop;
            }
            tokio::time::sleep(REACTION).await;
        }
    };
    tokio::select! {
        biased;
        given = waiting => given,
        stop = stop => Err(stop),
    }
}

/// Sleeps, unless interrupted.
pub(crate) fn pass(time: Duration) -> Result<()> {
    let deadline = Instant::now() + time;
    loop {
        check()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(REACTION));
    }
}
