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

/// A socket, by a path that is short: the address of a socket has at most 107 bytes. It leads to this socket for as
/// long as it is used, whatever takes its place.
pub(crate) struct Place {
    /// Open for as long as the path is used.
    _socket: File,
    /// Leads to the socket.
    pub(crate) path: PathBuf,
}

/// Where we find a socket that the server sees under this path.
///
/// # Errors
///
/// If it is not there.
pub(crate) fn place(server: &Server, seen: &Path) -> io::Result<Place> {
    let socket = server.open(seen, OFlags::PATH)?;
    let path = Path::new("/proc/self/fd").join(socket.as_raw_fd().to_string());
    Ok(Place { _socket: socket, path })
}
