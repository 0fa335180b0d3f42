//! Searches: pages of summaries, newest first, by who, what, when.
//!
//! A search walks down the chain: through memory, then outlines in the hot index, then the runs
//! that the index files name for the filter's terms. It reads no record, only facts. Each page
//! has a budget; when that is spent the page ends early, with a cursor. A cursor is a place in the
//! chain, so records that arrive meanwhile move nothing. Whoever does not see all sees his own jobs
//! and nothing else: neither audit records nor their number. Request side: it never panics.

use super::HistoryError;
use super::facts::{Facts, JobId, Subject};
use super::index::outline_key;
use super::outline::Outline;
use super::query::History;
use super::seal::term;
use super::sealed::{Sealed, runs_with};
use super::segment::Segment;
use serde_json::Value;
use std::ops::ControlFlow;
use std::sync::Arc;
use tiebeam_proto::time::Time;
use tiebeam_proto::{ErrorCode, Outcome, RpcError, Stage};

/// Records of one page at most; a page of 1,000 summaries has about 300 KB.
pub const PAGE_RECORDS_MAX: usize = 1_000;

/// Records of a page whose caller names no limit.
const PAGE_RECORDS: usize = 50;

/// What a page may cost: 1 per record whose facts are looked at, 4 per outline; about 30 ms.
const BUDGET: usize = 100_000;

/// Outlines that are read from the hot index at once.
const OUTLINES: usize = 32;

/// What to look for; an empty filter finds everything that the caller may see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The job's name.
    pub name: Option<String>,
    /// Who started it.
    pub user: Option<String>,
    /// The master that took it, or a node that one of its commands ran on.
    pub node: Option<u32>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Its last stage.
    pub stage: Option<Stage>,
    /// It ended then or later.
    pub since: Option<Time>,
    /// It ended then or before.
    pub until: Option<Time>,
    /// The revision it made.
    pub revision: Option<u64>,
    /// Its id; finds its addenda too.
    pub job: Option<String>,
    /// A word in it: refused, it comes with a later version.
    pub text: Option<String>,
}

/// A filter with the place and size of the page, as `job_history` takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// What to look for.
    pub filter: Filter,
    /// Where to go on; from the page before.
    pub cursor: Option<String>,
    /// Records of the page, 1 to [`PAGE_RECORDS_MAX`].
    pub limit: usize,
}

/// A page of a search.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Summaries, newest first.
    pub records: Vec<Value>,
    /// Where to go on; `None` at the end. A page may be short, even empty, and have one.
    pub cursor: Option<String>,
}

impl Request {
    /// Reads the argument of `job_history`: an object, or nothing.
    ///
    /// # Errors
    /// `invalid_arguments` that names the key; for `text`, that it is not in this version.
    pub fn read(argument: &Value) -> Result<Request, RpcError> {
        let mut request = Request { limit: PAGE_RECORDS, ..Request::default() };
        let filter = match argument {
            Value::Null => return Ok(request),
            Value::Object(filter) => filter,
            _ => return Err(wrong("filter", "an object")),
        };
        for (key, value) in filter {
            if !value.is_null() {
                request.set(key, value)?;
            }
        }
        Ok(request)
    }

    fn set(&mut self, key: &str, value: &Value) -> Result<(), RpcError> {
        let filter = &mut self.filter;
        let text = || value.as_str().map(str::to_owned).ok_or_else(|| wrong(key, "a string"));
        let time = || value.as_str().and_then(Time::parse).ok_or_else(|| wrong(key, "RFC 3339"));
        let number = || {
            let digits = value.as_str().and_then(|digits| digits.parse().ok());
            value.as_u64().or(digits).ok_or_else(|| wrong(key, "an integer"))
        };
        match key {
            "name" => filter.name = Some(text()?),
            "user" => filter.user = Some(text()?),
            "job" => filter.job = Some(text()?),
            "node" => {
                let node = u32::try_from(number()?).map_err(|_| wrong(key, "a node id"))?;
                filter.node = Some(node);
            }
            "outcome" => {
                let word = Outcome::ALL.into_iter().find(|word| value == word.name());
                filter.outcome = Some(word.ok_or_else(|| wrong(key, "an outcome"))?);
            }
            "stage" => {
                let stage = serde_json::from_value(value.clone());
                filter.stage = Some(stage.map_err(|_| wrong(key, "a stage"))?);
            }
            "since" => filter.since = Some(time()?),
            "until" => filter.until = Some(time()?),
            "revision" => filter.revision = Some(number()?),
            "text" => return Err(RpcError::not_in_this_version("text")),
            "cursor" => self.cursor = Some(text()?),
            "limit" => {
                let limit = usize::try_from(number()?).unwrap_or(usize::MAX);
                if limit == 0 || limit > PAGE_RECORDS_MAX {
                    return Err(wrong(key, "1 to 1000"));
                }
                self.limit = limit;
            }
            _ => {
                let shown: String = key.chars().filter(|c| !c.is_control()).take(64).collect();
                let error = format!("`{shown}` is not a key of the filter");
                return Err(RpcError::new(ErrorCode::InvalidArguments, error).field(shown).hint(
                    "name, user, node, outcome, stage, since, until, revision, job, cursor, limit",
                ));
            }
        }
        Ok(())
    }
}

fn wrong(key: &str, form: &str) -> RpcError {
    let message = format!("`{key}` has not the right form");
    RpcError::new(ErrorCode::InvalidArguments, message).field(key).hint(format!("expected: {form}"))
}

impl Filter {
    fn admits(&self, facts: &Facts, visible_to: Option<&str>) -> bool {
        let own = |user: &str| facts.job().is_some() && facts.user == user;
        visible_to.is_none_or(own)
            && facts.subject != Subject::Other
            && self.name.as_ref().is_none_or(|name| *name == facts.name && facts.job().is_some())
            && self.user.as_ref().is_none_or(|user| *user == facts.user)
            && self.node.is_none_or(|node| facts.nodes.contains(&node))
            && self.outcome.is_none_or(|outcome| facts.outcome == Some(outcome))
            && self.stage.is_none_or(|stage| facts.stage() == Some(stage))
            && self.since.is_none_or(|since| facts.ended >= since.0)
            && self.until.is_none_or(|until| facts.ended <= until.0)
            && self.revision.is_none_or(|revision| facts.revision == Some(revision))
    }

    fn may_hold(&self, (earliest, latest): (i64, i64)) -> bool {
        self.since.is_none_or(|since| latest >= since.0)
            && self.until.is_none_or(|until| earliest <= until.0)
    }

    fn may_be_in(&self, outline: &Outline<'_>, visible_to: Option<&str>) -> bool {
        let user = |user: &str| outline.users.contains(&user);
        self.may_hold(outline.times)
            && self.name.as_ref().is_none_or(|name| outline.names.contains(&name.as_str()))
            && self.user.as_ref().is_none_or(|name| user(name))
            && visible_to.is_none_or(user)
            && self.node.is_none_or(|node| outline.nodes.iter().any(|set| set.contains(&node)))
    }

    fn terms(&self, visible_to: Option<&str>) -> Vec<Vec<u8>> {
        let text = |field: u8, text: Option<&str>| text.map(|text| term(field, text.as_bytes()));
        let node = self.node.map(|node| term(b'd', &node.to_be_bytes()));
        let outcome = text(b'o', self.outcome.map(Outcome::name));
        let name = text(b'n', self.name.as_deref());
        let user = text(b'u', self.user.as_deref());
        [node, name, user, text(b'u', visible_to), outcome].into_iter().flatten().collect()
    }
}

/// A walk down the chain.
struct Walk<'a> {
    filter: &'a Filter,
    visible_to: Option<&'a str>,
    limit: usize,
    budget: usize,
    /// Below it nothing is looked at.
    floor: u64,
    /// Below it no read is looked at.
    reads_below: u64,
    /// The next record to look at.
    next: u64,
    found: Vec<Value>,
}

/// `Break` when the page is full or its budget spent.
type Flow = ControlFlow<()>;

impl History {
    /// A page of a search. `visible_to`: the user who may see his own jobs only; `None` for one
    /// who sees all. `limit` is cut to [`PAGE_RECORDS_MAX`].
    ///
    /// # Errors
    /// [`HistoryError::BadFilter`] for a cursor that is none, [`HistoryError::NotInThisVersion`]
    /// for `text`, else damage or what the operating system or the index said.
    pub fn search(
        &self,
        filter: &Filter,
        visible_to: Option<&str>,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page, HistoryError> {
        if filter.text.is_some() {
            return Err(HistoryError::NotInThisVersion("text"));
        }
        let mut walk = Walk {
            filter,
            visible_to,
            limit: limit.clamp(1, PAGE_RECORDS_MAX),
            budget: BUDGET,
            floor: self.shared.floor(),
            reads_below: self.shared.reads.below(),
            next: cursor.map_or(Ok(u64::MAX), read_cursor)?,
            found: Vec::new(),
        };
        let ended = if filter.job.is_some() || filter.revision.is_some() {
            self.walk_known(&mut walk)?
        } else {
            self.walk_all(&mut walk)?
        };
        let more = ended.is_break() && walk.next > 0;
        let cursor = more.then(|| format!("h{}", walk.next));
        Ok(Page { records: walk.found, cursor })
    }

    /// Looks at the few records that a job id or a revision names.
    fn walk_known(&self, walk: &mut Walk<'_>) -> Result<Flow, HistoryError> {
        let mut records = Vec::new();
        if let Some(id) = &walk.filter.job {
            records.extend(self.job(id)?);
            records.extend(self.addenda(id)?);
        } else if let Some(revision) = walk.filter.revision {
            records.extend(self.revision(revision)?);
        }
        records.sort_by_key(|record| std::cmp::Reverse(record.link.index));
        let asked = walk.filter.job.as_deref().and_then(JobId::parse);
        for record in records {
            let facts = Facts::of(&record.canonical);
            if (asked.is_none() || asked == facts.about())
                && walk.look(record.link.index, &facts).is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn walk_all(&self, walk: &mut Walk<'_>) -> Result<Flow, HistoryError> {
        for (index, facts) in self.shared.queue.facts_to(walk.next) {
            if walk.look(index, &facts).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let _reading = self.shared.library.reading();
        let segments = self.shared.segments();
        for segment in segments.iter().rev() {
            if segment.first > walk.next {
                continue;
            }
            let flow = match segment.index()? {
                Some(sealed) => walk_sealed(walk, segment, &sealed)?,
                None => self.walk_unsealed(walk, segment)?,
            };
            if flow.is_break() {
                return Ok(flow);
            }
            walk.next = walk.next.min(segment.first.saturating_sub(1));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn walk_unsealed(
        &self,
        walk: &mut Walk<'_>,
        segment: &Arc<Segment>,
    ) -> Result<Flow, HistoryError> {
        loop {
            let (from, to) = (outline_key(segment.first), outline_key(walk.next));
            let rows = self.on_index(|index| index.scan(&from, &to, true, OUTLINES))?;
            for (_, bytes) in &rows {
                if walk.outline(bytes, &segment.path)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if rows.len() == OUTLINES && walk.next >= segment.first {
                continue;
            }
            // Sealed meanwhile: rows may have gone before they were seen.
            return match segment.index()? {
                Some(sealed) => walk_sealed(walk, segment, &sealed),
                None => Ok(ControlFlow::Continue(())),
            };
        }
    }
}

fn walk_sealed(
    walk: &mut Walk<'_>,
    segment: &Arc<Segment>,
    sealed: &Sealed,
) -> Result<Flow, HistoryError> {
    walk.budget = walk.budget.saturating_sub(4);
    if !walk.filter.may_hold(sealed.footer.times) || walk.next < segment.first {
        return Ok(walk.afford());
    }
    let runs = sealed.runs()?;
    let mut wanted: Option<Vec<usize>> = None;
    let asked = walk.filter.terms(walk.visible_to);
    let terms = if asked.is_empty() { Vec::new() } else { sealed.terms()? };
    for term in &asked {
        let with = runs_with(&terms, term);
        wanted = Some(match wanted {
            None => with,
            Some(before) => before.into_iter().filter(|n| with.binary_search(n).is_ok()).collect(),
        });
    }
    let wanted = wanted.unwrap_or_else(|| (0..runs.len()).collect());
    let file = sealed.reader()?;
    for run in wanted.iter().rev().filter_map(|nth| runs.get(*nth)) {
        if run.first <= walk.next {
            let bytes = sealed.outline(&file, run)?;
            if walk.outline(&bytes, &segment.path)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

impl Walk<'_> {
    fn afford(&self) -> Flow {
        if self.budget == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Looks at the records of an outline that lie at or below the walk's place.
    fn outline(&mut self, bytes: &[u8], path: &std::path::Path) -> Result<Flow, HistoryError> {
        let wrong = || HistoryError::damaged(path, 0, "an outline of it does not read");
        let outline = Outline::read(bytes).ok_or_else(wrong)?;
        self.budget = self.budget.saturating_sub(4);
        if outline.first > self.next {
            return Ok(self.afford());
        }
        if self.filter.may_be_in(&outline, self.visible_to) {
            let facts = outline.facts().ok_or_else(wrong)?;
            for (nth, facts) in facts.iter().enumerate().rev() {
                let index = outline.first + nth as u64;
                if index <= self.next && self.look(index, facts).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        self.next = outline.first.saturating_sub(1);
        Ok(self.afford())
    }

    /// Looks at one record, puts it on the page if it fits, and moves below it.
    fn look(&mut self, index: u64, facts: &Facts) -> Flow {
        if index > self.next {
            return ControlFlow::Continue(());
        }
        if index < self.floor {
            self.next = 0;
            return ControlFlow::Break(());
        }
        let pruned = index < self.reads_below && facts.is_read();
        if !pruned && self.filter.admits(facts, self.visible_to) {
            if self.found.len() >= self.limit {
                self.next = index;
                return ControlFlow::Break(());
            }
            self.found.push(facts.summary(index));
        }
        self.next = index.saturating_sub(1);
        self.budget = self.budget.saturating_sub(1);
        self.afford()
    }
}

fn read_cursor(cursor: &str) -> Result<u64, HistoryError> {
    let index = cursor.strip_prefix('h').and_then(|digits| digits.parse().ok());
    index.ok_or(HistoryError::BadFilter { field: "cursor", reason: "it is not one of ours" })
}
