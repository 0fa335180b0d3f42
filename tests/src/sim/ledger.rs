//! What an observer who sees everything has written down: every entry when it was first applied,
//! what each caller was told, what was done to each register.
//!
//! It lives outside the nodes and survives their stops. The simulation writes it, the invariants
//! read it; it judges nothing.

use super::export::Exported;
use super::linear::History;
use std::collections::{BTreeMap, BTreeSet};
use tiebeam_core::State;
use tiebeam_core::tree::Hash;
use tiebeam_proto::chain::Head;
use tiebeam_proto::record::Archived;
use tiebeam_proto::{Outcome, Stage};
use tiebeam_replica::Entry;
use tiebeam_replica::prefix::Held;

/// The State after an entry, in short: equal on every replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Print {
    config: Hash,
    chain: Hash,
    revision: u64,
    last_job: u64,
    clock_us: u64,
}

impl Print {
    pub(super) fn of(state: &State) -> Print {
        Print {
            config: state.config.hash(),
            chain: state.chain.head,
            revision: state.revision,
            last_job: state.last_job,
            clock_us: state.clock_us,
        }
    }
}

/// A job's end, as its caller was told.
#[derive(Clone, Debug)]
pub(super) struct Acknowledged {
    pub(super) job: String,
    pub(super) outcome: Outcome,
    pub(super) revision: Option<u64>,
    /// Hash of the configuration at that revision.
    pub(super) hash: Option<Hash>,
}

/// The observer's notes.
pub(super) struct Ledger {
    /// The first State; its index is 1.
    pub(super) genesis: State,
    /// All entries in order, from index 2 on, as they were first applied.
    pub(super) entries: Vec<Entry>,
    /// The State after each of them.
    pub(super) prints: Vec<Print>,
    pub(super) revisions: BTreeMap<u64, Hash>,
    pub(super) stages: BTreeMap<String, Stage>,
    pub(super) jobs: BTreeSet<String>,
    /// Jobs by the request id of their call.
    pub(super) requests: BTreeMap<String, String>,
    /// The chain as apply made it.
    pub(super) records: Vec<Archived>,
    pub(super) acknowledged: Vec<Acknowledged>,
    /// The newest log index that somebody was told of.
    pub(super) acknowledged_index: u64,
    /// The newest revision that somebody was told of.
    pub(super) acknowledged_revision: u64,
    /// What was done to each register and is not judged yet.
    pub(super) registers: BTreeMap<&'static str, History>,
    /// Whether clients write to the registers, and not a script.
    pub(super) watched: bool,
    /// Number of the moment: calls and answers have such numbers, too.
    pub(super) moment: u64,
    /// Texts that must not be on a disk.
    pub(super) secrets: BTreeSet<String>,
    /// What each member, by raft id, was last seen to have durably in its history.
    pub(super) held: BTreeMap<u64, Held>,
    /// Who leads in each term.
    pub(super) leaders: BTreeMap<u64, u32>,
    /// Commands that the log holds, by job, key and node, with the term of their intent.
    pub(super) intents: BTreeMap<CommandKey, u64>,
    pub(super) started: BTreeSet<CommandKey>,
    /// How programs ended, by what their shims wrote down.
    pub(super) ended: BTreeMap<CommandKey, &'static str>,
    pub(super) fenced: BTreeSet<CommandKey>,
    /// What was said of wishes to cancel, by job.
    pub(super) cancels: BTreeMap<u64, &'static str>,
    /// Index at which each job that ran was asked to stop.
    pub(super) stopped: BTreeMap<u64, u64>,
    /// How far each node has applied, by node id.
    pub(super) applied: BTreeMap<u32, u64>,
    /// Voters' seats that were given since somebody looked: raft id and index.
    pub(super) seated: Vec<(u64, u64)>,
    /// Attempts of calls that were answered by a node.
    pub(super) answered: BTreeSet<u64>,
    /// How far the chain was verified.
    pub(super) verified: Head,
    /// What the first node came to.
    pub(super) digest: Option<Hash>,
    /// Every call of every client, for the export.
    pub(super) calls: Vec<Exported>,
}

/// A command: job, key, node.
pub(super) type CommandKey = (u64, String, u32);

impl Ledger {
    pub(super) fn new(genesis: State) -> Ledger {
        Ledger {
            revisions: BTreeMap::from([(genesis.revision, genesis.config.hash())]),
            genesis,
            entries: Vec::new(),
            prints: Vec::new(),
            stages: BTreeMap::new(),
            jobs: BTreeSet::new(),
            requests: BTreeMap::new(),
            records: Vec::new(),
            acknowledged: Vec::new(),
            acknowledged_index: 0,
            acknowledged_revision: 0,
            registers: BTreeMap::new(),
            watched: true,
            moment: 0,
            secrets: BTreeSet::new(),
            held: BTreeMap::new(),
            leaders: BTreeMap::new(),
            intents: BTreeMap::new(),
            started: BTreeSet::new(),
            ended: BTreeMap::new(),
            fenced: BTreeSet::new(),
            cancels: BTreeMap::new(),
            stopped: BTreeMap::new(),
            applied: BTreeMap::new(),
            seated: Vec::new(),
            answered: BTreeSet::new(),
            verified: Head::EMPTY,
            digest: None,
            calls: Vec::new(),
        }
    }

    /// Another observer who has seen the same entries.
    pub(super) fn copy_of_entries(&self) -> Ledger {
        Ledger {
            entries: self.entries.clone(),
            prints: self.prints.clone(),
            records: self.records.clone(),
            ..Ledger::new(self.genesis.clone())
        }
    }

    /// Where the entry at a log index stands in the lists.
    pub(super) fn place(index: u64) -> usize {
        index as usize - 2
    }

    /// The State after the entry at `index`, if one was ever applied there.
    pub(super) fn print(&self, index: u64) -> Option<Print> {
        if index == self.genesis.applied {
            return Some(Print::of(&self.genesis));
        }
        self.prints.get(Ledger::place(index)).copied()
    }
}
