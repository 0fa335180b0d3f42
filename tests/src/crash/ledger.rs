//! What was acknowledged, and whether it is there: exactly once, with the same result.
//!
//! Owns what is known of every call of a run. After each crash [`Ledger::settle`] asks the daemon
//! for everything: each acknowledged job has the result that was acknowledged; each call without
//! answer is sent again under its key and is then a job like the others; the history holds these
//! jobs and no other; the revisions are theirs without a gap; the configuration is what the last
//! of them wrote; no command ran twice. It tells findings in words and goes on.

use super::Failure;
use super::load::{Call, End, Seen};
use super::rpc::Rpc;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest wait for the end of a job that the daemon takes up again.
const END_WAIT: Duration = Duration::from_secs(30);
/// Records of a page of history.
const PAGE: u64 = 500;
/// One acknowledged call of so many is sent again: the key must give the first job.
const AGAIN_EVERY: usize = 8;
/// Findings that are kept of a run; more say nothing new.
const FINDINGS_MAX: usize = 50;

/// What a run has seen.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Calls that were acknowledged before a crash.
    pub acknowledged: u64,
    /// Calls without an answer, sent again after it.
    pub sent_again: u64,
    /// Of those, the ones that had run before: the key gave the first job.
    pub had_run: u64,
    /// Jobs in all.
    pub jobs: u64,
    /// Jobs that did not end with 0, commands aside.
    pub failed: u64,
    /// Commands by `result_code`.
    pub commands: BTreeMap<i64, u64>,
    /// Commands that ended in doubt and had run, by their own mark.
    pub doubtful_ran: u64,
}

impl Tally {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Tally) {
        self.acknowledged += other.acknowledged;
        self.sent_again += other.sent_again;
        self.had_run += other.had_run;
        self.jobs += other.jobs;
        self.failed += other.failed;
        self.doubtful_ran += other.doubtful_ran;
        for (code, count) in &other.commands {
            *self.commands.entry(*code).or_default() += count;
        }
    }
}

/// Everything that is known of a run.
#[derive(Default)]
pub struct Ledger {
    /// Counts.
    pub tally: Tally,
    /// What is wrong.
    pub findings: Vec<String>,
    /// Whether each writer's user exists.
    pub users: BTreeMap<u64, bool>,
    marks: PathBuf,
    ends: Vec<End>,
    values: BTreeMap<String, (u64, Value)>,
    commands: BTreeMap<String, i64>,
    newest: u64,
    revision: u64,
}

fn sequence(id: &str) -> u64 {
    id.split_once('.').and_then(|(_, sequence)| sequence.parse().ok()).unwrap_or_default()
}

impl Ledger {
    /// The ledger of a node that has just been made, or whose jobs so far are of no interest.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn open(rpc: &Rpc, marks: PathBuf) -> Result<Ledger, Failure> {
        let page = rpc.call("job_history", json!([{"limit": 1}])).await?;
        let newest = page["records"][0]["job"].as_str().map(sequence).unwrap_or_default();
        let revision = revision(rpc).await?;
        Ok(Ledger { marks, newest, revision, ..Ledger::default() })
    }

    /// The jobs whose ends are known.
    pub fn ends(&self) -> &[End] {
        &self.ends
    }

    /// Goes on from what is there now: jobs since the last round are of no interest.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub async fn skip(&mut self, rpc: &Rpc) -> Result<(), Failure> {
        self.newest = newest(rpc).await?;
        self.revision = revision(rpc).await?;
        Ok(())
    }

    /// The revision that last wrote a path, as far as acknowledged jobs tell; 0 if none did.
    pub fn revision_of(&self, path: &str) -> u64 {
        self.values.get(path).map_or(0, |(revision, _)| *revision)
    }

    fn find(&mut self, what: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(what);
        }
    }

    /// Asks for everything that a round's calls should have left.
    ///
    /// # Errors
    /// The daemon does not answer; findings are no errors.
    pub async fn settle(&mut self, rpc: &Rpc, mut calls: Vec<Call>) -> Result<(), Failure> {
        self.compare(rpc, &calls).await?;
        self.send_again(rpc, &mut calls).await?;
        self.await_ends(rpc, &mut calls).await?;
        self.compare_history(rpc, &calls).await?;
        self.take(&calls);
        self.compare_values(rpc).await?;
        self.compare_marks(rpc, &calls).await
    }

    /// Acknowledged results are what they were; acknowledged errors made no job (the history
    /// would show it).
    async fn compare(&mut self, rpc: &Rpc, calls: &[Call]) -> Result<(), Failure> {
        let seen = calls.iter().filter(|call| call.seen != Seen::Nothing).count();
        self.tally.acknowledged += seen as u64;
        for call in calls {
            if let Seen::Refused(why) = &call.seen {
                self.find(format!("{} {} was refused: {why}", call.job, call.key));
            }
        }
        let ends = calls.iter().filter_map(|call| match &call.seen {
            Seen::End(end) => Some(end.clone()),
            _ => None,
        });
        let ends: Vec<End> = ends.collect();
        self.compare_ends(rpc, &ends).await
    }

    async fn compare_ends(&mut self, rpc: &Rpc, ends: &[End]) -> Result<(), Failure> {
        let ids = ends.iter().map(|end| json!([end.id])).collect();
        for (end, result) in ends.iter().zip(rpc.all("job_result", ids).await?) {
            let now = match result {
                Ok(result) => End::of(&result),
                Err(error) => {
                    self.find(format!("{end:?} was acknowledged; job_result now: {error}"));
                    continue;
                }
            };
            if now.as_ref() != Some(end) {
                self.find(format!("{end:?} was acknowledged; job_result now: {now:?}"));
            }
        }
        Ok(())
    }

    /// Compares every job of the whole run again; says how many.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub async fn compare_all(&mut self, rpc: &Rpc) -> Result<usize, Failure> {
        let ends = std::mem::take(&mut self.ends);
        let compared = self.compare_ends(rpc, &ends).await;
        self.ends = ends;
        compared.map(|()| self.ends.len())
    }

    /// Calls without answer go again under their key; of the others a few do, too.
    async fn send_again(&mut self, rpc: &Rpc, calls: &mut [Call]) -> Result<(), Failure> {
        let is_open = |call: &Call| call.seen == Seen::Nothing;
        let chosen: Vec<usize> =
            (0..calls.len()).filter(|at| is_open(&calls[*at]) || at % AGAIN_EVERY == 0).collect();
        let arguments = chosen.iter().map(|at| calls[*at].arguments()).collect();
        let newest_before = newest(rpc).await?;
        for (at, answer) in chosen.into_iter().zip(rpc.all("job_start", arguments).await?) {
            let call = &mut calls[at];
            let id = match answer {
                Ok(answer) => answer.as_str().unwrap_or_default().to_owned(),
                Err(error) => {
                    let key = call.key.clone();
                    self.find(format!("{key} sent again: {error}"));
                    continue;
                }
            };
            let first = match &call.seen {
                Seen::Nothing => None,
                Seen::Id(first) | Seen::End(End { id: first, .. }) => Some(first),
                Seen::Refused(_) => continue,
            };
            match first {
                Some(first) if *first != id => {
                    let what = format!("{} was {first}; sent again it is {id}", call.key);
                    self.find(what);
                }
                Some(_) => {}
                None => {
                    self.tally.sent_again += 1;
                    self.tally.had_run += u64::from(sequence(&id) <= newest_before);
                    call.seen = Seen::Id(id);
                }
            }
        }
        Ok(())
    }

    /// Waits for the jobs that still run.
    async fn await_ends(&mut self, rpc: &Rpc, calls: &mut [Call]) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            let open: Vec<(usize, String)> = calls
                .iter()
                .enumerate()
                .filter_map(|(at, call)| match &call.seen {
                    Seen::Id(id) => Some((at, id.clone())),
                    _ => None,
                })
                .collect();
            if open.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > END_WAIT {
                self.find(format!("{open:?} did not end within {END_WAIT:?}"));
                return Ok(());
            }
            let ids = open.iter().map(|(_, id)| json!([id])).collect();
            for ((at, id), result) in open.iter().zip(rpc.all("job_result", ids).await?) {
                match result.map(|result| End::of(&result)) {
                    Ok(Some(end)) => calls[*at].seen = Seen::End(end),
                    Ok(None) => {}
                    Err(error) => {
                        self.find(format!("{id} was acknowledged; job_result now: {error}"));
                        calls[*at].seen = Seen::Refused(error.to_string());
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The history holds the jobs of the round, each once, and no other; their revisions are the
    /// next ones without a gap.
    async fn compare_history(&mut self, rpc: &Rpc, calls: &[Call]) -> Result<(), Failure> {
        let kept = history_after(rpc, self.newest).await?;
        let mut expected = BTreeMap::new();
        for call in calls {
            if let Seen::End(End { id, .. }) | Seen::Id(id) = &call.seen
                && let Some(other) = expected.insert(id.clone(), call.key.clone())
            {
                self.find(format!("{id} is the job of {other} and of {}", call.key));
            }
        }
        let mut revisions = BTreeSet::new();
        for (id, revision) in &kept {
            if expected.remove(id).is_none() {
                self.find(format!("{id} is a job that nobody called, or ran a second time"));
            }
            if let Some(revision) = revision
                && !revisions.insert(*revision)
            {
                self.find(format!("revision {revision} was made twice"));
            }
        }
        for (id, key) in expected {
            self.find(format!("{key} is {id}, and the history does not have it"));
        }
        let now = revision(rpc).await?;
        if !revisions.iter().copied().eq(self.revision + 1..=now) {
            let (from, made) = (self.revision, revisions.len());
            self.find(format!("from revision {from} to {now}, jobs made {made}: {revisions:?}"));
        }
        self.revision = now;
        self.newest = kept.keys().map(|id| sequence(id)).max().unwrap_or(self.newest);
        Ok(())
    }

    /// Takes what acknowledged jobs did into the ledger.
    pub fn take(&mut self, calls: &[Call]) {
        for call in calls {
            let Seen::End(end) = &call.seen else { continue };
            self.tally.jobs += 1;
            self.ends.push(end.clone());
            match call.job {
                "command_run" => {
                    self.commands.insert(call.key.clone(), end.code);
                    *self.tally.commands.entry(end.code).or_default() += 1;
                    continue;
                }
                "config_set" => self.note_value(&call.params, end),
                "user_create" | "user_delete" if end.code == 0 => {
                    let name = call.params["username"].as_str().unwrap_or_default();
                    let number = name.trim_start_matches("writer").parse().unwrap_or_default();
                    self.users.insert(number, call.job == "user_create");
                }
                _ => {}
            }
            if end.code != 0 {
                self.tally.failed += 1;
                self.find(format!("{} {} ended with {}", call.job, call.key, end.code));
            }
        }
    }

    fn note_value(&mut self, params: &Value, end: &End) {
        let (Some(path), Some(revision)) = (params["path"].as_str(), end.revision) else {
            self.find(format!("{} changed nothing: {params}", end.id));
            return;
        };
        let newest = self.values.get(path).is_none_or(|(older, _)| *older < revision);
        if newest {
            self.values.insert(path.to_owned(), (revision, params["value"].clone()));
        }
    }

    /// Every path has the value of the newest revision that wrote it.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub async fn compare_values(&mut self, rpc: &Rpc) -> Result<(), Failure> {
        if self.values.is_empty() {
            return Ok(());
        }
        let tree = rpc.read("config_get", json!({"path": "app"})).await?;
        let mut wrong = Vec::new();
        for (path, (revision, value)) in &self.values {
            let there = path.split('/').skip(1).fold(&tree, |tree, name| &tree[name]);
            if there != value {
                let short = |value: &Value| value.to_string().chars().take(60).collect::<String>();
                let (there, value) = (short(there), short(value));
                wrong.push(format!("{path} is {there}; revision {revision} made it {value}"));
            }
        }
        wrong.into_iter().for_each(|what| self.find(what));
        Ok(())
    }

    /// No command ran twice; one that ended ok ran; one that did not run left no mark; one in
    /// doubt has its evidence.
    async fn compare_marks(&mut self, rpc: &Rpc, calls: &[Call]) -> Result<(), Failure> {
        if !calls.iter().any(|call| call.job == "command_run") {
            return Ok(());
        }
        let mut marks: BTreeMap<String, u32> = BTreeMap::new();
        for line in fs::read_to_string(&self.marks).unwrap_or_default().lines() {
            *marks.entry(line.to_owned()).or_default() += 1;
        }
        let mut wrong: Vec<String> = marks
            .iter()
            .filter(|(_, times)| **times > 1)
            .map(|(key, times)| format!("the command of {key} ran {times} times"))
            .collect();
        for call in calls.iter().filter(|call| call.job == "command_run") {
            let Seen::End(end) = &call.seen else { continue };
            let ran = marks.contains_key(&call.key);
            if end.code == 0 && !ran {
                wrong.push(format!("the command of {} is ok and did not run", call.key));
            }
            if end.code == 7 {
                self.tally.doubtful_ran += u64::from(ran);
            }
            if end.code != 0 {
                wrong.extend(evidence(rpc, end, ran).await?);
            }
        }
        wrong.into_iter().for_each(|what| self.find(what));
        Ok(())
    }
}

/// What is wrong with the record of a command that is not ok.
async fn evidence(rpc: &Rpc, end: &End, ran: bool) -> Result<Option<String>, Failure> {
    let record = rpc.call("job_info", json!([end.id])).await?;
    let command = &record["commands"][0];
    let result = command["result"].as_str().unwrap_or_default();
    let told = command["evidence"].as_str().is_some_and(|text| !text.is_empty());
    let right = match result {
        "indeterminate" => told && end.code == 7,
        "refused" => told && !ran,
        // Killed together with the program, the shim may have seen the program go first.
        "failed" => end.code == 1,
        _ => false,
    };
    let shown =
        format!("{end:?}, its program {}: {command}", if ran { "ran" } else { "did not run" });
    Ok((!right).then_some(shown))
}

async fn revision(rpc: &Rpc) -> Result<u64, Failure> {
    let cluster = rpc.read("cluster_info", json!({})).await?;
    cluster["revision"].as_u64().ok_or_else(|| "cluster_info has no revision".into())
}

async fn newest(rpc: &Rpc) -> Result<u64, Failure> {
    let page = rpc.call("job_history", json!([{"limit": 1}])).await?;
    Ok(page["records"][0]["job"].as_str().map(sequence).unwrap_or_default())
}

/// The jobs of the history with numbers above `newest`, and the revisions that they made.
///
/// # Errors
/// The daemon does not answer, or says that it cannot read its history.
pub async fn history_after(
    rpc: &Rpc,
    newest: u64,
) -> Result<BTreeMap<String, Option<u64>>, Failure> {
    let mut kept = BTreeMap::new();
    let mut cursor = Value::Null;
    loop {
        let filter = json!({"limit": PAGE, "cursor": cursor});
        let mut page = rpc.call("job_history", json!([filter])).await?;
        let records = page["records"].as_array().cloned().unwrap_or_default();
        let mut reached = false;
        for record in &records {
            let Some(id) = record["job"].as_str() else { continue };
            reached |= sequence(id) <= newest;
            if sequence(id) > newest {
                kept.insert(id.to_owned(), record["revision"].as_u64());
            }
        }
        cursor = page["cursor"].take();
        // Records enter the history as they end, not by number: one more page is looked at.
        if cursor.is_null() || (reached && records.iter().all(|r| is_older(r, newest))) {
            return Ok(kept);
        }
    }
}

fn is_older(record: &Value, newest: u64) -> bool {
    record["job"].as_str().is_none_or(|id| sequence(id) <= newest)
}
