//! The bytes of a log segment: two head sectors, then records chained by their checksums.
//!
//! Pure encoding and decoding; no file is touched here. [`super`] writes these bytes, `scan` reads
//! them. All numbers are little endian.
//!
//! ```text
//! 0      head A   magic 8 | format 4 | recycled 4 | generation 8 | sequence 8 | stamp 8 |
//!                 durable_to 8 | zeros | crc32c 4                           (512 bytes)
//! 4096   head B   the same; the valid one with the higher stamp counts
//! 8192   records  crc32c 4 | length 4 | index 8 | term 8 | kind 1 | zeros 3 | payload
//! ```
//!
//! A record's checksum starts from the segment's generation (random, new at every reuse) and the
//! checksum of the record before it. So no byte of a recycled segment, and none of a cut tail, is
//! ever valid again.

use crate::entry::{EntryKind, HardState};

/// Offsets of the two head sectors. They lie in different 4 KiB blocks: one bad block spoils one.
pub(crate) const HEAD_OFFSETS: [u64; 2] = [0, 4096];
/// Bytes of a head: one sector, which a disk writes as a whole.
pub(crate) const HEAD_BYTES: usize = 512;
/// Offset of the first record.
pub(crate) const RECORDS_START: u64 = 8192;
/// Bytes of a record before its payload.
pub(crate) const RECORD_HEADER: usize = 28;
/// Format of segments that this code writes and reads.
pub(crate) const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"TBRAFTLG";

/// The head of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Whether bytes behind the last record may be leftovers instead of zeros.
    pub recycled: bool,
    /// Random number of this use of the file.
    pub generation: u64,
    /// Number of the segment, which is in its name too.
    pub sequence: u64,
    /// Counts the heads written; the higher one is the newer one.
    pub stamp: u64,
    /// Offset up to which the records were durable when the head was written.
    pub durable_to: u64,
}

impl Head {
    pub(crate) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[12..16].copy_from_slice(&u32::from(self.recycled).to_le_bytes());
        out[16..24].copy_from_slice(&self.generation.to_le_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        out[32..40].copy_from_slice(&self.stamp.to_le_bytes());
        out[40..48].copy_from_slice(&self.durable_to.to_le_bytes());
        let crc = crc32c::crc32c(&out[..HEAD_BYTES - 4]);
        out[HEAD_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The format of the whole head in `sector`, or nothing if it is not one.
    pub(crate) fn format_of(sector: &[u8; HEAD_BYTES]) -> Option<u32> {
        let crc = crc32c::crc32c(&sector[..HEAD_BYTES - 4]);
        let whole = read_u32(sector, HEAD_BYTES - 4) == crc && &sector[..8] == MAGIC;
        whole.then(|| read_u32(sector, 8))
    }

    /// The head in `sector`, or nothing if it is not one of this format.
    pub(crate) fn decode(sector: &[u8; HEAD_BYTES]) -> Option<Head> {
        if Head::format_of(sector)? != FORMAT {
            return None;
        }
        Some(Head {
            recycled: read_u32(sector, 12) != 0,
            generation: read_u64(sector, 16),
            sequence: read_u64(sector, 24),
            stamp: read_u64(sector, 32),
            durable_to: read_u64(sector, 40),
        })
    }
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// A raft entry.
    Entry(EntryKind),
    /// A hard state.
    HardState,
    /// The log begins anew behind (index, term).
    Reset,
    /// First record of a segment: ties it to the one before.
    Link,
    /// First record after a start: a random number that keeps a cut tail from coming back.
    Opened,
}

impl RecordKind {
    fn code(self) -> u8 {
        match self {
            RecordKind::Entry(EntryKind::Normal) => 1,
            RecordKind::Entry(EntryKind::Conf) => 2,
            RecordKind::Entry(EntryKind::Empty) => 3,
            RecordKind::HardState => 4,
            RecordKind::Reset => 5,
            RecordKind::Link => 6,
            RecordKind::Opened => 7,
        }
    }

    fn from_code(code: u8) -> Option<RecordKind> {
        Some(match code {
            1 => RecordKind::Entry(EntryKind::Normal),
            2 => RecordKind::Entry(EntryKind::Conf),
            3 => RecordKind::Entry(EntryKind::Empty),
            4 => RecordKind::HardState,
            5 => RecordKind::Reset,
            6 => RecordKind::Link,
            7 => RecordKind::Opened,
            _ => return None,
        })
    }
}

/// The first bytes of a record, not yet checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordHeader {
    pub crc: u32,
    pub length: u32,
    pub index: u64,
    pub term: u64,
    kind: u8,
}

impl RecordHeader {
    pub(crate) fn decode(bytes: &[u8]) -> RecordHeader {
        RecordHeader {
            crc: read_u32(bytes, 0),
            length: read_u32(bytes, 4),
            index: read_u64(bytes, 8),
            term: read_u64(bytes, 16),
            kind: bytes[24],
        }
    }

    /// Bytes of the whole record.
    pub(crate) fn record_bytes(&self) -> u64 {
        RECORD_HEADER as u64 + u64::from(self.length)
    }

    /// The kind, if `record` (header and payload) is valid behind a record with checksum `chain`.
    pub(crate) fn check(&self, generation: u64, chain: u32, record: &[u8]) -> Option<RecordKind> {
        if checksum(generation, chain, &record[4..]) != self.crc {
            return None;
        }
        RecordKind::from_code(self.kind)
    }
}

fn checksum(generation: u64, chain: u32, rest: &[u8]) -> u32 {
    let mut seed = [0; 12];
    seed[..8].copy_from_slice(&generation.to_le_bytes());
    seed[8..].copy_from_slice(&chain.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&seed), rest)
}

/// Appends records to a buffer, keeping the chain.
pub(crate) struct Encoder<'a> {
    pub buffer: &'a mut Vec<u8>,
    pub generation: u64,
    pub chain: u32,
}

impl Encoder<'_> {
    pub(crate) fn record(&mut self, kind: RecordKind, index: u64, term: u64, payload: &[u8]) {
        let start = self.buffer.len();
        let length = u32::try_from(payload.len()).expect("a payload is far below 4 GiB");
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(&index.to_le_bytes());
        self.buffer.extend_from_slice(&term.to_le_bytes());
        self.buffer.extend_from_slice(&[kind.code(), 0, 0, 0]);
        self.buffer.extend_from_slice(payload);
        self.chain = checksum(self.generation, self.chain, &self.buffer[start + 4..]);
        self.buffer[start..start + 4].copy_from_slice(&self.chain.to_le_bytes());
    }

    pub(crate) fn hard_state(&mut self, hard_state: &HardState) {
        let payload = encode_hard_state(hard_state);
        self.record(RecordKind::HardState, hard_state.commit, hard_state.term, &payload);
    }
}

/// Payload of a [`RecordKind::Link`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    /// Where the segment before ended, and the checksum of its last record.
    pub previous_end: u64,
    pub previous_chain: u32,
    /// Random: a torn link that is written again with the same content must not bring back the
    /// records that followed it.
    pub nonce: u64,
    /// The hard state then: so the newest segments alone are enough.
    pub hard_state: HardState,
}

/// Bytes of a Link's payload.
pub(crate) const LINK_BYTES: usize = 44;
/// Bytes of a hard state's payload.
pub(crate) const HARD_STATE_BYTES: usize = 24;

impl Link {
    pub(crate) fn encode(&self) -> [u8; LINK_BYTES] {
        let mut out = [0; LINK_BYTES];
        out[..8].copy_from_slice(&self.previous_end.to_le_bytes());
        out[8..12].copy_from_slice(&self.previous_chain.to_le_bytes());
        out[12..20].copy_from_slice(&self.nonce.to_le_bytes());
        out[20..].copy_from_slice(&encode_hard_state(&self.hard_state));
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<Link> {
        if payload.len() != LINK_BYTES {
            return None;
        }
        Some(Link {
            previous_end: read_u64(payload, 0),
            previous_chain: read_u32(payload, 8),
            nonce: read_u64(payload, 12),
            hard_state: decode_hard_state(&payload[20..])?,
        })
    }
}

pub(crate) fn encode_hard_state(hard_state: &HardState) -> [u8; HARD_STATE_BYTES] {
    let mut out = [0; HARD_STATE_BYTES];
    out[..8].copy_from_slice(&hard_state.term.to_le_bytes());
    out[8..16].copy_from_slice(&hard_state.vote.to_le_bytes());
    out[16..].copy_from_slice(&hard_state.commit.to_le_bytes());
    out
}

pub(crate) fn decode_hard_state(payload: &[u8]) -> Option<HardState> {
    (payload.len() == HARD_STATE_BYTES).then(|| HardState {
        term: read_u64(payload, 0),
        vote: read_u64(payload, 8),
        commit: read_u64(payload, 16),
    })
}

/// Reads a number at `at`; the caller has checked the length.
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// Reads a number at `at`; the caller has checked the length.
pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_its_encoding_and_no_flipped_bit_does() {
        let head = Head { recycled: true, generation: 7, sequence: 3, stamp: 9, durable_to: 8192 };
        let sector = head.encode();
        assert_eq!(Head::decode(&sector), Some(head));
        for bit in 0..HEAD_BYTES * 8 {
            let mut rotten = sector;
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::decode(&rotten), None, "bit {bit}");
        }
    }

    #[test]
    fn a_record_is_valid_only_in_its_generation_and_behind_its_predecessor() {
        let mut buffer = Vec::new();
        let mut encoder = Encoder { buffer: &mut buffer, generation: 5, chain: 11 };
        encoder.record(RecordKind::Entry(EntryKind::Normal), 3, 2, b"payload");
        assert_eq!(encoder.chain, read_u32(&buffer, 0));
        let header = RecordHeader::decode(&buffer);
        assert_eq!(header.record_bytes(), buffer.len() as u64);
        let entry = Some(RecordKind::Entry(EntryKind::Normal));
        assert_eq!(header.check(5, 11, &buffer), entry);
        assert_eq!(header.check(6, 11, &buffer), None);
        assert_eq!(header.check(5, 12, &buffer), None);
        for bit in 0..buffer.len() * 8 {
            let mut rotten = buffer.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            let header = RecordHeader::decode(&rotten);
            assert_eq!(header.check(5, 11, &rotten), None, "bit {bit}");
        }
    }

    #[test]
    fn zeros_are_no_record() {
        for generation in 0..100 {
            let header = RecordHeader::decode(&[0; RECORD_HEADER]);
            assert_eq!(header.check(generation, 0, &[0; RECORD_HEADER]), None);
        }
    }
}
