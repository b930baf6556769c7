//! The events of a guest.

use crate::guest_end::GuestEnd;

/// An event that libvirt reports of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEvent {
    /// The guest agent opened its channel.
    AgentConnected,
    /// The guest agent closed its channel.
    AgentDisconnected,
    /// The guest is gone, or stands still for good.
    Ended(GuestEnd),
    /// The guest has released a device that is being detached.
    DeviceRemoved,
    /// A job on one of its disks has ended.
    BlockJobEnded {
        /// Whether it succeeded.
        succeeded: bool,
    },
    /// A job on the domain as a whole, such as a backup, has ended.
    DomainJobEnded,
}
