//! Words to whoever runs this: results on standard output, progress on standard error.
//!
//! Their reader may go away, as `head` does, while a guest is frozen or a disk is half written. That
//! ends nothing, where `println!` would panic: what matters is in files as well.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::{Mutex, PoisonError};

/// Why a result could not be written.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

/// One line of the results, as `println!` takes it.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { $crate::words::result(format_args!($($words)*)) };
}

/// One line of progress, as `eprintln!` takes it.
#[macro_export]
macro_rules! tell {
    ($($words:tt)*) => { $crate::words::progress(format_args!($($words)*)) };
}

#[doc(hidden)]
pub fn result(words: fmt::Arguments<'_>) {
    if let Err(error) = line(&mut io::stdout(), words) {
        LOST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

#[doc(hidden)]
pub fn progress(words: fmt::Arguments<'_>) {
    // There is nobody left to tell.
    let _ = line(&mut io::stderr(), words);
}

/// Brings out the last of the results. An error is why some of them were lost, as on a disk that is
/// full; it is none that nobody wanted them any more.
pub fn end() -> io::Result<()> {
    let flushed = io::stdout().flush();
    match LOST.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(flushed, Err) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// In one piece, so that the lines of several processes do not mix.
fn line(to: &mut dyn Write, words: fmt::Arguments<'_>) -> io::Result<()> {
    to.write_all(format!("{words}\n").as_bytes())
}
