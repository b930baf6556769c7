//! Origins: what an image is made of.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::kinds::Database;
use super::layout::DiskMib;
use super::manifest::AgentFacts;
use crate::input::{Mistake, Whole};

/// How to reach a database server in its guest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerFacts {
    /// Its systemd unit.
    pub unit: String,
    /// The directory of its binary logs, of a server that keeps them.
    pub binlogs: Option<PathBuf>,
    /// Its TCP port.
    #[serde(deserialize_with = "port")]
    pub port: u16,
    /// The account of the load.
    pub user: String,
}

impl ServerFacts {
    /// Checks what a file says of a server of this kind.
    pub(super) fn check(server: &Spanned<Self>, database: Database) -> Result<(), Mistake> {
        let name = database.name();
        let message = match (database.keeps_binlogs(), &server.get_ref().binlogs) {
            (true, None) => format!(
                "the key `binlogs` is missing: with `{name}`, write the directory of the server's binary logs."
            ),
            (false, Some(_)) => format!("`{name}` has no binary logs: leave `binlogs` out."),
            (true, Some(_)) | (false, None) => return Ok(()),
        };
        Err(Mistake::new(&server.span(), message))
    }
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let Whole(port) = Whole::<1, { u16::MAX as u32 }>::deserialize(deserializer)?;
    u16::try_from(port).map_err(D::Error::custom)
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The packages of its distribution, on disks of our own layout.
    Packages,
    /// A disk that a vendor publishes, to which packages are added. Partitions,
    /// file systems and boot loader stay the vendor's.
    CloudImage(CloudImage),
    /// A disk that exists already, with agent, hook and server on it. It is
    /// used as it is.
    Existing(Existing),
}

/// A disk that a vendor publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudImage {
    /// Where it is.
    pub source: ImageSource,
    /// SHA-256 of the file, lowercase hex.
    pub sha256: String,
    /// What the disk is enlarged to, MiB; the vendor's size without this.
    pub size_mib: Option<u64>,
}

/// A disk that exists already, and what its definition claims about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// The disk, qcow2 or raw; it is only read.
    pub file: PathBuf,
    /// The password of the load's account, mode 0600.
    pub password_file: PathBuf,
    /// How the version of its agent begins.
    pub agent_version: Option<String>,
    /// How the version of its server begins.
    pub server_version: Option<String>,
    /// Its agent; as in the layer of its family without this.
    pub agent: Option<AgentFacts>,
    /// Its server; as in the layer of its database without this.
    pub server: Option<ServerFacts>,
}

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// To be downloaded.
    Url(String),
    /// On this host.
    File(PathBuf),
}

/// A cloud image as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCloudImage {
    url: Option<Spanned<String>>,
    file: Option<Spanned<PathBuf>>,
    sha256: Spanned<String>,
    size_mib: Option<DiskMib>,
}

/// An existing disk as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExisting {
    file: Spanned<PathBuf>,
    password_file: Spanned<PathBuf>,
    agent_version: Option<String>,
    server_version: Option<String>,
    agent: Option<AgentFacts>,
    server: Option<Spanned<ServerFacts>>,
}

impl RawExisting {
    /// Checks it. Files are looked for beside `definition`.
    pub(super) fn check(self, definition: &Path, database: Database) -> Result<Existing, Mistake> {
        let file = find(&self.file, definition)?;
        let password_file = find(&self.password_file, definition)?;
        let mode = password_file.metadata().map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o077 != 0) {
            let shown = password_file.display();
            let message = format!("others may read the password in {shown}. Run `chmod 600 {shown}`.");
            return Err(Mistake::new(&self.password_file.span(), message));
        }
        if let Some(server) = &self.server {
            ServerFacts::check(server, database)?;
        }
        let Self { agent_version, server_version, agent, .. } = self;
        let server = self.server.map(Spanned::into_inner);
        Ok(Existing { file, password_file, agent_version, server_version, agent, server })
    }
}

/// A file that a definition names.
fn find(file: &Spanned<PathBuf>, definition: &Path) -> Result<PathBuf, Mistake> {
    let path = definition.with_file_name("").join(file.get_ref());
    match std::path::absolute(&path) {
        Ok(path) if path.is_file() => Ok(path),
        _ => Err(Mistake::new(&file.span(), format!("there is no file {}.", path.display()))),
    }
}

impl RawCloudImage {
    /// Checks it. A file is looked for beside `definition`.
    pub(super) fn check(self, definition: &Path) -> Result<CloudImage, Mistake> {
        let at = self.sha256.span();
        let source = match (self.url, self.file) {
            (Some(url), None) => {
                let text = url.get_ref();
                let known = ["https://", "http://"].iter().any(|scheme| text.starts_with(scheme));
                if !known || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
                    return Err(Mistake::new(&url.span(), "`url` must begin with `https://` or `http://`."));
                }
                ImageSource::Url(url.into_inner())
            }
            (None, Some(file)) => ImageSource::File(find(&file, definition)?),
            _ => {
                let message =
                    "a cloud image is either downloaded (`url`) or on this host (`file`). Write one of them.";
                return Err(Mistake::new(&at, message));
            }
        };
        let sha256 = self.sha256.into_inner().to_ascii_lowercase();
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            let message =
                "`sha256` must be the 64 hexadecimal digits that the vendor publishes beside the image.";
            return Err(Mistake::new(&at, message));
        }
        Ok(CloudImage { source, sha256, size_mib: self.size_mib.map(|size| size.0.into()) })
    }
}
