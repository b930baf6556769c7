//! The kinds of channels and servers that images have.

use serde::{Deserialize, Serialize};

/// How the host reaches a guest's agent. An agent on an ISA serial port needs no
/// driver; libvirt knows those on virtio-serial only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentChannel {
    /// The virtio port `org.qemu.guest_agent.0`.
    #[default]
    VirtioSerial,
    /// The second serial port of the machine: `/dev/ttyS1`.
    IsaSerial,
}

/// The database server that an image carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Database {
    /// MariaDB server.
    Mariadb,
    /// MySQL server.
    Mysql,
    /// PostgreSQL server.
    Postgresql,
}

impl Database {
    /// The server of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Mariadb, Self::Mysql, Self::Postgresql].into_iter().find(|database| database.name() == name)
    }

    /// Its name, as definitions and layers write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mariadb => "mariadb",
            Self::Mysql => "mysql",
            Self::Postgresql => "postgresql",
        }
    }

    /// Whether it can keep binary logs, and then in a directory that a definition names.
    pub fn keeps_binlogs(self) -> bool {
        match self {
            Self::Mariadb | Self::Mysql => true,
            Self::Postgresql => false,
        }
    }
}
