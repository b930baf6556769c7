//! Freezeframe proves, on real virtual machines, whether a VM backup is
//! application-consistent.
//!
//! A *trial* takes one [`scenario`] and one [`image`] through one pipeline:
//! boot, load, freeze, snapshot, thaw, restore, observe, judge. Every stage
//! writes plain JSON lines with one clock; the [`judge`] is a pure function of
//! those files.
//!
//! The modules below stand in the order of the pipeline. Those that touch a
//! guest need the `vm` feature (and libvirt's headers); the rest checks
//! scenario files and judges trial directories anywhere.

// See `words`.
#![warn(clippy::print_stderr, clippy::print_stdout)]

#[cfg(feature = "vm")]
mod clock;
#[cfg(feature = "vm")]
pub mod error;
#[cfg(feature = "vm")]
pub mod interrupt;
pub mod json;
pub mod jsonl;
pub mod text;
pub mod words;

pub mod image;
pub mod measured;
pub mod plan;
pub mod root;
pub mod run;
pub mod scenario;

#[cfg(feature = "vm")]
pub mod guest;
#[cfg(feature = "vm")]
pub mod host;

#[cfg(feature = "vm")]
pub mod database;
#[cfg(feature = "vm")]
pub mod doors;
#[cfg(feature = "vm")]
pub mod examine;
#[cfg(feature = "vm")]
pub mod history_log;
#[cfg(feature = "vm")]
pub mod load;
#[cfg(feature = "vm")]
pub mod names;
#[cfg(feature = "vm")]
pub mod observe;
#[cfg(feature = "vm")]
pub mod overlay;
#[cfg(feature = "vm")]
pub mod places;
#[cfg(feature = "vm")]
pub mod quiesce;
#[cfg(feature = "vm")]
pub mod restore;
#[cfg(feature = "vm")]
pub mod roll_forward;
#[cfg(feature = "vm")]
pub mod snapshot;
#[cfg(feature = "vm")]
pub mod trial;
#[cfg(feature = "vm")]
pub mod warm;

pub mod binlog;
pub mod events;
pub mod figures;
pub mod finding;
pub mod grade;
pub mod history;
pub mod judge;
pub mod observation;
pub mod property;
pub mod report;
pub mod verdict;
