//! A first State, a submission and single entries for the tests of apply.

use crate::effect::{Answer, Effect};
use crate::genesis::Genesis;
use crate::proposal::{Body, Header, Needs, Proposal, Submission};
use crate::state::State;
use serde_json::Map;
use tiebeam_proto::Kind;
use tiebeam_proto::record::{Archived, Mode, RequestFacts};
use tiebeam_proto::time::Time;

/// A cluster of node 11 at revision 1.
pub(crate) fn state() -> State {
    let genesis = Genesis {
        cluster_id: "c".into(),
        cluster_name: "c".into(),
        node: (11, "n11".into(), "127.0.0.1:20003".into()),
        raft_id: 720_897,
        key_hash: String::new(),
        admin_hash: "$6$x".into(),
        wall: Time(0),
    };
    State::genesis(&genesis).unwrap()
}

/// A call of `config_set` by admin, without locks and sealed parameters.
pub(crate) fn submission(state: &State) -> Submission {
    Submission {
        name: "config_set".into(),
        kind: Kind::Modify,
        user: "admin".into(),
        credential_revision: state.credential_revision("admin").unwrap(),
        reason: None,
        mode: Mode::Immediate,
        parameters: Map::new(),
        nonce: None,
        inputs: None,
        request: RequestFacts::default(),
        request_key: None,
        needs: Needs { everyone: true, ..Needs::default() },
        locks: Vec::new(),
        master: 11,
        term: 1,
        deadline_us: 1,
        submitted: Time(0),
    }
}

/// Applies one entry at the next index of term 1.
pub(crate) fn apply(state: &mut State, body: Body) -> (Answer, Vec<Effect>) {
    let header = Header { wall: Time(0), elapsed_us: 1, proposer: 11 };
    state.apply(state.applied + 1, 1, Some(&Proposal { header, body }))
}

/// The records among the effects, in their order.
pub(crate) fn archived(effects: Vec<Effect>) -> Vec<Archived> {
    let archived = |effect| match effect {
        Effect::Archive(archived, _) => Some(archived),
        _ => None,
    };
    effects.into_iter().filter_map(archived).collect()
}
