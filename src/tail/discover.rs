//! Which files exist.
//!
//! Looks at names and at what the file system says of them; opens files only to hand them over.
//! The scan is the truth. Notices of the kernel ([`Hints`]) merely shorten the wait for it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use glob::{MatchOptions, Pattern};
use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use rustix::fs::{FileType, OFlags, RawDir};

use crate::config::InputConfig;
use crate::tail::fingerprint::{Inode, Stat};
use crate::tail::open_files::is_exhausted;

/// A `*` stops at a slash and leaves hidden files out, as in a shell.
const GLOB: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// Bytes of names that are asked for at once, some 6,000 names: the kernel lets nobody rename a file
/// of a folder while it answers, so that they are those of one moment.
const NAMES_BYTES: usize = 256 * 1024;

/// Looks for a file under the name that it has by then, at most: in a storm of rotations the name
/// may be another's whenever it is used.
const LOOKS_MAX: usize = 20;

/// A regular file under a configured path.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its name now, not that of a link to it.
    pub path: PathBuf,
    /// The symbolic link that leads to it, where links are followed: it is written under that.
    pub link: Option<PathBuf>,
    /// Index of the `[[input]]` whose pattern it matches first.
    pub input: usize,
    /// What the file system says of it.
    pub stat: Stat,
    /// No pattern leads to it: it stands beside a file that one leads to.
    pub is_sibling: bool,
}

impl Found {
    /// Tells whether its name still leads to it.
    pub fn has_its_name(&self) -> bool {
        let now = fs::symlink_metadata(&self.path);
        now.is_ok_and(|metadata| Stat::from(&metadata).inode == self.stat.inode)
    }

    /// Tells whether a path leads to it, by itself or as a link.
    pub fn is_in_place(&self, path: &Path) -> bool {
        self.link.as_deref().unwrap_or(&self.path) == path
    }
}

/// What a scan saw.
#[derive(Debug, Default)]
pub struct Scan {
    /// Regular files, each name once.
    pub found: Vec<Found>,
    /// Names that match and cannot be shipped, with the reason.
    pub refused: Vec<(PathBuf, String)>,
    /// A folder could not be read: files not found are not known to be gone.
    pub incomplete: bool,
    /// There was no descriptor left for a folder.
    pub exhausted: bool,
}

/// Looks once for the files of all inputs.
pub fn scan(inputs: &[InputConfig]) -> Scan {
    Patterns::new(inputs).scan(|_, _| false)
}

/// The patterns of all inputs, compiled once.
#[derive(Debug)]
pub struct Patterns {
    inputs: Vec<InputPatterns>,
}

#[derive(Debug)]
struct InputPatterns {
    paths: Vec<PathPattern>,
    exclude: Vec<String>,
    follow_symlinks: bool,
}

#[derive(Debug)]
struct PathPattern {
    text: String,
    /// Folders that may hold files, and what the names of files match there.
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// No wildcard: one name.
    File(PathBuf),
    /// Wildcards in the file name alone.
    Folder(PathBuf, Pattern),
    /// Wildcards in the folder's path too.
    Folders(String, Pattern),
    /// `**`: any folder below.
    Deep,
}

/// The names in a folder, with inode numbers; `None` for what is not a regular file.
type Listing = Vec<(OsString, Option<u64>)>;

impl Patterns {
    /// Compiles the patterns, which are known to be valid.
    pub fn new(inputs: &[InputConfig]) -> Patterns {
        let compile = |input: &InputConfig| InputPatterns {
            paths: input.paths.iter().map(|text| PathPattern::new(text)).collect(),
            exclude: input.exclude.clone(),
            follow_symlinks: input.follow_symlinks,
        };
        Patterns { inputs: inputs.iter().map(compile).collect() }
    }

    /// Returns the patterns that no name matches.
    pub fn unmatched(&self) -> Vec<String> {
        let patterns = self.inputs.iter().flat_map(|input| &input.paths);
        let is_unmatched = |pattern: &&PathPattern| {
            Scan::default().paths_of(pattern, &mut HashMap::new()).is_empty()
        };
        patterns.filter(is_unmatched).map(|pattern| pattern.text.clone()).collect()
    }

    /// Looks for the files of all inputs, except those whose name and inode are known.
    ///
    /// Costs one listing for each folder and one look at each name that is not known.
    pub fn scan(&self, mut is_known: impl FnMut(&Path, Inode) -> bool) -> Scan {
        let mut scan = Scan::default();
        // Two patterns may lead to one name.
        let is_single = self.inputs.iter().map(|input| input.paths.len()).sum::<usize>() == 1;
        let mut seen = HashSet::new();
        let mut listings = HashMap::new();
        for (input, patterns) in self.inputs.iter().enumerate() {
            for pattern in &patterns.paths {
                for (path, inode) in scan.paths_of(pattern, &mut listings) {
                    if is_excluded(&path, &patterns.exclude)
                        || !(is_single || seen.insert(path.clone().into_os_string()))
                        || inode.is_some_and(|inode| is_known(&path, inode))
                    {
                        continue;
                    }
                    scan.look_at(path, input, patterns.follow_symlinks);
                }
            }
        }
        scan
    }
}

impl PathPattern {
    fn new(text: &str) -> PathPattern {
        let (folder, name) = text.rsplit_once('/').unwrap_or(("", text));
        let has_wildcard = |text: &str| text.contains(['*', '?', '[']);
        let folder_path = PathBuf::from(if folder.is_empty() { "/" } else { folder });
        let place = match Pattern::new(name) {
            _ if text.contains("**") => Place::Deep,
            Ok(pattern) if has_wildcard(folder) => Place::Folders(folder.into(), pattern),
            Ok(pattern) if has_wildcard(name) => Place::Folder(folder_path, pattern),
            _ => Place::File(text.into()),
        };
        PathPattern { text: text.into(), place }
    }
}

impl Scan {
    /// Returns the paths that a pattern leads to, in order, with their inodes where a listing
    /// tells them.
    fn paths_of(
        &mut self,
        pattern: &PathPattern,
        listings: &mut HashMap<PathBuf, Option<(u64, Listing)>>,
    ) -> Vec<(PathBuf, Option<Inode>)> {
        let (folders, name) = match &pattern.place {
            Place::File(path) => {
                let is_there = match fs::symlink_metadata(path) {
                    Err(error) => error.kind() != io::ErrorKind::NotFound,
                    Ok(_) => true,
                };
                return is_there.then(|| (path.clone(), None)).into_iter().collect();
            }
            Place::Deep => {
                let paths = self.expand(&pattern.text);
                return paths.into_iter().map(|path| (path, None)).collect();
            }
            Place::Folder(folder, name) => (vec![folder.clone()], name),
            Place::Folders(folders, name) => (self.expand(folders), name),
        };
        let mut paths = Vec::new();
        for folder in folders {
            let listing =
                listings.entry(folder.clone()).or_insert_with(|| self.list_names(&folder));
            let Some((dev, names)) = listing else { continue };
            for (file, ino) in names {
                if name.matches_with(&file.to_string_lossy(), GLOB) {
                    let inode = ino.map(|ino| Inode { dev: *dev, ino });
                    paths.push((folder.join(file), inode));
                }
            }
        }
        paths
    }

    /// Returns the paths that a pattern leads to, whatever they are, in order.
    ///
    /// Not by the glob crate, which panics where it meets a name that is not UTF-8.
    fn expand(&mut self, pattern: &str) -> Vec<PathBuf> {
        let mut paths = vec![PathBuf::from("/")];
        for component in pattern.split('/').filter(|component| !component.is_empty()) {
            paths = match component {
                "**" => paths.into_iter().flat_map(|path| self.folders_below(path)).collect(),
                _ if component.contains(['*', '?', '[']) => self.expand_name(&paths, component),
                _ => paths.into_iter().map(|path| path.join(component)).collect(),
            };
        }
        paths.retain(|path| fs::symlink_metadata(path).is_ok());
        paths
    }

    fn expand_name(&mut self, folders: &[PathBuf], name: &str) -> Vec<PathBuf> {
        let Ok(pattern) = Pattern::new(name) else {
            return Vec::new();
        };
        let mut paths = Vec::new();
        for folder in folders {
            let names = self.list_names(folder).map(|(_, names)| names).unwrap_or_default();
            let names = names.into_iter().map(|(name, _)| name);
            let matching = names.filter(|name| pattern.matches_with(&name.to_string_lossy(), GLOB));
            paths.extend(matching.map(|name| folder.join(name)));
        }
        paths
    }

    /// Returns a folder and all below it but hidden ones, without following links.
    fn folders_below(&mut self, folder: PathBuf) -> Vec<PathBuf> {
        let mut folders = vec![folder];
        let mut at = 0;
        while at < folders.len() {
            let below = self.expand_name(&folders[at..=at], "*").into_iter();
            folders.extend(
                below.filter(|path| {
                    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
                }),
            );
            at += 1;
        }
        folders
    }

    /// Returns the folder's device and the names in it, in order; `None` where there is none.
    fn list_names(&mut self, folder: &Path) -> Option<(u64, Listing)> {
        match list_names(folder) {
            Ok(listing) => Some(listing),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                None
            }
            Err(error) => {
                self.note_unread(folder, &error);
                None
            }
        }
    }

    fn note_unread(&mut self, path: &Path, error: &io::Error) {
        self.incomplete = true;
        match is_exhausted(error) {
            true => self.exhausted = true,
            false => self.refused.push((path.to_path_buf(), error.to_string())),
        }
    }

    fn look_at(&mut self, path: PathBuf, input: usize, follows: bool) {
        let refused = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                let stat = Stat::from(&metadata);
                self.found.push(Found { path, link: None, input, stat, is_sibling: false });
                return;
            }
            Ok(metadata) if metadata.is_symlink() && follows => match follow(&path) {
                Ok((target, stat)) if stat.is_regular => {
                    let link = Some(path);
                    let found = Found { path: target, link, input, stat, is_sibling: false };
                    return self.found.push(found);
                }
                Ok(_) => "it is a symbolic link to what is not a regular file".into(),
                Err(error) => format!("it is a symbolic link that leads nowhere: {error}"),
            },
            Ok(metadata) if metadata.is_symlink() => {
                "it is a symbolic link; input.follow_symlinks would follow it".into()
            }
            Ok(metadata) if metadata.is_dir() => "it is a folder".into(),
            Ok(_) => "it is not a regular file".into(),
            // Gone between the two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                self.incomplete = true;
                error.to_string()
            }
        };
        self.refused.push((path, refused));
    }
}

fn follow(link: &Path) -> io::Result<(PathBuf, Stat)> {
    let target = fs::canonicalize(link)?;
    let stat = Stat::from(&fs::symlink_metadata(&target)?);
    Ok((target, stat))
}

fn list_names(path: &Path) -> io::Result<(u64, Listing)> {
    let flags = OFlags::DIRECTORY.bits() as i32;
    let folder = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let dev = folder.metadata()?.dev();
    let mut room = Vec::with_capacity(NAMES_BYTES);
    let mut entries = RawDir::new(&folder, room.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let is_file = entry.file_type() == FileType::RegularFile;
            names.push((OsStr::from_bytes(name).into(), is_file.then(|| entry.ino())));
        }
    }
    names.sort_unstable();
    Ok((dev, names))
}

/// Tells whether a pattern leads to the path, as in [`Patterns::scan`].
pub fn matches(pattern: &str, path: &Path) -> bool {
    Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_with(&path.to_string_lossy(), GLOB))
}

/// A pattern without a slash is meant for the file name.
pub fn is_excluded(path: &Path, patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| {
        let Ok(compiled) = Pattern::new(pattern) else {
            return false;
        };
        if pattern.contains('/') {
            compiled.matches_path_with(path, GLOB)
        } else {
            let name = path.file_name().unwrap_or_default();
            compiled.matches_path_with(Path::new(name), GLOB)
        }
    })
}

/// Returns the regular files in a folder, whatever their names: those of one moment, with the names
/// they had then.
///
/// The listing says which file has which name. When it is looked at, the name may be another
/// file's; its own is then looked for in another listing.
/// Errors: the folder cannot be read; then nothing is known about what is in it.
pub fn list(folder: &Path) -> io::Result<Vec<(PathBuf, Stat)>> {
    let mut files = Vec::new();
    let mut renamed: HashMap<u64, OsString> = HashMap::new();
    for (name, ino) in list_names(folder)?.1 {
        let path = folder.join(&name);
        match (stat_of(&path)?, ino) {
            (Some(stat), _) if ino.is_none_or(|ino| ino == stat.inode.ino) => {
                files.push((path, stat));
            }
            (_, Some(ino)) => drop(renamed.insert(ino, name)),
            _ => {}
        }
    }
    for _ in 1..LOOKS_MAX {
        if renamed.is_empty() {
            break;
        }
        let mut missing = HashMap::new();
        for (name, ino) in list_names(folder)?.1 {
            let Some((ino, first)) = ino.and_then(|ino| renamed.remove_entry(&ino)) else {
                continue;
            };
            // Some file systems number files in listings in a way of their own.
            let is_numbered_otherwise = name == first;
            match stat_of(&folder.join(name))? {
                Some(stat) if stat.inode.ino == ino || is_numbered_otherwise => {
                    files.push((folder.join(first), stat));
                }
                _ => drop(missing.insert(ino, first)),
            }
        }
        // The others were deleted.
        renamed = missing;
    }
    Ok(files)
}

/// Tells whether a file that was seen under two names of a folder was renamed in between.
pub fn is_renamed(stat: &Stat, before: &Path, now: &Path) -> bool {
    stat.n_links == 1 && before != now && before.parent() == now.parent()
}

/// Looks at a regular file; `None` where there is none.
fn stat_of(path: &Path) -> io::Result<Option<Stat>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(metadata.is_file().then(|| Stat::from(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the path a file was written under before its rotation: the name without a suffix such
/// as `.2026-01-31-13`, `.1` or `-20260131`, and without `.gz`.
///
/// Source: Kafka's `DatePattern='.'yyyy-MM-dd-HH`; logrotate(8), `start`, `dateext`, `compress`.
pub fn written_under(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let mut end = name.len();
    loop {
        let gzipped = name[..end].strip_suffix(b".gz").filter(|stem| !stem.is_empty());
        match gzipped.map(<[u8]>::len).or_else(|| rotation_suffix(&name[..end])) {
            Some(at) => end = at,
            None => break,
        }
    }
    path.with_file_name(std::ffi::OsStr::from_bytes(&name[..end]))
}

/// Returns a number that is the smaller the older a rotated file is, as far as its name tells:
/// `.2` was written before `.1`. For files whose last writes share a tick of the clock.
pub fn rank(path: &Path) -> i64 {
    let is_gzipped = path.extension().is_some_and(|extension| extension == "gz");
    let path = if is_gzipped { &path.with_extension("") } else { path };
    let extension = path.extension().and_then(|extension| extension.to_str());
    let number = extension.filter(|extension| extension.len() <= 4);
    number.and_then(|number| number.parse::<i64>().ok()).map_or(0, |number| -number)
}

/// Returns where a rotation suffix begins that the name ends in.
fn rotation_suffix(name: &[u8]) -> Option<usize> {
    let is_stamp = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'T' | b':');
    let stamp = name.iter().rev().take_while(|byte| is_stamp(byte)).count();
    // The separator of `-20260131` was counted as part of the stamp.
    let mut at = name.len() - stamp;
    let dotted = at > 1 && name[at - 1] == b'.';
    let dashed = at > 0 && stamp > 0 && name[at] == b'-';
    if !dotted && !dashed {
        return None;
    }
    let digits = name[at..].iter().filter(|byte| byte.is_ascii_digit()).count();
    if dotted {
        at -= 1;
    }
    let is_number = dotted && (1..=4).contains(&digits) && digits == stamp;
    (is_number || (8..=17).contains(&digits)).then_some(at)
}

/// Opens a file for reading, but never a link, and never waits for a FIFO's other end.
pub fn open(path: &Path) -> io::Result<(File, Stat)> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let stat = Stat::of(&file)?;
    if !stat.is_regular {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((file, stat))
}

/// Opens a file that stood under a name, wherever in its folder it stands by now.
///
/// Errors: as [`open`]; not found where no other name leads to it.
pub fn open_renamed(path: &Path, inode: Inode) -> io::Result<(File, Stat)> {
    let mut path = path.to_path_buf();
    for _ in 0..LOOKS_MAX {
        match open(&path) {
            Ok((file, stat)) if stat.inode == inode => return Ok((file, stat)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (_, names) = list_names(path.parent().unwrap_or(Path::new("/")))?;
        match names.into_iter().find(|(_, ino)| *ino == Some(inode.ino)) {
            Some((name, _)) => path.set_file_name(name),
            None => break,
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Files that are never shipped, for shipping them would make them grow.
#[derive(Debug)]
pub struct OwnFiles {
    state_dir: PathBuf,
    /// Where this process's log goes, if to files.
    logs: Vec<Inode>,
}

impl OwnFiles {
    /// Notes where this process writes.
    pub fn new(state_dir: &Path) -> OwnFiles {
        let state_dir = state_dir.canonicalize().unwrap_or_else(|_| state_dir.to_path_buf());
        let streams =
            [io::stdout().as_fd().try_clone_to_owned(), io::stderr().as_fd().try_clone_to_owned()];
        let stats = streams.into_iter().flatten().filter_map(|fd| Stat::of(&File::from(fd)).ok());
        let logs = stats.filter(|stat| stat.is_regular).map(|stat| stat.inode).collect();
        OwnFiles { state_dir, logs }
    }

    /// Returns why a file is not to be shipped.
    pub fn refusal(&self, path: &Path, stat: &Stat) -> Option<&'static str> {
        if self.logs.contains(&stat.inode) {
            return Some("it is this process's own log, which would make itself grow");
        }
        let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
        let is_state = folder.is_some_and(|folder| folder.starts_with(&self.state_dir));
        is_state.then_some("it lies in the state directory, which shipping it would change")
    }
}

/// A notice of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub enum Hint {
    /// Bytes were written to a file of this name.
    Written(PathBuf),
    /// Names came, went or changed.
    Names,
}

/// Notices of changes in watched folders.
pub struct Hints {
    watcher: Option<RecommendedWatcher>,
    /// Folders to watch, whether they are there or not.
    wanted: BTreeSet<PathBuf>,
    /// What each watched path led to when the watch was set.
    watched: HashMap<PathBuf, Inode>,
    /// Some folders give no notices.
    has_gaps: bool,
    /// Where notices arrive.
    pub receiver: Receiver<Hint>,
    missed: Arc<AtomicBool>,
}

/// Notices that may wait; when more come, a full look replaces them.
const HINTS_MAX: usize = 1024;

/// How long the listener does not listen after a file was written to. The kernel makes one notice
/// of those that follow each other for a file and are not taken, so that one that is written to a
/// thousand times a second is not read as often: at 1,000 lines a second this takes two fifths off
/// the CPU of all (`benches/real/codecs`). A writer that was silent is heard at once.
const REST: Duration = Duration::from_millis(4);

/// Notices that the kernel hands over at once are passed on within this time.
const TOGETHER: Duration = Duration::from_micros(200);

impl Hints {
    /// Begins to listen; without inotify the scan alone must do, and that is logged.
    pub fn listen() -> Hints {
        let (sender, receiver) = bounded(HINTS_MAX);
        let missed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&missed);
        let mut rested_at = Instant::now();
        let watcher = notify::recommended_watcher(move |event| {
            let is_written = forward(event, &sender, &flag);
            // One that came together with the last was there before it.
            if is_written && rested_at.elapsed() > TOGETHER {
                thread::sleep(REST);
                rested_at = Instant::now();
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                log::warn!("no notices of file changes, files are looked at in intervals: {error}");
            })
            .ok();
        let has_gaps = watcher.is_none();
        let (wanted, watched) = (BTreeSet::new(), HashMap::new());
        Hints { watcher, wanted, watched, has_gaps, receiver, missed }
    }

    /// Asks for notices of a folder, from the next [`Hints::renew`] on.
    pub fn want(&mut self, folder: &Path) {
        if !self.wanted.contains(folder) {
            self.wanted.insert(folder.to_path_buf());
        }
    }

    /// Watches what is wanted, and in the place of a folder that is not there the nearest one
    /// above it; tells whether a watch was set.
    ///
    /// The kernel watches a folder, not its path: after it was renamed, replaced or mounted over,
    /// the path leads to a folder that is not watched yet.
    pub fn renew(&mut self) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        let mut there: HashMap<PathBuf, Inode> = HashMap::new();
        for wanted in &self.wanted {
            let nearest = wanted.ancestors().find_map(|path| Some((path, inode_of(path)?)));
            there.extend(nearest.map(|(path, inode)| (path.to_path_buf(), inode)));
        }
        self.watched.retain(|path, inode| {
            let is_same = there.get(path) == Some(inode);
            if !is_same {
                // Fails where the kernel has taken the watch away with the folder.
                let _ = watcher.unwatch(path);
            }
            is_same
        });
        let mut is_new = false;
        for (path, inode) in there {
            if self.watched.contains_key(&path) {
                continue;
            }
            is_new = true;
            if let Err(error) = watcher.watch(&path, RecursiveMode::NonRecursive) {
                self.has_gaps = true;
                log::warn!(
                    "no notices of changes in {}, it is looked at in intervals: {error}",
                    path.display()
                );
            }
            self.watched.insert(path, inode);
        }
        is_new
    }

    /// Tells whether notices come from all folders that were to be watched.
    pub fn is_complete(&self) -> bool {
        !self.has_gaps
    }

    /// Tells, once, that notices were lost.
    pub fn take_missed(&self) -> bool {
        self.missed.swap(false, Ordering::Relaxed)
    }
}

/// Runs on the watcher's thread and does nothing but hand over.
/// Passes a notice on; tells whether a file was written to.
fn forward(
    event: notify::Result<notify::Event>,
    sender: &Sender<Hint>,
    missed: &AtomicBool,
) -> bool {
    let Ok(event) = event else {
        missed.store(true, Ordering::Relaxed);
        return false;
    };
    if event.need_rescan() {
        log::info!("the kernel lost notices of file changes: every file is looked at");
        missed.store(true, Ordering::Relaxed);
    }
    let hint = match event.kind {
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => return false,
        EventKind::Modify(ModifyKind::Data(_)) => {
            let Some(path) = event.paths.into_iter().next() else {
                return false;
            };
            Hint::Written(path)
        }
        _ => Hint::Names,
    };
    let is_written = matches!(hint, Hint::Written(_));
    if sender.try_send(hint).is_err() {
        missed.store(true, Ordering::Relaxed);
    }
    is_written
}

fn inode_of(folder: &Path) -> Option<Inode> {
    let metadata = fs::metadata(folder).ok().filter(|metadata| metadata.is_dir())?;
    Some(Stat::from(&metadata).inode)
}

/// Returns the folders to watch for a pattern: the one that holds the files, where it is named
/// without wildcards.
pub fn folder_of(pattern: &str) -> Option<PathBuf> {
    let folder = Path::new(pattern).parent()?;
    let has_wildcard = folder.as_os_str().as_bytes().iter().any(|byte| b"*?[".contains(byte));
    (!has_wildcard).then(|| folder.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_file_is_known_by_the_path_it_was_written_under() {
        let check = |path: &str, expected: &str| {
            assert_eq!(written_under(Path::new(path)), Path::new(expected), "{path}");
        };
        check("/l/server.log", "/l/server.log");
        check("/l/server.log.2026-11-22-23", "/l/server.log");
        check("/l/server.log.1", "/l/server.log");
        check("/l/server.log.2026-11-22.1", "/l/server.log");
        check("/l/server.log-20261122", "/l/server.log");
        check("/l/server.log.1.gz", "/l/server.log");
        check("/l/server.log-20261122.gz", "/l/server.log");
        check("/l/.gz", "/l/.gz");
        check("/l/app-1.log", "/l/app-1.log");
        check("/l/app-1", "/l/app-1");
        check("/l/kafka-2.13", "/l/kafka-2");
        check("/l/.1", "/l/.1");
        check("/l/20261122", "/l/20261122");
    }

    #[test]
    fn of_numbered_files_the_higher_number_is_the_older() {
        let mut names = ["/l/a.log.1", "/l/a.log", "/l/a.log.10", "/l/a.log.2"].map(Path::new);
        names.sort_by_key(|name| rank(name));
        assert_eq!(names, ["/l/a.log.10", "/l/a.log.2", "/l/a.log.1", "/l/a.log"].map(Path::new));
    }

    #[test]
    fn files_that_are_renamed_all_the_time_are_listed_and_opened() {
        const N_FILES: usize = 100;
        let folder = tempfile::tempdir().expect("a folder");
        let path = |n: usize| folder.path().join(format!("a.log.{n}"));
        (0..N_FILES).for_each(|n| fs::write(path(n), "x\n").expect("written"));
        let inodes = |files: Vec<(PathBuf, Stat)>| {
            let mut inodes: Vec<_> = files.iter().map(|(_, stat)| stat.inode.ino).collect();
            inodes.sort_unstable();
            inodes
        };
        let expected = inodes(list(folder.path()).expect("listed"));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    for n in (0..N_FILES).rev() {
                        fs::rename(path(n), path(n + 1)).expect("renamed");
                    }
                    fs::rename(path(N_FILES), path(0)).expect("renamed");
                }
            });
            let look = || {
                let files = list(folder.path())?;
                let (name, stat) = &files[files.len() / 2];
                open_renamed(name, stat.inode)?;
                Ok(inodes(files))
            };
            let looks: io::Result<Vec<_>> = (0..200).map(|_| look()).collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(looks.expect("listed").iter().all(|inodes| *inodes == expected));
        });
    }

    #[test]
    fn only_regular_files_are_found_and_the_others_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a.log"), "x\n").expect("written");
        fs::write(path("b.log.gz"), "x\n").expect("written");
        fs::create_dir(path("c.log")).expect("made");
        std::os::unix::fs::symlink(path("a.log"), path("d.log")).expect("linked");
        rustix::fs::mkfifoat(rustix::fs::CWD, path("e.log"), rustix::fs::Mode::RUSR).expect("made");

        let text = format!(
            "state_dir = \"/s\"\n[kafka]\nbootstrap_servers = [\"b:1\"]\n[[input]]\npaths = [\"{}/*\"]\n\
             exclude = [\"*.gz\"]\ntopic = \"t\"\n",
            folder.path().display()
        );
        let config = crate::config::Config::parse(&text, Path::new("test.toml")).expect("valid");
        let scan = scan(&config.input);
        let found: Vec<_> = scan.found.iter().map(|found| found.path.clone()).collect();
        assert_eq!(found, [path("a.log")]);
        let mut refused: Vec<_> = scan.refused.iter().map(|(path, _)| path.clone()).collect();
        refused.sort();
        assert_eq!(refused, [path("c.log"), path("d.log"), path("e.log")]);
        assert!(open(&path("e.log")).is_err());
        assert!(open(&path("d.log")).is_err());
    }
}
