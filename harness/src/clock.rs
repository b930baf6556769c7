//! The one clock of a trial.

use contract::history::Nanos;
use rustix::time::{ClockId, clock_gettime};

/// Host `CLOCK_MONOTONIC`, nanoseconds. It runs while guests are frozen, and
/// never jumps.
pub(crate) fn now() -> Nanos {
    let time = clock_gettime(ClockId::Monotonic);
    // The monotonic clock starts near 0 at boot and is never negative.
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
