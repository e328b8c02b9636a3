//! What is to become of each record: its event is read, its route found, its document written.

use super::document::DocumentWriter;
use super::elasticsearch::BulkBody;
use super::event::Event;
use super::fields::Fields;
use super::index_name::IndexName;
use super::kafka_log::{self, Level};
use super::origin::{Header, Origin};
use super::route::{Routed, Router};
use crate::config::{Config, IndexConfig};
use crate::kafka::record_batch::RecordRef;
use crate::time::TimeReader;

/// A record's topic, partition and offset.
pub type Place<'a> = (&'a str, i32, i64);

/// Reads records and decides where they go.
#[derive(Debug)]
pub struct Sorter {
    times: TimeReader,
    router: Router,
    documents: DocumentWriter,
    index_name: Option<IndexName>,
    /// What was taken since it was last cleared.
    pub sorted: Sorted,
    id: Vec<u8>,
    name: Vec<u8>,
}

/// Where records go.
#[derive(Debug, Default)]
pub struct Sorted {
    /// Those for Elasticsearch.
    pub body: BulkBody,
    /// The record of each item of `body`.
    pub items: Vec<usize>,
    /// Documents for the archive, each without a line end.
    pub archive_bytes: Vec<u8>,
    /// For each archived record itself and the end of its document in `archive_bytes`.
    pub archived: Vec<(usize, usize)>,
    /// Records for the error topic, each with the position of the route's name.
    pub errors: Vec<(usize, usize)>,
    /// How many of them have a document, too.
    pub n_errors_also: u64,
    /// For each record that a route drops, the position of the route's name.
    pub dropped: Vec<usize>,
}

impl Sorter {
    /// Returns one that goes by these rules.
    ///
    /// Errors: the rule or the name of an index that makes no sense, for the caller to put the
    /// configuration file to.
    pub fn new(config: &Config, index: &IndexConfig) -> Result<Sorter, String> {
        let elasticsearch = config.elasticsearch.as_ref();
        let index_name = elasticsearch.map(|config| IndexName::new(&config.index)).transpose();
        Ok(Sorter {
            times: TimeReader::new(index.timezone.clone()),
            router: Router::new(&config.route, index, elasticsearch.is_some())?,
            documents: DocumentWriter::new(),
            index_name: index_name.map_err(|error| format!("elasticsearch.index: {error}"))?,
            sorted: Sorted::default(),
            id: Vec::new(),
            name: Vec::new(),
        })
    }

    /// Returns the names of all routes; a [`Routed`] has a position in them.
    pub fn route_names(&self) -> &[String] {
        self.router.names()
    }

    /// Takes a record, the `at`th of its batch, into `sorted`. `headers` is scratch.
    pub fn take<'r>(
        &mut self,
        at: usize,
        record: &RecordRef<'r>,
        place: Place<'r>,
        headers: &mut Vec<Header<'r>>,
    ) -> Routed {
        read(&mut self.times, record, place, headers, |fields| {
            let routed = self.router.route(fields);
            let sorted = &mut self.sorted;
            let has_document = routed.to.index || routed.to.archive;
            if routed.to.index {
                self.id.clear();
                self.name.clear();
                fields.origin.write_id(&mut self.id);
                let name = self.index_name.as_mut().expect("checked: index needs [elasticsearch]");
                name.write(&mut self.name, record.timestamp_ms);
                let name = std::str::from_utf8(&self.name).expect("patterns are text");
                let id = String::from_utf8_lossy(&self.id);
                self.documents.write(sorted.body.begin(name, &id), fields);
                sorted.body.end();
                sorted.items.push(at);
            }
            if routed.to.archive {
                self.documents.write(&mut sorted.archive_bytes, fields);
                sorted.archived.push((at, sorted.archive_bytes.len()));
            }
            if routed.to.error_topic {
                sorted.errors.push((at, routed.route));
                sorted.n_errors_also += u64::from(has_document);
            } else if !has_document {
                sorted.dropped.push(routed.route);
            }
            routed
        })
    }

    /// Says of a record what [`Sorter::take`] does not, whatever becomes of it.
    pub fn explain<'r>(
        &mut self,
        record: &RecordRef<'r>,
        place: Place<'r>,
        headers: &mut Vec<Header<'r>>,
    ) -> Explained {
        read(&mut self.times, record, place, headers, |fields| {
            let mut document = Vec::new();
            self.documents.write(&mut document, fields);
            Explained {
                level: fields.parsed.level,
                time_ms: fields.parsed.time.map(|time| time.ms),
                document: String::from_utf8(document).expect("JSON"),
                misses: self.router.misses(fields),
            }
        })
    }
}

/// What is known of a record beside where it goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Explained {
    /// `None` of an event in no layout that is known: it is a message as it is.
    pub level: Option<Level>,
    /// When it says it happened, in milliseconds since 1970.
    pub time_ms: Option<i64>,
    /// Its document, or what that would be: one line of JSON.
    pub document: String,
    /// The rules before the one that took it, each with the first condition that it does not fulfil.
    pub misses: Vec<(String, String)>,
}

/// Reads a record; its parts last as long as `then`.
fn read<'r, T>(
    times: &mut TimeReader,
    record: &RecordRef<'r>,
    (topic, partition, offset): Place<'r>,
    headers: &mut Vec<Header<'r>>,
    then: impl FnOnce(&Fields<'_>) -> T,
) -> T {
    headers.clear();
    headers.extend(record.headers());
    let origin = Origin::new(topic, partition, offset, record.timestamp_ms, headers);
    let event = Event::from_value(record.value);
    let parsed = kafka_log::parse(&event.text, times);
    then(&Fields { event: &event, parsed: &parsed, origin: &origin })
}

impl Sorted {
    /// Forgets what was taken and keeps the memory.
    pub fn clear(&mut self) {
        self.body.clear();
        self.items.clear();
        self.archive_bytes.clear();
        self.archived.clear();
        self.errors.clear();
        self.n_errors_also = 0;
        self.dropped.clear();
    }
}
