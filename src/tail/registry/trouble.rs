//! What is said, and how long is waited, while the registry cannot be saved.
//!
//! Shipping goes on meanwhile: repeats after a restart are allowed then, a loss never is.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Wait after the first failure; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The wait grows up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Between two log lines about the same trouble.
const SAY_INTERVAL: Duration = Duration::from_secs(60);

/// Saves that have failed since the last one that succeeded.
#[derive(Debug, Default)]
pub struct SaveTrouble {
    n_failed: u32,
    since: Option<Instant>,
    said: Option<Instant>,
}

impl SaveTrouble {
    /// Tells whether the last save failed.
    pub fn is_on(&self) -> bool {
        self.n_failed > 0
    }

    /// Logs a failure, unless one was just logged, and returns how long to wait for the next try.
    pub fn failed(&mut self, folder: &Path, error: &io::Error, now: Instant) -> Duration {
        let since = *self.since.get_or_insert(now);
        if self.said.is_none_or(|said| now >= said + SAY_INTERVAL) {
            self.said = Some(now);
            log::error!(
                "cannot save the registry in {}: {error}; failed_for={}s; shipping goes on, and \
                 what is shipped from now on is read back from the topic after a restart",
                folder.display(),
                (now - since).as_secs()
            );
        }
        let pause = PAUSE_MIN * 2_u32.pow(self.n_failed.min(6));
        self.n_failed += 1;
        pause.min(PAUSE_MAX)
    }

    /// Ends the trouble, if there was any.
    pub fn succeeded(&mut self, now: Instant) {
        if let Some(since) = self.since {
            log::info!("the registry is saved again, after {}s", (now - since).as_secs());
        }
        *self = SaveTrouble::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_a_minute_and_begins_anew_after_a_success() {
        let mut trouble = SaveTrouble::default();
        let mut now = Instant::now();
        let mut wait = |trouble: &mut SaveTrouble| {
            let pause = trouble.failed(Path::new("/s"), &io::Error::other("full"), now);
            now += pause;
            pause.as_secs()
        };
        let waits: Vec<u64> = (0..9).map(|_| wait(&mut trouble)).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        trouble.succeeded(Instant::now());
        assert!(!trouble.is_on());
        assert_eq!(wait(&mut trouble), 1);
    }
}
