//! One backup of a tool, watched: what it asks the agent for, when QEMU begins its copies, and how it ends. In the
//! window that it opens, the same instruments look as in one of ours.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use contract::history::{COPY_SKEW, CommandEnd, CopyInstant, DiskWrites, Entry, Mark, Nanos, Sender};
use contract::scenario::{Fault, Point, Signal, Strike};
use tracing::debug;

use super::instruments::{Instruments, Placed, Read, agent_command};
use super::pipeline::{HOLD, Source};
use super::tool_host::{Command, Happening, InThread, ToolHost};
use crate::backup_tool::{Ended, Running};
use crate::clock;
use crate::database::Target;
use crate::error::Result;
use crate::guest::agent_proxy::{By, Exchange, FreezeState, Held, Holds, WindowEvent};
use crate::guest::monitor::Answers;
use crate::guest::qmp::{Qmp, QmpEvent};
use crate::guest::write_trace::Writes;
use crate::guest::{Drive, Machine};
use crate::interrupt;
use crate::session::Session;

/// How long a freeze's answer, and a thaw, may be held back: more than the instruments take to be placed and read.
const LONGEST_HOLD: Duration = Duration::from_secs(10);

/// The most windows of one command into which instruments look: one in which the copy begins, and some before it in
/// which a tool tries whether the guest can be frozen.
const MOST_WINDOWS: u32 = 4;

/// How long libvirt may take to thaw a guest after a freeze that it was asked for by a tool that is gone: it makes a
/// snapshot in between.
const LIBVIRTS_THAW: Duration = Duration::from_secs(5);

/// How long it may take to make instruments ready for one more window. Whatever the tool does meanwhile is seen later.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// How often QEMU is asked whether it still answers, and for how long.
const PULSE: Duration = Duration::from_secs(1);
const PULSE_LIMIT: Duration = Duration::from_secs(5);

/// After which libvirt gives up an agent that does not answer `guest-sync`, and tells a tool so, nanoseconds.
const LIBVIRTS_PATIENCE: Nanos = 5_000_000_000;

/// Asks QEMU again and again until the other end of the channel is gone: whether it, or this process, stood still
/// meanwhile. libvirt would let the question wait for whatever it does for the tool.
fn stood_still(monitor: &Qmp, stopped: &Receiver<()>) -> bool {
    let begin = Instant::now();
    let mut answers = Answers::awaited(begin);
    while stopped.recv_timeout(PULSE) == Err(RecvTimeoutError::Timeout) {
        if monitor.jobs(PULSE_LIMIT).is_ok() {
            answers.answered(Instant::now());
        }
    }
    answers.was_silent(begin, Instant::now())
}

/// A freeze window that the command opened.
#[derive(Debug)]
struct Opened<'a> {
    freeze: Exchange,
    /// When it was frozen.
    frozen: Nanos,
    /// When the tool was told so.
    told: Nanos,
    /// The first thaw that was answered.
    thaw: Option<Exchange>,
    /// What the instruments saw in it.
    read: Option<Read<'a>>,
}

impl Opened<'_> {
    /// When its thaw was handed over; for one that nobody ended, when the command `ended`.
    fn thaw_asked(&self, ended: Nanos) -> Nanos {
        self.thaw.as_ref().map_or(ended, |thaw| thaw.sent.unwrap_or(thaw.asked))
    }

    /// Whether the copies, of which these are the first and the last, began in it.
    fn holds(&self, (from, to): (Nanos, Nanos), ended: Nanos) -> bool {
        let asked = self.thaw_asked(ended);
        let near =
            |t: Nanos| t.saturating_add(COPY_SKEW) >= self.frozen && t <= asked.saturating_add(COPY_SKEW);
        near(from) && near(to)
    }
}

/// What the instruments do.
#[derive(Debug)]
enum Looking<'a> {
    Ready(Instruments<'a>),
    InWindow(Placed<'a>, Instant),
    Closing(Read<'a>),
    Over,
}

/// The backup command of one cycle, watched.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    session: &'a Session<'a>,
    host: &'a ToolHost,
    machine: &'a Machine,
    drives: &'a [Drive],
    target: &'a Target,
    looking: Looking<'a>,
    /// The command itself, and with what a command beside it is run.
    running: InThread,
    command: Command<'a>,
    ended: Option<Ended>,
    /// What the scenario runs beside it.
    beside: Vec<Running>,
    /// Those that have not struck yet.
    faults: Vec<&'a Fault>,
    /// The signal that a fault sent.
    killed_by: Option<Signal>,
    windows: Vec<Opened<'a>>,
    /// The first freeze that failed.
    refused: Option<Exchange>,
    copies: Vec<Nanos>,
    /// Whether QEMU copies, and whether the guest is frozen.
    is_copying: bool,
    is_frozen: bool,
}

impl<'a> Watch<'a> {
    /// Starts a command, and watches it.
    pub(super) fn start(
        session: &'a Session<'a>,
        host: &'a ToolHost,
        source: &'a Source,
        instruments: Instruments<'a>,
        command: Command<'a>,
    ) -> Result<Self> {
        host.proxy.hold(Holds { freeze_answer: LONGEST_HOLD, thaw: LONGEST_HOLD });
        Ok(Self {
            session,
            host,
            machine: &source.machine,
            drives: &source.drives,
            target: &source.target,
            looking: Looking::Ready(instruments),
            running: host.start(&command)?,
            command,
            ended: None,
            beside: Vec::new(),
            faults: session.plan.faults.iter().collect(),
            killed_by: None,
            windows: Vec::new(),
            refused: None,
            copies: Vec::new(),
            is_copying: false,
            is_frozen: false,
        })
    }

    /// Follows the command to its end. The second is the signal by which a fault ended it, if one did.
    ///
    /// # Errors
    ///
    /// Also if it, or a freeze or a thaw, failed while QEMU stood still: libvirt and tools wait for neither for long.
    pub(super) fn follow(&mut self) -> Result<(Ended, Option<Signal>)> {
        let monitor = self.host.monitor()?;
        let (stop, stopped) = channel();
        let (followed, stood_still) = thread::scope(|scope| {
            let pulse = scope.spawn(move || stood_still(monitor, &stopped));
            let followed = self.follow_to_the_end();
            drop(stop);
            (followed, pulse.join().unwrap_or_default())
        });
        let (ended, killed_by) = followed?;
        if stood_still && (ended.how != CommandEnd::Exit(0) || self.has_failed_exchange(ended.begin)) {
            return Err(self
                .machine
                .stood_still("the tool's command, or a freeze or thaw for it, was under way"));
        }
        Ok((ended, killed_by))
    }

    fn follow_to_the_end(&mut self) -> Result<(Ended, Option<Signal>)> {
        loop {
            // The command keeps its own limit, and its end is one of the events.
            if let Some(happening) = interrupt::receive(&self.host.happenings, Instant::now() + LONGEST_HOLD)?
            {
                self.see(happening)?;
            }
            let Some(ended) = self.ended.clone() else { continue };
            self.see_the_rest()?;
            self.let_libvirt_finish()?;
            for command in std::mem::take(&mut self.beside) {
                command.finish()?;
            }
            return Ok((ended, self.killed_by));
        }
    }

    /// Whether the agent has not done something since then, or not soon enough, that the tool had asked it for, or had
    /// libvirt ask it for.
    fn has_failed_exchange(&self, begin: Nanos) -> bool {
        let failed = |it: &Exchange| {
            let is_late =
                it.answered.is_none_or(|answered| answered.saturating_sub(it.asked) > LIBVIRTS_PATIENCE);
            it.by == By::Outside && it.asked >= begin && (it.error.is_some() || is_late)
        };
        self.host.proxy.exchanges().iter().any(failed)
    }

    /// Waits for what libvirt still does for a tool that is gone: a freeze that is on its way to the agent, and the
    /// thaw after it. Who would have been thawed anyway was not left frozen.
    fn let_libvirt_finish(&mut self) -> Result<()> {
        let (host, limits) = (self.host, self.session.plan.limits);
        // Nobody looks any more, and so nothing need be held back.
        host.proxy.hold(Holds::default());
        [Held::FreezeAnswer, Held::Thaw].into_iter().for_each(|held| host.proxy.release(held));
        let mut until = Instant::now() + limits.freeze + limits.agent;
        let mut is_frozen = false;
        loop {
            match host.proxy.state() {
                FreezeState::Thawed => return Ok(()),
                FreezeState::Frozen(_) if !is_frozen => {
                    (is_frozen, until) = (true, Instant::now() + LIBVIRTS_THAW);
                }
                FreezeState::Unsure if !is_awaited(&host.proxy.exchanges()) => return Ok(()),
                FreezeState::Frozen(_) | FreezeState::Unsure => {}
            }
            match interrupt::receive(&host.happenings, until)? {
                Some(happening) => self.see(happening)?,
                None => return Ok(()),
            }
        }
    }

    /// Writes down what was seen of the window of a command that ran from `begun` to `ended`: the guest is thawed.
    pub(super) fn conclude(mut self, begun: Nanos, ended: Nanos) -> Result<()> {
        self.see_the_rest()?;
        let history = &self.session.history;
        let own = |it: &&Exchange| it.by == By::Harness && it.is_thaw() && it.asked >= begun;
        let exchanges = self.host.proxy.exchanges();
        let seen = exchanges.iter().filter(|it| it.asked >= begun && (it.by == By::Outside || own(it)));
        for exchange in seen {
            history.write(&Entry::AgentCommand(agent_command(exchange, Sender::Tool)))?;
        }
        let mut windows = std::mem::take(&mut self.windows);
        if let Some(last) = windows.last_mut() {
            // The harness itself has thawed a guest that nobody thawed.
            last.thaw = last.thaw.take().or_else(|| exchanges.iter().rfind(own).cloned());
            match std::mem::replace(&mut self.looking, Looking::Over) {
                // Nobody asked for a thaw: what is seen now is seen after it, and shows that.
                Looking::InWindow(placed, _) => {
                    last.read = Some(placed.read(self.drives, |disk| self.host.written(disk))?);
                }
                Looking::Closing(read) => last.read = Some(read),
                Looking::Ready(_) | Looking::Over => {}
            }
        }
        let copied = self.copies.iter().copied().min().zip(self.copies.iter().copied().max());
        // Of a tool that tries before, the last window that can be the one is it.
        let of_copy = match copied {
            Some(copied) => windows.iter().rposition(|window| window.holds(copied, ended)),
            None => windows.len().checked_sub(1),
        };
        let refused = self.refused.as_ref().filter(|_| windows.is_empty());
        for (t, mark, detail) in
            marks(of_copy.and_then(|at| windows.get(at)), refused, copied, [begun, ended])
        {
            history.write(&Entry::Mark { t, mark, detail })?;
        }
        for (at, window) in windows.into_iter().enumerate() {
            if Some(at) == of_copy {
                self.record_writes(window.frozen, window.thaw_asked(ended))?;
                window.read.map_or(Ok(()), |read| read.record(self.machine, true))?;
            } else if let Some(read) = window.read {
                // Its rows are in the backup all the same.
                read.record_probes()?;
            }
        }
        Ok(())
    }

    /// What QEMU traced of the guest's writes between two moments.
    fn record_writes(&self, from: Nanos, to: Nanos) -> Result<()> {
        let traced = self.host.trace.between(from, to).filter(|_| self.host.trace.count() > 0);
        let Some(Writes { count, between }) = traced else { return Ok(()) };
        let (first, last) = between.unzip();
        self.session.history.write(&Entry::DiskWrites(DiskWrites { from, to, count, first, last }))
    }

    /// Sees what has happened meanwhile.
    fn see_the_rest(&mut self) -> Result<()> {
        while let Ok(happening) = self.host.happenings.try_recv() {
            self.see(happening)?;
        }
        Ok(())
    }

    fn see(&mut self, happening: Happening) -> Result<()> {
        match happening {
            Happening::Window(WindowEvent::FreezeAsked(_)) => self.strike(Point::DuringFreeze),
            Happening::Window(WindowEvent::FreezeAnswered(freeze)) => self.freeze_answered(freeze),
            Happening::Window(WindowEvent::ThawAsked(_)) => self.thaw_asked(),
            Happening::Window(WindowEvent::ThawAnswered(thaw)) => self.thaw_answered(thaw),
            Happening::Qmp(event) => self.qmp(&event),
            Happening::Ended(ended) => {
                self.ended = Some(ended?);
                Ok(())
            }
        }
    }

    fn freeze_answered(&mut self, freeze: Exchange) -> Result<()> {
        let Some(frozen) = freeze.answered.filter(|_| freeze.error.is_none()) else {
            self.refused.get_or_insert(freeze);
            return Ok(());
        };
        self.is_frozen = true;
        if let Looking::Ready(_) = self.looking
            && self.ended.is_none()
            && let Looking::Ready(instruments) = std::mem::replace(&mut self.looking, Looking::Over)
        {
            let since = Instant::now();
            self.looking =
                Looking::InWindow(instruments.place(self.drives, |disk| self.host.written(disk))?, since);
        }
        self.strike(Point::InWindow)?;
        self.windows.push(Opened { freeze, frozen, told: clock::now(), thaw: None, read: None });
        self.host.proxy.release(Held::FreezeAnswer);
        Ok(())
    }

    fn thaw_asked(&mut self) -> Result<()> {
        if let Looking::InWindow(..) = self.looking
            && let Looking::InWindow(placed, frozen) = std::mem::replace(&mut self.looking, Looking::Over)
        {
            interrupt::pass(HOLD.saturating_sub(frozen.elapsed()))?;
            self.looking = Looking::Closing(placed.read(self.drives, |disk| self.host.written(disk))?);
        }
        self.host.proxy.release(Held::Thaw);
        Ok(())
    }

    fn thaw_answered(&mut self, thaw: Exchange) -> Result<()> {
        if let Some(window) = self.windows.last_mut().filter(|window| window.thaw.is_none()) {
            window.thaw = Some(thaw);
            if let Looking::Closing(read) = std::mem::replace(&mut self.looking, Looking::Over) {
                window.read = Some(read);
            }
            self.look_again();
        }
        // A hook that fails at thaw fails when the file systems are thawed already.
        self.is_frozen = false;
        if self.is_copying { self.strike(Point::DuringCopy) } else { Ok(()) }
    }

    /// Makes instruments ready for one more window, unless the copy has begun. A tool may have tried only whether the
    /// guest can be frozen.
    fn look_again(&mut self) {
        let opened = u32::try_from(self.windows.len()).unwrap_or(MOST_WINDOWS);
        if !self.copies.is_empty() || opened >= MOST_WINDOWS || self.ended.is_some() {
            return;
        }
        // Their rows have numbers of their own.
        let plan = self.session.plan;
        let number = plan.snapshot.cycles + self.command.request.number * MOST_WINDOWS + opened;
        let limit = READY_LIMIT.min(plan.limits.statement);
        match Instruments::connect(self.session, self.target, number, limit, || Ok(String::new())) {
            Ok((instruments, _)) => self.looking = Looking::Ready(instruments),
            // The tool may have frozen the guest again meanwhile.
            Err(error) => debug!("nothing looks into the next window: {error}"),
        }
    }

    fn qmp(&mut self, event: &QmpEvent) -> Result<()> {
        if let Some(disk) = event.copied_disk() {
            self.copies.push(event.t);
            let copy = CopyInstant { t: event.t, disk: disk.to_owned(), event: describe(event) };
            self.session.history.write(&Entry::CopyInstant(copy))?;
        }
        if event.begins_copy() {
            self.is_copying = true;
            if !self.is_frozen {
                return self.strike(Point::DuringCopy);
            }
        }
        Ok(())
    }

    /// Lets the faults of this point strike, each once.
    fn strike(&mut self, point: Point) -> Result<()> {
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.faults).into_iter().partition(|fault| fault.at == point);
        self.faults = later;
        for fault in now {
            match &fault.what {
                Strike::Guest(line) => {
                    self.machine.agent().script(line, b"", self.session.plan.limits.agent).map(drop)?;
                }
                Strike::Host(line) => {
                    let log = self.command.log.with_extension("beside.log");
                    let command = Command { line, log: &log, ..self.command };
                    self.beside.push(self.host.running(&command)?);
                }
                Strike::Tool(signal) => {
                    self.killed_by = Some(*signal);
                    self.running.signaller.send(*signal);
                }
            }
        }
        Ok(())
    }
}

/// `JOB_STATUS_CHANGE created of backup-vda-libvirt-1-format`, `BLOCK_JOB_COMPLETED of copy-vda-libvirt-2-format`.
fn describe(event: &QmpEvent) -> String {
    let status = event.status.as_ref().map_or_else(String::new, |status| format!(" {status}"));
    format!("{}{status} of {}", event.name, event.subject.as_deref().unwrap_or("an unnamed job"))
}

/// Whether a freeze or a thaw has no answer yet.
fn is_awaited(exchanges: &[Exchange]) -> bool {
    let is_open = |it: &Exchange| it.answered.is_none() && it.error.is_none();
    exchanges.iter().any(|it| is_open(it) && (it.is_freeze() || it.is_thaw()))
}

/// The marks of the window in which the copies began, between these times, and of the instants of these. Copies that
/// began in no window are those of a running guest: nothing in a window says anything about the backup. `refused` is
/// the freeze of a command that opened none; the command itself began and ended at the last times.
fn marks(
    window: Option<&Opened<'_>>,
    refused: Option<&Exchange>,
    copied: Option<(Nanos, Nanos)>,
    [begun, ended]: [Nanos; 2],
) -> Vec<(Nanos, Mark, String)> {
    let plain = |t, mark| (t, mark, String::new());
    let snapshot = |(from, to)| [plain(from, Mark::SnapBegin), plain(to, Mark::SnapEnd)];
    let Some(window) = window else {
        let failed = refused.map_or(begun, |it| it.answered.unwrap_or(ended));
        // A freeze that failed when the copy had begun was none of that copy's.
        let is_of_copy = copied.is_none_or(|(from, _)| failed <= from);
        let refused = refused.filter(|_| is_of_copy).and_then(|it| Some((it, it.error.clone()?)));
        let freeze = refused.map(|(Exchange { sent, asked, .. }, error)| {
            [plain(sent.unwrap_or(*asked), Mark::FreezeCall), (failed, Mark::FreezeErr, error)]
        });
        let copied = copied.unwrap_or((failed.max(begun), failed.max(ended)));
        return freeze.into_iter().flatten().chain(snapshot(copied)).collect();
    };
    let Opened { freeze, frozen, told, thaw, .. } = window;
    let (frozen, asked) = (*frozen, window.thaw_asked(ended));
    let count = |exchange: &Exchange| exchange.count.map_or_else(String::new, |count| count.to_string());
    let mut marks = vec![
        plain(freeze.sent.unwrap_or(freeze.asked), Mark::FreezeCall),
        (frozen, Mark::FreezeOk, count(freeze)),
    ];
    // Without an event of QEMU's: the tool knew of the freeze only then, and was done when it asked for the thaw.
    let told = (*told).clamp(frozen, asked);
    let done = thaw.as_ref().map_or(asked, |thaw| thaw.asked.clamp(told, asked));
    // QEMU's timestamps are beside the proxy's by less than a `COPY_SKEW`.
    let within = |(from, to): (Nanos, Nanos)| (from.clamp(frozen, asked), to.clamp(frozen, asked));
    marks.extend(snapshot(copied.map_or((told, done), within)));
    if let Some(thaw) = thaw {
        marks.push(plain(asked, Mark::ThawCall));
        marks.push(match (&thaw.error, thaw.answered) {
            (None, Some(t)) => (t, Mark::ThawOk, count(thaw)),
            (Some(error), t) => (t.unwrap_or(ended).max(asked), Mark::ThawErr, error.clone()),
            (None, None) => (ended.max(asked), Mark::ThawErr, "the agent did not answer".to_owned()),
        });
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(name: &str, [asked, answered]: [Nanos; 2], error: Option<&str>) -> Exchange {
        Exchange {
            name: name.to_owned(),
            by: By::Outside,
            asked,
            sent: Some(asked + 1),
            answered: Some(answered),
            error: error.map(str::to_owned),
            returned: None,
            count: None,
        }
    }

    fn window([asked, frozen]: [Nanos; 2], thaw: Option<[Nanos; 2]>) -> Opened<'static> {
        let freeze = exchange("guest-fsfreeze-freeze", [asked, frozen], None);
        let thaw = thaw.map(|times| exchange("guest-fsfreeze-thaw", times, None));
        Opened { freeze, frozen, told: frozen + 2, thaw, read: None }
    }

    /// The marks without their details, which are in order, as the judge wants them.
    fn in_order(marks: Vec<(Nanos, Mark, String)>) -> Vec<(Nanos, Mark)> {
        assert!(marks.is_sorted_by_key(|(t, ..)| *t), "{marks:?}");
        marks.into_iter().map(|(t, mark, _)| (t, mark)).collect()
    }

    #[test]
    fn a_refused_freeze_is_that_of_a_copy_which_comes_later() {
        use Mark::{FreezeCall, FreezeErr, SnapBegin, SnapEnd};
        let refused = exchange("guest-fsfreeze-freeze", [20, 30], Some("the hook says no"));
        let marks = |copied| in_order(super::marks(None, Some(&refused), copied, [10, 90]));
        let failed = [(21, FreezeCall), (30, FreezeErr)];
        assert_eq!(marks(None), [&failed[..], &[(30, SnapBegin), (90, SnapEnd)]].concat());
        assert_eq!(marks(Some((40, 50))), [&failed[..], &[(40, SnapBegin), (50, SnapEnd)]].concat());
        // The agent answered late, and the tool had gone on.
        assert_eq!(marks(Some((25, 50))), [(25, SnapBegin), (50, SnapEnd)]);
        let without = in_order(super::marks(None, None, None, [10, 90]));
        assert_eq!(without, [(10, SnapBegin), (90, SnapEnd)]);
    }

    #[test]
    fn a_window_has_its_copies_inside_whatever_qemus_clock_says() {
        let window = window([20, 30], Some([60, 70]));
        for copied in [Some((29, 30)), Some((40, 50)), Some((61, 64)), None] {
            let marks = in_order(marks(Some(&window), None, copied, [10, 90]));
            assert_eq!(marks.first(), Some(&(21, Mark::FreezeCall)));
            assert_eq!(marks.last(), Some(&(70, Mark::ThawOk)));
            assert_eq!(marks.len(), 6, "{marks:?}");
        }
    }

    #[test]
    fn a_window_that_nobody_ends_has_no_thaw() {
        let marks = in_order(marks(Some(&window([20, 30], None)), None, None, [10, 90]));
        assert_eq!(marks.last().map(|(_, mark)| *mark), Some(Mark::SnapEnd));
    }

    #[test]
    fn the_window_of_a_copy_is_the_one_in_which_it_began() {
        let ms = |n: Nanos| n * 1_000_000;
        let (tried, own) = (
            window([ms(20), ms(30)], Some([ms(60), ms(70)])),
            window([ms(120), ms(130)], Some([ms(160), ms(170)])),
        );
        let holds = |window: &Opened<'_>, at: Nanos| window.holds((ms(at), ms(at)), ms(200));
        assert!(holds(&own, 140) && !holds(&tried, 140));
        assert!(holds(&tried, 26) && holds(&tried, 64), "QEMU's clock may be beside ours");
        assert!(!holds(&tried, 100) && !holds(&own, 100));
        assert!(!own.holds((ms(140), ms(180)), ms(200)), "one of its disks was copied later");
    }
}
