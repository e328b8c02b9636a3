//! Ships a Kafka broker's logs to a topic, and the topic to Elasticsearch, without losing a
//! line.
//!
//! Two walks share their nouns ([`record`]), their account of what is done ([`ledger`]) and their
//! way to Kafka ([`kafka`]). One thread, the hub, owns all state of a walk; workers own only the
//! batch in their hands. Batches go out one way, as many as the hub allows, receipts come back
//! another, and no offset moves before its receipt is there.
//!
//! **Walk 1, files to a topic** ([`tail`]): [`tail::discover`] finds the files that the
//! configuration names and [`tail::fingerprint`] says which file each is, whatever its name.
//! [`tail::harvester`] reads its bytes, through [`tail::gzip`] where it was compressed,
//! [`tail::lines`] finds lines in them, [`tail::multiline`] joins them to events (and
//! `tail/cut_event.rs` those that a rotation cut), [`tail::encode`] writes each into the [`batch`]
//! of its partition. [`kafka::producer`] delivers the batch, [`ledger`] moves the settled prefix of
//! each file, [`tail::journal`] and [`tail::registry`] put it on disk, where [`cli::checkpoint`]
//! shows and changes it. After a crash the next process goes on as the same producer
//! (`tail/resume.rs`), or asks the topic ([`kafka::read_back`]); `tail/waymarks.rs` says where a file
//! goes on of which a power cut took the end.
//!
//! **Walk 2, topic to index** ([`index`]): [`kafka::consumer`] is the member of the group.
//! [`index::event`] takes the event out of a record's value, [`index::kafka_log`] its fields out of
//! the event, [`index::route`] decides where it goes, [`index::document`] writes it as a document:
//! together they are [`index::sort`], which `explain` uses, too.
//! [`index::worker`] carries each batch to its ends: [`index::elasticsearch`], the error topic, the
//! dead letters, [`index::archive`].
//!
//! [`config`] is what the operator may say, [`error`] what stops a walk, [`metrics`] what is
//! counted, [`planted`] the bugs that tests must find, [`rejected`] where records go that no topic
//! takes, [`secret`] how passwords and keys are read, [`service`] what the service manager is told,
//! [`status`] what whoever asks is told, [`time`] the times that logs are written with, [`tls`] whom
//! connections trust, [`http`] how servers of HTTP are asked, [`cli`] what a person types.

pub mod batch;
pub mod cli;
pub mod config;
pub mod error;
pub mod http;
pub mod index;
pub mod kafka;
pub mod ledger;
pub mod metrics;
pub mod planted;
pub mod record;
pub mod rejected;
pub mod secret;
pub mod service;
pub mod status;
pub mod tail;
pub mod time;
pub mod tls;
