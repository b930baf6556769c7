//! The table of `cargo xtask images list`.

use builder::list::Listed;

use crate::align::align;

/// As much of a digest as distinguishes builds, and names their directories.
const SHORT_DIGEST: usize = 12;

/// One line for each image, below the names of the columns.
pub(super) fn table(listed: &[Listed]) -> String {
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
    use builder::ImageState;
    use builder::list::Built;

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
            state: if built.is_some() { ImageState::Built } else { ImageState::Missing },
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
    fn the_table_shows_what_is_built_and_what_was_verified() {
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
}
