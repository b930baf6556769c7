//! The load, the probes and the observation against PostgreSQL.

use contract::history::{ProbeAnswer, Round};
use contract::jsonl::Reader;
use contract::observation::{self, Record};
use contract::property::Property;
use harness::database::TCP_ADMIN;
use harness::names::table;

use crate::bench::{LIMIT, Run, serve_postgresql, wait_for_transfers};
use crate::probes::Ready;
use crate::runs::{at_rest, holds};

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
    let (story, judgement) = at_rest(&run, load);
    story.is_true_of_followers(&run.dir);
    holds(&judgement, &[Property::IndexAgreement]);
    let tables = observed(&run);
    let clean = |record: &&Record| matches!(record, Record::CheckTable { clean: true, usable: true, .. });
    assert_eq!(tables.iter().filter(clean).count(), 4, "{tables:?}");
    assert!(tables.contains(&Record::MemoryRows { rows: 1 }), "the same server process");
}

/// The records of an observation.
fn observed(run: &Run<'_>) -> Vec<Record> {
    Reader::open(&run.dir.join(observation::FILE), observation::KIND).unwrap().map(Result::unwrap).collect()
}

/// A lock of a table keeps its UPDATE out and no COMMIT. A server that is stopped tells nothing of the
/// probes that are sent last.
#[test]
fn probes_tell_what_holds_writes_back() {
    let (cluster, client) = serve_postgresql(&[]);
    let answers = Ready::new(&client, "nothing").send_both();
    assert_eq!(answers.commits(Round::Snapshot), [ProbeAnswer::Done; 4]);
    assert_eq!(answers.commits(Round::Thaw), []);
    assert_eq!((answers.memory(), answers.rows()), (ProbeAnswer::Done, 0));

    let ready = Ready::new(&client, "locked");
    let connecting = ready.run.target.door(TCP_ADMIN).connect_with_retries(LIMIT);
    let mut holder = client.wait(connecting).unwrap();
    client.wait(holder.execute(&format!("BEGIN; LOCK TABLE {}", ready.run.table(table::PROBE)))).unwrap();
    let answers = ready.send_both();
    assert_eq!(answers.memory(), ProbeAnswer::Locked);
    assert_eq!(answers.commits(Round::Snapshot), [ProbeAnswer::Done; 4]);

    // As when the file system is frozen: nobody writes the log.
    let ready = Ready::new(&client, "paused");
    let paused = cluster.pause();
    let answers = ready.send_both();
    drop(paused);
    assert_eq!(answers.commits(Round::Snapshot), [ProbeAnswer::Hung; 4]);
    assert_eq!(answers.commits(Round::Thaw), [ProbeAnswer::Unseen; 4], "nobody could look at them");
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
