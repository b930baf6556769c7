//! Reading definitions and layers: their shape, and what is checked of it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{Definition, Family, Layer, Mask, Repository};
use crate::image::kinds::{AgentChannel, Database};
use crate::image::layout::{self, RawBind, RawDisk, RawLoop};
use crate::image::origin::{Origin, RawCloudImage, RawExisting, ServerFacts};
use crate::input::{InputError, Mistake, Source, Whole};
use crate::text::printable;

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
    /// The file or directory cannot be read, or does not say what it must.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Trials whose names are too long for a directory, or lead to the same one.
    #[error("{0}")]
    Names(String),
}

/// A definition as written. `Spanned` keeps the place of everything that is checked later.
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
    #[serde(default = "yes")]
    security_updates: bool,
    database: Spanned<Database>,
    channel: Option<Spanned<AgentChannel>>,
    #[serde(default)]
    packages: Vec<Spanned<String>>,
    #[serde(default, rename = "mask")]
    masks: Vec<Mask>,
    /// The least that a guest boots and serves with, to a tebibyte.
    memory_mib: Spanned<Whole<384, 1_048_576>>,
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

fn yes() -> bool {
    true
}

impl Definition {
    /// Reads and checks one definition.
    pub fn read(path: &Path) -> Result<Self, DefinitionError> {
        let source = Source::read(path)?;
        let raw: RawDefinition = source.parse()?;
        Ok(raw.check(path).map_err(|mistake| source.invalid(mistake))?)
    }

    /// Reads the definition of image `name` under `images`.
    pub fn named(images: &Path, name: &str) -> Result<Self, DefinitionError> {
        let path = images.join(format!("{name}.toml"));
        // A name must never lead out of `images`.
        if name.contains('/') || !path.is_file() {
            return Err(DefinitionError::Unknown { name: name.to_owned(), path });
        }
        Self::read(&path)
    }

    /// Reads every definition under `images`, sorted by name.
    pub fn list(images: &Path) -> Result<Vec<Self>, DefinitionError> {
        let io = |source| InputError::Read { path: images.to_owned(), source };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(images).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }
}

impl Layer {
    /// Reads and checks one layer. The directory of a database's layer has the database's name.
    pub fn read(path: &Path) -> Result<Self, DefinitionError> {
        let source = Source::read(path)?;
        let layer: Self = source.parse()?;
        let directory = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        if let (Some(server), Some(database)) = (&layer.server, directory.and_then(Database::of_name)) {
            ServerFacts::check(server, database).map_err(|mistake| source.invalid(mistake))?;
        }
        Ok(layer)
    }
}

impl RawDefinition {
    /// Checks the definition in this file.
    fn check(mut self, path: &Path) -> Result<Definition, Mistake> {
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(Mistake::in_file(format!(
                "`{name}` cannot name an image. Name the file with lowercase letters, digits and `-` only."
            )));
        }
        [&self.distro, &self.release].into_iter().chain(&self.cpu).try_for_each(check_word)?;
        self.packages.iter().try_for_each(check_package)?;
        if let (Family::Rpm, Some(channel)) = (self.family, &self.channel)
            && *channel.get_ref() == AgentChannel::IsaSerial
        {
            let message = "`isa-serial` is made for family `deb` only: leave `channel` out.";
            return Err(Mistake::new(&channel.span(), message));
        }
        // Nothing is installed on an existing disk.
        let repositories = if self.existing.is_some() && self.repositories.is_empty() {
            Vec::new()
        } else {
            let listed = std::mem::take(&mut self.repositories);
            check_repositories(self.family, self.mirror.as_ref(), listed)?
        };
        if let Some(mirror) = &self.mirror
            && !mirror.get_ref().contains("://")
        {
            return Err(Mistake::new(&mirror.span(), "`mirror` must be a URL."));
        }
        let origin = self.take_origin(path)?;
        let installs = !matches!(origin, Origin::Existing(_));
        if self.family == Family::Rpm && *self.database.get_ref() == Database::Postgresql && installs {
            let message = "`postgresql` can be installed in the deb family only.";
            return Err(Mistake::new(&self.database.span(), message));
        }
        let mounts = match origin {
            Origin::Packages => layout::check(self.disks, self.loops, self.binds)?,
            Origin::CloudImage(_) | Origin::Existing(_) => layout::Mounts::default(),
        };
        Ok(Definition {
            name: name.to_owned(),
            summary: self.summary,
            unverified: self.unverified,
            family: self.family,
            distro: self.distro.into_inner(),
            release: self.release.into_inner(),
            mirror: self.mirror.map(Spanned::into_inner),
            repositories,
            security_updates: self.security_updates,
            database: self.database.into_inner(),
            channel: self.channel.map(Spanned::into_inner).unwrap_or_default(),
            packages: self.packages.into_iter().map(Spanned::into_inner).collect(),
            masks: self.masks,
            memory_mib: self.memory_mib.get_ref().0.into(),
            origin,
            cpu: self.cpu.map(Spanned::into_inner),
            disks: mounts.disks,
            loops: mounts.loops,
            binds: mounts.binds,
        })
    }

    /// What the image is made of, taken out of its definition.
    fn take_origin(&mut self, path: &Path) -> Result<Origin, Mistake> {
        let no_layout = self.disks.is_empty() && self.loops.is_empty() && self.binds.is_empty();
        let message = match (self.cloud_image.take(), self.existing.take()) {
            (None, None) => return Ok(Origin::Packages),
            (Some(image), None) if self.family == Family::Deb && no_layout => {
                return image.check(path).map(Origin::CloudImage);
            }
            (None, Some(disk)) if no_layout && self.packages.is_empty() && self.masks.is_empty() => {
                return disk.check(path, *self.database.get_ref()).map(Origin::Existing);
            }
            (Some(_), Some(_)) => {
                "an image is made of a `[cloud_image]` or is an `[existing]` disk. Leave one of them out."
            }
            (Some(_), None) if self.family == Family::Rpm => {
                "packages can be added to cloud images of the deb family only."
            }
            (Some(_), None) => {
                "a cloud image has the disk and the file systems that its vendor gave it. Leave out \
                 `[[disk]]`, `[[loop]]` and `[[bind]]`."
            }
            (None, Some(_)) => {
                "an existing disk is taken as it is. Leave out `[[disk]]`, `[[loop]]`, `[[bind]]`, \
                 `[[mask]]` and `packages`."
            }
        };
        Err(Mistake::new(&self.memory_mib.span(), message))
    }
}

fn check_word(word: &Spanned<String>) -> Result<(), Mistake> {
    let text = word.get_ref();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(plain) {
        return Ok(());
    }
    let message = format!("`{}` must be one plain word, such as `bookworm`.", printable(text));
    Err(Mistake::new(&word.span(), message))
}

fn check_package(package: &Spanned<String>) -> Result<(), Mistake> {
    let name = package.get_ref();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"+._-".contains(&b);
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(Mistake::new(&package.span(), format!("`{}` is not a package name.", printable(name))))
}

/// Packages come from a mirror or from repositories, whichever is the family's way.
fn check_repositories(
    family: Family,
    mirror: Option<&Spanned<String>>,
    raw: Vec<RawRepository>,
) -> Result<Vec<Repository>, Mistake> {
    match (family, mirror, raw.first()) {
        (Family::Rpm, Some(mirror), _) => {
            let message =
                "the RPM family has no `mirror`: write a `[[repository]]` for each of its repositories.";
            return Err(Mistake::new(&mirror.span(), message));
        }
        (Family::Rpm, None, None) => {
            let message = "there is no repository. Add a `[[repository]]` with `name`, `url` and `key`.";
            return Err(Mistake::in_file(message));
        }
        (Family::Deb, _, Some(first)) => {
            let message = "the deb family has no repositories: the release says where its packages are, or \
                           `mirror` does.";
            return Err(Mistake::new(&first.name.span(), message));
        }
        _ => {}
    }
    raw.into_iter().map(RawRepository::check).collect()
}

impl RawRepository {
    fn check(self) -> Result<Repository, Mistake> {
        let Self { name, url, key } = self;
        check_word(&name)?;
        let local = url.get_ref().starts_with("file:///");
        for address in [Some(&url), key.as_ref()].into_iter().flatten() {
            let text = address.get_ref();
            let known = ["https://", "http://", "file:///"].iter().any(|scheme| text.starts_with(scheme));
            if !known || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
                let message = format!("`{}` must be a URL without blanks.", printable(text));
                return Err(Mistake::new(&address.span(), message));
            }
        }
        match &key {
            None if !local => {
                let message = "packages from elsewhere must be signed: name the `key`.";
                Err(Mistake::new(&url.span(), message))
            }
            Some(key) if key.get_ref().starts_with("http://") => {
                Err(Mistake::new(&key.span(), "a key must come by `https` or from a file."))
            }
            _ => Ok(Repository {
                name: name.into_inner(),
                url: url.into_inner(),
                key: key.map(Spanned::into_inner),
            }),
        }
    }
}
