//! The quiescence probes against locks that are held, not held and lost.

use std::collections::BTreeSet;

use contract::history::{Nanos, Probe, ProbeAnswer, ProbeKind, Round, Schema};
use harness::database::{TCP, TCP_ADMIN};
use harness::names::table;
use harness::quiesce::{Probes, SentProbes};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::bench::{Client, LIMIT, Run, serve};
use crate::call::wait_until;
use crate::server::Stopped;

/// Takes the lock that MariaDB's backup tools hold.
pub(crate) async fn hold_the_backup_lock(conn: &mut Conn) -> mysql_async::Result<()> {
    for stage in ["START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT"] {
        conn.query_drop(format!("BACKUP STAGE {stage}")).await?;
    }
    Ok(())
}

/// Connected probes, as before a freeze, on the tables of a load that has ended.
pub(crate) struct Ready<'a> {
    client: &'a Client,
    pub(crate) run: Run<'a>,
    probes: Probes,
}

impl<'a> Ready<'a> {
    pub(crate) fn new(client: &'a Client, name: &str) -> Self {
        let run = client.run(name);
        run.stop(run.start(5));
        let probes = Probes::connect(&client.runtime, &run.target, 1, LIMIT).unwrap();
        Self { client, run, probes }
    }

    fn send(self) -> SentProbes {
        let sent = self.probes.send(&self.client.runtime);
        sent.settle(&self.client.runtime);
        sent
    }

    /// Sends both rounds and returns the answers.
    pub(crate) fn send_both(self) -> Answers {
        let Client { runtime, .. } = self.client;
        let mut sent = self.send();
        sent.send_again(runtime);
        Answers(sent.results(runtime))
    }
}

/// When any of them was last answered or observed.
fn latest(probes: &[Probe]) -> Nanos {
    probes.iter().map(|probe| probe.end).max().unwrap_or_default()
}

pub(crate) struct Answers(Vec<Probe>);

impl Answers {
    /// The answers of the COMMITs of a round.
    pub(crate) fn commits(&self, round: Round) -> Vec<ProbeAnswer> {
        let commits = self.0.iter().filter(|probe| probe.round == round && probe.kind == ProbeKind::Commit);
        commits.map(|probe| probe.answer).collect()
    }

    pub(crate) fn memory(&self) -> ProbeAnswer {
        self.0.iter().find(|probe| probe.kind == ProbeKind::Memory).expect("one").answer
    }

    /// How many INSERTs into tables without transactions were sent.
    pub(crate) fn rows(&self) -> usize {
        self.0.iter().filter(|probe| probe.kind == ProbeKind::Row).count()
    }

    /// The answer of the INSERT into the MyISAM table of a schema.
    fn row(&self, schema: Schema) -> ProbeAnswer {
        let is_it = |probe: &&Probe| probe.kind == ProbeKind::Row && probe.schema == schema;
        self.0.iter().find(is_it).expect("one").answer
    }

    /// Asserts that all COMMITs of the first round and all INSERTs have this answer, and that the
    /// second round was sent only if there was a lock.
    #[track_caller]
    fn are_all(&self, answer: ProbeAnswer) {
        assert_eq!(self.commits(Round::Snapshot), [answer; 4]);
        let second = self.commits(Round::Thaw);
        assert_eq!(second, if answer == ProbeAnswer::Locked { vec![answer; 4] } else { vec![] });
        assert_eq!([Schema::Load, Schema::Second].map(|schema| self.row(schema)), [answer; 2]);
    }
}

/// For answers that must come in time although other servers keep the disk busy.
const WITHOUT_SYNC: &[&str] = &["--sync-binlog=0", "--innodb-flush-log-at-trx-commit=0"];

#[test]
fn probes_tell_what_holds_writes_back() {
    let (server, client) = serve(WITHOUT_SYNC);

    let answers = Ready::new(&client, "nothing").send_both();
    answers.are_all(ProbeAnswer::Done);
    assert_eq!(answers.memory(), ProbeAnswer::Done);
    let rows: BTreeSet<_> = answers.0.iter().filter_map(|probe| probe.row).collect();
    assert_eq!(rows.len(), 6, "each has a row of its own: {rows:?}");

    let ready = Ready::new(&client, "backup-lock");
    let mut holder = client.connect_as_root();
    client.wait(hold_the_backup_lock(&mut holder)).unwrap();
    let answers = ready.send_both();
    answers.are_all(ProbeAnswer::Locked);
    assert_eq!(answers.memory(), ProbeAnswer::Done);
    for probe in answers.0.iter().filter(|probe| probe.answer == ProbeAnswer::Locked) {
        assert!(probe.since.is_some_and(|since| probe.t < since && since <= probe.end), "{probe:?}");
    }
    client.wait(holder.query_drop("BACKUP STAGE END")).unwrap();

    let ready = Ready::new(&client, "global-read-lock");
    client.wait(holder.query_drop("FLUSH TABLES WITH READ LOCK")).unwrap();
    let answers = ready.send_both();
    answers.are_all(ProbeAnswer::Locked);
    assert_eq!(answers.memory(), ProbeAnswer::Locked);
    client.wait(holder.query_drop("UNLOCK TABLES")).unwrap();

    let ready = Ready::new(&client, "stopped");
    let stopped = Stopped::new(&server);
    let answers = ready.send_both();
    drop(stopped);
    answers.are_all(ProbeAnswer::Hung);
    assert_eq!(answers.memory(), ProbeAnswer::Hung);
}

/// A lock of every table of one schema, except those used in a transaction, is no lock of the
/// server.
#[test]
fn a_lock_of_tables_is_seen_where_it_is() {
    let (_server, client) = serve(WITHOUT_SYNC);
    let ready = Ready::new(&client, "tables");
    let mut holder = client.connect_as_root();
    let [memory, row] = [table::PROBE, table::PROBE_NT].map(|plain| ready.run.table(plain));
    client.wait(holder.query_drop(format!("FLUSH TABLES {memory}, {row} WITH READ LOCK"))).unwrap();
    let answers = ready.send_both();
    assert_eq!(answers.memory(), ProbeAnswer::Locked);
    assert_eq!(answers.row(Schema::Load), ProbeAnswer::Locked);
    assert_eq!(answers.row(Schema::Second), ProbeAnswer::Done);
    assert_eq!(answers.commits(Round::Snapshot), [ProbeAnswer::Done; 4]);
    assert_eq!(answers.commits(Round::Thaw), []);
}

/// All succeed in the end, so none may count as refused; the update may have been answered before
/// it was observed to wait.
#[test]
fn a_lock_that_is_lost_under_a_probe_refuses_nothing() {
    let (_server, client) = serve(&[]);
    let ready = Ready::new(&client, "lost");
    let mut holder = client.connect_as_root();
    client.wait(holder.query_drop("FLUSH TABLES WITH READ LOCK")).unwrap();
    let sent = ready.send();
    client.wait(holder.query_drop("UNLOCK TABLES")).unwrap();
    let mut answers = Vec::new();
    wait_until("all get through", || {
        answers = sent.results(&client.runtime);
        answers.iter().all(|probe| probe.answer != ProbeAnswer::Locked || probe.code.is_some())
    });
    let answers = Answers(answers);
    assert_eq!(answers.commits(Round::Snapshot), [ProbeAnswer::Released; 4]);
    assert_eq!(answers.row(Schema::Second), ProbeAnswer::Released);
}

/// An account that may write in spite of it does, and the others get an error that says so.
#[test]
fn a_server_that_only_reads_is_not_locked() {
    const READ_ONLY: &str = "1290";
    let (_server, client) = serve(&[]);
    let ready = Ready::new(&client, "read-only");
    let mut holder = client.connect_as_root();
    client.wait(holder.query_drop("SET GLOBAL read_only = 1")).unwrap();
    let answers = ready.send_both();
    client.wait(holder.query_drop("SET GLOBAL read_only = 0")).unwrap();
    let of = |door| {
        let found = answers.0.iter().find(|probe| probe.kind == ProbeKind::Commit && probe.door == door);
        found.map(|probe| (probe.answer, probe.code.as_deref())).unwrap()
    };
    assert_eq!(of(TCP), (ProbeAnswer::Refused, Some(READ_ONLY)));
    assert_eq!(of(TCP_ADMIN), (ProbeAnswer::Done, None));
}

/// Sessions that are ended under a lock do not refute it.
#[test]
fn a_probe_that_is_cut_off_is_sent_again_and_a_server_may_be_gone() {
    let (mut server, client) = serve(&[]);
    let ready = Ready::new(&client, "cut");
    let ours = ready.run.is_ours();
    let mut holder = client.connect_as_root();
    client.wait(hold_the_backup_lock(&mut holder)).unwrap();
    let sent = ready.send();
    let query = format!("SELECT id FROM information_schema.processlist WHERE {ours} AND info = 'COMMIT'");
    let waiting: Vec<u64> = client.wait(holder.query(query)).unwrap();
    assert_eq!(waiting.len(), 4);
    let killed = latest(&sent.results(&client.runtime));
    for id in waiting {
        client.wait(holder.query_drop(format!("KILL CONNECTION {id}"))).unwrap();
    }
    wait_until("they wait again", || {
        let answers = Answers(sent.results(&client.runtime));
        let commits = || answers.0.iter().filter(|probe| probe.kind == ProbeKind::Commit);
        commits().all(|it| it.answer == ProbeAnswer::Locked && it.since.is_some_and(|since| since > killed))
    });
    drop(holder);
    wait_until("nothing holds them back", || {
        let answers = Answers(sent.results(&client.runtime));
        answers.commits(Round::Snapshot) == [ProbeAnswer::Released; 4]
    });

    let ready = Ready::new(&client, "gone");
    server.kill();
    ready.send_both().are_all(ProbeAnswer::Gone);
}

/// A COMMIT may also wait behind a lock that is only requested. That proves nothing.
#[test]
fn a_lock_that_is_only_requested_holds_nothing() {
    let (_server, client) = serve(&[]);
    let ready = Ready::new(&client, "requested");
    let mut writer = client.connect_as_root();
    let table = ready.run.table(table::PROBE_NT);
    client.wait(writer.query_drop(format!("LOCK TABLES {table} WRITE"))).unwrap();
    let mut requester = client.connect_as_root();
    let statement = format!("/* {:120} */ FLUSH TABLES WITH READ LOCK", "a list may cut a statement off");
    let request = client.runtime.spawn(async move { requester.query_drop(statement).await });
    let mut observer = client.connect_as_root();
    wait_until("the lock is requested", || {
        let query = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%FLUSH TABLES%' AND state LIKE 'Waiting%'";
        client.wait(observer.query_first::<u64, _>(query)).unwrap() == Some(1)
    });
    let commits = ready.send_both().commits(Round::Snapshot);
    assert!(!commits.contains(&ProbeAnswer::Locked), "{commits:?}");
    client.wait(writer.query_drop("UNLOCK TABLES")).unwrap();
    request.abort();
}
