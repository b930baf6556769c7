//! Characters that must never be shown as they are, and some that must be.

#![allow(unreachable_pub, reason = "several test programs share this file")]

use std::ops::RangeInclusive;

/// Cc, Cf, Zl and Zp as `DerivedGeneralCategory.txt` of Unicode 16 has them, and the tags with all that may
/// become one.
pub const HIDDEN: [RangeInclusive<char>; 22] = [
    '\u{0}'..='\u{1f}',
    '\u{7f}'..='\u{9f}',
    '\u{ad}'..='\u{ad}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{2064}',
    '\u{2066}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
    '\u{fff9}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// Text with every character that must never be shown as it is.
pub fn hostile() -> String {
    HIDDEN.into_iter().flatten().collect()
}

/// Text of many scripts, some of it with marks that combine, which is shown as it is.
pub const LEGAL: &str =
    r"A\b, naïve, café, Ω, Привет, עברית, العربية, हिन्दी, ไทย, 한국어, 日本語, 𐍈, 🦀, 5 € – ¾ …";

/// Whether a text has a character in it that must not be shown; its line feeds are its own.
pub fn hides(text: &str) -> bool {
    text.chars().any(|c| c != '\n' && HIDDEN.iter().any(|range| range.contains(&c)))
}
