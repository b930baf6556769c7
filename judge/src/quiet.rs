//! Whether the guest was quiet while the snapshot was taken: Q1 to Q4.

use contract::history::Nanos;
use contract::property::Property;

use super::boot::directory_line;
use super::case::{BlockStats, Marks, NEVER, SentTransfer};
use super::evidence::{Evidence, count, quote, were};
use super::probes::{Proof, Proven, Quiesced, is_stopped};
use super::ruling::{Defect, Ruling, Unexamined};
use super::view::{Freeze, View};

/// Without a freeze, how long after the snapshot a write still shows that the
/// guest went on writing through it.
const AFTERMATH: Nanos = 1_000_000_000;

/// What a frozen file system may still write. ext4 was observed to write one to
/// three blocks of metadata, at 4 KiB, after it had been frozen.
pub(super) const RESIDUE: (u64, u64) = (8, 64 * 1024);

/// Q1, [`Property::WindowSilence`]. It misses much once the file system is frozen, because a durable
/// commit then waits anyway. Where a snapshot was taken with no freeze in force, writes sent after the
/// snapshot began and acknowledged until a second after it ended stand for the window; without any the
/// property says nothing.
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
        return Err(Unexamined(format!("{why}, and no write came close enough to the snapshot to decide")));
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
        let SentTransfer { sent, acked, .. } = *transfer;
        if during(sent, acked) {
            writes.add(|| anchor.span(c, n, transfer));
        }
    }
    for sent in view.rows().filter(|sent| during(sent.row.sent, sent.row.acked)) {
        writes.add(|| anchor.row(&sent, view.case.follower(sent.table)));
    }
    for (n, bulk, _) in view.bulk().filter(|(_, bulk, _)| during(bulk.span.sent, bulk.span.acked)) {
        writes.add(|| format!("bulk statement {n} (sent {})", anchor.when(bulk.span.sent)));
    }
    writes
}

/// How soon after the freeze has returned the disks' writes must be counted. Of 21 trials the
/// longest such time was 9 ms.
const COUNTED: Nanos = 2_000_000_000;

/// How long VSS holds writes at the most; see
/// <https://learn.microsoft.com/en-us/windows-server/storage/file-server/volume-shadow-copy-service>.
const VSS_LIMIT: Nanos = 10_000_000_000;

/// Q3, [`Property::DiskSilence`]. That volumes were left out shows in the freeze's own count as well,
/// held against the agent's mount table and the server's, and counts without the others: an agent may
/// report success without having frozen anything, as on a Windows guest without fixed volumes. Where
/// the thaw found more or less frozen than that, something else froze or thawed.
pub(super) fn disk_silence(view: &View<'_>) -> Ruling {
    let window = view.window()?;
    let Marks { frozen_volumes, thawed_volumes, thaw_err, .. } = *view.marks();
    let guest = view.case.guest.as_ref();
    let owed = guest.and_then(|guest| guest.volumes);
    let windows = guest.is_some_and(|guest| guest.windows);
    let held = view.case.setup.file_systems.len() as u64;
    let left_out = match (frozen_volumes, owed, thawed_volumes) {
        (Some(0), ..) => Some("the freeze reached no volume at all, and reported success".to_owned()),
        (Some(frozen), _, Some(thawed)) if thawed > frozen => Some(format!(
            "the thaw ended {thawed} freezes, but this one had made only {frozen}: something else in the guest had frozen a file system before"
        )),
        (Some(frozen), Some(owed), _) if frozen != owed => {
            Some(format!("the freeze reached {frozen} of {}", count(owed.into(), "volume")))
        }
        (Some(frozen), None, _) if !windows && u64::from(frozen) < held => {
            Some(format!("the freeze reached {frozen} of at least {}", count(held, "file system")))
        }
        // Otherwise Q4 reports it, which does not apply to a server that was stopped.
        _ if is_stopped(view) => view
            .thawed_by_another()
            .map(|why| format!("the window was over before the thaw was requested: {why}")),
        _ => None,
    };
    if let Some(summary) = left_out {
        return Ok(Some(Defect::new(Property::DiskSilence, summary, vec![])));
    }
    let missed: Vec<_> = view.case.directories.iter().filter(|it| it.on.is_some() && !it.reached).collect();
    if let Some(first) = missed.first() {
        let summary = format!(
            "the server keeps its {}, which is not in the agent's mount table: the freeze never reached it",
            directory_line(view, first)
        );
        let lines: Vec<_> = missed.into_iter().map(|it| directory_line(view, it)).collect();
        return Ok(Some(Defect::new(Property::DiskSilence, summary, lines)));
    }
    let inside = |stats: &&BlockStats| window.frozen <= stats.t && stats.t <= window.thaw;
    let mut loud = Evidence::default();
    let counts: Vec<&BlockStats> = view.case.cycle.block_stats.iter().filter(inside).collect();
    for (at, stats) in counts.iter().enumerate() {
        let Some(first) = counts[..at].iter().find(|first| first.disk == stats.disk) else { continue };
        // A count that goes backwards is none: it cannot show silence.
        let writes = stats.writes.checked_sub(first.writes).unwrap_or(u64::MAX);
        let bytes = stats.bytes.checked_sub(first.bytes).unwrap_or(u64::MAX);
        if writes > RESIDUE.0 || bytes > RESIDUE.1 {
            loud.add(|| format!("disk {}: {writes} writes, {bytes} bytes", quote(&stats.disk)));
        }
    }
    if !loud.is_empty() {
        let why = view.thawed_by_another().unwrap_or_else(|| "the freeze skipped a file system".into());
        let summary = format!("a disk was written to while the guest was frozen: {why}");
        return Ok(Some(Defect::new(Property::DiskSilence, summary, loud.into_lines())));
    }
    let snapshot = view.snapshot()?;
    for disk in &view.case.setup.disks {
        let at = |when: &dyn Fn(Nanos) -> bool| counts.iter().any(|it| it.disk == *disk && when(it.t));
        let soon = window.frozen.saturating_add(COUNTED);
        if !at(&|t| t <= snapshot.begin && t <= soon) || !at(&|t| t >= snapshot.end) {
            let disk = quote(disk);
            return Err(Unexamined(format!(
                "the writes to disk {disk} were not counted when the freeze had returned and after the snapshot, inside the window"
            )));
        }
    }
    if view.case.setup.disks.is_empty() && counts.is_empty() {
        return Err(Unexamined("the disks' write counts were not taken inside the window".into()));
    }
    match guest {
        None => Err(Unexamined("the history does not say what the freeze must reach".into())),
        // VSS is trusted with its own count.
        Some(guest) if frozen_volumes.is_none() && !guest.windows => {
            Err(Unexamined("the freeze did not report how much it reached".into()))
        }
        Some(_) if thawed_volumes.is_none() && thaw_err.is_none() && is_stopped(view) => {
            Err(Unexamined("the thaw did not report how much it found frozen".into()))
        }
        Some(_) => Ok(None),
    }
}

/// Q2, [`Property::LockProbe`]. A refused UPDATE of a MEMORY table is no proof, and neither is a
/// connection that was cut, an account that may not write or a server that does not answer. Rows of
/// other tables must wait likewise, in each schema that has any. A server without such a lock must have
/// been in backup mode, by its own write-ahead log.
pub(super) fn lock_probe(view: &View<'_>) -> Ruling {
    match Proof::of(view)?.quiesced() {
        Ok(Quiesced::Locked(_)) if is_closed(view) => Err(Unexamined(
            "the snapshot's last binary log was closed by a clean stop, although the server was locked: the disks are from another moment"
                .into(),
        )),
        Ok(Quiesced::BackupMode(_)) if is_shut_down(view) => Err(Unexamined(
            "the snapshot's control file is that of a server that was stopped cleanly, although it ran: the disks are from another moment"
                .into(),
        )),
        Ok(_) => Ok(None),
        Err(Proven::Unexamined(why)) => Err(why),
        Err(Proven::Not(summary)) => {
            let evidence = super::probes::answers(view);
            Ok(Some(Defect::new(Property::LockProbe, summary, evidence.into_lines())))
        }
    }
}

/// The last binary log on the disks is one that the server had closed.
fn is_closed(view: &View<'_>) -> bool {
    view.observed().is_ok_and(|observation| observation.log_end.is_some() && !observation.log_in_use)
}

/// The control file on the disks is that of a server that was stopped cleanly.
fn is_shut_down(view: &View<'_>) -> bool {
    let checkpoint = view.observed().ok().and_then(|observation| observation.checkpoint);
    checkpoint.is_some_and(|checkpoint| checkpoint.shut_down)
}

/// Q4, [`Property::LockIdentity`]. The agent's count is another witness: it finds less to thaw than it
/// froze when something else ended the window. The agent of a Windows guest is held to the same: VSS
/// gives up after a known time, and after that no answer of the thaw can be true.
pub(super) fn lock_identity(view: &View<'_>) -> Ruling {
    let window = view.window()?;
    let marks = view.marks();
    let broken = |summary: String, evidence: Vec<String>| {
        Ok(Some(Defect::new(Property::LockIdentity, summary, evidence)))
    };
    if is_stopped(view) {
        let what = view.held_by();
        return Err(Unexamined(format!("the server was stopped, so there was no {what} to be held")));
    }
    if marks.thaw_err.is_some() {
        let what = if view.case.setup.quiescence.is_lock() { "the lock" } else { "backup mode" };
        let summary =
            format!("the thaw reported a failure: it is not proven that {what} was held until then");
        return broken(summary, vec![quote(&marks.thaw_detail)]);
    }
    if marks.thaw_ok.is_none() {
        return Err(Unexamined("the history does not say how the thaw ended".into()));
    }
    let windows = view.case.guest.as_ref().is_some_and(|guest| guest.windows);
    if windows && window.length() > VSS_LIMIT {
        let seconds = window.length() as f64 / 1e9;
        return broken(
            format!("the window was {seconds:.1} s long, but VSS holds writes for 10 s only"),
            vec![],
        );
    }
    if let Some(why) = view.thawed_by_another() {
        return broken(format!("the window was over before the thaw was requested: {why}"), vec![]);
    }
    let proof = Proof::of(view);
    if let Some(summary) = proof.as_ref().ok().and_then(Proof::released) {
        return broken(summary, super::probes::lines(view));
    }
    if windows {
        // VSS proves by itself that it held its writers, or fails the thaw.
        return Ok(None);
    }
    let proof = proof?;
    if marks.frozen_volumes.is_none() || marks.thawed_volumes.is_none() {
        return Err(Unexamined("the freeze and the thaw did not both report how much they reached".into()));
    }
    proof.held_until_thaw().map(|()| None)
}
