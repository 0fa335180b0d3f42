//! What can go wrong with a command on this node, one variant per operation that failed.
//!
//! Called by everything in `host`; the node agent turns these into results of commands. A
//! message names the node setting that stands in the way, where one does.

use crate::blobs::BlobError;
use std::{io, path::Path, path::PathBuf};

/// Why the host did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A job id or a key that is no safe name of a folder.
    #[error("{text:?} is not a {what} that the command journal takes")]
    BadName {
        /// `job id` or `command key`.
        what: &'static str,
        /// What was given.
        text: String,
    },
    /// A command that cannot be started as it is described.
    #[error("this command cannot be started: {reason}")]
    BadSpec {
        /// What is wrong with it; no value of it.
        reason: String,
    },
    /// This node's own settings forbid the command.
    #[error("{reason} (node setting {setting})")]
    NotAllowed {
        /// The setting to change: `exec.enabled`, `exec.allow` or `exec.users`.
        setting: &'static str,
        /// What was asked and why not.
        reason: String,
    },
    /// More commands at once than a node runs.
    #[error("this node runs {limit} commands already")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The key was used for a command with other arguments (ruling 10).
    #[error("command {key} of job {job} was started with other arguments")]
    OtherArguments {
        /// The job.
        job: String,
        /// The key.
        key: String,
    },
    /// The command was fenced: it did not run and never will on this node.
    #[error("command {key} of job {job} was refused: {why}")]
    Refused {
        /// The job.
        job: String,
        /// The key.
        key: String,
        /// Who gave it up.
        why: String,
    },
    /// Whether the command ran cannot be told.
    #[error("command {key} of job {job} may have run: {evidence}")]
    Unknown {
        /// The job.
        job: String,
        /// The key.
        key: String,
        /// What is known.
        evidence: String,
    },
    /// This node has not started such a command.
    #[error("command {key} of job {job} was not started on this node")]
    NotStarted {
        /// The job.
        job: String,
        /// The key.
        key: String,
    },
    /// The shim said that it could not begin; the command did not run.
    #[error("the command did not run: {reason}")]
    ShimFailed {
        /// The shim's own words.
        reason: String,
    },
    /// The shim's program could not be started; the command did not run.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// An operation on the journal or an output failed.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The whole output could not be moved to the blobs.
    #[error("the whole output is not among the blobs")]
    Blob(#[source] BlobError),
    /// A process could not be signalled or watched.
    #[error("cannot {operation} process {pid}")]
    Process {
        /// What was tried, as a verb.
        operation: &'static str,
        /// Which process.
        pid: i32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The runtime is shutting down; what was begun is in the journal.
    #[error("the daemon is stopping")]
    Stopping,
}

impl HostError {
    /// Makes a [`HostError::File`] of an I/O error.
    pub(crate) fn file(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> HostError + use<> {
        let path = path.to_path_buf();
        move |source| HostError::File { operation, path, source }
    }

    /// The error with its sources on one line, for evidence and for the shim's last words.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
