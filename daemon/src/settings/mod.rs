//! Node settings: `<data>/tiebeamd.yaml`, this node's own file (wire.md section 10).
//!
//! This module owns what can be set, its defaults and its checks; [`table`] documents every key,
//! [`load`] reads file, environment and flags, [`text`] writes the commented file, [`reload`] says
//! what SIGHUP can change. Settings are not replicated: whoever is root on a node decides them.
//! Nothing here is a secret. Start-up and SIGHUP call it; it reports and never panics.

pub mod load;
pub mod reload;
pub mod size;
pub mod table;
pub mod text;

pub use load::SettingsError;
pub use size::Size;

use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};

/// The file's name below the data folder.
pub const FILE: &str = "tiebeamd.yaml";

/// Everything that can be set on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where clients and peers connect.
    pub listen: SocketAddr,
    /// `HOST:PORT` that others are told, if it is not `listen`.
    pub advertise: Option<String>,
    /// Calls and browsers.
    pub rpc: Rpc,
    /// Metrics without login.
    pub metrics: Metrics,
    /// Commands on this node.
    pub exec: Exec,
    /// The daemon's own log.
    pub log: Log,
    /// The history on this node's disk.
    pub history: History,
    /// When this node's disk counts as full.
    pub disk: Disk,
    /// The socket for local callers.
    pub unix_socket: UnixSocket,
    /// A port of its own for members.
    pub peer: Peer,
    /// Ticks of the replicated log.
    pub raft: Raft,
}

/// Section `rpc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rpc {
    /// What a node that is not the master does with a call.
    pub on_follower: OnFollower,
    /// Origins from which a browser may call (ruling 30).
    pub origins: Vec<String>,
    /// Names in `Host` beside the members' own (ruling 30).
    pub hosts: Vec<String>,
}

/// Value of `rpc.on_follower` (wire.md section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFollower {
    /// Answer `302` with the master's address.
    #[default]
    Redirect,
    /// Pass the call to the master.
    Forward,
}

/// Section `metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// A plain HTTP listener on loopback.
    pub listen: Option<SocketAddr>,
}

/// Section `exec` (ruling 29).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Whether jobs may start programs here at all.
    pub enabled: bool,
    /// Absolute paths of the programs that may be started.
    pub allow: Vec<String>,
    /// Operating system users that they may run as.
    pub users: Vec<String>,
    /// Output that is kept of one command.
    pub output_bytes_max: Size,
}

/// Section `log`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The least level that is written.
    pub level: Level,
    /// The form of a line.
    pub format: Format,
}

/// Value of `log.level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Failures of the daemon.
    Error,
    /// What someone should look at.
    Warn,
    /// What changed.
    #[default]
    Info,
    /// Each step.
    Debug,
    /// Each message.
    Trace,
}

impl Level {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// Value of `log.format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Section `history` (ruling 36).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// Bytes that the history may use on this node.
    pub bytes_max: Size,
}

/// Section `disk` (ruling 36).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    /// Free bytes below which no job is taken that changes something.
    pub free_bytes_min: Size,
    /// The same in percent of the file system; the larger of both holds.
    pub free_percent_min: u8,
    /// Bytes of the reserve file; 0 for none.
    pub reserve_bytes: Size,
}

/// Section `unix_socket` (ruling 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnixSocket {
    /// The group that may connect.
    pub group: String,
    /// Whether root on another member is root of the cluster here.
    pub remote_root: bool,
}

/// Section `peer` (ruling 41).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Peer {
    /// A second port, for members only.
    pub listen: Option<SocketAddr>,
}

/// Section `raft`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raft {
    /// One tick, in milliseconds.
    pub tick_ms: u32,
    /// Ticks without a word of the master until a member campaigns.
    pub election_ticks: u32,
    /// Ticks between two words of the master.
    pub heartbeat_ticks: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            // Loopback, so that a daemon which was started by mistake is not on the network.
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 20003)),
            advertise: None,
            rpc: Rpc::default(),
            metrics: Metrics::default(),
            exec: Exec::default(),
            log: Log::default(),
            history: History::default(),
            disk: Disk::default(),
            unix_socket: UnixSocket::default(),
            peer: Peer::default(),
            raft: Raft::default(),
        }
    }
}

impl Default for Exec {
    fn default() -> Exec {
        Exec {
            enabled: false,
            allow: Vec::new(),
            users: vec!["nobody".to_owned()],
            output_bytes_max: Size(16 << 20),
        }
    }
}

impl Default for History {
    fn default() -> History {
        History { bytes_max: Size(20 << 30) }
    }
}

impl Default for Disk {
    fn default() -> Disk {
        Disk { free_bytes_min: Size(1 << 30), free_percent_min: 5, reserve_bytes: Size(64 << 20) }
    }
}

impl Default for UnixSocket {
    fn default() -> UnixSocket {
        UnixSocket { group: "tiebeam".to_owned(), remote_root: true }
    }
}

impl Default for Raft {
    fn default() -> Raft {
        Raft { tick_ms: 50, election_ticks: 20, heartbeat_ticks: 4 }
    }
}

impl Settings {
    /// `HOST:PORT` that clients and peers are told.
    pub fn advertised(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }

    /// The hosts, without ports, that this node is reached by: for its certificate.
    pub fn hosts(&self) -> Vec<String> {
        let advertised = self.advertised();
        let advertised = host_and_port(&advertised).map(|(host, _)| host.to_owned());
        let mut hosts = vec![self.listen.ip().to_string()];
        hosts.extend(advertised.filter(|host| *host != hosts[0]));
        hosts
    }

    /// Checks what types alone cannot.
    ///
    /// # Errors
    /// The first value that cannot work, by key, or that this version does not have.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.peer.listen.is_some() {
            return Err(SettingsError::NotInThisVersion("peer.listen"));
        }
        self.wrong().map_or(Ok(()), |(key, reason)| Err(SettingsError::Value { key, reason }))
    }

    /// The first key whose value cannot work, and why.
    fn wrong(&self) -> Option<(&'static str, &'static str)> {
        let Settings { exec, raft, disk, .. } = self;
        let election_min = raft.heartbeat_ticks.saturating_mul(3);
        let absolute = |path: &String| path.starts_with('/') && !path.split('/').any(|p| p == "..");
        let loopback = self.metrics.listen.is_none_or(|address| address.ip().is_loopback());
        let advertise = self.advertise.as_deref();
        let checks = [
            (self.listen.port() != 0, "listen", "the port must be given"),
            (
                advertise.is_none_or(|text| host_and_port(text).is_some()),
                "advertise",
                "it must be HOST:PORT",
            ),
            (
                advertise.is_some() || !self.listen.ip().is_unspecified(),
                "advertise",
                "it must be given, because `listen` means every address",
            ),
            (self.rpc.origins.iter().all(|o| is_origin(o)), "rpc.origins", "not SCHEME://HOST"),
            (self.rpc.hosts.iter().all(|h| is_host(h)), "rpc.hosts", "not a host without port"),
            (loopback, "metrics.listen", "it has no login and no TLS: loopback only"),
            (exec.allow.iter().all(absolute), "exec.allow", "programs are absolute paths"),
            (exec.users.iter().all(|u| !u.is_empty()), "exec.users", "a name is empty"),
            (exec.output_bytes_max.0 >= 64 << 10, "exec.output_bytes_max", "at least 64KiB"),
            (self.history.bytes_max.0 >= 64 << 20, "history.bytes_max", "at least 64MiB"),
            (disk.free_percent_min <= 50, "disk.free_percent_min", "at most 50"),
            (disk.reserve_bytes.0 <= 64 << 30, "disk.reserve_bytes", "at most 64GiB"),
            (!self.unix_socket.group.is_empty(), "unix_socket.group", "it must have a name"),
            ((10..=1000).contains(&raft.tick_ms), "raft.tick_ms", "10 to 1000"),
            ((1..=100).contains(&raft.heartbeat_ticks), "raft.heartbeat_ticks", "1 to 100"),
            (
                (election_min..=1000).contains(&raft.election_ticks),
                "raft.election_ticks",
                "at least three heartbeats, at most 1000",
            ),
        ];
        checks.into_iter().find(|(fits, ..)| !fits).map(|(_, key, reason)| (key, reason))
    }
}

/// Splits `HOST:PORT`, where an IPv6 host stands in brackets (they are taken off).
pub fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().ok().map(|_| (address, port)),
        None => is_host(host).then_some((host, port)),
    }
}

/// Whether a text is a host: an IPv4 address or a DNS name, without port.
fn is_host(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| is_host(host) || host_and_port(host).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_and_are_safe() {
        let settings = Settings::default();
        settings.check().expect("defaults");
        assert!(!settings.exec.enabled && settings.exec.allow.is_empty());
        assert_eq!(settings.exec.users, ["nobody"]);
        assert!(settings.listen.ip().is_loopback());
        assert_eq!(settings.advertised(), "127.0.0.1:20003");
        assert_eq!(settings.hosts(), ["127.0.0.1"]);
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_key() {
        type Change = fn(&mut Settings);
        let table: [(&str, Change); 13] = [
            ("listen", |s| s.listen.set_port(0)),
            ("advertise", |s| s.listen = SocketAddr::from(([0, 0, 0, 0], 20003))),
            ("advertise", |s| s.advertise = Some("host".to_owned())),
            ("rpc.origins", |s| s.rpc.origins = vec!["ui.example".to_owned()]),
            ("rpc.hosts", |s| s.rpc.hosts = vec!["ui.example:1".to_owned()]),
            ("metrics.listen", |s| s.metrics.listen = "10.0.0.1:9".parse().ok()),
            ("exec.allow", |s| s.exec.allow = vec!["ls".to_owned()]),
            ("exec.allow", |s| s.exec.allow = vec!["/bin/../x".to_owned()]),
            ("disk.free_percent_min", |s| s.disk.free_percent_min = 99),
            ("disk.reserve_bytes", |s| s.disk.reserve_bytes = Size(1 << 40)),
            ("raft.tick_ms", |s| s.raft.tick_ms = 1),
            ("raft.election_ticks", |s| s.raft.election_ticks = 3),
            ("peer.listen", |s| s.peer.listen = "127.0.0.1:9".parse().ok()),
        ];
        for (key, change) in table {
            let mut settings = Settings::default();
            change(&mut settings);
            let error = settings.check().expect_err(key).to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }

    #[test]
    fn hosts_and_ports_are_told_apart() {
        for (text, expected) in [
            ("n11.example:20003", Some(("n11.example", 20003))),
            ("[::1]:1", Some(("::1", 1))),
            ("::1:1", None),
            ("n11:0", None),
            ("n11", None),
            (":1", None),
            ("a b:1", None),
        ] {
            assert_eq!(host_and_port(text), expected, "{text}");
        }
        let advertise = Some("n11.example:20003".to_owned());
        let settings = Settings { advertise, ..Settings::default() };
        assert_eq!(settings.hosts(), ["127.0.0.1", "n11.example"]);
    }
}
