//! What this node tells the cluster of itself, so that everybody who follows events hears of it:
//! its wall clock, when that can no longer be believed or can again (ruling 22), and hand edits of
//! the published file (ruling 28).
//!
//! The log, `/health` and the metrics of the node itself say the same without any master; here is
//! only the way to the others. Who calls it has found out; nothing is looked for here.

use crate::cluster::remote;
use crate::engine::Engine;
use std::sync::Arc;
use std::time::Duration;
use tiebeam_core::notice::Notice;
use tiebeam_core::proposal::Body;

/// How often a hand edit is offered to a master, and the pause between two times.
const TRIES: u32 = 60;
const AGAIN: Duration = Duration::from_secs(1);

/// Tells whether this node's wall clock is suspect, if that is not what State has, and once it is
/// right by itself although State has what was accepted of it. It is looked at
/// again and again, so what gets lost is told by the next look.
pub async fn clock(engine: &Engine) {
    let (state, own) = (engine.board.state(), engine.identity.node_id);
    let clocks = &engine.cluster.clocks;
    if !engine.cluster.is_caught_up() || !clocks.knows_enough(&state) {
        return;
    }
    let off_s = clocks.own_off_us(&state).map(|off_us| off_us / 1_000_000);
    let known = state.clocks.get(&own).copied().unwrap_or_default();
    // What was accepted of it has ended: off by as much once more, it is suspect once more.
    let right = known.accepted_us.is_some() && clocks.is_right(&state);
    if known.suspect_s.is_some() != off_s.is_some() || right {
        remote::propose(engine, Body::Notice(Notice::Clock { node: own, off_s, right })).await;
    }
}

/// Tells of a hand edit, as often as it takes.
pub fn hand_edit(engine: &Arc<Engine>, revision: u64, kept: Option<String>) {
    let engine = engine.clone();
    let notice = Notice::HandEdit { node: engine.identity.node_id, revision, kept };
    tokio::spawn(async move {
        for _ in 0..TRIES {
            if remote::propose(&engine, Body::Notice(notice.clone())).await {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = engine.stop.cancelled() => return,
            }
        }
        tracing::warn!("there was no master to tell of the hand edit");
    });
}
