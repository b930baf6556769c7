//! The events of a guest.

/// An event that libvirt reports of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEvent {
    /// The guest agent opened its channel.
    AgentConnected,
    /// The guest agent closed its channel.
    AgentDisconnected,
    /// The guest is gone: shut down, crashed, or its kernel panicked.
    Stopped,
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
