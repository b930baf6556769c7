//! The builder of the RPM family on repositories that the tests make.

mod booted;
mod pretended;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use contract::image::{Definition, Manifest};
use tempfile::TempDir;
use tooling::command::{self, NamespaceRoot, shell};
use tooling::error::Failure;
use tooling::host;
use xshell::{Cmd, cmd};

use super::super::available::refresh;
use super::super::build::{BuildOutcome, bring_up_to_date};
use super::super::recipe::{Recipe, sorted_entries};
use super::super::store::Store;

/// The name of the image.
const NAME: &str = "made";

/// A folder of definitions, a repository, and a store.
struct World(TempDir);

impl World {
    /// A world with this definition, in which `REPOSITORY` stands for the repository's path.
    fn new(definition: &str) -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        let images = host::repository().join("images");
        for folder in ["images", "repository", "staged"] {
            fs::create_dir(world.at(folder)).unwrap();
        }
        for folder in ["layers", "hooks"] {
            symlink(images.join(folder), world.at("images").join(folder)).unwrap();
        }
        let definition = definition.replace("REPOSITORY", &world.at("repository").display().to_string());
        fs::write(world.at("images").join(format!("{NAME}.toml")), definition).unwrap();
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Makes packages of what is under `staged`, and the repository's index.
    fn publish(&self, spec: &Spec) {
        fs::write(self.at("made.spec"), &spec.0).unwrap();
        let mut defined = Vec::new();
        let mut define = |name: &str, value: &str| {
            defined.extend(["--define".to_owned(), format!("{name} {value}")]);
        };
        let path = |name: &str| self.at(name).display().to_string();
        define("_topdir", &path("top"));
        define("_dbpath", &path("database"));
        define("_rpmdir", &path("repository"));
        define("staged", &path("staged"));
        define("__os_install_post", "%{nil}");
        define("_unpackaged_files_terminate_build", "0");
        // Not packed: this is quick, and thrown away.
        define("_binary_payload", "w.ufdio");
        let (sh, spec, repository) = (shell().unwrap(), self.at("made.spec"), self.at("repository"));
        succeed(cmd!(NamespaceRoot(&sh), "rpmbuild {defined...} --quiet --target x86_64 -bb {spec}"));
        succeed(cmd!(sh, "createrepo_c --quiet {repository}"));
    }

    /// Builds the image, and tells how, and what it is.
    fn build(&self) -> Result<(BuildOutcome, Manifest), Failure> {
        let store = Store::open(self.at("built"))?;
        let images = self.at("images");
        let recipe = Recipe::load(&images, Definition::named(&images, NAME)?)?;
        refresh(&store, std::slice::from_ref(&recipe))?;
        let outcome = bring_up_to_date(&store.lock()?, &recipe)?;
        for file in std::iter::once(store.image(NAME)).chain(sorted_entries(&store.image(NAME))?) {
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "others may use {}: {mode:o}", file.display());
        }
        Ok((outcome, store.manifest(NAME).unwrap()))
    }
}

/// What rpmbuild reads: many packages in one file.
struct Spec(String);

impl Spec {
    fn new(release: u32) -> Self {
        Self(format!(
            "Name: made\nVersion: 1\nRelease: {release}\nSummary: s\nLicense: l\nAutoReqProv: no\n\
             %description\n%install\ncp -a %{{staged}}/. %{{buildroot}}/\n"
        ))
    }

    /// Adds a package with these lines of %files, and a script that runs once it is installed.
    fn add(&mut self, name: &str, files: &str, script: &str) {
        let Self(spec) = self;
        let _ = write!(spec, "%package -n {name}\nSummary: s\nAutoReqProv: no\n%description -n {name}\n");
        let _ = write!(spec, "%files -n {name}\n{files}");
        if !script.is_empty() {
            let _ = write!(spec, "%post -n {name} -p /bin/sh\n{script}\n");
        }
    }
}

fn succeed(cmd: Cmd<'_>) {
    command::read(cmd).unwrap();
}
