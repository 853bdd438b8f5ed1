//! The one error type that reaches the user, and the exit code that goes with it.
//!
//! Every message says three things: where (file, line, tensor, key, option), what is wrong, and what to do about it.

use std::fmt::Display;

/// What ends a command. [`Error::exit_code`] tells bad input (2) from a run that failed (1).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the user gave cannot be used: a file, a record, an option, a model. Exit code 2.
    #[error("{place}: {problem}\n  {proposal}")]
    BadInput { place: String, problem: String, proposal: String },
    /// The work itself failed: disk full, memory short, loss not finite. Exit code 1.
    #[error("{place}: {problem}\n  {proposal}")]
    Failed { place: String, problem: String, proposal: String },
    /// A training run has left the numbers: its loss, a gradient or the adapter is not finite. Exit code 1.
    #[error("{place}: {problem}\n  {proposal}")]
    Diverged { place: String, problem: String, proposal: String },
    /// The GPU has not the memory. Exit code 1.
    #[error("{place}: {problem}\n  {proposal}")]
    OutOfMemory { place: String, problem: String, proposal: String },
    /// The GPU was lost with everything on it: reset by its driver, or destroyed. Training opens it again and goes on
    /// ([`crate::train::recovery`]). Exit code 1.
    #[error("{place}: {problem}\n  {proposal}")]
    DeviceLost { place: String, problem: String, proposal: String },
}

/// The result of everything that can end a command.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Bad input: where it stands, what is wrong with it, what the user can do.
    pub fn bad_input(place: impl Display, problem: impl Display, proposal: impl Display) -> Self {
        Self::BadInput { place: place.to_string(), problem: problem.to_string(), proposal: proposal.to_string() }
    }

    /// A failure of the run: where it happened, what happened, what the user can do.
    pub fn failed(place: impl Display, problem: impl Display, proposal: impl Display) -> Self {
        Self::Failed { place: place.to_string(), problem: problem.to_string(), proposal: proposal.to_string() }
    }

    /// Where it happened, what is wrong, and what to do.
    pub fn parts(&self) -> [&str; 3] {
        match self {
            Self::BadInput { place, problem, proposal }
            | Self::Failed { place, problem, proposal }
            | Self::Diverged { place, problem, proposal }
            | Self::OutOfMemory { place, problem, proposal }
            | Self::DeviceLost { place, problem, proposal } => [place, problem, proposal],
        }
    }

    /// 2 for bad input, 1 for a failed run (0 is success, see the command line's contract).
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::BadInput { .. } => 2,
            Self::Failed { .. } | Self::Diverged { .. } | Self::OutOfMemory { .. } | Self::DeviceLost { .. } => 1,
        }
    }
}
