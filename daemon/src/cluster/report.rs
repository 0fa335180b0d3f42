//! What a member tells its master after each batch that it applied, and what the master tells the
//! members of each other's histories.
//!
//! Fixed numbers, little-endian, behind a format byte; a later version appends fields, and an
//! earlier one ignores what it does not know.

use std::collections::BTreeMap;
use tiebeam_replica::prefix::Held;

/// The format that this version writes.
const FORMAT: u8 = 1;

/// A member's report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberReport {
    /// The term in which it was told.
    pub term: u64,
    /// Applied index.
    pub applied: u64,
    /// The newest published revision.
    pub published: u64,
    /// The newest chain index that is durable in its history.
    pub history_to: u64,
    /// The lowest chain index from which its history has no gap.
    pub history_from: u64,
    /// Its wall clock, microseconds.
    pub wall_us: u64,
    /// The feature level that it supports.
    pub feature_level: u64,
    /// The number of the cluster key that State names, if it is here; else 0.
    pub key: u64,
    /// Whether it is its last one: the node stops, and is not to be waited for.
    pub leaving: bool,
    /// Whether it cannot lead now: its history has a gap, or its hot index is out of use.
    pub cannot_lead: bool,
}

impl MemberReport {
    /// The frame's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        for number in self.fields() {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out
    }

    fn fields(&self) -> [u64; 10] {
        [
            self.term,
            self.applied,
            self.published,
            self.history_to,
            self.history_from,
            self.wall_us,
            self.feature_level,
            self.key,
            u64::from(self.leaving),
            u64::from(self.cannot_lead),
        ]
    }

    /// Reads a frame; `None` if it is none of a report.
    pub fn decode(bytes: &[u8]) -> Option<MemberReport> {
        let (format, rest) = bytes.split_first()?;
        let field = |nth: usize| {
            let bytes = rest.get(nth * 8..nth * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        (*format >= FORMAT).then_some(())?;
        Some(MemberReport {
            term: field(0)?,
            applied: field(1)?,
            published: field(2)?,
            history_to: field(3)?,
            history_from: field(4)?,
            wall_us: field(5)?,
            feature_level: field(6)?,
            // Reports of earlier versions end before this one or one of the next.
            key: field(7).unwrap_or_default(),
            leaving: field(8) == Some(1),
            cannot_lead: field(9) == Some(1),
        })
    }
}

/// What each member has durably in its history, as the master tells it (ruling 16).
pub struct Histories(pub BTreeMap<u64, Held>);

impl Histories {
    /// The frame's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        for (member, held) in &self.0 {
            for number in [*member, held.from, held.to] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out
    }

    /// Reads a frame; `None` if it is none of histories.
    pub fn decode(bytes: &[u8]) -> Option<Histories> {
        let (format, rest) = bytes.split_first()?;
        let rows = rest.chunks_exact(24);
        if *format != FORMAT || !rows.remainder().is_empty() {
            return None;
        }
        let number = |row: &[u8], nth: usize| {
            let bytes = row.get(nth * 8..nth * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let row = |row: &[u8]| {
            let held = Held { from: number(row, 1)?, to: number(row, 2)? };
            Some((number(row, 0)?, held))
        };
        rows.map(row).collect::<Option<_>>().map(Histories)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_its_frame_and_fields_that_come_later() {
        let report = MemberReport { term: 3, applied: 9, feature_level: 1, ..Default::default() };
        let mut bytes = report.encode();
        assert_eq!(MemberReport::decode(&bytes), Some(report));
        bytes.extend_from_slice(&[7; 8]);
        assert_eq!(MemberReport::decode(&bytes), Some(report));
        let leaving = MemberReport { leaving: true, ..report };
        let told = leaving.encode();
        assert_eq!(MemberReport::decode(&told), Some(leaving));
        assert_eq!(MemberReport::decode(&told[..told.len() - 8]), Some(leaving), "one before");
        assert_eq!(MemberReport::decode(&told[..told.len() - 16]), Some(report), "two before");
        let unable = MemberReport { cannot_lead: true, ..report };
        assert_eq!(MemberReport::decode(&unable.encode()), Some(unable));
        assert_eq!(MemberReport::decode(&bytes[..20]), None);
        assert_eq!(MemberReport::decode(&[]), None);
    }

    #[test]
    fn histories_survive_their_frame_and_a_torn_one_is_refused() {
        let held = |from, to| Held { from, to };
        let all = BTreeMap::from([(7, held(1, 90)), (9, held(5, 4))]);
        let bytes = Histories(all.clone()).encode();
        assert_eq!(Histories::decode(&bytes).map(|histories| histories.0), Some(all));
        assert!(Histories::decode(&bytes[..40]).is_none());
        assert!(Histories::decode(&[FORMAT + 1]).is_none() && Histories::decode(&[]).is_none());
        assert!(Histories::decode(&[FORMAT]).is_some_and(|histories| histories.0.is_empty()));
    }
}
