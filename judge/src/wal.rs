//! Whether the position that a hook recorded in PostgreSQL's write-ahead log belongs to this backup: B2
//! of a server without a binary log.

use contract::history::Lsn;
use contract::observation::is_position_file;
use contract::property::Property;

use super::backup_mode::{Shown, shown};
use super::case::{Checkpoint, Observation, RecoveredTo, WalPosition};
use super::evidence::{count, quote};
use super::ruling::{Defect, Ruling, Unexamined};
use super::view::View;

/// Recovery replays the log from the checkpoint with which backup mode began, and a roll-forward starts
/// at the position: both must be in the snapshot, on one timeline, and of the backup mode that covered
/// the window.
pub(super) fn recorded_position(view: &View<'_>) -> Ruling {
    let observation = view.observed()?;
    // What an earlier or a failed freeze left behind says nothing about this one.
    view.frozen()?;
    let position = observation.wal_position.ok_or_else(|| no_position(observation))?;
    let covering = shown(view);
    let mut wrong = Vec::new();
    if position.start.is_some_and(|start| start > position.lsn) {
        wrong.push("the recorded position lies before the beginning of its own backup mode".to_owned());
    }
    let timelines =
        [observation.checkpoint.map(|it| it.timeline), observation.recovered_to.map(|it| it.timeline)];
    if timelines.into_iter().flatten().any(|timeline| timeline != position.timeline) {
        wrong.push("the recorded position is on another timeline than the snapshot".to_owned());
    }
    if let Some(RecoveredTo { lsn, .. }) = observation.recovered_to
        && lsn < position.lsn
    {
        let short = count(position.lsn - lsn, "byte");
        wrong.push(format!("the snapshot's write-ahead log ends {short} before the recorded position"));
    }
    if let Some(Checkpoint { redo, .. }) = observation.checkpoint
        && position.start.is_some_and(|start| redo < start)
    {
        wrong.push("the snapshot's last checkpoint is older than the recorded backup mode".to_owned());
    }
    match &covering {
        _ if position.start.is_none() => {
            wrong.push("the hook recorded no backup mode: it only flushed the write-ahead log".into());
        }
        Ok(Shown::Covered(modes)) if modes.iter().any(|mode| Some(mode.start) == position.start) => {}
        Ok(Shown::Covered(_)) => {
            wrong.push("the recorded position names another backup mode than the one of this freeze".into());
        }
        Ok(_) => wrong.push("the recorded position names no backup mode that covered the window".into()),
        Err(_) => {}
    }
    if !wrong.is_empty() {
        let evidence = evidence(observation, position);
        return Ok(Some(Defect::new(Property::RecordedPosition, wrong.join("; "), evidence)));
    }
    let missing = |why: &str| Unexamined(why.to_owned());
    observation.checkpoint.ok_or_else(|| missing("the snapshot's control file was not read"))?;
    observation.recovered_to.ok_or_else(|| missing("how far the restored server recovered is not known"))?;
    covering.map(|_| None)
}

fn evidence(observation: &Observation, position: WalPosition) -> Vec<String> {
    let WalPosition { timeline, start, lsn } = position;
    let mode = start
        .map_or_else(|| "no backup mode".to_owned(), |start| format!("backup mode from {}", place(start)));
    let mut lines = vec![format!("recorded: timeline {timeline}, {mode}, flushed up to {}", place(lsn))];
    lines.extend(observation.checkpoint.map(|Checkpoint { redo, timeline, .. }| {
        format!("the last checkpoint: timeline {timeline}, redo from {}", place(redo))
    }));
    lines.extend(observation.recovered_to.map(|RecoveredTo { timeline, lsn }| {
        format!("the restored server recovered: timeline {timeline}, up to {}", place(lsn))
    }));
    lines
}

/// As PostgreSQL writes it: `0/3000060`.
fn place(lsn: Lsn) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}

/// Why no recorded position is known.
pub(super) fn no_position(observation: &Observation) -> Unexamined {
    Unexamined(match observation.unreadable.iter().find(|it| is_position_file(&it.what)) {
        Some(it) => format!("the recorded position is not readable: {}", quote(&it.why)),
        None => "no hook recorded a position".into(),
    })
}
