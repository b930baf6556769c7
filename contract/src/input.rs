//! TOML files that people write: read by serde, and refused in sentences with file, line and key.
//!
//! A sentence says what the value must be, in the terms of the file and not of Rust's types. The wording of
//! serde that [`explain`] translates is held by a test of every key of scenarios and definitions.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Unexpected, Visitor};
use toml::de::{DeTable, DeValue};

use crate::text::quote;

/// The most characters of a value that a message repeats.
const MAX_VALUE: usize = 60;

/// Why a file written by a person cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It cannot be read.
    #[error("cannot read {}: {source}.", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// It does not say what it must.
    #[error("{}:{line}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong and what to write instead, in sentences.
        message: String,
    },
}

/// What is wrong in a file, and where.
#[derive(Debug, PartialEq)]
pub(crate) struct Mistake {
    /// Byte offset in the file.
    at: usize,
    message: String,
}

impl Mistake {
    /// A mistake in the value at this place of the file.
    pub(crate) fn new(span: &Range<usize>, message: impl Into<String>) -> Self {
        Self { at: span.start, message: message.into() }
    }

    /// A mistake of the whole file.
    pub(crate) fn in_file(message: impl Into<String>) -> Self {
        Self::new(&(0..0), message)
    }
}

/// A file and its text, so that errors can name lines.
pub(crate) struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    pub(crate) fn read(path: &Path) -> Result<Self, InputError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self { path: path.to_owned(), text }),
            Err(source) => Err(InputError::Read { path: path.to_owned(), source }),
        }
    }

    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, InputError> {
        parse(&self.text).map_err(|mistake| self.invalid(mistake))
    }

    pub(crate) fn invalid(&self, mistake: Mistake) -> InputError {
        let line = 1 + self.text.bytes().take(mistake.at).filter(|byte| *byte == b'\n').count();
        InputError::Invalid { path: self.path.clone(), line, message: mistake.message }
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Mistake> {
    let error = match toml::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let span = error.span().unwrap_or_default();
    // For these two, toml does not say what it expected; for a string in their place it does.
    let error = match error.message() {
        "wanted string or table" | "integer number overflowed" => {
            let with_text = [&text[..span.start], "\"\"", &text[span.end..]].concat();
            toml::from_str::<T>(&with_text).err().unwrap_or(error)
        }
        _ => error,
    };
    let message = explain(error.message(), text, &span).unwrap_or_else(|| format!("{}.", error.message()));
    Err(Mistake::new(&span, message))
}

/// What serde says of a key or a value, in the file's terms. `None` for mistakes of TOML's syntax.
fn explain(message: &str, text: &str, span: &Range<usize>) -> Option<String> {
    if let Some(unknown) = message.strip_prefix("unknown field ") {
        let (key, keys) = unknown.split_once(", expected ")?;
        return Some(format!(
            "there is no key {key} here. The keys are {}.",
            keys.trim_start_matches("one of ")
        ));
    }
    if let Some(key) = message.strip_prefix("missing field ") {
        return Some(format!("the key {key} is missing."));
    }
    let about_value = ["invalid type: ", "invalid value: ", "unknown variant "];
    if !about_value.iter().any(|begin| message.starts_with(begin)) {
        return None;
    }
    let (_, expected) = message.rsplit_once(", expected ")?;
    let expected = match expected {
        "a string" | "path string" => "text in quotes",
        "a boolean" => "`true` or `false`",
        "a sequence" => "a list",
        "a map" => "a table",
        structure if structure.starts_with("struct ") => "a table",
        other => other,
    };
    let document = DeTable::parse(text).ok()?;
    let key = key_of(document.get_ref(), span.start)?;
    let value = quote(MAX_VALUE, text.get(span.clone())?.trim());
    Some(format!("`{key}` must be {expected}, not {value}."))
}

/// The innermost key of the value at this byte.
fn key_of<'a>(table: &'a DeTable<'_>, at: usize) -> Option<&'a str> {
    table.iter().find_map(|(key, value)| {
        let inside = match value.get_ref() {
            DeValue::Table(table) => key_of(table, at),
            DeValue::Array(items) => {
                items.iter().find_map(|item| item.get_ref().as_table().and_then(|table| key_of(table, at)))
            }
            _ => None,
        };
        inside.or_else(|| value.span().contains(&at).then(|| key.get_ref().as_ref()))
    })
}

/// A whole number of a file, from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whole<const MIN: u32, const MAX: u32>(pub(crate) u32);

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expected<const MIN: u32, const MAX: u32>;

        impl<const MIN: u32, const MAX: u32> Visitor<'_> for Expected<MIN, MAX> {
            type Value = u32;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<u32, E> {
                let fits = u32::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number));
                fits.ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }
        }

        deserializer.deserialize_i64(Expected::<MIN, MAX>).map(Self)
    }
}

/// A number of a file, from `MIN` to `MAX`, which are tenths: const generics cannot be fractions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decimal<const MIN: u32, const MAX: u32>(pub(crate) f64);

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Decimal<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expected<const MIN: u32, const MAX: u32>;

        impl<const MIN: u32, const MAX: u32> Visitor<'_> for Expected<MIN, MAX> {
            type Value = f64;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "a number from {} to {}", f64::from(MIN) / 10.0, f64::from(MAX) / 10.0)
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<f64, E> {
                self.visit_f64(number as f64)
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<f64, E> {
                let fits = (f64::from(MIN) / 10.0..=f64::from(MAX) / 10.0).contains(&number);
                if fits { Ok(number) } else { Err(E::invalid_value(Unexpected::Float(number), &self)) }
            }
        }

        deserializer.deserialize_f64(Expected::<MIN, MAX>).map(Self)
    }
}
