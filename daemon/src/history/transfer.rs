//! Parcels: records on their way from a node that has them to one that does not.
//!
//! A parcel is a run of records without a gap, with the hash that the first of them follows. On the
//! wire it is a version byte and one block, the same form that segments have: compressed, with a
//! checksum, and able to carry a pruned record as its hash alone. Segments of two nodes hold the
//! same records and not the same bytes (ruling 16), so what is sent is records, whatever the blocks
//! of the sender. A parcel is bounded before it is decompressed. Who receives one verifies it
//! ([`super::fill`]); the checksum only tells a broken transfer from a wrong peer.

use super::HistoryError;
use super::block::{Block, HEADER_BYTES, Header, LEVEL};
use super::query::History;
use tiebeam_proto::chain::{GENESIS, Hash};

/// Bytes of records in one parcel at most, but for its last record.
pub const PARCEL_BYTES: usize = 1 << 20;

/// Bytes of records that a parcel is believed to hold: [`PARCEL_BYTES`] and the largest record,
/// which is a full configuration, with room.
const PARCEL_RAW_BYTES_MAX: u32 = 32 << 20;

/// The form of a parcel.
const VERSION: u8 = 1;

/// A run of records without a gap.
#[derive(Debug)]
pub struct Parcel(pub(super) Block);

/// Why bytes are no parcel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParcelError {
    /// The sender has none of the records that were asked for.
    #[error("it is empty")]
    Empty,
    /// It has a form that this version does not know.
    #[error("it has the form {0}, and this version knows {VERSION}")]
    Version(u8),
    /// It is cut off, too large, or not what was sent.
    #[error("{0}")]
    Broken(&'static str),
}

impl Parcel {
    /// Reads a parcel.
    ///
    /// # Errors
    /// [`ParcelError`].
    pub fn decode(bytes: &[u8]) -> Result<Parcel, ParcelError> {
        let (version, block) = bytes.split_first().ok_or(ParcelError::Empty)?;
        if *version != VERSION {
            return Err(ParcelError::Version(*version));
        }
        let (head, stored) = block
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(ParcelError::Broken("it is cut off"))?;
        let header = Header::read(head).ok_or(ParcelError::Broken("no block begins it"))?;
        if header.raw_bytes > PARCEL_RAW_BYTES_MAX {
            return Err(ParcelError::Broken("it is larger than a parcel may be"));
        }
        Block::decode(&header, stored).map(Parcel).map_err(ParcelError::Broken)
    }

    /// The bytes for the wire.
    ///
    /// # Errors
    /// zstd's, which it has only when memory is at its end.
    pub fn encode(&self) -> std::io::Result<Vec<u8>> {
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        let block = self.0.encode(0, &mut compressor)?;
        Ok([&[VERSION][..], &block].concat())
    }

    /// The first record.
    pub fn first(&self) -> u64 {
        self.0.first
    }

    /// The last record.
    pub fn last(&self) -> u64 {
        self.0.last()
    }
}

impl History {
    /// The newest records of a range that ends at `to`, as they fit into a parcel, encoded; `from`
    /// is the oldest that is wanted. No bytes if the record `to` is not here: another node may
    /// have it. For a peer that fills a gap.
    ///
    /// # Errors
    /// Damage, or what the operating system said.
    pub fn parcel(&self, from: u64, to: u64) -> Result<Vec<u8>, HistoryError> {
        let from = from.max(self.shared.floor()).max(1);
        let (mut next, mut bytes, mut previous) = (to, 0, GENESIS);
        let mut newest_first: Vec<(Hash, Option<Vec<u8>>)> = Vec::new();
        while next >= from && bytes < PARCEL_BYTES {
            let Some(block) = self.shared.library.block(next)? else {
                break;
            };
            let wanted = (from.max(block.first)..=next).rev();
            for kept in wanted.filter_map(|index| block.kept(index)) {
                if bytes >= PARCEL_BYTES {
                    break;
                }
                bytes += kept.this.len() + kept.canonical.map_or(0, <[u8]>::len);
                newest_first.push((kept.this, kept.canonical.map(Vec::from)));
                (next, previous) = (kept.index - 1, kept.previous);
            }
        }
        if newest_first.is_empty() {
            return Ok(Vec::new());
        }
        let records = newest_first.iter().rev().map(|(this, bytes)| (*this, bytes.as_deref()));
        let parcel = Parcel(Block::of(next + 1, previous, records));
        parcel.encode().map_err(HistoryError::io("compress from", self.folder()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel() -> Parcel {
        Parcel(Block::of(7, [9; 32], [([1; 32], Some(&b"{\"a\":1}"[..])), ([2; 32], None)]))
    }

    #[test]
    fn a_parcel_comes_back_with_what_was_pruned() {
        let parcel = Parcel::decode(&parcel().encode().unwrap()).unwrap();
        assert_eq!((parcel.first(), parcel.last()), (7, 8));
        let kept: Vec<_> =
            parcel.0.records().map(|kept| (kept.previous[0], kept.canonical)).collect();
        assert_eq!(kept, [(9, Some(&b"{\"a\":1}"[..])), (1, None)]);
    }

    #[test]
    fn what_is_not_a_whole_parcel_is_refused() {
        let whole = parcel().encode().unwrap();
        assert_eq!(Parcel::decode(&[]).unwrap_err(), ParcelError::Empty);
        assert_eq!(Parcel::decode(&[2, 0]).unwrap_err(), ParcelError::Version(2));
        for cut in 1..whole.len() {
            assert!(Parcel::decode(&whole[..cut]).is_err(), "{cut}");
        }
        for bit in 8..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Parcel::decode(&bytes).is_err(), "bit {bit}");
        }
        assert!(Parcel::decode(&[&whole[..], &[0]].concat()).is_err());
    }
}
