//! The sample beside our hook, where that is quick: what the sample lets pass, ours must tell.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::call::{Shell, hooks_dir, install, send_signal, wait_until};
use crate::server::Server;

/// The sample, with login and fifo moved to a server and directory of the test's own.
struct Sample {
    dir: TempDir,
}

impl Sample {
    fn new(login: &str) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let mut text = fs::read_to_string(hooks_dir().join("sample/fsfreeze-hook")).expect("the sample");
        let client = crate::call::program("mariadb").display().to_string();
        for (from, to) in [
            ("client=/usr/bin/mysql", format!("client={client}")),
            ("\"-uroot\"", format!("\"{login}\"")),
            ("/var/run/mysql-flush.fifo", dir.path().join("fifo").display().to_string()),
        ] {
            assert!(text.contains(from));
            text = text.replace(from, &to);
        }
        install(&dir.path().join("hook"), "755", &text);
        Self { dir }
    }

    fn fifo(&self) -> PathBuf {
        self.dir.path().join("fifo")
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Shell::Dash.script(&self.dir.path().join("hook"), self.dir.path());
        // It trusts the PATH that it finds.
        command.arg(verb).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Its exit status. Its output goes nowhere, as with agents before QEMU 9.1; with later ones it
    /// would never return (A05).
    fn call(&self, verb: &str) -> Option<i32> {
        let mut child = self.command(verb).spawn().expect("start the sample");
        let mut status = None;
        wait_until("the sample ends", || {
            status = child.try_wait().expect("look after the sample");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

#[test]
fn with_a_wrong_password_it_succeeds_without_a_lock() {
    let server = Server::with_tables(freezeframe::image::Database::Mariadb, &[]);
    let login = server.login().replace("--user=root", "--user=root --password=wrong");
    assert_eq!(Sample::new(&login).call("freeze"), Some(0));
    assert!(server.takes_writes());
}

#[test]
fn it_succeeds_while_the_lock_is_still_pending() {
    let server = Server::with_tables(freezeframe::image::Database::Mariadb, &[]);
    let sample = Sample::new(&server.login());
    let long = server.running("UPDATE t.inno SET v=v+SLEEP(300) WHERE id=1");
    assert_eq!(sample.call("freeze"), Some(0));
    let pending = server.busy();
    assert!(pending.contains("FLUSH TABLES WITH READ LOCK"), "{pending}");
    drop(long);
    assert!(sample.fifo().exists());
    sample.call("thaw");
    wait_until("the server takes writes", || server.takes_writes());
}

#[test]
fn a_lost_lock_goes_unnoticed() {
    let server = Server::with_tables(freezeframe::image::Database::Mariadb, &[]);
    let sample = Sample::new(&server.login());
    assert_eq!(sample.call("freeze"), Some(0));
    wait_until("the lock is held", || !server.takes_writes());
    let holder = server
        .sql("SELECT id FROM information_schema.processlist WHERE command='Sleep' AND id<>CONNECTION_ID()");
    server.sql(&format!("KILL {holder}"));
    wait_until("the lock is gone", || server.takes_writes());
    // Success; or, at random, dead of SIGPIPE (D06). Never a failure that says so.
    assert!(matches!(sample.call("thaw"), Some(0) | None | Some(141)));
}

#[test]
fn a_stale_fifo_fails_every_freeze() {
    let server = Server::with_tables(freezeframe::image::Database::Mariadb, &[]);
    let sample = Sample::new(&server.login());
    let made = Command::new("mkfifo").arg(sample.fifo()).status().unwrap();
    assert!(made.success());
    assert_eq!(sample.call("freeze"), Some(1));
    assert_eq!(sample.call("freeze"), Some(1));
    assert!(server.takes_writes());
    // Nobody reads the fifo: its thaw never ends (D08).
    let mut thaw = sample.command("thaw").spawn().unwrap();
    let at = format!("/proc/{}/wchan", thaw.id());
    wait_until("the thaw hangs in open", || {
        fs::read_to_string(&at).is_ok_and(|at| at.contains("wait_for_partner") || at.contains("fifo"))
    });
    send_signal("KILL", thaw.id());
    thaw.wait().unwrap();
}
