//! The quiescence probes: statements that are sent inside the window, through
//! every door, on connections that were opened before the freeze.
//!
//! They distinguish states that look alike from outside: nothing held back, only the file system
//! frozen, the database locked, the clients cut off, the server gone. None of them depends on a
//! disk, because on a frozen one the server hangs in many places for reasons of its own:
//!
//! - a COMMIT of a transaction whose changes were made before the freeze. The server asks for its
//!   commit lock before it writes anything, and the list of its threads then says what it waits
//!   for. Without a lock the COMMIT hangs in the write instead. A lock of tables does not block it.
//!   When its connection is ended, a new one writes the same: a hook may end sessions under a lock,
//!   or instead of one;
//! - an INSERT into a MyISAM table, which only a lock keeps out;
//! - an UPDATE of a MEMORY table, which only a lock can refuse.

use std::collections::BTreeMap;
use std::time::Duration;

use contract::history::{Nanos, Probe, ProbeAnswer, ProbeKind, Quiescence, Round, Schema};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::database::{
    Access, Activity, Connection, DOORS, Dialect, SOCKET_ADMIN, SqlResult, TCP, TCP_ADMIN, Target,
};
use crate::error::{Error, Result, SqlError};
use crate::names::{Names, table};

/// How long the probes of a round are waited for: more than the second after which the server gives
/// up waiting for a lock.
const ANSWER_LIMIT: Duration = Duration::from_millis(2500);

/// The pause between two polls of the server's threads.
const POLL_PAUSE: Duration = Duration::from_millis(25);

/// How long a poll may take; a server that takes longer is not polled again.
const POLL_LIMIT: Duration = Duration::from_secs(2);

/// How long a probe must be observed not to wait until its lock counts as released. A waiting
/// thread of the server wakes up each second, and does not show the lock until it waits again,
/// which was observed to take an emulated guest 95 ms.
const RELEASED_AFTER: Nanos = 300_000_000;

/// How long a write of the log must take until it counts as one that hangs.
const HANGS_AFTER: Nanos = 200_000_000;

/// How long the last polls may take.
const LAST_POLL_LIMIT: Duration = Duration::from_millis(1000);

/// How many times a lost connection is replaced, and how long each attempt may take.
const ATTEMPTS: u32 = 2;
const ATTEMPT_LIMIT: Duration = Duration::from_millis(1100);

/// How many rows the probes of one window write.
const ROWS: u32 = 2 * DOORS.len() as u32 + 2;

/// The probes of one window, connected and ready.
#[derive(Debug)]
pub struct Probes {
    dialect: &'static dyn Dialect,
    ready: Vec<Ready>,
    observers: Vec<(Connection, Access)>,
}

/// A probe that is ready to be sent.
#[derive(Debug)]
struct Ready {
    probe: Probe,
    conn: Connection,
    statement: String,
    /// A single statement that writes the same on another connection.
    again: String,
    /// Opens another connection when this one is lost.
    access: Access,
}

impl Probes {
    /// Opens the connections and the transactions for the window of this number, in `limit` at most. Must be done
    /// before the freeze: a frozen guest may not accept any.
    pub fn connect(runtime: &Runtime, target: &Target, number: u32, limit: Duration) -> Result<Self> {
        let first = (number - 1) * ROWS + 1;
        let plan: Vec<_> = plan(target.dialect(), &target.names, first);
        let [a, b, c, d] = [0, 1, 2, 3].map(|door| prepare(target, &plan, door, limit));
        let connect = async {
            // One door after the other would take long; everything at once is more than QEMU's user
            // network can handle.
            let (a, b, c, d) = tokio::try_join!(a, b, c, d)?;
            let mut observers = Vec::new();
            for door in [TCP_ADMIN, SOCKET_ADMIN] {
                let access = target.door(door);
                observers.push((access.connect_with_retries(limit).await?, access.clone()));
            }
            let ready = [a, b, c, d].into_iter().flatten().collect();
            Ok(Self { dialect: target.dialect(), ready, observers })
        };
        let connected = runtime.block_on(async { timeout(limit, connect).await });
        connected.unwrap_or(Err(SqlError::TimedOut)).map_err(Error::sql("prepare the quiescence probes"))
    }

    /// Sends the first round.
    pub fn send(self, runtime: &Runtime) -> SentProbes {
        let (first, second) = self.ready.into_iter().partition(|ready| ready.probe.round == Round::Snapshot);
        let dialect = self.dialect;
        let states = watch::Sender::new(ProbeStates::default());
        let mut sent = SentProbes { dialect, states, tasks: JoinSet::new(), second };
        sent.start(runtime, first);
        for (conn, access) in self.observers {
            sent.tasks.spawn_on(poll(dialect, conn, access, sent.states.clone()), runtime.handle());
        }
        sent
    }
}

/// The statements of one probe: those before the window, and the one in it.
struct Planned {
    probe: Probe,
    before: Vec<String>,
    statement: String,
    again: String,
}

/// The probes of a window, whose rows are numbered from `row`.
fn plan(dialect: &dyn Dialect, names: &Names, mut row: u32) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut add = |round, door, schema, kind, before: &[String], statement: String, numbered: bool| {
        let probe = Probe {
            t: 0,
            end: 0,
            since: None,
            round,
            door,
            schema,
            kind,
            row: numbered.then_some(row),
            answer: ProbeAnswer::Hung,
            code: None,
        };
        let number = |text: &String| text.replace("ROW", &row.to_string());
        let before: Vec<_> = before.iter().map(number).collect();
        let statement = number(&statement);
        let again = match kind {
            ProbeKind::Commit => before.last().unwrap_or(&statement).clone(),
            ProbeKind::Row | ProbeKind::Memory => statement.clone(),
        };
        planned.push(Planned { probe, before, statement, again });
        row += u32::from(numbered);
    };
    let insert = |plain| format!("INSERT INTO {} (n) VALUES (ROW)", names.table(plain));
    for round in [Round::Snapshot, Round::Thaw] {
        for door in 0..DOORS.len() as u8 {
            let (schema, table) = if door <= TCP_ADMIN {
                (Schema::Load, table::PROBE_TX)
            } else {
                (Schema::Second, table::SECOND_PROBE_TX)
            };
            let before = ["START TRANSACTION".to_owned(), insert(table)];
            add(round, door, schema, ProbeKind::Commit, &before, "COMMIT".to_owned(), true);
        }
    }
    // As an administrator, whom `read_only` does not stop.
    let rows =
        [(TCP_ADMIN, Schema::Load, table::PROBE_NT), (SOCKET_ADMIN, Schema::Second, table::SECOND_PROBE_NT)];
    for (door, schema, table) in rows.into_iter().filter(|_| dialect.probes_rows()) {
        add(Round::Snapshot, door, schema, ProbeKind::Row, &[], insert(table), true);
    }
    let before: Vec<_> = dialect.before_memory_probe().iter().map(|it| (*it).to_owned()).collect();
    let update = format!("UPDATE {} SET n = n + 1 WHERE id = 1", names.table(table::PROBE));
    add(Round::Snapshot, TCP, Schema::Load, ProbeKind::Memory, &before, update, false);
    planned
}

/// Prepares the probes of one door.
async fn prepare(target: &Target, plan: &[Planned], door: u8, limit: Duration) -> SqlResult<Vec<Ready>> {
    let access = target.door(door);
    let mut ready = Vec::new();
    for Planned { probe, before, statement, again } in
        plan.iter().filter(|planned| planned.probe.door == door)
    {
        let mut conn = access.connect_with_retries(limit).await?;
        for statement in before {
            conn.execute(statement).await?;
        }
        let (probe, statement, again) = (probe.clone(), statement.clone(), again.clone());
        ready.push(Ready { probe, conn, statement, again, access: access.clone() });
    }
    Ok(ready)
}

/// Probes that were sent. Those in flight stay so until this is dropped.
#[derive(Debug)]
pub struct SentProbes {
    dialect: &'static dyn Dialect,
    states: watch::Sender<ProbeStates>,
    tasks: JoinSet<()>,
    /// The second round, which is not sent yet.
    second: Vec<Ready>,
}

impl SentProbes {
    fn start(&mut self, runtime: &Runtime, probes: Vec<Ready>) {
        for ready in probes {
            let sent = Sent {
                connection: ready.conn.id(),
                probe: ready.probe.clone(),
                missed: None,
                writing: None,
                hangs: false,
                seen: false,
                answered: false,
            };
            self.states.send_modify(|states| states.sent.push(sent));
            let at = self.states.borrow().sent.len() - 1;
            self.tasks.spawn_on(send(self.dialect, ready, self.states.clone(), at), runtime.handle());
        }
    }

    /// Waits, for a limited time, until every probe that was sent is answered or observed to wait
    /// for a lock. Any other hangs, or is observed later.
    pub fn settle(&self, runtime: &Runtime) {
        let settled = |states: &ProbeStates| states.sent.iter().all(Sent::is_settled);
        self.wait(runtime, ANSWER_LIMIT, settled);
    }

    /// Sends the second round, if the first one has shown what keeps commits out, and waits as for
    /// the first one.
    pub fn send_again(&mut self, runtime: &Runtime) {
        let kept_out = match self.dialect.quiescence() {
            Quiescence::Lock => ProbeAnswer::Locked,
            Quiescence::BackupMode => ProbeAnswer::Hung,
        };
        let is_kept_out = |sent: &Sent| sent.probe.kind == ProbeKind::Commit && sent.probe.answer == kept_out;
        if self.states.borrow().sent.iter().any(is_kept_out) {
            let second = std::mem::take(&mut self.second);
            self.start(runtime, second);
            self.settle(runtime);
        }
    }

    /// Polls the server's threads a last time, and returns the result of each probe.
    pub fn results(&self, runtime: &Runtime) -> Vec<Probe> {
        let before = self.states.borrow().polls;
        let looked = |states: &ProbeStates| {
            let fresh = states.polls > before || states.sent.iter().all(|sent| sent.answered);
            fresh && !states.sent.iter().any(Sent::is_in_doubt)
        };
        self.wait(runtime, LAST_POLL_LIMIT, looked);
        let now = clock::now();
        let states = self.states.borrow();
        states.sent.iter().map(|sent| sent.result(now)).collect()
    }

    fn wait(&self, runtime: &Runtime, limit: Duration, until: impl FnMut(&ProbeStates) -> bool) {
        let mut states = self.states.subscribe();
        runtime.block_on(async { drop(timeout(limit, states.wait_for(until)).await) });
    }
}

/// What is known about the probes that were sent.
#[derive(Debug, Default)]
struct ProbeStates {
    sent: Vec<Sent>,
    /// How many times the server's threads were polled.
    polls: u32,
}

/// A probe that was sent. Until more is known, it hangs.
#[derive(Debug)]
struct Sent {
    /// Its connection's id on the server.
    connection: u32,
    probe: Probe,
    /// When it was first observed not to wait any more, which one or two polls do not prove.
    missed: Option<Nanos>,
    /// Since when the server has said that it waits for its log to be written.
    writing: Option<Nanos>,
    /// It has waited for that longer than a disk takes.
    hangs: bool,
    /// The server's threads were polled while it was in flight.
    seen: bool,
    /// It was answered.
    answered: bool,
}

impl Sent {
    fn is_settled(&self) -> bool {
        self.answered || self.hangs || !matches!(self.probe.answer, ProbeAnswer::Hung | ProbeAnswer::Cut)
    }

    /// Evaluates the same poll: whether it waits for its log to be written. A write that takes its
    /// time is no frozen disk.
    fn observe_write(&mut self, requested_at: Nanos, waits: bool) {
        self.writing = waits.then(|| self.writing.unwrap_or(requested_at));
        self.hangs |= self.writing.is_some_and(|since| requested_at.saturating_sub(since) >= HANGS_AFTER);
    }

    /// What has become of it by now. One whose task got to run too late for that, or a probe just before the thaw of
    /// which a busy server has told nothing yet, does not show that the lock is gone; but its row may come.
    fn result(&self, now: Nanos) -> Probe {
        let Self { probe, seen, .. } = self;
        let silent = probe.round == Round::Thaw && probe.answer == ProbeAnswer::Hung && !seen;
        if probe.t == 0 || silent {
            let t = if probe.t == 0 { now } else { probe.t };
            return Probe { t, end: now, since: None, answer: ProbeAnswer::Unseen, ..probe.clone() };
        }
        match probe.answer {
            ProbeAnswer::Hung | ProbeAnswer::Cut => Probe { end: now, ..probe.clone() },
            _ => probe.clone(),
        }
    }

    /// Its connection was lost, and this one replaces it.
    fn continue_on(&mut self, connection: u32) {
        (self.connection, self.missed) = (connection, None);
        self.probe.answer = ProbeAnswer::Cut;
        self.probe.since = None;
    }

    /// It does not seem to wait any more, but that is not certain yet.
    fn is_in_doubt(&self) -> bool {
        !self.answered && self.missed.is_some() && self.probe.answer == ProbeAnswer::Locked
    }

    /// Evaluates a poll of the server's threads, requested and read at these times. A COMMIT also
    /// waits behind a lock that is only `requested` by another thread, so then a first wait proves
    /// nothing.
    fn observe(&mut self, requested_at: Nanos, read: Nanos, waits: bool, requested: bool) {
        let Self { probe, missed, answered, .. } = self;
        if *answered || probe.t == 0 || requested_at < probe.t {
            return;
        }
        match (probe.answer, waits) {
            (ProbeAnswer::Hung | ProbeAnswer::Cut, true) if requested => {}
            (ProbeAnswer::Hung | ProbeAnswer::Cut, true) => {
                (probe.answer, probe.since, probe.end) = (ProbeAnswer::Locked, Some(read), read);
            }
            (ProbeAnswer::Locked, true) => {
                *missed = None;
                // It waited at least until then.
                probe.end = probe.end.max(requested_at);
            }
            (ProbeAnswer::Locked, false) => match *missed {
                Some(first) if requested_at.saturating_sub(first) >= RELEASED_AFTER => {
                    (probe.answer, probe.end) = (ProbeAnswer::Released, first);
                }
                Some(_) => {}
                None => *missed = Some(read),
            },
            // A COMMIT takes its lock once: one that waits again never had it.
            (ProbeAnswer::Released, true) if probe.kind == ProbeKind::Commit => {
                (probe.answer, probe.end, *missed) = (ProbeAnswer::Locked, requested_at, None);
            }
            _ => {}
        }
    }

    /// Records the answer to the statement.
    fn answered(&mut self, end: Nanos, answer: ProbeAnswer, code: Option<String>) {
        let Self { probe, answered, .. } = self;
        *answered = true;
        probe.code = code;
        match (probe.answer, answer) {
            (ProbeAnswer::Released, ProbeAnswer::Done) => {}
            (ProbeAnswer::Locked, ProbeAnswer::Done) => {
                (probe.answer, probe.end) = (ProbeAnswer::Released, end);
            }
            _ => (probe.answer, probe.end) = (answer, end),
        }
    }
}

/// Sends a probe, and keeps its connection until the window is over.
async fn send(
    dialect: &'static dyn Dialect,
    Ready { mut conn, statement, again, access, .. }: Ready,
    states: watch::Sender<ProbeStates>,
    at: usize,
) {
    states.send_modify(|states| states.sent[at].probe.t = clock::now());
    let (mut answer, mut code) = outcome(dialect, conn.execute(&statement).await);
    if answer == ProbeAnswer::Error {
        match try_another(&access).await {
            Ok(other) => {
                conn = other;
                states.send_modify(|states| states.sent[at].continue_on(conn.id()));
                let (other, refused) = outcome(dialect, conn.execute(&again).await);
                answer = if other == ProbeAnswer::Error { ProbeAnswer::Cut } else { other };
                code = refused.or(code);
            }
            Err((other, refused)) => (answer, code) = (other, refused.or(code)),
        }
    }
    let end = clock::now();
    states.send_modify(|states| states.sent[at].answered(end, answer, code));
    // The connection may matter as long as the guest is frozen.
    std::future::pending::<()>().await;
}

/// The answer to a statement; an error means that its connection was lost.
fn outcome(dialect: &dyn Dialect, result: SqlResult<()>) -> (ProbeAnswer, Option<String>) {
    match result {
        Ok(()) => (ProbeAnswer::Done, None),
        Err(SqlError::Server { code, .. }) => (dialect.refusal(&code), Some(code)),
        Err(_) => (ProbeAnswer::Error, None),
    }
}

/// Replaces a lost connection, or returns the answer that its failure amounts to.
async fn try_another(access: &Access) -> std::result::Result<Connection, (ProbeAnswer, Option<String>)> {
    for _ in 0..ATTEMPTS {
        match access.connect(ATTEMPT_LIMIT).await {
            Ok(conn) => return Ok(conn),
            Err(SqlError::Server { code, .. }) => return Err((ProbeAnswer::Refused, Some(code))),
            // The attempt itself may have been lost in the network.
            Err(SqlError::TimedOut) => {}
            // Without a server, whatever accepts for it closes the connection at once.
            Err(_) => return Err((ProbeAnswer::Gone, None)),
        }
    }
    Err((ProbeAnswer::Error, None))
}

/// Polls what the server's threads wait for, as long as it answers.
async fn poll(
    dialect: &'static dyn Dialect,
    mut conn: Connection,
    access: Access,
    states: watch::Sender<ProbeStates>,
) {
    loop {
        let requested_at = clock::now();
        let threads = match timeout(POLL_LIMIT, threads(dialect, &mut conn)).await {
            Ok(Ok(threads)) => threads,
            // Its session was ended.
            Ok(Err(_)) => {
                let Ok(other) = try_another(&access).await else { return };
                conn = other;
                continue;
            }
            Err(_) => return,
        };
        let read = clock::now();
        let requested = threads.values().any(|thread| dialect.requests_lock(thread));
        states.send_modify(|states| {
            states.polls += 1;
            for sent in &mut states.sent {
                let state = threads.get(&sent.connection).map_or("", |thread| &thread.state);
                let waits = dialect.waits_for_lock(sent.probe.kind, state);
                sent.observe(requested_at, read, waits, requested);
                if sent.probe.t > 0 && requested_at >= sent.probe.t {
                    sent.seen = true;
                    sent.observe_write(requested_at, dialect.waits_for_log(state));
                }
            }
        });
        sleep(POLL_PAUSE).await;
    }
}

/// What each of the server's threads does, by its connection.
async fn threads(dialect: &dyn Dialect, conn: &mut Connection) -> SqlResult<BTreeMap<u32, Activity>> {
    let rows = conn.query(dialect.activity()).await?;
    // Threads of the server itself may have no number.
    let threads = rows.iter().filter_map(|row| dialect.read_activity(row).ok());
    Ok(threads.map(|thread| (thread.connection, thread)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::dialect;
    use contract::image::Database;

    fn commit() -> Sent {
        let planned = plan(dialect(Database::Mariadb), &Names::random(), 1).remove(0);
        Sent {
            connection: 7,
            probe: Probe { t: 10, ..planned.probe },
            missed: None,
            writing: None,
            hangs: false,
            seen: false,
            answered: false,
        }
    }

    #[test]
    fn every_row_has_a_number_of_its_own() {
        let planned = plan(dialect(Database::Mariadb), &Names::random(), 11);
        let mut rows: Vec<_> = planned.iter().filter_map(|planned| planned.probe.row).collect();
        assert!(planned.iter().all(|planned| !planned.statement.contains("ROW)")));
        rows.sort_unstable();
        assert!(rows.into_iter().eq(11..11 + ROWS));
    }

    #[test]
    fn a_lock_is_what_the_server_says_again_and_again() {
        let mut sent = commit();
        sent.observe(5, 20, true, false);
        assert!(!sent.is_settled(), "it was not sent yet");
        sent.observe(20, 30, false, false);
        assert!(!sent.is_settled(), "a lock of a table");
        sent.observe(40, 50, true, false);
        assert_eq!(
            (sent.probe.answer, sent.probe.since, sent.probe.end),
            (ProbeAnswer::Locked, Some(50), 50)
        );
        sent.observe(60, 70, true, false);
        sent.observe(80, 90, false, false);
        sent.observe(100, 110, true, false);
        assert_eq!((sent.probe.answer, sent.probe.end), (ProbeAnswer::Locked, 100));
        sent.observe(120, 130, false, false);
        sent.observe(140, 150, false, false);
        assert_eq!((sent.probe.answer, sent.is_in_doubt()), (ProbeAnswer::Locked, true));
        sent.observe(160, 170, true, false);
        assert_eq!((sent.probe.end, sent.is_in_doubt()), (160, false));
        sent.observe(180, 190, false, false);
        sent.observe(190 + RELEASED_AFTER, 200 + RELEASED_AFTER, false, false);
        assert_eq!((sent.probe.answer, sent.probe.end), (ProbeAnswer::Released, 190));
        sent.answered(210 + RELEASED_AFTER, ProbeAnswer::Done, None);
        assert_eq!((sent.probe.answer, sent.probe.end), (ProbeAnswer::Released, 190));
    }

    /// A dump may request its lock while a backup holds one.
    #[test]
    fn a_lock_that_is_asked_for_takes_nothing_from_one_that_is_held() {
        let mut sent = commit();
        sent.observe(20, 30, true, true);
        assert_eq!(sent.probe.answer, ProbeAnswer::Hung);
        sent.observe(40, 50, true, false);
        sent.observe(60, 70, true, true);
        assert_eq!((sent.probe.answer, sent.probe.end), (ProbeAnswer::Locked, 60));
    }

    #[test]
    fn a_commit_that_waits_again_never_had_its_lock() {
        let mut sent = commit();
        sent.observe(40, 50, true, false);
        sent.observe(60, 70, false, false);
        sent.observe(70 + RELEASED_AFTER, 80 + RELEASED_AFTER, false, false);
        assert_eq!(sent.probe.answer, ProbeAnswer::Released);
        sent.observe(90 + RELEASED_AFTER, 100 + RELEASED_AFTER, true, false);
        assert_eq!((sent.probe.answer, sent.probe.end), (ProbeAnswer::Locked, 90 + RELEASED_AFTER));
    }

    #[test]
    fn a_write_that_takes_its_time_does_not_hang() {
        let mut sent = commit();
        sent.observe_write(20, true);
        sent.observe_write(HANGS_AFTER, true);
        assert!(!sent.is_settled());
        sent.observe_write(HANGS_AFTER + 10, false);
        sent.observe_write(HANGS_AFTER + 20, true);
        assert!(!sent.is_settled(), "another write");
        sent.observe_write(2 * HANGS_AFTER + 20, true);
        assert!(sent.is_settled());
    }

    #[test]
    fn what_nobody_could_look_at_says_nothing_of_the_thaw() {
        let mut sent = commit();
        let result = |sent: &Sent| {
            let Probe { t, end, row, answer, .. } = sent.result(70);
            assert_eq!(row, sent.probe.row, "whatever is known of it, its row may come");
            (t, end, answer)
        };
        let t = sent.probe.t;
        assert_eq!(result(&sent), (t, 70, ProbeAnswer::Hung), "before the snapshot silence is a finding");
        sent.probe.round = Round::Thaw;
        assert_eq!(result(&sent), (t, 70, ProbeAnswer::Unseen));
        sent.seen = true;
        assert_eq!(result(&sent), (t, 70, ProbeAnswer::Hung), "the server named no lock");
        sent.seen = false;
        sent.answered(60, ProbeAnswer::Done, None);
        assert_eq!(result(&sent), (t, 60, ProbeAnswer::Done));
        let mut late = commit();
        late.probe.t = 0;
        assert_eq!(result(&late), (70, 70, ProbeAnswer::Unseen), "it may be sent at any moment");
    }

    #[test]
    fn an_answer_ends_the_wait() {
        let mut sent = commit();
        sent.observe(40, 50, true, false);
        sent.answered(60, ProbeAnswer::Done, None);
        assert_eq!((sent.probe.answer, sent.probe.end), (ProbeAnswer::Released, 60));
        let mut sent = commit();
        sent.answered(60, ProbeAnswer::Refused, Some("1290".into()));
        sent.observe(70, 80, true, false);
        assert_eq!((sent.probe.answer, sent.probe.code.as_deref()), (ProbeAnswer::Refused, Some("1290")));
    }
}
