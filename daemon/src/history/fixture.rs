//! Records and folders for tests of the history.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tiebeam_proto::canonical;
use tiebeam_proto::chain::{self, Head};
use tiebeam_proto::record::Archived;
use tiebeam_proto::time::Time;

/// A folder of its own under the system's temporary folder, removed at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tiebeam-{}-{nth}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes the records of a chain.
pub(crate) struct Maker(pub(crate) Head);

/// 2026-11-20T04:05:06Z.
pub(crate) const MORNING_US: i64 = 1_795_147_506_000_000;

impl Maker {
    pub(crate) fn new() -> Maker {
        Maker(Head::EMPTY)
    }

    /// Links a record.
    pub(crate) fn link(&mut self, record: &Value) -> Archived {
        let canonical: Arc<[u8]> = canonical::to_vec(record).into();
        Archived { link: self.0.extend(&canonical), canonical }
    }

    /// A job `11.<index>`, a second after the one before. Every third is a change that made
    /// revision index / 3; names, users and nodes go round.
    pub(crate) fn job(&mut self) -> Archived {
        let index = self.0.index + 1;
        self.link(&job(index))
    }

    /// Many jobs.
    pub(crate) fn jobs(&mut self, count: usize) -> Vec<Archived> {
        (0..count).map(|_| self.job()).collect()
    }

    /// A failed login.
    pub(crate) fn audit(&mut self) -> Archived {
        let time = Time(MORNING_US + self.0.index as i64 * 1_000_000);
        let audit = json!({"format": 1, "audit": "login_failed", "user": "bob", "count": 1,
            "time": time, "source": "10.0.0.9"});
        self.link(&audit)
    }

    /// Late evidence about a job.
    pub(crate) fn addendum(&mut self, job: &str) -> Archived {
        let time = Time(MORNING_US + self.0.index as i64 * 1_000_000);
        self.link(&json!({"format": 1, "addendum": job, "time": time, "note": "it ended"}))
    }
}

/// Text that does not compress to less than half.
fn noise(index: u64, count: u8) -> String {
    let hash = |nth: u8| chain::to_text(&chain::hash(&[nth; 32], &index.to_le_bytes()));
    (0..count).map(hash).collect()
}

/// About 1.5 KB of a job's record.
pub(crate) fn job(index: u64) -> Value {
    let time = |us: i64| Time(MORNING_US + index as i64 * 1_000_000 + us);
    let changes = index.is_multiple_of(3);
    let name = ["config_get", "user_list", "config_set"][(index % 3) as usize];
    let outcome = if index.is_multiple_of(7) { "failed" } else { "ok" };
    let headers = json!({"host": "10.10.10.11:20003", "authorization": "Basic admin"});
    let cipher = "TLS_AES_256_GCM_SHA384";
    let mut record = json!({
        "format": 1,
        "job": format!("11.{index}"),
        "outcome": outcome,
        "name": if changes { "config_set" } else { name },
        "kind": if changes { "modify" } else { "read" },
        "user": if index.is_multiple_of(2) { "admin" } else { "alice" },
        "mode": "immediate",
        "parameters": {
            "path": format!("app/p{index}"), "value": noise(index, 2), "note": noise(index, 3),
        },
        "request": {
            "protocol": "json-rpc", "path": "/", "headers": headers, "bytes": 320,
            "peer": format!("10.10.10.7:{}", 1024 + index % 60000),
            "tls": {"version": "TLSv1.3", "cipher": cipher, "client_certificate": null},
            "user_agent": "tiebeam-python/0.1", "request_id": &noise(index, 1)[7..39],
        },
        "scheduling": {
            "master": 11, "term": 7, "locks": [format!("write app/p{index}")],
            "base_revision": index / 3, "waited_us": 13,
        },
        "stages": {
            "submitted": time(0), "scheduled": time(90), "executed": time(100),
            "finished": time(400),
        },
        "commands": [],
        "result": {"result_code": 0},
    });
    if changes {
        record["stages"]["committed"] = json!(time(900));
        record["result"]["result_revision"] = json!(index / 3);
        record["change"] = json!([{"op": "add", "path": format!("app/p{index}"), "value": "x"}]);
        record["nodes"] = json!({"applied": [11, 12, 13], "pending": []});
    } else {
        record["commands"] =
            json!([{"name": "read", "node": 11 + index % 3, "result": "ok", "output": ""}]);
    }
    record
}
