//! Tiebeam's pure core: the replicated State and everything that decides.
//!
//! [`State`] is what all nodes have in common; [`State::apply`] changes it, one raft entry
//! ([`proposal::Proposal`]) at a time, and answers with an [`effect::Answer`] for the proposer and
//! [`effect::Effect`]s for the shell. Here are also the configuration tree, locks and scheduler,
//! rights, idempotency keys and snapshots.
//!
//! What is deliberately absent: clocks, randomness, files, threads, async, hash maps, the
//! catalogue of jobs. Time, ids and random values arrive inside entries. `clippy.toml` beside
//! this crate's manifest bans the ways around that. Within apply a broken assumption panics: the
//! node stops rather than diverge.

pub mod admit;
pub mod apply;
pub mod commit;
pub mod declaration;
pub mod diff;
pub mod draft;
pub mod effect;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
pub mod genesis;
pub mod job;
pub mod level;
pub mod lock;
pub mod member;
pub mod notice;
pub mod path;
pub mod proposal;
pub mod requests;
pub mod schedule;
pub mod schema;
pub mod settings;
pub mod snapshot;
pub mod state;
pub mod tree;

pub use effect::{Answer, Effect};
pub use job::Job;
pub use path::Path;
pub use proposal::{Body, Proposal};
pub use state::State;
pub use tree::Tree;
