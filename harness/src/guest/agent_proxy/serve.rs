//! The sockets of the proxy, served by one thread that waits for all of them at once.
//!
//! Nothing waits for a peer that does not read: what is for it is kept, up to a bound. A guest that takes
//! nothing makes its clients wait, a client that takes nothing is cut off.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use contract::history::Nanos;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use tracing::{debug, warn};

use super::ledger::{By, Exchange, FreezeState, Ledger, MOST_PENDING};
use super::line::{Answer, Command, Line, Lines, SENTINEL};
use crate::bounds::{AGENT_LINE, AGENT_NOISE};
use crate::clock;

/// The most clients at once: libvirt is one.
const MOST_CLIENTS: usize = 16;

/// How much may wait for the guest before its clients have to wait, bytes.
const MOST_FOR_GUEST: usize = 256 << 10;

/// How much may wait for a client before it is cut off, bytes.
const MOST_FOR_CLIENT: usize = AGENT_LINE + (1 << 20);

/// What passes the proxy later than it could, so that something can be done in a freeze window however short it
/// is. Zero is not at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holds {
    /// How long at most the answer of a freeze that succeeded is kept from who asked for it.
    pub freeze_answer: Duration,
    /// How long at most a thaw is kept from the agent of a guest that is, or may be, frozen.
    pub thaw: Duration,
}

/// What was held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The answer of a freeze.
    FreezeAnswer,
    /// A thaw.
    Thaw,
}

/// Something that a client of the proxy does about the freeze window, told when it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WindowEvent {
    /// A freeze was answered. Where [`Holds`] say so, the client does not know it yet.
    FreezeAnswered(Exchange),
    /// A thaw is wanted. Where [`Holds`] say so, the agent does not know it yet.
    ThawAsked(Nanos),
    /// A thaw was answered.
    ThawAnswered(Exchange),
}

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// To run a command. Without an answer, `reply` is dropped.
    Run {
        command: Vec<u8>,
        reply: Sender<Vec<u8>>,
    },
    Hold(Holds),
    Release(Held),
    State(Sender<FreezeState>),
    Exchanges(Sender<Vec<Exchange>>),
}

/// Who gets an answer.
#[derive(Debug, Clone)]
enum Owner {
    Client(u64),
    Harness(Sender<Vec<u8>>),
}

/// One side of the channel.
#[derive(Debug)]
struct Peer {
    stream: UnixStream,
    lines: Lines,
    /// What it has yet to take.
    out: VecDeque<u8>,
    /// How much it has taken.
    taken: u64,
}

impl Peer {
    fn new(stream: UnixStream) -> Self {
        Self { stream, lines: Lines::default(), out: VecDeque::new(), taken: 0 }
    }

    /// Takes in one chunk of what it sent; how much that was. Its end is an error.
    fn read(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.lines.push(chunk.get(..read).unwrap_or_default());
                Ok(read)
            }
            Err(error) if is_pause(&error) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Hands over as much as it takes.
    fn write(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(self.out.as_slices().0) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.out.drain(..written);
                    self.taken += written as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// A client: libvirt, which closes its connection and makes another one whenever the agent does.
#[derive(Debug)]
struct Client {
    id: u64,
    peer: Peer,
    /// Its thaw that is held back, since when, and until when.
    thaw: Option<(Vec<u8>, Nanos, Instant)>,
    /// Until when it gets no answers.
    answers: Option<Instant>,
    /// It has closed its connection, and its thaw is still to be handed over.
    is_gone: bool,
}

/// Which socket is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Guest,
    Client(u64),
    Listener,
    Wake,
}

/// What the thread works with.
#[derive(Debug)]
pub(super) struct Server {
    listener: UnixListener,
    /// Readable when there are orders.
    wake: OwnedFd,
    orders: Receiver<Order>,
    events: Sender<WindowEvent>,
    holds: Holds,
    /// QEMU, which is the first that connects.
    guest: Option<Peer>,
    /// How much it has sent since its last answer, bytes.
    noise: usize,
    clients: Vec<Client>,
    /// How many there have been.
    met: u64,
    ledger: Ledger<Owner>,
}

impl Server {
    pub(super) fn new(
        listener: UnixListener,
        wake: OwnedFd,
        orders: Receiver<Order>,
        events: Sender<WindowEvent>,
    ) -> Self {
        Self {
            listener,
            wake,
            orders,
            events,
            holds: Holds::default(),
            guest: None,
            noise: 0,
            clients: Vec::new(),
            met: 0,
            ledger: Ledger::new(),
        }
    }

    /// Serves until the other end of the orders is dropped.
    pub(super) fn run(mut self) {
        while self.obey() {
            self.end_holds(Instant::now());
            self.write();
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => return warn!("the proxy in the agent's channel ends: {error}"),
            };
            // The guest first: a new QEMU connects only when the one before has gone.
            for (source, flags) in ready {
                match source {
                    Source::Guest => self.read_guest(flags.contains(PollFlags::HUP)),
                    Source::Client(id) => self.read_client(id),
                    Source::Listener => self.accept(),
                    Source::Wake => while rustix::io::read(&self.wake, &mut [0; 64]).is_ok_and(|n| n > 0) {},
                }
            }
        }
    }

    /// Carries out what was ordered; false when there will be no more orders.
    fn obey(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Run { command, reply }) => self.run_own(&command, reply),
                Ok(Order::Hold(holds)) => self.holds = holds,
                Ok(Order::Release(held)) => self.release(|_| true, held),
                // Who does not wait for an answer any more has none.
                Ok(Order::State(reply)) => drop(reply.send(self.ledger.state())),
                Ok(Order::Exchanges(reply)) => drop(reply.send(self.ledger.exchanges())),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// A command of the harness, with a sync before it: should the agent have been restarted, its answer
    /// cannot be taken for another.
    fn run_own(&mut self, command: &[u8], reply: Sender<Vec<u8>>) {
        // QEMU may just have connected.
        self.accept();
        let t = clock::now();
        let sync = json!({ "execute": "guest-sync-delimited", "arguments": { "id": t } });
        let sync = [&[SENTINEL], sync.to_string().as_bytes()].concat();
        let owner = Owner::Harness(reply);
        self.hand_over(&sync, By::Harness, &owner, t);
        self.hand_over(command, By::Harness, &owner, t);
    }

    /// Puts a line on its way to the guest; without one it is gone, and its owner with it.
    fn hand_over(&mut self, line: &[u8], by: By, owner: &Owner, asked: Nanos) {
        let Some(guest) = &mut self.guest else { return };
        guest.out.extend(line);
        guest.out.push_back(b'\n');
        let end = guest.taken + guest.out.len() as u64;
        self.ledger.enter(&Command::of(line), by, owner, asked, end);
    }

    /// Whether the guest takes more.
    fn has_room(&self) -> bool {
        let room = |guest: &Peer| guest.out.len() < MOST_FOR_GUEST;
        self.guest.as_ref().is_some_and(room) && self.ledger.pending() < MOST_PENDING
    }

    /// Ends what has been held for as long as it may.
    fn end_holds(&mut self, now: Instant) {
        self.release(|until| until <= now, Held::FreezeAnswer);
        self.release(|until| until <= now, Held::Thaw);
    }

    /// Ends the holds whose ends are such.
    fn release(&mut self, ends: impl Fn(Instant) -> bool, held: Held) {
        let mut thaws = Vec::new();
        for client in &mut self.clients {
            match held {
                Held::FreezeAnswer => drop(client.answers.take_if(|until| ends(*until))),
                Held::Thaw => {
                    let thaw = client.thaw.take_if(|(.., until)| ends(*until));
                    thaws.extend(thaw.map(|(line, asked, _)| (client.id, line, asked)));
                }
            }
        }
        for (id, line, asked) in thaws {
            self.hand_over(&line, By::Outside, &Owner::Client(id), asked);
            // What it has sent after its thaw.
            self.pass_on(id);
        }
        self.clients.retain(|client| !client.is_gone || client.thaw.is_some());
    }

    /// Writes whatever a socket takes.
    fn write(&mut self) {
        if let Some(guest) = &mut self.guest
            && !guest.out.is_empty()
        {
            // Before, and not after: the agent may have the command as soon as it is written.
            let t = clock::now();
            let written = guest.write();
            self.ledger.sent(guest.taken, t);
            if let Err(error) = written {
                self.lose_guest(&error);
            }
        }
        for client in self.clients.iter_mut().filter(|client| !client.is_gone) {
            let written = if client.answers.is_some() { Ok(()) } else { client.peer.write() };
            if written.is_err() || client.peer.out.len() > MOST_FOR_CLIENT {
                client.is_gone = true;
            }
        }
        self.clients.retain(|client| !client.is_gone || client.thaw.is_some());
    }

    /// Waits until something can be done. What can only be written now is written in the next round.
    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = Vec::new();
        if let Some(guest) = &self.guest {
            sources.push((Source::Guest, &guest.stream, PollFlags::IN, !guest.out.is_empty()));
        }
        for client in self.clients.iter().filter(|client| !client.is_gone) {
            let reads = client.thaw.is_none() && self.has_room();
            let input = if reads { PollFlags::IN } else { PollFlags::empty() };
            let writes = !client.peer.out.is_empty() && client.answers.is_none();
            // Without either, the end of a connection would wake the thread again and again.
            if reads || writes {
                sources.push((Source::Client(client.id), &client.peer.stream, input, writes));
            }
        }
        let mut watched: Vec<_> = sources
            .iter()
            .map(|(_, stream, input, writes)| {
                let output = if *writes { PollFlags::OUT } else { PollFlags::empty() };
                PollFd::new(*stream, *input | output)
            })
            .collect();
        let others = [(Source::Listener, self.listener.as_fd()), (Source::Wake, self.wake.as_fd())];
        watched.extend(others.map(|(_, fd)| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let ends = self.clients.iter().flat_map(|client| {
            [client.answers, client.thaw.as_ref().map(|(.., until)| *until)].into_iter().flatten()
        });
        let left = ends.min().map(|end| end.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        while let Err(error) = poll(&mut watched, left.as_ref()) {
            if error != rustix::io::Errno::INTR {
                return Err(error.into());
            }
        }
        let names = sources.iter().map(|(source, ..)| *source).chain(others.map(|(source, _)| source));
        let ready = names.zip(watched.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if let Err(error) = stream.set_nonblocking(true) {
                warn!("a connection to the agent's channel cannot be served: {error}");
            } else if self.guest.is_none() {
                self.guest = Some(Peer::new(stream));
                self.noise = 0;
            } else if self.clients.len() < MOST_CLIENTS {
                self.met += 1;
                let (id, peer) = (self.met, Peer::new(stream));
                self.clients.push(Client { id, peer, thaw: None, answers: None, is_gone: false });
            }
        }
    }

    /// Takes what the guest sent: one chunk, or the rest when it has gone.
    fn read_guest(&mut self, to_its_end: bool) {
        loop {
            let Some(guest) = &mut self.guest else { return };
            let read = match guest.read() {
                Ok(read) => read,
                Err(error) => return self.lose_guest(&error),
            };
            self.noise += read;
            while let Some(line) = self.guest.as_mut().and_then(|guest| guest.lines.next(AGENT_LINE)) {
                self.take_answer(line);
            }
            if self.noise > AGENT_NOISE {
                let problem = format!("{} bytes came that are no answer", self.noise);
                return self.lose_guest(&io::Error::other(problem));
            }
            if !to_its_end || read == 0 {
                return;
            }
        }
    }

    fn take_answer(&mut self, line: Line) {
        let t = clock::now();
        let (delivery, line) = match line {
            Line::Whole(line) => {
                let Some(answer) = Answer::of(&line) else { return };
                (self.ledger.answer(&answer, t), line)
            }
            Line::TooLong => {
                let delivery = self.ledger.answer_too_long(AGENT_LINE, t);
                let reason = "the guest agent's answer does not end";
                let error = json!({ "error": { "class": "GenericError", "desc": reason } });
                (delivery, error.to_string().into_bytes())
            }
        };
        let Some(delivery) = delivery else { return };
        self.noise = 0;
        match delivery.to {
            // It may have given up by now. The sync before a command is nobody's.
            Owner::Harness(reply) => drop(delivery.exchange.map(|_| reply.send(line))),
            Owner::Client(id) => {
                let freezes =
                    delivery.exchange.as_ref().is_some_and(|it| it.is_freeze() && it.error.is_none());
                if let Some(exchange) = delivery.exchange {
                    self.tell(exchange);
                }
                let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
                client.peer.out.extend(line);
                client.peer.out.push_back(b'\n');
                if freezes && !self.holds.freeze_answer.is_zero() {
                    client.answers = Some(Instant::now() + self.holds.freeze_answer);
                }
            }
        }
    }

    /// Tells of the answer to a client, if it is about the freeze window.
    fn tell(&self, exchange: Exchange) {
        // Nobody has to listen.
        let _ = match exchange {
            freeze if freeze.is_freeze() => self.events.send(WindowEvent::FreezeAnswered(freeze)),
            thaw if thaw.is_thaw() => self.events.send(WindowEvent::ThawAnswered(thaw)),
            _ => Ok(()),
        };
    }

    fn read_client(&mut self, id: u64) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
        match client.peer.read() {
            Ok(_) => self.pass_on(id),
            Err(_) => client.is_gone = true,
        }
    }

    /// Hands over what a client has sent, up to a thaw that is held back.
    fn pass_on(&mut self, id: u64) {
        while let Some(client) = self.clients.iter_mut().find(|client| client.id == id)
            && client.thaw.is_none()
        {
            let line = match client.peer.lines.next(AGENT_LINE) {
                None => return,
                Some(Line::Whole(line)) => line,
                Some(Line::TooLong) => {
                    client.is_gone = true;
                    return;
                }
            };
            let asked = clock::now();
            if Command::of(&line).name == "guest-fsfreeze-thaw" {
                let _ = self.events.send(WindowEvent::ThawAsked(asked));
                if !self.holds.thaw.is_zero() && self.ledger.state() != FreezeState::Thawed {
                    client.thaw = Some((line, asked, Instant::now() + self.holds.thaw));
                    return;
                }
            }
            self.hand_over(&line, By::Outside, &Owner::Client(id), asked);
        }
    }

    /// QEMU has gone: its clients lose their connections, as they would without a proxy.
    fn lose_guest(&mut self, error: &io::Error) {
        debug!("QEMU's end of the agent's channel is closed: {error}");
        self.guest = None;
        self.clients.clear();
        self.ledger.lose_all();
    }
}
