//! Every script parses in both shells and passes shellcheck.

use std::path::PathBuf;
use std::process::Command;

use crate::beside::scenarios_dir;
use crate::call::{hooks_dir, program};

fn scripts() -> Vec<PathBuf> {
    let mut scripts: Vec<_> = [
        "freezeframe/fsfreeze-hook.d/50-mysql",
        "freezeframe/fsfreeze-hook.d/40-postgresql",
        "sample/fsfreeze-hook",
    ]
    .map(|script| hooks_dir().join(script))
    .into();
    let folders = entries(scenarios_dir()).filter(|path| path.is_dir());
    let beside = folders.flat_map(entries).filter(|path| path.extension().is_some_and(|e| e == "sh"));
    scripts.extend(beside);
    assert!(scripts.len() > 4, "the hooks beside the scenarios are checked as well");
    scripts
}

fn entries(folder: PathBuf) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).expect("read the folder");
    entries.map(|entry| entry.expect("an entry").path())
}

fn passes(checker: &str, args: &[&str]) {
    for script in scripts() {
        let output = Command::new(program(checker)).args(args).arg(&script).output().expect("run it");
        assert!(output.status.success(), "{}\n{}", script.display(), String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn shellcheck_passes() {
    // With what they source.
    passes("shellcheck", &["-s", "sh", "-x"]);
}

#[test]
fn both_shells_parse() {
    passes("dash", &["-n"]);
    passes("busybox", &["sh", "-n"]);
}

#[test]
fn the_settings_files_only_repeat_the_defaults() {
    only_repeats_the_defaults("fsfreeze-db.conf", "50-mysql");
    only_repeats_the_defaults("fsfreeze-postgresql.conf", "40-postgresql");
}

fn only_repeats_the_defaults(settings: &str, script: &str) {
    let dir = hooks_dir().join("freezeframe");
    let settings = std::fs::read_to_string(dir.join(settings)).unwrap();
    let script = std::fs::read_to_string(dir.join("fsfreeze-hook.d").join(script)).unwrap();
    let defaults = script.replace("''", "").replace("$instance", "");
    for setting in settings.lines().filter_map(|line| line.strip_prefix('#')) {
        if setting.starts_with(|first: char| first.is_ascii_uppercase()) && setting.contains('=') {
            assert!(
                defaults.lines().any(|line| format!("{line} ").contains(&format!("{setting} "))),
                "{setting}"
            );
        }
    }
    assert!(settings.lines().all(|line| line.is_empty() || line.starts_with('#')));
}
