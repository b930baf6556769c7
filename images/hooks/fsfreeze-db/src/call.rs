//! What the agent, or an administrator, calls: each verb asks the process that holds the locks, or starts it.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use procfs::process::Process;
use rustix::process::{Pid, Signal, kill_process};

use crate::exit::{Exit, Failure};
use crate::hold::{ACCEPT, NOT_HEARD, runtime};
use crate::message::{self, Answer, Request};
use crate::mysql;
use crate::ours;
use crate::servers::{self, Kind, ProcessId};
use crate::settings::Settings;
use crate::state::{self, Stage};

/// The name of a dispatcher's call; a hook that is thawed because another one failed is told of it.
pub(crate) const CALL: &str = "FSFREEZE_HOOK_CALL";

/// The call whose freezes a dispatcher takes back.
pub(crate) const ROLLS_BACK: &str = "FSFREEZE_HOOK_ROLLS_BACK";

/// Beyond the limit of the locks, for giving up.
const GIVING_UP: Duration = Duration::from_secs(5);

/// For the holder's answer to a thaw.
const ANSWER: Duration = Duration::from_secs(15);

/// A window that is longer was over before its snapshot was: the locks never last that long.
const LONGEST_WINDOW: Duration = Duration::from_secs(3600);

/// For a holder to end, or to open its socket again.
const SOON: Duration = Duration::from_secs(3);

/// How often it is looked at meanwhile.
const POLL: Duration = Duration::from_millis(20);

/// Takes the locks, and leaves a process behind that holds them. `call` is the dispatcher's name for this
/// call, and `limit` how long it has.
pub(crate) fn freeze(settings: &Settings, call: Option<String>, limit: Duration) -> Answer {
    let directory = settings.run_directory.as_path();
    if let Err(error) = state::make_directory(directory) {
        return Failure::refused(format!("cannot write to {}: {error}", directory.display())).into();
    }
    if let Some(holder) = holding(directory) {
        let since =
            state::read(directory).map_or_else(|| "now".to_owned(), |it| format!("since {}", it.since));
        return Failure::refused(format!(
            "the locks of another freeze are held {since}, by process {}: thaw that one first",
            holder.pid
        ))
        .into();
    }
    // What is left of an earlier one that nobody holds any more is no obstacle.
    state::forget(directory);
    start_holder(settings, Some(call), limit)
}

/// Takes the locks, and releases them at once.
pub(crate) fn check(settings: &Settings, limit: Duration) -> Answer {
    let directory = settings.run_directory.as_path();
    if let Some(holder) = holding(directory) {
        let says =
            format!("a freeze holds the locks now, process {}: check again after its thaw", holder.pid);
        return Failure::refused(says).into();
    }
    if let Err(error) = state::make_directory(directory) {
        return Failure::refused(format!("cannot write to {}: {error}", directory.display())).into();
    }
    start_holder(settings, None, limit)
}

/// Proves that the locks lasted until now, and releases them. Settings that have become unreadable since the
/// freeze keep no lock: all that a thaw needs of them is the directory.
pub(crate) fn thaw(settings: &Result<Settings, Failure>, file: &Path, rolls_back: Option<String>) -> Answer {
    let failure = match settings {
        Ok(settings) => return release(settings, rolls_back),
        Err(failure) => failure,
    };
    let settings = Settings::with_directory_of(file);
    match holder(&settings.run_directory) {
        Some(_) => release(&settings, rolls_back),
        None => failure.clone().into(),
    }
}

fn release(settings: &Settings, rolls_back: Option<String>) -> Answer {
    let directory = settings.run_directory.as_path();
    let is_rolled_back = rolls_back.is_some();
    let request = Request::Thaw { rolls_back };
    // First of all, for writers wait: in this directory nobody else listens.
    let asked = connect(directory).ok().map(|stream| ask(stream, &request));
    if let Some(Ok(answer)) = asked {
        return answer;
    }
    if let Some(holder) = holder(directory) {
        match asked.unwrap_or_else(|| ask_holder(directory, holder, &request)) {
            Ok(answer) => return answer,
            // It may have ended in this moment: its state says how.
            Err(_) if holder.ends_within(SOON) => {}
            // A freeze that is under way has a caller, and a limit, of its own.
            Err(_) if !is_held_by(directory, holder) => {
                let process = holder.pid;
                let says = "takes the locks of a freeze that is under way, and was left alone";
                return Failure::refused(format!("nothing is locked yet: process {process} {says}")).into();
            }
            Err(error) => {
                // Whatever it does, it must not keep the writers waiting.
                signal(holder, Signal::KILL);
                let says = format!("the process that held the locks did not answer, and was ended: {error}");
                return lost(directory, &says);
            }
        }
    }
    set_back(settings);
    let Some(state) = state::read(directory) else { return Answer::done("nothing was locked") };
    if is_rolled_back {
        return Answer::done("nothing of this call was locked");
    }
    match &state.stage {
        Stage::Held => lost(directory, "the process that held the locks has ended"),
        Stage::Lost { why } => lost(directory, why),
        Stage::Expired => {
            state::forget(directory);
            let limit = settings.hold_limit().as_secs();
            let why = format!("it was released at {}, after {limit} s without a thaw", state.since);
            Answer::not_held(Exit::HeldTooLong, &why)
        }
        // A thaw that comes later belongs to no freeze of ours.
        Stage::Thawed { by } if state.age_seconds() < LONGEST_WINDOW.as_secs() => Answer {
            exit: Exit::ReleasedBefore,
            says: format!(
                "the lock was released {} s ago, at {}, by an earlier thaw ({by}): if a backup was still being \
                 taken then, it is not application-consistent",
                state.age_seconds(),
                state.since
            ),
        },
        Stage::Thawed { .. } => Answer::done("nothing was locked"),
    }
}

/// Whether the locks are held, and how the latest freeze went.
pub(crate) fn status(settings: &Settings, as_json: bool) -> Answer {
    let directory = settings.run_directory.as_path();
    let state = state::read(directory);
    let answer = match holder(directory) {
        Some(holder) => ask_holder(directory, holder, &Request::Status).unwrap_or_else(|error| {
            let process = holder.pid;
            if is_held_by(directory, holder) {
                let why = format!("process {process}, which holds the locks, does not answer: {error}");
                Failure { exit: Exit::LockLost, why }.into()
            } else {
                Failure::refused(format!("not locked yet: process {process} takes the locks now")).into()
            }
        }),
        None => Failure::refused("not locked").into(),
    };
    let says = if as_json {
        let is_locked = answer.exit == Exit::Done;
        let text = serde_json::json!({ "locked": is_locked, "says": answer.says, "latest_freeze": state });
        format!("{text:#}")
    } else {
        let latest = state.map(|state| state.to_string());
        [Some(answer.says), latest].into_iter().flatten().collect::<Vec<_>>().join("\n")
    };
    Answer { says, ..answer }
}

/// Starts the process that takes the locks for this call, or only for a check, and waits for its report.
fn start_holder(settings: &Settings, freezes: Option<Option<String>>, limit: Duration) -> Answer {
    let limit = limit.min(settings.lock_limit() + GIVING_UP);
    let only_check = freezes.is_none();
    let verb = if only_check { "hold-nothing" } else { "hold" };
    let mut command = Command::new("/proc/self/exe");
    command.env_remove(CALL).env_remove(ROLLS_BACK);
    if let Some(Some(call)) = freezes {
        command.env(CALL, call);
    }
    let spawned = command
        .arg0("fsfreeze-db")
        .arg(verb)
        .arg(&settings.run_directory)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return Failure::refused(format!("cannot start a process: {error}")).into(),
    };
    match heard(&mut child, limit) {
        Ok(answer) => {
            if answer.exit == Exit::Done && !only_check {
                let accepted = child.stdin.take().map(|mut stdin| stdin.write_all(ACCEPT));
                // A holder that has nothing to hold has gone.
                if !matches!(accepted, Some(Ok(()))) && state::read(&settings.run_directory).is_some() {
                    return Failure::refused(NOT_HEARD).into();
                }
            } else {
                let _ = child.wait();
            }
            answer
        }
        Err(why) => {
            // It ends what it waits for when it hears nothing more of us.
            drop(child.stdin.take());
            if let Some(holder) = ProcessId::of_child(&child)
                && !holder.ends_within(SOON)
            {
                let _ = child.kill();
            }
            let _ = child.wait();
            Failure::refused(why).into()
        }
    }
}

/// The first line of its output.
fn heard(child: &mut Child, limit: Duration) -> Result<Answer, String> {
    let stdout = child.stdout.take().ok_or("it has no output")?;
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut line = Vec::new();
        let _ = BufReader::new(stdout.take(message::MOST as u64)).read_until(b'\n', &mut line);
        let _ = send.send(line);
    });
    let line = receive.recv_timeout(limit).map_err(|_| format!("no lock within {} s", limit.as_secs()))?;
    message::parse(&line).map_err(|_| "the process that takes the locks ended without a word".to_owned())
}

/// The process that holds the locks: the one that the state names, or else the one that is what it should be,
/// for the directory may be gone.
fn holder(directory: &Path) -> Option<ProcessId> {
    let named = state::read(directory).map(|state| state.holder);
    if let Some(named) = named.filter(|named| named.is_alive()) {
        return Some(named);
    }
    let file = |place: &Path| fs::metadata(place).map(|file| (file.dev(), file.ino())).ok();
    let program = file(Path::new("/proc/self/exe"));
    let is_holder = |pid: i32| {
        let place = Path::new("/proc").join(pid.to_string());
        // Another program may call itself anything: one of a user's that is root for a moment, one in a container.
        let ours = || {
            program.is_some()
                && file(&place.join("exe")) == program
                && Process::new(pid).is_ok_and(|process| ours::is_ours(&process))
        };
        let words = [b"fsfreeze-db\0hold\0", directory.as_os_str().as_bytes(), b"\0"].concat();
        fs::read(place.join("cmdline")).is_ok_and(|line| line == words) && ours()
    };
    let found = servers::pids().ok()?.filter(|pid| is_holder(*pid)).find_map(|pid| Process::new(pid).ok());
    found.and_then(|process| ProcessId::of(&process))
}

/// The same, unless it is about to end: it has answered a thaw, or whoever froze was killed before it knew.
fn holding(directory: &Path) -> Option<ProcessId> {
    let holder = holder(directory)?;
    (is_held_by(directory, holder) || !holder.ends_within(SOON)).then_some(holder)
}

/// The state says that this process holds the locks, and does not only take them.
fn is_held_by(directory: &Path, holder: ProcessId) -> bool {
    state::read(directory).is_some_and(|it| it.holder == holder && it.stage == Stage::Held)
}

fn ask_holder(directory: &Path, holder: ProcessId, request: &Request) -> io::Result<Answer> {
    let stream = match connect(directory) {
        Ok(stream) => stream,
        Err(_) => {
            // Somebody has removed it: the holder makes a new one. It would end one that has only just begun.
            if hears_hangups(holder) {
                signal(holder, Signal::HUP);
            }
            let limit = Instant::now() + SOON;
            loop {
                match connect(directory) {
                    Ok(stream) => break stream,
                    Err(error) if Instant::now() > limit || !holder.is_alive() => return Err(error),
                    Err(_) => thread::sleep(POLL),
                }
            }
        }
    };
    ask(stream, request)
}

/// To whoever listens in the directory, which has to be ours.
fn connect(directory: &Path) -> io::Result<UnixStream> {
    state::check_directory(directory)?;
    UnixStream::connect(state::socket(directory))
}

fn ask(mut stream: UnixStream, request: &Request) -> io::Result<Answer> {
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(&message::line(request))?;
    let mut line = Vec::new();
    BufReader::new(stream.take(message::MOST as u64)).read_until(b'\n', &mut line)?;
    message::parse(&line)
}

fn signal(holder: ProcessId, signal: Signal) {
    if holder.is_alive()
        && let Some(pid) = Pid::from_raw(holder.pid)
    {
        let _ = kill_process(pid, signal);
    }
}

fn hears_hangups(holder: ProcessId) -> bool {
    let status = Process::new(holder.pid).and_then(|process| process.status());
    status.is_ok_and(|status| status.sigcgt & 1 != 0)
}

fn lost(directory: &Path, why: &str) -> Answer {
    state::forget(directory);
    Answer::not_held(Exit::LockLost, why)
}

/// Whatever a freeze that was killed has left changed in a server.
fn set_back(settings: &Settings) {
    if !mysql::is_any_left(&settings.run_directory) {
        return;
    }
    let Ok(found) = servers::find() else { return };
    let Ok(runtime) = runtime() else { return };
    for server in found.servers.iter().filter(|server| server.kind == Kind::Mysql) {
        let own = settings.of(&server.data_directory, &server.control_group);
        let outcome = runtime.block_on(mysql::set_back(server, &own, &settings.run_directory));
        if let Err(failure) = outcome {
            eprintln!("fsfreeze-db: left for the next call: {failure}");
        }
    }
}
