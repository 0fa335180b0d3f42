//! State as bytes: what a snapshot holds. One line of header, then JSON.
//!
//! The header names the format, so that a later version can tell what it reads and an older one
//! refuses what it cannot.

use crate::state::{FEATURE_LEVEL, FORMAT, State};

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
    /// Of a cluster that has risen above what this version supports.
    #[error(
        "the cluster has feature level {0}; this version supports levels up to {FEATURE_LEVEL}: \
         install the newer version again"
    )]
    Level(u32),
    /// The body is damaged or of another shape.
    #[error("the snapshot's body is not a State")]
    Body(#[source] serde_json::Error),
}

impl SnapshotError {
    /// Whether a newer version could read it: it is not damaged.
    pub fn is_newer(&self) -> bool {
        matches!(self, SnapshotError::Format(_) | SnapshotError::Level(_))
    }
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
    let state: State =
        serde_json::from_slice(&bytes[line_end + 1..]).map_err(SnapshotError::Body)?;
    match state.feature_level {
        level if level > FEATURE_LEVEL => Err(SnapshotError::Level(level)),
        _ => Ok(state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn what_a_later_version_wrote_is_refused_by_its_number() {
        let mut state = fixture::state();
        let text = String::from_utf8(encode(&state)).unwrap();
        assert_eq!(decode(text.as_bytes()).unwrap(), state);
        let newer = text.replacen("tiebeam state 1", "tiebeam state 2", 1);
        let error = decode(newer.as_bytes()).unwrap_err();
        assert!(error.is_newer() && error.to_string().contains("has format 2"), "{error}");
        state.feature_level = FEATURE_LEVEL + 1;
        let error = decode(&encode(&state)).unwrap_err();
        assert!(error.is_newer() && error.to_string().contains("newer version"), "{error}");
        assert!(!decode(b"nonsense").unwrap_err().is_newer());
    }
}
