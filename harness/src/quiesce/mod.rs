//! Quiesce: the freeze window, its guard, and the probes that ask inside it
//! whether the database really stands still.

mod guest;
mod hook;
mod probe;
mod window;
#[cfg(test)]
mod windows;

pub(crate) use guest::{Told, ask};
pub use hook::install_hook;
pub use probe::{Asked, Probes};
pub use window::{FreezeWindow, OpenError, Quiesce};
