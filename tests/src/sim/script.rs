//! Stories: a text of commands, each followed by what came of it. A story is run and its text is
//! written anew; a test compares the two.
//!
//! ```text
//! > start 3                       three nodes; waits for a master
//! > call a config_set {"path": "app/a", "value": 1} | at n12, request r1, start, as u0
//! > answer a                      waits for it
//! > run 500                       milliseconds pass
//! > until n12 leads | until master | until equal | until n13 down | until job 1 executed
//! > transfer n12                  the master hands leadership over
//! > cut n11 | cut n11 n12         all links of a node, or one direction
//! > mend                          all links
//! > clog n11 n12 800              one direction is held back, in milliseconds
//! > kill n11 | power n11          kill -9; the power, with all that was not synced
//! > boot n11                      it is started again
//! > replace n11                   its disk is gone; it joins again (until n11 back)
//! > pause n11 2000                SIGSTOP, in milliseconds
//! > stop n11 at persist.before 1  at a crash point, after one pass
//! > slow n11 1500                a write takes so long, in milliseconds
//! > failing n11 | full n11 | roomy n11 | rot n11 log
//! > clock n11 10                  its wall clock jumps, in years
//! > upgrade n11                   its jobs have other code from now on
//! > cancel 1                      somebody cancels a job
//! > show app/a | nodes | jobs     what is there
//! > end                           everything is healed, and every invariant looked at
//! ```
//!
//! Lines that begin with `#` are the story's own words. What a command prints is the essence of the
//! trace (who leads, proposes, starts and stops), without times.

use super::clients::{Request, call};
use super::process::Process;
use super::simulation::Simulation;
use super::{Pace, Settings};
use serde_json::Value;
use std::collections::BTreeMap;
use tiebeam_core::Path;
use tiebeam_core::job::parse_job_id;
use tiebeam_core::proposal::{Body, Cancel};
use tiebeam_proto::record::JobRecord;
use tiebeam_proto::{Outcome, Stage};
use tiebeam_replica::Input;
use tiebeam_replica::seams::mem::Stop;

/// Longest time that a story waits for something, in microseconds.
const PATIENCE_US: u64 = 120_000_000;

/// A story being told.
struct Story {
    simulation: Simulation,
    calls: BTreeMap<String, usize>,
    told_lines: usize,
}

/// Runs a story and writes it anew: its commands, its own words, and what came of each command.
pub fn retell(text: &str) -> Result<String, String> {
    let mut story: Option<Story> = None;
    let mut out = String::new();
    for line in text.lines() {
        if line.starts_with('#') || line.is_empty() {
            out.push_str(line);
            out.push('\n');
        }
        let Some(command) = line.strip_prefix("> ") else { continue };
        out.push_str(line);
        out.push('\n');
        let mut told = match (&mut story, command.strip_prefix("start ")) {
            (None, Some(nodes)) => {
                let mut new = Story::begin(nodes)?;
                let told = new.until(&["master"])?;
                story = Some(new);
                told
            }
            (Some(story), None) => story.carry_out(command)?,
            _ => return Err(format!("{command:?}: a story begins with one `start`")),
        };
        if let Some(story) = &mut story {
            let essence = story.essence();
            told = essence.into_iter().chain(told).collect();
        }
        for line in told {
            out.push_str(&line);
            out.push('\n');
        }
    }
    Ok(out)
}

/// The part of a trace line that a story tells, if it tells it.
fn essential(line: &str) -> Option<String> {
    let text = line.trim_start().split_once(' ')?.1;
    let (node, what) = text.split_once(' ')?;
    let told = [
        "proposes ",
        "starts",
        "stopped at ",
        "offers ",
        "could not ",
        "ends itself",
        "run-",
        "the power",
        "its disk is gone",
        "is a voter",
        "the process",
        "the replica",
        "gets offer",
    ];
    let leads = what.starts_with("is Leader");
    (leads || (node.starts_with('n') && told.iter().any(|begin| what.starts_with(begin))))
        .then(|| format!("  {text}"))
}

impl Story {
    fn begin(nodes: &str) -> Result<Story, String> {
        let nodes = nodes.trim().parse().map_err(|_| format!("{nodes:?} is no number of nodes"))?;
        let pace = Pace { load_us: u64::MAX, ..Pace::CLUSTER };
        let settings = Settings {
            nodes,
            clients: 0,
            calls: 0,
            pace,
            trace: true,
            scripted: true,
            ..Settings::standard(1)
        };
        let mut simulation = Simulation::new(settings)?;
        simulation.begin();
        Ok(Story { simulation, calls: BTreeMap::new(), told_lines: 0 })
    }

    /// What the trace tells of the last command.
    fn essence(&mut self) -> Vec<String> {
        let lines = &self.simulation.lines[self.told_lines..];
        let told = lines.iter().filter_map(|line| essential(line)).collect();
        self.told_lines = self.simulation.lines.len();
        told
    }

    fn carry_out(&mut self, command: &str) -> Result<Vec<String>, String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let (verb, rest) = words.split_first().ok_or("a command is empty")?;
        match (*verb, rest) {
            ("call", _) => self.call(command),
            ("answer", [name]) => self.answer(name),
            ("until", condition) => self.until(condition),
            ("run", [ms]) => self.pass(1_000 * number(ms)?).map(|()| Vec::new()),
            ("show", [path]) => self.show(path),
            ("nodes", []) => Ok(self.nodes()),
            ("jobs", []) => Ok(self.jobs()),
            ("end", []) => self.end(),
            ("cancel", [job]) => self.cancel(number(job)?),
            ("mend", []) => {
                self.simulation.net.heal();
                Ok(Vec::new())
            }
            (_, [node, more @ ..]) => {
                let at = self.place(node)?;
                self.befall(verb, at, more)?;
                Ok(Vec::new())
            }
            _ => Err(format!("{command:?} is no command")),
        }
    }

    fn place(&self, node: &str) -> Result<usize, String> {
        let number = node.strip_prefix('n').and_then(|number| number.parse::<u32>().ok());
        let at = number.and_then(|number| self.simulation.place(number));
        at.ok_or_else(|| format!("there is no node {node:?}"))
    }

    /// Something happens to a node.
    fn befall(&mut self, verb: &str, at: usize, more: &[&str]) -> Result<(), String> {
        let simulation = &mut self.simulation;
        let now_us = simulation.now_us;
        let nodes = simulation.machines.len();
        match (verb, more) {
            ("kill", []) => simulation.dies(at, "the process is killed", Some(Stop::Kill)),
            ("power", []) => simulation.dies(at, "the power is cut", Some(Stop::LoseAll)),
            ("boot", []) => {
                let started = simulation.restart(at);
                started.map_err(|halt| format!("{halt:?}"))?;
            }
            ("replace", []) => drop(simulation.lose_disk(at)),
            ("transfer", []) => {
                let to = Some(simulation.machines[at].identity.raft);
                (0..nodes).for_each(|other| simulation.receive(other, Input::Transfer { to }));
            }
            ("cut", []) => {
                for other in (0..nodes).filter(|other| *other != at) {
                    simulation.net.cut(at, other);
                    simulation.net.cut(other, at);
                }
            }
            ("cut", [to]) => {
                let to = self.place(to)?;
                self.simulation.net.cut(at, to);
            }
            ("clog", [to, ms]) => {
                let to = self.place(to)?;
                let until_us = now_us + 1_000 * number(ms)?;
                self.simulation.net.clog(at, to, until_us);
            }
            ("pause", [ms]) => {
                simulation.machines[at].paused_until_us = now_us + 1_000 * number(ms)?;
            }
            ("stop", ["at", point, nth @ ..]) => {
                let nth = nth.first().map_or(Ok(0), |nth| number(nth))?;
                simulation.machines[at].disk.arm(point, nth);
            }
            ("slow", [ms]) => simulation.machines[at].write_us = 1_000 * number(ms)?,
            ("failing", []) => simulation.machines[at].disk.fail_sync_after(0),
            ("full", []) => simulation.machines[at].disk.limit_bytes(Some(0)),
            ("roomy", []) => simulation.machines[at].disk.limit_bytes(None),
            ("rot", [folder]) => self.rot(at, folder)?,
            ("clock", [years]) => {
                let year_us = 365 * 24 * 3_600_000_000;
                simulation.machines[at].wall_offset_us = year_us * number(years)? as i64;
            }
            ("upgrade", []) => simulation.machines[at].upgraded = true,
            _ => return Err(format!("{verb} {more:?} is no command")),
        }
        Ok(())
    }

    /// Turns a bit over in the last record of a log, or in the newest snapshot.
    fn rot(&mut self, at: usize, folder: &str) -> Result<(), String> {
        let machine = &mut self.simulation.machines[at];
        let used = |path: &String| {
            let bytes = machine.disk.content(path).unwrap_or_default();
            bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64
        };
        let inside = |path: &String| path.starts_with(folder);
        let mut paths = machine.disk.paths().into_iter().filter(inside);
        let path = match folder {
            "log" => paths.max_by_key(used),
            _ => paths.next_back(),
        };
        let path = path.ok_or_else(|| format!("there is nothing in {folder:?}"))?;
        let offset = used(&path).saturating_sub(8);
        machine.disk.flip_bit(&path, offset, 3);
        machine.lost = folder == "log";
        Ok(())
    }

    fn call(&mut self, command: &str) -> Result<Vec<String>, String> {
        let (what, options) = command.split_once(" | ").unwrap_or((command, ""));
        let mut parts = what.splitn(4, ' ').skip(1);
        let (Some(name), Some(job)) = (parts.next(), parts.next()) else {
            return Err(format!("{command:?} names no job"));
        };
        let params: Value = serde_json::from_str(parts.next().unwrap_or("{}"))
            .map_err(|error| format!("{command:?}: {error}"))?;
        let job = tiebeam_jobs::find(job).ok_or_else(|| format!("there is no job {job:?}"))?;
        let mut request = call(job.declaration.name, params);
        let mut at = self.master().unwrap_or(0);
        for option in options.split(", ").filter(|option| !option.is_empty()) {
            at = self.option(&mut request, option, at)?;
        }
        let client = self.simulation.script_calls(at, request);
        self.calls.insert(name.to_owned(), client);
        // It is on the wire: what follows in the story happens to a call that was read.
        self.pass(300)?;
        Ok(Vec::new())
    }

    fn option(&self, request: &mut Request, option: &str, at: usize) -> Result<usize, String> {
        let (key, value) = option.split_once(' ').unwrap_or((option, ""));
        match key {
            "at" => return self.place(value),
            "request" => request.request_id = Some(value.to_owned()),
            "as" => request.user = value.to_owned(),
            "deadline" => request.deadline_s = Some(number(value)?),
            "start" => request.wait = false,
            "volatile" => request.volatile = true,
            _ => return Err(format!("{option:?} is no option")),
        }
        Ok(at)
    }

    fn master(&self) -> Option<usize> {
        let nodes = self.simulation.machines.len();
        let newest = |at: &usize| {
            self.simulation.machines[*at].process.as_ref().map(|process| process.role.term)
        };
        (0..nodes).filter(|at| self.simulation.is_master(*at)).max_by_key(newest)
    }

    fn step(&mut self) -> Result<bool, String> {
        self.simulation.step().map_err(|violation| violation.to_string())
    }

    fn pass(&mut self, time_us: u64) -> Result<(), String> {
        let end_us = self.simulation.now_us + time_us;
        while self.simulation.next_us().is_some_and(|next_us| next_us <= end_us) {
            self.step()?;
        }
        self.simulation.now_us = end_us;
        Ok(())
    }

    fn wait(&mut self, mut holds: impl FnMut(&Story) -> bool) -> Result<bool, String> {
        let end_us = self.simulation.now_us + PATIENCE_US;
        while !holds(self) {
            if self.simulation.now_us > end_us || !self.step()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn until(&mut self, condition: &[&str]) -> Result<Vec<String>, String> {
        let held = match condition {
            ["master"] => self.wait(|story| story.master().is_some())?,
            [node, "leads"] => {
                let at = self.place(node)?;
                self.wait(|story| story.simulation.is_master(at))?
            }
            [node, "down"] => {
                let at = self.place(node)?;
                self.wait(|story| story.simulation.machines[at].process.is_none())?
            }
            [node, "back"] => {
                let at = self.place(node)?;
                self.wait(|story| !story.simulation.is_moving(at))?
            }
            ["equal"] => self.wait(|story| story.simulation.rests())?,
            ["job", job, stage] => {
                let job = number(job)?;
                let wanted = stages().find(|wanted| wanted.name() == *stage);
                let wanted = wanted.ok_or_else(|| format!("{stage:?} is no stage"))?;
                self.wait(|story| story.stage_of(job).is_some_and(|known| known >= wanted))?
            }
            _ => return Err(format!("until {condition:?} is no command")),
        };
        Ok(if held { Vec::new() } else { vec!["it did not come to that".to_owned()] })
    }

    /// The stage of a job, as the observer of all nodes knows it.
    fn stage_of(&self, job: u64) -> Option<Stage> {
        let stages = self.simulation.ledger.stages.iter();
        let of = |id: &str| parse_job_id(id).is_some_and(|(_, sequence)| sequence == job);
        stages.filter(|(id, _)| of(id)).map(|(_, stage)| *stage).max()
    }

    fn answer(&mut self, name: &str) -> Result<Vec<String>, String> {
        let client = *self.calls.get(name).ok_or_else(|| format!("there is no call {name:?}"))?;
        self.wait(|story| story.simulation.clients[client].told.is_some())?;
        let told = self.simulation.clients[client].told.clone();
        Ok(vec![format!("{name}: {}", told.as_deref().unwrap_or("no answer").trim())])
    }

    fn cancel(&mut self, job: u64) -> Result<Vec<String>, String> {
        let at = self.master().ok_or("there is no master")?;
        let (user, time) = ("admin".to_owned(), self.simulation.wall(at));
        let body = Body::Cancel(Cancel { job, user, time });
        self.simulation.propose(at, super::pipeline::Asker::Agent, body);
        self.simulation.settle(at);
        self.wait(|story| story.simulation.ledger.cancels.contains_key(&job))?;
        let told = self.simulation.ledger.cancels.get(&job).unwrap_or(&"nothing");
        Ok(vec![format!("job {job}: {told}")])
    }

    fn show(&self, path: &str) -> Result<Vec<String>, String> {
        let path = Path::parse(path).map_err(|error| error.to_string())?;
        let of = |machine: &super::machine::Machine| {
            let value = machine.board().map(|board| board.config.value(&path));
            let text = match value {
                None => "down".to_owned(),
                Some(None) => "nothing".to_owned(),
                Some(Some(value)) => value.to_string(),
            };
            format!("n{}: {text}", machine.identity.node)
        };
        let nodes: Vec<String> = self.simulation.machines.iter().map(of).collect();
        Ok(vec![nodes.join(", ")])
    }

    fn nodes(&self) -> Vec<String> {
        let of = |machine: &super::machine::Machine| {
            let Some(process) = &machine.process else {
                return format!("n{}: down", machine.identity.node);
            };
            let leads = if Process::is_master(process) { "master" } else { "follower" };
            let history = match process.archive.gap() {
                None => String::new(),
                Some(gap) => format!(", lacks records up to {}", gap.last),
            };
            let (applied, revision) = (process.board.applied, process.board.revision);
            let node = machine.identity.node;
            format!("n{node}: {leads}, applied {applied}, revision {revision}{history}")
        };
        self.simulation.machines.iter().map(of).collect()
    }

    /// How every job in the history ended.
    fn jobs(&self) -> Vec<String> {
        let records = self.simulation.ledger.records.iter();
        let read = |canonical: &[u8]| serde_json::from_slice::<JobRecord>(canonical).ok();
        records.filter_map(|record| read(&record.canonical)).map(|record| ended(&record)).collect()
    }

    /// Heals everything and looks at everything.
    fn end(&mut self) -> Result<Vec<String>, String> {
        self.simulation.heal();
        let rested = self.wait(|story| story.simulation.rests())?;
        if !rested {
            return Ok(vec!["it does not come to rest".to_owned()]);
        }
        self.told_lines = self.simulation.lines.len();
        let finished = self.simulation.finish();
        Ok(vec![match finished {
            Ok(summary) => format!("every invariant holds, {} entries", summary.entries),
            Err(violation) => violation.to_string(),
        }])
    }
}

fn stages() -> impl Iterator<Item = Stage> {
    use Stage::{Committed, Executed, Finished, Scheduled, Submitted};
    [Submitted, Scheduled, Executed, Finished, Committed].into_iter()
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

fn ended(record: &JobRecord) -> String {
    let outcome = record.outcome.map_or("none", Outcome::name);
    let mut text = format!("{} {} {outcome}", record.job, record.name);
    if let Some(revision) = record.result.result_revision {
        text.push_str(&format!(", revision {revision}"));
    }
    for command in record.commands.iter().filter(|command| command.name != "config_change") {
        text.push_str(&format!(", {} {}", command.name, command.result));
    }
    if let Some(nodes) = record.nodes.as_ref().filter(|nodes| !nodes.pending.is_empty()) {
        text.push_str(&format!(", pending {:?}", nodes.reasons));
    }
    if let Some(why) = &record.result.result_desc {
        text.push_str(&format!(" ({why})"));
    }
    text
}
