//! What a caller gets to see of a job: the result object, with the secrets that are theirs, and
//! nothing of jobs that are not theirs to see.

use crate::engine::{Engine, Unreadable};
use serde_json::{Value, json};
use std::sync::Arc;
use tiebeam_core::{State, job};
use tiebeam_proto::record::JobRecord;
use tiebeam_proto::{ErrorCode, ResultObject, RpcError};

/// The record of a job and whether it ended.
type Found = Option<(Arc<JobRecord>, bool)>;

/// The record of a job that `user` may see, and whether it ended.
///
/// # Errors
/// `unknown_job_id`, the same for a job that is hidden and one that never was (invariant 15);
/// `internal` for who sees every job, if the history is not whole where the record would be.
pub fn visible(engine: &Engine, user: &str, id: &str) -> Result<(Arc<JobRecord>, bool), RpcError> {
    shown(&engine.board.state(), user, id, engine.job(id))
}

/// What was found, for `user`. Who does not see every job is told the same of all that is not
/// theirs to see: that the history could not be read for one id would tell it from a hidden one.
fn shown(
    state: &State,
    user: &str,
    id: &str,
    found: Result<Found, Unreadable>,
) -> Result<(Arc<JobRecord>, bool), RpcError> {
    match found {
        Ok(Some((record, ended))) if state.may_see(user, &record.user) => Ok((record, ended)),
        Err(unreadable) if state.sees_every_job(user) => {
            Err(RpcError::new(ErrorCode::Internal, unreadable.to_string()))
        }
        _ => Err(RpcError::unknown_job_id(id)),
    }
}

/// The result object of a record for `user`.
pub fn object(engine: &Engine, user: &str, record: &JobRecord, ended: bool) -> ResultObject {
    if !ended {
        return ResultObject::unfinished(&record.job);
    }
    let mut result = job::result_of(record);
    if user == &*record.user {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_that_is_not_whole_tells_no_hidden_job_from_one_that_never_was() {
        let state = tiebeam_core::fixture::state();
        let record = serde_json::from_value(crate::history::fixture::job(3)).expect("a record");
        let record: Arc<JobRecord> = Arc::new(record);
        let told = |user: &str, found: Result<Found, Unreadable>| {
            shown(&state, user, "11.7", found).map(drop).map_err(|error| error.code)
        };
        let hidden = || Ok(Some((record.clone(), true)));
        let unknown = Err(ErrorCode::UnknownJobId);
        assert_eq!(told("eve", hidden()), unknown);
        assert_eq!(told("eve", Ok(None)), unknown);
        assert_eq!(told("eve", Err(Unreadable)), unknown, "it may be one that never was");
        assert_eq!(told("admin", Err(Unreadable)), Err(ErrorCode::Internal), "nothing is hidden");
        assert_eq!(told("admin", Ok(None)), unknown);
        assert_eq!(told("admin", hidden()), Ok(()));
    }
}
