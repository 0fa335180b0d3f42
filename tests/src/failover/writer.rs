//! Writers that follow the master: a call goes out under a key of its own until it is acknowledged.
//!
//! A third of what they call counts: compare-and-set on a path that only this writer changes, so
//! a change that was lost or made twice is the next one's conflict. Half of the writers give up
//! waiting after two seconds, as many clients do, and ask elsewhere under the same key; the others
//! wait for as long as the connection stands.

use super::pulse::Pulse;
use crate::crash::Dice;
use crate::crash::load::{Call, End, Seen, Writer};
use crate::crash::rpc::{CallError, Rpc, Waits};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One call of so many counts.
const COUNT_EVERY: u64 = 3;
/// One call of so many is a start whose result is asked for later.
const START_EVERY: u64 = 5;
/// Pause before the next try.
const AGAIN: Duration = Duration::from_millis(10);

/// The path on which a writer counts.
pub fn counter(number: u64) -> String {
    format!("app/rounds/w{number}/count")
}

/// What a writer waits for.
pub fn waits(number: u64) -> Waits {
    let seconds = if number.is_multiple_of(2) { 2 } else { 60 };
    let answer = Duration::from_secs(seconds);
    Waits { connect: Duration::from_secs(1), answer, again: Duration::ZERO }
}

/// A key as clients make them: a UUIDv7.
fn request_id(dice: &mut Dice) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let (high, low) = (dice.bits(), dice.bits());
    let variant = 0x8000 | low >> 50;
    format!(
        "{:08x}-{:04x}-7{:03x}-{variant:04x}-{:012x}",
        now >> 16 & 0xffff_ffff,
        now & 0xffff,
        high & 0xfff,
        low & 0xffff_ffff_ffff
    )
}

/// A writer on its way.
pub struct Roamer {
    /// What it writes.
    pub writer: Writer,
    /// Its client.
    pub rpc: Rpc,
    /// The revision that last wrote its counter; 0 if none did.
    pub revision: u64,
    /// Set when it is to end.
    pub stop: Arc<AtomicBool>,
    /// Where it tells that it was served.
    pub pulse: Arc<Pulse>,
}

impl Roamer {
    /// Calls until it is stopped: what it called, and what came of it.
    pub async fn run(mut self) -> Vec<Call> {
        let mut calls = Vec::new();
        while !self.stopped() {
            let key = request_id(&mut self.writer.dice);
            if self.writer.dice.below(COUNT_EVERY) == 0 {
                calls.push(self.count(key).await);
                continue;
            }
            let mut call = self.writer.next(key);
            let starts = self.writer.dice.below(START_EVERY) == 0;
            self.make(&mut call, if starts { "job_start" } else { "job_exec" }).await;
            calls.push(call);
        }
        calls
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn count(&mut self, key: String) -> Call {
        let path = counter(self.writer.number);
        let params = json!({"path": path, "value": &key, "expect_revision": self.revision});
        let mut call = Call { key, job: "config_set", params, seen: Seen::Nothing };
        self.make(&mut call, "job_exec").await;
        while let (Seen::Id(id), false) = (&call.seen, self.stopped()) {
            // A draining node gave the id; the result is with the next master.
            match self.rpc.call("job_result", json!([id])).await {
                Ok(result) => {
                    if let Some(end) = End::of(&result) {
                        call.seen = Seen::End(end);
                    }
                }
                Err(error) if error.is_passing() => tokio::time::sleep(AGAIN).await,
                Err(error) => call.seen = Seen::Refused(format!("job_result of {id}: {error}")),
            }
        }
        if let Seen::End(End { revision: Some(revision), .. }) = &call.seen {
            self.revision = *revision;
        }
        call
    }

    /// Sends a call until it is acknowledged or the writer is stopped.
    async fn make(&mut self, call: &mut Call, method: &str) {
        while !self.stopped() {
            match self.rpc.call(method, call.arguments()).await {
                Ok(answer) => {
                    self.pulse.beat();
                    call.seen = Seen::of(&answer);
                    return;
                }
                Err(CallError::Refused { code: 302, .. }) => {}
                Err(error) if error.is_passing() => tokio::time::sleep(AGAIN).await,
                Err(refused) => {
                    call.seen = Seen::Refused(refused.to_string());
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_uuid_of_version_7() {
        let mut dice = Dice::new(1);
        for _ in 0..100 {
            let key = request_id(&mut dice);
            assert_eq!((key.len(), &key[14..15]), (36, "7"), "{key}");
            assert!("89ab".contains(&key[19..20]), "{key}");
            let lengths: Vec<usize> = key.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{key}");
        }
    }
}
