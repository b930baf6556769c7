//! What a backup tool does in a trial that is right: it freezes, copies, thaws, ends and leaves nothing.

use contract::history::{
    AgentCommand, CommandEnd, CopyInstant, DiskWrites, Entry, FREEZE, Level, Nanos, Sender, THAW, ToolStep,
};

const MS: Nanos = 1_000_000;

/// What is seen while it runs; F0, F1, S0, S1, T0 and T1 are its marks.
pub(super) fn beside([f0, f1, s0, s1, t0, t1]: [Nanos; 6], freeze: bool, disks: &[&str]) -> Vec<Entry> {
    let step = |step| Entry::Tool { step };
    let (begin, end) = if freeze { (f0 - 5 * MS, t1 + 5 * MS) } else { (s0, s1) };
    let mut entries = vec![
        step(ToolStep::Began { t: begin, n: 1, level: Level::Full }),
        step(ToolStep::Ended { t: end, n: 1, how: CommandEnd::Exit(0), said: vec!["Finished".into()] }),
        step(ToolStep::Left { t: end + MS, n: 1, things: Vec::new() }),
    ];
    let copy = |disk: &&str| {
        let event = format!("JOB_STATUS_CHANGE created of backup-{disk}");
        Entry::CopyInstant(CopyInstant { t: s0 + MS, disk: (*disk).into(), event })
    };
    entries.extend(disks.iter().map(copy));
    if freeze {
        let command = |t, end, command: &str| {
            let (command, by) = (command.to_owned(), Sender::Tool);
            Entry::AgentCommand(AgentCommand { t, end: Some(end), command, by, error: None, count: Some(2) })
        };
        entries.extend([command(f0, f1, FREEZE), command(t0, t1, THAW)]);
        let silence = DiskWrites { from: f1, to: t0, count: 0, first: None, last: None };
        entries.push(Entry::DiskWrites(silence));
    }
    entries
}

/// What becomes of its backup when the load has ended.
pub(super) fn after(t: Nanos, disks: &[&str]) -> Vec<Entry> {
    let mut steps = vec![ToolStep::Restored { t, end: t + MS, how: CommandEnd::Exit(0), said: Vec::new() }];
    let handed_back =
        |disk: &&str| ToolStep::HandedBack { t: t + MS, disk: (*disk).into(), problems: Vec::new() };
    steps.extend(disks.iter().map(handed_back));
    steps.push(ToolStep::Image { t: t + MS, files: 2, changed: Vec::new() });
    steps.into_iter().map(|step| Entry::Tool { step }).collect()
}
