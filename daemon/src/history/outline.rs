//! Outlines: the facts of a run of records, packed so that a search can pass over many.
//!
//! First the time range and the dictionaries (names, users, sets of nodes), which tell whether
//! the run can hold a match at all; then a few bytes per record. An unsealed block has its outline
//! in the hot index, a sealed segment has outlines of about 512 records in its index file. Pure;
//! bytes that are no outline give `None`.

use super::facts::{Facts, JobId, Subject};
use std::collections::BTreeMap;
use tiebeam_proto::{Kind, Outcome};

/// Appends an integer, 7 bits to the byte, lowest first.
pub(super) fn put_int(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer; near zero is short.
fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_int(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a length and the bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_int(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes values from the front of packed bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next integer.
    pub(super) fn int(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.int()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next length and that many bytes.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.int()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = usize::try_from(self.int()?).ok().filter(|count| *count <= self.0.len())?;
        (0..count).map(|_| item(self)).collect()
    }
}

/// An outline whose dictionaries are read; its records are read when they are asked for.
pub(super) struct Outline<'a> {
    pub(super) first: u64,
    pub(super) count: u64,
    /// Earliest and latest end of a record, microseconds since 1970.
    pub(super) times: (i64, i64),
    pub(super) names: Vec<&'a str>,
    pub(super) users: Vec<&'a str>,
    pub(super) nodes: Vec<Vec<u32>>,
    rows: &'a [u8],
}

/// Gives every distinct value a number, in the order of their first occurrence.
struct Codes<T>(BTreeMap<T, u64>, Vec<T>);

impl<T: Ord + Clone> Codes<T> {
    fn new() -> Codes<T> {
        Codes(BTreeMap::new(), Vec::new())
    }

    fn code(&mut self, value: &T) -> u64 {
        if let Some(code) = self.0.get(value) {
            return *code;
        }
        let code = self.1.len() as u64;
        self.0.insert(value.clone(), code);
        self.1.push(value.clone());
        code
    }
}

/// Packs the facts of consecutive records, of which the first has index `first`.
pub(super) fn pack<'a>(first: u64, facts: impl ExactSizeIterator<Item = &'a Facts>) -> Vec<u8> {
    let count = facts.len() as u64;
    let (mut names, mut users) = (Codes::<&str>::new(), Codes::<&str>::new());
    let mut nodes = Codes::<&[u32]>::new();
    let mut rows = Vec::new();
    let (mut times, mut before, mut sequence) = ((i64::MAX, i64::MIN), 0i64, 0i64);
    for fact in facts {
        times = (times.0.min(fact.ended), times.1.max(fact.ended));
        rows.push(flags(fact));
        if let Subject::Job(id) | Subject::Addendum(id) = fact.subject {
            put_int(&mut rows, u64::from(id.node));
            put_signed(&mut rows, (id.sequence as i64).wrapping_sub(sequence));
            sequence = id.sequence as i64;
        }
        put_int(&mut rows, names.code(&fact.name.as_str()));
        put_int(&mut rows, users.code(&fact.user.as_str()));
        put_int(&mut rows, nodes.code(&fact.nodes.as_slice()));
        put_signed(&mut rows, fact.begun.wrapping_sub(before));
        put_signed(&mut rows, fact.ended.wrapping_sub(fact.begun));
        put_int(&mut rows, fact.revision.map_or(0, |revision| revision.saturating_add(1)));
        put_bytes(&mut rows, fact.note.as_bytes());
        before = fact.begun;
    }
    let mut out = Vec::with_capacity(rows.len() + 256);
    put_int(&mut out, first);
    put_int(&mut out, count);
    put_signed(&mut out, times.0);
    put_signed(&mut out, times.1);
    for codes in [&names, &users] {
        put_int(&mut out, codes.1.len() as u64);
        codes.1.iter().for_each(|text| put_bytes(&mut out, text.as_bytes()));
    }
    put_int(&mut out, nodes.1.len() as u64);
    for set in &nodes.1 {
        put_int(&mut out, set.len() as u64);
        set.iter().for_each(|node| put_int(&mut out, u64::from(*node)));
    }
    out.extend_from_slice(&rows);
    out
}

impl<'a> Outline<'a> {
    /// Reads the front of an outline.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Outline<'a>> {
        let mut reader = Reader(bytes);
        let (first, count) = (reader.int()?, reader.int()?);
        let times = (reader.signed()?, reader.signed()?);
        let text = |reader: &mut Reader<'a>| std::str::from_utf8(reader.bytes()?).ok();
        let (names, users) = (reader.list(text)?, reader.list(text)?);
        let node = |reader: &mut Reader<'a>| u32::try_from(reader.int()?).ok();
        let nodes = reader.list(|reader| reader.list(node))?;
        Some(Outline { first, count, times, names, users, nodes, rows: reader.0 })
    }

    /// The facts of every record, oldest first.
    pub(super) fn facts(&self) -> Option<Vec<Facts>> {
        let mut reader = Reader(self.rows);
        let (mut before, mut sequence) = (0i64, 0i64);
        (0..self.count).map(|_| self.row(&mut reader, &mut before, &mut sequence)).collect()
    }

    fn row(&self, reader: &mut Reader<'a>, before: &mut i64, sequence: &mut i64) -> Option<Facts> {
        let (flags, rest) = reader.0.split_first()?;
        reader.0 = rest;
        let mut id = JobId::default();
        if flags & 3 < 2 {
            id.node = u32::try_from(reader.int()?).ok()?;
            *sequence = sequence.wrapping_add(reader.signed()?);
            id.sequence = *sequence as u64;
        }
        let text = |texts: &[&str], code: u64| Some((*texts.get(code as usize)?).to_owned());
        let name = text(&self.names, reader.int()?)?;
        let user = text(&self.users, reader.int()?)?;
        let nodes = self.nodes.get(reader.int()? as usize)?.clone();
        *before = before.wrapping_add(reader.signed()?);
        let ended = before.wrapping_add(reader.signed()?);
        let revision = reader.int()?.checked_sub(1);
        let note = std::str::from_utf8(reader.bytes()?).ok()?.to_owned();
        Some(Facts {
            subject: match flags & 3 {
                0 => Subject::Job(id),
                1 => Subject::Addendum(id),
                2 => Subject::Audit,
                _ if flags >> 2 & 3 == 0 => Subject::Tree,
                _ => Subject::Other,
            },
            kind: match flags & 3 {
                3 => None,
                _ => {
                    [Kind::Read, Kind::Modify, Kind::Act].get(usize::from(flags >> 2 & 3)).copied()
                }
            },
            outcome: Outcome::ALL.get(usize::from(flags >> 4 & 7)).copied(),
            committed: flags & 0x80 != 0,
            begun: *before,
            name,
            user,
            nodes,
            ended,
            revision,
            note,
        })
    }
}

/// Subject, kind, outcome and last stage in one byte.
fn flags(facts: &Facts) -> u8 {
    let subject = match facts.subject {
        Subject::Job(_) => 0,
        Subject::Addendum(_) => 1,
        Subject::Audit => 2,
        Subject::Tree | Subject::Other => 3,
    };
    // What is no job has no kind: there the bits tell a full tree from what is not known.
    let kind = match facts.kind {
        _ if facts.subject == Subject::Tree => 0,
        _ if facts.subject == Subject::Other => 3,
        Some(Kind::Read) => 0,
        Some(Kind::Modify) => 1,
        Some(Kind::Act) => 2,
        None => 3,
    };
    let outcome = facts.outcome.and_then(|o| Outcome::ALL.iter().position(|other| *other == o));
    subject | kind << 2 | (outcome.unwrap_or(7) as u8) << 4 | u8::from(facts.committed) << 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_facts_come_back() {
        let mut facts = Vec::new();
        for (at, outcome) in Outcome::ALL.into_iter().enumerate() {
            let id = JobId { node: 11, sequence: u64::MAX - at as u64 * 3 };
            facts.push(Facts {
                subject: if at == 3 { Subject::Addendum(id) } else { Subject::Job(id) },
                kind: [None, Some(Kind::Read), Some(Kind::Modify), Some(Kind::Act)][at % 4],
                outcome: Some(outcome).filter(|_| at != 5),
                committed: at % 2 == 0,
                name: format!("name{}", at % 3),
                user: "admin".into(),
                nodes: vec![11, 12][..at % 3].to_vec(),
                begun: i64::MIN + at as i64,
                ended: i64::MAX - at as i64,
                revision: (at > 2).then_some(at as u64),
                note: "é".repeat(at),
            });
        }
        facts.push(Facts { subject: Subject::Audit, ..Facts::default() });
        facts.push(Facts { subject: Subject::Tree, ..Facts::default() });
        facts.push(Facts::default());
        let bytes = pack(40, facts.iter());
        let outline = Outline::read(&bytes).unwrap();
        assert_eq!((outline.first, outline.count), (40, 10));
        assert_eq!(outline.users, ["admin", ""]);
        assert_eq!(outline.facts().unwrap(), facts);
    }

    #[test]
    fn broken_bytes_are_no_outline_and_no_panic() {
        let facts = [Facts { name: "x".repeat(50), ..Facts::default() }];
        let whole = pack(1, facts.iter());
        for cut in 0..whole.len() {
            let read = Outline::read(&whole[..cut]).and_then(|outline| outline.facts());
            assert!(read.is_none(), "{cut}");
        }
    }
}
