//! A node becomes a member (wire.md section 10): what the new node and the master say to each
//! other.
//!
//! `token` reads the text of a token, `desk` is the master's side, `dial` the connection that the
//! new node makes, `enter` what it does with the answer. The node's key is made on the node and
//! never leaves it; the token leaves it only after the other end has shown a certificate of the
//! authority whose fingerprint the token carries (rulings 21 and 40).

pub mod desk;
pub mod dial;
pub mod enter;
pub mod token;

use serde::{Deserialize, Serialize};

/// What the new node sends. It has no `Debug`: it holds a token.
#[derive(Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's text.
    pub token: String,
    /// The id that it wants; without one it gets the next free one.
    #[serde(default)]
    pub node_id: Option<u32>,
    /// Its name.
    pub name: String,
    /// `host:port` at which others reach it.
    pub address: String,
    /// Further hosts, without port, that its certificate is to be valid for.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// A certificate request (PEM), which proves that it has the key.
    pub request: String,
    /// The version of its program.
    pub version: String,
    /// The newest feature level that it supports.
    pub feature_level: u32,
}

/// Another member, as the new node has to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMember {
    /// Its raft id.
    pub raft_id: u64,
    /// `host:port`.
    pub address: String,
    /// SHA-256 of its public key.
    pub key_hash: String,
}

/// What it gets. It has no `Debug`: it holds the cluster's keys.
#[derive(Serialize, Deserialize)]
pub struct JoinAnswer {
    /// The cluster's id.
    pub cluster_id: String,
    /// Its name.
    pub cluster_name: String,
    /// The node's id.
    pub node_id: u32,
    /// Its incarnation (ruling 19).
    pub incarnation: u32,
    /// Its certificate, PEM.
    pub certificate: String,
    /// The authority's certificate, PEM.
    pub ca: String,
    /// The content of `cluster.key`.
    pub cluster_key: String,
    /// The members, this one included.
    pub members: Vec<KnownMember>,
    /// The bytes of a State in which this node is a member, in base64.
    pub snapshot: String,
    /// Log index of that State.
    pub index: u64,
    /// Its term.
    pub term: u64,
}
