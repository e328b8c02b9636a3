//! Safe ground -> disk.
//!
//! `registry.json` in the state directory: one header line, then one JSON object a line for each
//! life of a file, sorted by path and inode, so that `cat` and `diff` are enough in an incident.
//!
//! ```text
//! {"magic":"shipper-registry","format":1,"min_reader":1,"generation":7,"host":"k1","len":301,"crc32c":123}
//! {"path":"/var/log/kafka/server.log","name":"/var/log/kafka/server.log","inode":...,"offset":...}
//! ```
//!
//! A crash at any moment leaves a valid registry behind:
//! 1. a temporary file is written and fsync'd (a crash leaves it behind; it is never read);
//! 2. the registry is linked to `registry.json.prev` (a crash leaves two names of one file);
//! 3. the temporary file is renamed over it (atomic);
//! 4. the folder is fsync'd (without it, 3 of 12 power cuts on ext4 went back one generation).
//!
//! A failed fsync is never repeated on the same file, for the kernel marks the pages clean: the
//! next try writes a new one. The live file is never opened for writing: on a full disk the old
//! content would go first. Source: "Can Applications Recover from fsync Failures?", ATC'20.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::tail::fingerprint::{Checksum, Inode};

const MAGIC: &str = "shipper-registry";
const FORMAT: u32 = 1;

/// What is remembered of one life of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// It was read to its end after its rotation, and all of it is settled.
    pub done: bool,
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

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    magic: String,
    /// Layout of what follows.
    format: u32,
    /// Oldest layout whose reader understands this file.
    min_reader: u32,
    /// Grows with each save.
    generation: u64,
    /// Who wrote it; a copy on another host must not be taken for its own.
    host: String,
    /// Bytes that follow the header line.
    len: u64,
    /// Their checksum.
    crc32c: u32,
}

/// The state directory, held by this process alone, and what the registry in it said.
#[derive(Debug)]
pub struct Registry {
    folder: PathBuf,
    host: String,
    generation: u64,
    /// Kept open: the lock ends with the process, however it ends.
    _lock: File,
}

impl Registry {
    /// Locks the state directory and loads what is remembered.
    ///
    /// Errors: [`Error::Locked`] while another process works there; [`Error::Registry`] where
    /// neither the registry nor its previous generation is whole; [`Error::State`].
    pub fn open(folder: &Path, host: &str) -> Result<(Registry, Vec<Entry>), Error> {
        fs::create_dir_all(folder).map_err(|source| state("make", folder, source))?;
        let lock = lock(&folder.join("lock"))?;
        let path = folder.join("registry.json");
        let previous = folder.join("registry.json.prev");
        let loaded = match load(&path, host) {
            Ok(loaded) => loaded,
            Err(Damage::Missing) => match load(&previous, host) {
                Err(Damage::Missing) => (0, Vec::new()),
                Ok(loaded) => {
                    log::warn!("{} is gone, going on from {}", path.display(), previous.display());
                    loaded
                }
                Err(Damage::Problem(problem)) => {
                    return Err(Error::Registry {
                        path,
                        problem: format!("gone; previous: {problem}"),
                    });
                }
            },
            Err(Damage::Problem(problem)) => match load(&previous, host) {
                Ok(loaded) => {
                    log::warn!(
                        "{}: {problem}; going on from {}, what was shipped since is repeated",
                        path.display(),
                        previous.display()
                    );
                    loaded
                }
                Err(Damage::Missing) => {
                    let problem = format!("{problem}; no previous generation");
                    return Err(Error::Registry { path, problem });
                }
                Err(Damage::Problem(other)) => {
                    let problem = format!("{problem}; previous generation: {other}");
                    return Err(Error::Registry { path, problem });
                }
            },
        };
        let (generation, entries) = loaded;
        let registry =
            Registry { folder: folder.into(), host: host.into(), generation, _lock: lock };
        Ok((registry, entries))
    }

    /// Replaces the registry; when this returns, the new one survives a power cut.
    ///
    /// Errors: the disk's; the registry is then the one before, and another try may be made.
    pub fn save(&mut self, entries: &mut [Entry]) -> io::Result<()> {
        entries.sort_by(|a, b| (&a.path, a.inode.ino, a.life).cmp(&(&b.path, b.inode.ino, b.life)));
        let mut body = Vec::with_capacity(entries.len() * 512);
        for entry in entries.iter() {
            serde_json::to_writer(&mut body, entry)?;
            body.push(b'\n');
        }
        let header = Header {
            magic: MAGIC.into(),
            format: FORMAT,
            min_reader: FORMAT,
            generation: self.generation + 1,
            host: self.host.clone(),
            len: body.len() as u64,
            crc32c: crc32c::crc32c(&body),
        };
        let mut bytes = serde_json::to_vec(&header)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&body);
        self.replace(&bytes)?;
        self.generation += 1;
        Ok(())
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let path = self.folder.join("registry.json");
        let previous = self.folder.join("registry.json.prev");
        let temporary = self.folder.join("registry.json.tmp");
        remove_if_there(&temporary)?;
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        if path.exists() {
            remove_if_there(&previous)?;
            fs::hard_link(&path, &previous)?;
        }
        fs::rename(&temporary, &path)?;
        File::open(&self.folder)?.sync_all()
    }

    /// Moves saving to a thread of its own, for fsync may take seconds on a busy disk.
    ///
    /// Errors: the thread cannot be started.
    pub fn into_saver(mut self) -> Result<Saver, Error> {
        let (entries, to_save) = bounded::<Vec<Entry>>(1);
        let (saved, results) = bounded(1);
        thread::Builder::new()
            .name("registry".into())
            .spawn(move || {
                for mut entries in to_save {
                    if saved.send(self.save(&mut entries)).is_err() {
                        return;
                    }
                }
            })
            .map_err(|source| Error::Start { attempt: "start the registry's thread", source })?;
        Ok(Saver { entries, results })
    }
}

/// Hands snapshots to the thread that saves them, one at a time.
#[derive(Debug)]
pub struct Saver {
    /// Takes one snapshot; the next only after its result was received.
    pub entries: Sender<Vec<Entry>>,
    /// One result for each snapshot.
    pub results: Receiver<io::Result<()>>,
}

fn state(attempt: &'static str, path: &Path, source: io::Error) -> Error {
    Error::State { attempt, path: path.into(), source }
}

fn lock(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| state("open", path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::Locked { path: path.into() }),
        Err(fs::TryLockError::Error(source)) => Err(state("lock", path, source)),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Why a registry cannot be used.
#[derive(Debug, PartialEq, Eq)]
enum Damage {
    /// It is not there.
    Missing,
    /// It is not what was written.
    Problem(String),
}

fn load(path: &Path, host: &str) -> Result<(u64, Vec<Entry>), Damage> {
    match fs::read(path) {
        Ok(bytes) => decode(&bytes, host).map_err(Damage::Problem),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Damage::Missing),
        Err(error) => Err(Damage::Problem(error.to_string())),
    }
}

fn decode(bytes: &[u8], host: &str) -> Result<(u64, Vec<Entry>), String> {
    let end = memchr::memchr(b'\n', bytes).ok_or("it has no header line")?;
    let header: Header = serde_json::from_slice(&bytes[..end])
        .map_err(|error| format!("its header cannot be read: {error}"))?;
    if header.magic != MAGIC {
        return Err("it is not a registry of shipper".into());
    }
    if header.min_reader > FORMAT {
        let format = header.format;
        return Err(format!(
            "a newer version wrote it, in format {format}; this one reads {FORMAT}"
        ));
    }
    if header.host != host {
        return Err(format!(
            "it was written on host {:?}, and this is {host:?}: set `host` if the host was renamed",
            header.host
        ));
    }
    let body = &bytes[end + 1..];
    if body.len() as u64 != header.len || crc32c::crc32c(body) != header.crc32c {
        return Err("its checksum is wrong".into());
    }
    let lines = body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let entries: Result<Vec<Entry>, _> = lines.map(serde_json::from_slice).collect();
    let entries = entries.map_err(|error| format!("an entry cannot be read: {error}"))?;
    Ok((header.generation, entries))
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
            done: false,
        }
    }

    fn open(folder: &Path) -> Result<(Registry, Vec<Entry>), Error> {
        Registry::open(folder, "h")
    }

    #[test]
    fn what_was_saved_is_loaded_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut registry, entries) = open(folder.path()).expect("first start");
        assert_eq!(entries, []);
        let not_utf8 = Path::new(std::ffi::OsStr::from_bytes(b"/l/\xff.log"));
        let second = Entry { name: StoredPath::from(not_utf8), ..entry("", 2) };
        registry.save(&mut [second.clone(), entry("/l/server.log", 1)]).expect("saved");
        drop(registry);
        let (_registry, entries) = open(folder.path()).expect("loaded");
        assert_eq!(entries, [entry("/l/server.log", 1), second.clone()]);
        assert_eq!(PathBuf::from(&second.name), not_utf8);
    }

    #[test]
    fn any_damage_gives_the_previous_generation_and_never_anything_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut registry, _) = open(folder.path()).expect("first start");
        let before = [entry("/l/server.log", 1)];
        registry.save(&mut before.clone()).expect("saved");
        registry.save(&mut [entry("/l/server.log", 2)]).expect("saved");
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
                // A flipped bit in `format` or `generation` alone does no harm.
                assert!(entries == before || entries[0].offset == 2, "byte {at}: {entries:?}");
            }
        }
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
    fn a_second_process_and_another_host_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut registry, _) = open(folder.path()).expect("first");
        registry.save(&mut []).expect("saved");
        assert_eq!(open(folder.path()).expect_err("locked").exit_code(), 75);
        drop(registry);
        let other = Registry::open(folder.path(), "other").expect_err("another host");
        assert!(other.to_string().contains("written on host \"h\""), "{other}");
    }

    #[test]
    fn a_temporary_file_that_a_crash_left_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("registry.json.tmp"), "half").expect("written");
        let (mut registry, entries) = open(folder.path()).expect("first start");
        assert_eq!(entries, []);
        registry.save(&mut [entry("/l/server.log", 1)]).expect("saved over it");
    }
}
