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
    /// Its name, as definitions and layers write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mariadb => "mariadb",
            Self::Mysql => "mysql",
            Self::Postgresql => "postgresql",
        }
    }
}
