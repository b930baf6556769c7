//! Rows about agents and their packaged dispatchers, on the agents of five Debian releases.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Shown;
use crate::agent::{self, Agent, Answer, packaged_dispatcher, reads_output};
use crate::call::{HANGS, call_as_agent, install, is_running, send_signal, wait_until};
use crate::dispatcher::Installation;
use crate::program::Program;
use crate::sample::Sample;
use crate::server::{Database, Server};

#[allow(non_upper_case_globals, reason = "they are names of tests")]
pub(super) mod place {
    pub(in super::super) const bullseye: &str = "bullseye";
    pub(in super::super) const bookworm: &str = "bookworm";
    pub(in super::super) const bookworm_backports: &str = "bookworm-backports";
    pub(in super::super) const trixie: &str = "trixie";
    pub(in super::super) const sid: &str = "sid";
}

/// Long enough to distinguish waiting from being slow.
const A_WHILE: Duration = Duration::from_secs(3);

fn place(release: &str) -> String {
    format!("qemu-ga {}", agent::version(release))
}

fn packaged(release: &str) -> Installation {
    Installation::of(&packaged_dispatcher(release))
}

fn ours() -> Installation {
    Installation::new()
}

/// The agent of that release with this dispatcher as its hook.
fn start(release: &str, hooks: &Installation) -> Agent {
    start_with(release, hooks, &hooks.path("fsfreeze-hook"))
}

fn start_with(release: &str, hooks: &Installation, hook: &Path) -> Agent {
    Agent::start(release, hook, |command| {
        let tools = hooks.path("tools").display().to_string();
        command.env("PATH", format!("{tools}:/usr/sbin:/usr/bin:/sbin:/bin"));
        command.env("FSFREEZE_HOOK_RUN", hooks.path("run"));
        command.env("FSFREEZE_DB_SETTINGS", hooks.path("settings"));
    })
}

fn outcome(answer: &Answer) -> String {
    match answer {
        Ok(count) => format!("freeze returned {count}"),
        Err(_) => "freeze failed".to_owned(),
    }
}

/// The reason of the freeze's failure, which must have failed.
#[track_caller]
fn failure(answer: &Answer) -> &str {
    &answer.as_ref().expect_err("the freeze must fail").0
}

fn calls(hooks: &Installation) -> String {
    hooks.trace().join(", ")
}

pub(super) fn a05(release: &'static str) -> Shown {
    let server = Server::with_tables(Database::MARIADB, &[]);
    let program = Program::new(&[&server]);
    let hooks = ours();
    let settings = program.path("settings");
    let mut agent = Agent::start(release, &hooks.path("fsfreeze-hook"), |command| {
        command.env("FSFREEZE_HOOK_RUN", hooks.path("run")).env("FSFREEZE_DB_SETTINGS", settings);
    });
    let answer = agent.run_freeze_hook();
    assert_eq!(answer, Ok(0.into()), "ours returns");
    assert!(!server.takes_writes(), "and holds the lock");
    program.thaw().succeeded();
    drop(agent);

    let sample = Sample::new(&server);
    let mut agent = Agent::start(release, &sample.path(), |command| {
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    });
    agent.request_the_freeze_hook();
    wait_until("the hook has begun", || sample.fifo().exists());
    agent.wait_for_the_end_of_the_hook();
    let theirs = if reads_output(release) {
        assert_eq!(agent.answer(A_WHILE), None, "the defect");
        assert!(!server.takes_writes(), "and the database stands");
        // It is the background client that the agent waits for.
        sample.release();
        assert_eq!(agent.answer(HANGS), Some(Ok(0.into())));
        format!("sample as the hook: it ended, no answer in {} s; database locked", A_WHILE.as_secs())
    } else {
        assert_eq!(agent.answer(HANGS), Some(Ok(0.into())));
        "sample as the hook: answered; agents before 9.1 do not read its output".to_owned()
    };
    Shown { place: place(release), theirs, ours: "answered, database locked".to_owned() }
}

pub(super) fn a07(release: &'static str) -> Shown {
    // Each hook reports its failure: the one before keeps its lock.
    const STRICT: &str = "for hook in \"${0%/*}\"/fsfreeze-hook.d/*; do \"$hook\" \"$1\" || exit; done\n";
    let run = |hooks: &Installation| {
        hooks.hook("10-a", "");
        hooks.hook("20-b", "[ $1 = thaw ] || exit 3");
        start(release, hooks).run_freeze_hook()
    };
    let strict = tempfile::tempdir().unwrap();
    let script = strict.path().join("strict");
    install(&script, "755", &format!("#!/bin/sh\n{STRICT}"));
    let naive = Installation::of(&script);
    let answer = run(&naive);
    failure(&answer);
    let trace = naive.trace();
    assert_eq!(trace, ["10-a freeze", "20-b freeze"], "the defect");
    let theirs = format!("a strict dispatcher: {}, calls: {}", outcome(&answer), trace.join(", "));

    let hooks = ours();
    let answer = run(&hooks);
    failure(&answer);
    let trace = hooks.trace();
    assert_eq!(trace, ["10-a freeze", "20-b freeze", "20-b thaw", "10-a thaw"]);
    Shown {
        place: place(release),
        theirs,
        ours: format!("{}, calls: {}", outcome(&answer), trace.join(", ")),
    }
}

pub(super) fn a17(release: &'static str) -> Shown {
    const TEXT: &str = "no lock to be had";
    let run = |hooks: &Installation| {
        hooks.hook("10-a", &format!("echo '{TEXT}' >&2; exit 7"));
        start(release, hooks).run_freeze_hook()
    };
    let packaged = packaged(release);
    let answer = run(&packaged);
    assert!(!format!("{answer:?}").contains(TEXT), "the defect");
    let theirs = format!("packaged dispatcher: {}, the text is in its log in the guest", outcome(&answer));
    wait_until("the text is in its log", || {
        fs::read_to_string(packaged.path("qga-fsfreeze-hook.log")).is_ok_and(|log| log.contains(TEXT))
            || packaged.journal().contains(TEXT)
    });

    let hooks = ours();
    let reason = run(&hooks).expect_err("the freeze must fail").0;
    wait_until("the text is in the journal", || hooks.journal().contains(TEXT));
    let ours = if reads_output(release) {
        assert!(reason.contains(TEXT), "{reason}");
        "freeze failed, the text is in the answer and the journal".to_owned()
    } else {
        assert!(!reason.contains(TEXT), "{reason}");
        "freeze failed, the text is in the journal: agents before 9.1 hand none on".to_owned()
    };
    Shown { place: place(release), theirs, ours }
}

pub(super) fn c01(release: &'static str) -> Shown {
    let run = |hooks: &Installation| {
        hooks.hook("10-a", "exit 7");
        // 10.0.2 has other defects without this file (C02).
        fs::write(hooks.path("qga-fsfreeze-hook.log"), "").unwrap();
        let answer = start(release, hooks).run_freeze_hook();
        assert_eq!(hooks.trace()[0], "10-a freeze");
        answer
    };
    let theirs = run(&packaged(release));
    assert_eq!(theirs, Ok(0.into()), "the defect");
    let ours = run(&ours());
    failure(&ours);
    Shown {
        place: place(release),
        theirs: format!("packaged dispatcher: {}, its hook had exit status 7", outcome(&theirs)),
        ours: outcome(&ours),
    }
}

pub(super) fn c02(release: &'static str) -> Shown {
    let run = |hooks: &Installation| {
        hooks.hook("10-a", "");
        hooks.hook("20-b", "");
        let mut agent = start(release, hooks);
        [(); 2].map(|()| (agent.run_freeze_hook(), calls(hooks)))
    };
    let hooks = packaged(release);
    let [(first, first_calls), (second, second_calls)] = run(&hooks);
    assert!(failure(&first).contains("Bad substitution"));
    assert_eq!(first_calls, "10-a freeze", "the defect");
    assert_eq!((&second, second_calls.as_str()), (&Ok(0.into()), "10-a freeze, 20-b freeze"));
    let [ours, _] = run(&ours());
    assert_eq!(ours, (Ok(0.into()), "10-a freeze, 20-b freeze".to_owned()));
    Shown {
        place: place(release),
        theirs: format!(
            "packaged dispatcher: first {}, calls: {first_calls}; the second time both run",
            outcome(&first)
        ),
        ours: format!("first {}, calls: {}", outcome(&ours.0), ours.1),
    }
}

/// A hook with a background process, and the file to which that writes its pid.
fn with_a_background_process(hooks: &Installation) -> PathBuf {
    let pid = hooks.path("pid");
    hooks.hook(
        "10-a",
        &format!("[ $1 = thaw ] || {{ sleep 300 & echo $! >{0}.new; mv {0}.new {0}; }}", pid.display()),
    );
    pid
}

fn number(pid: &Path) -> u32 {
    wait_until("the hook has run", || pid.exists());
    fs::read_to_string(pid).unwrap().trim().parse().unwrap()
}

pub(super) fn c03(release: &'static str) -> Shown {
    let hooks = packaged(release);
    let pid = with_a_background_process(&hooks);
    // A log that nobody can write to, root included.
    let script = hooks.path("fsfreeze-hook");
    let text = fs::read_to_string(&script).unwrap();
    let log = hooks.path("qga-fsfreeze-hook.log").display().to_string();
    assert!(text.contains(&log));
    install(&script, "755", &text.replace(&log, "/proc/no/such/log"));
    let mut agent = start(release, &hooks);
    agent.request_the_freeze_hook();
    let process = number(&pid);
    assert_eq!(agent.answer(A_WHILE), None, "the defect");
    send_signal("KILL", process);
    assert!(agent.answer(HANGS).is_some(), "it waited for that process");
    drop(agent);

    let hooks = ours();
    let pid = with_a_background_process(&hooks);
    let mut agent = Agent::start(release, &hooks.path("fsfreeze-hook"), |command| {
        command.env("FSFREEZE_HOOK_RUN", "/proc/no/such/place");
        command.env("FSFREEZE_DB_SETTINGS", hooks.path("settings"));
    });
    let answer = agent.run_freeze_hook();
    assert_eq!(answer, Ok(0.into()));
    let process = number(&pid);
    assert!(is_running(process));
    send_signal("KILL", process);
    Shown {
        place: place(release),
        theirs: format!(
            "packaged dispatcher: no answer in {} s, until the background process was killed",
            A_WHILE.as_secs()
        ),
        ours: format!("{} beside the background process", outcome(&answer)),
    }
}

pub(super) fn c04(release: &'static str) -> Shown {
    let run = |hooks: &Installation| {
        hooks.hook("10-a", "");
        hooks.hook("20-b", "[ $1 = thaw ] || exit 3");
        fs::write(hooks.path("qga-fsfreeze-hook.log"), "").unwrap();
        let mut thaw = hooks.command(&hooks.path("fsfreeze-hook"), "thaw");
        thaw.env("PATH", format!("{}:/usr/bin:/bin", hooks.path("tools").display()));
        let _ = start(release, hooks).run_freeze_hook();
        let freeze = calls(hooks);
        call_as_agent(thaw);
        (freeze, calls(hooks))
    };
    let theirs = run(&packaged(release));
    assert_eq!(
        theirs,
        ("10-a freeze, 20-b freeze".to_owned(), "10-a thaw, 20-b thaw".to_owned()),
        "the defect"
    );
    let ours = run(&ours());
    assert_eq!(ours.0, "10-a freeze, 20-b freeze, 20-b thaw, 10-a thaw");
    assert_eq!(ours.1, "20-b thaw, 10-a thaw");
    Shown {
        place: place(release),
        theirs: format!("packaged dispatcher: {}; then {}", theirs.0, theirs.1),
        ours: format!("{}; then {}", ours.0, ours.1),
    }
}

pub(super) fn c05(release: &'static str) -> Shown {
    let run = |hooks: &Installation| {
        let pid = with_a_background_process(hooks);
        fs::write(hooks.path("qga-fsfreeze-hook.log"), "").unwrap();
        assert_eq!(start(release, hooks).run_freeze_hook(), Ok(0.into()));
        let process = number(&pid);
        let output = fs::read_link(format!("/proc/{process}/fd/1")).unwrap();
        send_signal("KILL", process);
        output
    };
    let hooks = packaged(release);
    assert_eq!(run(&hooks), hooks.path("qga-fsfreeze-hook.log"), "the defect");
    let hooks = ours();
    assert_eq!(run(&hooks), Path::new("/memfd:output (deleted)"));
    Shown {
        place: place(release),
        theirs: "packaged dispatcher: to /var/log/qga-fsfreeze-hook.log".to_owned(),
        ours: "to memory".to_owned(),
    }
}

pub(super) fn c06(release: &'static str) -> Shown {
    let run = |hooks: &Installation| {
        for name in ["10-a", "10-a.swp", "10-a.save", "10-a.ucf-dist", "20%s"] {
            hooks.hook(name, "");
        }
        fs::write(hooks.path("qga-fsfreeze-hook.log"), "").unwrap();
        assert_eq!(start(release, hooks).run_freeze_hook(), Ok(0.into()));
        calls(hooks)
    };
    let hooks = packaged(release);
    let theirs = run(&hooks);
    assert!(theirs.contains("10-a.swp") && theirs.contains("10-a.save"), "the defect: {theirs}");
    let log = fs::read_to_string(hooks.path("qga-fsfreeze-hook.log")).unwrap();
    // The name is a format string: nothing in it may be expanded.
    let format = if log.contains("20%s") { "" } else { "; a name with %s is a format" };
    assert_eq!(format.is_empty(), reads_output(release), "{log}");
    let ours = run(&ours());
    assert_eq!(ours, "10-a freeze, 20%s freeze");
    Shown { place: place(release), theirs: format!("packaged dispatcher: {theirs}{format}"), ours }
}

pub(super) fn c07(release: &'static str) -> Shown {
    let run = |hooks: &Installation| {
        hooks.hook("10-a", "");
        fs::create_dir(hooks.path("elsewhere")).unwrap();
        let link = hooks.path("elsewhere/fsfreeze-hook");
        symlink("../fsfreeze-hook", &link).unwrap();
        let answer = start_with(release, hooks, &link).run_freeze_hook();
        assert_eq!(answer, Ok(0.into()));
        calls(hooks)
    };
    assert_eq!(run(&packaged(release)), "", "the defect");
    assert_eq!(run(&ours()), "10-a freeze");
    Shown {
        place: place(release),
        theirs: "packaged dispatcher: freeze returned 0, no call".to_owned(),
        ours: "freeze returned 0, calls: 10-a freeze".to_owned(),
    }
}
