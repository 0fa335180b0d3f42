//! A new cluster key after a member was removed (ruling 21): the master makes it, the members fetch
//! it, and it is used once every member that is online has it.
//!
//! State says that one is due, then its number and fingerprint, then that it is used; the key
//! itself goes over the peer channel only. A member that was away fetches it when it is back.
//! Nothing here seals or opens anything: that is [`crate::keys`].

use super::{Cluster, remote};
use crate::engine::Engine;
use crate::keys::{ClusterKeys, KeyError};
use crate::secret::Secret;
use std::sync::Arc;
use std::time::Duration;
use tiebeam_core::State;
use tiebeam_core::proposal::{Body, KeyStep};
use tiebeam_core::state::SharedKey;

/// After so long the key that was made is taken to be lost with its maker, and another is made.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// Whether State names a key that is not here.
pub fn lacks_key(engine: &Engine) -> bool {
    let state = engine.board.state();
    state.shared_key.number > 0 && engine.keys.held(&state.shared_key) == 0
}

/// Fetches the key that State names.
pub async fn fetch_key(engine: Arc<Engine>) {
    let named = engine.board.state().shared_key.clone();
    fetch(&engine, &named).await;
}

async fn fetch(engine: &Engine, named: &SharedKey) {
    let text = match remote::cluster_key(&engine.cluster, named.number).await {
        Ok(text) => Secret::new(String::from_utf8_lossy(&text).into_owned()),
        Err(error) => {
            let why = crate::report::chain(&error);
            tracing::debug!(why, number = named.number, "no cluster key yet");
            return;
        }
    };
    let kept = ClusterKeys::from_text(&text).and_then(|key| {
        match key.fingerprint(named.number).is_some_and(|print| print == named.print) {
            true => engine.keys.keep_next(&engine.data, key).map(|()| true),
            false => Ok(false),
        }
    });
    match kept {
        Ok(true) => tracing::info!(number = named.number, "the new cluster key is here"),
        Ok(false) => tracing::warn!(number = named.number, "a member gave another key"),
        Err(error) => tell_of(&error),
    }
}

/// Uses the key that State names, if it says so and the key is here and not in use.
pub fn take_up(engine: &Engine, named: &SharedKey) {
    if !named.used {
        return;
    }
    match engine.keys.use_next(&engine.data, named) {
        Ok(false) => {}
        Ok(true) => {
            tracing::info!(number = named.number, "the new cluster key is used");
            crate::certificates::refresh(engine);
        }
        Err(error) => tell_of(&error),
    }
}

fn tell_of(error: &KeyError) {
    tracing::error!(error = %crate::report::chain(error), "the new cluster key is not kept");
}

/// Whether a master may have something to do about the key.
pub fn owes_key(engine: &Engine) -> bool {
    let named = &engine.board.state().shared_key;
    engine.is_master() && (named.due || named.number > 0 && !named.used)
}

/// What a master owes its members: makes the key that is due, and lets it be used.
pub async fn lead(engine: Arc<Engine>) {
    let engine = &*engine;
    let state = engine.board.state();
    let named = &state.shared_key;
    let is_here = named.number == 0 || named.used || engine.keys.held(named) == named.number;
    let missed_for = engine.cluster.misses_key((!is_here).then_some(named.number));
    if named.due || missed_for.is_some_and(|so_long| so_long > LOST_AFTER) {
        engine.cluster.misses_key(None);
        return make(engine, named).await;
    }
    if named.number > 0 && !named.used && is_here && all_have_it(&engine.cluster, &state) {
        propose(engine, KeyStep::Used { number: named.number }).await;
    }
}

/// It is on this disk before anybody hears of it.
async fn make(engine: &Engine, named: &SharedKey) {
    let made = engine.keys.cluster.successor(named.number).and_then(|key| {
        let number = key.newest();
        let print = key.fingerprint(number).unwrap_or_default();
        engine.keys.keep_next(&engine.data, key)?;
        Ok((number, print))
    });
    match made {
        Ok((number, print)) => propose(engine, KeyStep::Made { number, print }).await,
        Err(error) => tell_of(&error),
    }
}

async fn propose(engine: &Engine, step: KeyStep) {
    match engine.proposer.propose(Body::Key(step.clone())).await {
        Ok(_) => tracing::info!(?step, "cluster key"),
        Err(error) => tracing::debug!(?step, %error, "to be tried again"),
    }
}

/// Whether every other member that is online told this master that it has the key.
fn all_have_it(cluster: &Cluster, state: &State) -> bool {
    let number = u64::from(state.shared_key.number);
    state.members.iter().all(|(node, member)| {
        let raft_id = member.raft_id;
        *node == cluster.own()
            || !cluster.is_online(raft_id)
            || cluster.newest_report(raft_id).is_some_and(|report| report.key == number)
    })
}
