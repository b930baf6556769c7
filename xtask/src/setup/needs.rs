//! What the host must have, and why.

use builder::UBUNTU_KEYS;
use contract::run::TOOLS;

/// One thing that the host must have.
#[derive(Debug)]
pub(crate) struct Need {
    pub(crate) what: &'static str,
    pub(crate) why: &'static str,
    pub(crate) check: Check,
    pub(crate) packages: Packages,
    pub(crate) needed_by: NeededBy,
}

/// NeededBy needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NeededBy {
    Everyone,
    /// Only those who are not root.
    NotRoot,
    /// Only root.
    Root,
    /// Only root, and only where apt installs packages.
    RootWithApt,
    /// Whoever builds images of Ubuntu.
    Ubuntu,
    /// Whoever builds images of the RPM family, or runs the tests of that.
    Rpm,
    /// Whoever runs the tests of the hooks' packages where apt installs packages; elsewhere those leave it out.
    PackagesWithApt,
    /// Whoever measures trials against the script of `bench/`, or runs the scenarios with backup tools.
    Baseline,
    /// Whoever runs the scenarios with backup tools.
    Tools,
}

/// How a need is found: by the thing itself, never by what a package manager believes.
#[derive(Debug)]
pub(crate) enum Check {
    /// A program on PATH, or where system programs are.
    Program(&'static str),
    /// A program of a Python package, which is installed below the checkout when it is missing.
    Python(&'static str),
    /// A program under one of several names.
    AnyProgram(&'static [&'static str]),
    /// The same, or below a directory for each version, as Debian has it.
    ProgramOfVersions { name: &'static str, dir: &'static str },
    /// A program on PATH or where system programs are, of at least this version.
    ProgramSince { name: &'static str, version_flag: &'static str, least: (u32, u32) },
    /// A file below one of the directories of libraries.
    Library(&'static str),
    /// One of these files.
    File(&'static [&'static str]),
    /// A system account, which is made when it is missing.
    Account(&'static str),
}

/// The packages that hold it, for each package manager; none where it is not packaged.
#[derive(Debug)]
pub(crate) struct Packages {
    pub(crate) apt: &'static [&'static str],
    pub(crate) dnf: &'static [&'static str],
    pub(crate) zypper: &'static [&'static str],
    pub(crate) pacman: &'static [&'static str],
}

/// Everything, in the order in which it is reported.
pub(crate) const NEEDS: &[Need] = &[
    Need {
        what: "qemu-system-x86_64",
        why: "runs the guests",
        check: Check::Program("qemu-system-x86_64"),
        packages: Packages {
            apt: &["qemu-system-x86"],
            dnf: &["qemu-system-x86-core"],
            zypper: &["qemu-x86"],
            pacman: &["qemu-system-x86"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "qemu-img",
        why: "makes the disks of a trial",
        check: Check::Program("qemu-img"),
        packages: Packages {
            apt: &["qemu-utils"],
            dnf: &["qemu-img"],
            zypper: &["qemu-img"],
            pacman: &["qemu-img"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "libvirt headers",
        why: "the harness is built against libvirt's client library",
        check: Check::Library("pkgconfig/libvirt.pc"),
        packages: Packages {
            apt: &["libvirt-dev"],
            dnf: &["libvirt-devel"],
            zypper: &["libvirt-devel"],
            pacman: &["libvirt"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "libvirt QEMU driver",
        why: "libvirt runs inside the harness, without a daemon",
        check: Check::Library("libvirt/connection-driver/libvirt_driver_qemu.so"),
        packages: Packages {
            apt: &["libvirt-daemon-driver-qemu"],
            dnf: &["libvirt-daemon-driver-qemu"],
            zypper: &["libvirt-daemon-driver-qemu"],
            pacman: &["libvirt"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "libvirt storage driver",
        why: "libvirt makes the overlay of a snapshot",
        check: Check::Library("libvirt/storage-file/libvirt_storage_file_fs.so"),
        packages: Packages {
            apt: &["libvirt-daemon"],
            dnf: &["libvirt-daemon-driver-storage-core"],
            zypper: &["libvirt-daemon-driver-storage-core"],
            pacman: &["libvirt"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "account libvirt-qemu",
        why: "Debian's libvirt looks it up when root runs it; the full daemon's package would make it",
        check: Check::Account("libvirt-qemu"),
        packages: Packages { apt: &[], dnf: &[], zypper: &[], pacman: &[] },
        needed_by: NeededBy::RootWithApt,
    },
    Need {
        what: "pkg-config",
        why: "finds libvirt for the compiler",
        check: Check::Program("pkg-config"),
        packages: Packages {
            apt: &["pkg-config"],
            dnf: &["pkgconf-pkg-config"],
            zypper: &["pkgconf-pkg-config"],
            pacman: &["pkgconf"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "C linker",
        why: "links Rust programs",
        check: Check::Program("cc"),
        packages: Packages { apt: &["gcc", "libc6-dev"], dnf: &["gcc"], zypper: &["gcc"], pacman: &["gcc"] },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "mmdebstrap",
        why: "installs the packages of Debian guests",
        check: Check::Program("mmdebstrap"),
        packages: Packages {
            apt: &["mmdebstrap"],
            dnf: &["mmdebstrap"],
            zypper: &["mmdebstrap"],
            pacman: &[],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "apt-get",
        why: "finds out which packages of Debian guests have changed; mmdebstrap runs it too",
        check: Check::Program("apt-get"),
        packages: Packages { apt: &["apt"], dnf: &["apt"], zypper: &[], pacman: &["apt"] },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "Debian archive keys",
        why: "packages of Debian guests are verified with them",
        check: Check::File(&[
            "/usr/share/keyrings/debian-archive-keyring.gpg",
            "/usr/share/keyrings/debian-archive-keyring.pgp",
            "/etc/apt/trusted.gpg.d/debian-archive-keyring.gpg",
        ]),
        packages: Packages {
            apt: &["debian-archive-keyring"],
            dnf: &["debian-keyring"],
            zypper: &[],
            pacman: &["debian-archive-keyring"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "Ubuntu archive keys",
        why: "packages of Ubuntu guests are verified with them",
        check: Check::File(&[UBUNTU_KEYS]),
        packages: Packages {
            apt: &["ubuntu-keyring"],
            dnf: &["ubu-keyring"],
            zypper: &[],
            pacman: &["ubuntu-keyring"],
        },
        needed_by: NeededBy::Ubuntu,
    },
    Need {
        what: "dnf",
        why: "installs the packages of guests of the RPM family",
        check: Check::Program("dnf"),
        packages: Packages { apt: &["dnf"], dnf: &["dnf"], zypper: &["dnf"], pacman: &["dnf"] },
        needed_by: NeededBy::Rpm,
    },
    Need {
        what: "rpm",
        why: "reads the versions of those packages",
        check: Check::Program("rpm"),
        packages: Packages { apt: &["rpm"], dnf: &["rpm"], zypper: &["rpm"], pacman: &["rpm-tools"] },
        needed_by: NeededBy::Rpm,
    },
    Need {
        what: "createrepo_c",
        why: "makes the package repository that the builder of such images is tested with",
        check: Check::Program("createrepo_c"),
        packages: Packages {
            apt: &["createrepo-c"],
            dnf: &["createrepo_c"],
            zypper: &["createrepo_c"],
            pacman: &["createrepo_c"],
        },
        needed_by: NeededBy::Rpm,
    },
    Need {
        what: "mke2fs",
        why: "writes the disks of images from a directory",
        check: Check::ProgramSince { name: "mke2fs", version_flag: "-V", least: (1, 43) },
        packages: Packages {
            apt: &["e2fsprogs"],
            dnf: &["e2fsprogs"],
            zypper: &["e2fsprogs"],
            pacman: &["e2fsprogs"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "e2fsck",
        why: "checks the disks of images and snapshots",
        check: Check::Program("e2fsck"),
        packages: Packages {
            apt: &["e2fsprogs"],
            dnf: &["e2fsprogs"],
            zypper: &["e2fsprogs"],
            pacman: &["e2fsprogs"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "xfsprogs",
        why: "writes and checks disks with XFS",
        check: Check::Program("xfs_logprint"),
        packages: Packages {
            apt: &["xfsprogs"],
            dnf: &["xfsprogs"],
            zypper: &["xfsprogs"],
            pacman: &["xfsprogs"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "btrfs-progs",
        why: "writes and checks disks with btrfs",
        check: Check::Program("btrfs"),
        packages: Packages {
            apt: &["btrfs-progs"],
            dnf: &["btrfs-progs"],
            zypper: &["btrfsprogs"],
            pacman: &["btrfs-progs"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "grub-fstest",
        why: "reads files from snapshots with XFS and btrfs, without a mount",
        check: Check::AnyProgram(&["grub-fstest", "grub2-fstest"]),
        packages: Packages {
            apt: &["grub-common"],
            dnf: &["grub2-tools-extra"],
            zypper: &["grub2"],
            pacman: &["grub"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "bubblewrap",
        why: "keeps the programs that read guests' disks in a sandbox",
        check: Check::Program("bwrap"),
        packages: Packages {
            apt: &["bubblewrap"],
            dnf: &["bubblewrap"],
            zypper: &["bubblewrap"],
            pacman: &["bubblewrap"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "lvm",
        why: "writes disks with volume groups, which takes root",
        check: Check::Program("lvm"),
        packages: Packages { apt: &["lvm2"], dnf: &["lvm2"], zypper: &["lvm2"], pacman: &["lvm2"] },
        needed_by: NeededBy::Root,
    },
    Need {
        what: "curl",
        why: "downloads vendors' cloud images, and goes on where a download stopped",
        check: Check::Program("curl"),
        packages: Packages { apt: &["curl"], dnf: &["curl"], zypper: &["curl"], pacman: &["curl"] },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "sfdisk",
        why: "reads and enlarges the partitions of vendors' cloud images, which takes root",
        check: Check::Program("sfdisk"),
        packages: Packages {
            apt: &["fdisk"],
            dnf: &["util-linux"],
            zypper: &["util-linux"],
            pacman: &["util-linux"],
        },
        needed_by: NeededBy::Root,
    },
    Need {
        what: "newuidmap",
        why: "lets mmdebstrap work without root",
        check: Check::Program("newuidmap"),
        packages: Packages {
            apt: &["uidmap"],
            dnf: &["shadow-utils"],
            zypper: &["shadow"],
            pacman: &["shadow"],
        },
        needed_by: NeededBy::NotRoot,
    },
    Need {
        what: "shellcheck",
        why: "checks the hooks beside scenarios, and the scripts of the packages",
        check: Check::Program("shellcheck"),
        packages: Packages {
            apt: &["shellcheck"],
            dnf: &["ShellCheck"],
            zypper: &["ShellCheck"],
            pacman: &["shellcheck"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "busybox",
        why: "has a second shell in which these scripts must parse",
        check: Check::Program("busybox"),
        packages: Packages {
            apt: &["busybox"],
            dnf: &["busybox"],
            zypper: &["busybox"],
            pacman: &["busybox"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "mariadbd",
        why: "the hooks are tested against a real server, on a directory of its own",
        check: Check::Program("mariadbd"),
        packages: Packages {
            apt: &["mariadb-server-core"],
            dnf: &["mariadb-server"],
            zypper: &["mariadb"],
            pacman: &["mariadb"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "mariadb",
        why: "the client with which the tests talk to that server",
        check: Check::Program("mariadb"),
        packages: Packages {
            apt: &["mariadb-client-core"],
            dnf: &["mariadb"],
            zypper: &["mariadb-client"],
            pacman: &["mariadb-clients"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "dpkg-deb",
        why: "makes the .deb of the hooks",
        check: Check::Program("dpkg-deb"),
        packages: Packages { apt: &["dpkg"], dnf: &["dpkg"], zypper: &["dpkg"], pacman: &["dpkg"] },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "rpmbuild",
        why: "makes the .rpm of the hooks",
        check: Check::Program("rpmbuild"),
        packages: Packages {
            apt: &["rpm"],
            dnf: &["rpm-build"],
            zypper: &["rpm-build"],
            pacman: &["rpm-tools"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "lintian",
        why: "checks the .deb of the hooks",
        check: Check::Program("lintian"),
        packages: Packages { apt: &["lintian"], dnf: &[], zypper: &[], pacman: &[] },
        needed_by: NeededBy::PackagesWithApt,
    },
    Need {
        what: "rpmlint",
        why: "checks the .rpm of the hooks",
        check: Check::Program("rpmlint"),
        packages: Packages { apt: &["rpmlint"], dnf: &["rpmlint"], zypper: &["rpmlint"], pacman: &[] },
        needed_by: NeededBy::PackagesWithApt,
    },
    Need {
        what: "PostgreSQL server",
        why: "the hooks are tested against a real server of it, too",
        check: Check::ProgramOfVersions { name: "postgres", dir: "/usr/lib/postgresql" },
        packages: Packages {
            apt: &["postgresql"],
            dnf: &["postgresql-server", "postgresql-contrib"],
            zypper: &["postgresql-server", "postgresql-contrib"],
            pacman: &["postgresql"],
        },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "dash",
        why: "the hooks that are scripts are tested with it",
        check: Check::Program("dash"),
        packages: Packages { apt: &["dash"], dnf: &["dash"], zypper: &["dash"], pacman: &["dash"] },
        needed_by: NeededBy::Everyone,
    },
    Need {
        what: "virsh",
        why: "backs up in some scenarios, and in the script that trials are measured against",
        check: Check::Program("virsh"),
        packages: Packages {
            apt: &["libvirt-clients"],
            dnf: &["libvirt-client"],
            zypper: &["libvirt-client"],
            pacman: &["libvirt"],
        },
        needed_by: NeededBy::Baseline,
    },
    Need {
        what: "libvirtd",
        why: "is the daemon that it talks to",
        check: Check::Program("libvirtd"),
        packages: Packages {
            apt: &["libvirt-daemon"],
            dnf: &["libvirt-daemon"],
            zypper: &["libvirt-daemon"],
            pacman: &["libvirt"],
        },
        needed_by: NeededBy::Baseline,
    },
    Need {
        what: "virtnbdbackup",
        why: "is one of the backup tools that scenarios grade",
        check: Check::Program("virtnbdbackup"),
        packages: Packages { apt: &["virtnbdbackup"], dnf: &[], zypper: &[], pacman: &[] },
        needed_by: NeededBy::Tools,
    },
    Need {
        what: "nbdcopy",
        why: "reads a guest's disks while libvirt exports them",
        check: Check::Program("nbdcopy"),
        packages: Packages {
            apt: &["libnbd-bin"],
            dnf: &["libnbd"],
            zypper: &["libnbd"],
            pacman: &["libnbd"],
        },
        needed_by: NeededBy::Tools,
    },
    Need {
        what: "restic",
        why: "is one of the backup tools that scenarios grade",
        check: Check::Program("restic"),
        packages: Packages { apt: &["restic"], dnf: &["restic"], zypper: &["restic"], pacman: &["restic"] },
        needed_by: NeededBy::Tools,
    },
    Need {
        what: "borg",
        why: "is one of the backup tools that scenarios grade",
        check: Check::Program("borg"),
        packages: Packages {
            apt: &["borgbackup"],
            dnf: &["borgbackup"],
            zypper: &["borgbackup"],
            pacman: &["borg"],
        },
        needed_by: NeededBy::Tools,
    },
    Need {
        what: "virt-backup",
        why: "is one of the backup tools that scenarios grade",
        check: Check::Python("virt-backup"),
        // What it imports: only it is on no package source.
        packages: Packages {
            apt: &[
                "python3-venv",
                "python3-appdirs",
                "python3-arrow",
                "python3-libvirt",
                "python3-lxml",
                "python3-packaging",
                "python3-yaml",
            ],
            dnf: &[
                "python3-appdirs",
                "python3-arrow",
                "python3-libvirt",
                "python3-lxml",
                "python3-packaging",
                "python3-pyyaml",
            ],
            zypper: &[
                "python3-appdirs",
                "python3-arrow",
                "python3-libvirt-python",
                "python3-lxml",
                "python3-packaging",
                "python3-PyYAML",
            ],
            pacman: &[
                "python-appdirs",
                "python-arrow",
                "libvirt-python",
                "python-lxml",
                "python-packaging",
                "python-yaml",
            ],
        },
        needed_by: NeededBy::Tools,
    },
];

impl Need {
    /// What brings it in, where apt installs packages.
    pub(crate) fn remedy(&self) -> String {
        match &self.check {
            Check::Account(_) => "a system account".to_owned(),
            _ => format!("package {}", self.packages.apt.join(" ")),
        }
    }
}

impl Check {
    /// Describes it, for those who installed it elsewhere.
    pub(crate) fn description(&self) -> String {
        match self {
            Self::Program(name) => format!("program `{name}`"),
            Self::Python(name) => format!("program `{name}`, or `{TOOLS}/{name}`"),
            Self::AnyProgram(names) => format!("program `{}`", names.join("` or `")),
            Self::ProgramOfVersions { name, dir } => {
                format!("program `{name}`, or `{dir}/VERSION/bin/{name}`")
            }
            Self::ProgramSince { name, least: (major, minor), .. } => {
                format!("program `{name}`, version {major}.{minor} or later")
            }
            Self::Library(path) => format!("file `{path}` in a library directory"),
            Self::File(paths) => format!("file `{}`", paths.join("` or `")),
            Self::Account(name) => format!("system account `{name}`"),
        }
    }
}
