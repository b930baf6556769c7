//! `cargo xtask images list`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use contract::image::{Definition, DiskLayout, Manifest, Origin};
use contract::json;
use serde::Serialize;
use terminal::results;

use super::offer;
use super::recipe::{Recipe, sorted_entries};
use super::store::{State, Store};
use super::verified::Verified;
use crate::columns::align;
use crate::error::Failure;
use crate::host;

/// As much of a digest as tells builds apart, and names their directories.
const SHORT_DIGEST: usize = 12;

/// One image.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    summary: String,
    family: &'static str,
    distro: String,
    release: String,
    database: &'static str,
    memory_mib: u64,
    layout: String,
    state: State,
    path: PathBuf,
    /// Why the project's own tests have never run it.
    unverified: Option<String>,
    #[serde(flatten)]
    built: Option<Built>,
}

/// What only a built image has.
#[derive(Debug, Serialize)]
struct Built {
    digest: String,
    agent_version: Option<String>,
    database_version: Option<String>,
    /// What its files take up on the disk, MiB.
    allocated_mib: u64,
    verified: Option<Verified>,
}

/// Lists the images of `definitions`.
pub(super) fn run(definitions: Vec<Definition>, json: bool) -> Result<(), Failure> {
    let store = Store::open(host::built_images())?;
    let listed: Vec<_> =
        definitions.into_iter().map(|image| look(&store, image)).collect::<Result<_, _>>()?;
    if json {
        let text = json::pretty(&listed)
            .map_err(|error| Failure::Infrastructure(format!("cannot write JSON: {error}.")))?;
        results::line(format_args!("{text}"));
    } else {
        results::line(table(&listed).trim_end());
    }
    Ok(())
}

fn look(store: &Store, definition: Definition) -> Result<Listed, Failure> {
    let recipe = Recipe::load(&host::repository().join("images"), definition)?;
    let wanted = match offer::known(store, &recipe)? {
        Some(packages) => Some(recipe.digest(&packages)?),
        None => None,
    };
    let name = &recipe.definition.name;
    let (state, path) = (store.state(name, wanted.as_deref()), store.image(name));
    let built = match store.manifest(name) {
        Some(manifest) => Some(Built::look(&recipe, manifest, &path)?),
        None => None,
    };
    let definition = recipe.definition;
    Ok(Listed {
        layout: layout(&definition),
        state,
        path,
        built,
        name: definition.name,
        summary: definition.summary,
        family: definition.family.layer(),
        distro: definition.distro,
        release: definition.release,
        database: definition.database.name(),
        memory_mib: definition.memory_mib,
        unverified: definition.unverified,
    })
}

impl Built {
    fn look(recipe: &Recipe, manifest: Manifest, path: &Path) -> Result<Self, Failure> {
        let version = |package: &str| manifest.versions.get(package).cloned();
        let mut blocks = 0;
        for file in sorted_entries(path)? {
            blocks += file.metadata().map_err(|e| Failure::io("look at", &file, &e))?.blocks();
        }
        Ok(Self {
            agent_version: version("qemu-guest-agent"),
            database_version: recipe.server_packages.iter().find_map(|package| version(package)),
            // A block is 512 bytes, whatever the file system's own.
            allocated_mib: blocks / 2048,
            verified: Verified::read(path, &manifest.digest),
            digest: manifest.digest,
        })
    }
}

/// The kinds of file systems, the root's first, in as few words as there are disks.
fn layout(definition: &Definition) -> String {
    let disk = |disk: &DiskLayout| match disk.group {
        Some(_) => "lvm".to_owned(),
        None => disk.file_systems.iter().map(|fs| fs.fs.to_string()).collect(),
    };
    if definition.origin != Origin::Packages {
        return "as it came".to_owned();
    }
    let loops = definition.loops.iter().map(|_| "loop".to_owned());
    let binds = definition.binds.iter().map(|_| "bind".to_owned());
    definition.disks.iter().map(disk).chain(loops).chain(binds).collect::<Vec<_>>().join(" + ")
}

fn table(listed: &[Listed]) -> String {
    let head =
        ["image", "family", "release", "agent", "database", "layout", "state", "digest", "MiB", "verified"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(listed.iter().map(cells));
    align(&mut rows, [false, false, false, false, false, false, false, false, true, false]);
    rows.iter().flat_map(|row| [row.join("  ").trim_end().to_owned(), "\n".to_owned()]).collect()
}

fn cells(image: &Listed) -> [String; 10] {
    let built = image.built.as_ref();
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let agent = built.and_then(|built| built.agent_version.as_deref());
    let database = built.and_then(|built| built.database_version.as_deref());
    let verified = built.and_then(|built| built.verified.as_ref());
    [
        image.name.clone(),
        image.family.to_owned(),
        format!("{} {}", image.distro, image.release),
        or_none(agent.map(upstream)),
        [image.database.to_owned()].into_iter().chain(database.map(upstream)).collect::<Vec<_>>().join(" "),
        image.layout.clone(),
        image.state.to_string(),
        or_none(built.map(|built| built.digest.chars().take(SHORT_DIGEST).collect())),
        or_none(built.map(|built| built.allocated_mib.to_string())),
        match (verified, &image.unverified) {
            (Some(verified), _) => verified.date.clone(),
            (None, Some(_)) => "unverified here".to_owned(),
            (None, None) => "-".to_owned(),
        },
    ]
}

/// What the upstream project calls the version of a package: without epoch and
/// what the distribution added.
fn upstream(version: &str) -> String {
    let version = version.split_once(':').map_or(version, |(_, version)| version);
    version.split(['-', '+', '~']).next().unwrap_or(version).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, unverified: Option<&str>, built: Option<Built>) -> Listed {
        Listed {
            name: name.to_owned(),
            summary: "s".to_owned(),
            family: "deb",
            distro: "debian".to_owned(),
            release: "bookworm".to_owned(),
            database: "mariadb",
            memory_mib: 512,
            layout: "ext4 + lvm".to_owned(),
            state: if built.is_some() { State::Built } else { State::Missing },
            path: "/images/one".into(),
            unverified: unverified.map(str::to_owned),
            built,
        }
    }

    fn built(verified: Option<&str>) -> Built {
        Built {
            digest: "0123456789abcdef".to_owned(),
            agent_version: Some("1:7.2+dfsg-7+deb12u15".to_owned()),
            database_version: Some("1:10.11.14-0+deb12u2".to_owned()),
            allocated_mib: 612,
            verified: verified.map(|date| {
                serde_json::from_value(
                    serde_json::json!({"digest": "d", "date": date, "accel": "tcg", "trials": 2}),
                )
                .unwrap()
            }),
        }
    }

    #[test]
    fn the_table_tells_what_is_built_and_what_was_verified() {
        let listed = [
            image("bookworm", None, Some(built(Some("2026-01-02")))),
            image("one", Some("why"), Some(built(None))),
            image("two", Some("why"), None),
            image("three", None, None),
        ];
        let expected = "\
image     family  release          agent  database          layout      state    digest        MiB  verified
bookworm  deb     debian bookworm  7.2    mariadb 10.11.14  ext4 + lvm  built    0123456789ab  612  2026-01-02
one       deb     debian bookworm  7.2    mariadb 10.11.14  ext4 + lvm  built    0123456789ab  612  unverified here
two       deb     debian bookworm  -      mariadb           ext4 + lvm  missing  -               -  unverified here
three     deb     debian bookworm  -      mariadb           ext4 + lvm  missing  -               -  -
";
        assert_eq!(table(&listed), expected);
    }

    #[test]
    fn json_has_the_versions_in_full() {
        let value = serde_json::to_value(image("one", None, Some(built(Some("2026-01-02"))))).unwrap();
        assert_eq!(value["agent_version"], "1:7.2+dfsg-7+deb12u15");
        assert_eq!(value["verified"]["trials"], 2);
        assert_eq!(value["state"], "built");
        let value = serde_json::to_value(image("one", Some("why"), None)).unwrap();
        assert_eq!((&value["unverified"], value.get("digest")), (&"why".into(), None));
    }

    #[test]
    fn layouts_are_told_in_few_words() {
        let images = host::repository().join("images");
        let words = |name: &str| layout(&Definition::named(&images, name).unwrap());
        assert_eq!(words("bookworm-mariadb"), "ext4");
        assert_eq!(words("bookworm-mariadb-lvm"), "ext4 + lvm");
        assert_eq!(words("bookworm-mariadb-xfs-data"), "ext4 + xfs + ext4");
        assert_eq!(words("bookworm-mariadb-bind"), "ext4 + bind");
    }

    #[test]
    fn the_documentation_tells_of_every_image() {
        let page = include_str!("../../../docs/images.md");
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
        for image in Definition::list(&host::repository().join("images")).unwrap() {
            let tested = if image.unverified.is_some() { "no: unverified here" } else { "yes" };
            let row = format!("| `{}` | {} | {tested} |", image.name, image.summary);
            assert!(rows.contains(&row.as_str()), "docs/images.md lacks this row:\n{row}");
        }
    }

    #[test]
    fn the_nightly_run_builds_every_unverified_image() {
        let workflow = include_str!("../../../.github/workflows/nightly.yml");
        for image in Definition::list(&host::repository().join("images")).unwrap() {
            let listed = workflow.contains(&format!("          - {}\n", image.name));
            assert_eq!(listed, image.unverified.is_some(), "{} in nightly.yml", image.name);
        }
    }

    #[test]
    fn the_documentation_shows_a_definition_as_it_is() {
        let page = include_str!("../../../docs/images.md");
        let (_, example) = page.split_once("```toml\n").unwrap();
        // The definition has one repository more.
        let (first, _) = example.split_once("\n[[disk]]").unwrap();
        assert!(include_str!("../../../images/alma9-mariadb.toml").starts_with(first));
    }
}
