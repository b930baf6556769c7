//! The way to a server that may be hostile: what it sends is counted, and nothing more is read once it has sent
//! too much at once. The clients' own limits are none, or the server's to choose.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::bounds::SQL_AHEAD;
use crate::error::is_lack;

/// Counts what a server has sent and nobody has taken yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    /// What the host lacked to connect to it.
    lack: OnceLock<String>,
}

impl Meter {
    /// What was sent so far is taken.
    pub(super) fn taken(&self) {
        self.0.bytes.store(0, Ordering::Relaxed);
    }

    /// Whether it was too much.
    pub(super) fn is_exceeded(&self) -> bool {
        self.0.bytes.load(Ordering::Relaxed) > SQL_AHEAD
    }

    /// What the host lacked to connect, if it did.
    pub(super) fn lack(&self) -> Option<String> {
        self.0.lack.get().cloned()
    }

    fn failed(&self, error: &io::Error) {
        if is_lack(error) {
            let _ = self.0.lack.set(error.to_string());
        }
    }

    fn add(&self, bytes: usize) -> io::Result<()> {
        let bytes = bytes as u64;
        let all = self.0.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if all > SQL_AHEAD { Err(io::Error::other("the server sends too much")) } else { Ok(()) }
    }
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Metered {
    stream: TcpStream,
    meter: Meter,
}

impl Metered {
    pub(super) async fn connect(server: SocketAddr, meter: Meter) -> io::Result<Self> {
        let stream = TcpStream::connect(server).await.inspect_err(|error| meter.failed(error))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, meter })
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        match read {
            Poll::Ready(Ok(())) => Poll::Ready(self.meter.add(buffer.filled().len() - before)),
            other => other,
        }
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A loopback port that leads one client to the server, for a client that makes its connections itself. It is gone
/// when either side closes.
pub(super) async fn relay(server: SocketAddr, meter: Meter) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let relayed = async {
            let (mut client, _) = listener.accept().await.inspect_err(|error| meter.failed(error))?;
            drop(listener);
            client.set_nodelay(true)?;
            let mut server = Metered::connect(server, meter).await?;
            copy_bidirectional(&mut client, &mut server).await
        };
        // The client notices how it ended.
        let _ = relayed.await;
    });
    Ok(address)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::thread::{JoinHandle, spawn};
    use std::time::{Duration, Instant};

    use contract::image::Database;

    use super::super::connection::{Connection, SqlResult};
    use super::super::dialect;
    use super::*;
    use crate::bounds::SQL_ROWS;
    use crate::names::Account;

    /// More than each needs, and far less than it takes to fill a host's memory.
    const LIMIT: Duration = Duration::from_secs(60);

    /// The most that a server may get rid of: what is read, and the sockets' buffers.
    const MOST: u64 = 192 << 20;

    /// A server with one client: `greet` lets it in, then everything is answered by `answer` and, if it is not
    /// empty, `endless` again and again. Ends with how much it could send.
    fn server(
        greet: impl FnOnce(&mut TcpStream) + Send + 'static,
        answer: Vec<u8>,
        endless: Vec<u8>,
    ) -> (SocketAddr, JoinHandle<u64>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move || {
            let mut client = listener.accept().unwrap().0;
            greet(&mut client);
            client.write_all(&answer).unwrap();
            let mut sent = 0;
            while client.write_all(&endless).is_ok() && sent < 100 * MOST {
                sent += endless.len() as u64;
            }
            sent
        };
        (address, spawn(serve))
    }

    async fn open(database: Database, address: SocketAddr) -> SqlResult<Connection> {
        let account = Account { user: "u".into(), password: "p".into() };
        Connection::open(&dialect(database).route(address, &account, None), LIMIT).await
    }

    fn check(error: &str, sent: JoinHandle<u64>, begin: Instant) {
        assert!(error.contains(&format!("more than {SQL_AHEAD} bytes without a row")), "{error}");
        assert!(begin.elapsed() < LIMIT);
        let sent = sent.join().unwrap();
        assert!(sent < MOST, "{sent} bytes were sent");
    }

    fn postgresql(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    /// Reads a client's first message, and says that it is let in.
    fn admit(client: &mut TcpStream) {
        let mut length = [0; 4];
        client.read_exact(&mut length).unwrap();
        let rest = u64::from(u32::from_be_bytes(length)) - 4;
        io::copy(&mut client.take(rest), &mut io::sink()).unwrap();
        client.write_all(&postgresql(b'R', &[0; 4])).unwrap();
    }

    /// A row of one column.
    fn row(value: &[u8]) -> Vec<u8> {
        let length = u32::try_from(value.len()).unwrap().to_be_bytes();
        postgresql(b'D', &[&[0, 1], &length[..], value].concat())
    }

    /// The same, and answers which process serves it, and reads the next statement.
    fn serve(client: &mut TcpStream) {
        admit(client);
        let ready = postgresql(b'Z', b"I");
        client.write_all(&ready).unwrap();
        let column = [&b"\0\x01a\0"[..], &[0; 6], &[0, 0, 0, 25], &[0; 8]].concat();
        let done = postgresql(b'C', b"SELECT 1\0");
        let mut message = [0; 1024];
        assert!(client.read(&mut message).unwrap() > 0);
        client.write_all(&[postgresql(b'T', &column), row(b"7"), done, ready].concat()).unwrap();
        assert!(client.read(&mut message).unwrap() > 0);
        client.write_all(&postgresql(b'T', &column)).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_is_not_there_is_no_lack_of_the_host() {
        for database in [Database::Mariadb, Database::Postgresql] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            drop(listener);
            let error = open(database, address).await.unwrap_err();
            assert!(matches!(error, crate::error::SqlError::Lost(_)), "{error:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_postgresql_that_sends_parameters_without_end_is_cut_off() {
        let parameter = postgresql(b'S', &[&[b'x'; 60_000][..], b"\0y\0"].concat());
        let (address, sent) = server(admit, vec![], parameter);
        let begin = Instant::now();
        let error = open(Database::Postgresql, address).await.unwrap_err();
        check(&error.to_string(), sent, begin);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_postgresql_that_sends_a_value_without_end_is_cut_off() {
        let giant =
            [&b"D"[..], &0x7fff_fff0_u32.to_be_bytes()[..], &[0, 1], &0x7fff_ff00_u32.to_be_bytes()].concat();
        let (address, sent) = server(serve, giant, vec![b'x'; 1 << 16]);
        let mut conn = open(Database::Postgresql, address).await.unwrap();
        let begin = Instant::now();
        let error = conn.query("SELECT a").await.unwrap_err();
        drop(conn);
        check(&error.to_string(), sent, begin);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rows_that_are_kept_are_few() {
        for (value, most) in [(&b"1"[..], SQL_ROWS), (&[b'x'; 60_000][..], 1000)] {
            let (address, sent) = server(serve, vec![], row(value));
            let mut conn = open(Database::Postgresql, address).await.unwrap();
            let error = conn.query("SELECT a").await.unwrap_err().to_string();
            assert!(error.contains("and more; at most"), "{error}");
            drop(conn);
            sent.join().unwrap();

            // Read one by one, all are taken, until whoever takes them has enough.
            let (address, sent) = server(serve, vec![], row(value));
            let mut conn = open(Database::Postgresql, address).await.unwrap();
            let mut rows = 0;
            let stopped = conn.stream("SELECT a", |_| {
                rows += 1;
                if rows > 2 * most { Err("enough") } else { Ok(()) }
            });
            assert_eq!(stopped.await.unwrap(), Err("enough"));
            drop(conn);
            sent.join().unwrap();
        }
    }

    fn mysql(number: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        [&length[..3], &[number], body].concat()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_mysql_that_describes_columns_without_end_is_cut_off() {
        let greet = |client: &mut TcpStream| {
            // Protocol 10, with 41 and plugins; see MySQL's "Protocol::HandshakeV10".
            let greeting = [
                &b"\x0a8.0.0\0"[..],
                &[1, 0, 0, 0],
                &[b's'; 8],
                &[0, 0x00, 0x82, 33, 2, 0, 0x08, 0x00, 21],
                &[0; 10],
                &[b's'; 12],
                b"\0mysql_native_password\0",
            ];
            client.write_all(&mysql(0, &greeting.concat())).unwrap();
            let mut message = [0; 1024];
            assert!(client.read(&mut message).unwrap() > 0);
            client.write_all(&mysql(2, &[0, 0, 0, 2, 0, 0, 0])).unwrap();
            assert!(client.read(&mut message).unwrap() > 0);
        };
        // 2^20 columns, each of which is called `x...`.
        let columns = mysql(1, &[0xfd, 0, 0, 0x10]);
        let endless: Vec<u8> = (2..=255).chain(0..2).flat_map(|n| mysql(n, &[b'x'; 250])).collect();
        let (address, sent) = server(greet, columns, endless);
        let begin = Instant::now();
        // The client asks for settings when it connects.
        let error = open(Database::Mysql, address).await.unwrap_err();
        check(&error.to_string(), sent, begin);
    }
}
