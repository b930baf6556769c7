//! When a guest wrote to its disks, as QEMU traces it: whether a disk stands still in a freeze window, however it was
//! frozen.
//!
//! QEMU writes a line for each write into a FIFO. A file would grow with what the guest does, by 0.1 MB for a
//! thousand writes, and where it cannot grow QEMU drops lines without a word: silence that is none. A FIFO loses
//! nothing, and takes no room. When it is not read for long, QEMU waits, and the guest with it, as with its
//! console. The times are those of the host's wall clock: see [`WallClock`].

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use contract::files::PRIVATE_FILE;
use contract::history::Nanos;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::clock::WallClock;
use crate::error::{Error, Result};
use crate::host::guest_user;

/// QEMU's event for a write to a virtio disk.
const EVENT: &str = "virtio_blk_handle_write";

/// The longest line, bytes. Those of the event have about 110.
const LINE: usize = 512;

/// The most writes whose times are kept, 8 bytes each: half an hour of a busy guest.
const MOST_WRITES: usize = 1 << 20;

/// How much QEMU can write before it has to wait, bytes: 10 000 lines. The kernel may allow less.
const PIPE: usize = 1 << 20;

/// How long more is waited for once a first line is there.
const GATHER: Duration = Duration::from_millis(10);

/// What QEMU's command line needs to trace into this FIFO, and to put times before its lines.
pub fn arguments(fifo: &Path) -> [String; 4] {
    // Commas separate options, and are doubled in a value.
    let file = fifo.to_string_lossy().replace(',', ",,");
    ["-msg".to_owned(), "timestamp=on".to_owned(), "-trace".to_owned(), format!("enable={EVENT},file={file}")]
}

/// The writes between two times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writes {
    /// How many.
    pub count: u64,
    /// When the first and the last of them were.
    pub between: Option<(Nanos, Nanos)>,
}

/// Follows the writes of one guest until it is dropped.
#[derive(Debug)]
pub struct WriteTrace {
    path: PathBuf,
    trace: Arc<Mutex<Trace>>,
    /// Its closing ends the thread.
    end: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl WriteTrace {
    /// Makes the FIFO, and reads it. To be called before the guest is started.
    pub fn create(fifo: &Path) -> Result<Self> {
        let start = || -> io::Result<Self> {
            mknodat(CWD, fifo, FileType::Fifo, Mode::from_raw_mode(PRIVATE_FILE), 0)?;
            // For writing as well: it has no end then when QEMU opens it late, or ends.
            let flags = OFlags::NONBLOCK.bits().cast_signed();
            let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(fifo)?;
            let _ = fcntl_setpipe_size(&file, PIPE);
            let readable = file.try_clone()?;
            let (ended, end) = pipe_with(PipeFlags::CLOEXEC)?;
            let trace = Arc::new(Mutex::new(Trace::new(file)));
            let read = Arc::clone(&trace);
            let follow = move || while wait(&readable, &ended) && lock(&read).take_in() {};
            let thread = thread::Builder::new().name("trace".to_owned()).spawn(follow)?;
            Ok(Self { path: fifo.to_owned(), trace, end: Some(end), thread: Some(thread) })
        };
        let trace = start().map_err(Error::io("trace the writes of a guest through", fifo))?;
        guest_user::give(fifo)?;
        Ok(trace)
    }

    /// The writes from `from` to `to`, both included. `None` when that is not known any more, because there were
    /// too many writes afterwards.
    ///
    /// That there was none says something only if the trace works: see [`Self::count`].
    pub fn between(&self, from: Nanos, to: Nanos) -> Option<Writes> {
        let mut trace = lock(&self.trace);
        trace.take_in();
        trace.between(from, to)
    }

    /// How many writes there were so far.
    pub fn count(&self) -> u64 {
        let mut trace = lock(&self.trace);
        trace.take_in();
        trace.count
    }
}

impl Drop for WriteTrace {
    fn drop(&mut self) {
        self.end = None;
        // A panic of the thread was reported when it happened.
        let _ = self.thread.take().map(JoinHandle::join);
        let _ = fs::remove_file(&self.path);
    }
}

fn lock(trace: &Mutex<Trace>) -> MutexGuard<'_, Trace> {
    trace.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until there is something to read; false when following has ended.
fn wait(readable: &File, ended: &OwnedFd) -> bool {
    let mut watched = [readable.as_fd(), ended.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    while let Err(error) = poll(&mut watched, None) {
        if error != Errno::INTR {
            return false;
        }
    }
    let gather = Timespec::try_from(GATHER).unwrap_or_default();
    // A signal only shortens it.
    poll(&mut [PollFd::new(ended, PollFlags::IN)], Some(&gather)).unwrap_or(0) == 0
}

/// What was read of a trace.
#[derive(Debug)]
struct Trace {
    file: File,
    /// A line that is not whole yet.
    partial: Vec<u8>,
    /// The times of the latest writes, in their order.
    times: VecDeque<Nanos>,
    /// The time of the latest write that is forgotten.
    forgotten: Option<Nanos>,
    count: u64,
}

impl Trace {
    fn new(file: File) -> Self {
        Self { file, partial: Vec::new(), times: VecDeque::new(), forgotten: None, count: 0 }
    }

    /// Takes in all that is there; false when no more can be read.
    fn take_in(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        loop {
            match self.file.read(&mut chunk) {
                Ok(0) => return false,
                Ok(read) => self.push(chunk.get(..read).unwrap_or_default(), WallClock::read()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    fn push(&mut self, bytes: &[u8], clock: WallClock) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            // Of a line that is too long the end is missing, with the event's name or after it.
            let room = LINE.saturating_sub(self.partial.len());
            self.partial.extend(piece.iter().take(room));
            if piece.ends_with(b"\n") {
                if let Some(wall) = write_time(&self.partial) {
                    self.add(clock.to_trial(wall));
                }
                self.partial.clear();
            }
        }
    }

    fn add(&mut self, t: Nanos) {
        self.count += 1;
        if self.times.len() == MOST_WRITES {
            self.forgotten = self.times.pop_front();
        }
        // Two readings of the clocks differ by some microseconds.
        let t = self.times.back().map_or(t, |last| t.max(*last));
        self.times.push_back(t);
    }

    fn between(&self, from: Nanos, to: Nanos) -> Option<Writes> {
        if self.forgotten.is_some_and(|forgotten| forgotten >= from) {
            return None;
        }
        let begin = self.times.partition_point(|t| *t < from);
        let end = self.times.partition_point(|t| *t <= to);
        let last = end.checked_sub(1).filter(|last| *last >= begin);
        let between = last.and_then(|last| Some((*self.times.get(begin)?, *self.times.get(last)?)));
        Some(Writes { count: end.saturating_sub(begin) as u64, between })
    }
}

/// The time of the write in a line, nanoseconds since 1970; `None` when it tells of something else. A line is
/// `PID@SECONDS.MICROSECONDS:EVENT ...`.
fn write_time(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line).ok()?;
    let (prefix, event) = line.split_once(':')?;
    let (pid, time) = prefix.split_once('@')?;
    let (seconds, micros) = time.split_once('.')?;
    let number =
        |digits: &str| digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    let is_event = event.strip_prefix(EVENT).is_some_and(|rest| rest.starts_with(' '));
    if number(pid).is_none() || !is_event || micros.len() != 6 {
        return None;
    }
    number(seconds)?.checked_mul(1_000_000_000)?.checked_add(number(micros)? * 1000)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::clock;

    const LINES: &str = "5218@1796021590.516231:virtio_blk_handle_write vdev 0x555cf4ea7420 req 0x5 sector 1 nsectors 1\n\
                         5218@1796021590.516300:virtio_blk_handle_read vdev 0x555cf4ea7420 req 0x5 sector 1 nsectors 1\n\
                         5218@1796021591.000001:virtio_blk_handle_write vdev 0x555cf4ea7420 req 0x5 sector 1 nsectors 1\n";

    /// Loads sector 1, writes it `writes` times by the BIOS, and ends QEMU. See BIOS interrupt 13h, function 3.
    fn boot_sector(writes: u8) -> Vec<u8> {
        #[rustfmt::skip]
        let code = [
            0xb9, writes, 0x00,                         //    mov  $writes, %cx
            0x51,                                       // 1: push %cx
            0xb8, 0x01, 0x03,                           //    mov  $0x0301, %ax
            0xb9, 0x02, 0x00,                           //    mov  $2, %cx
            0xb6, 0x00,                                 //    mov  $0, %dh
            0xbb, 0x00, 0x7e,                           //    mov  $0x7e00, %bx
            0xcd, 0x13,                                 //    int  $0x13
            0x59,                                       //    pop  %cx
            0xe2, 0xef,                                 //    loop 1b
            0xba, 0xf4, 0x00, 0xb0, 0x10, 0xee, 0xf4,   //    mov $0xf4, %dx; mov $0x10, %al; out %al, %dx; hlt
        ];
        let mut disk = vec![0; 1 << 20];
        disk[..code.len()].copy_from_slice(&code);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk
    }

    /// QEMU with nothing but that on its disk.
    fn qemu(dir: &Path, fifo: &Path) -> Child {
        let disk = dir.join("disk");
        fs::write(&disk, boot_sector(5)).unwrap();
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-accel",
            "tcg",
            "-machine",
            "pc",
            "-m",
            "16",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ])
        .args(["-display", "none", "-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-drive"])
        .arg(format!("if=virtio,format=raw,file={}", disk.display()))
        .args(arguments(fifo))
        .stdin(Stdio::null());
        qemu.spawn().unwrap()
    }

    #[test]
    fn each_write_of_a_guest_is_seen_at_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("a, b");
        let trace = WriteTrace::create(&fifo).unwrap();
        let begin = clock::now();
        assert!(qemu(dir.path(), &fifo).wait().unwrap().code().is_some());
        let end = clock::now();
        assert_eq!(trace.count(), 5);
        let writes = trace.between(begin, end).unwrap();
        let (first, last) = writes.between.unwrap();
        assert_eq!(writes.count, 5);
        assert!(begin <= first && first < last && last <= end);
        assert_eq!(trace.between(first, last).unwrap(), writes);
        assert_eq!(trace.between(first + 1, last - 1).unwrap().count, 3);
        assert_eq!(trace.between(end, clock::now()).unwrap(), Writes { count: 0, between: None });
        drop(trace);
        assert!(!fifo.exists());
    }

    #[test]
    fn qemu_goes_on_when_nobody_follows_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("writes");
        let trace = WriteTrace::create(&fifo).unwrap();
        let mut qemu = qemu(dir.path(), &fifo);
        // It has opened the FIFO when it has written the first line.
        while trace.count() == 0 {
            assert!(qemu.try_wait().unwrap().is_none() || trace.count() > 0, "it has ended");
            thread::yield_now();
        }
        drop(trace);
        // 0x10 of the boot sector: `(0x10 << 1) | 1`.
        assert_eq!(qemu.wait().unwrap().code(), Some(33));
    }

    #[test]
    fn only_writes_count_however_their_lines_come() {
        let (wall, now) = (1_796_021_592_000_000_000, 50_000_000_000);
        let mut trace = Trace::new(tempfile::tempfile().unwrap());
        for byte in LINES.as_bytes() {
            trace.push(&[*byte], WallClock::at(wall, now));
        }
        assert_eq!(trace.times, [now - 1_483_769_000, now - 999_999_000]);
        for other in [
            "virtio_blk_handle_write vdev 0x5 req 0x5 sector 1 nsectors 1\n",
            "1@1.000001:virtio_blk_handle_writes x\n",
            "1@1.01:virtio_blk_handle_write x\n",
            "1@+1.000001:virtio_blk_handle_write x\n",
            "1@99999999999999999999.000001:virtio_blk_handle_write x\n",
            "1@18446744073709.000001:virtio_blk_handle_write x\n",
            "\u{1b}\n\n::@.\n",
        ] {
            trace.push(other.as_bytes(), WallClock::at(wall, now));
        }
        trace.push(b"\xFF1@1.000001:virtio_blk_handle_write x\n", WallClock::at(wall, now));
        assert_eq!(trace.count, 2);
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_forgotten_is_told() {
        let clock = WallClock::at(2_000_000_000, 2_000_000_000);
        let mut trace = Trace::new(tempfile::tempfile().unwrap());
        trace.push(&vec![b'a'; 1 << 20], clock);
        assert!(trace.partial.len() <= LINE);
        trace.push(b"\n", clock);
        for t in 0..MOST_WRITES as u64 + 3 {
            trace.add(t);
        }
        assert_eq!((trace.times.len(), trace.count), (MOST_WRITES, MOST_WRITES as u64 + 3));
        assert_eq!(trace.between(2, 10), None);
        assert_eq!(trace.between(3, 10), Some(Writes { count: 8, between: Some((3, 10)) }));
    }

    #[test]
    fn what_was_written_before_the_question_is_in_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("writes");
        let trace = WriteTrace::create(&fifo).unwrap();
        let mut qemu = File::options().append(true).open(&fifo).unwrap();
        for n in 1..200 {
            qemu.write_all(b"1@1.000001:virtio_blk_handle_write x\n").unwrap();
            assert_eq!(trace.count(), n);
        }
    }
}
