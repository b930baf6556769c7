//! The contract: what scenarios, stages, judge and report exchange, as plain data.
//!
//! First the vocabulary: how good a backup is ([`grade`]), what that rests on ([`property`], one
//! table) and the result ([`finding`], [`figures`]). Then the files: what is requested
//! ([`scenario`], [`image`], [`run`], [`plan`]) and what was observed ([`events`], [`history`],
//! [`observation`]), and the same of a backup without a history ([`verification`]). Nothing here
//! touches a guest, and everything else stands on it.

#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod grade;
pub mod property;

pub mod figures;
pub mod finding;

pub mod image;
pub mod plan;
pub mod run;
pub mod scenario;

pub mod events;
pub mod history;
pub mod observation;

pub mod binlog;
pub mod durations;
pub mod files;
pub mod input;
pub mod json;
pub mod jsonl;
pub mod lock;
pub mod runtime_dir;
pub mod saved_states;
pub mod seal;
pub mod text;
pub mod verification;
