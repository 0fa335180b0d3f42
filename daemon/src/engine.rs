//! The running node: what its parts have in common.
//!
//! One value of this type lives as long as the daemon serves. It holds the parts together and
//! decides nothing itself: admission is `pipeline/submit.rs`, running jobs `pipeline/conductor.rs`,
//! methods `methods/`.

use crate::auth::Authenticator;
use crate::board::Board;
use crate::front::tls::TlsState;
use crate::history::{History, HistoryHandle};
use crate::host::Host;
use crate::identity::Identity;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::pipeline::flight::Flight;
use crate::pipeline::volatile::VolatileResults;
use crate::pipeline::waiting::Waiting;
use crate::proposer::Proposer;
use crate::publish::Published;
use crate::settings::Settings;
use crate::space::Space;
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::sync::Arc;
use tiebeam_core::State;
use tiebeam_executor::Office;
use tiebeam_proto::record::JobRecord;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the raft thread says of this node's part in the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Whether this node leads.
    pub leads: bool,
    /// The newest term it knows.
    pub term: u64,
    /// The leader's raft id, if it knows one.
    pub leader: Option<u64>,
}

impl Role {
    /// What of it decides who is the master.
    pub fn office(&self) -> Office {
        Office { leads: self.leads, term: self.term }
    }
}

/// The parts of a running node.
pub struct Engine {
    /// The data folder.
    pub data: PathBuf,
    /// Who this node is.
    pub identity: Identity,
    /// The node's own settings.
    pub settings: ArcSwap<Settings>,
    /// Its keys.
    pub keys: Arc<Keys>,
    /// The newest State.
    pub board: Arc<Board>,
    /// The way into the log.
    pub proposer: Proposer,
    /// The other members.
    pub cluster: Arc<crate::cluster::Cluster>,
    /// What other members last said of themselves, by node id.
    pub members_facts: ArcSwap<std::collections::BTreeMap<u32, serde_json::Value>>,
    /// This node's part.
    pub role: watch::Receiver<Role>,
    /// The history, to read.
    pub history: History,
    /// The history's thread.
    pub history_thread: HistoryHandle,
    /// What the job files' thread counts.
    pub job_files: Arc<crate::jobfile::Metrics>,
    /// Processes on this node.
    pub host: Host,
    /// Logins.
    pub auth: Authenticator,
    /// Locks of plans that are on their way into the log.
    pub flight: Flight,
    /// Results that no record keeps.
    pub volatile: VolatileResults,
    /// Subscriptions that are polled.
    pub subscriptions: crate::methods::Subscriptions,
    /// How many calls wait.
    pub waiting: Arc<Waiting>,
    /// What was published.
    pub published: Published,
    /// Room on the disk.
    pub space: Arc<Space>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The certificate that clients see.
    pub tls: Arc<TlsState>,
    /// The one that peers see.
    pub peer_tls: Arc<crate::peer::PeerTls>,
    /// Fires when the node drains.
    pub stop: CancellationToken,
    /// When the daemon started.
    pub started: std::time::Instant,
}

/// The history of this node is damaged or has a gap where the answer would be (ruling 16).
#[derive(Debug, thiserror::Error)]
#[error("this node's history cannot be read here; history_verify and `tiebeamd check` say where")]
pub struct Unreadable;

impl Engine {
    /// Whether this node is the master and has applied the first entry of its term (ruling 34).
    pub fn is_master(&self) -> bool {
        self.cluster.is_master()
    }

    /// The newest State that is safe to read: confirmed by a read index (ruling 25).
    ///
    /// # Errors
    /// This node is not the master, or could not confirm it in time.
    pub async fn confirmed_state(&self) -> Result<Arc<State>, crate::proposer::ProposeError> {
        let index = self.proposer.read_index().await?;
        self.board.applied(index).await;
        Ok(self.board.state())
    }

    /// The record of a job, live or archived, and whether it reached its last stage; `None` if
    /// there is no such job.
    ///
    /// # Errors
    /// The history cannot tell whether there is one.
    pub fn job(&self, id: &str) -> Result<Option<(Arc<JobRecord>, bool)>, Unreadable> {
        let state = self.board.state();
        if let Some(job) = state.live_job(id) {
            return Ok(Some((job.record.clone(), job.has_ended())));
        }
        Ok(self.archived_job(id)?.map(|record| (record, true)))
    }

    /// The record of an archived job; `None` if there is no such job.
    ///
    /// # Errors
    /// The history cannot tell whether there is one.
    pub fn archived_job(&self, id: &str) -> Result<Option<Arc<JobRecord>>, Unreadable> {
        if tiebeam_core::job::parse_job_id(id).is_none() {
            return Ok(None);
        }
        let floor = self.board.state().chain.floor_index.max(1);
        let found = found_or_missing(
            || !self.history.gaps(floor).is_empty(),
            || {
                self.history.job(id).map_err(|error| {
                    tracing::error!(job = id, error = %crate::report::chain(&error), "history");
                    Unreadable
                })
            },
        )?;
        let Some(archived) = found else { return Ok(None) };
        let record = serde_json::from_slice(&archived.canonical);
        record.map(|record| Some(Arc::new(record))).map_err(|_| Unreadable)
    }
}

/// What is found in a history that may have a gap: what lies in one is not known here, and that is
/// not the same as never having been. Gaps are looked at first: one that is filled between the two
/// looks has what was missed, and none that opens later takes anything away.
fn found_or_missing<T>(
    has_gap: impl FnOnce() -> bool,
    look: impl FnOnce() -> Result<Option<T>, Unreadable>,
) -> Result<Option<T>, Unreadable> {
    let may_be_missed = has_gap();
    match look()? {
        None if may_be_missed => Err(Unreadable),
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_record_that_comes_between_two_looks_is_not_called_unknown() {
        // A gap has it; it is filled right after the first look, whichever that is.
        let filled = Cell::new(false);
        let (has_gap, look) = (|| !filled.replace(true), || Ok(filled.replace(true).then_some(7)));
        assert!(matches!(found_or_missing(has_gap, look), Ok(Some(7))));
        assert!(matches!(found_or_missing(|| true, || Ok(None::<u8>)), Err(Unreadable)));
        assert!(matches!(found_or_missing(|| false, || Ok(None::<u8>)), Ok(None)));
        assert!(matches!(found_or_missing(|| true, || Ok(Some(7))), Ok(Some(7))));
        assert!(found_or_missing(|| false, || Err::<Option<u8>, _>(Unreadable)).is_err());
    }
}
