//! The harness of the suites: real nodes as processes, and clients that see the wire as it is.
//!
//! Owns starting and stopping of `tiebeamd` on loopback addresses ([`TestNode`]), plain HTTP over
//! TLS or the unix socket ([`Wire`]), and the list of what could not be run ([`need()`]). It
//! asserts hard: a test that cannot be prepared panics with what to do about it. It must not touch
//! a process that it did not start. Called by the modules of `tests/main.rs` only.

pub mod cluster;
pub mod crash;
pub mod door;
pub mod failover;
pub mod need;
pub mod net;
pub mod node;
pub mod program;
pub mod shape;
pub mod sim;
pub mod tls;
pub mod transcript;
pub mod wire;

pub use need::need;
pub use node::{Options, TestNode};
pub use program::{Ended, client_program, run, tiebeamd_program};
pub use wire::{Login, Reply, Wire};
