//! The commands of a backup tool that the user names.

use contract::scenario::{OwnCommands, command_problem};

use crate::number::number;

/// The scenario that runs them by default.
pub(super) const SCENARIO: &str = "tools/your-own";

/// Options about the user's own backup tool.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Your own backup tool: a line for the host's shell that backs up the guest `$FREEZEFRAME_DOMAIN` under load,
    /// see docs/backup-tools.md. It takes the place of the commands in all scenarios that are asked for and have a
    /// backup tool [default: in `tools/your-own`].
    #[arg(long, value_name = "CMD", requires = "restore_command", conflicts_with_all = ["snapshot", "cycles"])]
    #[arg(value_parser = command)]
    backup_command: Option<String>,
    /// The line that restores the last backup into the folder `$FREEZEFRAME_TARGET`.
    #[arg(long, value_name = "CMD", requires = "backup_command", value_parser = command)]
    restore_command: Option<String>,
    /// How many backups your command makes under one load: a full one, then incremental ones [default: 1].
    #[arg(long, value_name = "N", requires = "backup_command", allow_negative_numbers = true)]
    #[arg(value_parser = number::<u32>(1..=100))]
    backups: Option<u32>,
    /// The most seconds of one backup [default: 600].
    #[arg(long, value_name = "SECONDS", requires = "backup_command", allow_negative_numbers = true)]
    #[arg(value_parser = number::<u32>(1..=86_400))]
    backup_seconds: Option<u32>,
    /// The most seconds of the restore [default: 600].
    #[arg(long, value_name = "SECONDS", requires = "backup_command", allow_negative_numbers = true)]
    #[arg(value_parser = number::<u32>(1..=86_400))]
    restore_seconds: Option<u32>,
}

impl Args {
    /// The commands, if there are any.
    pub(super) fn commands(self) -> Option<OwnCommands> {
        let Self { backup_command, restore_command, backups, backup_seconds, restore_seconds } = self;
        let (backup, restore) = backup_command.zip(restore_command)?;
        Some(OwnCommands { backup, restore, backups, backup_seconds, restore_seconds })
    }
}

fn command(line: &str) -> Result<String, String> {
    match command_problem(line) {
        None => Ok(line.to_owned()),
        Some(problem) => Err(format!("it {problem}; give a line for the host's shell")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Args as All;

    #[derive(Debug, Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: All,
    }

    fn parse(arguments: &[&str]) -> Result<All, String> {
        let line = ["e2e"].into_iter().chain(arguments.iter().copied());
        CommandLine::try_parse_from(line).map(|it| it.args).map_err(|error| error.to_string())
    }

    #[test]
    fn both_commands_or_none() {
        assert!(parse(&[]).unwrap().own.commands().is_none());
        let both = ["--backup-command", "b $X", "--restore-command", "r"];
        let own = parse(&[&both[..], &["--backups", "3", "--restore-seconds", "9"]].concat()).unwrap().own;
        let own = own.commands().unwrap();
        assert_eq!((&*own.backup, &*own.restore, own.backups), ("b $X", "r", Some(3)));
        assert_eq!((own.backup_seconds, own.restore_seconds), (None, Some(9)));

        let refused = |arguments: &[&str], word: &str| {
            let said = parse(arguments).unwrap_err();
            assert!(said.contains(word), "{said} should say {word}");
        };
        refused(&both[..2], "--restore-command <CMD>");
        refused(&both[2..], "--backup-command <CMD>");
        refused(&["--backups", "2"], "--backup-command <CMD>");
        refused(&["--backup-command", " ", "--restore-command", "r"], "it is empty");
        refused(&[&both[..], &["--backups", "0"]].concat(), "--backups");
        refused(&[&both[..], &["--cycles", "4"]].concat(), "cannot be used with");
        refused(&[&both[..], &["--snapshot", "host-copy"]].concat(), "cannot be used with");
    }
}
