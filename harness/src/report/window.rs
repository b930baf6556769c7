//! What happened around the freeze window, from the history and the
//! observation: who wrote when, and what of it came back.

use std::collections::HashMap;

use super::scale::SECOND;
use crate::history::{self, Entry, Mark, Nanos, Op, ProbeAnswer, ProbeKind};
use crate::observation::Record;

/// How much is shown before the freeze is called and after the thaw.
const AROUND: Nanos = SECOND * 3 / 2;
/// Clients that are shown.
pub(super) const MAX_CLIENTS: u32 = 32;
/// Transfers (and follower rows) that are kept.
const MAX_KEPT: usize = 1_000_000;
/// Marks and probes that are kept; an honest log has fewer than ten of each.
const MAX_MARKS: usize = 24;
/// Non-transactional tables that are looked at.
const MAX_TABLES: usize = 64;

/// The time around the freeze window of one trial.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Window {
    /// What is shown, from and to.
    pub(super) range: (Nanos, Nanos),
    /// The marks in the order of time.
    pub(super) marks: Vec<(Mark, Nanos)>,
    /// The quiescence probes.
    pub(super) probes: Vec<Probe>,
    /// Clients in the load, and how many of them are shown.
    pub(super) clients: (u32, u32),
    /// The transfers of the clients shown that touch the range.
    pub(super) transfers: Vec<Transfer>,
    /// Their rows in non-transactional tables, each of which follows a transfer.
    pub(super) followers: Vec<Transfer>,
    /// Operations at the end that were left out because there were too many.
    pub(super) left_out: usize,
}

/// A quiescence probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Probe {
    pub(super) from: Nanos,
    pub(super) to: Nanos,
    pub(super) kind: ProbeKind,
    pub(super) answer: ProbeAnswer,
}

/// One transfer, or one row that follows it, from invoke to its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Transfer {
    pub(super) client: u32,
    pub(super) number: u32,
    pub(super) from: Nanos,
    pub(super) to: Nanos,
    end: End,
    /// The ledger legs that were restored, as bits; all of them for a row that was.
    legs: u8,
    /// The table of a row, by its place in the setup.
    table: Option<usize>,
    pub(super) fate: Fate,
}

impl Transfer {
    pub(super) fn is_acknowledged(&self) -> bool {
        self.end == End::Acknowledged
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Acknowledged,
    RolledBack,
    Unknown,
}

/// What became of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// Rolled back by the server, which said so.
    RolledBack,
    /// There is no restored database to look into.
    NotObserved,
    /// Not there, and not acknowledged before the snapshot began.
    Later,
    /// Not there, and the client does not know whether it should be.
    Unknown,
    /// There.
    Restored,
    /// There, though sent after the snapshot was complete.
    Future,
    /// Half of it is there.
    Torn,
    /// Acknowledged before the snapshot began, and not there.
    Lost,
}

/// The marks, probes and size of a history: the first of two passes.
#[derive(Debug, Default)]
pub(super) struct Frame {
    marks: Vec<(Mark, Nanos)>,
    probes: Vec<Probe>,
    writers: u32,
    tables: Vec<String>,
}

impl Frame {
    pub(super) fn entry(&mut self, entry: &Entry) {
        match entry {
            Entry::Setup(setup) => {
                self.writers = setup.writers;
                self.tables = setup.followers.iter().take(MAX_TABLES).map(|it| it.table.clone()).collect();
            }
            Entry::Mark { t, mark, .. } if self.marks.len() < MAX_MARKS => self.marks.push((*mark, *t)),
            Entry::Probe(probe) if self.probes.len() < MAX_MARKS => {
                let history::Probe { t, end, kind, answer, .. } = *probe;
                self.probes.push(Probe { from: t, to: end, kind, answer });
            }
            _ => {}
        }
    }

    /// Ready for the second pass; `None` when nothing was frozen and no
    /// snapshot was taken.
    pub(super) fn builder(mut self) -> Option<Builder> {
        self.marks.sort_by_key(|(_, t)| *t);
        let (first, last) = (self.marks.first()?.1, self.marks.last()?.1);
        let shown = self.writers.min(MAX_CLIENTS);
        Some(Builder {
            window: Window {
                range: (first.saturating_sub(AROUND), last.saturating_add(AROUND)),
                marks: self.marks,
                probes: self.probes,
                clients: (self.writers, shown),
                ..Window::default()
            },
            in_flight: vec![None; shown as usize],
            tables: self.tables.into_iter().map(|table| (table, true)).collect(),
            places: HashMap::new(),
            last: 0,
        })
    }
}

/// Collects what touches the window: the second pass.
#[derive(Debug)]
pub(super) struct Builder {
    window: Window,
    /// Of each client shown.
    in_flight: Vec<Option<InFlight>>,
    /// Non-transactional tables, and whether they could be read.
    tables: Vec<(String, bool)>,
    /// Where a client's transfer, or its row in a table, is in the window.
    places: HashMap<(u32, u32, Option<usize>), usize>,
    last: Nanos,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    from: Nanos,
    number: u32,
    table: Option<usize>,
}

impl Builder {
    pub(super) fn entry(&mut self, entry: &Entry) {
        match entry {
            Entry::Invoke { t, c, n, op } => {
                self.last = self.last.max(*t);
                let table = match op {
                    Op::Transfer { .. } => None,
                    Op::Follow { table, .. } => match self.table(table) {
                        None => return,
                        known => known,
                    },
                };
                if let Some(slot) = self.slot(*c) {
                    *slot = Some(InFlight { from: *t, number: *n, table });
                }
            }
            Entry::Ok { t, c, .. } => self.ended(*c, *t, End::Acknowledged),
            Entry::Fail { t, c, .. } => self.ended(*c, *t, End::RolledBack),
            Entry::Unknown { t, c, .. } => self.ended(*c, *t, End::Unknown),
            Entry::Resolved { c, n, present, .. } => {
                if let Some(place) = self.places.get(&(*c, *n, None)) {
                    let end = if *present { End::Acknowledged } else { End::RolledBack };
                    self.window.transfers[*place].end = end;
                }
            }
            Entry::End { t } => self.last = self.last.max(*t),
            Entry::Setup(_)
            | Entry::Directory { .. }
            | Entry::Mark { .. }
            | Entry::Probe(_)
            | Entry::Guest { .. }
            | Entry::BlockStats { .. }
            | Entry::Heartbeat { .. }
            | Entry::SchemaChange { .. }
            | Entry::Bulk { .. }
            | Entry::Cycle { .. } => {}
        }
    }

    /// Follows the last entry: what is still in flight has no known end.
    pub(super) fn end_of_history(&mut self) {
        let last = self.last;
        for client in 1..=self.window.clients.1 {
            self.ended(client, last, End::Unknown);
        }
    }

    pub(super) fn record(&mut self, record: &Record) {
        match record {
            Record::Leg { c, n, leg, .. } if *leg < 2 => {
                if let Some(place) = self.places.get(&(*c, *n, None)) {
                    self.window.transfers[*place].legs |= 1 << leg;
                }
            }
            Record::Follow { table, c, n, .. } => {
                if let Some(table) = self.table(table)
                    && let Some(place) = self.places.get(&(*c, *n, Some(table)))
                {
                    self.window.followers[*place].legs = 0b11;
                }
            }
            Record::TableError { table, .. } => {
                if let Some(table) = self.table(table) {
                    self.tables[table].1 = false;
                }
            }
            _ => {}
        }
    }

    /// The window; `observed` says whether all restored rows were seen.
    pub(super) fn finish(mut self, observed: bool) -> Window {
        let mark = |wanted| self.window.marks.iter().find(|(mark, _)| *mark == wanted).map(|(_, t)| *t);
        let snapshot = mark(Mark::SnapBegin).filter(|_| observed);
        let complete = mark(Mark::SnapEnd);
        for transfer in &mut self.window.transfers {
            transfer.fate = fate(transfer, snapshot, complete);
        }
        for row in &mut self.window.followers {
            let readable = row.table.and_then(|table| self.tables.get(table)).is_some_and(|table| table.1);
            row.fate = fate(row, snapshot.filter(|_| readable), complete);
        }
        self.window
    }

    fn table(&self, name: &str) -> Option<usize> {
        self.tables.iter().position(|(table, _)| table == name)
    }

    fn slot(&mut self, client: u32) -> Option<&mut Option<InFlight>> {
        self.in_flight.get_mut((client as usize).checked_sub(1)?)
    }

    fn ended(&mut self, client: u32, to: Nanos, end: End) {
        self.last = self.last.max(to);
        let Some(InFlight { from, number, table }) = self.slot(client).and_then(Option::take) else {
            return;
        };
        let window = &mut self.window;
        if to < window.range.0 || from > window.range.1 {
            return;
        }
        if window.transfers.len() + window.followers.len() >= MAX_KEPT {
            window.left_out += 1;
        } else {
            let kept = if table.is_none() { &mut window.transfers } else { &mut window.followers };
            self.places.insert((client, number, table), kept.len());
            let fate = Fate::NotObserved;
            kept.push(Transfer { client, number, from, to, end, legs: 0, table, fate });
        }
    }
}

fn fate(transfer: &Transfer, snapshot: Option<Nanos>, complete: Option<Nanos>) -> Fate {
    match (transfer.end, snapshot, transfer.legs) {
        (End::RolledBack, ..) => Fate::RolledBack,
        (_, None, _) => Fate::NotObserved,
        (_, Some(_), 0b11) if complete.is_some_and(|complete| transfer.from > complete) => Fate::Future,
        (_, Some(_), 0b11) => Fate::Restored,
        (_, Some(_), 0b01 | 0b10) => Fate::Torn,
        (End::Acknowledged, Some(snapshot), _) if transfer.to < snapshot => Fate::Lost,
        (End::Acknowledged, Some(_), _) => Fate::Later,
        (End::Unknown, Some(_), _) => Fate::Unknown,
    }
}

impl Window {
    pub(super) fn mark(&self, wanted: Mark) -> Option<Nanos> {
        self.marks.iter().find(|(mark, _)| *mark == wanted).map(|(_, t)| *t)
    }

    /// From the freeze's return to the call of the thaw.
    pub(super) fn held(&self) -> Option<(Nanos, Nanos)> {
        self.mark(Mark::FreezeOk).zip(self.mark(Mark::ThawCall)).filter(|(from, to)| from < to)
    }

    /// The longest time without an acknowledged transfer that touches the
    /// marks, and whether its ends are acknowledgements: where none comes
    /// before or after, it ends where the picture does. `None` also when
    /// operations were left out: their absence is no silence.
    pub(super) fn stall(&self) -> Option<(Nanos, Nanos, bool)> {
        if self.left_out > 0 {
            return None;
        }
        let (from, to) = (self.marks.first()?.1, self.marks.last()?.1);
        let mut acks: Vec<Nanos> =
            self.transfers.iter().filter(|t| t.is_acknowledged()).map(|t| t.to).collect();
        acks.retain(|t| (self.range.0..=self.range.1).contains(t));
        acks.sort_unstable();
        let whole = (*acks.first()?, *acks.last()?);
        let edges = [self.range.0].into_iter().chain(acks).chain([self.range.1]).collect::<Vec<_>>();
        edges
            .windows(2)
            .map(|pair| (pair[0], pair[1], whole.0 <= pair[0] && pair[1] <= whole.1))
            .filter(|(a, b, _)| *b >= from && *a <= to)
            .max_by_key(|(a, b, _)| b - a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Nanos = 10 * SECOND;

    fn transfer(c: u32, n: u32, from: Nanos, to: Nanos) -> [Entry; 2] {
        let op = Op::Transfer { dep: [1, 0], legs: [(1, 5), (2, -5)], crc: 0 };
        [Entry::Invoke { t: from, c, n, op }, Entry::Ok { t: to, c, n, ver: None }]
    }

    fn mark(mark: Mark, t: Nanos) -> Entry {
        Entry::Mark { t, mark, detail: String::new() }
    }

    fn leg(c: u32, n: u32, leg: u8) -> Record {
        Record::Leg { c, n, leg, dep: [1, 0], acct: 1, amt: 5, ver: 1, crc: 0, sum: 0 }
    }

    fn window(entries: &[Entry], records: &[Record], observed: bool) -> Window {
        let mut frame = Frame::default();
        entries.iter().for_each(|entry| frame.entry(entry));
        let mut builder = frame.builder().unwrap();
        entries.iter().for_each(|entry| builder.entry(entry));
        builder.end_of_history();
        records.iter().for_each(|record| builder.record(record));
        builder.finish(observed)
    }

    fn history() -> Vec<Entry> {
        let setup = Entry::Setup { writers: 2, accounts: 2, opening_balance: 1, followers: vec![] };
        let mut entries = vec![setup];
        entries.extend(transfer(1, 1, T0 - 9 * SECOND, T0 - 8 * SECOND));
        entries.extend(transfer(1, 2, T0 - 90, T0 - 80));
        entries.extend(transfer(1, 3, T0 - 70, T0 - 60));
        entries.extend(transfer(2, 1, T0 - 50, T0 - 40));
        entries.extend([mark(Mark::FreezeCall, T0), mark(Mark::FreezeOk, T0 + 10)]);
        entries.extend([mark(Mark::SnapBegin, T0 + 20), mark(Mark::SnapEnd, T0 + 30)]);
        entries.extend([mark(Mark::ThawCall, T0 + 40), mark(Mark::ThawOk, T0 + 50)]);
        entries.extend(transfer(1, 4, T0 - 30, T0 + 70));
        entries.extend(transfer(2, 2, T0 + 80, T0 + 90));
        entries.pop();
        entries
    }

    #[test]
    fn each_transfer_gets_its_fate() {
        let records = [leg(1, 2, 0), leg(1, 2, 1), leg(2, 1, 1), leg(9, 9, 0), leg(1, 2, 200)];
        let window = window(&history(), &records, true);
        let fates: Vec<_> = window.transfers.iter().map(|t| (t.client, t.number, t.fate)).collect();
        assert_eq!(
            fates,
            [
                (1, 2, Fate::Restored),
                (1, 3, Fate::Lost),
                (2, 1, Fate::Torn),
                (1, 4, Fate::Later),
                (2, 2, Fate::Unknown)
            ]
        );
        assert_eq!(window.held(), Some((T0 + 10, T0 + 40)));
        assert_eq!(window.stall(), Some((T0 - 40, T0 + 70, true)));
    }

    #[test]
    fn nothing_is_lost_where_nothing_was_observed() {
        let window = window(&history(), &[], false);
        assert!(window.transfers.iter().all(|t| t.fate == Fate::NotObserved));
    }

    #[test]
    fn a_restored_transfer_from_after_the_snapshot_is_from_the_future() {
        let window = window(&history(), &[leg(2, 2, 0), leg(2, 2, 1)], true);
        assert_eq!(window.transfers.last().unwrap().fate, Fate::Future);
    }

    #[test]
    fn rows_of_tables_have_fates_of_their_own() {
        let follow = |table: &str| Op::Follow { table: table.to_owned(), crc: 0 };
        let mut entries = history();
        let followers = vec!["nt".to_owned(), "bad".to_owned()];
        entries[0] = Entry::Setup { writers: 2, accounts: 2, opening_balance: 1, followers };
        for (t, n, table) in
            [(T0 - 30, 1, "nt"), (T0 - 20, 2, "nt"), (T0 - 10, 1, "bad"), (T0 - 5, 1, "else")]
        {
            entries.insert(9, Entry::Ok { t: t + 2, c: 2, n, ver: None });
            entries.insert(9, Entry::Invoke { t, c: 2, n, op: follow(table) });
        }
        let records = [
            Record::Follow { table: "nt".to_owned(), c: 2, n: 1, crc: 0, sum: 0 },
            Record::TableError { table: "bad".to_owned(), error: String::new() },
        ];
        let mut rows: Vec<_> = window(&entries, &records, true)
            .followers
            .iter()
            .map(|row| (row.table, row.number, row.fate))
            .collect();
        rows.sort();
        assert_eq!(
            rows,
            [(Some(0), 1, Fate::Restored), (Some(0), 2, Fate::Lost), (Some(1), 1, Fate::NotObserved)]
        );
    }

    #[test]
    fn hostile_numbers_do_no_harm() {
        let mut entries = vec![
            Entry::Setup { writers: u32::MAX, accounts: 0, opening_balance: i64::MIN, followers: vec![] },
            mark(Mark::ThawOk, 0),
            mark(Mark::FreezeCall, u64::MAX),
            Entry::Ok { t: 5, c: 0, n: 0, ver: None },
            Entry::Resolved { t: 5, c: u32::MAX, n: 0, present: true },
        ];
        for c in [0, 1, MAX_CLIENTS, MAX_CLIENTS + 1, u32::MAX] {
            entries.extend(transfer(c, u32::MAX, u64::MAX, 0));
        }
        let window = window(&entries, &[leg(1, u32::MAX, 0)], true);
        assert_eq!(window.transfers.len(), 2);
        assert_eq!(window.clients, (u32::MAX, MAX_CLIENTS));
        let _ = (window.held(), window.stall());
    }
}
