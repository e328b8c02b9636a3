//! What the service manager is told: that a walk is ready, that it is alive, that it stops.
//!
//! The protocol is that of sd_notify(3), `Type=notify` and `WatchdogSec=` of systemd. Without
//! `NOTIFY_SOCKET` in the environment nobody is told, without `WATCHDOG_USEC` no sign of life is
//! given.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Signs of life in the time after which the service manager ends a process without any:
/// sd_watchdog_enabled(3) wants at least two.
const SIGNS: u32 = 4;

/// Longest start.
const START: Duration = Duration::from_secs(3600);

/// The service manager.
#[derive(Debug)]
pub struct Service {
    /// Time between two signs of life; `None` where nobody waits for them.
    every: Option<Duration>,
    due: Instant,
    is_stuck: bool,
}

impl Service {
    /// Returns the one that the environment names.
    pub fn of_environment() -> Service {
        let every = sd_notify::watchdog_enabled().map(|time| time / SIGNS);
        Service { every, due: Instant::now(), is_stuck: false }
    }

    /// Tells that the start may take long: the first look decompresses archives that are not known.
    pub fn is_starting(&self) {
        tell(&[NotifyState::ExtendTimeoutUsec(START.as_micros() as u32)]);
    }

    /// Tells that the walk has begun.
    pub fn is_ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// Tells that the walk comes to its end.
    pub fn is_stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// When the next sign of life is due; `None` where nobody waits for one.
    pub fn due(&self) -> Option<Instant> {
        self.every.map(|_| self.due)
    }

    /// Gives a sign of life, once it is due and unless something is stuck: `what_is_stuck` is asked
    /// for its name, which is logged. Then the service manager waits in vain, and ends the process.
    pub fn give_sign(&mut self, now: Instant, what_is_stuck: impl FnOnce() -> Option<String>) {
        let Some(every) = self.every.filter(|_| now >= self.due) else {
            return;
        };
        self.due = now + every;
        match what_is_stuck() {
            None => {
                if std::mem::take(&mut self.is_stuck) {
                    log::info!("going on: the service manager gets signs of life again");
                }
                tell(&[NotifyState::Watchdog]);
            }
            Some(what) if !self.is_stuck => {
                self.is_stuck = true;
                log::error!("{what}: the service manager gets no sign of life until it goes on");
            }
            Some(_) => {}
        }
    }
}

fn tell(news: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(news) {
        log::warn!("the service manager cannot be told {news:?}: {error}");
    }
}
