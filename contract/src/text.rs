//! Foreign text, fit to be shown: on a terminal, in a log, on a page.
//!
//! What is escaped reads `\n` or `\u{202e}`. A backslash stays as it is, so
//! that escaping twice is escaping once.

#[cfg(test)]
#[path = "../tests/hidden/mod.rs"]
pub mod hidden;

/// The most characters of a guest's line.
const LINE: usize = 200;

/// Whether a character is invisible, or is not shown in its place.
///
/// These are the controls (Cc) and format characters (Cf) of Unicode, its line
/// and paragraph separators, what else has the property
/// `Default_Ignorable_Code_Point`, and private use with all from plane 14 on.
pub fn is_hidden(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{34f}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{e000}'..='\u{f8ff}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..
    )
}

/// On one line: at most `max` characters of the text, those that hide escaped. A longer one loses its
/// middle: what it is about stands at its beginning, and a cause at its end.
pub fn quote(max: usize, text: &str) -> String {
    escape(max, text, is_hidden)
}

/// The same on as many lines as the text has.
pub fn quote_lines(max: usize, text: &str) -> String {
    escape(max, text, |c| c != '\n' && is_hidden(c))
}

/// On one line of common length.
pub fn printable(text: &str) -> String {
    quote(LINE, text)
}

fn escape(max: usize, text: &str, hidden: impl Fn(char) -> bool) -> String {
    let mut shown = String::new();
    let mut show = |part: &str| {
        for c in part.chars() {
            if hidden(c) {
                shown.extend(c.escape_default());
            } else {
                shown.push(c);
            }
        }
    };
    match without_middle(max, text) {
        None => show(text),
        Some((begin, end)) => {
            show(begin);
            show("…");
            show(end);
        }
    }
    shown
}

/// The beginning and the end of a text that has more than `max` characters, which is what they have.
fn without_middle(max: usize, text: &str) -> Option<(&str, &str)> {
    text.char_indices().nth(max)?;
    let begin = max / 3;
    let cut = text.char_indices().nth(begin).map_or(text.len(), |(at, _)| at);
    let rest = text.char_indices().rev().take(max - begin).last().map_or(text.len(), |(at, _)| at);
    Some((&text[..cut], &text[rest..]))
}

/// A chain of causes, each after a colon, in which one that is named twice in a row stands once: programs
/// and libraries often repeat the cause that they pass on.
pub fn causes_once(text: &str) -> String {
    let mut causes: Vec<_> = text.split(": ").collect();
    causes.dedup();
    causes.join(": ")
}

/// Serde's message about JSON, without the position and escaped, because it repeats its input.
pub fn json_problem(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    quote(300, message.strip_suffix(&place).unwrap_or(&message))
}

#[cfg(test)]
mod tests {
    use super::hidden::{HIDDEN, LEGAL};
    use super::*;

    #[test]
    fn foreign_text_is_one_bounded_line() {
        assert_eq!(quote(99, "it isn't\nclosed\u{1b}[2J\u{202e}"), "it isn't\\nclosed\\u{1b}[2J\\u{202e}");
        let long = quote(160, &"x".repeat(100_000));
        assert_eq!(long.chars().count(), 161);
        assert_eq!(quote_lines(9, "two\nlines\u{9b}"), "two…lines\\u{9b}");
    }

    #[test]
    fn a_long_text_keeps_its_end() {
        let cause = "No such device or address";
        for max in [60, LINE, 300] {
            let shown = quote(max, &format!("cannot open {}: {cause}", "é/".repeat(100_000)));
            assert!(shown.starts_with("cannot open é") && shown.ends_with(cause), "{shown}");
            assert_eq!(shown.chars().count(), max + 1);
        }
        let cut = |max| quote(max, "abcdefghi");
        assert_eq!([cut(9), cut(8), cut(1), cut(0)], ["abcdefghi", "ab…defghi", "…i", "…"]);
    }

    #[test]
    fn a_cause_that_is_repeated_stands_once() {
        let once = causes_once("Input/output error: Input/output error: connection closed");
        assert_eq!(once, "Input/output error: connection closed");
        for other in ["a: b: a", "", "a:b", "a: ab: b"] {
            assert_eq!(causes_once(other), other);
        }
    }

    #[test]
    fn nothing_hides_and_nothing_else_is_changed() {
        for c in HIDDEN.into_iter().flatten() {
            let text = format!("a{c}b");
            let escaped = format!("a{}b", c.escape_default());
            assert_eq!([printable(&text), printable(&escaped)], [escaped.clone(), escaped.clone()]);
            assert_eq!(quote_lines(99, &text), if c == '\n' { text } else { escaped });
        }
        assert_eq!([printable(LEGAL), quote_lines(99, LEGAL)], [LEGAL, LEGAL]);
    }

    #[test]
    fn serde_quotes_nothing_that_does_not_print() {
        let json =
            format!("{{\"schema\":\"\u{1b}[2J{}\"}}", "y".repeat(100_000)).replace('\u{1b}', "\\u001b");
        let error = serde_json::from_str::<std::collections::BTreeMap<String, u32>>(&json).unwrap_err();
        let problem = json_problem(&error);
        assert!(problem.starts_with("invalid type: string \"\\u{1b}[2Jyyy"), "{problem}");
        assert!(problem.chars().count() < 310);
    }
}
