//! The offline commands as a terminal has them: `check`, `recover`, `backup` and `restore`.
//!
//! It owns their arguments and their words, and nothing of what they do. `main` calls it.

use crate::backup::{self, Backup};
use crate::new_node::NewNode;
use crate::recover::skip::{self, SkipEntry, Skipped};
use crate::recover::{self, OnlyVoter};
use crate::restore::{self, Restore};
use crate::{check, hygiene, report};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Verify log, snapshots, history and chain of a stopped node
#[derive(clap::Args)]
pub struct CheckArguments {
    /// The data folder
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Print State hash, root hash and chain head instead: equal on all nodes at one index
    #[arg(long)]
    digest: bool,
    /// The index; without it the newest that this node can prove to be committed
    #[arg(long, value_name = "INDEX", requires = "digest")]
    at: Option<u64>,
}

/// Get a cluster going again that cannot help itself; the node must be stopped
#[derive(clap::Args)]
pub struct RecoverArguments {
    /// The data folder
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The quorum is lost for good: this node becomes the only member
    #[arg(long, required_unless_present = "skip_entry", conflicts_with = "skip_entry")]
    only_voter: bool,
    /// No member can apply this entry: pass over it; to be done on every member
    #[arg(long, value_name = "INDEX")]
    skip_entry: Option<u64>,
    /// The cluster's name, for scripts; else it is asked for on the terminal
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Make a new CA: this node has not the key of the old one
    #[arg(long, requires = "only_voter")]
    new_ca: bool,
}

/// Copy State and history of a node, running or stopped, into one file
#[derive(clap::Args)]
pub struct BackupArguments {
    /// The data folder
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The file to make
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// File whose first line is a passphrase: the keys come along under it
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Make a new one-node cluster from a backup; others join it afterwards
#[derive(clap::Args)]
pub struct RestoreArguments {
    /// The backup
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    #[command(flatten)]
    node: NewNode,
    /// File whose first line is the backup's passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "without_secrets")]
    passphrase_file: Option<PathBuf>,
    /// Go on without the cluster's keys: sealed secrets are taken out, and there is a new CA
    #[arg(long)]
    without_secrets: bool,
}

type Error = Box<dyn std::error::Error>;

/// The exit status: 0, or 1 with the reason on standard error.
fn ended(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tiebeamd: {}", report::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// A path that does not depend on where the caller stands.
fn whole(path: &Path) -> Result<PathBuf, Error> {
    Ok(std::path::absolute(path)?)
}

/// `tiebeamd check`.
pub fn check(given: &CheckArguments) -> ExitCode {
    if given.digest {
        return ended(check::digest(&given.data, given.at).map_err(Error::from));
    }
    match check::check(&given.data) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => ended(Err(error.into())),
    }
}

/// `tiebeamd recover`.
pub fn recover(given: RecoverArguments) -> ExitCode {
    ended(match given.skip_entry {
        Some(index) => skip(&given, index),
        None => only_voter(&given),
    })
}

fn only_voter(given: &RecoverArguments) -> Result<(), Error> {
    hygiene::harden()?;
    let data = whole(&given.data)?;
    let asked = OnlyVoter { data, cluster: given.cluster.clone(), new_ca: given.new_ca };
    let outcome = recover::only_voter(&asked)?;
    let (identity, state) = (&outcome.identity, &outcome.state);
    println!(
        "node {} is the only member of cluster {}, incarnation {}",
        identity.node_id, state.cluster.name, state.cluster.incarnation
    );
    println!(
        "applied {}; ids and revisions go on at {}; job {}.{} says what was done",
        state.applied, state.revision, identity.node_id, state.last_job
    );
    println!("next: tiebeamd run --data {}", asked.data.display());
    Ok(())
}

fn skip(given: &RecoverArguments, index: u64) -> Result<(), Error> {
    hygiene::harden()?;
    let data = whole(&given.data)?;
    let asked = SkipEntry { data, index, cluster: given.cluster.clone() };
    match skip::skip_entry(&asked)? {
        Skipped::Now { digest, kept } => {
            println!("entry {index} is passed over; it was sha256:{digest}");
            println!("the log as it was: {}", asked.data.join(kept).display());
            println!("do the same on every other member, with the same digest, then start them");
        }
        Skipped::Before { digest } => {
            println!("entry {index} was passed over before; it was sha256:{digest}");
        }
    }
    Ok(())
}

/// `tiebeamd backup`.
pub fn backup(given: BackupArguments) -> ExitCode {
    ended(make_backup(given))
}

fn make_backup(given: BackupArguments) -> Result<(), Error> {
    hygiene::harden()?;
    let BackupArguments { data, to, passphrase_file } = given;
    let asked = Backup { data: whole(&data)?, to, passphrase_file };
    let made = backup::backup(&asked)?;
    let manifest = &made.manifest;
    println!("cluster {} as of index {}, {}", manifest.cluster, manifest.index, manifest.made);
    println!(
        "revision {} {}, {} records {}",
        manifest.revision, manifest.root, manifest.chain_index, manifest.chain_head
    );
    println!("{}: {} bytes, {}", asked.to.display(), made.bytes, made.digest);
    match manifest.keys {
        true => println!("the keys are in it, under the passphrase: keep that elsewhere"),
        false => println!("no key is in it: restore it with --without-secrets only"),
    }
    if made.left_out > 0 {
        println!(
            "left out: the last {} of this node's log, not known to be committed",
            if made.left_out == 1 {
                "entry".to_owned()
            } else {
                format!("{} entries", made.left_out)
            }
        );
    }
    Ok(())
}

/// `tiebeamd restore`.
pub fn restore(given: RestoreArguments) -> ExitCode {
    ended(make_restored(given))
}

fn make_restored(given: RestoreArguments) -> Result<(), Error> {
    hygiene::harden()?;
    let NewNode { data, node_id, name, listen, advertise } = given.node;
    let asked = Restore {
        from: given.from,
        data: whole(&data)?,
        node_id,
        name,
        listen,
        advertise,
        passphrase_file: given.passphrase_file,
        without_secrets: given.without_secrets,
    };
    let restored = restore::restore(&asked)?;
    let (manifest, state) = (&restored.manifest, &restored.state);
    println!(
        "cluster {}, incarnation {}, restored from the backup of {} ({})",
        state.cluster.name, state.cluster.incarnation, manifest.made, restored.digest
    );
    println!(
        "{} records, the chain is unbroken; ids and revisions go on at {}; job {}.{} says it",
        state.chain.index, state.revision, asked.node_id, state.last_job
    );
    let which =
        if restored.new_ca { "new CA certificate, for all clients" } else { "CA certificate" };
    println!("{which}: {}", restored.ca_file.display());
    println!("next: tiebeamd run --data {}", asked.data.display());
    Ok(())
}
