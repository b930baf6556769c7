//! Compares the claims of a history with the tables, row by row. The judge decides much of this as
//! well; it is done here again, in another way, so that the test of the load does not depend on the
//! judge.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use contract::history::{self, Entry, Op};
use contract::jsonl::Reader;
use contract::observation::{self, Record};
use contract::property::Property;
use harness::load::{ACCOUNTS, OPENING_BALANCE};
use judge::{Judgement, judge, read};

/// The outcome of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    There,
    Gone,
    Open,
}

/// An operation, and what the history says about it.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) c: u32,
    pub(crate) n: u32,
    pub(crate) op: Op,
    versions: Option<[u32; 2]>,
    pub(crate) fate: Fate,
    /// Why it failed, or its outcome was not known at first.
    pub(crate) error: Option<String>,
    /// Its outcome was not known at first.
    pub(crate) unknown: bool,
}

impl Sent {
    fn is_transfer(&self) -> bool {
        matches!(self.op, Op::Transfer { .. })
    }
}

/// All operations of a run, in the order in which they were sent.
pub(crate) struct Story(Vec<Sent>);

/// One leg as it is in the ledger: dep, account, amount, version, crc.
type Leg = ([u32; 2], u32, i64, u32, u32);

/// One row of a follower: the transfer that it follows, and crc.
type Row = ([u32; 2], u32);

#[derive(Default)]
struct Tables {
    counters: BTreeMap<u32, u32>,
    accounts: BTreeMap<u32, (i64, u32)>,
    legs: BTreeMap<(u32, u32), Vec<Leg>>,
    rows: BTreeMap<(String, u32, u32), Row>,
}

impl Story {
    pub(crate) fn read(dir: &Path) -> Self {
        let mut all: Vec<Sent> = vec![];
        let mut last: BTreeMap<u32, usize> = BTreeMap::new();
        for entry in Reader::<Entry>::open(&dir.join(history::FILE), history::KIND).unwrap() {
            let (client, number, fate, error) = match entry.unwrap() {
                Entry::Invoke { c, n, op, .. } => {
                    last.insert(c, all.len());
                    let fate = Fate::Open;
                    all.push(Sent { c, n, op, versions: None, fate, error: None, unknown: false });
                    continue;
                }
                Entry::Ok { c, n, ver, .. } => {
                    all[last[&c]].versions = ver;
                    (c, n, Fate::There, None)
                }
                Entry::Fail { c, n, error, .. } => (c, n, Fate::Gone, Some(error)),
                Entry::Unknown { c, n, error, .. } => {
                    all[last[&c]].unknown = true;
                    (c, n, Fate::Open, Some(error))
                }
                Entry::Resolved { c, n, present, .. } => {
                    (c, n, if present { Fate::There } else { Fate::Gone }, None)
                }
                Entry::Setup(_)
                | Entry::Directory { .. }
                | Entry::Mark { .. }
                | Entry::Probe(_)
                | Entry::Guest { .. }
                | Entry::BlockStats { .. }
                | Entry::Heartbeat { .. }
                | Entry::SchemaChange { .. }
                | Entry::Bulk { .. }
                | Entry::WalEnd { .. }
                | Entry::BackupModes { .. }
                | Entry::AgentCommand(_)
                | Entry::CopyInstant(_)
                | Entry::DiskWrites(_)
                | Entry::Tool { .. }
                | Entry::Cycle { .. }
                | Entry::End { .. } => {
                    continue;
                }
            };
            let sent = &mut all[last[&client]];
            assert_eq!((sent.n, sent.fate), (number, Fate::Open), "an answer to another operation: {sent:?}");
            sent.fate = fate;
            sent.error = error.or(sent.error.take());
        }
        Self(all)
    }

    pub(crate) fn transfers(&self) -> impl Iterator<Item = &Sent> {
        self.0.iter().filter(|sent| sent.is_transfer())
    }

    /// What a client sent until its first failure, except what it had read of others.
    pub(crate) fn undisturbed(&self, client: u32) -> Vec<(u32, Op)> {
        let sent = self.0.iter().filter(|sent| sent.c == client);
        let undisturbed = sent.take_while(|sent| sent.error.is_none());
        let unread = undisturbed.map(|sent| match sent.op {
            Op::Transfer { dep: [other, _], legs, crc } => {
                (sent.n, Op::Transfer { dep: [other, 0], legs, crc })
            }
            _ => (sent.n, sent.op.clone()),
        });
        unread.collect()
    }

    /// Transfers with this outcome: either those whose outcome was unknown at first, or the others.
    pub(crate) fn count(&self, fate: Fate, unknown: bool) -> usize {
        self.transfers().filter(|sent| sent.fate == fate && sent.unknown == unknown).count()
    }

    /// Transfers first, because their failure says more than a wrong sum.
    #[track_caller]
    pub(crate) fn is_true_of_transfers(&self, dir: &Path) {
        let mut tables = Tables::read(dir);
        tables.sums_are_right();
        let mut present: BTreeMap<u32, u32> = (1..=crate::bench::WRITERS).map(|c| (c, 0)).collect();
        for sent in self.transfers() {
            let Op::Transfer { dep, legs, crc } = sent.op else { unreachable!("a transfer") };
            let before = present.get_mut(&sent.c).unwrap();
            assert_eq!(sent.n, *before + 1, "numbers are dense: {sent:?}");
            if sent.fate == Fate::Gone {
                continue;
            }
            let Some(found) = tables.legs.remove(&(sent.c, sent.n)) else {
                assert_eq!(sent.fate, Fate::Open, "missing: {sent:?}");
                continue;
            };
            *before = sent.n;
            let versions = sent.versions.unwrap_or([found[0].3, found[found.len() - 1].3]);
            let expected: Vec<Leg> = legs
                .into_iter()
                .zip(versions)
                .map(|((account, amount), version)| (dep, account, amount, version, crc))
                .collect();
            assert_eq!(found, expected, "other than sent: {sent:?}");
        }
        // What is left was never sent, or was reported as gone.
        assert!(tables.legs.is_empty(), "nobody claims these: {:?}", tables.legs);
        assert_eq!(tables.counters, present);
    }

    #[track_caller]
    pub(crate) fn is_true_of_followers(&self, dir: &Path) {
        let mut rows = Tables::read(dir).rows;
        let there = self.transfers().filter(|sent| sent.fate == Fate::There);
        let acknowledged: BTreeSet<_> = there.map(|sent| [sent.c, sent.n]).collect();
        let (mut sent_once, mut followed) = (BTreeSet::new(), BTreeSet::new());
        for sent in &self.0 {
            let Op::Follow { table, of, crc } = &sent.op else { continue };
            assert!(followed.insert((table.clone(), *of)), "followed twice: {sent:?}");
            assert!(acknowledged.contains(of), "nothing to follow: {sent:?}");
            let key = (table.clone(), sent.c, sent.n);
            assert!(sent_once.insert(key.clone()), "sent twice: {sent:?}");
            assert_ne!(sent.fate, Fate::Gone, "nothing proves this: {sent:?}");
            match rows.remove(&key) {
                Some(found) => assert_eq!(found, (*of, *crc), "other than sent: {sent:?}"),
                None => assert_eq!(sent.fate, Fate::Open, "missing: {sent:?}"),
            }
        }
        assert!(rows.is_empty(), "nobody claims these: {rows:?}");
    }
}

impl Tables {
    fn read(dir: &Path) -> Self {
        let mut this = Self::default();
        for record in Reader::<Record>::open(&dir.join(observation::FILE), observation::KIND).unwrap() {
            match record.unwrap() {
                Record::Counter { c, n } => assert_eq!(this.counters.insert(c, n), None),
                Record::Account { id, balance, ver } => {
                    assert_eq!(this.accounts.insert(id, (balance, ver)), None);
                }
                Record::Leg { c, n, leg, dep, acct, amt, ver, crc, sum } => {
                    assert_eq!(crc, sum, "the payload of client {c} transfer {n}");
                    let legs = this.legs.entry((c, n)).or_default();
                    assert_eq!(legs.len(), usize::from(leg), "read in order, none missing");
                    legs.push((dep, acct, amt, ver, crc));
                }
                Record::Follow { table, c, n, of, crc, sum } => {
                    assert_eq!(crc, sum, "the payload of client {c} row {n} of {table}");
                    assert_eq!(this.rows.insert((table, c, n), (of, crc)), None);
                }
                _ => {}
            }
        }
        this
    }

    #[track_caller]
    fn sums_are_right(&self) {
        let mut expected: BTreeMap<u32, (i64, u32)> =
            (1..=ACCOUNTS).map(|id| (id, (OPENING_BALANCE, 0))).collect();
        for (_, account, amount, _, _) in self.legs.values().flatten() {
            let (balance, version) = expected.get_mut(account).unwrap();
            *balance += amount;
            *version += 1;
        }
        assert_eq!(self.accounts, expected);
    }
}

/// The judge's findings about a run whose server was observed while it ran, so that its MEMORY
/// table need not be empty.
#[track_caller]
pub(crate) fn judge_without_boot(dir: &Path) -> Judgement {
    let mut judgement = judge(&read(dir).expect("a history that an honest load writes"));
    judgement.findings.retain(|finding| finding.property != Property::FreshBoot);
    judgement
}
