//! Running a job function once, to a plan.

use super::world::JobWorld;
use crate::engine::Engine;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tiebeam_core::State;
use tiebeam_core::declaration::Params;
use tiebeam_core::proposal::Plan;
use tiebeam_jobs::{Job, JobError, Run};

/// What the world of a run has to know of its job.
#[derive(Clone, Debug)]
pub struct WorldFacts {
    /// What salts of commitments are made from.
    pub nonce: String,
    /// Sequence number and id, for a job that is in State and may run commands.
    pub live: Option<(u64, String)>,
}

/// Runs the job function against `state`. Never fails: a failure is a plan, a panic too.
pub async fn once(
    engine: &Arc<Engine>,
    job: &'static Job,
    user: &str,
    params: &Params,
    state: Arc<State>,
    facts: WorldFacts,
    dry_run: bool,
) -> Plan {
    let world = Arc::new(JobWorld::new(engine.clone(), facts));
    let run = Run::new(user.to_owned(), params.clone(), state, world);
    let function = AssertUnwindSafe((job.run)(run.clone())).catch_unwind();
    let result = function.await.unwrap_or_else(|_| {
        tracing::error!(job = job.declaration.name, "a job function panicked");
        Err(JobError::failed("the job failed by a fault of the daemon; its log names the place"))
    });
    let mut plan = run.into_plan(result, dry_run);
    if let Some(shown) = &mut plan.dry_run {
        let locks = (job.declaration.locks)(params);
        let locks: Vec<String> = locks.iter().map(ToString::to_string).collect();
        shown["locks"] = serde_json::json!(locks);
    }
    plan
}
