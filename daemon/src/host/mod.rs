//! Commands on this node: started once, watched by a shim, found again after any crash.
//!
//! Owns `<data>/journal/` and the outputs in `<data>/blobs/`. The node agent calls it with a
//! command that the log holds (ruling 9); it answers with how the command ended, or with what is
//! known if that cannot be told. It never decides *whether* a command should run: that is the
//! agent's, after it has applied the intent entry. Request path: it returns errors, never panics.
//!
//! One start, step by step:
//!
//! 1. the exec policy of the node settings admits it ([`ExecPolicy`]);
//! 2. `intent` is synced into the command's journal;
//! 3. the shim is started in a process group of its own and gets the whole order through its
//!    standard input;
//! 4. the shim takes the attempt over by a synced `running`, and only then starts the program;
//! 5. the program ends, or time or somebody ends it; the shim kills what is left of the tree,
//!    syncs the output, and syncs `ended`;
//! 6. whoever waits reads the journal. A daemon that was started since does the same.
//!
//! A crash after 2 and before 4 left a command that did not run: the next daemon voids the
//! attempt and may start another. After 4 only the journal's `ended` is believed; a shim that
//! went without one leaves a command of which nobody knows, and this module says so.

mod capture;
mod command;
mod crash;
mod error;
mod feed;
mod journal;
mod launch;
mod policy;
mod process;
mod settle;
mod shim;
mod start;
#[cfg(test)]
mod tests;
mod tree;

pub use capture::EXCERPT_BYTES;
pub use command::{
    Authority, CommandEnd, CommandResult, CommandSpec, CommandStart, CommandState, Fence,
    OUTPUT_BYTES_MAX, STDIN_BYTES_MAX, STOP_GRACE_US,
};
pub use crash::crash_point;
pub use error::HostError;
pub use policy::ExecPolicy;
pub use shim::{SHIM_ARGUMENT, shim_main};

use crate::blobs::Blobs;
use arc_swap::ArcSwap;
use journal::{Journal, Line, Place, folders, make_folder, sync_folder};
use rustix::process::Signal;
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

/// Commands that a node runs at once: each is a shim, a program and two pipes.
pub const COMMANDS_MAX: usize = 256;
/// Time that an archived job's entries stay, microseconds (ruling 9).
pub const JOURNAL_AGE_US: i64 = 7 * 24 * 3600 * 1_000_000;
/// Bytes of one [`Host::tail`].
pub const TAIL_BYTES: usize = 64 << 10;
/// How often a shim that has not begun is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A command that the journal held when the daemon started.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The job.
    pub job: String,
    /// The key.
    pub key: String,
    /// The epoch of the master that had asked; 0 if nobody had.
    pub epoch: u64,
    /// Where it is.
    pub state: FoundState,
}

/// Where a command was when the daemon started. What an ended one printed is read on demand
/// ([`Host::wait`]): there may be a week of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundState {
    /// Nothing of it has run; it may be started.
    NotStarted,
    /// Its shim lives: [`Host::wait`] attaches to it.
    Running,
    /// It ended.
    Ended,
    /// It did not run and never will.
    Refused,
    /// It may have run; only a probe can tell.
    Unknown {
        /// What is known.
        evidence: String,
    },
}

/// New output of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The bytes from the offset that was asked for.
    pub bytes: Vec<u8>,
    /// The offset to ask for next.
    pub offset: u64,
}

/// The commands of this node. A clone is the same host.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    journal: PathBuf,
    blobs: Blobs,
    shim: PathBuf,
    policy: ArcSwap<ExecPolicy>,
    /// Shims that this daemon started and that have not ended.
    shims: AtomicUsize,
}

impl Host {
    /// Opens the journal in `data` and finds out about every command in it. What an earlier
    /// daemon had begun to start and no shim has taken over is voided here.
    ///
    /// `shim` is the program to start shims with: the daemon's own binary. Blocks on the disk;
    /// to be called before anything is started.
    ///
    /// # Errors
    /// If the folders cannot be made or read. A single damaged journal is no error: its command
    /// is `Unknown`.
    pub fn open(
        data: &Path,
        shim: PathBuf,
        policy: ExecPolicy,
    ) -> Result<(Host, Vec<Found>), HostError> {
        // The shim works in another folder.
        let data = &std::path::absolute(data).map_err(HostError::file("resolve", data))?;
        let inner = Inner {
            journal: data.join("journal"),
            blobs: Blobs::of(data),
            shim,
            policy: ArcSwap::from_pointee(policy),
            shims: AtomicUsize::new(0),
        };
        for folder in [inner.journal.as_path(), inner.blobs.folder()] {
            make_folder(folder).map_err(HostError::file("make the folder", folder))?;
        }
        inner.blobs.clear_unfinished().map_err(HostError::Blob)?;
        let found = inner.find_all()?;
        Ok((Host { inner: Arc::new(inner) }, found))
    }

    /// The whole outputs that records do not hold.
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// Takes another policy, e.g. after the node settings were read again. Running commands go on.
    pub fn set_policy(&self, policy: ExecPolicy) {
        self.inner.policy.store(Arc::new(policy));
    }

    /// Starts a command; returns when its shim has taken it over, durably. Starting the same
    /// (job, key) again does nothing, wherever it is.
    ///
    /// Runs to its end even if the returned future is dropped.
    ///
    /// # Errors
    /// The command did not run after every error but [`HostError::Unknown`].
    pub async fn start(&self, command: CommandStart) -> Result<(), HostError> {
        self.blocking(move |inner| start::start(inner, &command)).await
    }

    /// Waits until a command ends, whichever daemon started it. A refused one and one of which
    /// nobody knows have ended, with that result.
    ///
    /// # Errors
    /// [`HostError::NotStarted`], or a journal that cannot be read.
    pub async fn wait(&self, job: &str, key: &str) -> Result<CommandEnd, HostError> {
        let place = self.place(job, key)?;
        loop {
            match self.state(place.clone()).await? {
                CommandState::Ended(end) => return Ok(*end),
                CommandState::Refused { why } => {
                    return Ok(CommandEnd::without_run(CommandResult::Refused, why));
                }
                CommandState::Unknown { evidence } => {
                    return self.blocking(move |_| settle::doubt(&place, evidence)).await;
                }
                CommandState::NotStarted => {
                    return Err(HostError::NotStarted { job: job.into(), key: key.into() });
                }
                CommandState::Starting => tokio::time::sleep(LOOK_EVERY).await,
                CommandState::Running => self.shim_exited(&place).await?,
            }
        }
    }

    async fn shim_exited(&self, place: &Place) -> Result<(), HostError> {
        let Some((shim, ..)) = place.read()?.running else {
            return Ok(());
        };
        let pid = shim.pid;
        let watch = |source| HostError::Process { operation: "watch", pid, source };
        shim.exited().await.map_err(watch)
    }

    /// Where a command is. Finds out about a shim that vanished.
    pub async fn status(&self, job: &str, key: &str) -> Result<CommandState, HostError> {
        let place = self.place(job, key)?;
        self.state(place).await
    }

    async fn state(&self, place: Place) -> Result<CommandState, HostError> {
        self.blocking(move |inner| settle::state(inner, &place)).await
    }

    /// Asks a command to end: SIGTERM to its tree, SIGKILL after the grace. Its end is
    /// `cancelled`. One that has ended stays as it is; one that has not started is left for
    /// [`Host::fence`]. Returns at once; [`Host::wait`] tells when it is over.
    pub async fn stop(&self, job: &str, key: &str) -> Result<(), HostError> {
        let place = self.place(job, key)?;
        self.blocking(move |_| stop(&place)).await
    }

    /// Gives a command up: one that has not run can, from now on, never run here. The answer is
    /// durable. `why` is what a later [`Host::start`] is told.
    pub async fn fence(
        &self,
        job: &str,
        key: &str,
        epoch: u64,
        why: &str,
    ) -> Result<Fence, HostError> {
        let place = self.place(job, key)?;
        let why = why.to_owned();
        self.blocking(move |inner| fence(inner, &place, epoch, why)).await
    }

    /// New output from an offset on, at most [`TAIL_BYTES`]; nothing if there is none yet.
    pub async fn tail(&self, job: &str, key: &str, offset: u64) -> Result<Tail, HostError> {
        let place = self.place(job, key)?;
        self.blocking(move |inner| {
            let path = inner.output_path(&place, &place.read()?);
            let bytes = capture::read_part(&path, offset, TAIL_BYTES)
                .map_err(HostError::file("read", &path))?;
            Ok(Tail { offset: offset + bytes.len() as u64, bytes })
        })
        .await
    }

    /// The newest output, at most `bytes_max` bytes, and the offset at which it ends: all that is
    /// kept of it so far. Nothing if there is none yet.
    pub async fn newest(&self, job: &str, key: &str, bytes_max: usize) -> Result<Tail, HostError> {
        let place = self.place(job, key)?;
        self.blocking(move |inner| {
            let path = inner.output_path(&place, &place.read()?);
            let kept = fs::metadata(&path).map_or(0, |file| file.len());
            let from = kept.saturating_sub(bytes_max as u64);
            let bytes = capture::read_part(&path, from, bytes_max)
                .map_err(HostError::file("read", &path))?;
            Ok(Tail { offset: from + bytes.len() as u64, bytes })
        })
        .await
    }

    /// Drops the entries of jobs that were archived [`JOURNAL_AGE_US`] ago. `archived_us` gives
    /// the time at which this node applied a job's archive; `None` keeps the job. Returns how
    /// many jobs were dropped. Blocks on the disk.
    pub fn sweep(
        &self,
        now_us: i64,
        archived_us: impl Fn(&str) -> Option<i64>,
    ) -> Result<usize, HostError> {
        let journal = &self.inner.journal;
        let jobs = folders(journal).map_err(HostError::file("list", journal))?;
        let mut dropped = 0;
        for job in jobs.iter().filter(|job| journal::is_job(job)) {
            let old = archived_us(job).is_some_and(|at| now_us.saturating_sub(at) > JOURNAL_AGE_US);
            if old && !self.inner.any_runs(job)? {
                let folder = journal.join(job);
                fs::remove_dir_all(&folder).map_err(HostError::file("remove", &folder))?;
                dropped += 1;
            }
        }
        if dropped > 0 {
            sync_folder(journal).map_err(HostError::file("sync", journal))?;
        }
        Ok(dropped)
    }

    fn place(&self, job: &str, key: &str) -> Result<Place, HostError> {
        Place::new(&self.inner.journal, job, key)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, HostError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner)).await.map_err(|_| HostError::Stopping)?
    }
}

impl Inner {
    fn find_all(&self) -> Result<Vec<Found>, HostError> {
        let mut found = Vec::new();
        for job in folders(&self.journal).map_err(HostError::file("list", &self.journal))? {
            let folder = self.journal.join(&job);
            for key in folders(&folder).map_err(HostError::file("list", &folder))? {
                let Ok(place) = Place::new(&self.journal, &job, &key) else {
                    tracing::warn!(folder = %folder.display(), key, "no command's folder");
                    continue;
                };
                settle::void_orphan(&place)?;
                let story = place.read()?;
                let epoch = story.intent.as_ref().map_or(0, |intent| intent.1);
                let state = self.found_state(&place, &story)?;
                found.push(Found { job: job.clone(), key, epoch, state });
            }
        }
        Ok(found)
    }

    fn found_state(&self, place: &Place, story: &journal::Story) -> Result<FoundState, HostError> {
        if story.ended.is_some() {
            settle::remove_cgroup_of_the_dead(story);
            return Ok(FoundState::Ended);
        }
        Ok(match settle::state(self, place)? {
            CommandState::NotStarted | CommandState::Starting => FoundState::NotStarted,
            CommandState::Running => FoundState::Running,
            CommandState::Ended(_) => FoundState::Ended,
            CommandState::Refused { .. } => FoundState::Refused,
            CommandState::Unknown { evidence } => FoundState::Unknown { evidence },
        })
    }

    /// Whether a shim of this job lives.
    fn any_runs(&self, job: &str) -> Result<bool, HostError> {
        let folder = self.journal.join(job);
        for key in folders(&folder).map_err(HostError::file("list", &folder))? {
            let Ok(place) = Place::new(&self.journal, job, &key) else {
                continue;
            };
            if place.read()?.running.is_some_and(|(shim, ..)| shim.runs()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where a command's output is: in its folder, or among the blobs.
    fn output_path(&self, place: &Place, story: &journal::Story) -> PathBuf {
        let own = place.output();
        let digest = story.ended.as_ref().and_then(|end| end.output_sha256.as_ref());
        match digest {
            Some(digest) if !own.exists() => self.blobs.folder().join(digest),
            _ => own,
        }
    }
}

fn stop(place: &Place) -> Result<(), HostError> {
    let story = place.read()?;
    if !story.may_stop() {
        return Ok(());
    }
    // First the file, then the look at the journal: a shim that begins does it the other way
    // round, so one of the two sees the other.
    let path = place.stop();
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(HostError::file("write", &path))?;
    let Some((shim, ..)) = place.read()?.running else {
        return Ok(());
    };
    let signal = |source| HostError::Process { operation: "signal", pid: shim.pid, source };
    shim.signal(Signal::TERM).map(drop).map_err(signal)
}

fn fence(inner: &Inner, place: &Place, epoch: u64, why: String) -> Result<Fence, HostError> {
    place.create()?;
    {
        let mut journal = Journal::lock(place)?;
        if journal.story.may_refuse() {
            journal.append(Line::Refused { epoch, why, at_us: shim::wall_us() })?;
        }
    }
    Ok(match settle::state(inner, place)? {
        CommandState::Ended(end) => Fence::Ended(end),
        CommandState::Unknown { evidence } => Fence::Unknown { evidence },
        CommandState::Running => Fence::Started,
        CommandState::Refused { .. } => Fence::Refused,
        // Not reached: the line above excludes both. What is not proven is not claimed.
        CommandState::NotStarted | CommandState::Starting => {
            Fence::Unknown { evidence: "the refusal is not in the journal".to_owned() }
        }
    })
}
