//! Jobs that nobody waits for cost nothing once they have ended. Here small and without a look at
//! the clock; `tiebeam_tests::shape` by hand with 100,000 jobs and a release build.

use serde_json::json;
use tiebeam_tests::shape::{self, Subject};
use tiebeam_tests::{Options, TestNode};

/// Jobs that are started and never waited for.
const JOBS: usize = 2_000;

#[test]
fn jobs_that_nobody_waits_for_leave_no_live_job_behind() {
    let node = TestNode::start(Options::default());
    let login = node.admin();
    let subject = Subject { address: node.address, ca_file: &node.ca_file, login: &login };
    let figures = shape::measure(subject, JOBS, 8);
    println!("{figures}");
    // All of them have ended and are in the history: none is live.
    for stage in ["submitted", "scheduled", "executed"] {
        let page = node.call(&login, "job_history", json!([{"stage": stage}])).expect("a page");
        assert_eq!(page["records"], json!([]), "{stage}");
    }
    let wanted = JOBS + shape::WARM_UP + 2 * shape::MEASURED;
    let id = node.call(&login, "job_start", json!(["node_list"])).expect("a job");
    assert_eq!(id, json!(format!("11.{}", wanted + 1)), "each job has its own number, no gaps");
}
