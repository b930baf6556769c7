//! What the restore command handed back: T8.

use contract::grade::Grade;
use contract::history::{CommandEnd, DiskProblem, DiskProblemKind};
use contract::property::Property;

use super::evidence::quote;
use super::ruling::{Defect, Ruling, Unexamined};
use super::view::View;

/// T8, [`Property::WholeRestore`]. Without its disks there is nothing to boot; a disk of another size is there,
/// and is not the one that was backed up.
pub(super) fn whole_restore(view: &View<'_>) -> Ruling {
    let tool = &view.case.tool;
    let restored = tool.restored.as_ref().filter(|_| view.is_last_cycle());
    let restored = restored.ok_or_else(|| Unexamined("the backup was not restored".into()))?;
    if let Some(why) = without_end(restored.how) {
        return Err(Unexamined(format!("the restore command {why}")));
    }
    if restored.how != CommandEnd::Exit(0) {
        let summary =
            format!("the backup cannot be restored: the restore command ended with {}", restored.how);
        let lines = restored.said.iter().map(|line| format!("it said: {}", quote(line))).collect();
        return broken(Grade::Unusable, summary, lines);
    }
    let problems: Vec<_> = tool
        .handed_back
        .iter()
        .flat_map(|(disk, problems)| problems.iter().map(move |problem| (disk, problem)))
        .collect();
    if let Some((disk, worst)) = problems.iter().min_by_key(|(_, it)| severity(it.kind)) {
        let disk = quote(disk);
        let (ceiling, summary) = match worst.kind {
            DiskProblemKind::Missing => {
                (Grade::Unusable, format!("the restore command did not hand back disk {disk}"))
            }
            DiskProblemKind::Outside => (
                Grade::Unusable,
                format!(
                    "the restored disk {disk} leans on files outside the backup: it is lost with the source"
                ),
            ),
            DiskProblemKind::Damaged => (Grade::Unusable, format!("the restored disk {disk} is damaged")),
            DiskProblemKind::OtherSize => {
                (Grade::Inconsistent, format!("the restored disk {disk} has another size than the source's"))
            }
        };
        let line =
            |(disk, it): &(&String, &DiskProblem)| format!("disk {}: {}", quote(disk), quote(&it.detail));
        return broken(ceiling, summary, problems.iter().map(line).collect());
    }
    match view.case.setup.disks.iter().find(|disk| !tool.handed_back.contains_key(*disk)) {
        Some(disk) => Err(Unexamined(format!("nobody looked at the restored disk {}", quote(disk)))),
        None => Ok(None),
    }
}

fn broken(ceiling: Grade, summary: String, lines: Vec<String>) -> Ruling {
    let mut defect = Defect::new(Property::WholeRestore, summary, lines);
    defect.ceiling = ceiling;
    Ok(Some(defect))
}

/// The most telling first.
fn severity(kind: DiskProblemKind) -> u8 {
    match kind {
        DiskProblemKind::Missing => 0,
        DiskProblemKind::Outside => 1,
        DiskProblemKind::Damaged => 2,
        DiskProblemKind::OtherSize => 3,
    }
}

/// Why a command came to no exit of its own, if so; continues a sentence that names it. With the codes 126 and 127
/// a shell says that it could not run it: POSIX, Shell Command Language, 2.8.2.
pub(super) fn without_end(how: CommandEnd) -> Option<String> {
    Some(match how {
        CommandEnd::Exit(code @ (126 | 127)) => {
            format!("could not be run by the shell (exit code {code}); is the tool installed?")
        }
        CommandEnd::Exit(_) => return None,
        CommandEnd::Signal(signal) => format!("was ended by signal {signal}"),
        CommandEnd::OutOfTime => "did not end in its time".to_owned(),
        CommandEnd::Fault(signal) => format!("was ended by the scenario's fault, with signal {signal}"),
    })
}
