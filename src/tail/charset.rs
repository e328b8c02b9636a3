//! How the bytes of a file stand for text: where a line ends in them, and the UTF-8 they mean.
//!
//! Offsets and ground are bytes of the file, whatever they mean. Units of 16 bits are aligned to
//! the file's first byte.

use memchr::memchr;

use crate::config::Encoding;

/// What U+FFFD, put in the place of what means nothing, is in UTF-8.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// An encoding whose byte order is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// Bytes that leave as they are.
    Bytes,
    /// One byte a character, the first 256 of Unicode.
    Latin1,
    /// Units of 16 bits, the less significant byte first.
    Utf16Le,
    /// Units of 16 bits, the more significant byte first.
    Utf16Be,
}

impl Charset {
    /// Returns what a file of this encoding holds that begins with `head`.
    ///
    /// Source: RFC 2781 4.3, but without a mark it is little-endian here, for that is what
    /// Windows writes.
    pub fn of(encoding: Encoding, head: &[u8]) -> Charset {
        match encoding {
            Encoding::Utf8 => Charset::Bytes,
            Encoding::Latin1 => Charset::Latin1,
            Encoding::Utf16 if head.starts_with(&[0xfe, 0xff]) => Charset::Utf16Be,
            Encoding::Utf16 | Encoding::Utf16Le => Charset::Utf16Le,
            Encoding::Utf16Be => Charset::Utf16Be,
        }
    }

    /// Bytes of a unit.
    pub fn unit_len(self) -> usize {
        match self {
            Charset::Bytes | Charset::Latin1 => 1,
            Charset::Utf16Le | Charset::Utf16Be => 2,
        }
    }

    /// Returns how many of `bytes` are whole units; `offset` is that of the first of them.
    pub fn whole_units(self, bytes: &[u8], offset: u64) -> usize {
        let end = offset + bytes.len() as u64;
        let is_half = !end.is_multiple_of(self.unit_len() as u64);
        bytes.len() - usize::from(is_half && !bytes.is_empty())
    }

    /// Returns where the first newline begins; `offset` is that of the first byte in the file.
    pub fn find_newline(self, bytes: &[u8], offset: u64) -> Option<usize> {
        if self.unit_len() == 1 {
            return memchr(b'\n', bytes);
        }
        // The first whole unit; both bytes of a newline are looked at from there on.
        let mut from = (offset % 2) as usize;
        loop {
            let at = from + memchr(b'\n', bytes.get(from..)?)?;
            let unit = at - (at as u64 + offset) as usize % 2;
            if self.is_unit(bytes.get(unit..unit + 2)?, b'\n') {
                return Some(unit);
            }
            from = unit + 2;
        }
    }

    /// Tells whether the last unit of `bytes` is this character.
    pub fn ends_with(self, bytes: &[u8], ascii: u8) -> bool {
        let unit = bytes.len().checked_sub(self.unit_len()).map(|at| &bytes[at..]);
        unit.is_some_and(|unit| self.is_unit(unit, ascii))
    }

    fn is_unit(self, unit: &[u8], ascii: u8) -> bool {
        match self {
            Charset::Bytes | Charset::Latin1 => unit == [ascii],
            Charset::Utf16Le => unit == [ascii, 0],
            Charset::Utf16Be => unit == [0, ascii],
        }
    }

    /// Returns the length of the mark that a file with this head begins with.
    pub fn mark_len(self, head: &[u8]) -> usize {
        let mark: &[u8] = match self {
            Charset::Bytes | Charset::Latin1 => return 0,
            Charset::Utf16Le => &[0xff, 0xfe],
            Charset::Utf16Be => &[0xfe, 0xff],
        };
        if head.starts_with(mark) { mark.len() } else { 0 }
    }

    /// Returns how many of `bytes`, at most `len`, can be taken without a character in two; never
    /// 0. `bytes` are longer than `len`, and `offset` is that of the first of them.
    pub fn fit(self, bytes: &[u8], offset: u64, len: usize) -> usize {
        match self {
            Charset::Latin1 => len,
            Charset::Bytes => {
                let is_inside = |at: &usize| bytes[*at] & 0b1100_0000 == 0b1000_0000;
                // A character has four bytes at most; what has more means nothing in UTF-8.
                let start = (len.saturating_sub(3).max(1)..=len).rev().find(|at| !is_inside(at));
                start.unwrap_or(len)
            }
            Charset::Utf16Le | Charset::Utf16Be => {
                let is_whole = (offset + len as u64).is_multiple_of(2);
                let len = if is_whole { len } else { len - 1 }.max(2);
                let unit_before = [bytes[len - 2], bytes[len - 1]];
                let is_half = (0xd800..0xdc00).contains(&self.unit(unit_before));
                if is_half && len > 2 { len - 2 } else { len }
            }
        }
    }

    fn unit(self, bytes: [u8; 2]) -> u16 {
        match self {
            Charset::Utf16Be => u16::from_be_bytes(bytes),
            _ => u16::from_le_bytes(bytes),
        }
    }

    /// Returns the text that `raw` stands for, in UTF-8; `text` is room for it. Units that mean
    /// nothing, and half units, become U+FFFD. `offset` is that of the first byte in the file.
    pub fn decode<'a>(self, raw: &'a [u8], offset: u64, text: &'a mut Vec<u8>) -> &'a [u8] {
        text.clear();
        match self {
            Charset::Bytes => return raw,
            Charset::Latin1 => raw.iter().for_each(|&byte| put(char::from(byte), text)),
            Charset::Utf16Le | Charset::Utf16Be => self.decode_units(raw, offset, text),
        }
        text
    }

    fn decode_units(self, raw: &[u8], offset: u64, text: &mut Vec<u8>) {
        let (half, units) = raw.split_at(raw.len().min((offset % 2) as usize));
        if !half.is_empty() {
            text.extend_from_slice(REPLACEMENT);
        }
        let (units, half) = units.as_chunks::<2>();
        let units = units.iter().map(|&unit| self.unit(unit));
        for result in char::decode_utf16(units) {
            put(result.unwrap_or(char::REPLACEMENT_CHARACTER), text);
        }
        if !half.is_empty() {
            text.extend_from_slice(REPLACEMENT);
        }
    }
}

fn put(character: char, text: &mut Vec<u8>) {
    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(charset: Charset, raw: &[u8], offset: u64, expected: &str) {
        let mut text = Vec::new();
        let decoded = charset.decode(raw, offset, &mut text);
        assert_eq!(std::str::from_utf8(decoded), Ok(expected), "{raw:x?}");
    }

    /// Torture: 35.
    #[test]
    fn what_means_nothing_becomes_a_replacement_character() {
        check(Charset::Latin1, b"na\xefve \xff", 0, "naïve ÿ");
        check(Charset::Utf16Le, b"a\0\x3d\xd8\x00\xde", 0, "a😀");
        check(Charset::Utf16Be, b"\0a\xd8\x3d\xde\x00", 0, "a😀");
        // Halves of a pair alone or the wrong way round, and halves of a unit.
        check(Charset::Utf16Le, b"\x3d\xd8a\0", 0, "\u{fffd}a");
        check(Charset::Utf16Be, b"\xde\x00\xd8\x3d", 0, "\u{fffd}\u{fffd}");
        check(Charset::Utf16Le, b"a\0b", 0, "a\u{fffd}");
        check(Charset::Utf16Le, b"\0b\0", 7, "\u{fffd}b");
    }

    #[test]
    fn a_newline_is_a_whole_unit() {
        for (charset, bytes, offset, expected) in [
            (Charset::Utf16Le, &b"\x0a\x01\x0a\0"[..], 0, Some(2)),
            (Charset::Utf16Le, b"\x01\x0a\0\x0a\0", 1, Some(1)),
            (Charset::Utf16Be, b"\x01\x0a\0\x0a", 0, Some(2)),
            (Charset::Utf16Be, b"\x0a\x01\x0a\x0a\0", 0, None),
            (Charset::Utf16Le, b"a\0\x0a", 0, None),
            (Charset::Bytes, b"a\n", 1, Some(1)),
        ] {
            assert_eq!(charset.find_newline(bytes, offset), expected, "{charset:?} {bytes:x?}");
        }
    }
}
