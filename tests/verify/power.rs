//! Power cuts: a file system of its own is shut down without its journal, as by pulling the plug,
//! and mounted again.
//!
//! Only lines that were fsync'd before must arrive. Where this machine cannot mount, the verdict
//! is inconclusive, never green.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::profiles::{Bout, Check, Evidence, Result, Verdict, plan, progress};
use crate::world::{World, tool};
use crate::writer::{Log, Plan, Rotation};

const ROUNDS: u32 = 25;

const CONFIG: &str = "[batch]\nbytes_max = \"64KB\"\n\
                      [tail]\nrotate_grace = \"1s\"\nsave_interval = \"100ms\"\n";

/// `FS_IOC_GOINGDOWN` with `FS_GOING_DOWN_NOLOGFLUSH`: what is not on the disk never gets there.
/// In Perl, which every Debian has, for `ioctl` is `unsafe` in Rust.
const GOING_DOWN: &str = "my $how = pack('L', 2); open(my $folder, '<', $ARGV[0]) or die $!; \
                          defined ioctl($folder, 0x8004587d, $how) or die $!";

/// Torture: 50.
pub fn run(bout: &Bout<'_>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for kind in ["ext4", "xfs"] {
        for place in ["state", "logs"] {
            verdicts.push(cuts(bout, kind, place));
        }
    }
    verdicts
}

/// Only those that the registry must outlive.
pub fn state_cuts(bout: &Bout<'_>) -> Vec<Verdict> {
    ["ext4", "xfs"].map(|kind| cuts(bout, kind, "state")).into()
}

/// Cuts the power of the disk that holds `place` again and again.
fn cuts(bout: &Bout<'_>, kind: &'static str, place: &'static str) -> Verdict {
    let title = format!("power, {place} on {kind}");
    let folder = bout.folder(&format!("{kind}-{place}-"));
    let began = Instant::now();
    let disk = match Disk::mount(kind, &folder, place) {
        Ok(disk) => disk,
        Err(problem) => {
            let text = format!("CANNOT MOUNT, power cuts are not tested here: {problem}");
            let check = Check { name: "mount", result: Result::Inconclusive, text };
            return Verdict { title, checks: vec![check], took: began.elapsed(), folder };
        }
    };
    let sync_every = if place == "logs" { 50 } else { 0 };
    let plans = [plan(Rotation::Index, 1000, 2000), plan(Rotation::Date, 1000, 1700)];
    let plans = plans.map(|plan| Plan { quirks: false, sync_every, ..plan });
    let mut world = World::new(bout.broker, &folder, &bout.setting(plans.into(), CONFIG));
    let mut shown = Evidence::default();
    let time = Duration::from_secs_f64(bout.minutes * 15.0);
    world.start_tail();
    world.start_writers();
    for round in 1..=ROUNDS {
        progress(bout, &world, began, &format!("{place} on {kind}, cut {round}"));
        let gap = world.random.milliseconds(200..1500);
        world.wait(gap, || false);
        let was_cut = match place {
            "state" if round % 2 == 0 => cut_state_at_rest(&mut world, &disk),
            "state" => cut_state(&mut world, &disk),
            _ => cut_logs(&mut world, &disk),
        };
        shown.note("Cut", was_cut);
        world.catch_up();
        if world.has_failed() || (bout.minutes > 0.0 && began.elapsed() > time) {
            break;
        }
    }
    world.finish();
    progress(bout, &world, began, "");
    bout.verdict(world, &shown, title, began.elapsed())
}

/// Amid writing: what is remembered may go back, never forward.
fn cut_state(world: &mut World<'_>, disk: &Disk) -> bool {
    let was_cut = disk.cut();
    world.note("power cut: state");
    world.kill_tail();
    world.reboot();
    disk.mount_again();
    world.start_tail();
    was_cut
}

/// Once a save is over, it is on the disk.
fn cut_state_at_rest(world: &mut World<'_>, disk: &Disk) -> bool {
    let handles = handles(world);
    let logs = hold(&handles);
    let is_there = (0..logs.len()).all(|stream| world.wait_for_stream(stream));
    let saved = world.settled_registry();
    let was_cut = is_there && disk.cut();
    world.note("power cut: state, at rest");
    world.kill_tail();
    world.reboot();
    disk.mount_again();
    if !world.has_failed() && world.settled_registry() != saved {
        world.failures.push("a registry that had been saved is not there after a power cut".into());
    }
    drop(logs);
    world.start_tail();
    was_cut
}

fn cut_logs(world: &mut World<'_>, disk: &Disk) -> bool {
    let handles = handles(world);
    let mut logs = hold(&handles);
    let was_cut = disk.cut();
    world.note("power cut: logs");
    world.kill_tail();
    world.reboot();
    logs.iter_mut().for_each(|log| log.lose_power());
    disk.mount_again();
    for log in &mut logs {
        if log.regain_power() {
            world.note(&format!("torn: {}", log.path.display()));
            world.oracle.allow_torn();
        }
    }
    drop(logs);
    world.start_tail();
    was_cut
}

fn handles(world: &World<'_>) -> Vec<Arc<Mutex<Log>>> {
    world.streams.iter().map(|stream| stream.handle()).collect()
}

fn hold(handles: &[Arc<Mutex<Log>>]) -> Vec<MutexGuard<'_, Log>> {
    handles.iter().map(|log| log.lock().expect("the writer has not failed")).collect()
}

/// A file system in a file.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    fn mount(kind: &str, folder: &Path, place: &str) -> std::result::Result<Disk, String> {
        let disk = Disk { image: folder.join("disk"), mount: folder.join(place) };
        fs::create_dir_all(&disk.mount).expect("made");
        let image = File::create(&disk.image).expect("made");
        // The least that xfs takes.
        image.set_len(320 * 1024 * 1024).expect("sized");
        let quiet = if kind == "ext4" { ["-q", "-F"] } else { ["-q", "-f"] };
        let image = disk.image.display().to_string();
        attempt(Command::new(format!("mkfs.{kind}")).args(quiet).arg(image))?;
        attempt(&mut disk.mount_command())?;
        Ok(disk)
    }

    fn mount_command(&self) -> Command {
        let mut command = Command::new("mount");
        command.args(["-o", "loop"]).arg(&self.image).arg(&self.mount);
        command
    }

    /// Tells whether nothing can be written there any more.
    fn cut(&self) -> bool {
        tool("perl", &["-e", GOING_DOWN, &self.mount.display().to_string()]);
        File::create(self.mount.join("probe")).is_err()
    }

    fn mount_again(&self) {
        self.unmount();
        attempt(&mut self.mount_command()).expect("mounted before");
    }

    fn unmount(&self) {
        // A process that was killed lets go of its files a moment later.
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(problem) = attempt(Command::new("umount").arg(&self.mount)) {
            assert!(Instant::now() < deadline, "{problem}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
        // As large as it is, and of no use to whoever looks for a cause.
        let _ = fs::remove_file(&self.image);
    }
}

fn attempt(command: &mut Command) -> std::result::Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
