//! JSON that can be shown: invisible characters of a string are written as `\uXXXX`, and
//! whoever reads it gets the same string again.

use std::fmt::Write as _;

use serde::Serialize;

use crate::text::is_hidden;

/// A value on many lines, for a file or a terminal.
pub fn pretty(value: &(impl Serialize + ?Sized)) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(shown)
}

/// A value on one line, without a line feed.
pub fn line(value: &(impl Serialize + ?Sized)) -> serde_json::Result<String> {
    serde_json::to_string(value).map(shown)
}

/// JSON without invisible characters. Outside strings serde's JSON is ASCII, with the line feed as the
/// only control character, and inside them line feeds are escaped.
pub fn shown(json: String) -> String {
    let hidden = |c: char| c != '\n' && is_hidden(c);
    if !json.contains(hidden) {
        return json;
    }
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::text::hidden::{LEGAL, hides, hostile};

    #[test]
    fn what_hides_is_escaped_and_read_back() {
        let value = BTreeMap::from([(hostile(), vec![hostile(), LEGAL.to_owned()])]);
        for json in [pretty(&value).unwrap(), line(&value).unwrap()] {
            assert!(!hides(&json), "{json}");
            assert_eq!(serde_json::from_str::<BTreeMap<String, Vec<String>>>(&json).unwrap(), value);
        }
        assert_eq!(line("\u{9b}\u{e0001}\n").unwrap(), r#""\u009b\udb40\udc01\n""#);
    }

    #[test]
    fn other_text_is_as_serde_writes_it() {
        assert_eq!(line(LEGAL).unwrap(), serde_json::to_string(LEGAL).unwrap());
        assert_eq!(pretty(&[LEGAL]).unwrap(), serde_json::to_string_pretty(&[LEGAL]).unwrap());
    }
}
