//! A guest's console in the trial's trace: each line an event of `tracing`, soon after it was written.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use contract::text::quote;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tracing::{Level, trace};

/// The target of the events.
const TARGET: &str = "console";

/// The longest line, bytes: a guest decides when it ends one.
const LONGEST_LINE: usize = 1024;

/// The most lines of one guest. A boot prints some hundreds.
const MOST_LINES: u32 = 20_000;

/// How long more of a line is waited for once its first byte is there: QEMU writes a serial port byte by
/// byte, and one wake-up serves all of them.
const GATHER: Duration = Duration::from_millis(50);

/// Follows a console until it is dropped; what was written by then is in the trace.
#[derive(Debug)]
pub(super) struct ConsoleTrace {
    /// Its closing ends the thread.
    end: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl ConsoleTrace {
    /// Follows the file to which QEMU writes the console of this guest. `None` where nobody keeps a trace.
    pub(super) fn start(guest: &'static str, log: &Path) -> io::Result<Option<Self>> {
        if !tracing::enabled!(target: TARGET, Level::TRACE) {
            return Ok(None);
        }
        Self::follow(log, move |line| trace!(target: TARGET, guest, "{line}")).map(Some)
    }

    fn follow(log: &Path, emit: impl FnMut(&str) + Send + 'static) -> io::Result<Self> {
        let mut console = File::open(log)?;
        let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&changes, log, WatchFlags::MODIFY)?;
        let (ended, end) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut lines = Lines { emit, partial: Vec::new(), count: 0 };
        let thread = thread::Builder::new().name(TARGET.to_owned()).spawn(move || {
            // Reading again after each wait leaves nothing behind.
            while lines.read(&mut console).is_ok_and(|more| more) {
                match wait(&changes, &ended) {
                    Ok(true) => {}
                    Ok(false) | Err(_) => break,
                }
            }
            let _ = lines.read(&mut console);
            lines.end();
        })?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for ConsoleTrace {
    fn drop(&mut self) {
        self.end = None;
        // A panic of the thread was reported when it happened, and only costs lines of the trace.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Waits until the file has changed; false when following has ended.
fn wait(changes: &OwnedFd, ended: &OwnedFd) -> io::Result<bool> {
    let mut watched = [PollFd::new(changes, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
    while let Err(error) = poll(&mut watched, None) {
        if error != Errno::INTR {
            return Err(error.into());
        }
    }
    let gather = Timespec::try_from(GATHER).map_err(io::Error::other)?;
    // A signal only shortens it.
    let over = poll(&mut [PollFd::new(ended, PollFlags::IN)], Some(&gather)).unwrap_or(0) > 0;
    // What has changed is the file, whatever the events say.
    while rustix::io::read(changes, &mut [0; 4096]).is_ok() {}
    Ok(!over)
}

/// Splits a guest's output into bounded lines.
struct Lines<F> {
    emit: F,
    partial: Vec<u8>,
    count: u32,
}

impl<F: FnMut(&str)> Lines<F> {
    /// Reads to the current end; false once the guest has written too much.
    fn read(&mut self, console: &mut impl Read) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        while self.count <= MOST_LINES {
            let read = console.read(&mut chunk)?;
            if read == 0 {
                return Ok(true);
            }
            chunk.iter().take(read).for_each(|byte| self.push(*byte));
        }
        Ok(false)
    }

    fn push(&mut self, byte: u8) {
        if byte != b'\n' {
            self.partial.push(byte);
        }
        if byte == b'\n' || self.partial.len() == LONGEST_LINE {
            self.finish();
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
        if self.count <= MOST_LINES {
            let line = String::from_utf8_lossy(line.trim_ascii_end());
            if !line.is_empty() {
                (self.emit)(&quote(LONGEST_LINE, &line));
            }
        } else if self.count == MOST_LINES + 1 {
            (self.emit)(&format!(
                "the console has more than {MOST_LINES} lines; the rest is in its log only"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::mpsc::channel;

    use super::*;

    fn lines(text: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        let mut lines =
            Lines { emit: |line: &str| found.push(line.to_owned()), partial: Vec::new(), count: 0 };
        let _ = lines.read(&mut &text[..]).unwrap();
        lines.end();
        found
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
    }

    #[test]
    fn a_line_is_passed_on_when_it_is_written_and_the_last_one_at_the_end() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        log.write_all(b"before\n").unwrap();
        let (sender, received) = channel();
        let trace =
            ConsoleTrace::follow(log.path(), move |line| sender.send(line.to_owned()).unwrap()).unwrap();
        let next = || received.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(next(), "before");
        log.write_all(b"meanwhile\n").unwrap();
        assert_eq!(next(), "meanwhile");
        log.write_all(b"not ended").unwrap();
        drop(trace);
        assert_eq!(next(), "not ended");
    }
}
