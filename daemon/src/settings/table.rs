//! Every key of the settings file: what it means, how its value is written in the environment,
//! and whether SIGHUP can change it.
//!
//! This module owns the one table from which the commented file, the environment's names and the
//! reload are made; a test holds it equal to [`super::Settings`]. It decides nothing.

/// How a value is written in an environment variable or flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Text,
    /// As it is; empty means "not set".
    Optional,
    /// `true` or `false`, nothing else.
    Bool,
    /// Decimal digits.
    Number,
    /// Entries with commas between them; empty means none.
    List,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Section and name with a dot between them; some keys are in no section.
    pub path: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// Whether SIGHUP can change it; else it takes a restart.
    pub live: bool,
    /// What it means, in lines of at most 85 characters.
    pub doc: &'static [&'static str],
}

const fn key(path: &'static str, kind: Kind, live: bool, doc: &'static [&'static str]) -> Key {
    Key { path, kind, live, doc }
}

/// All keys, in the order of the file.
pub const KEYS: &[Key] = &[
    key(
        "listen",
        Kind::Text,
        false,
        &[
            "ADDRESS:PORT where clients and peers connect: TLS, everything on one port.",
            "0.0.0.0 and [::] mean every address; then `advertise` must be given.",
        ],
    ),
    key(
        "advertise",
        Kind::Optional,
        false,
        &["HOST:PORT that clients and peers are told, if it is not what `listen` says."],
    ),
    key(
        "rpc.on_follower",
        Kind::Text,
        true,
        &[
            "What this node does with a call while it is not the master: `redirect` answers 302",
            "with the master's address, `forward` passes the call on to it.",
        ],
    ),
    key(
        "rpc.origins",
        Kind::List,
        true,
        &[
            "Origins (SCHEME://HOST[:PORT]) from which pages in a browser may call. None by",
            "default: a request that a browser sends for a page is then refused.",
        ],
    ),
    key(
        "rpc.hosts",
        Kind::List,
        true,
        &["Names, without port, that `Host` may have beside the members' addresses and names."],
    ),
    key(
        "metrics.listen",
        Kind::Optional,
        false,
        &["ADDRESS:PORT of a plain HTTP listener for /metrics without login; loopback only."],
    ),
    key(
        "exec.enabled",
        Kind::Bool,
        true,
        &["Whether jobs may start programs on this node at all."],
    ),
    key(
        "exec.allow",
        Kind::List,
        true,
        &["The programs that may be started, as absolute paths. Nothing else is ever started."],
    ),
    key(
        "exec.users",
        Kind::List,
        true,
        &[
            "The operating system's users that they may run as. Callers other than `root` run",
            "nothing as uid 0 unless `root` is named here.",
        ],
    ),
    key(
        "exec.output_bytes_max",
        Kind::Text,
        true,
        &["Output that is kept of one command; what comes after it is dropped and counted."],
    ),
    key(
        "log.level",
        Kind::Text,
        true,
        &["The least level of the daemon's own log: error, warn, info, debug or trace."],
    ),
    key(
        "log.format",
        Kind::Text,
        false,
        &["The form of its lines on standard error: `text` or `json`."],
    ),
    key(
        "history.bytes_max",
        Kind::Text,
        true,
        &["Bytes that the history may use; a warning at 80 %, beyond it the oldest records go."],
    ),
    key(
        "disk.free_bytes_min",
        Kind::Text,
        true,
        &[
            "With less free space than this below the data folder, jobs that change something are",
            "refused as too_busy; reading and finishing go on.",
        ],
    ),
    key(
        "disk.free_percent_min",
        Kind::Number,
        true,
        &["The same in percent of the file system. The larger of both holds."],
    ),
    key(
        "disk.reserve_bytes",
        Kind::Text,
        true,
        &[
            "Room that the file `reserve` holds below the data folder. When less than half of",
            "it is free besides, it is given back, to finish and to cut the log; 0: none.",
        ],
    ),
    key(
        "unix_socket.group",
        Kind::Text,
        false,
        &["The operating system's group that may connect to tiebeam.sock."],
    ),
    key(
        "unix_socket.remote_root",
        Kind::Bool,
        true,
        &["Whether root at another member's socket counts as the cluster's `root` here."],
    ),
    key(
        "peer.listen",
        Kind::Optional,
        false,
        &["ADDRESS:PORT of a second port, for members only. (Not in this version.)"],
    ),
    key(
        "raft.tick_ms",
        Kind::Number,
        false,
        &["One tick of the replicated log in milliseconds. The same on all members."],
    ),
    key(
        "raft.election_ticks",
        Kind::Number,
        false,
        &["Ticks without a word of the master until a member campaigns; at least 3 heartbeats."],
    ),
    key("raft.heartbeat_ticks", Kind::Number, false, &["Ticks between two words of the master."]),
];

impl Key {
    /// Its environment variable: `TIEBEAMD_<SECTION>_<KEY>`.
    pub fn variable(&self) -> String {
        format!("{}{}", super::load::PREFIX, self.path.replace('.', "_").to_uppercase())
    }

    /// Its place in the settings as JSON (RFC 6901).
    pub fn pointer(&self) -> String {
        format!("/{}", self.path.replace('.', "/"))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Settings, *};
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn leaves(prefix: &str, value: &Value, into: &mut BTreeSet<String>) {
        for (name, value) in value.as_object().expect("a section") {
            let path = format!("{prefix}{name}");
            match value {
                Value::Object(_) => leaves(&format!("{path}."), value, into),
                _ => assert!(into.insert(path)),
            }
        }
    }

    #[test]
    fn the_table_has_every_key_once_and_no_other() {
        let mut expected = BTreeSet::new();
        leaves("", &serde_json::to_value(Settings::default()).expect("json"), &mut expected);
        let listed: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
        assert_eq!(listed, expected);
        assert_eq!(KEYS.len(), expected.len(), "a key stands twice");
        let variables: BTreeSet<String> = KEYS.iter().map(Key::variable).collect();
        assert_eq!(variables.len(), KEYS.len(), "two keys with one variable");
    }

    #[test]
    fn every_key_is_documented_in_lines_that_fit() {
        for key in KEYS {
            assert!(!key.doc.is_empty(), "{}", key.path);
            assert!(key.doc.iter().all(|line| line.len() <= 85), "{}", key.path);
        }
    }
}
