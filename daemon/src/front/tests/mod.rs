//! The front from outside: real sockets, real TLS, a small double of the service behind it.
//!
//! `service` is the double, `client` the raw client. Each test has its own front on its own port.

mod calls;
mod client;
mod connections;
mod order;
mod service;
mod websocket;
