//! Fills the hot index, brings it up to the segments at the start, and empties it behind seals.
//!
//! Two watermarks govern it, each written in the batch that makes it true: `applied` (the newest
//! record whose rows are in, with its hash) and `from` (the oldest whose rows are still in). An
//! index that cannot be opened, or whose `applied` is not in the segments, is dropped and made
//! again. Used by the history thread only.

use super::HistoryError;
use super::append::Segments;
use super::block::Block;
use super::facts::{Facts, Subject};
use super::index::{
    Batch, HotIndex, IndexError, Shared, SledIndex, addendum_key, last_number, mark_key,
    outline_key, shared_row, to_shared_row,
};
use super::outline::{self, Outline};
use super::seal;
use super::segment::Segment;
use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tiebeam_proto::chain::Hash;

const APPLIED: &str = "history.applied";
const FROM: &str = "history.from";

/// The hot index and how far it goes.
pub(super) struct Hot {
    pub(super) index: Box<dyn HotIndex>,
    /// The oldest record whose rows are in.
    pub(super) from: u64,
    /// Why it was made again, if it was.
    pub(super) rebuilt: Option<String>,
}

/// Opens the index and makes it agree with the segments.
pub(super) fn open(folder: &Path, segments: &Segments) -> Result<Hot, HistoryError> {
    let (index, applied, from, rebuilt) = match usable(folder, segments) {
        Ok((index, applied, from)) => (index, applied, from, None),
        Err(reason) => {
            match std::fs::remove_dir_all(folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(HistoryError::io("remove", folder)(error));
                }
                Ok(()) | Err(_) => {}
            }
            let index = SledIndex::open(folder).map_err(HistoryError::Index)?;
            let known = !segments.library.segments().is_empty();
            (index, 0, 0, known.then_some(reason))
        }
    };
    let mut hot = Hot { index: Box::new(index), from, rebuilt };
    hot.catch_up(segments, applied)?;
    hot.set_out(segments).map_err(HistoryError::Index)?;
    hot.index.sync().map_err(HistoryError::Index)?;
    Ok(hot)
}

/// The index as it is, with `applied` and `from`, if it can be used; else the reason why not.
fn usable(folder: &Path, segments: &Segments) -> Result<(SledIndex, u64, u64), String> {
    let index = SledIndex::open(folder).map_err(|error| super::chain_of(&error))?;
    let read = |name| index.get(&mark_key(name)).map_err(|error| super::chain_of(&error));
    let (Some(applied), Some(from)) = (read(APPLIED)?, read(FROM)?) else {
        return Err("it has no watermark".to_owned());
    };
    let at = last_number(&applied).map_err(|error| error.to_string())?;
    let from = last_number(&from).map_err(|error| error.to_string())?;
    let newest = segments.library.segments().last().map_or(0, |segment| segment.last());
    if at > newest {
        return Err(format!("it knows record {at}, and the newest is {newest}"));
    }
    let block = segments.library.block(at).map_err(|error| super::chain_of(&error))?;
    let same =
        block.is_none_or(|block| block.kept(at).is_some_and(|k| applied.starts_with(&k.this)));
    if !same {
        return Err(format!("it knows another record {at}"));
    }
    Ok((index, at, from))
}

impl Hot {
    /// Puts in the rows of everything above `applied` that is not sealed. What this index cannot
    /// cover any more is sealed now.
    fn catch_up(&mut self, segments: &Segments, applied: u64) -> Result<(), HistoryError> {
        while let Some(segment) = segments.unsealed() {
            if applied >= segment.last() && self.from <= segment.first && self.from > 0 {
                // Its rows are all here: the sealing thread does it, without keeping us.
                break;
            }
            seal_now(&segment)?;
        }
        let growing = segments.library.segments().pop();
        let Some(segment) = growing.filter(|segment| segment.sealed().is_none()) else {
            return Ok(());
        };
        let file = segment.open()?;
        let places = segment.places()?;
        // Blocks that end at or below `applied` are not read: a start after a kill has few left.
        let after = places.partition_point(|place| place.first <= applied);
        for place in places.iter().skip(after.saturating_sub(1)) {
            let block = segment.block(&file, *place)?;
            if block.last() > applied {
                let facts: Vec<_> = facts_of(&block);
                self.put(&block, &facts).map_err(HistoryError::Index)?;
            }
        }
        Ok(())
    }

    /// Gives an index that has no rows, because all is sealed, its watermarks.
    fn set_out(&mut self, segments: &Segments) -> Result<(), IndexError> {
        let newest = segments.library.segments().pop();
        let Some(segment) = newest.filter(|_| self.from == 0) else {
            return Ok(());
        };
        let (last, head) = (segment.last(), segment.extent().head);
        self.from = last + 1;
        let puts = vec![
            (mark_key(APPLIED), applied(head, last)),
            (mark_key(FROM), self.from.to_be_bytes().to_vec()),
        ];
        self.index.write(Batch { puts, removes: Vec::new() })
    }

    /// Puts in the rows of one block, all of them or none.
    pub(super) fn put<F: Borrow<Facts>>(
        &mut self,
        block: &Block,
        facts: &[F],
    ) -> Result<(), IndexError> {
        let mut batch = Batch::default();
        let mut notes: BTreeMap<Vec<u8>, BTreeMap<u8, u64>> = BTreeMap::new();
        for (index, facts) in (block.first..).zip(facts) {
            let facts = facts.borrow();
            for shared in shared_of(facts) {
                notes.entry(shared.key).or_default().insert(shared.low, index);
            }
            if let Subject::Addendum(id) = facts.subject {
                batch.puts.push((addendum_key(id, index), Vec::new()));
            }
        }
        for (key, new) in notes {
            let mut row = self.index.get(&key)?.map_or_else(BTreeMap::new, |row| shared_row(&row));
            row.extend(new);
            batch.puts.push((key, to_shared_row(&row)));
        }
        let outline = outline::pack(block.first, facts.iter().map(Borrow::borrow));
        batch.puts.push((outline_key(block.first), outline));
        batch.puts.push((mark_key(APPLIED), applied(block.head(), block.last())));
        if self.from == 0 {
            self.from = block.first;
            batch.puts.push((mark_key(FROM), block.first.to_be_bytes().to_vec()));
        }
        self.index.write(batch)
    }

    /// Removes the rows of up to `blocks` blocks that begin before `boundary`: they are in index
    /// files now. Gives whether there may be more.
    pub(super) fn retire(&mut self, boundary: u64, blocks: usize) -> Result<bool, IndexError> {
        let last = boundary.saturating_sub(1);
        if self.from > last || self.from == 0 {
            return Ok(false);
        }
        let rows = self.index.scan(&outline_key(0), &outline_key(last), false, blocks)?;
        let (mut batch, mut shared) = (Batch::default(), BTreeSet::new());
        let mut from = boundary;
        for (key, value) in &rows {
            let outline = Outline::read(value).ok_or(IndexError::Row)?;
            let facts = outline.facts().ok_or(IndexError::Row)?;
            for (index, facts) in (outline.first..).zip(&facts) {
                shared.extend(shared_of(facts).map(|shared| shared.key));
                if let Subject::Addendum(id) = facts.subject {
                    batch.removes.push(addendum_key(id, index));
                }
            }
            batch.removes.push(key.clone());
            from = outline.first + outline.count;
        }
        for key in shared {
            let mut row = self.index.get(&key)?.map_or_else(BTreeMap::new, |row| shared_row(&row));
            row.retain(|_, index| *index >= from);
            if row.is_empty() {
                batch.removes.push(key);
            } else {
                batch.puts.push((key, to_shared_row(&row)));
            }
        }
        let more = rows.len() == blocks;
        self.from = if more { from } else { boundary };
        batch.puts.push((mark_key(FROM), self.from.to_be_bytes().to_vec()));
        self.index.write(batch)?;
        Ok(more)
    }
}

/// The shared rows that note a record.
fn shared_of(facts: &Facts) -> impl Iterator<Item = Shared> {
    facts.job().map(Shared::job).into_iter().chain(facts.revision.map(Shared::revision))
}

/// The value of the `applied` mark: the record's hash and index.
fn applied(hash: Hash, index: u64) -> Vec<u8> {
    [&hash[..], &index.to_be_bytes()].concat()
}

/// The facts of a block's records.
pub(super) fn facts_of(block: &Block) -> Vec<Facts> {
    block.records().map(|kept| kept.canonical.map_or_else(Facts::default, Facts::of)).collect()
}

/// Seals a segment on this thread.
pub(super) fn seal_now(segment: &Arc<Segment>) -> Result<(), HistoryError> {
    seal_until(segment, &AtomicBool::new(false))
}

/// Seals a segment; ends early with an error when `stop` is set.
pub(super) fn seal_until(segment: &Arc<Segment>, stop: &AtomicBool) -> Result<(), HistoryError> {
    let places = segment.places()?;
    let sealed = Arc::new(seal::build(segment, &places, stop)?);
    segment.update(|extent| {
        extent.sealed = Some(sealed);
        extent.places = Vec::new();
    });
    Ok(())
}
