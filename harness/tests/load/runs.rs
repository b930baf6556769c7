//! Runs of the load: undisturbed, and with everything failing that can fail in a trial.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use contract::finding::{Finding, Status};
use contract::history::{Entry, Mark, Op};
use contract::property::Property;
use harness::load::{ACCOUNTS, Load};
use harness::names::table;
use harness::quiesce::Probes;
use judge::Judgement;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::bench::{LIMIT, Run, WRITERS, reserve_port, serve, wait_for_transfers};
use crate::call::wait_until;
use crate::probes::hold_the_backup_lock;
use crate::story::{Fate, Story, judge_without_boot};

/// Error 1094, ER_NO_SUCH_THREAD.
const NO_SUCH_THREAD: u16 = 1094;

/// What a copy of one instant must have, whatever was acknowledged before it.
const ONE_INSTANT: [Property; 9] = [
    Property::Checksums,
    Property::Atomicity,
    Property::Conservation,
    Property::ClientPrefix,
    Property::Durability,
    Property::NoFuture,
    Property::RealTimeOrder,
    Property::CausalOrder,
    Property::VersionOrder,
];

/// A listener of the standard library asks to reuse its address, as a server does.
#[test]
fn a_reserved_port_is_for_its_server_only() {
    let port = reserve_port();
    let taken = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
    assert!(rustix::net::bind(taken.unwrap(), &port.address).is_err());
    let server = TcpListener::bind(port.address).unwrap();
    let client = TcpStream::connect(port.address).unwrap();
    assert_eq!(server.accept().unwrap().1, client.local_addr().unwrap());
}

#[test]
fn a_copy_under_the_lock_is_what_was_acknowledged() {
    let (_server, client) = serve(&[]);
    let run = client.run("trial");
    let load = run.start(1);
    wait_for_transfers(&load, 200);
    let probes = Probes::connect(&client.runtime, &run.target, 1, LIMIT).unwrap();
    let mut holder = client.connect_as_root();

    run.history.mark(Mark::FreezeCall, "").unwrap();
    client.wait(hold_the_backup_lock(&mut holder)).unwrap();
    run.history.mark(Mark::FreezeOk, "1").unwrap();
    let mut sent = probes.send(&client.runtime);
    sent.settle(&client.runtime);
    run.history.mark(Mark::SnapBegin, "").unwrap();
    run.observe();
    run.history.mark(Mark::SnapEnd, "").unwrap();
    sent.send_again(&client.runtime);
    let probes = sent.results(&client.runtime);
    run.history.mark(Mark::ThawCall, "").unwrap();
    client.wait(holder.query_drop("BACKUP STAGE END")).unwrap();
    let thawed = run.history.mark(Mark::ThawOk, "1").unwrap();
    probes.into_iter().try_for_each(|probe| run.history.write(&Entry::Probe(probe))).unwrap();
    assert!(load.wait_for_all(thawed, LIMIT).unwrap());
    run.stop(load);
    run.history.finish().unwrap();

    let judgement = judge_without_boot(&run.dir);
    holds(&judgement, &ONE_INSTANT);
    holds(
        &judgement,
        &[
            Property::QuiescedDurability,
            Property::NoFutureStrict,
            Property::WindowSilence,
            Property::LockProbe,
            Property::LockIdentity,
            Property::IndexAgreement,
            Property::NonTransactionalDurability,
        ],
    );
    assert_eq!(judgement.findings, []);
    assert_eq!(judgement.resumed, Some(true));

    let story = Story::read(&run.dir);
    let everything = story.transfers().count();
    assert_eq!(story.count(Fate::There, false), everything, "nothing disturbs an undisturbed run");
    // The same load observed again, at rest: exactly what was acknowledged.
    run.observe();
    story.is_true_of_transfers(&run.dir);
    story.is_true_of_followers(&run.dir);
}

#[test]
fn what_a_killed_connection_leaves_is_found_out() {
    const TRANSFERS: u64 = 1500;
    let (_server, client) = serve(&[]);
    let run = client.run("trial");
    let mut root = client.connect_as_root();
    let load = run.start(2);
    let mut kills = 0;
    while load.acknowledged() < TRANSFERS {
        wait_for_transfers(&load, 5);
        // A COMMIT that is cut off may still be executed; statements before it are not.
        let which = if kills % 2 == 0 { "info = 'COMMIT'" } else { "info LIKE '%UPDATE%'" };
        kills += u64::from(client.wait(kill_a_writer(&mut root, &run.is_ours(), which)).unwrap());
    }
    let (story, judgement) = at_rest(&run, load);
    assert_eq!(judgement.findings, []);
    story.is_true_of_followers(&run.dir);
    let (present, absent) = (story.count(Fate::There, true), story.count(Fate::Gone, true));
    eprintln!("{kills} connections killed; unknown: {present} found present, {absent} absent");
    assert!(present + absent >= 10, "too few outcomes were unknown to prove anything");
    assert!(present > 0 && absent > 0);
}

#[test]
fn what_the_server_rolls_back_is_gone() {
    let (server, client) = serve(&["--innodb-lock-wait-timeout=1", "--lock-wait-timeout=1"]);
    server.sql(
        "SET GLOBAL innodb_monitor_enable='lock_timeouts'; SET GLOBAL innodb_monitor_enable='lock_deadlocks'",
    );
    let metric = |name: &str| -> u64 {
        let query = format!("SELECT count FROM information_schema.innodb_metrics WHERE name='{name}'");
        server.sql(&query).parse().unwrap()
    };
    let run = client.run("trial");
    let mut root = client.connect_as_root();
    // The limits of a second are the writers'; this side waits until it has its locks.
    client.wait(root.query_drop("SET innodb_lock_wait_timeout=50, lock_wait_timeout=50")).unwrap();
    let load = run.start(3);
    let mut send = |statement: &str| client.wait(root.query_drop(statement));
    wait_for_transfers(&load, 50);

    // In the opposite order to the load's; it changes more rows, so the deadlock's victim is mostly
    // a writer.
    wait_until("deadlocks", || {
        // This side may be the victim as well.
        let (half, acct) = (ACCOUNTS / 2, run.table(table::ACCOUNTS));
        let _ = send(&format!(
            "BEGIN; UPDATE {acct} SET bal = bal + 1 WHERE id > {half};
             UPDATE {acct} SET bal = bal + 1 WHERE id <= {half}; ROLLBACK"
        ));
        metric("lock_deadlocks") >= 10
    });
    send("ROLLBACK").unwrap();
    wait_for_transfers(&load, 50);

    let timeouts = metric("lock_timeouts");
    send(&format!("BEGIN; SELECT COUNT(*) FROM {} FOR UPDATE", run.table(table::ACCOUNTS))).unwrap();
    wait_until("waits for rows end", || metric("lock_timeouts") >= timeouts + u64::from(WRITERS));
    send("ROLLBACK").unwrap();
    wait_for_transfers(&load, 50);

    // A COMMIT that waits for the backup lock in vain. A client that waits for a row may be behind
    // it.
    let others = || metric("lock_timeouts") + metric("lock_deadlocks");
    let (rollbacks, before) = (server.status("COM_ROLLBACK"), others());
    client.wait(hold_the_backup_lock(&mut root)).unwrap();
    wait_until("a COMMIT is refused", || server.status("COM_ROLLBACK") - rollbacks > others() - before);
    client.wait(root.query_drop("BACKUP STAGE END")).unwrap();
    wait_for_transfers(&load, 50);

    let (story, judgement) = at_rest(&run, load);
    assert_eq!(judgement.findings, []);
    story.is_true_of_followers(&run.dir);
    let failed = |code: &str| {
        let with = |error: &Option<String>| error.as_ref().is_some_and(|error| error.contains(code));
        story.transfers().filter(|sent| sent.fate == Fate::Gone && !sent.unknown && with(&sent.error)).count()
    };
    let (deadlocks, timeouts) = (failed("1213"), failed("1205"));
    eprintln!("rolled back: {deadlocks} in a deadlock, {timeouts} after a timeout");
    assert!(deadlocks > 0 && timeouts >= WRITERS as usize);
}

/// Longer than a writer waits for an answer, so that it does not know whether its COMMIT succeeded
/// after all; nor can the server say so while the old session may still commit.
#[test]
fn an_answer_that_comes_too_late_is_found_out() {
    // Each late answer costs a connection, which the server ends only after a while.
    let (server, client) = serve(&["--max-connections=1000"]);
    let run = client.run("trial");
    let mut root = client.connect_as_root();
    let mut holder = client.connect_as_root();
    let load = run.start_impatiently(6, Duration::from_millis(200));
    let queries = format!("info LIKE '%FROM {}%FOR UPDATE'", run.table(table::COUNTERS));
    let is_asked =
        format!("SELECT COUNT(*) FROM information_schema.processlist WHERE {queries} AND time_ms > 100");
    for _ in 0..3 {
        wait_for_transfers(&load, 50);
        client.wait(hold_the_backup_lock(&mut holder)).unwrap();
        // The query is lost as well, and is sent again.
        wait_until("a writer that queries is killed", || {
            client.wait(kill_a_writer(&mut root, &run.is_ours(), &queries)).unwrap()
        });
        wait_until("writers query what became of it", || server.sql(&is_asked) != "0");
        client.wait(holder.query_drop("BACKUP STAGE END")).unwrap();
    }

    // When the load stops, they end without an answer. The server may end the COMMIT of a client
    // that is gone before the lock is released, so some may get one.
    wait_for_transfers(&load, 50);
    client.wait(hold_the_backup_lock(&mut holder)).unwrap();
    wait_until("writers query what became of it", || server.sql(&is_asked) != "0");
    run.stop(load);
    client.wait(holder.query_drop("BACKUP STAGE END")).unwrap();
    let sessions = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE {}", run.is_ours());
    wait_until("the writers' sessions end", || server.sql(&sessions) == "0");

    let (story, judgement) = look_at(&run);
    assert_eq!(judgement.findings, []);
    story.is_true_of_followers(&run.dir);
    let [present, absent, open] = [Fate::There, Fate::Gone, Fate::Open].map(|fate| story.count(fate, true));
    eprintln!("too late; unknown: {present} found present, {absent} absent, {open} never found out");
    assert!(present + absent + open >= WRITERS as usize, "too few outcomes were unknown to prove anything");
}

#[test]
fn what_was_acknowledged_survives_the_server() {
    let (mut server, client) = serve(&[]);
    let run = client.run("trial");
    // A server that dies ends its connections itself; then the writers wait for its recovery.
    let load = run.start_impatiently(4, LIMIT);
    for _ in 0..2 {
        wait_for_transfers(&load, 150);
        server.crash_and_restart();
    }
    // Once while something is certainly in flight.
    let mut holder = client.connect_as_root();
    client.wait(hold_the_backup_lock(&mut holder)).unwrap();
    let waiting =
        "SELECT COUNT(*) FROM information_schema.processlist WHERE info = 'COMMIT' AND state LIKE 'Waiting%'";
    wait_until("a transfer waits for the lock", || {
        client.wait(holder.query_first::<u64, _>(waiting)).unwrap() > Some(0)
    });
    server.crash_and_restart();
    drop(holder);
    // The crash may have left such a table so that it cannot be read to its end.
    let mut root = client.connect_as_root();
    for table in ["nt", "second_nt", "ar", "second_ar"] {
        client.wait(root.query_drop(format!("REPAIR TABLE {}", run.table(table)))).unwrap();
    }
    wait_for_transfers(&load, 150);

    let (story, judgement) = at_rest(&run, load);
    // Nothing protects these rows from a server that dies.
    let tables = [Property::NonTransactionalDurability, Property::TableCheck];
    let others = judgement.findings.iter().filter(|finding| !tables.contains(&finding.property));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&Finding>::new());
    let (present, absent) = (story.count(Fate::There, true), story.count(Fate::Gone, true));
    eprintln!("server killed three times; unknown: {present} found present, {absent} absent");
    assert!(present + absent > 0);
}

/// The same seed gives the same operations: only how far each client comes, and what it had read of
/// others, differ.
#[test]
fn a_seed_repeats_its_operations() {
    let (_server, client) = serve(&[]);
    let sent = |name: &str, seed: u64| -> Vec<Vec<(u32, Op)>> {
        let run = client.run(name);
        let load = run.start(seed);
        wait_for_transfers(&load, 250);
        run.stop(load);
        run.history.finish().unwrap();
        let story = Story::read(&run.dir);
        (1..=WRITERS).map(|client| story.undisturbed(client)).collect()
    };
    let (first, again, other) = (sent("first", 7), sent("again", 7), sent("other", 8));
    for (first, again) in first.iter().zip(&again) {
        let both = first.len().min(again.len());
        assert!(both >= 15, "a client sent next to nothing");
        assert_eq!(first[..both], again[..both]);
    }
    let all: Vec<_> = first.iter().chain(&other).map(|sent| &sent[0]).collect();
    let alike = (0..all.len()).flat_map(|a| (0..a).map(move |b| (a, b))).find(|&(a, b)| all[a] == all[b]);
    assert_eq!(alike, None, "every client and every seed goes its own way");
}

/// Ends a run and checks its tables: one instant, and exactly what the history claims.
#[track_caller]
pub(crate) fn at_rest(run: &Run<'_>, load: Load) -> (Story, Judgement) {
    run.stop(load);
    look_at(run)
}

/// Checks the tables of a run that has ended.
#[track_caller]
fn look_at(run: &Run<'_>) -> (Story, Judgement) {
    run.history.mark(Mark::SnapBegin, "").unwrap();
    run.observe();
    run.history.mark(Mark::SnapEnd, "").unwrap();
    run.history.finish().unwrap();
    let story = Story::read(&run.dir);
    story.is_true_of_transfers(&run.dir);
    let judgement = judge_without_boot(&run.dir);
    holds(&judgement, &ONE_INSTANT);
    (story, judgement)
}

#[track_caller]
pub(crate) fn holds(judgement: &Judgement, properties: &[Property]) {
    for property in properties {
        assert_eq!(judgement.properties[property], Status::Holds, "{property}: {:?}", judgement.findings);
    }
}

/// Kills one of the load's connections for which this condition holds. False when there was none.
async fn kill_a_writer(root: &mut Conn, ours: &str, condition: &str) -> mysql_async::Result<bool> {
    let query = format!(
        "SELECT id FROM information_schema.processlist
         WHERE {ours} AND {condition} ORDER BY RAND() LIMIT 1"
    );
    let Some(id) = root.query_first::<u64, _>(query).await? else { return Ok(false) };
    match root.query_drop(format!("KILL CONNECTION {id}")).await {
        Ok(()) => Ok(true),
        Err(mysql_async::Error::Server(error)) if error.code == NO_SUCH_THREAD => Ok(false),
        Err(error) => Err(error),
    }
}
