//! The packages: what is in them, and what they do to a system that they come to and leave again.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the lint knows only test functions")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tooling::command::{self, NamespaceRoot, find_program, shell, shell_in};
use tooling::host;
use xshell::{Cmd, cmd};

use super::{deb, packages_dir, rpm};
use crate::hook_program;

/// A directory of its own for the packages of a test.
fn out() -> TempDir {
    fs::create_dir_all(packages_dir()).unwrap();
    tempfile::tempdir_in(packages_dir()).unwrap()
}

fn printed(cmd: Cmd<'_>) -> String {
    let line = cmd.to_string();
    let output = command::output(cmd).unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{line}: {}\n{text}", output.status);
    text
}

/// A Debian system with the guest agent, and nothing that runs.
struct Root {
    dir: TempDir,
}

impl Root {
    fn new() -> Self {
        Self::of("bookworm")
    }

    /// Of this release.
    fn of(release: &str) -> Self {
        let this = Self { dir: out() };
        let (sh, archive, dir) = (shell().unwrap(), archive(release), this.dir.path());
        let tar =
            cmd!(NamespaceRoot(&sh), "tar --extract --numeric-owner --preserve-permissions --file {archive}");
        let tar = tar.args((!host::is_root()).then_some("--exclude=./dev/*"));
        printed(tar.arg("--directory").arg(dir));
        // All of /proc that the dispatcher needs; so no hook finds a server of the host.
        this.sh("echo '1.00 1.00' >/proc/uptime");
        this
    }

    /// What the script prints in there.
    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let (sh, root) = (shell().unwrap(), self.dir.path());
        let chroot = cmd!(NamespaceRoot(&sh), "chroot {root} /bin/sh -euc {script}");
        printed(chroot.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive"))
    }

    /// What the dispatcher's hooks hold: here they find no server to freeze.
    #[track_caller]
    fn status(&self, dispatcher: &str) -> String {
        self.sh(&format!("cd /; {dispatcher} status || true"))
    }

    #[track_caller]
    fn dpkg(&self, verb: &str, package: &Path) -> String {
        fs::copy(package, self.dir.path().join("tmp/package.deb")).unwrap();
        self.sh(&format!("dpkg {verb}"))
    }

    #[track_caller]
    fn rpm(&self, args: &[&str]) -> String {
        let (sh, root) = (shell().unwrap(), self.dir.path());
        printed(cmd!(NamespaceRoot(&sh), "rpm --root {root} --dbpath /var/lib/rpm {args...}"))
    }

    /// Every file but what package managers keep for themselves.
    fn files(&self) -> Vec<String> {
        let listing = self.sh(
            r"find / -xdev \( -path /dev -o -path /proc -o -path /tmp -o -path /var/lib/dpkg -o -path /var/lib/rpm \
                -o -path /var/log \) -prune -o -type f -printf '%p %M %U:%G %s %T@\n' -o -printf '%p %M %U:%G %l\n'",
        );
        let mut files: Vec<_> = listing.lines().map(str::to_owned).collect();
        files.sort();
        files
    }

    /// The names of what there is now and was not `before`; nothing may have gone or changed.
    #[track_caller]
    fn added_since(&self, before: &[String]) -> Vec<String> {
        let now = self.files();
        let gone: Vec<_> = before.iter().filter(|file| !now.contains(file)).collect();
        assert!(gone.is_empty(), "gone or changed: {gone:?}");
        let added = now.into_iter().filter(|file| !before.contains(file));
        added.map(|file| file.split(' ').next().unwrap().to_owned()).collect()
    }
}

impl Drop for Root {
    /// What the test's user may not remove: the files of others.
    fn drop(&mut self) {
        let (sh, dir) = (shell().unwrap(), self.dir.path());
        let _ = command::output(cmd!(NamespaceRoot(&sh), "find {dir} -mindepth 1 -delete"));
    }
}

/// Makes one test for each of the releases.
macro_rules! on_releases {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            fn bullseye() {
                super::$name("bullseye");
            }
            #[test]
            fn bookworm() {
                super::$name("bookworm");
            }
            #[test]
            fn trixie() {
                super::$name("trixie");
            }
            #[test]
            fn sid() {
                super::$name("sid");
            }
        }
    )*};
}

on_releases!(
    the_deb_comes_and_goes_without_a_trace,
    the_deb_takes_the_place_of_the_scripts,
    the_rpm_takes_the_place_of_the_scripts,
);

/// The archive of such a system, made once and kept.
fn archive(release: &str) -> PathBuf {
    let kept = packages_dir().join(".roots");
    fs::create_dir_all(&kept).unwrap();
    let lock = fs::File::create(kept.join(format!("{release}.lock"))).unwrap();
    lock.lock().unwrap();
    let archive = kept.join(format!("{release}.tar"));
    if !archive.is_file() {
        let new = format!("new-{release}.tar");
        let sh = shell_in(&kept).unwrap();
        let mmdebstrap = crate::apt_index::mmdebstrap(&sh).unwrap();
        let mmdebstrap =
            mmdebstrap.args(["--variant=essential", "--include=qemu-guest-agent", "--format=tar"]);
        let mmdebstrap =
            mmdebstrap.args(["--dpkgopt=force-unsafe-io", "--aptopt=APT::Install-Recommends \"false\""]);
        let mmdebstrap = mmdebstrap.arg(format!("--aptopt={}", crate::apt_index::TAKE_EXPIRED));
        printed(mmdebstrap.args([release, &new]));
        fs::rename(kept.join(new), &archive).unwrap();
    }
    archive
}

/// A listing without sizes and dates: mode, owner, path.
fn contents(listing: &str, owner: &[usize]) -> String {
    let mut lines: Vec<_> = listing
        .lines()
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let path = words.iter().position(|word| word.starts_with('/') || word.starts_with("./")).unwrap();
            let owner: Vec<_> = owner.iter().map(|&n| words[n]).collect();
            let path = words[path..].join(" ").trim_start_matches('.').to_owned();
            format!("{} {} {path}\n", words[0], owner.join("/"))
        })
        .collect();
    lines.sort_by_key(|line| line.split(' ').nth(2).map(str::to_owned));
    lines.concat()
}

#[test]
fn the_deb_holds_this() {
    let out = out();
    let deb = deb::build("1.0", out.path()).unwrap();
    let sh = shell().unwrap();
    let listing = printed(cmd!(sh, "dpkg-deb --contents {deb}"));
    let expected = "\
drwxr-xr-x root/root /
drwxr-xr-x root/root /etc/
drwxr-xr-x root/root /etc/qemu/
-rw-r--r-- root/root /etc/qemu/fsfreeze-db.toml
drwxr-xr-x root/root /etc/qemu/fsfreeze-hook.d/
drwxr-xr-x root/root /usr/
drwxr-xr-x root/root /usr/lib/
drwxr-xr-x root/root /usr/lib/fsfreeze-hooks/
-rwxr-xr-x root/root /usr/lib/fsfreeze-hooks/fsfreeze-db
lrwxrwxrwx root/root /usr/lib/fsfreeze-hooks/fsfreeze-hook -> fsfreeze-db
lrwxrwxrwx root/root /usr/lib/fsfreeze-hooks/fsfreeze-hook.d -> /etc/qemu/fsfreeze-hook.d
-rwxr-xr-x root/root /usr/lib/fsfreeze-hooks/start-agent
drwxr-xr-x root/root /usr/lib/systemd/
drwxr-xr-x root/root /usr/lib/systemd/system/
drwxr-xr-x root/root /usr/lib/systemd/system/qemu-guest-agent.service.d/
-rw-r--r-- root/root /usr/lib/systemd/system/qemu-guest-agent.service.d/00-fsfreeze-hooks.conf
drwxr-xr-x root/root /usr/share/
drwxr-xr-x root/root /usr/share/doc/
drwxr-xr-x root/root /usr/share/doc/fsfreeze-hooks/
-rw-r--r-- root/root /usr/share/doc/fsfreeze-hooks/changelog.gz
-rw-r--r-- root/root /usr/share/doc/fsfreeze-hooks/copyright
-rw-r--r-- root/root /usr/share/doc/fsfreeze-hooks/hooks.md
drwxr-xr-x root/root /usr/share/lintian/
drwxr-xr-x root/root /usr/share/lintian/overrides/
-rw-r--r-- root/root /usr/share/lintian/overrides/fsfreeze-hooks
";
    assert_eq!(contents(&listing, &[1]), expected);
    let sh = shell().unwrap();
    let field = |name: &str| printed(cmd!(sh, "dpkg-deb --field {deb} {name}"));
    assert_eq!(field("Version").trim(), "1.0");
    assert_eq!(field("Architecture").trim(), contract::run::debian_architecture());
    let conffiles = printed(cmd!(sh, "dpkg-deb --info {deb} conffiles"));
    assert_eq!(conffiles, "/etc/qemu/fsfreeze-db.toml\n");
}

#[test]
fn the_rpm_holds_this() {
    let out = out();
    let package = rpm::build("1.0", out.path()).unwrap();
    let sh = shell().unwrap();
    let query = |args: &[&str]| printed(cmd!(sh, "rpm {args...} {package}"));
    let expected = "\
drwxr-xr-x root/root /etc/qemu
drwxr-xr-x root/root /etc/qemu-ga
drwxr-xr-x root/root /etc/qemu-ga/fsfreeze-hook.d
-rw-r--r-- root/root /etc/qemu/fsfreeze-db.toml
-rw-r--r-- root/root /etc/systemd/system/qemu-guest-agent.service.d/00-fsfreeze-hooks.conf
drwxr-xr-x root/root /usr/lib/systemd/system/qemu-guest-agent.service.d
-rw-r--r-- root/root /usr/lib/systemd/system/qemu-guest-agent.service.d/00-fsfreeze-hooks.conf
drwxr-xr-x root/root /usr/libexec/fsfreeze-hooks
-rw-r--r-- root/root /usr/libexec/fsfreeze-hooks/agent-suse.conf
-rw-r--r-- root/root /usr/libexec/fsfreeze-hooks/environment
lrwxrwxrwx root/root /usr/libexec/fsfreeze-hooks/fsfreeze-db -> ../qemu-ga/fsfreeze-hook.d/fsfreeze-db
lrwxrwxrwx root/root /usr/libexec/fsfreeze-hooks/fsfreeze-hook -> fsfreeze-db
lrwxrwxrwx root/root /usr/libexec/fsfreeze-hooks/fsfreeze-hook.d -> /etc/qemu-ga/fsfreeze-hook.d
-rwxr-xr-x root/root /usr/libexec/fsfreeze-hooks/start-agent
drwxr-xr-x root/root /usr/libexec/qemu-ga
drwxr-xr-x root/root /usr/libexec/qemu-ga/fsfreeze-hook.d
-rwxr-xr-x root/root /usr/libexec/qemu-ga/fsfreeze-hook.d/fsfreeze-db
drwxr-xr-x root/root /usr/share/doc/fsfreeze-hooks
-rw-r--r-- root/root /usr/share/doc/fsfreeze-hooks/hooks.md
drwxr-xr-x root/root /usr/share/licenses/fsfreeze-hooks
-rw-r--r-- root/root /usr/share/licenses/fsfreeze-hooks/LICENSE-APACHE
-rw-r--r-- root/root /usr/share/licenses/fsfreeze-hooks/LICENSE-MIT
";
    assert_eq!(contents(&query(&["-qplv"]), &[2, 3]), expected);
    let version = query(&["-qp", "--queryformat", "%{VERSION}-%{RELEASE}.%{ARCH}"]);
    assert_eq!(version, format!("1.0-1.{}", std::env::consts::ARCH));
    assert_eq!(query(&["-qp", "--configfiles"]), "/etc/qemu/fsfreeze-db.toml\n");
}

#[test]
fn the_same_files_make_the_same_bytes() {
    let (one, two) = (out(), out());
    for build in [deb::build, rpm::build] {
        let [one, two] = [&one, &two].map(|out| fs::read(build("1.0", out.path()).unwrap()).unwrap());
        assert!(one == two);
    }
}

#[test]
fn the_scripts_pass_shellcheck() {
    let from = super::layout::packaging();
    let of = |family: &str, names: &[&str]| {
        names.iter().map(|name| from.join(family).join(name)).collect::<Vec<_>>()
    };
    let deb = of("deb", &["preinst", "postinst", "prerm", "postrm"]);
    let rpm = of("rpm", &["pre", "post", "preun", "postun", "posttrans"]);
    let sh = shell().unwrap();
    printed(sh.cmd("shellcheck").args(["-s", "sh"]).arg(from.join("start-agent")).args(deb).args(rpm));
}

#[test]
fn lintian_finds_nothing() {
    let out = out();
    let deb = deb::build("1.0", out.path()).unwrap();
    if find_program("lintian").is_none() {
        return;
    }
    let sh = shell().unwrap();
    let said = printed(cmd!(sh, "lintian --allow-root --display-info --fail-on error,warning {deb}"));
    // An override that is not needed any more is not kept.
    assert!(!said.contains("unused-override"), "{said}");
}

#[test]
fn rpmlint_finds_nothing() {
    let out = out();
    let package = rpm::build("1.0", out.path()).unwrap();
    if find_program("rpmlint").is_none() {
        return;
    }
    let (sh, config) = (shell().unwrap(), super::layout::packaging().join("rpm/rpmlint.toml"));
    let said = printed(cmd!(sh, "rpmlint --config {config} {package}"));
    assert!(said.contains("0 errors, 0 warnings"), "{said}");
}

fn the_deb_comes_and_goes_without_a_trace(release: &str) {
    let out = out();
    let deb = deb::build("1.0", out.path()).unwrap();
    let newer = deb::build("1.1", out.path()).unwrap();
    let root = Root::of(release);
    let before = root.files();

    let agent = "/usr/lib/fsfreeze-hooks/start-agent /usr/sbin/qemu-ga --dump-conf | grep ^fsfreeze-hook=";
    assert!(!root.dpkg("-i /tmp/package.deb", &deb).contains("stays"));
    assert_eq!(root.sh(agent), "fsfreeze-hook=/usr/lib/fsfreeze-hooks/fsfreeze-hook\n");
    assert_eq!(root.status("/usr/lib/fsfreeze-hooks/fsfreeze-hook"), "not locked\n");

    root.sh("echo hold_seconds = 30 >>/etc/qemu/fsfreeze-db.toml");
    root.dpkg("-i /tmp/package.deb", &deb);
    root.dpkg("-i /tmp/package.deb", &newer);
    assert_eq!(root.sh("dpkg-query -f '${Version}' -W fsfreeze-hooks"), "1.1");
    root.sh("grep 'hold_seconds = 30' /etc/qemu/fsfreeze-db.toml");

    root.sh("dpkg --remove fsfreeze-hooks");
    assert_eq!(root.added_since(&before), ["/etc/qemu/fsfreeze-db.toml"]);
    // What is left is configured again by an installation, with the edits.
    root.dpkg("-i /tmp/package.deb", &newer);
    root.sh("grep 'hold_seconds = 30' /etc/qemu/fsfreeze-db.toml");
    root.sh("mkdir /var/lib/fsfreeze-db; dpkg --purge fsfreeze-hooks");
    assert_eq!(root.added_since(&before), [] as [&str; 0]);
}

/// The files of the packages whose hooks were scripts that administrators could edit, with the family's directory
/// of hooks and of programs.
fn scripts_of_old(hooks: &str, own: &str) -> [(String, &'static str); 5] {
    // Its thaw is all that matters here.
    const DISPATCHER: &str = "#!/bin/sh\necho \"$1\" >>/tmp/called; rm -rf /run/fsfreeze-db/session\n";
    [
        (format!("{hooks}/40-postgresql"), "#!/bin/sh\n"),
        (format!("{hooks}/50-mysql"), "#!/bin/sh\n"),
        ("/etc/qemu/fsfreeze-db.conf".to_owned(), "#HOLD_SECONDS=60\n"),
        ("/etc/qemu/fsfreeze-postgresql.conf".to_owned(), "#HOLD_SECONDS=60\n"),
        (format!("{own}/fsfreeze-hook"), DISPATCHER),
    ]
}

/// Writes the files of such a package below `at`; their names, the settings and hooks first.
fn stage_old(at: &Path, hooks: &str, own: &str) -> Vec<String> {
    let files = scripts_of_old(hooks, own);
    for (name, text) in &files {
        let file = at.join(name.trim_start_matches('/'));
        super::layout::create_dirs(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    files.map(|(name, _)| name).into()
}

/// An administrator's edits, and a freeze that is held; `hooks` is the directory of the hooks.
fn edit_and_freeze(root: &Root, hooks: &str) {
    root.sh(&format!(
        "echo 'echo ran >>/tmp/ran' >>{hooks}/50-mysql; echo HOLD_SECONDS=30 >>/etc/qemu/fsfreeze-db.conf
        mkdir -p /run/fsfreeze-db/session /var/lib/fsfreeze-db /var/lib/fsfreeze-postgresql
        touch /var/lib/fsfreeze-db/position /var/lib/fsfreeze-postgresql/position"
    ));
}

/// The upgrade has thawed by the old dispatcher, the thaw of that backup fails, and no hook but the new one runs.
#[track_caller]
fn is_upgraded(root: &Root, said: &str, own: &str, hooks: &str, saved: &str) {
    assert!(said.contains("a freeze is held, and thawed now"), "{said}");
    assert!(said.contains(&format!("nothing reads /etc/qemu/fsfreeze-db.conf{saved} any more")), "{said}");
    assert_eq!(root.sh("cat /tmp/called"), "thaw\n");
    let thaw = root.sh(&format!("{own}/fsfreeze-db thaw 2>&1 || echo $?"));
    assert!(thaw.ends_with("the package was upgraded\n4\n"), "{thaw}");
    assert_eq!(root.status(&format!("{own}/fsfreeze-hook")), "not locked\n");
    assert_eq!(root.sh(&format!("cd {hooks}; echo *")), format!("50-mysql{saved}\n"));
    assert_eq!(root.sh("cd /etc/qemu; echo *.conf"), "*.conf\n");
    assert_eq!(root.sh("cd /var/lib; echo fsfreeze*/*"), "fsfreeze*/*\n");
    root.sh("[ ! -e /tmp/ran ]");
}

fn the_deb_takes_the_place_of_the_scripts(release: &str) {
    const HOOKS: &str = "/etc/qemu/fsfreeze-hook.d";
    const OWN: &str = "/usr/lib/fsfreeze-hooks";
    let out = out();
    let (old, staged) = (out.path().join("old.deb"), out.path().join("staged"));
    let mut conffiles = stage_old(&staged, HOOKS, OWN);
    conffiles.pop();
    super::layout::create_dirs(&staged.join("DEBIAN")).unwrap();
    fs::write(staged.join("DEBIAN/conffiles"), conffiles.join("\n") + "\n").unwrap();
    let control =
        "Package: fsfreeze-hooks\nVersion: 0.1.0\nArchitecture: all\nMaintainer: m <m@m>\nDescription: d\n";
    fs::write(staged.join("DEBIAN/control"), control).unwrap();
    let sh = shell().unwrap();
    printed(cmd!(sh, "dpkg-deb --root-owner-group -Zxz --build {staged} {old}"));

    // The same version is an upgrade as well.
    let new = deb::build("0.1.0", out.path()).unwrap();
    let root = Root::of(release);
    let before = root.files();
    root.dpkg("-i /tmp/package.deb", &old);
    edit_and_freeze(&root, HOOKS);
    let said = root.dpkg("-i /tmp/package.deb", &new);
    is_upgraded(&root, &said, OWN, HOOKS, ".dpkg-bak");
    // Nor does the distribution's own dispatcher run what is left.
    root.sh("/etc/qemu/fsfreeze-hook freeze; [ ! -e /tmp/ran ]");
    let newer = deb::build("0.2", out.path()).unwrap();
    let said = root.dpkg("-i /tmp/package.deb", &newer);
    assert!(!said.contains("a freeze is held"), "{said}");
    root.sh("dpkg --purge fsfreeze-hooks; rm -f /var/log/qga-fsfreeze-hook.log");
    assert_eq!(root.added_since(&before), [] as [&str; 0]);
}

/// A stand-in for the program, which holds locks in the package's directory: in such a root no server runs.
const HOLDS: &str = "#!/bin/sh
case $1 in status) [ -e /tmp/held ] ;; *) echo \"$1\" >>/tmp/called; rm -f /tmp/held ;; esac
";

#[test]
fn the_deb_thaws_before_it_goes() {
    let out = out();
    let deb = deb::build("1.0", out.path()).unwrap();
    let root = Root::new();
    let hold = || {
        root.dpkg("-i /tmp/package.deb", &deb);
        let program = "/usr/lib/fsfreeze-hooks/fsfreeze-db";
        root.sh(&format!("printf '%s' '{HOLDS}' >{program}; rm -f /tmp/called; touch /tmp/held"));
    };
    for goes in ["dpkg -i /tmp/package.deb", "dpkg --remove fsfreeze-hooks", "dpkg --purge fsfreeze-hooks"] {
        hold();
        let said = root.sh(&format!("{goes} 2>&1"));
        assert!(said.contains("a freeze is held, and thawed now"), "{goes}: {said}");
        assert_eq!(root.sh("cat /tmp/called"), "thaw\n", "{goes}");
    }
    root.sh("[ ! -e /usr/lib/fsfreeze-hooks ] && [ ! -e /run/fsfreeze-db ] && [ ! -e /run/fsfreeze-hook ]");
}

#[test]
fn a_hook_that_the_administrator_named_stays() {
    let out = out();
    let deb = deb::build("1.0", out.path()).unwrap();
    let root = Root::new();
    root.sh("printf '[general]\\nfsfreeze-hook=/opt/mine\\n' >/etc/qemu/qemu-ga.conf");
    let before = root.files();
    let said = root.dpkg("-i /tmp/package.deb", &deb);
    assert!(said.contains("/etc/qemu/qemu-ga.conf names the hook /opt/mine, and that one stays"), "{said}");
    let agent = "/usr/lib/fsfreeze-hooks/start-agent /usr/sbin/qemu-ga --dump-conf | grep ^fsfreeze-hook=";
    assert_eq!(root.sh(agent), "fsfreeze-hook=/opt/mine\n");
    root.sh("dpkg --purge fsfreeze-hooks");
    assert_eq!(root.added_since(&before), [] as [&str; 0]);
}

/// The units as those distributions have them, as far as the package's script looks at them.
const RHEL: &str = "[Service]
EnvironmentFile=/etc/sysconfig/qemu-ga
ExecStart=/usr/bin/qemu-ga --method=virtio-serial -F${FSFREEZE_HOOK_PATHNAME}
";
const SUSE: &str = "[Service]
ExecStart=-/usr/bin/qemu-ga -p /dev/virtio-ports/org.qemu.guest_agent.0 ${FILTER_RPC_ARGS}
";

/// A root whose agent's unit is this one.
fn rpm_root(unit: &str, sysconfig: &str) -> Root {
    rpm_root_of("bookworm", unit, sysconfig)
}

fn rpm_root_of(release: &str, unit: &str, sysconfig: &str) -> Root {
    let root = Root::of(release);
    root.sh(&format!(
        "mkdir -p /etc/sysconfig /usr/share/licenses /usr/lib/systemd/system; ln -s /usr/sbin/qemu-ga /usr/bin/qemu-ga
        printf '%s' '{unit}' >/usr/lib/systemd/system/qemu-guest-agent.service
        printf '%s' '{sysconfig}' >/etc/sysconfig/qemu-ga"
    ));
    root
}

/// Installs and removes the rpm; returns what it said, and where its override leads while it is there.
#[track_caller]
fn rpm_comes_and_goes(root: &Root) -> (String, String) {
    let out = out();
    let package = rpm::build("1.0", out.path()).unwrap();
    let before = root.files();
    let said = root.rpm(&["--nodeps", "--install", package.to_str().unwrap()]);
    let dropin = "/usr/lib/systemd/system/qemu-guest-agent.service.d/00-fsfreeze-hooks.conf";
    let file = root.sh(&format!("sed -n 's/^EnvironmentFile=//p' {dropin} | xargs cat"));
    assert_eq!(file, "FSFREEZE_HOOK_PATHNAME=/usr/libexec/fsfreeze-hooks/fsfreeze-hook\n");
    root.sh("test -x /usr/libexec/fsfreeze-hooks/fsfreeze-hook");
    assert_eq!(root.status("/usr/libexec/fsfreeze-hooks/fsfreeze-hook"), "not locked\n");
    let place = "/etc/systemd/system/qemu-guest-agent.service.d/00-fsfreeze-hooks.conf";
    let leads_to = root.sh(&format!("readlink {place} || true")).trim().to_owned();
    root.sh("mkdir /var/lib/fsfreeze-db");
    root.rpm(&["--nodeps", "--erase", "fsfreeze-hooks"]);
    // rpm keeps an edited file under another name; nothing was edited here.
    assert_eq!(root.added_since(&before), [] as [&str; 0]);
    (said, leads_to)
}

#[test]
fn the_rpm_comes_and_goes_on_rhel() {
    let root = rpm_root(RHEL, "FSFREEZE_HOOK_PATHNAME=/etc/qemu-ga/fsfreeze-hook\n");
    let (said, leads_to) = rpm_comes_and_goes(&root);
    assert!(!said.contains("stays"), "{said}");
    assert_eq!(leads_to, "");
}

#[test]
fn an_rpm_upgrade_keeps_what_was_edited() {
    let out = out();
    let root = rpm_root(RHEL, "");
    let upgrade = |version: &str| {
        let package = rpm::build(version, out.path()).unwrap();
        root.rpm(&["--nodeps", "--upgrade", package.to_str().unwrap()])
    };
    upgrade("1.0");
    root.sh("echo hold_seconds = 30 >>/etc/qemu/fsfreeze-db.toml; mkdir /var/lib/fsfreeze-db");
    root.sh(&format!("printf '%s' '{HOLDS}' >/usr/libexec/fsfreeze-hooks/fsfreeze-db; touch /tmp/held"));
    let said = upgrade("1.1");
    assert!(said.contains("a freeze is held, and thawed now"), "{said}");
    assert_eq!(root.sh("cat /tmp/called"), "thaw\n");
    root.sh("grep 'hold_seconds = 30' /etc/qemu/fsfreeze-db.toml; test -d /var/lib/fsfreeze-db");
    root.sh(&format!("printf '%s' '{HOLDS}' >/usr/libexec/fsfreeze-hooks/fsfreeze-db; touch /tmp/held"));
    let said = root.rpm(&["--nodeps", "--erase", "fsfreeze-hooks"]);
    assert!(said.contains("a freeze is held, and thawed now"), "{said}");
    root.sh("grep 'hold_seconds = 30' /etc/qemu/fsfreeze-db.toml.rpmsave");
}

fn the_rpm_takes_the_place_of_the_scripts(release: &str) {
    const HOOKS: &str = "/etc/qemu-ga/fsfreeze-hook.d";
    const OWN: &str = "/usr/libexec/fsfreeze-hooks";
    let out = out();
    let staged = out.path().join("staged");
    let mut files = stage_old(&staged, HOOKS, OWN);
    let dispatcher = files.pop().unwrap();
    let config: String = files.iter().map(|file| format!("%config(noreplace) {file}\n")).collect();
    let spec = format!(
        "Name: fsfreeze-hooks\nVersion: 0.1.0\nRelease: 1\nSummary: s\nLicense: l\nBuildArch: noarch\n\
         AutoReqProv: no\n%description\n%install\ncp -a %{{staged}}/. %{{buildroot}}/\n\
         %files\n%defattr(-,root,root)\n{config}{dispatcher}\n"
    );
    fs::write(out.path().join("old.spec"), spec).unwrap();
    let at = |name: &str| out.path().join(name).display().to_string();
    let sh = shell_in(out.path()).unwrap();
    let mut rpmbuild = sh.cmd("rpmbuild").args(["--quiet", "--target", "noarch", "-bb", "old.spec"]);
    for (name, value) in [
        ("_topdir", at("top")),
        ("_dbpath", at("database")),
        ("_rpmdir", at("old")),
        ("_rpmfilename", "old.rpm".to_owned()),
        ("staged", staged.display().to_string()),
        ("__os_install_post", "%{nil}".to_owned()),
    ] {
        rpmbuild = rpmbuild.args(["--define".to_owned(), format!("{name} {value}")]);
    }
    printed(rpmbuild);

    let new = rpm::build("0.1.1", out.path()).unwrap();
    let root = rpm_root_of(release, RHEL, "");
    root.rpm(&["--nodeps", "--install", &at("old/old.rpm")]);
    edit_and_freeze(&root, HOOKS);
    let said = root.rpm(&["--nodeps", "--upgrade", new.to_str().unwrap()]);
    is_upgraded(&root, &said, OWN, HOOKS, ".rpmsave");
}

/// The commands that follow these words in docs/hooks.md.
fn commands_after(words: &str) -> String {
    let page = fs::read_to_string(host::repository().join("docs/hooks.md")).unwrap();
    let (_, rest) = page.split_once(words).unwrap();
    let (_, rest) = rest.split_once("```sh\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_page_installs_by_hand() {
    // What no such root has.
    let stubs = "systemctl() { :; }; restorecon() { :; }; setsebool() { :; }; cd /tmp/freezeframe";
    let by_hand = |root: &Root, words: &str| {
        let from = host::repository().join("images/hooks/freezeframe");
        let (sh, to) = (shell().unwrap(), root.dir.path().join("tmp"));
        printed(cmd!(sh, "cp -r {from} {to}"));
        let program = hook_program::path();
        printed(cmd!(sh, "cp {program} {to}/freezeframe"));
        root.sh(&format!("{stubs}\n{}", commands_after(words)));
    };

    let debian = Root::new();
    by_hand(&debian, "Debian, Ubuntu, openSUSE:");
    let hook = debian.sh("qemu-ga --dump-conf | sed -n s/^fsfreeze-hook=//p");
    assert_eq!(debian.status(hook.trim()), "not locked\n");

    let rhel = rpm_root(RHEL, "BLACKLIST_RPC=x\nFSFREEZE_HOOK_PATHNAME=/etc/qemu-ga/fsfreeze-hook\n");
    by_hand(&rhel, "Fedora, RHEL family (unverified here):");
    let hook = rhel.sh("sed -n s/^FSFREEZE_HOOK_PATHNAME=//p /etc/sysconfig/qemu-ga");
    assert_eq!(rhel.status(hook.trim()), "not locked\n");
}

#[test]
fn the_rpm_leaves_another_hook_in_charge_on_rhel() {
    let root = rpm_root(RHEL, "FSFREEZE_HOOK_PATHNAME=/opt/mine\n");
    let (said, leads_to) = rpm_comes_and_goes(&root);
    assert!(said.contains("/etc/sysconfig/qemu-ga names the hook /opt/mine, and that one stays"), "{said}");
    assert_eq!(leads_to, "/dev/null");
}

#[test]
fn the_rpm_comes_and_goes_on_suse() {
    let root = rpm_root(SUSE, "");
    let (said, leads_to) = rpm_comes_and_goes(&root);
    assert!(!said.contains("stays"), "{said}");
    assert_eq!(leads_to, "/usr/libexec/fsfreeze-hooks/agent-suse.conf");
}

/// The texts in the code of a Rust file, without those of its tests.
fn texts(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap();
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let source = lines.collect::<Vec<_>>().join("\n").replace("'\"'", "");
    let mut texts = Vec::new();
    let mut rest = source.as_str();
    while let Some((_, after)) = rest.split_once('"') {
        let mut escaped = false;
        let end = after.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let (text, after) = after.split_at(end.unwrap());
        rest = &after[1..];
        // What somebody else may say is compared with it.
        if ["=>", "| \""].iter().any(|next| rest.trim_start().starts_with(next)) {
            continue;
        }
        let lines: Vec<_> = text.split("\\\n").map(str::trim_start).collect();
        texts.push(if lines.len() > 1 { lines.concat() } else { text.to_owned() }.replace("\\\"", "\""));
    }
    texts
}

/// The words of every message among these texts, without what it puts in. Statements for servers begin with
/// a capital letter.
fn messages_of_program(source: &str) -> Vec<String> {
    let is_message =
        |text: &&String| !text.starts_with(|c: char| c.is_ascii_uppercase()) && !text.starts_with("usage: ");
    let mut words = Vec::new();
    for text in texts(source).iter().filter(is_message) {
        let text = ["fsfreeze-db: ", "fsfreeze-hook: "]
            .iter()
            .find_map(|name| text.strip_prefix(name))
            .unwrap_or(text);
        for piece in
            text.split('{').flat_map(|part| part.split_once('}').map_or(part, |(_, rest)| rest).split('\n'))
        {
            let piece = piece.trim_matches(|c: char| c.is_whitespace() || ".,;:(".contains(c));
            if piece.len() >= 8 && piece.contains(' ') && piece.starts_with(|c: char| c.is_ascii_alphabetic())
            {
                words.push(piece.to_owned());
            }
        }
    }
    // Names of settings, with a value each.
    words.retain(|word| !word.ends_with('='));
    words
}

/// Every file of the program.
fn sources_of_program(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.into_iter().chain(directories.iter().flat_map(|path| sources_of_program(path))).collect()
}

#[test]
fn the_page_tells_what_to_do_about_every_message() {
    let page = fs::read_to_string(host::repository().join("docs/hooks.md")).unwrap();
    let sources = sources_of_program(&host::repository().join("images/hooks/fsfreeze-db/src"));
    let messages = sources.iter().flat_map(|file| messages_of_program(&fs::read_to_string(file).unwrap()));
    let messages: Vec<_> = messages.collect();
    assert!(messages.len() >= 40, "{messages:?}");
    let unknown: Vec<_> = messages.iter().filter(|message| !page.contains(message.as_str())).collect();
    assert!(unknown.is_empty(), "what docs/hooks.md does not explain: {unknown:?}");
}

#[test]
fn messages_of_the_program_are_found_without_what_they_hold() {
    let source = "//! \"not this one\"\nfn f(c: char) {\n    if c == '\"' { ask(\"SELECT 1 FROM t\") }\n    \
                  says(\"{name} is \\\"gone\\\" for {} s: \\\n         look for it\");\n}\n#[cfg(test)]\nmod tests { \"nor this one\" }";
    assert_eq!(messages_of_program(source), ["is \"gone\" for", "s: look for it"]);
}
