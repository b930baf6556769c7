//! How much a guest may say. Whatever it sends is read up to one of these bounds and no further, so that a
//! hostile guest costs the host little. What is read from its disks is bounded where it is read, in
//! `observe`, and the programs that read them in `tool`.

/// The longest line of a heartbeat channel, bytes: a number, and what a terminal may add.
pub(crate) const HEARTBEAT_LINE: u64 = 64;

/// The longest answer of a guest agent, bytes. The longest that is asked for is 256 KiB of a log, in
/// Base64; libvirt accepts 10 MiB, which take thirty times as much once they are parsed.
pub(crate) const AGENT_ANSWER: usize = 1 << 20;

/// The longest line that the proxy in an agent's channel passes on, bytes: the same as libvirt accepts.
pub(crate) const AGENT_LINE: usize = 10 << 20;

/// How much an agent may send through that proxy before it has answered anything, bytes. An honest one sends
/// nothing but answers.
pub(crate) const AGENT_NOISE: usize = 16 << 20;

/// The longest transcript of what agents were told and answered, bytes. A trial's is below 1 MiB.
pub(crate) const TRANSCRIPT: u64 = 64 << 20;

/// How much is kept of the beginning and of the end of a guest's console, or of what a backup tool prints, bytes.
/// A boot prints some 50 KiB.
pub(crate) const KEPT: u64 = 4 << 20;

/// How much of a console is traced line by line, as it is shown, bytes.
pub(crate) const CONSOLE_TRACE: usize = 4 << 20;

/// How long the logs of QEMU and libvirt may get until they are cut to half of this, bytes. A guest can make both
/// report the same again and again.
pub(crate) const HOST_LOG: u64 = 8 << 20;

/// What a database server may send before there is a row to take, or the end of the answer, bytes. Of an
/// honest one some is under way: at most as much as the kernel keeps for two sockets, 36 MiB by default.
pub(crate) const SQL_AHEAD: u64 = 64 << 20;

/// The longest packet of MariaDB and MySQL, bytes. The load's rows have less than 1 KiB.
pub(crate) const SQL_PACKET: usize = 4 << 20;

/// The most rows of an answer that is kept as a whole, and their bytes. Tables are read row by row.
pub(crate) const SQL_ROWS: usize = 100_000;
pub(crate) const SQL_BYTES: usize = 8 << 20;

/// The longest message of a database server that is kept, characters.
pub(crate) const SQL_MESSAGE: usize = 1000;

/// The longest history of a trial with this many cycles, bytes: a server that answers faster than any real one
/// makes the load send more.
pub(crate) fn history(cycles: u32) -> u64 {
    (256 << 20) + u64::from(cycles) * (16 << 20)
}

/// The most rows that a table of the load, and the most transfers that its binary logs, can hold
/// after so many entries of the history: a transfer has two, and some are there from the start.
pub(crate) fn rows(entries: u64) -> u64 {
    2 * entries + 10_000
}
