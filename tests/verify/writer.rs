//! Writers: logs that grow and rotate as those of a broker and of logrotate do.
//!
//! An event carries run, stream, number and a checksum of itself at its very end, so that a torn,
//! merged or invented one cannot pass. Whoever holds a [`Log`]'s lock has stopped its writer.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::support::stack::Random;

/// Rotated files that are kept; the oldest goes.
const FILES_MAX: usize = 200;

/// How a stream is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// `.1`, `.2` and so on, the higher the older, by rename.
    Index,
    /// `.2026-01-31-13`, by rename.
    Date,
    /// Copied to `.1`, and truncated.
    Copy,
}

/// What a stream is like.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub rotation: Rotation,
    /// What stands behind the path in the configuration: nothing, as for Kafka's own logs, or `*`.
    pub pattern: &'static str,
    pub per_second: u64,
    /// Events in a file, about, after which it is rotated.
    pub rotate_every: u64,
    /// Rotations with an unterminated last line, and with a writer that stays in the old file for
    /// a while, now and then.
    pub quirks: bool,
    /// Events after which the file is fsync'd, as it is before each rotation; 0: never.
    pub sync_every: u64,
    /// Events after which nothing more is written.
    pub events_max: Option<u64>,
}

struct Rotated {
    name: PathBuf,
    /// Number of its last event.
    last: u64,
}

/// A file that is written to.
pub struct Log {
    pub path: PathBuf,
    plan: Plan,
    stream: usize,
    run: u32,
    ledger: Arc<Ledger>,
    file: File,
    /// Events until the writer turns to the file that is at `path` by now.
    held: Option<u64>,
    n_in_file: u64,
    n_rotations: u64,
    rotated: Vec<Rotated>,
    random: Random,
    text: Vec<u8>,
}

impl Log {
    pub fn new(path: PathBuf, plan: Plan, stream: usize, run: u32, ledger: &Arc<Ledger>) -> Log {
        let file = open(&path);
        Log {
            path,
            plan,
            stream,
            run,
            ledger: Arc::clone(ledger),
            file,
            held: None,
            n_in_file: 0,
            n_rotations: 0,
            rotated: Vec::new(),
            random: Random::seeded(u64::from(run) + stream as u64),
            text: Vec::new(),
        }
    }

    pub fn n_rotations(&self) -> u64 {
        self.n_rotations
    }

    pub fn newest_rotated(&self) -> &Path {
        &self.rotated.last().expect("rotated before").name
    }

    /// Writes one event, and rotates when it is time.
    pub fn write(&mut self) {
        self.write_event(true);
        self.n_in_file += 1;
        if let Some(left) = &mut self.held {
            *left -= 1;
            if *left == 0 {
                self.let_go();
            }
        }
        if self.plan.sync_every > 0 && self.n_in_file.is_multiple_of(self.plan.sync_every) {
            self.sync();
        }
        if self.n_in_file >= self.plan.rotate_every {
            self.rotate();
        }
    }

    pub fn size(&self) -> u64 {
        self.file.metadata().expect("open").len()
    }

    /// Writes events into the one file until it is longer than `size`.
    pub fn grow_past(&mut self, size: u64) {
        while self.size() <= size {
            self.write_event(true);
        }
    }

    /// Makes sure that the events to come go to the file at `path`.
    pub fn let_go(&mut self) {
        if self.held.take().is_some() {
            self.file = open(&self.path);
        }
    }

    fn write_event(&mut self, terminated: bool) {
        let seq = {
            let mut account = self.ledger.account(self.stream);
            account.begun += 1;
            account.begun
        };
        self.text.clear();
        put_event(&mut self.text, self.run, self.stream, seq);
        if terminated {
            self.text.push(b'\n');
        }
        self.file.write_all(&self.text).expect("the disk of the logs takes it");
        self.ledger.account(self.stream).written = seq;
    }

    pub fn rotate(&mut self) {
        self.let_go();
        self.n_in_file = 0;
        self.n_rotations += 1;
        if self.plan.rotation == Rotation::Copy {
            return self.copy_and_truncate();
        }
        let quirk = if self.plan.quirks { self.random.number(0..20) } else { 19 };
        if quirk == 0 {
            self.write_event(false);
        }
        if self.plan.sync_every > 0 {
            self.sync();
        }
        let name = self.make_room();
        fs::rename(&self.path, &name).expect("renamed");
        self.note_rotated(name);
        if (1..4).contains(&quirk) {
            // As logrotate with `create` does, before the writer has got its signal.
            open(&self.path);
            self.held = Some(1 + self.random.number(0..20));
        } else {
            self.file = open(&self.path);
        }
    }

    fn copy_and_truncate(&mut self) {
        let name = self.make_room();
        fs::copy(&self.path, &name).expect("copied");
        self.note_rotated(name);
        for _ in 0..self.random.number(0..3) {
            self.write_event(true);
        }
        self.truncate();
    }

    fn sync(&mut self) {
        self.file.sync_data().expect("synced");
        let mut account = self.ledger.account(self.stream);
        account.synced = account.written;
    }

    /// The power is gone, and with it what was not synced.
    pub fn lose_power(&mut self) {
        self.file = File::open("/dev/null").expect("there");
        let mut account = self.ledger.account(self.stream);
        let first = account.synced + 1;
        account.excuse_unseen(first, u64::MAX);
    }

    /// Goes on with the files that are there after a power cut; tells whether the last line of
    /// the file was torn. That line is ended, as a careful logger does.
    pub fn regain_power(&mut self) -> bool {
        self.held = None;
        self.rotated.retain(|rotated| rotated.name.exists());
        self.file = open(&self.path);
        let end = fs::read(&self.path).expect("read");
        let is_torn = end.last().is_some_and(|last| *last != b'\n');
        if is_torn {
            self.file.write_all(b"\n").expect("written");
        }
        is_torn
    }

    fn note_rotated(&mut self, name: PathBuf) {
        let last = self.ledger.account(self.stream).written;
        self.rotated.push(Rotated { name, last });
    }

    /// Bytes up to that of event `last` go, read or not.
    fn excuse_unseen(&self, last: u64) {
        self.ledger.account(self.stream).excuse_unseen(0, last);
    }

    /// Empties the file: what has not arrived may be lost.
    pub fn truncate(&mut self) {
        self.excuse_unseen(u64::MAX);
        self.file.set_len(0).expect("truncated");
    }

    /// Returns the name for the next rotated file, moving and removing others for it.
    fn make_room(&mut self) -> PathBuf {
        if self.rotated.len() >= FILES_MAX {
            let oldest = self.rotated.remove(0);
            self.excuse_unseen(oldest.last);
            fs::remove_file(oldest.name).expect("removed");
        }
        if self.plan.rotation == Rotation::Date {
            let (day, hour) = (self.n_rotations / 24, self.n_rotations % 24);
            let (month, day) = (1 + day / 28, 1 + day % 28);
            return suffixed(&self.path, &format!("2026-{month:02}-{day:02}-{hour:02}"));
        }
        let n = self.rotated.len();
        for (at, rotated) in self.rotated.iter_mut().enumerate() {
            let older = suffixed(&self.path, &(n - at + 1).to_string());
            fs::rename(&rotated.name, &older).expect("renamed");
            rotated.name = older;
        }
        suffixed(&self.path, "1")
    }

    /// Removes the newest rotated file.
    pub fn remove_newest_rotated(&mut self) {
        let newest = self.rotated.pop().expect("rotated before");
        fs::remove_file(newest.name).expect("removed");
    }

    /// Removes the file and makes it anew with the inode it had; `false` if the file system
    /// does not give it again.
    pub fn remove_and_reuse_inode(&mut self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let inode = self.file.metadata().expect("open").ino();
        // The handle, too, holds the inode.
        self.file = File::open("/dev/null").expect("there");
        self.excuse_unseen(u64::MAX);
        fs::remove_file(&self.path).expect("removed");
        let folder = self.path.parent().expect("absolute");
        let tries: Vec<PathBuf> =
            (0..200).map(|n| folder.join(format!(".inode-{}-{n}", self.stream))).collect();
        let found = tries.iter().find(|path| open(path).metadata().expect("open").ino() == inode);
        if let Some(found) = found {
            fs::rename(found, &self.path).expect("renamed");
        }
        tries.iter().for_each(|path| drop(fs::remove_file(path)));
        self.file = open(&self.path);
        self.n_in_file = 0;
        found.is_some()
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).open(path).expect("opened")
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Appends an event without its last line feed. Each fiftieth is an error with its trace.
pub fn put_event(text: &mut Vec<u8>, run: u32, stream: usize, seq: u64) {
    let is_error = seq.is_multiple_of(50);
    let level = if is_error { "ERROR" } else { "INFO" };
    let pad = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57;
    write!(
        text,
        "[2026-01-02 {:02}:{:02}:{:02},{:03}] {level} V1 run={run:08x} f={stream} seq={seq} pad=",
        seq / 3_600_000 % 24,
        seq / 60_000 % 60,
        seq / 1000 % 60,
        seq % 1000
    )
    .expect("memory");
    text.resize(text.len() + pad as usize, b'x');
    if is_error {
        text.extend_from_slice(b" (kafka.server.ReplicaManager)\njava.io.IOException: of a disk\n");
        text.extend_from_slice(b"\tat a.B.c(B.java:17)\nCaused by: java.lang.Error\n\t... 1 more");
    }
    let crc = crc32c::crc32c(text);
    write!(text, " crc={crc:08x}").expect("memory");
}

/// Takes an event apart: run, stream and number; `None` if it is not one that was written.
pub fn parse_event(value: &[u8]) -> Option<(u32, usize, u64)> {
    const CRC: usize = " crc=01234567".len();
    let (text, end) = value.split_at_checked(value.len().checked_sub(CRC)?)?;
    let crc = std::str::from_utf8(end.strip_prefix(b" crc=")?).ok()?;
    if u32::from_str_radix(crc, 16).ok()? != crc32c::crc32c(text) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    let word = |name: &str| text.split_ascii_whitespace().find_map(|word| word.strip_prefix(name));
    let run = u32::from_str_radix(word("run=")?, 16).ok()?;
    Some((run, word("f=")?.parse().ok()?, word("seq=")?.parse().ok()?))
}

/// A log and the thread that writes to it.
pub struct Stream {
    log: Arc<Mutex<Log>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    pub plan: Plan,
    pub number: usize,
}

impl Stream {
    pub fn new(log: Log) -> Stream {
        let (plan, number) = (log.plan, log.stream);
        let stop = Arc::new(AtomicBool::new(false));
        Stream { log: Arc::new(Mutex::new(log)), stop, thread: None, plan, number }
    }

    pub fn start(&mut self) {
        let (log, stop, plan) = (Arc::clone(&self.log), Arc::clone(&self.stop), self.plan);
        self.thread = Some(thread::spawn(move || write_all(&log, plan, &stop)));
    }

    /// For whoever holds the log and changes the world meanwhile.
    pub fn handle(&self) -> Arc<Mutex<Log>> {
        Arc::clone(&self.log)
    }

    /// Stops the writer until the guard is dropped.
    pub fn hold(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("the writer has not failed")
    }

    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the writer has not failed");
        }
    }
}

fn write_all(log: &Mutex<Log>, plan: Plan, stop: &AtomicBool) {
    let mut began = Instant::now();
    let mut n_due = 0;
    let mut n_events = 0;
    while !stop.load(Ordering::Relaxed) {
        // A few events a lock, so that nobody who wants to hold the log waits for long.
        let left = plan.events_max.map_or(u64::MAX, |max| max - n_events);
        let n = (plan.per_second / 200).clamp(1, left);
        {
            let mut log = log.lock().expect("no holder panics");
            (0..n).for_each(|_| log.write());
        }
        n_due += n;
        n_events += n;
        if plan.events_max.is_some_and(|max| n_events >= max) {
            return;
        }
        let due = Duration::from_micros(n_due * 1_000_000 / plan.per_second);
        match due.checked_sub(began.elapsed()) {
            Some(early) => thread::sleep(early),
            // What was held for long is not made up for by a burst.
            None if began.elapsed() - due > Duration::from_secs(1) => {
                began = Instant::now();
                n_due = 0;
            }
            None => {}
        }
    }
}
