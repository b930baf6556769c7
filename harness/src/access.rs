//! The ways to a guest's server: its accounts and schemas, made by its root, and a way from the
//! host to its own socket.

use std::time::Duration;

use contract::image::Database;
use mysql_async::Conn;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use tokio::runtime::Runtime;

use crate::database::{Access, Target};
use crate::error::{Error, LoadError, Result};
use crate::guest::Machine;
use crate::names::Names;

/// Below those that Linux chooses by itself.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// Makes schemas and accounts on the first guest's server, and opens every door to it.
pub fn grant(machine: &Machine, database: Database, names: Names, limit: Duration) -> Result<Target> {
    let statements = format!("{}SELECT @@socket;\n", names.setup_statements(database));
    let port = ChaCha20Rng::from_os_rng().random_range(PORTS);
    let line = OPEN.replace("PORT", &port.to_string());
    let granted = machine.agent().script(&line, statements.as_bytes(), limit);
    granted.map_err(|error| Error::AccessDenied(Box::new(error)))?;
    Ok(Target::new(database, names, machine.sql_address()?, machine.forward(port)?))
}

/// Makes an account on a restored server, which may lack everything that the first one had, and
/// connects to it.
pub fn connect_observer(
    machine: &Machine,
    runtime: &Runtime,
    database: Database,
    names: &Names,
    limit: Duration,
) -> Result<Conn> {
    machine.agent().script("mysql", names.observer_statements(database).as_bytes(), limit)?;
    let access = Access::new(machine.sql_address()?, &names.observer);
    runtime.block_on(access.connect_with_retries(limit)).map_err(Error::sql("let the observer in"))
}

/// Makes sure that so much data find room where the server keeps its own, with what changes add to them.
pub fn check_room(machine: &Machine, data_mib: u32, limit: Duration) -> Result<()> {
    if data_mib == 0 {
        return Ok(());
    }
    let free = machine.agent().script(FREE, b"SELECT @@datadir;\n", limit)?;
    let free_mib = String::from_utf8_lossy(&free).trim().parse::<u64>().unwrap_or(0) / 1024;
    let needed_mib = u64::from(data_mib) * 5 / 4 + 256;
    if free_mib >= needed_mib {
        return Ok(());
    }
    Err(LoadError::NoRoom { free_mib, data_mib, needed_mib }.into())
}

/// Prints how many KiB are free where the server's data lie; see df(1).
const FREE: &str = r#"set -e
datadir=$(mysql --batch --raw --skip-column-names)
df -kP "$datadir" | awk 'NR == 2 { print $4 }'
"#;

/// The relay is outside the agent's unit, so that neither ends with the other; it asks for the server's
/// socket at each connection, so that it outlives the server.
const OPEN: &str = r#"set -e
socket=$(mysql --batch --raw --skip-column-names)
for relay in /usr/lib/systemd/systemd-socket-proxyd /lib/systemd/systemd-socket-proxyd; do
    [ ! -x "$relay" ] || break
done
[ -x "$relay" ] || { echo "there is no $relay" >&2; exit 1; }
systemd-run --quiet --collect --socket-property=ListenStream=0.0.0.0:PORT "$relay" "$socket"
"#;
