//! The process that holds the locks, from the freeze to the thaw.
//!
//! It outlives the call that starts it, and touches no disk meanwhile.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use procfs::process::Process;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedWriteHalf, pipe};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout};

use crate::exit::{Exit, Failure};
use crate::lock::{all, lock_all, release};
use crate::message::{self, Answer, Request};
use crate::mysql;
use crate::servers::ProcessId;
use crate::session::{Ending, Session};
use crate::settings::Settings;
use crate::state::{self, Held, Stage, State};

/// The most memory that this process may take, bytes.
const MEMORY: u64 = 512 << 20;

/// For the caller of a freeze to hear that the locks are held.
const ACCEPTED: Duration = Duration::from_secs(10);

/// For a line on the socket.
const LINE: Duration = Duration::from_secs(5);

/// What the caller says when it has heard of the locks. Without it they are released.
pub(crate) const ACCEPT: &[u8] = b"held\n";

/// Why locks were released at once.
pub(crate) const NOT_HEARD: &str =
    "the locks were released again: whoever froze did not hear of them in time";

/// What runs everything here that waits.
///
/// # Errors
///
/// If the kernel has no room for it.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    let cannot = |error: io::Error| Failure::refused(format!("cannot start: {error}"));
    Builder::new_current_thread().enable_all().build().map_err(cannot)
}

/// Takes the locks, and reports to standard output; holds them until a thaw, or until the limit.
///
/// With `only_check` it releases them at once. `call` is the dispatcher's name for the call that freezes.
pub(crate) async fn run(settings: &Settings, only_check: bool, call: Option<String>) {
    let _ = rustix::process::setsid();
    // Whatever a server answers, it takes no memory that the machine needs.
    let most = Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
    let _ = setrlimit(Resource::Data, most);
    let deadline = Instant::now() + settings.lock_limit();
    let Ok(caller) = caller() else { return };
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return report(&Failure::refused(format!("cannot start: {error}")).into()),
    };
    // The kernel takes its time for that, up to 60 ms, and what follows has nothing to do with it.
    tokio::task::spawn_blocking(leave_the_agent);
    tokio::task::spawn_blocking(mysql::get_ready);
    let endings = RefCell::default();
    let taking = lock_all(settings, deadline, only_check, &endings);
    tokio::pin!(taking);
    let locked = loop {
        tokio::select! {
            locked = &mut taking => break locked,
            // Killed, as the dispatcher does at its limit.
            _ = caller.readable() => break Err(Failure::refused("the caller has gone")),
            _ = signals.end.recv() => break Err(Failure::refused("the process that takes the locks was told to end")),
            // There is no socket yet.
            _ = signals.look.recv() => {}
        }
    };
    let (sessions, servers) = match locked {
        Ok(Some(locked)) => locked,
        Ok(None) => return report(&Answer::done("no database server runs: nothing to lock")),
        Err(failure) => {
            // Those that wait still, if it was given up.
            join_all(endings.take().iter().map(Ending::end)).await;
            return report(&failure.into());
        }
    };
    if only_check {
        let names: Vec<String> = servers.iter().map(|server| server.says.clone()).collect();
        let answer = match release(sessions).await {
            Ok(()) => {
                Answer::done(format!("login, privileges, lock and position are fine: {}", names.join("; ")))
            }
            Err(failure) => failure.into(),
        };
        return report(&answer);
    }
    if let Err(failure) = hold(settings, caller, signals, sessions, servers, call).await {
        report(&failure.into());
    }
}

/// What others tell this process; heard from the beginning, for they would end it otherwise.
struct Signals {
    /// To end.
    end: Signal,
    /// To look after its socket, which a call has not found: its directory may have been removed.
    look: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { end: signal(SignalKind::terminate())?, look: signal(SignalKind::hangup())? })
    }
}

/// Says that the locks are held, and holds them.
async fn hold(
    settings: &Settings,
    mut caller: pipe::Receiver,
    signals: Signals,
    sessions: Vec<Session>,
    servers: Vec<Held>,
    call: Option<String>,
) -> Result<(), Failure> {
    let directory = settings.run_directory.as_path();
    let cannot =
        |error: io::Error| Failure::refused(format!("cannot write to {}: {error}", directory.display()));
    let mut says = servers.iter().map(|server| server.says.as_str()).collect::<Vec<_>>().join("; ");
    let own = ProcessId::own().ok_or_else(|| Failure::refused("cannot read /proc"))?;
    let ready = listen(directory).and_then(|listener| {
        let state = State::new(own, Stage::Held, servers);
        state::write(directory, &state)?;
        Ok((listener, state))
    });
    let (listener, state) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            let _ = release(sessions).await;
            return Err(cannot(error));
        }
    };
    // The servers end idle sessions after the same time: counted so, ours is over first.
    let since = sessions.iter().map(Session::locked_at).min().unwrap_or_else(Instant::now);
    let expires = since + settings.hold_limit();
    says.push_str(&format!("; held for at most {} s", settings.hold_limit().as_secs()));
    report(&Answer::done(says));
    if !is_accepted(&mut caller).await {
        // Whoever froze has been killed, and its caller does not know of the locks; or it will hear too late.
        let _ = release(sessions).await;
        let stage = Stage::Lost { why: NOT_HEARD.to_owned() };
        note_end(directory, &state.ended(stage, since.elapsed()));
        return Ok(());
    }
    drop(caller);
    let_go_of_the_caller();
    let Ended { stage, answer } =
        wait(listener, signals, directory, expires, sessions, call.as_deref()).await;
    note_end(directory, &state.ended(stage, since.elapsed()));
    // Last, so that a freeze that comes at once finds that nothing is held.
    if let Some((to, answer)) = answer {
        send(to, &answer).await;
    }
    Ok(())
}

/// For whoever asks later, when there is no socket any more.
fn note_end(directory: &Path, state: &State) {
    let _ = state::make_directory(directory);
    let _ = state::write(directory, state);
    let _ = std::fs::remove_file(state::socket(directory));
}

/// Serves the socket until the locks are released, and says how they were.
async fn wait(
    mut listener: UnixListener,
    mut signals: Signals,
    directory: &Path,
    expires: Instant,
    mut sessions: Vec<Session>,
    call: Option<&str>,
) -> Ended {
    loop {
        tokio::select! {
            // When it is over, a thaw comes too late: the servers' limits are over as well.
            biased;
            () = tokio::time::sleep_until(expires) => {
                let _ = release(sessions).await;
                return Ended::unasked(Stage::Expired);
            }
            _ = signals.end.recv() => {
                let _ = release(sessions).await;
                let why = "the process that held the locks was told to end".to_owned();
                return Ended::unasked(Stage::Lost { why });
            }
            _ = signals.look.recv() => {
                if let Ok(new) = listen(directory) {
                    listener = new;
                }
            }
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                match serve(stream, sessions, expires, call).await {
                    Served::On(kept) => sessions = kept,
                    Served::Ended(ended) => return ended,
                }
            }
        }
    }
}

/// How the locks were released, and what whoever asked for that is yet to be told.
struct Ended {
    stage: Stage,
    answer: Option<(OwnedWriteHalf, Answer)>,
}

impl Ended {
    fn unasked(stage: Stage) -> Self {
        Self { stage, answer: None }
    }
}

/// What a request leaves.
enum Served {
    On(Vec<Session>),
    Ended(Ended),
}

async fn serve(
    stream: UnixStream,
    mut sessions: Vec<Session>,
    expires: Instant,
    call: Option<&str>,
) -> Served {
    // The directory keeps others out; this holds wherever it is.
    let ours = rustix::process::geteuid().as_raw();
    let peer = match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == ours => peer.pid(),
        _ => return Served::On(sessions),
    };
    let (read, write) = stream.into_split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(message::MOST as u64));
    if !matches!(timeout(LINE, read.read_until(b'\n', &mut line)).await, Ok(Ok(_))) {
        return Served::On(sessions);
    }
    let answer = match message::parse(&line) {
        Err(error) => Failure::refused(format!("an unknown request: {error}")).into(),
        Ok(Request::Status) => {
            // Rounded up, so that our own limit is over first.
            let left = expires.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
            join_all(sessions.iter_mut().map(|session| session.last_for(left))).await;
            let alive = all(join_all(sessions.iter_mut().map(Session::is_alive)).await);
            alive.map_or_else(Answer::from, |_| Answer::done("locked"))
        }
        Ok(Request::Thaw { rolls_back: Some(other) }) if call != Some(other.as_str()) => {
            Answer::done("what is held was not frozen by the call that is rolled back: left alone")
        }
        Ok(Request::Thaw { .. }) => {
            let released = release(sessions).await;
            // Who it was can wait for the writers, who wait for nothing any more.
            let (stage, answer) = thawed(released, callers(peer));
            return Served::Ended(Ended { stage, answer: Some((write, answer)) });
        }
    };
    send(write, &answer).await;
    Served::On(sessions)
}

/// The processes above one, the nearest first: who has called it.
fn callers(process: Option<i32>) -> String {
    let mut names = Vec::new();
    let mut process = process.and_then(|pid| Process::new(pid).ok());
    while let Some(stat) = process.and_then(|process| process.stat().ok())
        && stat.ppid > 1
        && names.len() < 6
    {
        process = Process::new(stat.ppid).ok();
        if let Some(parent) = process.as_ref().and_then(|process| process.stat().ok()) {
            names.push(format!("{} {}", parent.comm.escape_debug(), parent.pid));
        }
    }
    if names.is_empty() {
        "by nobody that is known".to_owned()
    } else {
        format!("called by {}", names.join(", of "))
    }
}

fn thawed(released: Result<(), Failure>, by: String) -> (Stage, Answer) {
    match released {
        Ok(()) => (Stage::Thawed { by }, Answer::done("the locks were held until now")),
        Err(Failure { why, .. }) => {
            let answer = Answer::not_held(Exit::LockLost, &why);
            (Stage::Lost { why }, answer)
        }
    }
}

async fn send(mut to: OwnedWriteHalf, answer: &Answer) {
    let _ = timeout(LINE, to.write_all(&message::line(answer))).await;
}

fn listen(directory: &Path) -> io::Result<UnixListener> {
    state::make_directory(directory)?;
    let socket = state::socket(directory);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(socket)
}

/// Tells the caller, by a line on standard output.
pub(crate) fn report(answer: &Answer) {
    let mut out = io::stdout();
    let _ = out.write_all(&message::line(answer)).and_then(|()| out.flush());
}

/// The pipe on standard input, which says something, or ends, when the caller does.
fn caller() -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)
}

async fn is_accepted(caller: &mut pipe::Receiver) -> bool {
    let mut said = vec![0; ACCEPT.len()];
    matches!(timeout(ACCEPTED, caller.read_exact(&mut said)).await, Ok(Ok(_))) && said == ACCEPT
}

/// Nobody may wait for us to close what the caller has given us.
fn let_go_of_the_caller() {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

/// Leaves the agent's control group, which systemd ends as a whole when the agent is restarted, for the
/// uppermost one, which it never ends. A scope of our own would cost a program, a message and a unit, each
/// time, while the machine's writers wait for the processor. Where the kernel refuses, the locks do end with
/// the agent, and the thaw reports that.
fn leave_the_agent() {
    // Of the unified hierarchy, of a hybrid one, and of systemd's own beside older ones.
    for uppermost in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"] {
        // Where there is no such hierarchy, nothing is to be made.
        if let Ok(mut processes) = File::options().write(true).open(Path::new(uppermost).join("cgroup.procs"))
        {
            let _ = processes.write_all(std::process::id().to_string().as_bytes());
        }
    }
}
