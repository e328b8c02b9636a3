//! `shipper checkpoint`: how far each file was shipped, shown, changed and repaired.
//!
//! Showing needs no lock and works beside a running tail; what changes anything takes the lock of
//! the state directory, and is refused while a tail runs.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::{CheckpointCommand, RepairArgs, plain};
use crate::config::Config;
use crate::error::Error;
use crate::kafka::record_batch::now_ms;
use crate::tail::discover;
use crate::tail::fingerprint::{Checksum, Stat, read_range};
use crate::tail::registry::format::Snapshot;
use crate::tail::registry::{self, Damaged, Entry, Registry, Repair};

/// How far a line's ends are looked for around an offset.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// An entry, and how large its file is now.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    entry: Entry,
    /// `None` where its name leads to no file, or to another.
    size_now: Option<u64>,
}

/// Does what was asked, and prints the answer.
///
/// Errors: [`Error::Config`], [`Error::Registry`], [`Error::Locked`], [`Error::State`];
/// [`Error::Checkpoint`] where nothing was changed, for what was asked makes no sense.
pub fn run(command: &CheckpointCommand) -> Result<(), Error> {
    let config = Config::load(command.config())
        .map_err(|problems| Error::Config { problems: problems.to_string() })?;
    let answer = match command {
        CheckpointCommand::List { json, .. } => list(&config, *json)?,
        CheckpointCommand::Show { path, json, .. } => show(&config, path, *json)?,
        CheckpointCommand::Set { path, offset, .. } => set(&config, path, *offset)?,
        CheckpointCommand::Forget { path, .. } => forget(&config, path)?,
        CheckpointCommand::Repair(args) => repair(&config, args)?,
    };
    // Nobody is left to tell if the output is closed.
    let _ = io::stdout().write_all(answer.as_bytes());
    Ok(())
}

/// Returns the commands that lead out of a refused start, one a line.
pub fn remedies(error: &Error, config: &Path) -> String {
    let Error::Registry { repairs, .. } = error else {
        return String::new();
    };
    let mut text = String::new();
    for repair in repairs {
        let (option, effect) = match repair {
            Repair::AcceptPrev => ("--accept-prev", "go on from the previous generation"),
            Repair::Adopt => ("--adopt", "take it over as this host's own"),
            Repair::FromStart => ("--from-start", "ship every file again from its first byte"),
            Repair::FromEnd => ("--from-end", "skip what the files hold now"),
        };
        let config = config.display();
        let _ = writeln!(text, "  shipper checkpoint repair -c {config} {option:<13}  # {effect}");
    }
    text
}

// ---- looking ----

fn list(config: &Config, json: bool) -> Result<String, Error> {
    let rows = rows(config)?;
    Ok(if json { to_json(&rows) } else { table(&rows, now_ms()) })
}

fn show(config: &Config, path: &Path, json: bool) -> Result<String, Error> {
    let mut rows = rows(config)?;
    let chosen = choose(rows.iter().map(|row| &row.entry), path)?;
    let mut at = 0;
    rows.retain(|_| {
        at += 1;
        chosen.contains(&(at - 1))
    });
    if json {
        return Ok(to_json(&rows));
    }
    let texts: Vec<String> = rows.iter().map(describe).collect();
    Ok(texts.join("\n"))
}

fn rows(config: &Config) -> Result<Vec<Row>, Error> {
    let (snapshot, problem) = registry::read(&config.state_dir, &config.host)?;
    if let Some(problem) = problem {
        log::warn!("the registry is damaged, this is its previous generation: {problem}");
    }
    let entries = snapshot.map_or_else(Vec::new, |snapshot| snapshot.entries);
    Ok(entries.into_iter().map(|entry| Row { size_now: size_now(&entry), entry }).collect())
}

fn size_now(entry: &Entry) -> Option<u64> {
    let metadata = fs::symlink_metadata(PathBuf::from(&entry.name)).ok()?;
    let stat = Stat::from(&metadata);
    is_file_of(entry, &stat).then_some(stat.size)
}

fn is_file_of(entry: &Entry, stat: &Stat) -> bool {
    entry.inode.ino == stat.inode.ino && entry.btime_ns == stat.btime_ns
}

/// Returns the places of the entries that a person means by `path`: those of that name, or else
/// those that were written under it.
fn choose<'a>(
    entries: impl Iterator<Item = &'a Entry> + Clone,
    path: &Path,
) -> Result<Vec<usize>, Error> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let places = |is_meant: &dyn Fn(&Entry) -> bool| -> Vec<usize> {
        let entries = entries.clone().enumerate();
        entries.filter(|(_, entry)| is_meant(entry)).map(|(at, _)| at).collect()
    };
    let mut chosen = places(&|entry| PathBuf::from(&entry.name) == path);
    if chosen.is_empty() {
        chosen = places(&|entry| PathBuf::from(&entry.path) == path);
    }
    if chosen.is_empty() {
        return Err(refused(format!(
            "nothing is known of {}; `shipper checkpoint list` shows what is",
            path.display()
        )));
    }
    Ok(chosen)
}

fn to_json(rows: &[Row]) -> String {
    let mut text = serde_json::to_string_pretty(rows).expect("texts and numbers are JSON");
    text.push('\n');
    text
}

/// One row an entry, under a line for each path; fits in 80 columns unless a name is long.
fn table(rows: &[Row], now_ms: i64) -> String {
    let row = |name: &str, offset: &str, size: &str, state: &str, seen: &str| {
        // A long name gets a line of its own, so that the numbers stay in their columns.
        let name = match name.chars().count() {
            ..=33 => name.to_owned(),
            _ => format!("{name}\n"),
        };
        let fill = if name.ends_with('\n') { " ".repeat(33) } else { String::new() };
        let line = format!("{name:<33}{fill}{offset:>14}{size:>14}  {state:<5}{seen:>10}");
        format!("{}\n", line.trim_end())
    };
    let mut text = row("NAME", "OFFSET", "SIZE NOW", "STATE", "MOVED");
    let mut current = None;
    for Row { entry, size_now } in rows {
        let (path, name) = (PathBuf::from(&entry.path), PathBuf::from(&entry.name));
        if current.as_ref() != Some(&path) {
            let _ = writeln!(text, "{}", shown(&path));
        }
        let in_folder = name.parent() == path.parent();
        let name = if in_folder { name.file_name().unwrap_or_default().as_ref() } else { &*name };
        text += &row(
            &format!("  {}", shown(name)),
            &entry.offset.to_string(),
            &size_now.map_or("gone".into(), |size| size.to_string()),
            if entry.done { "done" } else { "open" },
            &ago(entry.last_seen_ms, now_ms),
        );
        current = Some(path);
    }
    text
}

fn ago(then_ms: i64, now_ms: i64) -> String {
    let seconds = (now_ms - then_ms) / 1000;
    match seconds {
        _ if then_ms == 0 => "unknown".into(),
        ..60 => format!("{}s ago", seconds.max(0)),
        60..3_600 => format!("{}m ago", seconds / 60),
        3_600..86_400 => format!("{}h ago", seconds / 3_600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// Everything that is known of one file, a line each.
fn describe(Row { entry, size_now }: &Row) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<13} {value}");
    };
    line("path", shown(&PathBuf::from(&entry.path)));
    line("name", shown(&PathBuf::from(&entry.name)));
    line("file_id", entry.file_id.clone().unwrap_or_else(|| "none yet".into()));
    line("inode", format!("{} on device {}", entry.inode.ino, entry.inode.dev));
    line("life", entry.life.to_string());
    line("offset", entry.offset.to_string());
    line("size seen", entry.size.to_string());
    line(
        "size now",
        match size_now {
            None => "its name leads to no file, or to another".into(),
            Some(size) if *size < entry.offset => format!("{size}: it was truncated"),
            Some(size) => format!("{size}: {} bytes to go", size - entry.offset),
        },
    );
    line("done", if entry.done { "yes: read to its end after its rotation" } else { "no" }.into());
    line("first seen", time(entry.first_seen_ms));
    line("last moved", time(entry.last_seen_ms));
    if let Some(missed_since_ms) = entry.missed_since_ms {
        line("missed since", time(missed_since_ms));
    }
    line("born", entry.btime_ns.map_or("unknown".into(), |ns| time(ns / 1_000_000)));
    line("last written", time(entry.mtime_ns / 1_000_000));
    let checksum = |sum: Checksum| format!("{} bytes, crc32c {:08x}", sum.len, sum.crc32c);
    line("head", checksum(entry.head));
    line("guard", checksum(entry.guard));
    text
}

fn time(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(timestamp) if ms > 0 => timestamp.to_string(),
        _ => "unknown".into(),
    }
}

// ---- changing ----

fn set(config: &Config, path: &Path, offset: u64) -> Result<String, Error> {
    let (mut registry, mut entries, _) = Registry::open(&config.state_dir, &config.host)?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let cannot = |error: io::Error| refused(format!("cannot read {}: {error}", path.display()));
    let (file, stat) = discover::open(&path).map_err(cannot)?;
    refuse_inside_line(&file, &path, offset, stat.size)?;

    let at = entries.iter().position(|entry| is_file_of(entry, &stat));
    let before = at.map(|at| entries.swap_remove(at));
    let written_under = discover::written_under(&path);
    let mut entry = Entry::of(&file, &stat, &written_under, &path, offset).map_err(cannot)?;
    let former = before.as_ref().map(|entry| entry.offset);
    if let Some(before) = before {
        entry.path = before.path;
        entry.life = before.life;
        entry.file_id = before.file_id;
        entry.first_seen_ms = before.first_seen_ms;
        entry.done = before.done && offset == stat.size;
    } else if discover::scan(&config.input).found.iter().all(|found| found.path != path) {
        return Err(refused(format!("no input matches {}", path.display())));
    }
    entries.push(entry);
    save(&mut registry, config, &mut entries)?;

    let effect = match former.unwrap_or(0) {
        former if former < offset => format!("{} bytes are skipped", offset - former),
        former if former > offset => format!("{} bytes are shipped again", former - offset),
        _ => "nothing changes".into(),
    };
    let from = former.map_or("not known before".into(), |former| former.to_string());
    Ok(format!("{}: offset {from} -> {offset}: {effect}\n", shown(&path)))
}

/// Refuses an offset from which on half a line would be shipped, or nothing.
fn refuse_inside_line(file: &File, path: &Path, offset: u64, size: u64) -> Result<(), Error> {
    let path = path.display();
    if offset > size {
        return Err(refused(format!("{path} has {size} bytes: no offset {offset}")));
    }
    let cannot = |error: io::Error| refused(format!("cannot read {path}: {error}"));
    let start = offset.saturating_sub(LINE_BYTES_MAX);
    let before = read_range(file, start, offset - start).map_err(cannot)?;
    // The second is a line feed in UTF-16, low byte first.
    if offset == 0 || before.ends_with(b"\n") || before.ends_with(b"\n\0") {
        return Ok(());
    }
    let line_start = memchr::memrchr(b'\n', &before).map_or(start, |at| start + at as u64 + 1);
    let after = read_range(file, offset, LINE_BYTES_MAX).map_err(cannot)?;
    let next = match memchr::memchr(b'\n', &after) {
        Some(at) => format!("the next at {}", offset + at as u64 + 1),
        None => "no other follows".into(),
    };
    Err(refused(format!(
        "offset {offset} of {path} is inside a line, which begins at {line_start}; {next}"
    )))
}

fn forget(config: &Config, path: &Path) -> Result<String, Error> {
    let (mut registry, entries, _) = Registry::open(&config.state_dir, &config.host)?;
    let chosen = choose(entries.iter(), path)?;
    let mut text = String::new();
    let mut kept = Vec::new();
    for (at, entry) in entries.into_iter().enumerate() {
        if !chosen.contains(&at) {
            kept.push(entry);
            continue;
        }
        let effect = match size_now(&entry) {
            Some(size) => format!("its {size} bytes are shipped again if an input matches it"),
            None => "it is gone".into(),
        };
        let name = shown(&PathBuf::from(&entry.name));
        let _ = writeln!(text, "{name}: forgotten at offset {}: {effect}", entry.offset);
    }
    save(&mut registry, config, &mut kept)?;
    Ok(text)
}

fn save(registry: &mut Registry, config: &Config, entries: &mut [Entry]) -> Result<(), Error> {
    let path = config.state_dir.clone();
    registry.save_alone(entries).map_err(|source| Error::State {
        attempt: "save the registry in",
        path,
        source,
    })
}

// ---- repairing ----

fn repair(config: &Config, args: &RepairArgs) -> Result<String, Error> {
    let Some(damaged) = Damaged::open(&config.state_dir, &config.host)? else {
        return Err(refused(format!(
            "the registry in {} needs no repair; to change it, see `shipper checkpoint set` and \
             `shipper checkpoint forget`",
            config.state_dir.display()
        )));
    };
    let (snapshot, effect) = match args.choice() {
        Repair::AcceptPrev => {
            let snapshot = damaged.previous().map_err(|damage| {
                refused(format!("the previous generation cannot be used either: {damage:?}"))
            })?;
            let effect = format!(
                "going on from generation {}: what was shipped after it, at most {}, is shipped \
                 again",
                snapshot.generation,
                bytes_behind(&snapshot.entries),
            );
            (snapshot, effect)
        }
        Repair::Adopt => {
            let (host, snapshot) = damaged.foreign().ok_or_else(|| {
                refused("the registry is no other host's: --adopt does not apply".into())
            })?;
            let effect = format!(
                "taken over from host {host:?} with {} files: that host must ship them no more",
                snapshot.entries.len(),
            );
            (snapshot, effect)
        }
        Repair::FromStart => {
            let found = discover::scan(&config.input).found;
            let n_bytes: u64 = found.iter().map(|found| found.stat.size).sum();
            let effect = format!(
                "everything is forgotten: the {} files that are there now are shipped again from \
                 their first byte, {n_bytes} bytes",
                found.len()
            );
            (empty(), effect)
        }
        Repair::FromEnd => {
            let entries = at_their_ends(config)?;
            let n_bytes: u64 = entries.iter().map(|entry| entry.offset).sum();
            let effect = format!(
                "everything is forgotten: {n_bytes} bytes in the {} files that are there now are \
                 skipped, shipped or not",
                entries.len()
            );
            (Snapshot { entries, ..empty() }, effect)
        }
    };
    let Snapshot { generation, mut entries, .. } = snapshot;
    let kept = damaged.replace(generation, &mut entries)?;
    let mut text = format!("{effect}\n");
    for path in kept {
        let _ = writeln!(text, "what was there is kept in {}", shown(&path));
    }
    Ok(text)
}

fn empty() -> Snapshot {
    let format = registry::format::FORMAT;
    Snapshot { generation: 0, format, journal: 0, entries: Vec::new() }
}

fn bytes_behind(entries: &[Entry]) -> String {
    let behind = |entry: &Entry| size_now(entry).map(|size| size.saturating_sub(entry.offset));
    let behind: Vec<u64> = entries.iter().filter_map(behind).filter(|bytes| *bytes > 0).collect();
    format!("{} bytes in {} files", behind.iter().sum::<u64>(), behind.len())
}

/// Returns an entry for each file that is there, at the end of its last whole line.
fn at_their_ends(config: &Config) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for found in discover::scan(&config.input).found {
        let path = &found.path;
        let cannot = |error| refused(format!("cannot read {}: {error}", path.display()));
        let (file, stat) = discover::open(path).map_err(cannot)?;
        let start = stat.size.saturating_sub(LINE_BYTES_MAX);
        let last = read_range(&file, start, stat.size - start).map_err(cannot)?;
        let end = memchr::memrchr(b'\n', &last).map_or(start, |at| start + at as u64 + 1);
        let written_under = discover::written_under(path);
        entries.push(Entry::of(&file, &stat, &written_under, path, end).map_err(cannot)?);
    }
    Ok(entries)
}

fn refused(problem: String) -> Error {
    Error::Checkpoint { problem }
}

/// A path without control characters, which could be a terminal's.
fn shown(path: &Path) -> String {
    plain(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tail::fingerprint::Inode;
    use crate::tail::registry::StoredPath;

    fn row(name: &str, offset: u64, size_now: Option<u64>, done: bool) -> Row {
        let entry = Entry {
            path: StoredPath::from(Path::new("/var/log/kafka/server.log")),
            name: StoredPath::from(Path::new(name)),
            inode: Inode { dev: 1, ino: 2 },
            btime_ns: None,
            mtime_ns: 0,
            life: 0,
            file_id: None,
            head: Checksum::default(),
            offset,
            guard: Checksum::default(),
            guard_end: None,
            waymarks: Vec::new(),
            done,
            size: offset,
            gzipped: false,
            spent: false,
            first_seen_ms: 1,
            last_seen_ms: 1_795_389_600_000,
            missed_since_ms: None,
        };
        Row { entry, size_now }
    }

    #[test]
    fn the_table_fits_in_80_columns_and_names_the_path_once() {
        let rows = [
            row("/var/log/kafka/server.log.2026-11-23-04", 99_999_999_999, None, true),
            row("/var/log/kafka/server.log", 5, Some(7), false),
            row("/var/log/kafka/a-name-that-is-much-longer-than-any.log", 5, Some(7), false),
        ];
        let table = table(&rows, 1_795_389_600_000 + 90_000_000);
        assert_eq!(
            table,
            "\
NAME                                     OFFSET      SIZE NOW  STATE     MOVED
/var/log/kafka/server.log
  server.log.2026-11-23-04          99999999999          gone  done     1d ago
  server.log                                  5             7  open     1d ago
  a-name-that-is-much-longer-than-any.log
                                              5             7  open     1d ago
"
        );
        assert!(table.lines().all(|line| line.chars().count() <= 80));
    }
}
