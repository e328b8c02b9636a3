//! The event in a record's value: the value itself, or the `message` of Filebeat's JSON.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

/// An event as it came out of a record.
#[derive(Debug)]
pub struct Event<'a> {
    /// What was logged; bytes that are not UTF-8 have become U+FFFD.
    pub text: Cow<'a, str>,
    /// Some bytes of the value were not UTF-8.
    pub lossy: bool,
    /// What the JSON around the text says; `None` for a value that is the text.
    pub envelope: Option<Envelope>,
}

/// What Filebeat puts around an event.
#[derive(Debug, Default, PartialEq)]
pub struct Envelope {
    /// `@timestamp`, milliseconds since the epoch: when Filebeat read the event.
    pub timestamp_ms: Option<i64>,
    /// `host.name`
    pub host: Option<String>,
    /// `log.file.path`
    pub path: Option<String>,
    /// `log.offset`, in bytes.
    pub byte_offset: Option<u64>,
    /// `fields`
    pub fields: Map<String, Value>,
    /// `tags`
    pub tags: Vec<Value>,
}

impl<'a> Event<'a> {
    /// Returns the event in `value`, the bytes of a record's value; a record without one has an
    /// empty event.
    ///
    /// A value that is one JSON object with a string `message` is taken for Filebeat's; any other
    /// is the event itself.
    pub fn from_value(value: &'a [u8]) -> Event<'a> {
        match lossy(value) {
            Cow::Borrowed(text) => match Json::read(text) {
                Some((text, envelope)) => Event::enveloped(text, false, envelope),
                None => Event::plain(Cow::Borrowed(text), false),
            },
            Cow::Owned(text) => match Json::read(&text) {
                Some((text, envelope)) => {
                    Event::enveloped(Cow::Owned(text.into_owned()), true, envelope)
                }
                None => Event::plain(Cow::Owned(text), true),
            },
        }
    }

    fn plain(text: Cow<'a, str>, lossy: bool) -> Event<'a> {
        Event { text, lossy, envelope: None }
    }

    fn enveloped(text: Cow<'a, str>, lossy: bool, envelope: Envelope) -> Event<'a> {
        Event { text, lossy, envelope: Some(envelope) }
    }
}

/// Returns `bytes` as text, with U+FFFD for what is not UTF-8.
///
/// The standard library's `from_utf8_lossy` goes byte by byte from the start; what is UTF-8, and
/// nearly all is, can be checked by the word.
pub(super) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

/// The keys of Filebeat's JSON that are kept, whatever their types.
#[derive(Deserialize)]
struct Json<'a> {
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(rename = "@timestamp", default)]
    timestamp: Value,
    #[serde(default)]
    host: Value,
    #[serde(default)]
    log: Value,
    #[serde(default)]
    fields: Value,
    #[serde(default)]
    tags: Value,
}

impl Json<'_> {
    /// Returns the message of the object in `text` and what else it says; `None` if that is no
    /// object with a message.
    fn read(text: &str) -> Option<(Cow<'_, str>, Envelope)> {
        if !text.starts_with('{') {
            return None;
        }
        let json: Json<'_> = serde_json::from_str(text).ok()?;
        let text_at = |value: &Value, path| Some(value.pointer(path)?.as_str()?.to_owned());
        let timestamp: Option<Timestamp> = json.timestamp.as_str().and_then(|t| t.parse().ok());
        let envelope = Envelope {
            timestamp_ms: timestamp.map(Timestamp::as_millisecond),
            host: text_at(&json.host, "/name"),
            path: text_at(&json.log, "/file/path"),
            byte_offset: json.log.pointer("/offset").and_then(Value::as_u64),
            fields: match json.fields {
                Value::Object(fields) => fields,
                _ => Map::new(),
            },
            tags: match json.tags {
                Value::Array(tags) => tags,
                _ => Vec::new(),
            },
        };
        Some((json.message, envelope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_that_is_no_json_object_with_a_message_is_the_event_itself() {
        for value in [
            "",
            "[2017-08-04 10:48:20,377] INFO starting (kafka.server.KafkaServer)",
            "{",
            "{} trailing",
            "{}",
            r#"["message"]"#,
            r#"{"log":{"level":"INFO"}}"#,
            r#"{"message":17}"#,
            r#"{"message":null}"#,
            r#"{"message":"one"} {"message":"two"}"#,
        ] {
            let event = Event::from_value(value.as_bytes());
            let got = (event.text.as_ref(), event.lossy, event.envelope);
            assert_eq!(got, (value, false, None));
        }
    }

    #[test]
    fn filebeats_json_gives_its_message_and_keeps_what_it_knows_of_the_origin() {
        let value = json!({
            "@timestamp": "2026-11-22T23:19:56.230Z",
            "@metadata": {"beat": "filebeat", "version": "8.17.0"},
            "message": "[2017-08-04 10:48:20,377] ERROR \"x\" (a.B)\njava.lang.Error",
            "log": {"offset": 4711, "file": {"path": "/var/log/kafka/server.log"}, "flags": ["multiline"]},
            "host": {"name": "broker-1"},
            "agent": {"type": "filebeat"},
            "fields": {"env": "prod", "rack": {"row": 7}},
            "tags": ["kafka"],
        })
        .to_string();
        let event = Event::from_value(value.as_bytes());
        assert_eq!(event.text, "[2017-08-04 10:48:20,377] ERROR \"x\" (a.B)\njava.lang.Error");
        let envelope = event.envelope.expect("it is JSON");
        assert_eq!(envelope.timestamp_ms, Some(1_795_389_596_230));
        assert_eq!(envelope.host.as_deref(), Some("broker-1"));
        assert_eq!(envelope.path.as_deref(), Some("/var/log/kafka/server.log"));
        assert_eq!(envelope.byte_offset, Some(4711));
        assert_eq!(Value::Object(envelope.fields), json!({"env": "prod", "rack": {"row": 7}}));
        assert_eq!(envelope.tags, [json!("kafka")]);
    }

    #[test]
    fn json_of_unexpected_types_still_gives_its_message() {
        let value = r#"{"message":"m","@timestamp":5,"host":"h","log":{"offset":-1,"file":"f"},"fields":[1],"tags":"t"}"#;
        let event = Event::from_value(value.as_bytes());
        assert!(matches!(event.text, Cow::Borrowed("m")));
        assert_eq!(event.envelope, Some(Envelope::default()));
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_replaced_and_flagged() {
        for (value, text) in [
            (&b"a\xffb"[..], "a\u{fffd}b"),
            (b"{\"message\":\"a\xffb\"}", "a\u{fffd}b"),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
        ] {
            let event = Event::from_value(value);
            assert_eq!((event.text.as_ref(), event.lossy), (text, true));
        }
    }
}
