//! What has to be said of a node that is made, the same words for `init`, `join` and `restore`.
//!
//! Arguments only: what is made of them, and what of it is refused, is theirs.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The arguments that every node is made with.
#[derive(Clone, Debug, clap::Args)]
pub struct NewNode {
    /// The data folder; must be empty or not exist
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The node's id, 1 to 65535
    #[arg(long)]
    pub node_id: u32,
    /// The node's name
    #[arg(long)]
    pub name: String,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// What others are told, if it is not --listen
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
}
