//! An image from a disk that somebody has already. It is copied
//! unchanged; one boot on overlays shows whether it holds what its definition claims.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use contract::image::{Boot, Claims, Existing, InspectionReport, Manifest};
use terminal::command::Timer;
use terminal::live;
use tooling::cargo;
use tooling::command::shell;
use tooling::error::Failure;
use xshell::cmd;

use super::build_log::BuildLog;
use super::manifest::{manifest, write_manifest};
use super::recipe::Recipe;
use super::store::Scratch;
use super::{disks, partitions};

/// What a build depends on besides the definition: the disk as it is now.
pub(super) fn state(disk: &Existing) -> Result<String, Failure> {
    let metadata = fs::metadata(&disk.file).map_err(|e| Failure::io("inspect", &disk.file, e))?;
    let (len, seconds, nanoseconds) = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    let password = fs::read_to_string(&disk.password_file);
    let password = password.map_err(|e| Failure::io("read", &disk.password_file, e))?;
    Ok(format!("{} {len} {seconds} {nanoseconds} {password}", disk.file.display()))
}

/// Makes the image of `recipe` from a disk, and its manifest, in `scratch`.
pub(super) fn build(
    recipe: &Recipe,
    disk: &Existing,
    digest: &str,
    scratch: &Scratch,
    log: &BuildLog,
) -> Result<(), Failure> {
    partitions::check_root(recipe)?;
    let image = scratch.image();
    let secret = image.join("load.secret");
    // With its mode, which was checked with the definition.
    fs::copy(&disk.password_file, &secret).map_err(|e| Failure::io("copy", &disk.password_file, e))?;
    let raw = image.join(partitions::FILE);
    let mounts = log.stage("copy the disk", || {
        partitions::to_raw(&disk.file, &raw, log)?;
        partitions::mounts(&raw, scratch.path())
    })?;
    disks::read_only(&raw)?;
    let disks = vec![partitions::disk(&mounts)];
    let manifest = manifest(recipe, digest, Boot::Firmware, disks, PathBuf::new());

    let mut claimed = manifest.clone();
    for disk in &mut claimed.disks {
        disk.file = image.join(&disk.file);
    }
    claimed.server.password_file = secret;
    let claims = Claims {
        image: claimed,
        agent_version: disk.agent_version.clone(),
        server_version: disk.server_version.clone(),
    };
    let dir = scratch.path().join("inspection");
    fs::create_dir(&dir).map_err(|e| Failure::io("create", &dir, e))?;
    let program = cargo::build_trials("trial")?;
    let found = log.stage("boot it and inspect it", || inspect(&program, &claims, &dir))?;
    if !found.differences.is_empty() {
        let name = &recipe.definition.name;
        return Err(Failure::Usage(format!(
            "{} is not what images/{name}.toml says:\n  {}",
            disk.file.display(),
            found.differences.join("\n  ")
        )));
    }
    let mut manifest = Manifest { versions: found.versions, ..manifest };
    manifest.server.datadir = found.datadir;
    write_manifest(&manifest, scratch)
}

/// Runs the inspection under a supervisor, which cleans up after it.
fn inspect(program: &Path, claims: &Claims, dir: &Path) -> Result<InspectionReport, Failure> {
    claims.write(dir).map_err(Failure::infrastructure)?;
    let failed = |e: std::io::Error| Failure::io("run", program, e);
    let sh = shell()?;
    // Started by hand: its input is a lifeline that must stay open until it ends.
    let mut supervisor = Command::from(cmd!(sh, "{program} supervise --inspect {dir}"));
    supervisor.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let timer = Timer::start(&supervisor);
    let mut supervisor = supervisor.spawn().map_err(failed)?;
    if let Some(messages) = supervisor.stderr.take() {
        live::forward(messages);
    }
    // When it is closed, for any reason, the guest ends; `wait` would close it too early.
    let lifeline = supervisor.stdin.take();
    let ended = supervisor.wait();
    drop(lifeline);
    timer.end(ended.as_ref().copied());
    let status = ended.map_err(failed)?;
    InspectionReport::read(dir).map_err(|_| {
        Failure::Infrastructure(format!(
            "the disk could not be inspected ({status}); the reason stands above. A disk must boot by BIOS and start \
             qemu-guest-agent."
        ))
    })
}
