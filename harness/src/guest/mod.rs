//! The guest: its domain definition, its life cycle, its agent and its console.

mod agent;
pub mod agent_proxy;
pub(crate) mod console;
mod console_log;
mod domain;
mod machine;
pub(crate) mod monitor;
pub mod qmp;
mod serial;
mod start_watch;
pub mod write_trace;

#[cfg(test)]
pub(crate) use agent::Transport;
pub use agent::{Agent, Exec, Transcript};
pub use domain::{Drive, Spec};
pub(crate) use domain::{EMULATOR, EXCHANGE, HEARTBEAT, ON_ERROR, escape_xml, quote_shell};
pub use machine::Machine;
#[cfg(test)]
pub(crate) use serial::Serial;
