//! The one test binary of the workspace's suites: a suite is a module here.
//!
//! One binary links once and runs side by side; `tidy` fails if a file of tests is forgotten.

mod commands;
mod crash;
mod docs;
#[path = "../e2e/mod.rs"]
mod e2e;
mod failover;
mod last_admin;
mod readme;
mod security;
mod systemd;
mod tidy;
