//! What is done to the shipper, its files, its disk and its broker.
//!
//! Each fault shows by itself that it really happened; one that cannot makes the run
//! inconclusive, for nothing was tested then.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::stack::Random;
use crate::world::{World, state_of};
use crate::writer::Rotation;

/// Longest wait for the evidence of a fault.
const EVIDENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9`, and a start within 1.5 seconds.
    Kill,
    /// SIGSTOP, and SIGCONT within three seconds.
    Freeze,
    /// SIGTERM, which must succeed, and a start.
    Restart,
    /// Fifty renames in a second or two.
    Storm,
    /// `kill -9` of the broker, and a start.
    BrokerKill,
    /// The broker is frozen for up to six seconds: longer than a request may take.
    BrokerFreeze,
    /// `kill -9` while the broker, frozen, holds requests that it has not answered.
    KillUnanswered,
    /// The same, and the broker is killed too: what it held is gone.
    KillBoth,
    /// A file is emptied after all of it has arrived, and perhaps renamed soon after.
    Truncate,
    /// A file is emptied and grows past its old size between two looks.
    Regrow,
    /// A renamed file is deleted while the shipper is behind in it.
    DeleteBehind,
    /// A file is deleted and made again with the inode it had, while the shipper is stopped.
    ReuseInode,
    /// One byte of the registry changes while the shipper is stopped.
    DamageRegistry,
    /// The disk of the state directory is full for some seconds.
    FullDisk,
}

/// Does it, and heals it; tells whether it could be seen to have happened.
pub fn inflict(fault: Fault, world: &mut World) -> bool {
    world.note(&format!("{fault:?}"));
    match fault {
        Fault::Kill => kill(world),
        Fault::Freeze => freeze(world),
        Fault::Restart => restart(world),
        Fault::Storm => storm(world),
        Fault::BrokerKill => broker_kill(world),
        Fault::BrokerFreeze => broker_freeze(world),
        Fault::KillUnanswered => kill_unanswered(world, false),
        Fault::KillBoth => kill_unanswered(world, true),
        Fault::Truncate => truncate(world),
        Fault::Regrow => regrow(world),
        Fault::DeleteBehind => delete_behind(world),
        Fault::ReuseInode => reuse_inode(world),
        Fault::DamageRegistry => damage_registry(world),
        Fault::FullDisk => full_disk(world),
    }
}

/// All faults in a random order.
pub fn shuffled(faults: &[Fault], random: &mut Random) -> Vec<Fault> {
    let mut deck = faults.to_vec();
    for at in (1..deck.len()).rev() {
        deck.swap(at, random.number(0..at as u64 + 1) as usize);
    }
    deck
}

// ---- the process ----

fn kill(world: &mut World) -> bool {
    let was_killed = world.kill_tail();
    pause(world, 0..1500);
    world.start_tail();
    was_killed
}

fn freeze(world: &mut World) -> bool {
    world.tail().signal(Signal::STOP);
    let is_frozen = is_frozen(world, world.tail().pid());
    pause(world, 50..3000);
    world.tail().signal(Signal::CONT);
    is_frozen
}

fn restart(world: &mut World) -> bool {
    world.stop_tail(false);
    pause(world, 0..1500);
    world.start_tail();
    true
}

// ---- the broker ----

fn broker_kill(world: &mut World) -> bool {
    let before = world.broker.pid();
    world.broker.run("kill");
    pause(world, 0..2000);
    world.broker.run("start");
    world.broker.pid() != before
}

fn broker_freeze(world: &mut World) -> bool {
    world.broker.run("pause");
    let is_frozen = is_frozen(world, world.broker.pid());
    pause(world, 200..6000);
    world.broker.run("resume");
    is_frozen
}

fn kill_unanswered(world: &mut World, both: bool) -> bool {
    world.broker.run("pause");
    let is_frozen = is_frozen(world, world.broker.pid());
    // Batches leave, and answers do not come.
    pause(world, 300..1500);
    let mut was_killed = world.kill_tail();
    if both {
        was_killed &= broker_kill(world);
    } else if world.random.number(0..2) == 0 {
        world.start_tail();
        pause(world, 0..1000);
        world.broker.run("resume");
        return is_frozen && was_killed;
    } else {
        world.broker.run("resume");
    }
    world.start_tail();
    is_frozen && was_killed
}

// ---- files ----

fn storm(world: &mut World) -> bool {
    let stream = stream_with(world, |rotation| rotation != Rotation::Copy);
    let before = world.streams[stream].hold().n_rotations();
    for _ in 0..50 {
        let n = world.random.number(1..4);
        let mut log = world.streams[stream].hold();
        (0..n).for_each(|_| log.write());
        log.rotate();
        drop(log);
        pause(world, 0..40);
    }
    world.streams[stream].hold().n_rotations() >= before + 50
}

fn truncate(world: &mut World) -> bool {
    let stream = stream_with(world, |_| true);
    let is_renamed = world.streams[stream].plan.rotation != Rotation::Copy;
    let may_rotate = is_renamed && world.random.number(0..2) == 0;
    let n_before = truncations(world);
    {
        let mut log = world.streams[stream].hold();
        log.let_go();
        if !world.wait_for_stream(stream) {
            return true; // A violation, and reported as one.
        }
        log.truncate();
        log.write();
        if may_rotate {
            // What was read of it last is longer than what it ends with.
            log.rotate();
        }
    }
    world.wait(EVIDENCE, || truncations(world) > n_before)
}

fn regrow(world: &mut World) -> bool {
    let stream = stream_with(world, |_| true);
    let n_before = truncations(world);
    {
        let mut log = world.streams[stream].hold();
        log.let_go();
        if !world.wait_for_stream(stream) {
            return true;
        }
        world.tail().signal(Signal::STOP);
        if !is_frozen(world, world.tail().pid()) {
            return false;
        }
        let size = log.size();
        log.truncate();
        log.grow_past(size);
    }
    world.tail().signal(Signal::CONT);
    world.wait(EVIDENCE, || truncations(world) > n_before)
}

fn delete_behind(world: &mut World) -> bool {
    let stream = stream_with(world, |rotation| rotation != Rotation::Copy);
    world.broker.run("pause");
    {
        let mut log = world.streams[stream].hold();
        log.let_go();
        // More than may be under way, so that some of it is not read yet.
        let size = log.size();
        log.grow_past(size + 3_000_000);
        log.rotate();
        let rotated = log.newest_rotated().to_owned();
        let is_open = || has_open(world.tail().pid(), &rotated);
        if !world.wait(EVIDENCE, is_open) {
            drop(log);
            world.broker.run("resume");
            return false;
        }
        log.remove_newest_rotated();
    }
    // Long enough for a look that finds it gone.
    thread::sleep(Duration::from_millis(1500));
    let is_held = holds_deleted(world.tail().pid());
    world.broker.run("resume");
    is_held || world.has_planted()
}

fn reuse_inode(world: &mut World) -> bool {
    let stream = stream_with(world, |_| true);
    let handle = world.streams[stream].handle();
    let mut log = handle.lock().expect("the writer has not failed");
    log.let_go();
    if !world.wait_for_stream(stream) {
        return true;
    }
    world.stop_tail(false);
    let size = log.size();
    let was_reused = log.remove_and_reuse_inode();
    log.grow_past(size + size / 2);
    drop(log);
    pause(world, 0..500);
    world.start_tail();
    was_reused
}

// ---- the state directory ----

fn damage_registry(world: &mut World) -> bool {
    let was_killed = world.kill_tail();
    let path = world.state.join("registry.json");
    let mut bytes = fs::read(&path).expect("saved before");
    let at = world.random.number(0..bytes.len() as u64) as usize;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).expect("written");
    world.note(&format!("registry: bit 0 of byte {at} flipped"));
    pause(world, 0..1500);
    world.start_tail();
    was_killed
}

fn full_disk(world: &mut World) -> bool {
    let filler = world.state.join("filler");
    let mut file = File::create(&filler).expect("made");
    while file.write_all(&[0; 4096]).is_ok() {}
    let log = || world.tail().log();
    let was_seen = world.wait(EVIDENCE, || log().contains("No space left on device"));
    pause(world, 0..3000);
    if world.random.number(0..2) == 0 {
        // What it remembers is old now.
        world.kill_tail();
        fs::remove_file(&filler).expect("removed");
        world.start_tail();
    } else {
        fs::remove_file(&filler).expect("removed");
    }
    was_seen
}

// ---- helpers ----

fn pause(world: &mut World, milliseconds: std::ops::Range<u64>) {
    thread::sleep(world.random.milliseconds(milliseconds));
}

fn stream_with(world: &mut World, is_wanted: impl Fn(Rotation) -> bool) -> usize {
    let wanted: Vec<usize> = world
        .streams
        .iter()
        .filter(|stream| is_wanted(stream.plan.rotation))
        .map(|stream| stream.number)
        .collect();
    wanted[world.random.number(0..wanted.len() as u64) as usize]
}

fn truncations(world: &World) -> usize {
    world.tail().log().matches("file truncated").count()
}

/// A stop takes effect when the last thread has noticed it.
fn is_frozen(world: &World, pid: u32) -> bool {
    world.wait(EVIDENCE, || state_of(pid) == Some('T'))
}

fn open_files(pid: u32) -> Vec<String> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    targets.map(|target| target.display().to_string()).collect()
}

fn has_open(pid: u32, path: &Path) -> bool {
    open_files(pid).contains(&path.display().to_string())
}

fn holds_deleted(pid: u32) -> bool {
    open_files(pid).iter().any(|target| target.contains("server-") && target.ends_with("(deleted)"))
}
