//! The hooks under `images/hooks`, as the guest agent would call them: the dispatcher with made-up
//! hooks, and the program against real servers of MariaDB, MySQL and PostgreSQL, of several releases.
//! Then the failure catalogue: our program beside others' hooks, also under real agents; and the hooks
//! beside scenarios. No VM, and nothing on this machine is ever frozen. With the same MariaDB, the reader
//! of the binary logs that a hook's position points into.
#![allow(clippy::unwrap_used, reason = "a test that cannot do its work must panic")]

#[path = "hooks/agent.rs"]
mod agent;
#[path = "hooks/beside.rs"]
mod beside;
#[path = "hooks/binlog.rs"]
mod binlog;
#[path = "hooks/call.rs"]
mod call;
#[path = "hooks/catalogue/mod.rs"]
mod catalogue;
#[allow(dead_code, reason = "shared with the tests of the load, which use more of it")]
#[path = "hooks/cluster.rs"]
mod cluster;
#[path = "hooks/dispatcher.rs"]
mod dispatcher;
#[path = "hooks/program.rs"]
mod program;
#[path = "hooks/program_galera.rs"]
mod program_galera;
#[path = "hooks/program_more.rs"]
mod program_more;
#[path = "hooks/program_neighbours.rs"]
mod program_neighbours;
#[path = "hooks/program_postgresql.rs"]
mod program_postgresql;
#[path = "hooks/program_replica.rs"]
mod program_replica;
#[path = "hooks/sample.rs"]
mod sample;
#[path = "hooks/scripts.rs"]
mod scripts;
#[allow(dead_code, reason = "shared with the tests of the load, which use more of it")]
#[path = "hooks/server.rs"]
mod server;
