//! Evidence that is more than a screenful goes to files of its own.

use std::fs;
use std::path::Path;

use super::Judgement;
use crate::jsonl::Error;

/// The folder of those files in a trial directory.
const FOLDER: &str = "findings";

impl Judgement {
    /// Writes the evidence of which a finding shows only the beginning into
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
