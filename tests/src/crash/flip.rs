//! Damaged files: one bit, a cut, a deletion; then what `tiebeamd check` and the node say.
//!
//! A node with log segments, two snapshots, a sealed and an open history segment is made once and
//! killed; each case damages a copy. The rule (ruling 18, and what the history promises): what was
//! acknowledged is there, or the node refuses with words, or the one answer that cannot be given
//! says so. Wrong content, or content that is silently missing, is a finding; so is damage of what
//! cannot be made again that `tiebeamd check` does not name.

use super::damage::{self, CASES, Case};
use super::ledger::{Ledger, history_after};
use super::load::{Call, End, Seen};
use super::rounds::{first_answer, print_findings};
use super::rpc::Rpc;
use super::subject::{Started, Subject};
use super::{Dice, Failure, Options, block_on};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Bytes of a value: log and history turn their segments over after some hundreds.
const VALUE_BYTES: usize = 56 << 10;
/// Values that are written at most until there is a sealed segment and a second snapshot.
const VALUES_MAX: u32 = 6_000;
/// Small values at the end, so that the newest segments have records of common size.
const TAIL: u32 = 60;
/// Longest wait for the log to be cut once the second snapshot is there.
const CUT_WAIT: Duration = Duration::from_secs(60);
/// Calls at once.
const AT_ONCE: u32 = 4;

/// What came of one case.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was damaged.
    pub what: &'static str,
    /// What `tiebeamd check` said.
    pub check: String,
    /// What the node did.
    pub node: String,
    /// Why it is wrong; nothing if it is right.
    pub wrong: Option<String>,
}

/// What the cases found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One row per case.
    pub rows: Vec<Row>,
    /// Jobs that were acknowledged before the damage.
    pub jobs: usize,
    /// The whole time.
    pub took: Duration,
}

impl Report {
    /// Everything that is wrong.
    pub fn findings(&self) -> Vec<String> {
        let wrong = |row: &Row| row.wrong.as_ref().map(|why| format!("{}: {why}", row.what));
        self.rows.iter().filter_map(wrong).collect()
    }

    /// Prints the table and the findings.
    pub fn print(&self) {
        let (count, jobs, took) = (self.rows.len(), self.jobs, self.took.as_secs_f64());
        println!("{count} cases of damage, {jobs} acknowledged jobs, {took:.1} s");
        println!("what | check says | node says | verdict");
        for Row { what, check, node, wrong } in &self.rows {
            println!("{what} | {check} | {node} | {}", wrong.as_deref().unwrap_or("right"));
        }
        print_findings(&self.findings());
    }
}

/// Makes the cases and prints the table.
///
/// # Errors
/// The cases cannot be made; what they find is in the report.
pub fn bit_flips(options: &Options) -> Result<Report, Failure> {
    let report = block_on(cases(options))?;
    report.print();
    Ok(report)
}

async fn cases(options: &Options) -> Result<Report, Failure> {
    let begun = Instant::now();
    let mut subject = Subject::new("flip", options)?;
    subject.init()?;
    first_answer(&mut subject).await?;
    let mut dice = Dice::new(options.seed);
    let filled = fill(&mut subject, &mut dice).await;
    let mut ledger = filled.inspect_err(|_| subject.keep())?;
    subject.kill_all()?;
    let sound = subject.data.clone();
    let mut report = Report { jobs: ledger.ends().len(), ..Report::default() };
    if !ledger.findings.is_empty() {
        return Err(ledger.findings.join("\n").into());
    }
    for case in CASES {
        let data = subject.folder.join("damaged");
        let _ = fs::remove_dir_all(&data);
        copy(&sound, &data)?;
        subject.move_to(data);
        let row = run_case(case, &mut subject, &mut ledger).await?;
        if options.loud {
            println!("{row:?}");
        }
        report.rows.push(row);
    }
    report.took = begun.elapsed();
    Ok(report)
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let mut copy = Command::new("cp");
    copy.args(["-a", "--reflink=auto"]).arg(from).arg(to);
    if copy.status()?.success() { Ok(()) } else { Err("the folder cannot be copied".into()) }
}

/// Writes until the folder has everything that is to be damaged. Between the two snapshots the
/// node is started again: the log must be cut behind the older one all the same.
async fn fill(subject: &mut Subject, dice: &mut Dice) -> Result<Ledger, Failure> {
    let mut rpc = subject.rpc()?;
    let mut ledger = Ledger::open(&rpc, subject.marks.clone()).await?;
    let (mut written, mut again) = (0, false);
    while !damage::is_complete(&subject.data)? {
        if written >= VALUES_MAX {
            return Err(format!("no sealed segment after {written} values").into());
        }
        for _ in 0..10 {
            write(&rpc, &mut ledger, written, || dice.text(VALUE_BYTES)).await?;
            written += AT_ONCE;
        }
        if !again && damage::snapshots(&subject.data)? == 1 {
            subject.kill()?;
            first_answer(subject).await?;
            (rpc, again) = (subject.rpc()?, true);
        }
    }
    let begun = Instant::now();
    while damage::has_first_log_segment(&subject.data) {
        if begun.elapsed() > CUT_WAIT {
            return Err("the log was not cut behind the older snapshot".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..TAIL / AT_ONCE {
        write(&rpc, &mut ledger, written, || "small".to_owned()).await?;
        written += AT_ONCE;
    }
    Ok(ledger)
}

/// Some values at once, each on a path of its own.
async fn write(
    rpc: &Rpc,
    ledger: &mut Ledger,
    first: u32,
    mut text: impl FnMut() -> String,
) -> Result<(), Failure> {
    let mut calls = Vec::new();
    for number in first..first + AT_ONCE {
        let value = format!("{number} {}", text());
        let params = json!({"path": format!("app/rounds/v{}", number % 20), "value": value});
        let key = format!("flip-{number}");
        calls.push(Call { key, job: "config_set", params, seen: Seen::Nothing });
    }
    let arguments = calls.iter().map(Call::arguments).collect();
    for (call, answer) in calls.iter_mut().zip(rpc.all("job_exec", arguments).await?) {
        let end = End::of(&answer?).ok_or("a config_set did not end")?;
        call.seen = Seen::End(end);
    }
    ledger.take(&calls);
    Ok(())
}

async fn run_case(case: &Case, subject: &mut Subject, ledger: &mut Ledger) -> Result<Row, Failure> {
    (case.damage)(&subject.data)?;
    let (sound, text) = subject.check()?;
    let named = text.lines().find(|line| line.contains("WRONG"));
    let check = match (sound, named) {
        (true, _) => "sound".to_owned(),
        (false, Some(line)) => line.to_owned(),
        (false, None) => text.lines().last().unwrap_or("nothing").to_owned(),
    };
    let mut row = Row { what: case.what, check, node: String::new(), wrong: None };
    subject.forget_words()?;
    match subject.start().await? {
        refuses @ (Started::Ended(_) | Started::Damaged) => {
            let words = subject.last_words(1);
            row.node = match refuses {
                Started::Ended(status) => format!("ends ({status}): {words}"),
                _ => format!("stays up for its health only: {words}"),
            };
            if words.trim().is_empty() || words.contains("panicked") {
                row.wrong = Some("it does not say why".to_owned());
            } else if !case.may_refuse {
                row.wrong = Some("it need not refuse: nothing is lost".to_owned());
            }
        }
        Started::Answers(_) => {
            let held = Held::ask(&subject.rpc()?, ledger).await?;
            row.node = format!("runs; {}", held.words());
            row.wrong = held.wrong.first().cloned();
            if held.told > 0 && sound && row.wrong.is_none() {
                row.wrong = Some("check calls it sound".to_owned());
            }
        }
    }
    if case.check_must_name && sound && row.wrong.is_none() {
        row.wrong = Some("check does not name it".to_owned());
    }
    subject.kill_all()?;
    let place = format!("{}/", subject.data.display());
    (row.check, row.node) = (row.check.replace(&place, ""), row.node.replace(&place, ""));
    Ok(row)
}

/// What a node with damaged files still has.
#[derive(Default)]
struct Held {
    /// Jobs with the result that was acknowledged.
    right: usize,
    /// Jobs for which the node says that it cannot tell.
    told: usize,
    /// How it says it, once.
    words: String,
    /// What `history_verify` says.
    verified: String,
    /// What is wrong or silently missing.
    wrong: Vec<String>,
}

impl Held {
    async fn ask(rpc: &Rpc, ledger: &mut Ledger) -> Result<Held, Failure> {
        let mut held = Held::default();
        let ends = ledger.ends().to_vec();
        let ids = ends.iter().map(|end| json!([end.id])).collect();
        for (end, result) in ends.iter().zip(rpc.all("job_result", ids).await?) {
            match result {
                Ok(result) if End::of(&result).as_ref() == Some(end) => held.right += 1,
                Ok(result) => held.wrong.push(format!("{end:?} is now {:?}", End::of(&result))),
                Err(error) => {
                    held.told += 1;
                    held.words = error.to_string();
                    if held.words.contains("-32004") {
                        held.wrong.push(format!("{} is said not to exist", end.id));
                    }
                }
            }
        }
        ledger.compare_values(rpc).await?;
        held.wrong.append(&mut ledger.findings);
        held.pages(rpc, &ends).await;
        held.verify(rpc).await?;
        Ok(held)
    }

    /// Every job is found by a search, or the search says that it failed.
    async fn pages(&mut self, rpc: &Rpc, ends: &[End]) {
        match history_after(rpc, 0).await {
            Err(error) => self.words = format!("job_history: {error}"),
            Ok(found) => {
                let missing: BTreeSet<&str> = ends
                    .iter()
                    .map(|end| end.id.as_str())
                    .filter(|id| !found.contains_key(*id))
                    .collect();
                let page = rpc.call("job_history", json!([{"limit": 1}])).await.unwrap_or_default();
                if !missing.is_empty() && page["missing"].is_array() {
                    self.words = format!("job_history says that {} are missing", page["missing"]);
                } else if let Some(first) = missing.first() {
                    let count = missing.len();
                    self.wrong.push(format!("job_history is silent about {count}, as {first}"));
                }
            }
        }
    }

    async fn verify(&mut self, rpc: &Rpc) -> Result<(), Failure> {
        let result = rpc.call("job_exec", json!(["history_verify"])).await?;
        let output = &result["result_output"];
        self.verified = match (&output["ok"], result["result_desc"].as_str()) {
            (Value::Bool(true), _) => "chain verified".to_owned(),
            (Value::Bool(false), _) => {
                let what = output["problems"][0]["what"].as_str().unwrap_or("a gap");
                format!("history_verify names it: {what}")
            }
            (_, text) => format!("history_verify: {}", text.unwrap_or_default()),
        };
        let silent = output["ok"] == true && self.told > 0;
        if silent {
            self.wrong.push("history_verify calls it sound".to_owned());
        }
        Ok(())
    }

    fn words(&self) -> String {
        let told = match self.told {
            0 => self.words.clone(),
            count => format!("{count} told as unreadable ({})", self.words),
        };
        [format!("{} jobs right", self.right), told, self.verified.clone()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("; ")
    }
}
