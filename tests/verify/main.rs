//! The verify harness: the real binary, a real broker, faults by a seed, and an oracle.
//!
//! `tests/verify/run --help` says how it is called. Exit codes: 0 green; 1 red: a promise is
//! broken; 3 inconclusive: nothing is broken, but a fault could not be seen to have happened, so
//! that it was not tested; 64 wrong usage.

#![allow(missing_docs, reason = "a program, not a library")]

mod faults;
mod ledger;
mod oracle;
mod planted;
mod power;
mod profiles;
#[path = "../support/mod.rs"]
mod support;
mod world;
mod writer;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use profiles::{ALL, Bout, Profile, Result};
use world::Broker;

struct Options {
    profiles: Vec<&'static Profile>,
    minutes: Option<f64>,
    seed: u64,
    repeats_allowed: bool,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}\n\n{}", usage());
            return ExitCode::from(64);
        }
    };
    let broker = Broker::up();
    let mut worst = Result::Green;
    for profile in &options.profiles {
        let bout = Bout {
            broker: &broker,
            name: profile.name,
            minutes: options.minutes.unwrap_or(profile.minutes),
            seed: options.seed,
            planted: None,
            repeats_allowed: options.repeats_allowed,
        };
        for verdict in (profile.run)(&bout) {
            print!("{verdict}");
            if verdict.result() == Result::Green {
                // Whatever is left of it disturbs nobody.
                let _ = std::fs::remove_dir_all(&verdict.folder);
            } else {
                println!("  what it left behind: {}", verdict.folder.display());
                println!("  again: tests/verify/run {} --seed {}", profile.name, options.seed);
            }
            worst = worst.max(verdict.result());
        }
    }
    match worst {
        Result::Green => ExitCode::SUCCESS,
        Result::Red => ExitCode::FAILURE,
        Result::Inconclusive => ExitCode::from(3),
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> std::result::Result<Options, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let seed = now.as_nanos() as u64 % 1_000_000_007;
    let mut options = Options { profiles: Vec::new(), minutes: None, seed, repeats_allowed: false };
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().ok_or(format!("{argument} needs a number"));
        match argument.as_str() {
            "--seed" => options.seed = number()?.parse().map_err(|_| "--seed is a number")?,
            "--minutes" => {
                options.minutes = Some(number()?.parse().map_err(|_| "--minutes is a number")?);
            }
            "--repeats-allowed" => options.repeats_allowed = true,
            name => {
                let known = ALL.iter().find(|profile| profile.name == name);
                options.profiles.push(known.ok_or(format!("no profile {name:?}"))?);
            }
        }
    }
    if options.profiles.is_empty() {
        return Err("which profile?".into());
    }
    Ok(options)
}

fn usage() -> String {
    let mut text = String::from(
        "tests/verify/run PROFILE... [--minutes M] [--seed N] [--repeats-allowed]\n\nProfiles:\n",
    );
    for Profile { name, about, minutes, .. } in &ALL {
        let minutes = if *minutes > 0.0 { format!(", {minutes} min") } else { String::new() };
        text.push_str(&format!("  {name:8} {about}{minutes}\n"));
    }
    text
}
