//! `docs/scenarios.md` says what the types say: its example is read, and it lists every key and
//! every value of each table.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the lint knows only test functions")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use contract::scenario::{Hook, Scenario};

const DOC: &str = include_str!("../../docs/scenarios.md");

const SMALL: &str = "summary = 'x'\n[load]\nprofile = 'durable'\nwriters = 1\nseconds = 1\n[expect]\nnone = { grade = ['inconsistent'] }\n";

/// What is said of a scenario with this text.
fn read(text: &str) -> Result<Scenario, String> {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("x.toml");
    fs::write(&path, text).unwrap();
    Scenario::read(root.path(), &path).map_err(|e| e.to_string())
}

/// The keys or values that the reader lists when it finds one that is not among them.
fn expected(text: &str) -> BTreeSet<String> {
    let problem = read(text).unwrap_err();
    let names =
        ["The keys are ", "must be "].into_iter().find_map(|before| Some(problem.split_once(before)?.1));
    let names = names.unwrap_or_else(|| panic!("{problem}"));
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The part under a heading.
fn section(heading: &str) -> &'static str {
    let (_, rest) = DOC.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap()
}

/// The keys that a section's table lists.
fn keys(heading: &str) -> BTreeSet<String> {
    section(heading)
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect()
}

#[test]
fn the_example_is_a_scenario() {
    let (_, rest) = DOC.split_once("```toml\n").unwrap();
    let scenario = read(rest.split_once("```").unwrap().0).unwrap();
    assert_eq!(scenario.expect.len(), 2);
}

#[test]
fn every_key_is_listed() {
    let grade = "grade = ['inconsistent']";
    for (heading, text) in [
        ("The file", format!("other = 1\n{SMALL}")),
        ("image", SMALL.replace("[load]", "[image]\nother = 1\n[load]")),
        ("load", SMALL.replace("writers", "other = 1\nwriters")),
        ("snapshot", SMALL.replace("[load]", "[snapshot]\nother = 1\n[load]")),
        ("quiesce", SMALL.replace("[load]", "[quiesce]\nother = 1\n[load]")),
        ("fault", SMALL.replace("[load]", "[[fault]]\nother = 1\n[load]")),
        ("backup", SMALL.replace("[load]", "[backup]\nother = 1\n[load]")),
        ("expect", SMALL.replace(grade, "other = 1")),
    ] {
        assert_eq!(keys(heading), expected(&text), "{heading}");
    }
}

#[test]
fn every_value_is_listed() {
    for (heading, text) in [
        ("The file", format!("restore = 'other'\n{SMALL}")),
        ("image", SMALL.replace("[load]", "[image]\ndatabase = ['other']\n[load]")),
        ("image", SMALL.replace("[load]", "[image]\ndisks = 'other'\n[load]")),
        ("load", SMALL.replace("durable", "other")),
        ("fault", SMALL.replace("[load]", "[[fault]]\nguest = 'x'\nat = 'other'\n[load]")),
        ("fault", SMALL.replace("[load]", "[[fault]]\nat = 'after-boot'\ntool = 'other'\n[load]")),
        ("expect", SMALL.replace("inconsistent", "other")),
    ] {
        for value in expected(&text).into_iter().filter(|value| value != "unknown") {
            assert!(section(heading).contains(&format!("`{value}`")), "{heading}: {value}");
        }
    }
    for hook in Hook::BUILT_IN {
        assert!(section("expect").contains(&format!("`{}`", hook.name())), "{}", hook.name());
    }
}

/// `docs/catalogue.md` names for each row the scenarios that cover it, and only those; and the tests of
/// the hooks that show it.
#[test]
fn the_catalogue_says_what_shows_each_row() {
    const PAGE: &str = include_str!("../../docs/catalogue.md");
    const HOOKS: &str = include_str!("../../harness/tests/hooks/catalogue/mod.rs");
    let page = PAGE.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let [row, .., shown] = cells[..] else { return None };
        let is_row = row.len() == 3 && row[1..].bytes().all(|byte| byte.is_ascii_digit());
        let by = shown.split(", ").map(|by| by.trim_matches('`').to_owned()).filter(|by| !by.is_empty());
        is_row.then(|| by.map(|by| (row.to_owned(), by)).collect::<Vec<_>>())
    });
    let page: BTreeSet<_> = page.flatten().collect();
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let scenarios = Scenario::read_all(&scenarios).unwrap();
    let covered = scenarios.iter().flat_map(|it| it.covers.iter().map(|row| (row.clone(), it.name.clone())));
    let hooks = HOOKS.lines().filter_map(|line| {
        let (row, _) = line.strip_prefix("        ")?.split_once(" [")?;
        (row.len() == 3).then(|| (row.to_uppercase(), "hooks".to_owned()))
    });
    let shown: BTreeSet<_> = covered.chain(hooks).collect();
    assert!(shown.len() > 40, "{shown:?}");
    assert_eq!(
        page.difference(&shown).collect::<Vec<_>>(),
        Vec::<&(String, String)>::new(),
        "said, not shown"
    );
    assert_eq!(
        shown.difference(&page).collect::<Vec<_>>(),
        Vec::<&(String, String)>::new(),
        "shown, not said"
    );
}
