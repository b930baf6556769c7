//! What a backup tool did and said, whatever its backup is worth: T1, T2, T3, T6, T7, T9, T10.

use std::collections::BTreeSet;

use contract::figures::BackupFigures;
use contract::history::{
    AgentCommand, COPY_SKEW, CommandEnd, FREEZE, FREEZE_LIST, Leftover, LeftoverKind, Nanos, Sender, THAW,
};
use contract::property::Property;

use super::evidence::{count, millis, quote, were};
use super::ruling::{Defect, Ruling, Unexamined};
use super::stall;
use super::tool_log::{Backup, CommandResult};
use super::view::{Freeze, View};

/// The longest that writers may wait for a backup: the limit of a freeze in plans, which libvirt does not set.
const LONGEST: Nanos = 60_000_000_000;

/// The backup command of this cycle, when it had ended and how.
pub(super) fn ended<'a>(view: &View<'a>) -> Result<(&'a Backup, Nanos, &'a CommandResult), Unexamined> {
    let ended =
        view.backup().and_then(|backup| backup.ended.as_ref().map(|(t, result)| (backup, *t, result)));
    ended.ok_or_else(|| Unexamined("the history does not say how the backup command ended".into()))
}

/// The tool says that this backup is good.
pub(super) fn is_said_good(result: &CommandResult) -> bool {
    result.how == CommandEnd::Exit(0)
}

fn asked<'a>(view: &View<'a>, commands: &'static [&'static str]) -> impl Iterator<Item = &'a AgentCommand> {
    let of_tool = move |it: &&AgentCommand| it.by == Sender::Tool && commands.contains(&it.command.as_str());
    view.case.cycle.commands.iter().filter(of_tool)
}

/// The freezes that the tool asked the agent for.
fn freezes<'a>(view: &View<'a>) -> Result<Vec<&'a AgentCommand>, Unexamined> {
    let freezes: Vec<_> = asked(view, &[FREEZE, FREEZE_LIST]).collect();
    if freezes.is_empty() && view.freeze() != Freeze::NotTried {
        return Err(Unexamined("the history has no command of the agent's channel".into()));
    }
    Ok(freezes)
}

/// A command to the agent, and its answer.
fn line(view: &View<'_>, command: &AgentCommand) -> String {
    let answer = match (&command.error, command.end) {
        (Some(error), _) => format!("answered with the error: {}", quote(error)),
        (None, Some(end)) => format!("answered after {:.1} ms", millis(command.t, end)),
        (None, None) => "never answered".to_owned(),
    };
    format!("{}, sent {}, {answer}", quote(&command.command), view.anchor().when(command.t))
}

/// What a command said last.
fn said(result: &CommandResult) -> impl Iterator<Item = String> + '_ {
    result.said.iter().map(|line| format!("the tool said: {}", quote(line)))
}

fn is_done(command: &AgentCommand) -> bool {
    command.error.is_none() && command.end.is_some()
}

/// One of the freezes was answered before the first copy began, and before the tool had ended.
fn is_frozen_in_time(view: &View<'_>, freezes: &[&AgentCommand], ended: Nanos) -> bool {
    let copied = view.case.cycle.copies.iter().map(|copy| copy.t.saturating_add(COPY_SKEW)).min();
    let until = copied.unwrap_or(ended).min(ended);
    freezes.iter().any(|it| is_done(it) && it.end.is_some_and(|t| t <= until))
}

/// T1, [`Property::HeededFreeze`]. A freeze that was answered when the copy had begun already froze nothing
/// that is in the copy: libvirt gives up on a slow agent, which then freezes all the same.
pub(super) fn heeded_freeze(view: &View<'_>) -> Ruling {
    let (_, end, result) = ended(view)?;
    let freezes = freezes(view)?;
    if !is_said_good(result) || is_frozen_in_time(view, &freezes, end) {
        return Ok(None);
    }
    let why = match freezes.first() {
        None => "no freeze had reached the agent",
        Some(_) if freezes.iter().any(|it| is_done(it)) => "the agent had frozen the guest too late for it",
        Some(_) if freezes.iter().any(|it| it.error.is_some()) => "the agent had refused the freeze",
        Some(_) => "the agent had not answered the freeze",
    };
    let lines: Vec<_> = freezes.iter().map(|it| line(view, it)).chain(said(result)).collect();
    Ok(Some(Defect::new(
        Property::HeededFreeze,
        format!("the tool said that the backup is good, but {why}"),
        lines,
    )))
}

/// T2, [`Property::HeededThaw`].
pub(super) fn heeded_thaw(view: &View<'_>) -> Ruling {
    let (_, end, result) = ended(view)?;
    if !is_said_good(result) {
        return Ok(None);
    }
    if !is_frozen_in_time(view, &freezes(view)?, end) {
        return Err(Unexamined("the guest was not frozen, so there was nothing to thaw".into()));
    }
    let thaws: Vec<_> = asked(view, &[THAW]).filter(|it| it.t <= end).collect();
    let why = match thaws.first() {
        None => "no thaw had reached the agent",
        Some(_) if thaws.iter().any(|it| it.error.is_some()) => {
            "the thaw had failed, which is how a hook says that it is not"
        }
        Some(_) if thaws.iter().all(|it| it.end.is_none()) => "the agent had not answered the thaw",
        Some(_) => return Ok(None),
    };
    let lines: Vec<_> = thaws.iter().map(|it| line(view, it)).chain(said(result)).collect();
    Ok(Some(Defect::new(
        Property::HeededThaw,
        format!("the tool said that the backup is good, but {why}"),
        lines,
    )))
}

/// How long a guest was left frozen, until the harness thawed it.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeftFrozen {
    since: Option<Nanos>,
    until: Option<Nanos>,
}

impl LeftFrozen {
    /// Whether the guest was frozen when the backup command had ended.
    pub(super) fn of(view: &View<'_>) -> Result<Option<Self>, Unexamined> {
        let (backup, end, _) = ended(view)?;
        let left = left(backup)?;
        let frozen = freezes(view)?.into_iter().rfind(|it| it.error.is_none() && it.t <= end);
        let thawed = |frozen: &AgentCommand| {
            // libvirt finishes for a tool that is gone what it had been asked for, and thaws.
            let (from, until) = match frozen.end.filter(|frozen| *frozen > end) {
                Some(late) => (late, Nanos::MAX),
                None => (frozen.t, end),
            };
            asked(view, &[THAW]).any(|it| (from..=until).contains(&it.t))
        };
        let open = frozen.filter(|it| !thawed(it));
        let found = left.iter().find(|it| it.kind == LeftoverKind::FrozenGuest);
        if open.is_none() && found.is_none() {
            return Ok(None);
        }
        let since = found.and_then(|it| it.since).or(open.and_then(|it| it.end));
        let by_harness = |it: &&AgentCommand| it.by == Sender::Harness && it.command == THAW && it.t >= end;
        let thaw = view.case.cycle.commands.iter().find(by_harness).and_then(|it| it.end);
        Ok(Some(Self { since, until: found.and_then(|it| it.until).or(thaw) }))
    }

    /// Seconds, where both ends are known.
    pub(super) fn seconds(self) -> Option<f64> {
        Some(millis(self.since?, self.until?) / 1e3)
    }
}

/// T3, [`Property::ThawedGuest`].
pub(super) fn thawed_guest(view: &View<'_>) -> Ruling {
    let Some(frozen) = LeftFrozen::of(view)? else { return Ok(None) };
    let (backup, end, result) = ended(view)?;
    let how = result.how;
    let summary = match (frozen.since, frozen.seconds()) {
        (Some(since), _) if since > end => {
            let late = millis(end, since) / 1e3;
            format!(
                "the freeze that the tool had asked for froze the guest {late:.1} s after the tool had ended ({how}), and nobody thawed it but the harness"
            )
        }
        (_, Some(seconds)) => {
            format!("the tool left the guest frozen ({how}): for {seconds:.1} s, until the harness thawed it")
        }
        (_, None) => format!("the tool left the guest frozen ({how})"),
    };
    let found = left(backup)?.iter().filter(|it| it.kind == LeftoverKind::FrozenGuest).map(leftover);
    let commands = asked(view, &[FREEZE, FREEZE_LIST, THAW]).map(|it| line(view, it));
    let lines: Vec<_> = found.chain(commands).chain(said(result)).collect();
    Ok(Some(Defect::new(Property::ThawedGuest, summary, lines)))
}

/// T6, [`Property::NothingLeft`].
pub(super) fn nothing_left(view: &View<'_>) -> Ruling {
    let (backup, _, result) = ended(view)?;
    let things: Vec<_> = left(backup)?.iter().filter(|it| it.kind != LeftoverKind::FrozenGuest).collect();
    if things.is_empty() {
        return Ok(None);
    }
    let summary = format!("the tool left {} behind ({})", kinds(&things), result.how);
    let lines: Vec<_> = things.into_iter().map(leftover).collect();
    Ok(Some(Defect::new(Property::NothingLeft, summary, lines)))
}

/// T7, [`Property::NextBackup`]. What the harness has made up for is no cause.
pub(super) fn next_backup(view: &View<'_>) -> Ruling {
    let (_, _, result) = ended(view)?;
    let before = view.backup_before();
    let before = before.ok_or_else(|| Unexamined("there was no backup before it".into()))?;
    let things: Vec<_> = left(before)?.iter().filter(|it| it.until.is_none()).collect();
    if is_said_good(result) || things.is_empty() {
        return Ok(None);
    }
    let summary = format!(
        "backup {} failed ({}) after the one before it had left {} behind",
        view.case.place[0],
        result.how,
        kinds(&things)
    );
    let lines: Vec<_> = things.into_iter().map(leftover).chain(said(result)).collect();
    Ok(Some(Defect::new(Property::NextBackup, summary, lines)))
}

/// T9, [`Property::UntouchedImage`].
pub(super) fn untouched_image(view: &View<'_>) -> Ruling {
    let image = view.case.tool.image.as_ref().filter(|image| image.files > 0);
    let image = image.ok_or_else(|| Unexamined("the image's files were not compared".into()))?;
    if image.changed.is_empty() {
        return Ok(None);
    }
    let n = image.changed.len() as u64;
    let summary = format!("{} of the image {} changed: other guests lean on it", count(n, "file"), were(n));
    let lines: Vec<_> = image.changed.iter().map(|line| quote(line)).collect();
    Ok(Some(Defect::new(Property::UntouchedImage, summary, lines)))
}

/// T10, [`Property::ShortStall`].
pub(super) fn short_stall(view: &View<'_>) -> Ruling {
    let stall = stall::write_stall(view);
    let stall = stall.ok_or_else(|| Unexamined("no transfer was acknowledged around the backup".into()))?;
    let length = stall.to.saturating_sub(stall.from);
    if length <= LONGEST {
        return Ok(None);
    }
    let seconds = length as f64 / 1e9;
    let summary = format!("the backup kept writers waiting for {seconds:.1} s");
    Ok(Some(Defect::new(Property::ShortStall, summary, vec![])))
}

/// What the backup command did, in figures.
pub(super) fn figures(view: &View<'_>) -> Option<BackupFigures> {
    let backup = view.backup()?;
    let left_frozen = LeftFrozen::of(view).ok();
    let timings = stall::timings(view);
    Some(BackupFigures {
        level: backup.level,
        ended: backup.ended.as_ref().map(|(_, result)| result.how),
        left_frozen: left_frozen.map(|it| it.is_some()),
        left_frozen_s: left_frozen.flatten().and_then(LeftFrozen::seconds),
        window_ms: timings.window,
        write_stall_ms: timings.write_stall,
    })
}

fn left(backup: &Backup) -> Result<&[Leftover], Unexamined> {
    let left = backup.left.as_deref();
    left.ok_or_else(|| Unexamined("what the backup command left behind could not be asked".into()))
}

fn leftover(thing: &Leftover) -> String {
    format!("{}: {}", name(thing.kind), quote(&thing.detail))
}

fn name(kind: LeftoverKind) -> &'static str {
    match kind {
        LeftoverKind::FrozenGuest => "a frozen guest",
        LeftoverKind::DomainJob => "a job of libvirt's",
        LeftoverKind::BlockJob => "a job of QEMU's",
        LeftoverKind::DiskSource => "a disk with another file",
        LeftoverKind::ScratchFile => "a scratch file",
    }
}

/// `a job of libvirt's and a scratch file`.
fn kinds(things: &[&Leftover]) -> String {
    let mut seen = BTreeSet::new();
    let names: Vec<_> = things.iter().map(|it| name(it.kind)).filter(|name| seen.insert(*name)).collect();
    names.join(" and ")
}
