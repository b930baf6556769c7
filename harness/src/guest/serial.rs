//! A guest agent on a serial port: the client of the socket that QEMU listens on.
//!
//! libvirt supports agents on virtio-serial only. The protocol is one JSON object a line, and
//! nothing in an answer names its command, so every command follows a `guest-sync-delimited` of its
//! own: the agent handles one command after the other, so once it has answered the last sync, no
//! answer to an earlier command can still arrive. See
//! <https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>.
//!
//! The crate `qapi` does not fit, because a guest may be hostile: it bounds neither the length of an
//! answer nor the wait for it, synchronizes without a delimiter, and shows nothing to a transcript.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bounds::AGENT_ANSWER;
use crate::clock;
use crate::error::{AgentError, Error, Result};

/// The silence after which the first further sync is sent; it doubles each time. An agent that
/// starts drops what was sent before.
const RESYNC_AFTER: Duration = Duration::from_secs(1);

/// A byte that JSON never contains: it ends anything that either side had read in part.
const SENTINEL: u8 = 0xFF;

/// The host's end of the serial port. Commands go one after another.
#[derive(Debug)]
pub(crate) struct Serial {
    socket: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl Serial {
    /// The port whose socket QEMU listens on; connects with the first command.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, connection: Mutex::new(None) }
    }

    /// Sends a command and returns the line that answers it, unparsed. `timeout` bounds the whole
    /// exchange.
    pub(crate) fn send_command(&self, command: &str, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match &mut *slot {
            Some(connection) => connection,
            none => none.insert(Connection::connect(&self.socket)?),
        };
        let answer = connection.synchronize(deadline).and_then(|()| {
            connection.send(&[command.as_bytes(), b"\n"].concat(), deadline)?;
            connection.receive(deadline)
        });
        answer.map_err(|reason| match reason {
            NoAnswer::Absent => AgentError::Absent(timeout).into(),
            NoAnswer::Late => AgentError::Late(timeout).into(),
            NoAnswer::Endless => AgentError::Endless(AGENT_ANSWER).into(),
            NoAnswer::Gone(error) => {
                *slot = None;
                Error::io("reach the guest agent through", &self.socket)(error)
            }
        })
    }
}

/// Why there is no answer.
#[derive(Debug)]
enum NoAnswer {
    /// No sync was answered, so the command was not sent.
    Absent,
    /// The command was sent, and may still be carried out.
    Late,
    /// The answer is longer than [`AGENT_ANSWER`].
    Endless,
    /// The connection is broken.
    Gone(std::io::Error),
}

/// A connection, and what was read from it beyond the last line.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    read: Vec<u8>,
}

impl Connection {
    fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).map_err(Error::io("connect to", socket))?;
        Ok(Self { stream, read: Vec::new() })
    }

    /// Returns when the agent has answered all that was sent before.
    fn synchronize(&mut self, deadline: Instant) -> Result<(), NoAnswer> {
        let mut resync_after = RESYNC_AFTER;
        loop {
            // Unique, even across processes: a saved guest may still hold an answer to another one.
            let id = clock::now();
            let sync = json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } });
            let sync = [&[SENTINEL], sync.to_string().as_bytes(), b"\n"].concat();
            self.send(&sync, deadline).map_err(|reason| match reason {
                NoAnswer::Late => NoAnswer::Absent,
                other => other,
            })?;
            loop {
                let until = deadline.min(Instant::now() + resync_after);
                match self.receive_bytes(until) {
                    Ok(line) if is_answer_to(id, &line) => return Ok(()),
                    // Left over from before, or an answer to an earlier sync.
                    Ok(_) | Err(NoAnswer::Endless) if Instant::now() < deadline => {}
                    Err(NoAnswer::Late) if Instant::now() < deadline => break,
                    Err(NoAnswer::Gone(error)) => return Err(NoAnswer::Gone(error)),
                    Ok(_) | Err(_) => return Err(NoAnswer::Absent),
                }
            }
            resync_after *= 2;
        }
    }

    fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), NoAnswer> {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.stream.set_write_timeout(Some(left(deadline)?)).map_err(NoAnswer::Gone)?;
            match self.stream.write(rest) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(NoAnswer::Gone(e)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> Result<String, NoAnswer> {
        Ok(String::from_utf8_lossy(&self.receive_bytes(deadline)?).into_owned())
    }

    /// The next line that is not empty, without its line ending.
    fn receive_bytes(&mut self, deadline: Instant) -> Result<Vec<u8>, NoAnswer> {
        let mut searched = 0;
        loop {
            let end = self.read.iter().skip(searched).position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let rest = self.read.split_off(searched + end + 1);
                let line = std::mem::replace(&mut self.read, rest);
                searched = 0;
                let line = line.trim_ascii();
                if !line.is_empty() {
                    return Ok(line.to_vec());
                }
                continue;
            }
            searched = self.read.len();
            if searched > AGENT_ANSWER {
                self.read.clear();
                return Err(NoAnswer::Endless);
            }
            self.stream.set_read_timeout(Some(left(deadline)?)).map_err(NoAnswer::Gone)?;
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(NoAnswer::Gone(ErrorKind::UnexpectedEof.into())),
                Ok(n) => self.read.extend(chunk.iter().take(n)),
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(NoAnswer::Gone(e)),
            }
        }
    }
}

/// The time until a deadline, never zero, which would mean no limit to a socket.
fn left(deadline: Instant) -> Result<Duration, NoAnswer> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(NoAnswer::Late),
        left => Ok(left),
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Whether a line ends with a sentinel and the agent's answer to this sync; unfinished output may
/// come before.
fn is_answer_to(id: u64, line: &[u8]) -> bool {
    let answer = line.iter().rposition(|byte| *byte == SENTINEL).and_then(|at| line.get(at + 1..));
    answer.is_some_and(|json| {
        serde_json::from_slice::<Value>(json).is_ok_and(|answer| answer["return"].as_u64() == Some(id))
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::thread::{JoinHandle, spawn};

    use super::*;

    /// Enough for those answers that do arrive.
    const SHORT: Duration = Duration::from_secs(3);
    const LONG: Duration = Duration::from_secs(30);

    /// The guest's end of one connection.
    struct Guest(BufReader<UnixStream>);

    impl Guest {
        fn accept(listener: &UnixListener) -> Self {
            Self(BufReader::new(listener.accept().unwrap().0))
        }

        /// The next line, as a command; `None` when the host has gone. A sync must have a sentinel.
        fn read(&mut self) -> Option<Value> {
            let mut line = Vec::new();
            self.0.read_until(b'\n', &mut line).ok().filter(|n| *n > 0)?;
            let sync = line.strip_prefix(&[SENTINEL]);
            let command: Value = serde_json::from_slice(sync.unwrap_or(&line)).unwrap();
            assert_eq!(sync.is_some(), command["execute"] == "guest-sync-delimited", "{command}");
            Some(command)
        }

        fn read_sync(&mut self) -> u64 {
            self.read().unwrap()["arguments"]["id"].as_u64().unwrap()
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0.get_mut().write_all(bytes).unwrap();
        }

        fn answer_sync(&mut self, id: u64) {
            self.write(&[&[SENTINEL], format!("{{\"return\": {id}}}\n").as_bytes()].concat());
        }

        /// Answers syncs until another command comes.
        fn next_command(&mut self) -> String {
            loop {
                let command = self.read().unwrap();
                match command["arguments"]["id"].as_u64() {
                    Some(id) => self.answer_sync(id),
                    None => return command["execute"].as_str().unwrap().to_owned(),
                }
            }
        }
    }

    /// A port, and the guest behind it.
    fn scene<T: Send + 'static>(
        guest: impl FnOnce(UnixListener) -> T + Send + 'static,
    ) -> (tempfile::TempDir, Serial, JoinHandle<T>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent");
        let listener = UnixListener::bind(&socket).unwrap();
        (dir, Serial::new(socket), spawn(move || guest(listener)))
    }

    fn command(name: &str) -> String {
        json!({ "execute": name }).to_string()
    }

    #[test]
    fn an_answer_may_come_in_pieces() {
        let (_dir, serial, guest) = scene(|listener| {
            let mut guest = Guest::accept(&listener);
            let id = guest.read_sync().to_string();
            let (first, second) = id.split_at(4);
            for piece in [&[SENTINEL], b"{\"ret".as_slice(), b"urn\": ", first.as_bytes()] {
                guest.write(piece);
                std::thread::yield_now();
            }
            guest.write(format!("{second}}}\n").as_bytes());
            assert_eq!(guest.next_command(), "guest-ping");
            guest.write(b"\n{\"return\"");
            std::thread::yield_now();
            guest.write(b": {}}\r\n");
        });
        assert_eq!(serial.send_command(&command("guest-ping"), LONG).unwrap(), "{\"return\": {}}");
        guest.join().unwrap();
    }

    #[test]
    fn a_late_answer_is_never_that_of_the_next_command() {
        let (_dir, serial, guest) = scene(|listener| {
            let mut guest = Guest::accept(&listener);
            assert_eq!(guest.next_command(), "guest-fsfreeze-freeze");
            let id = guest.read_sync();
            guest.write(b"{\"return\": 1}\n");
            guest.answer_sync(id);
            assert_eq!(guest.next_command(), "guest-fsfreeze-thaw");
            guest.write(b"{\"return\": 2}\n");
        });
        let error = serial.send_command(&command("guest-fsfreeze-freeze"), SHORT).unwrap_err().to_string();
        assert_eq!(error, "the guest agent gave no answer within 3.0 s");
        assert_eq!(serial.send_command(&command("guest-fsfreeze-thaw"), LONG).unwrap(), "{\"return\": 2}");
        guest.join().unwrap();
    }

    #[test]
    fn nothing_is_sent_to_an_agent_that_is_not_there() {
        let (_dir, serial, guest) = scene(|listener| {
            let mut guest = Guest::accept(&listener);
            let mut received = Vec::new();
            while let Some(command) = guest.read() {
                received.push(command["execute"].as_str().unwrap().to_owned());
            }
            received
        });
        let begin = Instant::now();
        let error = serial.send_command(&command("guest-fsfreeze-freeze"), SHORT).unwrap_err().to_string();
        assert_eq!(error, "no guest agent answers on its serial port within 3.0 s");
        assert!(begin.elapsed() >= SHORT);
        drop(serial);
        let received = guest.join().unwrap();
        // One at once and further ones after each RESYNC_AFTER, as far as the processor allows.
        assert!(
            received.len() >= 2 && received.iter().all(|name| name == "guest-sync-delimited"),
            "{received:?}"
        );
    }

    #[test]
    fn an_agent_that_starts_late_gets_another_sync() {
        let (_dir, serial, guest) = scene(|listener| {
            let mut guest = Guest::accept(&listener);
            guest.read_sync();
            // Its tty echoes what came before the agent started, and the agent rejects the rest.
            guest.write(b"\xFF{\"execute\": \"guest-sync-delimited\"}\nuest-sync\n{\"error\": {\"desc\": \"JSON\"}}\n{\"re");
            guest.next_command();
            guest.write(b"{\"return\": {}}\n");
        });
        assert_eq!(serial.send_command(&command("guest-ping"), LONG).unwrap(), "{\"return\": {}}");
        guest.join().unwrap();
    }

    #[test]
    fn only_the_answer_to_the_last_sync_counts() {
        let (_dir, serial, guest) = scene(|listener| {
            let mut guest = Guest::accept(&listener);
            let first = guest.read_sync();
            let second = guest.read_sync();
            for id in [first, first, second + 1] {
                guest.answer_sync(id);
            }
            guest.write(b"{\"return\": 7}\n");
            guest.answer_sync(second);
            guest.next_command();
            guest.write(b"{\"return\": 8}\n");
        });
        assert_eq!(serial.send_command(&command("guest-ping"), LONG).unwrap(), "{\"return\": 8}");
        guest.join().unwrap();
    }

    #[test]
    fn an_answer_without_end_is_bounded_and_harms_no_other() {
        let (_dir, serial, guest) = scene(|listener| {
            let mut guest = Guest::accept(&listener);
            guest.next_command();
            for _ in 0..=AGENT_ANSWER / 4096 {
                guest.write(&[b'a'; 4096]);
            }
            guest.next_command();
            guest.write(b"{\"return\": 2}\n");
        });
        let error = serial.send_command(&command("guest-info"), LONG).unwrap_err().to_string();
        assert!(error.contains("does not end within 1048576 bytes"), "{error}");
        assert_eq!(serial.send_command(&command("guest-ping"), LONG).unwrap(), "{\"return\": 2}");
        guest.join().unwrap();
    }

    #[test]
    fn a_connection_that_ends_is_made_anew() {
        let (_dir, serial, guest) = scene(|listener| {
            Guest::accept(&listener).next_command();
            Guest::accept(&listener).next_command();
            let mut guest = Guest::accept(&listener);
            guest.next_command();
            guest.write(b"{\"return\": 3}\n");
        });
        for _ in 0..2 {
            let error = serial.send_command(&command("guest-ping"), LONG).unwrap_err().to_string();
            assert!(error.starts_with("cannot reach the guest agent through "), "{error}");
        }
        assert_eq!(serial.send_command(&command("guest-ping"), LONG).unwrap(), "{\"return\": 3}");
        guest.join().unwrap();
    }

    #[test]
    fn a_guest_that_is_gone_is_told_at_once() {
        let (dir, serial, guest) = scene(drop);
        guest.join().unwrap();
        let begin = Instant::now();
        assert!(serial.send_command(&command("guest-ping"), LONG).is_err());
        std::fs::remove_file(dir.path().join("agent")).unwrap();
        assert!(serial.send_command(&command("guest-ping"), LONG).is_err());
        assert!(begin.elapsed() < LONG);
    }
}
