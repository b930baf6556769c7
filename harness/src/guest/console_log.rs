//! A guest's console as it comes: the beginning and the end of it go to a file, and each line to the trial's
//! trace. When the guest ends, what its QEMU had to say follows.
//!
//! QEMU writes it to a socket, because a guest that never stops would fill the disk with a file. When
//! nobody reads, the guest waits.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use contract::text::quote;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tracing::{Level, debug, trace};

use super::domain::Spec;
use crate::bounds;
use crate::error::{Error, Result};
use crate::host;
use crate::kept::Kept;

/// The target of the events.
const TARGET: &str = "console";

/// The longest line of the trace, bytes: a guest decides when it ends one.
const LONGEST_LINE: usize = 1024;

/// The most lines of one guest in the trace. A boot prints some hundreds.
const MOST_LINES: u32 = 20_000;

/// How much of QEMU's log is looked through for its last words, bytes.
const WORDS: u64 = 4096;

/// How long more is waited for once a first byte is there: QEMU writes a serial port byte by
/// byte, and one wake-up serves all of them.
const GATHER: Duration = Duration::from_millis(50);

/// Keeps a console until it is dropped, all that was written by then.
#[derive(Debug)]
pub(super) struct ConsoleLog {
    console: Arc<Mutex<Console>>,
    /// Its closing ends the thread.
    end: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl ConsoleLog {
    /// Connects to the console of a guest that does not run yet.
    pub(super) fn start(guest: &'static str, spec: &Spec) -> Result<Self> {
        let socket = &spec.console_socket;
        let stream = UnixStream::connect(socket).map_err(Error::io("connect to", socket))?;
        let file = &spec.console;
        let kept = Kept::create(file).map_err(Error::io("write", file))?;
        let traced = tracing::enabled!(target: TARGET, Level::TRACE);
        let emit = move |line: &str| {
            if traced {
                trace!(target: TARGET, guest, "{line}");
            }
        };
        // libvirt keeps its logs where the sockets are.
        let root = socket.parent().unwrap_or(Path::new("/"));
        let embedded = [root.join("log/qemu").join(format!("{}.log", spec.name)), root.join("libvirt.log")];
        let logs = embedded.into_iter().chain(host::logs(root, &spec.name)).collect();
        Self::follow(stream, kept, Box::new(emit), logs).map_err(Error::io("keep", file))
    }

    fn follow(stream: UnixStream, kept: Kept, emit: Emit, logs: Vec<PathBuf>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let readable = stream.try_clone()?;
        let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        for log in &logs {
            if let Err(error) = inotify::add_watch(&changes, log, WatchFlags::MODIFY) {
                debug!("{} is not watched: {error}", log.display());
            }
        }
        let (ended, end) = pipe_with(PipeFlags::CLOEXEC)?;
        let console = Console { stream: Some(stream), kept, lines: Lines::new(emit) };
        let console = Arc::new(Mutex::new(console));
        let follower = Follower { console: Arc::clone(&console), readable, changes, ended, logs };
        let thread = thread::Builder::new().name(TARGET.to_owned()).spawn(move || follower.run())?;
        Ok(Self { console, end: Some(end), thread: Some(thread) })
    }

    /// Brings the file up to date with what QEMU has written.
    pub(super) fn settle(&self) {
        lock(&self.console).take_in();
    }
}

impl Drop for ConsoleLog {
    fn drop(&mut self) {
        self.end = None;
        // A panic of the thread was reported when it happened, and only costs lines of the console.
        let _ = self.thread.take().map(JoinHandle::join);
        let mut console = lock(&self.console);
        console.take_in();
        console.lines.end();
    }
}

fn lock(console: &Mutex<Console>) -> MutexGuard<'_, Console> {
    console.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread works with.
struct Follower {
    console: Arc<Mutex<Console>>,
    /// The console's stream, to wait for.
    readable: UnixStream,
    /// Of the logs.
    changes: OwnedFd,
    ended: OwnedFd,
    logs: Vec<PathBuf>,
}

impl Follower {
    fn run(&self) {
        while self.wait().is_ok_and(|more| more) {
            while rustix::io::read(&self.changes, &mut [0; 4096]).is_ok() {}
            for log in &self.logs {
                // One that is not there does not grow.
                let _ = shorten(log);
            }
            if !lock(&self.console).take_in() {
                self.add_words();
                break;
            }
        }
    }

    /// The guest has ended. A QEMU that crashed has said why in its log, which goes with the trial.
    fn add_words(&self) {
        let mut console = lock(&self.console);
        let words = self.logs.iter().flat_map(|log| words(log).unwrap_or_default());
        for line in words.collect::<Vec<_>>() {
            let line = format!("\n[QEMU] {line}\n");
            console.kept.write(line.as_bytes());
            console.lines.write(line.as_bytes());
        }
    }

    /// Waits until something has been written; false when following has ended.
    fn wait(&self) -> io::Result<bool> {
        let watched = [self.readable.as_fd(), self.changes.as_fd(), self.ended.as_fd()];
        let mut watched = watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        while let Err(error) = poll(&mut watched, None) {
            if error != Errno::INTR {
                return Err(error.into());
            }
        }
        let gather = Timespec::try_from(GATHER).map_err(io::Error::other)?;
        // A signal only shortens it.
        Ok(poll(&mut [PollFd::new(&self.ended, PollFlags::IN)], Some(&gather)).unwrap_or(0) == 0)
    }
}

/// Cuts a log that has become too long to the first half of what it may have. Whoever writes it appends.
fn shorten(log: &Path) -> io::Result<()> {
    if log.metadata()?.len() > bounds::HOST_LOG {
        OpenOptions::new().write(true).open(log)?.set_len(bounds::HOST_LOG / 2)?;
    }
    Ok(())
}

/// What QEMU said last in the log that libvirt keeps of it, without libvirt's own lines, the command line and that it
/// was told to end.
fn words(log: &Path) -> io::Result<Vec<String>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(WORDS)))?;
    let mut said = Vec::new();
    file.take(WORDS).read_to_end(&mut said)?;
    let said = String::from_utf8_lossy(&said);
    // The first line may have lost its beginning, by which it is known.
    let cut = usize::from(length > WORDS);
    let is_own = |line: &&str| {
        let is_libvirts =
            line.as_bytes().get(10) == Some(&b' ') && line.starts_with(|c: char| c.is_ascii_digit());
        let is_argument = line.starts_with('-') || line.ends_with('\\');
        !line.is_empty() && !is_libvirts && !is_argument && !line.contains("terminating on signal")
    };
    Ok(said.lines().skip(cut).filter(is_own).map(|line| quote(LONGEST_LINE, line)).collect())
}

/// A console and what is made of it.
#[derive(Debug)]
struct Console {
    /// `None` when the guest has ended.
    stream: Option<UnixStream>,
    kept: Kept,
    lines: Lines,
}

impl Console {
    /// Takes in all that is there; false when no more will come.
    fn take_in(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        while let Some(stream) = &mut self.stream {
            match stream.read(&mut chunk) {
                Ok(read) if read > 0 => {
                    let read = chunk.get(..read).unwrap_or_default();
                    self.kept.write(read);
                    self.lines.write(read);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Ok(_) | Err(_) => self.stream = None,
            }
        }
        false
    }
}

type Emit = Box<dyn FnMut(&str) + Send>;

/// Splits a guest's output into bounded lines.
struct Lines {
    emit: Emit,
    partial: Vec<u8>,
    count: u32,
    /// How much was passed on, bytes.
    shown: usize,
    is_full: bool,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lines({})", self.count)
    }
}

impl Lines {
    fn new(emit: Emit) -> Self {
        Self { emit, partial: Vec::new(), count: 0, shown: 0, is_full: false }
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.is_full {
                return;
            }
            if *byte != b'\n' {
                self.partial.push(*byte);
            }
            if *byte == b'\n' || self.partial.len() == LONGEST_LINE {
                self.finish();
            }
        }
    }

    /// Ends the last line.
    fn end(&mut self) {
        if !self.partial.is_empty() {
            self.finish();
        }
    }

    /// Ends the present line. Empty ones count, so that they are bounded as well.
    fn finish(&mut self) {
        let line = std::mem::take(&mut self.partial);
        self.count = self.count.saturating_add(1);
        let line = quote(LONGEST_LINE, &String::from_utf8_lossy(line.trim_ascii_end()));
        self.shown = self.shown.saturating_add(line.len());
        if self.count > MOST_LINES || self.shown > bounds::CONSOLE_TRACE {
            self.is_full = true;
            (self.emit)(&format!(
                "the console has more than {MOST_LINES} lines or {} bytes; the rest is in its log only",
                bounds::CONSOLE_TRACE
            ));
        } else if !line.is_empty() {
            (self.emit)(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    fn lines(text: &[u8]) -> Vec<String> {
        let (sender, received) = channel();
        let mut lines = Lines::new(Box::new(move |line: &str| sender.send(line.to_owned()).unwrap()));
        lines.write(text);
        lines.end();
        drop(lines);
        received.iter().collect()
    }

    #[test]
    fn lines_are_bounded_and_hide_nothing() {
        assert_eq!(lines(b"one\r\n\n\x1b[2Jtwo\nthree"), ["one", "\\u{1b}[2Jtwo", "three"]);
        let endless = lines(&[b'x'; 3 * LONGEST_LINE]);
        assert!(endless.iter().all(|line| line.len() == LONGEST_LINE) && endless.len() == 3, "{endless:?}");
    }

    #[test]
    fn a_guest_that_never_stops_is_cut_off_with_one_line() {
        let spewed = lines(&b"x\n".repeat(MOST_LINES as usize + 9000));
        assert_eq!(spewed.len(), MOST_LINES as usize + 1);
        assert!(spewed.last().unwrap().contains("more than 20000 lines"), "{:?}", spewed.last());
        // What is shown counts: each of these takes five characters.
        let spewed = lines(&[0; 2 * bounds::CONSOLE_TRACE]);
        assert!(spewed.iter().map(String::len).sum::<usize>() < bounds::CONSOLE_TRACE + 200);
        assert!(spewed.last().unwrap().contains("the rest is in its log only"), "{:?}", spewed.last());
    }

    #[test]
    fn qemus_own_words_are_told_from_libvirts() {
        let log = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            log.path(),
            "2026-11-30 12:28:14.162+0000: starting up libvirt version: 9.0.0\nLC_ALL=C \\\n/usr/bin/qemu \\\n\
             -name guest=x \\\n-msg timestamp=on\n2026-11-30T12:28:16Z qemu-system-x86_64: it broke\x1b[0m\n**\n\
             ERROR:x.c:1: assertion failed\n2026-11-30T12:28:17Z qemu: terminating on signal 15 from pid 1\n\
             2026-11-30 12:28:16.714+0000: shutting down, reason=crashed\n",
        )
        .unwrap();
        let expected = [
            "2026-11-30T12:28:16Z qemu-system-x86_64: it broke\\u{1b}[0m",
            "**",
            "ERROR:x.c:1: assertion failed",
        ];
        assert_eq!(words(log.path()).unwrap(), expected);
    }

    struct Scene {
        dir: tempfile::TempDir,
        guest: UnixStream,
        log: ConsoleLog,
        lines: Receiver<String>,
    }

    fn scene() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let (guest, host) = UnixStream::pair().unwrap();
        let (sender, lines) = channel();
        let emit = move |line: &str| drop(sender.send(line.to_owned()));
        let kept = Kept::create(&dir.path().join("console.log")).unwrap();
        let host_log = dir.path().join("host.log");
        std::fs::write(&host_log, "").unwrap();
        let log = ConsoleLog::follow(host, kept, Box::new(emit), vec![host_log]).unwrap();
        Scene { dir, guest, log, lines }
    }

    impl Scene {
        fn kept(&self) -> Vec<u8> {
            std::fs::read(self.dir.path().join("console.log")).unwrap()
        }
    }

    #[test]
    fn a_line_is_passed_on_when_it_is_written_and_the_last_one_at_the_end() {
        let mut scene = scene();
        scene.guest.write_all(b"before\n").unwrap();
        let next = |scene: &Scene| scene.lines.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(next(&scene), "before");
        scene.guest.write_all(b"mean").unwrap();
        scene.log.settle();
        assert_eq!(scene.kept(), b"before\nmean");
        scene.guest.write_all(b"while\n").unwrap();
        assert_eq!(next(&scene), "meanwhile");
        scene.guest.write_all(b"not ended").unwrap();
        let Scene { log, lines, dir, .. } = scene;
        drop(log);
        assert_eq!(lines.recv().unwrap(), "not ended");
        assert_eq!(std::fs::read(dir.path().join("console.log")).unwrap(), b"before\nmeanwhile\nnot ended");
    }

    /// 64 MiB of numbered lines take a tenth of that, and what is kept is the beginning and the end.
    #[test]
    fn a_console_that_is_flooded_keeps_its_beginning_and_its_end() {
        let mut scene = scene();
        let last = 8 << 20;
        let mut buffer = Vec::new();
        for n in 0..=last {
            writeln!(buffer, "{n:07}").unwrap();
            if buffer.len() > 1 << 20 || n == last {
                scene.guest.write_all(&buffer).unwrap();
                buffer.clear();
                assert!(scene.dir.path().join("console.log").metadata().unwrap().len() < 13 << 20);
            }
        }
        scene.log.settle();
        let kept = String::from_utf8(scene.kept()).unwrap();
        assert!(kept.len() as u64 <= 3 * bounds::KEPT, "{}", kept.len());
        assert!(kept.starts_with("0000000\n0000001\n") && kept.ends_with(&format!("{last:07}\n")));
        let (beginning, rest) = kept.split_once("\n[here ").unwrap();
        let (left_out, end) = rest.split_once(" bytes are left out]\n").unwrap();
        let left_out: usize = left_out.trim().parse().unwrap();
        assert_eq!(beginning.len() + left_out + end.len(), 8 * (last + 1));
        let numbers: Vec<u32> = end.lines().skip(1).map(|line| line.parse().unwrap()).collect();
        assert!(numbers.is_sorted_by(|one, two| one + 1 == *two), "the end has no gap");
    }

    #[test]
    fn the_logs_of_the_host_are_cut_when_they_grow() {
        let scene = scene();
        let log = scene.dir.path().join("host.log");
        let mut writer = OpenOptions::new().append(true).open(&log).unwrap();
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..100 {
            writer.write_all(&chunk).unwrap();
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while log.metadata().unwrap().len() > bounds::HOST_LOG {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        writer.write_all(b"after").unwrap();
        assert!(std::fs::read(&log).unwrap().ends_with(b"xafter"), "there is no gap");
    }
}
