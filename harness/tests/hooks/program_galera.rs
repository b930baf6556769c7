//! `fsfreeze-db` on a node of a Galera cluster, whose other nodes write on.

use std::fs;
use std::path::Path;
use std::thread;

use crate::call::{free_ports, root, send_signal, soon, wait_until};
use crate::program::{LOCK_LOST, Program, of};
use crate::server::{Database, Server};

/// More than a cluster writes on when one of its nodes does not follow.
const WRITES: u64 = 300;

/// Three nodes that begin with the same data.
struct Cluster([Server; 3]);

impl Cluster {
    fn start(release: &'static str) -> Self {
        let ports: [u16; 6] = free_ports();
        let ports: Vec<(u16, u16)> = ports.chunks(2).map(|two| (two[0], two[1])).collect();
        let peers: Vec<String> = ports.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        let peers = peers.join(",");
        // None answers before all are there.
        let nodes = thread::scope(|scope| {
            let start = |(number, ports)| {
                let peers = &peers;
                scope.spawn(move || node(release, number, ports, peers))
            };
            let starting: Vec<_> = ports.iter().copied().enumerate().map(start).collect();
            starting.into_iter().map(|node| node.join().expect("a node")).collect::<Vec<_>>()
        });
        let this = Self(nodes.try_into().unwrap_or_else(|_| panic!("three")));
        for node in &this.0 {
            wait_until("the node is synced", || state(node) == "Synced");
        }
        this.0[0].make_tables();
        this
    }

    /// Has one of them write, and gives what it writes.
    fn write(&self) -> String {
        self.0[1].sql(&"UPDATE t.inno SET v=v+1 WHERE id=1;".repeat(usize::try_from(WRITES).unwrap()));
        value(&self.0[1])
    }
}

/// How often this node has told the cluster to wait for it.
fn stopped_the_cluster(node: &Server) -> u64 {
    node.status("wsrep_flow_control_sent")
}

/// A node that has been one of the three before, as far as it knows: so none needs the data of another.
fn node(release: &'static str, number: usize, (port, other): (u16, u16), peers: &str) -> Server {
    let provider = root(release).join("usr/lib/galera/libgalera_smm.so");
    let options = [
        "--binlog-format=ROW".to_owned(),
        "--innodb-autoinc-lock-mode=2".to_owned(),
        "--wsrep-on=ON".to_owned(),
        "--wsrep-sst-method=skip".to_owned(),
        format!("--wsrep-provider={}", provider.display()),
        format!("--wsrep-cluster-address=gcomm://{peers}"),
        format!("--wsrep-node-address=127.0.0.1:{port}"),
        format!(
            "--wsrep-provider-options=base_host=127.0.0.1;base_port={port};gcache.size=8M;socket.ssl=no;\
             gmcast.listen_addr=tcp://127.0.0.1:{port};ist.recv_addr=127.0.0.1:{other}"
        ),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Server::launch(Database::Mariadb(Some(release)), &options, None, |command, dir| {
        remember_the_cluster(&dir.join("data"), number);
        command
    })
}

fn remember_the_cluster(data: &Path, number: usize) {
    let node = |number| format!("{}-ed0b-11f1-895f-1fa47430dd5c", 11_111_111 * (number + 1));
    let state = format!(
        "# GALERA saved state\nversion: 2.1\nuuid:    {}\nseqno:   0\nsafe_to_bootstrap: 0\n",
        node(8)
    );
    let members: String = (0..3).map(|number| format!("member: {} 0\n", node(number))).collect();
    let view = format!(
        "my_uuid: {}\n#vwbeg\nview_id: 3 {} 1\nbootstrap: 0\n{members}#vwend\n",
        node(number),
        node(0)
    );
    fs::write(data.join("grastate.dat"), state).expect("write its state");
    fs::write(data.join("gvwstate.dat"), view).expect("write its view");
}

fn variable(node: &Server, name: &str) -> String {
    let answer = node.sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'"));
    answer.split_once('\t').expect("a value").1.to_owned()
}

fn state(node: &Server) -> String {
    variable(node, "wsrep_local_state_comment")
}

fn value(node: &Server) -> String {
    node.sql("SELECT v FROM t.inno WHERE id=1")
}

/// The server leaves the flow control of its cluster by itself, and returns when the lock ends, however it ends.
fn the_cluster_writes_on(release: &'static str) {
    let cluster = Cluster::start(release);
    let frozen = &cluster.0[0];
    let follows = |value: &str| self::value(frozen) == value && state(frozen) == "Synced";
    for method in ["backup-stage", "ftwrl"] {
        let program = Program::set_up("", &of(frozen, &format!("method = '{method}'")));
        soon("the node follows", || follows(&value(&cluster.0[1])));
        let before = value(frozen);
        let stopped = stopped_the_cluster(frozen);

        program.freeze().succeeded();
        let last = variable(frozen, "wsrep_last_committed");
        let position = program.position_of(&frozen.datadir(), "galera_state");
        assert_eq!(position, format!("{}:{last}", variable(frozen, "wsrep_local_state_uuid")));
        let written = cluster.write();
        assert_eq!(stopped_the_cluster(frozen), stopped, "the cluster waits for it");
        assert_eq!(value(frozen), before, "written while frozen");
        assert_eq!(variable(frozen, "wsrep_last_committed"), last, "written while frozen");
        program.call("status").succeeded();
        program.thaw().succeeded();
        soon("the node follows", || follows(&written));

        program.freeze().succeeded();
        send_signal("KILL", program.holder());
        let written = cluster.write();
        soon("the node follows", || follows(&written));
        program.thaw_fails(LOCK_LOST, "NOT held until thaw");
    }

    // A node that stops in any other way does stop the cluster, or nothing above would mean anything.
    let mut locks = frozen.session("FLUSH TABLES t.inno WITH READ LOCK; SELECT 1;");
    locks.answer().expect("it holds the table");
    let stopped = stopped_the_cluster(frozen);
    thread::scope(|scope| {
        scope.spawn(|| cluster.write());
        wait_until("it stops the cluster", || stopped_the_cluster(frozen) > stopped);
        drop(locks);
    });
}

#[test]
fn the_cluster_writes_on_mariadb_10_5() {
    the_cluster_writes_on("bullseye");
}

#[test]
fn the_cluster_writes_on_mariadb_11_8() {
    the_cluster_writes_on("trixie");
}
