//! The one clock of a trial.

use contract::history::Nanos;
use rustix::time::{ClockId, clock_gettime};

/// Host `CLOCK_MONOTONIC`, nanoseconds. It runs while guests are frozen, and
/// never jumps.
pub(crate) fn now() -> Nanos {
    // The monotonic clock starts near 0 at boot and is never negative.
    read(ClockId::Monotonic)
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// The host's wall clock, which QEMU writes into its events and traces, beside the trial's.
///
/// The two are read at one moment, and a time of QEMU's is as far before it on the one as on the other. The wall
/// clock may be set: so they are read again whenever something of QEMU's has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WallClock {
    /// Nanoseconds since 1970.
    wall: u64,
    now: Nanos,
}

/// How often the clocks are read at most, and how far apart two readings may be, nanoseconds: between them this
/// thread may have to wait for a processor.
const READINGS: u32 = 5;
const APART: u64 = 20_000;

impl WallClock {
    /// Reads both clocks.
    pub(crate) fn read() -> Self {
        let readings = (0..READINGS).map(|_| {
            let (wall, before, after) = (read(ClockId::Realtime), now(), read(ClockId::Realtime));
            (after.abs_diff(wall), Self { wall: wall.midpoint(after), now: before })
        });
        let mut best = (u64::MAX, Self { wall: 0, now: 0 });
        for reading in readings {
            if reading.0 < best.0 {
                best = reading;
            }
            if best.0 < APART {
                break;
            }
        }
        best.1
    }

    #[cfg(test)]
    pub(crate) fn at(wall: u64, now: Nanos) -> Self {
        Self { wall, now }
    }

    /// The time of the trial at which the wall clock showed this, nanoseconds since 1970; not after the reading.
    pub(crate) fn to_trial(self, wall: u64) -> Nanos {
        self.now.saturating_sub(self.wall.saturating_sub(wall))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_the_wall_clock_is_found_on_the_trials() {
        let before = now();
        let wall = read(ClockId::Realtime);
        let after = now();
        let found = WallClock::read().to_trial(wall);
        // The clocks are not read at quite the same moment.
        assert!((before - 1_000_000..=after + 1_000_000).contains(&found), "{before} {found} {after}");
        let clock = WallClock { wall: 1_000, now: 500 };
        assert_eq!([900, 1_000, 2_000, 400].map(|wall| clock.to_trial(wall)), [400, 500, 500, 0]);
    }
}
