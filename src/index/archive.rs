//! Local NDJSON files.
