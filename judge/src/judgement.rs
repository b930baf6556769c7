//! The judge's result for a case; evidence that is more than a screenful goes to files of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use contract::figures::{BackupFigures, Counts, Power, Timings};
use contract::finding::{Finding, Status};
use contract::grade::Grade;
use contract::jsonl::Error;
use contract::property::Property;
use contract::text::quote;

/// The folder of those files in a trial directory.
const FOLDER: &str = "findings";

/// The judge's result for a case.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The grade.
    pub grade: Grade,
    /// Why this grade, in one line.
    pub reason: String,
    /// Every broken property, the most telling first.
    pub findings: Vec<Finding>,
    /// The whole evidence where it is more than a screenful.
    pub details: BTreeMap<Property, Vec<String>>,
    /// All properties.
    pub properties: BTreeMap<Property, Status>,
    /// What the trial had the power to see.
    pub power: Power,
    /// Operations counted.
    pub counts: Counts,
    /// From the marks: freeze, snapshot, thaw, window and write stall. The
    /// other stages are absent.
    pub timings: Timings,
    /// Whether a transfer that was sent after the window was acknowledged;
    /// `None` when the load did not go on for long enough to decide.
    pub resumed: Option<bool>,
    /// What the backup command did in this cycle, where there is a backup tool.
    pub backup: Option<BackupFigures>,
}

impl Judgement {
    /// The result for a trial whose logs could not be read: unknown.
    pub fn unreadable(error: &Error) -> Self {
        // Room for a path, and for what is wrong in it.
        let why = quote(600, &error.to_string());
        Self {
            grade: Grade::Unknown,
            reason: format!("{}: {why}", Grade::Unknown),
            findings: Vec::new(),
            details: BTreeMap::new(),
            properties: Property::ALL
                .into_iter()
                .map(|property| (property, Status::NotApplicable("the trial's logs cannot be read".into())))
                .collect(),
            power: Power::default(),
            counts: Counts::default(),
            timings: Timings::default(),
            resumed: None,
            backup: None,
        }
    }

    /// Writes the evidence that a finding shows only in part into
    /// `dir`, the trial's directory or that of one of its cycles, and names the
    /// file in the finding's last line as seen from the trial's.
    pub fn keep_details(&mut self, trial: &Path, dir: &Path) -> Result<(), Error> {
        let folder = dir.join(FOLDER);
        let shown = folder.strip_prefix(trial).unwrap_or(&folder).display();
        for (property, lines) in &self.details {
            let name = format!("{property}.txt");
            let path = folder.join(&name);
            let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
            fs::create_dir_all(&folder)
                .and_then(|()| fs::write(&path, text))
                .map_err(|source| Error::Io { action: "write", path, source })?;
            let finding = self.findings.iter_mut().find(|finding| finding.property == *property);
            if let Some(last) = finding.and_then(|finding| finding.evidence.last_mut()) {
                *last = format!("{last}, all in {shown}/{name}");
            }
        }
        Ok(())
    }
}
