//! What commands print while they run, for who may see the job: from this node's journal or, over
//! the peer channel, from the node that runs it.
//!
//! The shim has masked secrets before a byte reached the journal, as in the record. What is shown
//! is the newest part and bounded: the record has both ends of it when the command has ended.
//! `job_info` asks; nothing here waits for a node that does not answer.

use crate::cluster::remote;
use crate::engine::Engine;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::time::Duration;
use tiebeam_core::job::parse_job_id;

/// Bytes of one command that are shown: a screen or two.
const COMMAND_BYTES_MAX: usize = 8 << 10;
/// Bytes of all commands of one answer.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Longest wait for a node.
const NODE_WAIT: Duration = Duration::from_secs(1);

/// What a node is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// The job's id.
    pub job: String,
    /// The command's key.
    pub key: String,
    /// Bytes at most.
    pub bytes_max: usize,
}

/// The newest output of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Bytes that it has printed so far, as far as they are kept.
    pub output_bytes: u64,
    /// The last of them, from a whole character on.
    pub output: String,
}

/// The newest output of every command of a job that runs, by key; none of a node that does not
/// answer or has not begun.
pub async fn of_job(engine: &Engine, id: &str) -> Map<String, Value> {
    let state = engine.board.state();
    let Some(job) = state.live_job(id).filter(|job| !job.has_ended()) else { return Map::new() };
    let open: Vec<(String, u32)> =
        job.open_commands().map(|command| (command.key.clone(), command.node)).collect();
    let bytes_max = COMMAND_BYTES_MAX.min(ANSWER_BYTES_MAX / open.len().max(1));
    let mut asked = Vec::new();
    for (key, node) in open {
        asked.push(ask(engine, node, Wanted { job: id.to_owned(), key, bytes_max }));
    }
    futures_util::future::join_all(asked).await.into_iter().flatten().collect()
}

/// A command's key and what is shown of it.
async fn ask(engine: &Engine, node: u32, wanted: Wanted) -> Option<(String, Value)> {
    let live = if node == engine.identity.node_id {
        here(engine, &wanted).await?
    } else {
        let member = engine.board.state().members.get(&node)?.raft_id;
        if !engine.cluster.is_online(member) {
            return None;
        }
        remote::live_output(&engine.cluster, member, &wanted, NODE_WAIT).await.ok()?
    };
    let Live { output_bytes, output } = live;
    let shown = json!({"node": node, "output_bytes": output_bytes, "output": output});
    (output_bytes > 0).then_some((wanted.key, shown))
}

/// The newest output of a command of this node; only while State says that it is to run here.
pub async fn here(engine: &Engine, wanted: &Wanted) -> Option<Live> {
    let (_, sequence) = parse_job_id(&wanted.job)?;
    let state = engine.board.state();
    let command = state.jobs.get(&sequence)?.command(&wanted.key)?;
    if command.ended || command.node != engine.identity.node_id {
        return None;
    }
    let bytes_max = wanted.bytes_max.min(COMMAND_BYTES_MAX);
    let tail = engine.host.newest(&wanted.job, &wanted.key, bytes_max).await.ok()?;
    Some(Live { output_bytes: tail.offset, output: text_of(&tail.bytes) })
}

/// The text of a part of an output: it may begin within a character, and end within one.
fn text_of(bytes: &[u8]) -> String {
    let inside = |byte: &u8| byte & 0b1100_0000 == 0b1000_0000;
    let begin = bytes.iter().take(3).take_while(|byte| inside(byte)).count();
    let whole = bytes.get(begin..).unwrap_or_default();
    let end = match std::str::from_utf8(whole) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => whole.len(),
    };
    String::from_utf8_lossy(whole.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_begins_and_ends_with_whole_characters() {
        let text = "aé€b".as_bytes();
        assert_eq!(text_of(text), "aé€b");
        assert_eq!(text_of(&text[2..]), "€b");
        assert_eq!(text_of(&text[4..]), "b");
        assert_eq!(text_of(&text[..5]), "aé");
        assert_eq!(text_of(&[0xff, b'x']), "\u{fffd}x");
        assert_eq!(text_of(&[]), "");
    }
}
