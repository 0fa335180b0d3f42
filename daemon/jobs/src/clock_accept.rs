//! `clock_accept`: takes the master's wall clock as right, although it is suspect.

use crate::{Job, JobError, Run};
use serde_json::{Value, json};
use tiebeam_core::declaration::Declaration;
use tiebeam_core::proposal::Write;

pub(crate) static JOB: Job = Job {
    declaration: Declaration {
        name: "clock_accept",
        group: "jobs",
        summary: "Take the master's wall clock as right",
        description: "The wall clock of the master is suspect if it differs by more than 60 s \
                      from the median of the voters' or, with fewer than 3 voters, stepped by so \
                      much while the daemon ran. Certificates are not renewed meanwhile. If that \
                      clock is the right one and the others are wrong, or the step was meant, \
                      this ends it: the clock is believed until it moves by another 60 s, or is \
                      right by itself and then off again. `/health` names whose clock is suspect; \
                      for another node's, make that node the master first, or better put the \
                      clock right. Returns `{node, off_s}`.",
        params: &[],
        examples: &[r#"{}"#],
        ..Declaration::MODIFY
    },
    run: |run| Box::pin(clock_accept(run)),
};

async fn clock_accept(run: Run) -> Result<Value, JobError> {
    let (node, _) = run.world().master();
    let Some(off_us) = run.world().clock_off_us() else {
        let text = format!("the wall clock of the master, node {node}, is not suspect");
        return Err(JobError::Failed(text));
    };
    run.write(Write::ClockAccept { node, off_us });
    Ok(json!({"node": node, "off_s": off_us / 1_000_000}))
}
