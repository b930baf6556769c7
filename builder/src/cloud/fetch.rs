//! The file that a vendor publishes: fetched once, verified before anything
//! reads it, kept under its digest.
//!
//! ```text
//! target/images/.store/cloud/SHA256       verified
//! target/images/.store/cloud/SHA256.part  what an interrupted download has so far
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Output;

use contract::image::{CloudImage, ImageSource};
use sha2::{Digest, Sha256};
use tooling::command::{self, shell};
use tooling::error::Failure;
use tracing::warn;
use xshell::cmd;

/// The most that is downloaded, bytes. Vendors' images have a tenth of it.
const MAX_LEN: u64 = 16 << 30;

/// How many attempts in a row may end without a single new byte.
const BARREN_ATTEMPTS: u32 = 3;

/// The exit codes of curl after which another attempt is useless: an answer of 400
/// or more, and a file that is too long. See curl(1).
const REFUSED: [Option<i32>; 2] = [Some(22), Some(63)];

/// The exit code and the answer of a server that cannot resume a download.
const CANNOT_RESUME: Option<i32> = Some(33);
const NO_SUCH_RANGE: &[u8] = b"416";

/// The part of `image` that an interrupted or running download has so far; `dir` is where downloads are kept.
pub(super) fn part(image: &CloudImage, dir: &Path) -> PathBuf {
    dir.join(format!("{}.part", image.sha256))
}

/// The verified file of `image`; `dir` is where downloads are kept.
pub(super) fn fetch(image: &CloudImage, dir: &Path) -> Result<PathBuf, Failure> {
    match &image.source {
        ImageSource::File(file) => {
            let found = digest(file)?;
            if found == image.sha256 {
                return Ok(file.clone());
            }
            Err(mismatch(&file.display().to_string(), &image.sha256, &found))
        }
        ImageSource::Url(url) => {
            let kept = dir.join(&image.sha256);
            if kept.is_file() {
                return Ok(kept);
            }
            fs::create_dir_all(dir).map_err(|e| Failure::io("create", dir, e))?;
            let part = part(image, dir);
            let found = download(url, &image.sha256, &part)?;
            if found != image.sha256 {
                fs::remove_file(&part).map_err(|e| Failure::io("remove", &part, e))?;
                return Err(mismatch(url, &image.sha256, &found));
            }
            File::open(&part).and_then(|file| file.sync_all()).map_err(|e| Failure::io("write", &part, e))?;
            fs::rename(&part, &kept).map_err(|e| Failure::io("create", &kept, e))?;
            Ok(kept)
        }
    }
}

fn mismatch(place: &str, wanted: &str, found: &str) -> Failure {
    Failure::Usage(format!(
        "{place} is not the file that the definition means: its sha256 is {found}, and the definition says {wanted}. \
         Nothing was built of it. If the vendor has published another one, write its digest into the definition."
    ))
}

/// Completes `part` from where an earlier attempt stopped, and returns its
/// digest.
fn download(url: &str, wanted: &str, part: &Path) -> Result<String, Failure> {
    let mut barren = 0;
    loop {
        let before = len(part);
        let output = curl(url, part)?;
        let status = output.status;
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        // curl takes the latter for a file that is whole, which it need not be.
        let stuck = before > 0 && (status.code() == CANNOT_RESUME || output.stdout == NO_SUCH_RANGE);
        if status.success() && !stuck {
            return digest(part);
        }
        let mut after = len(part);
        if stuck {
            if digest(part)? == wanted {
                return Ok(wanted.to_owned());
            }
            warn!("{url} cannot be resumed after {after} bytes; starting again");
            fs::remove_file(part).map_err(|e| Failure::io("remove", part, e))?;
            after = 0;
        }
        barren = if after > before { 0 } else { barren + 1 };
        if barren == BARREN_ATTEMPTS || (!stuck && REFUSED.contains(&status.code())) {
            let kept =
                if after == 0 { "Nothing".to_owned() } else { format!("What there is, {after} bytes,") };
            return Err(Failure::Infrastructure(format!(
                "cannot download {url}: curl failed ({status}): {reason}. Check the address and the network, then try \
                 again. {kept} was kept."
            )));
        }
        warn!("the download of {url} stopped after {after} bytes ({reason}); resuming there");
    }
}

/// Its output is the code of the answer.
fn curl(url: &str, part: &Path) -> Result<Output, Failure> {
    command::require("curl")?;
    let sh = shell()?;
    let max = MAX_LEN.to_string();
    // curl knows the length only if the server sends it, so prlimit bounds the file as well.
    let curl = cmd!(sh, "prlimit --fsize={max} curl --fail --location --globoff --proto =http,https")
        .args(["--silent", "--show-error", "--continue-at", "-", "--write-out", "%{http_code}"])
        // A connection over which nothing comes for a minute is lost.
        .args(["--connect-timeout", "30", "--speed-time", "60", "--speed-limit", "1"])
        .args(["--max-filesize", &max, "--url", url, "--output"])
        .arg(part);
    Ok(command::output(curl)?)
}

/// The length of what there is, bytes.
pub(super) fn len(part: &Path) -> u64 {
    fs::metadata(part).map_or(0, |metadata| metadata.len())
}

/// SHA-256 of a file, lowercase hex.
pub(super) fn digest(path: &Path) -> Result<String, Failure> {
    let mut hash = Sha256::new();
    File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hash))
        .map_err(|e| Failure::io("read", path, e))?;
    Ok(hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::serve::{Served, Server};

    fn content() -> Vec<u8> {
        (0..500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
    }

    fn sha256(bytes: &[u8]) -> String {
        hex::encode(Sha256::digest(bytes))
    }

    /// Fetches the content from such a server.
    fn fetched(server: &Server, dir: &Path) -> Result<PathBuf, String> {
        let source = ImageSource::Url(server.url.clone());
        let image = CloudImage { source, sha256: sha256(&content()), size_mib: None };
        fetch(&image, dir).map_err(|failure| failure.to_string())
    }

    /// What is in the directory of downloads: nothing where there is none.
    fn kept(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_fetched_once() {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(Served { content: content(), ..Served::default() });
        for _ in 0..2 {
            assert_eq!(fs::read(fetched(&server, dir.path()).unwrap()).unwrap(), content());
        }
        assert_eq!(server.requests(), [0]);
        assert_eq!(kept(dir.path()), [sha256(&content())]);
    }

    #[test]
    fn a_connection_that_breaks_costs_nothing_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let cuts = vec![700_000, 900_000];
        let server = Server::start(Served { content: content(), cuts, ..Served::default() });
        assert_eq!(fs::read(fetched(&server, dir.path()).unwrap()).unwrap(), content());
        assert_eq!(server.requests(), [0, 700_000, 1_600_000]);
        assert_eq!(kept(dir.path()), [sha256(&content())]);
    }

    #[test]
    fn an_interrupted_download_is_resumed_by_the_next() {
        for there in [1, 1_999_999, 2_000_000] {
            let dir = tempfile::tempdir().unwrap();
            let part = dir.path().join(format!("{}.part", sha256(&content())));
            fs::write(&part, &content()[..there]).unwrap();
            let server = Server::start(Served { content: content(), ..Served::default() });
            assert_eq!(fs::read(fetched(&server, dir.path()).unwrap()).unwrap(), content());
            assert_eq!(server.requests()[0], there);
            assert_eq!(kept(dir.path()), [sha256(&content())]);
        }
    }

    #[test]
    fn a_server_without_ranges_is_asked_again_from_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let served = Served { content: content(), cuts: vec![700_000], whole_only: true, claims: None };
        let server = Server::start(served);
        assert_eq!(fs::read(fetched(&server, dir.path()).unwrap()).unwrap(), content());
        assert_eq!(server.requests(), [0, 700_000, 0]);
    }

    #[test]
    fn another_file_is_an_error_and_leaves_nothing() {
        let other = b"another file".to_vec();
        // A part of the right file that is longer than what is served must not stay for ever.
        for there in [0, 4, 1000] {
            let dir = tempfile::tempdir().unwrap();
            let part = dir.path().join(format!("{}.part", sha256(&content())));
            fs::write(&part, &content()[..there]).unwrap();
            let server = Server::start(Served { content: other.clone(), ..Served::default() });
            let error = fetched(&server, dir.path()).unwrap_err();
            assert!(error.contains(&sha256(&content())), "{error}");
            assert!(there == 4 || error.contains(&sha256(&other)), "{error}");
            assert!(error.contains("is not the file that the definition means"), "{error}");
            assert_eq!(kept(dir.path()), [""; 0], "{there}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("local");
        fs::write(&file, &other).unwrap();
        let image =
            CloudImage { source: ImageSource::File(file), sha256: sha256(&content()), size_mib: None };
        let error = fetch(&image, dir.path()).unwrap_err().to_string();
        assert!(error.contains(&sha256(&content())) && error.contains(&sha256(&other)), "{error}");
    }

    #[test]
    fn an_address_that_is_wrong_and_a_file_without_end_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::start(Served { content: content(), ..Served::default() });
        server.url.push_str(".old");
        let error = fetched(&server, dir.path()).unwrap_err();
        assert!(error.contains("Check the address"), "{error}");
        assert_eq!(server.requests(), [0]);
        assert_eq!(kept(dir.path()), [""; 0]);

        let claims = Some(MAX_LEN + 1);
        let server = Server::start(Served { content: content(), claims, ..Served::default() });
        fetched(&server, dir.path()).unwrap_err();
        assert_eq!(kept(dir.path()), [""; 0]);
    }
}
