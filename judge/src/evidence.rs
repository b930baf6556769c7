//! The text of findings: bounded, escaped, with times that mean something to the reader.

use std::fmt::Write as _;

use contract::history::Nanos;
use contract::text;

use super::case::{NEVER, SentRow, SentTransfer};

/// The most lines of evidence under a finding, before "and N more".
const MAX_SHOWN: usize = 12;
/// The most lines that are formatted at all.
const MAX_LINES: usize = 10_000;
/// The most characters of foreign text in one place.
const MAX_QUOTE: usize = 160;

/// Text from a guest or a log on one line: what does not print is escaped, and
/// the length is bounded.
pub(super) fn quote(text: &str) -> String {
    text::quote(MAX_QUOTE, text.trim())
}

/// `1 transfer`, `3 transfers`, `2 indexes`, `2 directories`, `2 ways`.
pub(super) fn count(n: u64, what: &str) -> String {
    match (n, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{n} {stem}ies"),
        (_, None) if what.ends_with('x') => format!("{n} {what}es"),
        _ => format!("{n} {what}s"),
    }
}

/// `is` or `are`.
pub(super) fn are(n: u64) -> &'static str {
    if n == 1 { "is" } else { "are" }
}

/// `was` or `were`.
pub(super) fn were(n: u64) -> &'static str {
    if n == 1 { "was" } else { "were" }
}

/// From one time to a later one, in milliseconds.
pub(super) fn millis(from: Nanos, to: Nanos) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

/// The lines under a finding: the first ones as text, the rest counted.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    lines: Vec<String>,
    total: u64,
}

/// Evidence that is complete.
#[derive(Debug)]
pub(super) struct EvidenceLines(Evidence);

impl From<Vec<String>> for EvidenceLines {
    fn from(lines: Vec<String>) -> Self {
        Self(Evidence { total: lines.len() as u64, lines })
    }
}

impl EvidenceLines {
    /// A screenful of lines, and all of them where they are more than that.
    pub(super) fn shown(self) -> (Vec<String>, Option<Vec<String>>) {
        let Evidence { mut lines, total } = self.0;
        if lines.len() <= MAX_SHOWN {
            return (lines, None);
        }
        let more = |lines: &[String]| {
            let hidden = total.saturating_sub(lines.len() as u64);
            (hidden > 0).then(|| format!("and {hidden} more"))
        };
        let mut shown = lines[..MAX_SHOWN].to_vec();
        shown.extend(more(&shown));
        lines.extend(more(&lines));
        (shown, Some(lines))
    }
}

impl Evidence {
    /// Adds a line; it is formatted only if it will be kept.
    pub(super) fn add(&mut self, line: impl FnOnce() -> String) {
        if self.lines.len() < MAX_LINES {
            self.lines.push(line());
        }
        self.total += 1;
    }

    /// How many lines were added.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Adds the lines of another.
    pub(super) fn append(&mut self, other: Self) {
        let room = MAX_LINES.saturating_sub(self.lines.len());
        self.lines.extend(other.lines.into_iter().take(room));
        self.total += other.total;
    }

    /// The finished lines.
    pub(super) fn into_lines(self) -> EvidenceLines {
        EvidenceLines(self)
    }
}

/// The moment to which evidence relates all times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Anchor {
    pub(super) at: Nanos,
    pub(super) name: &'static str,
}

impl Anchor {
    /// `12.3 ms before the freeze call`.
    pub(super) fn when(&self, t: Nanos) -> String {
        let distance = t.abs_diff(self.at) as f64 / 1e6;
        let side = if t < self.at { "before" } else { "after" };
        format!("{distance:.1} ms {side} {}", self.name)
    }

    /// `client 3 transfer 117 (acked 12.3 ms before the freeze call)`.
    pub(super) fn transfer(&self, c: u32, n: u32, transfer: &SentTransfer) -> String {
        let mut line = format!("client {c} transfer {n} (");
        // Writing to a string cannot fail.
        let _ = if transfer.is_acked() {
            write!(line, "acked {})", self.when(transfer.acked))
        } else {
            write!(line, "sent {}, never answered)", self.when(transfer.sent))
        };
        line
    }

    /// The same for an operation whose beginning matters as well.
    pub(super) fn span(&self, c: u32, n: u32, transfer: &SentTransfer) -> String {
        let sent = self.when(transfer.sent);
        if transfer.is_acked() {
            let took = millis(transfer.sent, transfer.acked);
            format!("client {c} transfer {n} (sent {sent}, acked {took:.1} ms later)")
        } else {
            format!("client {c} transfer {n} (sent {sent}, never answered)")
        }
    }

    /// `client 7 row 117 of `nt` (sent 1.2 ms after the freeze call, acked 0.8 ms later)`.
    pub(super) fn row(&self, sent: &SentRow<'_>, table: &str) -> String {
        let SentRow { c, n, row, .. } = sent;
        let when = self.when(row.sent);
        let answer = if row.acked == NEVER {
            "never acknowledged".to_owned()
        } else {
            format!("acked {:.1} ms later", millis(row.sent, row.acked))
        };
        format!("client {c} row {n} of `{}` (sent {when}, {answer})", quote(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_bounded_and_formatted_only_when_kept() {
        let evidence = |lines: usize| {
            let mut worded = 0;
            let mut evidence = Evidence::default();
            for n in 0..lines {
                evidence.add(|| {
                    worded += 1;
                    format!("line {n}")
                });
            }
            (worded, evidence.into_lines().shown())
        };
        assert_eq!(evidence(MAX_SHOWN).1.1, None);
        let (_, (shown, all)) = evidence(100);
        assert_eq!((shown.len(), all.map(|all| all.len())), (MAX_SHOWN + 1, Some(100)));
        assert_eq!(shown.last().map(String::as_str), Some("and 88 more"));
        let (worded, (_, all)) = evidence(MAX_LINES + 7);
        assert_eq!(worded, MAX_LINES);
        assert_eq!(all.unwrap().last().map(String::as_str), Some("and 7 more"));
    }

    #[test]
    fn counts_are_plain_english() {
        assert_eq!(
            [count(1, "index"), count(2, "index"), count(0, "row"), count(2, "directory"), count(2, "way")],
            ["1 index", "2 indexes", "0 rows", "2 directories", "2 ways"]
        );
    }
}
