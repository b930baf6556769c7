//! All the locks, or none.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::exit::{Failure, Refusal};
use crate::position::{self, Position};
use crate::servers::{self, Server};
use crate::session::{Ending, Session};
use crate::settings::Settings;
use crate::state::Held;

/// Between two attempts, so that a deadlock with row locks can resolve.
const PAUSE: Duration = Duration::from_secs(1);

/// For a server that does not let us in because it ends.
const ENDING: Duration = Duration::from_secs(1);

/// For how long nobody looks whether another server has started.
const RECENT: Duration = Duration::from_secs(1);

/// How long the lock of one of several servers may be waited for in one attempt.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long one of several servers may take for all that its own and the others' writers wait for.
const WHILE_OTHERS_WAIT: Duration = Duration::from_secs(6);

/// Finds the servers, locks them and writes their positions. `None`: there is none. `endings` gets the
/// connections by which it waits, for whoever gives it up.
///
/// # Errors
///
/// If one of them cannot be locked before the deadline; none is locked then.
pub(crate) async fn lock_all(
    settings: &Settings,
    deadline: Instant,
    only_check: bool,
    endings: &RefCell<Vec<Ending>>,
) -> Result<Option<(Vec<Session>, Vec<Held>)>, Failure> {
    let nonce = position::nonce().map_err(|error| Failure::refused(format!("cannot read /proc: {error}")))?;
    let looked = Instant::now();
    // Every connection first: nobody waits for that.
    let mut sessions = open_all(settings, deadline).await?;
    if sessions.is_empty() {
        return Ok(None);
    }
    let servers: Vec<&Server> = sessions.iter().map(Session::server).collect();
    let places = Places::prepare(settings, &servers)?;
    *endings.borrow_mut() = sessions.iter().map(Session::ending).collect();
    let outcome = take_all(&mut sessions, deadline, &nonce).await.and_then(|(taken, attempts)| {
        let held =
            sessions.iter().zip(taken).zip(places.names()).map(|((session, (position, took)), name)| {
                let mut held = held(session, position, attempts, took);
                if let Some(unwritten) = places.write(name, &nonce, &held, only_check)? {
                    held.says.push_str(&unwritten);
                }
                Ok(held)
            });
        held.collect()
    });
    let outcome = outcome.and_then(|held| {
        // To look again costs the writers time.
        if looked.elapsed() > RECENT {
            nothing_has_started(settings, &sessions)?;
        }
        Ok(held)
    });
    match outcome {
        Ok(held) => Ok(Some((sessions, held))),
        Err(failure) => {
            join_all(sessions.into_iter().map(Session::end)).await;
            Err(failure)
        }
    }
}

/// Refuses a server that has started since the others were found.
fn nothing_has_started(settings: &Settings, sessions: &[Session]) -> Result<(), Failure> {
    let is_locked = |server: &Server| sessions.iter().any(|it| it.server().process == server.process);
    match servers_to_lock(settings)?.iter().find(|server| !is_locked(server)) {
        None => Ok(()),
        Some(new) => {
            let says = "has started while the locks of others were waited for: freeze again";
            Err(Failure::refused(format!("{} {says}", new.name())))
        }
    }
}

/// A session with each server that runs and is not left out.
async fn open_all(settings: &Settings, deadline: Instant) -> Result<Vec<Session>, Failure> {
    loop {
        let servers = servers_to_lock(settings)?;
        let opening = servers.iter().map(|server| async {
            let own = settings.of(&server.data_directory, &server.control_group);
            let opened = Session::open(server, &own, settings).await;
            // One that was about to end when it was found is no obstacle: who is there is asked again.
            let has_ended = opened.is_err() && server.process.ends_within(ENDING);
            (opened, has_ended)
        });
        let (opened, ended): (Vec<_>, Vec<_>) = join_all(opening).await.into_iter().unzip();
        if ended.contains(&true) && Instant::now() < deadline {
            join_all(opened.into_iter().flatten().map(Session::end)).await;
            continue;
        }
        return all(opened);
    }
}

/// Takes all the locks in the same attempt: while one server is waited for, the writers of no other wait.
/// Gives each one's position, how long its writers waited at most, and the number of attempts.
async fn take_all(
    sessions: &mut [Session],
    deadline: Instant,
    nonce: &str,
) -> Result<(Vec<(Position, Duration)>, u32), Failure> {
    all(join_all(sessions.iter_mut().map(|session| session.prepare(deadline, nonce))).await)?;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let refusal = match attempt(sessions, deadline, nonce).await {
            Ok(taken) => return Ok((taken, attempts)),
            Err(refusal) => refusal,
        };
        join_all(sessions.iter_mut().map(Session::unlock)).await;
        if !refusal.may_succeed || Instant::now() + PAUSE >= deadline {
            return Err(refusal.why);
        }
        sleep(PAUSE).await;
    }
}

/// Each step with all of them before the next, which fewer may wait for.
async fn attempt(
    sessions: &mut [Session],
    deadline: Instant,
    nonce: &str,
) -> Result<Vec<(Position, Duration)>, Refusal> {
    together(join_all(sessions.iter_mut().map(Session::look)).await)?;
    let until = if sessions.len() == 1 { deadline } else { deadline.min(Instant::now() + PATIENCE) };
    together(join_all(sessions.iter_mut().map(|session| session.begin(until, nonce))).await)?;
    let stopped = sessions.iter().filter(|session| session.stops_writers()).count();
    let most = if stopped > 1 { WHILE_OTHERS_WAIT } else { Duration::MAX };
    let taking = sessions.iter_mut().map(|session| async {
        let begun = Instant::now();
        let name = session.server().name();
        let late = |_| Failure::refused(format!("{name} was not locked within {} s", most.as_secs()));
        let position = timeout(most, session.take()).await.map_err(late)??;
        Ok((position, begun.elapsed()))
    });
    together(join_all(taking).await)
}

fn held(session: &Session, position: Position, attempts: u32, took: Duration) -> Held {
    Held {
        data_directory: session.server().data_directory.clone(),
        process: session.server().process,
        version: session.version().to_owned(),
        method: session.method().to_owned(),
        attempts,
        lock_milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        position: position.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        says: session.describe(),
    }
}

/// Where the servers' positions go, if anywhere.
struct Places<'a> {
    settings: &'a Settings,
    names: Vec<String>,
}

impl<'a> Places<'a> {
    /// Finds out that they can be written, before anything is locked.
    ///
    /// # Errors
    ///
    /// If they cannot, and must be.
    fn prepare(settings: &'a Settings, servers: &[&Server]) -> Result<Self, Failure> {
        let this = Self { settings, names: servers::file_names(servers) };
        if this.is_nowhere() {
            return Ok(this);
        }
        match position::prepare(&settings.position_directory) {
            Err(error) if settings.position_required => Err(this.unwritable(&error)),
            _ => Ok(this),
        }
    }

    /// One for each server.
    fn names(&self) -> &[String] {
        &self.names
    }

    /// Writes that of a server that is held. Gives what to say when it could not be written.
    ///
    /// # Errors
    ///
    /// If it must be written, or an older one is in its place and stays.
    fn write(
        &self,
        name: &str,
        nonce: &str,
        held: &Held,
        only_check: bool,
    ) -> Result<Option<String>, Failure> {
        let directory = self.settings.position_directory.as_path();
        if self.is_nowhere() {
            return Ok(None);
        }
        let common = [
            ("nonce", nonce),
            ("time", &crate::state::now()),
            ("server", &held.version),
            ("method", &held.method),
        ];
        let own = held.position.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let facts: Vec<_> = common.into_iter().chain(own).collect();
        let written =
            if only_check { position::prepare(directory) } else { position::write(directory, name, &facts) };
        match written {
            Ok(()) => Ok(None),
            Err(error) if self.settings.position_required => Err(self.unwritable(&error)),
            Err(error) => {
                if !only_check {
                    position::forget(directory, name).map_err(|error| self.unwritable(&error))?;
                }
                Ok(Some(format!(", position NOT written ({})", self.unwritable(&error))))
            }
        }
    }

    fn is_nowhere(&self) -> bool {
        self.settings.position_directory.as_os_str().is_empty()
    }

    fn unwritable(&self, error: &io::Error) -> Failure {
        let directory = self.settings.position_directory.display();
        Failure::refused(format!("cannot write to {directory}, where positions go: {error}"))
    }
}

/// Proves that the locks lasted until now, and releases them.
pub(crate) async fn release(sessions: Vec<Session>) -> Result<(), Failure> {
    all(join_all(sessions.into_iter().map(Session::release)).await).map(drop)
}

/// The servers that the settings do not leave out; refuses what cannot be seen, or is missing.
fn servers_to_lock(settings: &Settings) -> Result<Vec<Server>, Failure> {
    let found =
        servers::find().map_err(|error| Failure::refused(format!("cannot list processes: {error}")))?;
    if !found.unseen.is_empty() {
        return Err(Failure::refused(format!(
            "cannot look for database servers: {}",
            found.unseen.join("; ")
        )));
    }
    let wanted = |server: &Server| !settings.of(&server.data_directory, &server.control_group).ignore;
    let servers: Vec<Server> = found.servers.into_iter().filter(wanted).collect();
    let seen = servers.iter().map(|server| (server.data_directory.clone(), server.control_group.clone()));
    match settings.missing(&seen.collect::<Vec<_>>()) {
        Some(why) => Err(Failure::refused(why)),
        None => Ok(servers),
    }
}

/// All values, or all failures in one; the next attempt may succeed if it may for each.
fn together<T>(outcomes: Vec<Result<T, Refusal>>) -> Result<Vec<T>, Refusal> {
    let may_succeed = outcomes.iter().all(|outcome| outcome.as_ref().err().is_none_or(|it| it.may_succeed));
    let outcomes = outcomes.into_iter().map(|outcome| outcome.map_err(|refusal| refusal.why)).collect();
    all(outcomes).map_err(|why| Refusal { why, may_succeed })
}

/// All values, or all failures in one; the first decides how the call ends.
pub(crate) fn all<T>(outcomes: Vec<Result<T, Failure>>) -> Result<Vec<T>, Failure> {
    let mut values = Vec::new();
    let mut failures: Vec<Failure> = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(value) => values.push(value),
            Err(failure) => failures.push(failure),
        }
    }
    match failures.first() {
        None => Ok(values),
        Some(first) => Err(Failure {
            exit: first.exit,
            why: failures.iter().map(|failure| failure.why.as_str()).collect::<Vec<_>>().join("; "),
        }),
    }
}
