//! What snapshots and ranges of the history are called and look like on their way between nodes.
//!
//! Values only, with their checks. [`super::transfer`] moves them.

use serde::{Deserialize, Serialize};
use tiebeam_core::tree::Hash;
use tiebeam_proto::{canonical, chain};

/// Pieces of a snapshot. Not so many bytes each: how long a State is depends on the hashes in it,
/// and so on the wall clock, which must change nothing (invariant 19).
const CHUNKS: usize = 8;
/// Records of a piece of the history.
pub(super) const RECORDS_MAX: usize = 16;

/// What a snapshot is, enough to fetch and to verify it (ruling 33).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Its last applied entry.
    pub(super) index: u64,
    /// Digests of its pieces, hex.
    pub(super) chunks: Vec<String>,
}

impl Manifest {
    /// The manifest of a body.
    pub(super) fn of(index: u64, body: &[u8]) -> Manifest {
        Manifest { index, chunks: body.chunks(chunk_bytes(body)).map(digest).collect() }
    }

    /// Whether these bytes are its piece `nth`.
    pub(super) fn holds(&self, nth: usize, bytes: &[u8]) -> bool {
        self.chunks.get(nth).is_some_and(|wanted| *wanted == digest(bytes))
    }

    /// As it travels in raft's message.
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads it.
    pub(super) fn decode(bytes: &[u8]) -> Option<Manifest> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Bytes of a piece of this body; the last one may be shorter.
pub(super) fn chunk_bytes(body: &[u8]) -> usize {
    body.len().div_ceil(CHUNKS).max(1)
}

fn digest(bytes: &[u8]) -> String {
    canonical::hex(&chain::hash(&chain::GENESIS, bytes))
}

/// Asks for a piece of a snapshot.
#[derive(Clone, Debug)]
pub(super) struct ChunkWish {
    /// The snapshot.
    pub(super) index: u64,
    /// The piece.
    pub(super) nth: usize,
}

/// A piece of a snapshot.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    /// The snapshot.
    pub(super) index: u64,
    /// The piece.
    pub(super) nth: usize,
    /// `None` if the giver has no such snapshot any more.
    pub(super) bytes: Option<Vec<u8>>,
}

/// Asks for the records that end with `last`.
#[derive(Clone, Debug)]
pub(super) struct RangeWish {
    /// Chain index of the first one that is missing.
    pub(super) first: u64,
    /// Chain index of the last one that is missing.
    pub(super) last: u64,
}

/// Records that end with `last`, in order.
#[derive(Clone, Debug)]
pub(super) struct Range {
    /// Chain index of the last one.
    pub(super) last: u64,
    /// The hash that the first one follows.
    pub(super) previous: Hash,
    /// Their bytes; none if the giver does not have them.
    pub(super) records: Vec<Vec<u8>>,
}

impl Range {
    /// The hash of the last record, if all of them follow each other.
    pub(super) fn head(&self) -> Hash {
        self.records.iter().fold(self.previous, |hash, record| chain::hash(&hash, record))
    }
}
