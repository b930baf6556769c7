//! Backup tools: the commands of somebody's backup, which a trial runs and grades.
//!
//! Each backup is a cycle ([`Snapshot::cycles`](super::Snapshot::cycles)): the first is a full one, those after it are
//! incremental. The last is restored and graded.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::input::{Mistake, Whole};
use crate::text::is_hidden;

/// A backup tool, `[backup]` of a scenario. Both commands are lines for the host's shell, run with
/// the environment that `docs/backup-tools.md` lists, under load the one, without a guest the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupTool {
    /// Its name in tables: `virtnbdbackup`.
    pub name: String,
    /// The command that prints its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The command that makes a backup. Its exit code 0 is the claim that is graded. Empty in a scenario that runs
    /// what the user names: see [`OwnCommands`].
    pub backup: String,
    /// The command that gives the disks of the last backup back; empty as well then.
    pub restore: String,
    /// The most seconds that one run of the backup command may take.
    pub backup_seconds: u32,
    /// The most seconds that the restore command may take.
    pub restore_seconds: u32,
    /// MiB of the folder for what a tool keeps only while it runs; without it, as the host has room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch_mib: Option<u32>,
    /// The programs that the scenario's own commands run, without which it is not started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// The folder of the scenario's file, in which its scripts lie; absolute.
    pub folder: PathBuf,
}

impl BackupTool {
    /// Whether it is none before the user names its commands.
    pub fn needs_commands(&self) -> bool {
        self.backup.is_empty()
    }

    /// How long all its commands together may take, with so many backups.
    pub fn longest(&self, backups: u32) -> Duration {
        Duration::from_secs(self.restore_seconds.into())
            .saturating_add(Duration::from_secs(self.backup_seconds.into()).saturating_mul(backups))
    }
}

/// A backup tool that the user names: it takes the place of those in scenarios.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnCommands {
    /// The command that makes a backup.
    pub backup: String,
    /// The command that gives the disks back.
    pub restore: String,
    /// How many backups are made; as many as the scenario says when absent.
    pub backups: Option<u32>,
    /// The most seconds of the one, and of the other; the scenario's own when absent.
    pub backup_seconds: Option<u32>,
    /// See `backup_seconds`.
    pub restore_seconds: Option<u32>,
}

impl OwnCommands {
    /// The tool that runs these commands in a scenario with this one.
    pub fn instead_of(&self, tool: &BackupTool) -> BackupTool {
        BackupTool {
            name: self.name(),
            version: None,
            backup: self.backup.clone(),
            restore: self.restore.clone(),
            backup_seconds: self.backup_seconds.unwrap_or(tool.backup_seconds),
            restore_seconds: self.restore_seconds.unwrap_or(tool.restore_seconds),
            scratch_mib: tool.scratch_mib,
            needs: vec![],
            folder: tool.folder.clone(),
        }
    }

    /// The program that the backup command begins with.
    fn name(&self) -> String {
        let program = self.backup.split_whitespace().find(|word| !word.contains('='));
        let name = program.and_then(|program| Path::new(program).file_name()?.to_str());
        let plain = |name: &&str| name.len() <= MAX_NAME && !name.contains(is_hidden);
        name.filter(plain).unwrap_or("your own").to_owned()
    }
}

/// How long a command may take if nothing else is said, seconds.
pub const COMMAND_SECONDS: u32 = 600;

/// The most characters of a tool's name, so that tables stay tables.
const MAX_NAME: usize = 40;

/// `[backup]` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBackup {
    name: Spanned<String>,
    version: Option<Spanned<String>>,
    backup: Option<Spanned<String>>,
    restore: Option<Spanned<String>>,
    backups: Option<Whole<1, 100>>,
    backup_seconds: Option<Whole<1, 86_400>>,
    restore_seconds: Option<Whole<1, 86_400>>,
    scratch_mib: Option<Whole<1, 1_048_576>>,
    #[serde(default)]
    needs: Vec<Spanned<String>>,
}

impl RawBackup {
    /// The tool, and how many backups it makes. The scenario's file lies in `folder`.
    pub(super) fn check(self, folder: &Path) -> Result<(BackupTool, u32), Mistake> {
        let name = self.name.get_ref();
        if name.trim().is_empty() || name.chars().count() > MAX_NAME || name.contains(is_hidden) {
            let message =
                format!("`name` must be 1 to {MAX_NAME} visible characters: the tool's name in tables.");
            return Err(Mistake::new(&self.name.span(), message));
        }
        for (key, line) in [("version", &self.version), ("backup", &self.backup), ("restore", &self.restore)]
        {
            let Some(line) = line else { continue };
            if let Some(problem) = command_problem(line.get_ref()) {
                let message = format!("`{key}` {problem}. Give a line for the host's shell.");
                return Err(Mistake::new(&line.span(), message));
            }
        }
        if let (Some(only), None) | (None, Some(only)) = (&self.backup, &self.restore) {
            let message = "`backup` and `restore` belong together. Give both, or neither, for the commands that the user names.";
            return Err(Mistake::new(&only.span(), message));
        }
        let no_program = |it: &&Spanned<String>| {
            it.get_ref().is_empty()
                || it.get_ref().contains(|c: char| c == '/' || c.is_whitespace() || is_hidden(c))
        };
        if let Some(name) = self.needs.iter().find(no_program) {
            let message =
                "`needs` lists names of programs that are looked for on the PATH. Take out what is none.";
            return Err(Mistake::new(&name.span(), message));
        }
        let tool = BackupTool {
            name: self.name.into_inner(),
            version: self.version.map(Spanned::into_inner),
            backup: self.backup.map(Spanned::into_inner).unwrap_or_default(),
            restore: self.restore.map(Spanned::into_inner).unwrap_or_default(),
            backup_seconds: self.backup_seconds.map_or(COMMAND_SECONDS, |seconds| seconds.0),
            restore_seconds: self.restore_seconds.map_or(COMMAND_SECONDS, |seconds| seconds.0),
            scratch_mib: self.scratch_mib.map(|mib| mib.0),
            needs: self.needs.into_iter().map(Spanned::into_inner).collect(),
            folder: std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()),
        };
        Ok((tool, self.backups.map_or(1, |backups| backups.0)))
    }
}

/// Why a text can be no line for a shell; continues a sentence that names it.
pub fn command_problem(line: &str) -> Option<&'static str> {
    if line.trim().is_empty() {
        Some("is empty")
    } else if line.contains('\0') {
        Some("holds a zero byte, which no command can")
    } else {
        None
    }
}
