//! Foreign text, fit to be shown.

/// Text from a guest or a log on one line: what does not print is escaped, and
/// at most `max` characters are kept.
pub(crate) fn quote(max: usize, text: &str) -> String {
    let mut rest = text.trim().chars();
    let mut quoted = String::new();
    for c in rest.by_ref().take(max) {
        match c {
            '"' | '\'' => quoted.push(c),
            _ => quoted.extend(c.escape_debug()),
        }
    }
    if rest.next().is_some() {
        quoted.push('…');
    }
    quoted
}

/// What serde has to say about JSON, without the place: it quotes what it read.
pub(crate) fn json_problem(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    quote(300, message.strip_suffix(&place).unwrap_or(&message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_one_bounded_line() {
        assert_eq!(quote(99, " it isn't\nclosed\u{1b}[2J\u{202e} "), "it isn't\\nclosed\\u{1b}[2J\\u{202e}");
        let long = quote(160, &"x".repeat(100_000));
        assert_eq!(long.chars().count(), 161);
    }

    #[test]
    fn serde_quotes_nothing_that_does_not_print() {
        let json =
            format!("{{\"schema\":\"\u{1b}[2J{}\"}}", "y".repeat(100_000)).replace('\u{1b}', "\\u001b");
        let error = serde_json::from_str::<std::collections::BTreeMap<String, u32>>(&json).unwrap_err();
        let problem = json_problem(&error);
        assert!(problem.starts_with("invalid type: string \"\\\\u{1b}[2Jyyy"), "{problem}");
        assert!(problem.chars().count() < 310);
    }
}
