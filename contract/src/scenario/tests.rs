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
            "`at` must be one of `after-boot`, `before-freeze`, `during-freeze`, `in-window`, `during-copy`, `after-thaw`, not \"tea-time\".",
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

const TOOL: &str = "[backup]\nname = 'own'\nbackup = 'own backup'\nrestore = 'own restore'\n";

fn with_tool(more: &str) -> String {
    format!("{GOOD}{TOOL}{more}")
}

#[test]
fn a_backup_tool_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = read_in(folder.path(), &with_tool("")).unwrap();
    let tool = scenario.backup.unwrap();
    assert_eq!((tool.name.as_str(), tool.version, tool.scratch_mib), ("own", None, None));
    assert_eq!([tool.backup_seconds, tool.restore_seconds], [COMMAND_SECONDS; 2]);
    assert!(scenario.freeze && scenario.snapshot == Snapshot::default());

    let more = "backups = 3\nbackup_seconds = 20\nrestore_seconds = 5\nversion = 'own -V'\n\
                [[fault]]\nat = 'in-window'\ntool = 'SIGKILL'\n[[fault]]\nat = 'before-freeze'\nhost = 'true'\n";
    let scenario = read_in(folder.path(), &with_tool(more)).unwrap();
    assert_eq!(scenario.snapshot.cycles, 3);
    assert_eq!(scenario.backup.unwrap().longest(3).as_secs(), 65);
    let faults: Vec<_> = scenario.faults.iter().map(ToString::to_string).collect();
    assert_eq!(faults, ["in the window: SIGKILL to the tool", "before the freeze, on the host: true"]);
    // As plans have it, and plans from before there were others.
    let json = serde_json::to_value(&scenario.faults[0]).unwrap();
    assert_eq!(json, serde_json::json!({ "at": "in-window", "tool": "SIGKILL" }));
    let old: Fault = serde_json::from_str(r#"{"at":"after-thaw","guest":"sync"}"#).unwrap();
    assert_eq!(old, Fault { at: Point::AfterThaw, what: Strike::Guest("sync".to_owned()) });
}

#[test]
fn what_a_backup_tool_decides_is_not_decided_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let fault = |keys: &str| format!("[[fault]]\n{keys}\n");
    let own = GOOD.to_owned();
    let cases = [
        (with_tool("").replace("'own'", "' '"), "`name` must be 1 to 40 visible characters"),
        (with_tool("").replace("'own backup'", "''"), "`backup` is empty. Give a line for the host's shell."),
        (with_tool("").replace("'own restore'", "\"a\\u0000\""), "`restore` holds a zero byte"),
        (with_tool("version = ' '"), "`version` is empty"),
        (with_tool("needs = ['a/b']"), "`needs` lists names of programs"),
        (with_tool("backups = 0"), "`backups` must be a whole number from 1 to 100, not 0."),
        (with_tool("backup_seconds = 0"), "`backup_seconds` must be a whole number from 1 to 86400, not 0."),
        (with_tool("").replace("restore = 'own restore'", ""), "`backup` and `restore` belong together"),
        (with_tool("[quiesce]\nfreeze = false\n"), "the tool decides whether the guest is frozen."),
        (with_tool("[quiesce]\nfreeze = true\n"), "Drop `[quiesce]`"),
        (with_tool("[snapshot]\ncycles = 2\n"), "Drop `[snapshot]`; `backups` says how many are made."),
        (with_tool("").replace("covers", "restore = \"attach\"\ncovers"), "Drop `restore` at the top."),
        (with_tool(&fault("at = 'after-thaw'\nguest = 'x'")), "`during-copy` is the point"),
        (
            with_tool(&fault("at = 'after-boot'\ntool = 'SIGINT'")),
            "the backup tool does not run at this point",
        ),
        (with_tool(&fault("at = 'in-window'\ntool = 'SIGHUP'")), "`tool` must be one of `SIGINT`, "),
        (with_tool(&fault("at = 'in-window'")), "one of the keys `guest`, `host` and `tool`"),
        (with_tool(&fault("at = 'in-window'\nguest = 'x'\nhost = 'x'")), "one of the keys"),
        (with_tool(&fault("at = 'in-window'\nhost = ' '")), "`host` is empty"),
        (own.clone() + &fault("at = 'in-window'\nguest = 'x'"), "only a backup tool comes to this point"),
        (own.clone() + &fault("at = 'after-boot'\nhost = 'x'"), "there is no backup tool"),
        (own + &fault("at = 'after-thaw'\ntool = 'SIGINT'"), "there is no backup tool"),
    ];
    for (text, hint) in cases {
        let (line, problem) = refused_in(folder.path(), &text);
        assert!(problem.contains(hint) && line > 1, "{line}: {problem} lacks {hint}\n{text}");
    }
}

/// What a tool does shows without a backup, and beside the best one.
#[test]
fn a_tools_conduct_can_be_expected_of_every_grade() {
    let folder = tempfile::tempdir().unwrap();
    let with = |grade: &str, finding: &str, tool: &str| {
        let expect = format!("freezeframe = {{ grade = [\"{grade}\"], findings = [\"{finding}\"] }}\n");
        read_in(
            folder.path(),
            &format!("{GOOD}{expect}{tool}").replacen("freezeframe = { grade", "package = { grade", 1),
        )
    };
    let expected = |grade: &str| {
        let scenario = with(grade, "thawed-guest", TOOL).unwrap();
        scenario.expectation(&Hook::Freezeframe, Database::Mariadb)
    };
    for grade in ["application-consistent", "refused"] {
        let expected = expected(grade);
        assert!(expected.names(Property::ThawedGuest) && !expected.names(Property::NothingLeft));
        assert_eq!(expected.lacks(expected.grade[0], &[]).len(), 1);
        assert_eq!(expected.lacks(expected.grade[0], &[Property::ThawedGuest]), [""; 0]);
    }
    let refused = |result: Result<Scenario, InputError>| result.unwrap_err().to_string();
    let lowers = refused(with("application-consistent", "heeded-freeze", TOOL));
    assert!(lowers.contains("an `application-consistent` backup has no findings"), "{lowers}");
    let without = refused(with("refused", "thawed-guest", ""));
    assert!(without.contains("`thawed-guest` is about backup tools. Add `[backup]`"), "{without}");
}
