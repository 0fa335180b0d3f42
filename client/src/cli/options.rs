//! The options that every command has: where the cluster is, who asks, how output looks.

use clap::{Args, FromArgMatches};
use std::path::PathBuf;
use std::time::Duration;

/// Options of every command, at any position.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Target and output (every command)")]
pub struct Options {
    /// Address of a cluster member, https://HOST[:PORT] or HOST[:PORT]; may be repeated.
    /// Else TIEBEAM_URL, the client file, the local socket
    #[arg(long, value_name = "URL", global = true)]
    pub url: Vec<String>,
    /// The cluster's CA certificate (PEM); no other CA is trusted. Else TIEBEAM_CA
    #[arg(long, value_name = "FILE", global = true)]
    pub ca: Option<PathBuf>,
    /// Log in as this user. Else TIEBEAM_USER
    #[arg(long, value_name = "NAME", global = true)]
    pub user: Option<String>,
    /// File with the user's password. Else TIEBEAM_PASSWORD_FILE
    #[arg(long, value_name = "FILE", global = true)]
    pub password_file: Option<PathBuf>,
    /// File with a token of `tiebeam login`
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// Client certificate (PEM) to log in with
    #[arg(long, value_name = "FILE", global = true, requires = "key")]
    pub cert: Option<PathBuf>,
    /// Key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", global = true, requires = "cert")]
    pub key: Option<PathBuf>,
    /// Unix socket of a local node; no login. Else TIEBEAM_SOCKET
    #[arg(long, value_name = "PATH", global = true, conflicts_with = "url")]
    pub socket: Option<PathBuf>,
    /// Seconds to go on while no member answers or there is no master
    #[arg(long, value_name = "SECONDS", global = true, default_value_t = 30)]
    pub retry_for: u64,
    /// Print JSON
    #[arg(short, long, global = true)]
    pub json: bool,
}

impl Options {
    /// Reads them from what clap matched.
    pub fn of(matches: &clap::ArgMatches) -> Options {
        // Global options are on the innermost command's matches too, where they were given.
        let mut innermost = matches;
        while let Some((_, below)) = innermost.subcommand() {
            innermost = below;
        }
        Options::from_arg_matches(innermost).unwrap_or_default()
    }

    /// How long to go on.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.retry_for)
    }
}
