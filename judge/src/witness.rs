//! What QEMU itself saw of a backup tool's window: T4, T5.

use contract::history::{AgentCommand, COPY_SKEW, CopyInstant, DiskWrites, FREEZE, Nanos, THAW};
use contract::property::Property;

use super::conduct::{ended, is_said_good};
use super::evidence::{count, millis, quote};
use super::quiet::RESIDUE;
use super::ruling::{Defect, Ruling, Unexamined};
use super::view::View;

/// The freeze window, or where none is of use to the judge, because the copy is not in it: what the agent saw of one.
fn window(view: &View<'_>) -> Result<(Nanos, Nanos), Unexamined> {
    let commands = &view.case.cycle.commands;
    let done = |it: &&AgentCommand| it.command.starts_with(FREEZE) && it.error.is_none() && it.end.is_some();
    view.window().map(|window| (window.frozen, window.thaw)).or_else(|why| {
        let frozen = commands.iter().find(done).and_then(|it| it.end);
        // A freeze that came after the copy is another finding, T1.
        let copied = view.case.cycle.copies.iter().map(|copy| copy.t.saturating_add(COPY_SKEW)).min();
        let frozen = frozen.filter(|frozen| copied.is_none_or(|copied| *frozen <= copied)).ok_or(why)?;
        let thaw = commands.iter().find(|it| it.command == THAW && it.t >= frozen);
        let thaw = thaw.ok_or_else(|| Unexamined("nobody asked the agent for a thaw".into()))?;
        Ok((frozen, thaw.t))
    })
}

/// T4, [`Property::CopyInstant`].
pub(super) fn copy_instant(view: &View<'_>) -> Ruling {
    let (frozen, thaw) = window(view)?;
    let copies = &view.case.cycle.copies;
    let outside =
        |it: &&CopyInstant| it.t.saturating_add(COPY_SKEW) < frozen || it.t > thaw.saturating_add(COPY_SKEW);
    let outside: Vec<_> = copies.iter().filter(outside).collect();
    if let Some(first) = outside.first() {
        // A tool that gives up ends its jobs as well, which is no copy that anybody is to trust.
        if ended(view).is_ok_and(|(_, _, result)| !is_said_good(result)) {
            return Err(Unexamined("the tool itself says that there is no good backup".into()));
        }
        let when = if first.t < frozen {
            format!("{:.1} ms before the guest was frozen", millis(first.t, frozen))
        } else {
            format!("{:.1} ms after the thaw was requested", millis(thaw, first.t))
        };
        let summary =
            format!("the copy of disk {} is of a moment outside the window: {when}", quote(&first.disk));
        let line = |it: &CopyInstant| {
            format!("disk {}: {}, {}", quote(&it.disk), quote(&it.event), view.anchor().when(it.t))
        };
        let lines: Vec<_> = outside.into_iter().map(line).collect();
        return Ok(Some(Defect::new(Property::CopyInstant, summary, lines)));
    }
    let disks = &view.case.setup.disks;
    match disks.iter().find(|disk| !copies.iter().any(|copy| copy.disk == **disk)) {
        Some(disk) => Err(Unexamined(format!("QEMU reported no copy of disk {}", quote(disk)))),
        None => Ok(None),
    }
}

/// T5, [`Property::TracedSilence`].
pub(super) fn traced_silence(view: &View<'_>) -> Ruling {
    let window = view.window()?;
    let inside = |it: &&DiskWrites| it.from >= window.frozen && it.to <= window.thaw;
    let traced: Vec<_> = view.case.cycle.traced.iter().filter(inside).collect();
    if let Some(loud) = traced.iter().find(|it| it.count > RESIDUE.0) {
        let summary =
            format!("QEMU traced {} of the guest while it was said to be frozen", count(loud.count, "write"));
        let edges = [("the first", loud.first), ("the last", loud.last)];
        let line = |(which, t): (&str, Option<_>)| Some(format!("{which} was {}", view.anchor().when(t?)));
        let lines: Vec<_> = edges.into_iter().filter_map(line).collect();
        return Ok(Some(Defect::new(Property::TracedSilence, summary, lines)));
    }
    let whole = |it: &&DiskWrites| {
        it.from <= window.frozen.saturating_add(COPY_SKEW) && it.to.saturating_add(COPY_SKEW) >= window.thaw
    };
    if traced.iter().any(whole) {
        return Ok(None);
    }
    Err(Unexamined("QEMU's trace does not cover the window".into()))
}
