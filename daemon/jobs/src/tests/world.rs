//! A world that does what it was told: commands by a script, history by hand.

use crate::error::JobError;
use crate::world::{
    CertificateOffer, CheckedCertificate, DebugFound, DebugWish, DerivedSecret, Part, SealedSecret,
};
use crate::{CommandWish, World};
use futures_util::future::{BoxFuture, ready};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tiebeam_core::{Path, State, Tree};
use tiebeam_proto::Outcome;
use tiebeam_proto::record::{CommandRecord, JobRecord};
use tiebeam_proto::time::Time;

/// What is kept of a revision: the record that made it, and the tree.
type Kept = (Option<Arc<JobRecord>>, Tree);

#[derive(Default)]
pub(super) struct FakeWorld {
    /// What commands end with, by key; every other one ends well.
    script: Mutex<BTreeMap<String, Result<CommandRecord, JobError>>>,
    /// What was asked for, in order.
    asked: Mutex<Vec<CommandWish>>,
    /// What parts end with, by key; every other one ends well.
    pub parts_end: Mutex<BTreeMap<String, Result<Outcome, JobError>>>,
    /// Parts that were asked for, in order.
    pub parts: Mutex<Vec<Part>>,
    /// What was recorded.
    pub recorded: Mutex<BTreeMap<String, Value>>,
    /// Records and trees by revision.
    pub history: Mutex<BTreeMap<u64, Kept>>,
    /// By how much the wall clock is off.
    pub clock_off_us: Mutex<Option<i64>>,
    /// Nodes that never publish.
    pub silent: Mutex<Vec<u32>>,
    /// Nodes that do not answer, beside 13.
    pub offline: Mutex<Vec<u32>>,
    /// Node 13 answers too.
    pub all_online: AtomicBool,
    /// The master; 11 if it is 0.
    pub master: AtomicU32,
    /// Who was asked to take the leadership.
    pub handed: Mutex<Vec<Vec<u32>>>,
    /// The newest State.
    pub newest: Mutex<Arc<State>>,
}

/// Hex SHA-256.
pub(super) fn hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl FakeWorld {
    pub fn script(&self, key: &str, end: Result<CommandRecord, JobError>) {
        self.script.lock().unwrap().insert(key.to_owned(), end);
    }

    pub fn take_asked(&self) -> Vec<CommandWish> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    pub fn keys_asked(&self) -> Vec<String> {
        self.take_asked().into_iter().map(|wish| wish.key).collect()
    }
}

fn well(wish: &CommandWish) -> CommandRecord {
    let output = match wish.argv.get(1).map(String::as_str) {
        Some("show") => "Id=x.service\nLoadState=loaded\nActiveState=active\nSubState=running\n",
        Some("list-units") => "x.service loaded active running The service x\n",
        _ => "done\n",
    };
    super::cluster::record(&wish.key, wish.node, "ok", output)
}

impl World for FakeWorld {
    fn master(&self) -> (u32, u64) {
        (self.master.load(Relaxed).max(11), 7)
    }

    fn now(&self) -> Time {
        Time(1_800_000_000_000_000)
    }

    fn clock_off_us(&self) -> Option<i64> {
        *self.clock_off_us.lock().unwrap()
    }

    fn hash_password(&self, password: String) -> BoxFuture<'static, Result<String, JobError>> {
        Box::pin(ready(Ok(format!("$argon2id${}", hex(&password)))))
    }

    fn check_ready_hash(&self, hash: &str) -> Result<(), JobError> {
        let known = ["$argon2id$", "$5$", "$6$"].iter().any(|prefix| hash.starts_with(prefix));
        if known { Ok(()) } else { Err(JobError::failed("this is no password hash")) }
    }

    fn seal(&self, place: &Path, value: &Value) -> Result<SealedSecret, JobError> {
        let digest = format!("sha256:{}", hex(&format!("{place} {value}")));
        Ok(SealedSecret { text: format!("sealed {}", hex(&value.to_string())), digest })
    }

    fn derive(&self, purpose: &str, subject: &str) -> DerivedSecret {
        let hash = hex(&format!("{purpose} of {subject}"));
        DerivedSecret { hash, nonce: "nonce".to_owned() }
    }

    fn revisions(&self, below: Option<u64>, limit: usize) -> Result<Vec<Arc<JobRecord>>, JobError> {
        let history = self.history.lock().unwrap();
        let older = history.range(..below.unwrap_or(u64::MAX)).rev();
        Ok(older.filter_map(|(_, (record, _))| record.clone()).take(limit).collect())
    }

    fn revision(&self, revision: u64) -> Result<Option<Arc<JobRecord>>, JobError> {
        let history = self.history.lock().unwrap();
        Ok(history.get(&revision).and_then(|(record, _)| record.clone()))
    }

    fn tree_at(&self, revision: u64) -> Result<Tree, JobError> {
        let history = self.history.lock().unwrap();
        let kept = history.get(&revision).map(|(_, tree)| tree.clone());
        kept.ok_or_else(|| JobError::failed("the revision is not kept"))
    }

    fn node_facts(&self, node: u32) -> Value {
        json!({"version": "0.1.0", "applied": 100 + node})
    }

    fn node_state(&self, node: u32) -> &'static str {
        let away = node == 13 && !self.all_online.load(Relaxed);
        let away = away || self.offline.lock().unwrap().contains(&node);
        if away { "offline" } else { "online" }
    }

    fn node_booted(&self, node: u32) -> Option<String> {
        (node == 11).then(|| "2026-11-20T04:05:06.000000Z".to_owned())
    }

    fn health(&self) -> Value {
        json!({"ok": true})
    }

    fn wait_published(&self, node: u32, _: u64, _: u64) -> BoxFuture<'static, bool> {
        Box::pin(ready(!self.silent.lock().unwrap().contains(&node)))
    }

    fn check_certificate(&self, offer: &CertificateOffer) -> Result<CheckedCertificate, JobError> {
        if offer.names != ["127.0.0.11", "127.0.0.12", "127.0.0.13"] {
            return Err(JobError::Failed(format!("the names are {:?}", offer.names)));
        }
        let warnings = vec!["it expires soon".to_owned()];
        Ok(CheckedCertificate { facts: json!({"subject": "CN=x"}), warnings })
    }

    fn certificates(&self) -> Value {
        json!({"clients": {"subject": "CN=x"}})
    }

    fn verify_history(&self) -> BoxFuture<'static, Result<Value, JobError>> {
        Box::pin(ready(Ok(json!({"records": 3}))))
    }

    fn command(&self, wish: CommandWish) -> BoxFuture<'static, Result<CommandRecord, JobError>> {
        let scripted = self.script.lock().unwrap().get(&wish.key).cloned();
        let end = scripted.unwrap_or_else(|| Ok(well(&wish)));
        self.asked.lock().unwrap().push(wish);
        Box::pin(ready(end))
    }

    fn recorded(&self, key: &str) -> Option<Value> {
        self.recorded.lock().unwrap().get(key).cloned()
    }

    fn record(&self, key: &str, value: Value) -> BoxFuture<'static, Result<Value, JobError>> {
        let mut recorded = self.recorded.lock().unwrap();
        let first = recorded.entry(key.to_owned()).or_insert(value).clone();
        Box::pin(ready(Ok(first)))
    }

    fn part(&self, part: Part) -> BoxFuture<'static, Result<Arc<JobRecord>, JobError>> {
        let scripted = self.parts_end.lock().unwrap().get(&part.key).cloned();
        let mut parts = self.parts.lock().unwrap();
        let at = parts.iter().position(|known| known.key == part.key).unwrap_or(parts.len());
        if at == parts.len() {
            parts.push(part);
        }
        let id = format!("11.{}", 101 + at);
        let ended = scripted.unwrap_or(Ok(Outcome::Ok));
        Box::pin(ready(ended.map(|outcome| Arc::new(super::cluster::part(&id, outcome)))))
    }

    fn ca_fingerprint(&self) -> Result<String, JobError> {
        Ok(hex("authority"))
    }

    fn newest(&self) -> Arc<State> {
        self.newest.lock().unwrap().clone()
    }

    fn caught_up(&self, node: u32) -> bool {
        !self.silent.lock().unwrap().contains(&node)
    }

    fn pause(&self, _: u64) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }

    fn submitted_to(&self) -> u32 {
        11
    }

    fn hand_over(&self, to: &[u32]) -> BoxFuture<'static, Result<(), JobError>> {
        self.handed.lock().unwrap().push(to.to_vec());
        Box::pin(ready(Ok(())))
    }

    fn collect_debug(&self, wish: DebugWish) -> BoxFuture<'static, Result<DebugFound, JobError>> {
        let silent = self.silent.lock().unwrap();
        let failed = wish.nodes.iter().filter(|node| silent.contains(*node));
        let failed = failed.map(|node| (*node, "no answer".to_owned())).collect();
        let file = format!("/debug/{:?}-{:?}", wish.from.map(|t| t.0), wish.to.map(|t| t.0));
        Box::pin(ready(Ok(DebugFound { file, bytes: 7, failed })))
    }

    fn progress(&self, percent: u8, _: &str) {
        assert!(percent <= 100);
    }
}
