//! Searching: for a text in every form in which it could have been kept.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};
use tiebeam_tests::TestNode;

/// The first bytes of everything that zstd has compressed.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Bytes that a compressed block may unfold to.
const UNFOLDED_BYTES_MAX: usize = 64 << 20;

/// What is searched: named bytes.
#[derive(Default)]
pub(super) struct Haystack(Vec<(String, Vec<u8>)>);

/// The forms of a text: itself, hex, and base64 at each of the three places it can begin.
fn forms(text: &str) -> Vec<Vec<u8>> {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![text.as_bytes().to_vec(), hex.into_bytes()];
    for shift in 0..3 {
        let padded = [vec![0; shift], text.as_bytes().to_vec()].concat();
        let encoded = STANDARD_NO_PAD.encode(padded);
        // What stands at its ends depends on its neighbours.
        let whole = &encoded.as_bytes()[4..encoded.len() - 4];
        forms.push(whole.to_vec());
    }
    forms
}

/// Every compressed block in a file, unfolded.
fn unfolded(bytes: &[u8]) -> Vec<u8> {
    let starts = bytes.windows(4).enumerate().filter(|(_, window)| *window == ZSTD);
    let blocks = starts.filter_map(|(at, _)| {
        let mut out = Vec::new();
        let block = zstd::stream::read::Decoder::with_buffer(&bytes[at..]).ok()?.single_frame();
        let mut block = std::io::Read::take(block, UNFOLDED_BYTES_MAX as u64);
        // A block that is cut off gives what it has.
        let _ = std::io::Read::read_to_end(&mut block, &mut out);
        Some(out)
    });
    blocks.flatten().collect()
}

impl Haystack {
    pub(super) fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.push((name.to_owned(), bytes));
    }

    /// The daemon's own log.
    pub(super) fn add_log(&mut self, node: &TestNode) {
        self.add("the daemon's log", std::fs::read(node.log_file()).expect("its log"));
    }

    /// Every file below a folder, and what is compressed in it.
    pub(super) fn add_folder(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let entry = entry.expect("an entry");
            let (kind, path) = (entry.file_type().expect("its type"), entry.path());
            if kind.is_dir() {
                self.add_folder(&path);
            } else if kind.is_file() {
                let bytes = std::fs::read(&path).unwrap_or_default();
                let name = path.display().to_string();
                self.add(&format!("{name}, unfolded"), unfolded(&bytes));
                self.add(&name, bytes);
            }
        }
    }

    pub(super) fn finds(&self, text: &str) -> bool {
        let secrets = [("it", text.to_owned())];
        let needles = Needles::of(&secrets);
        self.0.iter().any(|(_, bytes)| !needles.find(bytes).is_empty())
    }

    /// Fails if one of these is anywhere, in any form.
    #[track_caller]
    pub(super) fn holds_none(&self, secrets: &[(&'static str, String)]) {
        let needles = Needles::of(secrets);
        let mut found = Vec::new();
        for (name, bytes) in &self.0 {
            for (place, at) in needles.find(bytes) {
                let around = &bytes[at.saturating_sub(80)..bytes.len().min(at + 160)];
                let around = String::from_utf8_lossy(around);
                found.push(format!("{place} in {name} at {at}: …{around:?}…"));
            }
        }
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

/// Bytes by which a place that may hold a secret is recognised.
const HEAD: usize = 8;

/// All forms of all secrets, by their first bytes, so that a file is read once and not once for
/// each of them.
struct Needles<'a> {
    by_head: HashMap<[u8; HEAD], Vec<(&'a str, Vec<u8>)>>,
    first: [bool; 256],
}

impl<'a> Needles<'a> {
    fn of(secrets: &'a [(&'static str, String)]) -> Needles<'a> {
        let mut needles = Needles { by_head: HashMap::new(), first: [false; 256] };
        for (place, text) in secrets {
            assert!(text.len() >= HEAD, "{place} is too short to be looked for");
            for form in forms(text) {
                // Less than that of a short text in base64 says nothing.
                let Some(head) = form.first_chunk::<HEAD>().copied() else { continue };
                needles.first[usize::from(head[0])] = true;
                needles.by_head.entry(head).or_default().push((place, form));
            }
        }
        needles
    }

    /// Whose secrets are in these bytes, and where.
    fn find(&self, bytes: &[u8]) -> Vec<(&'a str, usize)> {
        let mut found = Vec::new();
        for (at, window) in bytes.windows(HEAD).enumerate() {
            if !self.first[usize::from(window[0])] {
                continue;
            }
            let head: [u8; HEAD] = window.try_into().expect("a window has this size");
            let Some(whole) = self.by_head.get(&head) else { continue };
            let here = whole.iter().filter(|(_, form)| bytes[at..].starts_with(form));
            found.extend(here.map(|(place, _)| (*place, at)));
        }
        found
    }
}

/// The audit records in the history of a stopped node.
pub(in super::super) fn audit_records(folder: &Path) -> Vec<Value> {
    const BEGIN: &[u8] = b"{\"audit\":";
    let mut hay = Haystack::default();
    hay.add_folder(&folder.join("history"));
    let mut records = BTreeMap::new();
    for (_, bytes) in hay.0 {
        for at in 0..bytes.len().saturating_sub(BEGIN.len()) {
            if !bytes[at..].starts_with(BEGIN) {
                continue;
            }
            let mut values = serde_json::Deserializer::from_slice(&bytes[at..]).into_iter();
            if let Some(Ok(record)) = values.next() {
                // A block may be found twice: as it is, and by what was unfolded before it.
                let record: Value = record;
                records.insert(record.to_string(), record);
            }
        }
    }
    records.into_values().collect()
}

/// What the system shows of a process.
pub(super) struct Process {
    pub(super) arguments: String,
    pub(super) environment: String,
}

fn shown(pid: u32, file: &str) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// A process and all below it.
fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(child) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = shown(child, "stat");
        // The name in brackets may hold blanks; the parent is the second word behind it.
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
        if parent == Some(&pid.to_string()) {
            all.extend(tree(child));
        }
    }
    all
}

/// The daemon's processes, once one of them runs `program`.
pub(super) fn processes_when_started(daemon: u32, program: &str) -> Vec<Process> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let found: Vec<Process> = tree(daemon)
            .into_iter()
            .map(|pid| Process {
                arguments: shown(pid, "cmdline"),
                environment: shown(pid, "environ"),
            })
            .collect();
        if found.iter().any(|process| process.arguments.starts_with(program)) {
            return found;
        }
        assert!(Instant::now() < until, "{program} was not started");
        std::thread::sleep(Duration::from_millis(50));
    }
}
