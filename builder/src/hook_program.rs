//! The program of the hooks: one file, for every guest of this machine's architecture.

use std::path::PathBuf;

use tooling::cargo;
use tooling::error::Failure;

const PROGRAM: &str = "fsfreeze-db";

/// Builds it, if it has changed, without anything that a guest would have to have; under `target/hook`.
pub fn build() -> Result<PathBuf, Failure> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // With a target named, what runs on this machine while building is built as always.
    let is_static = format!("target.{target}.rustflags=['-C', 'target-feature=+crt-static']");
    let args = ["build", "--package", PROGRAM, "--profile", "hook", "--target-dir", "target/hook"];
    cargo::build(
        "the hooks' program",
        &[&args[..], &["--target", &target, "--config", &is_static]].concat(),
        PROGRAM,
    )
}
