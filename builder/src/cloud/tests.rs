//! A vendor's disk from the download to the verdict. The disk is made here, with
//! partitions and a boot loader as vendors have them, and served on loopback.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use contract::grade::{Grade, Outcome};
use contract::image::{Boot, Definition, Manifest};
use contract::run::{RUN_DIR_VAR, RunOptions};
use judge::verdict::Verdict;
use tooling::cargo;
use tooling::command::{self, shell};
use tooling::host;
use xshell::cmd;

use super::fetch::digest;
use super::serve::{Served, Server};
use crate::recipe::Recipe;
use crate::store::Store;
use crate::{available, build};

/// Where these tests keep what takes minutes to make.
fn kept() -> PathBuf {
    host::repository().join("target/vendor")
}

/// The vendor's disk, made by the first test that needs it.
fn disk() -> PathBuf {
    let dir = kept().join("disk");
    let disk = dir.join("disk.qcow2");
    if !disk.is_file() {
        let scratch = kept().join("tmp-disk");
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir_all(&scratch).unwrap();
        let script = host::repository().join("builder/src/cloud/vendor.sh");
        let sh = shell().unwrap();
        command::read(cmd!(sh, "sh {script} {scratch}")).unwrap();
        fs::rename(&scratch, &dir).unwrap();
    }
    disk
}

/// A folder of definitions with the layers and hooks of this repository.
fn definitions() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["layers", "hooks"] {
        symlink(host::repository().join("images").join(name), dir.path().join(name)).unwrap();
    }
    dir
}

const DEFINITION: &str = "summary = \"A vendor's disk\"\nfamily = \"deb\"\ndistro = \"debian\"\nrelease = \"bookworm\"\n\
    database = \"mariadb\"\nmemory_mib = 512\n";

/// Builds `name` of such a folder.
fn built(definitions: &Path, name: &str) -> Result<Manifest, String> {
    let store = Store::open(kept().join("images")).unwrap();
    let definition = Definition::named(definitions, name).map_err(|e| e.to_string())?;
    let recipe = Recipe::load(definitions, definition).map_err(|e| e.to_string())?;
    available::refresh(&store, std::slice::from_ref(&recipe)).map_err(|e| e.to_string())?;
    let locked = store.lock().unwrap();
    build::bring_up_to_date(&locked, &recipe).map_err(|e| e.to_string())?;
    Manifest::read(&kept().join("images"), name).map_err(|e| e.to_string())
}

/// Runs these trials on `name`, and reads their verdicts.
fn verdicts(definitions: &Path, name: &str, filters: &[&str]) -> Vec<Verdict> {
    let repository = host::repository();
    let dir = repository.join("target/e2e").join(format!("{name}-{}", std::process::id()));
    let options = RunOptions {
        filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
        images: vec![name.to_owned()],
        every_image: true,
        definitions: definitions.to_owned(),
        built: kept().join("images"),
        ..RunOptions::of(repository, dir)
    };
    options.write().unwrap();
    let program = cargo::build_trials("e2e").unwrap();
    let sh = shell().unwrap();
    let trials = cmd!(sh, "{program} --test-threads=1").env(RUN_DIR_VAR, &options.dir);
    command::status(trials, Stdio::inherit(), Stdio::inherit()).unwrap();
    let requests = options.trials().unwrap();
    assert_eq!(requests.len(), filters.len());
    let verdicts =
        requests.iter().map(|request| Verdict::read(&options.trial_dir(&request.name)).unwrap()).collect();
    fs::remove_dir_all(&options.dir).unwrap();
    verdicts
}

#[test]
#[ignore = "makes a vendor's disk and boots guests, which takes root and minutes"]
fn a_vendors_disk_gives_the_same_verdicts_as_our_own() {
    // Nothing that an earlier run has fetched or built.
    let _ = fs::remove_dir_all(kept().join("images/.store/cloud"));
    let _ = Store::open(kept().join("images")).unwrap().clean(&["cloud".to_owned()], |_| ());
    let content = fs::read(disk()).unwrap();
    let half = content.len() / 2;
    let server = Server::start(Served { content, cuts: vec![half], ..Served::default() });
    let definitions = definitions();
    let text = format!(
        "{DEFINITION}[cloud_image]\nurl = \"{}\"\nsha256 = \"{}\"\nsize_mib = 2560\n",
        server.url,
        digest(&disk()).unwrap()
    );
    fs::write(definitions.path().join("cloud.toml"), text).unwrap();
    let manifest = built(definitions.path(), "cloud").unwrap();
    assert_eq!(server.requests(), [0, half]);
    assert_eq!(manifest.boot, Boot::Firmware);
    let [disk] = manifest.disks.as_slice() else { panic!("{:?}", manifest.disks) };
    let [root] = disk.file_systems.as_slice() else { panic!("{:?}", disk.file_systems) };
    assert_eq!((root.name.as_str(), root.start), ("vda1", 8192 * 512));
    assert!(root.bytes > 2500 << 20, "{root:?}");

    let verdicts = verdicts(
        definitions.path(),
        "cloud",
        &["core/no-hook::cloud::none", "core/quiesced-snapshot::cloud::freezeframe"],
    );
    assert_eq!(verdicts[1].grade, Grade::ApplicationConsistent, "{verdicts:?}");
    assert!(verdicts.iter().all(|verdict| verdict.outcome == Outcome::Pass), "{verdicts:?}");
}

/// The definition of the vendor's built disk as somebody's own, with these claims of it.
fn existing(definitions: &Path, name: &str, claims: &str) {
    let image = kept().join("images/cloud");
    let text = format!(
        "{DEFINITION}[existing]\nfile = \"{0}/vda.raw\"\npassword_file = \"{0}/load.secret\"\n{claims}",
        image.canonicalize().unwrap().display()
    );
    fs::write(definitions.join(format!("{name}.toml")), text).unwrap();
}

/// Wants the image that the test above has built.
#[test]
#[ignore = "boots guests, which takes root and minutes"]
fn the_users_own_disk_is_held_against_its_claims() {
    let definitions = definitions();
    let definitions = definitions.path();
    for name in ["own", "wrong"] {
        // What an earlier run has built; mostly there is none.
        let _ = Store::open(kept().join("images")).unwrap().clean(&[name.to_owned()], |_| ());
    }
    existing(definitions, "own", "agent_version = \"7.2\"\nserver_version = \"10.11\"\n");
    let manifest = built(definitions, "own").unwrap();
    assert_eq!(manifest.server.datadir, Path::new("/var/lib/mysql"));
    assert!(manifest.versions["qemu-guest-agent"].starts_with("7.2."), "{:?}", manifest.versions);
    assert_eq!(manifest.boot, Boot::Firmware);

    let agent =
        "[existing.agent]\nunit = \"AGENT\"\nhook = \"HOOK\"\nenabled_by = \"/etc/qemu/qemu-ga.conf\"\n";
    let server = "[existing.server]\nunit = \"mariadb.service\"\nbinlogs = \"BINLOGS\"\nport = 3306\nuser = \"USER\"\n";
    // Claims that one boot can distinguish go together.
    let claims = format!("agent_version = \"7.20\"\nserver_version = \"10.1\"\n{agent}{server}")
        .replace("AGENT", "ga.service")
        .replace("HOOK", "/etc/hook")
        .replace("BINLOGS", "/var/log/mysql")
        .replace("USER", "freezeframe");
    existing(definitions, "wrong", &claims);
    let file = definitions.join("wrong.toml");
    let text = fs::read_to_string(&file).unwrap();
    let text = text
        .replace("\"mariadb\"", "\"mysql\"")
        .replace("\"bookworm\"", "\"trixie\"")
        .replace("\"debian\"", "\"ubuntu\"");
    fs::write(&file, text).unwrap();
    let error = built(definitions, "wrong").unwrap_err();
    let version = &manifest.versions["qemu-guest-agent"];
    let mut lines = error.lines();
    assert!(lines.next().unwrap().ends_with("is not what images/wrong.toml says:"), "{error}");
    for expected in [
        &format!("`agent_version` is `7.20`, but the version of the guest agent is `{version}`."),
        "`distro` is `ubuntu`, but the guest is `debian`. Write `distro = \"debian\"`.",
        "`release` is `trixie`, but the guest is `bookworm`. Write `release = \"bookworm\"`.",
        "`agent.unit`: the unit `ga.service` is inactive",
        "`agent.hook`: there is no program /etc/hook in the guest.",
        "`agent.enabled_by`: /etc/qemu/qemu-ga.conf does not name /etc/hook,",
        "`database` is `mysql`, but the server says that it is 10.11.",
        "`server_version` is `10.1`, but the version of the server is `10.11.",
        "`server.binlogs` is `/var/log/mysql`, but the server keeps them in /var/lib/mysql-binlog.",
    ] {
        let line = lines.next().unwrap_or_default();
        assert!(line.trim_start().starts_with(expected), "{expected}\n{error}");
    }
    assert_eq!(lines.next(), None, "{error}");
    assert!(!kept().join("images/wrong").exists());

    let good = format!("{agent}{server}")
        .replace("AGENT", "qemu-guest-agent.service")
        .replace("HOOK", "/etc/qemu/fsfreeze-hook")
        .replace("BINLOGS", "/var/lib/mysql-binlog");
    for (claims, expected) in [
        (
            good.replace("USER", "somebody"),
            "`server.port` 3306, `server.user` `somebody` and the password file do not lead to the database `freezeframe`",
        ),
        (
            good.replace("USER", "freezeframe").replace("mariadb.service", "postgresql.service"),
            "`server.unit`: the unit `postgresql.service` is inactive",
        ),
    ] {
        existing(definitions, "wrong", &claims);
        let error = built(definitions, "wrong").unwrap_err();
        assert_eq!(error.lines().count(), 2, "{error}");
        assert!(error.contains(expected), "{error}");
    }

    let verdicts = verdicts(definitions, "own", &["core/quiesced-snapshot::own::freezeframe"]);
    assert_eq!(verdicts[0].grade, Grade::ApplicationConsistent, "{verdicts:?}");
}

#[test]
#[ignore = "makes a vendor's disk, which takes root and minutes"]
fn a_disk_that_leans_on_another_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = dir.path().join("overlay.qcow2");
    let (sh, disk_file) = (shell().unwrap(), disk());
    command::read(cmd!(sh, "qemu-img create -q -f qcow2 -F qcow2 -b {disk_file} {overlay}")).unwrap();
    let definitions = definitions();
    let text = format!(
        "{DEFINITION}[cloud_image]\nfile = \"{}\"\nsha256 = \"{}\"\n",
        overlay.display(),
        digest(&overlay).unwrap()
    );
    fs::write(definitions.path().join("leaning.toml"), text).unwrap();
    let error = built(definitions.path(), "leaning").unwrap_err();
    assert!(error.contains("is only a part of a disk"), "{error}");
    assert!(!kept().join("images/leaning").exists());
}

#[test]
fn the_scripts_pass_shellcheck() {
    let dir = host::repository().join("builder/src/cloud");
    let sh = shell().unwrap();
    let checked = command::output(cmd!(sh, "shellcheck {dir}/customize.sh {dir}/vendor.sh")).unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}
