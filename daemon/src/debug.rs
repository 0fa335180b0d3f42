//! What is gathered for whoever looks for a fault: of one node, and of all into one archive.
//!
//! Nothing in it is a secret: settings have none, the log is written without parameters, records
//! and the published configuration have commitments in the place of secrets. Keys, State itself and
//! the command journal stay where they are. The job `debug_collect` asks for it; a peer gives its
//! part over the peer channel.

use crate::cluster::remote;
use crate::durable::{self, DurableError};
use crate::engine::Engine;
use crate::{facts, logging, metrics, publish, settings};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tiebeam_jobs::JobError;
use tiebeam_jobs::world::{DebugFound, DebugWish};
use tiebeam_proto::time::Time;

/// Folder of the archives, below the data folder.
const FOLDER: &str = "debug";
/// Archives that are kept.
const KEPT: usize = 5;
/// Bytes of records in an archive.
const RECORDS_BYTES_MAX: usize = 4 << 20;
/// Records that are read at once.
const RECORDS_AT_ONCE: u64 = 256;
/// Microseconds that are looked back if nobody says how far.
const BACK_US: i64 = 24 * 3600 * 1_000_000;
/// zstd's level: the archive is made once and looked at rarely.
const LEVEL: i32 = 6;

/// Texts by file name.
pub type Bundle = BTreeMap<String, String>;

/// What this node tells of itself.
pub fn of_node(engine: &Engine, from: Time, to: Time) -> Bundle {
    let state = engine.board.state();
    let pretty = |value: Value| format!("{value:#}\n");
    let own = engine.identity.node_id;
    let file = engine.data.join(settings::FILE);
    let live = json!({
        "applied": state.applied,
        "term": state.term,
        "role": format!("{:?}", *engine.role.borrow()),
        "revision": state.revision,
        "chain": {"index": state.chain.index, "floor": state.chain.floor_index},
        "gaps": engine.history.gaps(state.chain.floor_index.max(1)),
        "members": state.members.iter().map(|(node, member)| json!({
            "node": node,
            "raft_id": member.raft_id,
            "voter": member.voter,
            "joining": member.joining,
            "online": engine.cluster.is_online(member.raft_id),
            "heard_ms": engine.cluster.heard_within(member.raft_id).map(|ago| ago.as_millis()),
            "report": engine.cluster.report_of(member.raft_id).map(|report| format!("{report:?}")),
        })).collect::<Vec<_>>(),
        "running": state.running.iter().collect::<Vec<_>>(),
        "waiting": state.waiting.iter().collect::<Vec<_>>(),
        "uncommitted": state.uncommitted.iter().collect::<Vec<_>>(),
        "in_doubt": state.doubts.iter().map(|(_, doubt)| doubt.job.clone()).collect::<Vec<_>>(),
    });
    let parts = [
        ("facts.json", pretty(facts::node(engine, own))),
        ("health.json", pretty(facts::health(engine))),
        ("live.json", pretty(live)),
        ("metrics.txt", metrics::text(engine)),
        ("tiebeamd.yaml", std::fs::read_to_string(file).unwrap_or_else(|why| why.to_string())),
        ("cluster.yaml", publish::render(&state).unwrap_or_else(|why| why.to_string())),
        ("log.txt", logging::recent(from, to)),
    ];
    parts.into_iter().map(|(name, text)| (name.to_owned(), text)).collect()
}

/// Records of that time, a line each, newest first.
fn records(engine: &Engine, from: Time, to: Time) -> String {
    let mut text = String::new();
    let mut upto = engine.history.newest();
    while upto > 0 && text.len() < RECORDS_BYTES_MAX {
        let first = upto.saturating_sub(RECORDS_AT_ONCE - 1).max(1);
        let Ok(page) = engine.history.range(first, upto) else { break };
        for record in page.iter().rev() {
            let value: Value = serde_json::from_slice(&record.canonical).unwrap_or_default();
            let time = value["stages"]["submitted"].as_str().or_else(|| value["time"].as_str());
            let time = time.and_then(Time::parse).unwrap_or(to);
            if time < from {
                return text;
            }
            if time <= to {
                text.push_str(&String::from_utf8_lossy(&record.canonical));
                text.push('\n');
            }
        }
        upto = first - 1;
    }
    text
}

/// Gathers from the nodes, and writes the archive of this job.
///
/// # Errors
/// It cannot be written.
pub async fn collect(
    engine: &Arc<Engine>,
    job: &str,
    wish: DebugWish,
) -> Result<DebugFound, JobError> {
    let to = wish.to.unwrap_or_else(|| engine.proposer.wall());
    let from = wish.from.unwrap_or(Time(to.0.saturating_sub(BACK_US)));
    let limit = Duration::from_secs(wish.timeout_s);
    let asked = wish.nodes.iter().map(|node| ask(engine, *node, from, to, limit));
    let answers = join_all(asked).await;
    let mut failed = Vec::new();
    let mut bundles = Vec::new();
    for (node, answer) in wish.nodes.iter().zip(answers) {
        match answer {
            Ok(bundle) => bundles.push((*node, bundle)),
            Err(why) => failed.push((*node, why)),
        }
    }
    let path = engine.data.join(FOLDER).join(format!("debug-{job}.tar.zst"));
    let (shared, at, made) = (engine.clone(), path.clone(), engine.proposer.wall());
    let written = tokio::task::spawn_blocking(move || {
        let records = records(&shared, from, to);
        write(&at, &bundles, &records, made)
    });
    let bytes = match written.await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            tracing::error!(error = %crate::report::chain(&error), "no debug archive");
            return Err(JobError::failed("the archive cannot be written; the log says why"));
        }
        Err(_) => return Err(JobError::failed("the archive was not written to its end")),
    };
    Ok(DebugFound { file: path.display().to_string(), bytes, failed })
}

/// One node's part; or why there is none.
async fn ask(
    engine: &Arc<Engine>,
    node: u32,
    from: Time,
    to: Time,
    limit: Duration,
) -> Result<Bundle, String> {
    if node == engine.identity.node_id {
        let engine = engine.clone();
        let told = tokio::task::spawn_blocking(move || of_node(&engine, from, to)).await;
        return told.map_err(|_| "it failed here".to_owned());
    }
    let member = engine.board.state().members.get(&node).map(|member| member.raft_id);
    let member = member.ok_or("it is no member")?;
    let told = remote::debug(&engine.cluster, member, (from, to), limit).await;
    told.map_err(|error| crate::report::chain(&error))
}

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
enum ArchiveError {
    #[error("the folder of the archives cannot be made")]
    Folder(#[source] DurableError),
    #[error("{} cannot be written", .0.display())]
    Write(PathBuf, #[source] std::io::Error),
}

fn write(
    path: &Path,
    bundles: &[(u32, Bundle)],
    records: &str,
    made: Time,
) -> Result<u64, ArchiveError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    durable::make_folder(folder, 0o700).map_err(ArchiveError::Folder)?;
    let temporary = path.with_extension("new");
    let failed = |error| ArchiveError::Write(temporary.clone(), error);
    let file = File::create(&temporary).map_err(failed)?;
    let packed = zstd::Encoder::new(file, LEVEL).map_err(failed)?;
    let mut archive = tar::Builder::new(packed);
    let seconds = u64::try_from(made.0 / 1_000_000).unwrap_or(0);
    let mut add = |name: String, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(seconds);
        archive.append_data(&mut header, name, text.as_bytes())
    };
    for (node, bundle) in bundles {
        for (name, text) in bundle {
            add(format!("n{node}/{name}"), text).map_err(failed)?;
        }
    }
    add("records.jsonl".to_owned(), records).map_err(failed)?;
    let file = archive.into_inner().and_then(zstd::Encoder::finish).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    std::fs::rename(&temporary, path).map_err(failed)?;
    thin_out(folder);
    Ok(bytes)
}

/// Keeps the newest archives. Best effort: one too many hurts nobody.
fn thin_out(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".tar.zst"))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    found.sort_unstable_by(|one, other| other.cmp(one));
    for (_, old) in found.into_iter().skip(KEPT) {
        let _ = std::fs::remove_file(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::scratch::Folder;
    use std::io::Read;

    #[test]
    fn an_archive_holds_a_folder_per_node_and_five_are_kept() {
        let data = Folder::new();
        let bundle = |text: &str| Bundle::from([("facts.json".to_owned(), text.to_owned())]);
        for job in 1..=7 {
            let path = data.path().join(FOLDER).join(format!("debug-11.{job}.tar.zst"));
            let bundles = [(11, bundle("eleven")), (12, bundle("twelve"))];
            let bytes = write(&path, &bundles, "{}\n", Time(5_000_000)).expect("written");
            assert_eq!(std::fs::metadata(&path).expect("there").len(), bytes);
        }
        let kept = std::fs::read_dir(data.path().join(FOLDER)).expect("the folder").count();
        assert_eq!(kept, KEPT);
        let last = data.path().join(FOLDER).join("debug-11.7.tar.zst");
        let unpacked = zstd::decode_all(File::open(last).expect("open")).expect("zstd");
        let mut archive = tar::Archive::new(unpacked.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().expect("tar") {
            let mut entry = entry.expect("an entry");
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            seen.push((entry.path().expect("a name").display().to_string(), text));
        }
        let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["n11/facts.json", "n12/facts.json", "records.jsonl"]);
        assert_eq!(seen[1].1, "twelve");
    }
}
