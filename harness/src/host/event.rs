//! What is heard of a guest.

/// What libvirt tells of a domain without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEvent {
    /// The guest agent opened its channel.
    AgentConnected,
    /// The guest agent closed its channel.
    AgentDisconnected,
    /// The guest is gone: shut down, crashed, or its kernel panicked.
    Stopped,
    /// The guest has let go of a device that was to be detached.
    DeviceRemoved,
    /// A job on one of its disks has ended, well or not.
    BlockJobEnded {
        /// Whether it did what it should.
        succeeded: bool,
    },
}
