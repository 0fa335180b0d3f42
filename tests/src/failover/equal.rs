//! Whether all nodes are the same: State, configuration and chain at one index, by `tiebeamd check`
//! on the stopped nodes.

use crate::cluster::TestCluster;
use crate::crash::Failure;
use crate::node::TestNode;
use crate::program::{Ended, run, tiebeamd_command};
use crate::wire::{Login, Wire};
use std::time::{Duration, Instant};

/// How long nodes without load may take to apply the same.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a comparison gave.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// What is equal, as the first node says it.
    pub digest: String,
    /// What is wrong.
    pub findings: Vec<String>,
}

/// The index that a running node has applied.
fn applied(node: &TestNode) -> Option<u64> {
    let mut wire = Wire::unix(&node.socket()).ok()?;
    let reply = wire.request("GET", "/health/ready", &Login::None, &[], b"").ok()?;
    reply.json()["applied"].as_u64()
}

/// Waits until all running nodes have applied the same index.
///
/// # Errors
/// They do not.
pub fn same_index(nodes: &[TestNode]) -> Result<u64, Failure> {
    let begun = Instant::now();
    loop {
        let all: Vec<Option<u64>> = nodes.iter().map(applied).collect();
        if let Some(Some(first)) = all.first()
            && all.iter().all(|one| *one == Some(*first))
        {
            return Ok(*first);
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("not the same index within {PATIENCE:?}: {all:?}").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// `tiebeamd check --digest --at INDEX` on a stopped node.
///
/// # Panics
/// It cannot be started.
pub fn digest(node: &TestNode, index: u64) -> Ended {
    let mut check = tiebeamd_command();
    check.arg("check").arg("--data").arg(&node.data);
    check.args(["--digest", "--at", &index.to_string()]);
    run(&mut check, "")
}

/// Waits for the same index on all nodes, stops them, and compares what they hold.
///
/// # Errors
/// They do not come to the same index.
pub fn stop_and_compare(cluster: &mut TestCluster) -> Result<Compared, Failure> {
    let index = same_index(&cluster.nodes)?;
    let mut compared = Compared::default();
    for node in &mut cluster.nodes {
        let code = node.terminate();
        if code != 0 {
            compared.findings.push(format!("{}: SIGTERM, exit status {code}", node.url));
        }
    }
    for node in &cluster.nodes {
        let digest = digest(node, index);
        if compared.digest.is_empty() {
            compared.digest.clone_from(&digest.out);
        }
        if digest.code != 0 || digest.out != compared.digest {
            let Ended { out, err, .. } = digest;
            let first = &compared.digest;
            compared.findings.push(format!("{} at {index}: {out}{err}\nnot {first}", node.url));
        }
        let check = node.check();
        if check.code != 0 {
            compared.findings.push(format!("{}: {}{}", node.url, check.out, check.err));
        }
    }
    Ok(compared)
}
