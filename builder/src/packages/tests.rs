//! The packages: what is in them, and what they do to a system that they come to and leave again.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the lint knows only test functions")]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tooling::command::{self, NamespaceRoot, shell, shell_in};
use tooling::host;
use xshell::{Cmd, cmd};

use super::{deb, packages_dir, rpm};

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
        let this = Self { dir: out() };
        let (sh, archive, dir) = (shell().unwrap(), bookworm(), this.dir.path());
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
        printed(chroot.env("PATH", "/usr/sbin:/usr/bin").env("DEBIAN_FRONTEND", "noninteractive"))
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

/// The archive of such a system, made once and kept.
fn bookworm() -> PathBuf {
    let kept = packages_dir().join(".roots");
    fs::create_dir_all(&kept).unwrap();
    let lock = fs::File::create(kept.join("lock")).unwrap();
    lock.lock().unwrap();
    let archive = kept.join("bookworm.tar");
    if !archive.is_file() {
        let sh = shell_in(&kept).unwrap();
        let mmdebstrap = crate::apt_index::mmdebstrap(&sh).unwrap();
        let mmdebstrap =
            mmdebstrap.args(["--variant=essential", "--include=qemu-guest-agent", "--format=tar"]);
        let mmdebstrap =
            mmdebstrap.args(["--dpkgopt=force-unsafe-io", "--aptopt=APT::Install-Recommends \"false\""]);
        printed(mmdebstrap.args(["bookworm", "new.tar"]));
        fs::rename(kept.join("new.tar"), &archive).unwrap();
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
-rw-r--r-- root/root /etc/qemu/fsfreeze-db.conf
drwxr-xr-x root/root /etc/qemu/fsfreeze-hook.d/
-rwxr-xr-x root/root /etc/qemu/fsfreeze-hook.d/40-postgresql
-rwxr-xr-x root/root /etc/qemu/fsfreeze-hook.d/50-mysql
-rw-r--r-- root/root /etc/qemu/fsfreeze-postgresql.conf
drwxr-xr-x root/root /usr/
drwxr-xr-x root/root /usr/lib/
drwxr-xr-x root/root /usr/lib/fsfreeze-hooks/
-rwxr-xr-x root/root /usr/lib/fsfreeze-hooks/fsfreeze-hook
lrwxrwxrwx root/root /usr/lib/fsfreeze-hooks/fsfreeze-hook.d -> /etc/qemu/fsfreeze-hook.d
-rwxr-xr-x root/root /usr/lib/fsfreeze-hooks/start-agent
drwxr-xr-x root/root /usr/lib/systemd/
drwxr-xr-x root/root /usr/lib/systemd/system/
drwxr-xr-x root/root /usr/lib/systemd/system/qemu-guest-agent.service.d/
-rw-r--r-- root/root /usr/lib/systemd/system/qemu-guest-agent.service.d/00-fsfreeze-hooks.conf
drwxr-xr-x root/root /usr/share/
drwxr-xr-x root/root /usr/share/doc/
drwxr-xr-x root/root /usr/share/doc/fsfreeze-hooks/
-rw-r--r-- root/root /usr/share/doc/fsfreeze-hooks/copyright
-rw-r--r-- root/root /usr/share/doc/fsfreeze-hooks/hooks.md
";
    assert_eq!(contents(&listing, &[1]), expected);
    let sh = shell().unwrap();
    let field = |name: &str| printed(cmd!(sh, "dpkg-deb --field {deb} {name}"));
    assert_eq!(field("Version").trim(), "1.0");
    assert_eq!(field("Architecture").trim(), "all");
    let conffiles = printed(cmd!(sh, "dpkg-deb --info {deb} conffiles"));
    let expected = "/etc/qemu/fsfreeze-hook.d/40-postgresql\n/etc/qemu/fsfreeze-hook.d/50-mysql\n\
        /etc/qemu/fsfreeze-db.conf\n/etc/qemu/fsfreeze-postgresql.conf\n";
    assert_eq!(conffiles, expected);
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
-rwxr-xr-x root/root /etc/qemu-ga/fsfreeze-hook.d/40-postgresql
-rwxr-xr-x root/root /etc/qemu-ga/fsfreeze-hook.d/50-mysql
-rw-r--r-- root/root /etc/qemu/fsfreeze-db.conf
-rw-r--r-- root/root /etc/qemu/fsfreeze-postgresql.conf
-rw-r--r-- root/root /etc/systemd/system/qemu-guest-agent.service.d/00-fsfreeze-hooks.conf
drwxr-xr-x root/root /usr/lib/systemd/system/qemu-guest-agent.service.d
-rw-r--r-- root/root /usr/lib/systemd/system/qemu-guest-agent.service.d/00-fsfreeze-hooks.conf
drwxr-xr-x root/root /usr/libexec/fsfreeze-hooks
-rw-r--r-- root/root /usr/libexec/fsfreeze-hooks/agent-suse.conf
-rw-r--r-- root/root /usr/libexec/fsfreeze-hooks/environment
-rwxr-xr-x root/root /usr/libexec/fsfreeze-hooks/fsfreeze-hook
lrwxrwxrwx root/root /usr/libexec/fsfreeze-hooks/fsfreeze-hook.d -> /etc/qemu-ga/fsfreeze-hook.d
-rwxr-xr-x root/root /usr/libexec/fsfreeze-hooks/start-agent
drwxr-xr-x root/root /usr/share/doc/fsfreeze-hooks
-rw-r--r-- root/root /usr/share/doc/fsfreeze-hooks/copyright
-rw-r--r-- root/root /usr/share/doc/fsfreeze-hooks/hooks.md
";
    assert_eq!(contents(&query(&["-qplv"]), &[2, 3]), expected);
    assert_eq!(query(&["-qp", "--queryformat", "%{VERSION}-%{RELEASE}.%{ARCH}"]), "1.0-1.noarch");
    let config = query(&["-qp", "--configfiles"]);
    let expected = "/etc/qemu-ga/fsfreeze-hook.d/40-postgresql\n/etc/qemu-ga/fsfreeze-hook.d/50-mysql\n\
        /etc/qemu/fsfreeze-db.conf\n/etc/qemu/fsfreeze-postgresql.conf\n";
    assert_eq!(config, expected);
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
    let scripts = ["start-agent", "deb/postinst", "deb/postrm", "rpm/post", "rpm/postun"];
    let sh = shell().unwrap();
    printed(sh.cmd("shellcheck").args(["-s", "sh"]).args(scripts.map(|script| from.join(script))));
}

#[test]
fn the_deb_comes_and_goes_without_a_trace() {
    const CONFFILES: [&str; 4] = [
        "/etc/qemu/fsfreeze-db.conf",
        "/etc/qemu/fsfreeze-hook.d/40-postgresql",
        "/etc/qemu/fsfreeze-hook.d/50-mysql",
        "/etc/qemu/fsfreeze-postgresql.conf",
    ];
    let out = out();
    let deb = deb::build("1.0", out.path()).unwrap();
    let newer = deb::build("1.1", out.path()).unwrap();
    let root = Root::new();
    let before = root.files();

    let agent = "/usr/lib/fsfreeze-hooks/start-agent /usr/sbin/qemu-ga --dump-conf | grep ^fsfreeze-hook=";
    assert!(!root.dpkg("-i /tmp/package.deb", &deb).contains("stays"));
    assert_eq!(root.sh(agent), "fsfreeze-hook=/usr/lib/fsfreeze-hooks/fsfreeze-hook\n");
    // The dispatcher finds the hooks; here they find no server.
    let said = root.sh("cd /; rm -rf /run/fsfreeze-*; /usr/lib/fsfreeze-hooks/fsfreeze-hook freeze; cat /run/fsfreeze-hook/log");
    assert!(said.contains("no database server runs"), "{said}");

    root.sh("echo HOLD_SECONDS=30 >>/etc/qemu/fsfreeze-db.conf; echo '# mine' >>/etc/qemu/fsfreeze-hook.d/50-mysql");
    root.dpkg("-i /tmp/package.deb", &deb);
    root.dpkg("-i /tmp/package.deb", &newer);
    assert_eq!(root.sh("dpkg-query -f '${Version}' -W fsfreeze-hooks"), "1.1");
    root.sh("grep HOLD_SECONDS=30 /etc/qemu/fsfreeze-db.conf; grep mine /etc/qemu/fsfreeze-hook.d/50-mysql");

    root.sh("dpkg --remove fsfreeze-hooks");
    root.sh("rm -rf /run/fsfreeze-*");
    assert_eq!(root.added_since(&before), CONFFILES);
    // What is left is configured again by an installation, with the edits.
    root.dpkg("-i /tmp/package.deb", &newer);
    root.sh("grep HOLD_SECONDS=30 /etc/qemu/fsfreeze-db.conf");
    root.sh("mkdir /var/lib/fsfreeze-db /var/lib/fsfreeze-db@two /var/lib/fsfreeze-postgresql; dpkg --purge fsfreeze-hooks");
    assert_eq!(root.added_since(&before), [] as [&str; 0]);
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
    let root = Root::new();
    root.sh(&format!(
        "mkdir -p /etc/sysconfig; ln -s /usr/sbin/qemu-ga /usr/bin/qemu-ga
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
    root.sh("test -x /usr/libexec/fsfreeze-hooks/fsfreeze-hook.d/50-mysql");
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
        root.rpm(&["--nodeps", "--upgrade", package.to_str().unwrap()]);
    };
    upgrade("1.0");
    root.sh("echo HOLD_SECONDS=30 >>/etc/qemu/fsfreeze-db.conf; mkdir /var/lib/fsfreeze-db");
    upgrade("1.1");
    root.sh("grep HOLD_SECONDS=30 /etc/qemu/fsfreeze-db.conf; test -d /var/lib/fsfreeze-db");
    root.rpm(&["--nodeps", "--erase", "fsfreeze-hooks"]);
    root.sh("grep HOLD_SECONDS=30 /etc/qemu/fsfreeze-db.conf.rpmsave");
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
        root.sh(&format!("{stubs}\n{}", commands_after(words)));
    };
    let finds_its_hooks = |root: &Root, hook: &str| {
        let said = root.sh(&format!("{hook} freeze; cat /run/fsfreeze-hook/log"));
        assert!(said.contains("no database server runs"), "{said}");
    };

    let debian = Root::new();
    by_hand(&debian, "Debian, Ubuntu, openSUSE:");
    let hook = debian.sh("qemu-ga --dump-conf | sed -n s/^fsfreeze-hook=//p");
    finds_its_hooks(&debian, hook.trim());

    let rhel = rpm_root(RHEL, "BLACKLIST_RPC=x\nFSFREEZE_HOOK_PATHNAME=/etc/qemu-ga/fsfreeze-hook\n");
    by_hand(&rhel, "Fedora, RHEL family (unverified here):");
    let hook = rhel.sh("sed -n s/^FSFREEZE_HOOK_PATHNAME=//p /etc/sysconfig/qemu-ga");
    finds_its_hooks(&rhel, hook.trim());
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

/// The words of every message in a script, without what it puts in.
fn messages(script: &str) -> Vec<String> {
    let calls = ["die \"", "tell \"", "note \"", "why=\""];
    let texts = calls.iter().flat_map(|call| script.split(call).skip(1));
    let texts: Vec<_> = texts.map(|text| text.split('"').next().unwrap().replace('\\', "")).collect();
    let mut words = Vec::new();
    for text in &texts {
        words.push(text.split('$').next().unwrap());
        for after in text.split('$').skip(1) {
            words.push(match after.strip_prefix(['{', '(']) {
                Some(inner) => inner.split_once(['}', ')']).map_or("", |(_, rest)| rest),
                // The brace is that of an expansion around this one.
                None => after
                    .trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
                    .trim_start_matches('}'),
            });
        }
    }
    words.into_iter().map(|word| word.trim().to_owned()).filter(|word| word.len() >= 8).collect()
}

#[test]
fn the_page_tells_what_to_do_about_every_message() {
    let page = fs::read_to_string(host::repository().join("docs/hooks.md")).unwrap();
    for script in ["fsfreeze-hook", "fsfreeze-hook.d/50-mysql", "fsfreeze-hook.d/40-postgresql"] {
        let script = host::repository().join("images/hooks/freezeframe").join(script);
        let messages = messages(&fs::read_to_string(&script).unwrap());
        assert!(messages.len() >= 7, "{messages:?}");
        let unknown: Vec<_> = messages.iter().filter(|message| !page.contains(message.as_str())).collect();
        assert!(
            unknown.is_empty(),
            "{} says what docs/hooks.md does not explain: {unknown:?}",
            script.display()
        );
    }
}

#[test]
fn messages_are_found_without_what_they_hold() {
    let script = r#"die "servers run in $server_dir and in ${dir:-x}: each needs one"; why="cannot look: $(answer LONG) s""#;
    assert_eq!(messages(script), ["servers run in", ": each needs one", "cannot look:"]);
}
