//! The index walk: from a topic to Elasticsearch, an error topic or an archive.

pub mod document;
pub mod event;
pub mod fields;
pub mod index_name;
pub mod kafka_log;
pub mod origin;
pub mod route;
pub mod time;
