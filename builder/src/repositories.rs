//! What a distribution of the RPM family would install today, according to its
//! repositories: needed for the same reason as in `apt_index`, and kept in the same way.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use contract::image::{Definition, Repository};
use sha2::{Digest, Sha256};
use tooling::command::{self, CommandError, NamespaceRoot, shell};
use tooling::error::Failure;
use tracing::warn;
use xshell::{Cmd, Shell};

use super::apt_index::short_hash;
use super::recipe::{Recipe, sorted_entries};
use super::store::Store;

/// All images are for this architecture; the host may have another.
const ARCHITECTURE: &str = "x86_64";

/// Where the guest's database of packages is. The host's own rpm may have any
/// place for it, and in the guest the older one may be a link to this one.
pub(super) const RPM_DATABASE: &str = "/usr/lib/sysimage/rpm";

/// The repositories of one release, and what was downloaded from them.
#[derive(Debug)]
pub(crate) struct Repositories {
    dir: PathBuf,
    release: String,
    conf: String,
}

impl Repositories {
    /// Those that `definition` is built from.
    pub(crate) fn new(store: &Store, definition: &Definition) -> Self {
        let Definition { distro, release, repositories, .. } = definition;
        let conf = conf(distro, release, repositories);
        let dir = store.dnf().join(format!("{distro}-{release}-{}", short_hash(conf.as_bytes())));
        Self { dir, release: release.clone(), conf }
    }

    /// Where they are kept.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Fetches what changed. Without a network it stays as of the last time that
    /// there was one.
    pub(crate) fn refresh(&self) -> Result<(), Failure> {
        self.prepare()?;
        let sh = shell()?;
        if let Err(reason) = command::read(self.query(&sh).args(["--refresh", "makecache"])) {
            if matches!(reason, CommandError::NotInstalled(_)) {
                return Err(reason.into());
            }
            if self.state()?.is_none() {
                return Err(Failure::Infrastructure(format!(
                    "cannot read the repositories of {}. Check the network and their addresses, then try again. \
                     {reason}",
                    self.release
                )));
            }
            warn!("cannot read the repositories of {}; going by those of the last build", self.release);
        }
        Ok(())
    }

    /// Name and version of every package that the image would hold, one a line.
    pub(crate) fn packages(&self, recipe: &Recipe) -> Result<String, Failure> {
        if let Some(known) = self.known(recipe)? {
            return Ok(known);
        }
        let packages = self.resolve(recipe)?;
        if let Some(file) = self.resolution(recipe)? {
            fs::write(&file, &packages).map_err(|e| Failure::io("write", &file, e))?;
        }
        Ok(packages)
    }

    /// The same, if it is known already.
    pub(crate) fn known(&self, recipe: &Recipe) -> Result<Option<String>, Failure> {
        Ok(self.resolution(recipe)?.and_then(|file| fs::read_to_string(file).ok()))
    }

    /// dnf for queries.
    fn query<'a>(&self, sh: &'a Shell) -> Cmd<'a> {
        self.configure(NamespaceRoot(sh).cmd("dnf"), &self.empty())
    }

    /// A command whose last word is `dnf`, for a root of the guest. It must be run as root, or as one
    /// in a namespace.
    pub(super) fn configure<'a>(&self, dnf: Cmd<'a>, root: &Path) -> Cmd<'a> {
        // The language of its answers, and where it looks for `.rpmmacros`.
        dnf.env("LC_ALL", "C.UTF-8").env("HOME", &self.dir).args(self.arguments(root))
    }

    /// The arguments of every call of dnf.
    fn arguments(&self, root: &Path) -> Vec<String> {
        // Given here, these are paths of the host; in the file they would be paths of the guest.
        let kept = ["cachedir", "persistdir", "logdir"]
            .map(|key| format!("--setopt={key}={}", self.kept(key).display()));
        [
            format!("--config={}", self.dir.join("dnf.conf").display()),
            format!("--installroot={}", root.display()),
            format!("--releasever={}", self.release),
            format!("--forcearch={ARCHITECTURE}"),
        ]
        .into_iter()
        .chain(kept)
        .collect()
    }

    fn kept(&self, key: &str) -> PathBuf {
        self.dir.join(key)
    }

    /// A root in which nothing is installed.
    fn empty(&self) -> PathBuf {
        self.dir.join("empty")
    }

    fn prepare(&self) -> Result<(), Failure> {
        for dir in [self.empty(), self.kept("logdir")] {
            fs::create_dir_all(&dir).map_err(|e| Failure::io("create", &dir, e))?;
        }
        // What is mounted there while packages are installed is not theirs.
        let macros = format!("%_dbpath {RPM_DATABASE}\n%_netsharedpath /dev:/proc:/sys\n");
        for (name, text) in [("dnf.conf", self.conf.as_str()), (".rpmmacros", &macros)] {
            let file = self.dir.join(name);
            fs::write(&file, text).map_err(|e| Failure::io("write", &file, e))?;
        }
        Ok(())
    }

    /// Queries what dnf would install. dnf ends with an error, because it is made to refuse.
    fn resolve(&self, recipe: &Recipe) -> Result<String, Failure> {
        let sh = shell()?;
        let install = self.query(&sh).args(["--cacheonly", "--assumeno", "install"]);
        let answer = command::output(install.args(recipe.packages()))?;
        installed(&String::from_utf8_lossy(&answer.stdout)).ok_or_else(|| {
            Failure::Infrastructure(format!(
                "the repositories of `{}` cannot install its packages. Check their names. dnf says:\n{}",
                recipe.definition.name,
                String::from_utf8_lossy(&answer.stderr).trim_end()
            ))
        })
    }

    /// Where the answer is kept for this recipe and these repositories.
    fn resolution(&self, recipe: &Recipe) -> Result<Option<PathBuf>, Failure> {
        let Some(state) = self.state()? else { return Ok(None) };
        let question = format!("{state} {}", recipe.packages().join(" "));
        Ok(Some(self.dir.join(format!("packages-{}", short_hash(question.as_bytes())))))
    }

    /// A hash over the indexes of the repositories, if there are any.
    fn state(&self) -> Result<Option<String>, Failure> {
        let cache = self.kept("cachedir");
        if !cache.is_dir() {
            return Ok(None);
        }
        let mut hash = Sha256::new();
        let mut found = false;
        for entry in sorted_entries(&cache)? {
            let index = entry.join("repodata/repomd.xml");
            if index.is_file() {
                hash.update(fs::read(&index).map_err(|e| Failure::io("read", &index, e))?);
                found = true;
            }
        }
        Ok(found.then(|| hex::encode(hash.finalize())))
    }
}

/// A configuration that knows these repositories and nothing of the host.
fn conf(distro: &str, release: &str, repositories: &[Repository]) -> String {
    let mut conf = "[main]\n\
        gpgcheck=1\n\
        install_weak_deps=False\n\
        tsflags=nodocs\n\
        keepcache=True\n\
        best=True\n\
        plugins=False\n\
        reposdir=/dev/null\n\
        varsdir=/dev/null\n\
        timeout=10\n\
        retries=2\n"
        .to_owned();
    let major = release.split('.').next().unwrap_or(release);
    // Writing to a string cannot fail.
    let _ = match distro {
        "almalinux" | "centos" | "rocky" => writeln!(conf, "module_platform_id=platform:el{major}"),
        _ => Ok(()),
    };
    for Repository { name, url, key } in repositories {
        let _ = write!(conf, "\n[{name}]\nname={name}\nbaseurl={url}\n");
        let _ = match key {
            Some(key) => writeln!(conf, "gpgkey={key}"),
            // Only for a repository on the host itself; the definition's check sees to that.
            None => writeln!(conf, "gpgcheck=0"),
        };
    }
    conf
}

/// What dnf prints that it would install, if anything: a table of name,
/// architecture, version, repository and size, whose lines it breaks as it likes.
fn installed(text: &str) -> Option<String> {
    let (table, _) = text.split_once("Transaction Summary")?;
    let mut packages = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    for line in table.lines().map(str::trim) {
        // A heading, such as `Installing dependencies:`, or a rule.
        if line.ends_with(':') || line.starts_with("===") {
            words.clear();
            continue;
        }
        words.extend(line.split_whitespace());
        // The size is two words: `12 k`.
        while let [name, _, version, _, _, _, rest @ ..] = words.as_slice() {
            packages.push(format!("{name} {version}\n"));
            words = rest.to_vec();
        }
    }
    packages.sort();
    (!packages.is_empty()).then(|| packages.concat())
}

#[cfg(test)]
mod tests {
    use contract::image::Family;

    use super::*;

    /// Every argument of dnf for each distribution, which the tests cannot build.
    #[test]
    fn dnf_gets_the_arguments_of_the_snapshots() {
        let images = tooling::host::repository().join("images");
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_owned()).unwrap();
        let definitions = Definition::list(&images).unwrap();
        for definition in definitions.into_iter().filter(|image| image.family == Family::Rpm) {
            let name = definition.name.clone();
            let recipe = Recipe::load(&images, definition).unwrap();
            let repositories = Repositories::new(&store, &recipe.definition);
            let arguments = repositories.arguments(Path::new("/root"));
            let requested = ["install"].into_iter().chain(recipe.packages()).collect::<Vec<_>>().join(" ");
            let described = format!("{}\n{requested}\n\n{}", arguments.join("\n"), repositories.conf);
            insta::assert_snapshot!(name, described.replace(&dir.path().display().to_string(), "STORE"));
        }
    }

    #[test]
    fn versions_are_read_from_what_dnf_prints() {
        let text = "Dependencies resolved.\n================\n Package  Arch  Version  Repo  Size\n================\n\
            Installing:\n bash  x86_64  5.1.8-9.el9  base  1.7 M\nInstalling dependencies:\n \
            a-package-with-a-very-long-name-indeed\n         noarch 1:2.0-1.el9 base  12 k\n glibc x86_64 2.34 base 2.0 M\n\n\
            Transaction Summary\n================\nInstall  3 Packages\n";
        assert_eq!(
            installed(text).as_deref(),
            Some("a-package-with-a-very-long-name-indeed 1:2.0-1.el9\nbash 5.1.8-9.el9\nglibc 2.34\n")
        );
        assert_eq!(installed("Error: Unable to find a match: bash\n"), None);
    }
}
