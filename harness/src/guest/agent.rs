//! The guest agent, over the channel that libvirt owns.
//!
//! Every command and answer goes to `agent.jsonl`. Answers are guest output:
//! they are bounded and never trusted to be well formed.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use virt::domain::Domain;

use crate::clock;
use crate::error::{Error, Result};
use crate::host;
use crate::interrupt;
use crate::jsonl;

/// The `kind` in the header of `agent.jsonl`.
const KIND: &str = "agent";

/// The longest answer kept in the transcript, bytes; the rest is counted.
const TRANSCRIPT_LIMIT: usize = 4096;

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
        Ok(Self(Arc::new(Mutex::new(jsonl::Writer::create(path, KIND)?))))
    }

    fn record(&self, exchange: &Exchange) {
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The transcript is evidence for people; a full disk shows elsewhere.
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

/// The agent of one guest.
#[derive(Debug, Clone)]
pub struct Agent {
    domain: Domain,
    guest: String,
    transcript: Transcript,
    timeout: Duration,
}

impl Agent {
    pub(crate) fn new(domain: Domain, guest: String, transcript: Transcript, timeout: Duration) -> Self {
        Self { domain, guest, transcript, timeout }
    }

    /// The same agent, waited for at most so long.
    pub(crate) fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// Freezes all file systems, the hook first; returns how many. `timeout`
    /// bounds the wait for the agent, not the agent.
    pub fn freeze(&self, timeout: Duration) -> Result<u32> {
        self.filesystems("freeze", timeout, host::fs_freeze)
    }

    /// Thaws all file systems, the hook last; returns how many.
    pub fn thaw(&self, timeout: Duration) -> Result<u32> {
        self.filesystems("thaw", timeout, host::fs_thaw)
    }

    /// The version that the agent says it has.
    pub fn version(&self) -> Result<String> {
        let info = self.command("guest-info", json!({}))?;
        let version = info["version"].as_str().map(super::console::printable);
        version.ok_or_else(|| self.nonsense("guest-info", &info))
    }

    /// Whether the agent believes that it has frozen file systems.
    pub fn is_frozen(&self) -> Result<bool> {
        let status = self.command("guest-fsfreeze-status", json!({}))?;
        Ok(status == "frozen")
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
        let pid = started["pid"].as_i64().ok_or_else(|| self.nonsense("guest-exec", &started))?;
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(10);
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
            if Instant::now() > deadline {
                let seconds = limit.as_secs();
                return Err(Error::Guest(format!("`{line}` did not end within {seconds} s in the guest")));
            }
            // The agent has no event for the end of a command.
            interrupt::pass(pause)?;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    /// Like [`Agent::shell`], and an exit code other than 0 is an error.
    pub fn script(&self, line: &str, input: &[u8], limit: Duration) -> Result<Vec<u8>> {
        let exec = self.shell(line, input, limit)?;
        if exec.code == Some(0) {
            return Ok(exec.stdout);
        }
        let output = String::from_utf8_lossy(&exec.stderr);
        Err(Error::Guest(format!(
            "`{}` failed in the guest with {}: {}",
            line.chars().take(200).collect::<String>(),
            exec.code.map_or("a signal".to_owned(), |code| format!("exit code {code}")),
            super::console::printable(output.trim())
        )))
    }

    fn filesystems(
        &self,
        verb: &str,
        timeout: Duration,
        call: fn(&Domain) -> std::result::Result<u32, virt::error::Error>,
    ) -> Result<u32> {
        let t = clock::now();
        let result = host::set_agent_timeout(&self.domain, timeout).and_then(|()| call(&self.domain));
        let answer = match &result {
            Ok(count) => count.to_string(),
            Err(e) => e.to_string(),
        };
        self.record(t, format!("fs-{verb}"), answer);
        result.map_err(Error::libvirt(format!("{verb} the guest")))
    }

    fn command(&self, name: &str, arguments: Value) -> Result<Value> {
        let command = json!({ "execute": name, "arguments": arguments }).to_string();
        let t = clock::now();
        let seconds = i32::try_from(self.timeout.as_secs()).unwrap_or(i32::MAX);
        let answer = self.domain.qemu_agent_command(&command, seconds, 0);
        self.record(
            t,
            command,
            match &answer {
                Ok(text) => text.clone(),
                Err(e) => e.to_string(),
            },
        );
        let answer = answer.map_err(Error::libvirt(format!("run {name} through the guest agent")))?;
        let mut answer: Value =
            serde_json::from_str(&answer).map_err(|_| self.nonsense(name, &answer.into()))?;
        Ok(answer["return"].take())
    }

    fn record(&self, t: u64, command: String, answer: String) {
        let guest = self.guest.clone();
        let (command, answer) = (bounded(command), bounded(answer));
        self.transcript.record(&Exchange { t, end: clock::now(), guest, command, answer });
    }

    fn nonsense(&self, command: &str, answer: &Value) -> Error {
        let shown = super::console::printable(&answer.to_string());
        Error::Guest(format!(
            "the agent of the {} guest answered {command} with nonsense: {shown}",
            self.guest
        ))
    }
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
