//! `shipper tail` and every way in which Kafka's log4j and logrotate rotate: while it runs and while
//! it is stopped, with the path alone and with a glob, each line arrives, in the order in which it
//! was written. Kills amid rotations are shown against a real broker, in `stack_tail.rs`.

mod support;

use std::fs;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use support::tail::{LIMIT, LogDir, Scene, numbered};
use support::{Shipper, wait_for};

/// Takes the current file of a round away.
type Rotate = fn(&LogDir, usize);

const SCHEMES: [(&str, Rotate); 11] = [
    ("log4j DailyRollingFileAppender", |logs, round| {
        logs.rename("server.log", &format!("server.log.2026-01-31-{round:02}"));
    }),
    ("log4j2 RollingFile, .1 is the newest", |logs, round| {
        shift(logs, round, "");
        logs.rename("server.log", "server.log.1");
    }),
    ("log4j2 RollingFile, .1 is the oldest", |logs, round| {
        logs.rename("server.log", &format!("server.log.{}", round + 1));
    }),
    ("log4j2 RollingFile with gzip", |logs, round| {
        logs.rename("server.log", &format!("server.log.{}", round + 1));
        gzip(logs, &format!("server.log.{}", round + 1));
    }),
    ("logrotate create", |logs, round| {
        shift(logs, round, "");
        logs.rename("server.log", "server.log.1");
        logs.append("server.log", "");
    }),
    ("logrotate dateext", |logs, round| {
        logs.rename("server.log", &format!("server.log-202601{:02}", round + 1));
        logs.append("server.log", "");
    }),
    ("logrotate compress", |logs, round| {
        shift(logs, round, ".gz");
        logs.rename("server.log", "server.log.1");
        logs.append("server.log", "");
        gzip(logs, "server.log.1");
    }),
    ("logrotate compress, dateext", |logs, round| {
        let name = format!("server.log-202601{:02}", round + 1);
        logs.rename("server.log", &name);
        logs.append("server.log", "");
        gzip(logs, &name);
    }),
    ("logrotate delaycompress", |logs, round| {
        delayed_compress(logs, round);
        logs.rename("server.log", "server.log.1");
        logs.append("server.log", "");
    }),
    ("logrotate copytruncate", |logs, round| {
        shift(logs, round, "");
        copytruncate(logs, "server.log.1");
    }),
    ("logrotate copytruncate, delaycompress", |logs, round| {
        delayed_compress(logs, round);
        copytruncate(logs, "server.log.1");
    }),
];

/// Makes room for a new `.1`.
fn shift(logs: &LogDir, round: usize, suffix: &str) {
    for at in (1..=round).rev() {
        let (from, to) = (format!("server.log.{at}{suffix}"), at + 1);
        logs.rename(&from, &format!("server.log.{to}{suffix}"));
    }
}

/// Makes room for a new `.1`, the last one being compressed only now.
fn delayed_compress(logs: &LogDir, round: usize) {
    if round == 0 {
        return;
    }
    for at in (2..=round).rev() {
        logs.rename(&format!("server.log.{at}.gz"), &format!("server.log.{}.gz", at + 1));
    }
    logs.rename("server.log.1", "server.log.2");
    gzip(logs, "server.log.2");
}

/// Compresses a file as gzip(1) and logrotate do: the last write stays the same, the file goes.
fn gzip(logs: &LogDir, name: &str) {
    let modified = fs::metadata(logs.path(name)).and_then(|metadata| metadata.modified());
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&fs::read(logs.path(name)).expect("read")).expect("written");
    logs.append(&format!("{name}.gz"), encoder.finish().expect("finished"));
    logs.set_modified(&format!("{name}.gz"), modified.expect("there"));
    logs.remove(name);
}

fn copytruncate(logs: &LogDir, to: &str) {
    let modified = fs::metadata(logs.path("server.log")).and_then(|metadata| metadata.modified());
    logs.copytruncate("server.log", to);
    logs.set_modified(to, modified.expect("there"));
}

/// Lines of each round: some rounds are tiny and of one size.
const ROUNDS: [usize; 6] = [20, 1, 1, 300, 1, 5];

/// Writes and rotates round after round; `between` is called before and after each rotation.
fn write_rounds(scene: &mut Scene, rotate: Rotate, mut between: impl FnMut(&mut Scene, usize)) {
    let mut n = 0;
    for (round, n_lines) in ROUNDS.into_iter().enumerate() {
        let mut text: String = (n..n + n_lines).map(|n| format!("line {n}\n")).collect();
        if round == 3 {
            // The writer rotates amid a line.
            text.pop();
        }
        scene.logs.append("server.log", text);
        n += n_lines;
        // Files of one tick of the clock have no order.
        let time = SystemTime::now() + Duration::from_secs(round as u64);
        scene.logs.set_modified("server.log", time);
        between(scene, n);
        if round + 1 < ROUNDS.len() {
            rotate(&scene.logs, round);
            between(scene, n);
        }
    }
}

fn n_lines() -> usize {
    ROUNDS.iter().sum()
}

fn check(run: impl Fn(&mut Scene, Rotate) -> Vec<String>) {
    for (scheme, rotate) in SCHEMES {
        for pattern in ["server.log", "server.log*"] {
            let mut scene = Scene::new(pattern);
            let values = run(&mut scene, rotate);
            assert!(values == numbered(0..n_lines()), "{scheme}, {pattern}: {values:?}");
        }
    }
}

/// Torture: 1, 2, 5, 6, 32.
#[test]
fn rotations_while_it_runs_lose_repeat_and_disorder_nothing() {
    check(|scene, rotate| {
        let shipper = scene.start();
        shipper.wait_for_log("no file yet", LIMIT);
        write_rounds(scene, rotate, |_, _| {});
        scene.values_after(n_lines(), shipper)
    });
}

/// Torture: 1, 5, 6, 32.
#[test]
fn rotations_that_it_follows_round_by_round_lose_repeat_and_disorder_nothing() {
    check(|scene, rotate| {
        let shipper = scene.start();
        write_rounds(scene, rotate, |scene, n| {
            // Without the line that is not whole.
            scene.wait_for_records(n - 1, &shipper);
        });
        scene.values_after(n_lines(), shipper)
    });
}

/// Torture: 4, 5, 6, 32.
#[test]
fn rotations_while_it_is_stopped_lose_repeat_and_disorder_nothing() {
    check(|scene, rotate| {
        let mut is_known = false;
        write_rounds(scene, rotate, |scene, n| {
            // Started once, for the first file, and again for the rest.
            if !is_known {
                let shipper = scene.start();
                scene.wait_for_records(n, &shipper);
                scene.stop(shipper);
                is_known = true;
            }
        });
        let shipper = scene.start();
        scene.values_after(n_lines(), shipper)
    });
}

/// Torture: 4, 5, 6, 32.
#[test]
fn rotations_across_kill_9_lose_and_disorder_nothing() {
    check(|scene, rotate| {
        let mut shipper: Option<Shipper> = None;
        write_rounds(scene, rotate, |scene, n| {
            let running = shipper.take().unwrap_or_else(|| scene.start());
            // One that was killed has shipped anything or nothing of what is new.
            scene.wait_for_records(n.saturating_sub(10).max(1), &running);
            running.kill();
            shipper = Some(scene.start());
        });
        let shipper = shipper.expect("started");
        let look = || (first_times(scene.values()).len() == n_lines()).then_some(());
        wait_for(LIMIT, "all lines", look, || shipper.log());
        scene.stop(shipper);
        first_times(scene.values())
    });
}

/// Leaves out what stands there for another time: a killed process cannot know what had arrived.
fn first_times(values: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    values.into_iter().filter(|value| seen.insert(value.clone())).collect()
}
