//! A proxy in the channel of a guest's agent: the harness sees every command and answer, whoever sends it, at the
//! time at which it passes; it can run commands of its own when libvirt or a backup tool hangs or is gone; and it
//! thaws whatever was left frozen.
//!
//! QEMU and libvirt both connect to its socket, which the domain names as `<source mode='connect' path='..'/>`: QEMU
//! when it starts, and so first, libvirt whenever the agent opens its port. `guest/agent_proxy/ledger.rs` says whose
//! answer is whose.

mod ledger;
mod line;
mod serve;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use contract::text::printable;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};

pub use self::ledger::{By, Exchange, FreezeState};
pub use self::serve::{Held, Holds, WindowEvent};
use self::serve::{Order, Server};
use crate::bounds::AGENT_ANSWER;
use crate::error::{AgentError, Error, Result};
use crate::host::guest_user;

/// How long a proxy that is dropped waits for its thaw.
const LAST_THAW: Duration = Duration::from_secs(20);

/// A proxy in the channel of one guest's agent. Dropping it thaws the guest, if it is or may be frozen.
#[derive(Debug)]
pub struct AgentProxy {
    /// Which of the trial's guests, for errors.
    guest: &'static str,
    socket: PathBuf,
    /// `None` only while it is dropped.
    orders: Option<Sender<Order>>,
    /// A byte in it makes the thread look for orders.
    wake: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl AgentProxy {
    /// Listens at `socket`, for the guest of this role. To be called before the guest is started. What
    /// clients do about the freeze window comes out of the channel.
    pub fn listen(guest: &'static str, socket: &Path) -> Result<(Self, Receiver<WindowEvent>)> {
        let start = || -> io::Result<_> {
            let listener = UnixListener::bind(socket)?;
            listener.set_nonblocking(true)?;
            let (woken, wake) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            let (orders, obeyed) = channel();
            let (events, told) = channel();
            let server = Server::new(listener, woken, obeyed, events);
            let thread = thread::Builder::new().name("agent".to_owned()).spawn(move || server.run())?;
            let (orders, thread) = (Some(orders), Some(thread));
            Ok((Self { guest, socket: socket.to_owned(), orders, wake, thread }, told))
        };
        let proxy = start().map_err(Error::io("listen at", socket))?;
        guest_user::give(socket)?;
        Ok(proxy)
    }

    /// Where QEMU and libvirt connect.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Holds back from now on what these say.
    pub fn hold(&self, holds: Holds) {
        self.order(Order::Hold(holds));
    }

    /// Lets pass what is held back now.
    pub fn release(&self, held: Held) {
        self.order(Order::Release(held));
    }

    /// Whether the guest is frozen, by what its agent has answered so far.
    pub fn state(&self) -> FreezeState {
        self.ask(Order::State).unwrap_or(FreezeState::Unsure)
    }

    /// The latest commands, some thousands, in the order of their answers, and then those without.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.ask(Order::Exchanges).unwrap_or_default()
    }

    /// Thaws all file systems, then runs the hook; returns how many. The agent may carry it out later than
    /// `limit`, because it finishes first what it does now.
    pub fn thaw(&self, limit: Duration) -> Result<u32> {
        let name = "guest-fsfreeze-thaw";
        let count = self.run(name, limit)?;
        count.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| self.invalid(name, &count))
    }

    /// Whether the agent believes that it has frozen file systems.
    pub fn is_frozen(&self, limit: Duration) -> Result<bool> {
        Ok(self.run("guest-fsfreeze-status", limit)? == "frozen")
    }

    /// Sends a command and returns the line that answers it, unparsed.
    pub fn send_command(&self, command: &str, limit: Duration) -> Result<String> {
        let (reply, answer) = channel();
        self.order(Order::Run { command: command.into(), reply });
        match answer.recv_timeout(limit) {
            Ok(line) if line.len() > AGENT_ANSWER => Err(AgentError::Endless(AGENT_ANSWER).into()),
            Ok(line) => Ok(String::from_utf8_lossy(&line).into_owned()),
            Err(RecvTimeoutError::Timeout) => Err(AgentError::Late(limit).into()),
            Err(RecvTimeoutError::Disconnected) => Err(AgentError::Lost(self.guest.to_owned()).into()),
        }
    }

    /// Runs a command without arguments.
    fn run(&self, name: &str, limit: Duration) -> Result<Value> {
        let answer = self.send_command(&json!({ "execute": name }).to_string(), limit)?;
        let answer: Value = serde_json::from_str(&answer).map_err(|_| self.invalid(name, &answer.into()))?;
        if let Some(reason) = answer["error"]["desc"].as_str() {
            let (guest, command, reason) = (self.guest.to_owned(), name.to_owned(), printable(reason));
            return Err(AgentError::Refused { guest, command, reason }.into());
        }
        Ok(answer["return"].clone())
    }

    fn invalid(&self, command: &str, answer: &Value) -> Error {
        let (guest, command) = (self.guest.to_owned(), command.to_owned());
        AgentError::Invalid { guest, command, answer: printable(&answer.to_string()) }.into()
    }

    /// Asks the thread; `None` when it has ended, which it does on an error of the host only.
    fn ask<T>(&self, question: impl FnOnce(Sender<T>) -> Order) -> Option<T> {
        let (reply, answer) = channel();
        self.order(question(reply));
        answer.recv().ok()
    }

    fn order(&self, order: Order) {
        // A thread that has ended has said why, and whoever waits for an answer learns that there is none.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
        // A pipe that is full wakes it as well.
        let _ = rustix::io::write(&self.wake, &[0]);
    }
}

impl Drop for AgentProxy {
    fn drop(&mut self) {
        if self.state() != FreezeState::Thawed {
            // The error that led here is the one to report.
            let _ = self.thaw(LAST_THAW);
        }
        self.orders = None;
        let _ = rustix::io::write(&self.wake, &[0]);
        // A panic of the thread was reported when it happened.
        let _ = self.thread.take().map(JoinHandle::join);
        let _ = fs::remove_file(&self.socket);
    }
}
