//! `tiebeamd init`: a one-node cluster in an empty data folder (wire.md section 10).

use crate::auth::password::{PasswordError, Passwords};
use crate::ca::{self, Authority, CaError};
use crate::disk::{DataDisk, SystemRng};
use crate::durable::{self, DurableError};
use crate::identity::{self, Identity, IdentityError};
use crate::keys::{KeyError, Keys, cluster::random};
use crate::proposer::wall_now;
use crate::secret::Secret;
use crate::settings::{self, Settings};
use crate::space::Space;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tiebeam_core::State;
use tiebeam_core::genesis::{GENESIS, Genesis};
use tiebeam_proto::canonical::hex;
use tiebeam_replica::log::LogSettings;
use tiebeam_replica::recovery::{self, RecoveryError};

/// What `init` was asked for.
#[derive(Clone, Debug)]
pub struct Init {
    /// The data folder.
    pub data: PathBuf,
    /// The node's id.
    pub node_id: u32,
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub listen: std::net::SocketAddr,
    /// What others are told, if it is not that.
    pub advertise: Option<String>,
    /// The cluster's name.
    pub cluster: String,
    /// A file with the password of `admin`; without one a password is made.
    pub admin_password_file: Option<PathBuf>,
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is something in the folder.
    #[error("{} is not empty: init makes a new cluster and destroys nothing", .0.display())]
    NotEmpty(PathBuf),
    /// The folder cannot be looked at or made.
    #[error("cannot use the folder {}", .0.display())]
    Folder(PathBuf, #[source] std::io::Error),
    /// A name does not fit.
    #[error("{0}")]
    Name(String),
    /// The password file cannot be read.
    #[error("cannot read the password file {}", .0.display())]
    PasswordFile(PathBuf, #[source] std::io::Error),
    /// The password does not fit.
    #[error("the password of admin cannot be used")]
    Password(#[source] PasswordError),
    /// Keys cannot be made.
    #[error("the keys cannot be made")]
    Keys(#[source] KeyError),
    /// Certificates cannot be made.
    #[error("the certificates cannot be made")]
    Certificates(#[source] CaError),
    /// The identity cannot be written.
    #[error("the identity cannot be written")]
    Identity(#[source] IdentityError),
    /// A file cannot be written.
    #[error("the settings cannot be written")]
    Write(#[source] DurableError),
    /// The first State does not fit its own limits.
    #[error("the first configuration cannot be made")]
    Genesis(#[source] tiebeam_core::tree::TreeError),
    /// The first snapshot or log cannot be written.
    #[error("the first snapshot and log cannot be written")]
    Replica(#[source] RecoveryError),
}

/// What `init` made.
pub struct Made {
    /// A password that was made and is shown once.
    pub password: Option<Secret<String>>,
    /// The CA's certificate file.
    pub ca_file: PathBuf,
}

/// Makes the cluster.
///
/// # Errors
/// See [`InitError`]; what was begun is left in the folder, which a second `init` refuses.
pub async fn init(asked: &Init) -> Result<Made, InitError> {
    check_names(asked)?;
    let (password, made) = password(asked)?;
    let passwords = Passwords::new().map_err(InitError::Password)?;
    let hash = passwords.hash(Arc::new(password)).await.map_err(InitError::Password)?;
    check_empty(&asked.data)?;
    durable::make_folder(&asked.data, 0o700).map_err(InitError::Write)?;
    let settings = Settings {
        listen: asked.listen,
        advertise: asked.advertise.clone(),
        ..Settings::default()
    };
    let keys = Keys::create(&asked.data).map_err(InitError::Keys)?;
    let cluster_id = hex(&random::<8>().map_err(InitError::Keys)?);
    let identity = Identity {
        format: identity::FORMAT,
        cluster_id: cluster_id.clone(),
        node_id: asked.node_id,
        incarnation: 1,
        name: asked.name.clone(),
    };
    certificates(asked, &keys, &identity, &settings)?;
    let state = State::genesis(&Genesis {
        cluster_id,
        cluster_name: asked.cluster.clone(),
        node: (asked.node_id, asked.name.clone(), settings.advertised()),
        raft_id: identity.raft_id(),
        key_hash: ca::key_hash(&keys.node_key).map_err(InitError::Certificates)?,
        admin_hash: hash,
        wall: wall_now(),
    })
    .map_err(InitError::Genesis)?;
    write_snapshot(&asked.data, &identity, &state)?;
    let text = settings::text::file_text(&settings);
    durable::write_new(&asked.data.join(settings::FILE), text.as_bytes(), 0o600)
        .map_err(InitError::Write)?;
    // The room is not needed yet: if there is none, the node says so when it runs.
    Space::new(&asked.data).measure(&settings.disk);
    // The identity comes last: a folder without one is no node.
    identity.write_once(&asked.data).map_err(InitError::Identity)?;
    let ca_file = asked.data.join(crate::keys::FOLDER).join(ca::CA_CERTIFICATE);
    Ok(Made { password: made, ca_file })
}

/// Checks what names a new node.
pub(crate) fn check_names(asked: &Init) -> Result<(), InitError> {
    let name = |text: &str| Err(InitError::Name(text.to_owned()));
    if asked.node_id == 0 || asked.node_id > 0xffff {
        return name("--node-id must be from 1 to 65535");
    }
    if !identity::is_node_name(&asked.name) {
        return name("--name must have 1 to 63 letters, digits, dots or dashes");
    }
    let cluster = &asked.cluster;
    if cluster.is_empty() || cluster.len() > 64 || cluster.chars().any(char::is_control) {
        return name("--cluster must be a name of 1 to 64 bytes");
    }
    if asked.listen.ip().is_unspecified() && asked.advertise.is_none() {
        return name("--advertise HOST:PORT is needed when --listen is every address");
    }
    Ok(())
}

/// Checks that nothing is in a folder, or that there is none.
pub(crate) fn check_empty(data: &Path) -> Result<(), InitError> {
    match std::fs::read_dir(data) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(InitError::NotEmpty(data.to_owned())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(InitError::Folder(data.to_owned(), error)),
    }
}

/// The password of admin, and the same again if it was made here.
fn password(asked: &Init) -> Result<(Secret<String>, Option<Secret<String>>), InitError> {
    if let Some(file) = &asked.admin_password_file {
        let text = std::fs::read_to_string(file)
            .map_err(|error| InitError::PasswordFile(file.clone(), error))?;
        let line = text.lines().next().unwrap_or_default().to_owned();
        return Ok((Secret::new(line), None));
    }
    let made = hex(&random::<12>().map_err(InitError::Keys)?);
    Ok((Secret::new(made.clone()), Some(Secret::new(made))))
}

fn certificates(
    asked: &Init,
    keys: &Keys,
    identity: &Identity,
    settings: &Settings,
) -> Result<(), InitError> {
    let now = wall_now();
    let failed = InitError::Certificates;
    let ca_key = keys.ca_key.as_ref().expect("a new cluster's keys have the authority's");
    let ca = ca::create_authority(&identity.cluster_id, ca_key, now).map_err(failed)?;
    let authority = Authority::new(&ca, ca_key).map_err(failed)?;
    let public = ca::public_key(&keys.node_key).map_err(failed)?;
    let node = authority.issue_node(&public, identity, &settings.hosts(), now).map_err(failed)?;
    ca::write_certificate(&asked.data, ca::CA_CERTIFICATE, &ca).map_err(failed)?;
    ca::write_certificate(&asked.data, ca::NODE_CERTIFICATE, &node).map_err(failed)
}

fn write_snapshot(data: &Path, identity: &Identity, state: &State) -> Result<(), InitError> {
    let meta = recovery::first_snapshot(identity.raft_id());
    assert_eq!((meta.mark.index, meta.mark.term), GENESIS, "State begins where the log does");
    let body = tiebeam_core::snapshot::encode(state);
    let (disk, rng) = (DataDisk::new(data), Box::new(SystemRng));
    recovery::bootstrap(disk, LogSettings::default(), rng, meta, &body).map_err(InitError::Replica)
}
