//! A running guest, from power-on to its end.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::image::AgentChannel;
use contract::text::printable;
use virt::domain::Domain;
use virt::sys;

use super::agent::{Agent, Transcript, Transport};
use super::console;
use super::console_log::ConsoleLog;
use super::domain::{Drive, Spec, quote_shell};
use super::monitor::MonitorWatch;
use super::serial::Serial;
use super::start_watch::{self, StartWatch};
use crate::error::{Action, Error, GuestError, GuestFailure, Result};
use crate::guest_end::GuestEnd;
use crate::host::{self, GuestEvent, GuestEvents, Libvirt};
use crate::interrupt;

/// How many times a guest is powered on whose kernel stalls before it has found its disks.
const ATTEMPTS: u32 = 3;

/// The fraction of a boot's time limit within which the kernel must print something. It usually
/// takes a tenth of a boot's time.
const FIRST_OUTPUT: u32 = 4;

/// How long an answer may take while the agent is being restarted: one that was lost with the old
/// agent never comes.
const RESTART_ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long an agent on a serial port is waited for before the guest's own state is checked again.
const PING_LIMIT: Duration = Duration::from_secs(3);

/// The pause after that, in which the event of a guest's end may arrive.
const PING_PAUSE: Duration = Duration::from_millis(100);

/// The least time between two queries of a unit's state.
const UNIT_PAUSE: Duration = Duration::from_secs(2);

/// The pause between two queries of a guest that seems to have ended.
const REPORT_PAUSE: Duration = Duration::from_millis(50);

/// How long libvirt may take to report the end of a guest whose QEMU does not answer any more.
const REPORT_LIMIT: Duration = Duration::from_secs(10);

/// What a kernel prints whose timers stand still because the host does not run it. An emulated
/// guest on a busy host was observed to hang like that in its boot, some seconds after it had found
/// its disks.
const STARVED: [&str; 2] = ["kthread timer wakeup didn't happen", "kthread starved for"];

/// A running guest. Dropping it destroys the guest.
#[derive(Debug)]
pub struct Machine {
    /// `source`, `restored` or `verifier`: which of the trial's guests this is.
    role: &'static str,
    domain: Domain,
    events: GuestEvents,
    console: PathBuf,
    agent: Agent,
    /// The guest's port that is forwarded from the start.
    forward: Option<u16>,
    /// The unit whose state was last queried, and when.
    last_check: Option<(String, Instant)>,
    stopped: bool,
    monitor: MonitorWatch,
    /// Dropped after the guest has ended, so that it has the whole console.
    console_log: ConsoleLog,
}

impl Machine {
    /// Powers the guest on and waits until the agent has opened its channel.
    /// `agent_limit` bounds each later agent command. Ends at once when the guest
    /// dies or its kernel panics.
    ///
    /// A guest that hangs before its kernel prints anything, or stops before its kernel has found a
    /// disk, is powered on again, a few times: under emulation on a busy host that was observed in
    /// one boot of a few hundred. The number of such restarts is returned as well.
    pub fn boot(
        libvirt: &Libvirt,
        spec: &Spec,
        role: &'static str,
        transcript: &Transcript,
        boot_limit: Duration,
        agent_limit: Duration,
    ) -> Result<(Self, u32)> {
        for stalled in 0..ATTEMPTS {
            let mut machine = Self::power_on(libvirt, spec, role, transcript, agent_limit)?;
            match machine.wait_for_agent(boot_limit) {
                Ok(()) => return Ok((machine, stalled)),
                Err(Error::Stalled(..)) => machine.power_off()?,
                Err(error) if error.is_request_to_stop() || spec.may_have_read_disks() => return Err(error),
                // The host may be to blame as well: QEMU's emulation was observed to crash there.
                Err(_) if machine.has_ended() => {
                    interrupt::forget(machine.events.fate());
                    machine.wait_until_gone(agent_limit)?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Stalled(role, ATTEMPTS))
    }

    /// Starts a guest from saved memory.
    pub(crate) fn restore(
        libvirt: &Libvirt,
        memory: &Path,
        xml: &str,
        spec: &Spec,
        role: &'static str,
        transcript: &Transcript,
        agent_limit: Duration,
    ) -> Result<Self> {
        let started = Self::start(spec, role, || {
            libvirt.restore(memory, xml, &spec.name, || ConsoleLog::start(role, spec))
        })?;
        Ok(Self::new(started, spec, role, transcript, agent_limit))
    }

    /// Waits until the agent answers. In a guest from saved memory it never disconnected, so there
    /// is no event to wait for.
    pub(crate) fn wait_for_answer(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while let Err(error) = self.agent.is_frozen() {
            if Instant::now() > deadline {
                return Err(error);
            }
            interrupt::pass(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// Saves the guest with its memory to a file, which ends the guest.
    pub(crate) fn save(mut self, file: &Path) -> Result<()> {
        interrupt::forget(self.events.fate());
        host::save(&self.domain, file).map_err(Error::libvirt(format!("save the {} guest", self.role)))?;
        self.stopped = true;
        Ok(())
    }

    fn power_on(
        libvirt: &Libvirt,
        spec: &Spec,
        role: &'static str,
        transcript: &Transcript,
        agent_limit: Duration,
    ) -> Result<Self> {
        let prepare = || ConsoleLog::start(role, spec);
        let started = Self::start(spec, role, || match spec.watched {
            None => libvirt.start(&spec.xml(), prepare),
            Some(_) => libvirt.start_defined(&spec.xml(), prepare),
        })?;
        Ok(Self::new(started, spec, role, transcript, agent_limit))
    }

    /// Starts a guest by this call of libvirt's, and ends its QEMU when that does not come up.
    fn start<T>(spec: &Spec, role: &'static str, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let limit = start_watch::LIMIT.mul_f64(spec.accel.slowness());
        let root = spec.console_socket.parent().unwrap_or(&spec.console_socket);
        let watch = StartWatch::begin(&spec.name, root, limit);
        let started = call();
        // What libvirt says of it then is that its monitor is gone.
        if watch.end() && started.is_err() {
            return Err(Error::guest_ended(role, GuestEnd::Hung(limit), &spec.console));
        }
        started
    }

    fn new(
        (domain, events, console_log): (Domain, GuestEvents, ConsoleLog),
        spec: &Spec,
        role: &'static str,
        transcript: &Transcript,
        agent_limit: Duration,
    ) -> Self {
        // libvirt is the tool's there, and may hang with it.
        let proxy = spec.proxy.as_ref().filter(|_| spec.watched.is_some());
        let transport = match (proxy, spec.channel) {
            (Some(proxy), _) => Transport::Proxy(Arc::clone(proxy)),
            (None, AgentChannel::VirtioSerial) => Transport::Libvirt(domain.clone()),
            (None, AgentChannel::IsaSerial) => Transport::Serial(Arc::new(Serial::new(spec.agent.clone()))),
        };
        let fate = events.fate().clone();
        let agent = Agent::new(transport, role.to_owned(), transcript.clone(), agent_limit, fate.clone());
        let (console, forward) = (spec.console.clone(), spec.forward);
        interrupt::end_with(role, console.clone(), fate.clone());
        let disk = spec.drives.first().map_or("vda", |drive| &drive.target);
        Self {
            role,
            events,
            console,
            agent,
            forward,
            last_check: None,
            stopped: false,
            monitor: MonitorWatch::start(&domain, disk, fate),
            domain,
            console_log,
        }
    }

    /// Whether it is gone, of whatever.
    fn has_ended(&mut self) -> bool {
        let end = self.events.fate().end();
        self.stopped |= end.is_some_and(|end| end != GuestEnd::DiskFailed);
        self.stopped
    }

    /// Waits until libvirt has released a guest that stopped by itself: the event of its end comes
    /// before its name is free again.
    fn wait_until_gone(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.domain.is_active().is_ok() {
            if Instant::now() > deadline {
                return Err(self.failure(GuestFailure::NotReleased(limit)));
            }
            interrupt::pass(Duration::from_millis(20))?;
        }
        Ok(())
    }

    fn wait_for_agent(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut patience = Instant::now() + limit / FIRST_OUTPUT;
        loop {
            match self.next_event(patience)? {
                Some(GuestEvent::AgentConnected) => return Ok(()),
                Some(
                    GuestEvent::AgentDisconnected
                    | GuestEvent::DeviceRemoved
                    | GuestEvent::DomainJobEnded
                    | GuestEvent::BlockJobEnded { .. },
                ) => {}
                Some(GuestEvent::Ended(end)) => return Err(self.ended(end, GuestFailure::StoppedInBoot)),
                None if patience < deadline => {
                    self.console_log.settle();
                    if std::fs::metadata(&self.console).is_ok_and(|console| console.len() == 0) {
                        return Err(Error::Stalled(self.role, 1));
                    }
                    patience = deadline;
                }
                None => {
                    return Err(self.timed_out(Action::StartAgent, limit));
                }
            }
        }
    }

    /// The next event; `None` when `deadline` comes first.
    fn next_event(&self, deadline: Instant) -> Result<Option<GuestEvent>> {
        if self.agent.is_announced() {
            return interrupt::receive(&self.events, deadline);
        }
        // There is no event for an agent that opens its serial port: it must be polled.
        let agent = self.agent.with_timeout(PING_LIMIT);
        while agent.ping().is_err() {
            let next = interrupt::receive(&self.events, Instant::now() + PING_PAUSE)?;
            if next.is_some() || Instant::now() >= deadline {
                return Ok(next);
            }
        }
        Ok(Some(GuestEvent::AgentConnected))
    }

    /// Lets every end of this guest fail every wait from here on. A restored guest that ends by itself is
    /// a fact about the backup; one that is to be backed up has to live.
    pub(crate) fn has_to_live(&self) {
        interrupt::need(self.events.fate());
    }

    /// Fails when the guest has stopped.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.events.fate().end() {
            Some(end) => Err(self.ended(end, GuestFailure::Stopped)),
            None => Ok(()),
        }
    }

    /// Fails when the host ended a guest, so that whatever went wrong with it is no fact about a backup.
    ///
    /// Waits, if this guest's QEMU does not answer, until libvirt has reported how the guest ended: who
    /// loses a connection to a guest often learns of its end before libvirt does.
    pub(crate) fn check_host(&self) -> Result<()> {
        let deadline = Instant::now() + REPORT_LIMIT;
        let answers = || self.monitor("info status").is_ok_and(|status| status.contains("running"));
        while self.events.fate().end().is_none() && !answers() && Instant::now() < deadline {
            std::thread::sleep(REPORT_PAUSE);
        }
        interrupt::check()
    }

    /// Whether its QEMU answered nothing for so long, at `since` or after it, that the guest cannot have run.
    pub(crate) fn was_silent_since(&self, since: Instant) -> bool {
        self.monitor.was_silent_since(since)
    }

    /// Fails when that is so, after `what` was under way since then and has failed: that is no fact about it.
    pub(crate) fn check_answered(&self, since: Instant, what: &'static str) -> Result<()> {
        if self.was_silent_since(since) {
            return Err(self.stood_still(what));
        }
        Ok(())
    }

    /// The error about a failure of `what`, which was under way while the guest did not run.
    pub(crate) fn stood_still(&self, what: &'static str) -> Error {
        Error::StoodStill { role: self.role, what }
    }

    /// Fails when its kernel says that the host did not run it, after its server did not come up within `limit`:
    /// that is no fact about its disks.
    pub(crate) fn check_ran(&self, limit: Duration) -> Result<()> {
        match self.timed_out(Action::StartServer, limit) {
            starved @ Error::Starved { .. } => Err(starved),
            _ => Ok(()),
        }
    }

    /// The error about a guest that has ended: the host's doing says nothing of its disks.
    fn ended(&mut self, end: GuestEnd, failure: GuestFailure) -> Error {
        // One that is only paused is still to be destroyed.
        self.stopped = end != GuestEnd::DiskFailed;
        if end.is_of_host() {
            return Error::guest_ended(self.role, end, &self.console);
        }
        self.failure(failure)
    }

    /// Fails when the guest has stopped or this unit has failed: its service will never come up.
    pub fn check_unit(&mut self, unit: &str, limit: Duration) -> Result<()> {
        self.check_alive()?;
        // Callers poll. Each query starts two processes in the guest, whose processors a starting
        // server needs.
        let (_, queried) = match self.last_check.take() {
            Some(last) if last.0 == unit => self.last_check.insert(last),
            _ => self.last_check.insert((unit.to_owned(), Instant::now())),
        };
        if queried.elapsed() < UNIT_PAUSE {
            return Ok(());
        }
        *queried = Instant::now();
        // See systemctl(1): exit code 0 when the unit has failed.
        let state = self.agent.shell(&format!("systemctl is-failed {}", quote_shell(unit)), b"", limit)?;
        if state.code == Some(0) {
            return Err(GuestError::UnitFailed { role: self.role, unit: unit.to_owned() }.into());
        }
        Ok(())
    }

    /// Attaches a disk. `xml` is its element of the domain's definition.
    pub(crate) fn attach(&self, xml: &str) -> Result<()> {
        self.domain
            .attach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_LIVE)
            .map_err(Error::libvirt(format!("attach a disk to the {} guest", self.role)))
    }

    /// Detaches a disk and waits until the guest has released it.
    pub(crate) fn detach(&mut self, xml: &str, limit: Duration) -> Result<()> {
        self.domain
            .detach_device_flags(xml, sys::VIR_DOMAIN_AFFECT_LIVE)
            .map_err(Error::libvirt(format!("detach a disk from the {} guest", self.role)))?;
        self.wait_for(Action::ReleaseDisk, limit, |event| {
            (event == GuestEvent::DeviceRemoved).then_some(true)
        })
    }

    /// Pauses the guest; QEMU has written out by then whatever it keeps of the disks' files.
    pub(crate) fn pause(&self) -> Result<Paused<'_>> {
        self.domain.suspend().map_err(Error::libvirt(format!("pause the {} guest", self.role)))?;
        Ok(Paused { machine: self })
    }

    /// Merges an overlay of one of the guest's disks into the one below it while the guest runs.
    /// The overlay is no longer used afterwards.
    pub(crate) fn commit(&mut self, overlay: &Drive, limit: Duration) -> Result<()> {
        host::block_commit(&self.domain, &overlay.target, &overlay.file)
            .map_err(Error::libvirt(format!("merge {}", overlay.file.display())))?;
        self.wait_for(Action::MergeOverlay, limit, |event| match event {
            GuestEvent::BlockJobEnded { succeeded } => Some(succeeded),
            _ => None,
        })
    }

    /// Waits for the event for which `ends` returns whether the action succeeded.
    fn wait_for(
        &mut self,
        action: Action,
        limit: Duration,
        ends: fn(GuestEvent) -> Option<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            match interrupt::receive(&self.events, deadline)? {
                Some(GuestEvent::Ended(end)) => return Err(self.ended(end, GuestFailure::Stopped)),
                Some(event) => match ends(event) {
                    Some(true) => return Ok(()),
                    Some(false) => return Err(self.failure(GuestFailure::Failed(action))),
                    None => {}
                },
                None => return Err(self.timed_out(action, limit)),
            }
        }
    }

    /// Restarts the agent's unit and waits until the new agent answers.
    ///
    /// The channel's events do not show that: QEMU emits at most one a second, so a quick restart
    /// goes unnoticed. The process id changes.
    ///
    /// The old agent is killed. An agent that was answering when SIGTERM came was observed never to
    /// end, because the handler takes a lock of its main loop, and systemd would wait 90 s for it.
    pub fn restart_agent(&mut self, unit: &str, limit: Duration) -> Result<()> {
        let unit = quote_shell(unit);
        let pid = format!("systemctl show --property MainPID --value {unit}");
        let before = self.agent.script(&pid, b"", limit)?;
        let old = String::from_utf8_lossy(&before).trim().to_owned();
        let old = quote_shell(&old);
        // A unit that does not run has process 0, and killing that would kill the whole process
        // group.
        let restart =
            format!("trap '' TERM; systemctl restart --no-block {unit}; [ {old} = 0 ] || kill -KILL {old}");
        // The answer may be lost with the old agent.
        let agent = self.agent.with_timeout(RESTART_ANSWER_LIMIT);
        let _ = agent.shell(&restart, b"", RESTART_ANSWER_LIMIT);
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            self.check_alive()?;
            if agent.script(&pid, b"", RESTART_ANSWER_LIMIT).is_ok_and(|now| now != before) {
                return Ok(());
            }
            interrupt::pass(Duration::from_millis(50))?;
        }
        Err(self.timed_out(Action::RestartAgent, limit))
    }

    /// Runs a line of shell as root in a unit of its own and waits for its end. This is for
    /// commands that restart the agent, which would end with it otherwise.
    pub fn run_apart(&mut self, unit: &str, line: &str, limit: Duration) -> Result<()> {
        let unit = quote_shell(unit);
        let start = format!(
            "systemd-run --quiet --no-block --unit={unit} --property=Type=oneshot \
             --property=RemainAfterExit=yes /bin/sh -c {}",
            quote_shell(line)
        );
        self.agent.script(&start, b"", limit)?;
        let agent = self.agent.with_timeout(RESTART_ANSWER_LIMIT);
        let state = format!("systemctl show --property ActiveState --value {unit}");
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            self.check_alive()?;
            match agent.script(&state, b"", RESTART_ANSWER_LIMIT).as_deref() {
                Ok(b"active\n") => return Ok(()),
                Ok(b"failed\n") => {
                    let journal = format!("journalctl --unit {unit} --output cat --no-pager | tail -n 20");
                    let journal = self.agent.script(&journal, b"", limit)?;
                    let journal = printable(String::from_utf8_lossy(&journal).trim());
                    let (role, command) = (self.role, line.to_owned());
                    return Err(GuestError::CommandFailed { role, command, journal }.into());
                }
                // It still runs, or the agent is just restarting.
                Ok(_) | Err(_) => interrupt::pass(Duration::from_millis(200))?,
            }
        }
        Err(self.timed_out(Action::EndCommand(line.to_owned()), limit))
    }

    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The domain's definition as libvirt runs it.
    pub fn xml(&self) -> Result<String> {
        self.domain.xml_desc(0).map_err(Error::libvirt("show the domain's definition"))
    }

    /// The domain.
    pub(crate) fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The loopback address that leads to the guest's database port. QEMU chose a free port when it
    /// started.
    pub fn sql_address(&self) -> Result<SocketAddr> {
        self.address(self.forward.unwrap_or_default())
    }

    /// Forwards another loopback port of the host to this port of the guest, and returns its
    /// address.
    pub fn forward(&self, port: u16) -> Result<SocketAddr> {
        // The monitor prints nothing on success, which the lookup confirms.
        self.monitor(&format!("hostfwd_add sql tcp:127.0.0.1:0-:{port}"))?;
        self.address(port)
    }

    /// The loopback address that leads to a port of the guest.
    fn address(&self, port: u16) -> Result<SocketAddr> {
        let info = self.monitor("info usernet")?;
        let forwarded = forwarded_port(&info, port)
            .ok_or_else(|| GuestError::NotForwarded { port, report: printable(&info) })?;
        Ok((Ipv4Addr::LOCALHOST, forwarded).into())
    }

    fn monitor(&self, command: &str) -> Result<String> {
        self.domain
            .qemu_monitor_command(command, sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
            .map_err(Error::libvirt(format!("run `{command}` in QEMU's monitor")))
    }

    /// The size of a disk as the guest sees it, bytes.
    pub fn disk_bytes(&self, disk: &str) -> Result<u64> {
        let info =
            self.domain.block_info(disk, 0).map_err(Error::libvirt(format!("report the size of {disk}")))?;
        Ok(info.capacity)
    }

    /// Write requests and bytes that reached a disk since power-on.
    pub fn written(&self, disk: &str) -> Result<(u64, u64)> {
        let stats =
            self.domain.block_stats(disk).map_err(Error::libvirt(format!("count the writes to {disk}")))?;
        Ok((stats.wr_req.unsigned_abs(), stats.wr_bytes.unsigned_abs()))
    }

    fn timed_out(&self, action: Action, limit: Duration) -> Error {
        self.failure(GuestFailure::TimedOut { action, limit })
    }

    /// An error about this guest, with what its console shows.
    fn failure(&self, failure: GuestFailure) -> Error {
        self.console_log.settle();
        let (role, console) = (self.role, self.console.clone());
        if STARVED.iter().any(|text| console::contains(&console, text) == Some(true)) {
            return Error::Starved { role, failure, console };
        }
        let lines = console::relevant_lines(&console);
        GuestError::Failed { role, failure, console, lines }.into()
    }

    /// An error about this guest, to which disks were attached that it does not show.
    pub(crate) fn disks_not_visible(&self) -> Error {
        Error::DisksNotVisible { console: self.console.clone() }
    }

    /// Ends the guest as if its power were cut.
    pub fn power_off(mut self) -> Result<()> {
        interrupt::forget(self.events.fate());
        self.stopped = true;
        match self.domain.destroy() {
            // It may just have ended by itself.
            Err(error) if self.events.fate().end().is_none() => {
                Err(Error::libvirt(format!("destroy the {} guest", self.role))(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.stopped {
            return;
        }
        // The error that led here is the one to report.
        let _ = self.check_host();
        if !self.events.fate().end().is_some_and(GuestEnd::is_of_host) {
            interrupt::forget(self.events.fate());
        }
        // The trial's supervisor kills what libvirt could not.
        let _ = self.domain.destroy();
    }
}

/// A guest that is paused. It runs again at the latest when this is dropped.
#[derive(Debug)]
pub(crate) struct Paused<'a> {
    machine: &'a Machine,
}

impl Paused<'_> {
    /// Lets the guest run again.
    pub(crate) fn resume(self) -> Result<()> {
        let resumed = self.machine.domain.resume().map(drop);
        resumed.map_err(Error::libvirt(format!("let the {} guest run again", self.machine.role)))
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        // A guest that runs already is no error.
        let _ = self.machine.domain.resume();
    }
}

/// The host port in QEMU's `info usernet` that leads to a port of the guest:
/// `  TCP[HOST_FORWARD]  13       127.0.0.1 40123       10.0.2.15  3306     0     0`.
fn forwarded_port(info: &str, port: u16) -> Option<u16> {
    info.lines().filter(|line| line.trim_start().starts_with("TCP[HOST_FORWARD]")).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(5)?.parse() == Ok(port)).then(|| fields.get(3)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_the_monitor() {
        let info = "Hub -1 (sql):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                    TCP[HOST_FORWARD]  12       127.0.0.1 36047       10.0.2.15  3306     0     0\r\n  \
                    TCP[HOST_FORWARD]  13       127.0.0.1 36048       10.0.2.15 20100     0     0\r\n";
        assert_eq!(forwarded_port(info, 3306), Some(36047));
        assert_eq!(forwarded_port(info, 20100), Some(36048));
        assert_eq!(forwarded_port(info, 36047), None);
    }
}
