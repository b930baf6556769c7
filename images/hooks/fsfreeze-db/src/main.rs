//! `fsfreeze-db`: holds database servers still while the guest's file systems are frozen.
//!
//! ```text
//! fsfreeze-db freeze    locks every server, flushes its redo log, records its position, and returns while
//!                       a process of its own holds the locks
//! fsfreeze-db thaw      proves that the same sessions held them the whole time, and releases them
//! fsfreeze-db status    says whether they are held, and how the latest freeze went; --json
//! fsfreeze-db check     takes the locks and releases them at once: says whether a freeze would work
//! ```
//!
//! Under any other name, such as `fsfreeze-hook`, it is what the guest agent calls: [`dispatch`].

mod call;
mod dispatch;
mod exit;
mod hold;
mod lock;
mod message;
mod mysql;
mod ours;
mod position;
mod postgresql;
mod servers;
mod session;
mod settings;
mod socket;
mod state;

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::Mode;

use crate::exit::Exit;
use crate::message::Answer;
use crate::settings::Settings;

const USAGE: &str = "usage: fsfreeze-db freeze|thaw|status [--json]|check";

fn main() -> ExitCode {
    // Ahead of the load that it is to stop: on a busy machine every step would queue behind it.
    let _ = rustix::process::setpriority_process(None, -10);
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let arguments: Vec<String> = env::args_os().skip(1).map(|it| it.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let name = env::args_os().next().unwrap_or_default().to_string_lossy().into_owned();
    let file = settings::file();
    let settings = Settings::read(&file);
    // Also as a hook of this name below somebody else's dispatcher.
    if !Path::new(&name).file_name().is_some_and(|name| name.to_string_lossy().contains("fsfreeze-db")) {
        return ExitCode::from(dispatch::main(&name, &words, &settings));
    }
    let answer = match settings {
        settings if words == ["thaw"] => call::thaw(&settings, &file, env::var(call::ROLLS_BACK).ok()),
        // Whatever they say now, locks may be held.
        Err(failure) if words.first() == Some(&"status") => {
            let held = call::status(&Settings::with_directory_of(&file), words.contains(&"--json"));
            match held.exit {
                Exit::Refused => failure.into(),
                _ => return show(&held),
            }
        }
        Err(failure) => failure.into(),
        Ok(settings) => match words.as_slice() {
            ["freeze"] => call::freeze(&settings, env::var(call::CALL).ok(), Duration::MAX),
            ["check"] => call::check(&settings, Duration::MAX),
            ["status"] => return show(&call::status(&settings, false)),
            ["status", "--json"] => return show(&call::status(&settings, true)),
            // Started by ourselves, and answers in its own way.
            [verb @ ("hold" | "hold-nothing"), _] => return hold(&settings, *verb == "hold-nothing"),
            _ => Answer { exit: Exit::Usage, says: USAGE.to_owned() },
        },
    };
    let verb = words.first().copied().unwrap_or_default();
    let prefix = if answer.exit == Exit::Usage { String::new() } else { format!("fsfreeze-db: {verb}: ") };
    eprintln!("{prefix}{}", answer.says);
    ExitCode::from(answer.exit as u8)
}

fn show(answer: &Answer) -> ExitCode {
    println!("{}", answer.says);
    ExitCode::from(answer.exit as u8)
}

fn hold(settings: &Settings, only_check: bool) -> ExitCode {
    match hold::runtime() {
        Ok(runtime) => {
            runtime.block_on(hold::run(settings, only_check, env::var(call::CALL).ok()));
            // A helper that hangs holds up nobody.
            runtime.shutdown_background();
        }
        Err(failure) => hold::report(&failure.into()),
    }
    ExitCode::SUCCESS
}
