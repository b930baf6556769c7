//! Lines that stay up to date below what was printed before, where standard error is a terminal.

use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use contract::text::quote_lines;
use indicatif::{MultiProgress, ProgressDrawTarget};

/// The lines of this process, while there are any.
static LINES: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Begins to show lines; they end when this is dropped.
#[derive(Debug)]
pub struct Live(MultiProgress);

impl Live {
    /// Lines on standard error; on a pipe none are shown.
    pub fn begin() -> Self {
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        *LINES.lock().unwrap_or_else(PoisonError::into_inner) = Some(lines.clone());
        Self(lines)
    }

    /// Where lines are added.
    pub fn lines(&self) -> &MultiProgress {
        &self.0
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        *LINES.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // If this fails, the terminal is as good as gone.
        let _ = self.0.clear();
    }
}

/// Prints a line that another process wrote on its standard error.
pub fn forward(line: impl AsRef<str>) {
    let line = quote_lines(usize::MAX, line.as_ref()) + "\n";
    // If this fails, there is nowhere left to report it.
    between(|| drop(io::stderr().write_all(line.as_bytes())));
}

/// Prints something while no line is in the way.
pub fn between<T>(print: impl FnOnce() -> T) -> T {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match lines {
        Some(lines) => lines.suspend(print),
        None => print(),
    }
}
