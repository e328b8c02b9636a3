//! Gzip'd files, as if they were not: bytes at decompressed offsets.
//!
//! A file may have several members, one after the other. Nothing tells where in the compressed
//! bytes an offset lies, so going on at one means to decompress everything before it once more, in
//! bounded memory; reading on from there costs nothing twice. Where the compressed bytes end too
//! early or are not what they should be, the decompressed ones end, and the problem is kept.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

use super::fingerprint::{Checksum, GUARD_BYTES_MAX, HEAD_BYTES_MAX, read_range};

/// Bytes of a step over what is not wanted, and of a compressed read.
const STEP_BYTES: usize = 64 * 1024;

/// What the first bytes of every member are: the magic number, and deflate as the method.
///
/// Source: RFC 1952, 2.3.1.
const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// Tells whether a file holds gzip'd bytes.
pub fn is_gzipped(file: &File) -> io::Result<bool> {
    Ok(read_range(file, 0, MAGIC.len() as u64)? == MAGIC)
}

/// Returns the first decompressed bytes of a gzip'd file, as many as a head has.
///
/// Errors: the file cannot be read.
pub fn head_of(file: File) -> io::Result<Head> {
    let mut reader = GzipReader::new(file);
    let mut head = vec![0; HEAD_BYTES_MAX as usize];
    let mut n = 0;
    loop {
        match reader.read(&mut head[n..])? {
            0 => break,
            more => n += more,
        }
    }
    head.truncate(n);
    Ok(Head(head))
}

/// The first decompressed bytes of a file.
#[derive(Debug, Default)]
pub struct Head(Vec<u8>);

impl Head {
    /// Returns their checksum.
    pub fn checksum(&self) -> Checksum {
        Checksum::of(&self.0)
    }

    /// Tells whether they begin with the bytes of a checksum.
    pub fn begins_with(&self, head: &Checksum) -> bool {
        self.0.get(..head.len as usize).is_some_and(|bytes| Checksum::of(bytes) == *head)
    }
}

/// Why the decompressed bytes end where they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The compressed bytes end within a member: it is still being written, or was cut.
    Cut,
    /// They are not gzip'd bytes.
    Damaged(String),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Cut => f.write_str("its compressed bytes end too early"),
            Problem::Damaged(problem) => write!(f, "it is damaged: {problem}"),
        }
    }
}

/// Gives the decompressed bytes of one file.
#[derive(Debug)]
pub struct GzipReader {
    file: Rc<File>,
    decoder: MultiGzDecoder<BufReader<Compressed>>,
    /// What the decoder gives next.
    offset: u64,
    problem: Option<Problem>,
}

/// A file read from its start, whatever others do with its descriptor.
#[derive(Debug)]
struct Compressed {
    file: Rc<File>,
    offset: u64,
}

impl Read for Compressed {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(room, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

fn decoder(file: &Rc<File>) -> MultiGzDecoder<BufReader<Compressed>> {
    let compressed = Compressed { file: Rc::clone(file), offset: 0 };
    MultiGzDecoder::new(BufReader::with_capacity(STEP_BYTES, compressed))
}

impl GzipReader {
    /// Returns a reader of a gzip'd file.
    pub fn new(file: File) -> GzipReader {
        let file = Rc::new(file);
        GzipReader { decoder: decoder(&file), file, offset: 0, problem: None }
    }

    /// The compressed file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Begins anew, for the file has changed.
    pub fn restart(&mut self) {
        self.decoder = decoder(&self.file);
        self.offset = 0;
        self.problem = None;
    }

    /// Reads some bytes from a decompressed offset on; 0 at their end.
    ///
    /// Errors: the file cannot be read. What cannot be decompressed is no error, but the end.
    pub fn read_at(&mut self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset < self.offset {
            self.restart();
        }
        let mut step = Vec::new();
        while self.offset < offset {
            step.resize((offset - self.offset).min(STEP_BYTES as u64) as usize, 0);
            if self.read(&mut step)? == 0 {
                return Ok(0);
            }
        }
        self.read(room)
    }

    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.problem.is_some() {
            return Ok(0);
        }
        let problem = match self.decoder.read(room) {
            Ok(n) => {
                self.offset += n as u64;
                return Ok(n);
            }
            Err(error) if error.raw_os_error().is_some() => return Err(error),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Problem::Cut,
            Err(error) => Problem::Damaged(error.to_string()),
        };
        self.problem = Some(problem);
        Ok(0)
    }
}

/// What a gzip'd file holds, found by decompressing it once.
#[derive(Debug)]
pub struct Survey {
    /// Its first bytes.
    pub head: Head,
    /// Decompressed bytes, as far as it can be decompressed.
    pub len: u64,
    /// Why they end there, if it is not the end.
    pub problem: Option<Problem>,
    /// The bytes before each offset that was asked for.
    guards: Vec<(u64, Checksum)>,
}

impl Survey {
    /// Decompresses a file to its end, in bounded memory; `offsets` are those that will be asked
    /// for.
    ///
    /// Errors: the file cannot be read.
    pub fn of(file: File, mut offsets: Vec<u64>) -> io::Result<Survey> {
        offsets.sort_unstable();
        offsets.dedup();
        let mut offsets = offsets.into_iter().peekable();
        let mut reader = GzipReader::new(file);
        let (mut head, mut guards) = (Vec::new(), Vec::new());
        // The last bytes of the step before, then those of this step.
        let mut window: Vec<u8> = Vec::new();
        let mut step = vec![0; STEP_BYTES];
        loop {
            let n = reader.read(&mut step)?;
            let n_head = (HEAD_BYTES_MAX as usize - head.len()).min(n);
            head.extend_from_slice(&step[..n_head]);
            window.extend_from_slice(&step[..n]);
            let window_start = reader.offset - window.len() as u64;
            while let Some(offset) = offsets.next_if(|offset| *offset <= reader.offset) {
                let end = (offset - window_start) as usize;
                let start = end.saturating_sub(GUARD_BYTES_MAX);
                guards.push((offset, Checksum::of(&window[start..end])));
            }
            if n == 0 {
                break;
            }
            window.drain(..window.len().saturating_sub(GUARD_BYTES_MAX));
        }
        Ok(Survey { head: Head(head), len: reader.offset, problem: reader.problem, guards })
    }

    /// Tells whether the bytes before `offset`, which was asked for, are those of a checksum.
    pub fn has_guard(&self, offset: u64, guard: &Checksum) -> bool {
        self.guards.contains(&(offset, *guard))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("written");
        encoder.finish().expect("finished")
    }

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("written");
        file
    }

    fn numbers(n: u32) -> Vec<u8> {
        (0..n).flat_map(|n| format!("line {n}\n").into_bytes()).collect()
    }

    fn read_all(reader: &mut GzipReader, mut offset: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut room = [0; 1000];
        loop {
            let n = reader.read_at(&mut room, offset).expect("read");
            if n == 0 {
                return bytes;
            }
            bytes.extend_from_slice(&room[..n]);
            offset += n as u64;
        }
    }

    #[test]
    fn members_follow_each_other_and_any_offset_can_be_read_again() {
        let bytes = numbers(50_000);
        let (first, second) = bytes.split_at(123_457);
        let file = file_of(&[gzipped(first), gzipped(b""), gzipped(second)].concat());
        assert!(is_gzipped(&file).expect("read"));
        let mut reader = GzipReader::new(file);
        for offset in [0, 200_000, 123_457, 1, bytes.len()] {
            assert!(read_all(&mut reader, offset as u64) == bytes[offset..], "{offset}");
            assert_eq!(reader.problem, None);
        }
        assert_eq!(read_all(&mut reader, bytes.len() as u64 + 1), b"");
    }

    #[test]
    fn what_stands_before_a_cut_or_damage_is_read_and_the_problem_is_known() {
        let bytes = numbers(50_000);
        let whole = gzipped(&bytes);
        let cut = |n: usize| whole[..n].to_vec();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0xff;
        let trailing = [&whole[..], b"not gzip'd"].concat();
        for (damaged, is_cut) in [
            (cut(whole.len() / 2), true),
            (cut(whole.len() - 1), true),
            (cut(5), true),
            (flipped, false),
            (trailing, false),
        ] {
            let survey = Survey::of(file_of(&damaged), Vec::new()).expect("read");
            let problem = survey.problem.expect("a problem");
            assert_eq!(problem == Problem::Cut, is_cut, "{problem:?}");
            let read = read_all(&mut GzipReader::new(file_of(&damaged)), 0);
            assert_eq!(read.len() as u64, survey.len);
            // What is decompressed behind damage may be wrong until the checksum tells.
            assert!(!is_cut || bytes.starts_with(&read));
        }
    }

    #[test]
    fn a_survey_knows_head_length_and_guards() {
        let bytes = numbers(50_000);
        let offsets = [0u64, 1, 64, 65, 65_536, 65_540, 131_072, bytes.len() as u64];
        let asked = [&offsets[..], &[bytes.len() as u64 + 1]].concat();
        let survey = Survey::of(file_of(&gzipped(&bytes)), asked).expect("read");
        assert_eq!((survey.len, survey.problem.clone()), (bytes.len() as u64, None));
        assert!(survey.head.begins_with(&Checksum::of(&bytes[..1024])));
        assert!(survey.head.begins_with(&Checksum::of(&bytes[..10])));
        assert!(!survey.head.begins_with(&Checksum::of(&bytes[1..10])));
        for offset in offsets {
            let end = offset as usize;
            let guard = Checksum::of(&bytes[end.saturating_sub(64)..end]);
            assert!(survey.has_guard(offset, &guard), "{offset}");
        }
        assert!(!survey.has_guard(bytes.len() as u64 + 1, &Checksum::default()));
    }
}
