//! Ships logs.
pub mod config;
pub mod error;
pub mod ledger;
pub mod record;
pub mod tail { pub mod lines; pub mod multiline; }
