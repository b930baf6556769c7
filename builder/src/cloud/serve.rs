//! A server of one file on loopback, for tests.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a server holds, and how it serves it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Served {
    pub(crate) content: Vec<u8>,
    /// After so many bytes it ends its answers, one after the other; those that follow are whole.
    pub(crate) cuts: Vec<usize>,
    /// It knows no ranges, and always sends the whole file.
    pub(crate) whole_only: bool,
    /// The answer of 200 claims this length.
    pub(crate) claims: Option<u64>,
}

/// A running server; it ends with the test's process.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<usize>>>,
}

impl Server {
    pub(crate) fn start(served: Served) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}/disk.qcow2", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that goes away is its own business.
                let _ = answer(&mut stream.unwrap(), &served, &log);
            }
        });
        Self { url, requests }
    }

    /// Where each request began, bytes.
    pub(crate) fn requests(&self) -> Vec<usize> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(stream: &mut TcpStream, served: &Served, log: &Mutex<Vec<usize>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let path = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut start = 0;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().unwrap();
        }
    }
    let count = {
        let mut requests = log.lock().unwrap();
        requests.push(start);
        requests.len()
    };
    if !path.contains("/disk.qcow2 ") {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let content = &served.content;
    if served.whole_only {
        start = 0;
    }
    if start > 0 && start >= content.len() {
        let headers = "Content-Length: 0\r\nConnection: close\r\n\r\n";
        return write!(stream, "HTTP/1.1 416 Range Not Satisfiable\r\n{headers}");
    }
    let rest = &content[start..];
    let length = served.claims.unwrap_or(rest.len() as u64);
    let (status, range) = match start {
        0 => ("200 OK", String::new()),
        start => {
            let (last, len) = (content.len() - 1, content.len());
            ("206 Partial Content", format!("Content-Range: bytes {start}-{last}/{len}\r\n"))
        }
    };
    write!(stream, "HTTP/1.1 {status}\r\n{range}Content-Length: {length}\r\nConnection: close\r\n\r\n")?;
    let sent = served.cuts.get(count - 1).map_or(rest.len(), |cut| rest.len().min(*cut));
    stream.write_all(&rest[..sent])
}
