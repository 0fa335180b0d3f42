//! The start of a command: intent, shim, order, confirmation.
//!
//! Owns the daemon's side of a start. It blocks (the disk, a pipe) and therefore runs on a
//! blocking thread; it starts the shim with `posix_spawn` (nothing that would make the standard
//! library fork: a copy of a large daemon's page tables stalls all its threads). Called by
//! [`super::Host::start`] only.

use super::{
    COMMANDS_MAX, HostError, Inner,
    command::{CommandStart, Order, write_frame},
    crash::crash_point,
    journal::{Journal, Line, Place},
    process::ProcessMark,
    settle,
    shim::{RUNNING, SHIM_ARGUMENT, wall_us},
};
use crate::host::CommandState;
use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Read},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::Ordering},
};
use tiebeam_executor::faults::Sound;
use tiebeam_executor::journal::{Admission, GivenBack};

/// Bytes of a shim's last words.
const WORDS_BYTES_MAX: u64 = 4096;

/// Starts a command, if nothing of it has begun.
pub(super) fn start(inner: &Arc<Inner>, command: &CommandStart) -> Result<(), HostError> {
    let place = Place::new(&inner.journal, &command.job, &command.key)?;
    command.spec.check()?;
    let launch = inner.policy.load().admit(&command.spec, command.authority)?;
    if inner.shims.load(Ordering::Relaxed) >= COMMANDS_MAX {
        return Err(HostError::TooMany { limit: COMMANDS_MAX });
    }
    let order = Order {
        launch,
        timeout_us: command.spec.timeout_us,
        grace_us: command.spec.grace_us,
        output_bytes_max: command.spec.output_bytes_max,
        secrets: command.spec.secrets.iter().map(|secret| secret.to_string()).collect(),
    };
    let Some(nonce) = write_intent(inner, &place, command)? else {
        return Ok(());
    };
    crash_point("command.intent");
    let begun = run_shim(inner, &place, &nonce, &order, &command.spec.stdin);
    match begun {
        Ok(()) => Ok(()),
        Err(error) => give_back(&place, &nonce, command, error),
    }
}

/// Writes the intent; `None` if the command is under way or over.
fn write_intent(
    inner: &Inner,
    place: &Place,
    command: &CommandStart,
) -> Result<Option<String>, HostError> {
    place.create()?;
    let (job, key) = (command.job.clone(), command.key.clone());
    let mut journal = Journal::lock(place)?;
    match journal.story.admit(&command.digest, &Sound) {
        Admission::OtherArguments => return Err(HostError::OtherArguments { job, key }),
        Admission::Begin => {
            let nonce = uuid::Uuid::now_v7().simple().to_string();
            let (epoch, digest) = (command.epoch, command.digest.clone());
            let at_us = wall_us();
            journal.append(Line::Intent { nonce: nonce.clone(), epoch, digest, at_us })?;
            return Ok(Some(nonce));
        }
        Admission::Known => {}
    }
    drop(journal);
    match settle::state(inner, place)? {
        CommandState::Refused { why } => Err(HostError::Refused { job, key, why }),
        CommandState::Unknown { evidence } => Err(HostError::Unknown { job, key, evidence }),
        _ => Ok(None),
    }
}

/// Starts the shim, gives it the order and waits for its word.
fn run_shim(
    inner: &Arc<Inner>,
    place: &Place,
    nonce: &str,
    order: &Order,
    input: &[u8],
) -> Result<(), HostError> {
    let mut child = spawn(inner, place, nonce)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    collect(inner, child);
    if let Some(mut pipe) = stdin {
        crash_point("command.spawned");
        // A shim that does not read has said why, or is dead; its word decides.
        let _ = write_frame(&mut pipe, order, input);
        crash_point("command.ordered");
    }
    let mut words = String::new();
    if let Some(pipe) = stdout {
        let _ = BufReader::new(pipe.take(WORDS_BYTES_MAX)).read_line(&mut words);
    }
    match words.trim() {
        RUNNING => Ok(()),
        "" => Err(HostError::ShimFailed { reason: "the shim ended without a word".to_owned() }),
        reason => Err(HostError::ShimFailed { reason: reason.to_owned() }),
    }
}

fn spawn(inner: &Inner, place: &Place, nonce: &str) -> Result<Child, HostError> {
    let path = place.shim_words();
    let words = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(HostError::file("open", &path))?;
    let mut command = Command::new(&inner.shim);
    command
        .arg0("tiebeamd")
        .args([SHIM_ARGUMENT, "--nonce", nonce, "--dir"])
        .arg(&place.folder)
        .env_clear()
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(words);
    #[cfg(feature = "crash-points")]
    command.envs(std::env::var_os(super::crash::CRASH_AT).map(|at| (super::crash::CRASH_AT, at)));
    command.spawn().map_err(|source| HostError::Spawn { program: inner.shim.clone(), source })
}

/// Collects the shim's exit status when it ends, so that it does not stay a zombie. Its end is
/// settled by whoever asks for it.
fn collect(inner: &Arc<Inner>, mut child: Child) {
    inner.shims.fetch_add(1, Ordering::Relaxed);
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        if let Ok(mark) = ProcessMark::of(i32::try_from(child.id()).unwrap_or_default()) {
            let _ = mark.exited().await;
        }
        let _ = tokio::task::spawn_blocking(move || child.wait()).await;
        inner.shims.fetch_sub(1, Ordering::Relaxed);
    });
}

/// Takes the attempt back after a failed start, unless the shim had begun after all.
fn give_back(
    place: &Place,
    nonce: &str,
    command: &CommandStart,
    error: HostError,
) -> Result<(), HostError> {
    let (job, key) = (command.job.clone(), command.key.clone());
    let mut journal = Journal::lock(place)?;
    match journal.story.give_back(nonce) {
        GivenBack::Void => {
            journal.append(Line::Void { nonce: nonce.to_owned(), why: error.chain() })?;
            Err(error)
        }
        GivenBack::Begun => Ok(()),
        GivenBack::Refused(why) => Err(HostError::Refused { job, key, why: why.to_owned() }),
        GivenBack::Gone => Err(error),
    }
}
