//! The load against real servers, without a guest: what the history claims is what the
//! tables hold, even when connections, locks or the server itself fail.
#![allow(clippy::unwrap_used, reason = "a test that cannot do its work must panic")]

#[path = "load/bench.rs"]
mod bench;
#[allow(unused, reason = "shared with the tests of the hooks, which use more of it")]
#[path = "hooks/call.rs"]
mod call;
#[allow(dead_code, reason = "shared with the tests of the hooks, which use more of it")]
#[path = "hooks/cluster.rs"]
mod cluster;
#[path = "load/postgresql.rs"]
mod postgresql;
#[path = "load/probes.rs"]
mod probes;
#[path = "load/runs.rs"]
mod runs;
#[allow(dead_code, reason = "shared with the tests of the hooks, which use more of it")]
#[path = "hooks/server.rs"]
mod server;
#[path = "load/story.rs"]
mod story;
