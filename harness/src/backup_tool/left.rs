//! What the command of a backup leaves behind: a tool that has ended is not a job that has ended.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use contract::history::{Leftover, LeftoverKind, Nanos};
use contract::plan::Limits;
use contract::text::quote;
use virt::domain::Domain;
use virt::sys;

use crate::error::{DaemonError, Error, Result};
use crate::guest::agent_proxy::{AgentProxy, By, FreezeState};
use crate::guest::qmp::{DiskSource, Qmp};
use crate::interrupt;

/// How long jobs and their files may take to go after a command: a tool that orders their end need not wait for it.
const GRACE: Duration = Duration::from_secs(2);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// How much is kept of what is known about one thing, characters.
const DETAIL: usize = 300;

/// The most files that are named.
const MOST_FILES: usize = 20;

/// What there is before the command of a backup.
#[derive(Debug)]
pub struct Before {
    sources: Vec<DiskSource>,
    jobs: BTreeSet<String>,
    files: BTreeSet<OsString>,
}

impl Before {
    /// Looks at a guest's QEMU and at the folder for what is kept only while a command runs. `limit` is for each
    /// answer of QEMU's.
    pub fn look(monitor: &Qmp, scratch: &Path, limit: Duration) -> Result<Self> {
        let jobs = monitor.jobs(limit)?.into_iter().map(|job| job.id).collect();
        Ok(Self { sources: monitor.disk_files(limit)?, jobs, files: files(scratch)? })
    }

    /// What there is after the command that was not there before, a moment after its end.
    pub fn left(
        &self,
        domain: &Domain,
        monitor: &Qmp,
        scratch: &Path,
        limit: Duration,
    ) -> Result<Vec<Leftover>> {
        self.left_within(GRACE, || domain_job(domain, limit), monitor, scratch, limit)
    }

    fn left_within(
        &self,
        grace: Duration,
        domain_job: impl Fn() -> Result<Option<String>>,
        monitor: &Qmp,
        scratch: &Path,
        limit: Duration,
    ) -> Result<Vec<Leftover>> {
        let deadline = Instant::now() + grace;
        loop {
            let job = domain_job()?.map(|detail| leftover(LeftoverKind::DomainJob, &detail));
            let jobs = monitor.jobs(limit)?.into_iter().filter(|job| !self.jobs.contains(&job.id));
            let jobs = jobs.map(|job| {
                leftover(LeftoverKind::BlockJob, &format!("{} ({}, {})", job.id, job.kind, job.status))
            });
            let sources = self.other_sources(&monitor.disk_files(limit)?);
            let found: Vec<_> =
                job.into_iter().chain(jobs).chain(sources).chain(self.new_files(scratch)?).collect();
            if found.is_empty() || Instant::now() >= deadline {
                return Ok(found);
            }
            interrupt::pass(PAUSE)?;
        }
    }

    /// The disks that are not in the files in which they were.
    fn other_sources(&self, now: &[DiskSource]) -> Vec<Leftover> {
        let other = |before: &DiskSource| {
            let after = now.iter().find(|it| it.disk == before.disk);
            if after == Some(before) {
                return None;
            }
            let (disk, file) = (&before.disk, before.file.display());
            let detail = match after {
                Some(after) => format!("{disk} is in {} now, and was in {file}", after.file.display()),
                None => format!("{disk} is gone, and was in {file}"),
            };
            Some(leftover(LeftoverKind::DiskSource, &detail))
        };
        self.sources.iter().filter_map(other).collect()
    }

    fn new_files(&self, scratch: &Path) -> Result<Vec<Leftover>> {
        let now = files(scratch)?;
        let new: Vec<_> = now.difference(&self.files).collect();
        let named = new.iter().take(MOST_FILES).map(|name| name.to_string_lossy().into_owned());
        let rest = new.len().saturating_sub(MOST_FILES);
        let rest = (rest > 0).then(|| format!("{rest} files more"));
        Ok(named.chain(rest).map(|detail| leftover(LeftoverKind::ScratchFile, &detail)).collect())
    }
}

/// Thaws the guest if a command that began at `begun` has left it frozen, or a freeze on its way; says so. Where the
/// agent does not say whether it is, it is thawed as well.
pub fn thaw(proxy: &AgentProxy, begun: Nanos, limits: &Limits) -> Option<Leftover> {
    let found = match frozen(proxy, limits.freeze + limits.agent) {
        Ok(found) => found?,
        Err(error) => {
            leftover(LeftoverKind::FrozenGuest, &format!("the agent does not say whether it is: {error}"))
        }
    };
    let thawed = proxy.thaw(limits.thaw * 2);
    let exchanges = proxy.exchanges();
    let since = exchanges.iter().rfind(|it| it.is_freeze() && it.error.is_none() && it.asked >= begun);
    let until = exchanges.iter().rfind(|it| it.is_thaw() && it.by == By::Harness && it.asked >= begun);
    let (detail, until) = match thawed {
        Ok(_) => (found.detail, until.and_then(|it| it.answered)),
        Err(error) => {
            (quote(DETAIL, &format!("{}; the harness could not thaw it: {error}", found.detail)), None)
        }
    };
    Some(Leftover { detail, since: found.since.or(since.and_then(|it| it.answered)), until, ..found })
}

/// Whether a command has left the guest frozen, or a freeze on its way, for which an agent is waited for up to
/// `limit`. It is left as it is.
fn frozen(proxy: &AgentProxy, limit: Duration) -> Result<Option<Leftover>> {
    let detail = match proxy.state() {
        FreezeState::Thawed => return Ok(None),
        FreezeState::Frozen(_) => "the freeze was answered, and no thaw after it",
        // The agent answers when it has done whatever it was told before.
        FreezeState::Unsure if !proxy.is_frozen(limit)? => return Ok(None),
        FreezeState::Unsure => {
            "the agent says so; a freeze had no answer when the command ended, or its thaw failed"
        }
    };
    let since = match proxy.state() {
        FreezeState::Frozen(since) => Some(since),
        _ => None,
    };
    Ok(Some(Leftover { since, ..leftover(LeftoverKind::FrozenGuest, detail) }))
}

fn leftover(kind: LeftoverKind, detail: &str) -> Leftover {
    Leftover { kind, detail: quote(DETAIL, detail), since: None, until: None }
}

fn files(dir: &Path) -> Result<BTreeSet<OsString>> {
    let names = || -> std::io::Result<_> { fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect() };
    names().map_err(Error::io("list", dir))
}

/// The job that libvirt runs on a domain as a whole. libvirt may wait for that job itself, and so it is asked in a
/// thread.
fn domain_job(domain: &Domain, limit: Duration) -> Result<Option<String>> {
    let (sender, answer) = channel();
    let domain = domain.clone();
    thread::spawn(move || drop(sender.send(domain.job_info())));
    let Ok(answered) = answer.recv_timeout(limit) else { return Err(DaemonError::Hung(limit).into()) };
    let job = answered.map_err(Error::libvirt("report the guest's jobs"))?;
    let runs = [sys::VIR_DOMAIN_JOB_BOUNDED, sys::VIR_DOMAIN_JOB_UNBOUNDED];
    let runs = runs.iter().any(|kind| i64::from(*kind) == i64::from(job.r#type));
    let seconds = job.time_elapsed.unwrap_or_default() / 1000;
    Ok(runs.then(|| format!("libvirt's job on the guest has been running for {seconds} s")))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, Mutex};
    use std::thread::spawn;

    use serde_json::{Value, json};

    use super::*;
    use crate::guest::qmp::tests::{fake, say};

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(100);

    /// A monitor, what it answers to the two questions, and a folder.
    struct Scene {
        monitor: Qmp,
        answers: Arc<Mutex<(Value, Value)>>,
        scratch: tempfile::TempDir,
        _socket: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            let answers = Arc::new(Mutex::new((json!([]), disks(&["/r/vda.qcow2", "/r/vdb.qcow2"]))));
            let told = Arc::clone(&answers);
            let (dir, socket) = fake(b"{\"QMP\": {}}\n", move |request, stream| {
                let told = told.lock().unwrap();
                let answer = match request["execute"].as_str() {
                    Some("query-jobs") => told.0.clone(),
                    Some("query-block") => told.1.clone(),
                    _ => json!({}),
                };
                say(stream, &json!({ "return": answer, "id": request["id"] }));
            });
            let (monitor, _events) = Qmp::connect("source", &socket).unwrap();
            Self { monitor, answers, scratch: tempfile::tempdir().unwrap(), _socket: dir }
        }

        fn before(&self) -> Before {
            Before::look(&self.monitor, self.scratch.path(), LONG).unwrap()
        }

        fn left(&self, before: &Before, job: Option<&str>) -> Vec<(LeftoverKind, String)> {
            let job = || Ok(job.map(str::to_owned));
            let left = before.left_within(SHORT, job, &self.monitor, self.scratch.path(), LONG).unwrap();
            assert!(left.iter().all(|it| (it.since, it.until) == (None, None)));
            left.into_iter().map(|it| (it.kind, it.detail)).collect()
        }
    }

    fn disks(files: &[&str]) -> Value {
        let disk = |(at, file): (usize, &&str)| {
            let qdev = format!("/machine/peripheral/virtio-disk{at}/virtio-backend");
            json!({ "device": "", "qdev": qdev, "inserted": { "file": file } })
        };
        files.iter().enumerate().map(disk).collect()
    }

    fn job(id: &str) -> Value {
        json!({ "id": id, "type": "backup", "status": "running", "current-progress": 1 })
    }

    #[test]
    fn nothing_is_left_by_a_tool_that_cleans_up() {
        let scene = Scene::new();
        // What was there before is not the command's.
        fs::write(scene.scratch.path().join("old"), "").unwrap();
        scene.answers.lock().unwrap().0 = json!([job("of-somebody-else")]);
        let before = scene.before();
        let begin = Instant::now();
        let left = before.left_within(LONG, || Ok(None), &scene.monitor, scene.scratch.path(), LONG).unwrap();
        assert_eq!(left, []);
        assert!(begin.elapsed() < LONG);
    }

    #[test]
    fn everything_that_is_left_is_told() {
        let scene = Scene::new();
        let before = scene.before();
        *scene.answers.lock().unwrap() = (json!([job("backup-vda-x")]), disks(&["/r/new\u{1b}.qcow2"]));
        fs::write(scene.scratch.path().join("vda.scratch"), "").unwrap();
        fs::create_dir(scene.scratch.path().join("dir")).unwrap();
        assert_eq!(
            scene.left(&before, Some("runs for 7 s")),
            [
                (LeftoverKind::DomainJob, "runs for 7 s"),
                (LeftoverKind::BlockJob, "backup-vda-x (backup, running)"),
                (LeftoverKind::DiskSource, "vda is in /r/new\\u{1b}.qcow2 now, and was in /r/vda.qcow2"),
                (LeftoverKind::DiskSource, "vdb is gone, and was in /r/vdb.qcow2"),
                (LeftoverKind::ScratchFile, "dir"),
                (LeftoverKind::ScratchFile, "vda.scratch"),
            ]
            .map(|(kind, detail)| (kind, detail.to_owned()))
        );
    }

    #[test]
    fn jobs_and_files_may_take_a_moment_to_go() {
        let scene = Scene::new();
        let before = scene.before();
        let (asked, file) = (Cell::new(0), scene.scratch.path().join("vda.scratch"));
        fs::write(&file, "").unwrap();
        let job = || {
            asked.set(asked.get() + 1);
            if asked.get() == 3 {
                fs::remove_file(&file).unwrap();
            }
            Ok((asked.get() < 3).then(|| "ends soon".to_owned()))
        };
        let left = before.left_within(LONG, job, &scene.monitor, scene.scratch.path(), LONG).unwrap();
        assert_eq!((left, asked.get()), (vec![], 3));
    }

    #[test]
    fn many_files_are_counted() {
        let scene = Scene::new();
        let before = scene.before();
        for n in 0..MOST_FILES + 5 {
            fs::write(scene.scratch.path().join(format!("{n:03}")), "").unwrap();
        }
        let left = scene.left(&before, None);
        assert_eq!(left.len(), MOST_FILES + 1);
        assert_eq!(left.last().unwrap().1, "5 files more");
    }

    /// A proxy, and an agent with these answers. One that begins with `LATE ` comes only when more is asked.
    fn agent(answers: &'static [&'static str]) -> (tempfile::TempDir, AgentProxy, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let (proxy, _events) = AgentProxy::listen("source", &dir.path().join("agent")).unwrap();
        let guest = UnixStream::connect(proxy.socket()).unwrap();
        let client = UnixStream::connect(proxy.socket()).unwrap();
        let mut output = guest.try_clone().unwrap();
        spawn(move || {
            let (mut answers, mut late) = (answers.iter(), String::new());
            for line in BufReader::new(guest).split(b'\n').map_while(Result::ok) {
                let json = line.strip_prefix(b"\xFF").unwrap_or(&line);
                let command: Value = serde_json::from_slice(json).unwrap();
                let answer = match &command["arguments"]["id"] {
                    Value::Null => answers.next().map_or_else(String::new, |it| format!("{it}\n")),
                    id => format!("{{\"return\": {id}}}\n"),
                };
                let now = std::mem::take(&mut late);
                match answer.strip_prefix("LATE ") {
                    Some(held) => held.clone_into(&mut late),
                    None => drop(output.write_all(format!("{now}{answer}").as_bytes())),
                }
            }
        });
        (dir, proxy, client)
    }

    fn freeze(client: &mut UnixStream, is_answered: bool) {
        client.write_all(b"{\"execute\":\"guest-fsfreeze-freeze\"}\n").unwrap();
        if is_answered {
            let mut line = String::new();
            BufReader::new(client).read_line(&mut line).unwrap();
        }
    }

    #[test]
    fn a_guest_that_is_left_frozen_is_told_with_the_time() {
        let (_dir, proxy, mut client) = agent(&["{\"return\": 1}", "{\"return\": 1}"]);
        assert_eq!(frozen(&proxy, LONG).unwrap(), None);
        freeze(&mut client, true);
        let found = frozen(&proxy, LONG).unwrap().unwrap();
        let freeze = proxy.exchanges().pop().unwrap();
        assert_eq!((found.kind, found.since), (LeftoverKind::FrozenGuest, freeze.answered));
        proxy.thaw(LONG).unwrap();
        assert_eq!(frozen(&proxy, LONG).unwrap(), None);
    }

    #[test]
    fn a_guest_that_is_left_frozen_is_thawed_and_one_that_is_not_is_left_alone() {
        let limits = Limits::for_accel(contract::plan::Accel::Tcg);
        let (_dir, proxy, mut client) = agent(&["{\"return\": 1}", "{\"return\": 1}"]);
        assert_eq!(thaw(&proxy, 0, &limits), None);
        freeze(&mut client, true);
        let found = thaw(&proxy, 0, &limits).unwrap();
        assert_eq!(proxy.state(), FreezeState::Thawed);
        let times: Vec<_> = proxy.exchanges().iter().map(|it| it.answered).collect();
        assert_eq!((found.kind, vec![found.since, found.until]), (LeftoverKind::FrozenGuest, times));
    }

    #[test]
    fn a_freeze_that_completes_later_is_waited_for() {
        let wait = |proxy: &AgentProxy| {
            while proxy.exchanges().is_empty() {
                thread::yield_now();
            }
            assert_eq!(proxy.state(), FreezeState::Unsure);
        };
        // The last is for the thaw of the proxy's end.
        let (_dir, proxy, mut client) =
            agent(&["LATE {\"return\": 1}", "{\"return\": \"frozen\"}", "{\"return\": 1}"]);
        freeze(&mut client, false);
        wait(&proxy);
        let found = frozen(&proxy, LONG).unwrap().unwrap();
        let frozen_at = proxy.exchanges().remove(0).answered;
        assert_eq!((found.kind, found.since), (LeftoverKind::FrozenGuest, frozen_at));

        let (_dir, proxy, mut client) =
            agent(&["LATE {\"error\": {\"desc\": \"the hook has failed\"}}", "{\"return\": \"thawed\"}"]);
        freeze(&mut client, false);
        wait(&proxy);
        assert_eq!(frozen(&proxy, LONG).unwrap(), None);
    }
}
