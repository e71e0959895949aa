//! Why a command ended without doing what it was asked, and the exit code that says so.

use std::fmt;

/// An error for the operator. Its text says what was wrong, where (file, line, key, flag) and what would mend it.
#[derive(Debug)]
pub enum Failure {
    /// Wrong usage or configuration: exit code 2.
    Usage(String),
    /// The work itself failed: exit code 1.
    Failed(String),
}

impl Failure {
    /// What to do where a thread cannot be started.
    pub const MORE_THREADS: &str = "raise the limit of threads (`ulimit -u`, TasksMax in a unit, pids.max of a container) or of memory (`ulimit -v`)";

    /// Wrong usage or configuration.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// The work itself failed.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(text) | Self::Failed(text)) = self;
        f.write_str(text)
    }
}
