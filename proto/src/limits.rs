//! Every limit that a client can meet, with the reason for its number (wire.md section 2).

use std::time::Duration;

/// Largest request body in bytes: a configuration value has 64 KiB, a certificate chain less.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of JSON containers or XML values: ConfD's clients send at most 5.
pub const NESTING_MAX: usize = 64;
/// Weight of the values in one JSON body: each counts 1, an object 4. A value takes 32 bytes in
/// memory and an object 600, so what a mebibyte of brackets unfolds to is 20 MiB and not 80.
pub const VALUES_MAX: usize = 128 << 10;
/// Members of a JSON-RPC batch or of a `system.multicall`.
pub const BATCH_MAX: usize = 100;
/// Largest body that is read before login (`user_login`, `user_init`; ruling 2).
pub const BODY_BYTES_BEFORE_LOGIN: usize = 4096;
/// Time to send a request's head.
pub const HEAD_READ: Duration = Duration::from_secs(10);
/// Time to send a request's body.
pub const BODY_READ: Duration = Duration::from_secs(30);
/// Time that a connection without an open request may stay.
pub const IDLE: Duration = Duration::from_secs(120);
/// Time for a TLS handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Client connections at once.
pub const CONNECTIONS_MAX: usize = 10_000;
/// TLS handshakes in progress at once, all sources (ruling 41).
pub const HANDSHAKES_MAX: usize = 256;
/// TLS handshakes in progress at once from one source address (ruling 41).
pub const HANDSHAKES_PER_SOURCE_MAX: usize = 16;
/// Bytes of request bodies in memory at once (ruling 41).
pub const BODIES_BYTES_MAX: usize = 64 << 20;
/// Calls of one user that wait for a job at once (ruling 37).
pub const WAITING_PER_USER_MAX: usize = 1_000;
/// Calls of all users that wait for a job at once on one node (ruling 37).
pub const WAITING_PER_NODE_MAX: usize = 5_000;
/// Longest `job_wait` in seconds, and its default.
pub const WAIT_SECONDS: (u64, u64) = (300, 30);
/// Characters of a `request_id`.
pub const REQUEST_ID_CHARS_MAX: usize = 64;
/// Bytes of a `reason`: a sentence and a ticket number, not a report.
pub const REASON_BYTES_MAX: usize = 4096;
/// Bytes that a recorded header keeps (ruling 31).
pub const HEADER_BYTES_MAX: usize = 256;
/// Request ids that the cluster keeps (ruling 5).
pub const REQUEST_IDS_MAX: usize = 250_000;
/// Time that a request id is kept, in microseconds of cluster time (ruling 5).
pub const REQUEST_ID_AGE_US: u64 = 24 * 3600 * 1_000_000;
/// Live jobs (ruling 33).
pub const LIVE_JOBS_MAX: usize = 200_000;
/// Times that a stale plan is made again before the outcome is `conflict` (ruling 8).
pub const REPLANS_MAX: u32 = 5;
/// Events that each node keeps (ruling 39).
pub const EVENTS_MAX: usize = 100_000;
/// Bytes of one configuration value, of the tree, and its depth (ruling 13).
pub const CONFIG_LIMITS: (usize, usize, usize) = (64 << 10, 4 << 20, 32);
