//! Ships logs.

pub mod batch;
pub mod config;
pub mod kafka;
pub mod record;
