//! The root file system of the deb family, made with mmdebstrap.

use std::path::Path;

use tooling::command::{NamespaceRoot, shell_in};
use tooling::error::Failure;
use tooling::host;
use xshell::cmd;

use super::apt_index::{TAKE_EXPIRED, mmdebstrap, prefer_released, sources};
use super::build_log::BuildLog;
use super::overlay::{self, BUILD_DIR};
use super::recipe::Recipe;

/// What only documents a package.
const LEFT_OUT: [&str; 4] =
    ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*"];

/// Installs the packages with the overlay under them, customizes the result,
/// and leaves it in `rootfs` under `scratch`, with what the host wants in `freezeframe`.
pub(super) fn install(recipe: &Recipe, scratch: &Path, log: &BuildLog) -> Result<(), Failure> {
    let sh = shell_in(scratch)?;
    log.run(mmdebstrap(&sh)?.args(arguments(recipe, host::is_root())))?;

    if !host::is_root() {
        let rootfs = scratch.join("rootfs");
        overlay::create_dir(&rootfs)?;
        // Device nodes need real root; a running guest makes its own.
        log.run(cmd!(
            NamespaceRoot(&sh),
            "tar --extract --numeric-owner --preserve-permissions --exclude=./dev/* --file rootfs.tar --directory rootfs"
        ))?;
    }
    Ok(())
}

/// The arguments of mmdebstrap. Without root it can only write a tar file.
fn arguments(recipe: &Recipe, root: bool) -> Vec<String> {
    let definition = &recipe.definition;
    let mut arguments = vec![
        "--variant=apt".to_owned(),
        // A root that is thrown away when anything fails need not be synced file by file.
        "--dpkgopt=force-unsafe-io".to_owned(),
        format!("--aptopt={TAKE_EXPIRED}"),
        "--aptopt=APT::Install-Recommends \"false\"".to_owned(),
    ];
    arguments.extend(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")));
    arguments.push(format!("--include={}", recipe.packages().join(",")));
    // Before the packages, so that their scripts see masks and configuration.
    arguments.push("--essential-hook=tar-in overlay.tar /".to_owned());
    if !definition.security_updates {
        arguments.push(format!("--aptopt={}", prefer_released(&definition.release)));
    }
    let scripts = overlay::scripts(recipe);
    arguments.extend(scripts.iter().map(|script| format!("--customize-hook=chroot \"$1\" sh {script}")));
    // mmdebstrap empties `/run` at the end.
    arguments.push(format!("--customize-hook=copy-out /{BUILD_DIR} ."));
    let (format, target) = if root { ("directory", "rootfs") } else { ("tar", "rootfs.tar") };
    arguments.extend([format!("--format={format}"), definition.release.clone(), target.to_owned()]);
    arguments.extend(sources(definition));
    arguments
}

#[cfg(test)]
mod tests {
    use contract::image::Definition;

    use super::*;

    /// Every argument of mmdebstrap for a release of Ubuntu, which the tests cannot
    /// build.
    #[test]
    fn ubuntu_gets_the_arguments_of_the_snapshots() {
        let images = host::repository().join("images");
        for name in ["jammy-mysql", "noble-mysql", "noble-mariadb", "resolute-mysql"] {
            let definition = Definition::named(&images, name).unwrap();
            let recipe = Recipe::load(&images, definition).unwrap();
            insta::assert_snapshot!(name, arguments(&recipe, true).join("\n"));
        }
    }

    #[test]
    fn a_mirror_takes_the_place_of_both_archives() {
        let images = host::repository().join("images");
        let mut definition = Definition::named(&images, "noble-mysql").unwrap();
        definition.mirror = Some("https://m/ubuntu".to_owned());
        assert!(sources(&definition).iter().all(|line| line.contains("] https://m/ubuntu noble")));
        definition.security_updates = false;
        assert_eq!(sources(&definition).len(), 1);
    }
}
