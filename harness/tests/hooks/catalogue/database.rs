//! Rows about the hook for MariaDB and MySQL, on real servers.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::Shown;
use crate::call::{AS_TOLD, Outcome, SOON, ends_soon, install, quoted, send_signal, soon, wait_until};
use crate::program::{HELD_TOO_LONG, LOCK_LOST, NO_LOGIN, Program, REFUSED, of};
use crate::sample::Sample;
use crate::server::{Database, Server, Session, client_program};

#[allow(non_upper_case_globals, reason = "they are names of tests")]
pub(super) mod place {
    use super::Database;
    pub(in super::super) const mariadb: Database = Database::MARIADB;
    pub(in super::super) const mysql: Database = Database::Mysql;
}

/// Long enough to distinguish waiting from being slow.
const A_WHILE: Duration = Duration::from_secs(3);

const LONG_UPDATE: &str = "UPDATE t.inno SET v=v+SLEEP(300) WHERE id=1";

fn place(server: &Server) -> String {
    let version = server.sql("SELECT VERSION()");
    let number = version.split('-').next().unwrap();
    match server.database {
        Database::Mariadb(_) => format!("MariaDB {number}"),
        Database::Mysql => format!("MySQL {number}"),
    }
}

fn ours(server: &Server) -> Program {
    ours_set(server, "", "")
}

/// With settings of its own, and of the server.
fn ours_set(server: &Server, own: &str, lines: &str) -> Program {
    Program::set_up(own, &of(server, lines))
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn exit(outcome: &Outcome) -> String {
    match outcome.code {
        Some(code) => format!("exit {code} after {}", seconds(outcome.took)),
        None => format!("killed by a signal after {}", seconds(outcome.took)),
    }
}

/// A freeze of ours, which may fail, but must not lie.
#[track_caller]
fn honest(server: &Server, hook: &Program) -> String {
    let freeze = hook.freeze();
    let exit = exit(&freeze);
    if freeze.code == Some(0) {
        assert!(!server.takes_writes(), "success without a lock");
        hook.thaw().succeeded();
        assert!(server.takes_writes());
        return format!("{exit}, locked");
    }
    assert_eq!(freeze.code, Some(REFUSED), "{freeze:?}");
    soon("it failed, and has locked nothing", || server.takes_writes());
    assert_eq!(hook.find_holder(), None);
    format!("{exit}, nothing locked: {}", reason(&freeze))
}

/// The hook's message, without the server's directory and process, and without its prose.
fn reason(outcome: &Outcome) -> String {
    let line = outcome.output.lines().last().unwrap_or_default();
    let after = line.split_once(", process ").and_then(|(_, rest)| rest.split_once(' '));
    let message = after.map_or(line, |(_, message)| message);
    match message.split_once("error ") {
        Some((message, error)) => format!("{message}error {}", error.split(':').next().unwrap_or_default()),
        None => message.to_owned(),
    }
}

/// A thaw of ours after the lock was lost, which must say so.
#[track_caller]
fn tells(hook: &Program, code: i32) -> Outcome {
    let thaw = hook.thaw().within(SOON);
    assert_eq!(thaw.code, Some(code), "{thaw:?}");
    assert!(thaw.output.contains("the lock was NOT held until thaw"), "{thaw:?}");
    thaw
}

/// A freeze of the sample that succeeds and locks nothing.
#[track_caller]
fn lies(server: &Server, sample: &Sample) -> Outcome {
    let freeze = sample.call("freeze");
    assert_eq!(freeze.code, Some(0), "the defect");
    assert!(server.takes_writes(), "the defect");
    freeze
}

/// A freeze of the sample that locks, as it should.
#[track_caller]
fn locks(server: &Server, sample: &Sample) -> Outcome {
    let freeze = sample.call("freeze");
    assert_eq!(freeze.code, Some(0));
    wait_until("the lock is held", || !server.takes_writes());
    freeze
}

/// The connection that holds the sample's lock: the only one, once the others have left.
#[track_caller]
fn holder_of(server: &Server) -> String {
    let mut holder = String::new();
    soon("one connection is left", || {
        holder = idle(server);
        holder.lines().count() == 1
    });
    holder
}

/// The connections that do nothing, one a line.
fn idle(server: &Server) -> String {
    server.sql("SELECT id FROM information_schema.processlist WHERE command='Sleep' AND id<>CONNECTION_ID()")
}

pub(super) fn d01(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    let _long = server.running(LONG_UPDATE);
    let ours = honest(&server, &ours_set(&server, "lock_seconds = 4", ""));

    let sample = Sample::new(&server);
    let freeze = sample.call("freeze");
    assert_eq!(freeze.code, Some(0));
    wait_until("the defect: the lock is pending", || server.busy().contains("FLUSH TABLES WITH READ LOCK"));
    Shown { place: place(&server), theirs: format!("sample: {}, lock pending", exit(&freeze)), ours }
}

pub(super) fn d02(database: Database) -> Shown {
    let server = Server::with_tables(database, &["--max-connections=10"]);
    let nobody = server.login().replace("--user=root", "--user=root --password=wrong");
    let nowhere = "--no-defaults --user=root --socket=/nowhere";
    let freeze = lies(&server, &Sample::with(&server, &nobody));
    lies(&server, &Sample::with(&server, nowhere));
    // One more than the limit: the last connection is reserved for an administrator.
    let crowd = server.crowd(11);
    let crowded = Sample::new(&server).call("freeze");
    assert_eq!(crowded.code, Some(0), "the defect");
    let mut hook = ours(&server);
    hook.freeze_fails(NO_LOGIN, "are in use");
    drop(crowd);
    wait_until("the crowd has left", || server.status("Threads_connected") < 3);
    assert!(server.takes_writes(), "the defect");
    hook.set("", &of(&server, "socket = '/nowhere'"));
    hook.refuses(&server, REFUSED, "cannot be reached by /nowhere");
    hook.set("", &of(&server, "user = 'nobody'"));
    let refused = hook.refuses(&server, NO_LOGIN, "does not let us in");
    Shown {
        place: place(&server),
        theirs: format!("sample: {}, nothing locked; also by a wrong socket, in a crowd", exit(&freeze)),
        ours: format!("{}, {}; also by a wrong socket, in a crowd", exit(&refused), reason(&refused)),
    }
}

pub(super) fn d03(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    server.sql("CREATE USER low@localhost; GRANT SELECT ON *.* TO low@localhost");
    let login = server.login().replace("--user=root", "--user=low");
    let hook = ours_set(&server, "", "user = 'low'");
    let refused = hook.refuses(&server, REFUSED, "error 1227");

    let commands = if database == Database::Mysql { " --commands" } else { "" };
    let sample = Sample::with(&server, &format!("{login}{commands}"));
    let freeze = lies(&server, &sample);
    assert!(sample.fifo().exists());
    assert_eq!(sample.call("freeze").code, Some(1));
    Shown {
        place: place(&server),
        theirs: format!("sample: {}, nothing locked; the next freeze: exit 1", exit(&freeze)),
        ours: format!("{}, {}", exit(&refused), reason(&refused)),
    }
}

pub(super) fn d04(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    let ours = honest(&server, &ours(&server));
    assert!(ours.starts_with("exit 0"), "{ours}");
    let freeze = lies(&server, &Sample::by(Path::new("/usr/bin/no-such-client"), &server.login()));
    Shown {
        place: place(&server),
        theirs: format!("sample: {}, nothing locked", exit(&freeze)),
        ours: format!("needs none: {ours}"),
    }
}

pub(super) fn d05(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    let ours = honest(&server, &ours(&server));
    assert!(ours.starts_with("exit 0"), "{ours}");
    let sample = Sample::with(&server, &server.login());
    let freeze = lies(&server, &sample);
    assert!(sample.fifo().exists());
    Shown {
        place: place(&server),
        theirs: format!("sample: {}, nothing locked, a fifo left", exit(&freeze)),
        ours,
    }
}

pub(super) fn d06(database: Database) -> Shown {
    /// On two processors 13 of 30 thaws were observed to die, on busy ones none.
    const CYCLES: usize = 30;
    let server = Server::with_tables(database, &[]);
    let hook = ours(&server);
    let sample = Sample::new(&server);
    // On one processor, and less urgent than the reader that it wakes, a thaw writes when that has gone.
    on_one_processor();
    let died = (1..=CYCLES).find(|_| {
        locks(&server, &sample);
        let thaw = sample.call_under(&["nice", "-n", "19"], "thaw");
        wait_until("the server takes writes", || server.takes_writes());
        wait_until("the fifo is gone", || !sample.fifo().exists());
        // By a signal; or a shell reports it as 128 + 13.
        matches!(thaw.code, None | Some(141))
    });
    let died = died.expect("the defect");
    for _ in 0..died {
        assert!(honest(&server, &hook).starts_with("exit 0"));
    }
    Shown {
        place: place(&server),
        theirs: format!("sample: thaw {died} of {died} killed by SIGPIPE"),
        ours: format!("{died} of {died} thaws exit 0"),
    }
}

/// From now on, this thread and what it starts.
fn on_one_processor() {
    let all = sched_getaffinity(None).expect("our processors");
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).expect("a processor"));
    sched_setaffinity(None, &one).expect("stay on one processor");
}

pub(super) fn d07(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    let hook = ours(&server);
    hook.freeze().succeeded();
    send_signal("KILL", hook.holder());
    wait_until("the lock is gone", || server.takes_writes());
    let ours = honest(&server, &hook);
    assert!(ours.starts_with("exit 0"), "{ours}");

    let sample = Sample::new(&server);
    locks(&server, &sample);
    server.sql(&format!("KILL {}", holder_of(&server)));
    wait_until("the lock is gone", || server.takes_writes());
    let codes: Vec<_> = (0..3).map(|_| sample.call("freeze").code).collect();
    assert_eq!(codes, [Some(1); 3], "the defect");
    assert!(server.takes_writes());
    Shown {
        place: place(&server),
        theirs: "sample: 3 of 3 later freezes exit 1".to_owned(),
        ours: format!("the next freeze: {ours}"),
    }
}

pub(super) fn d08(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    let hook = ours(&server);
    hook.freeze().succeeded();
    send_signal("KILL", hook.holder());
    let thawed = tells(&hook, LOCK_LOST);
    assert_eq!(hook.find_holder(), None);

    // A killed holder leaves a fifo that nobody reads.
    let sample = Sample::new(&server);
    assert!(std::process::Command::new("mkfifo").arg(sample.fifo()).status().unwrap().success());
    let started = Instant::now();
    let mut thaw = sample.start("thaw");
    let at = format!("/proc/{}/wchan", thaw.id());
    wait_until("the thaw waits for a reader", || {
        fs::read_to_string(&at).is_ok_and(|at| at.contains("wait_for_partner") || at.contains("fifo"))
    });
    thread::sleep(A_WHILE);
    assert!(thaw.try_wait().unwrap().is_none(), "the defect");
    let waited = seconds(started.elapsed());
    thaw.kill().unwrap();
    thaw.wait().unwrap();
    Shown {
        place: place(&server),
        theirs: format!("sample: no end of the thaw in {waited}, waiting for a reader of its fifo"),
        ours: format!("{}, the lock was NOT held until thaw", exit(&thawed)),
    }
}

pub(super) fn d09(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    let hook = ours(&server);
    hook.freeze().succeeded();
    for connection in idle(&server).lines() {
        // Unless it has just ended by itself.
        server.try_sql(&format!("KILL {connection}"));
    }
    wait_until("the lock is gone", || server.takes_writes());
    let thawed = tells(&hook, LOCK_LOST);

    let sample = Sample::new(&server);
    locks(&server, &sample);
    server.sql(&format!("KILL {}", holder_of(&server)));
    wait_until("the lock is gone", || server.takes_writes());
    let thaw = sample.call("thaw");
    // Success; or, at random, dead of SIGPIPE (D06). Never a reported failure.
    assert!(matches!(thaw.code, Some(0 | 141) | None), "the defect: {thaw:?}");
    Shown {
        place: place(&server),
        theirs: format!("sample: thaw {}", exit(&thaw)),
        ours: format!("thaw {}, the lock was NOT held until thaw", exit(&thawed)),
    }
}

pub(super) fn d10(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    let hook = ours_set(&server, "hold_seconds = 4", "");
    hook.freeze().succeeded();
    let frozen = Instant::now();
    soon("the server releases the lock", || server.takes_writes());
    let held = frozen.elapsed();
    let thawed = tells(&hook, HELD_TOO_LONG);

    let sample = Sample::new(&server);
    locks(&server, &sample);
    thread::sleep(held + A_WHILE);
    assert!(!server.takes_writes(), "the defect");
    let limit = server.sql("SELECT @@global.wait_timeout");
    Shown {
        place: place(&server),
        theirs: format!("sample: locked after {}, until wait_timeout ({limit} s)", seconds(held + A_WHILE)),
        ours: format!("hold_seconds = 4: released after {}, thaw {}", seconds(held), exit(&thawed)),
    }
}

pub(super) fn d11(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    let hook = ours_set(&server, "lock_seconds = 4", "long_statement_seconds = 1");
    // What each method waits for: BACKUP STAGE for statements of other engines only.
    let blocker = match database {
        Database::Mariadb(_) => "UPDATE t.isam SET v=v+SLEEP(300) WHERE id=1",
        Database::Mysql => LONG_UPDATE,
    };
    let long = server.running(blocker);
    let age = format!("SELECT time FROM information_schema.processlist WHERE id={}", long.connection);
    wait_until("the statement is long", || server.sql(&age).parse::<u32>().unwrap() >= 1);
    let mut writes = 0;
    let freeze = thread::scope(|scope| {
        let freeze = scope.spawn(|| hook.freeze());
        while !freeze.is_finished() {
            assert!(server.takes_writes(), "writers wait");
            writes += 1;
        }
        freeze.join().unwrap()
    });
    let freeze = freeze.failed_with("").within(AS_TOLD);

    let sample = Sample::new(&server);
    assert_eq!(sample.call("freeze").code, Some(0));
    let mut writer = server.session("UPDATE t.inno SET v=v+1 WHERE id=2; SELECT 'written';");
    let started = Instant::now();
    wait_until("the writer waits", || server.busy().contains("WHERE id=2"));
    while started.elapsed() < A_WHILE {
        assert!(server.busy().contains("WHERE id=2"), "the defect");
    }
    server.sql(&format!("KILL {}", long.connection));
    sample.release();
    assert_eq!(writer.answer().as_deref(), Some("written"));
    Shown {
        place: place(&server),
        theirs: format!(
            "sample: a writer waited {}, as long as the statement ran",
            seconds(started.elapsed())
        ),
        ours: format!("{}, {writes} writes meanwhile, none had to wait", exit(&freeze)),
    }
}

pub(super) fn d12(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    let long = server.running("SELECT SLEEP(300) FROM t.inno WHERE id=1");
    let age = format!("SELECT time FROM information_schema.processlist WHERE id={}", long.connection);
    wait_until("the statement is long", || server.sql(&age).parse::<u32>().unwrap() >= 2);
    let hook = ours_set(&server, "lock_seconds = 4", "");
    let refused = hook.refuses(&server, REFUSED, "did not ask for the lock");
    let mut reader = server.session("SELECT 'read' FROM t.inno WHERE id=2;");
    assert_eq!(reader.answer().as_deref(), Some("read"));

    // A hook that bounds its wait, but does not check first.
    let mut naive = server.session("SET lock_wait_timeout=1; FLUSH TABLES WITH READ LOCK;");
    assert_eq!(naive.answer(), None, "it gives up");
    let started = Instant::now();
    let mut reader = server.session("SELECT 'read' FROM t.inno WHERE id=2;");
    wait_until("the reader waits", || server.busy().contains("WHERE id=2"));
    while started.elapsed() < A_WHILE {
        assert!(server.busy().contains("WHERE id=2"), "the defect");
    }
    server.sql(&format!("KILL {}", long.connection));
    assert_eq!(reader.answer().as_deref(), Some("read"));
    Shown {
        place: place(&server),
        theirs: format!(
            "FTWRL with lock_wait_timeout alone: gave up, a SELECT then waited {}",
            seconds(started.elapsed())
        ),
        ours: format!("{}, {}; SELECTs run", exit(&refused), reason(&refused)),
    }
}

pub(super) fn d13(database: Database) -> Shown {
    const RELAXED: [&str; 2] = ["--innodb-flush-log-at-trx-commit=0", "--innodb-flush-log-at-timeout=2700"];
    // A commit, a lock, a crash: how much redo was missing on disk, and whether the commit was.
    let crashed = |lock: &mut dyn FnMut(&Server) -> (u32, u64)| {
        let mut server = Server::with_tables(database, &RELAXED);
        let (row, committed) = lock(&server);
        let missing = committed.saturating_sub(server.redo_on_disk());
        server.crash_and_restart();
        let survived = server.sql(&format!("SELECT COUNT(*) FROM t.inno WHERE id={row}")) == "1";
        (missing, survived, place(&server))
    };
    let (missing, survived, _) = crashed(&mut |server| {
        let commit = server.commit_unflushed();
        ours(server).freeze().succeeded();
        commit
    });
    assert_eq!((missing, survived), (0, true));
    let ours = "locked, all redo on disk, the row survives a crash".to_owned();

    let mut how = String::new();
    let mut theirs = |server: &Server| match database {
        // The sample waits for the server to flush, with everybody locked out.
        Database::Mariadb(_) => {
            let commit = server.commit_unflushed();
            let sample = Sample::new(server);
            let started = Instant::now();
            let mut freeze = sample.start("freeze");
            wait_until("the lock is held", || !server.takes_writes());
            thread::sleep(A_WHILE);
            assert!(freeze.try_wait().unwrap().is_none(), "the defect");
            how = format!("sample: locked for {} and no end", seconds(started.elapsed()));
            freeze.kill().unwrap();
            freeze.wait().unwrap();
            commit
        }
        // The server flushes once a second by itself, and then even the sample ends.
        Database::Mysql => loop {
            let (row, committed) = server.commit_unflushed();
            let mut naive = holding(server, "FLUSH TABLES WITH READ LOCK");
            if server.redo_on_disk() < committed {
                how = "FLUSH TABLES WITH READ LOCK alone".to_owned();
                return (row, committed);
            }
            naive.send("UNLOCK TABLES; DELETE FROM t.inno WHERE id>100; SELECT 'again';");
            assert_eq!(naive.answer().as_deref(), Some("again"));
        },
    };
    // On a slow host it may flush between the check and the crash: then try again.
    let mut attempts = 0;
    let (missing, survived, place) = loop {
        attempts += 1;
        let shown = crashed(&mut theirs);
        if shown.0 > 0 || attempts == 5 {
            break shown;
        }
    };
    assert!(missing > 0, "the defect");
    let row = if survived { "was just written" } else { "is lost in a crash" };
    Shown {
        place,
        theirs: format!("{how}, {missing} bytes of redo not on disk, an acknowledged row {row}"),
        ours,
    }
}

pub(super) fn d14(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    let version = place(&server);
    // One request, which lasts until it is observed, however long the blocker has run by then.
    let lines = "flush_wait_seconds = 100\nlong_statement_seconds = 600";
    let hook = ours_set(&server, "lock_seconds = 100", lines);
    let blocker = server.running("LOCK TABLES t.isam WRITE; DO SLEEP(300)");
    let refused = thread::scope(|scope| {
        let freeze = scope.spawn(|| hook.freeze());
        wait_until("the hook waits", || {
            let busy = server.busy();
            busy.contains("BACKUP STAGE") || busy.contains("FLUSH TABLES")
        });
        send_signal("KILL", server.pid());
        freeze.join().unwrap()
    });
    let refused = refused.failed_with("did not grant the lock");
    drop((blocker, server));

    // The first call asks whether there is a server; then come the lock and the status queries.
    let server = Server::with_tables(database, &[]);
    let dir = tempfile::tempdir().unwrap();
    let (client, calls) = (dir.path().join("client"), dir.path().join("calls"));
    let text = format!(
        "#!/bin/sh\necho >>{calls}\n[ $(wc -l <{calls}) -lt 3 ] || kill -KILL {}\nexec {} \"$@\"\n",
        server.pid(),
        quoted(&client_program(database)),
        calls = calls.display()
    );
    install(&client, "755", &text);
    let commands = if database == Database::Mysql { " --commands" } else { "" };
    let freeze = Sample::by(&client, &format!("{}{commands}", server.login())).call("freeze");
    assert_eq!(freeze.code, Some(0), "the defect");
    ends_soon(server.pid());
    Shown {
        place: version,
        theirs: format!("sample: {}, of a server that died while it was asked", exit(&freeze)),
        ours: format!("{}, {}", exit(&refused), reason(&refused)),
    }
}

pub(super) fn d15(database: Database) -> Shown {
    const SECRET: &str = "do-not-show";
    let server = Server::with_tables(database, &[]);
    server.sql(&format!(
        "CREATE USER backup@localhost IDENTIFIED BY '{SECRET}'; GRANT ALL ON *.* TO backup@localhost"
    ));
    // A client that records what `ps` shows of it before it has had time to hide that.
    let dir = tempfile::tempdir().unwrap();
    let (client, seen) = (dir.path().join("client"), dir.path().join("seen"));
    let text = format!(
        "#!/bin/sh\ncat /proc/$$/cmdline /proc/$$/environ >>{}\nexec {} \"$@\"\n",
        seen.display(),
        quoted(&client_program(database))
    );
    install(&client, "755", &text);
    let secret_seen = || fs::read_to_string(&seen).unwrap().contains(SECRET);

    let mut hook = ours(&server);
    let file = hook.path("password");
    install(&file, "600", SECRET);
    hook.set("", &of(&server, &format!("user = 'backup'\npassword_file = '{}'", file.display())));
    hook.freeze().succeeded();
    for file in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{}/{file}", hook.holder())).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains(SECRET));
    }
    hook.thaw().succeeded();

    let commands = if database == Database::Mysql { " --commands" } else { "" };
    let login = format!("--no-defaults -ubackup -p{SECRET} --socket={}{commands}", server.socket().display());
    let sample = Sample::by(&client, &login);
    locks(&server, &sample);
    assert!(secret_seen(), "the defect");
    Shown {
        place: place(&server),
        theirs: "sample: the password is in the client's arguments, and in the hook, which all may read"
            .to_owned(),
        ours: "from a file of mode 0600: not in arguments or environment".to_owned(),
    }
}

pub(super) fn d17(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    let ours = honest(&server, &ours(&server));
    assert!(ours.starts_with("exit 0"), "{ours}");
    let started = Instant::now();
    // All that the hook does before the file systems are frozen.
    server.sql("FLUSH TABLES WITH READ LOCK");
    let took = started.elapsed();
    soon("the defect: the lock is gone", || server.takes_writes());
    Shown {
        place: place(&server),
        theirs: format!(
            "mysql -e 'FLUSH TABLES WITH READ LOCK': exit 0 after {}, writes go on",
            seconds(took)
        ),
        ours,
    }
}

/// A session that has run these statements, and keeps their locks.
fn holding(server: &Server, statements: &str) -> Session {
    let mut session = server.session(&format!("{statements}; SELECT 'done';"));
    assert_eq!(session.answer().as_deref(), Some("done"));
    session
}

pub(super) fn d20(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    let hook = ours(&server);
    hook.freeze().succeeded();
    let position = server.binlog();
    assert!(!server.takes_writes());
    assert_eq!(server.binlog(), position);
    hook.thaw().succeeded();

    let _naive = holding(&server, "LOCK INSTANCE FOR BACKUP");
    let [_, before, _] = server.binlog();
    assert!(server.takes_writes(), "the defect");
    server.sql("UPDATE t.isam SET v=v+1");
    let [_, after, _] = server.binlog();
    assert_ne!(before, after, "the defect");
    Shown {
        place: place(&server),
        theirs: format!(
            "LOCK INSTANCE FOR BACKUP held: InnoDB and MyISAM written, binlog {before} -> {after}"
        ),
        ours: "locked: no write, and the position stands".to_owned(),
    }
}

pub(super) fn d22(database: Database) -> Shown {
    let server = Server::with_tables(database, &[]);
    let hook = ours_set(&server, "lock_seconds = 4", "");
    let mut refusals = vec![];
    let mut waited = vec![];
    let bulk: &dyn Fn() -> Session = &|| server.running("UPDATE t.isam SET v=v+SLEEP(300)");
    let backup: &dyn Fn() -> Session = &|| holding(&server, "BACKUP STAGE START");
    for block in [bulk, backup] {
        let blocker = block();
        refusals.push(hook.refuses(&server, REFUSED, "did not grant the lock: error 1205").within(AS_TOLD));

        // The statements as the manual gives them.
        let started = Instant::now();
        let naive = server.session("BACKUP STAGE START; BACKUP STAGE BLOCK_COMMIT;");
        wait_until("it waits", || server.busy().contains("BACKUP STAGE"));
        while started.elapsed() < A_WHILE {
            assert!(server.busy().contains("BACKUP STAGE"), "the defect");
        }
        waited.push(seconds(started.elapsed()));
        server.sql(&format!("KILL {}", naive.connection));
        server.sql(&format!("KILL {}", blocker.connection));
        wait_until("both are gone", || server.busy().is_empty());
    }
    let limit = server.sql("SELECT @@global.lock_wait_timeout");
    Shown {
        place: place(&server),
        theirs: format!(
            "BACKUP STAGE as the manual has it: still waiting after {} and {}, until lock_wait_timeout ({limit} s)",
            waited[0], waited[1]
        ),
        ours: format!("lock_seconds = 4: {} and {}, nothing locked", exit(&refusals[0]), exit(&refusals[1])),
    }
}
