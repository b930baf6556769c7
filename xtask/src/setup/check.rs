//! Inspects the host, and changes nothing.

use std::path::{Path, PathBuf};

use tooling::command::{self, find_program, find_tool, shell};
use tooling::host;

use super::needs::{Check, NEEDS, Need, NeededBy};
use super::plan::{Apt, Host, Manager, PackageSource};

/// A need, and where it was found.
#[derive(Debug)]
pub(super) struct CheckResult {
    pub(super) need: &'static Need,
    pub(super) found: Option<PathBuf>,
}

/// Looks for everything that this user needs, and for what only the tasks in `also` need.
pub(super) fn findings(also: &[NeededBy]) -> Vec<CheckResult> {
    let needed = NEEDS.iter().filter(|need| match need.needed_by {
        NeededBy::Everyone => true,
        NeededBy::NotRoot => !host::is_root(),
        NeededBy::Root => host::is_root(),
        NeededBy::RootWithApt => host::is_root() && manager() == Some(Manager::Apt),
        who @ NeededBy::PackagesWithApt => also.contains(&who) && manager() == Some(Manager::Apt),
        who @ (NeededBy::Ubuntu | NeededBy::Rpm | NeededBy::Baseline | NeededBy::Tools) => {
            also.contains(&who)
        }
    });
    needed.map(|need| CheckResult { need, found: find(&need.check) }).collect()
}

fn find(check: &Check) -> Option<PathBuf> {
    match check {
        Check::Program(name) => find_program(name),
        Check::Python(name) => find_tool(name),
        Check::AnyProgram(names) => names.iter().find_map(find_program),
        Check::ProgramOfVersions { name, dir } => find_program(name).or_else(|| {
            let versions = std::fs::read_dir(dir).ok()?;
            versions
                .flatten()
                .map(|version| version.path().join("bin").join(name))
                .find(|file| file.is_file())
        }),
        Check::ProgramSince { name, version_flag, least } => {
            let program = find_program(name)?;
            let output = command::output(shell().ok()?.cmd(&program).arg(version_flag)).ok()?;
            // mke2fs prints its version on standard error.
            let text = [output.stdout, output.stderr].concat();
            (version(&String::from_utf8_lossy(&text))? >= *least).then_some(program)
        }
        Check::Library(path) => library_dirs().iter().map(|dir| dir.join(path)).find(|file| file.exists()),
        // passwd(5) also lists what comes from elsewhere only through getent.
        Check::Account(name) => {
            (!printed_by("getent", &["passwd", name]).is_empty()).then(|| "/etc/passwd".into())
        }
        Check::File(paths) => paths.iter().map(PathBuf::from).find(|file| file.exists()),
    }
}

/// The first `N.N` in what a program says of itself.
fn version(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    })
}

fn library_dirs() -> Vec<PathBuf> {
    let arch = std::env::consts::ARCH;
    let mut dirs: Vec<PathBuf> =
        ["/usr/lib64", "/usr/lib", "/usr/local/lib64", "/usr/local/lib"].map(PathBuf::from).into();
    dirs.push(format!("/usr/lib/{arch}-linux-gnu").into());
    dirs
}

/// What a plan to install `missing` depends on.
pub(super) fn host(missing: Vec<&'static Need>) -> Host {
    let manager = manager();
    let apt = match manager {
        Some(Manager::Apt) => apt(),
        _ => Apt::default(),
    };
    Host { manager, root: host::is_root(), sudo: find_program("sudo").is_some(), apt, missing }
}

fn manager() -> Option<Manager> {
    // Each of them may be installed on any distribution, to build guests of its family.
    let like = [os_release("ID"), os_release("ID_LIKE")];
    let debian = like.iter().flatten().any(|ids| ids.split(' ').any(|id| id == "debian"));
    let native = debian.then_some(Manager::Apt);
    native.into_iter().chain(Manager::ALL).find(|manager| find_program(manager.program()).is_some())
}

fn apt() -> Apt {
    let release = os_release("VERSION_CODENAME");
    let targets = printed_by(
        "apt-get",
        &[
            "indextargets",
            "--no-release-info",
            "--format",
            "$(RELEASE) $(COMPONENT) $(REPO_URI) $(SOURCESENTRY)",
            "Created-By: Packages",
        ],
    );
    let qemu_utils =
        printed_by("dpkg-query", &["--show", "--showformat", "${db:Status-Status} ${Version}", "qemu-utils"]);
    Apt {
        release,
        qemu_utils: qemu_utils.strip_prefix("installed ").map(str::to_owned),
        sources: targets.lines().filter_map(source).collect(),
    }
}

/// What a program prints; nothing when it fails.
fn printed_by(program: &str, args: &[&str]) -> String {
    let Ok(sh) = shell() else { return String::new() };
    let output = command::output(sh.cmd(program).args(args));
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

fn os_release(key: &str) -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
}

/// One line of `apt-get indextargets`. apt does not print the key of a source,
/// so that is read from the file that apt names.
fn source(line: &str) -> Option<PackageSource> {
    let mut words = line.split(' ');
    let (suite, component, uri) = (words.next()?, words.next()?, words.next()?);
    let (file, number) = words.next()?.rsplit_once(':')?;
    let number = number.parse().ok()?;
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let deb822 = Path::new(file).extension().is_some_and(|extension| extension == "sources");
    Some(PackageSource {
        suite: suite.to_owned(),
        component: component.to_owned(),
        uri: uri.to_owned(),
        signed_by: if deb822 { stanza_key(&text, number) } else { line_key(&text, number) },
    })
}

/// The key file of the `number`th stanza of a deb822 file, counted from 1.
fn stanza_key(text: &str, number: usize) -> Option<String> {
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let stanza = lines
        .split(|line| line.trim().is_empty())
        .filter(|stanza| !stanza.is_empty())
        .nth(number.checked_sub(1)?)?;
    let value = stanza.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("signed-by").then_some(value.trim())
    })?;
    value.starts_with('/').then(|| value.to_owned())
}

/// The key file of the `number`th line of a one-line-style file, counted from 1.
fn line_key(text: &str, number: usize) -> Option<String> {
    let line = text.lines().nth(number.checked_sub(1)?)?;
    let options = line.split_once('[')?.1.split_once(']')?.0;
    options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(version("mke2fs 1.47.0 (5-Feb-2023)\n\tUsing EXT2FS Library"), Some((1, 47)));
        assert_eq!(version("mke2fs 1.43-WIP"), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn keys_are_read_from_both_formats() {
        let text = "# first\nTypes: deb\nSigned-By: /keys/one.gpg\n\n\n# second\nTypes: deb\nURIs: x\n\n\
            Types: deb\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(stanza_key(text, 1).as_deref(), Some("/keys/one.gpg"));
        assert_eq!(stanza_key(text, 2), None);
        assert_eq!(stanza_key(text, 3), None);
        assert_eq!(stanza_key(text, 4), None);
        let text = "# first\ndeb [arch=amd64 signed-by=/keys/two.gpg] x y main\ndeb x y main\n";
        assert_eq!(line_key(text, 2).as_deref(), Some("/keys/two.gpg"));
        assert_eq!(line_key(text, 3), None);
    }
}
