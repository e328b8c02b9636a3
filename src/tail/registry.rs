//! Safe ground -> disk.
//!
//! `registry.json` in the state directory: one header line, then one JSON object a line for each
//! life of a file, sorted by path and inode, so that `cat` and `diff` are enough in an incident.
//!
//! ```text
//! {"magic":"shipper-registry","format":2,...,"generation":7,"host":"k1","len":301,"crc32c":123}
//! {"path":"/var/log/kafka/server.log","name":"/var/log/kafka/server.log","inode":...,"offset":...}
//! ```
//!
//! [`mod@format`] reads and writes these bytes, [`folder`] holds the state directory.
//!
//! A crash at any moment leaves a valid registry behind:
//! 1. a temporary file is written and fsync'd (a crash leaves it behind; it is never read);
//! 2. the registry is linked to `registry.json.prev` (a crash leaves two names of one file);
//! 3. the temporary file is renamed over it (atomic);
//! 4. the folder is fsync'd (without it, 3 of 12 power cuts on ext4 went back one generation).
//!
//! A failed fsync is never repeated on the same file, for the kernel marks the pages clean: the
//! next try writes a new one. The live file is never opened for writing: on a full disk the old
//! content would go first. The state directory may be taken away while we run: the next save makes
//! it anew and puts everything into it.
//!
//! At the start a registry that is damaged or gone is replaced by its previous generation. Where
//! that is not whole either, or where the registry is another host's or a newer version's, the
//! start is refused, and [`Damaged`] is what `shipper checkpoint repair` does about it. Source: "Can Applications Recover from fsync Failures?", ATC'20.

pub mod folder;
pub mod format;
pub mod trouble;

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::kafka::record_batch::now_ms;
use crate::planted::{self, Bug};
use crate::tail::fingerprint::{Checksum, Inode, Stat};
use crate::tail::journal::{self, Replay};

use folder::{FolderWatch, StateFolder};
use format::{Damage, FORMAT, Snapshot};

const REGISTRY: &str = "registry.json";
const PREVIOUS: &str = "registry.json.prev";
const TEMPORARY: &str = "registry.json.tmp";

/// What is remembered of one life of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The path it is, or was, written under: its stream.
    pub path: StoredPath,
    /// Its name when last seen.
    pub name: StoredPath,
    /// Its inode when last seen.
    pub inode: Inode,
    /// Its birth time, where the file system keeps one.
    pub btime_ns: Option<i64>,
    /// Time of its last write when last seen.
    pub mtime_ns: i64,
    /// How often the file had been truncated before this life.
    pub life: u32,
    /// Its name in headers; `None` until its first event was read.
    pub file_id: Option<String>,
    /// Its first bytes.
    pub head: Checksum,
    /// Everything before is settled.
    pub offset: u64,
    /// The bytes right before `offset`.
    pub guard: Checksum,
    /// Where those bytes end, where that is not at `offset`: the journal tells how far a file is
    /// settled, but not what its bytes are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard_end: Option<u64>,
    /// Places before `offset`, oldest first: a power cut may take the end of a file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waymarks: Vec<Waymark>,
    /// It is a copy that ends before what was read of the original: nothing of it is to be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spent: bool,
    /// It was read to its end after its rotation, and all of it is settled.
    pub done: bool,
    /// Bytes it held when last seen.
    #[serde(default)]
    pub size: u64,
    /// It is gzip'd: `head` and `offset` are of its decompressed bytes, and `guard` is empty, for
    /// its size and last write tell whether it is the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gzipped: bool,
    /// When it was found, in milliseconds since 1970; 0 if a version that kept no times found it.
    #[serde(default)]
    pub first_seen_ms: i64,
    /// When its offset last moved, in milliseconds since 1970.
    #[serde(default)]
    pub last_seen_ms: i64,
    /// Since when no name leads to it, or no input matches its name, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_since_ms: Option<i64>,
}

impl Entry {
    /// Returns an entry for the first life of a file of which nothing was read.
    pub fn unread(stat: &Stat, path: &Path, name: &Path) -> Entry {
        Entry {
            path: path.into(),
            name: name.into(),
            inode: stat.inode,
            btime_ns: stat.btime_ns,
            mtime_ns: stat.mtime_ns,
            life: 0,
            file_id: None,
            head: Checksum::default(),
            offset: 0,
            guard: Checksum::default(),
            guard_end: None,
            waymarks: Vec::new(),
            done: false,
            size: stat.size,
            gzipped: false,
            spent: false,
            first_seen_ms: now_ms(),
            last_seen_ms: now_ms(),
            missed_since_ms: None,
        }
    }

    /// Returns an entry for the first life of a file, everything before `offset` being settled.
    ///
    /// Errors: the file cannot be read.
    pub fn of(
        file: &File,
        stat: &Stat,
        path: &Path,
        name: &Path,
        offset: u64,
    ) -> io::Result<Entry> {
        Ok(Entry {
            head: Checksum::of_head(file)?,
            offset,
            guard: Checksum::before(file, offset)?,
            ..Entry::unread(stat, path, name)
        })
    }

    /// Tells whether nothing is known of the file but that it is there and to be read.
    pub fn is_unread(&self) -> bool {
        let is_fresh = self.life == 0 && self.file_id.is_none() && !self.done && !self.gzipped;
        is_fresh && self.offset == 0 && self.head.len == 0
    }
}

/// How far a file, and its partition, had come some time ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waymark {
    /// Everything before was settled.
    pub offset: u64,
    /// The bytes right before `offset`.
    pub guard: Checksum,
    /// Where the records of the file went.
    pub partition: i32,
    /// The offset behind our last record there, -1 if none was known: what lies behind `offset`
    /// in the file lies behind this in the partition.
    pub next_offset: i64,
}

/// A path as it stands in JSON: text, or bytes where it is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StoredPath {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl From<&Path> for StoredPath {
    fn from(path: &Path) -> StoredPath {
        match path.to_str() {
            Some(text) => StoredPath::Text(text.into()),
            None => StoredPath::Bytes(path.as_os_str().as_bytes().into()),
        }
    }
}

impl From<&StoredPath> for PathBuf {
    fn from(path: &StoredPath) -> PathBuf {
        match path {
            StoredPath::Text(text) => text.into(),
            StoredPath::Bytes(bytes) => std::ffi::OsString::from_vec(bytes.clone()).into(),
        }
    }
}

/// A way out of a refused start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Go on from the previous generation.
    AcceptPrev,
    /// Take over what another host wrote.
    Adopt,
    /// Forget everything: each file is shipped again from its first byte.
    FromStart,
    /// Forget everything, and take what the files hold now for shipped.
    FromEnd,
}

/// The state directory, held by this process alone, and what the registry in it said.
#[derive(Debug)]
pub struct Registry {
    folder: StateFolder,
    host: String,
    generation: u64,
    /// The format of the registry on disk, where it is one to go back to.
    format: Option<u32>,
}

impl Registry {
    /// Locks the state directory and loads what is remembered.
    ///
    /// Errors: [`Error::Locked`] while another process works there; [`Error::Registry`] where
    /// neither the registry nor its previous generation can be used; [`Error::State`].
    pub fn open(folder: &Path, host: &str) -> Result<(Registry, Vec<Entry>, Replay), Error> {
        let folder = StateFolder::lock(folder)?;
        let (snapshot, format) = match find(folder.path(), host) {
            Found::Older(..) | Found::Unusable(_) if planted::is(Bug::DamageIsNothing) => {
                (Snapshot { generation: 0, format: FORMAT, journal: 0, entries: Vec::new() }, None)
            }
            Found::Whole(snapshot) => {
                let format = Some(snapshot.format);
                (snapshot, format)
            }
            Found::Older(snapshot, problem) => {
                log::warn!(
                    "{}: {problem}; going on from its previous generation and what the journals \
                     tell of the time since",
                    folder.path().join(REGISTRY).display(),
                );
                (snapshot, None)
            }
            Found::Nothing if !folder.had_registry() => {
                (Snapshot { generation: 0, format: FORMAT, journal: 0, entries: Vec::new() }, None)
            }
            Found::Nothing => return Err(refusal(folder.path(), host, &Damage::Missing)),
            Found::Unusable(damage) => return Err(refusal(folder.path(), host, &damage)),
        };
        let Snapshot { generation, journal, mut entries, .. } = snapshot;
        let replay = journal::replay(folder.path(), host, journal, &mut entries);
        Ok((Registry { folder, host: host.into(), generation, format }, entries, replay))
    }

    /// Replaces the registry; when this returns, the new one survives a power cut. `journal` is
    /// the first that tells what happens after it. Returns its size in bytes.
    ///
    /// Errors: the disk's; the registry is then the one before, and another try may be made.
    pub fn save(&mut self, entries: &mut [Entry], journal: u64) -> io::Result<u64> {
        if self.folder.hold()? {
            log::error!(
                "the state directory {} was deleted or replaced while we worked in it: it is made \
                 and written anew",
                self.folder.path().display()
            );
        }
        if planted::is(Bug::TwoSteps) {
            let half = entries.len() / 2;
            self.replace(&mut entries[..half], journal)?;
            // Long enough for a run of minutes to hit it.
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let len = self.replace(entries, journal)?;
        self.generation += 1;
        self.format = Some(FORMAT);
        self.folder.note_registry()?;
        Ok(len)
    }

    /// Replaces the registry by what a person said: no journal counts any more.
    ///
    /// Errors: as of [`Registry::save`].
    pub fn save_alone(&mut self, entries: &mut [Entry]) -> io::Result<()> {
        let journal = journal::begin_anew(self.folder.path(), &self.host)?;
        self.save(entries, journal).map(drop)
    }

    /// Returns how many bytes it has now.
    fn replace(&self, entries: &mut [Entry], journal: u64) -> io::Result<u64> {
        let len = self.folder.write_new(TEMPORARY, |out| {
            format::write(self.generation + 1, journal, &self.host, entries, out)
        })?;
        if self.folder.has(REGISTRY)? {
            match self.format {
                Some(format) => {
                    if format < FORMAT {
                        // For whoever goes back to the version that wrote it.
                        self.folder.link(REGISTRY, &format!("{REGISTRY}.v{format}"))?;
                    }
                    self.folder.link(REGISTRY, PREVIOUS)?;
                }
                // Damaged: it must not take the place of the generation that we came from.
                None => drop(set_aside(&self.folder, REGISTRY)?),
            }
        }
        self.folder.rename(TEMPORARY, REGISTRY)?;
        self.folder.sync()?;
        Ok(len)
    }

    /// Moves saving to a thread of its own, for fsync may take seconds on a busy disk.
    ///
    /// Errors: the thread cannot be started.
    pub fn into_saver(mut self) -> Result<Saver, Error> {
        let (saves, to_save) = bounded(1);
        let (saved, results) = bounded(1);
        let folder = self.folder.watch();
        thread::Builder::new()
            .name("registry".into())
            .spawn(move || {
                for save in to_save {
                    if saved.send(self.carry_out(save)).is_err() {
                        return;
                    }
                }
            })
            .map_err(|source| Error::Start { attempt: "start the registry's thread", source })?;
        Ok(Saver { saves, results, folder })
    }

    fn carry_out(&mut self, save: Save) -> io::Result<Saved> {
        match save {
            Save::Registry { mut entries, journal, head } => {
                if let Some(head) = head {
                    head.sync_data()?;
                }
                let len = self.save(&mut entries, journal)?;
                Ok(Saved::Registry { journal, len })
            }
            Save::Journal(file, path) => journal::sync(&file, &path).map(|()| Saved::Journal),
            Save::Failed(error) => Err(error),
        }
    }
}

/// What the registry's thread is to do.
#[derive(Debug)]
pub enum Save {
    /// Write the registry anew.
    Registry {
        /// All there is to remember.
        entries: Vec<Entry>,
        /// The first journal that tells what happens after it.
        journal: u64,
        /// The file of that journal, whose head must be there before the registry names it; `None`
        /// where it cannot be had.
        head: Option<File>,
    },
    /// Make sure that what was appended to the journal survives a power cut.
    Journal(File, PathBuf),
    /// Nothing: it failed before.
    Failed(io::Error),
}

/// What the registry's thread did.
#[derive(Debug)]
pub enum Saved {
    /// It wrote the registry.
    Registry {
        /// The first journal it needs.
        journal: u64,
        /// Unit: bytes.
        len: u64,
    },
    /// It fsync'd the journal.
    Journal,
}

/// Hands what is to be saved to the thread that does it, one at a time.
#[derive(Debug)]
pub struct Saver {
    /// Takes one; the next only after its result was received.
    pub saves: Sender<Save>,
    /// One result for each.
    pub results: Receiver<io::Result<Saved>>,
    /// Tells whether what was saved is still there.
    pub folder: FolderWatch,
}

/// Loads what is remembered, as [`Registry::open`] would, beside a process that works there.
///
/// Returns nothing where no registry is; what is wrong with the registry comes with what its
/// previous generation says.
/// Errors: [`Error::Registry`].
pub fn read(folder: &Path, host: &str) -> Result<(Option<Snapshot>, Option<String>), Error> {
    let (mut snapshot, problem) = match find(folder, host) {
        Found::Whole(snapshot) => (snapshot, None),
        Found::Older(snapshot, problem) => (snapshot, Some(problem)),
        Found::Nothing => return Ok((None, None)),
        Found::Unusable(damage) => return Err(refusal(folder, host, &damage)),
    };
    journal::replay(folder, host, snapshot.journal, &mut snapshot.entries);
    Ok((Some(snapshot), problem))
}

/// A state directory, held by this process alone, whose registry is refused.
#[derive(Debug)]
pub struct Damaged {
    folder: StateFolder,
    host: String,
}

impl Damaged {
    /// Locks the state directory; gives nothing if its registry needs no repair.
    ///
    /// Errors: [`Error::Locked`] while another process works there; [`Error::State`].
    pub fn open(folder: &Path, host: &str) -> Result<Option<Damaged>, Error> {
        let folder = StateFolder::lock(folder)?;
        let is_refused = match find(folder.path(), host) {
            Found::Whole(_) | Found::Older(..) => false,
            Found::Nothing => folder.had_registry(),
            Found::Unusable(_) => true,
        };
        Ok(is_refused.then(|| Damaged { folder, host: host.into() }))
    }

    /// Returns the previous generation, if it is whole.
    pub fn previous(&self) -> Result<Snapshot, Damage> {
        load(&self.folder.path().join(PREVIOUS), &self.host)
    }

    /// Returns the name of the host that wrote the registry, and what it wrote, if it was another.
    pub fn foreign(&self) -> Option<(String, Snapshot)> {
        let path = self.folder.path().join(REGISTRY);
        let Err(Damage::Foreign { host }) = load(&path, &self.host) else {
            return None;
        };
        let snapshot = load(&path, &host).ok()?;
        Some((host, snapshot))
    }

    /// Begins anew with these entries, and returns the paths under which what was there is kept.
    ///
    /// A crash on the way leaves a registry that is refused again, or the new one.
    /// Errors: [`Error::State`].
    pub fn replace(
        mut self,
        generation: u64,
        entries: &mut [Entry],
    ) -> Result<Vec<PathBuf>, Error> {
        let path = self.folder.path().to_path_buf();
        let failed = |attempt| {
            let path = path.clone();
            move |source| Error::State { attempt, path, source }
        };
        self.folder.note_registry().map_err(failed("write into"))?;
        let kept = self.keep_damaged().map_err(failed("rename the damaged registry in"))?;
        let Damaged { folder, host } = self;
        let mut registry = Registry { folder, host, generation, format: None };
        registry.save_alone(entries).map_err(failed("save the registry in"))?;
        Ok(kept)
    }

    fn keep_damaged(&self) -> io::Result<Vec<PathBuf>> {
        let mut kept = Vec::new();
        for name in [REGISTRY, PREVIOUS] {
            let is_whole = load(&self.folder.path().join(name), &self.host).is_ok();
            if !is_whole && self.folder.has(name)? {
                kept.push(set_aside(&self.folder, name)?);
            }
        }
        self.folder.sync()?;
        Ok(kept)
    }
}

/// Renames what cannot be used to `NAME.damaged-N`, and returns its new path.
fn set_aside(folder: &StateFolder, name: &str) -> io::Result<PathBuf> {
    let mut n = 1;
    while folder.has(&format!("{name}.damaged-{n}"))? {
        n += 1;
    }
    let damaged = format!("{name}.damaged-{n}");
    folder.rename(name, &damaged)?;
    Ok(folder.path().join(damaged))
}

/// What a state directory holds.
enum Found {
    /// A registry.
    Whole(Snapshot),
    /// Only its previous generation, for what is said of the registry.
    Older(Snapshot, String),
    /// Neither.
    Nothing,
    /// Nothing that may be used.
    Unusable(Damage),
}

fn find(folder: &Path, host: &str) -> Found {
    let damage = match load(&folder.join(REGISTRY), host) {
        Ok(snapshot) => return Found::Whole(snapshot),
        Err(damage @ (Damage::Newer { .. } | Damage::Foreign { .. })) => {
            return Found::Unusable(damage);
        }
        Err(damage) => damage,
    };
    match (load(&folder.join(PREVIOUS), host), damage) {
        (Ok(snapshot), damage) => Found::Older(snapshot, describe(&damage, host)),
        (Err(Damage::Missing), Damage::Missing) => Found::Nothing,
        (Err(_), damage) => Found::Unusable(damage),
    }
}

fn load(path: &Path, host: &str) -> Result<Snapshot, Damage> {
    match fs::read(path) {
        Ok(bytes) => format::decode(&bytes, host),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Damage::Missing),
        Err(error) => Err(Damage::Damaged(format!("it cannot be read: {error}"))),
    }
}

/// Says why the start is refused, and which ways out there are.
fn refusal(folder: &Path, host: &str, damage: &Damage) -> Error {
    let previous = load(&folder.join(PREVIOUS), host);
    let mut problem = describe(damage, host);
    let mut repairs = vec![Repair::FromStart, Repair::FromEnd];
    match (&previous, damage) {
        (Ok(_), _) => repairs.insert(0, Repair::AcceptPrev),
        (Err(previous), Damage::Missing | Damage::Damaged(_)) => {
            problem += &format!("; its previous generation: {}", describe(previous, host));
        }
        (Err(_), _) => {}
    }
    if matches!(damage, Damage::Foreign { .. }) {
        repairs.insert(0, Repair::Adopt);
    }
    Error::Registry { path: folder.join(REGISTRY), problem, repairs }
}

fn describe(damage: &Damage, host: &str) -> String {
    match damage {
        Damage::Missing => "it is gone".into(),
        Damage::Damaged(problem) => problem.clone(),
        Damage::Newer { format, written_by } => format!(
            "shipper {written_by} wrote it in format {format}, and this version reads up to \
             {FORMAT}: install {written_by} or newer"
        ),
        Damage::Foreign { host: other } => format!(
            "it was written on host {other:?}, and this is {host:?}: a copy of its disk must not \
             go on in its place; set `host` if the host was renamed"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, offset: u64) -> Entry {
        Entry {
            path: StoredPath::from(Path::new("/l/server.log")),
            name: StoredPath::from(Path::new(name)),
            inode: Inode { dev: 1, ino: offset },
            btime_ns: Some(5),
            mtime_ns: 6,
            life: 0,
            file_id: Some("x-1".into()),
            head: Checksum::of(b"head"),
            offset,
            guard: Checksum::of(b"guard"),
            guard_end: None,
            waymarks: Vec::new(),
            done: false,
            size: offset,
            gzipped: false,
            spent: false,
            first_seen_ms: 7,
            last_seen_ms: 8,
            missed_since_ms: None,
        }
    }

    fn open(folder: &Path) -> Result<(Registry, Vec<Entry>), Error> {
        Registry::open(folder, "h").map(|(registry, entries, _)| (registry, entries))
    }

    #[test]
    fn what_was_saved_is_loaded_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut registry, entries) = open(folder.path()).expect("first start");
        assert_eq!(entries, []);
        let not_utf8 = Path::new(std::ffi::OsStr::from_bytes(b"/l/\xff.log"));
        let second = Entry { name: StoredPath::from(not_utf8), ..entry("", 2) };
        registry.save(&mut [second.clone(), entry("/l/server.log", 1)], 0).expect("saved");
        drop(registry);
        let (_registry, entries) = open(folder.path()).expect("loaded");
        assert_eq!(entries, [entry("/l/server.log", 1), second.clone()]);
        assert_eq!(PathBuf::from(&second.name), not_utf8);
    }

    /// Torture: 56.
    #[test]
    fn any_damage_gives_the_previous_generation_and_never_anything_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut registry, _) = open(folder.path()).expect("first start");
        let before = [entry("/l/server.log", 1)];
        registry.save(&mut before.clone(), 0).expect("saved");
        registry.save(&mut [entry("/l/server.log", 2)], 0).expect("saved");
        drop(registry);
        let path = folder.path().join("registry.json");
        let whole = fs::read(&path).expect("read");

        for at in 0..whole.len() {
            for damaged in [
                whole[..at].to_vec(),
                whole.iter().enumerate().map(|(i, b)| if i == at { b ^ 1 } else { *b }).collect(),
            ] {
                fs::write(&path, &damaged).expect("written");
                let (_registry, entries) = open(folder.path()).expect("previous generation");
                assert_eq!(entries, before, "byte {at}");
            }
        }
    }

    #[test]
    fn a_damaged_registry_never_takes_the_place_of_its_previous_generation() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut registry, _) = open(folder.path()).expect("first start");
        registry.save(&mut [entry("/l/server.log", 1)], 0).expect("saved");
        registry.save(&mut [entry("/l/server.log", 2)], 0).expect("saved");
        drop(registry);
        let previous = fs::read(folder.path().join(PREVIOUS)).expect("read");
        fs::write(folder.path().join(REGISTRY), "damaged").expect("written");
        let (mut registry, _) = open(folder.path()).expect("previous generation");
        registry.save(&mut [entry("/l/server.log", 3)], 0).expect("saved");
        assert_eq!(fs::read(folder.path().join(PREVIOUS)).expect("read"), previous);
        let kept = fs::read(folder.path().join("registry.json.damaged-1")).expect("kept");
        assert_eq!(kept, b"damaged");
    }

    #[test]
    fn two_damaged_generations_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("registry.json"), "").expect("written");
        fs::write(folder.path().join("registry.json.prev"), "{}\n").expect("written");
        let error = open(folder.path()).expect_err("refused");
        assert_eq!(error.exit_code(), 78, "{error}");
    }

    #[test]
    fn only_a_folder_without_a_past_is_a_first_start() {
        let folder = tempfile::tempdir().expect("a folder");
        // Died before its first save.
        drop(open(folder.path()).expect("first start"));
        let (mut registry, _) = open(folder.path()).expect("first start, again");
        registry.save(&mut [entry("/l/server.log", 1)], 0).expect("saved");
        drop(registry);
        for name in [REGISTRY, PREVIOUS] {
            let _ = fs::remove_file(folder.path().join(name));
        }
        let error = open(folder.path()).expect_err("refused");
        assert!(error.to_string().contains("it is gone"), "{error}");
        assert_eq!(error.exit_code(), 78, "{error}");
    }

    /// Torture: 57, 64.
    #[test]
    fn a_registry_of_format_1_is_taken_over_and_kept_for_a_way_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let golden = include_bytes!("../../tests/data/registry/format-1.json");
        fs::write(folder.path().join(REGISTRY), golden).expect("written");
        let (mut registry, mut entries, _) =
            Registry::open(folder.path(), "kafka-1").expect("format 1");
        registry.save(&mut entries, 0).expect("saved");
        registry.save(&mut entries, 0).expect("saved");
        drop(registry);
        let kept = fs::read(folder.path().join("registry.json.v1")).expect("kept");
        assert_eq!(kept, golden);
        let (_registry, again, _) = Registry::open(folder.path(), "kafka-1").expect("format 2");
        assert_eq!(again, entries);
    }

    #[test]
    fn what_is_newer_or_foreign_is_refused_and_never_replaced_by_an_older_generation() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut registry, _) = open(folder.path()).expect("first");
        registry.save(&mut [], 0).expect("saved");
        drop(registry);
        let (registry, previous) = (folder.path().join(REGISTRY), folder.path().join(PREVIOUS));
        fs::rename(&registry, &previous).expect("renamed");
        let golden = include_bytes!("../../tests/data/registry/format-1.json");
        fs::write(&registry, golden).expect("written");
        let Err(Error::Registry { repairs, .. }) = open(folder.path()) else {
            panic!("not refused");
        };
        assert_eq!(repairs[..2], [Repair::Adopt, Repair::AcceptPrev]);
    }

    /// Torture: 59, 60.
    #[test]
    fn a_second_process_and_another_host_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut registry, _) = open(folder.path()).expect("first");
        registry.save(&mut [], 0).expect("saved");
        assert_eq!(open(folder.path()).expect_err("locked").exit_code(), 75);
        drop(registry);
        let other = Registry::open(folder.path(), "other").expect_err("another host");
        assert!(other.to_string().contains("written on host \"h\""), "{other}");
    }

    /// Torture: 55.
    #[test]
    fn a_folder_that_is_taken_away_is_made_anew_with_all_that_is_known() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("state");
        let (mut registry, _) = open(&folder).expect("first start");
        let watch = registry.folder.watch();
        registry.save(&mut [entry("/l/server.log", 1)], 0).expect("saved");
        for replaced in [false, true] {
            assert!(watch.is_in_place());
            fs::remove_dir_all(&folder).expect("removed");
            if replaced {
                fs::create_dir(&folder).expect("made");
            }
            assert!(!watch.is_in_place());
            registry.save(&mut [entry("/l/server.log", 2)], 0).expect("saved");
        }
        drop(registry);
        let (_registry, entries) = open(&folder).expect("loaded");
        assert_eq!(entries, [entry("/l/server.log", 2)]);
    }

    #[test]
    fn what_root_writes_belongs_to_the_owner_of_the_folder() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        // Only root may give a folder away; for anybody else the files are the owner's anyway.
        let _ = std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534));
        let owner = fs::metadata(folder.path()).expect("there").uid();
        let (mut registry, _) = open(folder.path()).expect("first start");
        registry.save(&mut [entry("/l/server.log", 1)], 0).expect("saved");
        for name in ["lock", REGISTRY] {
            let metadata = fs::metadata(folder.path().join(name)).expect("there");
            assert_eq!(metadata.uid(), owner, "{name}");
        }
    }

    #[test]
    fn a_temporary_file_that_a_crash_left_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut registry, _) = open(folder.path()).expect("first start");
        registry.save(&mut [entry("/l/server.log", 1)], 0).expect("saved");
        drop(registry);
        // Whole, and newer: but nobody says that it was ever meant to be the registry.
        let newer = format::encode(9, 0, "h", &mut [entry("/l/server.log", 2)]);
        fs::write(folder.path().join(TEMPORARY), newer).expect("written");
        let (mut registry, entries) = open(folder.path()).expect("loaded");
        assert_eq!(entries, [entry("/l/server.log", 1)]);
        registry.save(&mut [entry("/l/server.log", 3)], 0).expect("saved over it");
    }
}
