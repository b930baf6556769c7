//! How far a server is in the replication that it takes part in: where one made of this backup goes on.

use std::collections::HashMap;

use mysql_async::Row;

use super::client::{Connection, ServerError};
use crate::position::Position;

/// How a server is asked, and what it calls the names of a connection, of a log and of a place in it.
type Question = (&'static str, [&'static str; 3]);

const MARIADB: &[Question] =
    &[("SHOW ALL SLAVES STATUS", ["Connection_name", "Relay_Master_Log_File", "Exec_Master_Log_Pos"])];
const MYSQL: &[Question] = &[
    ("SHOW REPLICA STATUS", ["Channel_Name", "Relay_Source_Log_File", "Exec_Source_Log_Pos"]),
    // Before 8.0.22.
    ("SHOW SLAVE STATUS", ["Channel_Name", "Relay_Master_Log_File", "Exec_Master_Log_Pos"]),
];

/// A replica's place in each source's log, and a Galera node's in its cluster; nothing on a server that stands
/// alone, or that does not tell this account.
///
/// # Errors
///
/// If the server does not answer.
pub(super) async fn place(conn: &mut Connection, is_mariadb: bool) -> Result<Position, ServerError> {
    let mut place = applied(conn, is_mariadb).await?;
    if is_mariadb {
        place.extend(galera_state(conn).await?);
    }
    Ok(place)
}

async fn applied(conn: &mut Connection, is_mariadb: bool) -> Result<Position, ServerError> {
    let questions = if is_mariadb { MARIADB } else { MYSQL };
    for (statement, names) in questions {
        match conn.ask::<Row>(statement).await {
            Ok(rows) => return Ok(position(&rows, names)),
            Err(error) if error.is_about_the_statement() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(vec![])
}

/// The cluster's history, and the last write set of it that this node has committed.
async fn galera_state(conn: &mut Connection) -> Result<Option<(&'static str, String)>, ServerError> {
    let answer = conn.ask("SHOW GLOBAL STATUS LIKE 'wsrep\\_%'").await?;
    let values: HashMap<String, String> = answer.into_iter().collect();
    let value = |name: &str| values.get(name).map(String::as_str).unwrap_or_default();
    let state = format!("{}:{}", value("wsrep_local_state_uuid"), value("wsrep_last_committed"));
    Ok((value("wsrep_connected") == "ON").then_some(("galera_state", state)))
}

fn position(rows: &[Row], names: &[&str; 3]) -> Position {
    let text = |row: &Row, name: &str| row.get_opt::<String, _>(name).and_then(Result::ok);
    let places = rows.iter().filter_map(|row| {
        let [connection, log, place] = names.map(|name| text(row, name).unwrap_or_default());
        // There is none as long as nothing of that source has been applied.
        let has_place = !log.is_empty();
        has_place.then(|| {
            if connection.is_empty() {
                format!("{log}:{place}")
            } else {
                format!("{connection}={log}:{place}")
            }
        })
    });
    let places: Vec<String> = places.collect();
    let gtid = rows.first().and_then(|row| text(row, "Gtid_Slave_Pos"));
    [("source_position", Some(places.join(" "))), ("gtid_slave_pos", gtid)]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)))
        .collect()
}
