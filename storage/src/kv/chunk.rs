//! The chunks of a snapshot: how sorted pairs are cut, written, and read back.
//!
//! ```text
//! chunk = format (1) | kind (1) | body | CRC32C of all before it (4, little endian)
//! pairs (kind 1): any number of: key length, key, value length, value
//! part  (kind 2): key length, key, length of the whole value, offset, bytes: of a pair too long for one chunk
//! end   (kind 3): EndRecord; it is the last chunk, and there is exactly one
//! ```
//!
//! Lengths are LEB128. Pairs ascend by key through all chunks. A chunk ends behind a pair whose key's hash is low
//! enough, once it has [`CHUNK_BYTES_MIN`], and before a pair that would take it above [`CHUNK_BYTES_MAX`]. The chance
//! to end a chunk grows with the pair's size, so that chunks have about 256 KiB whether pairs are small or large. No
//! chunk names an index or a time: an unchanged state gives unchanged chunks, the end included.

use bytes::Bytes;
use prost::Message;

use crate::error::StorageError;
use crate::kv::{check_key, VALUE_BYTES_MAX};

/// Bound on a chunk's length.
pub const CHUNK_BYTES_MAX: usize = 512 << 10;
const CHUNK_BYTES_MIN: usize = 128 << 10;

const FORMAT: u8 = 1;
const PAIRS: u8 = 1;
const PART: u8 = 2;
const END: u8 = 3;
const HEADER_BYTES: usize = 2;
const CRC_BYTES: usize = 4;
const BODY_BYTES_MAX: usize = CHUNK_BYTES_MAX - HEADER_BYTES - CRC_BYTES;
/// Bytes behind the minimum after which a chunk ends on average.
const CUT_BYTES_MEAN: u64 = 128 << 10;

#[derive(Clone, PartialEq, prost::Message)]
struct EndRecord {
    #[prost(uint64, tag = "1")]
    pairs: u64,
    #[prost(uint64, tag = "2")]
    state_bytes: u64,
    /// Hash of all chunks before this one, in order: tells a missing, repeated or exchanged one.
    #[prost(bytes = "vec", tag = "3")]
    hash: Vec<u8>,
}

/// Cuts sorted pairs into chunks.
pub(super) struct Cutter<'a, E> {
    sink: &'a mut dyn FnMut(Bytes) -> Result<(), E>,
    chunk: Vec<u8>,
    hash: blake3::Hasher,
    pairs: u64,
    state_bytes: u64,
}

impl<'a, E> Cutter<'a, E> {
    pub(super) fn new(sink: &'a mut dyn FnMut(Bytes) -> Result<(), E>) -> Self {
        Self { sink, chunk: vec![FORMAT, PAIRS], hash: blake3::Hasher::new(), pairs: 0, state_bytes: 0 }
    }

    /// Adds the next pair.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), E> {
        self.pairs += 1;
        self.state_bytes += (key.len() + value.len()) as u64;
        let mut lengths = Vec::with_capacity(20);
        put_length(&mut lengths, key.len());
        put_length(&mut lengths, value.len());
        let size = lengths.len() + key.len() + value.len();
        if self.chunk.len() + size > HEADER_BYTES + BODY_BYTES_MAX {
            self.cut()?;
        }
        if size > BODY_BYTES_MAX {
            return self.add_parts(key, value);
        }
        put_bytes(&mut self.chunk, key);
        put_bytes(&mut self.chunk, value);
        if self.chunk.len() >= CHUNK_BYTES_MIN && ends_chunk(key, size) {
            self.cut()?;
        }
        Ok(())
    }

    /// Writes what is left, and the end.
    pub(super) fn finish(mut self) -> Result<(), E> {
        self.cut()?;
        let hash = self.hash.finalize().as_bytes().to_vec();
        let end = EndRecord { pairs: self.pairs, state_bytes: self.state_bytes, hash };
        self.chunk = vec![FORMAT, END];
        self.chunk.extend_from_slice(&end.encode_to_vec());
        self.emit()
    }

    fn add_parts(&mut self, key: &[u8], value: &[u8]) -> Result<(), E> {
        let mut offset = 0;
        while offset < value.len() {
            self.chunk = vec![FORMAT, PART];
            put_bytes(&mut self.chunk, key);
            put_length(&mut self.chunk, value.len());
            put_length(&mut self.chunk, offset);
            let room = HEADER_BYTES + BODY_BYTES_MAX - self.chunk.len();
            let end = value.len().min(offset + room);
            self.chunk.extend_from_slice(&value[offset..end]);
            offset = end;
            self.emit()?;
        }
        Ok(())
    }

    /// Ends the chunk, if it holds a pair.
    fn cut(&mut self) -> Result<(), E> {
        if self.chunk.len() > HEADER_BYTES {
            self.emit()?;
        }
        Ok(())
    }

    fn emit(&mut self) -> Result<(), E> {
        let mut chunk = std::mem::replace(&mut self.chunk, vec![FORMAT, PAIRS]);
        let crc = crc32c::crc32c(&chunk);
        chunk.extend_from_slice(&crc.to_le_bytes());
        add_to_hash(&mut self.hash, &chunk);
        (self.sink)(chunk.into())
    }
}

/// Reads the chunks of one snapshot in order, and tells whether they are all there and right.
#[derive(Default)]
pub(super) struct Reader {
    ordinal: u64,
    hash: blake3::Hasher,
    pairs: u64,
    state_bytes: u64,
    last_key: Vec<u8>,
    /// A pair of which parts are still to come, with the length of its value.
    partial: Option<(Vec<u8>, usize, Vec<u8>)>,
    ended: bool,
}

impl Reader {
    /// Hands the pairs that `chunk` completes to `take`.
    pub(super) fn read(&mut self, chunk: &[u8], take: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
        let ordinal = self.ordinal;
        let result = self.read_chunk(chunk, take);
        self.ordinal += 1;
        result.map_err(|reason| StorageError::ChunkDamaged { ordinal, reason })
    }

    /// Bytes of the state, once the end was read.
    pub(super) fn finish(&self) -> Result<u64, StorageError> {
        match self.ended {
            true => Ok(self.state_bytes),
            false => Err(StorageError::ChunkDamaged { ordinal: self.ordinal, reason: "the last chunk is missing" }),
        }
    }

    fn read_chunk(&mut self, chunk: &[u8], take: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), &'static str> {
        if self.ended {
            return Err("it comes behind the last chunk");
        }
        let (content, crc) = chunk.split_last_chunk().ok_or("too short")?;
        if u32::from_le_bytes(*crc) != crc32c::crc32c(content) {
            return Err("checksum differs");
        }
        let ([format, kind], body) = content.split_first_chunk().ok_or("too short")?;
        if *format != FORMAT {
            return Err("unknown format; run a newer version");
        }
        match (*kind, &self.partial) {
            (PAIRS, None) => self.read_pairs(body, take)?,
            (PART, _) => self.read_part(body, take)?,
            (END, None) => self.read_end(body)?,
            (PAIRS | END, Some(_)) => return Err("a part of the pair before is missing"),
            _ => return Err("unknown kind"),
        }
        add_to_hash(&mut self.hash, chunk);
        Ok(())
    }

    fn read_pairs(&mut self, mut body: &[u8], take: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), &'static str> {
        while !body.is_empty() {
            let key = get_bytes(&mut body)?;
            let value = get_bytes(&mut body)?;
            self.take_pair(key, value, take)?;
        }
        Ok(())
    }

    fn read_part(&mut self, mut body: &[u8], take: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), &'static str> {
        let key = get_bytes(&mut body)?;
        let total = get_length(&mut body)?;
        let offset = get_length(&mut body)?;
        if total > VALUE_BYTES_MAX {
            return Err("value is too long");
        }
        let (found, length, mut value) = self.partial.take().unwrap_or((key.to_vec(), total, Vec::new()));
        if found != key || length != total || value.len() != offset || body.is_empty() || offset + body.len() > total {
            return Err("part does not follow the one before");
        }
        value.extend_from_slice(body);
        if value.len() == total {
            return self.take_pair(key, &value, take);
        }
        self.partial = Some((found, total, value));
        Ok(())
    }

    fn read_end(&mut self, body: &[u8]) -> Result<(), &'static str> {
        let end = EndRecord::decode(body).map_err(|_| "undecodable end")?;
        let counted = (self.pairs, self.state_bytes, self.hash.finalize());
        if (end.pairs, end.state_bytes, end.hash.as_slice()) != (counted.0, counted.1, counted.2.as_bytes()) {
            return Err("the chunks before it are not those that were written");
        }
        self.ended = true;
        Ok(())
    }

    fn take_pair(&mut self, key: &[u8], value: &[u8], take: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), &'static str> {
        check_key(key)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err("value is too long");
        }
        // A key is not empty, so the first one passes too.
        if key <= self.last_key.as_slice() {
            return Err("keys do not ascend");
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.pairs += 1;
        self.state_bytes += (key.len() + value.len()) as u64;
        take(key, value);
        Ok(())
    }
}

/// Whether a chunk may end behind a pair of `size` bytes: with a chance of `size` in [`CUT_BYTES_MEAN`], but for the
/// same key of the same size always or never.
fn ends_chunk(key: &[u8], size: usize) -> bool {
    // CRCs of similar keys are similar; splitmix64's finalizer spreads them. Both are part of the format: another
    // hash would cut every archived state anew.
    let mut mixed = u64::from(crc32c::crc32c(key)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    mixed % CUT_BYTES_MEAN < size as u64
}

fn add_to_hash(hash: &mut blake3::Hasher, chunk: &[u8]) {
    hash.update(&(chunk.len() as u64).to_le_bytes());
    hash.update(chunk);
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_length(to, bytes.len());
    to.extend_from_slice(bytes);
}

fn put_length(to: &mut Vec<u8>, length: usize) {
    prost::encoding::encode_varint(length as u64, to);
}

fn get_bytes<'a>(from: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let length = get_length(from)?;
    let (bytes, rest) = from.split_at_checked(length).ok_or("too short")?;
    *from = rest;
    Ok(bytes)
}

fn get_length(from: &mut &[u8]) -> Result<usize, &'static str> {
    let length = prost::encoding::decode_varint(from).map_err(|_| "malformed length")?;
    usize::try_from(length).map_err(|_| "length out of range")
}
