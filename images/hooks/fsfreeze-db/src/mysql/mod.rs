//! A session with a MariaDB or MySQL server that holds its backup lock.
//!
//! All statements go through one connection: the lock ends with it, and that it still answers at the
//! thaw proves that the lock lasted.

mod client;
mod family;
mod relaxed;
mod replication;
mod status;

use std::future::pending;
use std::iter;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, join, select};
use mysql_async::prelude::FromRow;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

pub(crate) use self::client::get_ready;
use self::client::{ANSWER, Connection, ServerError, idle_for, log_in};
use self::family::Family;
use self::relaxed::Relaxed;
pub(crate) use self::relaxed::is_any_left;
use self::status::{Flushed, NO_REDO_LOG, NOT_FLUSHED, RedoLogSource, Status};
use crate::exit::{Exit, Failure, Refusal};
use crate::position::Position;
use crate::servers::Server;
use crate::settings::{Method, ServerSettings};

/// Before a server is asked again whether its redo log is on disk. Writers wait.
const POLL: Duration = Duration::from_millis(1);

/// Before a request that has not been granted is looked after, and again: MySQL lists transactions as they
/// were up to 100 ms ago. Writers wait.
const STUCK: Duration = Duration::from_millis(150);

/// After how many of them that see the same it is stuck. A client that holds a row lock may think for a moment.
const STUCK_LOOKS: u32 = 3;

/// What a server did that gave no lock.
const NOT_GRANTED: &str = "did not grant the lock";

/// What one did that keeps records of locks, and does not tell ours.
const NO_LOCKS: &str = "does not say whether its lock is held";

/// What MySQL's records call this connection; without records there is none.
const OWN_THREAD: &str =
    "SELECT thread_id FROM performance_schema.threads WHERE processlist_id = CONNECTION_ID()";

/// For statements that have been told to end.
const ENDING: Duration = Duration::from_millis(100);

/// What locks a server, and what unlocks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    /// Statements run on, commits wait: no deadlock with row locks, no waiting for long statements.
    BackupStage,
    /// All writers wait.
    Ftwrl,
    /// And DDL does as well, which is more than FTWRL alone keeps out.
    InstanceAndFtwrl,
}

impl Lock {
    /// What comes first, and keeps no writer waiting.
    fn begins(self) -> Option<&'static str> {
        match self {
            Self::BackupStage => Some("BACKUP STAGE START"),
            Self::InstanceAndFtwrl => Some("LOCK INSTANCE FOR BACKUP"),
            Self::Ftwrl => None,
        }
    }

    /// What does.
    fn stops_writers(self) -> &'static str {
        match self {
            Self::BackupStage => "BACKUP STAGE BLOCK_COMMIT",
            Self::InstanceAndFtwrl | Self::Ftwrl => "FLUSH TABLES WITH READ LOCK",
        }
    }

    fn unlock(self) -> &'static [&'static str] {
        match self {
            Self::BackupStage => &["BACKUP STAGE END"],
            Self::InstanceAndFtwrl => &["UNLOCK TABLES", "UNLOCK INSTANCE"],
            Self::Ftwrl => &["UNLOCK TABLES"],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::BackupStage => "backup-stage",
            Self::Ftwrl | Self::InstanceAndFtwrl => "ftwrl",
        }
    }
}

/// Logged in, and ready to lock.
pub(crate) struct Session {
    server: Server,
    settings: ServerSettings,
    conn: Connection,
    /// Finds out on MariaDB that the lock keeps others out, while this session is busy. It logs in before there is a
    /// lock, because a server that has no connection left would not let it in.
    witness: Option<Arc<Witness>>,
    connection: u64,
    /// What MySQL's records call this connection, if it keeps any.
    thread: Option<u64>,
    version: String,
    family: Family,
    lock: Lock,
    /// How long it may be locked, and how long it may be idle until then.
    hold: Duration,
    patience: Duration,
    /// How long a request for the lock may take.
    wait: Duration,
    relaxed: Option<Relaxed>,
    redo_log_source: RedoLogSource,
    /// It has a place in a replication.
    replicates: bool,
    locked_at: Instant,
}

impl Session {
    /// Logs in, and finds out how to lock. Until writers wait, an answer may take as long as `patience`: a
    /// disk that stalls for some seconds is no reason to refuse.
    ///
    /// # Errors
    ///
    /// If no socket leads to this very server, or it does not let us in, or it cannot be locked as told.
    pub(crate) async fn open(
        server: &Server,
        settings: &ServerSettings,
        hold: Duration,
        patience: Duration,
        run_directory: &Path,
    ) -> Result<Self, Failure> {
        let login = settings.login(server)?;
        // While other servers are waited for it has nothing to do.
        let idle = hold + patience;
        let mut conn = log_in(server, &login, idle, patience).await?;
        let silent = |error: ServerError| error.of(server, "does not answer");
        let unrecorded = |error: ServerError| error.of(server, NO_LOCKS);
        if let Some(mut left) = relaxed::left(run_directory, server) {
            left.restore(&mut conn)
                .await
                .map_err(|error| error.of(server, "does not take back a setting"))?;
        }
        let (connection, version, redo_setting) = introduced(&mut conn).await.map_err(silent)?;
        let family = Family::of(&version);
        let lock = match (settings.method, family) {
            (Method::Auto | Method::BackupStage, Family::Mariadb) => Lock::BackupStage,
            (Method::BackupStage, _) => {
                return Err(Failure::refused(format!(
                    "method = \"backup-stage\" needs MariaDB 10.4.1 or later: {} is {version}",
                    server.name()
                )));
            }
            (Method::BackupMode | Method::Flush, _) => {
                let why = "methods \"backup-mode\" and \"flush\" are PostgreSQL's";
                return Err(Failure::refused(format!("{why}: {} is {version}", server.name())));
            }
            (_, Family::Mysql) => Lock::InstanceAndFtwrl,
            _ => Lock::Ftwrl,
        };
        let (witness, thread) = if family.is_mariadb() {
            let witness = log_in(server, &login, idle, patience).await?;
            (Some(Arc::new(Witness { conn: Mutex::new(witness), lock, server: server.clone() })), None)
        } else if family == Family::Mysql {
            (None, conn.ask(OWN_THREAD).await.map_err(unrecorded)?.first().copied())
        } else {
            (None, None)
        };
        // When commits do not flush, MariaDB's FLUSH ENGINE LOGS does not either.
        let relaxed = redo_setting
            .filter(|setting| family.is_mariadb() && *setting != 1)
            .map(|setting| Relaxed::new(run_directory, server, setting));
        Ok(Self {
            server: server.clone(),
            settings: settings.clone(),
            conn,
            witness,
            connection,
            thread,
            version,
            family,
            lock,
            hold,
            patience,
            wait: patience,
            relaxed,
            redo_log_source: redo_setting.map_or(RedoLogSource::Absent, |_| RedoLogSource::of(family)),
            replicates: false,
            locked_at: Instant::now(),
        })
    }

    /// Takes what keeps no writer waiting, and asks once for all that will be asked while some do.
    ///
    /// # Errors
    ///
    /// If that is not over before the deadline, or the server refuses some of it.
    pub(crate) async fn begin(&mut self, deadline: Instant) -> Result<(), Refusal> {
        let left = deadline.saturating_duration_since(Instant::now());
        // BACKUP STAGE may wait a long time, because it stops few; a waiting FTWRL stops every writer.
        let wait = if self.lock == Lock::BackupStage { left } else { left.min(self.settings.flush_wait()) };
        let seconds = wait.as_secs().max(1);
        self.wait = Duration::from_secs(seconds + 2);
        let limits = format!("SET SESSION lock_wait_timeout = {seconds}, {}", idle_for(self.hold));
        let statements: Vec<&str> = iter::once(limits.as_str()).chain(self.lock.begins()).collect();
        let begun = self.conn.answers(&statements, self.conn.patience.max(self.wait)).await;
        begun.map_err(|(_, error)| refusal(error, &self.server, NOT_GRANTED))?;
        self.rehearse().await
    }

    /// Locks the server, flushes the redo log of everything committed, and proves that the lock keeps others
    /// out. An attempt that fails may leave some of it locked.
    ///
    /// # Errors
    ///
    /// If the lock is not granted in time, or does not do what it should.
    pub(crate) async fn take(&mut self) -> Result<Position, Refusal> {
        // From now on writers wait for each answer.
        self.conn.patience = ANSWER;
        self.stop_writers(self.wait, NOT_GRANTED).await?;
        self.locked_at = Instant::now();
        // Another connection, where there is one, finds out at the same time.
        let Some(witness) = self.witness.clone() else {
            let position = self.flush().await?;
            self.prove().await?;
            return Ok(position);
        };
        let (position, kept_out) = join(self.flush(), witness.is_kept_out(ANSWER)).await;
        let position = position?;
        kept_out?;
        Ok(position)
    }

    /// Asks for the lock; FLUSH TABLES WITH READ LOCK gives way in a deadlock, and may be asked for again.
    async fn stop_writers(&mut self, limit: Duration, what: &str) -> Result<(), Refusal> {
        let ending = self.ending();
        let server = self.server.clone();
        let statement = self.lock.stops_writers();
        if self.lock == Lock::BackupStage {
            return self.run(statement, limit, what).await;
        }
        let granted = match select(pin!(self.run(statement, limit, what)), pin!(ending.deadlock())).await {
            Either::Left((granted, _)) => return granted,
            Either::Right((mut other, granting)) => {
                let _ = other.run(&format!("KILL QUERY {}", ending.connection)).await;
                let granted = granting.await;
                other.close().await;
                granted
            }
        };
        if granted.is_ok() {
            // It was granted just before: what was to end it ends this.
            let _ = self.conn.run("DO 0").await;
            return Ok(());
        }
        let what = format!("gave up {statement}: it and row locks waited for each other");
        Err(Refusal { why: Failure::refused(format!("{} {what}", server.name())), may_succeed: true })
    }

    /// Asks once everything that will be asked while the writers wait: nothing has to be loaded then, little
    /// is left to flush, and what the server refuses shows before anybody waits.
    async fn rehearse(&mut self) -> Result<(), Refusal> {
        self.flush_and_ask().await?;
        self.replicates = !self.replication().await?.is_empty();
        // Without any lock the witness would not be kept out.
        if self.lock != Lock::Ftwrl {
            let _ = self.prove().await;
        }
        Ok(())
    }

    /// A waiting FLUSH TABLES WITH READ LOCK stops all writers; on MySQL, the tables of the statement that
    /// it waits for stay closed even after it has given up. So look before asking.
    ///
    /// # Errors
    ///
    /// If there are such statements, and they are not to be ended.
    pub(crate) async fn look(&mut self) -> Result<(), Refusal> {
        if self.lock == Lock::BackupStage {
            return Ok(());
        }
        let mut blockers = self.blockers().await?;
        if self.settings.kill_long_statements && !blockers.is_empty() {
            for blocker in &blockers {
                // It may have ended meanwhile.
                let _ = self.conn.run(&format!("KILL QUERY {}", blocker.connection)).await;
            }
            sleep(ENDING).await;
            blockers = self.blockers().await?;
        }
        let Some(oldest) = blockers.first() else { return Ok(()) };
        let what = format!(
            "did not ask for the lock: {} would keep it, the oldest for {} s on connection {}: {}",
            match blockers.len() {
                1 => "a statement".to_owned(),
                n => format!("{n} statements"),
            },
            oldest.seconds,
            oldest.connection,
            oldest.statement.escape_debug(),
        );
        Err(Refusal { why: Failure::refused(format!("{}: {what}", self.server.name())), may_succeed: true })
    }

    /// Those that hold a table, or have locked tables for writing: what only sleeps, or waits for a lock
    /// of its own making, blocks nobody.
    async fn blockers(&mut self) -> Result<Vec<Blocker>, Refusal> {
        let age = self.settings.long_statement_seconds();
        if self.family == Family::Mysql
            && let Ok(Some(blockers)) = self.recorded_blockers(age).await
        {
            return Ok(blockers);
        }
        // Events run as `Connect`, as replication does, which is the system user's.
        let asked = format!(
            "SELECT id, time, LEFT(COALESCE(info, command), 80) FROM information_schema.processlist \
             WHERE time >= {age} AND id <> CONNECTION_ID() AND command IN ('Query', 'Execute', 'Connect') \
             AND user NOT IN ('system user', 'event_scheduler', 'unauthenticated user') \
             AND NOT (COALESCE(state, '') IN ('User sleep', 'User lock') \
             AND info REGEXP '^[[:space:]]*(select|do)[[:space:]]' AND info NOT LIKE '%from%') \
             ORDER BY time DESC"
        );
        let blockers = self.conn.ask(&asked).await;
        blockers.map_err(|error| refusal(error, &self.server, "cannot be asked for long statements"))
    }

    /// What MySQL's records of metadata locks say; `None` if it keeps none. It is asked in two simple steps,
    /// the second of which is seldom needed: one that joins them costs more than the whole lock.
    ///
    /// Replication's threads are left out: their time is not a statement's, but how far they are behind.
    async fn recorded_blockers(&mut self, age: u64) -> Result<Option<Vec<Blocker>>, ServerError> {
        if self.own_locks().await?.is_empty() {
            return Ok(None);
        }
        let old: Vec<(u64, String, Blocker)> = self
            .conn
            .ask::<(u64, String, u64, u64, Option<String>)>(&format!(
                "SELECT thread_id, COALESCE(processlist_command, ''), processlist_id, processlist_time, \
                 LEFT(processlist_info, 80) FROM performance_schema.threads \
                 WHERE processlist_time >= {age} AND processlist_id <> CONNECTION_ID() \
                 AND name NOT LIKE 'thread/sql/replica%' AND name NOT LIKE 'thread/sql/slave%'"
            ))
            .await?
            .into_iter()
            .map(|(thread, command, connection, seconds, statement)| {
                let blocker = Blocker::new(connection, seconds, statement.as_deref().unwrap_or(&command));
                (thread, command, blocker)
            })
            .collect();
        if old.is_empty() {
            return Ok(Some(vec![]));
        }
        let threads: Vec<String> = old.iter().map(|(thread, ..)| thread.to_string()).collect();
        let locks: Vec<(u64, String)> = self
            .conn
            .ask(&format!(
                "SELECT owner_thread_id, object_type FROM performance_schema.metadata_locks \
                 WHERE lock_status = 'GRANTED' AND owner_thread_id IN ({}) \
                 AND (object_type = 'TABLE' AND object_schema <> 'performance_schema' \
                 OR object_type = 'GLOBAL' AND lock_type = 'INTENTION_EXCLUSIVE')",
                threads.join(", ")
            ))
            .await?;
        let blocks = |thread: u64, command: &str| {
            locks.iter().any(|(owner, kind)| *owner == thread && (kind == "GLOBAL" || command != "Sleep"))
        };
        let mut blockers: Vec<Blocker> = old
            .into_iter()
            .filter(|(thread, command, _)| blocks(*thread, command))
            .map(|(_, _, blocker)| blocker)
            .collect();
        blockers.sort_by_key(|blocker| std::cmp::Reverse(blocker.seconds));
        Ok(Some(blockers))
    }

    /// The metadata locks of this session, by MySQL's records: what each is for, and of which type. Where the
    /// server keeps records, there is at least the one of this very question.
    async fn own_locks(&mut self) -> Result<Vec<(String, String)>, ServerError> {
        let Some(thread) = self.thread else { return Ok(vec![]) };
        let asked = format!(
            "SELECT object_type, lock_type FROM performance_schema.metadata_locks \
             WHERE lock_status = 'GRANTED' AND owner_thread_id = {thread}"
        );
        self.conn.ask(&asked).await
    }

    /// The redo log of everything committed, on disk; and the position.
    async fn flush(&mut self) -> Result<Position, Refusal> {
        let server = self.server.clone();
        let refusal = |error: ServerError| refusal(error, &server, NOT_FLUSHED);
        if let Some(relaxed) = &mut self.relaxed {
            // While nobody can commit.
            relaxed.raise(&mut self.conn).await.map_err(refusal)?;
        }
        let flushed = self.flush_all().await;
        if let Some(relaxed) = &mut self.relaxed {
            relaxed.restore(&mut self.conn).await.map_err(refusal)?;
        }
        let mut position = flushed?;
        if self.replicates {
            position.extend(self.replication().await?);
        }
        Ok(position)
    }

    /// Again, if the redo log is not on disk up to where it was at first: nobody has committed since.
    async fn flush_all(&mut self) -> Result<Position, Refusal> {
        let limit = Instant::now() + ANSWER;
        let mut needed = None;
        loop {
            let Status { redo_log, binary_log: mut position } = self.flush_and_ask().await?;
            let Some(Flushed { needed: now, reached }) = redo_log else { return Ok(position) };
            // The server's own threads go on writing.
            let needed = *needed.get_or_insert(now);
            if reached >= needed {
                position.push(("lsn", needed.to_string()));
                return Ok(position);
            }
            if Instant::now() >= limit {
                let name = self.server.name();
                let why = format!("{name} did not flush its redo log up to the lock: {reached} of {needed}");
                return Err(Failure::refused(why).into());
            }
            sleep(POLL).await;
        }
    }

    /// Flushes the redo log, and asks where the logs are; older servers say it only in prose.
    async fn flush_and_ask(&mut self) -> Result<Status, Refusal> {
        loop {
            let steps = status::steps(self.redo_log_source, self.family);
            let statements: Vec<&str> = steps.iter().map(|(statement, _)| *statement).collect();
            let answers = self.conn.answers(&statements, self.conn.patience).await;
            let answers = answers.map_err(|(at, error)| {
                let (_, what) = steps[at];
                refusal(error, &self.server, what)
            })?;
            match status::read(self.redo_log_source, self.family, &answers) {
                Err(NO_REDO_LOG) if self.redo_log_source != RedoLogSource::Prose => {
                    self.redo_log_source = RedoLogSource::Prose;
                }
                Err(what) => return Err(Failure::refused(format!("{} {what}", self.server.name())).into()),
                Ok(status) => return Ok(status),
            }
        }
    }

    /// How far it is in the replication that it takes part in.
    async fn replication(&mut self) -> Result<Position, Refusal> {
        let place = replication::place(&mut self.conn, self.family.is_mariadb()).await;
        place.map_err(|error| refusal(error, &self.server, "does not say how far it has replicated"))
    }

    /// That the lock keeps others out, independently of our own session's word.
    async fn prove(&mut self) -> Result<(), Refusal> {
        if let Some(witness) = &self.witness {
            return witness.is_kept_out(self.conn.patience).await;
        }
        let locks = self.own_locks().await.map_err(|error| refusal(error, &self.server, NO_LOCKS))?;
        let is_held = |kind: &str| locks.iter().any(|(object, lock)| object == kind && lock == "SHARED");
        // MySQL before 8.0 has no such records, and it may be told to keep none.
        if locks.is_empty() || is_held("GLOBAL") && is_held("COMMIT") {
            Ok(())
        } else {
            Err(not_held(&self.server))
        }
    }

    /// Proves that the lock lasted until now, and releases it.
    ///
    /// # Errors
    ///
    /// If the session does not answer, or is not the one that took the lock.
    pub(crate) async fn release(mut self) -> Result<(), Failure> {
        // At the same time, because writers wait for both. What FTWRL keeps out would be done without it, and logged.
        let kept_out = match self.witness.clone() {
            Some(witness) if self.lock == Lock::BackupStage => {
                let (alive, kept_out) = join(self.is_alive(), witness.is_kept_out(ANSWER)).await;
                alive?;
                kept_out
            }
            _ => {
                self.is_alive().await?;
                self.prove().await
            }
        };
        // The session might have unlocked what it still has to hold.
        if let Err(refusal) = kept_out {
            return Err(Failure { exit: Exit::LockLost, why: refusal.why.why });
        }
        self.end().await;
        Ok(())
    }

    /// Releases whatever is locked, and says goodbye.
    pub(crate) async fn end(mut self) {
        self.release_locks().await;
        self.conn.close().await;
        if let Some(witness) = self.witness.and_then(Arc::into_inner) {
            witness.conn.into_inner().close().await;
        }
    }

    /// Releases whatever is locked, to ask for it again later.
    pub(crate) async fn unlock(&mut self) {
        self.release_locks().await;
        let _ = self.conn.run(&format!("SET SESSION {}", idle_for(self.hold + self.patience))).await;
    }

    /// A session that does not answer ends with our process.
    async fn release_locks(&mut self) {
        for statement in self.lock.unlock() {
            let _ = self.conn.run(statement).await;
        }
        // Of an attempt that was cut off in between.
        if let Some(relaxed) = self.relaxed.as_mut().filter(|relaxed| relaxed.is_raised) {
            let _ = relaxed.restore(&mut self.conn).await;
        }
    }

    /// The server ends the session when it is idle for this much longer.
    pub(crate) async fn last_for(&mut self, limit: Duration) {
        let _ = self.conn.run(&format!("SET SESSION {}", idle_for(limit))).await;
    }

    /// The session answers still.
    pub(crate) async fn is_alive(&mut self) -> Result<(), Failure> {
        let lost = |why: String| Failure { exit: Exit::LockLost, why };
        let name = self.server.name();
        match self.conn.first::<u64>("SELECT CONNECTION_ID()").await {
            Ok(connection) if connection == self.connection => Ok(()),
            Ok(connection) => {
                Err(lost(format!("{name}: connection {connection} answers, not {}", self.connection)))
            }
            Err(error) => Err(lost(format!("{name}: {error}"))),
        }
    }

    /// What its messages call it.
    pub(crate) fn describe(&self) -> String {
        format!(
            "{} locked by {}, connection {}, version {}",
            self.server.name(),
            self.lock.name(),
            self.connection,
            self.version
        )
    }

    /// How another connection ends this one.
    pub(crate) fn ending(&self) -> Ending {
        Ending { server: self.server.clone(), settings: self.settings.clone(), connection: self.connection }
    }

    /// Since when it is locked; the server's own limit for an idle session begins later.
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

    /// How it is locked, as the position file and messages call it.
    pub(crate) fn method(&self) -> &'static str {
        self.lock.name()
    }

    async fn run(&mut self, statement: &str, limit: Duration, what: &str) -> Result<(), Refusal> {
        let outcome = self.conn.run_within(statement, limit).await;
        outcome.map_err(|error| refusal(error, &self.server, what))
    }
}

fn not_held(server: &Server) -> Refusal {
    let name = server.name();
    Failure::refused(format!("{name} granted the lock, but it does not keep others out")).into()
}

/// What a server says of this connection and of itself: the connection's number, its version, and its
/// `innodb_flush_log_at_trx_commit` if it has InnoDB.
async fn introduced(conn: &mut Connection) -> Result<(u64, String, Option<u8>), ServerError> {
    let asked = "SELECT CONNECTION_ID(), VERSION()";
    match conn.first(&format!("{asked}, @@global.innodb_flush_log_at_trx_commit")).await {
        Err(error) if error.is_unknown_variable() => {
            conn.first(asked).await.map(|(connection, version)| (connection, version, None))
        }
        answer => answer,
    }
}

/// Another connection, which a lock has to keep out; asked while the session that holds the lock is busy.
struct Witness {
    conn: Mutex<Connection>,
    lock: Lock,
    server: Server,
}

impl Witness {
    async fn is_kept_out(&self, limit: Duration) -> Result<(), Refusal> {
        let refused = match self.lock {
            Lock::BackupStage => "BACKUP STAGE START",
            // Nothing that RELOAD allows waits for it.
            Lock::Ftwrl | Lock::InstanceAndFtwrl => "DROP TABLE IF EXISTS mysql.fsfreeze_db_is_not_there",
        };
        match self.conn.lock().await.run_within(refused, limit).await {
            Err(error) if error.is_lock_wait() || error.is_galera_pause() => Ok(()),
            Err(error) => Err(refusal(error, &self.server, "does not say whether its lock keeps others out")),
            Ok(()) => Err(not_held(&self.server)),
        }
    }
}

/// A connection that may have to be ended from outside: a server keeps a statement that waits for a lock,
/// and everybody behind it, when its client has gone.
pub(crate) struct Ending {
    server: Server,
    settings: ServerSettings,
    connection: u64,
}

impl Ending {
    /// Ends it, if it is still there.
    pub(crate) async fn end(&self) {
        let Ok(login) = self.settings.login(&self.server) else { return };
        if let Ok(mut conn) = log_in(&self.server, &login, ANSWER, ANSWER).await {
            let _ = conn.run(&format!("KILL {}", self.connection)).await;
            conn.close().await;
        }
    }

    /// Waits until what this connection waits for waits for it: a statement for a row, and the transaction
    /// that has changed the row for FLUSH TABLES WITH READ LOCK to be over. No server sees such a deadlock;
    /// all writers would wait until the request is given up. Gives a connection that is free.
    async fn deadlock(&self) -> Connection {
        match self.look_for_deadlock().await {
            Some(conn) => conn,
            // The request has its limit all the same.
            None => pending().await,
        }
    }

    /// Gives nothing if the server does not answer.
    async fn look_for_deadlock(&self) -> Option<Connection> {
        sleep(STUCK).await;
        let mut conn =
            log_in(&self.server, &self.settings.login(&self.server).ok()?, ANSWER, ANSWER).await.ok()?;
        let (mut looks, mut before) = (0, 0);
        loop {
            let (waiting, getting_on): (u64, u64) = conn.first(ROW_LOCKS).await.ok()?;
            let stuck = if getting_on == 0 { waiting } else { 0 };
            // A row lock that is passed on leaves fewer of them: no statement begins meanwhile.
            looks = match stuck {
                0 => 0,
                same if same == before => looks + 1,
                _ => 1,
            };
            if looks == STUCK_LOOKS {
                return Some(conn);
            }
            before = stuck;
            sleep(STUCK).await;
        }
    }
}

/// How many transactions wait for a row lock, and how many hold some and get on. What waits for another lock is
/// said to be `Waiting for .. lock`; MySQL's `waiting for handler commit` is a commit at work.
const ROW_LOCKS: &str = "SELECT COUNT(IF(trx_state = 'LOCK WAIT', 1, NULL)), \
                         COUNT(IF(trx_state <> 'LOCK WAIT' AND trx_lock_structs > 0 AND command <> 'Sleep' \
                         AND COALESCE(state, '') NOT LIKE 'Waiting for % lock', 1, NULL)) \
                         FROM information_schema.innodb_trx \
                         JOIN information_schema.processlist ON id = trx_mysql_thread_id";

/// A statement that would keep FLUSH TABLES WITH READ LOCK waiting.
struct Blocker {
    connection: u64,
    seconds: u64,
    /// Only its first word: the others may be secrets.
    statement: String,
}

impl FromRow for Blocker {
    fn from_row_opt(row: mysql_async::Row) -> Result<Self, mysql_async::FromRowError> {
        let (connection, seconds, statement): (_, _, String) = FromRow::from_row_opt(row)?;
        Ok(Self::new(connection, seconds, &statement))
    }
}

impl Blocker {
    fn new(connection: u64, seconds: u64, statement: &str) -> Self {
        let statement = statement.split_whitespace().next().unwrap_or_default().to_owned();
        Self { connection, seconds, statement }
    }
}

/// Of an error at a statement of this server, which `what` it does.
fn refusal(error: ServerError, server: &Server, what: &str) -> Refusal {
    let may_succeed = error.is_lock_wait();
    Refusal { why: error.of(server, what), may_succeed }
}

/// Sets back what a freeze that was killed has left raised.
///
/// # Errors
///
/// If the server does not let us in, or refuses.
pub(crate) async fn set_back(
    server: &Server,
    settings: &ServerSettings,
    run_directory: &Path,
) -> Result<(), Failure> {
    let Some(mut left) = relaxed::left(run_directory, server) else { return Ok(()) };
    let mut conn = log_in(server, &settings.login(server)?, ANSWER, ANSWER).await?;
    left.restore(&mut conn).await.map_err(|error| error.of(server, "does not take back a setting"))
}
