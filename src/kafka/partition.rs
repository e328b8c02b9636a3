//! Idempotent delivery to one partition: sequence numbers, batches in flight, recovery.
//!
//! Pure: no socket, no clock. The queue holds every batch of the partition that is not settled, in
//! order. Its front part is *open*: sent under a sequence number at least once. Batches are sent in
//! order, at most five are in flight, and as long as each arrives the front leaves the queue.
//!
//! When one does not arrive, nothing more is sent until none is in flight. Then all answers are
//! read together ([`Partition::recover`]): what arrived is settled, and the first that did not
//! decides what is done. Resending starts at the front, unchanged and in order; the front goes
//! alone, until the broker has shown that it knows our sequence.

use std::collections::VecDeque;
use std::sync::Arc;

use super::record_batch::{EncodedBatch, Stamp, sequence_after};
use super::verdict::{Verdict, may_have_arrived, verdict};

/// Batches in flight for one partition: as many as the broker remembers.
pub(super) const IN_FLIGHT_MAX: usize = 5;

/// Answers CORRUPT_MESSAGE in a row after which the batch in memory must be broken.
const CORRUPT_MAX: u32 = 10;

/// In whose name batches are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) producer_id: i64,
    pub(super) epoch: i16,
}

impl From<Stamp> for Identity {
    fn from(stamp: Stamp) -> Identity {
        Identity { producer_id: stamp.producer_id, epoch: stamp.epoch }
    }
}

/// A batch that goes out now.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) id: PieceId,
    pub(super) origin: u64,
    pub(super) batch: Arc<EncodedBatch>,
    pub(super) n_records: u32,
    /// Under what it goes; `None` if it went under the same before.
    pub(super) new_stamp: Option<Stamp>,
}

/// Identifies a queued batch for the answer that belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PieceId(pub(super) u64);

/// A batch, or a part of one that had to be cut.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) id: PieceId,
    /// The number under which the producer knows the batch that it is, or is a part of.
    pub(super) origin: u64,
    pub(super) batch: Arc<EncodedBatch>,
    pub(super) n_records: u32,
    /// Given when it is first sent.
    base_sequence: Option<i32>,
    in_flight: bool,
    /// The answer since it was last sent.
    outcome: Option<Outcome>,
    /// An earlier answer, or the lack of one, leaves it possible that it arrived.
    may_have_arrived: bool,
    /// A later one has arrived under the same identity.
    overtaken: bool,
}

impl Piece {
    pub(super) fn new(id: PieceId, origin: u64, batch: EncodedBatch, n_records: u32) -> Piece {
        Piece {
            id,
            origin,
            batch: Arc::new(batch),
            n_records,
            base_sequence: None,
            in_flight: false,
            outcome: None,
            may_have_arrived: false,
            overtaken: false,
        }
    }

    /// Returns what is left of it, or a part of it, as a piece of its own.
    pub(super) fn part(&self, id: PieceId, batch: EncodedBatch, n_records: u32) -> Piece {
        Piece {
            may_have_arrived: self.may_have_arrived,
            ..Piece::new(id, self.origin, batch, n_records)
        }
    }

    fn is_open(&self) -> bool {
        self.base_sequence.is_some()
    }

    /// Whether the answer says that it does not stand in the log, and nothing can be done about it
    /// under the sequence number it has once a later batch does.
    fn was_refused_for_good(&self) -> bool {
        match &self.outcome {
            Some(Outcome::Refused(refusal)) => match verdict(refusal.code) {
                Verdict::Halve | Verdict::Reject => false, // It gets another one anyway.
                Verdict::OutOfSequence => !self.may_have_arrived,
                // Whoever has appended it and leads again: a repeat is better than a loss.
                Verdict::Refresh => true,
                _ => !may_have_arrived(refusal.code),
            },
            _ => false,
        }
    }

    fn verdict(&self) -> Option<Verdict> {
        match self.outcome.as_ref()? {
            Outcome::Arrived(_) => Some(Verdict::Arrived),
            Outcome::Refused(refusal) => Some(verdict(refusal.code)),
            Outcome::Unknown => None,
        }
    }
}

/// What became of a batch that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It stands in the log from this offset on, -1 where the broker does not say.
    Arrived(i64),
    /// The broker answered with an error.
    Refused(Refusal),
    /// There was no answer, or none that makes sense.
    Unknown,
}

/// An error the broker answered with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Refusal {
    pub(super) code: i16,
    /// The broker's words.
    pub(super) message: Option<String>,
    /// Records that are to blame, by their number, with the reason.
    pub(super) records: Vec<(i32, Option<String>)>,
}

/// A batch that has left the queue because it arrived.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) piece: Piece,
    pub(super) base_offset: i64,
}

/// What is to be done after everything in flight has been answered.
#[derive(Debug)]
pub(super) enum Recovery {
    /// Nothing: all that was sent has arrived.
    None,
    /// After a wait everything is sent again as it is; with the refusal that made it necessary,
    /// `None` if it was the connection.
    Resend(Option<Refusal>),
    /// This piece has left the queue and must come back with [`Partition::put_back`], in parts or
    /// without some of its records.
    Cut(Box<Piece>, Refusal),
    /// The broker has lost our sequence: a new producer id is needed. The pieces named may be
    /// repeated, for nobody knows whether they had arrived.
    NewIdentity(Vec<u64>),
    /// Only a restart, or a human, can help.
    Fatal(Refusal),
}

/// The batches of one partition on their way.
#[derive(Debug, Default)]
pub(super) struct Partition {
    queue: VecDeque<Piece>,
    identity: Option<Identity>,
    next_sequence: i32,
    /// Sequence number after the last batch that arrived under `identity`.
    arrived_end: i32,
    n_in_flight: usize,
    /// Whether the broker is known to know our sequence. If not, the first batch goes alone: a
    /// broker that knows nothing of a producer id takes any sequence number, also that of the
    /// second batch when the first was refused.
    proven: bool,
    /// Something did not arrive; what is new waits.
    recovering: bool,
    n_corrupt: u32,
    /// Recoveries since something last arrived.
    pub(super) n_failures: u32,
}

impl Partition {
    /// Adds a batch at the end.
    pub(super) fn push(&mut self, piece: Piece) {
        self.queue.push_back(piece);
    }

    /// Adds a batch at the end that an earlier process may have sent under `stamp`: it goes under
    /// the same again, and so does everything behind it go on in that producer's name.
    ///
    /// Returns whether the stamp follows the queue; if not, the batch goes as a new one.
    pub(super) fn push_again(&mut self, mut piece: Piece, stamp: Stamp) -> bool {
        let identity = Identity::from(stamp);
        let is_first = self.identity.is_none() && self.queue.is_empty();
        if is_first {
            self.identify(identity);
            self.next_sequence = stamp.base_sequence;
            self.arrived_end = stamp.base_sequence;
        }
        let follows = self.identity == Some(identity)
            && self.next_sequence == stamp.base_sequence
            && self.queue.iter().all(Piece::is_open);
        if follows {
            piece.base_sequence = Some(stamp.base_sequence);
            piece.may_have_arrived = true;
            self.next_sequence = sequence_after(stamp.base_sequence, piece.n_records);
            Arc::make_mut(&mut piece.batch).stamp(stamp);
        }
        self.push(piece);
        follows
    }

    /// Puts the parts of a piece that was cut back to the front.
    pub(super) fn put_back(&mut self, parts: Vec<Piece>) {
        for part in parts.into_iter().rev() {
            self.queue.push_front(part);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn n_in_flight(&self) -> usize {
        self.n_in_flight
    }

    pub(super) fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// Gives it a name to send under, from sequence number 0 on. Nothing may be open.
    pub(super) fn identify(&mut self, identity: Identity) {
        self.identity = Some(identity);
        self.next_sequence = 0;
        self.arrived_end = 0;
        self.proven = false;
    }

    /// Makes the next batch go alone, for the broker may have forgotten us.
    pub(super) fn distrust(&mut self) {
        self.proven = false;
    }

    /// Returns the length of the batch that may be sent now.
    pub(super) fn sendable_len(&self) -> Option<usize> {
        let piece = &self.queue[self.sendable()?];
        Some(piece.batch.as_bytes().len())
    }

    fn sendable(&self) -> Option<usize> {
        self.identity?;
        let allowed = if self.proven { IN_FLIGHT_MAX } else { 1 };
        if self.n_in_flight >= allowed {
            return None;
        }
        let next =
            self.queue.iter().position(|piece| !piece.in_flight && piece.outcome.is_none())?;
        // Sequence numbers refused tell nothing by themselves. The answers to all that is open do,
        // so those go on being sent.
        let may_go =
            !self.recovering || (self.queue[next].is_open() && self.only_out_of_sequence());
        may_go.then_some(next)
    }

    fn only_out_of_sequence(&self) -> bool {
        self.queue.iter().all(|piece| {
            piece.outcome.is_none()
                || matches!(piece.verdict(), Some(Verdict::OutOfSequence | Verdict::Arrived))
        })
    }

    /// Takes the next batch to be sent: stamped, and in flight from now on.
    pub(super) fn take(&mut self) -> Option<Taken> {
        let next = self.sendable()?;
        let Identity { producer_id, epoch } = self.identity?;
        let piece = &mut self.queue[next];
        let mut new_stamp = None;
        if piece.base_sequence.is_none() {
            let base_sequence = self.next_sequence;
            piece.base_sequence = Some(base_sequence);
            self.next_sequence = sequence_after(base_sequence, piece.n_records);
            let stamp = Stamp { producer_id, epoch, base_sequence };
            // In place, unless a connection that was lost has not let go of it yet.
            Arc::make_mut(&mut piece.batch).stamp(stamp);
            new_stamp = Some(stamp);
        }
        piece.in_flight = true;
        self.n_in_flight += 1;
        let Piece { id, origin, n_records, .. } = *piece;
        Some(Taken { id, origin, batch: piece.batch.clone(), n_records, new_stamp })
    }

    /// Notes what became of a batch in flight; adds to `arrived` what can leave the queue.
    pub(super) fn answered(&mut self, id: PieceId, outcome: Outcome, arrived: &mut Vec<Arrived>) {
        let piece = self.queue.iter_mut().find(|piece| piece.id == id);
        let piece = piece.expect("what is in flight is in the queue");
        piece.in_flight = false;
        self.n_in_flight -= 1;
        match &outcome {
            Outcome::Arrived(_) => {}
            Outcome::Unknown => {
                piece.may_have_arrived = true;
                self.recovering = true;
            }
            Outcome::Refused(refusal) => {
                piece.may_have_arrived |= may_have_arrived(refusal.code);
                self.recovering = true;
                if verdict(refusal.code) == Verdict::OutOfSequence {
                    // It knows a sequence, so that it takes nothing that does not follow.
                    self.proven = true;
                }
            }
        }
        piece.outcome = Some(outcome);
        if !self.recovering {
            self.settle(arrived, true);
        }
    }

    /// Whether [`Partition::recover`] is due.
    pub(super) fn must_recover(&self) -> bool {
        self.recovering && self.n_in_flight == 0 && self.sendable().is_none()
    }

    /// Reads the answers to all that is open together and decides what is to be done.
    pub(super) fn recover(&mut self, arrived: &mut Vec<Arrived>) -> Recovery {
        self.recovering = false;
        let last_arrived =
            self.queue.iter().rposition(|piece| piece.verdict() == Some(Verdict::Arrived));
        let mut is_passed_over = false;
        for piece in self.queue.iter_mut().take(last_arrived.unwrap_or(0)) {
            piece.overtaken = true;
            // A broker that knows us takes nothing out of sequence. This one has refused a batch
            // and taken a later one, as where the topic was made anew in between.
            is_passed_over |= piece.was_refused_for_good();
        }
        // Where a later one arrived, one that may have and is now refused for its sequence number
        // had arrived, and was forgotten since.
        for piece in &mut self.queue {
            if piece.overtaken
                && piece.may_have_arrived
                && piece.verdict() == Some(Verdict::OutOfSequence)
            {
                piece.outcome = Some(Outcome::Arrived(-1));
            }
        }
        self.settle(arrived, false);

        let refusal = match self.queue.front().map(|piece| &piece.outcome) {
            Some(Some(Outcome::Refused(refusal))) => refusal.clone(),
            Some(Some(Outcome::Unknown)) if is_passed_over => return self.start_anew(),
            Some(Some(Outcome::Unknown)) => return self.resend(None),
            _ => {
                self.forget_outcomes();
                return Recovery::None;
            }
        };
        if is_passed_over {
            return self.start_anew();
        }
        match verdict(refusal.code) {
            Verdict::Halve | Verdict::Reject => self.cut(refusal),
            Verdict::OutOfSequence if self.all_refused_for_good() => self.start_anew(),
            Verdict::Fenced => Recovery::Fatal(refusal),
            Verdict::Corrupt if self.n_corrupt + 1 >= CORRUPT_MAX => Recovery::Fatal(refusal),
            Verdict::Corrupt => {
                self.n_corrupt += 1;
                self.resend(Some(refusal))
            }
            _ => self.resend(Some(refusal)),
        }
    }

    /// Removes from the queue what arrived, up to the first that did not if `in_order`.
    fn settle(&mut self, arrived: &mut Vec<Arrived>, in_order: bool) {
        let mut n_kept = 0;
        while let Some(piece) = self.queue.get(n_kept) {
            if let Some(Outcome::Arrived(base_offset)) = piece.outcome {
                let piece = self.queue.remove(n_kept).expect("it is there");
                let sequence = piece.base_sequence.expect("what arrived was sent");
                self.arrived_end = sequence_after(sequence, piece.n_records);
                self.proven = true;
                self.n_failures = 0;
                self.n_corrupt = 0;
                arrived.push(Arrived { piece, base_offset });
            } else if in_order {
                break;
            } else {
                n_kept += 1;
            }
        }
    }

    fn forget_outcomes(&mut self) {
        for piece in &mut self.queue {
            piece.outcome = None;
        }
    }

    /// The front goes alone then. The topic may have been made anew; or the broker may be about to
    /// become the leader, refuse the front, which it has as a replica, and take what follows it.
    fn resend(&mut self, refusal: Option<Refusal>) -> Recovery {
        self.proven = false;
        self.n_failures += 1;
        self.forget_outcomes();
        Recovery::Resend(refusal)
    }

    /// Takes the front out. Its sequence numbers were not used up, so all after it get new ones;
    /// they cannot have arrived before it.
    fn cut(&mut self, refusal: Refusal) -> Recovery {
        self.forget_outcomes();
        let front = self.queue.pop_front().expect("the front was refused");
        self.next_sequence = match front.base_sequence {
            Some(sequence) if !front.overtaken => sequence,
            _ => self.arrived_end,
        };
        self.close_all();
        Recovery::Cut(Box::new(front), refusal)
    }

    /// Takes the sequence numbers from all that is open.
    fn close_all(&mut self) {
        for piece in &mut self.queue {
            piece.base_sequence = None;
            piece.may_have_arrived = false;
            piece.overtaken = false;
        }
    }

    /// Whether no open batch can have an answer other than a refusal by being sent again.
    fn all_refused_for_good(&self) -> bool {
        self.queue.iter().take_while(|piece| piece.is_open()).all(|piece| {
            matches!(
                piece.verdict(),
                Some(Verdict::OutOfSequence | Verdict::Halve | Verdict::Reject)
            )
        })
    }

    fn start_anew(&mut self) -> Recovery {
        let open = self.queue.iter().take_while(|piece| piece.is_open());
        let doubtful = open.filter(|piece| piece.may_have_arrived);
        let origins = doubtful.map(|piece| piece.origin).collect();
        self.forget_outcomes();
        self.close_all();
        self.identity = None;
        self.n_failures += 1;
        Recovery::NewIdentity(origins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Compression;
    use crate::kafka::record_batch::{Encoder, Headers, RecordArena};

    const IDENTITY: Identity = Identity { producer_id: 7, epoch: 0 };

    fn piece(id: u64, n_records: u32) -> Piece {
        let mut arena = RecordArena::with_capacity(0);
        for _ in 0..n_records {
            arena.push(0, None, b"value", Headers::default());
        }
        let mut encoder = Encoder::new(Compression::None).unwrap();
        let (batch, _) = encoder.encode(arena).unwrap();
        Piece::new(PieceId(id), id, batch, n_records)
    }

    /// A partition with pieces 0 to n, of ten records each.
    fn partition(n: u64) -> Partition {
        let mut partition = Partition::default();
        partition.identify(IDENTITY);
        for id in 0..n {
            partition.push(piece(id, 10));
        }
        partition
    }

    /// Sends all that may be sent: ids and base sequences.
    fn send(partition: &mut Partition) -> Vec<(u64, i32)> {
        let mut sent = Vec::new();
        while let Some(Taken { id, batch, .. }) = partition.take() {
            let sequence = &batch.as_bytes()[53..57];
            sent.push((id.0, i32::from_be_bytes(sequence.try_into().unwrap())));
        }
        sent
    }

    /// Answers one and returns who leaves.
    fn answer(partition: &mut Partition, id: u64, outcome: Outcome) -> Vec<u64> {
        let mut arrived = Vec::new();
        partition.answered(PieceId(id), outcome, &mut arrived);
        arrived.iter().map(|arrived| arrived.piece.id.0).collect()
    }

    fn code(code: i16) -> Outcome {
        Outcome::Refused(Refusal { code, ..Refusal::default() })
    }

    /// A partition of which five are in flight, with ids 1 to 5 and two more waiting.
    fn five_in_flight() -> Partition {
        let mut partition = partition(8);
        assert_eq!(send(&mut partition), [(0, 0)]);
        assert_eq!(answer(&mut partition, 0, Outcome::Arrived(0)), [0]);
        let sent = send(&mut partition);
        assert_eq!(sent, [(1, 10), (2, 20), (3, 30), (4, 40), (5, 50)]);
        partition
    }

    fn recover(partition: &mut Partition) -> (Vec<u64>, Recovery) {
        assert!(partition.must_recover());
        let mut arrived = Vec::new();
        let recovery = partition.recover(&mut arrived);
        (arrived.iter().map(|a| a.piece.id.0).collect(), recovery)
    }

    #[test]
    fn nothing_is_sent_without_a_producer_id() {
        let mut partition = Partition::default();
        partition.push(piece(0, 10));
        assert_eq!(send(&mut partition), []);
    }

    #[test]
    fn after_a_failure_nothing_new_is_sent_until_all_is_answered_and_then_all_again() {
        let mut partition = five_in_flight();
        assert_eq!(answer(&mut partition, 1, Outcome::Arrived(10)), [1]);
        answer(&mut partition, 2, code(19));
        assert_eq!(send(&mut partition), []);
        for id in [3, 4] {
            answer(&mut partition, id, code(45));
        }
        assert!(!partition.must_recover());
        answer(&mut partition, 5, Outcome::Unknown);
        let (arrived, recovery) = recover(&mut partition);
        assert!(arrived.is_empty(), "{arrived:?}");
        assert!(matches!(recovery, Recovery::Resend(Some(refusal)) if refusal.code == 19));
        assert_eq!(send(&mut partition), [(2, 20)]);
        assert_eq!(answer(&mut partition, 2, Outcome::Arrived(20)), [2]);
        let sent = send(&mut partition);
        assert_eq!(sent, [(3, 30), (4, 40), (5, 50), (6, 60), (7, 70)]);
    }

    #[test]
    fn a_broker_that_is_about_to_lead_gets_no_second_batch_before_it_has_taken_the_first() {
        let mut partition = five_in_flight();
        for id in 1..=5 {
            answer(&mut partition, id, code(6));
        }
        for _ in 0..2 {
            assert!(matches!(recover(&mut partition).1, Recovery::Resend(Some(_))));
            assert_eq!(send(&mut partition), [(1, 10)]);
            answer(&mut partition, 1, code(6));
        }
    }

    #[test]
    fn what_a_former_leader_refused_may_have_arrived() {
        let mut partition = five_in_flight();
        for id in 1..=5 {
            answer(&mut partition, id, code(6));
        }
        recover(&mut partition);
        assert_eq!(send(&mut partition), [(1, 10)]);
        answer(&mut partition, 1, code(45));
        assert_eq!(send(&mut partition).len(), 4);
        for id in 2..=5 {
            answer(&mut partition, id, Outcome::Arrived(0));
        }
        let (arrived, recovery) = recover(&mut partition);
        assert_eq!(arrived, [1, 2, 3, 4, 5]);
        assert!(matches!(recovery, Recovery::None));
    }

    #[test]
    fn what_may_have_arrived_had_if_a_later_one_did() {
        let mut partition = five_in_flight();
        for id in 1..=5 {
            answer(&mut partition, id, Outcome::Unknown);
        }
        assert!(matches!(recover(&mut partition).1, Recovery::Resend(None)));
        assert_eq!(send(&mut partition).len(), 1);
        answer(&mut partition, 1, code(45));
        assert_eq!(send(&mut partition).len(), 4);
        answer(&mut partition, 2, code(45));
        answer(&mut partition, 3, Outcome::Arrived(30));
        for id in [4, 5] {
            answer(&mut partition, id, code(7));
        }
        let (arrived, recovery) = recover(&mut partition);
        assert_eq!(arrived, [1, 2, 3]);
        assert!(matches!(recovery, Recovery::Resend(_)));
    }

    #[test]
    fn if_all_are_out_of_sequence_a_new_producer_id_is_needed_and_doubts_are_named() {
        let mut partition = five_in_flight();
        for id in 1..=5 {
            let outcome = if id <= 2 { Outcome::Unknown } else { code(3) };
            answer(&mut partition, id, outcome);
        }
        assert!(matches!(recover(&mut partition).1, Recovery::Resend(None)));
        assert_eq!(send(&mut partition).len(), 1);
        answer(&mut partition, 1, code(59));
        assert_eq!(send(&mut partition).len(), 4);
        for id in 2..=5 {
            answer(&mut partition, id, code(59));
        }
        let (_, recovery) = recover(&mut partition);
        assert!(matches!(recovery, Recovery::NewIdentity(doubtful) if doubtful == [1, 2]));
        assert_eq!(send(&mut partition), []);
        partition.identify(IDENTITY);
        assert_eq!(send(&mut partition), [(1, 0)]);
    }

    #[test]
    fn a_batch_that_was_refused_is_not_taken_for_arrived_because_a_later_one_was_taken() {
        let mut partition = five_in_flight();
        answer(&mut partition, 1, code(3));
        for id in 2..=5 {
            answer(&mut partition, id, Outcome::Arrived(0));
        }
        let (arrived, recovery) = recover(&mut partition);
        assert_eq!(arrived, [2, 3, 4, 5]);
        assert!(matches!(recovery, Recovery::NewIdentity(doubtful) if doubtful.is_empty()));
    }

    #[test]
    fn all_that_is_open_is_asked_for_before_sequence_numbers_refused_are_believed() {
        let mut partition = five_in_flight();
        for id in 1..=5 {
            answer(&mut partition, id, Outcome::Unknown);
        }
        recover(&mut partition);
        assert_eq!(partition.take().map(|taken| taken.id), Some(PieceId(1)));
        assert!(partition.take().is_none());
        answer(&mut partition, 1, code(45));
        assert!(!partition.must_recover());
        assert_eq!(send(&mut partition), [(2, 20), (3, 30), (4, 40), (5, 50)]);
    }

    #[test]
    fn a_batch_cut_gives_its_sequence_numbers_to_its_parts() {
        let mut partition = five_in_flight();
        answer(&mut partition, 1, Outcome::Arrived(10));
        answer(&mut partition, 2, code(10));
        for id in 3..=5 {
            answer(&mut partition, id, code(45));
        }
        let (_, recovery) = recover(&mut partition);
        let Recovery::Cut(cut, _) = recovery else {
            panic!("{recovery:?}");
        };
        assert_eq!(cut.id.0, 2);
        partition.put_back(vec![piece(20, 4), piece(21, 6)]);
        let sent = send(&mut partition);
        assert_eq!(sent, [(20, 20), (21, 24), (3, 30), (4, 40), (5, 50)]);
    }

    #[test]
    fn a_checksum_that_stays_wrong_is_fatal() {
        let mut partition = partition(1);
        for n in 1..=CORRUPT_MAX {
            assert_eq!(send(&mut partition).len(), 1);
            answer(&mut partition, 0, code(2));
            let is_fatal = matches!(recover(&mut partition).1, Recovery::Fatal(_));
            assert_eq!(is_fatal, n == CORRUPT_MAX);
        }
    }

    #[test]
    fn sequence_numbers_wrap_as_the_broker_expects() {
        for (sequence, n_records, next) in
            [(0, 10, 10), (i32::MAX - 10, 10, i32::MAX), (i32::MAX - 9, 10, 0), (i32::MAX, 10, 9)]
        {
            assert_eq!(sequence_after(sequence, n_records), next);
        }
    }
}
