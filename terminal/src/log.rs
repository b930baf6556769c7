//! Events of `tracing` for people: one line each on standard error. `RUST_LOG` says which, and
//! otherwise the requested verbosity. A trial also writes its own as JSON, into a file in its directory.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use contract::json;
use contract::text::quote_lines;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FmtSpan, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::live;

/// The trace's name in a trial directory.
pub const TRACE: &str = "trace.jsonl";

/// What goes into a trace: everything that people may see, and the guests' consoles, one level below
/// so that they do not flood a terminal.
const TRACE_DIRECTIVES: &str = "debug,console=trace";

/// How much is shown if `RUST_LOG` does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// What happens, too.
    Normal,
    /// Every command as well, with its duration.
    Verbose,
}

impl Verbosity {
    fn directives(self) -> &'static str {
        match self {
            Self::Quiet => "warn",
            Self::Normal => "info",
            Self::Verbose => "debug",
        }
    }
}

/// How much this process was requested to show.
static VERBOSITY: OnceLock<Verbosity> = OnceLock::new();

/// The value of `RUST_LOG` for the trials of this process, which shows their stages itself: none
/// if it is set already.
pub fn directives_of_trials() -> Option<&'static str> {
    let is_set = std::env::var_os(EnvFilter::DEFAULT_ENV).is_some();
    let of_trials = match VERBOSITY.get() {
        Some(Verbosity::Verbose) => Verbosity::Verbose,
        _ => Verbosity::Quiet,
    };
    (!is_set).then_some(of_trials.directives())
}

/// Shows the events of this process. May be called once.
pub fn init(verbosity: Verbosity) {
    VERBOSITY.get_or_init(|| verbosity);
    tracing_subscriber::registry().with(people(verbosity)).init();
}

/// As [`init`], and everything, commands included, goes to [`TRACE`] in the directory of a trial, as JSON lines.
/// An error is why the file cannot be created; standard error gets its events all the same.
pub fn init_traced(verbosity: Verbosity, dir: &Path) -> io::Result<()> {
    let (file, made) = match File::create(dir.join(TRACE)) {
        Ok(file) => (Some(file), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let trace = file.map(|file| {
        tracing_subscriber::fmt::layer()
            .json()
            .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
            .with_writer(Mutex::new(VisibleJson(file)))
            .with_filter(EnvFilter::new(TRACE_DIRECTIVES))
    });
    tracing_subscriber::registry().with(people(verbosity)).with(trace).init();
    made
}

fn people<S>(verbosity: Verbosity) -> impl tracing_subscriber::Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = EnvFilter::try_from_default_env();
    tracing_subscriber::fmt::layer()
        .event_format(Line)
        .with_writer(Terminal)
        .with_filter(filter.unwrap_or_else(|_| EnvFilter::new(verbosity.directives())))
}

/// One line for people: what happened, with a label if it is a warning or an error.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut message = Message::default();
        event.record(&mut message);
        writeln!(writer, "{}{}", label(*event.metadata().level()), quote_lines(usize::MAX, &message.0))
    }
}

fn label(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error: ",
        Level::WARN => "warning: ",
        Level::INFO => "",
        _ => "debug: ",
    }
}

/// The message of an event, then its other fields.
#[derive(Debug, Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// Standard error, between the live lines.
struct Terminal;

impl MakeWriter<'_> for Terminal {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Terminal {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // If this fails, there is nowhere left to report it.
        live::between(|| drop(io::stderr().write_all(line)));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes JSON without invisible characters.
struct VisibleJson(File);

impl Write for VisibleJson {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(json::shown(String::from_utf8_lossy(line).into_owned()).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
