//! The serial console: what to show of it when a guest does not come up.

use std::path::Path;

/// How much of the console's end is looked at, bytes.
const TAIL: u64 = 16 * 1024;

/// The last lines of a console log, control characters escaped.
pub(crate) fn last_lines(log: &Path, lines: usize) -> String {
    let tail = match tail(log) {
        Ok(bytes) if !bytes.is_empty() => bytes,
        Ok(_) => return "    (the console is empty)".to_owned(),
        Err(e) => return format!("    (the console log cannot be read: {e})"),
    };
    let text = String::from_utf8_lossy(&tail);
    let all: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let shown: Vec<_> = all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| format!("    | {}", printable(line)))
        .collect();
    shown.join("\n")
}

/// Guest text made safe for a terminal and bounded in length.
pub(crate) fn printable(line: &str) -> String {
    line.chars()
        .take(200)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

fn tail(log: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(bytes)
}
