//! Plans what must be done to a host. Pure, so that it can be tested for other
//! hosts than this one.

use std::collections::BTreeSet;
use std::fmt::Write;

use contract::run::TOOLS;

use super::needs::{Check, Need, Packages};

/// Where a source for backports is written.
const BACKPORTS_FILE: &str = "/etc/apt/sources.list.d/freezeframe-backports.sources";

/// Packages that must come from where `qemu-utils` came from: they share files.
const QEMU_PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-utils"];

/// Debian's server package also makes a database and starts it, unless a file here forbids that. The tests
/// make their own.
const CLUSTER_DIR: &str = "/etc/postgresql-common/createcluster.d";
const CLUSTER_FILE: &str = "/etc/postgresql-common/createcluster.d/freezeframe.conf";

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manager {
    Apt,
    Dnf,
    Zypper,
    Pacman,
}

impl Manager {
    /// A native one first: `apt-get` may be installed on any distribution.
    pub(crate) const ALL: [Self; 4] = [Self::Dnf, Self::Zypper, Self::Pacman, Self::Apt];

    /// The program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Apt => "apt-get",
            Self::Dnf => "dnf",
            Self::Zypper => "zypper",
            Self::Pacman => "pacman",
        }
    }

    /// What this manager calls them.
    pub(crate) fn names(self, packages: &Packages) -> &'static [&'static str] {
        match self {
            Self::Apt => packages.apt,
            Self::Dnf => packages.dnf,
            Self::Zypper => packages.zypper,
            Self::Pacman => packages.pacman,
        }
    }

    fn install(self) -> &'static [&'static str] {
        match self {
            Self::Apt => &[
                "apt-get",
                "install",
                "--yes",
                "--no-install-recommends",
                "--option=DPkg::Lock::Timeout=120",
            ],
            Self::Dnf => &["dnf", "install", "--setopt=install_weak_deps=False"],
            Self::Zypper => &["zypper", "install", "--no-recommends"],
            Self::Pacman => &["pacman", "-S", "--needed"],
        }
    }
}

/// The facts that a plan depends on.
#[derive(Debug, Default)]
pub(crate) struct Host {
    pub(crate) manager: Option<Manager>,
    pub(crate) root: bool,
    pub(crate) sudo: bool,
    pub(crate) apt: Apt,
    pub(crate) missing: Vec<&'static Need>,
}

/// What apt knows.
#[derive(Debug, Default)]
pub(crate) struct Apt {
    /// The release of the host: `bookworm`.
    pub(crate) release: Option<String>,
    /// The version of `qemu-utils`, where it is installed.
    pub(crate) qemu_utils: Option<String>,
    pub(crate) sources: Vec<PackageSource>,
}

/// One of apt's sources.
#[derive(Debug, Clone)]
pub(crate) struct PackageSource {
    pub(crate) suite: String,
    pub(crate) component: String,
    pub(crate) uri: String,
    /// The file with its key, if it names one.
    pub(crate) signed_by: Option<String>,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SetupPlan {
    /// Nothing is missing.
    Nothing,
    /// These, one after the other.
    Act(Vec<SetupAction>),
    /// The user must act: `why`, and what to type.
    ByHand { why: String, commands: Vec<String> },
}

/// One step of a plan.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SetupAction {
    /// Writes a file, as root.
    Write { path: &'static str, text: String, why: String },
    /// Runs a command.
    Run { argv: Vec<String>, why: String },
}

/// Where in the checkout Python's packages are installed, beside [`TOOLS`].
const PYTHON_DIR: &str = "target/tools";

/// Where the versions of Python's packages are fixed, and their digests.
const REQUIREMENTS: &str = "scenarios/tools/python";

/// As libvirt's own package makes its account; see useradd(8).
const USERADD: &[&str] = &[
    "useradd",
    "--system",
    "--user-group",
    "--no-create-home",
    "--home-dir",
    "/nonexistent",
    "--shell",
    "/usr/sbin/nologin",
];

/// Why `qemu-system-x86` cannot be installed from where `qemu-utils` came from.
#[derive(Debug, thiserror::Error)]
enum BackportsError {
    #[error(
        "qemu-utils is installed from backports, and /etc/os-release does not name the release. Install qemu-system-x86 \
         of the same version by hand"
    )]
    UnknownRelease,
    #[error(
        "qemu-utils is installed from backports, and no package source of this host is for {release} from which the one \
         for {suite} could be made. Add a source for {suite}, then run `cargo xtask setup` again"
    )]
    NoSource { release: String, suite: String },
}

/// Plans what to do on `host`.
pub(crate) fn plan(host: &Host) -> SetupPlan {
    if host.missing.is_empty() {
        return SetupPlan::Nothing;
    }
    match host.manager {
        None => SetupPlan::ByHand {
            why: "this host has neither apt-get, dnf, zypper nor pacman: install what is missing by its own means"
                .to_owned(),
            commands: Vec::new(),
        },
        Some(Manager::Apt) => match apt_actions(host) {
            Ok(actions) if host.root || host.sudo => SetupPlan::Act(actions),
            Ok(actions) => SetupPlan::ByHand {
                why: "this needs root, and there is no sudo. As root, run `cargo xtask setup`, or".to_owned(),
                commands: actions.iter().map(SetupAction::command).collect(),
            },
            Err(why) => SetupPlan::ByHand { why: why.to_string(), commands: Vec::new() },
        },
        Some(manager) => by_hand(manager, host),
    }
}

fn by_hand(manager: Manager, host: &Host) -> SetupPlan {
    let mut why = format!(
        "packages are installed for you with apt-get only; with {} it is one command",
        manager.program()
    );
    let unpackaged = host.missing.iter().filter(|need| manager.names(&need.packages).is_empty());
    let unpackaged: Vec<_> = unpackaged.map(|need| need.what).collect();
    if !unpackaged.is_empty() {
        let _ =
            write!(why, ". Not packaged there, so to be installed by other means: {}", unpackaged.join(", "));
    }
    let packages = package_names(manager, &host.missing);
    let mut commands = Vec::new();
    if !packages.is_empty() {
        let words = manager.install().iter().copied().chain(packages);
        commands.push(format!("sudo {}", words.collect::<Vec<_>>().join(" ")));
    }
    commands.extend(python_actions(&host.missing).iter().map(SetupAction::command));
    SetupPlan::ByHand { why, commands }
}

fn apt_actions(host: &Host) -> Result<Vec<SetupAction>, BackportsError> {
    let run = |words: &[&str], packages: &[&str], why: String| {
        let sudo = if host.root { &[][..] } else { &["sudo"] };
        let argv = [sudo, &["env", "DEBIAN_FRONTEND=noninteractive"], words, packages].concat();
        SetupAction::Run { argv: argv.into_iter().map(str::to_owned).collect(), why }
    };
    let (qemu, others): (Vec<_>, Vec<_>) =
        package_names(Manager::Apt, &host.missing).into_iter().partition(|name| QEMU_PACKAGES.contains(name));
    let from_backports = host.apt.qemu_utils.as_deref().is_some_and(|version| version.contains("~bpo"));

    let mut actions = Vec::new();
    let mut backports = None;
    if from_backports && !qemu.is_empty() {
        let release = host.apt.release.as_deref().ok_or(BackportsError::UnknownRelease)?;
        let suite = format!("{release}-backports");
        if !host.apt.sources.iter().any(|source| source.suite == suite) {
            actions.push(add_backports(&host.apt, release, &suite)?);
        }
        backports = Some(suite);
    }
    if !qemu.is_empty() || !others.is_empty() {
        actions.push(run(&["apt-get", "update"], &[], "reads the indexes of the package sources".to_owned()));
    }
    let server = others.contains(&"postgresql");
    if server {
        actions.push(run(
            &["mkdir", "-p", CLUSTER_DIR],
            &[],
            "makes the directory of the next file".to_owned(),
        ));
        actions.push(SetupAction::Write {
            path: CLUSTER_FILE,
            text: "create_main_cluster = false\n".to_owned(),
            why: "keeps PostgreSQL's package from making a database and starting a server".to_owned(),
        });
    }
    let install = Manager::Apt.install();
    if let Some(suite) = &backports {
        let from = ["--target-release", suite.as_str()];
        let why = "from where the installed qemu-utils is from: the two must match".to_owned();
        actions.push(run(&[install, &from].concat(), &qemu, why));
        if !others.is_empty() {
            actions.push(run(install, &others, "installs the rest".to_owned()));
        }
    } else if !qemu.is_empty() || !others.is_empty() {
        actions.push(run(install, &[qemu, others].concat(), "installs what is missing".to_owned()));
    }
    if server {
        actions.push(run(&["rm", CLUSTER_FILE], &[], "leaves later installations as they were".to_owned()));
    }
    for need in &host.missing {
        if let Check::Account(name) = need.check {
            actions.push(run(USERADD, &[name], format!("makes the {}: {}", need.what, need.why)));
        }
    }
    actions.extend(python_actions(&host.missing));
    Ok(actions)
}

/// Installs what is missing of Python's own package index, for this user and below the checkout. What it imports is
/// the host's, so that nothing has to be built but itself, by tools of the versions in the first file.
fn python_actions(missing: &[&Need]) -> Vec<SetupAction> {
    let names = missing.iter().filter_map(|need| match need.check {
        Check::Python(name) => Some(name),
        _ => None,
    });
    let actions = names.flat_map(|name| {
        let dir = format!("{PYTHON_DIR}/{name}");
        let run = |line: String, why: &str| SetupAction::Run {
            argv: line.split(' ').map(str::to_owned).collect(),
            why: why.to_owned(),
        };
        let install =
            format!("{dir}/bin/pip install --quiet --no-deps --require-hashes --requirement {REQUIREMENTS}");
        [
            // Not the first `python3` on PATH, which need not be the one whose modules the host's packages bring.
            run(
                format!("/usr/bin/python3 -m venv --clear --system-site-packages {dir}"),
                "makes a directory for Python's packages below the checkout",
            ),
            run(format!("{install}/build.txt"), "installs what the next package is built with"),
            run(
                format!("{install}/{name}.txt --no-build-isolation"),
                "installs it in the version with which its scenarios were tried",
            ),
            run(
                format!("mkdir -p {TOOLS}"),
                "makes the directory in which the commands of backup tools look",
            ),
            run(format!("ln -sf ../{name}/bin/{name} {TOOLS}/"), "lets them find it"),
        ]
    });
    actions.collect()
}

/// A source for backports, made from the one that the host has for its release.
fn add_backports(apt: &Apt, release: &str, suite: &str) -> Result<SetupAction, BackportsError> {
    let source =
        apt.sources.iter().find(|source| source.suite == release && source.component == "main").ok_or_else(
            || BackportsError::NoSource { release: release.to_owned(), suite: suite.to_owned() },
        )?;
    let mut text = format!(
        "# Written by `cargo xtask setup`: the installed qemu-utils is from here, and\n\
         # qemu-system-x86 must be of the same version.\n\
         Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n",
        source.uri
    );
    if let Some(key) = &source.signed_by {
        let _ = writeln!(text, "Signed-By: {key}");
    }
    Ok(SetupAction::Write {
        path: BACKPORTS_FILE,
        text,
        why: format!(
            "qemu-utils {} is from {suite}, which is not among this host's package sources any more; address and key \
             are those of its source for {release}",
            apt.qemu_utils.as_deref().unwrap_or_default()
        ),
    })
}

/// The packages of `needs`, each once, in their order.
fn package_names(manager: Manager, needs: &[&'static Need]) -> Vec<&'static str> {
    let mut seen = BTreeSet::new();
    let names = needs.iter().flat_map(|need| manager.names(&need.packages));
    names.copied().filter(|name| seen.insert(*name)).collect()
}

impl SetupAction {
    /// As a line that can be typed.
    pub(crate) fn command(&self) -> String {
        match self {
            Self::Write { path, text, .. } => format!("cat >{path} <<'END'\n{text}END"),
            Self::Run { argv, .. } => argv.join(" "),
        }
    }

    /// What it is for.
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Write { why, .. } | Self::Run { why, .. } => why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::needs::NEEDS;
    use super::*;

    fn missing(names: &[&str]) -> Vec<&'static Need> {
        NEEDS.iter().filter(|need| names.contains(&need.what)).collect()
    }

    fn text(plan: &SetupPlan) -> String {
        match plan {
            SetupPlan::Nothing => "nothing\n".to_owned(),
            SetupPlan::Act(actions) => {
                actions.iter().map(|action| format!("# {}\n{}\n", action.why(), action.command())).collect()
            }
            SetupPlan::ByHand { why, commands } => format!("# {why}\n{}\n", commands.join("\n")),
        }
    }

    fn bookworm() -> Host {
        let source = |suite: &str, component: &str| PackageSource {
            suite: suite.to_owned(),
            component: component.to_owned(),
            uri: "http://mirror.invalid/debian/".to_owned(),
            signed_by: Some("/keys/debian.gpg".to_owned()),
        };
        Host {
            manager: Some(Manager::Apt),
            root: true,
            sudo: false,
            apt: Apt {
                release: Some("bookworm".to_owned()),
                qemu_utils: None,
                sources: vec![source("bookworm", "main"), source("bookworm-updates", "main")],
            },
            missing: missing(&["qemu-system-x86_64", "qemu-img", "libvirt headers", "mke2fs", "e2fsck"]),
        }
    }

    #[test]
    fn nothing_missing_is_nothing_to_do() {
        assert_eq!(plan(&Host { missing: Vec::new(), ..bookworm() }), SetupPlan::Nothing);
    }

    #[test]
    fn apt_installs_everything_at_once() {
        assert_eq!(
            text(&plan(&bookworm())),
            "\
# reads the indexes of the package sources
env DEBIAN_FRONTEND=noninteractive apt-get update
# installs what is missing
env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
--option=DPkg::Lock::Timeout=120 qemu-system-x86 qemu-utils libvirt-dev e2fsprogs
"
        );
    }

    #[test]
    fn sudo_is_used_where_it_is_needed_and_there() {
        let user = Host { root: false, sudo: true, missing: missing(&["busybox"]), ..bookworm() };
        assert_eq!(
            text(&plan(&user)),
            "\
# reads the indexes of the package sources
sudo env DEBIAN_FRONTEND=noninteractive apt-get update
# installs what is missing
sudo env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
--option=DPkg::Lock::Timeout=120 busybox
"
        );
        let powerless = Host { sudo: false, ..user };
        assert!(matches!(plan(&powerless), SetupPlan::ByHand { commands, .. } if commands.len() == 2));
    }

    #[test]
    fn qemu_comes_from_where_qemu_utils_came_from() {
        let mut host = bookworm();
        host.apt.qemu_utils = Some("1:10.0.2+ds-2+deb13u1~bpo12+1".to_owned());
        host.missing = missing(&["qemu-system-x86_64", "libvirt headers"]);
        assert_eq!(
            text(&plan(&host)),
            "\
# qemu-utils 1:10.0.2+ds-2+deb13u1~bpo12+1 is from bookworm-backports, which is not among this host's package sources \
any more; address and key are those of its source for bookworm
cat >/etc/apt/sources.list.d/freezeframe-backports.sources <<'END'
# Written by `cargo xtask setup`: the installed qemu-utils is from here, and
# qemu-system-x86 must be of the same version.
Types: deb
URIs: http://mirror.invalid/debian/
Suites: bookworm-backports
Components: main
Signed-By: /keys/debian.gpg
END
# reads the indexes of the package sources
env DEBIAN_FRONTEND=noninteractive apt-get update
# from where the installed qemu-utils is from: the two must match
env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
--option=DPkg::Lock::Timeout=120 --target-release bookworm-backports qemu-system-x86
# installs the rest
env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
--option=DPkg::Lock::Timeout=120 libvirt-dev
"
        );
    }

    #[test]
    fn a_source_for_backports_that_is_there_is_used() {
        let mut host = bookworm();
        host.apt.qemu_utils = Some("1:10.0.2~bpo12+1".to_owned());
        host.apt.sources[1].suite = "bookworm-backports".to_owned();
        let SetupPlan::Act(actions) = plan(&host) else { panic!("no actions") };
        assert!(!actions.iter().any(|action| matches!(action, SetupAction::Write { .. })));
        assert!(
            actions
                .iter()
                .any(|action| action.command().contains("--target-release bookworm-backports qemu"))
        );
    }

    #[test]
    fn without_a_source_to_copy_the_user_is_asked() {
        let mut host = bookworm();
        host.apt.qemu_utils = Some("1:10.0.2~bpo12+1".to_owned());
        host.apt.sources.clear();
        assert!(
            matches!(plan(&host), SetupPlan::ByHand { why, .. } if why.contains("Add a source for bookworm-backports"))
        );
    }

    #[test]
    fn other_managers_get_their_exact_command() {
        let host = Host { manager: Some(Manager::Dnf), ..bookworm() };
        assert_eq!(
            text(&plan(&host)),
            "\
# packages are installed for you with apt-get only; with dnf it is one command
sudo dnf install --setopt=install_weak_deps=False qemu-system-x86-core qemu-img libvirt-devel e2fsprogs
"
        );
        let host = Host {
            manager: Some(Manager::Pacman),
            missing: missing(&["mmdebstrap", "shellcheck"]),
            ..bookworm()
        };
        assert_eq!(
            text(&plan(&host)),
            "\
# packages are installed for you with apt-get only; with pacman it is one command. Not packaged there, so to be \
installed by other means: mmdebstrap
sudo pacman -S --needed shellcheck
"
        );
        let unknown = Host { manager: None, ..bookworm() };
        assert!(matches!(plan(&unknown), SetupPlan::ByHand { commands, .. } if commands.is_empty()));
    }

    #[test]
    fn an_account_is_made_without_packages() {
        let host = Host { missing: missing(&["account libvirt-qemu"]), ..bookworm() };
        assert_eq!(
            text(&plan(&host)),
            "\
# makes the account libvirt-qemu: Debian's libvirt looks it up when root runs it; the full daemon's package would \
make it
env DEBIAN_FRONTEND=noninteractive useradd --system --user-group --no-create-home --home-dir /nonexistent --shell \
/usr/sbin/nologin libvirt-qemu
"
        );
    }

    #[test]
    fn a_python_package_is_installed_below_the_checkout_without_root() {
        let host = Host { root: false, sudo: true, missing: missing(&["virt-backup"]), ..bookworm() };
        let SetupPlan::Act(actions) = plan(&host) else { panic!("no actions") };
        let (with_root, without): (Vec<_>, Vec<_>) =
            actions.iter().map(SetupAction::command).partition(|command| command.starts_with("sudo "));
        assert!(with_root.iter().any(|command| command.contains("python3-venv")), "{with_root:?}");
        let dir = "target/tools/virt-backup";
        let install = format!(
            "{dir}/bin/pip install --quiet --no-deps --require-hashes --requirement scenarios/tools/python"
        );
        assert_eq!(
            without,
            [
                format!("/usr/bin/python3 -m venv --clear --system-site-packages {dir}"),
                format!("{install}/build.txt"),
                format!("{install}/virt-backup.txt --no-build-isolation"),
                "mkdir -p target/tools/bin".to_owned(),
                "ln -sf ../virt-backup/bin/virt-backup target/tools/bin/".to_owned(),
            ]
        );
        let other = plan(&Host { manager: Some(Manager::Dnf), ..host });
        assert!(matches!(other, SetupPlan::ByHand { commands, .. } if commands[1..] == without));
    }

    #[test]
    fn no_server_is_started_by_its_package() {
        let host = Host { missing: missing(&["PostgreSQL server"]), ..bookworm() };
        assert_eq!(
            text(&plan(&host)),
            "\
# reads the indexes of the package sources
env DEBIAN_FRONTEND=noninteractive apt-get update
# makes the directory of the next file
env DEBIAN_FRONTEND=noninteractive mkdir -p /etc/postgresql-common/createcluster.d
# keeps PostgreSQL's package from making a database and starting a server
cat >/etc/postgresql-common/createcluster.d/freezeframe.conf <<'END'
create_main_cluster = false
END
# installs what is missing
env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
--option=DPkg::Lock::Timeout=120 postgresql
# leaves later installations as they were
env DEBIAN_FRONTEND=noninteractive rm /etc/postgresql-common/createcluster.d/freezeframe.conf
"
        );
    }

    #[test]
    fn apt_can_bring_in_every_need() {
        let by_apt = |need: &&Need| !need.packages.apt.is_empty() || matches!(need.check, Check::Account(_));
        assert!(NEEDS.iter().all(|need| by_apt(&need)));
    }
}
