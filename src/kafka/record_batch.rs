//! A batch's arena -> RecordBatch v2 bytes, compressed, checksummed.
//!
//! Records are encoded once, by [`RecordArena::push`], in the form in which a RecordBatch holds
//! them. What is left per batch is the codec, the header and the checksum:
//!
//! ```text
//! baseOffset i64 | batchLength i32 | partitionLeaderEpoch i32 | magic i8 = 2 | crc u32
//! | attributes i16 | lastOffsetDelta i32 | baseTimestamp i64 | maxTimestamp i64
//! | producerId i64 | producerEpoch i16 | baseSequence i32 | recordCount i32 | records
//! ```
//!
//! Big-endian; `batchLength` counts what comes after it, `crc` is the CRC-32C of what comes after
//! it, and the records alone are compressed. A record, its numbers zigzag varints:
//!
//! ```text
//! length | attributes i8 = 0 | timestampDelta | offsetDelta | keyLength or -1, key
//! | valueLength, value | headerCount | (nameLength, name, valueLength, value)*
//! ```
//!
//! An arena keeps room for the header in front of its records, so that an uncompressed batch is
//! the arena's own buffer and nothing is copied.

use std::io::{Cursor, Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::{Compress, FlushCompress, Status};
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::config::Compression;

/// Bytes of a RecordBatch before its records.
pub const HEADER_LEN: usize = 61;
/// Where `crc` stands; what it covers begins 4 bytes on.
const CRC_AT: usize = 17;
/// Where the producer id stands; epoch and base sequence follow it.
const PRODUCER_AT: usize = 43;
/// The longest a varint of 64 bits can be.
const VARINT_LEN_MAX: usize = 10;

/// Uncompressed bytes of one LZ4 block.
///
/// 64 KiB: of broker logs it makes 14.5 % at 1,690 MB/s, blocks of 1 MiB 13.2 % at 1,410 MB/s. The
/// host's processor is dearer than its wire.
const LZ4_BLOCK_LEN: usize = 64 * 1024;
/// Frame header: magic; version 1, independent blocks, no checksums; blocks of at most 64 KiB;
/// checksum of the header.
const LZ4_FRAME_HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
/// Set in the length of a block that is stored as it is.
const LZ4_BLOCK_STORED: u32 = 1 << 31;

/// Uncompressed bytes of one Snappy block: the Java client's.
const SNAPPY_BLOCK_LEN: usize = 32 * 1024;
/// Header of the xerial framing: magic, version 1, compatible with 1.
const SNAPPY_STREAM_HEADER: [u8; 16] =
    [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];

/// Records of one partition, encoded as in a RecordBatch v2 but uncompressed.
#[derive(Debug, Clone, Default)]
pub struct RecordArena {
    /// Empty, or room for the header of a RecordBatch and the records behind it.
    bytes: Vec<u8>,
    count: u32,
    /// Timestamp of the first record; the others are deltas to it.
    base_timestamp: i64,
    max_timestamp: i64,
}

/// Headers already encoded with [`put_header`]: `fixed` once per file, `varying` per record, two
/// slices so that neither is copied together first.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a> {
    /// How many there are in both.
    pub count: u32,
    /// Those that come first.
    pub fixed: &'a [u8],
    /// Those that come after.
    pub varying: &'a [u8],
}

/// A record in an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Unit: milliseconds since 1970.
    pub timestamp_ms: i64,
    /// What its partition follows from.
    pub key: Option<&'a [u8]>,
    /// The event.
    pub value: &'a [u8],
    /// How many headers `header_bytes` holds.
    pub n_headers: u32,
    /// The headers, encoded.
    pub header_bytes: &'a [u8],
}

impl RecordArena {
    /// Returns an empty arena with room for `bytes` of encoded records.
    pub fn with_capacity(bytes: usize) -> RecordArena {
        RecordArena::in_buffer(Vec::with_capacity(HEADER_LEN + bytes))
    }

    fn in_buffer(mut bytes: Vec<u8>) -> RecordArena {
        bytes.clear();
        RecordArena { bytes, ..RecordArena::default() }
    }

    /// Appends a record.
    ///
    /// Called for every line: it allocates nothing but the buffer's growth.
    pub fn push(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: &[u8],
        headers: Headers<'_>,
    ) {
        if self.count == 0 {
            self.bytes.clear();
            self.bytes.resize(HEADER_LEN, 0);
            self.base_timestamp = timestamp_ms;
            self.max_timestamp = timestamp_ms;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);

        // Everything between `length` and the key, to know its length before `length` is written.
        let mut head = [0; 1 + 3 * VARINT_LEN_MAX];
        let mut head_len = 1; // Attributes: none are defined.
        let timestamp_delta = timestamp_ms.wrapping_sub(self.base_timestamp);
        head_len += write_varint(&mut head[head_len..], timestamp_delta);
        head_len += write_varint(&mut head[head_len..], i64::from(self.count));
        let key_len = key.map_or(-1, |key| key.len() as i64);
        head_len += write_varint(&mut head[head_len..], key_len);
        let key = key.unwrap_or_default();

        let mut value_len = [0; VARINT_LEN_MAX];
        let value_len_len = write_varint(&mut value_len, value.len() as i64);
        let mut n_headers = [0; VARINT_LEN_MAX];
        let n_headers_len = write_varint(&mut n_headers, i64::from(headers.count));

        let len = head_len
            + key.len()
            + value_len_len
            + value.len()
            + n_headers_len
            + headers.fixed.len()
            + headers.varying.len();
        let mut length = [0; VARINT_LEN_MAX];
        let length_len = write_varint(&mut length, len as i64);

        let bytes = &mut self.bytes;
        bytes.reserve(length_len + len);
        bytes.extend_from_slice(&length[..length_len]);
        bytes.extend_from_slice(&head[..head_len]);
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&value_len[..value_len_len]);
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(&n_headers[..n_headers_len]);
        bytes.extend_from_slice(headers.fixed);
        bytes.extend_from_slice(headers.varying);
        self.count += 1;
    }

    /// Returns the bytes of its encoded records.
    pub fn len(&self) -> usize {
        self.records().len()
    }

    /// Returns the number of its records.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Forgets the records and keeps the buffer.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// Walks the records in order.
    pub fn iter(&self) -> impl Iterator<Item = RecordRef<'_>> {
        let mut rest = self.records();
        // Ends early only if the bytes are not what `push` or a broker's client wrote.
        std::iter::from_fn(move || read_record(&mut rest, self.base_timestamp))
    }

    fn records(&self) -> &[u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }
}

impl<'a> RecordRef<'a> {
    /// Walks the headers: names and values.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let mut rest = self.header_bytes;
        std::iter::from_fn(move || {
            let name = std::str::from_utf8(read_bytes(&mut rest)??).ok()?;
            let value = read_bytes(&mut rest)?.unwrap_or_default();
            Some((name, value))
        })
    }
}

/// Appends a header to `out` as it stands in a record.
pub fn put_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for bytes in [name.as_bytes(), value] {
        let mut len = [0; VARINT_LEN_MAX];
        let len_len = write_varint(&mut len, bytes.len() as i64);
        out.extend_from_slice(&len[..len_len]);
        out.extend_from_slice(bytes);
    }
}

/// Returns the time of now for a record: milliseconds since 1970.
pub fn now_ms() -> i64 {
    let age = SystemTime::now().duration_since(UNIX_EPOCH);
    age.map_or(0, |age| age.as_millis() as i64)
}

/// In whose name and with which sequence number a batch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Who the producer is to the broker.
    pub producer_id: i64,
    /// How often that producer began anew.
    pub epoch: i16,
    /// Sequence number of the first record; the others count on from it.
    pub base_sequence: i32,
}

/// Returns the sequence number that follows a batch of so many records: they wrap from 2^31-1 to
/// 0.
pub fn sequence_after(base_sequence: i32, n_records: u32) -> i32 {
    ((base_sequence as u32).wrapping_add(n_records) & 0x7fff_ffff) as i32
}

/// A RecordBatch, ready to be sent once it is stamped.
#[derive(Debug, Clone, Default)]
pub struct EncodedBatch {
    bytes: Vec<u8>,
}

impl EncodedBatch {
    /// The whole RecordBatch.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes in whose name and with which sequence number it goes, and the checksum.
    pub(super) fn stamp(&mut self, stamp: Stamp) {
        let bytes = &mut self.bytes[PRODUCER_AT..];
        bytes[..8].copy_from_slice(&stamp.producer_id.to_be_bytes());
        bytes[8..10].copy_from_slice(&stamp.epoch.to_be_bytes());
        bytes[10..14].copy_from_slice(&stamp.base_sequence.to_be_bytes());
        let crc = crc32c::crc32c(&self.bytes[CRC_AT + 4..]);
        self.bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    }

    /// Returns the records again, uncompressed.
    ///
    /// Errors: `Undecodable` if the codec fails, which for a batch of our own means broken memory.
    pub(super) fn decode(&self) -> Result<RecordArena, Error> {
        decode(&self.bytes)
    }
}

/// Returns the records of one RecordBatch v2, uncompressed.
///
/// Errors: `Undecodable`; neither checksum nor records are looked at, only header and codec.
pub(super) fn decode(batch: &[u8]) -> Result<RecordArena, Error> {
    let broken = || Error::Undecodable("record batch");
    let (header, records) = batch.split_at_checked(HEADER_LEN).ok_or_else(broken)?;
    let number = |at: usize| i32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes"));
    let long = |at: usize| i64::from_be_bytes(header[at..at + 8].try_into().expect("8 bytes"));
    let mut bytes = vec![0; HEADER_LEN];
    match header[22] & 7 {
        0 => bytes.extend_from_slice(records),
        1 => {
            flate2::read::MultiGzDecoder::new(records)
                .read_to_end(&mut bytes)
                .map_err(|_| broken())?;
        }
        2 => {
            let mut rest = records.strip_prefix(&SNAPPY_STREAM_HEADER).ok_or_else(broken)?;
            while let Some((len, tail)) = rest.split_first_chunk::<4>() {
                let len = u32::from_be_bytes(*len) as usize;
                let (block, tail) = tail.split_at_checked(len).ok_or_else(broken)?;
                let block = snap::raw::Decoder::new().decompress_vec(block);
                bytes.extend_from_slice(&block.map_err(|_| broken())?);
                rest = tail;
            }
        }
        3 => {
            lz4_flex::frame::FrameDecoder::new(records)
                .read_to_end(&mut bytes)
                .map_err(|_| broken())?;
        }
        4 => {
            zstd::stream::read::Decoder::new(records)
                .and_then(|mut decoder| decoder.read_to_end(&mut bytes))
                .map_err(|_| broken())?;
        }
        _ => return Err(broken()),
    }
    Ok(RecordArena {
        bytes,
        count: u32::try_from(number(57)).map_err(|_| broken())?,
        base_timestamp: long(27),
        max_timestamp: long(35),
    })
}

/// Turns arenas into RecordBatches; keeps the state of the codec and used buffers between them.
pub struct Encoder {
    codec: Codec,
    /// Buffers of batches that are done with.
    spare: Vec<Vec<u8>>,
}

/// Spare buffers to keep: as many as there are batches under way for one partition.
const SPARE_MAX: usize = 5;

enum Codec {
    None,
    Gzip(Compress),
    Snappy { encoder: Box<snap::raw::Encoder>, block: Vec<u8> },
    Lz4 { table: CompressTable, block: Vec<u8> },
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Encoder {
    /// Returns an encoder for one codec.
    ///
    /// Errors: `Codec` if Zstandard cannot get its memory.
    pub fn new(compression: Compression) -> Result<Encoder, Error> {
        let codec = match compression {
            Compression::None => Codec::None,
            Compression::Gzip => Codec::Gzip(Compress::new_gzip(flate2::Compression::new(6), 15)),
            Compression::Snappy => Codec::Snappy {
                encoder: Box::new(snap::raw::Encoder::new()),
                block: vec![0; snap::raw::max_compress_len(SNAPPY_BLOCK_LEN)],
            },
            Compression::Lz4 => Codec::Lz4 {
                table: CompressTable::large(),
                block: vec![0; get_maximum_output_size(LZ4_BLOCK_LEN)],
            },
            Compression::Zstd => Codec::Zstd(zstd::bulk::Compressor::new(1).map_err(Error::Codec)?),
        };
        Ok(Encoder { codec, spare: Vec::new() })
    }

    /// Returns the batch, and an empty arena to fill again.
    ///
    /// Errors: `Codec`; the codecs of this program fail only for want of memory.
    pub fn encode(&mut self, arena: RecordArena) -> Result<(EncodedBatch, RecordArena), Error> {
        let RecordArena { count, base_timestamp, max_timestamp, .. } = arena;
        let mut out = self.spare.pop().unwrap_or_default();
        out.clear();
        if let Codec::None = self.codec {
            // It becomes the next arena, which will be as long, and should not grow by doubling.
            out.reserve_exact(arena.bytes.len());
        }
        out.resize(HEADER_LEN, 0);
        let records = arena.records();
        let attributes: i16 = match &mut self.codec {
            Codec::None => 0,
            Codec::Gzip(gzip) => {
                compress_gzip(gzip, records, &mut out)?;
                1
            }
            Codec::Snappy { encoder, block } => {
                out.extend_from_slice(&SNAPPY_STREAM_HEADER);
                for chunk in records.chunks(SNAPPY_BLOCK_LEN) {
                    let len = encoder
                        .compress(chunk, block)
                        .map_err(|error| Error::Codec(error.into()))?;
                    out.extend_from_slice(&(len as u32).to_be_bytes());
                    out.extend_from_slice(&block[..len]);
                }
                2
            }
            Codec::Lz4 { table, block } => {
                compress_lz4(table, block, records, &mut out)?;
                3
            }
            Codec::Zstd(compressor) => {
                out.reserve(zstd::zstd_safe::compress_bound(records.len()));
                let mut tail = Cursor::new(out);
                tail.set_position(HEADER_LEN as u64);
                compressor.compress_to_buffer(records, &mut tail).map_err(Error::Codec)?;
                out = tail.into_inner();
                4
            }
        };
        let (mut bytes, spare) = match self.codec {
            Codec::None => (arena.bytes, out),
            _ => (out, arena.bytes),
        };

        let batch_len = (bytes.len() - 12) as i32;
        let header = Cursor::new(&mut bytes[..HEADER_LEN]);
        write_header(header, batch_len, attributes, count, base_timestamp, max_timestamp);
        Ok((EncodedBatch { bytes }, RecordArena::in_buffer(spare)))
    }

    /// Takes back the buffer of a batch that is done with.
    pub fn recycle(&mut self, batch: EncodedBatch) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(batch.bytes);
        }
    }
}

fn write_header(
    mut header: Cursor<&mut [u8]>,
    batch_len: i32,
    attributes: i16,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
) {
    let fields: [&[u8]; 12] = [
        &0i64.to_be_bytes(), // The broker gives the offset.
        &batch_len.to_be_bytes(),
        &(-1i32).to_be_bytes(), // The broker gives the leader epoch.
        &[2],
        &0u32.to_be_bytes(), // Stamped.
        &attributes.to_be_bytes(),
        &(count as i32 - 1).to_be_bytes(),
        &base_timestamp.to_be_bytes(),
        &max_timestamp.to_be_bytes(),
        &(-1i64).to_be_bytes(), // Stamped, as are the next two.
        &[0xff; 6],
        &(count as i32).to_be_bytes(),
    ];
    for field in fields {
        header.write_all(field).expect("the fields are as long as the header");
    }
}

fn compress_gzip(gzip: &mut Compress, records: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    gzip.reset();
    loop {
        let done = gzip.total_in() as usize;
        out.reserve((records.len() - done) / 4 + 1024);
        match gzip.compress_vec(&records[done..], out, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => return Ok(()),
            Ok(Status::Ok | Status::BufError) => {}
            Err(error) => return Err(Error::Codec(error.into())),
        }
    }
}

fn compress_lz4(
    table: &mut CompressTable,
    block: &mut [u8],
    records: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    out.extend_from_slice(&LZ4_FRAME_HEADER);
    for chunk in records.chunks(LZ4_BLOCK_LEN) {
        let len = compress_into_with_table(chunk, block, table)
            .map_err(|error| Error::Codec(std::io::Error::other(error)))?;
        if len < chunk.len() {
            out.extend_from_slice(&(len as u32).to_le_bytes());
            out.extend_from_slice(&block[..len]);
        } else {
            out.extend_from_slice(&(chunk.len() as u32 | LZ4_BLOCK_STORED).to_le_bytes());
            out.extend_from_slice(chunk);
        }
    }
    out.extend_from_slice(&0u32.to_le_bytes()); // The end of the frame.
    Ok(())
}

/// Returns the partition the Java client's default partitioner gives a record with this key.
///
/// `n_partitions` is positive: a topic has at least one.
pub fn partition_for(key: &[u8], n_partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff) as i32 % n_partitions
}

/// Returns the hash the Java client takes for partitioning: MurmurHash2 with a seed of its own.
///
/// Source: `org.apache.kafka.common.utils.Utils.murmur2`.
pub fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ key.len() as u32;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    for (n, byte) in rest.iter().enumerate() {
        hash ^= u32::from(*byte) << (8 * n);
    }
    if !rest.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Writes a zigzag varint to the front of `out` and returns its length.
#[inline]
fn write_varint(out: &mut [u8], value: i64) -> usize {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    let mut len = 0;
    while rest >= 0x80 {
        out[len] = rest as u8 | 0x80;
        rest >>= 7;
        len += 1;
    }
    out[len] = rest as u8;
    len + 1
}

/// Takes a zigzag varint off the front of `rest`; `None` if there is none.
fn read_varint(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0;
    for n in 0..VARINT_LEN_MAX {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// Takes a length and as many bytes off the front of `rest`; a length of -1 is `Some(None)`.
fn read_bytes<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let len = read_varint(rest)?;
    if len == -1 {
        return Some(None);
    }
    let (bytes, tail) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = tail;
    Some(Some(bytes))
}

fn read_record<'a>(rest: &mut &'a [u8], base_timestamp: i64) -> Option<RecordRef<'a>> {
    let mut record = read_bytes(rest)??;
    record = record.get(1..)?; // Attributes.
    let timestamp_delta = read_varint(&mut record)?;
    let _offset_delta = read_varint(&mut record)?;
    let key = read_bytes(&mut record)?;
    let value = read_bytes(&mut record)?.unwrap_or_default();
    let n_headers = read_varint(&mut record)?;
    Some(RecordRef {
        timestamp_ms: base_timestamp.wrapping_add(timestamp_delta),
        key,
        value,
        n_headers: n_headers.try_into().ok()?,
        header_bytes: record,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::protocol::StrBytes;
    use kafka_protocol::records::{
        Compression as TheirCompression, Record, RecordBatchEncoder, RecordEncodeOptions,
        TimestampType,
    };

    const ALL: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];

    /// A record: timestamp, key, value, headers.
    type Plain = (i64, Option<Vec<u8>>, Vec<u8>, Vec<(String, Vec<u8>)>);

    fn plain(n: usize) -> Plain {
        let key = (!n.is_multiple_of(3)).then(|| format!("host/{n}").into_bytes());
        let value = match n % 4 {
            0 => Vec::new(),
            // Random as far as a codec can tell.
            1 => (0..n as u32 * 7).map(|i| murmur2(&i.to_le_bytes()) as u8).collect(),
            _ => format!("[2026-01-02] INFO {} (kafka.log.Log)", "rolled ".repeat(n % 300)).into(),
        };
        let headers = (0..n % 4).map(|i| (format!("name{i}"), vec![i as u8; i * 50]));
        let timestamp = 1_700_000_000_000 + [0, 90_000, -5, 3][n % 4];
        (timestamp, key, value, headers.collect())
    }

    fn arena(records: &[Plain]) -> RecordArena {
        let mut arena = RecordArena::with_capacity(10);
        for (timestamp, key, value, headers) in records {
            let (mut fixed, mut varying) = (Vec::new(), Vec::new());
            for (n, (name, value)) in headers.iter().enumerate() {
                put_header(if n < 2 { &mut fixed } else { &mut varying }, name, value);
            }
            let headers = Headers { count: headers.len() as u32, fixed: &fixed, varying: &varying };
            arena.push(*timestamp, key.as_deref(), value, headers);
        }
        arena
    }

    fn walk(arena: &RecordArena) -> Vec<Plain> {
        let plain = |record: RecordRef<'_>| {
            let headers: Vec<_> =
                record.headers().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
            assert_eq!(headers.len(), record.n_headers as usize);
            let key = record.key.map(<[u8]>::to_vec);
            (record.timestamp_ms, key, record.value.to_vec(), headers)
        };
        arena.iter().map(plain).collect()
    }

    #[test]
    fn records_come_out_of_an_arena_as_they_went_in() {
        let records: Vec<_> = (0..1000).map(plain).collect();
        let mut arena = arena(&records);
        assert_eq!(arena.count(), 1000);
        assert!(arena.len() > 500_000);
        assert_eq!(walk(&arena), records);
        arena.clear();
        assert!(arena.is_empty());
        assert_eq!((arena.len(), arena.iter().count()), (0, 0));
        arena.push(5, None, b"new", Headers::default());
        assert_eq!(walk(&arena), [(5, None, b"new".to_vec(), Vec::new())]);
    }

    #[test]
    fn records_survive_each_codec() {
        let records: Vec<_> = (0..1500).map(plain).collect();
        for compression in ALL {
            let mut encoder = Encoder::new(compression).unwrap();
            // The second time with the state and buffers of the first.
            for _ in 0..2 {
                let (batch, spare) = encoder.encode(arena(&records)).unwrap();
                assert!(spare.is_empty());
                let decoded = batch.decode().unwrap();
                assert!(walk(&decoded) == records, "{compression:?}");
                encoder.recycle(batch);
            }
        }
    }

    #[test]
    fn a_batch_is_byte_for_byte_what_another_client_writes() {
        // The other one counts timestamps from the earliest, we from the first, as the Java client.
        let mut records: Vec<_> = (0..500).map(plain).collect();
        records.sort_by_key(|(timestamp, ..)| *timestamp);
        let mut encoder = Encoder::new(Compression::None).unwrap();
        let (mut batch, _) = encoder.encode(arena(&records)).unwrap();
        batch.stamp(Stamp { producer_id: 4711, epoch: 3, base_sequence: 100 });

        let theirs: Vec<_> = records
            .iter()
            .enumerate()
            .map(|(n, (timestamp, key, value, headers))| Record {
                transactional: false,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: -1,
                producer_id: 4711,
                producer_epoch: 3,
                timestamp_type: TimestampType::Creation,
                offset: n as i64,
                sequence: 100 + n as i32,
                timestamp: *timestamp,
                key: key.clone().map(Into::into),
                value: Some(value.clone().into()),
                headers: headers
                    .iter()
                    .map(|(name, value)| {
                        (StrBytes::from_string(name.clone()), Some(value.clone().into()))
                    })
                    .collect(),
            })
            .collect();
        let options = RecordEncodeOptions { version: 2, compression: TheirCompression::None };
        let mut expected = Vec::new();
        RecordBatchEncoder::encode(&mut expected, &theirs, &options).unwrap();
        assert!(batch.as_bytes() == expected);
    }

    #[test]
    fn an_lz4_batch_is_a_frame_of_independent_blocks_without_checksums() {
        use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
        let info =
            FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
        let mut frame = FrameEncoder::with_frame_info(info, Vec::new());
        frame.write_all(&[0; 10]).unwrap();
        let frame = frame.finish().unwrap();
        assert_eq!(frame[..LZ4_FRAME_HEADER.len()], LZ4_FRAME_HEADER);

        let records: Vec<_> = (0..1000).map(plain).collect();
        let mut encoder = Encoder::new(Compression::Lz4).unwrap();
        let (batch, _) = encoder.encode(arena(&records)).unwrap();
        assert!(batch.as_bytes()[HEADER_LEN..].starts_with(&LZ4_FRAME_HEADER));
    }

    #[test]
    fn an_uncompressed_batch_is_the_buffer_of_its_arena() {
        let mut encoder = Encoder::new(Compression::None).unwrap();
        let arena = arena(&[plain(2)]);
        let at = arena.bytes.as_ptr();
        let (batch, _) = encoder.encode(arena).unwrap();
        assert_eq!(batch.bytes.as_ptr(), at);
    }

    #[test]
    fn a_broken_batch_is_an_error() {
        let mut encoder = Encoder::new(Compression::Lz4).unwrap();
        let (batch, _) = encoder.encode(arena(&[plain(2), plain(7)])).unwrap();
        for len in 0..HEADER_LEN {
            assert!(decode(&batch.as_bytes()[..len]).is_err(), "{len}");
        }
        for codec in [1, 2, 4, 5] {
            let mut bytes = batch.as_bytes().to_vec();
            bytes[22] = codec;
            assert!(decode(&bytes).is_err(), "{codec}");
        }
    }

    #[test]
    fn varints_of_any_size_are_read_as_written() {
        for value in [0, -1, 1, 63, 64, -64, -65, 1 << 31, i64::MAX, i64::MIN] {
            let mut out = [0; VARINT_LEN_MAX];
            let len = write_varint(&mut out, value);
            let mut rest = &out[..len];
            assert_eq!((read_varint(&mut rest), rest.len()), (Some(value), 0));
            assert_eq!(read_varint(&mut &out[..len - 1]), None);
        }
        assert_eq!(read_varint(&mut &[0xff; 11][..]), None);
    }

    /// Source: `UtilsTest.testMurmur2` of the Java client.
    #[test]
    fn keys_are_hashed_as_by_the_java_client() {
        let vectors: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key.as_bytes()), hash as u32, "{key}");
            let partition = (hash & 0x7fff_ffff) % 7;
            assert_eq!(partition_for(key.as_bytes(), 7), partition, "{key}");
        }
    }
}
