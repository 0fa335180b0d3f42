//! Publishing the configuration as `<data>/config/cluster.yaml` (ruling 13), and hand edits of it
//! (ruling 28).
//!
//! Always the newest revision, at most one file per 100 ms; the last 10 are kept beside it. A
//! projection: State is the truth, and a file that does not say what it should is kept aside as
//! `edited-<time>.yaml` and written again.

use crate::durable;
use crate::engine::Engine;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tiebeam_core::State;
use tiebeam_core::tree::{Hash, MapNode, Name, Node};
use tiebeam_proto::canonical::hex;
use tokio::sync::watch;

/// Least time between two files.
const COALESCE: Duration = Duration::from_millis(100);
/// It rests this many times as long as a file took: a twentieth of a core.
const PUBLISH_REST: u32 = 19;
/// How often the file is compared with what was published.
const COMPARE_EVERY: Duration = Duration::from_secs(20);
/// Published and edited files that are kept, each.
const KEPT: usize = 10;
/// The folder below the data folder.
pub const FOLDER: &str = "config";
/// The published file.
pub const FILE: &str = "cluster.yaml";

/// Which revision is published here.
pub struct Published {
    revision: watch::Sender<u64>,
}

/// Why a configuration could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A file could not be written.
    #[error("the configuration cannot be published")]
    Write(#[source] durable::DurableError),
    /// A file could not be read, listed or renamed.
    #[error("cannot look after {}", .0.display())]
    Folder(PathBuf, #[source] std::io::Error),
    /// What would be published does not parse back to the same configuration.
    #[error("the configuration of revision {0} does not survive its YAML")]
    RoundTrip(u64),
}

impl Default for Published {
    fn default() -> Published {
        Published { revision: watch::Sender::new(0) }
    }
}

impl Published {
    /// The published revision; 0 before the first.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Follows the published revision.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Waits until at least this revision is published.
    pub fn wait_for(&self, revision: u64) -> impl Future<Output = ()> + Send + 'static {
        let mut follow = self.revision.subscribe();
        async move {
            let _ = follow.wait_for(|published| *published >= revision).await;
        }
    }
}

/// What was rendered of the children of each section, and of what content: most of a
/// configuration is the same in the next revision.
#[derive(Default)]
struct Pieces(BTreeMap<(Name, Name), (Hash, String)>);

impl Pieces {
    /// The lines of one child of a section, indented by two.
    fn of(&mut self, section: &Name, name: &Name, node: &Node) -> Option<&str> {
        let key = (section.clone(), name.clone());
        if self.0.get(&key).is_none_or(|(hash, _)| *hash != node.hash()) {
            let lines = yaml(name, node.to_value())?;
            let indented = lines.split_inclusive('\n').map(|line| match line {
                "\n" => line.to_owned(),
                _ => format!("  {line}"),
            });
            self.0.insert(key.clone(), (node.hash(), indented.collect()));
        }
        self.0.get(&key).map(|(_, lines)| lines.as_str())
    }

    /// Forgets what is not in the configuration any more.
    fn forget(&mut self, root: &MapNode) {
        self.0.retain(|(section, name), _| {
            let section = root.get(section).and_then(|section| section.as_map());
            section.is_some_and(|section| section.get(name).is_some())
        });
    }
}

/// A map of one member as YAML that reads back as the same; `None` if it does not.
fn yaml(name: &str, value: Value) -> Option<String> {
    let value = Value::Object([(name.to_owned(), value)].into_iter().collect());
    let text = serde_yaml::to_string(&value).ok()?;
    let back: Value = serde_yaml::from_str(&text).ok()?;
    (back == value).then_some(text)
}

/// The configuration as YAML, as if it were written in one piece.
fn body(root: &MapNode, pieces: &mut Pieces) -> Option<String> {
    if root.is_empty() {
        return Some("{}\n".to_owned());
    }
    let mut body = String::new();
    for (name, node) in root.iter() {
        let Some(section) = node.as_map().filter(|section| !section.is_empty()) else {
            body.push_str(&yaml(name, node.to_value())?);
            continue;
        };
        let heading = yaml(name, Value::Object(Default::default()))?;
        body.push_str(heading.strip_suffix(" {}\n")?);
        body.push('\n');
        for (child, node) in section.iter() {
            body.push_str(pieces.of(name, child, node)?);
        }
    }
    pieces.forget(root);
    Some(body)
}

/// The file's text for a State.
///
/// # Errors
/// It does not survive its YAML.
pub fn render(state: &State) -> Result<String, PublishError> {
    render_with(state, &mut Pieces::default())
}

fn render_with(state: &State, pieces: &mut Pieces) -> Result<String, PublishError> {
    let revision = state.revision;
    let body = state.config.root().as_map().and_then(|root| body(root, pieces));
    let body = body.ok_or(PublishError::RoundTrip(revision))?;
    let checksum = hex(&Sha256::digest(body.as_bytes()));
    let root = hex(&state.config.hash());
    Ok(format!(
        "# The configuration of cluster {}, published by tiebeamd: do not edit, use its jobs.\n\
         # revision: {revision}\n# root: sha256:{root}\n# checksum: sha256:{checksum}\n{body}",
        state.cluster.name
    ))
}

fn write(folder: &Path, state: &State, pieces: &mut Pieces) -> Result<String, PublishError> {
    let text = render_with(state, pieces)?;
    durable::make_folder(folder, 0o700).map_err(PublishError::Write)?;
    let kept = folder.join(format!("cluster-{}.yaml", state.revision));
    durable::replace(&kept, text.as_bytes(), 0o600).map_err(PublishError::Write)?;
    durable::replace(&folder.join(FILE), text.as_bytes(), 0o600).map_err(PublishError::Write)?;
    thin_out(folder, "cluster-")?;
    Ok(text)
}

/// Keeps the newest [`KEPT`] files whose names begin with `prefix`, by the number that follows.
fn thin_out(folder: &Path, prefix: &str) -> Result<(), PublishError> {
    let failed = |error| PublishError::Folder(folder.to_owned(), error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".yaml"));
        if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
            found.push((number, name));
        }
    }
    found.sort();
    for (_, name) in found.iter().rev().skip(KEPT) {
        std::fs::remove_file(folder.join(name)).map_err(failed)?;
    }
    Ok(())
}

/// Publishes until the node stops.
pub async fn publish(engine: Arc<Engine>) {
    let folder = engine.data.join(FOLDER);
    // What was committed before this process started comes first (ruling 6).
    while !engine.cluster.is_caught_up() {
        tokio::select! {
            () = tokio::time::sleep(COALESCE) => {}
            () = engine.stop.cancelled() => return,
        }
    }
    let mut due = engine.board.due();
    let mut last: Option<(u64, String)> = None;
    let pieces = Arc::new(Mutex::new(Pieces::default()));
    let mut compare = tokio::time::interval(COMPARE_EVERY);
    loop {
        let state = engine.board.state();
        if last.as_ref().map(|(revision, _)| *revision) != Some(state.revision) {
            let begun = Instant::now();
            last = publish_once(&engine, &folder, state, last, &pieces).await;
            // A large configuration that changes all the time is published less often.
            tokio::time::sleep(COALESCE.max(begun.elapsed() * PUBLISH_REST)).await;
        }
        tokio::select! {
            _ = due.changed() => {}
            _ = compare.tick() => {
                if let Some((_, text)) = &last {
                    compare_file(&engine, &folder, text);
                }
            }
            () = engine.stop.cancelled() => return,
        }
    }
}

async fn publish_once(
    engine: &Arc<Engine>,
    folder: &Path,
    state: Arc<State>,
    last: Option<(u64, String)>,
    pieces: &Arc<Mutex<Pieces>>,
) -> Option<(u64, String)> {
    if last.is_none() && folder.join(FILE).exists() {
        // What an earlier daemon published is either what State says or is put right below.
        keep_if_edited(engine, folder, &state);
    }
    let (place, shown) = (folder.to_owned(), state.clone());
    let pieces = pieces.clone();
    let written = tokio::task::spawn_blocking(move || {
        write(&place, &shown, &mut pieces.lock().unwrap_or_else(PoisonError::into_inner))
    })
    .await;
    match written {
        Ok(Ok(text)) => {
            engine.published.revision.send_replace(state.revision);
            Some((state.revision, text))
        }
        Ok(Err(error)) => {
            tracing::error!(error = %crate::report::chain(&error), "config not published");
            last
        }
        Err(_) => last,
    }
}

/// At start: a file whose checksum does not fit its body was edited while no daemon ran.
fn keep_if_edited(engine: &Arc<Engine>, folder: &Path, state: &State) {
    let Ok(text) = std::fs::read_to_string(folder.join(FILE)) else { return };
    let field = |name: &str| {
        text.lines().take(6).find_map(|line| line.strip_prefix(name)).map(str::to_owned)
    };
    let body: String =
        text.split_inclusive('\n').skip_while(|line| line.starts_with('#')).collect();
    let fits = field("# checksum: sha256:")
        .is_some_and(|checksum| checksum == hex(&Sha256::digest(body.as_bytes())));
    if !fits {
        keep_aside(engine, folder, state.revision);
    }
}

fn compare_file(engine: &Arc<Engine>, folder: &Path, published: &str) {
    let file = folder.join(FILE);
    let same = std::fs::read(&file).is_ok_and(|bytes| bytes == published.as_bytes());
    if same {
        return;
    }
    keep_aside(engine, folder, engine.published.revision());
    if let Err(error) = durable::replace(&file, published.as_bytes(), 0o600) {
        tracing::error!(error = %crate::report::chain(&error), "config not put back");
    }
}

fn keep_aside(engine: &Arc<Engine>, folder: &Path, revision: u64) {
    let seconds = crate::proposer::wall_now().0 / 1_000_000;
    let aside = folder.join(format!("edited-{seconds}.yaml"));
    engine.metrics.hand_edits.inc();
    let kept = std::fs::rename(folder.join(FILE), &aside);
    let name = aside.file_name().filter(|_| kept.is_ok());
    let name = name.map(|name| name.to_string_lossy().into_owned());
    crate::notices::hand_edit(engine, revision, name);
    match kept {
        Ok(()) => tracing::warn!(
            kept = %aside.display(), revision,
            "the published configuration was edited by hand; the edit is kept aside"
        ),
        Err(error) => tracing::warn!(%error, revision, "the published configuration is gone"),
    }
    if let Err(error) = thin_out(folder, "edited-") {
        tracing::warn!(error = %crate::report::chain(&error), "cannot thin out edited files");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tiebeam_core::{Path as Place, Tree};

    /// What `body` must be, byte for byte.
    fn in_one_piece(tree: &Tree) -> String {
        serde_yaml::to_string(&tree.root().to_value()).unwrap()
    }

    #[test]
    fn pieces_make_the_same_text_as_the_whole() {
        let mut pieces = Pieces::default();
        let mut tree = Tree::new();
        let mut check = |tree: &Tree| {
            let text = body(tree.root().as_map().unwrap(), &mut pieces).unwrap();
            assert_eq!(text, in_one_piece(tree));
            pieces.0.len()
        };
        assert_eq!(check(&tree), 0);
        let lines = "first\n\n  indented\n\nlast\n";
        for (nth, value) in [
            json!({"on": {"yes": lines, "1": [[], {}, [1, {"a": lines}], "- x"]}, "~": null}),
            json!({"a: b": " led", "#": "trailing ", "empty": "", "e": {}, "l": []}),
            json!({"x".repeat(300): "long key", "": 1.5, "tab\there": "\t"}),
            json!({"deep": {"deeper": {"deepest": "two\nlines", "b": true}}, "q": "'\"\u{e9}"}),
            json!("no map"),
            json!({}),
        ]
        .into_iter()
        .enumerate()
        {
            let mut value = value;
            if let Some(object) = value.as_object_mut() {
                // No name in a configuration is empty or holds a control character.
                object.retain(|name, _| !name.is_empty() && !name.chars().any(char::is_control));
            }
            let at = Place::parse(["app", "true", "a b"][nth % 3]).unwrap();
            tree = tree.set(&at, &value, nth as u64).unwrap();
            check(&tree);
        }
        let changed = tree.set(&Place::parse("app/deep").unwrap(), &json!(lines), 9).unwrap();
        check(&changed);
        let gone = changed.remove(&Place::parse("app").unwrap(), 10).unwrap();
        assert!(check(&gone) < 5, "what is gone is forgotten");
    }
}
