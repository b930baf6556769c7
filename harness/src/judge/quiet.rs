//! Whether the guest was quiet while the snapshot was taken: Q1 to Q4.

use std::collections::BTreeMap;

use super::case::{BlockStats, Follow, NEVER, Transfer};
use super::tell::{Evidence, count, quote, were};
use super::view::{Freeze, Missing, View};
use super::{Defect, Ruling};
use crate::history::{Nanos, ProbeAnswer, ProbeKind};
use crate::verdict::Property;

/// Without a freeze, how long after the snapshot a write still shows that the
/// guest went on writing through it.
const AFTERMATH: Nanos = 1_000_000_000;

/// What a frozen file system may still write. ext4 was seen to write one to
/// three blocks of metadata, at 4 KiB, after it had been frozen.
const RESIDUE: (u64, u64) = (8, 64 * 1024);

/// Q1: no write was both sent and acknowledged inside the window.
///
/// Source: what a lock means. It has no false alarm: such a write can only have
/// been executed while the guest was said to be frozen. It misses much once
/// the file system is frozen, because a durable commit then waits anyway.
/// Needs F1 and T0. Where a snapshot was taken with no freeze in force, writes
/// sent after the snapshot began and acknowledged until a second after it
/// ended stand for the window; without any the property says nothing.
pub(super) fn window_silence(view: &View<'_>) -> Ruling {
    if view.freeze() == Freeze::Done {
        let window = view.window()?;
        let during = |sent: Nanos, acked: Nanos| sent > window.frozen && acked < window.thaw;
        let writes = writes_during(view, during);
        if writes.is_empty() {
            return Ok(None);
        }
        let summary = format!(
            "{} {} sent and acknowledged while the guest was frozen",
            count(writes.total(), "write"),
            were(writes.total())
        );
        return Ok(Some(Defect::new(Property::WindowSilence, summary, writes.into_lines())));
    }
    let snapshot = view.snapshot()?;
    let until = snapshot.end.saturating_add(AFTERMATH);
    // An operation without an acknowledgement has the latest time there is.
    let during = |sent: Nanos, acked: Nanos| sent > snapshot.begin && acked <= until && acked != NEVER;
    let writes = writes_during(view, during);
    let why = match view.freeze() {
        Freeze::NotTried => "no freeze took place",
        Freeze::Failed | Freeze::Done => "the snapshot was taken although the freeze failed",
    };
    if writes.is_empty() {
        return Err(Missing(format!("{why}, and no write came close enough to the snapshot to tell")));
    }
    let summary = format!(
        "{why}: {} {} acknowledged around the snapshot",
        count(writes.total(), "write"),
        were(writes.total())
    );
    Ok(Some(Defect::new(Property::WindowSilence, summary, writes.into_lines())))
}

fn writes_during(view: &View<'_>, during: impl Fn(Nanos, Nanos) -> bool) -> Evidence {
    let anchor = view.anchor();
    let mut writes = Evidence::default();
    for (c, n, transfer, _) in view.transfers() {
        let Transfer { sent, acked, .. } = *transfer;
        if during(sent, acked) {
            writes.add(|| anchor.span(c, n, transfer));
        }
    }
    for (c, table, follow, _) in view.follows() {
        let Follow { sent, acked, .. } = *follow;
        if during(sent, acked) {
            writes.add(|| anchor.row(c, view.case.follower(table), follow));
        }
    }
    writes
}

/// How long VSS holds writes at the most; see
/// <https://learn.microsoft.com/en-us/windows-server/storage/file-server/volume-shadow-copy-service>.
const VSS_LIMIT: Nanos = 10_000_000_000;

/// Q3: the freeze reached every volume, and the guest wrote next to nothing to
/// its disks inside the window.
///
/// Source: QEMU's own count of the guest's write requests (`query-blockstats`),
/// which neither the guest nor its agent can touch. Needs the counts of a disk
/// at two moments inside the window. That volumes were left out shows in the
/// freeze's own count as well, and counts without the others: an agent may
/// report success without having frozen anything, as on a Windows guest without
/// fixed volumes.
pub(super) fn disk_silence(view: &View<'_>) -> Ruling {
    let window = view.window()?;
    let left_out = match (view.marks().frozen_volumes, view.case.guest.volumes) {
        (Some(0), _) => Some("the freeze reached no volume at all, and reported success".to_owned()),
        (Some(frozen), Some(owed)) if frozen != owed => {
            Some(format!("the freeze reached {frozen} of {}", count(owed.into(), "volume")))
        }
        _ => None,
    };
    if let Some(summary) = left_out {
        return Ok(Some(Defect::new(Property::DiskSilence, summary, vec![])));
    }
    let inside = |t: Nanos| window.frozen <= t && t <= window.thaw;
    let mut first_of: BTreeMap<&str, &BlockStats> = BTreeMap::new();
    let mut loud = Evidence::default();
    let mut compared = false;
    for stats in view.case.cycle.block_stats.iter().filter(|stats| inside(stats.t)) {
        let first = *first_of.entry(&stats.disk).or_insert(stats);
        compared |= stats.t > first.t;
        // A count that goes backwards is none: it cannot show silence.
        let writes = stats.writes.checked_sub(first.writes).unwrap_or(u64::MAX);
        let bytes = stats.bytes.checked_sub(first.bytes).unwrap_or(u64::MAX);
        if writes > RESIDUE.0 || bytes > RESIDUE.1 {
            loud.add(|| format!("disk {}: {writes} writes, {bytes} bytes", quote(&stats.disk)));
        }
    }
    if !compared {
        return Err(Missing("the disks' write counts were not taken twice inside the window".into()));
    }
    if loud.is_empty() {
        return Ok(None);
    }
    let summary = "a disk was written to while the guest was frozen: the freeze skipped a file system";
    Ok(Some(Defect::new(Property::DiskSilence, summary, loud.into_lines())))
}

/// What the probes of one kind answered inside the window.
#[derive(Debug, Default, Clone, Copy)]
struct Answers {
    done: bool,
    locked: bool,
    hung: bool,
}

/// Q2: a write sent inside the window was refused by a lock of the server.
///
/// Source: MySQL's error 1205, and the thread states of its manual. An UPDATE
/// of a MEMORY table that is not binlogged touches no disk, so only `FLUSH
/// TABLES WITH READ LOCK` refuses it; a COMMIT waits for that lock and for
/// MariaDB's `BACKUP STAGE BLOCK_COMMIT`, and hangs when only the file system
/// is frozen. One refusal proves a lock; a statement of the same kind that was
/// executed disproves it.
/// Needs probes whose whole time lies in the window.
pub(super) fn lock_probe(view: &View<'_>) -> Ruling {
    let window = view.window()?;
    let anchor = view.anchor();
    let (mut memory, mut transactional) = (Answers::default(), Answers::default());
    let mut evidence = Evidence::default();
    for probe in &view.case.cycle.probes {
        // One that reaches beyond the window may have been answered by the thaw.
        if probe.sent < window.frozen || probe.end > window.thaw {
            continue;
        }
        let (answers, statement) = match probe.kind {
            ProbeKind::Memory => (&mut memory, "UPDATE of a MEMORY table"),
            ProbeKind::Transactional => (&mut transactional, "COMMIT of a transaction"),
        };
        let answer = match probe.answer {
            ProbeAnswer::Done => {
                answers.done = true;
                "was executed"
            }
            ProbeAnswer::Locked => {
                answers.locked = true;
                "was kept out by a lock"
            }
            ProbeAnswer::Hung => {
                answers.hung = true;
                "got no answer"
            }
            ProbeAnswer::Error => "failed for another reason",
        };
        evidence.add(|| format!("{statement}, sent {}, {answer}", anchor.when(probe.sent)));
    }
    let summary = match (memory, transactional) {
        (Answers { done: true, locked: true, .. }, _) | (_, Answers { done: true, locked: true, .. }) => {
            "the server's lock was not held through the whole window"
        }
        (Answers { locked: true, .. }, _) | (_, Answers { locked: true, .. }) => return Ok(None),
        (_, Answers { done: true, .. }) => {
            "nothing held writes back: a transaction was committed inside the window"
        }
        (Answers { done: true, .. }, Answers { hung: true, .. }) => {
            "only the file system was frozen: no lock of the server was held"
        }
        _ if evidence.is_empty() => return Err(Missing("no probe was answered inside the window".into())),
        _ => return Err(Missing("the probes' answers do not tell a lock from a frozen file system".into())),
    };
    Ok(Some(Defect::new(Property::LockProbe, summary, evidence.into_lines())))
}

/// Q4: the thaw confirms the lock.
///
/// Source: the hook's contract. A hook that cannot prove at thaw that the very
/// session which took the lock still holds it must fail the thaw, because the
/// snapshot between may be of a running server. The agent of a Windows guest is
/// held to the same: VSS gives up after a time that is known, and then no answer
/// of the thaw can be true. Needs the thaw's answer.
pub(super) fn lock_identity(view: &View<'_>) -> Ruling {
    let window = view.window()?;
    let marks = view.marks();
    match (marks.thaw_err, marks.thaw_ok) {
        (Some(_), _) => {
            let detail = vec![quote(&marks.thaw_detail)];
            let summary = "the thaw reported a failure: the lock was not proven to be held until then";
            Ok(Some(Defect::new(Property::LockIdentity, summary, detail)))
        }
        (None, Some(_)) if view.case.guest.windows && window.length() > VSS_LIMIT => {
            let seconds = window.length() as f64 / 1e9;
            let summary = format!("the window was {seconds:.1} s long, and VSS holds writes for 10 s only");
            Ok(Some(Defect::new(Property::LockIdentity, summary, vec![])))
        }
        (None, Some(_)) => Ok(None),
        (None, None) => Err(Missing("the history does not tell how the thaw ended".into())),
    }
}
