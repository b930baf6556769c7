//! The script that trials are measured against: `bench/baseline.sh`, beside a
//! libvirt daemon of its own.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use contract::image::{Boot, Database, Manifest};
use contract::plan::Accel;
use contract::scenario::Load;
use terminal::command::Timer;
use terminal::live;
use tooling::command::shell;
use tooling::error::Failure;
use tooling::host;
use tracing::info;
use xshell::cmd;

use crate::e2e::processes::{self, CtrlC};

/// What the script says last, when all is well.
const LAST: &str = "the tables are checked";

/// The script, with the guest and the load that it gets.
#[derive(Debug)]
pub(super) struct Baseline {
    image: Manifest,
    kernel: PathBuf,
    initrd: PathBuf,
    cmdline: String,
    load: Load,
    accel: Accel,
}

impl Baseline {
    /// An error names what the script does not know of an image.
    pub(super) fn new(image: Manifest, load: Load, accel: Accel) -> Result<Self, Failure> {
        let plain = image.disks.len() == 1 && image.cpu.is_none() && image.loops.is_empty();
        if let Boot::Direct { kernel, initrd, cmdline } = image.boot.clone()
            && image.server.database == Database::Mariadb
            && plain
        {
            return Ok(Self { image, kernel, initrd, cmdline, load, accel });
        }
        Err(Failure::Usage(format!(
            "bench/baseline.sh knows guests with MariaDB, all on one disk, booted by a kernel outside it, and {} is \
                 another.",
            image.name
        )))
    }

    /// Runs it once: milliseconds from its begin to its end.
    pub(super) fn run(&self) -> Result<f64, Failure> {
        let bench = host::repository().join("bench");
        let failed = |problem: String| {
            Failure::Infrastructure(format!("bench/baseline.sh failed: {problem}; its messages stand above."))
        };
        let ctrl_c = CtrlC::outlive().map_err(|e| failed(e.to_string()))?;
        processes::adopt_orphans().map_err(|e| failed(e.to_string()))?;
        let target = host::repository().join("target");
        let dir =
            tempfile::tempdir_in(&target).map_err(|e| Failure::io("create a directory in", &target, e))?;
        let sh = shell()?;
        let script = cmd!(sh, "{bench}/with-libvirtd.sh {bench}/baseline.sh");
        // Started by hand: its stages are shown line by line, and its orphans waited for.
        let mut script = Command::from(script.envs(self.environment()).env("DIR", dir.path()));
        script.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let timer = Timer::start(&script);
        let mut script = script.spawn().map_err(|e| failed(e.to_string()))?;
        if let Some(messages) = script.stderr.take() {
            live::forward(messages);
        }
        let stages = script.stdout.take();
        // Beside the wait, which reaps what libvirt leaves to this process.
        let last = std::thread::spawn(move || stages.map(last_stage).unwrap_or_default());
        let ended = processes::wait_for_all(&script, ctrl_c);
        timer.end(ended.as_ref().map(|(status, _)| *status));
        ended.map_err(|e| failed(e.to_string()))?;
        let (ms, stage) = last.join().unwrap_or_default();
        if stage == LAST { Ok(ms) } else { Err(failed(format!("its last stage was `{stage}`"))) }
    }

    fn environment(&self) -> [(&'static str, PathBuf); 10] {
        let Self { image, kernel, initrd, cmdline, load, accel } = self;
        let domain_type = match accel {
            Accel::Kvm => "kvm",
            Accel::Tcg => "qemu",
        };
        [
            ("KERNEL", kernel.clone()),
            ("INITRD", initrd.clone()),
            ("CMDLINE", cmdline.clone().into()),
            ("DISK", image.disks.iter().map(|disk| disk.file.clone()).collect()),
            ("MEMORY_MIB", image.memory_mib.to_string().into()),
            ("DOMAIN_TYPE", domain_type.into()),
            ("DB_USER", image.server.user.clone().into()),
            ("DB_PASSWORD_FILE", image.server.password_file.clone()),
            ("WRITERS", load.writers.to_string().into()),
            ("SECONDS_OF_LOAD", load.seconds.to_string().into()),
        ]
    }
}

/// Logs each stage as it ends; returns when the last one did, in milliseconds, and which it was.
fn last_stage(stages: impl std::io::Read) -> (f64, String) {
    let mut last = (f64::NAN, String::new());
    for line in BufReader::new(stages).lines().map_while(Result::ok) {
        info!("  bench/baseline.sh: {line}");
        if let Some((ms, stage)) = line.split_once(" ms: ")
            && let Ok(ms) = ms.parse()
        {
            last = (ms, stage.to_owned());
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stage_counts() {
        let (ms, stage) = last_stage(&b"12 ms: the guest answers\n345 ms: the tables are checked\n"[..]);
        assert_eq!((ms, stage.as_str()), (345.0, LAST));
        assert!(last_stage(&b"nonsense"[..]).0.is_nan());
    }

    #[test]
    fn the_script_says_that_last() {
        let script = include_str!("../../../bench/baseline.sh");
        assert_eq!(script.trim_end().lines().last(), Some(format!("stage '{LAST}'").as_str()));
    }

    #[test]
    fn shellcheck_passes() {
        for script in ["baseline.sh", "with-libvirtd.sh"] {
            let script = host::repository().join("bench").join(script);
            let sh = shell().unwrap();
            let output = tooling::command::output(cmd!(sh, "shellcheck {script}")).unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}\n{said}", script.display());
        }
    }
}
