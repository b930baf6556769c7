//! Packages with a shell that works, and programs that write down how they were called.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use contract::image::Boot;
use tooling::command::{self, find_program, shell};
use tooling::host;
use xshell::cmd;

use super::super::super::build::BuildOutcome;
use super::{Spec, World};
use crate::packages;

/// Programs that only write down that they ran, and what else they must do.
const PRETENDERS: [(&str, &str, &str); 9] = [
    // busybox has this one only in some builds.
    ("coreutils", "usr/bin/install", INSTALL),
    ("systemd", "usr/bin/systemctl", ""),
    (
        "systemd",
        "usr/bin/systemd-sysusers",
        "echo mysql:x:27:27::/:/bin/sh >>/etc/passwd; echo mysql:x:27: >>/etc/group",
    ),
    ("systemd", "usr/sbin/depmod", ""),
    ("shadow-utils", "usr/sbin/usermod", ""),
    ("qemu-guest-agent", "usr/bin/qemu-ga", ""),
    ("dracut", "usr/bin/dracut", "for last; do :; done; echo initrd >\"$last\""),
    (
        "mariadb-server",
        "usr/libexec/mariadbd",
        "case $* in *--help) echo 'datadir /var/lib/mysql/' ;; *) cat >/var/lib/mysql/statements ;; esac",
    ),
    ("mariadb-server", "usr/bin/mariadb-install-db", ": >/var/lib/mysql/ib_logfile0"),
];

/// As much of install(1) as the layers use.
const INSTALL: &str = r#"
directory=''
while :; do
    case $1 in
        -d) directory=yes; shift ;;
        -m) mode=$2; shift 2 ;;
        -o | -g) shift 2 ;;
        *) break ;;
    esac
done
if [ "$directory" ]; then
    mkdir -p "$@" && exec chmod "$mode" "$@"
fi
target=$2
[ ! -d "$target" ] || target=$2/${1##*/}
cp "$1" "$target" && chmod "$mode" "$target""#;

/// Other packages that the layers name.
const EMPTY: [&str; 10] = [
    "dbus",
    "e2fsprogs",
    "findutils",
    "gawk",
    "grep",
    "iproute",
    "procps-ng",
    "sed",
    "systemd-udev",
    "util-linux",
];

const DEFINITION: &str = r#"summary = "s"
family = "rpm"
distro = "almalinux"
release = "9.9"
database = "mariadb"
packages = ["fsfreeze-hooks"]
memory_mib = 512
cpu = "Nehalem"

[[repository]]
name = "made"
url = "file://REPOSITORY"

[[disk]]
target = "vda"
mount = "/"
fs = "ext4"
size_mib = 1536

[[disk]]
target = "vdb"
mount = "/var/lib/mysql"
fs = "ext4"
size_mib = 128
"#;

/// Makes an account, as the packages of the family do.
const ACCOUNT: &str = "echo root:x:0:0::/:/bin/sh >/etc/passwd; echo root:x:0: >/etc/group";

impl World {
    fn file(&self, path: &str, mode: u32, content: &[u8]) {
        let path = self.at("staged").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }

    /// Makes every package that the layers name, of this release.
    fn publish_pretenders(&self, release: u32) {
        let mut spec = Spec::new(release);
        // As the package that holds every directory has them.
        let mounted = "%attr(0555,root,root) %dir /dev\n%attr(0555,root,root) %dir /proc\n";
        for dir in ["dev", "proc"] {
            fs::create_dir_all(self.at("staged").join(dir)).unwrap();
        }
        spec.add("bash", &format!("{mounted}{}", self.stage_shell()), ACCOUNT);
        self.file("lib/modules/6.1-made/vmlinuz", 0o755, b"kernel");
        spec.add("kernel-core", "/lib/modules\n", "");
        self.file("etc/my.cnf.d/server.cnf", 0o644, b"");
        for name in EMPTY {
            spec.add(name, "", "");
        }
        for name in ["systemd", "shadow-utils", "qemu-guest-agent", "dracut", "mariadb-server", "coreutils"] {
            let mut files = String::new();
            for (_, path, does) in PRETENDERS.iter().filter(|(package, ..)| *package == name) {
                let script = format!("#!/bin/sh\necho \"${{0##*/}} $*\" >>/calls\n{does}\n");
                self.file(path, 0o755, script.as_bytes());
                let _ = writeln!(files, "/{path}");
            }
            if name == "mariadb-server" {
                fs::create_dir_all(self.at("staged/var/lib/mysql")).unwrap();
                files.push_str("/etc/my.cnf.d\n/var/lib/mysql\n");
            }
            spec.add(name, &files, "");
        }
        self.publish(&spec);
    }

    /// busybox, and what it is linked with, from the host.
    fn stage_shell(&self) -> String {
        let (sh, busybox) = (shell().unwrap(), find_program("busybox").unwrap());
        let linked = command::output(cmd!(sh, "ldd {busybox}")).unwrap();
        let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
        let mut files = String::new();
        for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
            self.file(library.trim_start_matches('/'), 0o755, &fs::read(library).unwrap());
            let _ = writeln!(files, "{library}");
        }
        self.file("bin/busybox", 0o755, &fs::read(busybox).unwrap());
        files.push_str("/bin/busybox\n");
        let applets =
            ["sh", "awk", "cat", "chmod", "chown", "cp", "echo", "grep", "ln", "mkdir", "mv", "sed", "tail"];
        for applet in applets {
            let link = self.at("staged/bin").join(applet);
            let _ = fs::remove_file(&link);
            symlink("busybox", link).unwrap();
            let _ = writeln!(files, "/bin/{applet}");
        }
        files
    }
}

/// A file as it is on a written disk.
fn cat(disk: &Path, path: &str) -> String {
    let (sh, request) = (shell().unwrap(), format!("cat {path}"));
    let output = command::output(cmd!(sh, "debugfs -R {request} {disk}")).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_image_is_built_from_a_repository_and_again_when_that_has_changed() {
    let world = World::new(DEFINITION);
    packages::build_rpm(&world.at("repository")).unwrap();
    world.publish_pretenders(1);
    let (outcome, manifest) = world.build().unwrap();
    assert!(matches!(outcome, BuildOutcome::Built(_)), "{outcome}");
    assert_eq!(manifest.cpu.as_deref(), Some("Nehalem"));
    assert_eq!(manifest.server.datadir, Path::new("/var/lib/mysql"));
    assert_eq!(manifest.versions["mariadb-server"], "1-1");
    let Boot::Direct { kernel, initrd, cmdline } = &manifest.boot else { panic!("{:?}", manifest.boot) };
    assert!(cmdline.contains("selinux=0"), "{cmdline}");
    assert_eq!(fs::read_to_string(kernel).unwrap(), "kernel");
    assert_eq!(fs::read_to_string(initrd).unwrap(), "initrd\n");

    let [root, data] = manifest.disks.as_slice() else { panic!("{:?}", manifest.disks) };
    let calls = cat(&root.file, "/calls");
    for call in [
        "systemctl enable freezeframe-network.service qemu-guest-agent.service",
        "usermod --lock root",
        "depmod 6.1-made",
        "--drivers virtio_pci virtio_blk ext4 --kver 6.1-made",
        "mariadb-install-db --force --user=mysql --datadir=/var/lib/mysql/",
        "systemctl enable mariadb.service",
    ] {
        assert!(calls.contains(call), "no `{call}` in:\n{calls}");
    }
    assert!(cat(&root.file, "/etc/passwd").contains("root:"), "the packages' scripts did not run");
    let settings = host::repository().join("images/hooks/freezeframe/fsfreeze-db.toml");
    assert_eq!(cat(&root.file, "/etc/qemu/fsfreeze-db.toml"), fs::read_to_string(settings).unwrap());
    assert!(cat(&root.file, "/etc/my.cnf.d/zz-freezeframe.cnf").contains("log_bin ="));
    assert!(cat(&root.file, "/etc/fstab").contains("/dev/vdb /var/lib/mysql ext4 defaults 0 0\n"));
    // Nothing of the build stays, and the statements with the password went to the server alone.
    assert_eq!(cat(&root.file, "/run/freezeframe/load.secret"), "");
    assert!(cat(&data.file, "/statements").contains("CREATE USER 'freezeframe'"));

    let (outcome, _) = world.build().unwrap();
    assert!(matches!(outcome, BuildOutcome::Unchanged), "{outcome}");
    world.publish_pretenders(2);
    let (outcome, rebuilt) = world.build().unwrap();
    assert!(matches!(outcome, BuildOutcome::Built(_)), "{outcome}");
    assert_eq!(rebuilt.versions["mariadb-server"], "1-2");
    assert_ne!(rebuilt.digest, manifest.digest);
}

#[test]
fn packages_that_nobody_signed_are_refused() {
    let url = "url = \"file://REPOSITORY\"";
    let signed = DEFINITION.replace(url, &format!("{url}\nkey = \"file://REPOSITORY/KEY\""));
    let signed = signed.replace("\"fsfreeze-hooks\"", "");
    let world = World::new(&signed);
    world.publish_pretenders(1);
    let failure = world.build().unwrap_err().to_string();
    assert!(failure.contains("is not signed\n"), "{failure}");
    assert!(!world.at("built").join(super::NAME).exists());
}
