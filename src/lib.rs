//! Ships logs.

pub mod cli;
pub mod config;
