//! Whether the disks agree with what was synced to them, and with each other:
//! X1, X2.
//!
//! Each disk holds a file of heartbeats that no database touches. Which of them
//! a snapshot holds shows the instant at which that disk stopped.

use contract::grade::Grade;
use contract::history::Nanos;
use contract::property::Property;

use super::case::{Heartbeats, NEVER, Span};
use super::evidence::{Anchor, Evidence, count, quote, were};
use super::ruling::{Defect, Ruling, Unexamined};
use super::view::{Freeze, View};

/// A disk whose last heartbeat was answered longer than this before the call of the freeze shows
/// little about when it stopped. Of 93 windows the longest such time was 2.3 s.
const RECENTLY: Nanos = 5_000_000_000;

/// X1, [`Property::OutsideFiles`]. Without a freeze, what was synced before the snapshot began is owed,
/// nothing from after its end may be there, and a torn last record that was never acknowledged is no
/// fault. What one file shows counts without the others.
pub(super) fn outside_files(view: &View<'_>) -> Ruling {
    let (disks, unread) = heartbeats(view)?;
    let snapshot = view.snapshot()?;
    let frozen = view.freeze() == Freeze::Done;
    let (owed_until, nothing_after) = match view.window() {
        Ok(window) => (window.thaw, window.frozen),
        Err(_) => (snapshot.begin, snapshot.end),
    };
    let anchor = view.anchor();
    let (mut lost, mut late, mut torn) = (Evidence::default(), Evidence::default(), Evidence::default());
    // Inside the window it only shows that a file system was not frozen.
    let mut grave = false;
    for HeartbeatDisk { name, sent, held } in disks {
        let disk = quote(name);
        for (n, span) in (1u32..).zip(sent) {
            let there = n <= held.count;
            if !there && span.acked_before(owed_until) {
                grave |= span.acked_before(snapshot.begin);
                lost.add(|| format!("disk {disk} record {n}: lost, synced {}", anchor.when(span.acked)));
            } else if there && span.sent > nothing_after {
                grave |= span.sent > snapshot.end;
                late.add(|| format!("disk {disk} record {n}: there, sent {}", anchor.when(span.sent)));
            }
        }
        if usize::try_from(held.count).is_ok_and(|count| count > sent.len()) {
            grave = true;
            let requested = sent.len();
            late.add(|| {
                format!("disk {disk}: {} records are there, but only {requested} were requested", held.count)
            });
        }
        // A record in the making when the power goes may be there in part.
        let unanswered = sent.get(usize::try_from(held.count).unwrap_or(usize::MAX));
        let legal = !frozen && unanswered.is_some_and(|span| !span.acked_before(owed_until));
        if !held.rest.is_empty() && !legal {
            torn.add(|| format!("disk {disk}: after record {} comes `{}`", held.count, quote(&held.rest)));
        }
    }
    let mut parts = Vec::new();
    if !lost.is_empty() {
        parts.push(format!(
            "{} to files outside the database {} lost",
            count(lost.total(), "synced write"),
            were(lost.total())
        ));
    }
    if !late.is_empty() {
        parts.push(format!(
            "{} to files outside the database {} from after the freeze",
            count(late.total(), "write"),
            were(late.total())
        ));
    }
    if !torn.is_empty() {
        parts.push(format!(
            "{} outside the database {} torn",
            count(torn.total(), "file"),
            were(torn.total())
        ));
    }
    if parts.is_empty() {
        return unread.map_or(Ok(None), Err);
    }
    lost.append(late);
    lost.append(torn);
    let mut defect = Defect::new(Property::OutsideFiles, parts.join(", "), lost.into_lines());
    if grave {
        defect.ceiling = Grade::Inconsistent;
    }
    Ok(Some(defect))
}

/// X2, [`Property::DiskAgreement`]. The latest beginning and the earliest end decide. The database is
/// no such witness: with relaxed durability it may lack what its disk had time to take.
pub(super) fn agreement(view: &View<'_>) -> Ruling {
    let (disks, unread) = heartbeats(view)?;
    let sent_to = |disk: &&HeartbeatDisk<'_>| !disk.sent.is_empty();
    let cuts: Vec<(&str, Cut)> =
        disks.iter().filter(sent_to).map(|disk| (disk.name, Cut::of(disk))).collect();
    if let (0 | 1, None) = (cuts.len(), &unread) {
        return Err(Unexamined("only one disk had heartbeats, so there is nothing to compare".into()));
    }
    let latest = cuts.iter().max_by_key(|(_, cut)| cut.after);
    let earliest = cuts.iter().min_by_key(|(_, cut)| cut.before);
    let (Some((late, after)), Some((early, before))) = (latest, earliest) else {
        return unread.map_or(Ok(None), Err);
    };
    if after.after <= before.before {
        let marks = view.marks();
        let over = marks.thaw_ok.or(marks.thaw_err).or(marks.snap_end).unwrap_or(view.case.end);
        let late = |cut: &Cut| cut.before.min(view.case.end) > over.saturating_add(RECENTLY);
        let open = cuts.iter().find(|(_, cut)| late(cut)).map(|(disk, _)| {
            let (disk, seconds) = (quote(disk), RECENTLY / 1_000_000_000);
            Unexamined(format!(
                "no heartbeat missing on disk {disk} was answered within {seconds} s after the window, so the latest time at \
                 which it can have stopped is not known"
            ))
        });
        return unread.or(open).map_or(Ok(None), Err);
    }
    let apart = (after.after - before.before) as f64 / 1e6;
    let summary = format!(
        "the disks {} and {} are at least {apart:.1} ms apart: the snapshot is not of one instant",
        quote(early),
        quote(late)
    );
    let anchor = view.anchor();
    let lines: Vec<_> = cuts.iter().map(|(disk, cut)| cut.describe(disk, &anchor)).collect();
    Ok(Some(Defect::new(Property::DiskAgreement, summary, lines)))
}

/// When a disk may have stopped.
struct Cut {
    after: Nanos,
    before: Nanos,
}

impl Cut {
    fn of(disk: &HeartbeatDisk<'_>) -> Self {
        let there = usize::try_from(disk.held.count).unwrap_or(usize::MAX).min(disk.sent.len());
        let (kept, lacked) = disk.sent.split_at(there);
        Self {
            after: kept.iter().map(|span| span.sent).max().unwrap_or(0),
            before: lacked.iter().map(|span| span.acked).min().unwrap_or(NEVER),
        }
    }

    fn describe(&self, disk: &str, anchor: &Anchor) -> String {
        let after = if self.after == 0 { "any time".to_owned() } else { anchor.when(self.after) };
        let before = if self.before == NEVER { "any time".to_owned() } else { anchor.when(self.before) };
        format!("disk {} stopped between {after} and {before}", quote(disk))
    }
}

/// What was sent to a disk, and what it holds.
struct HeartbeatDisk<'a> {
    name: &'a str,
    sent: &'a [Span],
    held: &'a Heartbeats,
}

/// The disks whose heartbeats were read, and why those of another were not, or show nothing.
fn heartbeats<'a>(view: &View<'a>) -> Result<(Vec<HeartbeatDisk<'a>>, Option<Unexamined>), Unexamined> {
    let observation = view.observed()?;
    if view.case.heartbeats.is_empty() && observation.heartbeats.is_empty() {
        return Err(Unexamined("the load wrote no heartbeats".into()));
    }
    let sent = |name: &str| view.case.heartbeats.get(name).map_or(&[][..], Vec::as_slice);
    let disks = observation
        .heartbeats
        .iter()
        .map(|(name, held)| HeartbeatDisk { name, sent: sent(name), held })
        .collect();
    let begin = view.snapshot()?.begin;
    let from = view.marks().freeze_call.unwrap_or(begin);
    let owed = view.case.setup.file_systems.iter().chain(view.case.heartbeats.keys());
    let unread = owed.into_iter().find_map(|name| {
        if !observation.heartbeats.contains_key(name) {
            return Some(Unexamined(format!("the heartbeats of disk {} were not read", quote(name))));
        }
        let answered = |span: &Span| span.acked_before(begin) && span.acked.saturating_add(RECENTLY) >= from;
        let why = || {
            let (disk, seconds) = (quote(name), RECENTLY / 1_000_000_000);
            format!("no heartbeat of disk {disk} was answered in the {seconds} s before the freeze")
        };
        (!sent(name).iter().any(answered)).then(|| Unexamined(why()))
    });
    Ok((disks, unread))
}

/// How far apart two disks may have stopped without [`agreement`] seeing it,
/// nanoseconds: the widest span between the last heartbeat that a disk holds and the first that it
/// lacks. `None` where no two disks were compared.
pub(super) fn resolution(view: &View<'_>) -> Option<Nanos> {
    let (disks, _) = heartbeats(view).ok()?;
    if disks.len() < 2 {
        return None;
    }
    let spans = disks.iter().map(Cut::of).map(|cut| cut.before.min(view.case.end).saturating_sub(cut.after));
    spans.max()
}
