//! What people see: results on standard output ([`results`]), and on standard error what happens
//! meanwhile, as events of `tracing` ([`log`]) and as lines that stay up to date ([`live`]). The host's
//! commands are such events, with their durations ([`command`]).
//!
//! Nothing else in the workspace prints. Some of the text comes from guests and logs, so all of it is
//! [escaped](contract::text).

#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod command;
#[cfg(test)]
#[path = "../../contract/tests/hidden/mod.rs"]
mod hidden;
pub mod live;
pub mod log;
pub mod results;
