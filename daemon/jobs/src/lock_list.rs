//! `lock_list`: shows who holds or waits for which locks.

use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::State;
use tiebeam_core::declaration::Declaration;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "lock_list",
        group: "jobs",
        summary: "Show who holds or waits for which locks",
        description: "Returns a list of `{job, name, user, locks, state, since}` in the order of \
                      the jobs. `state` is `running`, `waiting`, or `in_doubt`: a job that ended \
                      indeterminate holds its locks until the node reports the end of its \
                      commands or lock_release lets go of them.",
        ..Declaration::READ
    },
    run: |run| Box::pin(lock_list(run)),
};

async fn lock_list(run: Run) -> Result<Value, JobError> {
    let state = run.state();
    let mut lines: Vec<(u64, Value)> = live(&state);
    lines.extend(state.locks_in_doubt().map(|(sequence, doubt)| {
        let locks: Vec<String> = doubt.locks.iter().map(ToString::to_string).collect();
        let open: Vec<Value> =
            doubt.commands.iter().map(|(key, node)| json!({"name": key, "node": node})).collect();
        let line = json!({"job": doubt.job, "locks": locks, "state": "in_doubt",
            "since": doubt.since, "commands": open});
        (*sequence, line)
    }));
    lines.sort_by_key(|(sequence, _)| *sequence);
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

fn live(state: &State) -> Vec<(u64, Value)> {
    let line = |sequence: u64, word: &str| {
        let job = state.jobs.get(&sequence).filter(|job| !job.locks.is_empty())?;
        let stages = &job.record.stages;
        let line = json!({
            "job": job.record.job,
            "name": job.record.name,
            "user": job.record.user,
            "locks": job.record.scheduling.locks,
            "state": word,
            "since": if word == "waiting" { stages.submitted } else { stages.scheduled },
        });
        Some((sequence, line))
    };
    let waiting = state.waiting.iter().filter_map(|sequence| line(*sequence, "waiting"));
    waiting.chain(state.running.iter().filter_map(|sequence| line(*sequence, "running"))).collect()
}
