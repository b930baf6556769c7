//! An image that the RPM family's builder made, in a trial. No distribution of
//! that family can be had everywhere, so a Debian root is packed into RPMs with
//! the names that the layers ask for, and built, customized and booted from those.

use std::fs;
use std::process::Stdio;

use contract::grade::{Grade, Outcome};
use contract::run::{RUN_DIR_VAR, RunOptions};
use judge::verdict::Verdict;
use tooling::command::{self, NamespaceRoot, shell, shell_in};
use tooling::{cargo, host};
use xshell::cmd;

use super::super::super::apt_index::mmdebstrap;
use super::{NAME, Spec, World, succeed};

/// It asks for a processor that programs for x86-64-v3 run on, as EL 10 does.
const DEFINITION: &str = r#"summary = "s"
family = "rpm"
distro = "almalinux"
release = "12"
database = "mariadb"
memory_mib = 512
cpu = "Haswell-noTSX"

[[repository]]
name = "made"
url = "file://REPOSITORY"

[[disk]]
target = "vda"
mount = "/"
fs = "ext4"
size_mib = 2048
"#;

/// What the RPMs are made of.
const PACKAGES: &str = "dbus,dracut-core,iproute2,linux-image-cloud-amd64,mariadb-server,procps,qemu-guest-agent,\
    systemd,systemd-sysv,udev";

/// What makes it look like the RPM family: where the agent is, where the server
/// reads its configuration, and that it has made no database yet.
const DISGUISE: &str = r#"
cd "$1"
ln -s ../sbin/qemu-ga usr/bin/qemu-ga
mkdir etc/my.cnf.d
echo '!includedir /etc/my.cnf.d/' >>etc/mysql/mariadb.cnf
rm -rf var/lib/mysql/* var/cache/apt/* var/lib/apt/lists/* usr/share/doc usr/share/man usr/share/locale
find . -xdev -printf '%y %m %U %G /%P\n' >"$2"
"#;

/// The lines of %files for what `find` has listed. Owners that are not root must
/// be known before their files come, and so go by their number's name.
fn file_list(listing: &str, passwd: &str, group: &str) -> String {
    let name = |table: &str, id: &str| {
        let entry = table.lines().find(|line| line.split(':').nth(2) == Some(id));
        entry.and_then(|line| line.split(':').next()).unwrap_or("root").to_owned()
    };
    let mut list = String::new();
    for line in listing.lines() {
        let [kind, mode, user, of, path] = line.splitn(5, ' ').collect::<Vec<_>>()[..] else { continue };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._+@:,=~-".contains(&b);
        // rpmbuild reads some characters as patterns; what has them is not missed.
        if path == "/" || !path.bytes().all(plain) || ["/etc/passwd", "/etc/group"].contains(&path) {
            continue;
        }
        let (user, of) = (name(passwd, user), name(group, of));
        list.push_str(&match kind {
            "d" => format!("%dir %attr({mode},{user},{of}) {path}\n"),
            "f" if path.starts_with("/etc/") => {
                format!("%config(noreplace) %attr({mode},{user},{of}) {path}\n")
            }
            "f" => format!("%attr({mode},{user},{of}) {path}\n"),
            "l" => format!("%attr(-,root,root) {path}\n"),
            _ => continue,
        });
    }
    list
}

impl World {
    /// Packs a Debian root into the repository.
    fn publish_debian(&self) {
        let sh = shell_in(&self.at("")).unwrap();
        let as_root = NamespaceRoot(&sh);
        let debian = mmdebstrap(&sh).unwrap();
        let debian = debian.args(["--variant=minbase", &format!("--include={PACKAGES}"), "--format=tar"]);
        succeed(debian.args(["bookworm", "debian.tar"]));
        let (staged, listing) = (self.at("staged"), self.at("listing"));
        succeed(cmd!(
            as_root,
            "tar --extract --file debian.tar --directory staged --numeric-owner --preserve-permissions --exclude=./dev/*"
        ));
        succeed(cmd!(as_root, "sh -euc {DISGUISE} sh {staged} {listing}"));

        let read = |path: &str| fs::read_to_string(self.at(path)).unwrap();
        let list = file_list(&read("listing"), &read("staged/etc/passwd"), &read("staged/etc/group"));
        let mut spec = Spec::new(1);
        spec.add("bash", "/etc/passwd\n/etc/group\n", "");
        spec.add("coreutils", &list, "");
        for name in ["dracut", "dbus", "e2fsprogs", "findutils", "gawk", "grep", "iproute"] {
            spec.add(name, "", "");
        }
        for name in ["kernel-core", "mariadb-server", "procps-ng", "qemu-guest-agent", "sed", "shadow-utils"]
        {
            spec.add(name, "", "");
        }
        for name in ["systemd", "systemd-udev", "util-linux"] {
            spec.add(name, "", "");
        }
        self.publish(&spec);
    }
}

#[test]
#[ignore = "boots guests, and downloads the packages of one"]
fn a_guest_of_the_rpm_family_passes_a_quiesced_trial() {
    let world = World::new(DEFINITION);
    world.publish_debian();
    let (_, manifest) = world.build().unwrap();
    assert_eq!(manifest.cpu.as_deref(), Some("Haswell-noTSX"));

    let repository = host::repository();
    let dir = repository.join("target/e2e").join(format!("rpm-{}", std::process::id()));
    let options = RunOptions {
        filters: vec!["core/quiesced-snapshot".to_owned()],
        images: vec![NAME.to_owned()],
        every_image: true,
        cold: true,
        definitions: world.at("images"),
        built: world.at("built"),
        ..RunOptions::of(repository, dir)
    };
    options.write().unwrap();
    let program = cargo::build_trials("e2e").unwrap();
    let sh = shell().unwrap();
    let trials = sh.cmd(program).env(RUN_DIR_VAR, &options.dir);
    let status = command::status(trials, Stdio::null(), Stdio::inherit()).unwrap();

    let [request] = options.trials().unwrap().try_into().expect("one trial");
    let verdict = Verdict::read(&options.trial_dir(&request.name)).unwrap();
    assert_eq!(verdict.outcome, Outcome::Pass, "{}: {:?}", verdict.reason, verdict.unmet);
    assert_eq!(verdict.grade, Grade::ApplicationConsistent);
    assert!(status.success());
    // Of a trial that failed everything stays.
    fs::remove_dir_all(&options.dir).unwrap();
    let staged = world.at("staged");
    succeed(cmd!(NamespaceRoot(&sh), "rm -rf {staged}"));
}
