//! Faults: what goes wrong in a trial, and when.

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::backup::command_problem;
use crate::input::Mistake;

/// Something that goes wrong at a named point. With a backup tool it does so in every backup that
/// comes to the point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When.
    pub at: Point,
    /// What.
    #[serde(flatten)]
    pub what: Strike,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strike {
    /// A line for the guest's shell, run as root. The stage waits until it
    /// ends; what must go on behind it goes to the background with its output
    /// redirected.
    Guest(String),
    /// A line for the host's shell, run beside the backup tool and with the same environment.
    Host(String),
    /// A signal to the backup tool and all its processes.
    Tool(Signal),
}

/// The signals that end a backup tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// Ctrl-C.
    #[serde(rename = "SIGINT")]
    Int,
    /// The order to end.
    #[serde(rename = "SIGTERM")]
    Term,
    /// The end.
    #[serde(rename = "SIGKILL")]
    Kill,
}

impl std::fmt::Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Int => "SIGINT",
            Self::Term => "SIGTERM",
            Self::Kill => "SIGKILL",
        })
    }
}

/// The points of the pipeline at which a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Point {
    /// The first guest is up, the load has not started.
    AfterBoot,
    /// The load has run its time; the freeze comes next, or the command of a backup.
    BeforeFreeze,
    /// The backup tool's freeze was handed to the agent, which has not answered.
    DuringFreeze,
    /// The backup tool's freeze was answered with success, and no thaw was requested.
    InWindow,
    /// QEMU copies for the backup tool, and the guest is not frozen, or not any more.
    DuringCopy,
    /// The thaw has returned.
    AfterThaw,
}

impl Point {
    /// Whether only a trial with a backup tool comes to it, or only one without; `None` for both.
    fn with_tool(self) -> Option<bool> {
        match self {
            Self::AfterBoot | Self::BeforeFreeze => None,
            Self::DuringFreeze | Self::InWindow | Self::DuringCopy => Some(true),
            Self::AfterThaw => Some(false),
        }
    }
}

/// `[[fault]]` as written: one of the keys other than `at`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFault {
    at: Spanned<Point>,
    guest: Option<Spanned<String>>,
    host: Option<Spanned<String>>,
    tool: Option<Spanned<Signal>>,
}

impl RawFault {
    /// Refuses what cannot go wrong in a trial with a backup tool, or without one.
    pub(super) fn check(fault: Spanned<Self>, with_tool: bool) -> Result<Fault, Mistake> {
        let span = fault.span();
        let Self { at, guest, host, tool } = fault.into_inner();
        match at.get_ref().with_tool() {
            Some(true) if !with_tool => {
                let message = "only a backup tool comes to this point. Add `[backup]`, or take `after-boot`, \
                               `before-freeze` or `after-thaw`.";
                return Err(Mistake::new(&at.span(), message));
            }
            Some(false) if with_tool => {
                let message =
                    "with a backup tool, `during-copy` is the point at which the thaw has returned. Take it.";
                return Err(Mistake::new(&at.span(), message));
            }
            _ => {}
        }
        for (key, line, whose) in [("guest", &guest, "guest"), ("host", &host, "host")] {
            let problem =
                line.as_ref().and_then(|line| Some((line.span(), command_problem(line.get_ref())?)));
            if let Some((span, problem)) = problem {
                let message = format!("`{key}` {problem}. Give a line for the {whose}'s shell.");
                return Err(Mistake::new(&span, message));
            }
        }
        let outside = host.as_ref().map(Spanned::span).or(tool.as_ref().map(Spanned::span));
        if let Some(span) = outside.filter(|_| !with_tool) {
            let message =
                "there is no backup tool to which this could happen. Add `[backup]`, or take `guest`.";
            return Err(Mistake::new(&span, message));
        }
        // A tool that does not run yet can get no signal.
        if let Some(tool) = &tool
            && at.get_ref().with_tool().is_none()
        {
            let message = "the backup tool does not run at this point. Take `during-freeze`, `in-window` or `during-copy`.";
            return Err(Mistake::new(&tool.span(), message));
        }
        let at = at.into_inner();
        match (guest, host, tool) {
            (Some(line), None, None) => Ok(Fault { at, what: Strike::Guest(line.into_inner()) }),
            (None, Some(line), None) => Ok(Fault { at, what: Strike::Host(line.into_inner()) }),
            (None, None, Some(signal)) => Ok(Fault { at, what: Strike::Tool(signal.into_inner()) }),
            _ => {
                let message = "a fault has one of the keys `guest`, `host` and `tool`: what goes wrong.";
                Err(Mistake::new(&span, message))
            }
        }
    }
}

/// As reports name it: `during-copy: SIGKILL to the tool`.
impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = match self.at {
            Point::AfterBoot => "after the boot",
            Point::BeforeFreeze => "before the freeze",
            Point::DuringFreeze => "during the freeze",
            Point::InWindow => "in the window",
            Point::DuringCopy => "during the copy",
            Point::AfterThaw => "after the thaw",
        };
        match &self.what {
            Strike::Guest(line) => write!(f, "{at}, in the guest: {line}"),
            Strike::Host(line) => write!(f, "{at}, on the host: {line}"),
            Strike::Tool(signal) => write!(f, "{at}: {signal} to the tool"),
        }
    }
}
