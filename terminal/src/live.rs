//! Lines that stay up to date below what was printed before, where standard error is a terminal.

use std::cell::Cell;
use std::fmt::{self, Display};
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use console::Term;
use contract::text::{quote, quote_lines};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tracing::info;

/// The lines of this process while somebody shows some, and by how many.
static LINES: Mutex<Option<(MultiProgress, usize)>> = Mutex::new(None);

/// How often a line is brought up to date.
const FRAME: Duration = Duration::from_millis(100);

/// Characters of a step's name that a line shows.
const MAX_NAME: usize = 120;

/// The right to show lines; the last of them that is dropped clears what is left.
#[derive(Debug)]
pub struct Live(MultiProgress);

impl Live {
    /// Lines on standard error; on a pipe none are shown.
    pub fn begin() -> Self {
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        let stderr = || MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let (lines, users) = lines.get_or_insert_with(|| (stderr(), 0));
        *users += 1;
        Self(lines.clone())
    }

    /// How many columns the terminal has; `None` on a pipe.
    pub fn columns(&self) -> Option<usize> {
        let size = Term::stderr().size_checked()?;
        (!self.0.is_hidden()).then_some(usize::from(size.1))
    }

    /// Where lines are added.
    pub fn lines(&self) -> &MultiProgress {
        &self.0
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, users)) = &mut *lines else { return };
        *users -= 1;
        if *users == 0 {
            *lines = None;
            // If this fails, the terminal is as good as gone.
            let _ = self.0.clear();
        }
    }
}

/// Work that goes step by step: a line with the step under way and the time spent in it, and a
/// plain line as it ends. On a pipe there is a plain line as it begins, too.
#[derive(Debug)]
pub struct Steps {
    name: String,
    /// How many steps have begun, of how many.
    count: Option<(Cell<usize>, usize)>,
    live: Live,
}

impl Steps {
    /// Steps of `name`, of which nobody knows how many there will be.
    pub fn of(name: impl Into<String>) -> Self {
        Self { name: name.into(), count: None, live: Live::begin() }
    }

    /// So many steps of `name`, shown as "3 of 12".
    pub fn counted(name: impl Into<String>, total: usize) -> Self {
        Self { count: Some((Cell::new(0), total)), ..Self::of(name) }
    }

    /// Does one step.
    pub fn step<T, E>(&self, what: impl Display, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.step_with(what, String::new, work)
    }

    /// Does one step, and shows besides what `detail` says of it while it is under way.
    pub fn step_with<T, E>(
        &self,
        what: impl Display,
        detail: impl Fn() -> String + Clone + Send + Sync + 'static,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let step = quote(MAX_NAME, &self.next(what));
        let detail = move |_: &ProgressState, out: &mut dyn fmt::Write| {
            // If this fails, the line is shown without it.
            let _ = match detail() {
                detail if detail.is_empty() => Ok(()),
                detail => write!(out, "{detail}  "),
            };
        };
        let line = self.live.0.add(line("{spinner} {elapsed:>5}  {detail}{wide_msg}", detail));
        line.set_message(step.clone());
        line.enable_steady_tick(FRAME);
        if self.live.0.is_hidden() {
            info!("{step} ...");
        }
        let start = Instant::now();
        let done = work();
        line.finish_and_clear();
        self.live.0.remove(&line);
        if done.is_ok() {
            info!("{step}: {:.1} s", start.elapsed().as_secs_f64());
        }
        done
    }

    /// What the next step is called.
    fn next(&self, what: impl Display) -> String {
        match &self.count {
            None => format!("{}: {what}", self.name),
            Some((begun, total)) => {
                begun.set(begun.get() + 1);
                format!("{}: {} of {total}, {what}", self.name, begun.get())
            }
        }
    }
}

/// A line of this form; `detail` is what it shows as `{detail}`.
pub fn line(
    template: &str,
    detail: impl Fn(&ProgressState, &mut dyn fmt::Write) + Clone + Send + Sync + 'static,
) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style.with_key("detail", detail))
}

/// Prints what another process writes on its standard error, line by line and until the last
/// process that holds the pipe ends.
pub fn forward(from: impl Read + Send + 'static) {
    let lines = BufReader::new(from).split(b'\n').map_while(Result::ok);
    thread::spawn(move || {
        for line in lines {
            let line = quote_lines(usize::MAX, &String::from_utf8_lossy(&line)) + "\n";
            // If this fails, there is nowhere left to report it.
            between(|| drop(io::stderr().write_all(line.as_bytes())));
        }
    });
}

/// Prints something while no line is in the way.
pub fn between<T>(print: impl FnOnce() -> T) -> T {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match lines {
        Some((lines, _)) => lines.suspend(print),
        None => print(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There is one terminal, also where tests share a process.
    static TERMINAL: Mutex<()> = Mutex::new(());

    #[test]
    fn lines_go_when_the_last_of_them_ends() {
        let _alone = TERMINAL.lock();
        let outer = Live::begin();
        drop(Live::begin());
        assert!(LINES.lock().unwrap().is_some());
        drop(outer);
        assert!(LINES.lock().unwrap().is_none());
    }

    #[test]
    fn steps_are_counted() {
        let _alone = TERMINAL.lock();
        let counted = Steps::counted("bench start", 12);
        assert_eq!(counted.next("by a boot"), "bench start: 1 of 12, by a boot");
        assert_eq!(counted.next("from memory"), "bench start: 2 of 12, from memory");
        assert_eq!(Steps::of("one").next("install packages"), "one: install packages");
        assert_eq!(counted.step("failing", || Err::<(), _>("why")), Err("why"));
    }
}
