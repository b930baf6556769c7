//! The calls of libvirt's C API that the `virt` crate does not wrap, behind safe signatures. All
//! `unsafe` code of the project is here.
#![allow(
    unsafe_code,
    reason = "libvirt's freeze, thaw, agent timeout, save, jobs and events have no safe wrapper"
)]

use std::ffi::{CString, c_char, c_int, c_ulong, c_void};
use std::path::Path;
use std::ptr;
use std::sync::mpsc::Sender;
use std::time::Duration;

use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use super::event::GuestEvent;
use crate::guest_end::{Fate, GuestEnd};

/// Freezes every file system of the guest through its agent, the hook first.
/// Returns how many were frozen.
///
/// See <https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainFSFreeze>.
pub(crate) fn fs_freeze(domain: &Domain) -> Result<u32, Error> {
    // SAFETY: `domain` holds a live virDomainPtr; a null list means all mount points.
    counted(unsafe { sys::virDomainFSFreeze(domain.as_ptr(), ptr::null_mut(), 0, 0) })
}

/// Thaws every file system of the guest, then runs the hook. Returns how many
/// were thawed.
///
/// See <https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainFSThaw>.
pub(crate) fn fs_thaw(domain: &Domain) -> Result<u32, Error> {
    // SAFETY: as in `fs_freeze`.
    counted(unsafe { sys::virDomainFSThaw(domain.as_ptr(), ptr::null_mut(), 0, 0) })
}

/// Bounds every later agent call of this domain, freeze and thaw included.
/// libvirt's own default is to wait for ever.
///
/// See <https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainAgentSetResponseTimeout>.
pub(crate) fn set_agent_timeout(domain: &Domain, timeout: Duration) -> Result<(), Error> {
    let seconds = c_int::try_from(timeout.as_secs().max(1)).unwrap_or(c_int::MAX);
    // SAFETY: `domain` holds a live virDomainPtr.
    counted(unsafe { sys::virDomainAgentSetResponseTimeout(domain.as_ptr(), seconds, 0) }).map(drop)
}

/// Saves a domain with its memory to a file, and ends it.
///
/// See <https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainSave>.
pub(crate) fn save(domain: &Domain, file: &Path) -> Result<(), Error> {
    let file = CString::new(file.as_os_str().as_encoded_bytes())?;
    // SAFETY: `domain` holds a live virDomainPtr, `file` a string that outlives the call.
    counted(unsafe { sys::virDomainSave(domain.as_ptr(), file.as_ptr()) }).map(drop)
}

/// Starts to merge an overlay of a running domain's disk into the one below it, and to remove it
/// from the chain. An event reports the end.
///
/// See <https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBlockCommit>.
pub(crate) fn block_commit(domain: &Domain, disk: &str, overlay: &Path) -> Result<(), Error> {
    let (disk, overlay) = (CString::new(disk)?, CString::new(overlay.as_os_str().as_encoded_bytes())?);
    // Without `SHALLOW` and with no base it would merge everything into the image itself.
    let flags = sys::VIR_DOMAIN_BLOCK_COMMIT_SHALLOW;
    // SAFETY: `domain` holds a live virDomainPtr, the strings outlive the call, a
    // null base means the one below.
    counted(unsafe {
        sys::virDomainBlockCommit(domain.as_ptr(), disk.as_ptr(), ptr::null(), overlay.as_ptr(), 0, flags)
    })
    .map(drop)
}

/// Begins a backup job, whose point in time is fixed when this returns. An event reports its end.
///
/// See <https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBackupBegin>.
pub(crate) fn backup_begin(domain: &Domain, xml: &str) -> Result<(), Error> {
    let xml = CString::new(xml)?;
    let flags = sys::VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL;
    // SAFETY: `domain` holds a live virDomainPtr, `xml` a string that outlives the call; without a
    // second document there is no checkpoint.
    counted(unsafe { sys::virDomainBackupBegin(domain.as_ptr(), xml.as_ptr(), ptr::null(), flags) }).map(drop)
}

/// Bounds how fast a disk's job copies, MiB a second; 0 is no bound.
///
/// See <https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainBlockJobSetSpeed>.
pub(crate) fn set_job_speed(domain: &Domain, disk: &str, mib: c_ulong) -> Result<(), Error> {
    let disk = CString::new(disk)?;
    // SAFETY: `domain` holds a live virDomainPtr, `disk` a string that outlives the call.
    counted(unsafe { sys::virDomainBlockJobSetSpeed(domain.as_ptr(), disk.as_ptr(), mib, 0) }).map(drop)
}

/// Aborts the job on a domain as a whole.
///
/// See <https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainAbortJob>.
pub(crate) fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: `domain` holds a live virDomainPtr.
    counted(unsafe { sys::virDomainAbortJob(domain.as_ptr()) }).map(drop)
}

/// libvirt's convention: -1 is an error, whose message is kept per thread.
fn counted(result: c_int) -> Result<u32, Error> {
    u32::try_from(result).map_err(|_| Error::last_error())
}

/// A domain's events go to a channel for as long as this lives. Two of one kind for one
/// domain are refused, and a domain that is restored is the one that was saved.
#[derive(Debug)]
pub(crate) struct Subscription {
    domain: Domain,
    callbacks: Vec<c_int>,
}

/// The connection of a domain, which lives as long as it.
fn connection(domain: &Domain) -> sys::virConnectPtr {
    // SAFETY: `domain` holds a live virDomainPtr.
    unsafe { sys::virDomainGetConnect(domain.as_ptr()) }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for callback in &self.callbacks {
            // SAFETY: the connection is live; libvirt frees the listener when no event is under way.
            // There is nothing to do where it does not know the callback any more.
            unsafe { sys::virConnectDomainEventDeregisterAny(connection(&self.domain), *callback) };
        }
    }
}

/// Where the events of a domain go.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    /// Gets all.
    pub events: Sender<GuestEvent>,
    /// Gets the domain's end.
    pub fate: Fate,
}

/// Reports this domain's agent, lifecycle, device and disk events.
pub(crate) fn subscribe(domain: &Domain, listener: &Listener) -> Result<Subscription, Error> {
    type AgentLifecycle =
        unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void);
    type Lifecycle =
        unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
    type DeviceRemoved =
        unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *const c_char, *mut c_void);
    type BlockJob =
        unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *const c_char, c_int, c_int, *mut c_void);
    // SAFETY: libvirt declares the callback with a generic type and calls it
    // with the type that belongs to the event's id, which is the one cast from.
    let callbacks = unsafe {
        [
            (
                sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
                std::mem::transmute::<AgentLifecycle, Any>(on_agent_lifecycle),
            ),
            (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, std::mem::transmute::<Lifecycle, Any>(on_lifecycle)),
            (
                sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
                std::mem::transmute::<DeviceRemoved, Any>(on_device_removed),
            ),
            (sys::VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, std::mem::transmute::<BlockJob, Any>(on_block_job)),
        ]
    };
    register(domain, &callbacks, listener)
}

/// Sends the end of this domain's job into the channel.
pub(crate) fn subscribe_to_job(domain: &Domain, events: &Sender<GuestEvent>) -> Result<Subscription, Error> {
    type JobCompleted = unsafe extern "C" fn(
        sys::virConnectPtr,
        sys::virDomainPtr,
        sys::virTypedParameterPtr,
        c_int,
        *mut c_void,
    );
    // SAFETY: as in `subscribe`.
    let callback = unsafe { std::mem::transmute::<JobCompleted, Any>(on_job_completed) };
    let listener = Listener { events: events.clone(), fate: Fate::default() };
    register(domain, &[(sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, callback)], &listener)
}

/// What libvirt declares every callback to be.
type Any = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);

/// Registers callbacks, each of the type that belongs to its event.
fn register(
    domain: &Domain,
    callbacks: &[(sys::virDomainEventID, Any)],
    listener: &Listener,
) -> Result<Subscription, Error> {
    let mut subscription = Subscription { domain: domain.clone(), callbacks: Vec::new() };
    for &(id, callback) in callbacks {
        let opaque = Box::into_raw(Box::new(listener.clone())).cast();
        // SAFETY: both pointers are live; `opaque` is owned by the registration
        // from here on and freed by `free_listener` exactly once.
        let registered = unsafe {
            sys::virConnectDomainEventRegisterAny(
                connection(domain),
                domain.as_ptr(),
                c_int::try_from(id).unwrap_or(c_int::MAX),
                Some(callback),
                opaque,
                Some(free_listener),
            )
        };
        if registered < 0 {
            // SAFETY: a failed registration does not take `opaque`.
            unsafe { free_listener(opaque) };
            return Err(Error::last_error());
        }
        subscription.callbacks.push(registered);
    }
    Ok(subscription)
}

unsafe extern "C" fn on_agent_lifecycle(
    _connect: sys::virConnectPtr,
    _domain: sys::virDomainPtr,
    state: c_int,
    _reason: c_int,
    opaque: *mut c_void,
) {
    let connected = state == sys::VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED as c_int;
    let event = if connected { GuestEvent::AgentConnected } else { GuestEvent::AgentDisconnected };
    // SAFETY: `opaque` is the listener that `subscribe` registered.
    unsafe { send(opaque, event) };
}

unsafe extern "C" fn on_lifecycle(
    _connect: sys::virConnectPtr,
    _domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    if let Some(end) = end(event, detail) {
        // SAFETY: `opaque` is the listener that `subscribe` registered.
        unsafe { send(opaque, GuestEvent::Ended(end)) };
    }
    0
}

/// How the guest ended by this lifecycle event, if it did. libvirt calls it failed when QEMU closed
/// its monitor without announcing a shutdown (`processMonitorEOFEvent` in `qemu_driver.c`).
fn end(event: c_int, detail: c_int) -> Option<GuestEnd> {
    let (event, detail) = (sys::virDomainEventType::try_from(event).ok()?, u32::try_from(detail).ok()?);
    match event {
        sys::VIR_DOMAIN_EVENT_CRASHED => Some(GuestEnd::ShutDown),
        // Comes first when QEMU was sent a signal, which it announces like a shutdown of the guest.
        sys::VIR_DOMAIN_EVENT_SHUTDOWN if detail == sys::VIR_DOMAIN_EVENT_SHUTDOWN_HOST => {
            Some(GuestEnd::QemuGone)
        }
        sys::VIR_DOMAIN_EVENT_STOPPED => Some(match detail {
            sys::VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN | sys::VIR_DOMAIN_EVENT_STOPPED_CRASHED => {
                GuestEnd::ShutDown
            }
            sys::VIR_DOMAIN_EVENT_STOPPED_FAILED => GuestEnd::QemuGone,
            _ => GuestEnd::Destroyed,
        }),
        sys::VIR_DOMAIN_EVENT_SUSPENDED if detail == sys::VIR_DOMAIN_EVENT_SUSPENDED_IOERROR => {
            Some(GuestEnd::DiskFailed)
        }
        _ => None,
    }
}

unsafe extern "C" fn on_device_removed(
    _connect: sys::virConnectPtr,
    _domain: sys::virDomainPtr,
    _alias: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: `opaque` is the listener that `subscribe` registered.
    unsafe { send(opaque, GuestEvent::DeviceRemoved) };
}

unsafe extern "C" fn on_block_job(
    _connect: sys::virConnectPtr,
    _domain: sys::virDomainPtr,
    _disk: *const c_char,
    _kind: c_int,
    status: c_int,
    opaque: *mut c_void,
) {
    // A job that waits for a command to finish is not one of ours.
    if status != sys::VIR_DOMAIN_BLOCK_JOB_READY as c_int {
        let succeeded = status == sys::VIR_DOMAIN_BLOCK_JOB_COMPLETED as c_int;
        // SAFETY: `opaque` is the listener that `subscribe` registered.
        unsafe { send(opaque, GuestEvent::BlockJobEnded { succeeded }) };
    }
}

unsafe extern "C" fn on_job_completed(
    _connect: sys::virConnectPtr,
    _domain: sys::virDomainPtr,
    _parameters: sys::virTypedParameterPtr,
    _count: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: `opaque` is the listener that `subscribe_to_job` registered.
    unsafe { send(opaque, GuestEvent::DomainJobEnded) };
}

/// # Safety
/// `opaque` must be a `Listener` that `register` registered and libvirt has not freed.
unsafe fn send(opaque: *mut c_void, event: GuestEvent) {
    // SAFETY: by the caller's promise; callbacks come one after another from
    // the thread that runs the event loop.
    let listener = unsafe { &*opaque.cast::<Listener>() };
    if let GuestEvent::Ended(end) = event {
        listener.fate.seal(end);
    }
    // The receiver is gone once the machine is dropped.
    let _ = listener.events.send(event);
}

unsafe extern "C" fn free_listener(opaque: *mut c_void) {
    // SAFETY: `opaque` came from `Box::into_raw` in `register`; libvirt calls this once.
    drop(unsafe { Box::from_raw(opaque.cast::<Listener>()) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_who_brought_it_about() {
        let end = |event: sys::virDomainEventType, detail| end(event as c_int, detail as c_int);
        let stopped = sys::VIR_DOMAIN_EVENT_STOPPED;
        assert_eq!(end(stopped, sys::VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN), Some(GuestEnd::ShutDown));
        assert_eq!(end(stopped, sys::VIR_DOMAIN_EVENT_STOPPED_FAILED), Some(GuestEnd::QemuGone));
        assert_eq!(end(stopped, sys::VIR_DOMAIN_EVENT_STOPPED_DESTROYED), Some(GuestEnd::Destroyed));
        let shutdown = sys::VIR_DOMAIN_EVENT_SHUTDOWN;
        assert_eq!(end(shutdown, sys::VIR_DOMAIN_EVENT_SHUTDOWN_HOST), Some(GuestEnd::QemuGone));
        assert_eq!(end(shutdown, sys::VIR_DOMAIN_EVENT_SHUTDOWN_GUEST), None);
        let suspended = sys::VIR_DOMAIN_EVENT_SUSPENDED;
        assert_eq!(end(suspended, sys::VIR_DOMAIN_EVENT_SUSPENDED_IOERROR), Some(GuestEnd::DiskFailed));
        // The harness pauses guests as well.
        assert_eq!(end(suspended, sys::VIR_DOMAIN_EVENT_SUSPENDED_PAUSED), None);
    }
}
