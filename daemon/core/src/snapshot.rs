//! State as bytes: what a snapshot holds. One line of header, then JSON.
//!
//! The header names the format, so that a later version can tell what it reads and an older one
//! refuses what it cannot.

use crate::state::{FORMAT, State};

const MAGIC: &str = "tiebeam state ";

/// Why bytes are no State.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The header is missing.
    #[error("the snapshot does not begin with its header")]
    Header,
    /// Written by a version that this one does not know.
    #[error("the snapshot has format {0}; this version reads up to format {FORMAT}")]
    Format(u32),
    /// The body is damaged or of another shape.
    #[error("the snapshot's body is not a State")]
    Body(#[source] serde_json::Error),
}

/// The bytes of a State: the same State gives the same bytes.
pub fn encode(state: &State) -> Vec<u8> {
    let mut out = format!("{MAGIC}{FORMAT}\n").into_bytes();
    serde_json::to_writer(&mut out, state).expect("State has only types that JSON can hold");
    out
}

/// Reads a State.
pub fn decode(bytes: &[u8]) -> Result<State, SnapshotError> {
    let line_end = bytes.iter().position(|byte| *byte == b'\n').ok_or(SnapshotError::Header)?;
    let header = std::str::from_utf8(&bytes[..line_end]).map_err(|_| SnapshotError::Header)?;
    let format = header.strip_prefix(MAGIC).and_then(|text| text.parse().ok());
    let format: u32 = format.ok_or(SnapshotError::Header)?;
    if format == 0 || format > FORMAT {
        return Err(SnapshotError::Format(format));
    }
    serde_json::from_slice(&bytes[line_end + 1..]).map_err(SnapshotError::Body)
}
