//! A server set up like that of an image, and runs of the load against it.

use std::cell::OnceCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use std::{fs, io, thread};

use contract::history::{self, Setup};
use contract::image::Database;
use contract::observation::{self, Record};
use contract::scenario::{self, Profile};
use harness::database::{TCP_ADMIN, Target, dialect};
use harness::history_log::HistoryLog;
use harness::load::{Load, Order, heartbeat};
use harness::names::Names;
use harness::observe;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::call::wait_until;
use crate::cluster::Cluster;
use crate::server::{self, Server};

/// Writers of every run: enough to contend for accounts and to share group commits.
pub(crate) const WRITERS: u32 = 6;

/// The limit for one statement of the load. Only a lock takes longer than milliseconds here.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

/// Longer than anything here may take: anything that takes longer hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A trial's host side: the port of the server, and a directory for its logs.
pub(crate) struct Client {
    pub(crate) runtime: Runtime,
    database: Database,
    port: ReservedPort,
    /// How its root reaches it: MariaDB's socket, or PostgreSQL's client.
    root: Root,
    dir: TempDir,
}

enum Root {
    Socket(PathBuf),
    Psql(Box<dyn Fn(&str)>),
}

/// The heartbeats of a file system whose guest answers each of them at once.
fn heartbeats() -> heartbeat::Channel {
    let (ours, mut guest) = UnixStream::pair().unwrap();
    let mut answers = guest.try_clone().unwrap();
    thread::spawn(move || io::copy(&mut guest, &mut answers));
    ("root".into(), ours)
}

/// A server set up like that of an image.
pub(crate) fn serve(options: &[&str]) -> (Server, Client) {
    let reserved = reserve_port();
    let port = format!("--port={}", reserved.address.port());
    let like_the_image = [
        "--skip-networking=OFF",
        "--bind-address=127.0.0.1",
        &port,
        "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=1",
        "--sync-binlog=1",
        "--binlog-format=ROW",
        "--myisam-recover-options=OFF",
        "--aria-recover-options=",
        "--performance-schema=OFF",
        "--max-connections=64",
    ];
    let server = Server::start(server::Database::MARIADB, &[&like_the_image, options].concat());
    let root = Root::Socket(server.socket());
    (server, Client::new(Database::Mariadb, reserved, root))
}

/// A PostgreSQL server set up like that of an image.
pub(crate) fn serve_postgresql(options: &[&str]) -> (Rc<Cluster>, Client) {
    let reserved = reserve_port();
    let port = format!("port={}", reserved.address.port());
    let like_the_image = ["listen_addresses=127.0.0.1", &port, "full_page_writes=on", "max_connections=64"];
    let cluster = Rc::new(Cluster::start(&[&like_the_image, options].concat()));
    cluster.sql("CREATE DATABASE freezeframe");
    let root = Rc::clone(&cluster);
    let root = Root::Psql(Box::new(move |statements| {
        root.sql_in("freezeframe", statements);
    }));
    (cluster, Client::new(Database::Postgresql, reserved, root))
}

impl Client {
    fn new(database: Database, port: ReservedPort, root: Root) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { runtime, database, port, root, dir }
    }

    /// Waits for a future that must complete.
    #[track_caller]
    pub(crate) fn wait<T>(&self, event: impl Future<Output = T>) -> T {
        // The timer belongs to the runtime, so it is made inside.
        self.runtime.block_on(async { tokio::time::timeout(LIMIT, event).await }).expect("no answer in time")
    }

    /// A new run, with names of its own. Every door leads over the network here, because the relay
    /// to the server's socket runs in a guest.
    pub(crate) fn run(&self, name: &str) -> Run<'_> {
        let names = Names::random();
        let grants = dialect(self.database).grant(&names);
        match &self.root {
            Root::Socket(_) => {
                let mut root = self.connect_as_root();
                self.wait(root.query_drop(grants)).unwrap();
            }
            Root::Psql(run) => run(&grants),
        }
        let target = Target::new(self.database, names, self.port.address, self.port.address);
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        let history = HistoryLog::create(&dir.join(history::FILE), 1).unwrap();
        Run { client: self, target, history, dir, setup: OnceCell::new() }
    }

    /// A connection of root, over the server's own socket.
    pub(crate) fn connect_as_root(&self) -> Conn {
        let Root::Socket(socket) = &self.root else { panic!("PostgreSQL has another protocol") };
        let socket = socket.display().to_string();
        let opts = OptsBuilder::default().user(Some("root")).socket(Some(socket));
        self.wait(Conn::new(opts)).unwrap()
    }
}

/// One run of the load, with a directory like that of a trial.
pub(crate) struct Run<'a> {
    client: &'a Client,
    pub(crate) target: Target,
    pub(crate) dir: PathBuf,
    pub(crate) history: HistoryLog,
    /// What its load set up.
    setup: OnceCell<Setup>,
}

impl Run<'_> {
    pub(crate) fn start(&self, seed: u64) -> Load {
        self.start_impatiently(seed, STATEMENT_LIMIT)
    }

    /// Starts writers that give up a statement after this limit.
    pub(crate) fn start_impatiently(&self, seed: u64, limit: Duration) -> Load {
        let load = scenario::Load {
            profile: Profile::Durable,
            writers: WRITERS,
            rate: None,
            seconds: 0.0,
            data_mib: 0,
        };
        let Client { runtime, .. } = self.client;
        let disks = vec!["vda".into()];
        let heartbeats = vec![heartbeats()];
        let order = Order { load: &load, seed, statement_limit: limit, disks, heartbeats, tool: false };
        let load = Load::start(runtime, &self.target, &self.history, order).unwrap();
        self.setup.set(load.setup().clone()).unwrap();
        load
    }

    pub(crate) fn stop(&self, load: Load) {
        load.stop(&self.client.runtime, LIMIT).unwrap();
    }

    /// A table's name in statements.
    pub(crate) fn table(&self, plain: &str) -> String {
        self.target.names.table(plain)
    }

    /// An SQL condition for the server's threads of this run's accounts.
    pub(crate) fn is_ours(&self) -> String {
        let Names { ordinary, administrator, .. } = &self.target.names;
        format!("user IN ('{}', '{}')", ordinary.user, administrator.user)
    }

    /// Records what the tables hold now, as a trial does with those of a restored server.
    pub(crate) fn observe(&self) {
        let mut out = observe::create(&self.dir.join(observation::FILE)).unwrap();
        let server = Record::Server {
            started: true,
            detail: String::new(),
            prepared: None,
            recovered: None,
            recovery: vec![],
            corruption: vec![],
        };
        out.write(&server).unwrap();
        let connecting = self.target.door(TCP_ADMIN).connect_with_retries(STATEMENT_LIMIT);
        let mut conn = self.client.wait(connecting).unwrap();
        let setup = self.setup.get().unwrap();
        let (database, names) = (self.target.database, &self.target.names);
        let expected = observe::Expected { database, setup, names, most_rows: u64::MAX };
        self.client.wait(observe::tables(&mut conn, expected, &mut out)).unwrap();
        self.client.wait(observe::memory(&mut conn, expected, &mut out)).unwrap();
        observe::complete(out).unwrap();
    }
}

/// Waits until this many more transfers were acknowledged.
#[track_caller]
pub(crate) fn wait_for_transfers(load: &Load, more: u64) {
    let enough = load.acknowledged() + more;
    wait_until("transfers are acknowledged", || load.acknowledged() >= enough);
}

/// A port of this host that nobody else gets while this lives.
pub(crate) struct ReservedPort {
    pub(crate) address: SocketAddr,
    _socket: OwnedFd,
}

/// Reserves a port by a socket that is bound to it and does not listen. A server that asks to reuse
/// the address, as MariaDB and PostgreSQL do, can have it all the same; see SO_REUSEADDR in socket(7).
pub(crate) fn reserve_port() -> ReservedPort {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    set_socket_reuseaddr(&socket, true).unwrap();
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = getsockname(&socket).unwrap().try_into().unwrap();
    ReservedPort { address, _socket: socket }
}
