//! What is wrong: said once when it changes and once when it is over, and counted in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use crate::config::show_duration;

/// How often what is still wrong is said again, for a log is read from its end.
const REMINDER_INTERVAL: Duration = Duration::from_secs(300);
/// Troubles named in a reminder; more of them have one cause, most often.
const REMINDED_MAX: usize = 5;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Why, in the words of the log.
    pub reason: String,
    /// When something was first wrong with this subject.
    pub since: Instant,
    /// How often it has failed since.
    pub n_times: u64,
}

/// The batch that waits longest for the broker's acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oldest {
    /// Where it goes.
    pub topic: Arc<str>,
    /// Where it goes.
    pub partition: i32,
    /// When it was handed over.
    pub since: Instant,
}

/// What there is between us and a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// A connection.
    Connected,
    /// A connection, over which the broker wants nothing for a while (a quota).
    Throttled,
    /// An attempt to connect.
    Connecting,
    /// Nothing: it failed, or the broker closed it while idle.
    NotConnected,
    /// Nothing, for nothing was to be sent there.
    Unused,
}

impl LinkState {
    /// Says it in words.
    pub fn name(self) -> &'static str {
        match self {
            LinkState::Connected => "connected",
            LinkState::Throttled => "throttled",
            LinkState::Connecting => "connecting",
            LinkState::NotConnected => "not connected",
            LinkState::Unused => "not needed yet",
        }
    }
}

/// A broker and the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerReport {
    /// `host:port`.
    pub address: Arc<str>,
    /// Its node id; `None` of an address of the configuration that no broker gives as its own.
    pub node: Option<i32>,
    /// What there is between us.
    pub state: LinkState,
    /// Requests that it has not answered.
    pub n_requests: usize,
    /// What is wrong with it.
    pub trouble: Option<Trouble>,
}

/// How delivery is, at one moment.
#[derive(Debug, Clone)]
pub struct Report {
    /// The brokers that are known.
    pub brokers: Vec<BrokerReport>,
    /// What else is wrong, by subject.
    pub troubles: BTreeMap<String, Trouble>,
    /// Batches that are not acknowledged.
    pub n_batches: usize,
    /// Records in them.
    pub n_records: u64,
    /// The one that waits longest.
    pub oldest: Option<Oldest>,
}

/// What is wrong at the moment, by subject.
#[derive(Debug, Default)]
pub(super) struct Health {
    troubles: BTreeMap<String, Trouble>,
    reminded_at: Option<Instant>,
}

impl Health {
    pub(super) fn is_bad(&mut self, subject: String, reason: String, now: Instant) {
        if self.troubles.is_empty() {
            self.reminded_at = Some(now);
        }
        let trouble = self.troubles.entry(subject.clone());
        let trouble = trouble.or_insert(Trouble { reason: String::new(), since: now, n_times: 0 });
        trouble.n_times += 1;
        if trouble.reason != reason {
            warn!("{subject}: {reason}");
            trouble.reason = reason;
        }
    }

    pub(super) fn is_good(&mut self, subject: &str, now: Instant) {
        if let Some(Trouble { since, n_times, .. }) = self.troubles.remove(subject) {
            info!("{subject}: well again after {}", lasted(since, n_times, now));
        }
    }

    /// Drops what is wrong with a subject that there is no more.
    pub(super) fn forget(&mut self, subject: &str) {
        self.troubles.remove(subject);
    }

    pub(super) fn troubles(&self) -> &BTreeMap<String, Trouble> {
        &self.troubles
    }

    /// When [`Health::remind`] is due; `None` while all is well.
    pub(super) fn reminder_due(&self) -> Option<Instant> {
        let at = self.reminded_at.filter(|_| !self.troubles.is_empty())?;
        Some(at + REMINDER_INTERVAL)
    }

    /// Says again what is still wrong.
    pub(super) fn remind(&mut self, oldest: Option<Oldest>, now: Instant) {
        self.reminded_at = Some(now);
        for (subject, trouble) in self.troubles.iter().take(REMINDED_MAX) {
            let lasted = lasted(trouble.since, trouble.n_times, now);
            warn!("{subject}: still, for {lasted}: {}", trouble.reason);
        }
        let n_more = self.troubles.len().saturating_sub(REMINDED_MAX);
        if n_more > 0 {
            warn!("and {n_more} more that are not well");
        }
        if let Some(Oldest { topic, partition, since }) = oldest {
            let age = age(since, now);
            warn!("topic {topic:?} partition {partition}: its oldest batch waits for {age}");
        }
    }
}

fn lasted(since: Instant, n_times: u64, now: Instant) -> String {
    let times = if n_times == 1 { "one failure".into() } else { format!("{n_times} failures") };
    format!("{} and {times}", age(since, now))
}

/// Whole seconds; less than one in milliseconds.
fn age(since: Instant, now: Instant) -> String {
    let age = now.saturating_duration_since(since);
    let unit = if age < Duration::from_secs(1) { 1 } else { 1000 };
    show_duration(Duration::from_millis(age.as_millis() as u64 / unit * unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_counted_while_it_lasts_and_reminded_of_by_and_by() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::default();
        assert_eq!(health.reminder_due(), None);
        for second in 0..3 {
            health.is_bad("broker a:1".into(), "cannot connect".into(), at(second));
        }
        let expected = Trouble { reason: "cannot connect".into(), since: start, n_times: 3 };
        assert_eq!(health.troubles()["broker a:1"], expected);
        health.is_bad("broker a:1".into(), "no answer".into(), at(4));
        assert_eq!(health.troubles()["broker a:1"].n_times, 4);
        assert_eq!(health.troubles()["broker a:1"].since, start);

        assert_eq!(health.reminder_due(), Some(at(300)));
        health.remind(None, at(300));
        assert_eq!(health.reminder_due(), Some(at(600)));
        health.is_good("broker a:1", at(301));
        assert_eq!(health.reminder_due(), None);
        health.is_bad("broker a:1".into(), "cannot connect".into(), at(900));
        assert_eq!(health.reminder_due(), Some(at(1200)));
    }

    #[test]
    fn how_long_it_lasted_is_said_in_words() {
        let start = Instant::now();
        for (ms, n_times, words) in [
            (250, 1, "250ms and one failure"),
            (61_700, 7, "61s and 7 failures"),
            (120_000, 9, "2m and 9 failures"),
        ] {
            assert_eq!(lasted(start, n_times, start + Duration::from_millis(ms)), words);
        }
    }
}
