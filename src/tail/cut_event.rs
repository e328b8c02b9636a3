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
    /// Where it starts in the first.
    start: u64,
    second: SourceId,
}

/// What became of an event before which another may have to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It left as the rest of the other.
    WithIt,
    /// It is to leave by itself.
    Without,
    /// No batch could be sealed.
    Blocked,
}

impl Hub<'_> {
    /// Tells whether the successor of a life that was read to its end begins amid its last event.
    pub(super) fn is_cut(&self, life: &Life, input: &InputConfig) -> bool {
        let stream = &self.streams[life.stream];
        let next = stream.queue.get(1).and_then(|next| self.lives.get(next));
        let Some(next) = next else {
            return false;
        };
        // An event that may itself be the rest of another leaves first.
        let is_rest = stream.cut_event.is_some_and(|cut| cut.second == life.source);
        let is_text = matches!(input.encoding, Encoding::Utf8 | Encoding::Latin1);
        let is_fresh = next.events.read_offset() == 0 && next.content == Content::Own;
        !is_rest && is_text && is_fresh && !next.harvester.is_gzipped() && {
            let first_line = next.first_line();
            first_line.is_some_and(|line| life.events.goes_on_with(&line, &input.multiline))
        }
    }

    /// Has the successor of a life, whose last event is open, read as its continuation.
    pub(super) fn expect_rest(&mut self, source: SourceId) {
        let life = &self.lives[&source];
        let stream = &mut self.streams[life.stream];
        if let (Some(open), Some(&second)) = (life.events.open_event(), stream.queue.get(1)) {
            stream.cut_event = Some(CutEvent { first: source, start: open.start, second });
            let limits = Limits::of(&stream.input);
            let second = self.lives.get_mut(&second).expect("lives of queues are open");
            second.events = EventBuffer::new(0, limits, true);
        }
    }

    /// Tells until when a life waits for the rest of its last event; `None` if it does not.
    ///
    /// It does while its successor shows no complete event and may still be read. That event ends
    /// `event_timeout` after its last byte; the same time again is for busy hosts.
    pub(super) fn waits_for_rest(&self, life: &Life, now: Instant) -> Option<Instant> {
        let stream = &self.streams[life.stream];
        let cut = stream.cut_event.filter(|cut| cut.is_open_in(life))?;
        let second = self.lives.get(&cut.second)?;
        let may_come = second.phase == Phase::Reading
            && second.content == Content::Own
            && second.events.event_offset() == 0
            && !second.gone
            && !life.gone;
        let event_timeout = stream.input.event_timeout;
        let until = match second.at_end {
            true => life.grown_at.max(second.grown_at) + 2 * event_timeout,
            false => now + event_timeout,
        };
        (may_come && now < until).then_some(until)
    }

    /// Gives up waiting for the rest of an event in a file that cannot be read.
    pub(super) fn expect_no_rest_in(&mut self, life: &Life) {
        let cut_event = &mut self.streams[life.stream].cut_event;
        if let Some(cut) = cut_event.take_if(|cut| cut.second == life.source) {
            self.enqueue(cut.first);
        }
    }

    /// Puts the event of a stream that was cut into the open batch, before any other of that
    /// stream leaves. `next` is that other, which `life` shows, and perhaps its rest.
    pub(super) fn put_cut_event(
        &mut self,
        life: &mut Life,
        next: &Event,
        timestamp_ms: i64,
        now: Instant,
    ) -> Put {
        let Some(cut) = self.streams[life.stream].cut_event else {
            return Put::Without;
        };
        // What is written to older files comes late anyway.
        if cut.first == life.source || life.phase != Phase::Reading {
            return Put::Without;
        }
        let put = match self.lives.remove(&cut.first) {
            None => Put::Without,
            Some(mut first) => {
                self.in_turn.push(cut.first);
                let put = self.put_start(&mut first, cut, life, next, timestamp_ms, now);
                self.in_turn.pop();
                self.lives.insert(cut.first, first);
                self.enqueue(cut.first);
                put
            }
        };
        if put != Put::Blocked {
            self.streams[life.stream].cut_event = None;
        }
        put
    }

    /// Puts the open event of `first`, with `next` or without.
    fn put_start(
        &mut self,
        first: &mut Life,
        cut: CutEvent,
        life: &mut Life,
        next: &Event,
        timestamp_ms: i64,
        now: Instant,
    ) -> Put {
        let start = first.events.open_event().filter(|_| cut.is_open_in(first)).cloned();
        let is_rest =
            life.source == cut.second && next.start == 0 && next.continued && !next.is_nuls;
        if let Some(start) = start {
            if is_rest {
                let journal = self.journal.number();
                self.make_known(first, &start, journal);
                self.make_known(life, next, journal);
                let is_there = first.has_arrived(&start) || life.has_arrived(next);
                if !is_there && !first.has_another(&start) && first.events.has_room_for(next) {
                    return self.put_joined(first, &start, life, next, timestamp_ms, now);
                }
            }
            first.events.flush();
        }
        let input = self.streams[life.stream].input.clone();
        if !self.put_events(first, &input, timestamp_ms, now) {
            return Put::Blocked;
        }
        if is_rest {
            life.filter = first.filter;
        }
        Put::Without
    }

    fn put_joined(
        &mut self,
        first: &mut Life,
        start: &Event,
        life: &mut Life,
        rest: &Event,
        timestamp_ms: i64,
        now: Instant,
    ) -> Put {
        let stream = &self.streams[life.stream];
        let input = stream.input.clone();
        let slot = stream.slot.expect("only streams with a partition are read");
        let mut room = Vec::new();
        let mut text = first.events.text_with_terminator(start, &mut room).to_vec();
        text.extend_from_slice(life.events.text(rest, &mut room));
        let event = joined(start, rest);
        let passes = first.filter.passes(&input, &event, &text);
        life.filter = first.filter;
        let origin = first.origin.as_ref().expect("made known");
        if passes && !self.make_room(slot, text.len() + origin.overhead()) {
            return Put::Blocked;
        }
        let batch = &mut self.open[slot];
        batch.since.get_or_insert(now);
        if passes {
            let file_id = life.file_id.as_deref().expect("made known");
            let rest = Rest { file_id, length: rest.end - rest.start };
            let (scratch, records) = (&mut self.scratch, &mut batch.records);
            origin.encode_with(timestamp_ms, &event, Some(rest), &text, scratch, records);
        } else {
            batch.bytes_dropped += (start.end - start.start) + (rest.end - rest.start);
        }
        batch.cover(first.source, &Event { flushed: true, ..start.clone() });
        batch.cover_rest(life.source, rest, first.source);
        if !passes {
            let n_bytes = (start.end - start.start) + (rest.end - rest.start);
            self.counters.events_filtered.add(1);
            self.counters.bytes_filtered.add(n_bytes);
            first.say_filtered(start);
        } else if start.start < first.doubtful_end || rest.start < life.doubtful_end {
            self.counters.records_maybe_repeated.add(1);
        }
        if rest.cut > 0 {
            self.note_cut(life, rest);
        }
        self.counters.lines_read.add(u64::from(start.n_lines));
        first.events.flush();
        first.events.consume();
        Put::WithIt
    }
}

impl CutEvent {
    /// Tells whether it is still what its first life ends with.
    fn is_open_in(&self, life: &Life) -> bool {
        let is_it = |open: &Event| open.start == self.start;
        life.source == self.first && life.events.open_event().is_some_and(is_it)
    }
}

/// Returns the event of both parts, which has the ground of the first.
pub(super) fn joined(start: &Event, rest: &Event) -> Event {
    Event { cut: rest.cut, partial: rest.partial, ..start.clone() }
}

impl Life {
    /// Returns the first line of its file, or what is looked at of it, without its terminator;
    /// `None` if it is not there yet.
    fn first_line(&self) -> Option<Vec<u8>> {
        let (file, stat) = discover::open(&self.name).ok()?;
        if stat.inode != self.harvester.stat().inode {
            return None;
        }
        let mut line = read_range(&file, 0, FIRST_LINE_BYTES_MAX).ok()?;
        match memchr::memchr(b'\n', &line) {
            Some(end) => line.truncate(end),
            None if line.len() as u64 == FIRST_LINE_BYTES_MAX => {}
            None => return None,
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some(line)
    }
}
