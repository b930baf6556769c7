//! What a distribution would install today, according to its package mirror.
//!
//! An image is built again when one of its packages has a new version, and not
//! because the mirror published something else. So what counts is the list of
//! packages that apt would install into an empty root, computed from signed
//! indexes that are kept between builds and fetched again only when they changed.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use contract::image::Definition;
use sha2::{Digest, Sha256};
use tooling::command::{self, CommandError, shell, shell_in};
use tooling::error::Failure;
use tooling::host;
use tracing::warn;
use xshell::{Cmd, Shell};

use super::recipe::{Recipe, sorted_entries};
use super::store::Store;

/// All images are for this architecture; the host may have another.
const ARCHITECTURE: &str = "amd64";

/// The keys of Ubuntu's archive, where Debian's package `ubuntu-keyring`, and Ubuntu itself, has them.
pub const UBUNTU_KEYS: &str = "/usr/share/keyrings/ubuntu-archive-keyring.gpg";

/// The indexes of one release.
#[derive(Debug)]
pub(crate) struct AptIndex {
    dir: PathBuf,
    release: String,
    sources: Vec<String>,
    security_updates: bool,
}

impl AptIndex {
    /// Those that `definition` is built from.
    pub(crate) fn new(store: &Store, definition: &Definition) -> Self {
        let mut name = definition.release.clone();
        if !definition.security_updates {
            name.push_str("-released");
        }
        if let Some(mirror) = &definition.mirror {
            name = format!("{name}-{}", short_hash(mirror.as_bytes()));
        }
        Self {
            dir: store.apt().join(name),
            release: definition.release.clone(),
            sources: sources(definition),
            security_updates: definition.security_updates,
        }
    }

    /// Where they are kept.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Fetches those that changed. Without a network they stay as of the last
    /// time that there was one.
    pub(crate) fn refresh(&self) -> Result<(), Failure> {
        self.prepare()?;
        let sh = shell()?;
        // Without it apt would build a cache that nobody reads, and take three times as long.
        let update = self.apt_get(&sh).args(["--option=pkgCacheFile::Generate=false", "update"]);
        if let Err(reason) = command::read(update) {
            if matches!(reason, CommandError::NotInstalled(_)) {
                return Err(reason.into());
            }
            if self.state()?.is_none() {
                return Err(Failure::Infrastructure(format!(
                    "cannot read the package indexes of {}. Check the network, then try again. {reason}",
                    self.release
                )));
            }
            warn!("cannot read the package indexes of {}; going by those of the last build", self.release);
        }
        Ok(())
    }

    /// Name and version of every package that the image would hold, one a line.
    pub(crate) fn packages(&self, recipe: &Recipe) -> Result<String, Failure> {
        if let Some(known) = self.known(recipe)? {
            return Ok(known);
        }
        let sh = shell()?;
        let install = self.apt_get(&sh).args(["--simulate", "install", "?essential", "apt"]);
        let text = command::read(install.args(recipe.packages())).map_err(|reason| {
            Failure::Infrastructure(format!(
                "{} cannot install the packages of `{}`. Check their names. {reason}",
                self.release, recipe.definition.name
            ))
        })?;
        let packages = installed(&String::from_utf8_lossy(&text));
        if let Some(file) = self.resolution(recipe)? {
            fs::write(&file, &packages).map_err(|e| Failure::io("write", &file, e))?;
        }
        Ok(packages)
    }

    /// The same, if it is known already.
    pub(crate) fn known(&self, recipe: &Recipe) -> Result<Option<String>, Failure> {
        Ok(self.resolution(recipe)?.and_then(|file| fs::read_to_string(file).ok()))
    }

    /// Where the answer is kept for this recipe and these indexes.
    fn resolution(&self, recipe: &Recipe) -> Result<Option<PathBuf>, Failure> {
        let Some(state) = self.state()? else { return Ok(None) };
        let question = format!("{state} {}", recipe.packages().join(" "));
        Ok(Some(self.dir.join(format!("packages-{}", short_hash(question.as_bytes())))))
    }

    /// A hash over the signed indexes, if there are any.
    fn state(&self) -> Result<Option<String>, Failure> {
        let lists = self.dir.join("lists");
        if !lists.is_dir() {
            return Ok(None);
        }
        let mut hash = Sha256::new();
        let mut found = false;
        for file in sorted_entries(&lists)? {
            let name = file.to_string_lossy();
            if name.ends_with("_InRelease") || name.ends_with("_Release") {
                hash.update(fs::read(&file).map_err(|e| Failure::io("read", &file, e))?);
                found = true;
            }
        }
        Ok(found.then(|| hex::encode(hash.finalize())))
    }

    /// Makes a root for apt that knows the sources and nothing else.
    fn prepare(&self) -> Result<(), Failure> {
        for dir in ["lists/partial", "cache/archives/partial"] {
            let dir = self.dir.join(dir);
            fs::create_dir_all(&dir).map_err(|e| Failure::io("create", &dir, e))?;
        }
        // Each time: the directory may have been copied from elsewhere.
        for (name, text) in [("status", ""), ("apt.conf", &self.apt_conf())] {
            let file = self.dir.join(name);
            fs::write(&file, text).map_err(|e| Failure::io("write", &file, e))?;
        }
        if self.dir.join("sources.list").is_file() {
            return Ok(());
        }
        // mmdebstrap knows the sources of a release, and writes them without touching
        // the network when that is all it has to do.
        let sh = shell_in(&self.dir)?;
        let mmdebstrap = mmdebstrap(&sh)?
            .args(["--variant=custom", "--format=null", "--skip=update"])
            .arg("--setup-hook=download /etc/apt/sources.list sources.list")
            .args([self.release.as_str(), "/dev/null"])
            .args(&self.sources);
        command::read(mmdebstrap).map(drop).map_err(|reason| {
            Failure::Infrastructure(format!(
                "the package sources of {} cannot be found. {reason}",
                self.release
            ))
        })
    }

    fn apt_conf(&self) -> String {
        let mut conf = apt_conf(&self.dir);
        if !self.security_updates {
            conf.push_str(&format!("{};\n", prefer_released(&self.release)));
        }
        conf
    }

    fn apt_get<'a>(&self, sh: &'a Shell) -> Cmd<'a> {
        sh.cmd("apt-get").env("APT_CONFIG", self.dir.join("apt.conf"))
    }
}

/// Where mmdebstrap gets packages: for Debian the mirror, if there is one, because it
/// knows the rest; for Ubuntu every source, because it knows only the releases that are
/// older than the host's copy of it.
pub(super) fn sources(definition: &Definition) -> Vec<String> {
    let Definition { release, mirror, .. } = definition;
    if definition.distro != "ubuntu" {
        return mirror.iter().cloned().collect();
    }
    let main = mirror.as_deref().unwrap_or("http://archive.ubuntu.com/ubuntu");
    let security = mirror.as_deref().unwrap_or("http://security.ubuntu.com/ubuntu");
    let released = [(main, release.clone())];
    let updates = [(main, format!("{release}-updates")), (security, format!("{release}-security"))];
    let updates = updates.into_iter().filter(|_| definition.security_updates);
    // The guest agent is in `universe`.
    let line = |(url, suite)| format!("deb [signed-by={UBUNTU_KEYS}] {url} {suite} main universe");
    released.into_iter().chain(updates).map(line).collect()
}

/// mmdebstrap for our architecture, with or without root. The shell must be in a directory of
/// the caller's, so that mmdebstrap's hooks can use relative names: it splits their arguments at spaces.
pub(crate) fn mmdebstrap(sh: &Shell) -> Result<Cmd<'_>, Failure> {
    command::require("mmdebstrap")?;
    let dir = sh.current_dir();
    if dir.as_os_str().as_bytes().contains(&b'"') {
        return Err(Failure::Usage(format!(
            "{} has a double quote in its path, with which apt cannot make a root. Move the checkout.",
            dir.display()
        )));
    }
    let mmdebstrap = if host::is_root() {
        // With root it mounts /proc and /sys of the guest. In a mount namespace
        // of its own these end with it, even when it is killed.
        sh.cmd("unshare").args(["--mount", "--", "mmdebstrap", "--mode=root"])
    } else {
        sh.cmd("mmdebstrap").arg("--mode=unshare")
    };
    Ok(mmdebstrap.arg(format!("--architectures={ARCHITECTURE}")))
}

/// Makes apt prefer what a release held when it came out to its security updates.
pub(super) fn prefer_released(release: &str) -> String {
    format!("APT::Default-Release \"{release}\"")
}

/// Accepts indexes that are signed but expired: a mirror of an unstable release may
/// not be updated for weeks, and old packages are safe in a guest without a network.
pub(crate) const TAKE_EXPIRED: &str = "Acquire::Check-Valid-Until \"false\"";

/// A path as a word of the configuration of apt, which has no way to write a quote within quotes, and
/// outside of them takes any character by its code.
fn coded(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let coded = |byte: &u8| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02x}") };
    path.as_os_str().as_bytes().iter().map(coded).collect()
}

/// Keeps apt away from the configuration and the state of the host.
fn apt_conf(dir: &Path) -> String {
    let dir = coded(dir);
    format!(
        r#"APT::Architecture "{ARCHITECTURE}";
APT::Architectures "{ARCHITECTURE}";
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
{TAKE_EXPIRED};
Acquire::Retries "1";
Acquire::http::Timeout "10";
Acquire::https::Timeout "10";
Dir::Etc::Main "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::Etc::SourceList {dir}/sources.list;
Dir::Etc::SourceParts "/dev/null";
Dir::State {dir};
Dir::State::Lists {dir}/lists;
Dir::State::Status {dir}/status;
Dir::Cache {dir}/cache;
Dir::Cache::srcpkgcache "";
Dir::Cache::pkgcache "";
Acquire::GzipIndexes "true";
"#
    )
}

/// What `apt-get --simulate install` says that it would install.
fn installed(text: &str) -> String {
    let mut packages: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("Inst ")?.split(' ');
            let name = words.next()?;
            let version = words.find_map(|word| word.strip_prefix('('))?;
            Some(format!("{name} {version}\n"))
        })
        .collect();
    packages.sort();
    packages.concat()
}

pub(super) fn short_hash(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_keeps_to_the_directory() {
        let temp = tempfile::tempdir().unwrap();
        let sh = shell().unwrap();
        for name in ["plain", "my dir, it's", "100%41 %", "a \"größe\"; #"] {
            let dir = temp.path().join(name);
            fs::create_dir(&dir).unwrap();
            keeps_to(&sh, &dir);
        }
    }

    fn keeps_to(sh: &Shell, dir: &Path) {
        let conf = dir.join("apt.conf");
        fs::write(&conf, apt_conf(dir)).unwrap();
        let places =
            ["LISTS", "Dir::State::Lists/d", "STATUS", "Dir::State::Status/f", "CACHE", "Dir::Cache/d"];
        let resolved = sh.cmd("apt-config").env("APT_CONFIG", &conf).arg("shell").args(places);
        let resolved = String::from_utf8(command::read(resolved).unwrap()).unwrap();
        // As a shell has to read it.
        let dir = dir.to_string_lossy().replace('\'', "'\\''");
        assert_eq!(resolved, format!("LISTS='{dir}/lists/'\nSTATUS='{dir}/status'\nCACHE='{dir}/cache/'\n"));
    }

    #[test]
    fn a_checkout_in_which_no_root_can_be_made_is_named() {
        let temp = tempfile::tempdir().unwrap();
        for (name, fits) in [("my dir, it's 100%41 größe", true), ("\"größe\"", false)] {
            let dir = temp.path().join(name);
            fs::create_dir(&dir).unwrap();
            let made = mmdebstrap(&shell_in(&dir).unwrap()).map(drop);
            assert_eq!(made.is_ok(), fits, "{made:?}");
            assert!(fits || made.unwrap_err().to_string().contains("Move the checkout"));
        }
    }

    #[test]
    fn versions_are_read_from_what_apt_prints() {
        let text = "Reading package lists...\n\
            Inst libc6 (2.36-9+deb12u13 Debian:12.13/oldstable [amd64]) []\n\
            Inst base-files [12.4] (12.4+deb12u12 Debian:12.13/oldstable [amd64])\n\
            Conf libc6 (2.36-9+deb12u13 Debian:12.13/oldstable [amd64])\n";
        assert_eq!(installed(text), "base-files 12.4+deb12u12\nlibc6 2.36-9+deb12u13\n");
    }
}
