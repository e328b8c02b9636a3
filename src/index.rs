//! The index walk.

pub mod archive;
pub mod elasticsearch;
