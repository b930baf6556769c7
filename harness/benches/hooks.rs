//! The cost of hooks: freeze, hold and thaw under one load, hook after hook, and how long the
//! writers were blocked. `cargo xtask bench hooks` runs this and draws the conclusions; the
//! measurements go to stdout as JSON. No VM, and nothing on this machine is ever frozen.
//!
//! Arguments: the number of repetitions, and the seed of the load.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot do its work must panic")]

#[allow(dead_code, reason = "shared with the tests of the load, which use more of it")]
#[path = "../tests/load/bench.rs"]
mod bench;
#[allow(unused, reason = "shared with the tests of the hooks, which use more of it")]
#[path = "../tests/hooks/call.rs"]
mod call;
#[allow(dead_code, reason = "shared with the tests of the hooks, which use more of it")]
#[path = "../tests/hooks/cluster.rs"]
mod cluster;
#[allow(unused, reason = "shared with the tests of the hooks, which use more of it")]
#[path = "../tests/hooks/sample.rs"]
mod sample;
#[allow(dead_code, reason = "shared with the tests of the hooks, which use more of it")]
#[path = "../tests/hooks/server.rs"]
mod server;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use contract::history::{self, Entry, Mark, Nanos};
use contract::jsonl::Reader;
use harness::load::Load;
use serde::Serialize;
use tempfile::TempDir;

use bench::{LIMIT, Run, serve, wait_for_transfers};
use call::{fsfreeze_db, install};
use sample::Sample;
use server::Server;

/// How long the writers are held on purpose.
const HOLD: Duration = Duration::from_secs(1);

/// Transfers between two measurements, after which the earlier one has no effect any more.
const TRANSFERS: u64 = 100;

/// How long the sample's leftovers may take to go away.
const CLEARED: Duration = Duration::from_secs(5);

/// One freeze, hold and thaw.
#[derive(Serialize)]
struct Cycle {
    hook: &'static str,
    freeze_ms: f64,
    hold_ms: f64,
    thaw_ms: f64,
    /// The longest time without an acknowledged transfer around it.
    gap_ms: f64,
    /// How each of the two calls ended: `exit 0`, `signal 13`.
    freeze: String,
    thaw: String,
}

/// When the calls of one cycle began and ended.
struct Window {
    hook: &'static str,
    times: [Nanos; 4],
    freeze: String,
    thaw: String,
}

/// Our hook, set up for one server as its packages set it up: below the dispatcher.
struct Ours {
    dir: TempDir,
}

impl Ours {
    fn new(server: &Server, settings: &str) -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        let at = |name: &str| this.dir.path().join(name);
        symlink(fsfreeze_db(), at("fsfreeze-hook")).unwrap();
        fs::create_dir(at("tools")).unwrap();
        install(&at("tools/logger"), "755", "#!/bin/sh\nexec cat >/dev/null\n");
        let root = this.dir.path().display();
        let settings = format!(
            "run_directory = '{root}/run'\nposition_directory = '{root}/lib'\n\
             [[server]]\ndata_directory = '{}'\n{settings}\n[[server]]\nignore = true\n",
            server.datadir().display()
        );
        install(&at("settings"), "600", &settings);
        this
    }

    fn command(&self, verb: &str) -> Command {
        let at = |name: &str| self.dir.path().join(name);
        let mut command = Command::new(at("fsfreeze-hook"));
        command.arg(verb).env_clear().env("PATH", at("tools"));
        command.env("FSFREEZE_HOOK_RUN", at("dispatcher")).env("FSFREEZE_DB_SETTINGS", at("settings"));
        command
    }
}

fn main() {
    // `cargo bench` adds arguments of its own.
    let mut numbers = std::env::args().filter_map(|word| word.parse().ok());
    let repetitions: u64 = numbers.next().unwrap_or(10);
    let seed: u64 = numbers.next().unwrap_or(1);

    let (server, client) = serve(&[]);
    let ours = Ours::new(&server, "");
    let ftwrl = Ours::new(&server, "method = 'ftwrl'");
    let sample = Sample::new(&server);
    let run = client.run("hooks");
    let load = run.start(seed);
    let mut windows = Vec::new();
    for repetition in 1..=repetitions {
        eprintln!("repetition {repetition} of {repetitions}");
        let mut measure = |hook, command: &dyn Fn(&str) -> Command| {
            windows.push(measure(&run, &load, hook, command));
        };
        measure("none", &|_| Command::new("true"));
        measure("freezeframe", &|verb| ours.command(verb));
        measure("freezeframe-ftwrl", &|verb| ftwrl.command(verb));
        measure("sample", &|verb| sample.command(verb));
        clear_away(&sample);
    }
    run.stop(load);
    run.history.finish().unwrap();

    let acknowledged = acknowledgements(&run);
    let cycles: Vec<_> = windows.into_iter().map(|window| cycle(window, &acknowledged)).collect();
    println!("{}", serde_json::to_string_pretty(&cycles).unwrap());
}

fn measure(run: &Run<'_>, load: &Load, hook: &'static str, command: &dyn Fn(&str) -> Command) -> Window {
    wait_for_transfers(load, TRANSFERS);
    let mark = |mark| run.history.mark(mark, "").unwrap();
    let called = mark(Mark::FreezeCall);
    let freeze = call(command("freeze"));
    let frozen = mark(Mark::FreezeOk);
    thread::sleep(HOLD);
    let released = mark(Mark::ThawCall);
    let thaw = call(command("thaw"));
    let thawed = mark(Mark::ThawOk);
    assert!(load.wait_for_all(thawed, LIMIT).unwrap(), "no write after the thaw of {hook}");
    Window { hook, times: [called, frozen, released, thawed], freeze: ended(freeze), thaw: ended(thaw) }
}

/// As agents before QEMU 9.1 call a hook: later ones would never see the sample return (A05).
fn call(mut command: Command) -> ExitStatus {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => unreachable!("a process exits, or a signal ends it"),
    }
}

/// Its background process removes the fifo some time after the thaw, or leaves it for ever (D07).
fn clear_away(sample: &Sample) {
    let deadline = Instant::now() + CLEARED;
    while sample.fifo().exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let _ = fs::remove_file(sample.fifo());
}

/// When each transfer was acknowledged, in order.
fn acknowledgements(run: &Run<'_>) -> Vec<Nanos> {
    let mut times: Vec<_> = Reader::<Entry>::open(&run.dir.join(history::FILE), history::KIND)
        .unwrap()
        .filter_map(|entry| match entry.unwrap() {
            Entry::Ok { t, ver: Some(_), .. } => Some(t),
            _ => None,
        })
        .collect();
    times.sort_unstable();
    times
}

fn cycle(window: Window, acknowledged: &[Nanos]) -> Cycle {
    let [called, frozen, released, thawed] = window.times;
    let ms = |from: Nanos, to: Nanos| (to - from) as f64 / 1e6;
    // From the last one before it to the first one after it.
    let first = acknowledged.partition_point(|&t| t < called).saturating_sub(1);
    let last = acknowledged.partition_point(|&t| t <= thawed);
    let around = &acknowledged[first..=last];
    let gap_ms = around.windows(2).map(|pair| ms(pair[0], pair[1])).reduce(f64::max).unwrap();
    Cycle {
        hook: window.hook,
        freeze_ms: ms(called, frozen),
        hold_ms: ms(frozen, released),
        thaw_ms: ms(released, thawed),
        gap_ms,
        freeze: window.freeze,
        thaw: window.thaw,
    }
}
