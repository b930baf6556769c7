//! Claims: what a definition says about a disk that was made elsewhere, and what an
//! inspection of the running guest found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use crate::files::{self, FileError};

/// `claims.json`: what to verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The image as its definition has it, paths absolute. Its data directory
    /// and its versions are not known yet.
    pub image: Manifest,
    /// How the agent's version begins.
    pub agent_version: Option<String>,
    /// How the server's version begins.
    pub server_version: Option<String>,
}

/// `found.json`: what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectionReport {
    /// A sentence for each claim that is wrong, with what to write instead.
    pub differences: Vec<String>,
    /// The server's data directory.
    pub datadir: PathBuf,
    /// The versions of agent and server.
    pub versions: BTreeMap<String, String>,
}

impl Claims {
    /// The file's name.
    pub const FILE: &str = "claims.json";

    /// Reads it in `dir`.
    pub fn read(dir: &Path) -> Result<Self, FileError> {
        files::read_json(&dir.join(Self::FILE))
    }

    /// Writes it to `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), FileError> {
        files::write_json(&dir.join(Self::FILE), self)
    }
}

impl InspectionReport {
    /// The file's name.
    pub const FILE: &str = "found.json";

    /// Reads it in `dir`.
    pub fn read(dir: &Path) -> Result<Self, FileError> {
        files::read_json(&dir.join(Self::FILE))
    }

    /// Writes it to `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), FileError> {
        files::write_json(&dir.join(Self::FILE), self)
    }
}
