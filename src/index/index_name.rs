//! Index names with the time of the record in them.
//!
//! The time is the Kafka timestamp of the record: never the clock, and not the time in the
//! event's text either, so that reading a topic again, or with a better parser, meets each
//! document in the index where it already is.

use crate::time::UtcHour;

/// A pattern for index names, e.g. `broker-logs-{yyyy.MM.dd}`.
#[derive(Debug)]
pub struct IndexName {
    parts: Vec<Part>,
    /// The hour last rendered, and its name.
    rendered: Option<(UtcHour, Vec<u8>)>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Year,
    Month,
    Day,
    Hour,
}

/// Longest index name, in bytes. Source: Elasticsearch, create index API.
const NAME_BYTES_MAX: usize = 255;

impl IndexName {
    /// Returns the pattern, in which `yyyy`, `MM`, `dd` and `HH` within braces stand for the time
    /// in UTC, with `.`, `-` or `_` between them as they are.
    ///
    /// Errors: what is wrong with the pattern or with the names it makes, for the caller to put
    /// the configuration key to.
    /// Source: rules for names in Elasticsearch's create index API; OpenSearch has the same.
    pub fn new(pattern: &str) -> Result<IndexName, String> {
        let mut parts = Vec::new();
        let mut rest = pattern;
        while let Some((text, braced)) = rest.split_once('{') {
            let (mut time, behind) = braced
                .split_once('}')
                .ok_or_else(|| format!("`{{` without `}}` in `{pattern}`"))?;
            parts.push(Part::Text(text.to_owned()));
            while !time.is_empty() {
                let (part, len) = Part::of_time(time).ok_or_else(|| {
                    format!("`{time}` in `{pattern}` is none of yyyy, MM, dd, HH, `.`, `-`, `_`")
                })?;
                parts.push(part);
                time = &time[len..];
            }
            rest = behind;
        }
        parts.push(Part::Text(rest.to_owned()));
        let name = IndexName { parts, rendered: None };
        let sample = name.render(UtcHour::of(0).0);
        let sample = String::from_utf8(sample).expect("made of text");
        match problem_of(&sample) {
            Some(problem) => Err(format!("an index name such as `{sample}` {problem}")),
            None => Ok(name),
        }
    }

    /// Appends the name for a record of that time.
    ///
    /// Units: `timestamp_ms` is the record's Kafka timestamp. Without one (-1) the name is that
    /// of 1970, for the same record has to lead to the same name whenever it is read.
    pub fn write(&mut self, out: &mut Vec<u8>, timestamp_ms: i64) {
        let (hour, _) = UtcHour::of(timestamp_ms.max(0));
        if !matches!(&self.rendered, Some((rendered, _)) if *rendered == hour) {
            self.rendered = Some((hour, self.render(hour)));
        }
        if let Some((_, name)) = &self.rendered {
            out.extend_from_slice(name);
        }
    }

    fn render(&self, hour: UtcHour) -> Vec<u8> {
        let start = hour.start();
        let mut name = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Year => name.push_str(&format!("{:04}", start.year())),
                Part::Month => name.push_str(&format!("{:02}", start.month())),
                Part::Day => name.push_str(&format!("{:02}", start.day())),
                Part::Hour => name.push_str(&format!("{:02}", start.hour())),
            }
        }
        name.into_bytes()
    }
}

impl Part {
    /// Returns what `time`, the inside of braces, begins with, and its length.
    fn of_time(time: &str) -> Option<(Part, usize)> {
        let named =
            [("yyyy", Part::Year), ("MM", Part::Month), ("dd", Part::Day), ("HH", Part::Hour)];
        for (name, part) in named {
            if time.starts_with(name) {
                return Some((part, name.len()));
            }
        }
        time.starts_with(['.', '-', '_']).then(|| (Part::Text(time[..1].to_owned()), 1))
    }
}

fn problem_of(name: &str) -> Option<String> {
    let forbidden = |c: char| r#"\/*?"<>|,#:}"#.contains(c) || c.is_whitespace() || c.is_control();
    if name.is_empty() || name == "." || name == ".." {
        return Some("is no name".to_owned());
    }
    if name.starts_with(['-', '_', '+']) {
        return Some("must not start with `-`, `_` or `+`".to_owned());
    }
    if name.chars().any(char::is_uppercase) {
        return Some("must be in lower case".to_owned());
    }
    if let Some(c) = name.chars().find(|c| forbidden(*c)) {
        return Some(format!("must not hold {c:?}"));
    }
    (name.len() > NAME_BYTES_MAX).then(|| format!("is longer than {NAME_BYTES_MAX} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_a_function_of_the_records_time_in_utc() {
        for (pattern, timestamp_ms, name) in [
            ("broker-logs-{yyyy.MM.dd}", 1_795_389_596_230, "broker-logs-2026.11.22"),
            ("broker-logs-{yyyy.MM.dd}", 1_795_391_999_999, "broker-logs-2026.11.22"),
            ("broker-logs-{yyyy.MM.dd}", 1_795_392_000_000, "broker-logs-2026.11.23"),
            ("a-{yyyy}-{MM}-b", 1_795_389_596_230, "a-2026-11-b"),
            ("{yyyyMMdd_HH}", 1_795_389_596_230, "20261122_23"),
            ("logs", 1_795_389_596_230, "logs"),
            ("l-{yyyy}", -1, "l-1970"),
            ("l-{yyyy}", i64::MAX, "l-9999"),
        ] {
            let mut out = Vec::new();
            IndexName::new(pattern).expect(pattern).write(&mut out, timestamp_ms);
            assert_eq!(String::from_utf8(out).unwrap(), name, "{pattern}");
        }
    }

    #[test]
    fn a_name_follows_the_time_from_one_hour_to_the_next_and_back() {
        let mut index = IndexName::new("l-{dd.HH}").expect("a pattern");
        let hour = 3_600_000;
        let mut out = Vec::new();
        for timestamp_ms in [0, hour - 1, hour, 23 * hour, 24 * hour, 0] {
            index.write(&mut out, timestamp_ms);
            out.push(b' ');
        }
        let names = "l-01.00 l-01.00 l-01.01 l-01.23 l-02.00 l-01.00 ";
        assert_eq!(String::from_utf8(out).unwrap(), names);
    }

    #[test]
    fn patterns_that_would_make_no_index_name_are_refused_with_the_reason() {
        for (pattern, problem) in [
            ("", "is no name"),
            ("..", "is no name"),
            ("Logs-{yyyy}", "must be in lower case"),
            ("-{yyyy}", "must not start with `-`, `_` or `+`"),
            ("a b", "must not hold ' '"),
            ("a:b", "must not hold ':'"),
            ("a}b", "must not hold '}'"),
            ("a-{yyyy", "`{` without `}` in `a-{yyyy`"),
            ("a-{YYYY}", "`YYYY` in `a-{YYYY}` is none of"),
            ("a-{yyyy.mm}", "`mm` in `a-{yyyy.mm}` is none of"),
            (&"x".repeat(256), "is longer than 255 bytes"),
        ] {
            let refusal = IndexName::new(pattern).expect_err(pattern);
            assert!(refusal.contains(problem), "{pattern}: {refusal}");
        }
    }
}
