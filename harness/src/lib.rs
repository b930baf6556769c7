//! Drives guests: everything in a trial except its verdict.
//!
//! A *trial* takes one [scenario](contract::scenario) and one [image](contract::image) through one
//! pipeline: boot, load, freeze, snapshot, thaw, restore, observe, judge. Every stage writes plain
//! JSON lines, all on one clock, and knows the others only through these and other plain data;
//! [`trial`] calls them one after the other.
//!
//! The modules below are in the order of the pipeline, after those that all of them use.

#![warn(clippy::print_stderr, clippy::print_stdout)]

mod bounds;
mod clock;
pub mod error;
pub mod guest_end;
pub mod history_log;
pub mod interrupt;
mod kept;

pub mod guest;
pub mod host;
pub mod overlay;
mod tool;

pub mod backup_tool;

pub mod access;
pub mod database;
pub mod directories;
pub mod names;
pub mod session;

pub mod load;
pub mod quiesce;
pub mod restore;
pub mod roll_forward;
pub mod saved_memory;
pub mod snapshot;

pub mod observe;

mod image_check;
pub mod inspect;
pub mod verify;

pub mod trial;
