//! A server set up like that of an image, and runs of the load against it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use freezeframe::database::{Access, SCHEMA};
use freezeframe::image::{Database, Server as ServerFacts};
use freezeframe::judge::{HISTORY, OBSERVATION};
use freezeframe::load::{HistoryLog, Load};
use freezeframe::observation::Record;
use freezeframe::observe;
use freezeframe::scenario::{self, Profile};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::call::wait_until;
use crate::server::Server;

/// Writers of every run: enough to meet on accounts and in group commits.
pub(crate) const WRITERS: u32 = 6;

/// One statement of the load. Nothing here but a lock takes longer than milliseconds.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

/// Longer than anything here may take: what exceeds it hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What a trial has on the host's side: a way to the server, and a place for its logs.
pub(crate) struct Client {
    pub(crate) runtime: Runtime,
    pub(crate) access: Access,
    dir: TempDir,
}

/// A server with the load's account, as an image has it.
pub(crate) fn serve(options: &[&str]) -> (Server, Client) {
    let address = free_address();
    let port = format!("--port={}", address.port());
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
    let server = Server::start(Database::Mariadb, &[&like_the_image, options].concat());
    let dir = tempfile::tempdir().unwrap();
    let password_file = dir.path().join("secret");
    fs::write(&password_file, "5e3c\n").unwrap();
    server.sql(&account_statements("5e3c"));
    let facts = ServerFacts {
        database: Database::Mariadb,
        unit: String::new(),
        datadir: server.datadir(),
        binlogs: server.datadir(),
        port: address.port(),
        user: "freezeframe".to_owned(),
        password_file,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let access = Access::new(address, &facts).unwrap();
    (server, Client { runtime, access, dir })
}

impl Client {
    /// Waits for what must come.
    #[track_caller]
    pub(crate) fn wait<T>(&self, event: impl Future<Output = T>) -> T {
        // The timer belongs to the runtime, so it is made inside.
        self.runtime.block_on(async { tokio::time::timeout(LIMIT, event).await }).expect("no answer in time")
    }

    /// A new run, on an empty schema.
    pub(crate) fn run(&self, name: &str) -> Run<'_> {
        let empty = format!("DROP DATABASE {SCHEMA}; CREATE DATABASE {SCHEMA}");
        self.wait(self.connect().query_drop(empty)).unwrap();
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        Run { client: self, history: HistoryLog::create(&dir.join(HISTORY)).unwrap(), dir }
    }

    /// A connection of the load's account.
    pub(crate) fn connect(&self) -> Conn {
        self.wait(self.access.connect_patiently(STATEMENT_LIMIT)).unwrap()
    }

    /// A connection of root, over the server's own socket.
    pub(crate) fn connect_as_root(&self, server: &Server) -> Conn {
        let socket = server.socket().display().to_string();
        let opts = OptsBuilder::default().user(Some("root")).socket(Some(socket)).db_name(Some(SCHEMA));
        self.wait(Conn::new(opts)).unwrap()
    }
}

/// One run of the load, with a directory like that of a trial.
pub(crate) struct Run<'a> {
    client: &'a Client,
    pub(crate) dir: PathBuf,
    pub(crate) history: HistoryLog,
}

impl Run<'_> {
    pub(crate) fn start(&self, seed: u64) -> Load {
        self.start_impatiently(seed, STATEMENT_LIMIT)
    }

    /// With writers that give a statement up after this limit.
    pub(crate) fn start_impatiently(&self, seed: u64, limit: Duration) -> Load {
        let load = scenario::Load { profile: Profile::Durable, writers: WRITERS, rate: None, seconds: 0.0 };
        let Client { runtime, access, .. } = self.client;
        Load::start(runtime, access, Database::Mariadb, &load, seed, limit, &self.history, []).unwrap()
    }

    pub(crate) fn stop(&self, load: Load) {
        load.stop(&self.client.runtime, LIMIT).unwrap();
    }

    /// Writes down what the tables hold now, as a trial does with a restored server's.
    pub(crate) fn observe(&self) {
        let mut out = observe::create(&self.dir.join(OBSERVATION)).unwrap();
        let server =
            Record::Server { started: true, detail: String::new(), prepared: None, recovery: vec![] };
        out.write(&server).unwrap();
        let mut conn = self.client.connect();
        let tables = observe::tables(&mut conn, Database::Mariadb, Profile::Durable, &mut out);
        self.client.wait(tables).unwrap();
        self.client.wait(observe::memory(&mut conn, &mut out)).unwrap();
        observe::complete(out).unwrap();
    }
}

/// Waits until so many more transfers were acknowledged.
#[track_caller]
pub(crate) fn wait_for_transfers(load: &Load, more: u64) {
    let enough = load.acknowledged() + more;
    wait_until("transfers are acknowledged", || load.acknowledged() >= enough);
}

/// A port that was free a moment ago. The kernel chooses among thousands at random, so nobody else is
/// likely to be given it before the server has it.
fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).unwrap()
}

/// What an image's build tells its server: the database of the load, and its account.
fn account_statements(secret: &str) -> String {
    let layer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/layers/mariadb/customize.sh");
    let script = fs::read_to_string(layer).unwrap();
    let (_, rest) = script.split_once("<<SQL\n").expect("its statements");
    let (statements, _) = rest.split_once("\nSQL\n").expect("their end");
    // Here root has no password, whoever runs this test.
    let ours = statements.lines().filter(|line| !line.contains("root@localhost"));
    ours.collect::<Vec<_>>().join("\n").replace("$secret", secret)
}
