//! What a backup tool did, from the records of the history. As [`assemble`](super::assemble) does, it refuses
//! whatever no honest writer could have written.

use std::collections::BTreeMap;

use contract::history::{CommandEnd, DiskProblem, Leftover, Level, Nanos, Setup, ToolStep};
use contract::text::printable;

use super::dishonest::Accepted;

/// The most lines of a command's output, leftovers, problems of a disk, or changed files.
const MAX_LINES: usize = 1000;

/// A trial with a backup tool.
#[derive(Debug, Default)]
pub(super) struct ToolLog {
    /// What its version command printed.
    pub(super) version: Option<String>,
    /// The backup of cycle `n` is at `n - 1`.
    pub(super) backups: Vec<Backup>,
    pub(super) restored: Option<CommandResult>,
    /// What is wrong with each disk that was looked at.
    pub(super) handed_back: BTreeMap<String, Vec<DiskProblem>>,
    pub(super) image: Option<ImageCheck>,
}

/// One run of the backup command.
#[derive(Debug)]
pub(super) struct Backup {
    pub(super) level: Level,
    pub(super) began: Nanos,
    /// When it had ended, and how.
    pub(super) ended: Option<(Nanos, CommandResult)>,
    /// What it left behind, if anybody could look.
    pub(super) left: Option<Vec<Leftover>>,
}

/// How a command ended, and what it said last.
#[derive(Debug)]
pub(super) struct CommandResult {
    pub(super) how: CommandEnd,
    pub(super) said: Vec<String>,
}

/// The image's files after the trial.
#[derive(Debug)]
pub(super) struct ImageCheck {
    pub(super) files: u32,
    pub(super) changed: Vec<String>,
}

impl ToolLog {
    /// Takes the next step; it belongs to this cycle.
    pub(super) fn step(&mut self, setup: Option<&Setup>, cycle: usize, step: ToolStep) -> Accepted {
        let Some(setup) = setup.filter(|setup| setup.tool) else {
            return Err("a step of a backup tool, which the setup does not have".into());
        };
        match step {
            ToolStep::Version { said, .. } => once(&mut self.version, said, "version"),
            ToolStep::Began { t, n, level } => self.began(cycle, n, Backup::begun(t, level)),
            ToolStep::Ended { t, n, how, said } => {
                bounded(&said, "lines of a command")?;
                let backup = self.backup(n, "ended")?;
                if t < backup.began {
                    return Err(format!("backup {n} ends at {t}, before it begins").into());
                }
                once(&mut backup.ended, (t, CommandResult { how, said }), "ended")
            }
            ToolStep::Left { n, things, .. } => {
                bounded(&things, "leftovers")?;
                let backup = self.backup(n, "left")?;
                if backup.ended.is_none() {
                    return Err(format!("what backup {n} left behind, before it has ended").into());
                }
                once(&mut backup.left, things, "left")
            }
            ToolStep::Restored { t, end, how, said } => {
                bounded(&said, "lines of a command")?;
                if end < t {
                    return Err(format!("the restore command ends at {end}, before it begins").into());
                }
                if self.backups.last().is_none_or(|last| last.ended.is_none()) {
                    return Err("a restore before the last backup has ended".into());
                }
                once(&mut self.restored, CommandResult { how, said }, "restored")
            }
            ToolStep::HandedBack { disk, problems, .. } => {
                bounded(&problems, "problems of a disk")?;
                if self.restored.is_none() {
                    return Err("a disk that is handed back, before the restore command has ended".into());
                }
                if !setup.disks.contains(&disk) {
                    return Err(format!(
                        "a disk `{}` is handed back, which the setup does not name",
                        printable(&disk)
                    )
                    .into());
                }
                match self.handed_back.insert(disk, problems) {
                    Some(_) => Err("a second `handed_back` of a disk".into()),
                    None => Ok(()),
                }
            }
            ToolStep::Image { files, changed, .. } => {
                bounded(&changed, "changed files of the image")?;
                once(&mut self.image, ImageCheck { files, changed }, "image")
            }
        }
    }

    fn began(&mut self, cycle: usize, n: u32, backup: Backup) -> Accepted {
        let next = self.backups.len() + 1;
        if usize::try_from(n).ok() != Some(next) || next != cycle {
            return Err(format!("backup {n} begins in cycle {cycle}, but backup {next} is the next").into());
        }
        if self.backups.last().is_some_and(|last| last.ended.is_none()) {
            return Err(format!("backup {n} begins before the one before it has ended").into());
        }
        self.backups.push(backup);
        Ok(())
    }

    /// The backup that runs, or was the last to run.
    fn backup(&mut self, n: u32, what: &str) -> Accepted<&mut Backup> {
        let last = self.backups.len();
        match self.backups.last_mut() {
            Some(backup) if usize::try_from(n).ok() == Some(last) => Ok(backup),
            _ => Err(format!("`{what}` of backup {n}, but {last} is the last that began").into()),
        }
    }
}

impl Backup {
    fn begun(began: Nanos, level: Level) -> Self {
        Self { level, began, ended: None, left: None }
    }
}

fn once<T>(place: &mut Option<T>, value: T, what: &str) -> Accepted {
    match place.replace(value) {
        Some(_) => Err(format!("a second `{what}` of a backup tool").into()),
        None => Ok(()),
    }
}

fn bounded<T>(items: &[T], what: &str) -> Accepted {
    if items.len() > MAX_LINES {
        return Err(format!("more than {MAX_LINES} {what}").into());
    }
    Ok(())
}
