//! What a node is made with: limits and timing, each with the reason for its number.
//!
//! Values, and their translation for raft. Nothing here is read from a file; the shell fills it in.

/// Limits and timing of a node. Times are in ticks.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// This node's raft id ([`crate::membership::raft_id`]).
    pub raft_id: u64,
    /// Ticks without a leader before an election, at least.
    pub election_tick: usize,
    /// Ticks added to that on this node for its first election; later ones are drawn from
    /// `run_nonce`. Nodes should differ.
    pub election_extra: usize,
    /// Ticks between heartbeats.
    pub heartbeat_tick: usize,
    /// Random number of this run; an answer to a read of a former run must not count. The times of
    /// elections follow from it, too.
    pub run_nonce: u64,
    /// Payload bytes of an append message. 1 MiB: a lost one costs little.
    pub message_bytes_max: u64,
    /// Append messages under way to one peer.
    pub inflight_max: usize,
    /// Payload bytes proposed and not committed; above, proposals are refused. 64 MiB: what a
    /// slow disk works off in a second.
    pub uncommitted_bytes_max: u64,
    /// Payload bytes handed to apply at once, so that ticks come between.
    pub committed_bytes_max: u64,
    /// Payload bytes of one entry. 8 MiB: the largest configuration is 4 MiB.
    pub entry_bytes_max: usize,
    /// Reads that wait at once.
    pub reads_max: usize,
}

impl NodeSettings {
    /// The defaults for a node: ticks of 100 ms, elections after 1 to 2 s. `seed` is random; it
    /// gives the node its own election time and its run its number.
    pub fn new(raft_id: u64, seed: u64) -> Self {
        NodeSettings {
            raft_id,
            election_tick: 10,
            election_extra: (seed % 10) as usize,
            heartbeat_tick: 2,
            run_nonce: seed,
            message_bytes_max: 1 << 20,
            inflight_max: 256,
            uncommitted_bytes_max: 64 << 20,
            committed_bytes_max: 4 << 20,
            entry_bytes_max: 8 << 20,
            reads_max: 10_000,
        }
    }

    /// Ticks without a leader before the next election of a node that began `elections` before.
    pub(super) fn ticks_to_election(&self, elections: u64) -> usize {
        let extra = match elections {
            0 => self.election_extra,
            _ => (mixed(self.run_nonce ^ elections) % self.election_spread() as u64) as usize,
        };
        self.election_tick + extra
    }

    /// Between how many times elections are drawn: enough that two nodes rarely meet, and no more,
    /// because it is time without a leader.
    fn election_spread(&self) -> usize {
        self.election_tick.div_ceil(2)
    }

    /// The most that [`NodeSettings::ticks_to_election`] gives.
    pub(super) fn election_ticks_max(&self) -> usize {
        self.election_tick + self.election_extra.max(self.election_spread())
    }

    pub(super) fn raft_config(&self, applied: u64) -> raft::Config {
        raft::Config {
            id: self.raft_id,
            election_tick: self.election_tick,
            heartbeat_tick: self.heartbeat_tick,
            min_election_tick: self.election_tick,
            max_election_tick: self.election_ticks_max() + 1,
            applied,
            max_size_per_msg: self.message_bytes_max,
            max_inflight_msgs: self.inflight_max,
            max_uncommitted_size: self.uncommitted_bytes_max.max(self.message_bytes_max),
            max_committed_size_per_ready: self.committed_bytes_max,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            read_only_option: raft::ReadOnlyOption::Safe,
            ..raft::Config::default()
        }
    }
}

/// A number that has nothing of its origin (splitmix64).
fn mixed(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Why a node cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The log begins behind the snapshot, or ends before it.
    #[error("the log from {floor} to {last} does not fit the snapshot at {snapshot}")]
    LogDoesNotFit {
        /// Index before the log's first entry.
        floor: u64,
        /// The log's last index.
        last: u64,
        /// The snapshot's index.
        snapshot: u64,
    },
    /// Raft refuses the settings or the recovered state.
    #[error("raft refuses to start")]
    Raft(#[source] raft::Error),
}
