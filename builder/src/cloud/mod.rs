//! An image made from a vendor's cloud image: packages and files are added to
//! its disk without a boot; partitions, file systems, kernel and boot loader
//! stay the vendor's.

mod fetch;
#[cfg(test)]
mod serve;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use contract::image::{CloudImage, Disk, ImageSource};
use tooling::command::shell;
use tooling::error::Failure;
use xshell::cmd;

use super::apt_index::{TAKE_EXPIRED, prefer_released};
use super::build_log::BuildLog;
use super::partitions::Mounted;
use super::recipe::Recipe;
use super::store::Scratch;
use super::{disks, overlay, partitions};

/// The script that customizes the vendor's mounted file systems.
const CUSTOMIZE: &str = include_str!("customize.sh");

/// Makes the disk of `recipe` from a vendor's, and returns what it holds.
/// `downloads` is where the vendor's file is kept.
pub(super) fn build(
    recipe: &Recipe,
    image: &CloudImage,
    downloads: &Path,
    scratch: &Scratch,
    log: &BuildLog,
) -> Result<Vec<Disk>, Failure> {
    partitions::check_root(recipe)?;
    let what = match &image.source {
        ImageSource::Url(url) => format!("fetch {url}"),
        ImageSource::File(file) => format!("verify {}", file.display()),
    };
    let part = fetch::part(image, downloads);
    let so_far = move || match fetch::len(&part) {
        0 => String::new(),
        bytes => format!("{} MiB", bytes >> 20),
    };
    let file = log.steps().step_with(&what, so_far, || fetch::fetch(image, downloads))?;
    let raw = scratch.image().join(partitions::FILE);
    let mounts = log.stage("take over its disk", || {
        partitions::to_raw(&file, &raw, log)?;
        let root = partitions::root(&raw, scratch.path())?;
        if let Some(size_mib) = image.size_mib {
            partitions::grow(&raw, size_mib, &root, log)?;
        }
        partitions::mounts(&raw, scratch.path())
    })?;
    log.stage("install packages on it", || customize(recipe, image, &raw, &mounts, scratch, log))?;
    disks::read_only(&raw)?;
    Ok(vec![partitions::disk(&mounts)])
}

fn customize(
    recipe: &Recipe,
    image: &CloudImage,
    raw: &Path,
    mounts: &[Mounted],
    scratch: &Scratch,
    log: &BuildLog,
) -> Result<(), Failure> {
    let path = scratch.path();
    overlay::write(recipe, path, log)?;
    let mut lines = String::new();
    for Mounted { mount, kind, start, bytes, .. } in mounts {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{} {kind} {start} {bytes}", mount.display());
    }
    let mut scripts = overlay::scripts(recipe).join("\n");
    scripts.push('\n');
    for (name, text) in [
        ("mounts", lines),
        ("grow", image.size_mib.is_some().to_string()),
        ("apt.conf", apt_conf(recipe)),
        ("packages", recipe.packages().join("\n")),
        ("scripts", scripts),
        ("customize.sh", CUSTOMIZE.to_owned()),
    ] {
        let file = path.join(name);
        fs::write(&file, text).map_err(|e| Failure::io("write", &file, e))?;
    }
    for name in ["rootfs", "dev"] {
        let dir = path.join(name);
        fs::create_dir(&dir).map_err(|e| Failure::io("create", &dir, e))?;
    }
    // The mounts are private, and processes that a package starts end with the namespace.
    let script = path.join("customize.sh");
    let sh = shell()?;
    log.run(cmd!(
        sh,
        "unshare --mount --propagation private --pid --fork --kill-child --mount-proc -- sh {script} {raw} {path}"
    ))
}

/// How apt works in the vendor's root, on top of its own configuration.
fn apt_conf(recipe: &Recipe) -> String {
    let mut conf = format!(
        "DPkg::Options {{ \"--force-confold\"; \"--force-unsafe-io\"; }};\n\
         APT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\n{TAKE_EXPIRED};\n"
    );
    if !recipe.definition.security_updates {
        let _ = writeln!(conf, "{};", prefer_released(&recipe.definition.release));
    }
    conf
}
