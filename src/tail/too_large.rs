//! What becomes of a record that is larger than its topic takes, however alone it goes.
//!
//! Its text is the ground it stands for, so that a part of the text stands for a part of the ground,
//! and the headers of the parts say so as those of an over-long line do. Where text and ground are
//! not the same (another encoding, a line that was cut, an event of two files) nothing is cut: the
//! record goes whole to the state directory.

use crate::batch::{LeftOut, TooLarge};
use crate::config::RecordTooLarge;
use crate::kafka::record_batch::{Headers, RecordArena, RecordRef, put_header};

/// Text that is not cut any further: then it is the key and the headers that are too large.
const TEXT_LEN_MIN: usize = 512;
/// The longest line terminator.
const TERMINATOR_LEN_MAX: u64 = 2;

/// Returns what does it; `None`: the record is refused as it is.
pub(super) fn rule(policy: RecordTooLarge) -> Option<TooLarge> {
    match policy {
        RecordTooLarge::Split => Some(split),
        RecordTooLarge::Truncate => Some(truncate),
        RecordTooLarge::Reject => None,
    }
}

/// Puts the two halves of a record into `parts`.
fn split(record: &RecordRef<'_>, parts: &mut [RecordArena; 2]) -> Option<LeftOut> {
    let whole = Whole::of(record)?;
    let (head, tail) = record.value.split_at(whole.middle);
    let at = whole.middle as u64;
    let first = Part { text: head, offset: whole.offset, length: at, cut: 0, continued: None };
    let offset = whole.offset + at;
    let length = whole.length - at;
    let second = Part { text: tail, offset, length, cut: 0, continued: Some(true) };
    let [head, tail] = parts;
    first.push(record, head);
    second.push(record, tail);
    Some(LeftOut::default())
}

/// Puts the first half of a record into `parts`, for all of its ground.
fn truncate(record: &RecordRef<'_>, parts: &mut [RecordArena; 2]) -> Option<LeftOut> {
    let whole = Whole::of(record)?;
    let n_bytes = (record.value.len() - whole.middle) as u64;
    let part = Part {
        text: &record.value[..whole.middle],
        offset: whole.offset,
        length: whole.length,
        cut: whole.cut + n_bytes,
        continued: None,
    };
    part.push(record, &mut parts[0]);
    Some(LeftOut { n_records: u32::from(whole.cut == 0), n_bytes })
}

/// A record whose text is its ground.
struct Whole {
    offset: u64,
    length: u64,
    /// What was cut off the end of its text before.
    cut: u64,
    /// Where its text is cut, not inside a character.
    middle: usize,
}

impl Whole {
    /// `None` where text and ground are not the same, or nothing is to be gained.
    fn of(record: &RecordRef<'_>) -> Option<Whole> {
        let number = |wanted| {
            let mut headers = record.headers().filter(|(name, _)| *name == wanted);
            headers.next().and_then(|(_, value)| str::from_utf8(value).ok()?.parse().ok())
        };
        let (offset, length) = (number("offset")?, number("length")?);
        let cut = number("cut").unwrap_or(0);
        let text_len = record.value.len() as u64 + cut;
        let is_ground = (text_len..=text_len + TERMINATOR_LEN_MAX).contains(&length);
        if !is_ground || record.value.len() < 2 * TEXT_LEN_MIN || number("rest_length").is_some() {
            return None;
        }
        let is_inside = |at: usize| record.value[at] & 0xc0 == 0x80;
        let half = record.value.len() / 2;
        let middle = (half - 3..=half).rev().find(|at| !is_inside(*at)).unwrap_or(half);
        Some(Whole { offset, length, cut, middle })
    }
}

/// What goes in place of a record.
struct Part<'a> {
    text: &'a [u8],
    offset: u64,
    length: u64,
    cut: u64,
    /// `None`: as the record was.
    continued: Option<bool>,
}

impl Part<'_> {
    fn push(&self, record: &RecordRef<'_>, arena: &mut RecordArena) {
        let mut headers = Vec::new();
        let mut count = 0;
        let mut put = |name: &str, value: &[u8]| {
            put_header(&mut headers, name, value);
            count += 1;
        };
        for (name, value) in record.headers() {
            match name {
                "offset" => put(name, self.offset.to_string().as_bytes()),
                "length" => put(name, self.length.to_string().as_bytes()),
                "cut" => {}
                "continued" if self.continued.is_some() => {}
                // Said of the end, which is not in this part.
                "partial" if self.continued.is_none() && self.cut == 0 => {}
                _ => put(name, value),
            }
        }
        if self.cut > 0 {
            put("cut", self.cut.to_string().as_bytes());
        }
        if self.continued == Some(true) {
            put("continued", b"1");
        }
        let headers = Headers { count, fixed: &headers, varying: &[] };
        arena.push(record.timestamp_ms, record.key, self.text, headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Strings = Vec<(String, String)>;

    fn arena(value: &[u8], headers: &[(&str, &str)]) -> RecordArena {
        let mut fixed = Vec::new();
        for (name, value) in headers {
            put_header(&mut fixed, name, value.as_bytes());
        }
        let count = headers.len() as u32;
        let mut arena = RecordArena::default();
        let headers = Headers { count, fixed: &fixed, varying: &[] };
        arena.push(7, Some(b"key"), value, headers);
        arena
    }

    fn strings(headers: &[(&str, &str)]) -> Strings {
        headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    /// Applies a rule over and over, as a broker that takes `len_max` bytes of text makes it.
    fn apply(
        rule: TooLarge,
        arena: &RecordArena,
        len_max: usize,
    ) -> (Vec<(Vec<u8>, Strings)>, LeftOut) {
        let mut left_out = LeftOut::default();
        let mut records = Vec::new();
        for record in arena.iter() {
            if record.value.len() <= len_max {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let headers = record.headers().map(|(name, value)| (name.into(), text(value)));
                records.push((record.value.to_vec(), headers.collect()));
                assert_eq!((record.timestamp_ms, record.key), (7, Some(&b"key"[..])));
                continue;
            }
            let mut parts = [RecordArena::default(), RecordArena::default()];
            let left = rule(&record, &mut parts).expect("cut");
            left_out.add(left);
            for part in &parts {
                let (more, left) = apply(rule, part, len_max);
                records.extend(more);
                left_out.add(left);
            }
        }
        (records, left_out)
    }

    #[test]
    fn the_parts_of_a_record_that_is_split_are_its_text_and_cover_its_ground() {
        let text: String = (0..1000).map(|n| if n % 3 == 0 { 'ü' } else { 'a' }).collect();
        let length = (text.len() + 1).to_string();
        let offset = ("offset", "5000");
        let whole = arena(
            text.as_bytes(),
            &[("host", "h"), offset, ("length", &length), ("continued", "1"), ("partial", "1")],
        );
        let (parts, left_out) = apply(split, &whole, 700);
        assert_eq!((left_out.n_records, left_out.n_bytes), (0, 0));
        let together: Vec<u8> = parts.iter().flat_map(|(text, _)| text.clone()).collect();
        assert_eq!(together, text.as_bytes());
        let (first, second) = (parts[0].0.len().to_string(), 5000 + parts[0].0.len());
        let rest = (text.len() + 1 - parts[0].0.len()).to_string();
        assert_eq!(parts.len(), 2);
        assert_eq!(
            parts[0].1,
            strings(&[("host", "h"), offset, ("length", &first), ("continued", "1")])
        );
        let second = second.to_string();
        let headers = [
            ("host", "h"),
            ("offset", &*second),
            ("length", &rest),
            ("partial", "1"),
            ("continued", "1"),
        ];
        assert_eq!(parts[1].1, strings(&headers));
        assert!(parts.iter().all(|(text, _)| str::from_utf8(text).is_ok()));
    }

    #[test]
    fn a_record_that_is_truncated_says_what_is_missing_and_keeps_its_ground() {
        let text = [b'x'; 3000];
        let whole = arena(&text, &[("offset", "9"), ("length", "3002"), ("partial", "1")]);
        let (parts, left_out) = apply(truncate, &whole, 800);
        assert_eq!((left_out.n_records, left_out.n_bytes), (1, 2250));
        let headers = [("offset", "9"), ("length", "3002"), ("partial", "1"), ("cut", "2250")];
        assert_eq!(parts, [(vec![b'x'; 750], strings(&headers))]);
    }

    #[test]
    fn nothing_is_cut_whose_text_is_not_its_ground_or_that_is_short() {
        let text = [b'x'; 3000];
        for headers in [
            [("offset", "0"), ("length", "6000")],
            [("offset", "0"), ("length", "2999")],
            [("offset", "0"), ("length", "ten")],
            [("length", "3000"), ("host", "h")],
        ] {
            let arena = arena(&text, &headers);
            let record = arena.iter().next().unwrap();
            let mut parts = [RecordArena::default(), RecordArena::default()];
            assert_eq!(split(&record, &mut parts), None, "{headers:?}");
            assert_eq!(truncate(&record, &mut parts), None, "{headers:?}");
        }
        let two_files = [("offset", "0"), ("length", "3000"), ("rest_length", "4")];
        let short = [("offset", "0"), ("length", "1000")];
        for arena in [arena(&text, &two_files), arena(&text[..1000], &short)] {
            let mut parts = [RecordArena::default(), RecordArena::default()];
            assert_eq!(split(&arena.iter().next().unwrap(), &mut parts), None);
        }
    }
}
