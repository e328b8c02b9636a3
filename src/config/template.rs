//! Text with names in braces that stand for what a file has: `{host}`, `{file}`, `{folder}`,
//! `{path}`, and `{NAME}` for a static field.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Longest name of a topic. Source: `org.apache.kafka.common.internals.Topic`.
const TOPIC_LEN_MAX: usize = 249;

/// A text with names in braces, known to be well formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Host,
    /// The name of the file, as it is written under.
    File,
    /// The name of its folder.
    Folder,
    Path,
    Field(String),
}

/// What the names of a template stand for.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The host's name.
    pub host: &'a str,
    /// The path the file is written under.
    pub path: &'a Path,
    /// Static fields of the input.
    pub fields: &'a BTreeMap<String, String>,
}

impl Template {
    /// Reads a template.
    ///
    /// Errors: a brace without its other.
    pub(super) fn parse(text: &str) -> Result<Template, String> {
        let unmatched = || format!("has a brace without its other: {text:?}");
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let (name, behind) = behind.split_once('}').ok_or_else(unmatched)?;
            if before.contains('}') || name.contains('{') {
                return Err(unmatched());
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(match name {
                "host" => Part::Host,
                "file" => Part::File,
                "folder" => Part::Folder,
                "path" => Part::Path,
                name => Part::Field(name.to_owned()),
            });
            rest = behind;
        }
        if rest.contains('}') {
            return Err(unmatched());
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Template { parts })
    }

    /// Returns the text in front of the first name in braces, and whether that is all of it.
    pub fn fixed(&self) -> (&str, bool) {
        match self.parts.as_slice() {
            [] => ("", true),
            [Part::Text(text)] => (text, true),
            [Part::Text(text), ..] => (text, false),
            _ => ("", false),
        }
    }

    /// Returns the text with another in place of each name.
    pub(super) fn show_with(&self, name: &str) -> String {
        let show = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            _ => name.to_owned(),
        };
        self.parts.iter().map(show).collect()
    }

    /// Returns a name in braces that is none of ours and of no field.
    pub(super) fn unknown_name(&self, fields: &BTreeMap<String, String>) -> Option<&str> {
        self.parts.iter().find_map(|part| match part {
            Part::Field(name) if !fields.contains_key(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Returns the text with what the names stand for, byte for byte.
    pub fn render(&self, names: &Names<'_>) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        let mut out = Vec::new();
        for part in &self.parts {
            let bytes = match part {
                Part::Text(text) => text.as_bytes(),
                Part::Host => names.host.as_bytes(),
                Part::Path => names.path.as_os_str().as_bytes(),
                Part::File => names.path.file_name().unwrap_or_default().as_bytes(),
                Part::Folder => {
                    let folder = names.path.parent().and_then(Path::file_name);
                    folder.unwrap_or_default().as_bytes()
                }
                Part::Field(name) => names.fields.get(name).map_or(&b""[..], |it| it.as_bytes()),
            };
            out.extend_from_slice(bytes);
        }
        out
    }

    /// Returns the text as the name of a topic: whatever a topic's name cannot have becomes `_`.
    pub fn topic(&self, names: &Names<'_>) -> String {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let bytes = self.render(names).into_iter().take(TOPIC_LEN_MAX);
        let topic: String =
            bytes.map(|byte| if legal(byte) { char::from(byte) } else { '_' }).collect();
        match topic.as_str() {
            "" | "." | ".." => "_".repeat(topic.len().max(1)),
            _ => topic,
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Host => f.write_str("{host}"),
            Part::File => f.write_str("{file}"),
            Part::Folder => f.write_str("{folder}"),
            Part::Path => f.write_str("{path}"),
            Part::Field(name) => write!(f, "{{{name}}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(template: &str, path: &str) -> String {
        let fields = BTreeMap::from([("env".to_owned(), "prod eu".to_owned())]);
        let names = Names { host: "h1.example.org", path: Path::new(path), fields: &fields };
        let template = Template::parse(template).unwrap();
        assert_eq!(template.unknown_name(&fields), None);
        template.topic(&names)
    }

    #[test]
    fn names_stand_for_what_a_file_has_and_no_byte_of_them_leaves_the_alphabet_of_topics() {
        let log = "/var/log/kafka/server.log";
        for (template, path, expected) in [
            ("broker-logs", log, "broker-logs"),
            ("logs.{folder}.{file}", log, "logs.kafka.server.log"),
            ("{env}-{host}", log, "prod_eu-h1.example.org"),
            ("{path}", log, "_var_log_kafka_server.log"),
            ("{file}", "/x/a b\u{1b}[3\n./..ü", "..__"),
            ("{folder}", "/server.log", "_"),
            ("{file}", "/..", "_"),
        ] {
            assert_eq!(topic(template, path), expected, "{template} {path}");
        }
        assert_eq!(topic("{file}", &format!("/{}", "a".repeat(255))).len(), TOPIC_LEN_MAX);
    }

    #[test]
    fn a_template_is_shown_as_it_was_written_and_refused_where_braces_do_not_match() {
        for text in ["", "a", "{host}/{file}{folder}-{path}", "x{rack}"] {
            assert_eq!(Template::parse(text).unwrap().to_string(), text);
        }
        for text in ["{", "}", "a{b", "a}b", "{a{b}}", "}{host}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
        let template = Template::parse("a{host}{rack}").unwrap();
        assert_eq!(template.unknown_name(&BTreeMap::new()), Some("rack"));
        assert_eq!(template.fixed(), ("a", false));
        assert_eq!(Template::parse("ab").unwrap().fixed(), ("ab", true));
        assert_eq!(Template::parse("{host}b").unwrap().fixed(), ("", false));
    }
}
