//! Members: what a change of the raft group is called in a plan, and tokens to join.
//!
//! A change of membership travels as the context of raft's own entry (ruling 20): the proposal
//! there and the change of the group take effect together or not at all. Who may be added where is
//! decided by jobs; what can be is decided here, in apply.

use crate::state::{Member, State};
use serde::{Deserialize, Serialize};

/// A place in the raft group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// It votes.
    Voter,
    /// It follows.
    Learner,
    /// It has none.
    Gone,
}

/// One change of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum MemberChange {
    /// A new member, a learner at first.
    Add {
        /// Its node id.
        node: u32,
        /// Node id × 2^16 + incarnation.
        raft_id: u64,
        /// SHA-256 of its public key, hex.
        key_hash: String,
    },
    /// A learner becomes a voter.
    Promote {
        /// Its node id.
        node: u32,
        /// Its raft id.
        raft_id: u64,
    },
    /// A voter becomes a learner.
    Demote {
        /// Its node id.
        node: u32,
        /// Its raft id.
        raft_id: u64,
    },
    /// A member goes.
    Remove {
        /// Its node id.
        node: u32,
        /// Its raft id.
        raft_id: u64,
    },
}

/// What the master notes of a member without a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum MemberStep {
    /// A joining member has a snapshot: it is awaited from now on (ruling 6).
    Joined {
        /// Its node id.
        node: u32,
        /// Its raft id.
        raft_id: u64,
    },
    /// A member reported which feature level it supports, and it is not what was known (ruling 12).
    Supports {
        /// Its raft id.
        raft_id: u64,
        /// The newest level that its version supports.
        level: u32,
    },
    /// A learner that is to be a voter has caught up. Only as the context of a change of the
    /// group.
    Seated {
        /// The change.
        change: MemberChange,
    },
}

/// A token that lets one node join (rulings 26 and 40). Its text is derived, never stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Hex SHA-256 of the token's secret.
    pub hash: String,
    /// Who issued it: the join is a job of this user.
    pub issuer: String,
    /// The role that the node gets; `None` for what the cluster's size suggests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The node id that it is for; `None` for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u32>,
    /// Cluster time at which it ends.
    pub expires_us: u64,
    /// SHA-256 of the public key of the node that was added by it: the answer to a join that got
    /// lost is given again, to that node alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
}

impl MemberChange {
    /// Raft id and seat that the change gives.
    pub fn seat(&self) -> (u64, Seat) {
        match self {
            MemberChange::Add { raft_id, .. } | MemberChange::Demote { raft_id, .. } => {
                (*raft_id, Seat::Learner)
            }
            MemberChange::Promote { raft_id, .. } => (*raft_id, Seat::Voter),
            MemberChange::Remove { raft_id, .. } => (*raft_id, Seat::Gone),
        }
    }

    /// The node and the word for what happens to it.
    pub fn told(&self) -> (u32, &'static str) {
        match self {
            MemberChange::Add { node, .. } => (*node, "added"),
            MemberChange::Promote { node, .. } => (*node, "promoted"),
            MemberChange::Demote { node, .. } => (*node, "demoted"),
            MemberChange::Remove { node, .. } => (*node, "removed"),
        }
    }
}

/// Incarnation of a raft id (ruling 19).
pub fn incarnation(raft_id: u64) -> u16 {
    (raft_id & 0xFFFF) as u16
}

impl State {
    /// The member with this raft id, and its node id.
    pub fn member_of(&self, raft_id: u64) -> Option<(u32, &Member)> {
        let node = u32::try_from(raft_id >> 16).ok()?;
        self.members.get(&node).filter(|member| member.raft_id == raft_id).map(|m| (node, m))
    }

    /// The raft id that a node with this id gets when it joins next.
    pub fn next_raft_id(&self, node: u32) -> u64 {
        let last = self.incarnations.get(&node).copied().unwrap_or_default();
        let seated = self.members.get(&node).map(|member| incarnation(member.raft_id));
        let next = last.max(seated.unwrap_or_default()).saturating_add(1);
        u64::from(node) << 16 | u64::from(next)
    }

    /// Members that vote.
    pub fn voters(&self) -> impl Iterator<Item = (u32, &Member)> {
        self.members.iter().filter(|(_, member)| member.voter).map(|(node, m)| (*node, m))
    }

    /// Voters that became members before this one did: who was away meanwhile may know them.
    pub fn elders(&self, raft_id: u64) -> impl Iterator<Item = u64> {
        let since = self.member_of(raft_id).map_or(0, |(_, member)| member.since);
        self.voters().filter(move |(_, voter)| voter.since < since).map(|(_, voter)| voter.raft_id)
    }

    /// Whether the change can be made now.
    pub fn can_change(&self, change: &MemberChange) -> bool {
        let seated = |node: &u32, raft_id: &u64| {
            self.members.get(node).filter(|member| member.raft_id == *raft_id)
        };
        let others = |node: &u32| self.voters().any(|(other, _)| other != *node);
        match change {
            MemberChange::Add { node, raft_id, .. } => {
                !self.members.contains_key(node) && *raft_id == self.next_raft_id(*node)
            }
            MemberChange::Promote { node, raft_id } => {
                seated(node, raft_id).is_some_and(|member| !member.voter)
            }
            MemberChange::Demote { node, raft_id } => {
                seated(node, raft_id).is_some_and(|member| member.voter) && others(node)
            }
            MemberChange::Remove { node, raft_id } => {
                seated(node, raft_id).is_some() && others(node)
            }
        }
    }

    /// Makes the change; it was found possible.
    pub(crate) fn change_member(&mut self, change: &MemberChange, index: u64) {
        match change {
            MemberChange::Add { node, raft_id, key_hash } => {
                self.incarnations.insert(*node, incarnation(*raft_id));
                let member = Member {
                    raft_id: *raft_id,
                    key_hash: key_hash.clone(),
                    voter: false,
                    joining: true,
                    since: index,
                };
                self.members.insert(*node, member);
            }
            MemberChange::Promote { node, .. } => {
                if let Some(member) = self.members.get_mut(node) {
                    (member.voter, member.joining) = (true, false);
                }
            }
            MemberChange::Demote { node, .. } => {
                if let Some(member) = self.members.get_mut(node) {
                    member.voter = false;
                }
            }
            MemberChange::Remove { node, raft_id } => {
                self.incarnations.insert(*node, incarnation(*raft_id));
                self.members.remove(node);
                self.supported.remove(raft_id);
                self.clocks.remove(node);
                // It has the key from which tokens to join are derived.
                self.shared_key.due = true;
                let used = self.join_tokens.iter().filter(|(_, token)| token.used_by.is_some());
                self.join_tokens = used.map(|(id, token)| (id.clone(), token.clone())).collect();
            }
        }
    }
}
