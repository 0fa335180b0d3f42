//! `tiebeam history`: which jobs there were; `tiebeam history verify DIR`.

use super::exit::Exit;
use super::facts;
use super::failure::Failure;
use super::screen::{Screen, Tone, tone_of};
use super::session::Session;
use super::table::Run;
use super::verify::Verify;
use serde_json::{Map, Value, json};
use tiebeam_proto::Stage;

/// Records asked for at once.
const PAGE: u64 = 200;

/// List jobs, the newest first
///
/// On a terminal a table; in a pipe one tab-separated line each (id, submitted, name, user,
/// outcome or stage, revision, reason); with -j the records. You see your own jobs; root, members
/// of exaadm and auditors see all.
///
///   tiebeam history --by alice --outcome failed --since 2026-11-01T00:00:00Z
///   tiebeam history verify /var/lib/tiebeam/jobs
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "history", verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub struct History {
    #[command(subcommand)]
    below: Option<Below>,
    #[command(flatten)]
    filter: Filter,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Below {
    Verify(Verify),
}

#[derive(clap::Args, Clone, Debug)]
struct Filter {
    /// Only this job, e.g. user_create
    #[arg(long, value_name = "JOB")]
    name: Option<String>,
    /// Only jobs that this user started
    #[arg(long, value_name = "USER")]
    by: Option<String>,
    /// Only jobs that this node ran as master, or a command of
    #[arg(long, value_name = "ID")]
    node: Option<u32>,
    /// Only ok, failed, declined, cancelled, timeout, conflict or indeterminate
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<String>,
    /// Only jobs in this stage
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// Only what ended at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what ended at this time or before (RFC 3339)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only the job that made this revision
    #[arg(long, value_name = "NUMBER")]
    revision: Option<u64>,
    /// Only records that hold this text
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 50)]
    limit: u64,
    /// All of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

impl Run for History {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        if let Some(Below::Verify(verify)) = self.below {
            return verify.run(session);
        }
        let wanted = if self.filter.all { usize::MAX } else { self.filter.limit as usize };
        let mut records = Vec::new();
        for page in session.client()?.history_pages(self.filter.to_wire()) {
            records.extend(page?.records);
            if records.len() >= wanted {
                break;
            }
        }
        records.truncate(wanted);
        session.print(&render(&records, &session.screen))?;
        Ok(Exit::Ok)
    }
}

impl Filter {
    fn to_wire(&self) -> Map<String, Value> {
        let limit = if self.all { PAGE } else { self.limit.clamp(1, PAGE) };
        let members = [
            ("name", json!(self.name)),
            ("user", json!(self.by)),
            ("node", json!(self.node)),
            ("outcome", json!(self.outcome)),
            ("stage", json!(self.stage)),
            ("since", json!(self.since)),
            ("until", json!(self.until)),
            ("revision", json!(self.revision)),
            ("text", json!(self.text)),
            ("limit", json!(limit)),
        ];
        let given = members.into_iter().filter(|(_, value)| !value.is_null());
        given.map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// The records.
pub fn render(records: &[Value], screen: &Screen) -> String {
    if screen.json {
        return screen.value(&json!(records));
    }
    let rows: Vec<Vec<_>> = records.iter().map(|record| row(record, screen)).collect();
    screen.rows(&["job", "submitted", "name", "user", "outcome", "rev", "reason"], &rows)
}

/// A summary, or a whole record. Audit facts and addenda have no outcome; they say what they are.
fn row(record: &Value, screen: &Screen) -> Vec<(String, Tone)> {
    let first = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| record[*key].as_str());
        found.unwrap_or_default().to_owned()
    };
    let stage = || match record["stage"].as_str() {
        Some(stage) => stage.to_owned(),
        None => facts::stage(record).map_or("", Stage::name).to_owned(),
    };
    let outcome = record["outcome"].as_str().map_or_else(stage, str::to_owned);
    let tone = tone_of(&outcome);
    let time = match record["stages"]["submitted"].as_str() {
        Some(time) => time.to_owned(),
        None => first(&["submitted", "time"]),
    };
    let revision = record["revision"].as_u64().or(record["result"]["result_revision"].as_u64());
    vec![
        (first(&["job"]), Tone::Plain),
        (screen.time(&time), Tone::Plain),
        (first(&["name", "audit"]), Tone::Plain),
        (first(&["user"]), Tone::Plain),
        (outcome, tone),
        (revision.map_or_else(String::new, |number| number.to_string()), Tone::Plain),
        (first(&["reason", "object", "note"]), Tone::Plain),
    ]
}
