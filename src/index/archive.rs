//! Documents in local files: newline-delimited JSON, one file a batch and partition.
//!
//! `DIR/TOPIC/PARTITION/FIRST-LAST.ndjson`, or `.ndjson.gz`. The name says which offsets the file
//! answers for, both included, also where only some of their records were meant for the archive.
//! A file is written under a name with a dot before and `.tmp` behind, synced, renamed, and the
//! folder is synced: what bears a proper name is whole.
//!
//! Crash windows. Before the rename a temporary file is left; [`Archive::new`] removes it. After
//! the rename but before the commit the same offsets come again, perhaps cut into other batches;
//! so the files that exist when a partition is assigned are looked at once, and the offsets that
//! they answer for are not written again. A file of a half-known batch is named by the first and
//! the last offset that were missing.
//!
//! What it cannot tell: a topic that was deleted and made again under the same name starts over
//! at offset 0, where the old topic's files already answer for its records. They must be moved
//! away first.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::config::ArchiveConfig;
use crate::record::{SourceId, Span};

/// Bytes gathered before they go to the file.
const BUFFER_BYTES: usize = 64 * 1024;

/// What became of the documents of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    /// Documents that are on disk now.
    pub written: u64,
    /// Documents that an earlier file holds already.
    pub duplicates: u64,
}

/// The archive; clones of one serve several workers.
#[derive(Debug, Clone)]
pub struct Archive {
    dir: PathBuf,
    gzip: bool,
    /// By topic and partition: bounded by those, however often they are assigned.
    known: HashMap<(String, i32), Known>,
}

/// What was on disk when a partition was assigned.
#[derive(Debug, Clone)]
struct Known {
    source: SourceId,
    /// Ranges that end before this offset were left out: no record below it is to come.
    from: u64,
    /// First and last offset of each file.
    ranges: Vec<(u64, u64)>,
}

impl Archive {
    /// Makes the folder if it is missing, and removes what a crash left half written.
    ///
    /// To be called once, before any worker writes: it would remove their files. Errors: the
    /// folder cannot be made or read.
    pub fn new(config: &ArchiveConfig) -> io::Result<Archive> {
        make_dir(&config.dir)?;
        for topic in dirs(&config.dir)? {
            for partition in dirs(&topic)? {
                for name in names(&partition)? {
                    if name.starts_with('.') && name.ends_with(".tmp") {
                        fs::remove_file(partition.join(name))?;
                    }
                }
            }
        }
        Ok(Archive { dir: config.dir.clone(), gzip: config.gzip, known: HashMap::new() })
    }

    /// Stores `documents`: those records of the batch's ground in a partition that are meant for
    /// the archive, each with its offset and without a line end.
    ///
    /// Returns once they are safe on disk. Without documents to write there is no file. The
    /// ground of one assignment ascends from call to call of a clone, and none of it comes twice,
    /// but for a call that failed.
    ///
    /// Errors: the disk is full, or the folder not writable. Nothing bears a proper name then
    /// that is not whole, and the same call may be made again.
    pub fn store<'a>(
        &mut self,
        topic: &str,
        partition: i32,
        ground: Span,
        documents: impl IntoIterator<Item = (u64, &'a [u8]), IntoIter: Clone>,
    ) -> io::Result<Stored> {
        let documents = documents.into_iter();
        if documents.clone().next().is_none() {
            return Ok(Stored::default());
        }
        let gzip = self.gzip;
        let dir = self.partition_dir(topic, partition)?;
        let known = self.known(topic, partition, ground, &dir)?;
        let is_missing = |&(offset, _): &(u64, &[u8])| {
            !known.iter().any(|&(first, last)| (first..=last).contains(&offset))
        };
        let n_documents = documents.clone().count() as u64;
        let missing = documents.filter(is_missing);
        let written = missing.clone().count() as u64;
        if written > 0 {
            let (first, last) = trim(ground.start, ground.end - 1, known);
            let result = write_file(&dir, first, last, gzip, missing);
            if result.is_err() {
                // The next call makes the folder again if it has gone, and looks anew.
                self.known.remove(&(topic.to_owned(), partition));
            }
            result?;
        }
        Ok(Stored { written, duplicates: n_documents - written })
    }

    fn partition_dir(&self, topic: &str, partition: i32) -> io::Result<PathBuf> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if topic.is_empty() || topic == "." || topic == ".." || !topic.bytes().all(safe) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{topic:?} is no topic name"),
            ));
        }
        Ok(self.dir.join(topic).join(partition.to_string()))
    }

    /// Returns the ranges on disk, as they were when the partition was assigned.
    fn known(
        &mut self,
        topic: &str,
        partition: i32,
        ground: Span,
        dir: &Path,
    ) -> io::Result<&[(u64, u64)]> {
        let Span { source, start, .. } = ground;
        let key = (topic.to_owned(), partition);
        let fresh = |known: &Known| known.source == source && known.from <= start;
        if !self.known.get(&key).is_some_and(fresh) {
            make_dir(dir)?;
            // What is found must be there to stay: a crash may have come before its sync.
            sync_dir(dir)?;
            let mut ranges = Vec::new();
            for name in names(dir)? {
                ranges.extend(parse_name(&name).filter(|&(_, last)| last >= start));
            }
            ranges.sort_unstable();
            let known = Known { source, from: start, ranges };
            self.known.insert(key.clone(), known);
        }
        Ok(&self.known[&key].ranges)
    }
}

fn write_file<'a>(
    dir: &Path,
    first: u64,
    last: u64,
    gzip: bool,
    documents: impl Iterator<Item = (u64, &'a [u8])>,
) -> io::Result<()> {
    let extension = if gzip { "ndjson.gz" } else { "ndjson" };
    let name = format!("{first:020}-{last:020}.{extension}");
    let temporary = dir.join(format!(".{name}.tmp"));
    let result = write_lines(&temporary, gzip, documents)
        .and_then(|()| fs::rename(&temporary, dir.join(name)))
        .and_then(|()| sync_dir(dir));
    if result.is_err() {
        // It may hold the last free bytes of the disk. If it is gone or stays, no matter.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn write_lines<'a>(
    path: &Path,
    gzip: bool,
    documents: impl Iterator<Item = (u64, &'a [u8])>,
) -> io::Result<()> {
    let file = BufWriter::with_capacity(BUFFER_BYTES, File::create(path)?);
    let file = if gzip {
        let mut encoder = GzEncoder::new(file, Compression::default());
        append_lines(&mut encoder, documents)?;
        encoder.finish()?
    } else {
        let mut file = file;
        append_lines(&mut file, documents)?;
        file
    };
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()
}

fn append_lines<'a>(
    file: &mut impl Write,
    documents: impl Iterator<Item = (u64, &'a [u8])>,
) -> io::Result<()> {
    for (_, document) in documents {
        file.write_all(document)?;
        file.write_all(b"\n")?;
    }
    Ok(())
}

/// Takes from both ends of `first..=last` what `known`, which ascends, answers for already.
///
/// Something of it is left, for a document in it was missing.
fn trim(mut first: u64, mut last: u64, known: &[(u64, u64)]) -> (u64, u64) {
    for &(known_first, known_last) in known {
        if (known_first..=known_last).contains(&first) {
            first = known_last.saturating_add(1);
        }
    }
    // From behind, the range that ends last must come first.
    let mut known = known.to_vec();
    known.sort_unstable_by_key(|&(_, known_last)| std::cmp::Reverse(known_last));
    for (known_first, known_last) in known {
        if (known_first..=known_last).contains(&last) {
            last = known_first.saturating_sub(1);
        }
    }
    (first, last)
}

/// Returns the first and the last offset that a file of this name answers for.
fn parse_name(name: &str) -> Option<(u64, u64)> {
    let range = name.strip_suffix(".ndjson.gz").or_else(|| name.strip_suffix(".ndjson"))?;
    let (first, last) = range.split_once('-')?;
    let offset = |digits: &str| {
        let proper = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
        proper.then(|| digits.parse().ok()).flatten()
    };
    Some((offset(first)?, offset(last)?))
}

/// Makes a folder and those above it, and sees to it that they survive a power cut.
fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_dir(parent)?;
        match fs::create_dir(dir) {
            // Another worker may have been first.
            Err(problem) if problem.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            result => result?,
        }
        sync_dir(parent)?;
    }
    Ok(())
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn dirs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            dirs.push(entry.path());
        }
    }
    Ok(dirs)
}

/// Names that are no UTF-8 are not ours.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::MultiGzDecoder;
    use tempfile::TempDir;

    use super::*;

    fn open(dir: &Path, gzip: bool) -> Archive {
        Archive::new(&ArchiveConfig { dir: dir.to_owned(), gzip }).unwrap()
    }

    /// Stores the offsets of `archived`, each as a document that names it.
    fn store(
        archive: &mut Archive,
        source: u32,
        ground: (u64, u64),
        archived: impl IntoIterator<Item = u64>,
    ) -> io::Result<Stored> {
        let documents: Vec<(u64, Vec<u8>)> = archived
            .into_iter()
            .map(|offset| (offset, format!("{{\"n\":{offset}}}").into_bytes()))
            .collect();
        let documents = documents.iter().map(|(n, bytes)| (*n, bytes.as_slice()));
        let ground = Span::new(SourceId(source), ground.0, ground.1 + 1);
        archive.store("logs", 3, ground, documents)
    }

    fn partition(dir: &TempDir) -> PathBuf {
        dir.path().join("logs/3")
    }

    fn range(first: u64, last: u64, extension: &str) -> String {
        format!("{first:020}-{last:020}.{extension}")
    }

    fn names_in(dir: &Path) -> Vec<String> {
        let mut names = names(dir).unwrap();
        names.sort_unstable();
        names
    }

    /// The offsets on disk, in the order of the files.
    fn offsets(dir: &TempDir) -> Vec<u64> {
        let mut offsets = Vec::new();
        for name in names_in(&partition(dir)) {
            let bytes = fs::read(partition(dir).join(&name)).unwrap();
            let mut text = String::new();
            if name.ends_with(".gz") {
                MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
            } else {
                text = String::from_utf8(bytes).unwrap();
            }
            assert!(text.ends_with('\n'), "{name} ends in the middle of a line");
            offsets.extend(text.lines().map(|line| {
                let digits = line.strip_prefix("{\"n\":").unwrap();
                digits.strip_suffix('}').unwrap().parse::<u64>().unwrap()
            }));
        }
        offsets
    }

    #[test]
    fn documents_are_read_back_from_a_file_named_by_its_ground() {
        for (gzip, extension) in [(false, "ndjson"), (true, "ndjson.gz")] {
            let dir = TempDir::new().unwrap();
            let mut archive = open(dir.path(), gzip);

            let stored = store(&mut archive, 1, (10, 19), [11, 12, 17]).unwrap();

            assert_eq!((stored.written, stored.duplicates), (3, 0));
            assert_eq!(names_in(&partition(&dir)), [range(10, 19, extension)]);
            assert_eq!(offsets(&dir), [11, 12, 17]);
        }
    }

    #[test]
    fn a_batch_without_archived_records_writes_no_file() {
        let dir = TempDir::new().unwrap();
        let mut archive = open(dir.path(), false);
        assert_eq!(store(&mut archive, 1, (0, 9), []).unwrap(), Stored::default());
        assert_eq!(names_in(dir.path()), [""; 0]);
    }

    #[test]
    fn what_was_renamed_but_not_committed_is_not_written_again() {
        // Files of before the crash; ground of the repeat; its file; its duplicates.
        #[expect(clippy::type_complexity)]
        let cuts: [(&[(u64, u64)], (u64, u64), Option<(u64, u64)>, u64); 8] = [
            (&[(0, 9)], (0, 9), None, 10),
            (&[(0, 9)], (0, 4), None, 5),
            (&[(0, 9)], (5, 14), Some((10, 14)), 5),
            (&[(5, 9)], (0, 9), Some((0, 4)), 5),
            (&[(3, 5)], (0, 9), Some((0, 9)), 3),
            (&[(0, 1), (2, 3), (8, 9)], (0, 9), Some((4, 7)), 6),
            (&[(0, 3), (2, 5)], (0, 9), Some((6, 9)), 6),
            (&[(0, 9)], (10, 19), Some((10, 19)), 0),
        ];
        for (before, ground, file, duplicates) in cuts {
            let dir = TempDir::new().unwrap();
            let mut archive = open(dir.path(), false);
            for (n, &(first, last)) in before.iter().enumerate() {
                store(&mut archive, n as u32, (first, last), first..=last).unwrap();
            }
            let files_before = names_in(&partition(&dir));

            let mut archive = open(dir.path(), false);
            let stored = store(&mut archive, 9, ground, ground.0..=ground.1).unwrap();

            assert_eq!(stored.duplicates, duplicates, "{before:?} {ground:?}");
            assert_eq!(stored.written, ground.1 + 1 - ground.0 - duplicates);
            let mut files = names_in(&partition(&dir));
            files.retain(|name| !files_before.contains(name));
            let expected: Vec<String> =
                file.iter().map(|&(first, last)| range(first, last, "ndjson")).collect();
            assert_eq!(files, expected, "{before:?} {ground:?}");
            let mut on_disk = offsets(&dir);
            on_disk.sort_unstable();
            let mut once = on_disk.clone();
            once.dedup();
            assert_eq!(on_disk, once, "no offset stands twice: {before:?} {ground:?}");
        }
    }

    #[test]
    fn a_change_of_compression_does_not_repeat_what_is_there() {
        let dir = TempDir::new().unwrap();
        store(&mut open(dir.path(), false), 1, (0, 9), 0..=9).unwrap();
        let stored = store(&mut open(dir.path(), true), 2, (0, 11), 0..=11).unwrap();
        assert_eq!((stored.written, stored.duplicates), (2, 10));
        assert_eq!(offsets(&dir), (0..=11).collect::<Vec<u64>>());
    }

    #[test]
    fn a_later_assignment_sees_the_files_of_an_earlier_one() {
        let dir = TempDir::new().unwrap();
        let mut archive = open(dir.path(), false);
        store(&mut archive, 1, (0, 9), 0..=9).unwrap();
        let stored = store(&mut archive, 2, (5, 14), 5..=14).unwrap();
        assert_eq!((stored.written, stored.duplicates), (5, 5));
    }

    #[test]
    fn half_written_files_of_a_crash_are_removed_and_never_trusted() {
        let dir = TempDir::new().unwrap();
        store(&mut open(dir.path(), false), 1, (0, 9), 0..=9).unwrap();
        let left = partition(&dir).join(format!(".{}.tmp", range(10, 19, "ndjson")));
        fs::write(&left, "{\"n\":10}\n{\"n\":1").unwrap();

        let mut archive = open(dir.path(), false);
        let stored = store(&mut archive, 2, (10, 19), 10..=19).unwrap();

        assert_eq!((stored.written, stored.duplicates), (10, 0));
        assert_eq!(names_in(&partition(&dir)), [range(0, 9, "ndjson"), range(10, 19, "ndjson")]);
        assert_eq!(offsets(&dir), (0..=19).collect::<Vec<u64>>());
    }

    #[test]
    fn a_call_that_failed_can_be_made_again() {
        let dir = TempDir::new().unwrap();
        let mut archive = open(dir.path(), false);
        // A file stands where the folder of the topic should be.
        fs::write(dir.path().join("logs"), "").unwrap();
        assert!(store(&mut archive, 1, (0, 9), 0..=9).is_err());
        fs::remove_file(dir.path().join("logs")).unwrap();
        assert_eq!(store(&mut archive, 1, (0, 9), 0..=9).unwrap().written, 10);

        // A folder stands where the file should be: the rename fails.
        let blocker = partition(&dir).join(range(10, 19, "ndjson"));
        fs::create_dir(&blocker).unwrap();
        assert!(store(&mut archive, 1, (10, 19), 10..=19).is_err());
        fs::remove_dir(&blocker).unwrap();
        assert_eq!(names_in(&partition(&dir)), [range(0, 9, "ndjson")]);
        assert_eq!(store(&mut archive, 1, (10, 19), 10..=19).unwrap().written, 10);

        // The folder vanished under a running archive.
        fs::remove_dir_all(dir.path().join("logs")).unwrap();
        assert!(store(&mut archive, 1, (20, 29), 20..=29).is_err());
        assert_eq!(store(&mut archive, 1, (20, 29), 20..=29).unwrap().written, 10);
    }

    #[test]
    fn a_missing_folder_is_made_and_an_impossible_one_reported() {
        let dir = TempDir::new().unwrap();
        let deep = dir.path().join("a/b/c");
        open(&deep, false);
        assert!(deep.is_dir());

        fs::write(dir.path().join("file"), "").unwrap();
        let config = ArchiveConfig { dir: dir.path().join("file/archive"), gzip: false };
        assert!(Archive::new(&config).is_err());
    }

    #[test]
    fn a_topic_cannot_leave_the_folder() {
        let dir = TempDir::new().unwrap();
        let mut archive = open(dir.path(), false);
        for topic in ["", ".", "..", "a/b", "../x", "a\0b", "ä"] {
            let ground = Span::new(SourceId(1), 0, 1);
            let stored = archive.store(topic, 0, ground, [(0, &b"{}"[..])]);
            assert!(stored.is_err(), "{topic:?}");
        }
        assert_eq!(names_in(dir.path()), [""; 0]);
    }

    #[test]
    fn only_proper_names_answer_for_offsets() {
        let proper = range(0, u64::MAX, "ndjson");
        assert_eq!(parse_name(&proper), Some((0, u64::MAX)));
        for name in [
            "0-9.ndjson",
            "00000000000000000000-00000000000000000009.ndjson.bz2",
            ".00000000000000000000-00000000000000000009.ndjson.tmp",
            "+0000000000000000000-00000000000000000009.ndjson",
            "00000000000000000000_00000000000000000009.ndjson",
            "99999999999999999999-99999999999999999999.ndjson",
        ] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
