//! What is dropped by a policy that has a name: bytes of over-long lines, runs of NULs, events
//! that a filter leaves out.
//!
//! All of it is counted, and logged once for each life of a file, with the range. Ground without
//! a record lies in the open batch of its stream like any other, so that the prefix cannot move
//! past what is before it; where a batch holds nothing else, it is settled without the producer.
//! Which events have no record follows from the event, and for one that is `continued` from the
//! one before it, so that a batch is built again without them.

use std::time::Instant;

use regex::bytes::Regex;

use super::multiline::Event;
use super::{Hub, Life};
use crate::config::InputConfig;

/// What has been logged of a life.
#[derive(Debug, Default)]
pub(super) struct Said {
    cut: bool,
    nuls: bool,
    filtered: bool,
}

/// Which events of a life are left out.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Filter {
    left_out: bool,
}

impl Filter {
    /// Tells whether an event is kept. One that goes on where the one before it ended fares as
    /// that one did; after a restart it is kept.
    pub(super) fn passes(&mut self, input: &InputConfig, event: &Event, text: &[u8]) -> bool {
        if !event.continued {
            let matches = |pattern: &Regex| pattern.is_match(text);
            let is_included =
                input.include_events.is_empty() || input.include_events.iter().any(matches);
            self.left_out = !is_included || input.exclude_events.iter().any(matches);
        }
        !self.left_out
    }
}

impl Hub<'_> {
    /// Drops a run of NULs that the life's buffer shows.
    pub(super) fn drop_nuls(&mut self, life: &mut Life, slot: usize, event: &Event, now: Instant) {
        self.counters.bytes_nul_skipped.add(event.end - event.start);
        life.say_nuls(event);
        self.drop_event(life, slot, event, now);
    }

    /// Drops an event that the filter leaves out and the life's buffer shows.
    pub(super) fn drop_filtered(
        &mut self,
        life: &mut Life,
        slot: usize,
        event: &Event,
        now: Instant,
    ) {
        self.counters.events_filtered.add(1);
        self.counters.bytes_filtered.add(event.end - event.start);
        life.say_filtered(event);
        self.drop_event(life, slot, event, now);
    }

    fn drop_event(&mut self, life: &mut Life, slot: usize, event: &Event, now: Instant) {
        let batch = &mut self.open[slot];
        batch.since.get_or_insert(now);
        batch.cover(life.source, event);
        batch.bytes_dropped += event.end - event.start;
        life.events.consume();
    }

    /// Counts what was cut off an event's last line.
    pub(super) fn note_cut(&self, life: &mut Life, event: &Event) {
        self.counters.events_cut.add(1);
        self.counters.bytes_cut.add(event.cut);
        if !std::mem::replace(&mut life.said.cut, true) {
            log::warn!(
                "line longer than line_bytes_max cut: name={} offset={} length={} cut={}; further \
                 ones are counted only; line_too_long = \"split\" keeps them whole",
                life.name.display(),
                event.start,
                event.end - event.start,
                event.cut
            );
        }
    }
}

impl Life {
    /// Logs a run of NULs that is skipped.
    pub(super) fn say_nuls(&mut self, event: &Event) {
        if !std::mem::replace(&mut self.said.nuls, true) {
            log::warn!(
                "run of NULs skipped: name={} offset={} length={}; a crash of the host leaves \
                 such, or a writer that does not append; further ones are counted only",
                self.name.display(),
                event.start,
                event.end - event.start
            );
        }
    }

    /// Logs an event that the filter leaves out.
    pub(super) fn say_filtered(&mut self, event: &Event) {
        if !std::mem::replace(&mut self.said.filtered, true) {
            log::info!(
                "event left out by include_events or exclude_events: name={} offset={} length={}; \
                 further ones are counted only",
                self.name.display(),
                event.start,
                event.end - event.start
            );
        }
    }
}
