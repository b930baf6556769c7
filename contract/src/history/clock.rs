//! The clock of histories.

/// Host `CLOCK_MONOTONIC`, nanoseconds.
pub type Nanos = u64;
