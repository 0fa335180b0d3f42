//! Events of the cluster, by long polls (wire.md section 5, ruling 39).
//!
//! Owns the bookkeeping of one subscription: the cursor of the last event seen, so that a
//! subscription that dies with its node or master is made again and misses nothing within the
//! window that the cluster keeps.

use crate::client::Client;
use crate::error::Error;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::time::Duration;
use tiebeam_proto::ErrorCode;

/// Time of one long poll: short enough to notice a lost master.
const POLL: Duration = Duration::from_secs(20);
/// Subscriptions made again in a row without one event list between them.
const RENEWALS_MAX: u32 = 3;

/// Whose jobs' events are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum JobsFilter {
    /// Every job that the caller may see.
    All,
    /// The caller's own.
    #[default]
    Mine,
    /// These ids.
    Ids(Vec<String>),
}

/// Which events are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Whose jobs.
    pub jobs: JobsFilter,
    /// `stage`, `command`, `progress`, `config`, `node`, `master`; empty means all.
    pub kinds: Vec<String>,
    /// Only what follows this cursor.
    pub since: Option<String>,
}

impl EventFilter {
    fn to_json(&self) -> Value {
        let jobs = match &self.jobs {
            JobsFilter::All => json!("all"),
            JobsFilter::Mine => json!("mine"),
            JobsFilter::Ids(ids) => json!(ids),
        };
        let mut filter = Map::from_iter([("jobs".to_owned(), jobs)]);
        if !self.kinds.is_empty() {
            filter.insert("kinds".to_owned(), json!(self.kinds));
        }
        if let Some(cursor) = &self.since {
            filter.insert("since".to_owned(), json!(cursor));
        }
        Value::Object(filter)
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its place; absent for progress and output, which are best effort.
    pub cursor: Option<String>,
    /// What it is about.
    pub kind: String,
    /// The job it belongs to.
    pub job: Option<String>,
    /// The whole event.
    pub value: Value,
}

impl Event {
    /// Reads one member of `events`' list.
    pub fn from_value(value: Value) -> Event {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Event {
            cursor: text("cursor"),
            kind: text("kind").unwrap_or_default(),
            job: text("job"),
            value,
        }
    }
}

/// A subscription. Ask [`next`](Self::next) in a loop.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    filter: EventFilter,
    subscription: Option<Value>,
    waiting: VecDeque<Event>,
    renewals: u32,
}

impl EventStream {
    pub(crate) fn new(client: Client, filter: EventFilter) -> EventStream {
        EventStream { client, filter, subscription: None, waiting: VecDeque::new(), renewals: 0 }
    }

    /// The cursor to go on from, after the last event that was returned.
    pub fn cursor(&self) -> Option<&str> {
        self.filter.since.as_deref()
    }

    /// Waits for the next event, across lost connections and master changes.
    ///
    /// # Errors
    /// [`Error::EventGap`] once, if the cluster no longer has what follows the cursor; the stream
    /// goes on behind the gap when asked again. Else as every call.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                if let Some(gap) = event.value.get("gap") {
                    let from = gap["to"].as_str().unwrap_or_default().to_owned();
                    return Err(Error::EventGap { from });
                }
                if event.cursor.is_some() {
                    self.filter.since.clone_from(&event.cursor);
                }
                return Ok(event);
            }
            self.poll().await?;
        }
    }

    async fn poll(&mut self) -> Result<(), Error> {
        let subscription = match &self.subscription {
            Some(subscription) => subscription.clone(),
            None => {
                let reply = self.client.read("subscribe", json!([self.filter.to_json()])).await?;
                self.subscription.insert(reply).clone()
            }
        };
        let call = json!([subscription, POLL.as_secs()]);
        match self.client.read_waiting("events", call, POLL).await {
            Ok(Value::Array(events)) => {
                self.renewals = 0;
                self.waiting.extend(events.into_iter().map(Event::from_value));
                Ok(())
            }
            Ok(_) => {
                self.subscription = None;
                Err(Error::Answer {
                    address: "the cluster".to_owned(),
                    method: "events".to_owned(),
                    reason: "no list".to_owned(),
                })
            }
            Err(error) if forgotten(&error) && self.renewals < RENEWALS_MAX => {
                // The node or master that knew it is gone: subscribe again from the cursor.
                self.renewals += 1;
                self.subscription = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn forgotten(error: &Error) -> bool {
    matches!(
        error.code(),
        Some(ErrorCode::UnknownJobId | ErrorCode::InvalidArguments | ErrorCode::InvalidParameter)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_only_what_is_wanted() {
        assert_eq!(EventFilter::default().to_json(), json!({"jobs": "mine"}));
        let filter = EventFilter {
            jobs: JobsFilter::Ids(vec!["11.2".into()]),
            kinds: vec!["stage".into()],
            since: Some("7.1".into()),
        };
        assert_eq!(filter.to_json(), json!({"jobs": ["11.2"], "kinds": ["stage"], "since": "7.1"}));
    }
}
