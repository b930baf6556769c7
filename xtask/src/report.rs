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
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let mut runs = args.runs;
    if runs.is_empty() {
        runs.push(host::repository().join("target/e2e/latest"));
    }
    let page = write(&runs, args.output.as_deref())?;
    results::line(page.display());
    Ok(())
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
