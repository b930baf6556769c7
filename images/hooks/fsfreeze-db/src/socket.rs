//! The way to a server through its own socket, and through no other's.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::exit::Failure;
use crate::servers::Server;

/// That there is no way.
pub(crate) fn none(server: &Server) -> Failure {
    let name = server.name();
    Failure::refused(format!(
        "{name} listens on no socket that we can see: name one as `socket` of this server"
    ))
}

/// A socket's place, by a path that is short: the address of a socket has at most 107 bytes.
pub(crate) struct Place {
    /// Open for as long as the path is used.
    _directory: File,
    /// Leads to the socket.
    pub(crate) path: PathBuf,
}

/// Where we find a socket that the server sees under this path.
///
/// # Errors
///
/// If it has no directory that we can open.
pub(crate) fn place(server: &Server, seen: &Path) -> io::Result<Place> {
    let (Some(parent), Some(file)) = (seen.parent(), seen.file_name()) else {
        return Err(io::Error::other("it is no path of a file"));
    };
    let directory = server.open(parent, OFlags::PATH | OFlags::DIRECTORY)?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(file);
    Ok(Place { _directory: directory, path: short })
}
