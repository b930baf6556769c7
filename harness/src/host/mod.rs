//! The host: which accelerator works, and the connection to libvirt.

pub mod accel;
mod event;
mod ffi;
mod libvirt;

pub use event::GuestEvent;
pub(crate) use ffi::{block_commit, fs_freeze, fs_thaw, save, set_agent_timeout};
pub(crate) use libvirt::capabilities;
pub use libvirt::{GuestEvents, Libvirt};
