//! The history compared with the image: which of the operations that were sent
//! the restored database holds, and what it holds that was never sent.
//!
//! Made once, in one pass over the restored rows; every property reads it.

use std::collections::BTreeSet;

use contract::history::{Nanos, Quiescence};
use contract::property::Property;

use super::case::{
    Bulk, BulkRows, Case, Marks, Observation, RestoredLeg, RestoredRow, SentRow, SentTransfer, slot,
};
use super::evidence::{Anchor, count, quote};
use super::ruling::Unexamined;
use super::tool_log::Backup;

/// The tables of the load that are transactional.
pub(super) const LEDGER: &str = "ledger";
pub(super) const ACCOUNTS: &str = "acct";
pub(super) const COUNTERS: &str = "cl";
/// The table of the bulk writer, which is not.
pub(super) const BULK: &str = "bulk";

/// How the freeze went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freeze {
    /// None was requested: the snapshot is of a running guest.
    NotTried,
    /// It was requested and failed, or its answer is not recorded.
    Failed,
    /// It was reported as successful.
    Done,
}

/// The freeze window: from freeze returned (F1) to thaw called (T0).
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) frozen: Nanos,
    pub(super) thaw: Nanos,
}

impl Window {
    pub(super) fn length(&self) -> Nanos {
        self.thaw.saturating_sub(self.frozen)
    }
}

/// How long the snapshot took (S0 to S1).
#[derive(Debug, Clone, Copy)]
pub(super) struct SnapshotSpan {
    pub(super) begin: Nanos,
    pub(super) end: Nanos,
}

/// A case with everything that more than one property needs.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) case: &'a Case,
    /// Per client and transfer: bit 0 and bit 1 for the legs that are there.
    legs: Vec<Vec<u8>>,
    /// Per client of a follower and row sent: it is there.
    rows: Vec<Vec<bool>>,
    /// What the restored rows were found to be; empty without an observation.
    pub(super) oddities: Oddities<'a>,
    /// Tables that could not be read to their end.
    cut: BTreeSet<&'a str>,
}

/// Restored rows that are not simply the row that a client sent.
#[derive(Debug, Default)]
pub(super) struct Oddities<'a> {
    /// The payload does not match the checksum stored beside it.
    pub(super) torn_legs: Vec<&'a RestoredLeg>,
    pub(super) torn_rows: Vec<&'a RestoredRow>,
    /// The row differs from what the client sent under that key.
    pub(super) altered_legs: Vec<&'a RestoredLeg>,
    pub(super) altered_rows: Vec<&'a RestoredRow>,
    /// The key is there twice.
    pub(super) doubled_legs: Vec<&'a RestoredLeg>,
    pub(super) doubled_rows: Vec<&'a RestoredRow>,
    /// A leg number other than 0 and 1.
    pub(super) extra_legs: Vec<&'a RestoredLeg>,
    /// The leg of an attempt that was rolled back.
    pub(super) revived_legs: Vec<&'a RestoredLeg>,
    /// Nobody sent it.
    pub(super) stray_legs: Vec<&'a RestoredLeg>,
    pub(super) stray_rows: Vec<&'a RestoredRow>,
}

impl<'a> View<'a> {
    /// Compares the history of a case with its observation.
    pub(super) fn new(case: &'a Case) -> Self {
        let mut view = Self {
            case,
            legs: case.clients.iter().map(|client| vec![0; client.transfers.len()]).collect(),
            rows: case.clients.iter().map(|client| vec![false; client.rows.len()]).collect(),
            oddities: Oddities::default(),
            cut: BTreeSet::new(),
        };
        if let Some(observation) = &case.observation {
            view.cut = observation.cut_tables.iter().map(|trouble| trouble.what.as_str()).collect();
            observation.legs.iter().for_each(|leg| view.place_leg(leg));
            observation.rows.iter().for_each(|row| view.place_row(row));
        }
        view
    }

    fn place_leg(&mut self, leg: &'a RestoredLeg) {
        let odd = &mut self.oddities;
        if leg.crc != leg.sum {
            odd.torn_legs.push(leg);
        }
        let Some(bit) = 1u8.checked_shl(leg.leg.into()).filter(|_| leg.leg < 2) else {
            odd.extra_legs.push(leg);
            return;
        };
        let sent = self.case.transfer(leg.c, leg.n);
        let as_sent = sent.is_some_and(|transfer| transfer.leg(leg.c, leg.n, leg.leg) == leg.as_sent());
        // A number is used again after a rollback, so the content decides.
        if !as_sent && self.case.rolled_back.contains(&leg.as_sent()) {
            odd.revived_legs.push(leg);
            return;
        }
        let place = slot(leg.c)
            .zip(slot(leg.n))
            .and_then(|(client, number)| self.legs.get_mut(client)?.get_mut(number));
        let Some(place) = place else {
            odd.stray_legs.push(leg);
            return;
        };
        if *place & bit != 0 {
            odd.doubled_legs.push(leg);
        }
        if !as_sent {
            odd.altered_legs.push(leg);
        }
        *place |= bit;
    }

    fn place_row(&mut self, row: &'a RestoredRow) {
        let odd = &mut self.oddities;
        if row.crc != row.sum {
            odd.torn_rows.push(row);
        }
        let own = row.c == self.case.client_of(row.table);
        let Some(sent) = self.case.row(row.table, row.n).filter(|_| own) else {
            odd.stray_rows.push(row);
            return;
        };
        if (sent.crc, sent.of) != (row.crc, row.of) {
            odd.altered_rows.push(row);
        }
        let place = slot(row.c)
            .zip(slot(row.n))
            .and_then(|(client, number)| self.rows.get_mut(client)?.get_mut(number));
        if let Some(place) = place {
            if *place {
                odd.doubled_rows.push(row);
            }
            *place = true;
        }
    }

    fn mask(&self, c: u32, n: u32) -> u8 {
        let mask = slot(c).zip(slot(n)).and_then(|(client, number)| self.legs.get(client)?.get(number));
        mask.copied().unwrap_or(0)
    }

    /// The transfer that a restored row follows is there with both legs.
    pub(super) fn is_whole_of(&self, row: &RestoredRow) -> bool {
        let [c, n] = row.of;
        self.is_whole(c, n)
    }

    /// The transfer is there with both legs. One leg alone is not a transfer.
    pub(super) fn is_whole(&self, c: u32, n: u32) -> bool {
        self.mask(c, n) == 0b11
    }

    /// At least one leg of the transfer is there: it took effect.
    pub(super) fn has_trace(&self, c: u32, n: u32) -> bool {
        self.mask(c, n) != 0
    }

    /// Transfers that were sent, with whether they are there whole.
    pub(super) fn transfers(&self) -> impl Iterator<Item = (u32, u32, &'a SentTransfer, u8)> {
        self.case
            .transfers()
            .zip(self.legs.iter().flatten())
            .map(|((c, n, transfer), mask)| (c, n, transfer, *mask))
    }

    /// Every row sent to a follower's table, and whether it is there.
    pub(super) fn rows(&self) -> impl Iterator<Item = SentRow<'a>> {
        (1u32..).zip(&self.case.clients).zip(&self.rows).flat_map(|((c, client), there)| {
            let table = self.case.follower_of(c).unwrap_or(0);
            (1u32..).zip(&client.rows).zip(there).map(move |((n, row), there)| SentRow {
                c,
                n,
                table,
                row,
                there: *there,
            })
        })
    }

    /// The same of those that a transaction protects, or of the others.
    pub(super) fn rows_of(&self, transactional: bool) -> impl Iterator<Item = SentRow<'a>> {
        self.rows().filter(move |row| self.is_transactional(row.table) == transactional)
    }

    pub(super) fn is_transactional(&self, table: u8) -> bool {
        self.case.setup.followers.get(usize::from(table)).is_some_and(|follower| follower.transactional)
    }

    /// The bulk statements that were sent, with what is there of them.
    pub(super) fn bulk(&self) -> impl Iterator<Item = (u32, &'a Bulk, BulkRows)> {
        let held = self.case.observation.as_ref().map(|observation| &observation.bulk);
        (1u32..).zip(&self.case.bulk).map(move |(n, bulk)| {
            let rows = held.and_then(|held| held.get(&n)).copied();
            (n, bulk, rows.unwrap_or(BulkRows { rows: 0, torn: 0 }))
        })
    }

    /// Whether a table is one that no transaction protects.
    pub(super) fn is_non_transactional(&self, table: &str) -> bool {
        self.case.setup.followers.iter().any(|it| it.table == table && !it.transactional)
            || (table == BULK && self.case.setup.tables.iter().any(|it| it.table == BULK))
    }

    /// Every table of the load on disk, with its engine.
    pub(super) fn tables(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let setup = &self.case.setup;
        let followers = setup.followers.iter().map(|it| (it.table.as_str(), it.engine.as_str()));
        setup.tables.iter().map(|it| (it.table.as_str(), it.engine.as_str())).chain(followers)
    }

    /// Every secondary index that is compared: its table and its name.
    pub(super) fn indexes(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let setup = &self.case.setup;
        let followers = setup.followers.iter().map(|it| (&it.table, &it.indexes));
        let all = setup.tables.iter().map(|it| (&it.table, &it.indexes)).chain(followers);
        all.flat_map(|(table, indexes)| indexes.iter().map(move |index| (table.as_str(), index.as_str())))
    }

    /// Whether the load has tables that no transaction protects.
    pub(super) fn has_other_tables(&self) -> bool {
        let setup = &self.case.setup;
        setup.followers.iter().any(|follower| !follower.transactional)
            || setup.tables.iter().any(|it| it.table == BULK)
    }

    /// The names of the tables that hold rows of transactions: the ledger, and the
    /// followers that a transaction protects.
    pub(super) fn transactional_tables(&self) -> Vec<&'a str> {
        let followers = self.case.setup.followers.iter().filter(|follower| follower.transactional);
        [LEDGER].into_iter().chain(followers.map(|follower| follower.table.as_str())).collect()
    }

    /// The run of the backup command in this cycle.
    pub(super) fn backup(&self) -> Option<&'a Backup> {
        self.case.tool.backups.get(slot(self.case.place[0])?)
    }

    /// That in the cycle before.
    pub(super) fn backup_before(&self) -> Option<&'a Backup> {
        self.case.tool.backups.get(slot(self.case.place[0].checked_sub(1)?)?)
    }

    /// Whether it is the last cycle: of a backup tool's backups, only that one is restored.
    pub(super) fn is_last_cycle(&self) -> bool {
        let [this, last] = self.case.place;
        this == last
    }

    /// Whether a property is examined at all in this cycle.
    pub(super) fn has(&self, property: Property) -> bool {
        let with_tool =
            self.case.setup.tool && (property != Property::NextBackup || self.backup_before().is_some());
        with_tool || !property.is_of_tools()
    }

    pub(super) fn marks(&self) -> &'a Marks {
        &self.case.cycle.marks
    }

    /// What a hook holds from the freeze to the thaw.
    pub(super) fn held_by(&self) -> &'static str {
        match self.case.setup.quiescence {
            Quiescence::Lock => "lock",
            Quiescence::BackupMode => "backup mode",
        }
    }

    /// How the freeze went.
    pub(super) fn freeze(&self) -> Freeze {
        match self.marks() {
            Marks { freeze_call: None, .. } => Freeze::NotTried,
            Marks { freeze_ok: Some(_), .. } => Freeze::Done,
            _ => Freeze::Failed,
        }
    }

    /// A description of how something else in the guest thawed what the freeze had
    /// frozen: the agent counts what it freezes and what is left to thaw. See the
    /// note on `guest-fsfreeze-thaw` in QEMU's manual of the agent.
    pub(super) fn thawed_by_another(&self) -> Option<String> {
        let Marks { frozen_volumes: Some(frozen), thawed_volumes: Some(thawed), .. } = self.marks() else {
            return None;
        };
        (thawed < frozen).then(|| {
            let frozen = count(u64::from(*frozen), "file system");
            format!("something else in the guest thawed it (the freeze froze {frozen}, the thaw found {thawed} frozen)")
        })
    }

    /// When the guest was reported as frozen (F1).
    pub(super) fn frozen(&self) -> Result<Nanos, Unexamined> {
        self.marks().freeze_ok.ok_or_else(|| self.no_window())
    }

    /// The freeze window.
    pub(super) fn window(&self) -> Result<Window, Unexamined> {
        let frozen = self.frozen()?;
        let thaw = self.marks().thaw_call.ok_or_else(|| Unexamined("the history has no thaw".into()))?;
        Ok(Window { frozen, thaw })
    }

    fn no_window(&self) -> Unexamined {
        Unexamined(
            match self.freeze() {
                Freeze::NotTried => "no freeze took place, so there is no window",
                Freeze::Failed | Freeze::Done => "the freeze did not succeed, so there is no window",
            }
            .into(),
        )
    }

    /// When the snapshot was taken.
    pub(super) fn snapshot(&self) -> Result<SnapshotSpan, Unexamined> {
        match (self.marks().snap_begin, self.marks().snap_end) {
            (Some(begin), Some(end)) => Ok(SnapshotSpan { begin, end }),
            (Some(_), None) => Err(Unexamined("the snapshot was begun and never completed".into())),
            (None, _) => Err(Unexamined("no snapshot was taken".into())),
        }
    }

    /// What was observed, if there was a snapshot and it was observed to the end.
    pub(super) fn observed(&self) -> Result<&'a Observation, Unexamined> {
        self.snapshot()?;
        match &self.case.observation {
            None => Err(Unexamined("the trial ended before the snapshot was observed".into())),
            Some(observation) if !observation.complete => {
                Err(Unexamined("the observation breaks off before its last line".into()))
            }
            Some(observation) => Ok(observation),
        }
    }

    /// What was observed, if the restored server ran.
    pub(super) fn served(&self) -> Result<&'a Observation, Unexamined> {
        let observation = self.observed()?;
        match &observation.server {
            Some(server) if server.started => Ok(observation),
            Some(_) => Err(Unexamined("the restored server did not start".into())),
            None => Err(Unexamined("the observation does not say whether the server started".into())),
        }
    }

    /// What was observed, if the named tables were read to their end.
    pub(super) fn read(&self, tables: &[&str]) -> Result<&'a Observation, Unexamined> {
        let observation = self.served()?;
        if let Some(table) = tables.iter().find(|table| self.is_cut(table)) {
            return Err(Unexamined(format!("the table `{}` could not be read to its end", quote(table))));
        }
        // An index that was counted shows that there really is nothing.
        let counted = observation.indexes.iter().any(|index| index.table == LEDGER && index.primary[0] == 0);
        if observation.legs.is_empty()
            && observation.accounts.is_empty()
            && observation.counters.is_empty()
            && !counted
        {
            return Err(Unexamined("the observation holds no row of the load's tables".into()));
        }
        Ok(observation)
    }

    /// The table could not be read to its end.
    pub(super) fn is_cut(&self, table: &str) -> bool {
        self.cut.contains(table)
    }

    /// The moment to which evidence relates its times.
    pub(super) fn anchor(&self) -> Anchor {
        match (self.marks().freeze_call, self.marks().snap_begin) {
            (Some(at), _) => Anchor { at, name: "the freeze call" },
            (None, Some(at)) => Anchor { at, name: "the snapshot" },
            (None, None) => Anchor { at: 0, name: "the start of the clock" },
        }
    }
}
