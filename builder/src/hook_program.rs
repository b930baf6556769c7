//! The program of the hooks: one file, for every guest of this machine's architecture.

use std::path::PathBuf;

use tooling::cargo;
use tooling::error::Failure;
use tooling::host;

/// Its name.
pub(crate) const NAME: &str = "fsfreeze-db";

/// What the agent calls: a link beside it, by whose name it knows that it is the dispatcher.
pub(crate) const DISPATCHER: &str = "fsfreeze-hook";

/// Where it is, once it is built.
pub fn path() -> PathBuf {
    host::repository().join("target/hook").join(target()).join("hook").join(NAME)
}

/// Builds it, if it has changed, without anything that a guest would have to have; under `target/hook`.
pub fn build() -> Result<PathBuf, Failure> {
    let target = target();
    // With a target named, what runs on this machine while building is built as always.
    let is_static = format!("target.{target}.rustflags=['-C', 'target-feature=+crt-static']");
    let args = ["build", "--package", NAME, "--profile", "hook", "--target-dir", "target/hook"];
    cargo::build(
        "the hooks' program",
        &[&args[..], &["--target", &target, "--config", &is_static]].concat(),
        NAME,
    )
}

fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}
