//! The text of a job, from its record.
//!
//! The layout is `tiebeam_proto::jobfile`'s, which the client shares; this adds what the history
//! knows: the record's place and its addenda. The same records give the same bytes on every node.
//! Request side: it returns errors, it never panics.

use crate::history::{History, HistoryError};
use serde_json::Value;
use tiebeam_proto::jobfile;
use tiebeam_proto::record::Archived;

/// The text of an archived job with its addenda; `None` if the history has no such job.
///
/// # Errors
/// What the history says.
pub fn of_job(history: &History, id: &str) -> Result<Option<String>, HistoryError> {
    let record = history.job(id)?;
    record.map(|record| Ok(of_record(&record, &history.addenda(id)?))).transpose()
}

/// The text of a record with its place in the chain and what became known later.
pub fn of_record(record: &Archived, addenda: &[Archived]) -> String {
    let addenda: Vec<Value> = addenda.iter().map(|addendum| value(&addendum.canonical)).collect();
    jobfile::render(&value(&record.canonical), &addenda, Some(&record.link))
}

/// The text of a job that is not archived yet: without `chain`.
pub fn unarchived(record: &Value) -> String {
    jobfile::render(record, &[], None)
}

/// What apply archived is JSON; anything else is shown as an empty record with its place.
fn value(canonical: &[u8]) -> Value {
    serde_json::from_slice(canonical).unwrap_or_default()
}
