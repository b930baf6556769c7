//! `cargo xtask verify`: what can be said about a backup that somebody has already.

mod files;
mod question;
mod show;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use contract::files as private;
use contract::image::{Claims, Definition, Manifest, Origin};
use contract::jsonl::Reader;
use contract::observation::{self, Record};
use contract::runtime_dir::Home;
use contract::verification::{Facts, Recovery, Request};
use jiff::Zoned;
use judge::verification::Verification;
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;
use terminal::command::Timer;
use terminal::live;
use tooling::command::shell;
use tooling::error::Failure;
use tooling::{cargo, host, space};
use tracing::{Level, info};
use xshell::cmd;

use crate::e2e::processes::kill_descendants_until;
use crate::{leftovers, setup};
use files::FileStates;

/// Memory of a guest of which nothing is claimed, MiB.
const MEMORY_MIB: u64 = 2048;

/// What a guest may write to its overlays, MiB: a recovery, and its server's logs.
const OVERLAYS_MIB: u64 = 1024;

/// Verifies a backup that you already have: boots its disks without a network, checks file systems, starts
/// the database and checks all tables.
///
/// Nothing of the disks is written: the guest runs on overlays that are thrown away. The result is `unusable`,
/// `inconsistent`, or `recovers`: nothing wrong was found, which is no proof, because nobody knows what the
/// server had promised when the backup was made. Exit codes: 0 recovers; 1 it does not, or a claim is wrong; 2
/// the question is wrong; 3 it could not be told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The disks, in order; the guest boots from the first. Their format is what their names end with (raw, img,
    /// qcow2, vmdk, vdi, vhdx, vhd); of another name, write it in front: `qcow2:FILE`.
    #[arg(value_name = "DISK", required = true)]
    disks: Vec<PathBuf>,
    /// What you claim about the disks: the definition of an image, such as images/bookworm-mariadb.toml or that of
    /// your own disk. Its distribution, agent, hook and server are compared with what is found, and the guest gets
    /// its memory.
    #[arg(long, value_name = "FILE")]
    claims: Option<PathBuf>,
    /// Prints the verdict as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let named = question::named(&args.disks)?;
    let (claims, _image) = args.claims.as_deref().map(claims).transpose()?.unzip();
    host::check_repository().map_err(Failure::usage)?;
    Home::of_user().map_err(|e| Failure::Infrastructure(format!("{e}.")))?;
    setup::ensure()?;
    let image = claims.as_ref().map(|claims| &claims.image);
    let request = Request {
        disks: question::disks(&named)?,
        memory_mib: image.map_or(MEMORY_MIB, |image| image.memory_mib),
        cpu: image.and_then(|image| image.cpu.clone()),
        channel: image.map(|image| image.channel).unwrap_or_default(),
        claims,
    };
    let runs = runs();
    private::create_dir(&runs)?;
    for leftover in leftovers::find(&runs)? {
        leftover.remove()?;
        tracing::warn!("A verification that was killed had left something, which is removed: {leftover}.");
    }
    let states = FileStates::of(&request.disks)?;
    // Each file system is copied, one at a time, because its journal is replayed before it is checked.
    space::require("the verification needs", &runs, OVERLAYS_MIB + states.largest_mib(&request.disks))?;
    let program =
        cargo::build("the trials", &["build", "--package", "scenarios", "--bin", "trial"], "trial")?;
    let dir = runs.join(format!("{}-{}", Zoned::now().strftime("%Y%m%d-%H%M%S"), std::process::id()));
    request.write(&dir)?;
    let ended = examine(&program, &dir)?;
    let verdict = verdict(&request, &dir, &ended, &states);
    // What it found is said, whatever becomes of the files.
    let written = write(&verdict, &dir);
    show::show(&verdict, &dir, args.json)?;
    let left = left_nothing(&dir);
    if ended.interrupted {
        return Err(Failure::Interrupted);
    }
    for problem in [&written, &left].into_iter().filter_map(|it| it.as_ref().err()) {
        tracing::warn!("{problem}");
    }
    outcome(&verdict)?;
    written.and(left)
}

fn write(verdict: &Verification, dir: &Path) -> Result<(), Failure> {
    private::write_json(&dir.join("verdict.json"), verdict)?;
    let page = dir.join("index.html");
    private::replace(&page, report::render_verification(verdict, dir).as_bytes())
        .map_err(|e| Failure::io("write", &page, e))
}

/// What a definition claims. The guest of an image that is made of packages has its kernel on none of its disks, so
/// that image must be built, and stays for as long as the file is open.
fn claims(file: &Path) -> Result<(Claims, Option<File>), Failure> {
    let definition = Definition::read(file)?;
    let (name, is_built) = (definition.name.clone(), definition.origin == Origin::Packages);
    let mut claims = builder::claims(&host::definitions(), definition)?;
    if !is_built {
        return Ok((claims, None));
    }
    let image = Manifest::read(&host::built_images(), &name).map_err(Failure::usage)?;
    let held = image.hold().map_err(Failure::infrastructure)?;
    claims.image.boot = image.boot;
    Ok((claims, Some(held)))
}

/// Where verifications keep what they found.
pub(crate) fn runs() -> PathBuf {
    host::repository().join("target/verify")
}

/// How the examining process ended.
struct Ended {
    status: ExitStatus,
    interrupted: bool,
}

/// Runs the examination under a supervisor, which cleans up after it.
fn examine(program: &Path, dir: &Path) -> Result<Ended, Failure> {
    let failed = |e: std::io::Error| Failure::io("run", program, e);
    let mut signals = Signals::new([SIGINT]).map_err(failed)?;
    let sh = shell()?;
    let mut supervisor = Command::from(cmd!(sh, "{program} supervise --verify {dir}"));
    supervisor.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    if !tracing::enabled!(Level::INFO) {
        supervisor.env("RUST_LOG", "warn");
    }
    let timer = Timer::start(&supervisor);
    let mut supervisor = supervisor.spawn().map_err(failed)?;
    if let Some(messages) = supervisor.stderr.take() {
        live::forward(messages);
    }
    // When it is closed, for any reason, the guest ends.
    let lifeline = supervisor.stdin.take();
    let (handle, watched) = (signals.handle(), signals.handle());
    let presses = thread::spawn(move || {
        let mut presses = signals.forever();
        let pressed = presses.next().is_some();
        if pressed {
            info!(
                "Ctrl-C: the guest is ended, and its overlays are removed. Press it again to kill every process of the \
                 verification at once."
            );
        }
        drop(lifeline);
        if pressed && presses.next().is_some() {
            tracing::warn!("Ctrl-C again: killing every process of the verification.");
            kill_descendants_until(&watched);
        }
        pressed
    });
    let status = supervisor.wait();
    timer.end(status.as_ref().copied());
    handle.close();
    // It counts presses, and cannot panic.
    let interrupted = presses.join().unwrap_or_default();
    Ok(Ended { status: status.map_err(failed)?, interrupted })
}

/// The verdict on what the examination left.
fn verdict(request: &Request, dir: &Path, ended: &Ended, states: &FileStates) -> Verification {
    let mut facts = match Facts::read(dir) {
        Ok(facts) => facts,
        Err(_) if ended.interrupted => return Verification::unknown(request, "interrupted"),
        Err(_) => {
            let why =
                format!("the examination ended without a result ({}); the reason stands above", ended.status);
            return Verification::unknown(request, &why);
        }
    };
    if let Some(file) = states.changed() {
        let why = format!("{} was changed while it was examined, and not by this program", file.display());
        facts.stopped.get_or_insert(why);
    }
    let records = read(dir).unwrap_or_else(|problem| {
        facts.stopped.get_or_insert(problem);
        Vec::new()
    });
    Verification::of(request, &facts, records)
}

/// What was observed, as far as an examination came that stopped.
fn read(dir: &Path) -> Result<Vec<Record>, String> {
    let path = dir.join(observation::FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut records = Vec::new();
    for record in Reader::<Record>::open(&path, observation::KIND).map_err(|e| e.to_string())? {
        match record {
            Ok(record) => records.push(record),
            Err(_) if !records.is_empty() => break,
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(records)
}

fn left_nothing(dir: &Path) -> Result<(), Failure> {
    let left = leftovers::of_ended(dir)?;
    for leftover in &left {
        leftover.remove()?;
    }
    if left.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = left.iter().map(ToString::to_string).collect();
    Err(Failure::Infrastructure(format!(
        "the verification left behind, and its end removed: {}.",
        names.join(", ")
    )))
}

fn outcome(verdict: &Verification) -> Result<(), Failure> {
    match verdict.grade {
        Recovery::Unusable | Recovery::Inconsistent => {
            Err(Failure::Expectation(format!("the backup is {}.", verdict.grade)))
        }
        _ if !verdict.unmet.is_empty() => {
            let count = verdict.unmet.len();
            Err(Failure::Expectation(format!("{count} of the claims about the disks are wrong.")))
        }
        Recovery::Recovers => Ok(()),
        Recovery::Unknown => {
            Err(Failure::Infrastructure("it could not be told how good the backup is.".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use contract::verification::{DiskFormat, GivenDisk, Layer};

    use super::*;

    fn request() -> Request {
        let layers = vec![Layer { file: "/b/vda.raw".into(), format: DiskFormat::Raw }];
        let disks = vec![GivenDisk { target: "vda".to_owned(), bytes: 1, layers }];
        Request { disks, memory_mib: 1, cpu: None, channel: Default::default(), claims: None }
    }

    fn ended(interrupted: bool) -> Ended {
        Ended { status: ExitStatus::from_raw(3 << 8), interrupted }
    }

    #[test]
    fn an_examination_that_left_nothing_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let states = FileStates::of(&[]).unwrap();
        let lost = verdict(&request(), dir.path(), &ended(false), &states);
        assert_eq!(lost.grade, Recovery::Unknown);
        assert!(lost.reason.contains("ended without a result (exit status: 3)"), "{}", lost.reason);
        assert_eq!(verdict(&request(), dir.path(), &ended(true), &states).reason, "unknown: interrupted");
        assert!(matches!(outcome(&lost), Err(Failure::Infrastructure(_))));
    }

    #[test]
    fn what_was_seen_before_the_end_counts() {
        let dir = tempfile::tempdir().unwrap();
        Facts { stopped: Some("the host has no room".to_owned()), ..Facts::default() }
            .write(dir.path())
            .unwrap();
        let log = dir.path().join(observation::FILE);
        let line = r#"{"o":"fsck","disk":"vda","clean":false,"detail":"lost inode"}"#;
        let head = r#"{"schema":1,"kind":"observation"}"#;
        std::fs::write(&log, format!("{head}\n{line}\n{{\"o\":\"fs")).unwrap();
        let states = FileStates::of(&[]).unwrap();
        let seen = verdict(&request(), dir.path(), &ended(false), &states);
        assert_eq!(seen.grade, Recovery::Unusable, "{seen:?}");
        assert!(seen.unexamined.contains(&"the host has no room".to_owned()));
        std::fs::write(&log, "nonsense").unwrap();
        assert_eq!(verdict(&request(), dir.path(), &ended(false), &states).grade, Recovery::Unknown);
    }

    #[test]
    fn the_exit_code_follows_the_grade_and_the_claims() {
        let with = |grade, unmet: &[&str]| {
            let mut verdict = Verification::unknown(&request(), "because");
            verdict.grade = grade;
            verdict.unmet = unmet.iter().map(|it| (*it).to_owned()).collect();
            outcome(&verdict)
        };
        assert!(with(Recovery::Recovers, &[]).is_ok());
        for (grade, unmet) in
            [(Recovery::Recovers, &["no"][..]), (Recovery::Unusable, &[]), (Recovery::Inconsistent, &[])]
        {
            assert!(matches!(with(grade, unmet), Err(Failure::Expectation(_))), "{grade} {unmet:?}");
        }
        assert!(matches!(with(Recovery::Unknown, &[]), Err(Failure::Infrastructure(_))));
    }
}
