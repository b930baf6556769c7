//! Whether the restored rows are right in themselves: R1 to R5.

use std::collections::BTreeMap;

use contract::property::Property;

use super::case::{NEVER, RestoredAccount, RestoredLeg, RestoredRow};
use super::evidence::{Evidence, are, count, quote};
use super::ruling::{Defect, Ruling, Unexamined};
use super::view::{ACCOUNTS, BULK, COUNTERS, Freeze, LEDGER, View};

fn leg_name(leg: &RestoredLeg) -> String {
    format!("client {} transfer {} leg {}", leg.c, leg.n, leg.leg)
}

fn row_name(view: &View<'_>, row: &RestoredRow) -> String {
    format!("client {} row {} of `{}`", row.c, row.n, quote(view.case.follower(row.table)))
}

/// R1, [`Property::Checksums`]. A row whose key is known but whose account, amount, dependency or
/// checksum is not what was sent has been altered underneath the server, and counts here as well.
pub(super) fn checksums(view: &View<'_>) -> Ruling {
    let observation = view.read(&[])?;
    let mut evidence = Evidence::default();
    for cut in &observation.cut_tables {
        // A non-transactional table may be broken and the rest usable: N3 reports that. A table
        // that is not the load's is reported by the properties that need it.
        let of_load = view.tables().any(|(table, _)| table == cut.what);
        if of_load && !view.is_non_transactional(&cut.what) {
            evidence.add(|| format!("the table `{}` cannot be read: {}", quote(&cut.what), quote(&cut.why)));
        }
    }
    let odd = &view.oddities;
    for leg in &odd.torn_legs {
        evidence.add(|| format!("{}: stored crc {:08x}, payload {:08x}", leg_name(leg), leg.crc, leg.sum));
    }
    for row in &odd.torn_rows {
        evidence
            .add(|| format!("{}: stored crc {:08x}, payload {:08x}", row_name(view, row), row.crc, row.sum));
    }
    for leg in &odd.altered_legs {
        evidence.add(|| {
            format!("{}: not as sent (account {}, amount {})", leg_name(leg), leg.account, leg.amount)
        });
    }
    for row in &odd.altered_rows {
        evidence.add(|| format!("{}: not as sent (crc {:08x})", row_name(view, row), row.crc));
    }
    for (n, held) in observation.bulk.iter().filter(|(_, held)| held.torn > 0) {
        evidence.add(|| format!("bulk statement {n}: {} of {} rows damaged", held.torn, held.rows));
    }
    if observation.legs.is_empty() && observation.rows.is_empty() && evidence.is_empty() {
        return Err(Unexamined("no row carries a checksum".into()));
    }
    broken(Property::Checksums, evidence, |n| format!("{} damaged: not the data that was sent", row_are(n)))
}

fn row_are(n: u64) -> String {
    format!("{} {}", count(n, "row"), are(n))
}

/// R2, [`Property::Atomicity`]. Also broken by a leg that is there twice, by a leg number that no
/// transfer has, and by the leg of an attempt that the server or the client's own reading proved to be
/// rolled back. A bulk statement that was never acknowledged may have been killed, which leaves part of
/// its rows.
pub(super) fn atomicity(view: &View<'_>) -> Ruling {
    view.read(&[LEDGER])?;
    let anchor = view.anchor();
    let odd = &view.oddities;
    let mut halves = Evidence::default();
    for (c, n, transfer, mask) in view.transfers() {
        if mask == 0b01 || mask == 0b10 {
            let there = mask >> 1;
            halves.add(|| format!("{}: only leg {there} is there", anchor.transfer(c, n, transfer)));
        }
    }
    let mut revived = Evidence::default();
    for leg in &odd.revived_legs {
        revived.add(|| format!("{}: rolled back, yet there", leg_name(leg)));
    }
    let mut doubled = Evidence::default();
    for leg in &odd.doubled_legs {
        doubled.add(|| format!("{}: there twice", leg_name(leg)));
    }
    for leg in &odd.extra_legs {
        doubled.add(|| format!("{}: a transfer has the legs 0 and 1", leg_name(leg)));
    }
    let mut cut = Evidence::default();
    for (n, bulk, held) in view.bulk() {
        if held.rows > bulk.rows || (bulk.is_torn(held) && view.freeze() == Freeze::Done) {
            let (held, sent) = (held.rows, bulk.rows);
            cut.add(|| format!("bulk statement {n}: {held} of its {sent} rows are there"));
        }
    }
    let mut parts = Vec::new();
    if !cut.is_empty() {
        parts.push(format!("{} not whole", count(cut.total(), "bulk statement")));
    }
    if !halves.is_empty() {
        parts.push(format!("{} only half there", count(halves.total(), "transfer")));
    }
    if !revived.is_empty() {
        parts.push(format!("{} rolled back yet present", count(revived.total(), "leg")));
    }
    if !doubled.is_empty() {
        parts.push(format!("{} too many", count(doubled.total(), "leg")));
    }
    halves.append(revived);
    halves.append(doubled);
    halves.append(cut);
    if halves.is_empty() && view.is_cut(BULK) {
        return Err(Unexamined(format!("the table `{BULK}` could not be read to its end")));
    }
    broken(Property::Atomicity, halves, |_| parts.join(", "))
}

/// What the ledger says about one account.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    legs: u64,
    amount: i128,
    /// How many of its legs stand where versions from 1 up allow them to.
    placed: u64,
    /// Where this account's versions begin in the common table.
    start: usize,
}

/// R3, [`Property::Conservation`]. All balances together must be what was there at first.
pub(super) fn conservation(view: &View<'_>) -> Ruling {
    let observation = view.read(&[LEDGER, ACCOUNTS])?;
    let setup = &view.case.setup;
    let mut evidence = Evidence::default();

    let (tallies, outside) = tally(setup.accounts, &observation.legs);
    if outside > 0 {
        evidence.add(|| format!("{} of accounts that do not exist", count(outside, "leg")));
    }

    let mut restored = vec![None::<&RestoredAccount>; tallies.len()];
    let mut total = 0i128;
    for account in &observation.accounts {
        total += i128::from(account.balance);
        match super::case::slot(account.id).and_then(|at| restored.get_mut(at)) {
            None => evidence.add(|| format!("account {}: never set up", account.id)),
            Some(Some(_)) => evidence.add(|| format!("account {}: there twice", account.id)),
            Some(place) => *place = Some(account),
        }
    }
    for ((id, tally), account) in (1u32..).zip(&tallies).zip(&restored) {
        let Some(account) = account else {
            evidence.add(|| format!("account {id}: missing"));
            continue;
        };
        let expected = i128::from(setup.opening_balance) + tally.amount;
        if i128::from(account.balance) != expected {
            evidence.add(|| format!("account {id}: balance {}, its legs say {expected}", account.balance));
        }
        if u64::from(account.version) != tally.legs {
            evidence.add(|| {
                format!("account {id}: version {}, but {}", account.version, count(tally.legs, "leg"))
            });
        }
        if tally.placed != tally.legs {
            let wrong = tally.legs - tally.placed;
            evidence
                .add(|| format!("account {id}: {wrong} of {} versions leave a gap or repeat", tally.legs));
        }
    }
    let opening = i128::from(setup.opening_balance) * i128::from(setup.accounts);
    let sum =
        if total == opening { String::new() } else { format!("; the sum is {total} instead of {opening}") };
    broken(Property::Conservation, evidence, |n| {
        format!("{} between the accounts and the ledger{sum}", count(n, "contradiction"))
    })
}

/// Sums up the legs by account, and counts those of accounts that do not exist.
fn tally(accounts: u32, legs: &[RestoredLeg]) -> (Vec<Tally>, u64) {
    // Bounded by `MAX_ACCOUNTS` when the history was read.
    let mut tallies = vec![Tally::default(); usize::try_from(accounts).unwrap_or(0)];
    let mut outside = 0;
    for leg in legs {
        match super::case::slot(leg.account).and_then(|at| tallies.get_mut(at)) {
            Some(tally) => {
                tally.legs += 1;
                tally.amount += i128::from(leg.amount);
            }
            None => outside += 1,
        }
    }
    let mut start = 0;
    for tally in &mut tallies {
        tally.start = start;
        start += usize::try_from(tally.legs).unwrap_or(0);
    }
    // Versions 1..=legs each taken once: a gap, a repetition or a version
    // beyond shows as a leg that found no free place.
    let mut taken = vec![false; start];
    for leg in legs {
        let Some(tally) = super::case::slot(leg.account).and_then(|at| tallies.get_mut(at)) else { continue };
        let place = super::case::slot(leg.version)
            .filter(|_| u64::from(leg.version) <= tally.legs)
            .and_then(|at| taken.get_mut(tally.start + at));
        if let Some(taken) = place
            && !*taken
        {
            *taken = true;
            tally.placed += 1;
        }
    }
    (tallies, outside)
}

/// R4, [`Property::IndexAgreement`]. Rows that cancel each other out in the sum could not have shown a
/// difference.
pub(super) fn index_agreement(view: &View<'_>) -> Ruling {
    let observation = view.served()?;
    let mut evidence = Evidence::default();
    for index in observation.indexes.iter().filter(|index| index.primary != index.secondary) {
        let [rows, _] = index.primary;
        let [indexed, _] = index.secondary;
        evidence.add(|| {
            let (name, table) = (quote(&index.index), quote(&index.table));
            if rows == indexed {
                format!("index `{name}` of `{table}`: {rows} rows, but not the same ones")
            } else {
                format!("index `{name}` of `{table}`: {indexed} rows, the table has {rows}")
            }
        });
    }
    if evidence.is_empty() {
        let compared = |owed: &(&str, &str)| {
            observation.indexes.iter().any(|it| (it.table.as_str(), it.index.as_str()) == *owed)
        };
        if let Some((table, index)) = view.indexes().find(|owed| !compared(owed)) {
            let (table, index) = (quote(table), quote(index));
            return Err(Unexamined(format!("the index `{index}` was not compared with its table `{table}`")));
        }
        if let Some(blind) =
            observation.indexes.iter().find(|index| index.primary[0] > 1 && index.primary[1] == 0)
        {
            let (table, index) = (quote(&blind.table), quote(&blind.index));
            return Err(Unexamined(format!(
                "the sums of index `{index}` of `{table}` cancel out, so they prove nothing"
            )));
        }
        let rows_of = |table: &str| {
            let at = view.case.setup.followers.iter().position(|it| it.table == table)?;
            Some(observation.rows.iter().filter(|row| usize::from(row.table) == at).count() as u64)
        };
        for index in observation.indexes.iter().filter(|index| !view.is_cut(&index.table)) {
            let read = match index.table.as_str() {
                LEDGER => Some(observation.legs.len() as u64),
                ACCOUNTS => Some(observation.accounts.len() as u64),
                COUNTERS => Some(observation.counters.len() as u64),
                BULK => Some(observation.bulk.values().map(|held| held.rows).sum()),
                table => rows_of(table),
            };
            if let Some(read) = read.filter(|read| *read != index.primary[0]) {
                let (table, name, [rows, _]) = (quote(&index.table), quote(&index.index), index.primary);
                return Err(Unexamined(format!(
                    "index `{name}` of `{table}` was summed up over {rows} rows, and {read} were read"
                )));
            }
        }
        if observation.indexes.is_empty() {
            return Err(Unexamined("no index was compared with its table".into()));
        }
    }
    broken(Property::IndexAgreement, evidence, |n| format!("{} at odds with the table", count(n, "index")))
}

/// R5, [`Property::ClientPrefix`]. The client that changes the schema has the tables for a counter. The
/// rows of a follower that a transaction protects have none, but of those acknowledged none may be
/// missing before one that is there.
pub(super) fn client_prefix(view: &View<'_>) -> Ruling {
    let observation = view.read(&[view.transactional_tables(), vec![COUNTERS]].concat())?;
    super::schema::Steps::of(view)?;
    let writers = usize::try_from(view.case.setup.writers).unwrap_or(usize::MAX);
    let mut counters = vec![None::<u32>; view.case.clients.len().min(writers)];
    let mut evidence = Evidence::default();
    for &(c, n) in &observation.counters {
        match super::case::slot(c).and_then(|at| counters.get_mut(at)) {
            Some(Some(_)) => evidence.add(|| format!("client {c}: its counter is there twice")),
            Some(place) => *place = Some(n),
            // Unknown clients are reported by F.
            None if n != 0 && c <= view.case.setup.writers => {
                evidence.add(|| format!("client {c}: its counter says {n}, it sent nothing"));
            }
            None => {}
        }
    }
    for ((c, client), counter) in (1u32..).zip(&view.case.clients).zip(counters) {
        let mut last = 0;
        let mut holes = 0u64;
        let mut first_hole = 0;
        let mut missing = 0u64;
        for (n, _) in (1u32..).zip(&client.transfers) {
            if view.is_whole(c, n) {
                holes = missing;
            } else {
                missing += 1;
                first_hole = if first_hole == 0 { n } else { first_hole };
            }
            if view.has_trace(c, n) {
                last = n;
            }
        }
        if holes > 0 {
            evidence
                .add(|| format!("client {c}: {holes} missing before its last, the first is {first_hole}"));
        }
        let counter = counter.unwrap_or(0);
        if counter != last {
            evidence.add(|| format!("client {c}: its counter says {counter}, its last transfer is {last}"));
        }
    }
    let mut last_row = BTreeMap::new();
    for sent in view.rows_of(true).filter(|sent| sent.there) {
        last_row.insert(sent.table, sent.n);
    }
    for hole in view.rows_of(true).filter(|sent| !sent.there && sent.row.acked != NEVER) {
        if last_row.get(&hole.table).is_some_and(|last| hole.n < *last) {
            let table = quote(view.case.follower(hole.table));
            evidence
                .add(|| format!("client {}: row {} of `{table}` is missing before its last", hole.c, hole.n));
        }
    }
    let impossible = super::schema::impossible(view);
    if let Some(line) = &impossible {
        evidence.add(|| line.clone());
    }
    broken(Property::ClientPrefix, evidence, |n| {
        if let (1, Some(line)) = (n, impossible) {
            return line;
        }
        let n = count(n, "client sequence");
        format!("{n} broken: transfers missing in the middle, or a counter that names another number")
    })
}

fn broken(property: Property, evidence: Evidence, summary: impl FnOnce(u64) -> String) -> Ruling {
    if evidence.is_empty() {
        return Ok(None);
    }
    let summary = summary(evidence.total());
    Ok(Some(Defect::new(property, summary, evidence.into_lines())))
}
