//! What became of a command: the journal's story, compared with the processes that live.
//!
//! Owns the step from "a shim was there" to "it is gone and left no end": the leftovers are
//! killed, the finding goes into the journal. Also moves large outputs to the blobs. Called by
//! the host for every question about a command; it starts nothing.

use super::{
    CommandEnd, CommandResult, CommandState, HostError, Inner,
    capture::{EXCERPT_BYTES, excerpt},
    command::EndLine,
    journal::{Journal, Line, Place, Story, sync_folder},
    process::ProcessMark,
    shim::wall_us,
    tree::Tree,
};
use std::{fs, path::PathBuf};
use tiebeam_executor::journal::Standing;

/// Outputs up to this size stay in the command's folder: the record has them whole.
const BLOB_BYTES_MIN: u64 = 2 * EXCERPT_BYTES as u64;

/// Where a command is. Writes `lost` if its shim vanished.
pub(super) fn state(inner: &Inner, place: &Place) -> Result<CommandState, HostError> {
    let story = place.read()?;
    if let Some(state) = settled(inner, place, &story)? {
        return Ok(state);
    }
    // The shim is gone. What it wrote before it went is there now: look again, under the lock.
    let mut journal = Journal::lock(place)?;
    if let Some(state) = settled(inner, place, &journal.story)? {
        return Ok(state);
    }
    let evidence = bury(&journal.story);
    journal.append(Line::Lost { evidence: evidence.clone(), at_us: wall_us() })?;
    Ok(CommandState::Unknown { evidence })
}

/// Where a command is; `None` if its shim vanished and the journal does not say so yet.
fn settled(inner: &Inner, place: &Place, story: &Story) -> Result<Option<CommandState>, HostError> {
    Ok(Some(match story.standing(ProcessMark::runs) {
        Standing::Vanished => return Ok(None),
        Standing::NotStarted => CommandState::NotStarted,
        Standing::Starting => CommandState::Starting,
        Standing::Running => CommandState::Running,
        Standing::Ended(end) => CommandState::Ended(report(inner, place, story, end)?.into()),
        Standing::Unknown(evidence) => CommandState::Unknown { evidence },
        Standing::Refused(why) => CommandState::Refused { why: why.to_owned() },
    }))
}

/// Kills what a vanished shim left and says what is known.
fn bury(story: &Story) -> String {
    let Some((shim, cgroup, _)) = &story.running else {
        return String::new();
    };
    let program = story.program.map_or_else(
        || "whether the program had been started is not known".to_owned(),
        |pid| format!("its program was process {pid}"),
    );
    if !shim.of_this_boot() {
        return format!("the node was started again while the command ran; {program}");
    }
    let rest = match cgroup.as_ref().filter(|cgroup| cgroup.exists()) {
        Some(cgroup) => {
            let tree = Tree::left_by(Some(cgroup.clone()));
            let (killed, immortal) = tree.end();
            tree.remove();
            match immortal {
                0 => format!("{killed} processes of it were killed"),
                _ => format!("{killed} processes of it were killed, {immortal} did not die"),
            }
        }
        None => "without a cgroup what it had started cannot be found".to_owned(),
    };
    format!("shim process {} ended without a result; {program}; {rest}", shim.pid)
}

/// The end of a command of which nobody knows how it ended: what is known, and what it printed
/// as long as somebody listened.
pub(super) fn doubt(place: &Place, evidence: String) -> Result<CommandEnd, HostError> {
    let (path, story) = (place.output(), place.read()?);
    let bytes = fs::metadata(&path).map_or(0, |found| found.len());
    let (output, truncated) = excerpt(&path, &place.output_end(), bytes, bytes)
        .map_err(HostError::file("read", &path))?;
    Ok(CommandEnd {
        started_us: story.running.map_or(0, |(_, _, at_us)| at_us),
        output,
        output_bytes: bytes,
        truncated,
        ..CommandEnd::without_run(CommandResult::Indeterminate, evidence)
    })
}

/// Voids an attempt that no shim has taken over. Only a daemon that has just started may do this.
pub(super) fn void_orphan(place: &Place) -> Result<(), HostError> {
    if place.read()?.orphan().is_none() {
        return Ok(());
    }
    let mut journal = Journal::lock(place)?;
    match journal.story.orphan().map(str::to_owned) {
        Some(nonce) => {
            let why = "the daemon ended before the shim began".to_owned();
            journal.append(Line::Void { nonce, why })
        }
        None => Ok(()),
    }
}

/// The end as it is reported: with the excerpt, and the output where it belongs.
fn report(
    inner: &Inner,
    place: &Place,
    story: &Story,
    end: &EndLine,
) -> Result<CommandEnd, HostError> {
    remove_cgroup_of_the_dead(story);
    let (path, blob) = store_output(inner, place, end)?;
    let (output, truncated) = excerpt(&path, &place.output_end(), end.kept_bytes, end.output_bytes)
        .map_err(HostError::file("read", &path))?;
    Ok(CommandEnd {
        result: end.result,
        status: end.status,
        signal: end.signal,
        started_us: end.started_us,
        ended_us: end.ended_us,
        output,
        output_bytes: end.output_bytes,
        output_sha256: end.output_sha256.clone(),
        truncated,
        blob,
        holders: Vec::new(),
        evidence: end.evidence.clone(),
    })
}

/// A shim that was killed between its last line and the removal of its cgroup leaves it to us.
pub(super) fn remove_cgroup_of_the_dead(story: &Story) {
    if let Some((shim, Some(cgroup), _)) = &story.running
        && cgroup.exists()
        && !shim.runs()
    {
        let tree = Tree::left_by(Some(cgroup.clone()));
        tree.end();
        tree.remove();
    }
}

/// Moves an output that the record cannot hold to the blobs. Returns where it is, and whether it
/// is a blob. The shim has synced it; to do it again does nothing.
fn store_output(inner: &Inner, place: &Place, end: &EndLine) -> Result<(PathBuf, bool), HostError> {
    let own = place.output();
    let Some(digest) = end.output_sha256.as_ref().filter(|_| end.kept_bytes > BLOB_BYTES_MIN)
    else {
        return Ok((own, false));
    };
    let blob = inner.blobs.folder().join(digest);
    let is_to_move = own.exists();
    let there = inner.blobs.move_in(digest, &place.job(), &own).map_err(HostError::Blob)?;
    if is_to_move {
        sync_folder(&place.folder).map_err(HostError::file("sync", &place.folder))?;
    }
    Ok((blob, there))
}
