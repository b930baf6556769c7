//! Backups that somebody has already: a good one, and one of each kind that is bad.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use contract::image::{Claims, Manifest};
use contract::jsonl::Reader;
use contract::observation::{self, Record};
use contract::run::checkout;
use contract::verification::{DiskFormat, Facts, GivenDisk, GuestFate, Layer, Recovery, Request};
use judge::verification::Verification;

const IMAGE: &str = "bookworm-mariadb";

/// The largest table that every server has, and where its data are.
const TABLE: &str = "mysql.help_topic";
const TABLE_FILE: &str = "/var/lib/mysql/mysql/help_topic.MAD";

/// The copy of an image's disk, as a backup would have it.
struct Backup {
    dir: PathBuf,
    disk: Layer,
    bytes: u64,
    image: Manifest,
}

impl Drop for Backup {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Backup {
    fn make(name: &str, format: DiskFormat) -> Self {
        let image = Manifest::read(&checkout().join("target/images"), IMAGE).unwrap();
        let dir = checkout().join("target/e2e").join(format!("guests verify {name} {}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let source = &image.disks[0].file;
        let file = dir.join(format!("backup.{}", format.name()));
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", format.name()]).args([source, &file]);
        assert!(convert.status().unwrap().success());
        let bytes = source.metadata().unwrap().len();
        Self { dir, disk: Layer { file, format }, bytes, image }
    }

    /// Runs debugfs(8) on the disk, which must be raw.
    fn debugfs(&self, command: &str) -> String {
        let mut debugfs = Command::new("debugfs");
        let output = debugfs.args(["-w", "-R", command]).arg(&self.disk.file).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Overwrites some blocks of a file, of those that it has.
    fn damage(&self, file: &str, blocks: Range<usize>) {
        let listed = self.debugfs(&format!("blocks {file}"));
        let mut all: Vec<u64> = listed.split_whitespace().map(|block| block.parse().unwrap()).collect();
        // A hole is listed as block 0.
        all.retain(|block| *block > 0);
        let disk = File::options().write(true).open(&self.disk.file).unwrap();
        for block in &all[blocks] {
            disk.write_all_at(&[0xa5; 4096], block * 4096).unwrap();
        }
    }

    /// Verifies it, and shows that nothing of it was written and nothing is left.
    fn verify(&self) -> (Verification, Facts) {
        let state = |file: &Path| {
            let found = file.metadata().unwrap();
            (found.mode(), found.len(), found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec())
        };
        let before = state(&self.disk.file);
        let image = Manifest { versions: Default::default(), ..self.image.clone() };
        let (memory_mib, channel) = (image.memory_mib, image.channel);
        let claims = Claims { image, agent_version: None, server_version: None };
        let disks =
            vec![GivenDisk { target: "vda".to_owned(), bytes: self.bytes, layers: vec![self.disk.clone()] }];
        let request = Request { disks, memory_mib, cpu: None, channel, claims: Some(claims) };
        let dir = self.dir.join("verification");
        request.write(&dir).unwrap();
        let mut supervisor = Command::new(env!("CARGO_BIN_EXE_trial"));
        supervisor.args(["supervise", "--verify"]).arg(&dir).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut supervisor = supervisor.spawn().unwrap();
        let lifeline = supervisor.stdin.take();
        assert!(supervisor.wait().unwrap().success());
        drop(lifeline);
        assert_eq!(state(&self.disk.file), before, "the backup was touched");
        assert!(!dir.join("disks").exists(), "overlays are left");
        let facts = Facts::read(&dir).unwrap();
        let records = Reader::<Record>::open(&dir.join(observation::FILE), observation::KIND).unwrap();
        (Verification::of(&request, &facts, records.map(Result::unwrap)), facts)
    }
}

#[test]
fn a_good_backup_recovers() {
    let (verdict, facts) = Backup::make("good", DiskFormat::Qcow2).verify();
    assert_eq!(verdict.grade, Recovery::Recovers, "{verdict:#?}");
    assert_eq!((verdict.findings.len(), verdict.unmet.len()), (0, 0), "{verdict:#?}");
    assert!(matches!(facts.guest, Some(GuestFate::Up { .. })), "{facts:#?}");
    let server = &facts.servers[0];
    assert!(server.tables > 20 && server.checked == server.tables, "{server:?}");
    assert_eq!(
        server.recovered,
        Some(false),
        "the server of an image was stopped before its disk was copied"
    );
}

#[test]
fn a_table_whose_data_are_damaged_is_found_by_its_name() {
    let backup = Backup::make("table", DiskFormat::Raw);
    backup.damage(TABLE_FILE, 20..21);
    let (verdict, facts) = backup.verify();
    assert_eq!(verdict.grade, Recovery::Inconsistent, "{verdict:#?}");
    let broken = verdict.findings.iter().find(|it| it.summary == "1 table cannot be used");
    let evidence = &broken.unwrap().evidence;
    assert!(evidence[0].starts_with(&format!("`{TABLE}` (Aria): ")), "{evidence:?}");
    assert_eq!(facts.servers[0].checked, facts.servers[0].tables, "all others were checked as well");
}

#[test]
fn a_disk_that_was_cut_off_is_unusable_and_nothing_is_started_from_it() {
    let mut backup = Backup::make("cut", DiskFormat::Raw);
    backup.bytes /= 2;
    File::options().write(true).open(&backup.disk.file).unwrap().set_len(backup.bytes).unwrap();
    let (verdict, facts) = backup.verify();
    assert_eq!(verdict.grade, Recovery::Unusable, "{verdict:#?}");
    assert!(
        verdict.reason.contains("vda is cut off: its file system (ext4) describes"),
        "{}",
        verdict.reason
    );
    assert_eq!(facts.guest, None);
}

#[test]
fn a_disk_without_a_database_is_unknown() {
    let backup = Backup::make("none", DiskFormat::Raw);
    for name in ["mariadb.service", "mariadb@.service", "mysql.service", "mysqld.service"] {
        backup.debugfs(&format!("rm /usr/lib/systemd/system/{name}"));
    }
    // systemd makes a unit of it otherwise.
    backup.debugfs("rm /etc/init.d/mariadb");
    for name in ["mysql.service", "mysqld.service", "multi-user.target.wants/mariadb.service"] {
        backup.debugfs(&format!("rm /etc/systemd/system/{name}"));
    }
    let (verdict, facts) = backup.verify();
    assert_eq!(verdict.grade, Recovery::Unknown, "{verdict:#?}");
    assert!(verdict.reason.contains("there is no MariaDB, MySQL or PostgreSQL in it"), "{}", verdict.reason);
    assert_eq!(facts.servers, []);
    // What was claimed of it is found to be wrong.
    assert!(verdict.unmet.iter().any(|claim| claim.starts_with("`server.unit`")), "{:?}", verdict.unmet);
}

/// What a server refuses to start from is no backup, and its own words say why.
#[test]
fn a_server_that_does_not_start_makes_a_backup_unusable() {
    let backup = Backup::make("start", DiskFormat::Raw);
    // The first is the map of a file in so many pieces.
    backup.damage("/var/lib/mysql/ibdata1", 1..9);
    let (verdict, facts) = backup.verify();
    assert_eq!(verdict.grade, Recovery::Unusable, "{verdict:#?}");
    assert!(verdict.reason.contains("(mariadb.service) does not start"), "{verdict:#?}");
    let words = facts.servers[0].failed.as_ref().unwrap();
    assert!(words.contains("InnoDB"), "{words}");
}
