//! A first State, a submission and single entries, for tests: of this crate, and, behind the
//! feature `fixture`, of those above it. A build of the whole workspace turns the feature on for
//! all of it; no program calls anything here.

use crate::effect::{Answer, Effect};
use crate::genesis::Genesis;
use crate::proposal::{Body, CommandEnded, Header, Intent, Needs, Proposal, Submission};
use crate::state::State;
use std::sync::Arc;
use tiebeam_proto::Kind;
use tiebeam_proto::record::{Archived, CommandRecord, Mode};
use tiebeam_proto::time::Time;

/// What a cluster of node 11 begins with.
pub fn genesis() -> Genesis {
    Genesis {
        cluster_id: "c".into(),
        cluster_name: "c".into(),
        node: (11, "n11".into(), "127.0.0.11:20003".into()),
        raft_id: 11 << 16 | 1,
        key_hash: "aa".into(),
        admin_hash: "$6$x".into(),
        wall: Time(0),
    }
}

/// A cluster of node 11 at revision 1.
///
/// # Panics
/// Never: the first State is small.
pub fn state() -> State {
    State::genesis(&genesis()).expect("the first State is small")
}

/// A call of `config_set` by admin, without locks and sealed parameters.
///
/// # Panics
/// There is no user admin.
pub fn submission(state: &State) -> Submission {
    Submission {
        name: "config_set".into(),
        kind: Kind::Modify,
        user: "admin".into(),
        credential_revision: state.credential_revision("admin").expect("there is an admin"),
        reason: None,
        mode: Mode::Immediate,
        parameters: Arc::default(),
        nonce: None,
        inputs: None,
        request: Arc::default(),
        request_key: None,
        needs: Arc::new(Needs { everyone: true, ..Needs::default() }),
        locks: Arc::default(),
        master: 11,
        term: 1,
        deadline_us: 60_000_000,
        submitted: Time(0),
    }
}

/// That the command `run-n11` of job 1 ended, with this result.
pub fn command_ended(result: &str) -> Body {
    let record = CommandRecord {
        name: "run-n11".into(),
        node: 11,
        result: result.into(),
        ..CommandRecord::default()
    };
    Body::CommandEnded(Box::new(CommandEnded { job: 1, key: "run-n11".into(), record }))
}

/// That job 1 begins its command `run-n<node>` on this node.
pub fn intent(node: u32) -> Body {
    Body::Intent(Intent {
        job: 1,
        key: format!("run-n{node}"),
        node,
        digest: "00".into(),
        spec: "sealed".into(),
        deadline_us: 1,
        time: Time(2),
    })
}

/// Applies one entry at the next index of term 1.
pub fn apply(state: &mut State, body: Body) -> (Answer, Vec<Effect>) {
    let header = Header { wall: Time(0), elapsed_us: 1, proposer: 11 };
    state.apply(state.applied + 1, 1, Some(&Proposal { header, body }))
}

/// The records among the effects, in their order.
pub fn archived(effects: Vec<Effect>) -> Vec<Archived> {
    let archived = |effect| match effect {
        Effect::Archive(archived, _) => Some(archived),
        _ => None,
    };
    effects.into_iter().filter_map(archived).collect()
}
