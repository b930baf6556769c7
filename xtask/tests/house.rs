//! The house stands as README and ARCHITECTURE say: no file imports another in a circle, and a
//! stage of the pipeline knows the others through plain data only.

#![allow(clippy::unwrap_used, reason = "helpers of tests; the lint knows only test functions")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The folders of the workspace's crates, most of which are named so.
const CRATES: [&str; 11] = [
    "contract",
    "judge",
    "report",
    "synthetic",
    "terminal",
    "tooling",
    "builder",
    "harness",
    "images/hooks/fsfreeze-db",
    "scenarios",
    "xtask",
];

/// The stages that write or read a guest's data, each a file or folder of `harness/src`.
const STAGES: [&str; 5] = ["load", "quiesce", "snapshot", "restore", "observe"];

/// A module: its crate, then its path.
type Module = Vec<String>;

/// What each file imports, by module.
type Imports = BTreeMap<Module, BTreeSet<Module>>;

#[test]
fn no_file_imports_another_in_a_circle() {
    let imports = imports();
    assert!(imports.len() > 100, "only {} files were found", imports.len());
    let circles = circles(&imports);
    assert!(circles.is_empty(), "files import each other in a circle:\n{}", circles.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let module = |name: &str| vec!["c".to_owned(), name.to_owned()];
    let modules: BTreeSet<Module> = ["a", "b", "d"].map(module).into();
    let of = |name: &str, source: &str| {
        let tokens = source.parse().unwrap();
        (module(name), named(&module(name), tokens, &modules))
    };
    let tied = |d: &str| -> Imports {
        [of("a", "use super::b::{self, x};"), of("b", "fn f() { print!(\"{}\", crate::d::g()) }"), of("d", d)]
            .into()
    };
    let no_import = "#[cfg(test)] mod tests { use super::super::a; } /// [`super::a`]\nfn g() {}";
    assert!(circles(&tied(no_import)).is_empty());
    assert_eq!(circles(&tied("use crate::{a as other};")), ["c::a -> c::b", "c::b -> c::d", "c::d -> c::a"]);
}

#[test]
fn stages_know_each_other_through_plain_data_only() {
    let imports = imports();
    for stage in STAGES {
        assert!(
            imports.contains_key(["harness", stage].map(str::to_owned).as_slice()),
            "there is no stage {stage}"
        );
    }
    for (module, imported) in imports {
        let stage =
            |module: &Module| STAGES.into_iter().find(|stage| module.get(1).is_some_and(|at| at == stage));
        let Some(of) = stage(&module) else { continue };
        let others: Vec<_> = imported.iter().filter(|it| stage(it).is_some_and(|it| it != of)).collect();
        assert!(
            others.is_empty(),
            "{} imports {others:?}: move what both need below the stages",
            module.join("::")
        );
    }
}

#[test]
fn a_crate_stands_on_those_above_it() {
    let rank = |module: &Module| CRATES.iter().position(|name| *name == module[0]);
    for (module, imported) in imports() {
        let above = imported.iter().all(|it| rank(it) <= rank(&module));
        assert!(above, "{} imports {imported:?}, of which one comes after it", module.join("::"));
    }
}

#[test]
fn what_builds_prints_no_results() {
    for (module, imported) in imports() {
        let prints = imported.contains(["terminal", "results"].map(str::to_owned).as_slice());
        assert!(module[0] != "builder" || !prints, "{} prints results: xtask does that", module.join("::"));
    }
}

/// A checkout may be moved or copied after it was built.
#[test]
fn no_program_has_the_path_of_its_checkout_compiled_in() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = BTreeMap::new();
    for name in CRATES {
        find(&root.join(name).join("src"), &vec![name.to_owned()], &mut files);
    }
    for (module, file) in files {
        let source = fs::read_to_string(&file).unwrap();
        let program = source.split("#[cfg(test)]\nmod ").next().unwrap();
        let compiled_in =
            ["CARGO_MANIFEST_DIR", "CARGO_TARGET_TMPDIR"].map(|name| format!("env!(\"{name}\""));
        let found = compiled_in.iter().any(|it| program.contains(it));
        let is_test = module.last().is_some_and(|name| name == "tests");
        assert!(is_test || !found, "{}: find it while the program runs", file.display());
    }
}

/// However nextest is called: a test that passes at its second try has failed.
#[test]
fn a_failed_test_stops_no_other_and_is_not_tried_again() {
    let text = include_str!("../../.config/nextest.toml");
    let settings = |name: &str| -> Vec<_> {
        let lines = text.lines().filter_map(|line| line.trim().split_once('='));
        lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim()).collect()
    };
    assert_eq!([settings("fail-fast"), settings("retries")], [["false"], ["0"]]);
}

/// A tag can be moved to another commit, and a branch moves all the time.
#[test]
fn what_workflows_use_is_pinned_by_its_commit() {
    let workflows = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".github/workflows");
    let mut used = 0;
    for entry in fs::read_dir(workflows).unwrap() {
        let path = entry.unwrap().path();
        for line in fs::read_to_string(&path).unwrap().lines() {
            let line = line.trim_start().trim_start_matches("- ");
            let Some(action) = line.strip_prefix("uses:") else { continue };
            used += 1;
            assert!(is_pinned(action.trim()), "{}: {line}", path.display());
        }
    }
    assert!(used > 4, "only {used} actions were found");
}

/// `OWNER/NAME@COMMIT # VERSION`; an action of this repository needs neither.
fn is_pinned(action: &str) -> bool {
    let pinned = || {
        let (_, rest) = action.split_once('@')?;
        let (commit, version) = rest.split_once(" # v")?;
        let hex = commit.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        Some(commit.len() == 40 && hex && version.contains('.'))
    };
    action.starts_with("./") || pinned().unwrap_or(false)
}

#[test]
fn a_moving_version_is_found() {
    let commit = "11d5960a326750d5838078e36cf38b85af677262";
    assert!(is_pinned(&format!("a/b@{commit} # v4.4.0")) && is_pinned("./own"));
    for moving in ["a/b", "a/b@v4", "a/b@main # v1.0", "a/b@11d5960 # v4.4.0", &format!("a/b@{commit}")] {
        assert!(!is_pinned(moving), "{moving}");
    }
}

/// The imports of every file that is no test.
fn imports() -> Imports {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = BTreeMap::new();
    for name in CRATES {
        find(&root.join(name).join("src"), &vec![name.to_owned()], &mut files);
    }
    let sources: BTreeMap<Module, TokenStream> = files
        .iter()
        .map(|(module, file)| {
            let source = fs::read_to_string(file).unwrap();
            (module.clone(), source.parse().unwrap_or_else(|e| panic!("{}: {e}", file.display())))
        })
        .collect();
    let tests: BTreeSet<Module> = sources
        .iter()
        .flat_map(|(module, tokens)| test_modules(tokens).map(|name| [&module[..], &[name]].concat()))
        .collect();
    let is_test = |module: &Module| tests.iter().any(|test| module.starts_with(test));
    let modules: BTreeSet<Module> = files.into_keys().filter(|module| !is_test(module)).collect();
    let of = |(module, tokens): (Module, TokenStream)| {
        modules.contains(&module).then(|| (module.clone(), named(&module, tokens, &modules)))
    };
    sources.into_iter().filter_map(of).collect()
}

/// The files below a folder, by the module that each is.
fn find(folder: &Path, module: &Module, found: &mut BTreeMap<Module, PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let child = [&module[..], std::slice::from_ref(&stem)].concat();
        if path.is_dir() {
            find(&path, &child, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let own = matches!(stem.as_str(), "lib" | "main" | "mod");
            found.insert(if own { module.clone() } else { child }, path);
        }
    }
}

/// The names of the modules that are compiled for tests only: `#[cfg(test)] mod tests;`.
fn test_modules(tokens: &TokenStream) -> impl Iterator<Item = String> {
    let tokens: Vec<_> = tokens.clone().into_iter().collect();
    (0..tokens.len()).filter_map(move |at| match &tokens[at..] {
        [attribute, keyword, name, ..] if is_test(attribute) && keyword.to_string() == "mod" => {
            Some(name.to_string())
        }
        _ => None,
    })
}

/// `[cfg(test)]`, without its `#`.
fn is_test(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket)
        && token.to_string().replace(' ', "") == "[cfg(test)]"
}

/// The modules, among these, that a file names, itself left out.
fn named(module: &Module, tokens: TokenStream, modules: &BTreeSet<Module>) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    walk(module, None, tokens, modules, &mut found);
    found.remove(module);
    found
}

/// Collects the modules that tokens name: `within` is the path before a group of a `use`.
fn walk(
    module: &Module,
    within: Option<&Module>,
    tokens: TokenStream,
    modules: &BTreeSet<Module>,
    found: &mut BTreeSet<Module>,
) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if is_test(&tokens[at]) {
            // The item that it stands before ends with a block or a semicolon.
            let ends = |token: &TokenTree| match token {
                TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                token => token.to_string() == ";",
            };
            at += tokens[at..].iter().position(ends).unwrap_or(tokens.len() - at) + 1;
            continue;
        }
        let Some(mut path) = begin(module, within, &tokens[at..], modules) else {
            if let TokenTree::Group(group) = &tokens[at] {
                walk(module, None, group.stream(), modules, found);
            }
            at += 1;
            continue;
        };
        at += 1;
        let mut split = false;
        while let [a, b, next, ..] = &tokens[at..]
            && a.to_string() == ":"
            && b.to_string() == ":"
        {
            at += 3;
            match next {
                TokenTree::Ident(name) if *name == "super" => drop(path.pop()),
                TokenTree::Ident(name) => path.push(name.to_string()),
                TokenTree::Group(group) => {
                    split = true;
                    walk(module, Some(&path), group.stream(), modules, found);
                }
                _ => break,
            }
        }
        // What follows the file's own modules are items in it.
        let whole = (1..=path.len()).rev().map(|length| &path[..length]).find(|it| modules.contains(*it));
        found.extend(whole.filter(|_| !split).map(<[String]>::to_vec));
    }
}

/// Where a path leads to whose first token is the first of these, if it is one.
fn begin(
    module: &Module,
    within: Option<&Module>,
    tokens: &[TokenTree],
    modules: &BTreeSet<Module>,
) -> Option<Module> {
    let TokenTree::Ident(name) = tokens.first()? else { return None };
    let name = name.to_string();
    let child = |of: &Module| [&of[..], std::slice::from_ref(&name)].concat();
    if let Some(within) = within {
        return Some(if name == "self" { within.clone() } else { child(within) });
    }
    // Alone, as in `pub(super)`, a name is no path; nor is that of a field, before its value or type.
    tokens.get(1..3).filter(|colons| colons.iter().all(|token| token.to_string() == ":"))?;
    match name.as_str() {
        "crate" => Some(module[..1].to_vec()),
        "super" => Some(module[..module.len() - 1].to_vec()),
        "self" => Some(module.clone()),
        name if CRATES.contains(&name) => Some(vec![name.to_owned()]),
        _ => Some(child(module)).filter(|child| modules.contains(child)),
    }
}

/// The imports that are part of a circle.
fn circles(imports: &Imports) -> Vec<String> {
    let reaches = |from: &Module, to: &Module| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(module) = next.pop() {
            if module == to {
                return true;
            }
            if seen.insert(module) {
                next.extend(imports.get(module).into_iter().flatten());
            }
        }
        false
    };
    let arrows = imports.iter().flat_map(|(module, of)| of.iter().map(move |it| (module, it)));
    arrows
        .filter(|(from, to)| reaches(to, from))
        .map(|(from, to)| format!("{} -> {}", from.join("::"), to.join("::")))
        .collect()
}
