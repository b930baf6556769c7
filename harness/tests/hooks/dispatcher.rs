//! The dispatcher, with made-up hooks.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use crate::call::{Outcome, SOON, call_as_agent, fsfreeze_db, install, program, script, wait_until};
use crate::server::is_root;

/// An installation in a directory of its own, with a `logger` that writes to a file.
pub(crate) struct Installation {
    dir: TempDir,
    /// The dispatcher is one; ours is a program.
    is_script: bool,
    deadline: &'static str,
    all: &'static str,
}

impl Installation {
    /// Ours, which leaves all servers of this machine out.
    pub(crate) fn new() -> Self {
        let this = Self::empty(false);
        // A copy, by another process, as `install` makes one: an agent is asked for this very program.
        let copied = Command::new("cp").arg(fsfreeze_db()).arg(this.path("fsfreeze-hook")).status();
        assert!(copied.expect("run cp").success());
        let at = this.dir.path().display();
        let settings =
            format!("run_directory = '{at}/db'\nposition_directory = ''\n[[server]]\nignore = true\n");
        install(&this.path("settings"), "600", &settings);
        this
    }

    /// The dispatcher of another distribution or release, whose log file is in this directory.
    pub(crate) fn of(dispatcher: &Path) -> Self {
        let this = Self::empty(true);
        let at = this.dir.path();
        let text = fs::read_to_string(dispatcher).expect("read the dispatcher");
        // An agent starts it directly, on systems whose sh is dash.
        let dash = format!("#!{}\n", program("dash").display());
        let text = text.replacen("#!/bin/sh\n", &dash, 1);
        let text = text.replace("/var/log/", &format!("{}/", at.display()));
        install(&at.join("fsfreeze-hook"), "755", &text);
        this
    }

    fn empty(is_script: bool) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        for name in ["fsfreeze-hook.d", "tools"] {
            fs::create_dir(dir.path().join(name)).expect("create a directory");
        }
        let this = Self { dir, is_script, deadline: "20", all: "25" };
        this.logger("cat >>JOURNAL");
        this
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn logger(&self, body: &str) {
        let body = body.replace("JOURNAL", &self.path("journal").to_string_lossy());
        install(&self.path("tools/logger"), "755", &format!("#!/bin/sh\n{body}\n"));
    }

    /// A hook that records its calls, and then runs `body`. `$1` is the verb.
    pub(crate) fn hook(&self, name: &str, body: &str) {
        self.file(name, "755", body);
    }

    fn file(&self, name: &str, mode: &str, body: &str) {
        let trace = self.path("trace");
        let text = format!("#!/bin/sh\necho \"{name} $1\" >>{}\n{body}\n", trace.display());
        install(&self.path("fsfreeze-hook.d").join(name), mode, &text);
    }

    pub(crate) fn command(&self, dispatcher: &Path, verb: &str) -> Command {
        let mut command = if self.is_script {
            script(dispatcher, &self.path("tools"))
        } else {
            let mut command = Command::new(dispatcher);
            command.env_clear().env("PATH", self.path("tools"));
            command.env("FSFREEZE_DB_SETTINGS", self.path("settings"));
            command
        };
        command.arg(verb).env("FSFREEZE_HOOK_RUN", self.path("run"));
        command.env("FSFREEZE_HOOK_SECONDS", self.deadline);
        command.env("FSFREEZE_ALL_SECONDS", self.all);
        command
    }

    pub(crate) fn call(&self, verb: &str) -> Outcome {
        call_as_agent(self.command(&self.path("fsfreeze-hook"), verb))
    }

    /// The calls since the last time, as "hook verb".
    pub(crate) fn trace(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("trace")).unwrap_or_default();
        let _ = fs::remove_file(self.path("trace"));
        text.lines().map(str::to_owned).collect()
    }

    /// What the journal has got, but for our own hook's word that no server runs.
    pub(crate) fn journal(&self) -> String {
        let text = fs::read_to_string(self.path("journal")).unwrap_or_default();
        let others = text.lines().filter(|line| !line.starts_with("fsfreeze-db: "));
        others.map(|line| format!("{line}\n")).collect()
    }
}

impl Drop for Installation {
    /// A logger in the background may still write its file while the directory is removed.
    fn drop(&mut self) {
        wait_until("the directory is gone", || {
            let _ = fs::remove_dir_all(self.dir.path());
            !self.dir.path().exists()
        });
    }
}

#[test]
fn freezes_in_order_and_thaws_in_reverse() {
    let here = Installation::new();
    for name in ["30-c", "10-a", "20-b with a space"] {
        here.hook(name, "");
    }
    here.call("freeze").succeeded();
    assert_eq!(here.trace(), ["10-a freeze", "20-b with a space freeze", "30-c freeze"]);
    here.call("thaw").succeeded();
    assert_eq!(here.trace(), ["30-c thaw", "20-b with a space thaw", "10-a thaw"]);
}

#[test]
fn a_failing_hook_rolls_back_and_its_text_reaches_the_agent() {
    let here = Installation::new();
    here.hook("10-a", "");
    here.hook("20-b", "");
    here.hook("30-c", "[ $1 = thaw ] || { echo 'no lock to be had' >&2; exit 7; }");
    here.hook("40-d", "");
    here.call("freeze").failed_with("30-c failed to freeze, exit status 7\nno lock to be had\n");
    assert_eq!(
        here.trace(),
        ["10-a freeze", "20-b freeze", "30-c freeze", "30-c thaw", "20-b thaw", "10-a thaw"]
    );
}

#[test]
fn a_hook_that_hangs_is_ended_at_its_deadline() {
    let mut here = Installation::new();
    here.deadline = "3"; // which the others keep
    here.hook("10-a", "");
    here.hook("20-hangs", "[ $1 = thaw ] || { trap '' TERM; exec sleep 300; }");
    here.call("freeze").failed_with("20-hangs did not finish its freeze within 3 s").within(SOON);
    assert_eq!(here.trace(), ["10-a freeze", "20-hangs freeze", "20-hangs thaw", "10-a thaw"]);
}

#[test]
fn a_thaw_runs_every_hook_and_reports_the_failure() {
    let here = Installation::new();
    here.hook("10-a", "");
    here.hook("20-b", "[ $1 = freeze ] || { echo 'the lock is gone'; exit 1; }");
    here.call("freeze").succeeded();
    here.trace();
    here.call("thaw").failed_with("the lock is gone");
    assert_eq!(here.trace(), ["20-b thaw", "10-a thaw"]);
}

#[test]
fn leftovers_are_ignored() {
    let here = Installation::new();
    here.hook("10-a.sh", "");
    for leftover in [
        "10-a.sh~",
        "10-a.sh.bak",
        "10-a.sh.orig",
        "10-a.sh.rej",
        "10-a.sh.swp",
        "10-a.sh.dpkg-dist",
        "10-a.sh.dpkg-old",
        "10-a.sh.rpmsave",
        "10-a.sh.rpmnew",
        "mysql-flush.sh.sample",
        ".hidden",
        "#10-a.sh#",
    ] {
        here.hook(leftover, "");
    }
    here.file("20-off", "644", "");
    fs::create_dir(here.path("fsfreeze-hook.d/30-directory")).unwrap();
    let outcome = here.call("freeze").succeeded();
    assert_eq!(here.trace(), ["10-a.sh freeze"]);
    assert!(outcome.output.contains("20-off is not executable: not run"), "{outcome:?}");
}

#[test]
fn what_others_may_write_is_refused() {
    for mode in ["775", "757"] {
        let here = Installation::new();
        here.hook("10-a", "");
        here.file("20-open", mode, "");
        let outcome = here
            .call("freeze")
            .failed_with("refused: others than its owner, who must be root, may write to ");
        assert!(outcome.output.contains("20-open"), "{outcome:?}");
        assert!(here.trace().is_empty());
        here.call("thaw").failed_with("20-open was not run");
        assert_eq!(here.trace(), ["10-a thaw"]);
    }
}

#[test]
fn hooks_are_found_through_a_link() {
    let here = Installation::new();
    here.hook("10-a", "");
    let elsewhere = here.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink("../fsfreeze-hook", elsewhere.join("agent-hook")).unwrap();
    call_as_agent(here.command(&elsewhere.join("agent-hook"), "freeze")).succeeded();
    assert_eq!(here.trace(), ["10-a freeze"]);

    // Hooks beside the link come first: that is where an administrator put them.
    fs::create_dir(elsewhere.join("fsfreeze-hook.d")).unwrap();
    call_as_agent(here.command(&elsewhere.join("agent-hook"), "freeze")).succeeded();
    assert!(here.trace().is_empty());

    // Called by its name alone, it runs nothing of the directory where it is called.
    let mut command = here.command(&here.path("fsfreeze-hook"), "freeze");
    install(&elsewhere.join("fsfreeze-hook.d/10-b"), "755", "#!/bin/sh\nexit 1\n");
    command.arg0("fsfreeze-hook").current_dir(&elsewhere);
    call_as_agent(command).succeeded();
    assert_eq!(here.trace(), ["10-a freeze"]);

    // Our own needs no directory.
    fs::remove_dir_all(here.path("fsfreeze-hook.d")).unwrap();
    here.call("freeze").succeeded();
}

#[test]
fn the_sites_hooks_run_around_ours_and_in_place_of_it() {
    let here = Installation::new();
    let frozen = here.path("db/state");
    // Required, and not there: so ours says that it was asked, and how.
    let settings = fs::read_to_string(here.path("settings")).unwrap();
    install(&here.path("settings"), "600", &format!("required = true\n{settings}"));
    here.hook("10-a", "");
    here.hook("60-b", "");
    here.call("freeze")
        .failed_with("50-fsfreeze-db failed to freeze, exit status 1\nfsfreeze-db: freeze: no database");
    assert_eq!(here.trace(), ["10-a freeze", "10-a thaw"], "60-b is after it");
    assert!(!frozen.exists());

    here.hook("50-fsfreeze-db", "echo in place of ours");
    here.call("freeze").succeeded();
    assert_eq!(here.trace(), ["10-a freeze", "50-fsfreeze-db freeze", "60-b freeze"]);
    here.call("thaw").succeeded();
    wait_until("the site's own ran", || here.journal().ends_with(&"in place of ours\n".repeat(2)));
    here.trace();

    // Switched off, in both ways.
    fs::remove_file(here.path("fsfreeze-hook.d/50-fsfreeze-db")).unwrap();
    symlink("/dev/null", here.path("fsfreeze-hook.d/50-fsfreeze-db")).unwrap();
    here.call("freeze").succeeded();
    assert_eq!(here.trace(), ["10-a freeze", "60-b freeze"]);
    fs::remove_file(here.path("fsfreeze-hook.d/50-fsfreeze-db")).unwrap();
    here.file("50-fsfreeze-db", "644", "");
    here.call("freeze").succeeded();
    assert_eq!(here.trace(), ["10-a freeze", "60-b freeze"]);

    // What others may write is refused, the directory as well.
    fs::set_permissions(here.path("fsfreeze-hook.d"), fs::Permissions::from_mode(0o775)).unwrap();
    here.call("freeze").failed_with("refused: others than its owner, who must be root, may write to ");
    assert!(here.trace().is_empty());
}

#[test]
fn a_hook_knows_whose_freeze_is_taken_back() {
    let here = Installation::new();
    let calls = here.path("calls");
    let tell =
        format!("echo \"$1 ${{FSFREEZE_HOOK_CALL-}} ${{FSFREEZE_HOOK_ROLLS_BACK-}}\" >>{}", calls.display());
    here.hook("10-a", &tell);
    let told = || {
        let text = fs::read_to_string(&calls).unwrap();
        fs::remove_file(&calls).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let call = |verb: &str| {
        let mut command = here.command(&here.path("fsfreeze-hook"), verb);
        // Whatever the caller's own environment says.
        command.env("FSFREEZE_HOOK_CALL", "stale").env("FSFREEZE_HOOK_ROLLS_BACK", "stale");
        call_as_agent(command)
    };
    call("freeze").succeeded();
    call("thaw").succeeded();
    let [freeze, thaw] = told().try_into().unwrap();
    let first = freeze.strip_prefix("freeze ").and_then(|it| it.strip_suffix(' ')).unwrap().to_owned();
    assert!(!first.is_empty() && first != "stale", "{freeze}");
    assert_eq!(thaw, "thaw  ");

    here.hook("20-b", "[ $1 = thaw ]");
    call("freeze").failed_with("20-b failed to freeze");
    let [freeze, thaw] = told().try_into().unwrap();
    let second = thaw.strip_prefix("thaw  ").unwrap();
    assert_eq!(freeze, format!("freeze {second} "));
    assert_ne!(first, second);
}

#[test]
fn a_background_process_does_not_hold_the_agent() {
    let here = Installation::new();
    let pid = here.path("pid");
    here.hook("10-a", &format!("[ $1 = thaw ] || {{ sleep 300 & echo $! >{}; }}", pid.display()));
    let outcome = here.call("freeze").succeeded().within(SOON);
    eprintln!("output ended and dispatcher gone after {:?}, the hook's process sleeps 300 s", outcome.took);
    let pid = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    assert!(crate::call::is_running(pid));
    crate::call::send_signal("KILL", pid);
}

#[test]
fn works_without_a_place_to_write() {
    let here = Installation::new();
    here.hook("10-a", "echo some words");
    for verb in ["freeze", "thaw"] {
        let mut command = here.command(&here.path("fsfreeze-hook"), verb);
        command.env("FSFREEZE_HOOK_RUN", "/proc/no/such/place");
        call_as_agent(command).succeeded();
    }
    assert_eq!(here.trace(), ["10-a freeze", "10-a thaw"]);
}

#[test]
fn the_journal_gets_a_good_freeze_after_the_thaw() {
    let here = Installation::new();
    here.hook("10-a", "echo words at $1");
    here.call("freeze").succeeded();
    assert_eq!(here.journal(), "", "the journal may lie on what is about to freeze");
    here.call("thaw").succeeded();
    wait_until("both in the journal", || here.journal() == "words at freeze\nwords at thaw\n");
}

#[test]
fn a_journal_that_hangs_holds_up_nothing() {
    let here = Installation::new();
    // Without the dispatcher's limit, a thaw that waits for it would never end.
    let pid = here.path("pid");
    let endless = format!(
        "case $* in *logger*) echo $$ >{0}.new; mv {0}.new {0}; exec sleep 300 ;; esac",
        pid.display()
    );
    let text = format!("#!/bin/sh\n{endless}\nPATH=${{PATH#*:}}; exec timeout \"$@\"\n");
    install(&here.path("tools/timeout"), "755", &text);
    here.hook("10-a", "echo words at $1");
    here.call("freeze").succeeded();
    here.call("thaw").succeeded().within(SOON);
    wait_until("the journal hangs", || pid.exists());
    let pid = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    assert!(crate::call::is_running(pid));
    crate::call::send_signal("KILL", pid);
}

#[test]
fn an_interrupted_freeze_is_rolled_back() {
    let here = Installation::new();
    let go = here.path("go");
    here.hook("10-a", &format!("until [ -e {} ]; do sleep 0.02; done", go.display()));
    here.hook("20-b", "");
    let mut command = here.command(&here.path("fsfreeze-hook"), "freeze");
    let mut child = command.spawn().unwrap();
    wait_until("the hook runs", || here.path("trace").exists());
    crate::call::send_signal("TERM", child.id());
    fs::write(go, "").unwrap();
    let started = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(1), "after {:?}", started.elapsed());
    assert_eq!(here.trace(), ["10-a freeze", "10-a thaw"]);
}

#[test]
fn other_arguments_are_refused() {
    let here = Installation::new();
    here.hook("10-a", "");
    for wrong in ["", "Freeze", "freeze thaw"] {
        assert_eq!(here.call(wrong).code, Some(2));
    }
    let mut command = here.command(&here.path("fsfreeze-hook"), "freeze");
    command.arg("more");
    assert_eq!(call_as_agent(command).code, Some(2));
    assert!(here.trace().is_empty());
}

#[test]
fn all_hooks_together_have_a_deadline() {
    let mut here = Installation::new();
    here.all = "2";
    for name in ["10-a", "20-b", "30-c", "40-d", "50-e"] {
        here.hook(name, "[ $1 = thaw ] || sleep 0.8");
    }
    let outcome = here.call("freeze").failed_with("the freeze is given up");
    // How much of the 2 s is left depends on the clock.
    let late = [
        "did not finish its freeze within 1 s",
        "did not finish its freeze within 2 s",
        "no time is left for",
    ];
    assert!(late.iter().any(|late| outcome.output.contains(late)), "{outcome:?}");
    outcome.within(SOON);
    let calls = here.trace();
    let (frozen, thawed): (Vec<_>, Vec<_>) = calls.iter().partition(|call| call.ends_with("freeze"));
    assert!(frozen.len() < 5, "{calls:?}");
    assert!(frozen.iter().all(|call| thawed.contains(&&call.replace("freeze", "thaw"))), "{calls:?}");
}

/// A program with the agent's name that prints what the agent's `--dump-conf` prints.
struct Agent(std::process::Child);

impl Agent {
    fn running(here: &Installation, hook: Option<&Path>) -> Self {
        let conf = hook.map_or_else(String::new, |hook| format!("fsfreeze-hook={}", hook.display()));
        let program = here.path("qemu-ga");
        let text = format!(
            "#!/bin/sh\ncase \"$*\" in '-t /state --dump-conf') echo '[general]'; echo '{conf}' ;; *) read _ ;; esac\n"
        );
        install(&program, "755", &text);
        let mut command = Command::new(program);
        Self(command.args(["-t", "/state"]).stdin(std::process::Stdio::piped()).spawn().expect("start it"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_check_asks_the_agent_and_every_hook() {
    let here = Installation::new();
    let agent = Agent::running(&here, Some(&here.path("fsfreeze-hook")));
    here.hook("10-a", "echo \"10-a is fine\"");
    here.hook("20-b", "exit 2");
    let outcome = here.call("check").succeeded();
    assert!(outcome.output.contains("runs this hook"), "{outcome:?}");
    assert!(outcome.output.contains("10-a is fine\n20-b: does not know `check`\n"), "{outcome:?}");
    assert_eq!(here.trace(), ["10-a check", "20-b check"]);

    here.hook("30-c", "echo 'no login'; exit 1");
    here.call("check").failed_with("no login");
    drop(agent);
    here.call("status").failed_with("10-a is fine");
}

/// A process of anybody's may be called like the agent, and is asked nothing: that would be to run it as root.
#[test]
fn a_check_runs_nothing_of_a_user() {
    if !is_root() {
        eprintln!("skipped: only root becomes somebody else here");
        return;
    }
    let here = Installation::new();
    let program = here.path("qemu-ga");
    let ran = here.path("ran");
    install(&program, "755", "#!/bin/sh\n[ -e \"$1\" ] && id -u >>\"$1\"\nread _\n");
    install(&ran, "666", "");
    // For somebody else to get there.
    let open = Command::new("chmod").arg("755").arg(program.parent().unwrap()).status();
    assert!(open.unwrap().success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).arg(&ran);
    let _user = Agent(command.stdin(std::process::Stdio::piped()).spawn().expect("start it"));
    wait_until("it runs", || fs::read_to_string(&ran).unwrap() == "65534\n");
    here.call("check");
    assert_eq!(fs::read_to_string(&ran).unwrap(), "65534\n", "it ran once more");
    // Root's is asked: the premise.
    let start =
        || Agent(Command::new(&program).arg(&ran).stdin(std::process::Stdio::piped()).spawn().unwrap());
    let root = start();
    wait_until("it runs", || fs::read_to_string(&ran).unwrap() == "65534\n0\n");
    here.call("check");
    assert_eq!(fs::read_to_string(&ran).unwrap(), "65534\n0\n0\n");
    drop(root);
    // What runs as root whoever has started it is not.
    let shell = here.path("sh");
    fs::copy(crate::call::program("sh"), &shell).unwrap();
    assert!(Command::new("chmod").arg("4755").arg(&shell).status().unwrap().success());
    let text = fs::read_to_string(&program).unwrap().replace("/bin/sh", &shell.display().to_string());
    install(&program, "755", &text);
    let _set_uid = start();
    wait_until("it runs", || fs::read_to_string(&ran).unwrap() == "65534\n0\n0\n0\n");
    here.call("check");
    assert_eq!(fs::read_to_string(&ran).unwrap(), "65534\n0\n0\n0\n", "it ran once more");
}

/// A link that leads nowhere has taken the place of our own hook, and no database would be held.
#[test]
fn only_a_link_to_null_switches_the_databases_off() {
    let here = Installation::new();
    let own = here.path("fsfreeze-hook.d/50-fsfreeze-db");
    let _ = fs::remove_file(&own);
    std::os::unix::fs::symlink("/not/there", &own).unwrap();
    here.call("freeze").failed_with("is no program, and no link to /dev/null");
    fs::remove_file(&own).unwrap();
    std::os::unix::fs::symlink("/dev/null", &own).unwrap();
    here.call("freeze").succeeded();
    here.call("thaw").succeeded();
}

#[test]
fn a_check_tells_of_an_agent_that_runs_no_hook_or_another() {
    let here = Installation::new();
    for hook in [None, Some(Path::new("/somewhere/else"))] {
        let _agent = Agent::running(&here, hook);
        let outcome = here.call("check");
        // On a busy host it may name any of the agents.
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let warned =
            ["runs NO hook", "runs ANOTHER hook"].iter().any(|warning| outcome.output.contains(warning));
        assert!(warned, "{outcome:?}");
    }
}
