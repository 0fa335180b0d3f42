//! `tiebeamd recover`: the offline ways out of what a cluster cannot get out of by itself.
//!
//! `--only-voter` is for a quorum that is lost for good (ruling 44): this node goes on alone, with
//! everything that its log holds, in a new incarnation of the cluster. `--skip-entry` is for an
//! entry that no member can apply (ruling 36, [`skip`]). Both need the folder for themselves, ask
//! for the cluster's name, and leave a record in the history.
//!
//! **Interrupted anywhere, it is run again.** A file in the folder says from the first change to
//! the last that it is under way; no daemon starts while it is there. The snapshot with the new
//! State is what decides: before it, all is done anew from the old one, and what the history has
//! beyond the old State is cut; after it, only the identity is left to be written.

pub mod confirm;
#[cfg(test)]
pub(crate) mod fixture;
pub mod skip;
#[cfg(test)]
mod tests;

use crate::ca::{self, Authority, CaError};
use crate::disk::{DataDisk, SystemRng};
use crate::durable::{self, DurableError};
use crate::history::{History, HistoryError, HistoryThread, Start, verify_segments};
use crate::hygiene::{self, HygieneError};
use crate::identity::{self, Identity, IdentityError};
use crate::kept::{Kept, KeptError, Replayed};
use crate::keys::{KeyError, Keys};
use crate::proposer::wall_now;
use crate::settings::{Settings, SettingsError};
use confirm::{ConfirmError, confirm, os_user};
use serde_json::{Map, json};
use std::path::{Path, PathBuf};
use tiebeam_core::State;
use tiebeam_core::apply::incarnate::{Cause, Incarnation};
use tiebeam_core::member::incarnation;
use tiebeam_core::tree::TreeError;
use tiebeam_proto::chain::{self, Hash, Head};
use tiebeam_replica::Mark;
use tiebeam_replica::log::LogSettings;
use tiebeam_replica::membership::Membership;
use tiebeam_replica::recovery::{self, RecoveryError, SNAPSHOT_FOLDER};
use tiebeam_replica::snapshot::{self, SnapshotError, SnapshotMeta};

/// What `recover --only-voter` was asked for.
#[derive(Clone, Debug)]
pub struct OnlyVoter {
    /// The data folder.
    pub data: PathBuf,
    /// The cluster's name; without it the terminal is asked.
    pub cluster: Option<String>,
    /// Whether a new CA is to be made: this node has not the old one's key.
    pub new_ca: bool,
}

/// Why nothing was recovered, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A daemon runs on the folder, or it is not the caller's.
    #[error("the folder cannot be used now")]
    Folder(#[source] HygieneError),
    /// It is no node's.
    #[error("this is no node's data folder")]
    Identity(#[source] IdentityError),
    /// Snapshot and log give no State.
    #[error("the State of this node cannot be had")]
    Kept(#[source] KeptError),
    /// The State does not know this node.
    #[error("this node is no member in its own State: it was removed, or joined again elsewhere")]
    NoMember,
    /// There is a quorum.
    #[error("this node is the only voter already: nothing is lost, start it with tiebeamd run")]
    OnlyVoter,
    /// Records are there that the log does not know.
    #[error(
        "the log has lost its end: the history has records up to {history}, snapshot and log only \
         up to {chain}; copy the folder away and see `tiebeamd check`"
    )]
    LogLost {
        /// The newest record of the history.
        history: u64,
        /// The newest record of State.
        chain: u64,
    },
    /// The operator did not agree.
    #[error("nothing was changed")]
    Confirm(#[source] ConfirmError),
    /// The settings cannot be read.
    #[error("the settings are wrong")]
    Settings(#[source] SettingsError),
    /// The keys cannot be used.
    #[error("the keys cannot be used")]
    Keys(#[source] KeyError),
    /// A certificate cannot be issued without the CA's key.
    #[error(
        "this node has no usable key of the cluster's CA: with --new-ca it makes a new one, whose \
         ca.crt every client has to be given"
    )]
    NoAuthority,
    /// A certificate cannot be issued.
    #[error("the node's certificate cannot be issued")]
    Certificates(#[source] CaError),
    /// The configuration does not take the change.
    #[error("the configuration cannot be changed")]
    Config(#[source] TreeError),
    /// The history cannot be written.
    #[error("the history cannot be written")]
    History(#[source] HistoryError),
    /// The snapshot cannot be written.
    #[error("the snapshot cannot be written")]
    Snapshot(#[source] SnapshotError),
    /// The log cannot be begun anew.
    #[error("the log cannot be begun anew")]
    Log(#[source] RecoveryError),
    /// A small file cannot be written.
    #[error("what is under way cannot be noted")]
    Mark(#[source] DurableError),
    /// A small file cannot be removed.
    #[error("{} cannot be removed", .0.display())]
    Remove(PathBuf, #[source] std::io::Error),
    /// A test stopped it here.
    #[cfg(test)]
    #[error("stopped at {0}")]
    Stopped(&'static str),
}

/// What became of the folder.
#[derive(Debug)]
pub struct Outcome {
    /// The node as it is now.
    pub identity: Identity,
    /// The first State of the new incarnation.
    pub state: State,
}

/// A place between two steps: where a test may stop it.
type Pass<'a> = &'a mut dyn FnMut(&'static str) -> Result<(), RecoverError>;

/// Makes this node the only member of a new incarnation of its cluster.
///
/// # Errors
/// See [`RecoverError`]; run it again once the reason is gone.
pub fn only_voter(asked: &OnlyVoter) -> Result<Outcome, RecoverError> {
    carry_out(asked, &mut |step| {
        crate::host::crash_point(step);
        Ok(())
    })
}

fn carry_out(asked: &OnlyVoter, pass: Pass<'_>) -> Result<Outcome, RecoverError> {
    let data = &asked.data;
    let identity = Identity::read_unfinished(data).map_err(RecoverError::Identity)?;
    let _lock = hygiene::take_folder(data).map_err(RecoverError::Folder)?;
    let resumed = data.join(identity::UNFINISHED).exists();
    let kept = Kept::read(data).map_err(RecoverError::Kept)?;
    // What the others may have decided does not count here, as long as nobody knows of it.
    let sure = kept.newest_committed(identity.raft_id()).map_err(RecoverError::Kept)?.state;
    let seat = sure.members.get(&identity.node_id).ok_or(RecoverError::NoMember)?;
    let next = u32::from(incarnation(seat.raft_id));
    let alone = sure.voters().all(|(node, _)| node == identity.node_id);
    match (alone && seat.voter, resumed) {
        (true, true) if next >= identity.incarnation => {
            return finish(data, Identity { incarnation: next, ..identity }, sure, pass);
        }
        (true, _) => return Err(RecoverError::OnlyVoter),
        (false, _) if seat.raft_id != identity.raft_id() => return Err(RecoverError::NoMember),
        (false, _) => {}
    }
    let replayed = kept.everything().map_err(RecoverError::Kept)?;
    check_history(data, &replayed, resumed)?;
    let keys = Keys::load(data).map_err(RecoverError::Keys)?;
    check_authority(data, &keys, asked.new_ca)?;
    confirm(&replayed.state.cluster.name, asked.cluster.as_deref(), || {
        explain(&identity, &kept, &replayed)
    })
    .map_err(RecoverError::Confirm)?;
    let text = format!("tiebeamd recover --only-voter, since {}\n", wall_now().to_rfc3339());
    durable::replace(&data.join(identity::UNFINISHED), text.as_bytes(), 0o600)
        .map_err(RecoverError::Mark)?;
    pass("recover.mark.after")?;
    let term = kept.log().hard_state.term.max(replayed.state.term) + 1;
    let uncertain = kept.last().saturating_sub(kept.known_committed());
    let state = write_history(data, &replayed, |floor| {
        incarnation_of(&identity, &keys, &replayed.state, (term, uncertain, floor))
    })?;
    pass("recover.history.after")?;
    let raft_id = state.members.get(&identity.node_id).map(|member| member.raft_id);
    let incarnation = u32::from(incarnation(raft_id.unwrap_or_default()));
    let identity = Identity { incarnation, ..identity };
    renew_keys(data, keys, &identity, asked.new_ca)?;
    pass("recover.keys.after")?;
    write_state(data, &identity, &state, pass)?;
    finish(data, identity, state, pass)
}

/// The last steps: all that is left once the new snapshot is durable.
fn finish(
    data: &Path,
    identity: Identity,
    state: State,
    pass: Pass<'_>,
) -> Result<Outcome, RecoverError> {
    identity.rewrite(data).map_err(RecoverError::Identity)?;
    pass("recover.identity.after")?;
    let mark = data.join(identity::UNFINISHED);
    std::fs::remove_file(&mark).map_err(|error| RecoverError::Remove(mark, error))?;
    durable::sync_folder(data).map_err(RecoverError::Mark)?;
    Ok(Outcome { identity, state })
}

/// A history that is ahead of the log shows that a part of the log was lost as a whole. After an
/// interruption it is ahead by what we wrote ourselves.
fn check_history(data: &Path, replayed: &Replayed, resumed: bool) -> Result<(), RecoverError> {
    let folder = data.join("history");
    if resumed || !folder.exists() {
        return Ok(());
    }
    let report = verify_segments(&folder, None).map_err(RecoverError::History)?;
    for problem in &report.problems {
        eprintln!("history {}: WRONG: {}", problem.path.display(), problem.what);
    }
    let (history, chain) = (report.to, replayed.state.chain.index);
    if history > chain { Err(RecoverError::LogLost { history, chain }) } else { Ok(()) }
}

/// Whether a certificate can be issued that fits `ca.crt`.
fn check_authority(data: &Path, keys: &Keys, new_ca: bool) -> Result<(), RecoverError> {
    if new_ca {
        return Ok(());
    }
    let key = keys.authority_key().ok_or(RecoverError::NoAuthority)?;
    let certificate =
        ca::read_certificate(data, ca::CA_CERTIFICATE).map_err(RecoverError::Certificates)?;
    if ca::is_key_of(key, &certificate) { Ok(()) } else { Err(RecoverError::NoAuthority) }
}

/// What the operator is told before the name is asked for.
fn explain(identity: &Identity, kept: &Kept, replayed: &Replayed) -> String {
    let state = &replayed.state;
    let others: Vec<String> = state
        .members
        .iter()
        .filter(|(node, _)| **node != identity.node_id)
        .map(|(node, member)| {
            format!("{node} ({})", if member.voter { "voter" } else { "learner" })
        })
        .collect();
    let known = kept.known_committed();
    format!(
        "node {} ({}) becomes the only member of cluster {:?}.\n\
         kept: entries up to {} (up to {known} known to be committed), revision {}, {} records\n\
         dropped for good: {}\n\
         What only the dropped members had is lost. None of them may ever run again on its old\n\
         folder; empty it and join it anew.\n",
        identity.node_id,
        identity.name,
        state.cluster.name,
        kept.last(),
        state.revision,
        state.chain.index,
        others.join(", "),
    )
}

fn incarnation_of(
    identity: &Identity,
    keys: &Keys,
    state: &State,
    (term, uncertain, floor): (u64, u64, Option<(u64, Hash)>),
) -> Result<Incarnation, RecoverError> {
    let by = os_user();
    let mut facts = Map::new();
    facts.insert("index".into(), json!(state.applied));
    facts.insert("uncertain_entries".into(), json!(uncertain));
    if let Some((index, _)) = floor {
        facts.insert("history_lost_below".into(), json!(index));
    }
    let reason = format!("the quorum was lost for good; node {} goes on alone", identity.node_id);
    Ok(Incarnation {
        cause: Cause::Recovered,
        term,
        node: identity.node_id,
        name: identity.name.clone(),
        address: String::new(),
        key_hash: ca::key_hash(&keys.node_key).map_err(RecoverError::Certificates)?,
        by,
        wall: wall_now(),
        reason,
        facts,
        floor,
        forget_secrets: false,
    })
}

/// Makes the history end where State does, adds the records of the new incarnation, and gives its
/// State. The snapshot that the replay began with says up to where the history was durable; what
/// lies beyond is written again, by this run or by an interrupted one before it.
fn write_history(
    data: &Path,
    replayed: &Replayed,
    new: impl FnOnce(Option<(u64, Hash)>) -> Result<Incarnation, RecoverError>,
) -> Result<State, RecoverError> {
    let failed = RecoverError::History;
    let from = Head { index: replayed.from.index, hash: replayed.from.head };
    let thread = HistoryThread::spawn(&Start::at(data, Some(from))).map_err(failed)?;
    let written = (|| {
        for record in &replayed.records {
            thread.handle.archive(record.clone()).map_err(failed)?;
        }
        let floor = floor_above_gaps(&thread.history, thread.opened.missing, replayed)?;
        let mut state = replayed.state.clone();
        let records = state.begin_incarnation(&new(floor)?).map_err(RecoverError::Config)?;
        for record in records {
            thread.handle.archive(record).map_err(failed)?;
        }
        thread.handle.sync_to(state.chain.index).map_err(failed)?;
        Ok(state)
    })();
    let stopped = thread.stop().map_err(failed);
    written.and_then(|state| stopped.map(|()| state))
}

/// Records that this node never had, and that nobody can give it any more, lie below the new floor.
fn floor_above_gaps(
    history: &History,
    missing: Option<(u64, u64)>,
    replayed: &Replayed,
) -> Result<Option<(u64, Hash)>, RecoverError> {
    let floor = replayed.state.chain.floor_index.max(1);
    let gaps = history.gaps(floor).into_iter().chain(missing);
    let Some(last) = gaps.map(|(_, to)| to).filter(|to| *to >= floor).max() else {
        return Ok(None);
    };
    if last == replayed.from.index {
        return Ok(Some((last + 1, replayed.from.head)));
    }
    let behind = history.record(last + 1).map_err(RecoverError::History)?;
    let previous = behind.and_then(|record| chain::from_text(&record.link.previous));
    Ok(previous.map(|previous| (last + 1, previous)))
}

/// A certificate for the new incarnation. The dropped members have the cluster's key: what is
/// sealed from now on gets another (ruling 21).
fn renew_keys(
    data: &Path,
    mut keys: Keys,
    identity: &Identity,
    new_ca: bool,
) -> Result<(), RecoverError> {
    let settings =
        Settings::load(data, std::env::vars_os(), &[]).map_err(RecoverError::Settings)?;
    keys.rotate_cluster_key(data).map_err(RecoverError::Keys)?;
    if new_ca {
        keys.renew_authority(data).map_err(RecoverError::Keys)?;
    }
    let ca_key = keys.authority_key().ok_or(RecoverError::NoAuthority)?;
    write_certificates(data, &keys, ca_key, (identity, &settings), new_ca)
        .map_err(RecoverError::Certificates)
}

/// Issues this node's certificate, after a new one of the CA if that is asked for.
pub(crate) fn write_certificates(
    data: &Path,
    keys: &Keys,
    ca_key: &crate::secret::Secret<String>,
    (identity, settings): (&Identity, &Settings),
    new_ca: bool,
) -> Result<(), CaError> {
    let now = wall_now();
    if new_ca {
        let ca = ca::create_authority(&identity.cluster_id, ca_key, now)?;
        ca::write_certificate(data, ca::CA_CERTIFICATE, &ca)?;
    }
    let ca = ca::read_certificate(data, ca::CA_CERTIFICATE)?;
    let public = ca::public_key(&keys.node_key)?;
    let authority = Authority::new(&ca, ca_key)?;
    let node = authority.issue_node(&public, identity, &settings.hosts(), now)?;
    ca::write_certificate(data, ca::NODE_CERTIFICATE, &node)
}

/// The snapshot of the new incarnation, and a log that begins behind it.
fn write_state(
    data: &Path,
    identity: &Identity,
    state: &State,
    pass: Pass<'_>,
) -> Result<(), RecoverError> {
    let mark = Mark { index: state.applied, term: state.term };
    let meta = SnapshotMeta { mark, membership: Membership::of_voters([identity.raft_id()]) };
    let body = tiebeam_core::snapshot::encode(state);
    snapshot::save(DataDisk::new(data), SNAPSHOT_FOLDER, meta, &body)
        .map_err(RecoverError::Snapshot)?;
    pass("recover.snapshot.after")?;
    // A snapshot that the log does not reach makes recovery begin the log anew.
    recovery::recover(DataDisk::new(data), LogSettings::default(), Box::new(SystemRng))
        .map_err(RecoverError::Log)?;
    pass("recover.log.after")
}
