//! Whether a command line can be answered at all, found out before anything is installed, built or booted.

use std::collections::BTreeSet;
use std::fs::File;

use contract::plan::Accel;
use contract::run::{RunOptions, TrialRequest};
use contract::scenario::{BackupTool, Scenario};
use contract::text::quote;
use tooling::cargo;
use tooling::command::{self, find_tool, shell};
use tooling::error::Failure;
use tracing::warn;
use xshell::cmd;

/// Characters of a filter that are shown.
const MAX_FILTER: usize = 100;

/// Fails where a part of what was asked for has no answer. `requests` are the trials that it comes to.
pub(super) fn check(options: &RunOptions, requests: &[TrialRequest]) -> Result<(), Failure> {
    if requests.is_empty() {
        return Err(nothing_matches(options));
    }
    let unmatched = |filter: &&String| !requests.iter().any(|request| request.name.contains(filter.as_str()));
    if let Some(filter) = options.filters.iter().find(unmatched) {
        let options = RunOptions { filters: vec![filter.clone()], ..options.clone() };
        return Err(nothing_matches(&options));
    }
    let used: BTreeSet<_> = requests.iter().map(|request| &request.image).collect();
    for image in options.images.iter().filter(|image| options.every_image && !used.contains(image)) {
        warn!("no trial runs on the image {image}: none of the scenarios that were asked for suits it.");
    }
    let once = |it: &TrialRequest| it.scenario.snapshot.cycles == 1 || it.scenario.backup.is_some();
    if options.cycles.is_some() && requests.iter().all(once) {
        return Err(Failure::Usage(
            "`--cycles` changes nothing: none of these trials goes through several cycles. With `--image`, or a file \
             as `--hook`, those do that can be repeated."
                .to_owned(),
        ));
    }
    if options.accel == Some(Accel::Kvm)
        && let Err(error) = File::options().read(true).write(true).open("/dev/kvm")
    {
        return Err(Failure::Infrastructure(format!(
            "`--accel kvm` needs /dev/kvm, which cannot be opened: {error}. Leave `--accel` out to run under TCG."
        )));
    }
    Ok(())
}

/// Fails where a backup tool that one of these trials runs is not installed.
pub(super) fn tools_are_there(requests: &[TrialRequest]) -> Result<(), Failure> {
    let needs = |request: &TrialRequest| {
        let missing = request.scenario.backup.iter().flat_map(|tool| &tool.needs);
        let missing: BTreeSet<_> = missing.filter(|name| find_tool(name).is_none()).cloned().collect();
        (!missing.is_empty()).then(|| (request.name.clone(), missing))
    };
    let lacking: Vec<_> = requests.iter().filter_map(needs).collect();
    let Some((trial, _)) = lacking.first() else { return Ok(()) };
    let programs: BTreeSet<_> =
        lacking.iter().flat_map(|(_, names)| names).map(|name| format!("`{name}`")).collect();
    let programs: Vec<_> = programs.into_iter().collect();
    let more = match lacking.len() - 1 {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    Err(Failure::Infrastructure(format!(
        "this host lacks {}, which {trial}{more} would run as a backup tool. `cargo xtask setup --tools` installs those of \
         the scenarios in this checkout.",
        programs.join(", ")
    )))
}

fn nothing_matches(options: &RunOptions) -> Failure {
    let all = RunOptions { filters: vec![], ..options.clone() };
    let names: Vec<_> =
        all.trials().unwrap_or_default().into_iter().map(|request| format!("  {}", request.name)).collect();
    let folder = options.scenarios.display();
    if names.is_empty() {
        let images = options.images.join(", ");
        return Failure::Usage(match &options.hook {
            _ if !has_scenarios(options) => {
                format!(
                    "there is no scenario in {folder}. One is a file NAME.toml there, or in a folder: see \
                         docs/scenarios.md."
                )
            }
            None => format!("no scenario in {folder} suits an image among {images}."),
            Some(hook) => {
                format!(
                    "no scenario in {folder} suits an image among {images} and runs the hook {}.",
                    hook.name()
                )
            }
        });
    }
    let filters: Vec<_> =
        options.filters.iter().map(|filter| format!("`{}`", quote(MAX_FILTER, filter))).collect();
    let filters = filters.join(", ");
    if let Some(scenario) = without_commands(options) {
        return Failure::Usage(format!(
            "no trial matches {filters}: the scenario {scenario} runs a backup tool of your own. Name its commands with \
             `--backup-command` and `--restore-command`; see docs/backup-tools.md."
        ));
    }
    Failure::Usage(format!("no trial matches {filters}. There are:\n{}", names.join("\n")))
}

/// The first scenario that is asked for and has no commands.
fn without_commands(options: &RunOptions) -> Option<String> {
    let scenarios = Scenario::read_all(&options.scenarios).ok()?;
    let asked = |name: &str| options.filters.iter().any(|filter| name.contains(scenario_part(filter)));
    let needs = |it: &Scenario| it.backup.as_ref().is_some_and(BackupTool::needs_commands) && asked(&it.name);
    let found = scenarios.into_iter().find(needs).filter(|_| options.own_commands.is_none())?;
    Some(found.name)
}

/// What a filter says of the scenario's name.
fn scenario_part(filter: &str) -> &str {
    filter.split_once("::").map_or(filter, |(scenario, _)| scenario)
}

fn has_scenarios(options: &RunOptions) -> bool {
    Scenario::read_all(&options.scenarios).is_ok_and(|all| !all.is_empty())
}

/// The URI of a libvirt that can run these guests, as far as its text shows. See
/// <https://libvirt.org/uri.html>.
pub(super) fn connection(uri: &str) -> Result<String, String> {
    let well_formed = || {
        let (scheme, rest) = uri.split_once("://")?;
        // Guests find their disks, and we their sockets, by paths of this machine.
        let is_here = ["qemu", "qemu+unix"].contains(&scheme);
        let (host, path) = rest.split_once('/')?;
        let driver = path.split('?').next()?;
        let plain = uri.chars().all(|c| c.is_ascii_graphic());
        (is_here && host.is_empty() && plain && ["system", "session", "embed"].contains(&driver))
            .then_some(())
    };
    let hint =
        "it must be the URI of a libvirt for QEMU on this machine, such as qemu:///session or qemu:///system";
    well_formed().map(|()| uri.to_owned()).ok_or_else(|| hint.to_owned())
}

/// Fails where nobody answers under this URI.
pub(super) fn probe(uri: &str) -> Result<(), Failure> {
    let trial = cargo::build_trials("trial")?;
    let sh = shell()?;
    let output = command::output(cmd!(sh, "{trial} connect {uri}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::Infrastructure(format!(
        "`--connect {uri}` leads to no libvirt: {}. Start its daemon, or leave `--connect` out: each trial then has a \
         libvirt of its own.",
        said.trim().trim_start_matches("error: ").trim_end_matches('.')
    )))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use contract::scenario::Hook;
    use tooling::host;

    use super::*;

    fn options(filters: &[&str]) -> RunOptions {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        RunOptions { filters, ..RunOptions::of(host::repository(), "/runs/one".into()) }
    }

    fn said(options: &RunOptions) -> String {
        match check(options, &options.trials().unwrap()) {
            Err(Failure::Usage(said)) => said,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_filter_must_match() {
        let good = options(&["core/no-hook"]);
        assert!(check(&good, &good.trials().unwrap()).is_ok());
        let wrong = said(&options(&["core/no-hook", "core/no-hok"]));
        assert!(wrong.starts_with("no trial matches `core/no-hok`. There are:\n  core/"), "{wrong}");
    }

    #[test]
    fn a_tool_of_ones_own_needs_commands() {
        for filter in ["tools/your-own", "tools/your-own::bookworm-mariadb::none"] {
            let said = said(&options(&[filter]));
            assert!(said.contains("Name its commands with `--backup-command`"), "{said}");
        }
    }

    #[test]
    fn a_tool_that_is_missing_is_named_with_its_remedy() {
        let all = RunOptions { filters: vec!["tools/".to_owned()], ..options(&[]) };
        let mut requests = all.trials().unwrap();
        let with = |requests: &mut [TrialRequest], names: &[&str]| {
            for tool in requests.iter_mut().filter_map(|it| it.scenario.backup.as_mut()) {
                tool.needs = names.iter().map(|name| (*name).to_owned()).collect();
            }
        };
        with(&mut requests, &["sh"]);
        assert!(tools_are_there(&requests).is_ok());
        with(&mut requests, &["sh", "no-such-tool-here"]);
        let Err(Failure::Infrastructure(said)) = tools_are_there(&requests) else { panic!("it is there") };
        assert!(said.starts_with("this host lacks `no-such-tool-here`, which tools/"), "{said}");
        assert!(said.contains("`cargo xtask setup --tools`"), "{said}");
    }

    #[test]
    fn a_folder_without_scenarios_is_said_to_be_one() {
        let dir = tempfile::tempdir().unwrap();
        let empty = RunOptions { scenarios: dir.path().to_owned(), ..options(&[]) };
        assert!(said(&empty).starts_with("there is no scenario in "), "{}", said(&empty));
        // One that runs on no image of the run, or without any hook, is another matter.
        let only = |name: &str| {
            let from = host::repository().join("scenarios").join(name);
            fs::copy(from, dir.path().join("one.toml")).unwrap();
        };
        only("database/two-disks.toml");
        let none = RunOptions { images: vec!["bookworm-mariadb".to_owned()], ..empty.clone() };
        assert!(said(&none).contains("suits an image among bookworm-mariadb."), "{}", said(&none));
        only("core/no-freeze.toml");
        let hook = RunOptions { hook: Some(Hook::Sample), ..empty.clone() };
        assert!(said(&hook).contains("runs the hook sample"), "{}", said(&hook));
        assert!(check(&empty, &empty.trials().unwrap()).is_ok());
    }

    #[test]
    fn cycles_that_no_trial_has_are_refused() {
        let cycles = |options: RunOptions| RunOptions { cycles: Some(9), ..options };
        let once = cycles(options(&["core/no-freeze"]));
        assert!(said(&once).starts_with("`--cycles` changes nothing"), "{}", said(&once));
        let often = cycles(options(&["database/soak"]));
        assert!(check(&often, &often.trials().unwrap()).is_ok());
    }

    #[test]
    fn a_malformed_uri_is_refused() {
        for good in ["qemu:///session", "qemu:///system", "qemu+unix:///system?socket=/run/x"] {
            assert_eq!(connection(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "qemu",
            "qemu://",
            "qemu:/session",
            "qemu:///",
            "qemu+:///system",
            "qemu+ssh://h/system",
            "qemu+tcp:///system",
            "qemu://h/system",
            "xen:///system",
            "qemu:///a b",
            "qemu:///sesion",
            "session",
            "qemu:///system\n",
        ] {
            assert!(connection(bad).is_err_and(|hint| hint.contains("qemu:///session")), "{bad}");
        }
    }
}
