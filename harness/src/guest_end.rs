//! The one fact of a guest's end: how it ended, and so by whom.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How a guest ended, which says by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuestEnd {
    /// It powered itself off or reset itself, as a kernel does that panics.
    #[error("shut itself down or panicked")]
    ShutDown,
    /// QEMU is gone, and had not announced it.
    #[error("lost its QEMU, which crashed or was killed on the host (by the kernel when memory ran out?)")]
    QemuGone,
    /// A client of its libvirt ended it.
    #[error("was ended through libvirt by somebody else")]
    Destroyed,
    /// QEMU paused it, because a disk's file could not be read or written.
    #[error("was paused by QEMU, because the host cannot read or write a disk's file (is there space left?)")]
    DiskFailed,
    /// QEMU's monitor did not answer.
    #[error("hangs: its QEMU has not answered on its monitor for {} s", .0.as_secs())]
    Hung(Duration),
}

impl GuestEnd {
    /// Whether the host brought it about, so that it says nothing of what is on the guest's disks.
    pub fn is_of_host(self) -> bool {
        self != Self::ShutDown
    }
}

/// How a guest ended, once it has: shared by everything that deals with the guest.
#[derive(Debug, Clone, Default)]
pub struct Fate(Arc<OnceLock<GuestEnd>>);

impl Fate {
    /// How it ended; `None` while it lives.
    pub fn end(&self) -> Option<GuestEnd> {
        self.0.get().copied()
    }

    /// Whether this is the fate of the same guest.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Records how it ended. The first end is the one that counts: others follow from it.
    pub(crate) fn seal(&self, end: GuestEnd) {
        let _ = self.0.set(end);
    }
}
