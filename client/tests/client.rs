//! The client crate's one tests binary: golden files of the rendering, calls against a small TLS
//! server that misbehaves on demand, and the program itself.

#[path = "client/calls.rs"]
mod calls;
#[path = "client/golden.rs"]
mod golden;
#[path = "client/program.rs"]
mod program;
#[path = "client/replies.rs"]
mod replies;
#[path = "client/stub.rs"]
mod stub;
