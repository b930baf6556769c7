//! Whether trials have verified a built image: `verified.json` in its directory, so
//! that it is about that build only.

use std::path::Path;

use contract::files;
use jiff::Zoned;
use serde::{Deserialize, Serialize};
use tooling::error::Failure;

use super::store::Store;

const FILE: &str = "verified.json";

/// A run in which every trial on an image met its expectation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The digest of the build.
    digest: String,
    /// The day, where the trials ran.
    pub date: String,
    /// `kvm` or `tcg`.
    accel: String,
    /// How many trials the run had on this image.
    trials: usize,
}

impl Verified {
    /// The newest such run of the build in `image`, if it has this digest.
    pub(super) fn read(image: &Path, digest: &str) -> Option<Self> {
        let verified: Self = files::read_json(&image.join(FILE)).ok()?;
        (verified.digest == digest).then_some(verified)
    }
}

/// Notes that today all `trials` trials on the build `digest` of image `name` met
/// their expectation. A build that is no longer there needs no note.
pub fn record_verified(
    built: &Path,
    name: &str,
    digest: &str,
    accel: String,
    trials: usize,
) -> Result<(), Failure> {
    let dir = Store::open(built.to_owned())?.build_of(name, digest);
    if !dir.is_dir() {
        return Ok(());
    }
    let date = Zoned::now().strftime("%Y-%m-%d").to_string();
    let path = dir.join(FILE);
    let verified = Verified { digest: digest.to_owned(), date, accel, trials };
    Ok(files::write_json(&path, &verified)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_note_is_about_one_build() {
        let dir = tempfile::tempdir().unwrap();
        let built = dir.path().join("images");
        let digest = "0123456789abcdef";
        let build = Store::open(built.clone()).unwrap().build_of("one", digest);
        record_verified(&built, "one", digest, "tcg".to_owned(), 3).unwrap();
        assert!(!build.exists());

        fs::create_dir(&build).unwrap();
        assert_eq!(Verified::read(&build, digest), None);
        record_verified(&built, "one", digest, "tcg".to_owned(), 3).unwrap();
        let verified = Verified::read(&build, digest).unwrap();
        assert_eq!((verified.accel.as_str(), verified.trials, verified.date.len()), ("tcg", 3, 10));
        // The first twelve letters, which name the directory, are not all of it.
        assert_eq!(Verified::read(&build, "0123456789ab0000"), None);
        fs::write(build.join(FILE), "{").unwrap();
        assert_eq!(Verified::read(&build, digest), None);
    }
}
