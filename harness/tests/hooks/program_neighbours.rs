//! `fsfreeze-db`, the static program, beside what users and containers of the same machine leave for root's hook to
//! find.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::call::{call_as_agent, fsfreeze_db, install, program, send_signal, soon, wait_until};
use crate::program::{Ending, LOCK_LOST, NO_LOGIN, Program, REFUSED, of, of_data};
use crate::server::{Database, Server, Stopped, is_root};

/// The number of an account that is nobody's here.
const SOMEBODY: &str = "65533";

/// A copy of a program, under another name, in a directory of its own.
fn copy(of: &str, name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join(name);
    fs::copy(program(of), &copy).unwrap();
    for open in [dir.path(), &copy] {
        assert!(Command::new("chmod").arg("755").arg(open).status().unwrap().success());
    }
    (dir, copy)
}

fn started(command: &mut Command) -> Ending {
    Ending(command.spawn().expect("start it"))
}

/// Waits until a process that was started is the program that it is to become.
fn becomes(child: &Child, name: &str) {
    let comm = format!("/proc/{}/comm", child.id());
    wait_until("it has started", || fs::read_to_string(&comm).unwrap_or_default().trim_end() == name);
}

/// A `sleep` of this path, which stands in its directory.
fn started_by_somebody(sleep: &Path, stdin: Stdio) -> Ending {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={SOMEBODY}")).arg(format!("--regid={SOMEBODY}")).arg("--clear-groups");
    let started = started(command.arg(sleep).arg("300").current_dir(sleep.parent().unwrap()).stdin(stdin));
    becomes(&started.0, &sleep.file_name().unwrap().to_string_lossy());
    started
}

/// The directory may be the database's own, whose account could then empty any file.
#[test]
fn a_link_where_positions_go_is_not_followed() {
    let server = Server::with_tables(Database::MARIADB, &[]);
    let program = Program::new(&[&server]);
    let (lib, victim) = (program.path("lib"), program.path("victim"));
    fs::write(&victim, "as it was").unwrap();
    fs::create_dir(&lib).unwrap();
    program.freeze().succeeded();
    program.thaw().succeeded();
    let position = fs::read_dir(&lib).unwrap().next().unwrap().unwrap().path();
    for link in [lib.join(".fsfreeze-db"), position.with_extension("new")] {
        symlink(&victim, &link).unwrap();
    }
    program.freeze().succeeded();
    program.thaw().succeeded();
    program.call("check").succeeded();
    assert_eq!(fs::read_to_string(victim).unwrap(), "as it was");
    assert!(!program.position(&server, "nonce").is_empty());
}

/// To open a device may do something, and a FIFO shows that it was opened.
#[test]
fn nothing_but_files_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("postmaster.pid");
    fs::write(dir.path().join("PG_VERSION"), "17").unwrap();
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let _standing = started(Command::new("sleep").arg("300").current_dir(&dir));
    let opens = thread::spawn({
        let fifo = fifo.clone();
        move || File::options().write(true).open(fifo).unwrap()
    });
    let program = Program::new(&[]);
    program.freeze().succeeded();
    program.thaw().succeeded();
    assert!(!opens.is_finished());
    // The premise.
    File::open(&fifo).unwrap();
    opens.join().unwrap();
}

/// Whoever asks does not prolong what the server allows.
#[test]
fn a_status_prolongs_no_lock() {
    const HELD: Duration = Duration::from_secs(10);
    for database in [Database::MARIADB, Database::Mysql] {
        let server = Server::with_tables(database, &[]);
        let lines = of(&server, "");
        let program = Program::set_up(&format!("hold_seconds = {}", HELD.as_secs()), &lines);
        program.freeze().succeeded();
        let frozen = Instant::now();
        thread::sleep(Duration::from_secs(8));
        program.call("status").succeeded();
        send_signal("STOP", program.holder());
        assert!(!server.takes_writes());
        soon("the server releases the lock", || server.takes_writes());
        assert!(frozen.elapsed() < HELD + Duration::from_secs(6), "{:?}", frozen.elapsed());
        program.thaw_fails(LOCK_LOST, "NOT held until thaw");
    }
}

/// A server that logs every statement to the frozen file system answers after the thaw: that is no answer to what the
/// thaw asks.
#[test]
fn a_late_answer_is_not_taken_for_another_one() {
    for database in [Database::MARIADB, Database::Mysql] {
        let server = Server::with_tables(database, &[]);
        let program = Program::new(&[&server]);
        program.freeze().succeeded();
        let stopped = Stopped::new(&server);
        assert_eq!(program.call("status").code, Some(LOCK_LOST));
        drop(stopped);
        program.thaw().succeeded();
        assert!(server.takes_writes());
    }
}

/// What another server has to get ready for its lock may take long.
#[test]
fn no_writer_waits_while_another_server_gets_ready() {
    let server =
        Server::with_tables(Database::MARIADB, &["--general-log=1", "--general-log-file=general.log"]);
    let other = Server::with_tables(Database::MARIADB, &[]);
    let both = [of(&server, ""), of(&other, "")].concat();
    let program = Program::set_up("lock_seconds = 5", &both);
    let mut backup = other.session("BACKUP STAGE START; SELECT 'begun';");
    assert_eq!(backup.answer().as_deref(), Some("begun"));
    program.refuses(&server, REFUSED, "did not grant the lock: ");
    let asked = || fs::read_to_string(server.datadir().join("general.log")).unwrap();
    assert!(asked().contains("BACKUP STAGE START"));
    assert!(!asked().contains("BLOCK_COMMIT"), "{}", asked());
    // The premise.
    drop(backup);
    program.freeze().succeeded();
    assert!(asked().contains("BLOCK_COMMIT"));
    program.thaw().succeeded();
}

/// As in a burst of short connections. Ordinary clients wait for their turn.
#[test]
fn a_full_queue_of_connections_is_waited_for() {
    for database in [Database::MARIADB, Database::Mysql] {
        let server = Server::with_tables(database, &["--back-log=2"]);
        let program = Program::new(&[&server]);
        let stopped = Stopped::new(&server);
        let address = SocketAddrUnix::new(server.socket()).unwrap();
        let mut crowd = Vec::new();
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            match connect(&client, &address) {
                Ok(()) => crowd.push(client),
                Err(Errno::AGAIN) => break,
                Err(error) => panic!("{error}"),
            }
        }
        thread::scope(|scope| {
            let freeze = scope.spawn(|| program.freeze());
            wait_until("it has begun", || program.find_holder().is_some());
            thread::sleep(Duration::from_secs(1));
            assert!(!freeze.is_finished());
            drop(stopped);
            freeze.join().unwrap().succeeded();
        });
        program.thaw().succeeded();
    }
}

#[test]
fn a_persons_server_is_told_no_password_and_has_data() {
    if !is_root() {
        eprintln!("skipped: only root becomes somebody else here");
        return;
    }
    let (dir, fake) = copy("sleep", "mysqld");
    let _fake = started_by_somebody(&fake, Stdio::null());
    let mut program = Program::set_up("", &of_data(dir.path(), ""));
    // By its name alone it is no server, or anybody could refuse every freeze.
    let outcome = program.freeze().succeeded();
    assert!(outcome.output.contains("no database server runs"), "{outcome:?}");
    for data in ["ibdata1", "mysql.ibd"] {
        fs::write(dir.path().join(data), "").unwrap();
    }
    install(&program.path("password"), "600", "the-secret\n");
    let lines = format!("user = 'backup'\npassword_file = '{}'", program.path("password").display());
    program.set("", &of_data(dir.path(), &lines));
    program.freeze_fails(NO_LOGIN, "belongs to user 65533, no system account, and is told no password");
    // Whom the site names may hear it, if he serves at all.
    program.set("", &of_data(dir.path(), &format!("{lines}\nserver_uid = {SOMEBODY}")));
    program.freeze_fails(REFUSED, "listens on no socket");
}

/// Who may write to its directory can put a way to another server there, whose root we are.
#[test]
fn a_persons_socket_leads_to_no_other_server() {
    if !is_root() {
        eprintln!("skipped: only root becomes somebody else here");
        return;
    }
    let server = Server::with_tables(Database::MARIADB, &[]);
    let (dir, fake) = copy("sleep", "mysqld");
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let _fake = started_by_somebody(&fake, OwnedFd::from(listener).into());
    fs::remove_file(&socket).unwrap();
    symlink(server.socket(), &socket).unwrap();
    let program = Program::set_up("", &of_data(dir.path(), ""));
    program.refuses(&server, REFUSED, &format!("process {} listens there", server.pid()));
}

/// The first process of a container is a server, and inherits another one.
#[test]
fn a_server_below_another_one_is_found() {
    let (first, shell) = copy("sh", "postgres");
    let (second, cat) = copy("cat", "postgres");
    // It ends with its input, which is ours.
    let line = "exec 3<&0; (cd \"$1\" && exec \"$2\" <&3) & wait";
    let mut command = Command::new(&shell);
    command.args(["-c", line, "sh"]).args([second.path(), &cat]).current_dir(&first).stdin(Stdio::piped());
    let _ends = started(&mut command);
    let program = Program::set_up("", &[of_data(first.path(), ""), of_data(second.path(), "")].concat());
    let stands_there = |place: &Path| {
        let mut all = procfs::process::all_processes().unwrap().filter_map(Result::ok);
        all.any(|process| {
            process.exe().is_ok_and(|exe| exe == cat) && process.cwd().is_ok_and(|cwd| cwd == place)
        })
    };
    wait_until("both run", || stands_there(&second.path().canonicalize().unwrap()));
    let outcome = program.freeze().failed_with("listens on no socket that we can see");
    assert!(outcome.output.contains(&second.path().display().to_string()), "{outcome:?}");
}

/// The agent of a hardened system may not look at the processes of others; one may be a server of any name.
#[test]
fn what_cannot_be_seen_is_refused() {
    if !is_root() {
        eprintln!("skipped: only root becomes somebody else here");
        return;
    }
    let (_dir, other) = copy("sleep", "anything");
    let other = started_by_somebody(&other, Stdio::null());
    let frozen = Program::set_up("", "");
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-sys_ptrace").arg(fsfreeze_db()).arg("freeze");
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("FSFREEZE_DB_SETTINGS", frozen.path("settings"));
    let outcome = call_as_agent(command);
    assert_eq!(outcome.code, Some(REFUSED), "{outcome:?}");
    let hidden = format!("process {} cannot be looked at: Permission denied", other.0.id());
    assert!(outcome.output.contains(&hidden), "{outcome:?}");
    frozen.freeze().succeeded();
    frozen.thaw().succeeded();
}

#[test]
fn a_read_only_place_for_positions_is_no_obstacle() {
    if !is_root() {
        eprintln!("skipped: only root makes mount namespaces here");
        return;
    }
    let server = Server::with_tables(Database::MARIADB, &[]);
    let program = Program::new(&[&server]);
    let lib = program.path("lib");
    fs::create_dir(&lib).unwrap();
    let line = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && exec \"$2\" freeze";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", line, "sh"]).arg(&lib).arg(fsfreeze_db());
    command.env("FSFREEZE_DB_SETTINGS", program.path("settings"));
    let outcome = call_as_agent(command).succeeded();
    assert!(outcome.output.contains("position NOT written"), "{outcome:?}");
    assert!(!server.takes_writes());
    program.thaw().succeeded();
}

/// Packages that are removed, and administrators, go by it.
#[test]
fn a_status_never_says_that_nothing_is_held_while_something_is() {
    let server = Server::with_tables(Database::MARIADB, &[]);
    let mut program = Program::new(&[&server]);
    program.freeze().succeeded();
    let holder = program.holder();
    send_signal("STOP", holder);
    let outcome = program.call("status");
    assert_eq!(outcome.code, Some(LOCK_LOST), "{outcome:?}");
    assert!(outcome.output.contains("which holds the locks, does not answer"), "{outcome:?}");
    send_signal("CONT", holder);
    program.set("no_such_setting = 1", &of(&server, ""));
    let outcome = program.call("status").succeeded();
    assert!(outcome.output.contains("locked"), "{outcome:?}");
    assert_eq!(program.status()["locked"], true);
    program.thaw().succeeded();
    assert!(server.takes_writes());
    program.call("status").failed_with("unknown field `no_such_setting`");
}

/// One that is root only in part, or for a moment, as a user's `su`, may have any name and arguments, and so may root's
/// in a container.
#[test]
fn what_only_calls_itself_so_is_no_holder() {
    if !is_root() {
        eprintln!("skipped: only root becomes somebody else here");
        return;
    }
    let server = Server::with_tables(Database::MARIADB, &[]);
    let program = Program::new(&[&server]);
    let (dir, cat) = copy("cat", "fsfreeze-db");
    assert!(Command::new("mkfifo").arg(dir.path().join("hold")).status().unwrap().success());
    for ruid in [SOMEBODY, "0"] {
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--ruid={ruid}"))
            .args(["--euid=0", "fsfreeze-db", "hold"])
            .arg(program.path("run"));
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", dir.path().display());
        let fake = started(command.env("PATH", path).current_dir(dir.path()));
        becomes(&fake.0, "fsfreeze-db");
        let exe = fs::read_link(format!("/proc/{}/exe", fake.0.id())).unwrap();
        assert_eq!(exe, cat.canonicalize().unwrap());
        program.freeze().succeeded();
        assert!(!server.takes_writes());
        program.thaw().succeeded();
        assert!(server.takes_writes());
    }
}
