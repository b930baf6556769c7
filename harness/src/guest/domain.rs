//! The domain's definition: the guest's hardware.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use contract::image::{AgentChannel, Boot, Manifest};
use contract::plan::{Accel, Plan};

use super::agent_proxy::AgentProxy;
use super::console;

/// A guest's hardware.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name in libvirt, which also names the trial.
    pub name: String,
    /// The accelerator.
    pub accel: Accel,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// The processor model under TCG; without one the machine's default.
    pub cpu: Option<String>,
    /// How it boots.
    pub boot: Boot,
    /// The disks, in order.
    pub drives: Vec<Drive>,
    /// A raw file attached as one more disk, for passing files between guests and the host. It is
    /// not part of any snapshot.
    pub exchange: Option<PathBuf>,
    /// Whether disks are attached and detached while it runs.
    pub hotplug: bool,
    /// The file that keeps the serial console.
    pub console: PathBuf,
    /// The socket of the serial console, whose path must be short.
    pub console_socket: PathBuf,
    /// Where the guest's agent is.
    pub channel: AgentChannel,
    /// The socket of the agent's port, whose path must be short. libvirt would choose a longer one.
    pub agent: PathBuf,
    /// Heartbeat channels: the file system that each is for, and its socket,
    /// whose path must be short.
    pub heartbeats: Vec<(String, PathBuf)>,
    /// The guest's port to which a loopback port of the host is forwarded, if to any.
    pub forward: Option<u16>,
    /// The proxy in its agent's channel, if there is one. It listens at [`Spec::agent`].
    pub proxy: Option<Arc<AgentProxy>>,
    /// Where somebody else's tool backs it up: QEMU's arguments for its second monitor and its trace of writes.
    pub watched: Option<Vec<String>>,
}

/// What the names of heartbeat channels begin with; the file system's name follows.
pub(crate) const HEARTBEAT: &str = "freezeframe.heartbeat.";

/// The program that runs guests.
pub(crate) const EMULATOR: &str = "/usr/bin/qemu-system-x86_64";

/// What QEMU does when the host cannot read or write a disk's file: it pauses the guest. By default it would
/// hand all but a lack of space to the guest, where it looks like damage.
pub(crate) const ON_ERROR: &str = "error_policy='stop' rerror_policy='stop'";

/// The serial number of the exchange disk, by which the guest finds it.
pub(crate) const EXCHANGE: &str = "freezeframe";

/// A qcow2 file that is, or was, a guest's virtio disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// `vda`, `vdb`, ...
    pub target: String,
    /// The file.
    pub file: PathBuf,
}

impl Spec {
    /// Whether a guest that has stopped may have read anything from its disks: firmware reads them
    /// at once, but a kernel loaded by QEMU first names each disk that it finds on the console.
    pub(super) fn may_have_read_disks(&self) -> bool {
        let named =
            |drive: &Drive| console::contains(&self.console, &format!("[{}]", drive.target)).unwrap_or(true);
        self.boot == Boot::Firmware || self.drives.iter().any(named)
    }

    /// The guest of a plan's image in this role, on these disks. `root` is the trial's directory
    /// for sockets.
    pub(crate) fn of(plan: &Plan, role: &str, drives: Vec<Drive>, root: &Path) -> Self {
        let Plan { image, accel, dir, .. } = plan;
        // The run and the trial, so that runs which share a libvirt do not collide.
        let mut folders: Vec<_> = dir.iter().rev().take(2).map(OsStr::to_string_lossy).collect();
        folders.reverse();
        let name = format!("freezeframe-{}-{role}", folders.join("-"));
        let console = dir.join(match role {
            "source" => "console.log".to_owned(),
            role => format!("{role}-console.log"),
        });
        Self::of_image(image, *accel, name, role, drives, console, root)
    }

    /// A guest of an image. Its sockets are in `root`.
    pub(crate) fn of_image(
        image: &Manifest,
        accel: Accel,
        name: String,
        role: &str,
        drives: Vec<Drive>,
        console: PathBuf,
        root: &Path,
    ) -> Self {
        Self {
            name,
            accel,
            memory_mib: image.memory_mib,
            cpu: image.cpu.clone(),
            boot: image.boot.clone(),
            drives,
            exchange: None,
            channel: image.channel,
            agent: root.join(format!("agent-{role}")),
            hotplug: false,
            heartbeats: Vec::new(),
            console,
            console_socket: root.join(format!("console-{role}")),
            forward: Some(image.server.port),
            proxy: None,
            watched: None,
        }
    }

    /// The domain's XML.
    ///
    /// A kernel panic reboots at once (`panic=-1`), and a reboot destroys the domain, so that
    /// libvirt's lifecycle event ends every wait. The network is QEMU's user network with
    /// `restrict=on`, given on the command line because libvirt's XML has no such option: the guest
    /// reaches nothing, and the host reaches at most one port. See <https://libvirt.org/formatdomain.html>
    /// and qemu(1), `-netdev user`.
    #[expect(clippy::too_many_lines, reason = "it is one document")]
    pub(crate) fn xml(&self) -> String {
        let Self { accel, memory_mib, .. } = self;
        let forward =
            self.forward.map(|port| format!(",hostfwd=tcp:127.0.0.1:0-:{port}")).unwrap_or_default();
        let domain_type = match accel {
            Accel::Kvm => "kvm",
            Accel::Tcg => "qemu",
        };
        let cpu = match (accel, &self.cpu) {
            (Accel::Kvm, _) => "<cpu mode='host-passthrough'/>".to_owned(),
            // `max` costs 27 to 38% more under TCG than the machine's default model.
            (Accel::Tcg, None) => String::new(),
            // TCG lacks features of every newer model, but none that programs depend on: hence no
            // check.
            (Accel::Tcg, Some(model)) => format!(
                "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>{}</model></cpu>",
                escape_xml(model)
            ),
        };
        let name = escape_xml(&self.name);
        let boot = match &self.boot {
            Boot::Direct { kernel, initrd, cmdline } => format!(
                "<kernel>{}</kernel><initrd>{}</initrd><cmdline>{}</cmdline>",
                escape_xml(&kernel.to_string_lossy()),
                escape_xml(&initrd.to_string_lossy()),
                escape_xml(cmdline)
            ),
            // This puts the output of the firmware and the boot loader on the console as well.
            Boot::Firmware => "<boot dev='hd'/><bios useserial='yes'/>".to_owned(),
        };
        let console = escape_xml(&self.console_socket.to_string_lossy());
        let mut drives = String::new();
        for drive in &self.drives {
            // `none` would be refused on file systems without O_DIRECT (tmpfs);
            // the host does not crash in a trial, so its page cache is as good.
            let _ = write!(
                drives,
                "<disk type='file' device='disk'>\
                   <driver name='qemu' type='qcow2' cache='writeback' discard='unmap' {ON_ERROR}/>\
                   <source file='{}'/><target dev='{}' bus='virtio'/></disk>",
                escape_xml(&drive.file.to_string_lossy()),
                escape_xml(&drive.target)
            );
        }
        if let Some(file) = &self.exchange {
            let _ = write!(
                drives,
                "<disk type='file' device='disk' snapshot='no'><driver name='qemu' type='raw' {ON_ERROR}/>\
                   <source file='{}'/><target dev='vdz' bus='virtio'/><serial>{EXCHANGE}</serial></disk>",
                escape_xml(&file.to_string_lossy())
            );
        }
        if self.hotplug {
            // Disks on it are attached and detached at once, and take no PCI slot.
            drives.push_str("<controller type='scsi' index='0' model='virtio-scsi'/>");
        }
        let agent = escape_xml(&self.agent.to_string_lossy());
        let mode = if self.proxy.is_some() { "connect" } else { "bind" };
        let mut channels = match self.channel {
            AgentChannel::VirtioSerial => format!(
                "<channel type='unix'><source mode='{mode}' path='{agent}'/>\
                   <target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
            ),
            AgentChannel::IsaSerial => {
                format!(
                    "<serial type='unix'><source mode='{mode}' path='{agent}'/><target port='1'/></serial>"
                )
            }
        };
        for (file_system, socket) in &self.heartbeats {
            let _ = write!(
                channels,
                "<channel type='unix'><source mode='bind' path='{}'/>\
                   <target type='virtio' name='{HEARTBEAT}{}'/></channel>",
                escape_xml(&socket.to_string_lossy()),
                escape_xml(file_system)
            );
        }
        let mut arguments = String::new();
        for argument in self.watched.iter().flatten() {
            let _ = write!(arguments, "<qemu:arg value='{}'/>", escape_xml(argument));
        }
        format!(
            "<domain type='{domain_type}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
               <name>{name}</name>\
               <memory unit='MiB'>{memory_mib}</memory><vcpu>2</vcpu>\
               <os><type arch='x86_64' machine='q35'>hvm</type>{boot}</os>\
               <features><acpi/></features>{cpu}\
               <clock offset='utc'/>\
               <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>\
               <devices>\
                 <emulator>{EMULATOR}</emulator>{drives}\
                 <controller type='usb' model='none'/>\
                 <serial type='unix'><source mode='bind' path='{console}'/><target port='0'/></serial>\
                 {channels}\
                 <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\
                 <memballoon model='none'/>\
               </devices>\
               <qemu:commandline>\
                 <qemu:arg value='-netdev'/>\
                 <qemu:arg value='user,id=sql,restrict=on{forward}'/>\
                 <qemu:arg value='-device'/>\
                 <qemu:arg value='virtio-net-pci,netdev=sql,bus=pcie.0,addr=0x1e'/>\
                 {arguments}\
               </qemu:commandline>\
             </domain>"
        )
    }
}

/// Escapes text for XML content and for attributes in single quotes.
pub(crate) fn escape_xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A path, a name or a whole command as one word for the guest's shell.
pub(crate) fn quote_shell(word: impl AsRef<OsStr>) -> String {
    // It could fail only for zero bytes, which are allowed here.
    let quoted = shlex::Quoter::new().allow_nul(true).quote(&word.as_ref().to_string_lossy()).map(Into::into);
    quoted.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            name: "a'/><b>&".to_owned(),
            accel: Accel::Tcg,
            memory_mib: 512,
            cpu: None,
            boot: Boot::Direct { kernel: "/k".into(), initrd: "/i".into(), cmdline: "root=\"x\"".to_owned() },
            drives: vec![Drive { target: "vda".to_owned(), file: "/o'k.qcow2".into() }],
            exchange: None,
            channel: AgentChannel::IsaSerial,
            agent: "/a'".into(),
            hotplug: false,
            heartbeats: Vec::new(),
            console: "/c".into(),
            console_socket: "/s".into(),
            forward: Some(3306),
            proxy: None,
            watched: None,
        }
    }

    #[test]
    fn a_given_kernel_has_read_no_disk_before_it_names_one() {
        let console = tempfile::NamedTempFile::new().unwrap();
        let given = Spec { console: console.path().to_owned(), ..spec() };
        let firmware = Spec { boot: Boot::Firmware, ..given.clone() };
        let may = |printed: &str| {
            std::fs::write(console.path(), printed).unwrap();
            [&given, &firmware].map(Spec::may_have_read_disks)
        };
        assert_eq!(
            may("[    1.509932] mtrr: your CPUs had inconsistent MTRRdefType settings\n"),
            [false, true]
        );
        assert_eq!(
            may("[    2.961092] virtio_blk virtio2: [vda] 4194304 512-byte logical blocks\n"),
            [true, true]
        );
    }

    #[test]
    fn hostile_names_stay_text() {
        let xml = spec().xml();
        assert!(xml.contains("<name>a&apos;/&gt;&lt;b&gt;&amp;</name>"), "{xml}");
        assert!(xml.contains("file='/o&apos;k.qcow2'"), "{xml}");
        assert!(xml.contains("path='/a&apos;'/><target port='1'/>"), "{xml}");
        assert!(!xml.contains("org.qemu.guest_agent.0"), "{xml}");
        assert!(xml.contains("restrict=on"), "{xml}");
    }

    #[test]
    fn no_socket_has_a_path_that_libvirt_chooses() {
        let xml =
            Spec { channel: AgentChannel::VirtioSerial, agent: "/r/agent-source".into(), ..spec() }.xml();
        assert!(
            xml.contains(
                "<source mode='bind' path='/r/agent-source'/><target type='virtio' name='org.qemu.guest_agent.0'/>"
            ),
            "{xml}"
        );
    }

    #[test]
    fn any_path_of_a_checkout_is_the_same_for_libvirt() {
        for path in ["/my dir, it's/", "/100%s %41/", "/\"größe\"/", "/a,b;c&d<e>/"] {
            let spec = Spec {
                drives: vec![Drive { target: "vda".to_owned(), file: format!("{path}vda.qcow2").into() }],
                boot: Boot::Direct {
                    kernel: format!("{path}k").into(),
                    initrd: format!("{path}i").into(),
                    cmdline: String::new(),
                },
                ..spec()
            };
            let unescaped =
                ["&lt;", "&gt;", "&apos;", "&quot;", "&amp;"].into_iter().zip(["<", ">", "'", "\"", "&"]);
            let xml = unescaped.fold(spec.xml(), |xml, (escaped, plain)| xml.replace(escaped, plain));
            for named in [format!("<source file='{path}vda.qcow2'/>"), format!("<kernel>{path}k</kernel>")] {
                assert!(xml.contains(&named), "{named}: {xml}");
            }
        }
    }
}
