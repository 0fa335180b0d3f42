//! What a caller gets to see of a job: the result object, with the secrets that are theirs, and
//! nothing of jobs that are not theirs to see.

use crate::engine::Engine;
use serde_json::{Value, json};
use std::sync::Arc;
use tiebeam_core::job;
use tiebeam_proto::record::JobRecord;
use tiebeam_proto::{ErrorCode, ResultObject, RpcError};

/// The record of a job that `user` may see, and whether it ended.
///
/// # Errors
/// `unknown_job_id`, the same for a job that is hidden and one that never was (invariant 15);
/// `internal` if the history is damaged where the record would be.
pub fn visible(engine: &Engine, user: &str, id: &str) -> Result<(Arc<JobRecord>, bool), RpcError> {
    let found = engine
        .job(id)
        .map_err(|unreadable| RpcError::new(ErrorCode::Internal, unreadable.to_string()))?;
    let state = engine.board.state();
    match found {
        Some((record, ended)) if state.may_see(user, &record.user) => Ok((record, ended)),
        _ => Err(RpcError::unknown_job_id(id)),
    }
}

/// The result object of a record for `user`.
pub fn object(engine: &Engine, user: &str, record: &JobRecord, ended: bool) -> ResultObject {
    if !ended {
        return ResultObject::unfinished(&record.job);
    }
    let mut result = job::result_of(record);
    if user == record.user {
        fill_in_secrets(engine, record, &mut result);
    }
    result
}

/// Derives the secrets of a result again for the user whose job it was (ruling 26).
fn fill_in_secrets(engine: &Engine, record: &JobRecord, result: &mut ResultObject) {
    let Some((_, sequence)) = job::parse_job_id(&record.job) else { return };
    let state = engine.board.state();
    let Some((until, derived)) = state.derived.get(&sequence) else { return };
    if *until < state.clock_us {
        return;
    }
    let Some(Value::Object(output)) = &mut result.result_output else { return };
    for secret in derived {
        let made = engine.keys.cluster.derive(&secret.purpose, &secret.subject, &secret.nonce);
        if let Ok(made) = made {
            output.insert(secret.field.clone(), json!(secret.shown(made.expose())));
        }
    }
}
