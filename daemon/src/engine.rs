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
    /// Fires when the node drains.
    pub stop: CancellationToken,
    /// When the daemon started.
    pub started: std::time::Instant,
}

impl Engine {
    /// Whether this node is the master and has applied the first entry of its term (ruling 34).
    pub fn is_master(&self) -> bool {
        let role = *self.role.borrow();
        role.leads && self.board.state().term == role.term
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

    /// The record of a job, live or archived, and whether it reached its last stage.
    pub fn job(&self, id: &str) -> Option<(Arc<JobRecord>, bool)> {
        let state = self.board.state();
        if let Some(job) = state.live_job(id) {
            return Some((Arc::new(job.record.clone()), job.has_ended()));
        }
        self.archived_job(id).map(|record| (record, true))
    }

    /// The record of an archived job.
    pub fn archived_job(&self, id: &str) -> Option<Arc<JobRecord>> {
        tiebeam_core::job::parse_job_id(id)?;
        match self.history.job(id) {
            Ok(Some(archived)) => serde_json::from_slice(&archived.canonical).ok().map(Arc::new),
            Ok(None) => None,
            Err(error) => {
                tracing::error!(job = id, error = %crate::report::chain(&error), "history");
                None
            }
        }
    }
}
