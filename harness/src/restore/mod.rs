//! Restore: starts a server on the snapshot alone, so that it can be observed. Each way is a file
//! beside this one.

mod attach;
mod boot;
mod restorer;

pub use attach::{ROOT, Verifier, prepare};
pub use boot::Boot;
pub use restorer::{Restored, Restorer};
