//! The broker logs because we ship: a loop, recognised and damped.
//!
//! With a line in `kafka-request.log` for every request, or an error in `server.log` for each
//! that is refused, a shipped line makes the next one. Where each batch of a partition begins
//! right after the one before was acknowledged, many times in a row, that is suspected. It is
//! then put to the test: the next batch is held back. Where nothing grows while nothing is sent,
//! our sending is the cause, and the partition's batches linger long from then on, so that the
//! loop turns once in that time, whatever it adds. Where files grow all the same, their writer
//! is another, and the next test takes twice as many signs. A partition that is damped and whose
//! files grow while nothing is sent is let go.
//!
//! Pure: the clock is the caller's.

use std::time::{Duration, Instant};

/// What follows an acknowledgement within this time may be its echo.
const ECHO: Duration = Duration::from_millis(250);

/// What comes so long after the first record of a batch that is held back is no echo.
const LATE: Duration = Duration::from_millis(50);

/// Echoes in a row that lead to the first test: some seconds of a loop.
const ECHOES_MIN: u32 = 100;

/// The tests become rarer up to this.
const ECHOES_MAX: u32 = 100_000;

/// How long a test holds a batch back.
const TEST: Duration = Duration::from_secs(1);

/// How long batches linger in a loop.
const DAMPED: Duration = Duration::from_secs(5);

/// What is known of one partition.
#[derive(Debug)]
pub(super) struct Feedback {
    under_way: u32,
    acked_at: Option<Instant>,
    n_echoes: u32,
    n_echoes_wanted: u32,
    /// The open batch began as an echo.
    is_echo: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is suspected.
    Free,
    /// Nothing is sent, to see whether files grow; `grown` tells that one did.
    Tested { grown: bool },
    /// A loop; `grown` tells that a file grew while nothing was sent.
    Damped { grown: bool },
}

/// What the operator is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// A loop was recognised.
    Loop,
    /// It is one no more.
    NoLoop,
}

impl Default for Feedback {
    fn default() -> Feedback {
        Feedback {
            under_way: 0,
            acked_at: None,
            n_echoes: 0,
            n_echoes_wanted: ECHOES_MIN,
            is_echo: false,
            state: State::Free,
        }
    }
}

impl Feedback {
    /// Records came into the open batch, which began at `since`.
    pub(super) fn on_grown(&mut self, since: Instant, now: Instant) {
        let is_first = since == now;
        if is_first {
            let is_after = |acked: Instant| now.saturating_duration_since(acked) < ECHO;
            self.is_echo = self.under_way == 0 && self.acked_at.is_some_and(is_after);
            self.n_echoes = if self.is_echo { self.n_echoes + 1 } else { 0 };
            if self.state == State::Free && self.n_echoes >= self.n_echoes_wanted {
                self.state = State::Tested { grown: false };
            }
        }
        // One request may make more than one line, though not much later.
        let is_late = now.saturating_duration_since(since) >= LATE || !self.is_echo;
        if let State::Tested { grown } | State::Damped { grown } = &mut self.state {
            *grown |= is_late;
        }
    }

    /// Returns how long the open batch is to wait for more.
    pub(super) fn linger(&self, configured: Duration) -> Duration {
        match self.state {
            State::Free | State::Tested { grown: true } | State::Damped { grown: true } => {
                configured
            }
            State::Tested { grown: false } => configured.max(TEST),
            State::Damped { grown: false } => configured.max(DAMPED),
        }
    }

    /// The open batch, which began at `since`, is sent.
    pub(super) fn on_sealed(&mut self, since: Instant, now: Instant) -> Option<News> {
        self.under_way += 1;
        // One that was full before tells nothing of what grows while nothing is sent.
        let is_tested = now.saturating_duration_since(since) >= TEST;
        let before = self.state;
        self.state = match before {
            State::Tested { grown: false } | State::Damped { grown: false } if is_tested => {
                State::Damped { grown: false }
            }
            _ => State::Free,
        };
        match (before, self.state) {
            (State::Tested { .. }, State::Damped { .. }) => return Some(News::Loop),
            (State::Damped { .. }, State::Free) => {
                self.n_echoes = 0;
                return Some(News::NoLoop);
            }
            (State::Tested { .. }, State::Free) => {
                self.n_echoes = 0;
                self.n_echoes_wanted = (2 * self.n_echoes_wanted).min(ECHOES_MAX);
            }
            _ => {}
        }
        None
    }

    /// Whether no batch that was sealed waits for the broker.
    pub(super) fn is_all_acked(&self) -> bool {
        self.under_way == 0
    }

    /// A batch was acknowledged.
    pub(super) fn on_acked(&mut self, now: Instant) {
        self.under_way -= 1;
        self.acked_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_millis(10);
    const MS: Duration = Duration::from_millis(1);

    /// Runs a partition for a minute. `next` tells, from when the last batch was acknowledged,
    /// when files grow next. Returns how many batches were sent, and the news.
    fn run(mut next: impl FnMut(Option<Instant>, Instant) -> Instant) -> (usize, Vec<News>) {
        let start = Instant::now();
        let mut feedback = Feedback::default();
        let (mut now, mut acked, mut n_batches, mut news) = (start, None, 0, Vec::new());
        while now < start + Duration::from_secs(60) {
            let since = next(acked, now).max(now);
            feedback.on_grown(since, since);
            now = since;
            let mut grown = next(acked, now + MS);
            while grown < since + feedback.linger(LINGER) {
                now = grown;
                feedback.on_grown(since, now);
                grown = next(acked, now + MS);
            }
            now = since + feedback.linger(LINGER);
            news.extend(feedback.on_sealed(since, now));
            n_batches += 1;
            now += 2 * MS;
            feedback.on_acked(now);
            acked = Some(now);
        }
        (n_batches, news)
    }

    /// Grows by `n_lines` after each acknowledgement, and else never.
    fn echo(n_lines: u32) -> impl FnMut(Option<Instant>, Instant) -> Instant {
        move |acked, now| {
            let Some(acked) = acked else { return now };
            let lines = (1..=n_lines).map(|n| acked + 5 * n * MS);
            lines.into_iter().find(|at| *at >= now).unwrap_or(now + Duration::from_secs(3600))
        }
    }

    #[test]
    fn a_loop_turns_slowly_once_it_is_recognised() {
        for n_lines in [1, 3] {
            let (n_batches, news) = run(echo(n_lines));
            assert_eq!(news, [News::Loop], "{n_lines}");
            assert!(n_batches < 100 + 30, "{n_batches} batches for {n_lines} lines each");
        }
    }

    #[test]
    fn a_writer_of_its_own_is_never_damped() {
        for pause in [1, 20, 100, 400, 1500] {
            let (n_batches, news) = run(|_, now| now + pause * MS);
            assert_eq!(news, [], "a line every {pause} ms");
            let n_expected = 60_000 / (pause + 12).max(1) as usize;
            assert!(n_batches * 10 >= n_expected * 7, "{n_batches}: {pause} ms");
        }
    }

    #[test]
    fn a_loop_that_a_writer_joins_is_let_go() {
        let start = Instant::now();
        let mut echo = echo(1);
        let (_, news) = run(|acked, now| {
            let joined = now > start + Duration::from_secs(30);
            if joined { now + 300 * MS } else { echo(acked, now) }
        });
        assert_eq!(news, [News::Loop, News::NoLoop]);
    }
}
