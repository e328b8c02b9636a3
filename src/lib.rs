//! Ships logs.

pub mod config;
pub mod index;
pub mod record;
