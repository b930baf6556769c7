//! The judge against trials that are right by construction, and against the
//! same trials with one thing wrong.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the lint knows only test functions")]

mod cycles;
mod evidence;
mod files;
mod mutants;
mod postgresql;
mod random;
mod tools;
mod windows;
mod world;
