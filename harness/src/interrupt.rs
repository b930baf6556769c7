//! The request to stop: made by a signal, honoured by every wait.
//!
//! A signal only raises a flag. The stage that runs returns [`Error::Interrupted`] (or
//! [`Error::Overdue`]), and the guards on its stack clean up in order: the guest is thawed first,
//! then ended.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How soon a wait notices the request. Waits end at once on their own event;
/// this bounds only the reaction to a signal.
const REACTION: Duration = Duration::from_millis(50);

static REQUESTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// When this process will have taken too long, and its time limit.
static DEADLINE: OnceLock<(Instant, Duration)> = OnceLock::new();

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

/// Fails when a stop was requested or the time is up.
pub(crate) fn check() -> Result<()> {
    if REQUESTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
        return Err(Error::Interrupted);
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
