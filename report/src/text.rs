//! Text for people: times, sizes, commands and links.

use std::path::{Component, Path};

use contract::history::Quiescence;
use contract::property::Property;

/// `83.1 ms`, `2.61 s`, `1 min 20 s`.
pub(super) fn duration(ms: f64) -> String {
    match ms {
        ms if !(0.0..1e12).contains(&ms) => "\u{2013}".to_owned(),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms if ms < 9_995.0 => format!("{:.2} s", ms / 1e3),
        ms if ms < 119_950.0 => format!("{:.1} s", ms / 1e3),
        ms => format!("{:.0} min {:.0} s", (ms / 6e4).floor(), (ms % 6e4 / 1e3).floor()),
    }
}

/// `61 kB`.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// `1 trial`, `3 trials`.
pub(super) fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// What a property claims, and what that means where the trial's server has backup mode.
pub(super) fn meaning(property: Property, quiescence: Quiescence) -> String {
    match quiescence {
        Quiescence::Lock => property.claim().to_owned(),
        Quiescence::BackupMode => format!("{} On PostgreSQL: {}", property.claim(), property.on_postgresql()),
    }
}

/// A pixel coordinate, as short as it can be.
pub(super) fn px(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// A word of a command line, quoted for a shell where it must be.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A relative link from a directory to a file. Both are absolute and without `..`.
pub(super) fn link(from: &Path, to: &Path) -> String {
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    // The dot keeps a first name with a colon from being taken for a scheme.
    let mut link = ".".to_owned();
    for _ in from.components().skip(shared) {
        link.push_str("/..");
    }
    for component in to.components().skip(shared) {
        if let Component::Normal(name) = component {
            link.push('/');
            for byte in name.as_encoded_bytes() {
                if byte.is_ascii_alphanumeric() || b"._-~".contains(byte) {
                    link.push(char::from(*byte));
                } else {
                    link.push_str(&format!("%{byte:02X}"));
                }
            }
        }
    }
    link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well_at_every_size() {
        let of = [0.04, 83.14, 999.7, 2605.6, 29_057.6, 125_000.0];
        let shown = ["0.0 ms", "83 ms", "1.00 s", "2.61 s", "29.1 s", "2 min 5 s"];
        assert_eq!(of.map(duration), shown);
        assert_eq!([f64::MAX, f64::NAN, -1.0].map(duration), ["–", "–", "–"]);
    }

    #[test]
    fn a_shell_reads_one_word() {
        assert_eq!(quoted("core/a::b::c"), "core/a::b::c");
        assert_eq!(quoted("it's $(x)"), r"'it'\''s $(x)'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn links_are_relative_and_encoded() {
        let from = Path::new("/runs/one");
        assert_eq!(link(from, Path::new("/runs/one/t/verdict.json")), "./t/verdict.json");
        assert_eq!(link(from, Path::new("/runs/two/t/a b")), "./../two/t/a%20b");
        assert_eq!(link(from, Path::new("/runs/one/javascript:x\"<")), "./javascript%3Ax%22%3C");
    }
}
