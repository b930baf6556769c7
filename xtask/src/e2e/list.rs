//! The trials that a command line asks for, without running any.

use contract::json;
use contract::run::{RunOptions, TrialRequest};
use serde::Serialize;
use terminal::results;
use tooling::error::Failure;

use crate::align::align;

/// One trial of the list.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    trial: &'a str,
    summary: &'a str,
    /// Rows of the failure catalogue.
    covers: &'a [String],
    /// Seconds that it took when it was judged last here; absent when it never was.
    seconds: Option<f64>,
}

/// Prints them: name, what each covers, how long it took before.
pub(super) fn print(options: &RunOptions, requests: &[TrialRequest], as_json: bool) -> Result<(), Failure> {
    let durations = options.durations();
    let listed = requests.iter().map(|request| Listed {
        trial: &request.name,
        summary: &request.scenario.summary,
        covers: &request.scenario.covers,
        seconds: durations.of(&request.name, request.scenario.snapshot.cycles).map(|took| took.as_secs_f64()),
    });
    let listed: Vec<_> = listed.collect();
    if as_json {
        let json = json::pretty(&listed).map_err(|e| Failure::Json { what: "the list", source: e })?;
        results::line(format_args!("{json}"));
        return Ok(());
    }
    let head = ["trial", "covers", "took"].map(str::to_owned);
    let cells = |it: &Listed<'_>| {
        let took = it.seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.0} s"));
        [it.trial.to_owned(), it.covers.join(" "), took]
    };
    let mut rows: Vec<_> = [head].into_iter().chain(listed.iter().map(cells)).collect();
    align(&mut rows, [false, false, true]);
    for row in rows {
        results::line(row.join("  ").trim_end());
    }
    Ok(())
}
