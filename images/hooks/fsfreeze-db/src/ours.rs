//! Files that nobody else may tamper with.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Refuses a file that belongs to somebody else, or whose mode has one of these bits: others `can` do
/// something to it.
///
/// # Errors
///
/// A sentence that says so.
pub(crate) fn only(file: &Path, bits: u32, can: &str) -> Result<(), String> {
    let metadata =
        fs::metadata(file).map_err(|error| format!("cannot look at {}: {error}", file.display()))?;
    let owner = metadata.uid();
    let ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if ours && metadata.mode() & bits == 0 {
        return Ok(());
    }
    Err(format!("others than its owner, who must be root, may {can} {}", file.display()))
}
