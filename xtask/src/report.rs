//! `cargo xtask report`: a page about a run, for people.

use std::path::{Path, PathBuf};

use contract::files;
use terminal::results;
use tooling::error::Failure;
use tooling::host;
use tracing::warn;

/// Writes a page about a run: what each trial came to, pictures of the freeze
/// window, findings with evidence. It needs nothing but a browser.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The runs' directories; several make one page [default: the newest run].
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Where the page goes [default: index.html in the first run's directory].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Prints instead, as Markdown, what the backup tools of these runs did: tool, version, what went wrong, exit code,
    /// grade, whether the guest was left frozen, and how long writers waited.
    #[arg(long, conflicts_with = "output")]
    tools: bool,
    /// Writes that into a file instead, such as docs/tools.md.
    #[arg(long, value_name = "FILE", requires = "tools")]
    write: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let mut runs = args.runs;
    if runs.is_empty() {
        runs.push(host::repository().join("target/e2e/latest"));
    }
    if args.tools {
        return tools(&runs, args.write.as_deref());
    }
    let page = write(&runs, args.output.as_deref())?;
    results::line(page.display());
    Ok(())
}

/// The table of what backup tools did in these runs.
fn tools(runs: &[PathBuf], file: Option<&Path>) -> Result<(), Failure> {
    let verdicts = report::read::verdicts(runs).map_err(Failure::usage)?;
    if verdicts.iter().all(|verdict| verdict.tool.is_none()) {
        return Err(Failure::Usage(
            "there is no trial with a backup tool in these runs. Run some first: `cargo xtask e2e tools/`."
                .to_owned(),
        ));
    }
    let page = report::tools(&verdicts, &rewrites(file));
    let Some(file) = file else {
        results::line(page.trim_end());
        return Ok(());
    };
    let file = std::path::absolute(file).map_err(|e| Failure::io("find", file, e))?;
    files::publish(&file, page.as_bytes()).map_err(|e| Failure::io("write", &file, e))?;
    results::line(file.display());
    Ok(())
}

/// The command that writes the page, without the paths of this machine.
fn rewrites(file: Option<&Path>) -> String {
    let inside = |file: &Path| {
        let file = std::path::absolute(file).ok()?;
        file.strip_prefix(host::repository()).ok().map(Path::to_owned)
    };
    let file =
        file.map(|file| inside(file).unwrap_or_else(|| PathBuf::from(file.file_name().unwrap_or_default())));
    let write = file.map(|file| format!(" --write {}", file.display())).unwrap_or_default();
    format!("cargo xtask report --tools RUN..{write}")
}

/// Notes which trials a run asks for, before the first of them starts.
pub(crate) fn remember(run: &Path, trials: Vec<String>) -> Result<(), Failure> {
    report::read::remember(run, &trials).map_err(|e| Failure::io("write to", run, e))
}

/// Writes the page of a run into its directory, and says where. A failure is only
/// a warning, because the verdicts do not depend on the page.
pub(crate) fn write_beside(run: &Path) -> Option<PathBuf> {
    write(&[run.to_owned()], None)
        .inspect_err(|failure| warn!("the report could not be written: {failure}"))
        .ok()
}

/// Writes the page and says where it is.
fn write(runs: &[PathBuf], output: Option<&Path>) -> Result<PathBuf, Failure> {
    let unreadable = |path: &Path, e: &std::io::Error| {
        Failure::Usage(format!("cannot read the run {}: {e}.", path.display()))
    };
    let runs = runs
        .iter()
        .map(|run| run.canonicalize().map_err(|e| unreadable(run, &e)))
        .collect::<Result<Vec<_>, _>>()?;
    let file = match (output, runs.first()) {
        (Some(file), _) => std::path::absolute(file).map_err(|e| Failure::io("find", file, e))?,
        (None, Some(run)) => run.join("index.html"),
        (None, None) => return Err(Failure::Usage("no run is named.".to_owned())),
    };
    // Links on the page lead from here to the trials' files.
    let beside = file.parent().unwrap_or(Path::new("/"));
    let beside = beside.canonicalize().map_err(|e| Failure::io("write to", beside, e))?;
    let page = report::read::page(&runs, &beside, host::repository()).map_err(Failure::usage)?;
    // Whole or not at all: a browser may be reading it.
    let page = report::render(&page);
    // In a run it is for this user, as everything there; elsewhere for those whom he lets read it.
    let write = if output.is_some() { files::publish } else { files::replace };
    write(&file, page.as_bytes()).map_err(|e| Failure::io("write", &file, e))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_names_no_path_of_this_machine() {
        assert_eq!(rewrites(None), "cargo xtask report --tools RUN..");
        let inside = host::repository().join("docs/tools.md");
        assert_eq!(rewrites(Some(&inside)), "cargo xtask report --tools RUN.. --write docs/tools.md");
        assert_eq!(
            rewrites(Some(Path::new("/srv/x/tools.md"))),
            "cargo xtask report --tools RUN.. --write tools.md"
        );
    }

    #[test]
    fn runs_without_a_tool_make_no_page() {
        let run = tempfile::tempdir().unwrap();
        let file = run.path().join("tools.md");
        match tools(&[run.path().to_owned()], Some(&file)) {
            Err(Failure::Usage(said)) => assert!(said.contains("no trial with a backup tool"), "{said}"),
            other => panic!("{other:?}"),
        }
        assert!(!file.exists());
    }
}
