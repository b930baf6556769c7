//! Drives guests: everything of a trial but its verdict.
//!
//! A *trial* takes one [scenario](contract::scenario) and one [image](contract::image) through one
//! pipeline: boot, load, freeze, snapshot, thaw, restore, observe, judge. Every stage writes plain
//! JSON lines with one clock, and knows the others by these and other plain data only; [`trial`] is
//! what calls one after the other.
//!
//! The modules below stand in the order of the pipeline, after what all of them stand on.

#![warn(clippy::print_stderr, clippy::print_stdout)]

mod clock;
pub mod error;
pub mod history_log;
pub mod interrupt;

pub mod guest;
pub mod host;
pub mod overlay;

pub mod access;
pub mod database;
pub mod directories;
pub mod names;

pub mod load;
pub mod quiesce;
pub mod restore;
pub mod roll_forward;
pub mod saved_memory;
pub mod snapshot;

pub mod observe;

pub mod inspect;
pub mod trial;
