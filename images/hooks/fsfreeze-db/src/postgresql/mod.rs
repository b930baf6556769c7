//! A session with a PostgreSQL server that holds backup mode, or at least proves that the server lived on.
//!
//! PostgreSQL has no lock that keeps commits out, and needs none: it recovers from the frozen disks with
//! its WAL alone, to one instant, with every commit whose WAL is on disk. So what counts is the flush.
//! Backup mode adds a checkpoint, which makes the recovery short, and whole pages in the WAL, whatever
//! `full_page_writes` says.

mod client;

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::{CancelToken, NoTls};

use self::client::{ANSWER, Connection, STOP, ServerError, log_in, reach};
use crate::exit::{Exit, Failure, Refusal};
use crate::position::Position;
use crate::servers::Server;
use crate::settings::{Method, ServerSettings};

/// The oldest version whose functions are known here, as `server_version_num` counts.
const OLDEST: u32 = 100_000;

/// The first version that calls them `pg_backup_start` and `pg_backup_stop`.
const RENAMED: u32 = 150_000;

/// What is left of the time to lock after the checkpoint of backup mode, for everything else.
const REST: Duration = Duration::from_secs(3);

/// Logged in, and ready to hold.
pub(crate) struct Session {
    server: Server,
    settings: ServerSettings,
    connection: Connection,
    /// The server's process for this session, by its own number.
    backend: String,
    version: String,
    number: u32,
    is_standby: bool,
    /// After which the server ends an idle session that holds.
    hold: Duration,
    mode: Mode,
    /// When the open transaction began, in the server's words: it is the same as long as that lasts.
    transaction: Option<String>,
    position: Position,
    locked_at: Instant,
}

/// What the server is in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    /// Backup mode, since this place in the WAL; its label contains the nonce.
    Backup { start: String, nonce: String },
    /// None; and why, if it was asked for.
    Flush { why: Option<String> },
}

impl Session {
    /// Logs in. An answer may take as long as `patience`: nobody waits yet.
    ///
    /// # Errors
    ///
    /// If no socket leads to this very server, or it does not let us in, or it cannot be held as told.
    pub(crate) async fn open(
        server: &Server,
        settings: &ServerSettings,
        hold: Duration,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let name = server.name();
        if matches!(settings.method, Method::BackupStage | Method::Ftwrl) {
            let why = "methods \"backup-stage\" and \"ftwrl\" are MariaDB's and MySQL's";
            return Err(Failure::refused(format!("{why}: {name} is PostgreSQL")));
        }
        let connection = log_in(server, settings, patience).await?;
        let asked = "SELECT pg_backend_pid(), current_setting('server_version'), \
                     current_setting('server_version_num'), pg_is_in_recovery()";
        let answer = connection.ask(asked, patience).await;
        let answer = answer.map_err(|error| error.of(server, "does not answer"))?;
        let [backend, version, number, is_standby] = fields(server, answer)?;
        let number = number.parse().unwrap_or(0);
        if number < OLDEST {
            return Err(Failure::refused(format!("PostgreSQL 10 or later is needed: {name} is {version}")));
        }
        Ok(Self {
            server: server.clone(),
            settings: settings.clone(),
            connection,
            backend,
            version,
            number,
            is_standby: is_standby == "t",
            hold,
            mode: Mode::Flush { why: None },
            transaction: None,
            position: Position::new(),
            locked_at: Instant::now(),
        })
    }

    /// Enters backup mode, which begins with a checkpoint; nobody waits for that.
    ///
    /// # Errors
    ///
    /// If it does not, and a flush is not to do instead.
    pub(crate) async fn prepare(&mut self, deadline: Instant, nonce: &str) -> Result<(), Failure> {
        if self.settings.method == Method::Flush {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = left.saturating_sub(REST).max(Duration::from_secs(1));
        let start = if self.number >= RENAMED {
            format!("SELECT pg_backup_start('fsfreeze {nonce}', true)")
        } else {
            format!("SELECT pg_start_backup('fsfreeze {nonce}', true, false)")
        };
        let limit = format!("SET statement_timeout = {}", wait.as_millis());
        let what = "did not get into backup mode";
        self.ask(&limit, what).await?;
        let outcome = self.connection.ask(&start, wait + ANSWER).await;
        self.ask(&format!("SET statement_timeout = {}", STOP.as_millis()), what).await?;
        let may_do_without = self.settings.method == Method::Auto;
        self.mode = match outcome {
            Ok(row) => {
                let [start] = fields(&self.server, row)?;
                Mode::Backup { start, nonce: nonce.to_owned() }
            }
            Err(error) if may_do_without && error.is_timeout() => {
                let seconds = wait.as_secs();
                Mode::Flush { why: Some(format!("its checkpoint was not over within {seconds} s")) }
            }
            Err(error) if may_do_without && error.is_about_its_setup() => {
                Mode::Flush { why: Some(error.to_string()) }
            }
            Err(error) => return Err(error.of(&self.server, what)),
        };
        Ok(())
    }

    /// Flushes the WAL of every commit so far, and opens the transaction that is to last until the thaw. No writer
    /// waits for it: so it comes before those of other servers do.
    ///
    /// # Errors
    ///
    /// If the WAL does not get to disk.
    pub(crate) async fn begin(&mut self, nonce: &str) -> Result<(), Refusal> {
        let what = "did not flush its WAL";
        // A small record of our own, whose commit flushes all commits before it and waits for no standby.
        // A standby has on disk what it replays.
        let (record, flushed) = if self.is_standby {
            ("SELECT pg_last_wal_replay_lsn()".to_owned(), "SELECT pg_last_wal_replay_lsn()")
        } else {
            let record = format!("SELECT pg_logical_emit_message(true, 'fsfreeze', '{nonce}')");
            (record, "SELECT pg_current_wal_flush_lsn()")
        };
        let answer = self.ask(&record, what).await?;
        let [needed] = fields(&self.server, answer)?;
        let answer = self.ask(flushed, what).await?;
        let [lsn] = fields(&self.server, answer)?;
        match (place(&lsn), place(&needed)) {
            (Some(reached), Some(end)) if reached >= end => {}
            _ => {
                let name = self.server.name();
                return Err(Failure::refused(format!("{name} {what}: {lsn} of {needed}")).into());
            }
        }
        // An open transaction, because every version limits how long one may idle; it holds no snapshot.
        let begin = format!(
            "SET idle_in_transaction_session_timeout = {}; BEGIN ISOLATION LEVEL READ COMMITTED",
            self.hold.as_millis()
        );
        self.locked_at = Instant::now();
        self.ask(&begin, what).await?;
        let checkpoint =
            "SELECT pg_backend_pid(), now(), timeline_id, redo_wal_file FROM pg_control_checkpoint()";
        let answer = self.ask(checkpoint, what).await?;
        let [backend, transaction, timeline, wal_file] = fields(&self.server, answer)?;
        if backend != self.backend {
            return Err(self.is_another(&backend).into());
        }
        self.transaction = Some(transaction);
        let role = if self.is_standby { "standby" } else { "primary" };
        let mut position = vec![("role", role.to_owned()), ("timeline", timeline)];
        if let Mode::Backup { start, .. } = &self.mode {
            position.push(("start_lsn", start.clone()));
        }
        position.extend([("wal_file", wal_file), ("lsn", lsn)]);
        self.position = position;
        Ok(())
    }

    /// Where the log was then.
    pub(crate) fn position(&self) -> Position {
        self.position.clone()
    }

    /// Ends the transaction; backup mode goes on.
    pub(crate) async fn unlock(&mut self) {
        if self.transaction.take().is_some() {
            let _ = self.connection.ask("ROLLBACK", ANSWER).await;
        }
    }

    /// The server ends the transaction when it is idle for this much longer.
    pub(crate) async fn last_for(&mut self, limit: Duration) {
        let set = format!("SET idle_in_transaction_session_timeout = {}", limit.as_millis());
        let _ = self.connection.ask(&set, ANSWER).await;
    }

    /// The session answers still, in the same transaction, of a server that is what it was.
    ///
    /// # Errors
    ///
    /// If not.
    pub(crate) async fn is_alive(&mut self) -> Result<(), Failure> {
        let asked = "SELECT pg_backend_pid(), now(), pg_is_in_recovery()";
        let answer =
            self.connection.ask(asked, ANSWER).await.map_err(|error| self.lost(&error.to_string()))?;
        let [backend, transaction, is_standby] = fields(&self.server, answer)?;
        if backend != self.backend {
            return Err(self.is_another(&backend));
        }
        if self.transaction.as_ref() != Some(&transaction) {
            return Err(self.lost("its transaction is another one"));
        }
        if (is_standby == "t") != self.is_standby {
            return Err(self.lost("the standby was promoted"));
        }
        Ok(())
    }

    /// Proves that session and backup mode lasted until now, and ends them. It does not wait for the
    /// archive, from which this backup does not recover.
    ///
    /// # Errors
    ///
    /// If they did not last.
    pub(crate) async fn release(mut self) -> Result<(), Failure> {
        self.is_alive().await?;
        if let Mode::Backup { nonce, .. } = &self.mode {
            let stop = if self.number >= RENAMED {
                "SELECT labelfile FROM pg_backup_stop(false)"
            } else {
                "SELECT labelfile FROM pg_stop_backup(false, false)"
            };
            let label = format!("SELECT strpos(labelfile, 'fsfreeze {nonce}') > 0 FROM ({stop}) AS stopped");
            let answer = self.connection.ask(&label, STOP).await;
            let answer = answer.map_err(|error| self.lost(&error.to_string()))?;
            if answer != ["t"] {
                return Err(self.lost("the backup that it ended was another one"));
            }
        }
        self.end().await;
        Ok(())
    }

    /// Says goodbye; the server ends whatever the session holds.
    pub(crate) async fn end(self) {
        self.connection.close().await;
    }

    /// What its messages call it.
    pub(crate) fn describe(&self) -> String {
        let how = match &self.mode {
            Mode::Backup { .. } => "in backup mode".to_owned(),
            Mode::Flush { why: None } => "with its WAL flushed".to_owned(),
            Mode::Flush { why: Some(why) } => format!("with its WAL flushed, but not in backup mode ({why})"),
        };
        let name = self.server.name();
        format!("{name} {how}, connection {}, version {}", self.backend, self.version)
    }

    /// How another connection ends what this one waits for.
    pub(crate) fn ending(&self) -> Ending {
        Ending {
            server: self.server.clone(),
            settings: self.settings.clone(),
            token: self.connection.client.cancel_token(),
        }
    }

    /// Since when it is held; the server's own limit for an idle session begins later.
    pub(crate) fn locked_at(&self) -> Instant {
        self.locked_at
    }

    /// Which server it is.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// The version that the server says it is.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// How it is held, as the position file and messages call it.
    pub(crate) fn method(&self) -> &'static str {
        match self.mode {
            Mode::Backup { .. } => "backup-mode",
            Mode::Flush { .. } => "flush",
        }
    }

    async fn ask(&self, statements: &str, what: &str) -> Result<Vec<String>, Failure> {
        self.connection
            .ask(statements, ANSWER)
            .await
            .map_err(|error: ServerError| error.of(&self.server, what))
    }

    fn is_another(&self, backend: &str) -> Failure {
        self.lost(&format!("connection {backend} answers, not {}", self.backend))
    }

    fn lost(&self, why: &str) -> Failure {
        Failure { exit: Exit::LockLost, why: format!("{}: {why}", self.server.name()) }
    }
}

/// A session whose checkpoint may have to be given up: a server does not notice that a client which waits
/// has gone.
pub(crate) struct Ending {
    server: Server,
    settings: ServerSettings,
    token: CancelToken,
}

impl Ending {
    /// Ends what it waits for.
    pub(crate) async fn end(&self) {
        if let Ok(stream) = reach(&self.server, &self.settings).await {
            let _ = timeout(ANSWER, self.token.cancel_query_raw(stream, NoTls)).await;
        }
    }
}

/// A row of this many fields.
fn fields<const N: usize>(server: &Server, row: Vec<String>) -> Result<[String; N], Failure> {
    row.try_into().map_err(|row: Vec<String>| {
        Failure::refused(format!("{} answers with {} fields, not {N}", server.name(), row.len()))
    })
}

/// A place in the WAL, bytes since its beginning: PostgreSQL writes it as two numbers of 32 bits.
fn place(lsn: &str) -> Option<u64> {
    let (high, low) = lsn.split_once('/')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(high)? << 32) | number(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_wal_are_numbers() {
        assert!(place("0/10000000") > place("0/F000000"));
        assert!(place("1/0") > place("0/FFFFFFFF"));
        assert_eq!(place(""), None);
        assert_eq!(place("0/x"), None);
    }
}
