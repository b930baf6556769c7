use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;
use crate::input::InputError;

const GOOD: &str = r#"
summary = "A quiet day"
covers = ["D01"]
[load]
profile = "durable"
writers = 4
seconds = 3
[expect]
freezeframe = { grade = ["application-consistent"] }
none = { grade = ["crash-consistent", "inconsistent"], findings = ["tables-closed"] }
"#;

fn read_in(folder: &Path, text: &str) -> Result<Scenario, InputError> {
    let path = folder.join("quiet.toml");
    std::fs::write(&path, text).unwrap();
    Scenario::read(folder, &path)
}

/// The line and the message of a refusal. Hooks that are files lie in `folder`.
fn refused_in(folder: &Path, text: &str) -> (usize, String) {
    match read_in(folder, text).unwrap_err() {
        InputError::Invalid { line, message, .. } => (line, message),
        error @ InputError::Read { .. } => panic!("{error}"),
    }
}

#[test]
fn a_refusal_that_is_right_shows_no_findings() {
    let expected = |grade: &[Grade]| Expectation {
        grade: grade.to_vec(),
        findings: vec![Property::LockIdentity],
        ..Expectation::top_grade()
    };
    let either = expected(&[Grade::CrashConsistent, Grade::Refused]);
    assert_eq!(either.lacks(Grade::Refused, &[]), [""; 0]);
    assert_eq!(either.lacks(Grade::CrashConsistent, &[]).len(), 1);
    assert_eq!(either.lacks(Grade::CrashConsistent, &[Property::LockIdentity]), [""; 0]);
    let never = expected(&[Grade::CrashConsistent]);
    assert_eq!(never.lacks(Grade::Refused, &[]).len(), 1);
}

#[test]
fn one_of_several_findings_is_enough() {
    let one_of = vec![Property::LockProbe, Property::LockIdentity];
    let expected = Expectation { grade: vec![Grade::CrashConsistent], one_of, ..Expectation::top_grade() };
    let lacks = |findings: &[Property]| expected.lacks(Grade::CrashConsistent, findings);
    assert_eq!(lacks(&[Property::LockIdentity]), [""; 0]);
    let none = "expected the finding `lock-probe` (Q2) or `lock-identity` (Q4), and none showed";
    assert_eq!(lacks(&[Property::TablesClosed]), [none]);
    assert_eq!(expected.to_string(), "crash-consistent with lock-probe or lock-identity");
}

#[test]
fn no_scenario_in_a_folder_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let names = || -> Vec<_> {
        Scenario::read_all(dir.path()).unwrap().into_iter().map(|scenario| scenario.name).collect()
    };
    assert!(names().is_empty());
    for folder in ["sub", "src"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
    }
    for file in ["top.toml", "sub/Cargo.toml", "sub/one.toml", "src/two.toml"] {
        std::fs::write(dir.path().join(file), GOOD).unwrap();
    }
    assert_eq!(names(), ["src/two", "sub/Cargo", "sub/one", "top"]);
    // Of a package, the manifest and the sources are something else.
    std::fs::write(dir.path().join("Cargo.toml"), "[package]").unwrap();
    assert_eq!(names(), ["sub/Cargo", "sub/one", "top"]);
}

#[test]
fn a_good_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = read_in(folder.path(), GOOD).unwrap();
    assert_eq!(scenario.name, "quiet");
    assert!(scenario.freeze);
    assert_eq!(scenario.expect.len(), 2);
    assert_eq!(scenario.expectation(&Hook::Sample, Database::Mysql), Expectation::top_grade());
    assert_eq!(scenario.expectation(&Hook::None, Database::Mysql).findings, [Property::TablesClosed]);
}

#[test]
fn bad_files_are_refused_with_line_and_hint() {
    let cases = [
        ("summary = \"A quiet day\"", "summary = \" \"", 2, "one sentence"),
        ("covers = [\"D01\"]", "covers = [\"D1\"]", 3, "named like D01"),
        ("covers = [", "cover = [", 3, "there is no key `cover` here"),
        ("writers = 4", "writers = 0", 6, "`writers` must be a whole number from 1 to 64, not 0."),
        (
            "writers = 4",
            "writers = \"six\"",
            6,
            "`writers` must be a whole number from 1 to 64, not \"six\".",
        ),
        ("writers = 4", "writers = 4\nrate = 3", 7, "`rate` must be at least 4, one for each writer, not 3."),
        ("seconds = 3", "seconds = 9999", 7, "`seconds` must be a number from 0.5 to 600, not 9999."),
        (
            "seconds = 3",
            "seconds = 3\ndata_mib = 9999",
            8,
            "`data_mib` must be a whole number from 0 to 8192, not 9999.",
        ),
        ("\"durable\"", "\"careless\"", 5, "`profile` must be one of `durable`, "),
        ("[\"application-consistent\"]", "[]", 9, "List at least one"),
        ("[\"application-consistent\"]", "[\"unknown\"]", 9, "cannot be expected"),
        (
            "[\"application-consistent\"]",
            "[\"perfect\"]",
            9,
            "`grade` must be one of `application-consistent`, ",
        ),
        ("freezeframe =", "freezframe =", 9, "`freezframe` is not a hook. Write `none`, `distro`"),
        ("[expect]", "[quiesce]\nfreeze = false\n[expect]", 11, "without a freeze"),
        (
            "seconds = 3",
            "seconds = 3\n[[fault]]\nat = \"tea-time\"\nguest = \"true\"",
            9,
            "`at` must be one of `after-boot`, `before-freeze`, `after-thaw`, not \"tea-time\".",
        ),
        (
            "[expect]",
            "[snapshot]\nmethod = \"polaroid\"\n[expect]",
            9,
            "`method` must be one of `external`, `backup-push`, `host-copy`, not \"polaroid\".",
        ),
        ("[expect]", "[snapshot]\napart_ms = 5\n[expect]", 9, "`apart_ms` needs more than one disk."),
        (
            "[expect]",
            "[image]\ndisks = \"split\"\n[snapshot]\napart_ms = 5\nmethod = \"backup-push\"\n[expect]",
            11,
            "`backup-push` cannot take the disks `apart_ms` apart: libvirt copies all disks in one job",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (from, to, line, hint) in cases {
        assert!(GOOD.contains(from), "{from}");
        let (at, problem) = refused_in(folder.path(), &GOOD.replacen(from, to, 1));
        assert_eq!(at, line, "{to}: {problem}");
        assert!(problem.contains(hint), "{to}: {problem}");
    }
}

/// Each is right for MariaDB.
#[test]
fn what_a_database_does_not_have_is_refused_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let on = |database: &str, text: &str| {
        text.replace("[expect]", &format!("[image]\ndatabase = [\"{database}\"]\n[expect]"))
    };
    read_in(folder.path(), &on("mariadb", GOOD)).unwrap();
    let (line, problem) = refused_in(folder.path(), &on("postgresql", GOOD));
    assert_eq!(line, 12, "{problem}");
    assert!(
        problem.contains("`tables-closed` cannot be found on any database of this scenario"),
        "{problem}"
    );

    let bulk = GOOD.replace("\"durable\"", "\"bulk\"");
    read_in(folder.path(), &on("mariadb", &bulk)).unwrap();
    let (line, problem) = refused_in(folder.path(), &on("postgresql", &bulk));
    assert_eq!(line, 5, "{problem}");
    assert!(problem.contains("storage engines that PostgreSQL does not have"), "{problem}");

    let both = GOOD.replace("[expect]", "[image]\ndatabase = [\"mariadb\", \"postgresql\"]\n[expect]");
    let scenario = read_in(folder.path(), &both).unwrap();
    assert_eq!(scenario.expectation(&Hook::None, Database::Mariadb).findings, [Property::TablesClosed]);
    assert_eq!(scenario.expectation(&Hook::None, Database::Postgresql).findings, []);
}

#[test]
fn a_snapshot_names_its_method() {
    let folder = tempfile::tempdir().unwrap();
    let with = |key: &str| {
        let keys = format!("[image]\ndisks = \"split\"\n[snapshot]\n{key}\n[expect]");
        read_in(folder.path(), &GOOD.replace("[expect]", &keys)).unwrap().snapshot
    };
    assert_eq!(with("").to_string(), "external");
    for method in SnapshotMethod::ALL {
        let snapshot = with(&format!("method = \"{method}\""));
        assert_eq!((snapshot.method, snapshot.to_string()), (method, method.name().to_owned()));
        let json = serde_json::to_value(snapshot).unwrap();
        assert_eq!(json, serde_json::json!({ "method": method.name(), "apart_ms": 0, "cycles": 1 }));
    }
    let apart = with("method = \"host-copy\"\napart_ms = 300");
    assert_eq!(apart.to_string(), "host-copy, disks 300 ms apart");
    let old: Snapshot = serde_json::from_str(r#"{"apart_ms":0,"cycles":2}"#).unwrap();
    assert_eq!(old, Snapshot { method: SnapshotMethod::External, apart_ms: 0, cycles: 2 });
}

#[test]
fn a_hook_may_be_a_file_beside_the_scenario() {
    let folder = tempfile::tempdir().unwrap();
    let hook = folder.path().join("own.sh");
    let text = GOOD.replace("none =", "\"own.sh\" =");
    let refused = |text: &str| {
        let (line, problem) = refused_in(folder.path(), text);
        assert_eq!(line, 10, "{problem}");
        problem
    };
    assert!(refused(&text).contains("own.sh does not exist."));
    std::fs::write(&hook, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refused(&text).contains("chmod +x"));
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(refused(&text.replace("own.sh", "../own.sh")).contains("beside the scenario"));
    assert!(refused(&text.replace("own.sh", "own")).contains("ends in `.sh`"));

    let scenario = read_in(folder.path(), &text).unwrap();
    let file = Hook::file(&hook).unwrap();
    let hooks: Vec<_> = scenario.expect.iter().map(|(hook, _)| hook.clone()).collect();
    assert_eq!(hooks, [Hook::Freezeframe, file.clone()]);
    assert_eq!(file.name(), "own.sh");
    assert_eq!(scenario.expectation(&file, Database::Mysql).findings, [Property::TablesClosed]);
}

#[test]
fn hooks_beside_scenarios_are_no_scenarios() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("own");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("quiet.toml"), GOOD).unwrap();
    std::fs::write(folder.join("own.sh"), "#!/bin/sh\n").unwrap();
    let names: Vec<_> = Scenario::read_all(root.path()).unwrap().into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["own/quiet"]);
}
