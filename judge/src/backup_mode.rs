//! Whether PostgreSQL was in backup mode from the freeze until the thaw, by what its own write-ahead log
//! shows. No word of a hook counts here: the server says where its log ends, and it writes the record of
//! an end only for the session that began.

use contract::history::Nanos;

use super::case::{BackupMode, WalEnd};
use super::ruling::Unexamined;
use super::view::View;

/// What the write-ahead log shows of the window.
#[derive(Debug)]
pub(super) enum Shown {
    /// These backup modes began with the freeze, and ended after the last position before the thaw.
    Covered(Vec<BackupMode>),
    /// It ended before the thaw was called.
    Ended,
    /// The one that the hook recorded never ended in order.
    Abandoned,
    /// It began only when the freeze had returned.
    Late,
    /// One lasted that had begun before the freeze was called.
    Earlier,
    /// There was none.
    None,
    /// The log ended earlier than it had before.
    WentBack,
}

impl Shown {
    /// Why the server was not in backup mode, if it was not.
    pub(super) fn disproof(&self) -> Option<&'static str> {
        Some(match self {
            Self::Covered(_) => return None,
            Self::Ended => "backup mode ended inside the window, before the thaw was called",
            Self::Abandoned => {
                "the backup mode that the hook recorded never ended in order: its session ended early"
            }
            Self::Late => "backup mode began only after the freeze had returned",
            Self::Earlier => {
                "backup mode had begun before the freeze was called: it belongs to another backup"
            }
            Self::None => "only the file system was frozen: no session held backup mode until the thaw",
            Self::WentBack => "the server's write-ahead log went back: the server did not run all the time",
        })
    }

    /// It was held at the freeze, and not until the thaw.
    pub(super) fn is_let_go(&self) -> bool {
        matches!(self, Self::Ended | Self::Abandoned)
    }
}

/// Where the log ended before the freeze was called, before the snapshot began, and before the thaw was
/// called.
struct Positions {
    called: WalEnd,
    frozen: WalEnd,
    thaw: WalEnd,
}

impl Positions {
    fn of(view: &View<'_>) -> Result<Self, Unexamined> {
        let (window, snapshot) = (view.window()?, view.snapshot()?);
        let call = view.marks().freeze_call.unwrap_or(0);
        let all = &view.case.cycle.wal_ends;
        let last = |when: &str, is_it: &dyn Fn(&WalEnd) -> bool| {
            let last = all.iter().filter(|it| is_it(it)).max_by_key(|it| it.asked).copied();
            last.ok_or_else(|| {
                Unexamined(format!("it is not known where the server's write-ahead log ended {when}"))
            })
        };
        Ok(Self {
            called: last("before the freeze was called", &|it| it.answered <= call)?,
            frozen: last("when the freeze had returned, before the snapshot", &|it| {
                it.asked >= window.frozen && it.answered <= snapshot.begin
            })?,
            thaw: last("after the snapshot, before the thaw was called", &|it| {
                it.asked >= snapshot.end && it.answered <= window.thaw
            })?,
        })
    }
}

/// What the log shows. That there is no record of an end means something only if the log was read from
/// before the freeze, after the thaw.
pub(super) fn shown(view: &View<'_>) -> Result<Shown, Unexamined> {
    let missing = |why: &str| Unexamined(why.to_owned());
    let Positions { called, frozen, thaw } = Positions::of(view)?;
    let all = &view.case.cycle.wal_ends;
    let went_back = |it: &WalEnd| all.iter().any(|next| next.asked > it.answered && next.lsn < it.lsn);
    if all.iter().any(went_back) {
        return Ok(Shown::WentBack);
    }
    let read = view.case.cycle.backup_modes.as_ref();
    let read = read.ok_or_else(|| missing("the source's write-ahead log was not read after the thaw"))?;
    let thawed = view.marks().thaw_ok.or(view.marks().thaw_err);
    let thawed = thawed.ok_or_else(|| missing("the history does not say how the thaw ended"))?;
    if read.from > called.lsn || read.to < thaw.lsn || read.t < thawed {
        return Err(missing(
            "the source's write-ahead log was not read from before the freeze until after the thaw",
        ));
    }
    let of_this_freeze = |start| called.lsn <= start && start <= frozen.lsn;
    let covers = |it: &&BackupMode| of_this_freeze(it.start) && it.end >= thaw.lsn;
    let any = |what: &dyn Fn(&BackupMode) -> bool| read.ended.iter().any(what);
    let recorded = view.observed().ok().and_then(|observation| observation.wal_position?.start);
    let is_of_this_freeze = |start| of_this_freeze(start) && !any(&|mode| mode.start == start);
    let covered: Vec<_> = read.ended.iter().filter(covers).copied().collect();
    Ok(if !covered.is_empty() {
        Shown::Covered(covered)
    } else if any(&|it| of_this_freeze(it.start)) {
        Shown::Ended
    } else if recorded.is_some_and(is_of_this_freeze) {
        Shown::Abandoned
    } else if any(&|it| it.start > frozen.lsn) {
        Shown::Late
    } else if any(&|it| it.start < called.lsn && it.end >= frozen.lsn) {
        Shown::Earlier
    } else {
        Shown::None
    })
}

/// When the server had answered for the last time before the thaw was called.
pub(super) fn last_answered(view: &View<'_>) -> Result<Nanos, Unexamined> {
    Ok(Positions::of(view)?.thaw.answered)
}
