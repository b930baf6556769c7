//! The guest agent, reached over libvirt's channel or over a serial port.
//!
//! Every command and answer goes to `agent.jsonl`. Answers come from the guest: they are bounded,
//! and never trusted to be well formed.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use contract::jsonl;
use contract::text::printable;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::debug;
use virt::domain::Domain;

use super::agent_proxy::AgentProxy;
use super::serial::Serial;
use crate::bounds::{AGENT_ANSWER, TRANSCRIPT};
use crate::clock;
use crate::error::{AgentError, Error, Result};
use crate::guest_end::Fate;
use crate::host;
use crate::interrupt;

/// The `kind` in the header of `agent.jsonl`.
const KIND: &str = "agent";

/// The pause between two polls for the end of a command.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The most bytes that are written at once: as many as the agent of an emulated guest parses in a second.
const PIECE: usize = 64 << 10;

/// The longest answer kept in the transcript, bytes; the rest is counted.
const TRANSCRIPT_LIMIT: usize = 4096;

/// How much of a shell command an error shows, characters.
const SHOWN_COMMAND: usize = 200;

/// One exchange in `agent.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
struct Exchange {
    /// When the command was sent, host monotonic nanoseconds.
    t: u64,
    /// When it was answered.
    end: u64,
    guest: String,
    command: String,
    answer: String,
}

/// The transcript that the guests of one trial share.
#[derive(Debug, Clone)]
pub struct Transcript(Arc<Mutex<jsonl::Writer<Exchange>>>);

impl Transcript {
    /// Creates `agent.jsonl`.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self(Arc::new(Mutex::new(jsonl::Writer::bounded(path, KIND, TRANSCRIPT)?))))
    }

    fn record(&self, exchange: &Exchange) {
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The transcript is for people; a full disk is reported elsewhere.
        let _ = writer.write(exchange).and_then(|()| writer.flush());
    }
}

/// A command that ran inside the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i64>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// How an agent is reached.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    /// virtio-serial: libvirt's own.
    Libvirt(Domain),
    /// isa-serial, which libvirt does not support for agents.
    Serial(Arc<Serial>),
    /// Past libvirt, which may be waiting for an answer of its own.
    Proxy(Arc<AgentProxy>),
}

/// The agent of one guest.
#[derive(Debug, Clone)]
pub struct Agent {
    transport: Transport,
    guest: String,
    transcript: Transcript,
    timeout: Duration,
    /// Its guest's.
    fate: Fate,
}

impl Agent {
    pub(crate) fn new(
        transport: Transport,
        guest: String,
        transcript: Transcript,
        timeout: Duration,
        fate: Fate,
    ) -> Self {
        Self { transport, guest, transcript, timeout, fate }
    }

    /// Whether its guest is gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.fate.end().is_some()
    }

    /// The same agent with another time limit for each answer.
    pub(crate) fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// Whether libvirt sends events when this agent connects and disconnects.
    pub(crate) fn is_announced(&self) -> bool {
        !matches!(self.transport, Transport::Serial(_))
    }

    /// Fails when the agent does not answer.
    pub(crate) fn ping(&self) -> Result<()> {
        self.command("guest-ping", json!({})).map(drop)
    }

    /// Runs the hook, then freezes all file systems; returns how many. `timeout` bounds the wait
    /// for the agent, not the agent.
    pub fn freeze(&self, timeout: Duration) -> Result<u32> {
        match &self.transport {
            Transport::Libvirt(domain) => self.filesystems(domain, "freeze", timeout, host::fs_freeze),
            Transport::Serial(_) | Transport::Proxy(_) => {
                self.with_timeout(timeout).counted("guest-fsfreeze-freeze")
            }
        }
    }

    /// Thaws all file systems, then runs the hook; returns how many.
    pub fn thaw(&self, timeout: Duration) -> Result<u32> {
        match &self.transport {
            Transport::Libvirt(domain) => self.filesystems(domain, "thaw", timeout, host::fs_thaw),
            Transport::Serial(_) | Transport::Proxy(_) => {
                self.with_timeout(timeout).counted("guest-fsfreeze-thaw")
            }
        }
    }

    /// The version that the agent reports.
    pub fn version(&self) -> Result<String> {
        let info = self.command("guest-info", json!({}))?;
        let version = info["version"].as_str().map(printable);
        version.ok_or_else(|| self.invalid("guest-info", &info))
    }

    /// Whether the agent believes that it has frozen file systems.
    pub fn is_frozen(&self) -> Result<bool> {
        let status = self.command("guest-fsfreeze-status", json!({}))?;
        Ok(status == "frozen")
    }

    /// The operating system of its guest, as `guest-get-osinfo` names it.
    pub(crate) fn os(&self) -> Result<String> {
        let name = "guest-get-osinfo";
        let info = self.command(name, json!({}))?;
        let id = info["id"].as_str().ok_or_else(|| self.invalid(name, &info))?;
        Ok(printable(id))
    }

    /// The kinds of the file systems of its guest, one for each that it lists.
    pub(crate) fn file_system_kinds(&self) -> Result<Vec<String>> {
        let name = "guest-get-fsinfo";
        let list = self.command(name, json!({}))?;
        let volumes = list.as_array().ok_or_else(|| self.invalid(name, &list))?;
        Ok(volumes.iter().filter_map(|volume| volume["type"].as_str()).map(str::to_owned).collect())
    }

    /// Runs a line of shell as root and waits for its end, at most for `limit`.
    pub fn shell(&self, line: &str, input: &[u8], limit: Duration) -> Result<Exec> {
        let started = self.command(
            "guest-exec",
            json!({
                "path": "/bin/sh", "arg": ["-c", line], "capture-output": true,
                "input-data": BASE64.encode(input),
            }),
        )?;
        let pid = started["pid"].as_i64().ok_or_else(|| self.invalid("guest-exec", &started))?;
        let begun = Instant::now();
        loop {
            let status = self.command("guest-exec-status", json!({ "pid": pid }))?;
            if status["exited"] == true {
                let bytes =
                    |key: &str| BASE64.decode(status[key].as_str().unwrap_or_default()).unwrap_or_default();
                return Ok(Exec {
                    code: status["exitcode"].as_i64(),
                    stdout: bytes("out-data"),
                    stderr: bytes("err-data"),
                });
            }
            let elapsed = begun.elapsed();
            if elapsed > limit {
                let (guest, command) = (self.guest.clone(), beginning(line));
                return Err(AgentError::Unfinished { guest, command, limit }.into());
            }
            // The agent has no event for the end of a command, and each poll costs the guest some
            // milliseconds: so the pause grows with the time that has passed.
            interrupt::pass((elapsed / 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE))?;
        }
    }

    /// Like [`Agent::shell`], and an exit code other than 0 is an error.
    pub fn script(&self, line: &str, input: &[u8], limit: Duration) -> Result<Vec<u8>> {
        self.check(self.shell(line, input, limit)?, line)
    }

    /// Writes this file of the guest, a quoted path, piece by piece: an agent parses what it is told character by
    /// character, and answers nothing meanwhile.
    pub fn write(&self, file: &str, content: &[u8], limit: Duration) -> Result<()> {
        self.script(&format!(": > {file}"), b"", limit)?;
        for piece in content.chunks(PIECE) {
            self.script(&format!("cat >> {file}"), piece, limit)?;
        }
        Ok(())
    }

    /// The standard output of `line`, which ended like this; an exit code other than 0 is an error.
    pub(crate) fn check(&self, Exec { code, stdout, stderr }: Exec, line: &str) -> Result<Vec<u8>> {
        if code == Some(0) {
            return Ok(stdout);
        }
        let stderr = printable(String::from_utf8_lossy(&stderr).trim());
        Err(AgentError::Failed { guest: self.guest.clone(), command: beginning(line), code, stderr }.into())
    }

    fn filesystems(
        &self,
        domain: &Domain,
        verb: &str,
        timeout: Duration,
        call: fn(&Domain) -> std::result::Result<u32, virt::error::Error>,
    ) -> Result<u32> {
        let t = clock::now();
        let result = host::set_agent_timeout(domain, timeout).and_then(|()| call(domain));
        let answer = match &result {
            Ok(count) => count.to_string(),
            Err(e) => e.to_string(),
        };
        self.record(t, format!("fs-{verb}"), answer);
        result.map_err(Error::libvirt(format!("{verb} the guest")))
    }

    /// Runs a command whose answer is a number of file systems.
    fn counted(&self, name: &str) -> Result<u32> {
        let count = self.command(name, json!({}))?;
        count.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| self.invalid(name, &count))
    }

    fn command(&self, name: &str, arguments: Value) -> Result<Value> {
        let mut command = json!({ "execute": name, "arguments": arguments });
        let text = command.to_string();
        let t = clock::now();
        let answer = match &self.transport {
            Transport::Libvirt(domain) => {
                let seconds = i32::try_from(self.timeout.as_secs()).unwrap_or(i32::MAX);
                let failed = Error::libvirt(format!("run {name} through the guest agent"));
                domain.qemu_agent_command(&text, seconds, 0).map_err(failed)
            }
            Transport::Serial(serial) => serial.send_command(&text, self.timeout),
            Transport::Proxy(proxy) => proxy.send_command(&text, self.timeout),
        };
        // A command's input may be secret.
        if let Some(Value::String(input)) = command["arguments"].get_mut("input-data") {
            *input = format!("{} bytes", input.len());
        }
        self.record(
            t,
            command.to_string(),
            match &answer {
                Ok(text) => text.clone(),
                Err(e) => e.to_string(),
            },
        );
        let answer = answer?;
        if answer.len() > AGENT_ANSWER {
            return Err(AgentError::Endless(AGENT_ANSWER).into());
        }
        let mut answer: Value =
            serde_json::from_str(&answer).map_err(|_| self.invalid(name, &answer.into()))?;
        if let Some(reason) = answer["error"]["desc"].as_str() {
            let (guest, command, reason) = (self.guest.clone(), name.to_owned(), printable(reason));
            return Err(AgentError::Refused { guest, command, reason }.into());
        }
        match answer.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => Err(self.invalid(name, &answer)),
        }
    }

    fn record(&self, t: u64, command: String, answer: String) {
        let guest = self.guest.clone();
        let (command, answer) = (bounded(command), bounded(answer));
        let end = clock::now();
        debug!("the agent of the {guest} guest answered {command} after {:.3} s", (end - t) as f64 / 1e9);
        self.transcript.record(&Exchange { t, end, guest, command, answer });
    }

    fn invalid(&self, command: &str, answer: &Value) -> Error {
        let (guest, answer) = (self.guest.clone(), printable(&answer.to_string()));
        AgentError::Invalid { guest, command: command.to_owned(), answer }.into()
    }
}

/// The beginning of a shell command, for an error.
fn beginning(line: &str) -> String {
    line.chars().take(SHOWN_COMMAND).collect()
}

fn bounded(mut text: String) -> String {
    if text.len() > TRANSCRIPT_LIMIT {
        let cut = (0..=TRANSCRIPT_LIMIT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let rest = text.len() - cut;
        text.truncate(cut);
        text.push_str(&format!("... and {rest} bytes"));
    }
    text
}
