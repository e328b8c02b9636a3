//! The harness on trial: a shipper with a bug must be found out, each with the faults that touch
//! it. Writes `PLANTED.md`, which says how long that took.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::faults::Fault::{self, *};
use crate::power;
use crate::profiles::{Bout, Check, Result, Verdict, shuffle, shuffle_with, three_logs};

struct Planted {
    number: &'static str,
    /// As in `src/planted.rs`.
    bug: &'static str,
    what: &'static str,
    trial: Trial,
}

enum Trial {
    Faults(&'static [Fault]),
    /// The registry is written several times a second, so that it is hit.
    OftenSaved(&'static [Fault]),
    PowerCuts,
}
use Trial::{Faults, OftenSaved, PowerCuts};

const SMALL_JOURNAL: &str = "[batch]\nbytes_max = \"64KB\"\ncount_max = 2\n\
     [tail]\nrotate_grace = \"1s\"\nsave_interval = \"100ms\"\njournal_bytes_max = \"1KB\"\n";

const DYING: &[Fault] = &[Kill, Restart, KillUnanswered, KillBoth, BrokerKill];
const FILES: &[Fault] = &[Storm, Truncate, Regrow, DeleteBehind, ReuseInode, Kill];

const ALL: [Planted; 12] = [
    planted(
        "P1",
        "CommitBeforeAck",
        "an offset moves before the acknowledgement",
        Faults(&[KillBoth, Kill]),
    ),
    planted("P2", "NoFsync", "the registry is not fsync'd", PowerCuts),
    planted("P3", "NoFolderFsync", "the registry's folder is not fsync'd", PowerCuts),
    planted("P4", "InodeAlone", "a file is known by its inode alone", Faults(FILES)),
    planted("P5", "NoTruncation", "a truncation is not noticed", Faults(&[Truncate, Storm])),
    planted("P6", "NoGuard", "the bytes before an offset are not compared", Faults(FILES)),
    planted("P10", "OneByteMore", "offsets are one byte too large", Faults(DYING)),
    planted("P11", "NoPartial", "a last line without terminator is lost", Faults(FILES)),
    planted("P12", "ErrorIsSuccess", "a failed delivery counts as a success", Faults(DYING)),
    planted(
        "P13",
        "DamageIsNothing",
        "a damaged registry counts as none",
        Faults(&[DamageRegistry]),
    ),
    planted("P14", "TwoSteps", "the registry is replaced in two steps", OftenSaved(&[Kill])),
    planted("P15", "CloseDeleted", "a deleted file is closed unread", Faults(&[DeleteBehind])),
];

const fn planted(
    number: &'static str,
    bug: &'static str,
    what: &'static str,
    trial: Trial,
) -> Planted {
    Planted { number, bug, what, trial }
}

/// Each bug has so many minutes to be found.
pub fn run(bout: &Bout<'_>) -> Vec<Verdict> {
    let mut table = String::from(
        "# Planted bugs\n\nHow long the verify harness takes to find each bug of \
         `src/planted.rs`: written by\n`tests/verify/run planted`. The numbers are those of the \
         torture list.\n\n| bug | what it does | found after | by |\n|---|---|---:|---|\n",
    );
    let began = Instant::now();
    let mut checks = Vec::new();
    for planted in &ALL {
        let bout = Bout { planted: Some(planted.bug), repeats_allowed: false, ..*bout };
        let found = find(&bout, &planted.trial);
        let result = if found.is_some() { Result::Green } else { Result::Red };
        let (took, by) = found.unwrap_or((Duration::ZERO, "NOT FOUND".into()));
        let seconds = took.as_secs_f64();
        table.push_str(&format!(
            "| {} `{}` | {} | {seconds:.0} s | {by} |\n",
            planted.number, planted.bug, planted.what
        ));
        let text = format!("{}: {by}, {seconds:.0} s", planted.bug);
        eprintln!("{} {text}", planted.number);
        checks.push(Check { name: planted.number, result, text });
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify/PLANTED.md");
    fs::write(path, table).expect("written");
    let title = "verify planted".into();
    vec![Verdict { title, checks, took: began.elapsed(), folder: bout.folder("") }]
}

/// Returns how long it took, and which check has failed.
fn find(bout: &Bout<'_>, trial: &Trial) -> Option<(Duration, String)> {
    let verdicts = match trial {
        Faults(deck) => vec![shuffle(bout, three_logs(), deck)],
        OftenSaved(deck) => vec![shuffle_with(bout, three_logs(), deck, SMALL_JOURNAL)],
        PowerCuts => power::state_cuts(bout),
    };
    let mut took = Duration::ZERO;
    for verdict in verdicts {
        took += verdict.took;
        // Whatever it left behind is not needed.
        let _ = fs::remove_dir_all(&verdict.folder);
        let is_red = |check: &&Check| check.result == Result::Red;
        let red: Vec<&str> = verdict.checks.iter().filter(is_red).map(|check| check.name).collect();
        if !red.is_empty() {
            return Some((took, red.join(", ")));
        }
    }
    None
}
