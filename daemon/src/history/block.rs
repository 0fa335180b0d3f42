//! Blocks: what a history segment is made of.
//!
//! A block is a header and a run of records in chain order, compressed with zstd. The header's
//! CRC covers the header and the stored bytes, so a block is whole or it is nothing. This module
//! turns records into bytes and back; it opens no file. The segments write blocks, every reader
//! and the check decode them. Persist side: it reports, and never guesses.
//!
//! ```text
//! "TBH1" | crc32c | first index u64 | count u32 | raw bytes u32 | stored bytes u32 | codec u32
//!        | durable to u64 | previous hash [32] | stored bytes
//! raw: per record: length u32 | this hash [32] | canonical JSON
//! ```
//! All integers are little-endian. `durable to` is the offset in this file below which everything
//! was synced when the block was written: it tells a torn tail from damage. A length of
//! `u32::MAX` stands for a pruned record, of which only the 32 bytes of its hash are left.

use std::sync::Arc;
use tiebeam_proto::chain::{self, Hash};
use tiebeam_proto::record::{Archived, ChainLink};

/// Bytes of a block's header.
pub(super) const HEADER_BYTES: usize = 72;

/// The first bytes of every block; the digit is the format.
pub(super) const MAGIC: &[u8; 4] = b"TBH1";

/// Largest block that is believed: one record has at most a few MiB (ruling 32).
const RAW_BYTES_MAX: u32 = 256 << 20;

/// zstd's level: 3 is 40 % slower than 1 and saves 4 % on records.
pub(super) const LEVEL: i32 = 1;

/// The one codec of this format.
const CODEC_ZSTD: u32 = 1;

/// In place of a length: the record was pruned.
const PRUNED: u32 = u32::MAX;

/// Bytes in front of each record inside a block.
pub(super) const RECORD_OVERHEAD: usize = 36;

/// What a block says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) crc: u32,
    pub(super) first: u64,
    pub(super) count: u32,
    pub(super) raw_bytes: u32,
    pub(super) stored_bytes: u32,
    pub(super) durable_to: u64,
    pub(super) previous: Hash,
}

impl Header {
    /// Reads a header; `None` if these bytes cannot be one.
    pub(super) fn read(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let header = Header {
            crc: word(4),
            first: long(8),
            count: word(16),
            raw_bytes: word(20),
            stored_bytes: word(24),
            durable_to: long(32),
            previous: std::array::from_fn(|i| bytes[40 + i]),
        };
        let sane = bytes.starts_with(MAGIC)
            && header.first > 0
            && header.count > 0
            && header.raw_bytes <= RAW_BYTES_MAX
            && header.stored_bytes <= RAW_BYTES_MAX
            && word(28) == CODEC_ZSTD
            && header.first.checked_add(u64::from(header.count)).is_some();
        sane.then_some(header)
    }

    fn write(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, MAGIC);
        put(4, &self.crc.to_le_bytes());
        put(8, &self.first.to_le_bytes());
        put(16, &self.count.to_le_bytes());
        put(20, &self.raw_bytes.to_le_bytes());
        put(24, &self.stored_bytes.to_le_bytes());
        put(28, &CODEC_ZSTD.to_le_bytes());
        put(32, &self.durable_to.to_le_bytes());
        put(40, &self.previous);
        bytes
    }

    fn sum(&self, stored: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.write()[8..]), stored)
    }

    /// The header of the same block in another file, everything before which is synced.
    pub(super) fn moved(&self, offset: u64, stored: &[u8]) -> [u8; HEADER_BYTES] {
        let mut header = Header { durable_to: offset, ..self.clone() };
        header.crc = header.sum(stored);
        header.write()
    }

    /// Whether header and stored bytes are what was written.
    pub(super) fn holds(&self, stored: &[u8]) -> bool {
        stored.len() == self.stored_bytes as usize && self.sum(stored) == self.crc
    }

    /// Index of the last record.
    pub(super) fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }

    /// Bytes of header and records in the file.
    pub(super) fn file_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.stored_bytes)
    }
}

/// A decoded block.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) first: u64,
    previous: Hash,
    raw: Vec<u8>,
    /// Where each record's length stands in `raw`.
    starts: Vec<u32>,
}

/// A record as it stands in a block.
pub(super) struct Kept<'a> {
    pub(super) index: u64,
    pub(super) previous: Hash,
    pub(super) this: Hash,
    /// `None` if it was pruned.
    pub(super) canonical: Option<&'a [u8]>,
}

impl Kept<'_> {
    /// The record as everybody else knows it; `None` if it was pruned.
    pub(super) fn archived(&self) -> Option<Archived> {
        self.canonical.map(|bytes| Archived { link: self.link(), canonical: Arc::from(bytes) })
    }

    /// Its place in the chain.
    pub(super) fn link(&self) -> ChainLink {
        ChainLink {
            index: self.index,
            previous: chain::to_text(&self.previous),
            this: chain::to_text(&self.this),
        }
    }
}

impl Block {
    /// A block of the records that follow `previous`, the first of them with index `first`.
    /// `None` stands for a pruned record.
    pub(super) fn of<'a>(
        first: u64,
        previous: Hash,
        records: impl IntoIterator<Item = (Hash, Option<&'a [u8]>)>,
    ) -> Block {
        let mut block = Block { first, previous, raw: Vec::new(), starts: Vec::new() };
        for (this, canonical) in records {
            assert!(block.raw.len() < RAW_BYTES_MAX as usize, "a block is over its limit");
            block.starts.push(block.raw.len() as u32);
            let length = canonical.map_or(PRUNED, |bytes| bytes.len() as u32);
            block.raw.extend_from_slice(&length.to_le_bytes());
            block.raw.extend_from_slice(&this);
            block.raw.extend_from_slice(canonical.unwrap_or_default());
        }
        block
    }

    /// The bytes for the file.
    ///
    /// # Errors
    /// zstd's, which it has only when memory is at its end.
    pub(super) fn encode(
        &self,
        durable_to: u64,
        compressor: &mut zstd::bulk::Compressor<'_>,
    ) -> std::io::Result<Vec<u8>> {
        let stored = compressor.compress(&self.raw)?;
        let mut header = Header {
            crc: 0,
            first: self.first,
            count: self.starts.len() as u32,
            raw_bytes: self.raw.len() as u32,
            stored_bytes: stored.len() as u32,
            durable_to,
            previous: self.previous,
        };
        header.crc = header.sum(&stored);
        let mut bytes = header.write().to_vec();
        bytes.extend_from_slice(&stored);
        Ok(bytes)
    }

    /// Decodes a block; the error says in words what is wrong with it.
    pub(super) fn decode(header: &Header, stored: &[u8]) -> Result<Block, &'static str> {
        if !header.holds(stored) {
            return Err("the checksum of a block does not match");
        }
        let raw = zstd::bulk::decompress(stored, header.raw_bytes as usize)
            .map_err(|_| "a block does not decompress")?;
        let mut starts = Vec::with_capacity(header.count as usize);
        let mut at = 0;
        while at < raw.len() {
            starts.push(at as u32);
            let (_, canonical) = split(&raw[at..]).ok_or("a record runs over its block's end")?;
            at += RECORD_OVERHEAD + canonical.map_or(0, <[u8]>::len);
        }
        if starts.len() != header.count as usize {
            return Err("a block holds another number of records than it says");
        }
        Ok(Block { first: header.first, previous: header.previous, raw, starts })
    }

    /// Index of the last record.
    pub(super) fn last(&self) -> u64 {
        self.first + self.starts.len() as u64 - 1
    }

    /// Bytes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.raw.len() + 4 * self.starts.len()
    }

    /// The hash of the last record.
    pub(super) fn head(&self) -> Hash {
        self.kept(self.last()).map_or(self.previous, |kept| kept.this)
    }

    /// The record with this index, if it is in this block.
    pub(super) fn kept(&self, index: u64) -> Option<Kept<'_>> {
        let nth = usize::try_from(index.checked_sub(self.first)?).ok()?;
        let at = |nth: usize| self.raw.get(*self.starts.get(nth)? as usize..).and_then(split);
        let (this, canonical) = at(nth)?;
        let previous = match nth.checked_sub(1) {
            None => self.previous,
            Some(before) => at(before)?.0,
        };
        Some(Kept { index, previous, this, canonical })
    }

    /// All records, oldest first.
    pub(super) fn records(&self) -> impl DoubleEndedIterator<Item = Kept<'_>> {
        (self.first..=self.last()).filter_map(|index| self.kept(index))
    }
}

/// The record at the start of these bytes: its hash, and its JSON unless it was pruned.
fn split(raw: &[u8]) -> Option<(Hash, Option<&[u8]>)> {
    let (length, rest) = raw.split_first_chunk::<4>()?;
    let (this, rest) = rest.split_first_chunk::<32>()?;
    match u32::from_le_bytes(*length) {
        PRUNED => Some((*this, None)),
        length => Some((*this, Some(rest.get(..length as usize)?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded() -> Vec<u8> {
        let records = [([1; 32], Some(&b"{\"a\":1}"[..])), ([2; 32], None), ([3; 32], Some(b"{}"))];
        let mut compressor = zstd::bulk::Compressor::new(LEVEL).unwrap();
        Block::of(7, [9; 32], records).encode(5, &mut compressor).unwrap()
    }

    fn decoded(bytes: &[u8]) -> Result<Block, &'static str> {
        let (head, stored) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or("short")?;
        Block::decode(&Header::read(head).ok_or("no header")?, stored)
    }

    #[test]
    fn a_block_gives_its_records_with_their_links() {
        let block = decoded(&encoded()).unwrap();
        assert_eq!((block.first, block.last(), block.head()), (7, 9, [3; 32]));
        let kept: Vec<_> = block.records().map(|k| (k.index, k.previous[0], k.canonical)).collect();
        assert_eq!(kept, [(7, 9, Some(&b"{\"a\":1}"[..])), (8, 1, None), (9, 2, Some(b"{}"))]);
        assert!(block.kept(6).is_none() && block.kept(10).is_none());
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let whole = encoded();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decoded(&bytes).is_err(), "bit {bit}");
        }
    }
}
