//! Somebody's backup tool: its commands, the disks that it hands back, and what it leaves behind.
//!
//! These are facts. What they mean is for the judge.

mod command;
mod disks;
mod left;

pub use command::{Ended, Request, Running, Signaller, Surroundings};
pub use disks::{HandedBack, handed_back};
pub use left::{Before, thaw};
