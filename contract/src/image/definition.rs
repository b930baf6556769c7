//! Image definitions: one small TOML file a distribution under `images/`, and
//! the layers (family, database) that it builds on.
//!
//! Files are checked as a whole before anything is built. Every error names the
//! file and the line, and says what to write instead.

pub(super) mod read;
#[cfg(test)]
mod tests;

use serde::Deserialize;
use toml::Spanned;

use super::kinds::{AgentChannel, Database};
use super::layout::{Bind, DiskLayout, FsKind, LoopLayout};
use super::manifest::AgentFacts;
use super::origin::{Origin, ServerFacts};

/// `images/NAME.toml`: what an image must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The file's name without `.toml`.
    pub name: String,
    /// One line for `images list`.
    pub summary: String,
    /// Why the project's own tests have never built and run it. Such an image is
    /// built and used only when it is named.
    pub unverified: Option<String>,
    /// How the image is built.
    pub family: Family,
    /// `debian`.
    pub distro: String,
    /// `bookworm`.
    pub release: String,
    /// Package mirror of the deb family; without it the builder's own choice.
    pub mirror: Option<String>,
    /// Package repositories of the RPM family.
    pub repositories: Vec<Repository>,
    /// Whether packages come with the release's security updates.
    pub security_updates: bool,
    /// The database server.
    pub database: Database,
    /// How the host reaches the guest agent.
    pub channel: AgentChannel,
    /// Packages beyond those of the layers.
    pub packages: Vec<String>,
    /// Units that never start, beyond those of the layers.
    pub masks: Vec<Mask>,
    /// Guest memory, MiB.
    pub memory_mib: u64,
    /// The processor model that an emulated guest needs, as QEMU names it, where
    /// the programs of the distribution do not run on the plainest one.
    pub cpu: Option<String>,
    /// What the image is made of.
    pub origin: Origin,
    /// The disks that are made for it; the first is the root.
    pub disks: Vec<DiskLayout>,
    /// File systems in files on those of the disks.
    pub loops: Vec<LoopLayout>,
    /// Directories that are mounted a second time.
    pub binds: Vec<Bind>,
}

/// A family of distributions that are built the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Debian and its derivatives, built with mmdebstrap.
    Deb,
    /// Fedora, the RHEL family and openSUSE, built with dnf.
    Rpm,
}

impl Family {
    /// The name of its layer.
    pub fn layer(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        }
    }

    /// The name of the layer for images of this origin, where there is one.
    pub fn origin_layer(self, origin: &Origin) -> Option<&'static str> {
        match (self, origin) {
            (Self::Deb, Origin::Packages) => Some("deb-packages"),
            (Self::Deb, Origin::CloudImage(_)) => Some("deb-cloud"),
            (Self::Rpm, _) | (_, Origin::Existing(_)) => None,
        }
    }
}

/// A systemd unit that never starts in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mask {
    /// The unit.
    pub unit: String,
    /// Why a trial does not want it.
    pub reason: String,
}

/// A package repository of the RPM family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its name, for messages.
    pub name: String,
    /// Where its `repodata` is.
    pub url: String,
    /// Where the key is that its packages are signed with. Only a repository on
    /// the host itself goes without.
    pub key: Option<String>,
}

/// `images/layers/NAME/layer.toml`: what every image on this layer gets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Packages to install.
    pub packages: Vec<String>,
    /// The packages of the kernel, which images that have one already do not get.
    #[serde(default)]
    pub kernel: Vec<String>,
    /// The kernel command line.
    #[serde(default, rename = "argument")]
    pub arguments: Vec<Argument>,
    /// Units that never start.
    #[serde(default, rename = "mask")]
    pub masks: Vec<Mask>,
    /// The guest agent, in the layer of a family.
    pub agent: Option<AgentFacts>,
    /// The database server, in the layer of a database.
    server: Option<Spanned<ServerFacts>>,
    /// What is different about MariaDB, in the layer of a distribution.
    #[serde(default)]
    pub mariadb: Packaging,
    /// The same of MySQL.
    #[serde(default)]
    pub mysql: Packaging,
    /// The same of PostgreSQL.
    #[serde(default)]
    pub postgresql: Packaging,
}

impl Layer {
    /// The database server, in the layer of a database.
    pub fn server(&self) -> Option<&ServerFacts> {
        self.server.as_ref().map(Spanned::get_ref)
    }

    /// What this distribution packages differently of a database server.
    pub fn packaging(&self, database: Database) -> &Packaging {
        match database {
            Database::Mariadb => &self.mariadb,
            Database::Mysql => &self.mysql,
            Database::Postgresql => &self.postgresql,
        }
    }
}

/// How a distribution packages a database server, where that is not what the
/// layer of the database says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packaging {
    /// Its packages, the server first.
    pub packages: Option<Vec<String>>,
    /// Its systemd unit.
    pub unit: Option<String>,
}

/// One argument of the kernel command line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argument {
    /// As the kernel reads it.
    pub value: String,
    /// What it is for.
    pub reason: String,
}

impl Definition {
    /// Whether everything lies on one ext4 disk and the agent is on
    /// virtio-serial, the layout that every distribution has an image with.
    pub fn is_plain(&self) -> bool {
        self.channel == AgentChannel::VirtioSerial
            && self.loops.is_empty()
            && self.binds.is_empty()
            && matches!(self.disks.as_slice(), [disk] if disk.file_systems.iter().all(|fs| fs.fs == FsKind::Ext4))
    }

    /// Whether a second guest of this image can mount its disks beside its own:
    /// volume groups and btrfs are known by a name that only one of them may have,
    /// and partitions are not looked for.
    pub fn can_be_attached(&self) -> bool {
        let bare = |disk: &DiskLayout| {
            disk.group.is_none() && disk.file_systems.iter().all(|fs| fs.fs != FsKind::Btrfs)
        };
        let whole = self.origin == Origin::Packages;
        whole && self.loops.is_empty() && self.binds.is_empty() && self.disks.iter().all(bare)
    }
}
