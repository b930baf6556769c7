//! Reads a line that is exactly as the writer writes it.
//!
//! serde reads an internally tagged enum by way of a tree, because it must
//! expect the tag anywhere and fields in any order. A log has millions of a
//! few kinds of records, whose order is known; these are read here. Every
//! step returns `None` for anything else, and then serde decides
//! what the line means and reports the error.

/// What is left of a line.
#[derive(Debug, Clone)]
pub struct Scan<'a>(&'a [u8]);

impl<'a> Scan<'a> {
    /// Starts at the beginning of the line.
    pub fn new(line: &'a [u8]) -> Self {
        Self(line)
    }

    /// This text comes next.
    #[inline]
    pub fn text(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text.as_bytes())?;
        Some(())
    }

    /// This text and then a number without a sign.
    #[inline]
    pub fn unsigned<T: TryFrom<u64>>(&mut self, text: &str) -> Option<T> {
        self.text(text)?;
        T::try_from(self.digits()?).ok()
    }

    /// This text and then a number.
    #[inline]
    pub fn signed(&mut self, text: &str) -> Option<i64> {
        self.text(text)?;
        let negative = self.text("-").is_some();
        let number = i64::try_from(self.digits()?).ok()?;
        match (negative, number) {
            // Not how an integer is written.
            (true, 0) => None,
            (true, _) => Some(-number),
            (false, _) => Some(number),
        }
    }

    /// This text, a name of plain ASCII, and the quotation mark after it.
    #[inline]
    pub fn name(&mut self, text: &str) -> Option<&'a str> {
        self.text(text)?;
        let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        let end = self.0.iter().position(|byte| !plain(byte))?;
        let (name, rest) = self.0.split_at(end);
        self.0 = rest.strip_prefix(b"\"")?;
        std::str::from_utf8(name).ok()
    }

    /// This text is all that is left.
    #[inline]
    pub fn end(&self, text: &str) -> Option<()> {
        (self.0 == text.as_bytes()).then_some(())
    }

    #[inline]
    fn digits(&mut self) -> Option<u64> {
        // This many digits always fit.
        const MOST: usize = 19;
        let mut number = 0u64;
        let mut count = 0;
        while let Some(digit) = self.0.get(count).map(|byte| byte.wrapping_sub(b'0')).filter(|d| *d < 10) {
            if count == MOST {
                return None;
            }
            number = number * 10 + u64::from(digit);
            count += 1;
        }
        let zero_leads = count > 1 && self.0.first() == Some(&b'0');
        self.0 = self.0.get(count..)?;
        (count > 0 && !zero_leads).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::Scan;

    #[test]
    fn numbers_are_those_of_json() {
        for (text, number) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("9999999999999999999", Some(9_999_999_999_999_999_999)),
            ("10000000000000000000", None),
            ("01", None),
            ("-1", None),
            ("+1", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(Scan::new(text.as_bytes()).unsigned::<u64>(""), number, "{text}");
        }
        assert_eq!(Scan::new(b"256").unsigned::<u8>(""), None);
        assert_eq!(Scan::new(b"-9223372036854775807").signed(""), Some(-i64::MAX));
        assert_eq!(Scan::new(b"-0").signed(""), None);
        assert_eq!(Scan::new(b"9223372036854775808").signed(""), None);
    }

    #[test]
    fn names_are_plain() {
        assert_eq!(Scan::new(b"nt\",").name(""), Some("nt"));
        for text in ["nt", "n\\u0074\"", "n\nt\"", "\u{e9}\""] {
            assert_eq!(Scan::new(text.as_bytes()).name(""), None, "{text}");
        }
    }
}
