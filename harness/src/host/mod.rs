//! The host: which accelerator works, who QEMU runs as, and the connection to libvirt.

pub mod accel;
mod event;
mod ffi;
pub(crate) mod guest_user;
mod libvirt;

pub use event::GuestEvent;
pub(crate) use ffi::{
    Subscription as JobSubscription, abort_job, backup_begin, block_commit, fs_freeze, fs_thaw, save,
    set_agent_timeout, set_job_speed, subscribe_to_job,
};
pub(crate) use libvirt::capabilities;
pub use libvirt::{GuestEvents, Libvirt};
