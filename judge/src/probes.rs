//! What the quiescence probes prove: a lock of the server, held through the
//! snapshot and until the thaw; where the server has none, commits that the frozen file system kept
//! out of it in backup mode; or the absence of a server.

use std::collections::BTreeSet;

use contract::history::{Nanos, Probe, ProbeAnswer, ProbeKind, Round, Schema};

use super::backup_mode;
use super::evidence::{Evidence, quote};
use super::ruling::Unexamined;
use super::view::{SnapshotSpan, View, Window};

/// How long before the request to thaw what keeps commits out may have been observed for the last time. Of 93 windows
/// the longest such time was 0.16 s.
const UNSEEN: Nanos = 1_000_000_000;

/// Errors 1290, ER_OPTION_PREVENTS_STATEMENT, and 1836, ER_READ_ONLY_MODE; and PostgreSQL's 25006,
/// `read_only_sql_transaction`.
const READ_ONLY: [&str; 3] = ["1290", "1836", "25006"];

/// Why the database stood still while the snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quiesced {
    /// Its lock kept this many COMMITs waiting.
    Locked(usize),
    /// It was in backup mode, and the frozen file system kept this many COMMITs waiting.
    BackupMode(usize),
    /// There was no server: it had been stopped cleanly.
    Stopped,
}

/// Why no quiescence is proven.
#[derive(Debug)]
pub(super) enum Proven {
    /// It was not quiesced, or nothing shows it where something should.
    Not(&'static str),
    /// It could not be examined.
    Unexamined(Unexamined),
}

/// The probes of a window, as a proof.
pub(super) struct Proof<'a> {
    view: &'a View<'a>,
    window: Window,
    snapshot: SnapshotSpan,
    probes: Vec<&'a Probe>,
}

impl<'a> Proof<'a> {
    pub(super) fn of(view: &'a View<'a>) -> Result<Self, Unexamined> {
        let (window, snapshot) = (view.window()?, view.snapshot()?);
        // One that reaches beyond the window may have been answered by the thaw.
        let inside = |probe: &&Probe| {
            probe.t >= window.frozen && probe.end <= window.thaw && probe.answer != ProbeAnswer::Unseen
        };
        let probes: Vec<_> = view.case.cycle.probes.iter().filter(inside).collect();
        if probes.is_empty() {
            return Err(Unexamined("no probe was answered inside the window".into()));
        }
        Ok(Self { view, window, snapshot, probes })
    }

    /// How the database stood still while the snapshot was taken.
    pub(super) fn quiesced(&self) -> Result<Quiesced, Proven> {
        let disproof = if self.by_lock() { self.disproof() } else { self.let_in() };
        let shown = (!self.by_lock()).then(|| backup_mode::shown(self.view));
        let without = shown.as_ref().and_then(|shown| shown.as_ref().ok()?.disproof());
        if let Some(summary) = disproof.or(without) {
            return Err(Proven::Not(summary));
        }
        let commits: Vec<_> =
            self.of_round(Round::Snapshot).filter(|it| it.kind == ProbeKind::Commit).collect();
        let early = commits.iter().filter(|probe| probe.t <= self.snapshot.begin);
        let through: BTreeSet<u8> = early.map(|probe| probe.door).collect();
        let doors = &self.view.case.setup.doors;
        if let Some((_, door)) = (0u8..).zip(doors).find(|(at, _)| !through.contains(at)) {
            let why = format!("no COMMIT was sent through {} before the snapshot", quote(door));
            return Err(Proven::Unexamined(Unexamined(why)));
        }
        let silent = |probe: &&Probe| matches!(probe.answer, ProbeAnswer::Gone | ProbeAnswer::Error);
        if commits.iter().all(silent) {
            if self.any(|it| !silent(&it) && it.answer != ProbeAnswer::Hung) {
                return Err(Proven::Not(
                    "COMMITs got no answer inside the window, although a server answered other statements",
                ));
            }
            return self.stopped();
        }
        let waiting = self.waiting(&commits)?;
        match shown {
            None => Ok(Quiesced::Locked(waiting)),
            Some(shown) => shown.map(|_| Quiesced::BackupMode(waiting)).map_err(Proven::Unexamined),
        }
    }

    /// The server's lock is what keeps commits out.
    fn by_lock(&self) -> bool {
        self.view.case.setup.quiescence.is_lock()
    }

    /// What directly shows that the frozen file system did not keep commits out, where no lock does.
    fn let_in(&self) -> Option<&'static str> {
        let some = |answer| self.any(|it| it.kind != ProbeKind::Memory && it.answer == answer);
        if some(ProbeAnswer::Done) {
            return Some("nothing kept commits out: they were executed inside the window");
        }
        if some(ProbeAnswer::Released) {
            return Some("commits were not kept out: one stopped waiting inside the window");
        }
        if some(ProbeAnswer::Refused) {
            return Some("writes were refused instead of kept waiting, as for a read-only account");
        }
        if some(ProbeAnswer::Cut) {
            return Some("connections were cut instead of kept waiting: the server went on serving others");
        }
        let waits = some(ProbeAnswer::Hung) || some(ProbeAnswer::Locked);
        (waits && some(ProbeAnswer::Gone)).then_some("the server went away inside the window")
    }

    /// What directly shows that no lock was held.
    fn disproof(&self) -> Option<&'static str> {
        let doors = &self.view.case.setup.doors;
        let memory_done = self.any(|it| it.kind == ProbeKind::Memory && it.answer == ProbeAnswer::Done);
        let writes = || self.probes.iter().filter(|probe| probe.kind != ProbeKind::Memory);
        let some = |answer: ProbeAnswer| writes().any(|probe| probe.answer == answer);
        let locked = some(ProbeAnswer::Locked) || some(ProbeAnswer::Released);
        let released = self.let_go().any(|it| it.end < self.snapshot.end && !self.is_refuted(it));
        let late = |it: &Probe| it.since.is_some_and(|since| since > self.snapshot.begin);
        let first =
            |kind: ProbeKind| writes().filter(move |it| it.round == Round::Snapshot && it.kind == kind);
        if released {
            return Some("the server's lock was not held until the snapshot was complete");
        }
        if some(ProbeAnswer::Done) {
            return Some(match locked {
                true => "the server's lock did not keep all writes out",
                false => "no lock blocked writes: they were executed inside the window",
            });
        }
        if first(ProbeKind::Commit).any(|it| late(it)) {
            return Some("the server's lock was taken only after the freeze had returned");
        }
        let all_wait = || (0..doors.len()).all(|door| self.waits_through(door));
        let beside_a_lock = |it: &Probe| is_read_only(it) && it.kind == ProbeKind::Row && all_wait();
        if writes().any(|it| it.answer == ProbeAnswer::Refused && !beside_a_lock(it)) {
            return Some("writes were refused without a server lock, as for a read-only account");
        }
        if some(ProbeAnswer::Cut) {
            return Some(
                "connections were cut, but no server lock was held: the server went on serving others",
            );
        }
        let hung =
            first(ProbeKind::Commit).chain(first(ProbeKind::Row)).any(|it| it.answer == ProbeAnswer::Hung);
        let gone = some(ProbeAnswer::Gone);
        match (hung, locked, gone) {
            (true, true, _) => {
                Some("the server's lock did not cover all writes: some hung without waiting for it")
            }
            (true, false, false) if memory_done => {
                Some("only the file system was frozen: no server lock was held")
            }
            (true, false, _) => Some("no server lock blocked writes: the server did not answer"),
            (false, true, true) => Some("the server went away inside the window"),
            _ => None,
        }
    }

    /// Nothing answered. A server that was stopped has closed everything, and its next start
    /// has nothing to recover. It must have been gone both over the network and over its socket:
    /// otherwise it may only have been slow, or hidden on one side, and a clean disk proves nothing.
    fn stopped(&self) -> Result<Quiesced, Proven> {
        let doors = &self.view.case.setup.doors;
        // An account is the second part of a door's name.
        let way = |door: usize| doors.get(door).and_then(|door| door.split('-').next());
        let is_gone = |asked: usize| {
            self.any(|it| it.answer == ProbeAnswer::Gone && way(usize::from(it.door)) == way(asked))
        };
        let gone = (0..doors.len()).all(is_gone);
        let missing = |why: &str| Err(Proven::Unexamined(Unexamined(why.to_owned())));
        let observation = self.view.served().map_err(Proven::Unexamined)?;
        let running = observation.checkpoint.is_some_and(|checkpoint| !checkpoint.shut_down);
        match observation.server.as_ref().and_then(|server| server.recovered) {
            Some(false) if running => Err(Proven::Not(
                "the server could not be reached in the window and had not been stopped cleanly, as its control file shows",
            )),
            Some(true) => Err(Proven::Not(
                "the server could not be reached in the window and had not been stopped cleanly: its engine had to recover",
            )),
            Some(false) if observation.log_in_use => Err(Proven::Not(
                "the server could not be reached in the window, and its binary log was not closed",
            )),
            Some(false) if gone => Ok(Quiesced::Stopped),
            Some(false) => missing(
                "the server could not be reached in the window, and it is not known whether it was running",
            ),
            None => missing(
                "the server could not be reached in the window, and it is not known whether its engine had to recover",
            ),
        }
    }

    /// How many of the COMMITs waited before and after the snapshot, if there are such through every
    /// door and in every schema.
    fn waiting(&self, commits: &[&Probe]) -> Result<usize, Proven> {
        let missing = |why: String| Err(Proven::Unexamined(Unexamined(why)));
        let covers = |probe: &Probe| self.covers_snapshot(probe);
        let doors = &self.view.case.setup.doors;
        for (at, door) in doors.iter().enumerate() {
            if !self.waits_through(at) {
                let door = quote(door);
                return missing(format!(
                    "no COMMIT through {door} was observed waiting both before and after the snapshot"
                ));
            }
        }
        let schemas: BTreeSet<Schema> = self
            .view
            .case
            .setup
            .followers
            .iter()
            .map(|follower| follower.schema)
            .chain([Schema::Load])
            .collect();
        for schema in schemas {
            let schema_name = if schema == Schema::Load { "the load's schema" } else { "the second schema" };
            if !commits.iter().any(|probe| probe.schema == schema && covers(probe)) {
                return missing(format!(
                    "no COMMIT in {schema_name} was observed waiting both before and after the snapshot"
                ));
            }
            let mut others =
                self.view.case.setup.followers.iter().filter(|it| it.schema == schema && !it.transactional);
            let row = |probe: &&&Probe| probe.kind == ProbeKind::Row && probe.schema == schema;
            let kept_out = |probe: &Probe| covers(probe) || is_read_only(probe);
            if others.next().is_some() && !self.probes.iter().filter(row).any(|probe| kept_out(probe)) {
                return missing(format!(
                    "no INSERT into a non-transactional table of {schema_name} was observed waiting both before and after the snapshot"
                ));
            }
        }
        Ok(commits.iter().filter(|probe| covers(probe)).count())
    }

    /// A COMMIT through this door waited before and after the snapshot.
    fn waits_through(&self, door: usize) -> bool {
        let commits = self.of_round(Round::Snapshot).filter(|it| it.kind == ProbeKind::Commit);
        commits.filter(|it| usize::from(it.door) == door).any(|it| self.covers_snapshot(it))
    }

    /// The server said before the snapshot began and after it ended that the probe waits for a lock; or,
    /// where the frozen file system keeps commits out, it had no answer all that time.
    fn covers_snapshot(&self, probe: &Probe) -> bool {
        let waited = match self.by_lock() {
            true => {
                matches!(probe.answer, ProbeAnswer::Locked | ProbeAnswer::Released)
                    && probe.since.is_some_and(|since| since <= self.snapshot.begin)
            }
            false => is_unanswered(probe) && probe.t <= self.snapshot.begin,
        };
        waited && probe.end >= self.snapshot.end
    }

    /// How many COMMITs were observed waiting both before and after the snapshot.
    pub(super) fn overlapping(&self) -> u64 {
        let commits = self.of_round(Round::Snapshot).filter(|probe| probe.kind == ProbeKind::Commit);
        commits.filter(|probe| self.covers_snapshot(probe)).count() as u64
    }

    /// A description of how what kept commits out was gone before the thaw was requested.
    pub(super) fn released(&self) -> Option<String> {
        if !self.by_lock() {
            return self.let_go_of_backup_mode();
        }
        let locked = self.any(|it| it.kind == ProbeKind::Commit && it.since.is_some());
        let gone = self.probes.iter().filter(|it| match (it.kind, it.round) {
            (ProbeKind::Memory, _) => false,
            (_, Round::Snapshot) => it.answer == ProbeAnswer::Released && !self.is_refuted(it),
            (_, Round::Thaw) => it.answer != ProbeAnswer::Locked && it.answer != ProbeAnswer::Error,
        });
        let earliest = gone.map(|probe| probe.end).min().filter(|_| locked)?;
        let before = self.window.thaw.saturating_sub(earliest) as f64 / 1e6;
        Some(format!("the lock did not last: it was gone {before:.1} ms before the thaw was requested"))
    }

    /// The same where the frozen file system keeps them out.
    fn let_go_of_backup_mode(&self) -> Option<String> {
        let commits = || self.probes.iter().filter(|it| it.kind == ProbeKind::Commit);
        let late = commits().filter(|it| it.round == Round::Thaw && it.answer != ProbeAnswer::Error);
        let earliest = late.filter(|it| !is_unanswered(it)).map(|probe| probe.end).min();
        if let Some(earliest) = earliest.filter(|_| commits().any(|it| self.covers_snapshot(it))) {
            let before = self.window.thaw.saturating_sub(earliest) as f64 / 1e6;
            return Some(format!(
                "commits were not kept out until the thaw: one had an answer {before:.1} ms before it was requested"
            ));
        }
        let shown = backup_mode::shown(self.view).ok()?;
        shown.is_let_go().then(|| "backup mode was not held until the thaw".to_owned())
    }

    /// The writes that had waited for a lock and stopped waiting.
    fn let_go(&self) -> impl Iterator<Item = &'a Probe> {
        let let_go = |it: &&Probe| it.kind != ProbeKind::Memory && it.answer == ProbeAnswer::Released;
        self.probes.iter().copied().filter(let_go)
    }

    /// A COMMIT was observed waiting before and after this one stopped waiting: the server's lock was still
    /// held.
    fn is_refuted(&self, let_go: &Probe) -> bool {
        let waits = |it: &Probe| matches!(it.answer, ProbeAnswer::Locked | ProbeAnswer::Released);
        let around = |it: &Probe| it.since.is_some_and(|since| since < let_go.end) && it.end > let_go.end;
        self.any(|it| it.kind == ProbeKind::Commit && waits(it) && around(it))
    }

    /// The lock was there when the snapshot was, and until just before the thaw.
    pub(super) fn held_until_thaw(&self) -> Result<(), Unexamined> {
        match self.quiesced() {
            Ok(Quiesced::Locked(_)) => {}
            Ok(Quiesced::BackupMode(_)) => return self.kept_out_until_thaw(),
            Ok(Quiesced::Stopped) => {
                let what = self.view.held_by();
                return Err(Unexamined(format!("the server was stopped, so there was no {what} to be held")));
            }
            Err(_) if self.by_lock() => {
                return Err(Unexamined(
                    "only the hook claims that a lock was held: none was observed".into(),
                ));
            }
            Err(_) => {
                return Err(Unexamined(
                    "only the hook claims that backup mode was held until the thaw".into(),
                ));
            }
        }
        if let Some(probe) = self.let_go().find(|it| self.is_refuted(it)) {
            let what = statement(self.view, probe);
            return Err(Unexamined(format!(
                "{what} stopped waiting while others went on waiting for the lock"
            )));
        }
        let late = |probe: &&&Probe| {
            probe.kind == ProbeKind::Commit
                && probe.answer == ProbeAnswer::Locked
                && probe.t >= self.snapshot.end
                && probe.since.is_some()
                && probe.end.saturating_add(UNSEEN) >= self.window.thaw
        };
        let through: BTreeSet<u8> =
            self.of_round(Round::Thaw).filter(|it| late(&it)).map(|probe| probe.door).collect();
        let doors = &self.view.case.setup.doors;
        match (0u8..).zip(doors).find(|(at, _)| !through.contains(at)) {
            Some((_, door)) => {
                let door = quote(door);
                Err(Unexamined(format!(
                    "no COMMIT sent through {door} after the snapshot was observed waiting until the thaw"
                )))
            }
            None => Ok(()),
        }
    }

    /// Where the frozen file system keeps commits out: through every door one had no answer until just
    /// before the thaw, and the write-ahead log was asked then.
    fn kept_out_until_thaw(&self) -> Result<(), Unexamined> {
        let recent = |t: Nanos| t.saturating_add(UNSEEN) >= self.window.thaw;
        let until = |it: &Probe| it.kind == ProbeKind::Commit && is_unanswered(it) && recent(it.end);
        let doors = (0u8..).zip(&self.view.case.setup.doors);
        let mut unseen = doors.filter(|(at, _)| !self.any(|it| it.door == *at && until(it)));
        match unseen.next() {
            Some((_, door)) => {
                let door = quote(door);
                Err(Unexamined(format!("no COMMIT sent through {door} was observed waiting until the thaw")))
            }
            None if recent(backup_mode::last_answered(self.view)?) => Ok(()),
            None => Err(Unexamined(
                "where the server's write-ahead log ended was not asked shortly before the thaw".into(),
            )),
        }
    }

    fn of_round(&self, round: Round) -> impl Iterator<Item = &'a Probe> {
        self.probes.iter().copied().filter(move |probe| probe.round == round)
    }

    fn any(&self, what: impl Fn(&Probe) -> bool) -> bool {
        self.probes.iter().any(|probe| what(probe))
    }
}

/// It was sent and has no answer.
fn is_unanswered(probe: &Probe) -> bool {
    matches!(probe.answer, ProbeAnswer::Hung | ProbeAnswer::Locked)
}

/// A server that is read-only refused it, and so refuses an administrator, through whose doors such rows
/// are sent. It counts beside a lock, and never in the place of one.
fn is_read_only(probe: &Probe) -> bool {
    probe.answer == ProbeAnswer::Refused
        && probe.code.as_deref().is_some_and(|code| READ_ONLY.contains(&code))
}

/// There was no server in the window: it had been stopped cleanly.
pub(super) fn is_stopped(view: &View<'_>) -> bool {
    Proof::of(view).is_ok_and(|proof| matches!(proof.quiesced(), Ok(Quiesced::Stopped)))
}

/// The answers to the probes inside the window.
pub(super) fn answers(view: &View<'_>) -> Evidence {
    let mut evidence = Evidence::default();
    for line in lines(view) {
        evidence.add(|| line);
    }
    evidence
}

/// The same, line by line.
pub(super) fn lines(view: &View<'_>) -> Vec<String> {
    let window = view.window();
    // A tool may have opened other windows before.
    let is_of_window =
        |probe: &&Probe| window.as_ref().map_or(true, |it| (it.frozen..=it.thaw).contains(&probe.t));
    let probes = view.case.cycle.probes.iter().filter(is_of_window);
    probes.map(|probe| format!("{}, {}", name(view, probe), answer(view, probe))).collect()
}

/// A description of a probe: `COMMIT through tcp, sent 12.3 ms after the freeze call`.
pub(super) fn name(view: &View<'_>, probe: &Probe) -> String {
    format!("{}, sent {}", statement(view, probe), view.anchor().when(probe.t))
}

/// What a probe asks, and which way it takes: `COMMIT through tcp`.
pub(super) fn statement(view: &View<'_>, probe: &Probe) -> String {
    let statement = match (probe.kind, probe.schema) {
        (ProbeKind::Memory, _) if view.case.setup.quiescence.is_lock() => "UPDATE of a MEMORY table",
        (ProbeKind::Memory, _) => "UPDATE of an UNLOGGED table",
        (ProbeKind::Commit, Schema::Load) => "COMMIT",
        (ProbeKind::Commit, Schema::Second) => "COMMIT in the second schema",
        (ProbeKind::Row, Schema::Load) => "INSERT into a non-transactional table",
        (ProbeKind::Row, Schema::Second) => "INSERT into a non-transactional table of the second schema",
    };
    let door = view.case.setup.doors.get(usize::from(probe.door)).map_or("?".to_owned(), |door| quote(door));
    format!("{statement} through {door}")
}

/// A description of a probe's outcome.
pub(super) fn answer(view: &View<'_>, probe: &Probe) -> String {
    let code = probe.code.as_ref().map(|code| format!(" (error {})", quote(code))).unwrap_or_default();
    let until = || view.anchor().when(probe.end);
    let what = match probe.answer {
        ProbeAnswer::Done => "was executed".to_owned(),
        ProbeAnswer::Locked if probe.since.is_some() => format!("waited for a lock until {}", until()),
        ProbeAnswer::Locked => "was refused by a lock".to_owned(),
        ProbeAnswer::Released => format!("waited for a lock, and stopped waiting {}", until()),
        ProbeAnswer::Hung if view.case.setup.quiescence.is_lock() => {
            "got no answer, and waited for no lock".to_owned()
        }
        ProbeAnswer::Hung => format!("had no answer until {}", until()),
        ProbeAnswer::Refused if view.case.setup.quiescence.is_lock() => {
            "was refused, but not by a lock".to_owned()
        }
        ProbeAnswer::Refused => "was refused".to_owned(),
        ProbeAnswer::Cut => "lost its connection, but the server accepted another".to_owned(),
        ProbeAnswer::Gone => "lost its connection, and the server was gone".to_owned(),
        ProbeAnswer::Error => "lost its connection, and a new one got no answer".to_owned(),
        ProbeAnswer::Unseen => "was not heard of in time".to_owned(),
    };
    format!("{what}{code}")
}
