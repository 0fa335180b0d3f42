//! The first State of a cluster: what `tiebeamd init` makes (wire.md section 10).

use crate::path::path;
use crate::schema::BUILT_IN_GROUPS;
use crate::state::{Cluster, Credential, FEATURE_LEVEL, FORMAT, Member, State};
use crate::tree::{Tree, TreeError};
use serde_json::{Value, json};
use std::sync::Arc;
use tiebeam_proto::time::Time;

/// Index and term of the synthetic snapshot that a cluster begins with.
pub const GENESIS: (u64, u64) = (1, 1);

/// What `init` knows.
#[derive(Clone, Debug)]
pub struct Genesis {
    /// The cluster's id, made at random.
    pub cluster_id: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// The first node's id, name, and advertised `host:port`.
    pub node: (u32, String, String),
    /// The first node's raft id.
    pub raft_id: u64,
    /// SHA-256 of its public key, hex.
    pub key_hash: String,
    /// PHC string of the password of `admin`.
    pub admin_hash: String,
    /// The wall clock.
    pub wall: Time,
}

/// A user's entry in the configuration.
pub fn user_entry(id: i64, group: &str, additional: &[String]) -> Value {
    json!({
        "id": id,
        "group": group,
        "additional_groups": additional,
        "login_enabled": true,
        "authorized_keys": [],
    })
}

impl State {
    /// The State at index 1: one member, the built-in groups, users `root` and `admin`.
    pub fn genesis(genesis: &Genesis) -> Result<State, TreeError> {
        let g = genesis;
        let (node, name, address) = (&g.node.0, &g.node.1, &g.node.2);
        let groups: serde_json::Map<String, Value> = BUILT_IN_GROUPS
            .iter()
            .map(|(name, id)| ((*name).to_owned(), json!({"id": id})))
            .collect();
        let mut config = Tree::new();
        for (at, value) in [
            (path(&["cluster"]), json!({"id": g.cluster_id, "name": g.cluster_name})),
            (path(&["groups"]), Value::Object(groups)),
            (path(&["users", "root"]), user_entry(0, "root", &["exaadm".to_owned()])),
            (path(&["users", "admin"]), user_entry(1000, "exaadm", &[])),
            (
                State::node_path(*node),
                json!({
                    "id": node,
                    "name": name,
                    "address": address,
                    "role": "voter",
                    "labels": {},
                    "affinity": 1,
                    "added": g.wall,
                }),
            ),
            (path(&["app"]), json!({})),
        ] {
            config = config.set(&at, &value, 1)?;
        }
        let member = Member {
            raft_id: g.raft_id,
            key_hash: g.key_hash.clone(),
            voter: true,
            joining: false,
            since: 0,
        };
        let admin = Credential { hash: Some(g.admin_hash.clone()), one_time: None };
        Ok(State {
            format: FORMAT,
            feature_level: FEATURE_LEVEL,
            cluster: Cluster {
                id: g.cluster_id.clone(),
                name: g.cluster_name.clone(),
                incarnation: 1,
            },
            applied: GENESIS.0,
            term: GENESIS.1,
            wall: g.wall,
            config,
            revision: 1,
            members: [(*node, member)].into_iter().collect(),
            credentials: [(Arc::from("admin"), admin)].into_iter().collect(),
            ..State::default()
        })
    }
}
