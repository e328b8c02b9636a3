//! Ships logs.
