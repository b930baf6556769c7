//! Programs of other Debian releases than the host's: agents and
//! database servers that the hooks are tested with.
//!
//! ```text
//! target/roots/NAME/           the unpacked packages, as in the root of such a machine
//! target/roots/NAME/run/PROGRAM  starts one of the programs, with the libraries of its release
//! target/roots/NAME/run/made-by  what it was made by
//! target/roots/log/NAME.log      the last time that it was made
//! ```
//!
//! Packages are unpacked, not installed: nothing of them runs, no service is
//! started, no file of the host is touched. A tree appears under its name by
//! one rename, so there is never half of one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tooling::command::{self, shell, shell_in};
use tooling::error::Failure;
use tooling::host;
use xshell::{Shell, cmd};

use crate::apt_index::{TAKE_EXPIRED, mmdebstrap};
use crate::build_log::BuildLog;

/// The programs of one release, unpacked.
struct Tree {
    name: &'static str,
    release: &'static str,
    /// Whether packages of the release's backports are available too.
    backports: bool,
    packages: &'static [&'static str],
    /// Paths in the tree.
    programs: &'static [&'static str],
}

const AGENT: &str = "usr/sbin/qemu-ga";

const MARIADB: &str = "usr/sbin/mariadbd";

const TREES: &[Tree] = &[
    Tree {
        packages: &["qemu-guest-agent", "mariadb-server-core-10.5", "galera-4"],
        programs: &[AGENT, MARIADB],
        ..agent("bullseye")
    },
    agent("bookworm"),
    // The one version of the packaged dispatcher that a missing log file stops.
    Tree {
        name: "bookworm-backports",
        backports: true,
        packages: &["qemu-guest-agent/bookworm-backports"],
        ..agent("bookworm")
    },
    Tree {
        packages: &["qemu-guest-agent", "mariadb-server-core", "galera-4", "postgresql-17"],
        programs: &[
            AGENT,
            MARIADB,
            "usr/lib/postgresql/17/bin/postgres",
            "usr/lib/postgresql/17/bin/pg_waldump",
        ],
        ..agent("trixie")
    },
    Tree {
        packages: &["qemu-guest-agent", "mysql-server-core", "mysql-client-core", "postgresql-18"],
        programs: &[
            AGENT,
            "usr/sbin/mysqld",
            "usr/bin/mysql",
            "usr/lib/postgresql/18/bin/postgres",
            "usr/lib/postgresql/18/bin/pg_waldump",
        ],
        ..agent("sid")
    },
];

const fn agent(release: &'static str) -> Tree {
    Tree { name: release, release, backports: false, packages: &["qemu-guest-agent"], programs: &[AGENT] }
}

/// Unpacks those that are missing, broken or of another recipe.
pub fn ensure() -> Result<(), Failure> {
    let dir = host::repository().join("target/roots");
    let sh = shell()?;
    for tree in TREES {
        let path = dir.join(tree.name);
        if tree.is_whole(&sh, &path) {
            continue;
        }
        let logs = dir.join("log");
        fs::create_dir_all(&logs).map_err(|e| Failure::io("create", &logs, e))?;
        let log = BuildLog::create(logs.join(format!("{}.log", tree.name)), tree.name)?;
        log.stage("unpack its programs, for tests", || tree.make(&dir, &path, &log))?;
    }
    Ok(())
}

impl Tree {
    /// Everything that a tree depends on, except the versions that a mirror has today: tests ask the
    /// programs for theirs.
    fn recipe(&self) -> String {
        let Self { name, release, backports, packages, programs } = self;
        format!("{name} {release} {backports} {packages:?} {programs:?} {LAUNCHER}")
    }

    /// Whether all of its programs run.
    fn is_whole(&self, sh: &Shell, path: &Path) -> bool {
        fs::read_to_string(path.join("run/made-by")).is_ok_and(|recipe| recipe == self.recipe())
            && self.programs.iter().all(|program| {
                let version = sh.cmd(launcher(path, program)).arg("--version");
                let status = command::status(version, Stdio::null(), Stdio::null());
                status.is_ok_and(|status| status.success())
            })
    }

    fn make(&self, dir: &Path, path: &Path, log: &BuildLog) -> Result<(), Failure> {
        let scratch = tempfile::Builder::new()
            .prefix("tmp-")
            .tempdir_in(dir)
            .map_err(|e| Failure::io("write to", dir, e))?;
        let sh = shell_in(scratch.path())?;
        let release = self.release;
        let backports = self.backports.then(|| {
            format!(
                "--setup-hook=sed -i '/ {release} main/{{p;s/{release}/{release}-backports/}}' \"$1\"/etc/apt/sources.list"
            )
        });
        let mmdebstrap = mmdebstrap(&sh)?
            .arg("--variant=extract")
            .arg(format!("--aptopt={TAKE_EXPIRED}"))
            .arg("--aptopt=APT::Install-Recommends \"false\"")
            .arg(format!("--include={}", self.packages.join(",")))
            .arg("--format=tar")
            .args(backports)
            .args([release, "root.tar"]);
        log.run(mmdebstrap)?;

        let new = scratch.path().join("root");
        let run = new.join("run");
        create_dir(&run)?;
        log.run(cmd!(
            sh,
            "tar --extract --file root.tar --directory {new} --exclude=./dev/* --no-same-owner"
        ))?;

        self.write_launchers(&new)?;
        let stamp = run.join("made-by");
        fs::write(&stamp, self.recipe()).map_err(|e| Failure::io("write", &stamp, e))?;
        if path.exists() {
            fs::rename(path, scratch.path().join("old")).map_err(|e| Failure::io("move", path, e))?;
        }
        fs::rename(&new, path).map_err(|e| Failure::io("move", &new, e))?;
        if self.is_whole(&sh, path) {
            return Ok(());
        }
        Err(Failure::Infrastructure(format!(
            "the programs of {} do not run. Try one by hand: {} --version",
            path.display(),
            launcher(path, self.programs[0]).display()
        )))
    }

    fn write_launchers(&self, root: &Path) -> Result<(), Failure> {
        const LOADERS: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
        let Some(loader) = LOADERS
            .map(|dir| Path::new(dir).join("ld-linux-x86-64.so.2"))
            .into_iter()
            .find(|loader| root.join(loader).exists())
        else {
            return Err(Failure::Infrastructure(format!(
                "{} has no dynamic loader in {}.",
                root.display(),
                LOADERS.join(" or ")
            )));
        };
        let links = root.join("run/loader");
        create_dir(&links)?;
        for program in self.programs {
            let file = launcher(root, program);
            let link = links.join(file.file_name().unwrap_or_default());
            symlink(Path::new("../..").join(&loader), &link).map_err(|e| Failure::io("create", &link, e))?;
            fs::write(&file, LAUNCHER.replace("PROGRAM", program))
                .map_err(|e| Failure::io("write", &file, e))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
                .map_err(|e| Failure::io("change", &file, e))?;
        }
        Ok(())
    }
}

/// Starts a program with its own loader and libraries. Through a link of the program's name, because
/// that becomes the name of the process.
const LAUNCHER: &str = r#"#!/bin/sh
root=${0%/*}/..
exec "$root/run/loader/${0##*/}" --library-path "$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu" "$root/PROGRAM" "$@"
"#;

fn launcher(root: &Path, program: &str) -> PathBuf {
    root.join("run").join(Path::new(program).file_name().unwrap_or_default())
}

fn create_dir(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|e| Failure::io("create", path, e))
}
