//! Quiesce: the freeze window, its guard, and the probes that check inside it whether the database
//! really stands still.

mod backup_mode;
mod facts;
mod hook;
mod probe;
mod window;
#[cfg(test)]
mod windows_guest;

pub use backup_mode::BackupModeWitness;
pub(crate) use facts::{GuestFacts, inspect};
pub use hook::install_hook;
pub use probe::{Probes, SentProbes};
pub use window::{FreezeWindow, OpenError, Quiesce};
