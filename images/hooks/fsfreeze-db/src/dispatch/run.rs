//! One hook at one verb, within its limit.

use std::env;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};

use super::hooks::Hook;
use crate::call::{self, CALL, ROLLS_BACK};
use crate::message::Answer;
use crate::settings;

/// What is kept of a hook's output: this many bytes of its end, and of those, this many lines.
const KEPT_BYTES: u64 = 16 << 10;
const KEPT_LINES: usize = 20;

/// How a hook has ended.
pub(super) enum Outcome {
    Exit(i32),
    /// Not in time: it was ended.
    Late,
    /// It could not even be started, for this reason.
    NotRun(String),
}

/// Runs it with one more variable in its environment, unless that has no name; gives the end of its output.
pub(super) fn run(hook: &Hook, verb: &str, told: (&str, &str), limit: Duration) -> (Outcome, String) {
    match hook {
        Hook::Databases(settings) => {
            let answer = match (verb, settings) {
                ("thaw", settings) => {
                    let rolls_back = (told.0 == ROLLS_BACK).then(|| told.1.to_owned());
                    call::thaw(settings, &settings::file(), rolls_back)
                }
                (_, Err(failure)) => failure.clone().into(),
                ("freeze", Ok(settings)) => call::freeze(settings, Some(told.1.to_owned()), limit),
                ("check", Ok(settings)) => call::check(settings, limit),
                (_, Ok(settings)) => call::status(settings, false),
            };
            let Answer { exit, says } = answer;
            let says = says.trim_end();
            // As it is when an administrator asks for it alone.
            let says =
                if verb == "status" { format!("{says}\n") } else { format!("fsfreeze-db: {verb}: {says}\n") };
            (Outcome::Exit(exit as i32), says)
        }
        Hook::Program(file) => start(file, verb, told, limit).unwrap_or_else(|error| {
            (Outcome::NotRun(format!("cannot start {}: {error}", file.display())), String::new())
        }),
    }
}

/// The output goes to memory: a process that the hook leaves in the background may keep it open for as long
/// as it likes, while an open pipe would hold up the agent, which reads until it closes.
fn start(file: &Path, verb: &str, told: (&str, &str), limit: Duration) -> std::io::Result<(Outcome, String)> {
    let output = File::from(memfd_create("output", MemfdFlags::CLOEXEC)?);
    let mut command = Command::new(file);
    command.arg(verb).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    command.env("PATH", path()).env("LC_ALL", "C").env_remove(CALL).env_remove(ROLLS_BACK);
    if !told.0.is_empty() {
        command.env(told.0, told.1);
    }
    // A group of its own, so that nothing of it is left when it has to be ended.
    let mut child = command.process_group(0).spawn()?;
    let group = Pid::from_child(&child);
    let (send, receive) = mpsc::channel();
    thread::spawn(move || send.send(child.wait()));
    let outcome = match receive.recv_timeout(limit) {
        Ok(status) => {
            let status = status?;
            // As a shell says it.
            Outcome::Exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
        }
        Err(_) => {
            let _ = kill_process_group(group, Signal::KILL);
            Outcome::Late
        }
    };
    Ok((outcome, end_of(&output)))
}

fn end_of(output: &File) -> String {
    let length = output.metadata().map_or(0, |it| it.len());
    let from = length.saturating_sub(KEPT_BYTES);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or_default()];
    if output.read_exact_at(&mut bytes, from).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(KEPT_LINES)..].iter().map(|line| format!("{line}\n")).collect()
}

/// Where programs are found: an agent has hardly a PATH.
pub(super) fn path() -> String {
    let own =
        env::var("PATH").ok().filter(|path| !path.is_empty()).map(|path| path + ":").unwrap_or_default();
    own + "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}
