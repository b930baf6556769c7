//! What goes wrong with a trial's own libvirt daemon.

use std::path::PathBuf;
use std::time::Duration;

/// Why a trial has no libvirt daemon of its own, without which no backup tool can work with its guest.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// There is no such program.
    #[error(
        "neither virtqemud nor libvirtd is installed, and a backup tool needs one of them to reach the guest: `cargo \
         xtask setup` installs it"
    )]
    NotInstalled,
    /// Root has no daemon of its own.
    #[error(
        "a trial with a backup tool needs a libvirt daemon of its own, which root cannot have here: there is no other user \
         as whom QEMU could run. Run it as another user, or let `--connect` name a libvirt"
    )]
    NotAsRoot,
    /// It ended by itself.
    #[error(
        "the trial's own libvirt daemon ended when it was started ({ended}); the last that it said is: {said}. All of it \
         is in {}",
        log.display()
    )]
    Ended {
        /// How its process ended.
        ended: String,
        /// Its last line.
        said: String,
        /// Its log.
        log: PathBuf,
    },
    /// It ended while it was needed.
    #[error(
        "the trial's own libvirt daemon ended while a backup tool worked with it; it was killed or it crashed, and nothing \
         is known about the backup. Run the trial again; what the daemon said is in {}",
        log.display()
    )]
    Gone {
        /// Its log.
        log: PathBuf,
    },
    /// It gives no answer any more.
    #[error("the libvirt of the trial's guest gave no answer within {} s when it was asked for jobs: it hangs", .0.as_secs())]
    Hung(Duration),
    /// It does not open its sockets.
    #[error(
        "the trial's own libvirt daemon could not be connected to within {} s; the host may be overloaded. What it said \
         is in {}",
        limit.as_secs(), log.display()
    )]
    Silent {
        /// How long it was waited for.
        limit: Duration,
        /// Its log.
        log: PathBuf,
    },
}
