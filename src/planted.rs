//! Bugs on purpose, for the verify harness to find: `tests/verify/run planted`.
//!
//! Only a build with the feature `planted` holds them, and it has the one that the environment
//! variable `SHIPPER_PLANTED` names. In every other build [`is`] is `false` for the compiler too.

/// A bug that would break a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// P1: an offset moves before the broker has acknowledged what is before it.
    CommitBeforeAck,
    /// P2: the registry is not fsync'd.
    NoFsync,
    /// P3: the folder of the registry is not fsync'd.
    NoFolderFsync,
    /// P4: a file is known by its inode alone.
    InodeAlone,
    /// P5: that a file has become shorter is not noticed.
    NoTruncation,
    /// P6: the bytes before an offset are not compared.
    NoGuard,
    /// P10: offsets are one byte too large.
    OneByteMore,
    /// P11: the last line of a rotated file is lost if it has no terminator.
    NoPartial,
    /// P12: a batch whose delivery failed counts as delivered.
    ErrorIsSuccess,
    /// P13: a damaged registry counts as none, and files are read from their end.
    DamageIsNothing,
    /// P14: the registry is replaced in two steps.
    TwoSteps,
    /// P15: a file is closed once it is deleted, read or not.
    CloseDeleted,
}

#[cfg(not(feature = "planted"))]
/// Tells whether this build has the bug: no.
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
/// Tells whether this process has the bug.
pub fn is(bug: Bug) -> bool {
    static PLANTED: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("SHIPPER_PLANTED").ok());
    PLANTED.as_deref().is_some_and(|name| name == format!("{bug:?}"))
}
