//! The ways into a server.

/// The doors of a server: the ways in, by their names in the history. Their order is fixed.
pub const DOORS: [&str; 4] = ["tcp", "tcp-admin", "socket", "socket-admin"];

/// The ordinary account over the network.
pub const TCP: u8 = 0;
/// The administrator over the network.
pub const TCP_ADMIN: u8 = 1;
/// The administrator through the server's own socket.
pub const SOCKET_ADMIN: u8 = 3;

/// The schema, or in PostgreSQL the database, that comes with an image; nothing is written to it.
pub(super) const IMAGE_SCHEMA: &str = "freezeframe";
