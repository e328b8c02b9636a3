//! What was written into each stream, and what of it has arrived.
//!
//! Events of a stream are numbered from 1 without a gap. Every one that was written **must**
//! arrive, unless its number is in `may`: it was in one of the windows in which the README says
//! that bytes can be lost.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

/// One stream's account.
#[derive(Debug, Default)]
pub struct Account {
    /// Numbers handed to `write`; nothing above may ever arrive.
    pub begun: u64,
    /// Numbers whose `write` has returned; nothing up to here may be missing.
    pub written: u64,
    /// Numbers that a power cut cannot take any more.
    pub synced: u64,
    pub may: BTreeSet<u64>,
    seen: Vec<u64>,
    pub n_seen: u64,
    /// Highest number that has arrived.
    pub last_seen: u64,
    pub repeats: u64,
    pub disordered: u64,
    pub partition: Option<i32>,
}

impl Account {
    pub fn has_seen(&self, seq: u64) -> bool {
        self.seen.get(seq as usize / 64).is_some_and(|word| word >> (seq % 64) & 1 == 1)
    }

    /// Enters an event that has arrived.
    pub fn see(&mut self, seq: u64) {
        if self.has_seen(seq) {
            self.repeats += 1;
            return;
        }
        let word = seq as usize / 64;
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= 1 << (seq % 64);
        self.n_seen += 1;
        if seq < self.last_seen {
            self.disordered += 1;
        }
        self.last_seen = self.last_seen.max(seq);
    }

    /// What was written from `first` to `last` and has not arrived may be lost from now on.
    pub fn excuse_unseen(&mut self, first: u64, last: u64) {
        let last = last.min(self.written);
        let unseen: Vec<u64> = self.missing(last).filter(|seq| *seq >= first).collect();
        self.may.extend(unseen);
    }

    /// Numbers up to `last` that must arrive and have not.
    pub fn missing(&self, last: u64) -> impl Iterator<Item = u64> {
        // Whole words first: a run has a million events.
        let words = (0..=last / 64).filter(|word| self.seen.get(*word as usize) != Some(&!0));
        let numbers = words.flat_map(|word| word * 64..word * 64 + 64);
        numbers.filter(move |seq| {
            (1..=last).contains(seq) && !self.has_seen(*seq) && !self.may.contains(seq)
        })
    }
}

/// The accounts of all streams, by number.
#[derive(Debug)]
pub struct Ledger(Vec<Mutex<Account>>);

impl Ledger {
    pub fn new(n_streams: usize) -> Ledger {
        Ledger((0..n_streams).map(|_| Mutex::default()).collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn account(&self, stream: usize) -> MutexGuard<'_, Account> {
        self.0[stream].lock().expect("no holder panics")
    }

    pub fn accounts(&self) -> impl Iterator<Item = MutexGuard<'_, Account>> {
        (0..self.len()).map(|stream| self.account(stream))
    }

    pub fn sum(&self, of: impl Fn(&Account) -> u64) -> u64 {
        self.accounts().map(|account| of(&account)).sum()
    }
}
