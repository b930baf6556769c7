//! The load, the probes and the observation against PostgreSQL.

use contract::history::{Mark, ProbeAnswer, ProbeKind, Round};
use contract::jsonl::Reader;
use contract::observation::{self, Record};
use contract::property::Property;
use harness::database::TCP_ADMIN;
use harness::names::table;
use harness::quiesce::Probes;

use crate::bench::{LIMIT, Run, serve_postgresql, wait_for_transfers};
use crate::story::{Story, judge_without_boot};

#[test]
fn what_the_history_claims_is_what_the_tables_hold() {
    let (cluster, client) = serve_postgresql(&[]);
    let run = client.run("trial");
    let load = run.start(1);
    wait_for_transfers(&load, 200);
    // Ends sessions in the middle of what they do.
    for _ in 0..20 {
        cluster.sql(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE usename IN ('{}', '{}') AND state <> 'idle' LIMIT 1",
            run.target.names.ordinary.user, run.target.names.administrator.user
        ));
        wait_for_transfers(&load, 10);
    }
    run.stop(load);
    run.history.mark(Mark::SnapBegin, "").unwrap();
    run.observe();
    run.history.mark(Mark::SnapEnd, "").unwrap();
    run.history.finish().unwrap();
    let story = Story::read(&run.dir);
    story.is_true_of_transfers(&run.dir);
    story.is_true_of_followers(&run.dir);
    let judgement = judge_without_boot(&run.dir);
    for property in
        [Property::Checksums, Property::Durability, Property::IndexAgreement, Property::ClientPrefix]
    {
        assert_eq!(
            judgement.properties[&property],
            contract::finding::Status::Holds,
            "{:?}",
            judgement.findings
        );
    }
    let tables = observed(&run);
    let clean = |record: &&Record| matches!(record, Record::CheckTable { clean: true, usable: true, .. });
    assert_eq!(tables.iter().filter(clean).count(), 4, "{tables:?}");
    assert!(tables.contains(&Record::MemoryRows { rows: 1 }), "the same server process");
}

/// The records of an observation.
fn observed(run: &Run<'_>) -> Vec<Record> {
    Reader::open(&run.dir.join(observation::FILE), observation::KIND).unwrap().map(Result::unwrap).collect()
}

/// A table that nobody may change is waited for, and so is a COMMIT that cannot be written; and
/// nothing holds either back without a reason.
#[test]
fn probes_tell_what_holds_writes_back() {
    let (cluster, client) = serve_postgresql(&[]);
    let answers = |name: &str, meanwhile: &dyn Fn(&Run<'_>, &mut dyn FnMut())| {
        let run = client.run(name);
        run.stop(run.start(5));
        let probes = Probes::connect(&client.runtime, &run.target, 1, LIMIT).unwrap();
        let mut probes = Some(probes);
        let mut answers = Vec::new();
        meanwhile(&run, &mut || {
            let mut sent = probes.take().unwrap().send(&client.runtime);
            sent.settle(&client.runtime);
            sent.send_again(&client.runtime);
            answers = sent.results(&client.runtime);
        });
        answers
    };
    let of = |answers: &[contract::history::Probe], kind, round| {
        let those = answers.iter().filter(|probe| probe.kind == kind && probe.round == round);
        those.map(|probe| probe.answer).collect::<Vec<_>>()
    };
    let nothing = answers("nothing", &|_, send| send());
    assert_eq!(of(&nothing, ProbeKind::Commit, Round::Snapshot), [ProbeAnswer::Done; 4]);
    assert_eq!(of(&nothing, ProbeKind::Commit, Round::Thaw), []);
    assert_eq!(of(&nothing, ProbeKind::Memory, Round::Snapshot), [ProbeAnswer::Done]);
    assert_eq!(of(&nothing, ProbeKind::Row, Round::Snapshot), []);

    let locked = answers("locked", &|run, send| {
        let connecting = run.target.door(TCP_ADMIN).connect_with_retries(LIMIT);
        let mut holder = client.wait(connecting).unwrap();
        let probe = run.table(table::PROBE);
        client.wait(holder.execute(&format!("BEGIN; LOCK TABLE {probe}"))).unwrap();
        send();
    });
    assert_eq!(of(&locked, ProbeKind::Memory, Round::Snapshot), [ProbeAnswer::Locked]);
    assert_eq!(of(&locked, ProbeKind::Commit, Round::Snapshot), [ProbeAnswer::Done; 4]);

    // As when the file system is frozen: nobody writes the log.
    let paused = answers("paused", &|_, send| {
        let _paused = cluster.pause();
        send();
    });
    assert_eq!(of(&paused, ProbeKind::Commit, Round::Snapshot), [ProbeAnswer::Hung; 4]);
    assert_eq!(of(&paused, ProbeKind::Commit, Round::Thaw), [], "the server could tell nothing of them");
}

/// A row that an index lacks, and one that only the index has, show.
#[test]
fn a_damaged_index_is_found() {
    let (cluster, client) = serve_postgresql(&["autovacuum=off"]);
    let run = client.run("trial");
    let load = run.start(1);
    wait_for_transfers(&load, 50);
    run.stop(load);
    let ledger = run.table(table::LEDGER);
    let index = format!("{ledger}_rnd");
    // The catalogue says that the index is as good as ever, and its entries are those of no row.
    cluster.sql_in(
        "freezeframe",
        &format!(
            "UPDATE pg_index SET indisready = false WHERE indexrelid = '{index}'::regclass; \
             INSERT INTO {ledger} SELECT c, seq + 100000, leg, dc, dseq, acct, amt, ver, pay, crc, rnd + 1 \
             FROM {ledger} WHERE c = 1 AND seq = 1; \
             UPDATE pg_index SET indisready = true WHERE indexrelid = '{index}'::regclass"
        ),
    );
    run.observe();
    let records = observed(&run);
    let differs =
        |record: &&Record| matches!(record, Record::Index { primary, secondary, .. } if primary != secondary);
    assert_eq!(records.iter().filter(differs).count(), 1, "{records:?}");
    let broken = |record: &&Record| matches!(record, Record::CheckTable { clean: false, .. });
    assert_eq!(records.iter().filter(broken).count(), 1, "{records:?}");
}
