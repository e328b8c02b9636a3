//! `shipper tail` on a host whose clock jumps: offsets, rotation and timers do not follow it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::tail::{LIMIT, Scene, covered, lines, numbered};
use support::{Shipper, shipper_binary};

/// Shifts the wall clock, and no other, by the seconds that stand in the file `$CLOCK_SHIFT`.
const SHIM: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, id, now);
    const char *path = getenv("CLOCK_SHIFT");
    if (result == 0 && id == CLOCK_REALTIME && path) {
        char text[32] = {0};
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0) now->tv_sec += atol(text);
            close(file);
        }
    }
    return result;
}
"#;

fn build_shim(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    fs::write(&source, SHIM).expect("written");
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
    assert!(command.status().expect("cc is there: librdkafka was built with it").success());
    library
}

const DAY_S: i64 = 86_400;

/// Torture: 28.
#[test]
fn a_clock_that_jumps_by_a_day_loses_repeats_and_disorders_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (library, shift) = (build_shim(folder.path()), folder.path().join("shift"));
    let set_clock = |seconds: i64| {
        fs::write(folder.path().join("new"), seconds.to_string()).expect("written");
        fs::rename(folder.path().join("new"), &shift).expect("renamed");
    };
    let start = |scene: &Scene| {
        let mut command = Command::new(shipper_binary());
        command.env("LD_PRELOAD", &library).env("CLOCK_SHIFT", &shift);
        Shipper::spawn(command.args(["tail", "-c"]).arg(scene.config()))
    };
    let mut scene = Scene::new("server.log");
    set_clock(0);
    let mut shipper = start(&scene);
    let mut n = 0;
    for (at, seconds) in [0, DAY_S, -DAY_S, 3600, 0, -1].into_iter().enumerate() {
        set_clock(seconds);
        scene.logs.append("server.log", lines(n..n + 2));
        scene.wait_for_records(n + 2, &shipper);
        scene.logs.rename("server.log", &format!("server.log.2026-01-31-{at:02}"));
        scene.logs.append("server.log", lines(n + 2..n + 4));
        scene.wait_for_records(n + 4, &shipper);
        n += 4;
        // The grace of the renamed file is over in time, whatever the clock says.
        let finished = format!("file finished: name={}", scene.logs.path("server.log").display());
        shipper.wait_for_log(&format!("{finished}.2026-01-31-{at:02}"), LIMIT);
        if at % 2 == 1 {
            scene.stop(shipper);
            set_clock(-seconds);
            shipper = start(&scene);
            shipper.wait_for_log("file resumed", LIMIT);
        }
    }
    assert_eq!(scene.values_after(n, shipper), numbered(0..n));
    let records = scene.records();
    assert!(covered(records).len() > 6);
    let stamps = records.iter().map(|record| record.timestamp_ms);
    let (first, last) = (stamps.clone().min().expect("some"), stamps.max().expect("some"));
    assert!(last - first > 2 * DAY_S * 1000 - 3_600_000, "the clock did jump: {first}..{last}");
}
