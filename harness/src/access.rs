//! Access to a guest's server: accounts and schemas, created by its root, and a relay from the host
//! to the server's own socket.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use tokio::time::timeout;

use crate::database::{Access, Connection, Target};
use crate::error::{Error, LoadError, Result, SqlError};
use crate::guest::Machine;
use crate::interrupt;
use crate::session::Session;

/// Ports below the range from which Linux picks ephemeral ports.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// Creates the schemas and accounts on the first guest's server, and opens every door to it.
pub fn grant(session: &Session<'_>, machine: &Machine) -> Result<Target> {
    let Session { plan, names, .. } = session;
    let dialect = session.dialect();
    let statements = format!("{}{}", dialect.grant(names), dialect.socket());
    let port = ChaCha20Rng::from_os_rng().random_range(PORTS);
    let line = OPEN.replace("PORT", &port.to_string()).replace("CLIENT", dialect.root_client());
    let granted = machine.agent().script(&line, statements.as_bytes(), plan.limits.agent);
    granted.map_err(|error| Error::AccessDenied(Box::new(error)))?;
    let (network, socket) = (machine.sql_address()?, machine.forward(port)?);
    Ok(Target::new(plan.image.server.database, names.clone(), network, socket))
}

/// Creates an account on a restored server, which may have lost every account of the first one, and
/// connects to it.
pub fn connect_observer(session: &Session<'_>, machine: &Machine) -> Result<Connection> {
    let Session { plan, names, runtime, .. } = session;
    let (dialect, limit) = (session.dialect(), plan.limits.agent);
    machine.agent().script(dialect.root_client(), dialect.grant_observer(names).as_bytes(), limit)?;
    let access = Access::new(plan.image.server.database, machine.sql_address()?, &names.observer);
    let let_in = async {
        let mut conn = access.connect_with_retries(limit).await?;
        if let Some(line) = dialect.before_observation() {
            conn.query(line).await?;
        }
        Ok(conn)
    };
    // A server that accepts a statement may never answer it.
    let in_time = async {
        let let_in = timeout(2 * limit, let_in).await.unwrap_or(Err(SqlError::TimedOut));
        let_in.map_err(Error::sql("let the observer in"))
    };
    runtime.block_on(interrupt::or_stop(in_time))
}

/// Fails when the server's data directory has no room for `data_mib` of data and the changes made
/// to it.
pub fn check_room(session: &Session<'_>, machine: &Machine) -> Result<()> {
    let (data_mib, limit) = (session.plan.load.data_mib, session.plan.limits.agent);
    if data_mib == 0 {
        return Ok(());
    }
    let dialect = session.dialect();
    let line = FREE.replace("CLIENT", dialect.root_client());
    let free = machine.agent().script(&line, dialect.data_directory().as_bytes(), limit)?;
    let free_mib = String::from_utf8_lossy(&free).trim().parse::<u64>().unwrap_or(0) / 1024;
    let needed_mib = u64::from(data_mib) * 5 / 4 + 256;
    if free_mib >= needed_mib {
        return Ok(());
    }
    Err(LoadError::NoRoom { free_mib, data_mib, needed_mib }.into())
}

/// Prints how many KiB are free in the server's data directory; see df(1).
const FREE: &str = r#"set -e
datadir=$(CLIENT)
df -kP "$datadir" | awk 'NR == 2 { print $4 }'
"#;

/// The relay runs outside the agent's unit, so that neither ends with the other. It connects to the
/// server's socket anew each time, so it survives restarts of the server.
const OPEN: &str = r#"set -e
socket=$(CLIENT)
for relay in /usr/lib/systemd/systemd-socket-proxyd /lib/systemd/systemd-socket-proxyd; do
    [ ! -x "$relay" ] || break
done
[ -x "$relay" ] || { echo "there is no $relay" >&2; exit 1; }
systemd-run --quiet --collect --socket-property=ListenStream=0.0.0.0:PORT "$relay" "$socket"
"#;
