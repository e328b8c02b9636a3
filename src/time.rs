//! Times of events: from the text of a log to epoch milliseconds, and from there to ISO 8601.
//!
//! Events come in the order of their times, so both directions do the calendar once an hour and
//! add or write the minutes and seconds by hand.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

/// The time an event says it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventTime {
    /// Milliseconds since the epoch.
    pub ms: i64,
    /// The text named its zone; else it was read in the configured one.
    pub zoned: bool,
}

/// Reads the times of log events.
#[derive(Debug)]
pub struct TimeReader {
    zone: TimeZone,
    /// The hour last read in `zone`.
    local: Hour,
    /// The hour last read in a text that names its zone, taken as if it were UTC.
    utc: Hour,
}

/// An hour whose place on the time line is known.
#[derive(Debug, Clone, Copy)]
struct Hour {
    /// `yyyy-MM-dd HH` as the log spelt it, or zeros before the first.
    text: [u8; 13],
    start_ms: i64,
}

const NO_HOUR: Hour = Hour { text: [0; 13], start_ms: 0 };

impl TimeReader {
    /// Returns a reader that takes times without a zone as times in `zone`.
    pub fn new(zone: TimeZone) -> TimeReader {
        TimeReader { zone, local: NO_HOUR, utc: NO_HOUR }
    }

    /// Returns the time at the very start of `text`, and how many bytes it takes up; `None` if
    /// none stands there.
    ///
    /// `yyyy-MM-dd HH:mm:ss`, also with `T`; a fraction behind `,` or `.` and a zone (`Z`,
    /// `+02`, `+0200`, `+02:00`) may follow. Digits of the fraction past the third are dropped.
    /// A local time that the clocks passed twice is the earlier of the two; one that they
    /// skipped is read with the offset from before the change.
    pub fn read(&mut self, text: &[u8]) -> Option<(EventTime, usize)> {
        let stamp: &[u8; 19] = text.first_chunk()?;
        if stamp[13] != b':' || stamp[16] != b':' {
            return None;
        }
        let minute = two_digits(stamp[14], stamp[15]).filter(|minute| *minute < 60)?;
        let second = two_digits(stamp[17], stamp[18]).filter(|second| *second < 60)?;
        let (fraction_ms, fraction_len) = read_fraction(&text[19..]);
        let within_ms = minute * 60_000 + second * 1_000 + fraction_ms;
        let hour: &[u8; 13] = stamp.first_chunk().expect("13 is less than 19");
        let len = 19 + fraction_len;
        let (ms, zone_len) = match read_offset(&text[len..]) {
            Some((offset_ms, zone_len)) => (self.utc_ms(hour, within_ms)? - offset_ms, zone_len),
            None => (self.local_ms(hour, within_ms)?, 0),
        };
        let zoned = zone_len > 0;
        Some((EventTime { ms, zoned }, len + zone_len))
    }

    fn utc_ms(&mut self, hour: &[u8; 13], within_ms: i64) -> Option<i64> {
        if self.utc.text != *hour {
            let start = Offset::UTC.to_timestamp(read_hour(hour)?).ok()?;
            self.utc = Hour { text: *hour, start_ms: start.as_millisecond() };
        }
        Some(self.utc.start_ms + within_ms)
    }

    fn local_ms(&mut self, hour: &[u8; 13], within_ms: i64) -> Option<i64> {
        if self.local.text != *hour {
            let start = read_hour(hour)?;
            let ms_at = |minute, second| {
                let time = start.with().minute(minute).second(second).build().ok()?;
                Some(self.zone.to_timestamp(time).ok()?.as_millisecond())
            };
            let start_ms = ms_at(0, 0)?;
            if ms_at(59, 59)? != start_ms + 3_599_000 {
                // The clocks change within this hour, as in Lord Howe, so no two of its minutes
                // need be as far apart as they look.
                let minute = i8::try_from(within_ms / 60_000).expect("under 60");
                let second = i8::try_from(within_ms / 1_000 % 60).expect("under 60");
                return Some(ms_at(minute, second)? + within_ms % 1_000);
            }
            self.local = Hour { text: *hour, start_ms };
        }
        Some(self.local.start_ms + within_ms)
    }
}

/// Returns the start of the hour `yyyy-MM-dd HH`, if there is such an hour.
fn read_hour(hour: &[u8; 13]) -> Option<DateTime> {
    let [c0, c1, y0, y1, b'-', m0, m1, b'-', d0, d1, b' ' | b'T', h0, h1] = *hour else {
        return None;
    };
    let year = two_digits(c0, c1)? * 100 + two_digits(y0, y1)?;
    let part = |tens, ones| i8::try_from(two_digits(tens, ones)?).ok();
    let (month, day) = (part(m0, m1)?, part(d0, d1)?);
    DateTime::new(i16::try_from(year).ok()?, month, day, part(h0, h1)?, 0, 0, 0).ok()
}

/// Returns the milliseconds of `,SSS` or `.SSS` at the start of `text`, and its length; zeros if
/// there is none.
fn read_fraction(text: &[u8]) -> (i64, usize) {
    let [b',' | b'.', digits @ ..] = text else {
        return (0, 0);
    };
    let n_digits = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    if n_digits == 0 {
        return (0, 0);
    }
    let digit = |place: usize| match digits.get(place) {
        Some(digit) if place < n_digits => i64::from(digit - b'0'),
        _ => 0,
    };
    (digit(0) * 100 + digit(1) * 10 + digit(2), 1 + n_digits)
}

/// Returns how far ahead of UTC the zone at the start of `text` is, in milliseconds, and the
/// length of its name; `None` if there is none.
fn read_offset(text: &[u8]) -> Option<(i64, usize)> {
    let sign = match text.first()? {
        b'Z' => return Some((0, 1)),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hours = two_digits(*text.get(1)?, *text.get(2)?)?;
    let (minutes, len) = match text[3..] {
        [b':', tens, ones, ..] => (two_digits(tens, ones)?, 6),
        [tens @ b'0'..=b'9', ones, ..] => (two_digits(tens, ones)?, 5),
        _ => (0, 3),
    };
    Some((sign * (hours * 60 + minutes) * 60_000, len))
}

fn two_digits(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens * 10 + ones))
}

/// Milliseconds of an hour.
const HOUR_MS: i64 = 3_600_000;

/// The UTC hour that `ms` lies in.
///
/// Times before the year 0, or in the last days of 9999 and after, are taken as the nearest that
/// is not: no log was written then, and index names have room for four digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UtcHour(i64);

impl UtcHour {
    const FIRST_MS: i64 = -62_167_219_200_000;

    /// Returns the hour, and the milliseconds that have passed since its start.
    pub(super) fn of(ms: i64) -> (UtcHour, u32) {
        let ms = ms.clamp(UtcHour::FIRST_MS, Timestamp::MAX.as_millisecond());
        let within_ms = u32::try_from(ms.rem_euclid(HOUR_MS)).expect("an hour fits");
        (UtcHour(ms.div_euclid(HOUR_MS)), within_ms)
    }

    /// Returns the date and hour.
    pub(super) fn start(self) -> DateTime {
        let start = Timestamp::from_millisecond(self.0 * HOUR_MS).expect("clamped in of()");
        Offset::UTC.to_datetime(start)
    }
}

/// Writes times as ISO 8601 in UTC.
#[derive(Debug, Default)]
pub struct TimeWriter {
    /// The hour last written, and its text `yyyy-MM-ddTHH:`.
    hour: Option<(UtcHour, String)>,
}

impl TimeWriter {
    /// Appends `ms`, milliseconds since the epoch, as in `2026-11-22T23:19:56.230Z`.
    pub fn write(&mut self, out: &mut Vec<u8>, ms: i64) {
        let (hour, within_ms) = UtcHour::of(ms);
        let text = match &mut self.hour {
            Some((written, text)) if *written == hour => text,
            stale => {
                let start = hour.start();
                let text = format!(
                    "{:04}-{:02}-{:02}T{:02}:",
                    start.year(),
                    start.month(),
                    start.day(),
                    start.hour()
                );
                &mut stale.insert((hour, text)).1
            }
        };
        let digit = |place: u32, base: u32| {
            b'0' + u8::try_from(within_ms / place % base).expect("one digit")
        };
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(&[
            digit(600_000, 6),
            digit(60_000, 10),
            b':',
            digit(10_000, 6),
            digit(1_000, 10),
            b'.',
            digit(100, 10),
            digit(10, 10),
            digit(1, 10),
            b'Z',
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(name: &str) -> TimeReader {
        TimeReader::new(TimeZone::get(name).expect("a zone"))
    }

    /// Returns what `text` was read as, in ISO 8601, and the text behind it.
    fn read<'a>(reader: &mut TimeReader, text: &'a str) -> Option<(String, bool, &'a str)> {
        let (time, len) = reader.read(text.as_bytes())?;
        let mut iso = Vec::new();
        TimeWriter::default().write(&mut iso, time.ms);
        Some((String::from_utf8(iso).unwrap(), time.zoned, &text[len..]))
    }

    #[test]
    fn the_spellings_of_log4j_and_of_the_jvm_are_read() {
        let mut utc = reader("UTC");
        for (text, iso, zoned, rest) in [
            ("2017-08-04 10:48:20,377] INFO", "2017-08-04T10:48:20.377Z", false, "] INFO"),
            ("2017-08-04 10:48:20.377 x", "2017-08-04T10:48:20.377Z", false, " x"),
            ("2026-05-27 13:33:11 INFO", "2026-05-27T13:33:11.000Z", false, " INFO"),
            ("2026-05-27 13:34:02,000+0200 I", "2026-05-27T11:34:02.000Z", true, " I"),
            ("2017-07-20T14:35:38.820+0800][", "2017-07-20T06:35:38.820Z", true, "]["),
            ("2024-02-29T00:00:00.5-03:30", "2024-02-29T03:30:00.500Z", true, ""),
            ("2024-02-29T00:00:00+02", "2024-02-28T22:00:00.000Z", true, ""),
            ("2024-02-29T23:59:59.123456789Z", "2024-02-29T23:59:59.123Z", true, ""),
            ("1969-12-31 23:59:59,999", "1969-12-31T23:59:59.999Z", false, ""),
            ("2024-01-01 00:00:00,", "2024-01-01T00:00:00.000Z", false, ","),
            ("2024-01-01 00:00:00-x", "2024-01-01T00:00:00.000Z", false, "-x"),
        ] {
            let read = read(&mut utc, text);
            assert_eq!(read, Some((iso.to_owned(), zoned, rest)), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_time_is_none() {
        let mut utc = reader("UTC");
        for text in [
            "",
            "2017-08-04 10:48:2",
            "2017-08-04_10:48:20",
            "2017-13-04 10:48:20",
            "2017-02-29 10:48:20",
            "2017-08-04 24:48:20",
            "2017-08-04 10:60:20",
            "2017-08-04 10:48:60",
            "2017-08-04 10-48-20",
            "x017-08-04 10:48:20",
            "2017-08-04 1\u{e9}:48:20",
        ] {
            assert_eq!(read(&mut utc, text), None, "{text}");
        }
    }

    #[test]
    fn local_times_are_right_on_both_sides_of_a_change_of_the_clocks() {
        check_local(
            "Europe/Berlin",
            &[
                ("2026-03-29 01:59:59,999", "2026-03-29T00:59:59.999Z"),
                ("2026-03-29 02:30:00,000", "2026-03-29T01:30:00.000Z"), // skipped
                ("2026-03-29 03:00:00,000", "2026-03-29T01:00:00.000Z"),
                ("2026-10-25 01:59:59,999", "2026-10-24T23:59:59.999Z"),
                ("2026-10-25 02:30:00,000", "2026-10-25T00:30:00.000Z"), // passed twice
                ("2026-10-25 03:00:00,000", "2026-10-25T02:00:00.000Z"),
            ],
        );
        // By half an hour: forward from 02:00, and back from 02:00 to 01:30.
        check_local(
            "Australia/Lord_Howe",
            &[
                ("2026-10-04 02:29:59,999", "2026-10-03T15:59:59.999Z"), // skipped
                ("2026-10-04 02:30:00,000", "2026-10-03T15:30:00.000Z"),
                ("2026-04-05 01:29:59,000", "2026-04-04T14:29:59.000Z"),
                ("2026-04-05 01:30:00,000", "2026-04-04T14:30:00.000Z"), // passed twice
                ("2026-04-05 02:00:00,000", "2026-04-04T15:30:00.000Z"),
            ],
        );
    }

    fn check_local(zone: &str, cases: &[(&str, &str)]) {
        let mut reader = reader(zone);
        for (text, iso) in cases {
            let (read, zoned, _) = read(&mut reader, text).expect(text);
            assert_eq!((read.as_str(), zoned), (*iso, false), "{text}");
        }
    }

    #[test]
    fn times_beyond_four_digit_years_become_the_nearest_that_can_be_written() {
        for (ms, iso) in [
            (i64::MIN, "0000-01-01T00:00:00.000Z"),
            (i64::MAX, "9999-12-30T22:00:00.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            let mut out = Vec::new();
            TimeWriter::default().write(&mut out, ms);
            assert_eq!(String::from_utf8(out).unwrap(), iso);
        }
    }
}
