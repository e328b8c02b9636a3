//! How fast files are read, where the operator set a bound.
//!
//! A bucket of bytes that fills with time: reading goes on while there are any in it, and what
//! was read is taken out, buffer by buffer. The clock is the caller's.

use std::time::{Duration, Instant};

/// What may be read at once after a rest, as time.
const BURST: Duration = Duration::from_millis(100);

/// Bytes that may be read now.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: f64,
    /// Below zero after a buffer that was larger than what was left.
    bytes: f64,
    /// Nothing is read until half of a burst is there: waking up for a few bytes would be busy
    /// waiting.
    is_closed: bool,
    filled_at: Instant,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: usize, now: Instant) -> Throttle {
        Throttle {
            bytes_per_second: bytes_per_second as f64,
            bytes: 0.0,
            is_closed: true,
            filled_at: now,
        }
    }

    /// Returns when reading may go on; `None`: now.
    pub(super) fn closed_until(&mut self, now: Instant) -> Option<Instant> {
        let elapsed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        let bytes_max = self.bytes_per_second * BURST.as_secs_f64();
        self.bytes = (self.bytes + elapsed * self.bytes_per_second).min(bytes_max);
        self.filled_at = now;
        let lacking = bytes_max / 2.0 - self.bytes;
        self.is_closed = if self.is_closed { lacking > 1.0 } else { self.bytes <= 0.0 };
        let wait = Duration::from_secs_f64(lacking.max(0.0) / self.bytes_per_second);
        self.is_closed.then(|| now + wait)
    }

    /// Takes out what was read.
    pub(super) fn take(&mut self, n_bytes: usize) {
        self.bytes -= n_bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads in pieces until `n_bytes` are read; returns how long it took and how often it waited.
    fn read(bytes_per_second: usize, piece: usize, n_bytes: usize) -> (Duration, usize) {
        let start = Instant::now();
        let mut throttle = Throttle::new(bytes_per_second, start);
        let (mut now, mut n_read, mut n_waits) = (start, 0, 0);
        while n_read < n_bytes {
            if let Some(until) = throttle.closed_until(now) {
                now = until;
                n_waits += 1;
                continue;
            }
            throttle.take(piece);
            n_read += piece;
        }
        (now - start, n_waits)
    }

    #[test]
    fn over_any_while_no_more_is_read_than_was_allowed_and_one_piece() {
        for (rate, piece) in [(1_000_000, 1_000), (1_000_000, 262_144), (100_000, 262_144)] {
            let (took, n_waits) = read(rate, piece, 10_000_000);
            let due = Duration::from_secs_f64((10_000_000.0 - piece as f64) / rate as f64);
            assert!(took >= due - BURST, "{took:?} for {rate} in pieces of {piece}");
            assert!(took <= due + Duration::from_secs(3), "{took:?} for {rate}, {piece}");
            assert!(n_waits <= 20 * (took.as_secs() as usize + 1), "{n_waits} waits in {took:?}");
        }
    }

    #[test]
    fn a_rest_allows_one_burst_and_no_more() {
        let start = Instant::now();
        let mut throttle = Throttle::new(1_000_000, start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(throttle.closed_until(later), None);
        throttle.take(100_000);
        assert!(throttle.closed_until(later).is_some());
    }
}
