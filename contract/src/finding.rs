//! The result of checking each property: its status, and a finding if it is broken.

use serde::{Deserialize, Serialize};

use crate::property::Property;
use crate::text::printable;

/// The result of checking one property. Serialized as `holds`, `broken` or
/// `not-applicable: <why>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Status {
    /// It was examined and holds.
    Holds,
    /// It was examined and is broken; a finding says how.
    Broken,
    /// It could not be examined, and why.
    NotApplicable(String),
}

const NOT_APPLICABLE: &str = "not-applicable: ";

/// A text that is not the status of a property.
#[derive(Debug, thiserror::Error)]
#[error("`{}` is not a property's status: `holds`, `broken` or `{NOT_APPLICABLE}<why>`", printable(.0))]
pub struct UnknownStatus(String);

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Holds => f.pad("holds"),
            Self::Broken => f.pad("broken"),
            Self::NotApplicable(why) => write!(f, "{NOT_APPLICABLE}{why}"),
        }
    }
}

impl From<Status> for String {
    fn from(status: Status) -> Self {
        status.to_string()
    }
}

impl TryFrom<String> for Status {
    type Error = UnknownStatus;

    fn try_from(text: String) -> Result<Self, UnknownStatus> {
        match (text.as_str(), text.strip_prefix(NOT_APPLICABLE)) {
            ("holds", _) => Ok(Self::Holds),
            ("broken", _) => Ok(Self::Broken),
            (_, Some(why)) => Ok(Self::NotApplicable(why.to_owned())),
            _ => Err(UnknownStatus(text)),
        }
    }
}

/// One broken property.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name, which explains itself.
    pub property: Property,
    /// The letter of the judge's design: `N2`.
    pub id: String,
    /// One sentence that a person understands.
    pub summary: String,
    /// The operations or facts concerned, at most a screenful.
    pub evidence: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_as_one_string() {
        let statuses = [
            (Status::Holds, "\"holds\""),
            (Status::Broken, "\"broken\""),
            (Status::NotApplicable("no probe".into()), "\"not-applicable: no probe\""),
        ];
        for (status, json) in statuses {
            assert_eq!(serde_json::to_string(&status).unwrap(), json);
            assert_eq!(serde_json::from_str::<Status>(json).unwrap(), status);
        }
        assert!(serde_json::from_str::<Status>("\"fine\"").is_err());
    }
}
