//! Every script parses in both shells and passes shellcheck.

use std::path::PathBuf;
use std::process::Command;

use crate::beside::scenarios_dir;
use crate::call::{hooks_dir, program};

fn scripts() -> Vec<PathBuf> {
    let mut scripts = vec![hooks_dir().join("sample/fsfreeze-hook")];
    let folders = entries(scenarios_dir()).filter(|path| path.is_dir());
    let beside = folders.flat_map(entries).filter(|path| path.extension().is_some_and(|e| e == "sh"));
    scripts.extend(beside);
    assert!(scripts.len() > 1, "the hooks beside the scenarios are checked as well");
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
