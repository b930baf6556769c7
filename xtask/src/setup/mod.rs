//! `cargo xtask setup`: finds what the host lacks, and installs it.

mod check;
mod needs;
mod plan;

use std::path::PathBuf;

use contract::json;
use serde::Serialize;
use terminal::results;
use tooling::command::{self, shell_in};
use tooling::error::Failure;
use tooling::host;
use tracing::info;

use check::CheckResult;
pub(crate) use needs::NeededBy;
use plan::{Host, Manager, SetupAction, SetupPlan, plan};

/// Installs the host packages that the other commands need, or checks that they are there.
/// What only images of Ubuntu or of the RPM family need is installed when one is built,
/// what only `bench trial` needs when that runs, and backup tools only with `--tools`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only reports what is there and what is missing; changes nothing.
    #[arg(long)]
    check: bool,
    /// Includes the backup tools that scenarios grade, and what those need.
    #[arg(long)]
    tools: bool,
    /// Reports as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let also: &[NeededBy] = if args.tools { &[NeededBy::Baseline, NeededBy::Tools] } else { &[] };
    if args.check {
        let findings = check::findings(also);
        let host = check::host(missing(&findings));
        report(&findings, &host, args.json)?;
        return match &plan(&host) {
            SetupPlan::Nothing => Ok(()),
            SetupPlan::Act(_) if args.tools => {
                Err(lacking(&findings, "`cargo xtask setup --tools` installs that"))
            }
            SetupPlan::Act(_) => Err(lacking(&findings, "`cargo xtask setup` installs that")),
            SetupPlan::ByHand { why, commands } => Err(lacking(&findings, &by_hand(why, commands))),
        };
    }
    let Installed { findings, host, complete } = install(also)?;
    report(&findings, &host, args.json)?;
    complete
}

/// Installs what is missing, for a task that needs it. Says nothing when
/// everything is there.
pub(crate) fn ensure() -> Result<(), Failure> {
    ensure_for(&[])
}

/// The same, and `also` what only some tasks need.
pub(crate) fn ensure_for(also: &[NeededBy]) -> Result<(), Failure> {
    install(also)?.complete
}

/// What is there after an installation.
struct Installed {
    findings: Vec<CheckResult>,
    /// The host as it was before.
    host: Host,
    /// Whether it is enough.
    complete: Result<(), Failure>,
}

/// Installs what is missing.
fn install(also: &[NeededBy]) -> Result<Installed, Failure> {
    let mut findings = check::findings(also);
    let host = check::host(missing(&findings));
    let plan = plan(&host);
    if let SetupPlan::Act(actions) = &plan {
        for need in &host.missing {
            info!("missing: {} ({}): {}", need.what, need.remedy(), need.why);
        }
        for action in actions {
            info!("\n# {}\n{}", action.why(), action.command());
            act(action, host.root)?;
        }
        findings = check::findings(also);
    }
    let complete = match plan {
        SetupPlan::ByHand { why, commands } => Err(lacking(&findings, &by_hand(&why, &commands))),
        _ if missing(&findings).is_empty() => Ok(()),
        _ => Err(lacking(
            &findings,
            "the packages are installed, so this distribution must have it in another package",
        )),
    };
    Ok(Installed { findings, host, complete })
}

fn missing(findings: &[CheckResult]) -> Vec<&'static needs::Need> {
    findings.iter().filter(|finding| finding.found.is_none()).map(|finding| finding.need).collect()
}

fn by_hand(why: &str, commands: &[String]) -> String {
    std::iter::once(format!("{why}:")).chain(commands.iter().cloned()).collect::<Vec<_>>().join("\n")
}

fn lacking(findings: &[CheckResult], remedy: &str) -> Failure {
    let names: Vec<_> = missing(findings).iter().map(|need| need.what).collect();
    Failure::Infrastructure(format!("this host lacks {}; {remedy}", names.join(", ")))
}

/// One need, as reported.
#[derive(Serialize)]
struct Reported {
    what: &'static str,
    why: &'static str,
    found: Option<PathBuf>,
    looked_for: String,
    packages: &'static [&'static str],
}

fn report(findings: &[CheckResult], host: &Host, json: bool) -> Result<(), Failure> {
    let manager = host.manager.unwrap_or(Manager::Apt);
    let needs: Vec<_> = findings
        .iter()
        .map(|finding| Reported {
            what: finding.need.what,
            why: finding.need.why,
            found: finding.found.clone(),
            looked_for: finding.need.check.description(),
            packages: manager.names(&finding.need.packages),
        })
        .collect();
    if json {
        let value =
            serde_json::json!({ "package_manager": host.manager.map(Manager::program), "needs": needs });
        let text = json::pretty(&value)
            .map_err(|error| Failure::Infrastructure(format!("cannot write JSON: {error}.")))?;
        results::line(format_args!("{text}"));
        return Ok(());
    }
    for need in needs {
        match need.found {
            Some(path) => results::line(format_args!("found    {:<20} {}", need.what, path.display())),
            None => {
                results::line(format_args!("missing  {:<20} {} ({})", need.what, need.why, need.looked_for));
            }
        }
    }
    Ok(())
}

fn act(action: &SetupAction, root: bool) -> Result<(), Failure> {
    match action {
        SetupAction::Write { path, text, .. } if root => {
            std::fs::write(path, text).map_err(|e| Failure::io("write", path.as_ref(), e))
        }
        SetupAction::Write { path, text, .. } => {
            succeed(&["sudo".to_owned(), "tee".to_owned(), (*path).to_owned()], text)
        }
        SetupAction::Run { argv, .. } => succeed(argv, ""),
    }
}

/// Runs a command whose output is progress, not a result.
fn succeed(argv: &[String], input: &str) -> Result<(), Failure> {
    let [program, args @ ..] = argv else { return Ok(()) };
    let sh = shell_in(host::repository())?;
    command::run_with_input(sh.cmd(program).args(args), input).map_err(|error| {
        Failure::Infrastructure(format!(
            "`{}` did not succeed: {error} Its output above says why; once that is repaired, run `cargo xtask setup` \
             again.",
            argv.join(" ")
        ))
    })
}
