//! What can stop a walk. Whatever may heal by itself is data and never comes here.

use std::fmt;
use std::io;
use std::path::PathBuf;

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
    /// The registry and its previous generation are both damaged; going on would repeat or skip
    /// lines.
    Registry {
        /// The registry.
        path: PathBuf,
        /// What is wrong with it, and with the previous generation.
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
            Error::Locked { .. } => 75,
            Error::State { .. } => 74,
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
            Error::Registry { path, problem } => write!(
                f,
                "the registry {} cannot be read ({problem}); it says how far each file was \
                 shipped: restore it from a backup, or move the state directory away to ship \
                 every file again from its first byte",
                path.display()
            ),
            Error::Kafka { problem } => f.write_str(problem),
            Error::Start { attempt, source } => write!(f, "cannot {attempt}: {source}"),
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
