//! Why a trial ends without a verdict, told through a pipe: nothing more may fit on the disk.
//!
//! It is the standard output of a supervisor, which its trial inherits. Nobody else writes there.

use std::io::{self, Read, Write as _};
use std::os::fd::AsFd;

use contract::text::quote;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// The most characters that are said, and the most bytes that are heard. A pipe holds more, so nobody
/// waits for a reader.
const MAX_SAID: usize = 2_000;
const MAX_HEARD: u64 = 32 << 10;

/// Says why this process ends without a verdict.
pub(super) fn say(reason: &str) {
    // Whoever hears nothing says so.
    let _ = writeln!(io::stdout(), "{}", quote(MAX_SAID, reason));
}

/// What was said by processes that have ended: `None` when they said nothing. Does not wait for
/// others that still hold the pipe.
pub(super) fn heard(pipe: &mut (impl Read + AsFd)) -> Option<String> {
    let flags = fcntl_getfl(&pipe).ok()?;
    fcntl_setfl(&pipe, flags | OFlags::NONBLOCK).ok()?;
    let mut said = Vec::new();
    // An error may come after the words, as when somebody still holds the pipe.
    let _ = pipe.take(MAX_HEARD).read_to_end(&mut said);
    let lines = String::from_utf8_lossy(&said);
    let reasons: Vec<_> = lines.lines().filter(|line| !line.is_empty()).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_heard_and_nobody_waits() {
        let (mut reader, mut writer) = io::pipe().expect("a pipe");
        assert_eq!(heard(&mut reader), None, "the pipe is still held");
        writeln!(writer, "the disk is full\n\nso much for that").expect("room");
        assert_eq!(heard(&mut reader).as_deref(), Some("the disk is full; so much for that"));
        drop(writer);
        assert_eq!(heard(&mut reader), None);
    }
}
