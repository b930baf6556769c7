//! Images: what a definition under `images/` asks for, and what a build left
//! under `target/images/`.

mod definition;
mod manifest;

pub use manifest::{Agent, Disk, Manifest, ManifestError, Server};

use serde::{Deserialize, Serialize};

/// The database server that an image carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Database {
    /// MariaDB server.
    Mariadb,
    /// MySQL server.
    Mysql,
}
