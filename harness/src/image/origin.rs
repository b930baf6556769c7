//! Origins: what an image is made of.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The packages of its distribution, on disks of our own layout.
    Packages,
    /// A disk that a vendor publishes, to which packages are added. Partitions,
    /// file systems and boot loader stay the vendor's.
    CloudImage(CloudImage),
}

/// A disk that a vendor publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudImage {
    /// Where it is.
    pub place: Place,
    /// SHA-256 of the file, lowercase hex.
    pub sha256: String,
    /// What the disk is enlarged to, MiB; as the vendor made it without this.
    pub size_mib: Option<u64>,
}

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// To be downloaded.
    Url(String),
    /// On this host.
    File(PathBuf),
}

/// What is wrong in a file, and at which byte.
type Problem = (usize, String);

/// A cloud image as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCloudImage {
    url: Option<Spanned<String>>,
    file: Option<Spanned<PathBuf>>,
    sha256: Spanned<String>,
    size_mib: Option<u64>,
}

impl RawCloudImage {
    /// Checks it. A file is looked for beside `definition`.
    pub(super) fn check(self, definition: &Path) -> Result<CloudImage, Problem> {
        let at = self.sha256.span().start;
        let place = match (self.url, self.file) {
            (Some(url), None) => {
                let text = url.get_ref();
                let known = ["https://", "http://"].iter().any(|scheme| text.starts_with(scheme));
                if !known || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
                    return Err((
                        url.span().start,
                        "`url` must begin with `https://` or `http://`.".to_owned(),
                    ));
                }
                Place::Url(url.into_inner())
            }
            (None, Some(file)) => {
                let path = definition.with_file_name("").join(file.get_ref());
                if !path.is_file() {
                    return Err((file.span().start, format!("there is no file {}.", path.display())));
                }
                Place::File(path)
            }
            _ => {
                let problem =
                    "a cloud image is either downloaded (`url`) or on this host (`file`). Write one of them.";
                return Err((at, problem.to_owned()));
            }
        };
        let sha256 = self.sha256.into_inner().to_ascii_lowercase();
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            let problem =
                "`sha256` must be the 64 hexadecimal digits that the vendor publishes beside the image.";
            return Err((at, problem.to_owned()));
        }
        Ok(CloudImage { place, sha256, size_mib: self.size_mib })
    }
}
