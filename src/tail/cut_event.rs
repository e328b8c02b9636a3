//! Events that a rotation cuts in two.
//!
//! A writer may rotate amid a stack trace: the old file ends with the first lines of an event and
//! the new one begins with the others. The old file's last event then stays open, the first lines
//! of the new one are taken for its continuation, and both parts leave as one record, in one
//! batch, whose headers name the ground of both. Where they cannot (there would be too much of it,
//! or one part stands in the topic already), the second part leaves behind the first, as
//! `continued`.
//!
//! Nothing of this is remembered: after a crash both files are read from where they were settled,
//! and the same is found again. Files of UTF-16, and new ones that are gzip'd already when the old
//! one ends, are not looked at in this way.

use std::time::Instant;

use super::encode::Rest;
use super::fingerprint::read_range;
use super::multiline::{Event, EventBuffer, Limits};
use super::{Content, Hub, Life, Phase, discover};
use crate::config::{Encoding, InputConfig};
use crate::record::SourceId;

/// Bytes of a file's first line that are looked at.
const FIRST_LINE_BYTES_MAX: u64 = 4096;

/// Two lives of a stream between which an event was cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct CutEvent {
    first: SourceId,
    second: SourceId,
}

impl Hub<'_> {
    /// Tells whether the successor of a life that was read to its end begins amid its last event.
    pub(super) fn is_cut(&self, life: &Life, input: &InputConfig) -> bool {
        let next = self.streams[life.stream].queue.get(1);
        let Some(next) = next.and_then(|next| self.lives.get(next)) else {
            return false;
        };
        let is_text = matches!(input.encoding, Encoding::Utf8 | Encoding::Latin1);
        let is_fresh = next.events.read_offset() == 0 && next.content == Content::Own;
        is_text && is_fresh && !next.harvester.is_gzipped() && {
            let first_line = next.first_line();
            first_line.is_some_and(|line| life.events.goes_on_with(&line, &input.multiline))
        }
    }

    /// Has the successor of a life, whose last event is open, read as its continuation.
    pub(super) fn expect_rest(&mut self, source: SourceId) {
        let life = &self.lives[&source];
        let stream = &mut self.streams[life.stream];
        if let (true, Some(&second)) = (life.events.has_open(), stream.queue.get(1)) {
            stream.cut_event = Some(CutEvent { first: source, second });
            let limits = Limits::of(&stream.input);
            let second = self.lives.get_mut(&second).expect("lives of queues are open");
            second.events = EventBuffer::new(0, limits, true);
        }
    }

    /// Tells whether the last event of a life goes on in its successor, of which nothing has left.
    pub(super) fn waits_for_rest(&self, life: &Life) -> bool {
        let cut_event = self.streams[life.stream].cut_event;
        let cut_event = cut_event.filter(|cut| cut.first == life.source && life.events.has_open());
        let second = cut_event.and_then(|cut| self.lives.get(&cut.second));
        second.is_some_and(|second| {
            second.phase == Phase::Reading
                && second.content == Content::Own
                && !second.gone
                && second.events.event_offset() == 0
        })
    }

    /// Puts the event that `rest`, which `life` shows, goes on with into the open batch.
    ///
    /// Gives nothing if no batch could be sealed, and `false` if `rest` is to leave by itself.
    pub(super) fn put_cut_event(
        &mut self,
        life: &mut Life,
        rest: &Event,
        timestamp_ms: i64,
        now: Instant,
    ) -> Option<bool> {
        let cut_event = self.streams[life.stream].cut_event;
        let cut_event = cut_event.filter(|cut| cut.second == life.source);
        let Some(mut first) = cut_event.and_then(|cut| self.lives.remove(&cut.first)) else {
            return Some(false);
        };
        let is_put = self.put_joined(&mut first, life, rest, timestamp_ms, now);
        let source = first.source;
        self.lives.insert(source, first);
        if is_put.is_some() {
            self.streams[life.stream].cut_event = None;
            self.enqueue(source);
        }
        is_put
    }

    fn put_joined(
        &mut self,
        first: &mut Life,
        life: &mut Life,
        rest: &Event,
        timestamp_ms: i64,
        now: Instant,
    ) -> Option<bool> {
        let stream = &self.streams[life.stream];
        let input = stream.input.clone();
        let slot = stream.slot.expect("only streams with a partition are read");
        let open = first.events.open_event().filter(|open| {
            first.events.has_room_for(rest) && !first.arrived.covers(open.start, open.end)
        });
        let Some(start) = open.cloned() else {
            // What there is of it leaves by itself, before what follows.
            first.events.flush();
            return self.put_events(first, &input, timestamp_ms, now).then_some(false);
        };
        if first.origin.is_none() {
            let content = first.events.content(&start).to_vec();
            self.name_life(first, &content);
        }
        self.journal_life(first, self.journal.number());

        let mut room = Vec::new();
        let mut text = first.events.text_with_terminator(&start, &mut room).to_vec();
        text.extend_from_slice(life.events.text(rest, &mut room));
        let event = joined(&start, rest);
        let passes = first.filter.passes(&input, &event, &text);
        life.filter = first.filter;
        let origin = first.origin.as_ref().expect("named above");
        let size = text.len() + origin.overhead();
        if passes && self.open[slot].has_only_passed() {
            self.seal(slot);
        }
        if passes && !self.open[slot].has_room(size, self.config) && !self.seal(slot) {
            return None;
        }
        let batch = &mut self.open[slot];
        batch.since.get_or_insert(now);
        if passes {
            let file_id = life.file_id.as_deref().expect("named with its first event");
            let rest = Rest { file_id, length: rest.end - rest.start };
            let (scratch, records) = (&mut self.scratch, &mut batch.records);
            origin.encode_with(timestamp_ms, &event, Some(rest), &text, scratch, records);
        } else {
            batch.bytes_dropped += (start.end - start.start) + (rest.end - rest.start);
        }
        batch.cover(first.source, &Event { flushed: true, ..start.clone() });
        batch.cover_rest(life.source, rest, first.source);
        if !passes {
            self.count_filtered(first, &start);
            self.counters.bytes_filtered.add(rest.end - rest.start);
        } else if start.start < first.doubtful_end || rest.start < life.doubtful_end {
            self.counters.records_maybe_repeated.add(1);
        }
        self.counters.lines_read.add(u64::from(start.n_lines));
        first.events.flush();
        first.events.consume();
        Some(true)
    }
}

/// Returns the event of both parts, which has the ground of the first.
pub(super) fn joined(start: &Event, rest: &Event) -> Event {
    Event { cut: rest.cut, partial: rest.partial, ..start.clone() }
}

impl Life {
    /// Returns the first line of its file, as far as it is there, without its terminator.
    fn first_line(&self) -> Option<Vec<u8>> {
        let (file, stat) = discover::open(&self.name).ok()?;
        if stat.inode != self.harvester.stat().inode {
            return None;
        }
        let mut line = read_range(&file, 0, FIRST_LINE_BYTES_MAX).ok()?;
        if let Some(end) = memchr::memchr(b'\n', &line) {
            line.truncate(end);
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(line)
    }
}
