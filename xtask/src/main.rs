//! `cargo xtask`: the front door of Freezeframe.

fn main() {}
