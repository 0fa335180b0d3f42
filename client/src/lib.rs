//! Rust client of Tiebeam: asks any member of a cluster, follows the master, never runs a job
//! twice.
//!
//! ```no_run
//! # async fn demo() -> Result<(), tiebeam::Error> {
//! use serde_json::json;
//! use tiebeam::{Client, StartOptions};
//!
//! let client = Client::builder()
//!     .url("https://10.10.10.11:20003")
//!     .url("https://10.10.10.12:20003")
//!     .ca_file("/etc/tiebeam/ca.pem")
//!     .user("admin")
//!     .password_file("/etc/tiebeam/admin.password")
//!     .build()?;
//! let params = json!({"username": "alice", "userid": 1001, "group": "exausers"});
//! let result = client.run("user_create", params, &StartOptions::default()).await?;
//! println!("revision {:?}", result.result_revision);
//! # Ok(())
//! # }
//! ```
//!
//! What a caller can rely on:
//!
//! * **TLS.** Only certificates that chain to the given CA file are accepted; the system's roots
//!   are never consulted. That holds for the target of a redirect too, so credentials are never
//!   sent to an address outside the cluster.
//! * **Master.** A redirect is followed by sending the same POST again. While there is no master,
//!   or a member cannot be reached, the other members are asked until
//!   [`ClientBuilder::retry_for`] is over.
//! * **Once.** Every start carries a `request_id` (UUIDv7). A start that may have arrived is only
//!   ever sent again with the same one, so the cluster runs it at most once.
//! * **Errors** are typed ([`Error`]); [`Error::retryable`] says whether the same call may succeed
//!   later, [`Error::hint`] the way out.
//!
//! [`blocking::Client`] is the same without `async`. The command line `tiebeam` is built from the
//! module [`cli`], which is public for its tests only.

pub mod blocking;
pub mod cli;
pub mod verify;

mod address;
mod builder;
mod call;
mod client;
mod clock;
mod description;
mod error;
mod events;
mod history;
mod request_id;
mod roster;
mod secret;
mod start;
mod tls;
mod transport;

pub use builder::ClientBuilder;
pub use client::{Cancelled, Client, Health, Login};
pub use description::{JobDescription, Parameter};
pub use error::Error;
pub use events::{Event, EventFilter, EventStream, JobsFilter};
pub use history::{HistoryPage, HistoryPages};
pub use secret::Secret;
pub use start::StartOptions;
pub use tiebeam_proto::{ErrorCode, Kind, Outcome, ResultObject, RpcError, Stage};
