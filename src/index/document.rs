//! The document of a record: one line of JSON with the names of the Elastic Common Schema.
//!
//! What Filebeat's module for Kafka called differently is there under both names, so that its
//! dashboards go on working: `kafka.log.class`, `.thread`, `.trace.class` and `.trace.message`.
//! A field that is not known is left out, never empty or null. No raw line end can get in, which
//! the bulk format and the archive rely on.
//!
//! Source: ECS 8; elastic/beats, `filebeat/module/kafka/log/`.

use super::event::lossy;
use super::fields::Fields;
use super::kafka_log::Level;
use super::origin::write_number;
use crate::time::TimeWriter;

/// Tag of an event whose bytes were not all UTF-8.
pub const INVALID_UTF8: &str = "invalid_utf8";

/// Writes documents.
#[derive(Debug, Default)]
pub struct DocumentWriter {
    times: TimeWriter,
}

impl DocumentWriter {
    /// Returns a writer.
    pub fn new() -> DocumentWriter {
        DocumentWriter::default()
    }

    /// Appends the document of `fields`, without a line end.
    pub fn write(&mut self, out: &mut Vec<u8>, fields: &Fields<'_>) {
        let Fields { event, parsed, origin } = *fields;
        out.extend_from_slice(br#"{"@timestamp":""#);
        self.times.write(out, fields.timestamp_ms());
        out.extend_from_slice(br#"","message":"#);
        write_string(out, parsed.message);
        out.push(b',');
        object(out, "log", |out| {
            text(out, "level", parsed.level.map(Level::as_str));
            text(out, "logger", parsed.logger);
            object(out, "file", |out| text(out, "path", fields.path()));
            number(out, "offset", fields.byte_offset());
            object(out, "origin", |out| {
                object(out, "file", |out| {
                    number(out, "line", parsed.line.map(u64::from));
                });
            });
        });
        object(out, "process", |out| {
            object(out, "thread", |out| text(out, "name", parsed.thread));
        });
        if let Some(error) = &parsed.error {
            object(out, "error", |out| {
                text(out, "type", error.class);
                text(out, "message", error.message);
                text(out, "stack_trace", Some(error.stack_trace));
            });
        }
        object(out, "host", |out| text(out, "name", fields.host()));
        object(out, "kafka", |out| {
            text(out, "topic", Some(origin.topic));
            number(out, "partition", u64::try_from(origin.partition).ok());
            number(out, "offset", u64::try_from(origin.offset).ok());
            object(out, "log", |out| {
                text(out, "class", parsed.logger);
                text(out, "thread", parsed.thread);
                text(out, "component", parsed.component);
                object(out, "trace", |out| {
                    text(out, "class", parsed.error.and_then(|error| error.class));
                    text(out, "message", parsed.error.and_then(|error| error.message));
                });
            });
        });
        object(out, "fields", |out| {
            for (name, value) in fields.envelope_fields() {
                write_string(out, name);
                out.push(b':');
                write_json(out, value);
                out.push(b',');
            }
            for (name, value) in origin.fields() {
                write_string(out, name);
                out.push(b':');
                write_string(out, &lossy(value));
                out.push(b',');
            }
        });
        let envelope = event.envelope.as_ref();
        let tags = envelope.map_or(&[][..], |envelope| &envelope.tags);
        if event.lossy || !tags.is_empty() {
            key(out, "tags");
            out.push(b'[');
            for tag in tags {
                write_json(out, tag);
                out.push(b',');
            }
            if event.lossy {
                write_string(out, INVALID_UTF8);
            } else {
                out.pop(); // the comma behind the last tag
            }
            out.extend_from_slice(b"],");
        }
        out.extend_from_slice(br#""event":{"dataset":"kafka.log"},"service":{"type":"kafka"}}"#);
    }
}

/// Appends an object as a member, with a comma behind it; one without members is left out.
#[inline]
fn object(out: &mut Vec<u8>, name: &'static str, members: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    key(out, name);
    out.push(b'{');
    let inside = out.len();
    members(out);
    if out.len() == inside {
        out.truncate(start);
        return;
    }
    out.pop(); // the comma behind the last member
    out.extend_from_slice(b"},");
}

#[inline]
fn text(out: &mut Vec<u8>, name: &'static str, value: Option<&str>) {
    if let Some(value) = value {
        key(out, name);
        write_string(out, value);
        out.push(b',');
    }
}

#[inline]
fn number(out: &mut Vec<u8>, name: &'static str, value: Option<u64>) {
    if let Some(value) = value {
        key(out, name);
        write_number(out, value);
        out.push(b',');
    }
}

/// Appends a name of the schema, which needs no escapes, and the colon behind it.
#[inline]
fn key(out: &mut Vec<u8>, name: &'static str) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn write_json(out: &mut Vec<u8>, value: &serde_json::Value) {
    serde_json::to_writer(out, value).expect("a Vec takes everything, and keys are strings");
}

/// Appends `value` as a JSON string.
pub fn write_string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    let mut rest = value.as_bytes();
    while let Some(at) = find_special(rest) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            b'"' => out.extend_from_slice(br#"\""#),
            b'\\' => out.extend_from_slice(br"\\"),
            b'\n' => out.extend_from_slice(br"\n"),
            b'\r' => out.extend_from_slice(br"\r"),
            b'\t' => out.extend_from_slice(br"\t"),
            control => {
                let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
                out.extend_from_slice(br"\u00");
                out.extend_from_slice(&[hex(control >> 4), hex(control & 0xf)]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Returns where the first byte stands that a JSON string cannot hold as it is.
fn find_special(bytes: &[u8]) -> Option<usize> {
    let is_special = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
    // Sixteen at a time without a branch in between: this is compiled to vector instructions,
    // and most text has nothing special at all.
    let (chunks, _) = bytes.as_chunks::<16>();
    let is_plain = |chunk: &[u8; 16]| !chunk.iter().fold(false, |any, b| any | is_special(b));
    let n_plain = 16 * chunks.iter().take_while(|chunk| is_plain(chunk)).count();
    let rest = &bytes[n_plain..];
    rest.iter().position(is_special).map(|at| n_plain + at)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use serde_json::{Value, json};

    use super::*;
    use crate::index::event::Event;
    use crate::index::fields::Field;
    use crate::index::kafka_log::parse;
    use crate::index::origin::{Header, Origin};
    use crate::time::TimeReader;

    const HEADERS: [Header; 6] = [
        ("host", b"broker-1"),
        ("path", b"/var/log/kafka/server.log"),
        ("file_id", b"10-ab"),
        ("offset", b"4711"),
        ("length", b"227"),
        ("env", b"prod"),
    ];

    const ERROR: &[u8] = b"[2020-01-20 01:32:00,705] [ERROR] [thread-1] [state.change.logger:7] - [Controller id=1] It \"failed\"\njava.lang.Error: not\tgood\n\tat a.B.c(B.java:1)";

    /// Returns the document of `value`, after `inspect` has seen its fields.
    fn document(value: &[u8], headers: &[Header<'_>], inspect: impl Fn(&Fields<'_>)) -> String {
        let event = Event::from_value(value);
        let parsed = parse(&event.text, &mut TimeReader::new(TimeZone::UTC));
        let origin = Origin::new("broker-logs", 3, 42, 1_795_389_596_230, headers);
        let fields = Fields { event: &event, parsed: &parsed, origin: &origin };
        inspect(&fields);
        let mut out = Vec::new();
        DocumentWriter::new().write(&mut out, &fields);
        assert!(!out.contains(&b'\n') && !out.contains(&b'\r'));
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    fn json_of(value: &[u8], headers: &[Header<'_>]) -> Value {
        serde_json::from_str(&document(value, headers, |_| ())).expect("JSON")
    }

    #[test]
    fn all_fields_of_an_error_are_there_under_their_names() {
        assert_eq!(
            json_of(ERROR, &HEADERS),
            json!({
                "@timestamp": "2020-01-20T01:32:00.705Z",
                "message": "It \"failed\"",
                "log": {
                    "level": "ERROR",
                    "logger": "state.change.logger",
                    "file": {"path": "/var/log/kafka/server.log"},
                    "offset": 4711,
                    "origin": {"file": {"line": 7}},
                },
                "process": {"thread": {"name": "thread-1"}},
                "error": {
                    "type": "java.lang.Error",
                    "message": "not\tgood",
                    "stack_trace": "java.lang.Error: not\tgood\n\tat a.B.c(B.java:1)",
                },
                "host": {"name": "broker-1"},
                "kafka": {
                    "topic": "broker-logs",
                    "partition": 3,
                    "offset": 42,
                    "log": {
                        "class": "state.change.logger",
                        "thread": "thread-1",
                        "component": "Controller id=1",
                        "trace": {"class": "java.lang.Error", "message": "not\tgood"},
                    },
                },
                "fields": {"env": "prod"},
                "event": {"dataset": "kafka.log"},
                "service": {"type": "kafka"},
            })
        );
    }

    #[test]
    fn a_text_without_any_layout_is_a_document_of_its_message_and_the_records_time() {
        let document = document(b"===> Launching kafka ...", &[], |_| ());
        assert_eq!(
            document,
            r#"{"@timestamp":"2026-11-22T23:19:56.230Z","message":"===> Launching kafka ...","kafka":{"topic":"broker-logs","partition":3,"offset":42},"event":{"dataset":"kafka.log"},"service":{"type":"kafka"}}"#
        );
    }

    #[test]
    fn what_filebeat_knows_is_kept_unless_a_header_knows_better() {
        let value = json!({
            "@timestamp": "2026-11-22T23:00:00.000Z",
            "message": "text",
            "log": {"offset": 1, "file": {"path": "/a"}},
            "host": {"name": "h"},
            "fields": {"env": "test", "rack": {"row": 7}},
            "tags": ["kafka", "eu"],
        })
        .to_string();
        assert_eq!(
            json_of(value.as_bytes(), &HEADERS[4..]),
            json!({
                "@timestamp": "2026-11-22T23:00:00.000Z",
                "message": "text",
                "log": {"file": {"path": "/a"}, "offset": 1},
                "host": {"name": "h"},
                "kafka": {"topic": "broker-logs", "partition": 3, "offset": 42},
                "fields": {"rack": {"row": 7}, "env": "prod"},
                "tags": ["kafka", "eu"],
                "event": {"dataset": "kafka.log"},
                "service": {"type": "kafka"},
            })
        );
        let known = json_of(value.as_bytes(), &HEADERS);
        assert_eq!(known["host"]["name"], "broker-1");
        assert_eq!(known["log"]["offset"], 4711);
    }

    #[test]
    fn every_field_a_route_can_ask_for_is_in_the_document_under_that_name() {
        let json = json_of(ERROR, &HEADERS);
        let names = Field::NAMES.map(|(name, _)| name);
        for name in names.into_iter().chain(["fields.env"]) {
            let field = Field::named(name).expect(name);
            let in_document = match json.pointer(&format!("/{}", name.replace('.', "/"))) {
                Some(Value::String(text)) => text.clone(),
                other => other.expect(name).to_string(),
            };
            document(ERROR, &HEADERS, |fields| {
                assert_eq!(field.value(fields).as_deref(), Some(in_document.as_str()), "{name}");
            });
        }
    }

    #[test]
    fn no_byte_of_a_value_or_a_header_can_break_the_json() {
        let all_bytes: Vec<u8> = (0..=255).collect();
        let headers: [Header; 4] = [
            ("a\"\n", &all_bytes),
            ("path", &all_bytes),
            ("host", b"\n\"},{"),
            ("offset", b"\"7\""),
        ];
        let json = json_of(&all_bytes, &headers);
        let lossy = String::from_utf8_lossy(&all_bytes);
        assert_eq!(json["message"], *lossy);
        assert_eq!(json["fields"]["a\"\n"], *lossy);
        assert_eq!(json["log"], json!({"file": {"path": lossy}}));
        assert_eq!(json["host"]["name"], "\n\"},{");
        assert_eq!(json["tags"], json!([INVALID_UTF8]));
    }

    #[test]
    fn strings_are_escaped_wherever_the_special_byte_stands() {
        for len in [0, 1, 15, 16, 17, 31, 32, 33, 100] {
            for special in ["", "\"", "\\", "\n", "\0", "\x1f", "\u{7f}", "\u{2028}", "\u{1f600}"] {
                for at in 0..=len {
                    let text = format!("{}{special}{}", "x".repeat(at), "y".repeat(len - at));
                    let mut out = Vec::new();
                    write_string(&mut out, &text);
                    let read: String = serde_json::from_slice(&out).expect("JSON");
                    assert_eq!(read, text);
                }
            }
        }
    }
}
