//! What `qemu-img check` finds in the structure of a disk's file; see qemu-img(1).

use std::ffi::OsStr;
use std::process::Command;

use serde::Deserialize;

use crate::error::ToolError;
use crate::tool::{self, Access};

/// How a check of a file ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// It has no errors, or its format knows no check.
    Clean,
    /// It has so many.
    Damaged(u64),
    /// It could not be made, as qemu-img says: that is no damage.
    Failed(String),
}

/// Checks the file that these arguments name.
pub(crate) fn check(named: &[&OsStr], access: Access<'_>) -> Result<Check, ToolError> {
    let mut check = Command::new("qemu-img");
    let printed = tool::run(check.args(["check", "--output=json"]).args(named), access)?;
    Ok(read(printed.status.code(), &printed.stdout).unwrap_or_else(|| Check::Failed(tool::said(&printed))))
}

fn read(code: Option<i32>, json: &[u8]) -> Option<Check> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Report {
        check_errors: u64,
        #[serde(default)]
        corruptions: u64,
    }
    // 63: the format knows no check. Leaked clusters waste room and harm nothing.
    if code == Some(63) {
        return Some(Check::Clean);
    }
    match serde_json::from_slice::<Report>(json) {
        Ok(Report { corruptions: errors @ 1.., .. }) => (code == Some(2)).then_some(Check::Damaged(errors)),
        Ok(Report { check_errors: 0, .. }) => Some(Check::Clean),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_read() {
        let says = |code, json: &str| read(Some(code), json.as_bytes());
        let clean = r#"{"check-errors": 0, "filename": "a", "format": "qcow2"}"#;
        assert_eq!(says(0, clean), Some(Check::Clean));
        assert_eq!(says(3, r#"{"check-errors": 0, "leaks": 4}"#), Some(Check::Clean));
        assert_eq!(says(2, r#"{"check-errors": 0, "corruptions": 7}"#), Some(Check::Damaged(7)));
        assert_eq!(says(1, r#"{"check-errors": 2}"#), None);
        assert_eq!(says(1, ""), None);
        assert_eq!(says(63, ""), Some(Check::Clean));
    }
}
