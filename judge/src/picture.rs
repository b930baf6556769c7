//! What a picture of a cycle shows: who wrote when around its window, and what
//! the judge makes of it. The times and fates are the judge's own, so that a picture
//! cannot contradict the verdict.

use contract::history::{self, Mark, Nanos, ProbeAnswer, ProbeKind, Quiescence, Schema};

use super::case::{Case, Marks, NEVER, Span, slot};
use super::evidence::quote;
use super::probes::{answer, statement};
use super::ruling::Unexamined;
pub use super::stall::Stall;
use super::stall::write_stall;
use super::view::{LEDGER, View};

/// The time before the first mark and after the last that is shown: as long as the
/// marks themselves take, but at least and at most so long.
const AROUND: (Nanos, Nanos) = (100_000_000, 1_500_000_000);

/// A cycle of freeze, snapshot and thaw, and the load around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// The time that is shown, from and to.
    pub range: (Nanos, Nanos),
    /// The marks in the order of time; at least one.
    pub marks: Vec<(Mark, Nanos)>,
    /// From freeze returned to thaw called.
    pub window: Option<(Nanos, Nanos)>,
    /// How the server stands still for a backup.
    pub quiescence: Quiescence,
    /// The quiescence probes.
    pub probes: Vec<ShownProbe>,
    /// The names of the ways to the server.
    pub doors: Vec<String>,
    /// Every client of the load, also one that sent nothing, by its number.
    pub clients: Vec<Client>,
    /// The longest time without an acknowledged transfer.
    pub stall: Option<Stall>,
    /// Why nothing is known of what came back, where nothing is.
    pub unobserved: Option<String>,
    /// The history is complete for the cycle. Otherwise silence at its end means nothing.
    pub complete: bool,
}

/// A quiescence probe.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownProbe {
    /// When it was sent.
    pub from: Nanos,
    /// When it was answered, given up or last seen to wait.
    pub to: Nanos,
    /// Which statement.
    pub kind: ProbeKind,
    /// What came of it.
    pub answer: ProbeAnswer,
    /// The statement, and which way it took: `COMMIT through tcp`.
    pub asks: String,
    /// A description of its outcome.
    pub says: String,
}

/// A client of the load, and what it sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Client {
    /// Its number, from 1.
    pub number: u32,
    /// Its way to the server, by its place among the doors.
    pub door: u8,
    /// The table to which it sends rows; a client without one sends transfers.
    pub table: Option<String>,
    /// Which schema it writes to.
    pub schema: Schema,
    /// Its operations that touch the range, in the order in which they were sent.
    pub operations: Vec<Operation>,
}

/// A transfer or a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its number; an attempt that was rolled back has none.
    pub number: Option<u32>,
    /// When it was sent.
    pub from: Nanos,
    /// When its outcome was known. Where it never was, when the client sent the next one, or
    /// the end of the range.
    pub to: Nanos,
    /// What became of it.
    pub fate: Fate,
}

/// What became of an operation. What matters most is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Rolled back.
    RolledBack,
    /// Nothing is known of what came back.
    NotObserved,
    /// Not there, and not owed.
    Later,
    /// Not there, and never answered.
    Open,
    /// There.
    Restored,
    /// There, though sent after the freeze had returned (F*).
    UnderLock,
    /// Not there, though acknowledged before the thaw was called (D*, N1).
    Missed,
    /// There, though sent after the snapshot was complete (F).
    Future,
    /// Half of it is there (R2).
    Torn,
    /// Not there, though acknowledged before the snapshot began (D, N1).
    Lost,
}

/// The picture of a case; `None` when its cycle has no mark.
pub fn picture(case: &Case) -> Option<Picture> {
    let view = View::new(case);
    let marks = crossed(view.marks());
    let (first, last) = (marks.first()?.1, marks.last()?.1);
    let around = (last - first).clamp(AROUND.0, AROUND.1);
    let range = (first.saturating_sub(around), last.saturating_add(around));
    Some(Picture {
        range,
        window: view.window().ok().map(|window| (window.frozen, window.thaw)),
        quiescence: case.setup.quiescence,
        probes: case.cycle.probes.iter().map(|probe| shown(&view, probe)).collect(),
        doors: case.setup.doors.iter().map(|door| quote(door)).collect(),
        clients: clients(&view, range),
        stall: write_stall(&view),
        unobserved: held(&view, LEDGER).err().map(|Unexamined(why)| why),
        complete: case.cycle.complete,
        marks,
    })
}

fn crossed(marks: &Marks) -> Vec<(Mark, Nanos)> {
    let Marks {
        freeze_call, freeze_ok, freeze_err, snap_begin, snap_end, thaw_call, thaw_ok, thaw_err, ..
    } = *marks;
    let all = [
        (Mark::FreezeCall, freeze_call),
        (Mark::FreezeOk, freeze_ok),
        (Mark::FreezeErr, freeze_err),
        (Mark::SnapBegin, snap_begin),
        (Mark::SnapEnd, snap_end),
        (Mark::ThawCall, thaw_call),
        (Mark::ThawOk, thaw_ok),
        (Mark::ThawErr, thaw_err),
    ];
    let mut marks: Vec<_> = all.into_iter().filter_map(|(mark, t)| Some((mark, t?))).collect();
    marks.sort_by_key(|(_, t)| *t);
    marks
}

fn shown(view: &View<'_>, probe: &history::Probe) -> ShownProbe {
    ShownProbe {
        from: probe.t,
        to: probe.end,
        kind: probe.kind,
        answer: probe.answer,
        asks: statement(view, probe),
        says: answer(view, probe),
    }
}

/// Whether it is known what came back of a table: it was read to its end, or the server has no such
/// table.
fn held(view: &View<'_>, table: &str) -> Result<(), Unexamined> {
    if view.served()?.gone_tables.iter().any(|gone| gone == table) {
        return Ok(());
    }
    view.read(&[table]).map(drop)
}

fn clients(view: &View<'_>, range: (Nanos, Nanos)) -> Vec<Client> {
    let setup = &view.case.setup;
    let all = setup.writers + u32::try_from(setup.followers.len()).unwrap_or(0);
    let mut clients: Vec<_> = (1..=all)
        .map(|number| {
            let follower = view.case.follower_of(number).map(|at| &setup.followers[usize::from(at)]);
            Client {
                number,
                door: view.case.door_of(number),
                table: follower.map(|follower| quote(&follower.table)),
                schema: follower.map_or(Schema::Load, |follower| follower.schema),
                operations: Vec::new(),
            }
        })
        .collect();
    let ledger = Fates::new(view, LEDGER);
    for (c, n, transfer, mask) in view.transfers() {
        let span = Span { sent: transfer.sent, acked: transfer.acked };
        add(&mut clients, c, Some(n), span, ledger.of(span, mask));
    }
    for (c, client) in (1u32..).zip(&view.case.clients) {
        for span in &client.rolled_back {
            add(&mut clients, c, None, *span, Fate::RolledBack);
        }
    }
    let tables: Vec<_> = setup.followers.iter().map(|follower| Fates::new(view, &follower.table)).collect();
    for row in view.rows() {
        let span = Span { sent: row.row.sent, acked: row.row.acked };
        let mask = if row.there { 0b11 } else { 0 };
        if let Some(fates) = tables.get(usize::from(row.table)) {
            add(&mut clients, row.c, Some(row.n), span, fates.of(span, mask));
        }
    }
    for client in &mut clients {
        cut(&mut client.operations, range);
    }
    clients
}

fn add(clients: &mut [Client], c: u32, number: Option<u32>, span: Span, fate: Fate) {
    if let Some(client) = slot(c).and_then(|at| clients.get_mut(at)) {
        client.operations.push(Operation { number, from: span.sent, to: span.acked, fate });
    }
}

/// Ends what was never answered, and drops what does not touch the range.
fn cut(operations: &mut Vec<Operation>, range: (Nanos, Nanos)) {
    operations.sort_by_key(|operation| operation.from);
    let mut next = range.1;
    for operation in operations.iter_mut().rev() {
        if operation.to == NEVER {
            operation.to = next.max(operation.from);
        }
        next = operation.from;
    }
    operations.retain(|operation| operation.to >= range.0 && operation.from <= range.1);
    operations.shrink_to_fit();
}

/// What decides the fates of one table's operations.
struct Fates {
    /// The snapshot's begin and end, where it is known what came back.
    snapshot: Option<(Nanos, Nanos)>,
    /// The freeze's return and the call of the thaw.
    window: Option<(Nanos, Nanos)>,
}

impl Fates {
    fn new(view: &View<'_>, table: &str) -> Self {
        let snapshot = held(view, table).and_then(|()| view.snapshot());
        Self {
            snapshot: snapshot.ok().map(|snapshot| (snapshot.begin, snapshot.end)),
            window: view.window().ok().map(|window| (window.frozen, window.thaw)),
        }
    }

    /// The fate of an operation, given which of its legs are there.
    fn of(&self, Span { sent, acked }: Span, legs: u8) -> Fate {
        let Some((begin, end)) = self.snapshot else { return Fate::NotObserved };
        match legs {
            0b11 if sent > end => Fate::Future,
            0b11 if self.window.is_some_and(|(frozen, _)| sent > frozen) => Fate::UnderLock,
            0b11 => Fate::Restored,
            0b01 | 0b10 => Fate::Torn,
            _ if acked < begin => Fate::Lost,
            _ if self.window.is_some_and(|(_, thaw)| acked < thaw) => Fate::Missed,
            _ if acked == NEVER => Fate::Open,
            _ => Fate::Later,
        }
    }
}
