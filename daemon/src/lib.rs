//! Tiebeam's daemon: the shell around the pure core. Everything that touches the outside is here.
//!
//! `docs/architecture.md` beside this crate is the map: one request, file by file.

pub mod assembly;
pub mod auth;
pub mod board;
pub mod ca;
pub mod certificate;
pub mod certificates;
pub mod check;
pub mod cluster;
pub mod damaged;
pub mod dev;
pub mod disk;
pub mod durable;
pub mod engine;
pub mod facts;
pub mod front;
pub mod history;
pub mod host;
pub mod hygiene;
pub mod identity;
pub mod init;
pub mod jobfile;
pub mod join;
pub mod kept;
pub mod keys;
pub mod logging;
pub mod methods;
pub mod metrics;
pub mod node;
pub mod peer;
pub mod pipeline;
pub mod proposer;
pub mod publish;
pub mod recover;
pub mod report;
pub mod reserve;
pub mod retention;
pub mod secret;
pub mod service;
pub mod settings;
pub mod space;
pub mod threads;
pub mod users;
