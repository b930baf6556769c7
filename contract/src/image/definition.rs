//! Image definitions: one small TOML file a distribution under `images/`, and
//! the layers (family, database) that it builds on.
//!
//! Files are checked whole before anything is built. Every error names the
//! file and the line, and says what to write instead.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;

use super::kinds::{Channel, Database};
use super::layout::{self, Bind, DiskLayout, FsKind, LoopLayout, RawBind, RawDisk, RawLoop};
use super::manifest::Agent;
use super::origin::{Origin, RawCloudImage, RawExisting, ServerFacts};
use crate::text::printable;

/// The least memory that a guest boots and serves with, MiB.
const MIN_MEMORY_MIB: u64 = 384;

/// `images/NAME.toml`: what an image shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The file's name without `.toml`.
    pub name: String,
    /// One line for `images list`.
    pub summary: String,
    /// Why the project's own tests have never built and run it. Such an image is
    /// built and used only when it is named.
    pub unverified: Option<String>,
    /// How the image is built.
    pub family: Family,
    /// `debian`.
    pub distro: String,
    /// `bookworm`.
    pub release: String,
    /// Package mirror of the deb family; without it the builder's own choice.
    pub mirror: Option<String>,
    /// Package repositories of the RPM family.
    pub repositories: Vec<Repository>,
    /// Whether packages come with the release's security updates.
    pub security_updates: bool,
    /// The database server.
    pub database: Database,
    /// How the host reaches the guest agent.
    pub channel: Channel,
    /// Packages beyond those of the layers.
    pub packages: Vec<String>,
    /// Units that never start, beyond those of the layers.
    pub masks: Vec<Mask>,
    /// Guest memory, MiB.
    pub memory_mib: u64,
    /// The processor model that an emulated guest needs, as QEMU names it, where
    /// the programs of the distribution do not run on the plainest one.
    pub cpu: Option<String>,
    /// What the image is made of.
    pub origin: Origin,
    /// The disks that are made for it; the first is the root.
    pub disks: Vec<DiskLayout>,
    /// File systems in files on those of the disks.
    pub loops: Vec<LoopLayout>,
    /// Directories that are mounted a second time.
    pub binds: Vec<Bind>,
}

/// A family of distributions that are built the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Debian and its derivatives, built with mmdebstrap.
    Deb,
    /// Fedora, the RHEL family and openSUSE, built with dnf.
    Rpm,
}

impl Family {
    /// The name of its layer.
    pub fn layer(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        }
    }

    /// The name of the layer for images of this origin, where there is one.
    pub fn origin_layer(self, origin: &Origin) -> Option<&'static str> {
        match (self, origin) {
            (Self::Deb, Origin::Packages) => Some("deb-packages"),
            (Self::Deb, Origin::CloudImage(_)) => Some("deb-cloud"),
            (Self::Rpm, _) | (_, Origin::Existing(_)) => None,
        }
    }
}

/// A systemd unit that never starts in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mask {
    /// The unit.
    pub unit: String,
    /// Why a trial does not want it.
    pub reason: String,
}

/// A package repository of the RPM family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its name, for messages.
    pub name: String,
    /// Where its `repodata` is.
    pub url: String,
    /// Where the key is that its packages are signed with. Only a repository on
    /// the host itself goes without.
    pub key: Option<String>,
}

/// `images/layers/NAME/layer.toml`: what every image on this layer gets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Packages to install.
    pub packages: Vec<String>,
    /// The packages of the kernel, which images that have one already do not get.
    #[serde(default)]
    pub kernel: Vec<String>,
    /// The kernel command line.
    #[serde(default, rename = "argument")]
    pub arguments: Vec<Argument>,
    /// Units that never start.
    #[serde(default, rename = "mask")]
    pub masks: Vec<Mask>,
    /// The guest agent, in the layer of a family.
    pub agent: Option<Agent>,
    /// The database server, in the layer of a database.
    pub server: Option<ServerFacts>,
    /// What is different about MariaDB, in the layer of a distribution.
    #[serde(default)]
    pub mariadb: Packaging,
    /// The same of MySQL.
    #[serde(default)]
    pub mysql: Packaging,
}

impl Layer {
    /// What this distribution packages differently of a database server.
    pub fn packaging(&self, database: Database) -> &Packaging {
        match database {
            Database::Mariadb => &self.mariadb,
            Database::Mysql => &self.mysql,
        }
    }
}

/// How a distribution packages a database server, where that is not what the
/// layer of the database says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packaging {
    /// Its packages, the server first.
    pub packages: Option<Vec<String>>,
    /// Its systemd unit.
    pub unit: Option<String>,
}

/// One argument of the kernel command line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argument {
    /// As the kernel reads it.
    pub value: String,
    /// What it is good for.
    pub reason: String,
}

/// Why a definition or a layer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// There is no such file.
    #[error("there is no image `{name}`: {} does not exist. `cargo xtask images list` shows those that do.", path.display())]
    Unknown {
        /// The image.
        name: String,
        /// Where its definition should be.
        path: PathBuf,
    },
    /// The file or directory could not be read.
    #[error("cannot read {}: {source}.", path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file does not say what it must.
    #[error("{}:{line}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong and what to write instead, in sentences.
        problem: String,
    },
}

impl Definition {
    /// Reads and checks one definition.
    pub fn parse(path: &Path) -> Result<Self, DefinitionError> {
        let source = Source::read(path)?;
        let mut raw: RawDefinition = source.parse()?;
        let name = source.name().to_owned();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return Err(source.invalid(
                0,
                format!("`{name}` cannot name an image. Name the file with lowercase letters, digits and `-` only."),
            ));
        }
        for word in [&raw.distro, &raw.release] {
            source.check_word(word)?;
        }
        for package in &raw.packages {
            source.check_package(package)?;
        }
        if let Some(cpu) = &raw.cpu {
            source.check_word(cpu)?;
        }
        if let (Family::Rpm, Some(channel)) = (raw.family, &raw.channel)
            && *channel.get_ref() == Channel::IsaSerial
        {
            return Err(source.invalid(
                channel.span().start,
                "`isa-serial` is made for family `deb` only: leave `channel` out.",
            ));
        }
        let channel = raw.channel.take().map(Spanned::into_inner).unwrap_or_default();
        let repositories = match raw.existing {
            // Nothing is installed.
            Some(_) if raw.repositories.is_empty() => Vec::new(),
            _ => {
                let listed = std::mem::take(&mut raw.repositories);
                source.check_repositories(raw.family, raw.mirror.as_ref(), listed)?
            }
        };
        if let Some(mirror) = &raw.mirror
            && !mirror.get_ref().contains("://")
        {
            return Err(source.invalid(mirror.span().start, "`mirror` must be a URL."));
        }
        if *raw.memory_mib.get_ref() < MIN_MEMORY_MIB {
            return Err(source.invalid(
                raw.memory_mib.span().start,
                format!("`memory_mib` is too little to boot and serve. Give at least {MIN_MEMORY_MIB}."),
            ));
        }
        let origin = source.origin(&mut raw)?;
        let mounts = match origin {
            Origin::Packages => layout::check(raw.disks, raw.loops, raw.binds)
                .map_err(|(at, problem)| source.invalid(at, problem))?,
            Origin::CloudImage(_) | Origin::Existing(_) => layout::Mounts::default(),
        };
        Ok(Self {
            name,
            summary: raw.summary,
            unverified: raw.unverified,
            family: raw.family,
            distro: raw.distro.into_inner(),
            release: raw.release.into_inner(),
            mirror: raw.mirror.map(Spanned::into_inner),
            repositories,
            security_updates: raw.security_updates,
            database: raw.database,
            channel,
            packages: raw.packages.into_iter().map(Spanned::into_inner).collect(),
            masks: raw.masks,
            memory_mib: raw.memory_mib.into_inner(),
            origin,
            cpu: raw.cpu.map(Spanned::into_inner),
            disks: mounts.disks,
            loops: mounts.loops,
            binds: mounts.binds,
        })
    }

    /// Whether everything lies on one ext4 disk and the agent is on
    /// virtio-serial, the layout that every distribution has an image with.
    pub fn is_plain(&self) -> bool {
        self.channel == Channel::VirtioSerial
            && self.loops.is_empty()
            && self.binds.is_empty()
            && matches!(self.disks.as_slice(), [disk] if disk.file_systems.iter().all(|fs| fs.fs == FsKind::Ext4))
    }

    /// Whether a second guest of this image can mount its disks beside its own:
    /// volume groups and btrfs are known by a name that only one of them may have,
    /// and partitions are not looked for.
    pub fn can_be_attached(&self) -> bool {
        let bare = |disk: &DiskLayout| {
            disk.group.is_none() && disk.file_systems.iter().all(|fs| fs.fs != FsKind::Btrfs)
        };
        let whole = self.origin == Origin::Packages;
        whole && self.loops.is_empty() && self.binds.is_empty() && self.disks.iter().all(bare)
    }

    /// Reads the definition of image `name` under `images`.
    pub fn named(images: &Path, name: &str) -> Result<Self, DefinitionError> {
        let path = images.join(format!("{name}.toml"));
        // A name is never a way out of `images`.
        if name.contains('/') || !path.is_file() {
            return Err(DefinitionError::Unknown { name: name.to_owned(), path });
        }
        Self::parse(&path)
    }

    /// Reads every definition under `images`, sorted by name.
    pub fn list(images: &Path) -> Result<Vec<Self>, DefinitionError> {
        let io = |source| DefinitionError::Io { path: images.to_owned(), source };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(images).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().map(|path| Self::parse(path)).collect()
    }
}

impl Layer {
    /// Reads one layer.
    pub fn parse(path: &Path) -> Result<Self, DefinitionError> {
        Source::read(path)?.parse()
    }
}

/// A definition as written, with the place of everything that is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDefinition {
    summary: String,
    unverified: Option<String>,
    family: Family,
    distro: Spanned<String>,
    release: Spanned<String>,
    mirror: Option<Spanned<String>>,
    #[serde(default, rename = "repository")]
    repositories: Vec<RawRepository>,
    #[serde(default = "wanted")]
    security_updates: bool,
    database: Database,
    channel: Option<Spanned<Channel>>,
    #[serde(default)]
    packages: Vec<Spanned<String>>,
    #[serde(default, rename = "mask")]
    masks: Vec<Mask>,
    memory_mib: Spanned<u64>,
    cpu: Option<Spanned<String>>,
    cloud_image: Option<RawCloudImage>,
    existing: Option<RawExisting>,
    #[serde(default, rename = "disk")]
    disks: Vec<RawDisk>,
    #[serde(default, rename = "loop")]
    loops: Vec<RawLoop>,
    #[serde(default, rename = "bind")]
    binds: Vec<RawBind>,
}

/// A repository as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRepository {
    name: Spanned<String>,
    url: Spanned<String>,
    key: Option<Spanned<String>>,
}

fn wanted() -> bool {
    true
}

/// A file with its text, so that errors can name lines.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn read(path: &Path) -> Result<Self, DefinitionError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self { path: path.to_owned(), text }),
            Err(source) => Err(DefinitionError::Io { path: path.to_owned(), source }),
        }
    }

    /// What an image is made of, taken out of its definition.
    fn origin(&self, raw: &mut RawDefinition) -> Result<Origin, DefinitionError> {
        let no_layout = raw.disks.is_empty() && raw.loops.is_empty() && raw.binds.is_empty();
        let invalid = |(at, problem)| self.invalid(at, problem);
        Ok(match (raw.cloud_image.take(), raw.existing.take()) {
            (None, None) => Origin::Packages,
            (Some(_), Some(_)) => {
                let problem = "an image is made of a `[cloud_image]` or is an `[existing]` disk. Leave one of them out.";
                return Err(self.invalid(raw.memory_mib.span().start, problem));
            }
            (Some(_), None) if raw.family == Family::Rpm => {
                let problem = "packages can be added to cloud images of the deb family only.";
                return Err(self.invalid(raw.memory_mib.span().start, problem));
            }
            (Some(_), None) if !no_layout => {
                let problem = "a cloud image has the disk and the file systems that its vendor gave it. Leave out \
                               `[[disk]]`, `[[loop]]` and `[[bind]]`.";
                return Err(self.invalid(raw.memory_mib.span().start, problem));
            }
            (Some(image), None) => Origin::CloudImage(image.check(&self.path).map_err(invalid)?),
            (None, Some(_)) if !(no_layout && raw.packages.is_empty() && raw.masks.is_empty()) => {
                let problem = "an existing disk is taken as it is. Leave out `[[disk]]`, `[[loop]]`, `[[bind]]`, \
                               `[[mask]]` and `packages`.";
                return Err(self.invalid(raw.memory_mib.span().start, problem));
            }
            (None, Some(disk)) => Origin::Existing(disk.check(&self.path).map_err(invalid)?),
        })
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, DefinitionError> {
        toml::from_str(&self.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            self.invalid(at, format!("{}.", error.message()))
        })
    }

    fn name(&self) -> &str {
        self.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
    }

    /// An error about the byte at `at`.
    fn invalid(&self, at: usize, problem: impl Into<String>) -> DefinitionError {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        DefinitionError::Invalid { path: self.path.clone(), line, problem: problem.into() }
    }

    fn check_word(&self, word: &Spanned<String>) -> Result<(), DefinitionError> {
        let text = word.get_ref();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(plain) {
            return Ok(());
        }
        Err(self.invalid(word.span().start, format!("`{text}` must be one plain word, such as `bookworm`.")))
    }

    /// Packages come from a mirror or from repositories, whichever is the family's way.
    fn check_repositories(
        &self,
        family: Family,
        mirror: Option<&Spanned<String>>,
        raw: Vec<RawRepository>,
    ) -> Result<Vec<Repository>, DefinitionError> {
        match (family, mirror, raw.first()) {
            (Family::Rpm, Some(mirror), _) => {
                return Err(self.invalid(
                    mirror.span().start,
                    "the RPM family has no `mirror`: write a `[[repository]]` for each of its repositories.",
                ));
            }
            (Family::Rpm, None, None) => {
                return Err(self.invalid(
                    0,
                    "there is no repository. Add a `[[repository]]` with `name`, `url` and `key`.",
                ));
            }
            (Family::Deb, _, Some(first)) => {
                return Err(self.invalid(
                    first.name.span().start,
                    "the deb family has no repositories: the release says where its packages are, or `mirror` does.",
                ));
            }
            _ => {}
        }
        for RawRepository { name, url, key } in &raw {
            self.check_word(name)?;
            let local = url.get_ref().starts_with("file:///");
            for address in [Some(url), key.as_ref()].into_iter().flatten() {
                let text = address.get_ref();
                let known = ["https://", "http://", "file:///"].iter().any(|scheme| text.starts_with(scheme));
                if !known || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
                    return Err(self.invalid(
                        address.span().start,
                        format!("`{}` must be a URL without blanks.", printable(text)),
                    ));
                }
            }
            match key {
                None if !local => {
                    return Err(
                        self.invalid(url.span().start, "packages from elsewhere are signed: name the `key`.")
                    );
                }
                Some(key) if key.get_ref().starts_with("http://") => {
                    return Err(self.invalid(key.span().start, "a key must come by `https` or from a file."));
                }
                _ => {}
            }
        }
        let read = |RawRepository { name, url, key }| Repository {
            name: name.into_inner(),
            url: url.into_inner(),
            key: key.map(Spanned::into_inner),
        };
        Ok(raw.into_iter().map(read).collect())
    }

    fn check_package(&self, package: &Spanned<String>) -> Result<(), DefinitionError> {
        let name = package.get_ref();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"+._-".contains(&b);
        if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(plain) {
            return Ok(());
        }
        Err(self.invalid(package.span().start, format!("`{name}` is not a package name.")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"summary = "Test"
family = "deb"
distro = "debian"
release = "bookworm"
database = "mariadb"
memory_mib = 512

[[disk]]
target = "vda"
mount = "/"
fs = "ext4"
size_mib = 2048
"#;

    fn parse(text: &str) -> Result<Definition, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a-test.toml");
        std::fs::write(&path, text).unwrap();
        Definition::parse(&path).map_err(|error| {
            error
                .to_string()
                .replace(&format!("{}/a-test", dir.path().display()), "a-test")
                .replace(&*dir.path().to_string_lossy(), "DIR")
        })
    }

    fn images() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../images")
    }

    #[test]
    fn a_definition_is_read_whole() {
        let definition = parse(GOOD).unwrap();
        assert_eq!(definition.name, "a-test");
        assert_eq!(definition.family.layer(), "deb");
        assert_eq!(definition.disks.len(), 1);
        assert_eq!(definition.mirror, None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_what_to_write() {
        let cases = [
            (
                ("memory_mib = 512", "memory_mb = 512"),
                "a-test.toml:6: unknown field `memory_mb`, expected one of `summary`, `unverified`, `family`, `distro`, \
                 `release`, `mirror`, `repository`, `security_updates`, `database`, `channel`, `packages`, `mask`, \
                 `memory_mib`, `cpu`, `cloud_image`, `existing`, `disk`, `loop`, `bind`.",
            ),
            (
                ("memory_mib", "channel = \"vsock\"\nmemory_mib"),
                "a-test.toml:6: unknown variant `vsock`, expected `virtio-serial` or `isa-serial`.",
            ),
            (
                ("family = \"deb\"", "channel = \"isa-serial\"\nfamily = \"rpm\""),
                "a-test.toml:2: `isa-serial` is made for family `deb` only: leave `channel` out.",
            ),
            (("\"deb\"", "\"apk\""), "a-test.toml:2: unknown variant `apk`, expected `deb` or `rpm`."),
            (
                ("\"mariadb\"", "\"oracle\""),
                "a-test.toml:5: unknown variant `oracle`, expected `mariadb` or `mysql`.",
            ),
            (("2048", "64"), "a-test.toml:12: the disk is too small. Give at least 1536."),
            (
                ("\"ext4\"", "\"zfs\""),
                "a-test.toml:11: unknown variant `zfs`, expected one of `ext4`, `xfs`, `btrfs`.",
            ),
            (("\"/\"", "\"/srv\""), "a-test.toml:10: the first disk is the root: write `mount = \"/\"`."),
            (
                ("512", "64"),
                "a-test.toml:6: `memory_mib` is too little to boot and serve. Give at least 384.",
            ),
            (
                ("\"bookworm\"", "\"--verbose\""),
                "a-test.toml:4: `--verbose` must be one plain word, such as `bookworm`.",
            ),
            (
                ("memory_mib", "packages = [\"a,b\"]\nmemory_mib"),
                "a-test.toml:6: `a,b` is not a package name.",
            ),
            (
                ("memory_mib", "[[mask]]\nunit = \"a.timer\"\n[other]\nmemory_mib"),
                "a-test.toml:6: missing field `reason`.",
            ),
        ];
        for ((from, to), expected) in cases {
            assert_eq!(parse(&GOOD.replacen(from, to, 1)).unwrap_err(), expected);
        }
    }

    #[test]
    fn disks_beside_the_root_are_checked() {
        let second = |target: &str, mount: &str, size: u64| {
            let disk = format!(
                "[[disk]]\ntarget = \"{target}\"\nmount = \"{mount}\"\nfs = \"ext4\"\nsize_mib = {size}\n"
            );
            parse(&format!("{GOOD}{disk}"))
        };
        let disks = second("vdb", "/srv/logs", 256).unwrap().disks;
        assert_eq!(disks[1].file_systems[0].mount, Path::new("/srv/logs"));
        assert_eq!(disks[1].device(&disks[1].file_systems[0]), "/dev/vdb");
        for (target, mount, size, expected) in [
            ("vda", "/srv", 256, "14: disks are named in order; this one must be `vdb`."),
            ("vdb", "/", 256, "15: two file systems are mounted at /. Give each a place of its own."),
            ("vdb", "/srv/../etc", 256, "15: `mount` must be an absolute path of letters, digits and `._-`."),
            ("vdb", "srv", 256, "15: `mount` must be an absolute path of letters, digits and `._-`."),
            ("vdb", "/srv", 64, "17: the disk is too small. Give at least 128."),
        ] {
            assert_eq!(second(target, mount, size).unwrap_err(), format!("a-test.toml:{expected}"));
        }
    }

    #[test]
    fn volume_groups_are_checked() {
        let group = "[[disk]]\ntarget = \"vdb\"\nsize_mib = 600\ngroup = \"data\"\n\
            [[disk.volume]]\nname = \"tables\"\nmount = \"/srv/tables\"\nfs = \"ext4\"\nsize_mib = 256\n\
            [[disk.volume]]\nname = \"redo\"\nmount = \"/srv/redo\"\nfs = \"xfs\"\nsize_mib = 320\n";
        let disks = parse(&format!("{GOOD}{group}")).unwrap().disks;
        let names: Vec<_> = disks[1].file_systems.iter().map(|fs| fs.name.as_str()).collect();
        assert_eq!(names, ["data-tables", "data-redo"]);
        assert_eq!(disks[1].device(&disks[1].file_systems[1]), "/dev/mapper/data-redo");
        for (from, to, expected) in [
            ("600", "580", "15: the volumes do not fit on the disk. Give at least 584."),
            ("\"redo\"", "\"tables\"", "24: there are two volumes `data-tables`."),
            ("\"redo\"", "\"re-do\"", "23: `re-do`: use lowercase letters and digits only."),
            (
                "/srv/redo",
                "/srv/tables",
                "24: two file systems are mounted at /srv/tables. Give each a place of its own.",
            ),
            ("= 320", "= 300", "26: the disk is too small. Give at least 320."),
            (
                "group = \"data\"",
                "fs = \"ext4\"",
                "14: a disk holds either one file system (`mount` and `fs`) or a volume group (`group`, and a \
                 `[[disk.volume]]` for each volume).",
            ),
        ] {
            let text = format!("{GOOD}{}", group.replacen(from, to, 1));
            assert_eq!(parse(&text).unwrap_err(), format!("a-test.toml:{expected}"));
        }
    }

    #[test]
    fn loops_and_binds_are_checked() {
        let more = "[[loop]]\nfile = \"/usr/tmp.img\"\nmount = \"/srv\"\nfs = \"ext4\"\nsize_mib = 128\n\
            [[bind]]\nfrom = \"/srv\"\nmount = \"/mnt\"\n";
        let definition = parse(&format!("{GOOD}{more}")).unwrap();
        assert_eq!(definition.loops[0].file_system.name, "loop0");
        assert_eq!(definition.binds[0].mount, Path::new("/mnt"));
        assert!(!definition.is_plain());
        for (from, to, expected) in [
            ("128", "64", "17: the disk is too small. Give at least 128."),
            (
                "\"/usr/tmp.img\"",
                "\"tmp.img\"",
                "14: `file` must be an absolute path of letters, digits and `._-`.",
            ),
            (
                "\"/mnt\"",
                "\"/srv\"",
                "20: two file systems are mounted at /srv. Give each a place of its own.",
            ),
            (
                "from = \"/srv\"",
                "from = \"/../x\"",
                "19: `from` must be an absolute path of letters, digits and `._-`.",
            ),
        ] {
            let text = format!("{GOOD}{}", more.replacen(from, to, 1));
            assert_eq!(parse(&text).unwrap_err(), format!("a-test.toml:{expected}"));
        }
    }

    #[test]
    fn cloud_images_are_checked() {
        let (packages, _) = GOOD.split_once("[[disk]]").unwrap();
        let digest = "0123456789abcdef".repeat(4);
        let good = format!(
            "{packages}[cloud_image]\nurl = \"https://example.org/disk.qcow2\"\nsha256 = \"{digest}\"\n"
        );
        let definition = parse(&good).unwrap();
        let Origin::CloudImage(image) = &definition.origin else { panic!("{:?}", definition.origin) };
        assert_eq!(image.sha256, digest);
        assert_eq!(definition.disks, []);
        assert!(!definition.is_plain() && !definition.can_be_attached());
        let disk = "[[disk]]\ntarget = \"vda\"\nmount = \"/\"\nfs = \"ext4\"\nsize_mib = 2048\n";
        for (from, to, expected) in [
            ("https:", "ftp:", "9: `url` must begin with `https://` or `http://`."),
            ("url =", "file =", "9: there is no file DIR/https://example.org/disk.qcow2."),
            (
                "url = \"https://example.org/disk.qcow2\"\n",
                "",
                "9: a cloud image is either downloaded (`url`) or on this host (`file`). Write one of them.",
            ),
            (
                &digest,
                "abc",
                "10: `sha256` must be the 64 hexadecimal digits that the vendor publishes beside the image.",
            ),
            (
                "[cloud_image]",
                &format!("{disk}[cloud_image]"),
                "6: a cloud image has the disk and the file systems that its vendor gave it. Leave out `[[disk]]`, \
                 `[[loop]]` and `[[bind]]`.",
            ),
        ] {
            assert_eq!(parse(&good.replacen(from, to, 1)).unwrap_err(), format!("a-test.toml:{expected}"));
        }
    }

    #[test]
    fn repositories_are_checked() {
        let repository =
            "[[repository]]\nname = \"base\"\nurl = \"https://d/os/\"\nkey = \"https://d/KEY\"\n";
        let rpm = format!("{}{repository}", GOOD.replace("\"deb\"", "\"rpm\""));
        assert_eq!(parse(&rpm).unwrap().repositories[0].key.as_deref(), Some("https://d/KEY"));
        let local = rpm.replace("https://d/os/", "file:///r").replace("key = \"https://d/KEY\"\n", "");
        assert_eq!(parse(&local).unwrap().repositories[0].key, None);
        for (text, expected) in [
            (
                format!("{GOOD}{repository}"),
                "14: the deb family has no repositories: the release says where its packages are, or `mirror` does.",
            ),
            (
                GOOD.replace("\"deb\"", "\"rpm\""),
                "1: there is no repository. Add a `[[repository]]` with `name`, `url` and `key`.",
            ),
            (
                rpm.replace("key = \"https://d/KEY\"\n", ""),
                "15: packages from elsewhere are signed: name the `key`.",
            ),
            (rpm.replace("https://d/KEY", "http://d/KEY"), "16: a key must come by `https` or from a file."),
            (rpm.replace("https://d/os/", "d/os/"), "15: `d/os/` must be a URL without blanks."),
            (
                rpm.replace("memory_mib", "mirror = \"https://d/\"\nmemory_mib"),
                "6: the RPM family has no `mirror`: write a `[[repository]]` for each of its repositories.",
            ),
            (
                rpm.replace("memory_mib", "cpu = \"a b\"\nmemory_mib"),
                "6: `a b` must be one plain word, such as `bookworm`.",
            ),
        ] {
            assert_eq!(parse(&text).unwrap_err(), format!("a-test.toml:{expected}"));
        }
    }

    #[test]
    fn an_image_without_definition_is_named() {
        for name in ["nothing", "../images/bookworm-mariadb"] {
            let error = Definition::named(&images(), name).unwrap_err();
            assert!(matches!(error, DefinitionError::Unknown { .. }), "{error}");
        }
    }

    #[test]
    fn the_definitions_and_layers_of_this_repository_are_valid() {
        let definitions = Definition::list(&images()).unwrap();
        assert!(!definitions.is_empty());
        for definition in definitions {
            let layer = |name: &str| Layer::parse(&images().join("layers").join(name).join("layer.toml"));
            assert!(layer(definition.family.layer()).unwrap().agent.is_some());
            assert!(layer(definition.database.name()).unwrap().server.is_some());
            layer(&definition.distro).unwrap();
        }
    }
}
