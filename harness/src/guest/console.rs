//! The serial console: which lines to show when a guest does not come up.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use contract::text::printable;

/// How much of the console's end is read, bytes.
const TAIL: u64 = 16 * 1024;

/// How much of the console's beginning is read, bytes: more than a kernel prints before it has
/// found its disks.
const HEAD: u64 = 64 * 1024;

/// How many lines of it an error shows.
const SHOWN: usize = 12;

/// The relevant lines of a console log, control characters escaped: those from a kernel panic on,
/// whose trace would otherwise fill the end, or else the last ones.
pub(crate) fn relevant_lines(log: &Path) -> String {
    relevant(log, SHOWN)
}

fn relevant(log: &Path, lines: usize) -> String {
    let tail = match tail(log) {
        Ok(bytes) if !bytes.is_empty() => bytes,
        Ok(_) => return "    (the console is empty)".to_owned(),
        Err(e) if e.kind() == ErrorKind::NotFound => return "    (the guest never ran)".to_owned(),
        Err(e) => return format!("    (the console log cannot be read: {e})"),
    };
    let text = String::from_utf8_lossy(&tail);
    let all: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let last = all.len().saturating_sub(lines);
    let first = all.iter().position(|line| line.contains("Kernel panic")).unwrap_or(last);
    let shown: Vec<_> =
        all.iter().skip(first).take(lines).map(|line| format!("    | {}", printable(line))).collect();
    shown.join("\n")
}

/// Whether the console's beginning contains this text; `None` when it cannot be read.
pub(super) fn contains(log: &Path, text: &str) -> Option<bool> {
    let mut head = Vec::new();
    File::open(log).and_then(|file| file.take(HEAD).read_to_end(&mut head)).ok()?;
    Some(String::from_utf8_lossy(&head).contains(text))
}

fn tail(log: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let log = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(log.path(), "rcu: rcu_preempt kthread starved for 5253 jiffies!\n").unwrap();
        assert_eq!(contains(log.path(), "kthread starved for"), Some(true));
        assert_eq!(contains(log.path(), "[vda]"), Some(false));
        assert_eq!(contains(Path::new("/nowhere"), "[vda]"), None);
        assert!(relevant_lines(Path::new("/nowhere")).contains("never ran"));
        assert!(relevant_lines(Path::new("/proc/self")).contains("cannot be read"));
    }

    #[test]
    fn a_panic_is_shown_rather_than_its_trace() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let trace = "RIP: 0033\n".repeat(40);
        std::fs::write(log.path(), format!("booting\nKernel panic - not syncing: \x1b[1mno init\n{trace}"))
            .unwrap();
        let shown = relevant(log.path(), 3);
        assert_eq!(shown.lines().count(), 3);
        assert!(shown.starts_with("    | Kernel panic - not syncing: \\u{1b}[1mno init\n"), "{shown}");

        std::fs::write(log.path(), "one\ntwo\nthree\nfour\n").unwrap();
        assert_eq!(relevant(log.path(), 2), "    | three\n    | four");
    }
}
