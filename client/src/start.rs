//! How a job is started: the keys of `kwargs` beside `params` (wire.md section 4).

use serde_json::{Map, Value, json};
use std::time::Duration;

/// Options of a start. The default runs the job at once and keeps a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// Why this is done; kept in the record.
    pub reason: Option<String>,
    /// The job is stopped if it has not finished in this time (whole seconds).
    pub deadline: Option<Duration>,
    /// Plan only: change nothing.
    pub dry_run: bool,
    /// Read jobs only: keep no record.
    pub volatile: bool,
    /// Idempotency key, at most 64 characters. Without one the client makes one for each start,
    /// so give one only if the same start may be sent by another process too.
    pub request_id: Option<String>,
    /// RFC 3339 time; the job waits until then.
    pub not_before: Option<String>,
    /// The change is undone unless confirmed in this time (whole seconds).
    pub confirm_within: Option<Duration>,
    /// The plan token of a dry run: do exactly that.
    pub plan: Option<String>,
}

impl StartOptions {
    /// A read that keeps no record.
    pub fn volatile() -> StartOptions {
        StartOptions { volatile: true, ..StartOptions::default() }
    }

    /// The `kwargs` of `job_start` and `job_exec`.
    pub(crate) fn kwargs(&self, params: Value, request_id: &str, wait_s: Option<u64>) -> Value {
        let params = if params.is_null() { json!({}) } else { params };
        let mut kwargs = Map::from_iter([("params".to_owned(), params)]);
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                kwargs.insert(key.to_owned(), value);
            }
        };
        put("dry_run", self.dry_run.then_some(Value::Bool(true)));
        put("volatile", self.volatile.then_some(Value::Bool(true)));
        put("reason", self.reason.as_ref().map(|text| json!(text)));
        put("deadline_s", self.deadline.map(|time| json!(time.as_secs())));
        put("confirm_within_s", self.confirm_within.map(|time| json!(time.as_secs())));
        put("not_before", self.not_before.as_ref().map(|text| json!(text)));
        put("plan", self.plan.as_ref().map(|text| json!(text)));
        put("wait_s", wait_s.map(|seconds| json!(seconds)));
        // A volatile read keeps nothing, its key neither; and doing it twice does no harm.
        put("request_id", (!self.volatile).then(|| json!(request_id)));
        Value::Object(kwargs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_sent() {
        let plain = StartOptions::default().kwargs(Value::Null, "k", None);
        assert_eq!(plain, json!({"params": {}, "request_id": "k"}));
        let options = StartOptions {
            reason: Some("ticket 4711".into()),
            deadline: Some(Duration::from_secs(90)),
            dry_run: true,
            ..StartOptions::volatile()
        };
        assert_eq!(
            options.kwargs(json!({"a": 1}), "k", Some(5)),
            json!({"params": {"a": 1}, "reason": "ticket 4711", "deadline_s": 90, "dry_run": true,
                   "volatile": true, "wait_s": 5})
        );
    }
}
