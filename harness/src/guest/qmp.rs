//! A second monitor of a guest's QEMU, which shows what QEMU itself does: when the copy of a disk began, and which
//! jobs and files there are. libvirt keeps the first for itself, and tells of jobs only when they have ended.
//!
//! See <https://www.qemu.org/docs/master/interop/qmp-spec.html>.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use contract::history::Nanos;
use contract::text::quote;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tracing::{debug, warn};

use crate::clock::WallClock;
use crate::error::{Error, MonitorError, Result};

/// The longest line that is read, bytes. What QEMU reports of ten disks has some 20 KiB.
const LINE: u64 = 1 << 20;

/// The most events that are kept. A backup of a disk has about ten.
const MOST_EVENTS: usize = 10_000;

/// The longest name in an event that is kept, characters.
const NAME: usize = 200;

/// How long QEMU may take to take a command.
const WRITE: Duration = Duration::from_secs(10);

/// How long it may take until a monitor is ready for commands.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// The events that are kept.
const KEPT: [&str; 12] = [
    "BLOCK_IO_ERROR",
    "BLOCK_JOB_CANCELLED",
    "BLOCK_JOB_COMPLETED",
    "BLOCK_JOB_ERROR",
    "BLOCK_JOB_READY",
    "GUEST_PANICKED",
    "JOB_STATUS_CHANGE",
    "RESET",
    "RESUME",
    "SHUTDOWN",
    "STOP",
    "VSERPORT_CHANGE",
];

/// What QEMU's command line needs for a monitor at this socket, which it makes. Its path must be short and plain.
pub fn arguments(socket: &Path) -> [String; 2] {
    ["-qmp".to_owned(), format!("unix:{},server=on,wait=off", socket.display())]
}

/// An event of QEMU's. What it says is fit to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpEvent {
    /// When QEMU says that it was.
    pub t: Nanos,
    /// Its name.
    pub name: &'static str,
    /// The job, device or port that it is about.
    pub subject: Option<String>,
    /// What that became.
    pub status: Option<String>,
}

impl QmpEvent {
    /// The disk whose copy is of the instant of this event: a backup is of the moment at which its job is made, a
    /// mirror of that at which it ends. libvirt names a job `KIND-DISK-NODE`.
    pub fn copied_disk(&self) -> Option<&str> {
        let kind = match (self.name, self.status.as_deref()) {
            ("JOB_STATUS_CHANGE", Some("created")) => "backup-",
            ("BLOCK_JOB_COMPLETED", None) => "copy-",
            _ => return None,
        };
        let named = self.subject.as_deref()?.strip_prefix(kind)?;
        named.split_once('-').map(|(disk, _)| disk)
    }

    /// Whether a job has begun to copy a disk.
    pub fn begins_copy(&self) -> bool {
        let is_of_copy = |subject: &str| ["backup-", "copy-"].iter().any(|kind| subject.starts_with(kind));
        self.name == "JOB_STATUS_CHANGE"
            && self.status.as_deref() == Some("created")
            && self.subject.as_deref().is_some_and(is_of_copy)
    }
}

/// A job of QEMU's on its disks, ended or not.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Job {
    /// Its name.
    pub id: String,
    /// What it does: `backup`, `mirror`, `commit`..
    #[serde(rename = "type")]
    pub kind: String,
    /// How far it is: `running`, `ready`, `concluded`..
    pub status: String,
}

/// The file that a disk is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSource {
    /// The disk, as `vda`, or QEMU's path of another device.
    pub disk: String,
    /// What the guest writes to.
    pub file: PathBuf,
}

/// A connection to a monitor.
#[derive(Debug)]
pub struct Qmp {
    guest: &'static str,
    conversation: Mutex<Conversation>,
    kept: Arc<Mutex<Kept>>,
    stream: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// Commands go one after another.
#[derive(Debug)]
struct Conversation {
    stream: UnixStream,
    answers: Receiver<Value>,
    asked: u64,
}

#[derive(Debug, Default)]
struct Kept {
    events: Vec<QmpEvent>,
    left_out: u64,
}

impl Qmp {
    /// Connects to the monitor of a guest that was started. The channel tells of events as they come; all are kept
    /// as well.
    pub fn connect(guest: &'static str, socket: &Path) -> Result<(Self, Receiver<QmpEvent>)> {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let (answering, answers) = channel();
        let (telling, told) = channel();
        let start = || -> io::Result<Self> {
            let stream = UnixStream::connect(socket)?;
            stream.set_write_timeout(Some(WRITE))?;
            let reader = Reader { kept: Arc::clone(&kept), answering, telling };
            let input = BufReader::new(stream.try_clone()?);
            let thread = thread::Builder::new().name("qmp".to_owned()).spawn(move || reader.run(input))?;
            let conversation = Mutex::new(Conversation { stream: stream.try_clone()?, answers, asked: 0 });
            Ok(Self { guest, conversation, kept, stream, thread: Some(thread) })
        };
        let monitor = start().map_err(Error::io("connect to", socket))?;
        let _: Value = monitor.ask("qmp_capabilities", HANDSHAKE)?;
        Ok((monitor, told))
    }

    /// The events so far.
    pub fn events(&self) -> Vec<QmpEvent> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).events.clone()
    }

    /// How many more there were than are kept.
    pub fn left_out(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).left_out
    }

    /// The jobs on disks, those included that have ended and are still known.
    pub fn jobs(&self, limit: Duration) -> Result<Vec<Job>> {
        let jobs: Vec<Job> = self.ask("query-jobs", limit)?;
        let shown = |text: String| quote(NAME, &text);
        let jobs = jobs.into_iter();
        Ok(jobs.map(|it| Job { id: shown(it.id), kind: shown(it.kind), status: shown(it.status) }).collect())
    }

    /// Write requests of the guest to a disk, and their bytes, since it was powered on. libvirt would have to wait
    /// for whatever it does for a backup tool.
    pub fn written(&self, disk: &str, limit: Duration) -> Result<(u64, u64)> {
        #[derive(Deserialize)]
        struct Device {
            qdev: Option<String>,
            stats: Stats,
        }
        #[derive(Deserialize)]
        struct Stats {
            wr_operations: u64,
            wr_bytes: u64,
        }
        let devices: Vec<Device> = self.ask("query-blockstats", limit)?;
        let of_disk = |device: &Device| device.qdev.as_deref().is_some_and(|qdev| disk_name(qdev) == disk);
        match devices.into_iter().find(of_disk) {
            Some(Device { stats, .. }) => Ok((stats.wr_operations, stats.wr_bytes)),
            None => {
                let (guest, command) = (self.guest, "query-blockstats");
                let reason = format!("it names no disk {disk}");
                Err(MonitorError::Refused { guest, command, reason }.into())
            }
        }
    }

    /// The files that the guest's disks are in.
    pub fn disk_files(&self, limit: Duration) -> Result<Vec<DiskSource>> {
        #[derive(Deserialize)]
        struct Device {
            #[serde(default)]
            device: String,
            qdev: Option<String>,
            inserted: Option<Inserted>,
        }
        #[derive(Deserialize)]
        struct Inserted {
            file: PathBuf,
        }
        let devices: Vec<Device> = self.ask("query-block", limit)?;
        let disk = |Device { device, qdev, inserted }| {
            let disk = disk_name(qdev.as_deref().unwrap_or(&device));
            inserted.map(|Inserted { file }| DiskSource { disk, file })
        };
        Ok(devices.into_iter().filter_map(disk).collect())
    }

    fn ask<T: DeserializeOwned>(&self, command: &'static str, limit: Duration) -> Result<T> {
        let guest = self.guest;
        let answer = self.answer(&json!({ "execute": command }), command, limit)?;
        serde_json::from_value(answer).map_err(|error| {
            let reason = quote(NAME, &format!("its answer is not what was asked for: {error}"));
            MonitorError::Refused { guest, command, reason }.into()
        })
    }

    /// Sends a command, and returns what it returns.
    fn answer(&self, request: &Value, command: &'static str, limit: Duration) -> Result<Value, MonitorError> {
        let guest = self.guest;
        let gone = |source| MonitorError::Gone { guest, command, source };
        let mut conversation = self.conversation.lock().unwrap_or_else(PoisonError::into_inner);
        conversation.asked += 1;
        let id = conversation.asked;
        let mut request = request.clone();
        request["id"] = id.into();
        conversation.stream.write_all(format!("{request}\n").as_bytes()).map_err(gone)?;
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut answer = match conversation.answers.recv_timeout(left) {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => return Err(MonitorError::Late { guest, command, limit }),
                Err(RecvTimeoutError::Disconnected) => return Err(gone(io::ErrorKind::UnexpectedEof.into())),
            };
            // Another is to one that was given up.
            if answer["id"] != id {
                continue;
            }
            return match answer["error"]["desc"].as_str() {
                Some(reason) => Err(MonitorError::Refused { guest, command, reason: quote(NAME, reason) }),
                None => Ok(answer["return"].take()),
            };
        }
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        // The thread's next read ends then.
        let _ = self.stream.shutdown(Shutdown::Both);
        // A panic of it was reported when it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The disk behind the path of one of libvirt's devices, `/machine/peripheral/virtio-disk0/virtio-backend`.
fn disk_name(device: &str) -> String {
    let number = device.split('/').find_map(|part| part.strip_prefix("virtio-disk")?.parse::<u8>().ok());
    let letter = number.filter(|number| *number < 26).map(|number| char::from(b'a' + number));
    letter.map_or_else(|| quote(NAME, device), |letter| format!("vd{letter}"))
}

/// What the thread works with.
struct Reader {
    kept: Arc<Mutex<Kept>>,
    answering: Sender<Value>,
    telling: Sender<QmpEvent>,
}

impl Reader {
    fn run(self, mut input: BufReader<UnixStream>) {
        let mut line = Vec::new();
        loop {
            line.clear();
            match input.by_ref().take(LINE).read_until(b'\n', &mut line) {
                Ok(_) if line.ends_with(b"\n") => {}
                Ok(read) if read as u64 == LINE => {
                    return warn!("a line of QEMU's monitor has more than {LINE} bytes: no more is read");
                }
                Ok(_) | Err(_) => return debug!("QEMU's monitor is closed"),
            }
            // The greeting, or what is no message at all.
            let Ok(mut message) = serde_json::from_slice::<Value>(&line) else { continue };
            if let Some(name) = message["event"].as_str() {
                if let Some(name) = KEPT.into_iter().find(|kept| *kept == name) {
                    self.keep(event(name, &message));
                }
            } else if message.get("return").is_some() || message.get("error").is_some() {
                let _ = self.answering.send(message.take());
            }
        }
    }

    fn keep(&self, event: QmpEvent) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.events.len() == MOST_EVENTS {
            kept.left_out += 1;
            return;
        }
        kept.events.push(event.clone());
        // Nobody has to listen.
        let _ = self.telling.send(event);
    }
}

/// An event that has just come.
fn event(name: &'static str, message: &Value) -> QmpEvent {
    let (time, data) = (&message["timestamp"], &message["data"]);
    let part = |unit: &str| time[unit].as_u64().unwrap_or_default();
    let wall = part("seconds")
        .saturating_mul(1_000_000_000)
        .saturating_add(part("microseconds").saturating_mul(1000));
    let text = |key: &str| data[key].as_str().map(|text| quote(NAME, text));
    let opened = || data["open"].as_bool().map(|open| if open { "open" } else { "closed" }.to_owned());
    QmpEvent {
        t: WallClock::read().to_trial(wall),
        name,
        subject: text("id").or_else(|| text("device")).or_else(|| text("node-name")),
        status: text("status").or_else(|| text("error")).or_else(opened),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::{Child, Command, Stdio};
    use std::thread::spawn;

    use super::*;
    use crate::clock;

    const LONG: Duration = Duration::from_secs(60);

    /// A monitor that sends this, and then answers each command by `answer`.
    pub(crate) fn fake(
        greeting: &'static [u8],
        mut answer: impl FnMut(&Value, &mut UnixStream) + Send + 'static,
    ) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            // The other end may be gone before it has all.
            let _ = stream.write_all(greeting);
            let input = BufReader::new(stream.try_clone().unwrap());
            for line in input.lines().map_while(Result::ok) {
                answer(&serde_json::from_str(&line).unwrap(), &mut stream);
            }
        });
        (dir, socket)
    }

    pub(crate) fn say(stream: &mut UnixStream, message: &Value) {
        let _ = stream.write_all(format!("{message}\r\n").as_bytes());
    }

    fn done(request: &Value, stream: &mut UnixStream) {
        say(stream, &json!({ "return": [], "id": request["id"] }));
    }

    /// QEMU without a machine. Dropping it ends it.
    struct Qemu {
        child: Child,
        dir: tempfile::TempDir,
    }

    impl Qemu {
        fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut qemu = Command::new("qemu-system-x86_64");
            qemu.args(["-machine", "none", "-nodefaults", "-no-user-config", "-display", "none"]);
            // Only when it has read its command line is it a daemon, and its socket is there.
            qemu.args(["-daemonize", "-pidfile", "pid"]).args(arguments(Path::new("qmp")));
            qemu.current_dir(dir.path()).stderr(Stdio::null());
            let mut child = qemu.spawn().unwrap();
            assert!(child.wait().unwrap().success());
            Self { child, dir }
        }
    }

    impl Drop for Qemu {
        fn drop(&mut self) {
            let pid = std::fs::read_to_string(self.dir.path().join("pid")).unwrap();
            assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
            let _ = self.child.wait();
        }
    }

    #[test]
    fn qemu_tells_of_its_jobs_and_when_they_began() {
        let qemu = Qemu::start();
        let (monitor, events) = Qmp::connect("source", &qemu.dir.path().join("qmp")).unwrap();
        let run = |command: &'static str, arguments: Value| {
            let request = json!({ "execute": command, "arguments": arguments });
            monitor.answer(&request, command, LONG).unwrap()
        };
        run("stop", json!({}));
        for node in ["a", "b"] {
            let size = 1 << 20;
            run(
                "blockdev-add",
                json!({ "driver": "null-co", "size": size, "read-zeroes": true, "node-name": node }),
            );
        }
        assert_eq!(monitor.jobs(LONG).unwrap(), []);
        let before = clock::now();
        let id = "backup-vda-libvirt-1-format";
        let backup =
            json!({ "device": "a", "target": "b", "job-id": id, "sync": "full", "auto-dismiss": false });
        run("blockdev-backup", backup);
        let after = clock::now();
        let created = loop {
            let event = events.recv_timeout(LONG).unwrap();
            if event.copied_disk().is_some() {
                break event;
            }
        };
        assert_eq!(created.copied_disk(), Some("vda"));
        // QEMU's times are of microseconds, and the clocks are not read at quite the same moment.
        assert!(
            (before - 1_000_000..=after + 1_000_000).contains(&created.t),
            "{before} {created:?} {after}"
        );
        while events.recv_timeout(LONG).unwrap().status.as_deref() != Some("concluded") {}
        let [job] = &monitor.jobs(LONG).unwrap()[..] else { panic!("another number of jobs") };
        assert_eq!([&*job.id, &job.kind, &job.status], [id, "backup", "concluded"]);
        let kept = monitor.events();
        assert_eq!((kept[0].name, monitor.left_out()), ("STOP", 0));
        assert!(kept.iter().all(|event| event.t <= clock::now()) && kept.contains(&created));
        assert_eq!(monitor.disk_files(LONG).unwrap(), []);
        let refused = monitor.ask::<Value>("no-such-command", LONG).unwrap_err().to_string();
        assert!(
            refused.contains("of the source guest refuses no-such-command: The command no-such-command"),
            "{refused}"
        );
        drop(qemu);
        // The channel closes with the connection.
        while events.recv_timeout(LONG) != Err(RecvTimeoutError::Disconnected) {}
        let gone = monitor.jobs(LONG).unwrap_err().to_string();
        assert!(gone.contains("cannot be asked for query-jobs"), "{gone}");
    }

    #[test]
    fn only_a_backup_that_begins_and_a_mirror_that_ends_copy_a_disk() {
        let copied = |name: &'static str, subject: &str, status: Option<&str>| {
            let (subject, status) = (Some(subject.to_owned()), status.map(str::to_owned));
            QmpEvent { t: 0, name, subject, status }.copied_disk().map(str::to_owned)
        };
        let (change, completed) = ("JOB_STATUS_CHANGE", "BLOCK_JOB_COMPLETED");
        assert_eq!(copied(change, "backup-vda-libvirt-1-format", Some("created")), Some("vda".to_owned()));
        assert_eq!(copied(completed, "copy-vdb-libvirt-4-format", None), Some("vdb".to_owned()));
        for (name, subject, status) in [
            (change, "backup-vda-libvirt-1-format", Some("running")),
            (change, "copy-vda-libvirt-4-format", Some("created")),
            (change, "create-libvirt-5-format", Some("created")),
            (completed, "backup-vda-libvirt-1-format", None),
            (completed, "copy-vda-libvirt-4-format", Some("No space left on device")),
            ("BLOCK_JOB_READY", "copy-vda-libvirt-4-format", None),
            (change, "backup-", Some("created")),
        ] {
            assert_eq!(copied(name, subject, status), None, "{name} {subject} {status:?}");
        }
    }

    #[test]
    fn disks_have_the_names_that_libvirt_gives_them() {
        let (_dir, socket) = fake(b"{\"QMP\": {}}\r\n", |request, stream| {
            let device = |qdev: &str, file: &str| json!({ "device": "", "qdev": qdev, "inserted": { "file": file, "ro": false }, "locked": false });
            let devices = json!([
                device("/machine/peripheral/virtio-disk0/virtio-backend", "/r/vda.qcow2"),
                device("/machine/peripheral/virtio-disk25/virtio-backend", "/r/x.raw"),
                device("scsi0-0-0-1\u{1b}", "/r/s"),
                { "device": "cd0" },
            ]);
            say(stream, &json!({ "return": devices, "id": request["id"] }));
        });
        let (monitor, _events) = Qmp::connect("source", &socket).unwrap();
        let files = monitor.disk_files(LONG).unwrap();
        let files: Vec<_> = files.iter().map(|it| (&*it.disk, it.file.to_str().unwrap())).collect();
        assert_eq!(files, [("vda", "/r/vda.qcow2"), ("vdz", "/r/x.raw"), ("scsi0-0-0-1\\u{1b}", "/r/s")]);
    }

    #[test]
    fn an_answer_that_comes_late_is_not_that_of_the_next_command() {
        let mut asked = 0;
        let (_dir, socket) = fake(b"{\"QMP\": {}}\r\n", move |request, stream| {
            asked += 1;
            match asked {
                // Nothing, and both with the next.
                2 => {}
                3 => {
                    let late = json!([{ "id": "late", "type": "backup", "status": "running" }]);
                    say(stream, &json!({ "return": late, "id": 2 }));
                    done(request, stream);
                }
                _ => done(request, stream),
            }
        });
        let (monitor, _events) = Qmp::connect("source", &socket).unwrap();
        let late = monitor.jobs(Duration::from_millis(20)).unwrap_err().to_string();
        assert!(late.contains("gave no answer to query-jobs within 0 s"), "{late}");
        assert_eq!(monitor.jobs(LONG).unwrap(), []);
    }

    #[test]
    fn what_a_monitor_sends_is_bounded() {
        let (_dir, socket) = fake(b"nonsense\n\xFF\n[]\n{\"QMP\": {}}\n", |request, stream| {
            if request["execute"] == "query-jobs" {
                let event =
                    json!({ "event": "STOP", "timestamp": { "seconds": u64::MAX, "microseconds": 1 } });
                let many = format!("{event}\n").repeat(MOST_EVENTS + 7);
                let _ = stream.write_all(many.as_bytes());
            }
            done(request, stream);
            if request["execute"] == "query-block" {
                let _ = stream.write_all(&vec![b'a'; 2 << 20]);
            }
        });
        let (monitor, events) = Qmp::connect("source", &socket).unwrap();
        monitor.jobs(LONG).unwrap();
        assert_eq!((monitor.events().len(), monitor.left_out()), (MOST_EVENTS, 7));
        assert_eq!(events.try_iter().count(), MOST_EVENTS);
        monitor.disk_files(LONG).unwrap();
        // The line without end ends the connection, and nothing waits.
        assert!(monitor.jobs(LONG).is_err());
    }
}
