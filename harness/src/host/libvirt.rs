//! The connection to libvirt: embedded in this process, or any other by its URI.

use std::fmt::Write as _;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::mpsc::{Receiver, channel};

use contract::plan::Accel;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

use super::event::GuestEvent;
use super::ffi;
use super::guest_user;
use crate::error::{Error, Result};
use crate::guest_end::Fate;

/// The events of one domain, in the order in which they happened.
#[derive(Debug)]
pub struct GuestEvents {
    receiver: Receiver<GuestEvent>,
    fate: Fate,
    _subscription: ffi::Subscription,
}

impl GuestEvents {
    /// How the domain ended, once it has.
    pub fn fate(&self) -> &Fate {
        &self.fate
    }
}

impl Deref for GuestEvents {
    type Target = Receiver<GuestEvent>;

    fn deref(&self) -> &Receiver<GuestEvent> {
        &self.receiver
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Libvirt {
    connect: Connect,
    embedded: bool,
}

/// What QEMU's driver needs to run without virtlogd, security drivers,
/// namespaces or control groups; see libvirt's comments in qemu.conf.
pub(super) const QEMU_CONF: &str = r#"stdio_handler = "file"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
"#;

impl Libvirt {
    /// Opens the embedded QEMU driver with its whole state under `root`.
    ///
    /// No daemon runs and no state is shared, so trials cannot interfere with each other. `root`
    /// must be short, because sockets below it may not exceed 108 bytes.
    pub fn embedded(root: &Path) -> Result<Self> {
        let etc = root.join("etc");
        let conf = etc.join("qemu.conf");
        let mut text = QEMU_CONF.to_owned();
        if rustix::process::geteuid().is_root() {
            // A number, because nobody has a name for it.
            let id = guest_user::id().unwrap_or(0);
            let _ = write!(text, "user = \"+{id}\"\ngroup = \"+{id}\"\n");
        }
        std::fs::create_dir_all(&etc).map_err(Error::io("create", &etc))?;
        std::fs::write(&conf, text).map_err(Error::io("write", &conf))?;
        Self::open(&format!("qemu:///embed?root={}", root.display()), true)
    }

    /// Opens any other libvirt: `qemu:///session`, `qemu:///system`, `qemu+ssh://...`.
    pub fn connect(uri: &str) -> Result<Self> {
        Self::open(uri, false)
    }

    fn open(uri: &str, embedded: bool) -> Result<Self> {
        run_event_loop().map_err(Error::libvirt("start its event loop"))?;
        let open = || Connect::open(Some(uri));
        let connect = if embedded { on_one_processor(open) } else { open() }
            .map_err(Error::libvirt(format!("open {uri}")))?;
        Ok(Self { connect, embedded })
    }

    /// Starts a transient domain. Under a daemon it ends with this connection; the embedded driver
    /// has no such option, and there the trial's supervisor kills what is left.
    ///
    /// `prepare` is called when its sockets are there and nothing of it has run yet; an error ends it.
    pub(crate) fn start<T>(
        &self,
        xml: &str,
        prepare: impl FnOnce() -> Result<T>,
    ) -> Result<(Domain, GuestEvents, T)> {
        let flags = if self.embedded { 0 } else { sys::VIR_DOMAIN_START_AUTODESTROY };
        // Paused first, so that no event is lost between start and subscription.
        let domain = self
            .connect
            .create_domain_xml(xml, flags | sys::VIR_DOMAIN_START_PAUSED)
            .map_err(Error::libvirt("start a guest"))?;
        resume(domain, prepare)
    }

    /// The same of a domain that stays defined, as one has to be for many backup tools. It ends with this
    /// connection all the same.
    pub(crate) fn start_defined<T>(
        &self,
        xml: &str,
        prepare: impl FnOnce() -> Result<T>,
    ) -> Result<(Domain, GuestEvents, T)> {
        let failed = || Error::libvirt("start a guest");
        let domain = self.connect.define_domain_xml(xml).map_err(failed())?;
        let flags = sys::VIR_DOMAIN_START_AUTODESTROY | sys::VIR_DOMAIN_START_PAUSED;
        domain.create_with_flags(flags).map_err(failed())?;
        resume(domain, prepare)
    }

    /// Forgets a domain that has ended, with what backup tools have noted of it.
    pub(crate) fn undefine(&self, name: &str) -> Result<(), virt::error::Error> {
        let flags =
            sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;
        self.connect.lookup_domain_by_name(name)?.undefine_flags(flags)
    }

    /// Starts a domain from its saved memory, with another definition of the
    /// same machine. `name` is its name in both; `prepare` as for a [start](Self::start).
    pub(crate) fn restore<T>(
        &self,
        memory: &Path,
        xml: &str,
        name: &str,
        prepare: impl FnOnce() -> Result<T>,
    ) -> Result<(Domain, GuestEvents, T)> {
        let failed = || Error::libvirt("start a guest from its saved memory");
        self.connect
            .restore_domain_flags(&memory.to_string_lossy(), Some(xml), sys::VIR_DOMAIN_SAVE_PAUSED)
            .map_err(failed())?;
        resume(self.connect.lookup_domain_by_name(name).map_err(failed())?, prepare)
    }

    /// The definition in a saved domain.
    pub(crate) fn saved_xml(&self, memory: &Path) -> Result<String> {
        let flags = sys::VIR_DOMAIN_SAVE_IMAGE_XML_SECURE;
        self.connect
            .save_image_xml_desc(&memory.to_string_lossy(), flags)
            .map_err(Error::libvirt("read a saved guest"))
    }

    /// Whether its QEMU can run backup jobs.
    pub(crate) fn runs_backup_jobs(&self, accel: Accel) -> Result<bool> {
        let kind = match accel {
            Accel::Kvm => "kvm",
            Accel::Tcg => "qemu",
        };
        // See <https://libvirt.org/formatdomaincaps.html>.
        let capabilities = self
            .connect
            .domain_capabilities(None, Some("x86_64"), Some("q35"), Some(kind), 0)
            .map_err(Error::libvirt("report what guests can do"))?;
        Ok(capabilities.contains("<backup supported='yes'/>"))
    }
}

/// Subscribes to the events of a paused domain, and resumes it after `prepare`.
fn resume<T>(domain: Domain, prepare: impl FnOnce() -> Result<T>) -> Result<(Domain, GuestEvents, T)> {
    let (events, receiver) = channel();
    let fate = Fate::default();
    let listener = ffi::Listener { events, fate: fate.clone() };
    let run = || {
        let failed = || Error::libvirt("let a guest run");
        let subscription = ffi::subscribe(&domain, &listener).map_err(failed())?;
        let prepared = prepare()?;
        domain.resume().map_err(failed())?;
        Ok((subscription, prepared))
    };
    match run() {
        Ok((subscription, prepared)) => {
            Ok((domain, GuestEvents { receiver, fate, _subscription: subscription }, prepared))
        }
        Err(error) => {
            // The first error is the one to report.
            let _ = domain.destroy();
            Err(error)
        }
    }
}

/// Where an embedded libvirt under `root` caches QEMU's capabilities. Querying QEMU takes more than
/// a second; the cache of another libvirt on this host is as good, and libvirt checks whether it is
/// still valid.
pub(crate) fn capabilities(root: &Path) -> PathBuf {
    root.join("cache/qemu/capabilities")
}

/// Calls `open` on the first processor that this thread may use: libvirt's cache about QEMU is tied
/// to a description of the processor that it ran on, number included.
fn on_one_processor<T>(open: impl FnOnce() -> T) -> T {
    let Ok(allowed) = sched_getaffinity(None) else { return open() };
    let mut one = CpuSet::new();
    if let Some(first) = (0..CpuSet::MAX_CPU).find(|processor| allowed.is_set(*processor)) {
        one.set(first);
    }
    // Where this is not permitted, only time is lost.
    let _ = sched_setaffinity(None, &one);
    let opened = open();
    let _ = sched_setaffinity(None, &allowed);
    opened
}

/// Starts the thread that delivers libvirt's events, once in a process and
/// before the first connection.
fn run_event_loop() -> std::result::Result<(), virt::error::Error> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        // libvirt would print each error to stderr besides returning it.
        virt::error::clear_error_callback();
        result = virt::event::event_register_default_impl();
        if result.is_ok() {
            std::thread::spawn(|| while virt::event::event_run_default_impl().is_ok() {});
        }
    });
    result
}
