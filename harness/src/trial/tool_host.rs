//! What a trial with a backup tool has on the host: a libvirt daemon of its own or the user's, folders for the tool,
//! and the witnesses beside the guest, whose news come out of one channel.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use contract::plan::Plan;
use contract::scenario::{BackupTool, Signal};
use tracing::warn;

use crate::backup_tool::{Ended, Request, Running, Signaller, Surroundings};
use crate::error::{Error, Result};
use crate::guest::agent_proxy::{AgentProxy, WindowEvent};
use crate::guest::qmp::{self, Qmp, QmpEvent};
use crate::guest::write_trace::{self, WriteTrace};
use crate::guest::{Drive, Machine, Spec};
use crate::host::daemon::{Client, Daemon};
use crate::host::{Libvirt, guest_user};
use crate::overlay;
use crate::saved_memory::GuestRole;
use crate::session::Session;

/// Something that was seen while a backup command runs.
#[derive(Debug)]
pub(super) enum Happening {
    /// In the agent's channel.
    Window(WindowEvent),
    /// In QEMU's second monitor.
    Qmp(QmpEvent),
    /// A command has ended, or could not be ended.
    Ended(Result<Ended>),
}

/// How long QEMU may take to answer: up to 110 ms on a busy host were observed.
pub(super) const MONITOR_LIMIT: Duration = Duration::from_secs(10);

/// The role of the guest that is backed up.
const SOURCE: &str = "source";

/// What a trial with a backup tool has on the host. Fields are dropped in this order: the guest is gone by then.
#[derive(Debug)]
pub(super) struct ToolHost {
    /// The proxy in the agent's channel.
    pub(super) proxy: Arc<AgentProxy>,
    /// What is seen, by whoever sees it.
    pub(super) happenings: Receiver<Happening>,
    /// QEMU's trace of the guest's writes.
    pub(super) trace: WriteTrace,
    /// QEMU's second monitor, once the guest has started.
    qmp: OnceLock<Qmp>,
    guest: OnceLock<Guest>,
    /// The connection to the libvirt with which the tool works.
    pub(super) libvirt: Libvirt,
    pub(super) folders: Folders,
    sender: Sender<Happening>,
    client: Client,
    /// The folder of the scenario's file.
    scenario: PathBuf,
    /// Where the guest's sockets are, whose paths must be short.
    pub(super) sockets: PathBuf,
    daemon: Option<Daemon>,
}

/// What tools call the guest.
#[derive(Debug)]
struct Guest {
    domain: String,
    uuid: String,
    disks: Vec<String>,
    /// How large these are, bytes.
    bytes: Vec<u64>,
}

/// A command of the tool, as it is to be run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command<'a> {
    pub(super) request: Request<'a>,
    pub(super) line: &'a str,
    pub(super) log: &'a Path,
    pub(super) limit: Duration,
}

/// A command that runs in a thread of its own. Dropping it ends it.
#[derive(Debug)]
pub(super) struct InThread {
    pub(super) signaller: Signaller,
    thread: Option<JoinHandle<()>>,
}

impl Drop for InThread {
    fn drop(&mut self) {
        // One that has ended gets none: an error of another kind ended the trial, and nobody asks for its work any more.
        self.signaller.send(Signal::Kill);
        // A panic was reported when it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The folders of a trial with a backup tool.
#[derive(Debug)]
pub(super) struct Folders {
    /// The disks of the guest that is backed up.
    source: PathBuf,
    /// What the tool keeps of all backups, and below it a folder for each.
    pub(super) chain: PathBuf,
    /// What it keeps only while it runs; a short path to it.
    pub(super) scratch: PathBuf,
    /// Where it hands the disks back.
    pub(super) target: PathBuf,
}

impl ToolHost {
    /// Prepares everything but the guest.
    pub(super) fn prepare(session: &Session<'_>, tool: &BackupTool) -> Result<Self> {
        let Session { plan, root, disks, .. } = session;
        let (uri, client, sockets, daemon) = match &plan.connect {
            None => {
                let daemon = Daemon::start(root, &plan.dir.join("libvirt-daemon.log"))?;
                (daemon.uri(), daemon.client(), daemon.dir().to_owned(), Some(daemon))
            }
            Some(uri) => (uri.clone(), Client::of(uri), root.clone(), None),
        };
        let folders = Folders::create(disks, &sockets, tool.scratch_mib)?;
        let (sender, happenings) = channel();
        let (proxy, window) = AgentProxy::listen(SOURCE, &sockets.join("agent"))?;
        forward(window, &sender, Happening::Window)?;
        let trace = WriteTrace::create(&sockets.join("writes"))?;
        let libvirt = Libvirt::connect(&uri)?;
        let proxy = Arc::new(proxy);
        let (qmp, guest) = (OnceLock::new(), OnceLock::new());
        Ok(Self {
            proxy,
            happenings,
            trace,
            qmp,
            guest,
            libvirt,
            folders,
            sender,
            client,
            scenario: tool.folder.clone(),
            sockets,
            daemon,
        })
    }

    /// The guest that is backed up, on flat copies of its image's disks, so that a tool that copies only the file it
    /// sees has everything.
    pub(super) fn guest(&self, session: &Session<'_>) -> Result<(Spec, Vec<Drive>)> {
        let Plan { image, .. } = session.plan;
        let drives = overlay::flat(&self.folders.source, image)?;
        let spec = GuestRole::Source.spec(session.plan, drives.clone(), &session.exchange, &self.sockets);
        let monitor = qmp::arguments(&self.monitor_socket());
        let trace = write_trace::arguments(&self.sockets.join("writes"));
        let watched = Some(monitor.into_iter().chain(trace).collect());
        let agent = self.proxy.socket().to_owned();
        // No disk that is not to be backed up: many tools take every one they see.
        let proxy = Some(Arc::clone(&self.proxy));
        Ok((Spec { agent, proxy, watched, exchange: None, ..spec }, drives))
    }

    /// Fails when the libvirt with which the tool works has ended, if it is the trial's own.
    pub(super) fn check(&self) -> Result<()> {
        self.daemon.as_ref().map_or(Ok(()), Daemon::check)
    }

    /// Starts a command of the tool in a thread; its end comes out of the channel of happenings.
    pub(super) fn start(&self, command: &Command<'_>) -> Result<InThread> {
        let running = self.running(command)?;
        let signaller = running.signaller();
        let sender = self.sender.clone();
        let finish = move || drop(sender.send(Happening::Ended(running.finish())));
        let thread = thread::Builder::new().name("tool".to_owned()).spawn(finish).map_err(Error::Runtime)?;
        Ok(InThread { signaller, thread: Some(thread) })
    }

    /// Starts a command.
    pub(super) fn running(&self, command: &Command<'_>) -> Result<Running> {
        let Command { request, line, log, limit } = command;
        let (domain, uuid, disks) = self
            .guest
            .get()
            .map_or(("", "", &[][..]), |guest| (&*guest.domain, &*guest.uuid, &guest.disks[..]));
        let Folders { chain, scratch, .. } = &self.folders;
        let surroundings = Surroundings {
            client: &self.client,
            domain,
            uuid,
            disks,
            chain,
            scratch,
            scenario: &self.scenario,
        };
        surroundings.start(request, line, log, *limit)
    }

    /// Connects to the monitor of the guest, which has started.
    pub(super) fn watch(&self, machine: &Machine, drives: &[Drive]) -> Result<()> {
        let failed = || Error::libvirt("name the guest");
        let domain = machine.domain();
        let guest = Guest {
            domain: domain.name().map_err(failed())?,
            uuid: domain.uuid_string().map_err(failed())?,
            disks: drives.iter().map(|drive| drive.target.clone()).collect(),
            bytes: drives.iter().map(|it| machine.disk_bytes(&it.target)).collect::<Result<_>>()?,
        };
        let _ = self.guest.set(guest);
        let (qmp, events) = Qmp::connect(SOURCE, &self.monitor_socket())?;
        forward(events, &self.sender, Happening::Qmp)?;
        // The guest starts once.
        let _ = self.qmp.set(qmp);
        Ok(())
    }

    /// The guest's disks, and how large they are, bytes.
    pub(super) fn sizes(&self) -> Vec<(String, u64)> {
        let guest = self.guest.get();
        guest.map_or_else(Vec::new, |it| it.disks.iter().cloned().zip(it.bytes.iter().copied()).collect())
    }

    /// How much the guest has written to a disk: requests, and bytes.
    pub(super) fn written(&self, disk: &str) -> Result<(u64, u64)> {
        self.monitor()?.written(disk, MONITOR_LIMIT)
    }

    /// QEMU's second monitor.
    pub(super) fn monitor(&self) -> Result<&Qmp> {
        self.qmp.get().ok_or_else(|| {
            Error::io("connect to", &self.monitor_socket())(io::ErrorKind::NotConnected.into())
        })
    }

    fn monitor_socket(&self) -> PathBuf {
        self.sockets.join("qmp")
    }

    /// Lets libvirt forget the guest, which has ended.
    fn undefine(&self) -> Result<(), virt::error::Error> {
        let Some(guest) = self.guest.get() else { return Ok(()) };
        self.libvirt.undefine(&guest.domain)
    }

    /// Takes the source's disks away, so that nothing that is restored can lean on them.
    pub(super) fn remove_source(&self) -> Result<()> {
        let gone = self.folders.source.with_file_name("source-that-was");
        fs::rename(&self.folders.source, &gone).map_err(Error::io("rename", &self.folders.source))
    }
}

impl Drop for ToolHost {
    fn drop(&mut self) {
        if let Err(error) = self.undefine() {
            warn!("the guest that a backup tool worked with is still defined in libvirt: {error}");
        }
    }
}

/// Passes on what comes out of a channel, until it is closed or nobody listens any more.
fn forward<T: Send + 'static>(
    from: Receiver<T>,
    to: &Sender<Happening>,
    name: fn(T) -> Happening,
) -> Result<()> {
    let to = to.clone();
    let pass_on = move || {
        // An error says that nobody listens.
        let _ = from.into_iter().map(name).all(|it| to.send(it).is_ok());
    };
    thread::Builder::new().name("watch".to_owned()).spawn(pass_on).map(drop).map_err(Error::Runtime)
}

impl Folders {
    /// Creates them below `disks`; the sockets of a tool have short paths below `short`.
    fn create(disks: &Path, short: &Path, scratch_mib: Option<u32>) -> Result<Self> {
        let [source, chain, roomy, target] =
            ["source", "chain", "scratch", "target"].map(|it| disks.join(it));
        for dir in [&source, &chain, &roomy, &target] {
            fs::create_dir(dir).map_err(Error::io("create", dir))?;
            guest_user::give(dir)?;
        }
        if let Some(mib) = scratch_mib {
            guest_user::bound(&roomy, mib)?;
        }
        let scratch = short.join("s");
        symlink(&roomy, &scratch).map_err(Error::io("create", &scratch))?;
        Ok(Self { source, chain, scratch, target })
    }
}
