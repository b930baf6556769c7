//! Makes a [`Case`] from the records of the history, and refuses whatever no
//! honest writer could have written. `observed` does so with the observation.
//!
//! A log may be cut, reordered or hostile. Memory is bounded by the length of the
//! logs: numbers in a record never decide how much is allocated, and the sizes that
//! `Setup` claims are bounded by the constants below.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use contract::history::{
    AgentCommand, CopyInstant, DiskWrites, Entry, FREEZE, Lsn, Mark, Nanos, Op, Probe, Quiescence, Setup,
    THAW, WINDOWS,
};

use super::case::{
    BackupMode, BackupModes, BlockStats, Bulk, Case, Cycle, Marks, NEVER, ReportedGuest, SentByClient,
    SentFollowerRow, SentLeg, SentTransfer, ServerDirectory, Span, WalEnd, slot,
};
use super::dishonest::Accepted;
use super::evidence::quote;
use super::tool_log::ToolLog;
use super::view::BULK;

/// The most writers a history may have.
pub const MAX_WRITERS: u32 = 65_536;
/// The most accounts a history may have.
pub const MAX_ACCOUNTS: u32 = 1 << 20;
/// The most followers a history may have.
pub const MAX_FOLLOWERS: usize = 64;
/// The most ways to the server, and other tables.
const MAX_DOORS: usize = 16;
const MAX_TABLES: usize = 64;

/// The most disks and file systems that a history may have.
const MAX_DISKS: usize = 64;
/// The most directories of the server.
const MAX_DIRECTORIES: usize = 64;
/// The most probes of one cycle; there are two for each door, and three more.
const MAX_PROBES: usize = 256;
/// The most positions of the write-ahead log in one cycle; there are three.
const MAX_WAL_ENDS: usize = 256;
/// The most commands to the agent, copies of disks, or counts of traced writes, in one cycle.
const MAX_COMMANDS: usize = 10_000;
/// The most cycles that a history may have.
const MAX_CYCLES: usize = 1000;

/// Takes the records of the history in order.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    setup: Option<Setup>,
    guest: Option<ReportedGuest>,
    directories: Vec<ServerDirectory>,
    clients: Vec<ClientProgress>,
    rolled_back: HashSet<SentLeg>,
    /// The cycle whose records come, and those before it.
    cycle: Cycle,
    earlier: Vec<Cycle>,
    last_mark: Option<(Mark, Nanos)>,
    /// When the last mark was crossed, or the cycle began.
    since: Nanos,
    /// When each disk's writes were last counted.
    last_count: BTreeMap<String, Nanos>,
    heartbeats: BTreeMap<String, Vec<Span>>,
    schema_changes: Vec<Span>,
    bulk: Vec<Bulk>,
    tool: ToolLog,
    ended: Option<Nanos>,
    unversioned: bool,
}

#[derive(Debug, Default)]
struct ClientProgress {
    client: SentByClient,
    state: ClientState,
    last: Nanos,
}

/// What a client is doing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ClientState {
    #[default]
    Idle,
    /// Sent, not answered.
    InFlight(Sent),
    /// Answered with `Unknown`, not read back yet.
    Unsure(Sent),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Transfer,
    Row,
}

impl Assembler {
    /// Takes the next record of the history.
    pub(super) fn entry(&mut self, entry: Entry) -> Accepted {
        let after_load = matches!(&entry, Entry::Tool { step } if step.is_after_load());
        if self.ended.is_some() && !after_load {
            return Err(
                "a record after `end`; two histories were joined, or the lines are out of order".into()
            );
        }
        if self.setup.is_none() && !matches!(entry, Entry::Setup(_)) {
            return Err(
                "the first record must be `setup`; the lines are out of order, or the start is cut off"
                    .into(),
            );
        }
        match entry {
            Entry::Setup(setup) => self.set_up(setup),
            Entry::Invoke { t, c, n, op } => self.invoke(t, c, n, &op),
            Entry::Ok { t, c, n, ver } => self.ok(t, c, n, ver),
            Entry::Fail { t, c, n, error: _ } => self.fail(t, c, n),
            Entry::Unknown { t, c, n, error: _ } => {
                let (client, sent) = self.outcome("unknown", t, c, n)?;
                client.state = ClientState::Unsure(sent);
                client.hear(sent, t);
                Ok(())
            }
            Entry::Resolved { t, c, n, present } => self.resolved(t, c, n, present),
            Entry::Guest { os, volumes, .. } => {
                match self.guest.replace(ReportedGuest { windows: os == WINDOWS, volumes }) {
                    Some(_) => Err("a second `guest`; a history has one".into()),
                    None => Ok(()),
                }
            }
            Entry::Directory { t: _, holds, path, fs, on, reached } => {
                self.directory(ServerDirectory { holds, path, fs, on, reached })
            }
            Entry::Mark { t, mark, detail } => self.mark(t, mark, detail),
            Entry::Probe(probe) => self.probe(probe),
            Entry::BlockStats { t, disk, writes, bytes } => {
                if !self.last_count.contains_key(&disk) && self.last_count.len() == MAX_DISKS {
                    return Err(format!("write counts of more than {MAX_DISKS} disks").into());
                }
                let last = self.last_count.entry(disk.clone()).or_insert(t);
                if t < *last {
                    let disk = quote(&disk);
                    return Err(format!(
                        "the write count of disk `{disk}` goes back in time; the lines are out of order"
                    )
                    .into());
                }
                *last = t;
                self.cycle.block_stats.push(BlockStats { t, disk, writes, bytes });
                Ok(())
            }
            Entry::Heartbeat { t, end, disk, n } => {
                if !self.heartbeats.contains_key(&disk) && self.heartbeats.len() == MAX_DISKS {
                    return Err(format!("heartbeats of more than {MAX_DISKS} disks").into());
                }
                let what = format!("heartbeat of disk `{}`", quote(&disk));
                append(self.heartbeats.entry(disk).or_default(), |span| span, &what, n, span(t, end, &what)?)
            }
            Entry::SchemaChange { t, end, n } => {
                let what = "schema change";
                append(&mut self.schema_changes, |span| span, what, n, span(t, end, what)?)
            }
            Entry::Bulk { t, end, n, rows } => {
                let what = "bulk statement";
                let bulk = Bulk { span: span(t, end, what)?, rows };
                append(&mut self.bulk, |bulk| &bulk.span, what, n, bulk)
            }
            Entry::WalEnd { t, end, lsn } => self.wal_end(WalEnd { asked: t, answered: end, lsn }),
            Entry::BackupModes { t, from, to, ended } => self.backup_modes(t, [from, to], &ended),
            Entry::AgentCommand(command) => self.command(command),
            Entry::CopyInstant(copy) => self.copy(copy),
            Entry::DiskWrites(writes) => self.traced(writes),
            Entry::Tool { step } => self.tool.step(self.setup.as_ref(), self.earlier.len() + 1, step),
            Entry::Cycle { t, n } => self.next_cycle(t, n),
            Entry::End { t } => {
                self.check_channel()?;
                self.ended = Some(t);
                Ok(())
            }
        }
    }

    fn next_cycle(&mut self, t: Nanos, n: u32) -> Accepted {
        let last = self.earlier.len() + 1;
        if usize::try_from(n).ok() != Some(last + 1) {
            return Err(format!("cycle {n} after cycle {last}; lines are missing").into());
        }
        if last == MAX_CYCLES {
            return Err(
                format!("more than {MAX_CYCLES} cycles; each is judged against the whole load").into()
            );
        }
        if t < self.since {
            return Err(format!("cycle {n} begins before the one before it ends").into());
        }
        self.check_channel()?;
        let next = Cycle { begin: t, ..Cycle::default() };
        let ended = std::mem::replace(&mut self.cycle, next);
        self.earlier.push(Cycle { complete: true, until: Some(t), ..ended });
        self.last_mark = None;
        self.since = t;
        Ok(())
    }

    fn set_up(&mut self, setup: Setup) -> Accepted {
        if self.setup.is_some() {
            return Err("a second `setup`; a history has one, first".into());
        }
        if !(1..=MAX_WRITERS).contains(&setup.writers) {
            return Err(format!("{} writers; from 1 to {MAX_WRITERS} can be judged", setup.writers).into());
        }
        if !(1..=MAX_ACCOUNTS).contains(&setup.accounts) {
            return Err(format!("{} accounts; from 1 to {MAX_ACCOUNTS} can be judged", setup.accounts).into());
        }
        if !(1..=MAX_DOORS).contains(&setup.doors.len()) {
            return Err(format!("{} doors; from 1 to {MAX_DOORS} can be judged", setup.doors.len()).into());
        }
        for (what, many, most) in [
            ("follower tables", setup.followers.len(), MAX_FOLLOWERS),
            ("other tables", setup.tables.len(), MAX_TABLES),
            ("disks", setup.disks.len(), MAX_DISKS),
            ("file systems", setup.file_systems.len(), MAX_DISKS),
        ] {
            if many > most {
                return Err(format!("{many} {what}; at most {most} can be judged").into());
            }
        }
        for (what, many) in [("disk", setup.disks.len()), ("file system", setup.file_systems.len())] {
            if many == 0 {
                return Err(format!("no {what}; a database lies on one").into());
            }
        }
        let by_lock = setup.quiescence.is_lock();
        let is_transactional = |engine: &str| !by_lock || engine.eq_ignore_ascii_case("innodb");
        if let Some(odd) = setup.followers.iter().find(|it| it.transactional != is_transactional(&it.engine))
        {
            let (table, engine) = (quote(&odd.table), quote(&odd.engine));
            let what = if odd.transactional { "transactional" } else { "not transactional" };
            return Err(format!("the follower `{table}` of the engine {engine} is said to be {what}").into());
        }
        if let Some(lost) =
            setup.followers.iter().find(|follower| usize::from(follower.door) >= setup.doors.len())
        {
            let doors = setup.doors.len();
            return Err(
                format!("the follower `{}` has no door; there are {doors}", quote(&lost.table)).into()
            );
        }
        if !by_lock && (setup.binlog || setup.tables.iter().any(|table| table.table == BULK)) {
            return Err("a server that has backup mode, with a binary log or the bulk writer's table".into());
        }
        let followers = setup.followers.iter().map(|follower| &follower.table);
        let mut names: Vec<_> = followers.chain(setup.tables.iter().map(|table| &table.table)).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("the table `{}` is named twice", quote(twice[0])).into());
        }
        self.setup = Some(setup);
        Ok(())
    }

    fn directory(&mut self, directory: ServerDirectory) -> Accepted {
        if self.directories.len() == MAX_DIRECTORIES {
            return Err(format!("more than {MAX_DIRECTORIES} directories of the server").into());
        }
        self.directories.push(directory);
        Ok(())
    }

    fn probe(&mut self, probe: Probe) -> Accepted {
        let Probe { t, end, since, door, .. } = probe;
        if end < t || since.is_some_and(|since| !(t..=end).contains(&since)) {
            return Err(
                format!("the probe ends at {end}, before it is sent at {t} or observed waiting").into()
            );
        }
        if self.setup.as_ref().is_none_or(|setup| usize::from(door) >= setup.doors.len()) {
            return Err(format!("a probe through the door {door}, which the setup does not name").into());
        }
        let Marks { freeze_call, freeze_ok, .. } = self.cycle.marks;
        // A tool may have opened other windows than that of its copy, which the marks are of.
        let may_be_other = self.setup.as_ref().is_some_and(|setup| setup.tool);
        if !may_be_other && (freeze_call.is_none() || freeze_ok.is_some_and(|frozen| t < frozen)) {
            return Err(format!("a probe sent at {t}, before the cycle's freeze had returned").into());
        }
        if self.cycle.probes.len() == MAX_PROBES {
            return Err(format!("more than {MAX_PROBES} probes of one cycle").into());
        }
        self.cycle.probes.push(probe);
        Ok(())
    }

    fn command(&mut self, command: AgentCommand) -> Accepted {
        if command.end.is_some_and(|end| end < command.t) {
            return Err(
                format!("a command of the agent's is answered before it is sent at {}", command.t).into()
            );
        }
        if self.cycle.commands.len() == MAX_COMMANDS {
            return Err(format!("more than {MAX_COMMANDS} commands to the agent in one cycle").into());
        }
        self.cycle.commands.push(command);
        Ok(())
    }

    /// Where the agent's channel was watched while the harness itself froze and thawed, it must have carried what
    /// the marks of this cycle say, and no other thaw before theirs.
    fn check_channel(&self) -> Accepted {
        let Cycle { commands, marks, .. } = &self.cycle;
        if commands.is_empty() || self.setup.as_ref().is_none_or(|setup| setup.tool) {
            return Ok(());
        }
        let done = |name: &str, from: Nanos, to: Nanos| {
            commands.iter().any(|it| {
                let in_time = it.t >= from && it.end.is_some_and(|end| end <= to);
                in_time && it.command == name && it.error.is_none()
            })
        };
        let told = [(FREEZE, marks.freeze_call, marks.freeze_ok), (THAW, marks.thaw_call, marks.thaw_ok)];
        for (name, call, ok) in told {
            if let Some((call, ok)) = call.zip(ok)
                && !done(name, call, ok)
            {
                return Err(format!(
                    "the marks say that the agent carried out {name} between {call} and {ok}, but its channel did not carry that"
                )
                .into());
            }
        }
        if let Some((frozen, thaw)) = marks.freeze_ok.zip(marks.thaw_call)
            && done(THAW, frozen, thaw)
        {
            return Err(format!(
                "somebody else told the agent to thaw between {frozen} and {thaw}, in the freeze window; nothing else may work with a trial's guest"
            )
            .into());
        }
        Ok(())
    }

    fn copy(&mut self, copy: CopyInstant) -> Accepted {
        if self.cycle.copies.len() == MAX_COMMANDS {
            return Err(format!("more than {MAX_COMMANDS} copies in one cycle").into());
        }
        self.cycle.copies.push(copy);
        Ok(())
    }

    fn traced(&mut self, writes: DiskWrites) -> Accepted {
        let DiskWrites { from, to, count, first, last } = writes;
        let edges = [first, last].into_iter().flatten();
        if from > to || edges.clone().any(|t| !(from..=to).contains(&t)) || first > last {
            return Err(format!("traced writes that are not between {from} and {to}").into());
        }
        if edges.count() != if count == 0 { 0 } else { 2 } {
            return Err(format!("{count} traced writes, but not the times of the first and the last").into());
        }
        if self.cycle.traced.len() == MAX_COMMANDS {
            return Err(format!("more than {MAX_COMMANDS} counts of traced writes in one cycle").into());
        }
        self.cycle.traced.push(writes);
        Ok(())
    }

    fn wal_end(&mut self, wal_end: WalEnd) -> Accepted {
        self.has_backup_mode("wal_end")?;
        let WalEnd { asked, answered, .. } = wal_end;
        if answered < asked {
            return Err(
                format!("the end of the write-ahead log is known before it is asked at {asked}").into()
            );
        }
        if self.cycle.wal_ends.len() == MAX_WAL_ENDS {
            return Err(format!("more than {MAX_WAL_ENDS} ends of the write-ahead log in one cycle").into());
        }
        self.cycle.wal_ends.push(wal_end);
        Ok(())
    }

    fn backup_modes(&mut self, t: Nanos, [from, to]: [Lsn; 2], ended: &[[Lsn; 2]]) -> Accepted {
        self.has_backup_mode("backup_modes")?;
        if from > to {
            return Err(format!("the write-ahead log was read from {from} back to {to}").into());
        }
        if let Some([start, end]) =
            ended.iter().find(|[start, end]| start >= end || !(from..=to).contains(end))
        {
            return Err(format!(
                "a backup mode from {start} to {end}, in a log that was read from {from} to {to}"
            )
            .into());
        }
        let ended = ended.iter().map(|&[start, end]| BackupMode { start, end }).collect();
        match self.cycle.backup_modes.replace(BackupModes { t, from, to, ended }) {
            Some(_) => Err("a second `backup_modes` of a cycle; the log is read once".into()),
            None => Ok(()),
        }
    }

    /// Refuses what no server has that keeps commits out with a lock.
    fn has_backup_mode(&self, what: &str) -> Accepted {
        match &self.setup {
            Some(setup) if setup.quiescence == Quiescence::BackupMode => Ok(()),
            _ => Err(format!("`{what}` of a server that has no backup mode according to the setup").into()),
        }
    }

    /// The client `c` at the time `t`, which must not be before its last time.
    fn client(&mut self, t: Nanos, c: u32) -> Accepted<&mut ClientProgress> {
        let clients = self.setup.as_ref().map_or(0, |setup| setup.writers + setup.followers.len() as u32);
        let at = slot(c)
            .filter(|_| c <= clients)
            .ok_or_else(|| format!("client {c}, but the setup names the clients 1 to {clients}"))?;
        if t == NEVER {
            return Err(format!("the time {t} is beyond any clock").into());
        }
        if at >= self.clients.len() {
            self.clients.resize_with(at + 1, ClientProgress::default);
        }
        let client = &mut self.clients[at];
        if t < client.last {
            return Err(format!(
                "client {c} goes back in time, from {} to {t}; the lines are out of order, or a clock was set",
                client.last
            ).into());
        }
        client.last = t;
        Ok(client)
    }

    /// The client whose operation in flight is answered, and what it had sent.
    fn outcome(&mut self, what: &str, t: Nanos, c: u32, n: u32) -> Accepted<(&mut ClientProgress, Sent)> {
        let client = self.client(t, c)?;
        let ClientState::InFlight(sent) = client.state else {
            return Err(format!("`{what}` for client {c}, which has no operation in flight").into());
        };
        client.expect_number(what, c, n)?;
        Ok((client, sent))
    }

    fn invoke(&mut self, t: Nanos, c: u32, n: u32, op: &Op) -> Accepted {
        match op {
            Op::Transfer { dep, legs, crc } => {
                if self.setup.as_ref().is_some_and(|setup| c > setup.writers) {
                    return Err(
                        format!("client {c} sends a transfer; it writes the rows of a follower").into()
                    );
                }
                let accounts = self.setup.as_ref().map_or(0, |setup| setup.accounts);
                let [(from, minus), (to, plus)] = *legs;
                for account in [from, to] {
                    if !(1..=accounts).contains(&account) {
                        return Err(format!(
                            "account {account}, but the setup names the accounts 1 to {accounts}"
                        )
                        .into());
                    }
                }
                if minus.checked_add(plus) != Some(0) {
                    return Err(format!("the amounts {minus} and {plus} of a transfer must sum to 0").into());
                }
                let transfer = SentTransfer {
                    sent: t,
                    acked: NEVER,
                    heard: NEVER,
                    dep: *dep,
                    accounts: [from, to],
                    amounts: [minus, plus],
                    crc: *crc,
                    versions: [0; 2],
                };
                self.client(t, c)?.send_transfer(c, n, transfer)
            }
            Op::Follow { table, of, crc } => {
                let setup = self.setup.as_ref().ok_or("there is no setup")?;
                let place = follower(setup, table)?;
                let owner = setup.writers + 1 + u32::from(place);
                if c != owner {
                    let table = quote(table);
                    return Err(
                        format!("client {c} sends a row of `{table}`, which client {owner} writes").into()
                    );
                }
                let followed = |[c, n]: [u32; 2]| {
                    self.clients.get(slot(c)?)?.client.transfers.get(slot(n)?).filter(|of| of.is_acked())
                };
                if followed(*of).is_none() {
                    let [other, number] = of;
                    return Err(format!(
                        "client {c} sends a row after transfer {number} of client {other}, which is not acknowledged"
                    ).into());
                }
                let follow = SentFollowerRow { of: *of, crc: *crc, sent: t, acked: NEVER, heard: NEVER };
                self.client(t, c)?.send_row(c, n, follow)
            }
        }
    }

    fn ok(&mut self, t: Nanos, c: u32, n: u32, ver: Option<[u32; 2]>) -> Accepted {
        let (client, sent) = self.outcome("ok", t, c, n)?;
        client.acknowledge(sent, t, ver.unwrap_or_default());
        self.unversioned |= sent == Sent::Transfer && ver.is_none_or(|ver| ver.contains(&0));
        Ok(())
    }

    fn fail(&mut self, t: Nanos, c: u32, n: u32) -> Accepted {
        let (client, sent) = self.outcome("fail", t, c, n)?;
        client.state = ClientState::Idle;
        self.roll_back(t, c, n, sent);
        Ok(())
    }

    fn resolved(&mut self, t: Nanos, c: u32, n: u32, present: bool) -> Accepted {
        let client = self.client(t, c)?;
        let ClientState::Unsure(sent) = client.state else {
            return Err(format!("`resolved` for client {c}, whose last operation was not `unknown`").into());
        };
        client.expect_number("resolved", c, n)?;
        if present {
            client.acknowledge(sent, t, [0; 2]);
        } else {
            client.state = ClientState::Idle;
            self.roll_back(t, c, n, sent);
        }
        Ok(())
    }

    /// Frees the number of a transfer that had no effect. A row stays: most
    /// followers cannot roll back.
    fn roll_back(&mut self, t: Nanos, c: u32, n: u32, sent: Sent) {
        let client = slot(c).and_then(|at| self.clients.get_mut(at));
        if let (Sent::Transfer, Some(ClientProgress { client, .. })) = (sent, client)
            && let Some(attempt) = client.transfers.pop()
        {
            client.rolled_back.push(Span { sent: attempt.sent, acked: t });
            self.rolled_back.extend([0, 1].map(|leg| attempt.leg(c, n, leg)));
        }
    }

    fn mark(&mut self, t: Nanos, mark: Mark, detail: String) -> Accepted {
        let last = self.last_mark.map(|(mark, _)| mark);
        if !may_follow(last, mark) {
            return Err(match last {
                Some(last) => format!("the mark {mark:?} cannot come after {last:?}").into(),
                None => format!("the mark {mark:?} cannot be the first").into(),
            });
        }
        if t < self.since {
            return Err(match self.last_mark {
                Some((last, before)) => {
                    format!("the mark {mark:?} at {t} is earlier than {last:?} at {before}").into()
                }
                None => {
                    format!("the mark {mark:?} at {t} is earlier than its cycle, at {}", self.since).into()
                }
            });
        }
        self.last_mark = Some((mark, t));
        self.since = t;
        let marks = &mut self.cycle.marks;
        match mark {
            Mark::FreezeCall => marks.freeze_call = Some(t),
            Mark::FreezeOk => {
                marks.freeze_ok = Some(t);
                marks.frozen_volumes = detail.parse().ok();
            }
            Mark::FreezeErr => {
                marks.freeze_err = Some(t);
                marks.freeze_detail = detail;
            }
            Mark::SnapBegin => marks.snap_begin = Some(t),
            Mark::SnapEnd => marks.snap_end = Some(t),
            // Later thaws are the guard making sure; only the first one ends
            // the window and shows the lock.
            Mark::ThawCall => marks.thaw_call = marks.thaw_call.or(Some(t)),
            Mark::ThawOk | Mark::ThawErr if marks.thaw_ok.or(marks.thaw_err).is_some() => {}
            Mark::ThawOk => {
                marks.thaw_ok = Some(t);
                marks.thawed_volumes = detail.parse().ok();
            }
            Mark::ThawErr => {
                marks.thaw_err = Some(t);
                marks.thaw_detail = detail;
            }
        }
        Ok(())
    }

    /// The case, with no cycle chosen yet, and its cycles: always at least one.
    pub(super) fn finish(self) -> (Case, Vec<Cycle>) {
        let mut cycles = self.earlier;
        cycles.push(Cycle { complete: self.ended.is_some(), ..self.cycle });
        let case = Case {
            setup: self.setup.unwrap_or_default(),
            guest: self.guest,
            directories: self.directories,
            clients: self.clients.into_iter().map(|building| building.client).collect(),
            rolled_back: self.rolled_back,
            cycle: Cycle::default(),
            probed: BTreeSet::new(),
            unversioned: self.unversioned,
            heartbeats: self.heartbeats,
            schema_changes: self.schema_changes,
            bulk: self.bulk,
            observation: None,
            tool: self.tool,
            place: [1, 1],
            end: self.ended.unwrap_or(NEVER),
        };
        (case, cycles)
    }
}

/// The times of an operation that has a single record.
fn span(t: Nanos, end: Option<Nanos>, what: &str) -> Accepted<Span> {
    if t == NEVER || end == Some(NEVER) {
        return Err(format!("the time of a {what} is beyond any clock").into());
    }
    if end.is_some_and(|end| end < t) {
        return Err(format!("a {what} is done before it is sent at {t}").into());
    }
    Ok(Span { sent: t, acked: end.unwrap_or(NEVER) })
}

/// Adds the operation `n` of a sequence that has one in flight.
fn append<T>(all: &mut Vec<T>, of: impl Fn(&T) -> &Span, what: &str, n: u32, new: T) -> Accepted {
    let next = all.len() + 1;
    if usize::try_from(n).ok() != Some(next) {
        return Err(format!("the {what} is number {n}, but {next} is the next; lines are missing").into());
    }
    if let Some(last) = all.last().map(&of) {
        // An operation without an answer may have been followed by the next one.
        let free = if last.acked == NEVER { last.sent } else { last.acked };
        if of(&new).sent < free {
            return Err(format!("the {what} {n} goes back in time; the lines are out of order").into());
        }
    }
    all.push(new);
    Ok(())
}

impl ClientProgress {
    /// The number of the last operation; 0 before the first. A client has transfers or rows.
    fn number(&self) -> u32 {
        u32::try_from(self.client.transfers.len() + self.client.rows.len()).unwrap_or(u32::MAX)
    }

    fn expect_number(&self, what: &str, c: u32, n: u32) -> Accepted {
        let number = self.number();
        if n == number {
            return Ok(());
        }
        Err(format!("`{what}` for client {c} number {n}, but number {number} is the one it waits for").into())
    }

    fn ready(&self, c: u32) -> Accepted {
        match self.state {
            ClientState::InFlight(_) => {
                Err(format!("client {c} has two operations in flight; an answer is missing").into())
            }
            ClientState::Unsure(Sent::Transfer) => Err(format!(
                "client {c} goes on without the outcome of its transfer {}; it must be `resolved` first",
                self.number()
            )
            .into()),
            ClientState::Idle | ClientState::Unsure(Sent::Row) => Ok(()),
        }
    }

    fn send_transfer(&mut self, c: u32, n: u32, transfer: SentTransfer) -> Accepted {
        self.expect_next(c, n)?;
        self.client.transfers.push(transfer);
        self.state = ClientState::InFlight(Sent::Transfer);
        Ok(())
    }

    fn send_row(&mut self, c: u32, n: u32, row: SentFollowerRow) -> Accepted {
        self.expect_next(c, n)?;
        self.client.rows.push(row);
        self.state = ClientState::InFlight(Sent::Row);
        Ok(())
    }

    fn expect_next(&self, c: u32, n: u32) -> Accepted {
        self.ready(c)?;
        let next = self.number().saturating_add(1);
        if n == next {
            return Ok(());
        }
        Err(format!("client {c} sends operation {n}, but {next} is its next; lines are missing").into())
    }

    /// The last operation had a reply or lost its connection.
    fn hear(&mut self, sent: Sent, t: Nanos) {
        let heard = match sent {
            Sent::Transfer => self.client.transfers.last_mut().map(|it| &mut it.heard),
            Sent::Row => self.client.rows.last_mut().map(|it| &mut it.heard),
        };
        heard.into_iter().for_each(|heard| *heard = t.min(*heard));
    }

    fn acknowledge(&mut self, sent: Sent, t: Nanos, versions: [u32; 2]) {
        self.state = ClientState::Idle;
        self.hear(sent, t);
        match sent {
            Sent::Transfer => {
                if let Some(transfer) = self.client.transfers.last_mut() {
                    transfer.acked = t;
                    transfer.versions = versions;
                }
            }
            Sent::Row => {
                if let Some(row) = self.client.rows.last_mut() {
                    row.acked = t;
                }
            }
        }
    }
}

/// The order in which a trial crosses the marks. A snapshot may be taken
/// without a freeze, or in spite of one that failed; a step may fail, and then
/// the guest is thawed at once; a thaw may be requested again.
fn may_follow(last: Option<Mark>, next: Mark) -> bool {
    match next {
        Mark::FreezeCall => last.is_none(),
        Mark::FreezeOk | Mark::FreezeErr => last == Some(Mark::FreezeCall),
        Mark::SnapBegin => matches!(last, None | Some(Mark::FreezeOk | Mark::FreezeErr)),
        Mark::SnapEnd => last == Some(Mark::SnapBegin),
        Mark::ThawCall => !matches!(last, None | Some(Mark::FreezeCall | Mark::ThawCall)),
        Mark::ThawOk | Mark::ThawErr => last == Some(Mark::ThawCall),
    }
}

/// The place of a table among the followers.
pub(super) fn follower(setup: &Setup, table: &str) -> Accepted<u8> {
    let at = setup.followers.iter().position(|follower| follower.table == table);
    at.and_then(|at| u8::try_from(at).ok())
        .ok_or_else(|| format!("the table `{}` is not among the setup's followers", quote(table)).into())
}
