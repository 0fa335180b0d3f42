//! The program `tiebeamd`: reads its arguments and calls the library.
//!
//! The exec-shim is the same program: it is recognised before anything else, because it must start
//! no thread and read no settings.

use clap::{Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tiebeamd::init::Init;
use tiebeamd::join::enter::{self, Join};
use tiebeamd::new_node::NewNode;
use tiebeamd::secret::Secret;
use tiebeamd::{dev, host, init, node, offline, report};

/// Under load a third of the daemon's time was the system's allocator; this one halves that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tiebeam's daemon: one replicated, revisioned configuration, one job pipeline, one history.
#[derive(Parser)]
#[command(name = "tiebeamd", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a one-node cluster in an empty data folder
    Init {
        #[command(flatten)]
        node: NewNode,
        /// The cluster's name
        #[arg(long)]
        cluster: String,
        /// File whose first line is the password of admin; without it one is made and shown once
        #[arg(long, value_name = "FILE")]
        admin_password_file: Option<PathBuf>,
    },
    /// Serve in the foreground
    Run {
        /// The data folder
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// A setting, e.g. --set rpc.hosts=db.example.com; wins over file and environment
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
        settings: Vec<(String, String)>,
    },
    /// Make this machine a member of a cluster that is there
    Join(JoinArguments),
    /// Bring up a real cluster on loopback, in one terminal
    Dev {
        /// How many nodes; 3 if not given, or those that are in the folder already
        #[arg(long)]
        nodes: Option<u32>,
        /// Folder for the nodes' data and dev.json; without it a temporary one
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Where the first node listens
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.11:20003")]
        listen: SocketAddr,
        /// Run this with TIEBEAM_* set, stop the cluster, and exit with its status
        #[arg(long, value_name = "CMD")]
        exec: Option<String>,
    },
    /// Verify log, snapshots, history and chain of a stopped node
    Check(offline::CheckArguments),
    /// Copy State and history of a node, running or stopped, into one file
    Backup(offline::BackupArguments),
    /// Make a new one-node cluster from a backup; others join it afterwards
    Restore(offline::RestoreArguments),
    /// Get a cluster going again that cannot help itself; the node must be stopped
    Recover(offline::RecoverArguments),
}

/// The arguments of `join`.
#[derive(clap::Args)]
struct JoinArguments {
    #[command(flatten)]
    node: NewNode,
    /// Any member of the cluster
    #[arg(long, value_name = "HOST:PORT")]
    master: String,
    /// The token of node_token; - reads it from standard input
    #[arg(long, required_unless_present = "token_file", conflicts_with = "token_file")]
    token: Option<String>,
    /// File whose first line is the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == host::SHIM_ARGUMENT) {
        return host::shim_main();
    }
    let arguments = Arguments::parse();
    if matches!(arguments.command, Command::Run { .. }) {
        give_memory_back();
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("tiebeamd: another cryptography provider is installed already");
        return ExitCode::FAILURE;
    }
    match arguments.command {
        Command::Init { node, cluster, admin_password_file } => {
            let NewNode { data, node_id, name, listen, advertise } = node;
            let asked =
                Init { data, node_id, name, listen, advertise, cluster, admin_password_file };
            make(&asked)
        }
        Command::Join(given) => enter(given),
        Command::Run { data, settings } => ended(node::run(&data, &settings)),
        Command::Dev { nodes, data, listen, exec } => {
            match dev::dev(&dev::Dev { nodes, data, listen, exec }) {
                Ok(code) => code,
                Err(error) => failed(&error),
            }
        }
        Command::Check(given) => offline::check(&given),
        Command::Backup(given) => offline::backup(given),
        Command::Restore(given) => offline::restore(given),
        Command::Recover(given) => offline::recover(given),
    }
}

/// The allocator keeps freed memory for a while unless it is told not to, and it is told by the
/// environment, when a process begins: so the daemon begins again, once. An idle node has 21 MB
/// then instead of 33; under load nothing is lost.
fn give_memory_back() {
    use std::os::unix::process::CommandExt;
    const DELAY: &str = "MIMALLOC_PURGE_DELAY";
    if std::env::var_os(DELAY).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut words = std::env::args_os();
    let mut again = std::process::Command::new(program);
    if let Some(own_name) = words.next() {
        again.arg0(own_name);
    }
    // If it cannot begin again it goes on as it is.
    let _ = again.args(words).env(DELAY, "0").exec();
}

fn make(asked: &Init) -> ExitCode {
    if let Err(error) = tiebeamd::hygiene::harden() {
        return failed(&error);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let made = runtime.map(|runtime| runtime.block_on(init::init(asked)));
    match made {
        Ok(Ok(made)) => {
            println!("cluster {} is made in {}", asked.cluster, asked.data.display());
            println!("CA certificate: {}", made.ca_file.display());
            match made.password {
                Some(password) => {
                    println!("user: admin\npassword: {} (shown this once)", password.expose());
                }
                None => println!("user: admin"),
            }
            println!("next: tiebeamd run --data {}", asked.data.display());
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn enter(given: JoinArguments) -> ExitCode {
    if let Err(error) = tiebeamd::hygiene::harden() {
        return failed(&error);
    }
    let token = match token(given.token, given.token_file) {
        Ok(token) => token,
        Err(error) => return failed(&error),
    };
    let NewNode { data, node_id, name, listen, advertise } = given.node;
    let asked = Join { data, node_id, name, listen, advertise, master: given.master, token };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map(|runtime| runtime.block_on(enter::join(&asked))) {
        Ok(Ok(joined)) => {
            println!("node {} is a member of cluster {}", joined.node_id, joined.cluster);
            println!("next: tiebeamd run --data {}", asked.data.display());
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

/// The token's text, from wherever it is to come.
fn token(given: Option<String>, file: Option<PathBuf>) -> std::io::Result<Secret<String>> {
    let text = match (given.as_deref(), file) {
        (_, Some(file)) => std::fs::read_to_string(file)?,
        (Some("-") | None, None) => {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line)?;
            line
        }
        (Some(text), None) => {
            eprintln!(
                "tiebeamd: everyone on this machine can read the token among the arguments; \
                 --token - and --token-file keep it to you"
            );
            text.to_owned()
        }
    };
    Ok(Secret::new(text.lines().next().unwrap_or_default().to_owned()))
}

fn ended(result: Result<(), node::NodeError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("tiebeamd: {}", report::chain(error));
    ExitCode::FAILURE
}
