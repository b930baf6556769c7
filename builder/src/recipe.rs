//! A definition with everything that it builds on: what a builder works from,
//! and what the digest of an image covers.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use contract::image::{AgentChannel, AgentFacts, Definition, FsKind, Layer, Mask, Origin, ServerFacts};
use sha2::{Digest, Sha256};
use tooling::error::Failure;

use crate::hook_program;

/// Raise it when a change of the builder changes what it builds.
const BUILDER_VERSION: u32 = 6;

/// A definition and what it builds on.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) definition: Definition,
    /// The family first, then its origin, the distribution, the database, and the agent's channel; what
    /// comes later wins.
    pub(crate) layers: Vec<LayerDir>,
    pub(crate) agent: AgentFacts,
    pub(crate) server: ServerFacts,
    /// The packages of the database server, itself first.
    pub(crate) server_packages: Vec<String>,
    /// What the guest gets of the hooks: a directory.
    pub(crate) hook: PathBuf,
    /// Their program, which must be built.
    pub(crate) program: PathBuf,
    definition_file: PathBuf,
}

/// A directory under `images/layers`.
#[derive(Debug)]
pub(crate) struct LayerDir {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    layer: Layer,
}

impl LayerDir {
    fn read(images: &Path, name: &str) -> Result<Self, Failure> {
        let dir = images.join("layers").join(name);
        let layer = Layer::read(&dir.join("layer.toml"))?;
        Ok(Self { name: name.to_owned(), dir, layer })
    }

    fn lacks(&self, table: &str) -> Failure {
        let file = self.dir.join("layer.toml");
        Failure::Usage(format!("{}: there is no `[{table}]`. Add it.", file.display()))
    }
}

impl Recipe {
    /// Reads what `definition`, one of those in `images`, builds on.
    pub(crate) fn load(images: &Path, definition: Definition) -> Result<Self, Failure> {
        let family = LayerDir::read(images, definition.family.layer())?;
        let origin = definition.family.origin_layer(&definition.origin);
        let origin = origin.map(|name| LayerDir::read(images, name)).transpose()?;
        let (existing_agent, existing_server) = match &definition.origin {
            Origin::Existing(disk) => (disk.agent.clone(), disk.server.clone()),
            Origin::Packages | Origin::CloudImage(_) => (None, None),
        };
        let distro = LayerDir::read(images, &definition.distro)?;
        let database = LayerDir::read(images, definition.database.name())?;
        let channel = match definition.channel {
            AgentChannel::VirtioSerial => None,
            AgentChannel::IsaSerial => Some(LayerDir::read(images, "isa-serial")?),
        };
        let agent = existing_agent.or_else(|| family.layer.agent.clone());
        let agent = agent.ok_or_else(|| family.lacks("agent"))?;
        let mut server = database.layer.server().cloned().ok_or_else(|| database.lacks("server"))?;
        let packaging = distro.layer.packaging(definition.database).clone();
        if let Some(unit) = packaging.unit {
            server.unit = unit;
        }
        let server = existing_server.unwrap_or(server);
        Ok(Self {
            server_packages: packaging.packages.unwrap_or_else(|| database.layer.packages.clone()),
            layers: [Some(family), origin, Some(distro), Some(database), channel]
                .into_iter()
                .flatten()
                .collect(),
            agent,
            server,
            hook: images.join("hooks/freezeframe"),
            program: hook_program::path(),
            definition_file: images.join(format!("{}.toml", definition.name)),
            definition,
        })
    }

    /// Every package that is named, sorted.
    pub(crate) fn packages(&self) -> Vec<&str> {
        // What the database's layer names is what `server_packages` is made of.
        let database = self.definition.database.name();
        let layers = || self.layers.iter().filter(|layer| layer.name != database).map(|layer| &layer.layer);
        let of_layers = layers().flat_map(|layer| &layer.packages);
        let kernels = layers().flat_map(|layer| &layer.kernel);
        let groups = self.definition.disks.iter().any(|disk| disk.group.is_some());
        let names: BTreeSet<_> = of_layers
            .chain(kernels.filter(|_| self.definition.origin == Origin::Packages))
            .chain(&self.server_packages)
            .chain(&self.definition.packages)
            .map(String::as_str)
            // Activates the volumes.
            .chain(groups.then_some("lvm2"))
            .collect();
        names.into_iter().collect()
    }

    /// Every unit that never starts.
    pub(crate) fn masks(&self) -> impl Iterator<Item = &Mask> {
        self.layers.iter().flat_map(|layer| &layer.layer.masks).chain(&self.definition.masks)
    }

    /// The kernel command line.
    pub(crate) fn cmdline(&self) -> String {
        let arguments = self.layers.iter().flat_map(|layer| &layer.layer.arguments);
        let mut cmdline: Vec<_> = arguments.map(|argument| argument.value.clone()).collect();
        if self.definition.origin == Origin::Packages {
            // The kernel need not guess the file system.
            cmdline.push(format!("rootfstype={}", self.root()));
        }
        cmdline.join(" ")
    }

    /// The kind of the root's file system, where its disk is made for the image.
    pub(crate) fn root(&self) -> FsKind {
        let mut file_systems = self.definition.disks.iter().flat_map(|disk| &disk.file_systems);
        file_systems.find(|fs| fs.mount == Path::new("/")).map_or(FsKind::Ext4, |fs| fs.fs)
    }

    /// SHA-256 over everything that the build depends on, lowercase hex.
    /// `packages` is what the distribution would install today.
    pub(crate) fn digest(&self, packages: &str) -> Result<String, Failure> {
        let mut hash = Sha256::new();
        field(&mut hash, &BUILDER_VERSION.to_le_bytes());
        field(&mut hash, self.definition.name.as_bytes());
        field(&mut hash, packages.as_bytes());
        hash_file(&mut hash, &self.definition_file, "definition")?;
        for layer in &self.layers {
            hash_tree(&mut hash, &layer.dir, &layer.name)?;
        }
        hash_tree(&mut hash, &self.hook, "hook")?;
        hash_file(&mut hash, &self.program, hook_program::NAME)?;
        Ok(hex::encode(hash.finalize()))
    }
}

/// Adds one field with its length, so that no two lists of fields hash alike.
fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn hash_tree(hash: &mut Sha256, dir: &Path, name: &str) -> Result<(), Failure> {
    for entry in sorted_entries(dir)? {
        let name = format!("{name}/{}", entry.file_name().unwrap_or_default().to_string_lossy());
        if entry.is_dir() {
            hash_tree(hash, &entry, &name)?;
        } else {
            hash_file(hash, &entry, &name)?;
        }
    }
    Ok(())
}

fn hash_file(hash: &mut Sha256, path: &Path, name: &str) -> Result<(), Failure> {
    let bytes = fs::read(path).map_err(|e| Failure::io("read", path, e))?;
    field(hash, name.as_bytes());
    field(hash, &[u8::from(is_executable(path)?)]);
    field(hash, &bytes);
    Ok(())
}

/// What is in a directory, sorted by name.
pub(super) fn sorted_entries(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let io = |e| Failure::io("read", dir, e);
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        entries.push(entry.map_err(io)?.path());
    }
    entries.sort();
    Ok(entries)
}

/// Whether a file is a program: all that a checkout keeps of its mode.
pub(super) fn is_executable(path: &Path) -> Result<bool, Failure> {
    let metadata = fs::metadata(path).map_err(|e| Failure::io("read", path, e))?;
    Ok(metadata.permissions().mode() & 0o100 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: &str = "packages = [\"z\", \"a\"]\n[[argument]]\nvalue = \"rw\"\nreason = \"r\"\n\
        [agent]\nunit = \"u\"\nhook = \"/h\"\nenabled_by = \"/e\"\n";
    const SERVER: &str =
        "packages = [\"a\", \"m\"]\n[server]\nunit = \"s\"\nbinlogs = \"/l\"\nport = 1\nuser = \"u\"\n";
    const DISTRO: &str = "packages = [\"k\"]\n[mysql]\nunit = \"other\"\n";
    const DEFINITION: &str = "summary = \"s\"\nfamily = \"deb\"\ndistro = \"d\"\nrelease = \"r\"\n\
        database = \"mariadb\"\nmemory_mib = 512\npackages = [\"b\"]\n\
        [[disk]]\ntarget = \"vda\"\nmount = \"/\"\nfs = \"ext4\"\nsize_mib = 2048\n";

    fn images() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("one.toml", DEFINITION),
            ("layers/deb/layer.toml", LAYER),
            ("layers/deb/customize.sh", "true\n"),
            ("layers/deb-packages/layer.toml", "packages = []\n"),
            ("layers/d/layer.toml", DISTRO),
            ("layers/mariadb/layer.toml", SERVER),
            ("hooks/freezeframe/fsfreeze-db.toml", "hook\n"),
            ("program", "program\n"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn recipe(images: &Path) -> Recipe {
        let recipe = Recipe::load(images, Definition::named(images, "one").unwrap()).unwrap();
        Recipe { program: images.join("program"), ..recipe }
    }

    #[test]
    fn layers_and_definition_add_up() {
        let images = images();
        let recipe = recipe(images.path());
        assert_eq!(recipe.packages(), ["a", "b", "k", "m", "z"]);
        assert_eq!(recipe.server.unit, "s");
        assert_eq!(recipe.cmdline(), "rw rootfstype=ext4");
    }

    #[test]
    fn a_distribution_packages_a_server_its_own_way() {
        let images = images();
        let distro = format!("{DISTRO}[mariadb]\npackages = [\"n\"]\nunit = \"t\"\n");
        fs::write(images.path().join("layers/d/layer.toml"), distro).unwrap();
        let recipe = recipe(images.path());
        assert_eq!(recipe.packages(), ["a", "b", "k", "n", "z"]);
        assert_eq!((recipe.server.unit.as_str(), recipe.server.port), ("t", 1));
    }

    #[test]
    fn a_database_with_binary_logs_says_where_they_are() {
        let images = images();
        let layer = |database: &str| images.path().join("layers").join(database).join("layer.toml");
        let definition = Definition::named(images.path(), "one").unwrap();
        let without = SERVER.replace("binlogs = \"/l\"\n", "");
        fs::write(layer("mariadb"), &without).unwrap();
        let error = Recipe::load(images.path(), definition).unwrap_err().to_string();
        let expected =
            "the key `binlogs` is missing: with `mariadb`, write the directory of the server's binary logs.";
        assert_eq!(error, format!("{}:2: {expected}", layer("mariadb").display()));

        fs::write(images.path().join("one.toml"), DEFINITION.replace("mariadb", "postgresql")).unwrap();
        fs::create_dir(layer("postgresql").with_file_name("")).unwrap();
        fs::write(layer("postgresql"), &without).unwrap();
        assert_eq!(recipe(images.path()).server.binlogs, None);
        fs::write(layer("postgresql"), SERVER).unwrap();
        let definition = Definition::named(images.path(), "one").unwrap();
        let error = Recipe::load(images.path(), definition).unwrap_err().to_string();
        assert!(error.ends_with(":2: `postgresql` has no binary logs: leave `binlogs` out."), "{error}");
    }

    #[test]
    fn a_channel_brings_a_layer_that_comes_last() {
        let images = images();
        let layer = images.path().join("layers/isa-serial");
        fs::create_dir_all(&layer).unwrap();
        fs::write(layer.join("layer.toml"), "packages = [\"c\"]\n").unwrap();
        let definition = DEFINITION.replacen("database", "channel = \"isa-serial\"\ndatabase", 1);
        fs::write(images.path().join("one.toml"), definition).unwrap();
        let recipe = recipe(images.path());
        assert_eq!(recipe.packages(), ["a", "b", "c", "k", "m", "z"]);
        assert_eq!(recipe.layers.last().unwrap().name, "isa-serial");
    }

    #[test]
    fn the_digest_changes_with_every_input_and_with_nothing_else() {
        let images = images();
        let digest = |packages: &str| recipe(images.path()).digest(packages).unwrap();
        let before = digest("p 1\n");
        assert_eq!(before, digest("p 1\n"));
        assert_ne!(before, digest("p 2\n"));

        let mut digests = vec![before];
        for file in [
            "one.toml",
            "layers/deb/customize.sh",
            "layers/d/layer.toml",
            "layers/mariadb/layer.toml",
            "program",
        ] {
            let path = images.path().join(file);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, format!("# more\n{text}")).unwrap();
            let now = digest("p 1\n");
            assert!(!digests.contains(&now), "{file}");
            digests.push(now);
        }
        let hook = images.path().join("hooks/freezeframe/fsfreeze-db.toml");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(!digests.contains(&digest("p 1\n")), "the mode of the hook");
    }
}
