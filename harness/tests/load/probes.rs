//! The quiescence probes against locks that are held, not held and lost.

use freezeframe::history::{self, Entry, ProbeAnswer, ProbeKind};
use freezeframe::jsonl::Reader;
use freezeframe::judge::HISTORY;
use freezeframe::quiesce::Probes;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::task::JoinHandle;

use crate::bench::{Client, LIMIT, Run, serve};
use crate::call::wait_until;
use crate::server::Stopped;

/// What MariaDB's backup tools hold.
pub(crate) async fn hold_the_backup_lock(conn: &mut Conn) -> mysql_async::Result<()> {
    for stage in ["START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT"] {
        conn.query_drop(format!("BACKUP STAGE {stage}")).await?;
    }
    Ok(())
}

/// Probes that are connected, as before a freeze, on the tables of a load that has ended.
struct Ready<'a> {
    client: &'a Client,
    run: Run<'a>,
    probes: Probes,
}

impl<'a> Ready<'a> {
    fn new(client: &'a Client, name: &str) -> Self {
        let run = client.run(name);
        run.stop(run.start(5));
        let probes = Probes::connect(&client.runtime, &client.access, LIMIT).unwrap();
        Self { client, run, probes }
    }

    /// The answers of the MEMORY table's and of the transaction's probe.
    fn ask(self) -> (ProbeAnswer, ProbeAnswer) {
        let (waiting, asked) = self.send();
        asked.answers(waiting)
    }

    fn send(self) -> (JoinHandle<freezeframe::error::Result<()>>, Asked<'a>) {
        let waiting = self.probes.send(&self.client.runtime, &self.run.history);
        (waiting, Asked { client: self.client, run: self.run })
    }
}

struct Asked<'a> {
    client: &'a Client,
    run: Run<'a>,
}

impl Asked<'_> {
    fn answers(self, waiting: JoinHandle<freezeframe::error::Result<()>>) -> (ProbeAnswer, ProbeAnswer) {
        self.client.wait(waiting).unwrap().unwrap();
        self.run.history.finish().unwrap();
        let answer = |asked| {
            let entries = Reader::<Entry>::open(&self.run.dir.join(HISTORY), history::KIND).unwrap();
            let mut answers = entries.filter_map(|entry| match entry.unwrap() {
                Entry::Probe { kind, answer, .. } if kind == asked => Some(answer),
                _ => None,
            });
            let answer = answers.next().expect("an answer");
            assert_eq!(answers.next(), None);
            answer
        };
        (answer(ProbeKind::Memory), answer(ProbeKind::Transactional))
    }
}

#[test]
fn probes_tell_what_holds_writes_back() {
    let (server, client) = serve(&[]);

    let ready = Ready::new(&client, "nothing");
    assert_eq!(ready.ask(), (ProbeAnswer::Done, ProbeAnswer::Done));

    let ready = Ready::new(&client, "backup-lock");
    let mut holder = client.connect();
    client.wait(hold_the_backup_lock(&mut holder)).unwrap();
    assert_eq!(ready.ask(), (ProbeAnswer::Done, ProbeAnswer::Locked));
    client.wait(holder.query_drop("BACKUP STAGE END")).unwrap();

    let ready = Ready::new(&client, "global-read-lock");
    client.wait(holder.query_drop("FLUSH TABLES WITH READ LOCK")).unwrap();
    assert_eq!(ready.ask(), (ProbeAnswer::Locked, ProbeAnswer::Locked));
    client.wait(holder.query_drop("UNLOCK TABLES")).unwrap();

    let ready = Ready::new(&client, "stopped");
    let stopped = Stopped::new(&server);
    let (memory, transactional) = ready.ask();
    drop(stopped);
    for answer in [memory, transactional] {
        assert!(matches!(answer, ProbeAnswer::Hung | ProbeAnswer::Error), "{memory:?} {transactional:?}");
    }
}

/// The update gets through in the end, so it must not be taken for one that was refused. Whether the
/// transaction is seen waiting before depends on who is faster; both are true.
#[test]
fn a_lock_that_is_lost_under_a_probe_refuses_nothing() {
    let (server, client) = serve(&[]);
    let ready = Ready::new(&client, "lost");
    let mut holder = client.connect();
    client.wait(holder.query_drop("FLUSH TABLES WITH READ LOCK")).unwrap();
    let (waiting, asked) = ready.send();
    let waits = "SELECT COUNT(*) FROM information_schema.processlist
                 WHERE info LIKE 'UPDATE probe %' AND state LIKE 'Waiting for %lock'";
    wait_until("the update waits", || server.sql(waits) == "1");
    client.wait(holder.query_drop("UNLOCK TABLES")).unwrap();
    let (memory, transactional) = asked.answers(waiting);
    assert_eq!(memory, ProbeAnswer::Done);
    assert!(matches!(transactional, ProbeAnswer::Locked | ProbeAnswer::Done), "{transactional:?}");
}
