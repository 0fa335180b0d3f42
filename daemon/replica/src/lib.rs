//! Tiebeam's replicated log: tikv's `raft` under `step(input) -> outputs`, the log on disk, the
//! snapshots, and the seams to the outside. **Pure**: no thread, no runtime, no file, no clock, no
//! random source of its own; `clippy.toml` forbids them. The state is opaque: payloads and
//! snapshot bodies are bytes.
//!
//! # The parts
//!
//! * [`Node`] decides: it owns raft, takes [`Input`]s and gives [`Output`]s. No I/O at all.
//! * [`log::Log`] persists: one write and one sync per group, over a [`seams::Disk`].
//! * [`snapshot`] and [`recovery`] turn files into what a node starts with.
//! * [`drive::Drive`] runs all of it on one thread, for simulations and tests of one node.
//!
//! The daemon has a thread for each: the raft thread owns the node, the log-writer thread owns the
//! log, the apply thread owns the state. All three are this loop, cut at its queues:
//!
//! ```
//! use tiebeam_replica::log::LogSettings;
//! use tiebeam_replica::recovery::{bootstrap, first_snapshot, recover};
//! use tiebeam_replica::seams::mem::{MemDisk, SeededRng};
//! use tiebeam_replica::{EntryKind, Input, Node, NodeSettings, Output};
//!
//! let disk = MemDisk::new();
//! let rng = || Box::new(SeededRng::new(7));
//! let me = tiebeam_replica::membership::raft_id(11, 1);
//! // `init`, once: a snapshot of the first state, and a log behind it.
//! bootstrap(disk.clone(), LogSettings::default(), rng(), first_snapshot(me), b"state")?;
//! // Every start: the state is at `found.start.snapshot`, the node goes on from there.
//! let found = recover(disk, LogSettings::default(), rng())?;
//! let mut log = found.log;
//! let mut node = Node::new(NodeSettings::new(me, 7), found.start)?;
//!
//! let payload = b"change".as_slice().into();
//! let mut answered = None;
//! let mut inputs = vec![Input::Propose { ticket: 1, payload }];
//! let mut outputs = node.ready(); // alone, so it leads already
//! while !outputs.is_empty() || !inputs.is_empty() {
//!     for output in std::mem::take(&mut outputs) {
//!         match output {
//!             Output::Persist(group) => {
//!                 log.append(&group)?; // log-writer thread; on error: Input::PersistFailed
//!                 inputs.push(Input::Persisted { group: group.number });
//!             }
//!             Output::Committed(entries) => {
//!                 for entry in &entries { // apply thread
//!                     if entry.kind == EntryKind::Normal {
//!                         answered = Some(entry.index);
//!                     }
//!                 }
//!                 let index = entries.last().map_or(0, |entry| entry.index);
//!                 inputs.push(Input::Applied { index });
//!             }
//!             _ => {} // Role, Proposed, Send …
//!         }
//!     }
//!     for input in inputs.drain(..) {
//!         node.receive(input); // drain the queue first: what waits together shares a group
//!     }
//!     outputs = node.ready();
//! }
//! assert_eq!(answered, Some(3)); // 1 is the first snapshot, 2 the leader's own entry
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rules for a shell
//!
//! 1. Carry outputs out in the order in which they come; groups are persisted in order.
//! 2. `Persisted` only after [`log::Log::append`] returned; one for the newest group is enough.
//! 3. A failed append: `PersistFailed`, then stop. Never try again.
//! 4. Apply in order; assert `entry.index == applied + 1`. For an entry of kind `Conf`, send
//!    `ConfApplied` before the `Applied` that covers it.
//! 5. A snapshot is durable before `SnapshotTaken`, and the log's prefix is dropped after that, up
//!    to what [`prefix::Prefix`] says and [`snapshot::oldest_kept`] at most.
//! 6. A panic out of a node or a log ends the process: its memory may contradict its log.

pub mod drive;
pub mod entry;
pub mod log;
mod logger;
pub mod membership;
pub mod node;
pub mod prefix;
pub mod recovery;
pub mod seams;
pub mod snapshot;

pub use entry::{Entry, EntryKind, Group, HardState, Mark};
pub use node::{Envelope, Halt, Input, Node, NodeSettings, Output, Refusal, Role, RoleReport};
