//! All that is known of one record, and its parts by the names they have in the document.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

use super::event::{Envelope, Event, lossy};
use super::kafka_log::{Level, Parsed};
use super::origin::Origin;

/// All that is known of one record.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    /// What came in its value.
    pub event: &'a Event<'a>,
    /// What the event's text says.
    pub parsed: &'a Parsed<'a>,
    /// Where it comes from.
    pub origin: &'a Origin<'a>,
}

impl<'a> Fields<'a> {
    /// Returns when the event happened, in milliseconds since the epoch: by its own text, else
    /// by Filebeat, else by the record. A record without a timestamp is of 1970.
    pub fn timestamp_ms(&self) -> i64 {
        let own = self.parsed.time.map(|time| time.ms);
        let read = || self.envelope()?.timestamp_ms;
        own.or_else(read).unwrap_or(self.origin.timestamp_ms.max(0))
    }

    /// Returns the host that logged the event; a header goes before Filebeat's word.
    pub fn host(&self) -> Option<&'a str> {
        let header = self.origin.host.as_deref();
        header.or_else(|| self.envelope()?.host.as_deref())
    }

    /// Returns the path of its file.
    pub fn path(&self) -> Option<&'a str> {
        let header = self.origin.path.as_deref();
        header.or_else(|| self.envelope()?.path.as_deref())
    }

    /// Returns its place in the file, in bytes.
    pub fn byte_offset(&self) -> Option<u64> {
        let header = self.origin.byte_offset;
        header.or_else(|| self.envelope()?.byte_offset)
    }

    /// Returns the static fields that headers do not name: those Filebeat added.
    pub fn envelope_fields(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let fields = self.envelope().into_iter().flat_map(|envelope| &envelope.fields);
        let origin = self.origin;
        fields
            .map(|(name, value)| (name.as_str(), value))
            .filter(move |(name, _)| origin.fields().all(|(header, _)| header != *name))
    }

    fn envelope(&self) -> Option<&'a Envelope> {
        self.event.envelope.as_ref()
    }
}

/// A field that a route can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// `message`
    Message,
    /// `log.level`
    Level,
    /// `log.logger`, `kafka.log.class`
    Logger,
    /// `log.origin.file.line`
    Line,
    /// `process.thread.name`, `kafka.log.thread`
    Thread,
    /// `kafka.log.component`
    Component,
    /// `error.type`, `kafka.log.trace.class`
    ErrorType,
    /// `error.message`, `kafka.log.trace.message`
    ErrorMessage,
    /// `error.stack_trace`
    StackTrace,
    /// `host.name`
    Host,
    /// `log.file.path`
    Path,
    /// `log.offset`
    ByteOffset,
    /// `kafka.topic`
    Topic,
    /// `kafka.partition`
    Partition,
    /// `kafka.offset`
    Offset,
    /// `fields.NAME`: a static field.
    Static(String),
}

impl Field {
    /// The names of all fields but the static ones.
    pub const NAMES: [(&str, Field); 19] = [
        ("message", Field::Message),
        ("log.level", Field::Level),
        ("log.logger", Field::Logger),
        ("log.origin.file.line", Field::Line),
        ("log.file.path", Field::Path),
        ("log.offset", Field::ByteOffset),
        ("process.thread.name", Field::Thread),
        ("error.type", Field::ErrorType),
        ("error.message", Field::ErrorMessage),
        ("error.stack_trace", Field::StackTrace),
        ("host.name", Field::Host),
        ("kafka.log.class", Field::Logger),
        ("kafka.log.thread", Field::Thread),
        ("kafka.log.component", Field::Component),
        ("kafka.log.trace.class", Field::ErrorType),
        ("kafka.log.trace.message", Field::ErrorMessage),
        ("kafka.topic", Field::Topic),
        ("kafka.partition", Field::Partition),
        ("kafka.offset", Field::Offset),
    ];

    /// Returns the field of that name.
    pub fn named(name: &str) -> Option<Field> {
        if let Some(name) = name.strip_prefix("fields.") {
            return Some(Field::Static(name.to_owned()));
        }
        let mut names = Field::NAMES.into_iter();
        names.find(|(known, _)| *known == name).map(|(_, field)| field)
    }

    /// Returns what `fields` hold for it, as text; `None` where the document leaves it out.
    pub fn value<'a>(&self, fields: &Fields<'a>) -> Option<Cow<'a, str>> {
        let Fields { parsed, origin, .. } = *fields;
        let error = || parsed.error.as_ref();
        let text = match self {
            Field::Message => Some(parsed.message),
            Field::Level => parsed.level.map(Level::as_str),
            Field::Logger => parsed.logger,
            Field::Line => return Some(parsed.line?.to_string().into()),
            Field::Thread => parsed.thread,
            Field::Component => parsed.component,
            Field::ErrorType => error()?.class,
            Field::ErrorMessage => error()?.message,
            Field::StackTrace => Some(error()?.stack_trace),
            Field::Host => fields.host(),
            Field::Path => fields.path(),
            Field::ByteOffset => return Some(fields.byte_offset()?.to_string().into()),
            Field::Topic => Some(origin.topic),
            Field::Partition => return Some(origin.partition.to_string().into()),
            Field::Offset => return Some(origin.offset.to_string().into()),
            Field::Static(name) => return static_value(fields, name),
        };
        text.map(Cow::Borrowed)
    }
}

/// Its name; where it has two, that of ECS.
impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, Field::NAMES.iter().find(|(_, field)| field == self)) {
            (Field::Static(name), _) => write!(f, "fields.{name}"),
            (_, known) => f.write_str(known.map_or("", |(name, _)| name)),
        }
    }
}

/// Returns the static field of that name; one that is not text, as its JSON.
fn static_value<'a>(fields: &Fields<'a>, name: &str) -> Option<Cow<'a, str>> {
    if let Some((_, value)) = fields.origin.fields().find(|(header, _)| *header == name) {
        return Some(lossy(value));
    }
    let (_, value) = fields.envelope_fields().find(|(field, _)| *field == name)?;
    Some(match value {
        Value::String(text) => Cow::Borrowed(text.as_str()),
        other => Cow::Owned(other.to_string()),
    })
}
