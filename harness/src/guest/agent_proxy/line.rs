//! The agent's protocol: lines of JSON, and a byte that JSON never contains, which ends whatever the other side
//! had read in part. See <https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>.

use std::borrow::Cow;

use contract::text::quote;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// Ends anything that was read in part. An agent answers it with an error of its own.
pub(super) const SENTINEL: u8 = 0xFF;

/// The longest name of a command that is kept, characters.
const NAME: usize = 60;

/// How much of an answer is kept, characters.
const ANSWER: usize = 300;

/// The longest answer whose value is kept, bytes: it takes many times as much once it is parsed.
const MOST_KEPT: usize = 64 << 10;

/// What an agent says of a sentinel, in the words of QEMU since 4.0 and before.
const NO_JSON: [&str; 2] = ["JSON parse error", "Invalid JSON syntax"];

/// Splits what one side sends into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    read: Vec<u8>,
    /// Where the next line begins.
    begin: usize,
    /// Up to where there is no end of it.
    searched: usize,
    /// Whether the rest of a line that is too long is being thrown away.
    is_skipping: bool,
}

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// All of it.
    Whole(Vec<u8>),
    /// It was longer than it may be, and is gone.
    TooLong,
}

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.read.drain(..self.begin);
        self.searched -= self.begin;
        self.begin = 0;
        self.read.extend_from_slice(bytes);
    }

    /// The next line that is not empty. What is beyond `longest` bytes of one is thrown away.
    pub(super) fn next(&mut self, longest: usize) -> Option<Line> {
        loop {
            let end = self.read.iter().skip(self.searched).position(|byte| *byte == b'\n');
            let Some(end) = end.map(|end| self.searched + end) else {
                self.searched = self.read.len();
                if self.is_skipping || self.searched - self.begin > longest {
                    *self = Self { is_skipping: true, ..Self::default() };
                }
                return None;
            };
            let line = self.read.get(self.begin..end).unwrap_or_default();
            let is_long = std::mem::take(&mut self.is_skipping) || line.len() > longest;
            let line = line.trim_ascii();
            (self.begin, self.searched) = (end + 1, end + 1);
            if is_long {
                return Some(Line::TooLong);
            }
            if !line.is_empty() {
                return Some(Line::Whole(line.to_vec()));
            }
        }
    }
}

/// What a line asks of an agent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// Its name, fit to be shown.
    pub(super) name: String,
    /// Whether a sentinel comes before it.
    pub(super) is_delimited: bool,
    /// The number that its answer will repeat, where that is its purpose.
    pub(super) sync: Option<u64>,
}

impl Command {
    pub(super) fn of(line: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Named<'a> {
            #[serde(borrow)]
            execute: Cow<'a, str>,
        }
        #[derive(Deserialize)]
        struct Sync {
            arguments: Id,
        }
        #[derive(Deserialize)]
        struct Id {
            id: u64,
        }
        let json = after_sentinel(line);
        let name = serde_json::from_slice::<Named<'_>>(json).map(|named| quote(NAME, &named.execute));
        let name = name.unwrap_or_else(|_| "(no command)".to_owned());
        let is_sync = matches!(&*name, "guest-sync" | "guest-sync-delimited");
        let sync = is_sync.then(|| serde_json::from_slice::<Sync>(json).ok()).flatten();
        let sync = sync.map(|sync| sync.arguments.id);
        Self { name, is_delimited: line.contains(&SENTINEL), sync }
    }
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// It did what it was told.
    Done {
        /// The value that it returned, fit to be shown.
        value: String,
        /// The same where it is a whole number.
        count: Option<i64>,
    },
    /// It did not, for this reason, fit to be shown.
    Refused(String),
}

impl Answer {
    /// The answer in a line; `None` when it has none.
    pub(super) fn of(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Reply<T> {
            #[serde(rename = "return")]
            value: Option<T>,
            error: Option<Refusal>,
        }
        #[derive(Deserialize)]
        struct Refusal {
            desc: Option<String>,
        }
        let json = after_sentinel(line);
        if json.len() > MOST_KEPT {
            let reply = serde_json::from_slice::<Reply<IgnoredAny>>(json).ok()?;
            let value = format!("{} bytes", json.len());
            return reply.value.map(|_| Self::Done { value, count: None });
        }
        match serde_json::from_slice::<Reply<Value>>(json).ok()? {
            Reply { error: Some(refusal), .. } => {
                let reason = refusal.desc.unwrap_or_else(|| "no reason was given".to_owned());
                Some(Self::Refused(quote(ANSWER, &reason)))
            }
            Reply { value: Some(value), .. } => {
                Some(Self::Done { value: quote(ANSWER, &value.to_string()), count: value.as_i64() })
            }
            Reply { .. } => None,
        }
    }

    /// Whether this is what an agent says of a sentinel.
    pub(super) fn is_about_syntax(&self) -> bool {
        matches!(self, Self::Refused(reason) if NO_JSON.iter().any(|begin| reason.starts_with(begin)))
    }
}

/// What follows the last sentinel of a line.
fn after_sentinel(line: &[u8]) -> &[u8] {
    let at = line.iter().rposition(|byte| *byte == SENTINEL).map_or(0, |at| at + 1);
    line.get(at..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &mut Lines, longest: usize) -> Vec<Line> {
        std::iter::from_fn(|| lines.next(longest)).collect()
    }

    fn whole(text: &str) -> Line {
        Line::Whole(text.into())
    }

    #[test]
    fn lines_come_in_pieces() {
        let mut all = Lines::default();
        let mut found = Vec::new();
        for byte in b"one\r\n\n  \ntwo\nthr" {
            all.push(&[*byte]);
            found.extend(lines(&mut all, 10));
        }
        all.push(b"ee\nfour\n");
        found.extend(lines(&mut all, 10));
        assert_eq!(found, ["one", "two", "three", "four"].map(whole));
    }

    #[test]
    fn a_line_without_end_takes_no_room() {
        let mut all = Lines::default();
        for _ in 0..1000 {
            all.push(&[b'a'; 100]);
            assert_eq!(all.next(250), None);
            assert!(all.read.capacity() <= 1000, "{}", all.read.capacity());
        }
        all.push(b"end\nnext\n");
        assert_eq!(lines(&mut all, 250), [Line::TooLong, whole("next")]);
        // One that comes in a single piece is no longer either.
        all.push(&[&[b'a'; 300][..], b"\nlast\n"].concat());
        assert_eq!(lines(&mut all, 250), [Line::TooLong, whole("last")]);
    }

    #[test]
    fn commands_are_known_by_their_names() {
        let command = |line: &[u8]| Command::of(line);
        let plain = |name: &str| Command { name: name.to_owned(), is_delimited: false, sync: None };
        assert_eq!(command(b"{\"execute\":\"guest-ping\"}"), plain("guest-ping"));
        assert_eq!(
            command(b"{\"arguments\":{\"id\":[{}]},\"execute\":\"guest\\u002dinfo\",\"id\":3}"),
            plain("guest-info")
        );
        assert_eq!(
            command(b"\xFF{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":17}}"),
            Command { name: "guest-sync-delimited".to_owned(), is_delimited: true, sync: Some(17) }
        );
        assert_eq!(command(b"nonsense"), plain("(no command)"));
        assert_eq!(command(b"{\"execute\":\"\\u001b[2J\"}"), plain("\\u{1b}[2J"));
    }

    #[test]
    fn answers_are_told_from_everything_else() {
        let done = |value: &str, count| Some(Answer::Done { value: value.to_owned(), count });
        let refused = |reason: &str| Some(Answer::Refused(reason.to_owned()));
        assert_eq!(Answer::of(b"{\"return\": 3}"), done("3", Some(3)));
        assert_eq!(Answer::of(b"half\xFF{\"return\": {}, \"id\": 1}"), done("{}", None));
        assert_eq!(
            Answer::of(b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\\n\"}}"),
            refused("no\\n")
        );
        assert_eq!(Answer::of(b"{\"error\": {}}"), refused("no reason was given"));
        for noise in [&b"{}"[..], b"[]", b"1", b"{\"event\": \"X\"}", b"\x00\x9b", &[b'['; 100_000]] {
            assert_eq!(Answer::of(noise), None, "{}", String::from_utf8_lossy(noise));
        }
        let long = [b"{\"return\": \"", &[b'x'; 100_000][..], b"\"}"].concat();
        assert_eq!(Answer::of(&long), done("100014 bytes", None));
    }

    #[test]
    fn what_an_agent_says_of_a_sentinel_is_known() {
        // qemu-ga 7.2 and 10.0, and 2.x.
        for words in ["JSON parse error, stray '\\\\uFFFD'", "Invalid JSON syntax"] {
            let line = format!("{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"{words}\"}}}}");
            assert!(Answer::of(line.as_bytes()).unwrap().is_about_syntax(), "{line}");
        }
        assert!(!Answer::Refused("fsfreeze hook has failed with status 1".to_owned()).is_about_syntax());
    }
}
