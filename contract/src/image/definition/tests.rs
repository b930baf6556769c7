use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::image::DefinitionError;

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
    Definition::read(&path).map_err(|error| {
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
            "a-test.toml:6: there is no key `memory_mb` here. The keys are `summary`, `unverified`, `family`, `distro`, \
             `release`, `mirror`, `repository`, `security_updates`, `database`, `channel`, `packages`, `mask`, \
             `memory_mib`, `cpu`, `cloud_image`, `existing`, `disk`, `loop`, `bind`.",
        ),
        (
            ("memory_mib", "channel = \"vsock\"\nmemory_mib"),
            "a-test.toml:6: `channel` must be `virtio-serial` or `isa-serial`, not \"vsock\".",
        ),
        (
            ("family = \"deb\"", "channel = \"isa-serial\"\nfamily = \"rpm\""),
            "a-test.toml:2: `isa-serial` is made for family `deb` only: leave `channel` out.",
        ),
        (("\"deb\"", "\"apk\""), "a-test.toml:2: `family` must be `deb` or `rpm`, not \"apk\"."),
        (
            ("\"mariadb\"", "\"oracle\""),
            "a-test.toml:5: `database` must be one of `mariadb`, `mysql`, `postgresql`, not \"oracle\".",
        ),
        (("2048", "64"), "a-test.toml:12: the disk is too small. Give at least 1536."),
        (("\"ext4\"", "\"zfs\""), "a-test.toml:11: `fs` must be one of `ext4`, `xfs`, `btrfs`, not \"zfs\"."),
        (("\"/\"", "\"/srv\""), "a-test.toml:10: the first disk is the root: write `mount = \"/\"`."),
        (("512", "64"), "a-test.toml:6: `memory_mib` must be a whole number from 384 to 1048576, not 64."),
        (
            ("\"bookworm\"", "\"--verbose\""),
            "a-test.toml:4: `--verbose` must be one plain word, such as `bookworm`.",
        ),
        (("memory_mib", "packages = [\"a,b\"]\nmemory_mib"), "a-test.toml:6: `a,b` is not a package name."),
        (
            ("memory_mib", "[[mask]]\nunit = \"a.timer\"\n[other]\nmemory_mib"),
            "a-test.toml:6: the key `reason` is missing.",
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
        ("\"/mnt\"", "\"/srv\"", "20: two file systems are mounted at /srv. Give each a place of its own."),
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
    let good =
        format!("{packages}[cloud_image]\nurl = \"https://example.org/disk.qcow2\"\nsha256 = \"{digest}\"\n");
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
fn the_servers_of_existing_disks_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, password) = (dir.path().join("disk.raw"), dir.path().join("password"));
    for file in [&disk, &password] {
        std::fs::write(file, "").unwrap();
    }
    std::fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();
    let (packages, _) = GOOD.split_once("[[disk]]").unwrap();
    let good = format!(
        "{packages}[existing]\nfile = {disk:?}\npassword_file = {password:?}\n\
         [existing.server]\nunit = \"u\"\nbinlogs = \"/l\"\nport = 1\nuser = \"u\"\n"
    );
    let server = |text: &str| match parse(text)?.origin {
        Origin::Existing(disk) => Ok::<_, String>(disk.server.unwrap()),
        other => panic!("{other:?}"),
    };
    let without = good.replace("binlogs = \"/l\"\n", "");
    for name in ["mariadb", "mysql"] {
        let of = |text: &str| server(&text.replace("mariadb", name));
        assert_eq!(of(&good).unwrap().binlogs.as_deref(), Some(Path::new("/l")));
        let expected = format!(
            "a-test.toml:11: the key `binlogs` is missing: with `{name}`, write the directory of the server's binary logs."
        );
        assert_eq!(of(&without).unwrap_err(), expected);
    }
    let of = |text: &str| server(&text.replace("mariadb", "postgresql"));
    assert_eq!(of(&without).unwrap().binlogs, None);
    let expected = "a-test.toml:11: `postgresql` has no binary logs: leave `binlogs` out.";
    assert_eq!(of(&good).unwrap_err(), expected);
}

#[test]
fn repositories_are_checked() {
    let repository = "[[repository]]\nname = \"base\"\nurl = \"https://d/os/\"\nkey = \"https://d/KEY\"\n";
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
            "15: packages from elsewhere must be signed: name the `key`.",
        ),
        (rpm.replace("https://d/KEY", "http://d/KEY"), "16: a key must come by `https` or from a file."),
        (rpm.replace("https://d/os/", "d/os/"), "15: `d/os/` must be a URL without blanks."),
        (
            rpm.replace("memory_mib", "mirror = \"https://d/\"\nmemory_mib"),
            "6: the RPM family has no `mirror`: write a `[[repository]]` for each of its repositories.",
        ),
        (
            rpm.replace("\"mariadb\"", "\"postgresql\""),
            "5: `postgresql` can be installed in the deb family only.",
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
        let layer = |name: &str| Layer::read(&images().join("layers").join(name).join("layer.toml"));
        assert!(layer(definition.family.layer()).unwrap().agent.is_some());
        assert!(layer(definition.database.name()).unwrap().server().is_some());
        layer(&definition.distro).unwrap();
    }
}
