//! The freeze window against a peer that answers as the agent of a Windows guest
//! does, from QEMU's `qga/commands-win32.c` and `qga/vss-win32/requester.cpp`.
//! No Windows runs here.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use contract::finding::Status;
use contract::history::{Entry, KIND, Mark, Setup, WINDOWS};
use contract::jsonl;
use contract::observation::Record;
use contract::plan::{Accel, Limits};
use contract::property::Property;
use judge::{Case, Judgement, judge};
use serde_json::{Value, json};

use super::{FreezeWindow, inspect};
use crate::guest::{Agent, Serial, Transcript, Transport};
use crate::guest_end::Fate;
use crate::history_log::HistoryLog;

/// How long VSS holds writes.
const VSS_HOLDS: Duration = Duration::from_secs(10);

/// A disc in a drive, which is no fixed volume.
const DISC: &str = "CDFS";

/// The agent. What it holds is a list of the volumes' file systems.
struct Peer {
    volumes: &'static [&'static str],
    freeze_takes: Duration,
    /// How long its VSS holds writes.
    holds: Duration,
    /// Since when VSS holds writes; the agent itself counts as frozen until it is told to thaw.
    frozen: Option<Instant>,
}

impl Peer {
    fn answer(&mut self, command: &Value) -> Value {
        let name = command["execute"].as_str().unwrap();
        let fixed = self.volumes.iter().filter(|kind| **kind != DISC).count();
        match (name, self.frozen) {
            ("guest-ping" | "guest-info", _) => json!({ "return": {} }),
            ("guest-fsfreeze-status", frozen) => {
                json!({ "return": if frozen.is_some() { "frozen" } else { "thawed" } })
            }
            ("guest-fsfreeze-thaw", Some(since)) if fixed > 0 && since.elapsed() > self.holds => {
                self.frozen = None;
                refusal("couldn't hold writes: fsfreeze is limited up to 10 seconds: ")
            }
            ("guest-fsfreeze-thaw", frozen) => {
                self.frozen = None;
                json!({ "return": if frozen.is_some() { fixed } else { 0 } })
            }
            (name, Some(_)) => {
                refusal(&format!("Command {name} has been disabled: the agent is in frozen state"))
            }
            ("guest-fsfreeze-freeze", None) => {
                thread::sleep(self.freeze_takes);
                self.frozen = Some(Instant::now());
                json!({ "return": fixed })
            }
            ("guest-get-osinfo", None) => json!({ "return": {
                "id": "mswindows", "name": "Microsoft Windows", "version-id": "2022", "machine": "x86_64",
                "pretty-name": "Windows Server 2022 Standard", "variant-id": "server",
            } }),
            ("guest-get-fsinfo", None) => {
                let volume = |(n, kind): (usize, &&str)| {
                    json!({
                        "name": format!(r"\\?\Volume{{9c24dfaf-a611-4b06-bd60-e4fe3e7103d{n}}}\"),
                        "mountpoint": if n == 0 { "System Reserved".to_owned() } else { format!(r"{}:\", "XCDE".chars().nth(n).unwrap()) },
                        "type": kind, "disk": [],
                    })
                };
                json!({ "return": self.volumes.iter().enumerate().map(volume).collect::<Vec<_>>() })
            }
            ("guest-exec", None) => refusal("Failed to execute child process (No such file or directory)"),
            (name, None) => refusal(&format!("The command {name} has not been found")),
        }
    }

    fn serve(mut self, listener: &UnixListener) {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let command: Value = serde_json::from_slice(line.strip_prefix(b"\xFF").unwrap_or(&line)).unwrap();
            let mut answer = match command["arguments"]["id"].as_u64() {
                Some(id) => [b"\xFF".as_slice(), json!({ "return": id }).to_string().as_bytes()].concat(),
                None => self.answer(&command).to_string().into_bytes(),
            };
            answer.extend(b"\r\n");
            stream.get_mut().write_all(&answer).unwrap();
            line.clear();
        }
    }
}

fn refusal(why: &str) -> Value {
    json!({ "error": { "class": "GenericError", "desc": why } })
}

/// A trial's logs, and the agent in front of such a peer.
struct Scene {
    dir: tempfile::TempDir,
    agent: Agent,
    history: HistoryLog,
}

impl Scene {
    fn new(volumes: &'static [&'static str], freeze_takes: Duration) -> Self {
        Self::holding(VSS_HOLDS, volumes, freeze_takes)
    }

    fn holding(holds: Duration, volumes: &'static [&'static str], freeze_takes: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || Peer { volumes, freeze_takes, holds, frozen: None }.serve(&listener));
        let history = HistoryLog::create(&dir.path().join("history.jsonl"), 1).unwrap();
        let setup = Setup {
            writers: 1,
            accounts: 2,
            doors: vec!["tcp".into()],
            disks: vec!["vda".into()],
            file_systems: vec!["vda".into()],
            ..Setup::default()
        };
        history.write(&Entry::Setup(setup)).unwrap();
        let transcript = Transcript::create(&dir.path().join("agent.jsonl")).unwrap();
        let transport = Transport::Serial(Arc::new(Serial::new(socket)));
        let agent =
            Agent::new(transport, "source".to_owned(), transcript, Duration::from_secs(30), Fate::default());
        Self { dir, agent, history }
    }

    fn freeze(&self) -> FreezeWindow {
        let facts = inspect(&self.agent, || unreachable!("it has no shell")).unwrap();
        facts.write(&self.history).unwrap();
        let limits = Limits { hold: 3 * VSS_HOLDS, ..Limits::for_accel(Accel::Kvm) };
        FreezeWindow::open(self.agent.clone(), limits, &[], &self.history).unwrap()
    }

    fn judge(&self) -> (Vec<Entry>, Judgement) {
        self.history.finish().unwrap();
        let log = jsonl::Reader::<Entry>::open(&self.dir.path().join("history.jsonl"), KIND).unwrap();
        let history: Vec<_> = log.map(|entry| entry.unwrap()).collect();
        let judgement = judge(&Case::new(history.clone(), None::<Vec<Record>>).unwrap());
        (history, judgement)
    }
}

fn detail(history: &[Entry], wanted: Mark) -> Option<&str> {
    history.iter().find_map(|entry| match entry {
        Entry::Mark { mark, detail, .. } if *mark == wanted => Some(detail.as_str()),
        _ => None,
    })
}

fn facts(history: &[Entry]) -> Option<(&str, Option<u32>)> {
    history.iter().find_map(|entry| match entry {
        Entry::Guest { os, volumes, .. } => Some((os.as_str(), *volumes)),
        _ => None,
    })
}

#[test]
fn a_window_within_the_limit_is_no_finding() {
    let scene = Scene::new(&["NTFS", "NTFS", "ReFS", DISC], Duration::from_secs(1));
    let window = scene.freeze();
    assert!(scene.agent.is_frozen().unwrap());
    assert!(scene.agent.os().unwrap_err().to_string().contains("the agent is in frozen state"));
    assert_eq!(window.close().unwrap(), 3);
    assert!(!scene.agent.is_frozen().unwrap());
    let (history, judgement) = scene.judge();
    assert_eq!(facts(&history), Some((WINDOWS, Some(3))));
    assert_eq!(detail(&history, Mark::FreezeOk), Some("3"));
    assert_eq!(detail(&history, Mark::ThawOk), Some("3"));
    assert_eq!(judgement.findings, []);
    assert_eq!(judgement.properties[&Property::LockIdentity], Status::Holds);
}

#[test]
fn a_window_beyond_the_limit_is_not_consistent() {
    // One that lets go at once, as another does after its 10 s.
    let scene = Scene::holding(Duration::ZERO, &["NTFS", "NTFS"], Duration::ZERO);
    let window = scene.freeze();
    // The agent does not know.
    assert!(scene.agent.is_frozen().unwrap());
    let error = window.close().unwrap_err().to_string();
    assert!(error.contains("couldn't hold writes: fsfreeze is limited up to 10 seconds"), "{error}");
    assert!(!scene.agent.is_frozen().unwrap());
    let (history, judgement) = scene.judge();
    assert!(detail(&history, Mark::ThawErr).unwrap().contains("limited up to 10 seconds"));
    assert_eq!(judgement.properties[&Property::LockIdentity], Status::Broken);
}

#[test]
fn a_freeze_without_fixed_volumes_is_none() {
    let scene = Scene::new(&[DISC], Duration::ZERO);
    let window = scene.freeze();
    assert!(scene.agent.is_frozen().unwrap());
    assert_eq!(window.close().unwrap(), 0);
    let (history, judgement) = scene.judge();
    assert_eq!(facts(&history), Some((WINDOWS, Some(0))));
    assert_eq!(detail(&history, Mark::FreezeOk), Some("0"));
    assert_eq!(judgement.properties[&Property::DiskSilence], Status::Broken);
}

#[test]
fn a_guest_without_a_shell_says_so() {
    let scene = Scene::new(&["NTFS"], Duration::ZERO);
    let error = scene.agent.shell("true", b"", Duration::from_secs(1)).unwrap_err().to_string();
    assert!(error.starts_with("the agent of the source guest cannot run guest-exec: Failed"), "{error}");
}
