//! What the tasks of `cargo xtask` and the image builder share: commands of the host ([`command`],
//! [`cargo`]), its user and directories ([`host`]), room on its disks ([`space`]), and how a task fails ([`error`]).

pub mod cargo;
pub mod command;
pub mod error;
pub mod host;
pub mod space;
