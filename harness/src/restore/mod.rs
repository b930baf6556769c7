//! Restore: starts a server on the snapshot alone, so that it can be observed.

mod attach;
mod boot;

pub use attach::{Verifier, prepare};
pub use boot::{Booted, boot};
