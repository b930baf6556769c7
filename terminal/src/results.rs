//! Results, on standard output.
//!
//! Their reader may go away, as `head` does, while a guest is frozen or a disk is half written. That
//! ends nothing, where `println!` would panic: what matters is in files as well.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use contract::text::quote_lines;

use crate::live;

/// Why a result could not be written.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

/// One line of the results.
pub fn line(message: impl Display) {
    write_result(fit(&message.to_string()));
}

/// One line of the results in cells, each with its colour: the parameters of SGR, see
/// console_codes(4). Only a terminal gets colours.
pub fn row<'a>(cells: impl IntoIterator<Item = (&'a str, &'a str)>) {
    let coloured =
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    write_result(in_colours(cells, coloured));
}

/// Flushes the last of the results. An error is why some of them were lost, as on a disk that is
/// full; a reader that has gone away is no error.
pub fn end() -> io::Result<()> {
    let flushed = io::stdout().flush();
    match LOST.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(flushed, Err) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

fn write_result(message: String) {
    if let Err(error) = live::between(|| io::stdout().write_all((message + "\n").as_bytes())) {
        LOST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Fit for a terminal.
fn fit(message: &str) -> String {
    quote_lines(usize::MAX, message)
}

fn in_colours<'a>(cells: impl IntoIterator<Item = (&'a str, &'a str)>, coloured: bool) -> String {
    let cells = cells.into_iter().map(|(message, colour)| match coloured && !colour.is_empty() {
        true => format!("\u{1b}[{colour}m{}\u{1b}[0m", fit(message)),
        false => fit(message),
    });
    cells.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hidden::{LEGAL, hides, hostile};

    #[test]
    fn a_terminal_gets_no_colours_but_ours() {
        let cells = [(&*hostile(), "31"), (LEGAL, "")];
        assert!(!hides(&in_colours(cells, false)));
        let coloured = in_colours(cells, true);
        let inner = coloured.strip_prefix("\u{1b}[31m").unwrap().split_once("\u{1b}[0m  ").unwrap();
        assert!(!hides(inner.0), "{coloured}");
        assert_eq!((inner.1, &*fit(LEGAL)), (LEGAL, LEGAL));
    }
}
