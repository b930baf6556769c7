//! The results of a measurement: figures with their spread, compared with goals;
//! as a table, as JSON and as a picture.

use std::path::PathBuf;

use contract::json;
use report::plot;
use serde::Serialize;
use terminal::results;
use tooling::error::Failure;
use tooling::host;
use tracing::info;

/// What one benchmark measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) benchmark: &'static str,
    /// How, in a sentence.
    pub(super) measured: String,
    pub(super) figures: Vec<Figure>,
    pub(super) goals: Vec<Goal>,
}

/// One thing that was measured several times.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figure {
    pub(super) name: String,
    unit: Unit,
    pub(super) median: f64,
    min: f64,
    max: f64,
    /// In the order in which they were measured.
    samples: Vec<f64>,
}

/// What the numbers of a figure are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Unit {
    /// Milliseconds.
    #[serde(rename = "ms")]
    Millis,
    /// Mebibytes.
    #[serde(rename = "MiB")]
    Mib,
}

impl Figure {
    /// Times, milliseconds.
    pub(super) fn times(name: impl Into<String>, samples: Vec<f64>) -> Self {
        Self::of(name, Unit::Millis, samples)
    }

    pub(super) fn of(name: impl Into<String>, unit: Unit, samples: Vec<f64>) -> Self {
        Self {
            name: name.into(),
            unit,
            median: median(&samples),
            min: samples.iter().copied().fold(f64::NAN, f64::min),
            max: samples.iter().copied().fold(f64::NAN, f64::max),
            samples,
        }
    }

    fn text(&self, value: f64) -> String {
        match self.unit {
            Unit::Millis if value.abs() >= 1000.0 => format!("{:.2} s", value / 1000.0),
            Unit::Millis if value.abs() < 10.0 => format!("{value:.1} ms"),
            Unit::Millis => format!("{value:.0} ms"),
            Unit::Mib => format!("{value:.0} MiB"),
        }
    }
}

/// A number that must be at least or at most what was set.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Goal {
    pub(super) name: String,
    bound: Bound,
    limit: f64,
    measured: f64,
    pub(super) met: bool,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Bound {
    AtLeast,
    AtMost,
}

impl Goal {
    // What was not measured is not a number, and compares as missed.
    pub(super) fn at_least(name: impl Into<String>, limit: f64, measured: f64) -> Self {
        Self { name: name.into(), bound: Bound::AtLeast, limit, measured, met: measured >= limit }
    }

    pub(super) fn at_most(name: impl Into<String>, limit: f64, measured: f64) -> Self {
        Self { name: name.into(), bound: Bound::AtMost, limit, measured, met: measured <= limit }
    }
}

/// The middle one of some measurements; the mean of both for an even number,
/// not a number for none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

impl Report {
    /// Writes `target/bench/NAME.json` and `NAME.svg`, prints the report, and
    /// fails where a goal is missed.
    pub(super) fn publish(&self, json: bool) -> Result<(), Failure> {
        let text = json::pretty(self)
            .map_err(|e| Failure::Infrastructure(format!("cannot write the measurements as JSON: {e}.")))?;
        let picture = self.write("svg", &self.plot())?;
        self.write("json", &format!("{text}\n"))?;
        if json {
            results::line(format_args!("{text}"));
        } else {
            results::line(self.table().trim_end());
        }
        info!("Plot: {}", picture.display());
        let missed: Vec<_> = self.goals.iter().filter(|goal| !goal.met).map(|goal| &*goal.name).collect();
        if missed.is_empty() {
            return Ok(());
        }
        Err(Failure::Expectation(format!("bench {} missed: {}.", self.benchmark, missed.join(", "))))
    }

    fn write(&self, extension: &str, text: &str) -> Result<PathBuf, Failure> {
        let dir = host::repository().join("target/bench");
        let path = dir.join(format!("{}.{extension}", self.benchmark));
        std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|e| Failure::io("write", &path, e))?;
        Ok(path)
    }

    /// The times; sizes have no place on their axis.
    fn plot(&self) -> String {
        let times = self.figures.iter().filter(|figure| figure.unit == Unit::Millis);
        let rows: Vec<_> = times.map(|figure| (figure.name.as_str(), figure.samples.as_slice())).collect();
        plot::plot(&format!("cargo xtask bench {}", self.benchmark), &rows)
    }

    fn table(&self) -> String {
        let width = self.figures.iter().map(|figure| figure.name.chars().count()).max().unwrap_or(0);
        let mut table = String::new();
        for figure in &self.figures {
            let [median, min, max] = [figure.median, figure.min, figure.max].map(|value| figure.text(value));
            table += &format!("{:<width$}  {median:>9}  ({min} to {max})\n", figure.name);
        }
        table += &format!("{} Median (least to most).\n", self.measured);
        for Goal { name, bound, limit, measured, met } in &self.goals {
            let bound = match bound {
                Bound::AtLeast => "at least",
                Bound::AtMost => "at most",
            };
            let met = if *met { "met" } else { "MISSED" };
            table += &format!("{name}: {}, goal {bound} {}: {met}\n", number(*measured), number(*limit));
        }
        table
    }
}

/// Two places after the point, or three digits of what is smaller.
fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.1 { format!("{value:.3}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[test]
    fn what_was_not_measured_meets_no_goal() {
        let nothing = Figure::times("nothing", vec![]);
        assert!(!Goal::at_least("g", 1.0, nothing.median).met);
        assert!(!Goal::at_most("g", 1.0, nothing.median).met);
        assert!(Goal::at_least("g", 1.0, 1.0).met && Goal::at_most("g", 1.0, 1.0).met);
    }

    #[test]
    fn the_table_tells_median_spread_and_goal() {
        let report = Report {
            benchmark: "b",
            measured: "Measured so.".to_owned(),
            figures: vec![
                Figure::times("warm", vec![3.0, 800.0, 1500.0]),
                Figure::of("memory", Unit::Mib, vec![70.0]),
            ],
            goals: vec![Goal::at_most("stall", 0.05, 0.0625)],
        };
        assert_eq!(
            report.table(),
            "warm       800 ms  (3.0 ms to 1.50 s)\n\
             memory     70 MiB  (70 MiB to 70 MiB)\n\
             Measured so. Median (least to most).\n\
             stall: 0.062, goal at most 0.050: MISSED\n"
        );
    }
}
