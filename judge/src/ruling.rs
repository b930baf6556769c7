//! What the judge rules about one property.

use contract::grade::Grade;
use contract::property::Property;

use super::evidence::EvidenceLines;

/// How a property is broken.
#[derive(Debug)]
pub(super) struct Defect {
    pub(super) summary: String,
    pub(super) evidence: EvidenceLines,
    /// The best grade that a backup with this defect can have.
    pub(super) ceiling: Grade,
}

impl Defect {
    pub(super) fn new(
        property: Property,
        summary: impl Into<String>,
        evidence: impl Into<EvidenceLines>,
    ) -> Self {
        Self { summary: summary.into(), evidence: evidence.into(), ceiling: property.ceiling() }
    }
}

/// Why a property could not be examined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unexamined(pub(super) String);

/// Holds (`None`), is broken, or could not be examined.
pub(super) type Ruling = Result<Option<Defect>, Unexamined>;
