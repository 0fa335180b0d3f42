//! Events: `subscribe` and `events` for clients that poll, and the stream behind `/ws` (wire.md
//! section 5, ruling 39).
//!
//! What a subscriber may see is decided for each event when it is delivered.

use super::arguments::Arguments;
use super::{Method, Right, until_revoked, user_of};
use crate::engine::Engine;
use crate::front::seam::{Call, Events, MethodClass};
use crate::progress::Word;
use futures_util::stream;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tiebeam_core::effect::{Event, What};
use tiebeam_proto::{ErrorCode, RpcError};
use tokio::sync::watch;

pub(super) const SUBSCRIBE: Method = Method {
    name: "subscribe",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: &["filter"],
    signatures: &[&["string"], &["string", "struct"]],
    help: "subscribe({jobs, kinds, since}): an id for events() and unsubscribe()",
    run: |engine, call, arguments| Box::pin(async move { subscribe(&engine, &call, &arguments) }),
};

pub(super) const UNSUBSCRIBE: Method = Method {
    name: "unsubscribe",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: &["id"],
    signatures: &[&["boolean", "string"]],
    help: "unsubscribe(id): ends a subscription",
    run: |engine, call, arguments| Box::pin(async move { unsubscribe(&engine, &call, &arguments) }),
};

pub(super) const EVENTS: Method = Method {
    name: "events",
    class: MethodClass::Master,
    right: Right::LoggedIn,
    arguments: &["id", "timeout_s"],
    signatures: &[&["array", "string"], &["array", "string", "double"]],
    help: "events(id[, timeout_s]): what happened since the last call; empty after the time",
    run: |engine, call, arguments| Box::pin(events(engine, call, arguments)),
};

/// Events of one answer or one pull.
const PAGE: usize = 256;
/// Subscriptions of one user that are polled.
const PER_USER_MAX: usize = 64;
/// A subscription that nobody asks for this long is gone.
const IDLE: Duration = Duration::from_secs(300);
/// Jobs that a filter may name.
const JOBS_MAX: usize = 1_000;

/// Which events a subscriber wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    jobs: Jobs,
    kinds: BTreeSet<String>,
    since: Option<(u64, u32)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Jobs {
    All,
    Mine,
    Named(BTreeSet<String>),
}

const KINDS: [&str; 7] = ["stage", "command", "progress", "config", "node", "cluster", "master"];

impl Filter {
    /// Reads the argument of `subscribe`.
    ///
    /// # Errors
    /// An unknown key, or a value that does not fit, by name.
    pub fn read(value: &Value) -> Result<Filter, RpcError> {
        let mut filter = Filter { jobs: Jobs::Mine, kinds: BTreeSet::new(), since: None };
        let wrong = |field: &str, must: &str| {
            let text = format!("`{field}` must be {must}");
            RpcError::new(ErrorCode::InvalidArguments, text).field(field)
        };
        let object = match value {
            Value::Null => return Ok(filter),
            Value::Object(object) => object,
            _ => return Err(wrong("filter", "a map")),
        };
        for (key, value) in object {
            match key.as_str() {
                "jobs" => {
                    filter.jobs = jobs(value)
                        .ok_or_else(|| wrong("jobs", "\"mine\", \"all\" or a list of job ids"))?;
                }
                "kinds" => {
                    filter.kinds = kinds(value).ok_or_else(|| {
                        wrong("kinds", &format!("a list of {}", KINDS.join(", ")))
                    })?;
                }
                "since" if value.is_null() => {}
                "since" => {
                    let cursor = value.as_str().and_then(parse_cursor);
                    filter.since =
                        Some(cursor.ok_or_else(|| wrong("since", "the cursor of an event"))?);
                }
                other => {
                    let shown: String =
                        other.chars().filter(|c| !c.is_control()).take(64).collect();
                    return Err(wrong(&shown, "left out: keys are jobs, kinds and since"));
                }
            }
        }
        Ok(filter)
    }

    fn of_kind(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.contains(kind)
    }

    /// Whether a job of `owner` is one whose events this user asked for.
    fn of_job(&self, user: &str, owner: &str, job: &str) -> bool {
        match &self.jobs {
            Jobs::All => true,
            Jobs::Mine => owner == user,
            Jobs::Named(ids) => ids.contains(job),
        }
    }

    fn wants(&self, user: &str, event: &Event) -> bool {
        let (kind, job) = match &event.what {
            What::Stage { job, .. } => ("stage", job),
            What::Command { job, .. } => ("command", job),
            What::Config { job, .. } => ("config", job),
            // They are about no job: asking for the kind is asking for them.
            What::Node { .. } => return self.kinds.contains("node"),
            What::Cluster { .. } => return self.kinds.contains("cluster"),
            What::Master { .. } => return self.kinds.contains("master"),
        };
        self.of_kind(kind) && self.of_job(user, event.user(), job)
    }

    fn wants_word(&self, user: &str, word: &Word) -> bool {
        self.of_kind("progress") && self.of_job(user, &word.user, &word.job)
    }
}

fn jobs(value: &Value) -> Option<Jobs> {
    match value {
        Value::Null => Some(Jobs::Mine),
        Value::String(word) if word == "mine" => Some(Jobs::Mine),
        Value::String(word) if word == "all" => Some(Jobs::All),
        Value::Array(ids) if ids.len() <= JOBS_MAX => {
            let ids = ids.iter().map(|id| id.as_str().map(str::to_owned));
            ids.collect::<Option<BTreeSet<_>>>().map(Jobs::Named)
        }
        _ => None,
    }
}

fn kinds(value: &Value) -> Option<BTreeSet<String>> {
    if value.is_null() {
        return Some(BTreeSet::new());
    }
    let known = |kind: &Value| kind.as_str().filter(|kind| KINDS.contains(kind)).map(str::to_owned);
    value.as_array()?.iter().map(known).collect()
}

fn parse_cursor(text: &str) -> Option<(u64, u32)> {
    let (index, number) = text.split_once('.')?;
    Some((index.parse().ok()?, number.parse().ok()?))
}

fn cursor_text(cursor: (u64, u32)) -> String {
    format!("{}.{}", cursor.0, cursor.1)
}

/// How far a subscriber has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// The last event.
    cursor: (u64, u32),
    /// Words of progress that there were: those that passed before are told to nobody.
    words: u64,
}

impl Place {
    /// Where a new subscription begins: at the filter's cursor, or now.
    fn first(engine: &Engine, filter: &Filter) -> Place {
        let cursor = filter.since.unwrap_or_else(|| engine.board.newest_event());
        Place { cursor, words: engine.metrics.progress.count() }
    }
}

/// What one look at the retained events gives: what to deliver, and where to go on.
fn page(engine: &Engine, user: &str, filter: &Filter, at: Place) -> (Vec<Value>, Place) {
    let page = engine.board.events_after(at.cursor, PAGE);
    let state = engine.board.state();
    let sees_all = state.sees_every_job(user);
    let mut out = Vec::new();
    if let Some((from, to)) = page.gap {
        out.push(json!({"gap": {"from": cursor_text(from), "to": cursor_text(to)}}));
    }
    let cursor = page.events.last().map_or(at.cursor, |event| event.cursor);
    // Who is in the cluster is no secret: node_list is for everyone.
    let open = |event: &Event| {
        matches!(event.what, What::Node { .. } | What::Cluster { .. } | What::Master { .. })
    };
    let may_see = |event: &Event| sees_all || event.user() == user || open(event);
    let seen = |event: &&Event| may_see(event) && filter.wants(user, event);
    out.extend(page.events.iter().filter(seen).map(Event::to_json));
    let (words, heard) = engine.metrics.progress.after(at.words);
    let seen = |word: &&Word| (sees_all || word.user == user) && filter.wants_word(user, word);
    out.extend(words.iter().filter(seen).map(Word::to_json));
    (out, Place { cursor, words: heard })
}

/// Both kinds of news, from when it was made on.
struct News {
    events: watch::Receiver<(u64, u32)>,
    words: watch::Receiver<u64>,
}

impl News {
    fn from_now(engine: &Engine) -> News {
        let words = engine.metrics.progress.follow();
        News { events: engine.board.follow_events(), words }
    }

    /// Resolves when there is something; `None` if there will be nothing any more.
    async fn next(&mut self) -> Option<()> {
        tokio::select! {
            changed = self.events.changed() => changed.ok(),
            changed = self.words.changed() => changed.ok(),
        }
    }
}

/// Events from the filter's cursor on, or from now on.
fn follow(engine: Arc<Engine>, user: String, filter: Filter) -> Events {
    let at = Place::first(&engine, &filter);
    let start = (engine, user, filter, at, VecDeque::<Value>::new());
    Box::pin(stream::unfold(start, |(engine, user, filter, mut at, mut ready)| async move {
        let mut news = News::from_now(&engine);
        loop {
            if let Some(event) = ready.pop_front() {
                return Some((event, (engine, user, filter, at, ready)));
            }
            if !engine.board.state().is_enabled(&user) {
                return None;
            }
            let (events, next) = page(&engine, &user, &filter, at);
            ready.extend(events);
            if next == at && ready.is_empty() {
                news.next().await?;
            }
            at = next;
        }
    }))
}

/// Subscriptions that are polled.
#[derive(Default)]
pub struct Subscriptions {
    inner: Mutex<Polled>,
}

#[derive(Default)]
struct Polled {
    last: u64,
    by_id: HashMap<String, Subscription>,
}

#[derive(Clone)]
struct Subscription {
    user: String,
    filter: Filter,
    at: Place,
    used: Instant,
}

impl Subscriptions {
    fn polled(&self) -> MutexGuard<'_, Polled> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream of a `/ws` subscription with this filter.
    ///
    /// # Errors
    /// The filter does not fit.
    pub fn stream(engine: Arc<Engine>, user: String, filter: &Value) -> Result<Events, RpcError> {
        Ok(follow(engine, user, Filter::read(filter)?))
    }

    fn find(&self, user: &str, id: &str) -> Result<Subscription, RpcError> {
        let mut polled = self.polled();
        let found = polled.by_id.get_mut(id).filter(|subscription| subscription.user == user);
        let unknown = || {
            RpcError::new(ErrorCode::InvalidArguments, "there is no such subscription")
                .field("id")
                .hint("subscribe again, with `since` set to the last cursor")
        };
        let found = found.ok_or_else(unknown)?;
        found.used = Instant::now();
        Ok(found.clone())
    }
}

fn subscribe(engine: &Engine, call: &Call, a: &Arguments) -> Result<Value, RpcError> {
    let filter = Filter::read(a.value(0))?;
    let user = user_of(call).to_owned();
    let at = Place::first(engine, &filter);
    let mut polled = engine.subscriptions.polled();
    polled.by_id.retain(|_, subscription| subscription.used.elapsed() < IDLE);
    if polled.by_id.values().filter(|s| s.user == user).count() >= PER_USER_MAX {
        let text = format!("you have {PER_USER_MAX} subscriptions already");
        return Err(RpcError::new(ErrorCode::TooBusy, text).hint("end some with unsubscribe"));
    }
    polled.last += 1;
    let id = format!("s{}", polled.last);
    polled.by_id.insert(id.clone(), Subscription { user, filter, at, used: Instant::now() });
    Ok(json!(id))
}

fn unsubscribe(engine: &Engine, call: &Call, a: &Arguments) -> Result<Value, RpcError> {
    engine.subscriptions.find(user_of(call), a.text(0)?)?;
    Ok(json!(engine.subscriptions.polled().by_id.remove(a.text(0)?).is_some()))
}

async fn events(engine: Arc<Engine>, call: Call, a: Arguments) -> Result<Value, RpcError> {
    let (user, id) = (user_of(&call), a.text(0)?);
    let seconds = a.seconds(1, 30, 300)?;
    let mut subscription = engine.subscriptions.find(user, id)?;
    let _waits = engine.waiting.begin(user)?;
    let until = tokio::time::Instant::now() + Duration::from_secs_f64(seconds);
    let mut news = News::from_now(&engine);
    let mut revoked = std::pin::pin!(until_revoked(&engine, &call));
    let found = loop {
        let (found, next) = page(&engine, user, &subscription.filter, subscription.at);
        let moved = next != subscription.at;
        subscription.at = next;
        if !found.is_empty() {
            break found;
        }
        if moved {
            continue;
        }
        tokio::select! {
            _ = news.next() => {}
            () = tokio::time::sleep_until(until) => break found,
            () = call.stop.cancelled() => break found,
            () = &mut revoked => break found,
        }
    };
    if let Some(kept) = engine.subscriptions.polled().by_id.get_mut(id) {
        kept.at = subscription.at;
        kept.used = Instant::now();
    }
    Ok(json!(found))
}
