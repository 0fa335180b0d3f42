//! The first files of a simulated member, and the log settings of all of them.

use tiebeam_core::{State, snapshot as state_bytes};
use tiebeam_replica::Mark;
use tiebeam_replica::log::LogSettings;
use tiebeam_replica::membership::Membership;
use tiebeam_replica::recovery::bootstrap;
use tiebeam_replica::seams::mem::{MemDisk, SeededRng};
use tiebeam_replica::snapshot::SnapshotMeta;

/// Small segments, so that every life sees several.
pub(super) fn log_settings() -> LogSettings {
    LogSettings { segment_bytes: 48 << 10, first_segment_bytes: 16 << 10, mark_every: 1 }
}

/// Makes the first files of a member: a snapshot of `state`, and a log behind it.
pub(super) fn init(
    disk: &MemDisk,
    seed: u64,
    state: &State,
    membership: Membership,
) -> Result<(), String> {
    let body = state_bytes::encode(state);
    let mark = Mark { index: state.applied, term: state.term };
    let meta = SnapshotMeta { mark, membership };
    let rng = Box::new(SeededRng::new(seed));
    bootstrap(disk.clone(), log_settings(), rng, meta, &body).map_err(|error| format!("{error:?}"))
}
