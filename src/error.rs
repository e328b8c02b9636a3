//! What can stop a walk. Whatever may heal by itself is data and never comes here.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::tail::registry::Repair;

/// Everything that stops a walk.
#[derive(Debug)]
pub enum Error {
    /// The configuration cannot be used; each line of `problems` says where and why.
    Config {
        /// One line a problem: file, line, key, what to do.
        problems: String,
    },
    /// Another process works in the state directory.
    Locked {
        /// The lock that is held.
        path: PathBuf,
    },
    /// The state directory cannot be used at all.
    State {
        /// What was attempted, as in "open".
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The registry must not be used, nor its previous generation; going on would repeat or skip
    /// lines.
    Registry {
        /// The registry.
        path: PathBuf,
        /// What is wrong with it, and with the previous generation.
        problem: String,
        /// The ways out, for `shipper checkpoint repair`.
        repairs: Vec<Repair>,
    },
    /// What was asked of `shipper checkpoint` cannot be done; nothing was changed.
    Checkpoint {
        /// Why, and what to do.
        problem: String,
    },
    /// The Kafka client library or our producer cannot go on.
    Kafka {
        /// What was attempted or what happened.
        problem: String,
    },
    /// A thread or a signal handler could not be set up.
    Start {
        /// What was attempted.
        attempt: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// At the stop the registry could not be saved.
    Unsaved {
        /// The state directory.
        path: PathBuf,
    },
    /// A stop was asked for, and its time was over before everything was acknowledged.
    Unfinished {
        /// Records that were read and not acknowledged; they are read again at the next start.
        n_records: u64,
    },
}

impl Error {
    /// Returns the exit code of the process.
    ///
    /// Source: sysexits(3); 75 and 78 are the codes that the units do not restart on.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config { .. } | Error::Registry { .. } => 78,
            Error::Checkpoint { .. } => 65,
            Error::Locked { .. } => 75,
            Error::State { .. } | Error::Unsaved { .. } => 74,
            Error::Kafka { .. } | Error::Start { .. } | Error::Unfinished { .. } => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config { problems } => f.write_str(problems),
            Error::Locked { path } => write!(
                f,
                "another shipper works in this state directory: {} is locked",
                path.display()
            ),
            Error::State { attempt, path, source } => {
                write!(f, "cannot {attempt} {}: {source}", path.display())
            }
            Error::Registry { path, problem, .. } => write!(
                f,
                "the registry {} cannot be used: {problem}; it says how far each file was \
                 shipped, so nothing is shipped before you have restored it from a backup, or \
                 chosen with `shipper checkpoint repair`",
                path.display()
            ),
            Error::Kafka { problem } | Error::Checkpoint { problem } => f.write_str(problem),
            Error::Start { attempt, source } => write!(f, "cannot {attempt}: {source}"),
            Error::Unsaved { path } => write!(
                f,
                "stopped without having saved the registry in {}: what was shipped since it was \
                 saved last is read back from the topic at the next start",
                path.display()
            ),
            Error::Unfinished { n_records } => write!(
                f,
                "stopped before everything was settled: {n_records} records will be read again at \
                 the next start"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::State { source, .. } | Error::Start { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<crate::kafka::Error> for Error {
    fn from(error: crate::kafka::Error) -> Error {
        Error::Kafka { problem: error.to_string() }
    }
}
