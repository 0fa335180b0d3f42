//! Apply: the one function that changes State.
//!
//! It decides from the entry and State alone (ruling 12), performs nothing and returns effects.
//! It asserts hard: what cannot be is a bug or damage, and a node that went on would diverge.
//! One file per kind of entry.

mod access;
mod change;
mod command;
mod finish;
pub mod incarnate;
mod level;
mod member;
mod notice;
mod queue;
pub mod reads;
pub mod retention;
mod run_once;

use crate::effect::{Answer, Effect, Event, What};
use crate::job::Job;
use crate::proposal::{Body, Header, Proposal};
use crate::state::State;
use serde::Serialize;
use std::sync::Arc;
use tiebeam_proto::chain;
use tiebeam_proto::record::{Archived, ChainLink, JobRecord};
use tiebeam_proto::{Kind, Stage, canonical, time::Time};

/// One entry being applied: its place, its header, and the effects so far.
pub(crate) struct Entry {
    pub index: u64,
    pub term: u64,
    pub header: Header,
    effects: Vec<Effect>,
    events: u32,
}

impl Entry {
    fn event(&mut self, what: What) {
        self.effects.push(Effect::Event(Event { cursor: (self.index, self.events), what }));
        self.events += 1;
    }

    /// Tells that a job reached `stage` at `time`.
    pub(crate) fn stage(&mut self, record: &JobRecord, stage: Stage, time: Time) {
        self.event(What::Stage {
            job: record.job.clone(),
            name: record.name.clone(),
            user: record.user.clone(),
            stage,
            outcome: record.outcome.filter(|_| stage >= Stage::Finished),
            time,
        });
    }

    /// Tells that a command began or ended.
    pub(crate) fn command(&mut self, job: &Job, key: &str, node: u32, result: &str) {
        self.event(What::Command {
            job: job.record.job.clone(),
            user: job.record.user.clone(),
            command: Arc::from(key),
            node,
            result: Arc::from(result),
        });
    }

    /// Tells that there is a new revision.
    pub(crate) fn revision(&mut self, revision: u64, record: &JobRecord) {
        self.effects.push(Effect::Revision(revision));
        self.event(What::Config { revision, job: record.job.clone(), user: record.user.clone() });
    }

    /// Asks the shell to look at what is due.
    pub(crate) fn due(&mut self) {
        self.effects.push(Effect::Due);
    }
}

impl State {
    /// Applies the entry at `index`; `proposal` is `None` for an entry without content (a new
    /// leader's first). Panics if the entry is not the next one.
    pub fn apply(
        &mut self,
        index: u64,
        term: u64,
        proposal: Option<&Proposal>,
    ) -> (Answer, Vec<Effect>) {
        let Some(proposal) = proposal else {
            self.step_to(index, term);
            return (Answer::Done, vec![Effect::Due]);
        };
        let mut entry = self.begin(index, term, proposal.header);
        let answer = self.apply_body(&mut entry, &proposal.body);
        self.let_go_of_what_expired();
        self.mark_reads();
        (answer, entry.effects)
    }

    fn step_to(&mut self, index: u64, term: u64) {
        assert_eq!(index, self.applied + 1, "entries are applied in order");
        assert!(term >= self.term, "terms never go down");
        self.applied = index;
        self.term = term;
    }

    fn begin(&mut self, index: u64, term: u64, header: Header) -> Entry {
        self.step_to(index, term);
        self.clock_us = self.clock_us.saturating_add(header.elapsed_us);
        self.wall = header.wall;
        Entry { index, term, header, effects: Vec::new(), events: 0 }
    }

    fn apply_body(&mut self, entry: &mut Entry, body: &Body) -> Answer {
        match body {
            Body::Submit(submission) => self.apply_submit(entry, submission),
            Body::RunOnce(run) => self.apply_run_once(entry, run),
            Body::Schedule(schedule) => self.apply_schedule(entry, schedule),
            Body::Intent(intent) => self.apply_intent(entry, intent),
            Body::CommandEnded(ended) => self.apply_command_ended(entry, ended),
            Body::Finish(finish) => self.apply_finish(entry, finish),
            Body::Committed(committed) => self.apply_committed(entry, committed),
            Body::Cancel(cancel) => self.apply_cancel(entry, cancel),
            Body::Audit(facts) => self.apply_audit(entry, facts),
            Body::Revoke(revoke) => self.apply_revoke(entry, revoke),
            Body::Rehash(rehash) => self.apply_rehash(rehash),
            Body::Cut(cut) => self.apply_cut(cut),
            Body::Recorded(recorded) => self.apply_recorded(recorded),
            Body::Member(step) => self.apply_member(entry, step),
            Body::Skipped(skipped) => self.apply_skipped(entry, skipped),
            Body::Raise(raise) => self.apply_raise(entry, raise),
            Body::Key(step) => self.apply_key(entry, step),
            Body::Notice(notice) => self.apply_notice(entry, notice),
        }
    }

    /// Appends a record to the chain and hands it to the history.
    fn archive<T: Serialize>(
        &mut self,
        entry: &mut Entry,
        record: &T,
        job: Option<Arc<JobRecord>>,
    ) {
        let canonical = canonical::of_sorted(record);
        let previous = self.chain.head;
        let this = chain::hash(&previous, &canonical);
        self.chain.index += 1;
        self.chain.head = this;
        let link = ChainLink {
            index: self.chain.index,
            previous: chain::to_text(&previous),
            this: chain::to_text(&this),
        };
        let archived = Archived { link, canonical: canonical.into() };
        entry.effects.push(Effect::Archive(archived, job));
    }

    /// Archives a job that has reached its last stage. The job must have left `jobs` already.
    fn archive_job(&mut self, entry: &mut Entry, record: Arc<JobRecord>) -> Arc<JobRecord> {
        assert!(record.outcome.is_some(), "only a job that ended is archived");
        self.archive(entry, &*record, Some(record.clone()));
        if record.kind == Kind::Read {
            self.chain.reads += 1;
        }
        record
    }

    /// Lets go of token ends and derived secrets whose cluster time has come; a few per entry.
    fn let_go_of_what_expired(&mut self) {
        let clock = self.clock_us;
        let ended = self.revoked.iter().filter(|(_, end)| **end < clock).take(4);
        for token in ended.map(|(token, _)| token.clone()).collect::<Vec<_>>() {
            self.revoked.remove(&token);
        }
        let ended = self.join_tokens.iter().filter(|(_, token)| token.expires_us < clock).take(4);
        for token in ended.map(|(token, _)| token.clone()).collect::<Vec<_>>() {
            self.join_tokens.remove(&token);
        }
        let ended = self.derived.iter().take(4).filter(|(_, (end, _))| *end < clock);
        for job in ended.map(|(job, _)| *job).collect::<Vec<_>>() {
            self.derived.remove(&job);
        }
    }
}
