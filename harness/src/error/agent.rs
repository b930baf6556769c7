//! What goes wrong between the host and a guest agent.

use std::time::Duration;

/// Why a command of the guest agent failed. Every exchange with the agent is in the trial's `agent.jsonl`.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No agent is there, so the command was not sent.
    #[error("no guest agent answers on its serial port within {:.1} s", .0.as_secs_f64())]
    Absent(Duration),
    /// The command was sent, and may still be carried out.
    #[error("the guest agent gave no answer within {:.1} s", .0.as_secs_f64())]
    Late(Duration),
    /// The command will not be answered any more, and may have been carried out.
    #[error("the agent of the {0} guest is gone: it was restarted, or the guest has ended")]
    Lost(String),
    /// The answer is longer than any that is asked for.
    #[error("the guest agent gave an answer that does not end within {0} bytes")]
    Endless(usize),
    /// The agent answered with an error.
    #[error("the agent of the {guest} guest cannot run {command}: {reason}")]
    Refused {
        /// Which of the trial's guests.
        guest: String,
        /// The agent's command.
        command: String,
        /// Its reason.
        reason: String,
    },
    /// The answer does not follow the protocol.
    #[error("the agent of the {guest} guest gave an invalid answer to {command}: {answer}")]
    Invalid {
        /// Which of the trial's guests.
        guest: String,
        /// The agent's command.
        command: String,
        /// The answer.
        answer: String,
    },
    /// A shell command in the guest ended with an error.
    #[error(
        "`{command}` failed in the {guest} guest with {}: {stderr}",
        .code.map_or("a signal".to_owned(), |code| format!("exit code {code}"))
    )]
    Failed {
        /// Which of the trial's guests.
        guest: String,
        /// The beginning of the shell command.
        command: String,
        /// Its exit code; `None` when a signal ended it.
        code: Option<i64>,
        /// What it printed on standard error.
        stderr: String,
    },
    /// A shell command in the guest did not end in time; it may still run.
    #[error("`{command}` did not end within {} s in the {guest} guest", limit.as_secs())]
    Unfinished {
        /// Which of the trial's guests.
        guest: String,
        /// The beginning of the shell command.
        command: String,
        /// How long it was waited for.
        limit: Duration,
    },
}
