//! `tiebeam verify`: is this history what the cluster wrote?

use super::exit::Exit;
use super::failure::Failure;
use super::screen::{Screen, Tone};
use super::session::Session;
use super::table::Run;
use crate::verify::{FolderReport, verify_folder};
use serde_json::json;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Verify a folder of job files offline, without daemon or key
///
/// Follows the chain of hashes through every `chain.jsonl` below DIR, re-hashes every job file
/// that is there, and counts those that were pruned. What no check of a folder can see is an end
/// that was cut off: compare the printed head with one that was noted elsewhere. Exit status 1 if
/// anything does not fit.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "verify", verbatim_doc_comment)]
pub struct Verify {
    /// The folder, e.g. /var/lib/tiebeam/jobs or a copy of it
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Run for Verify {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let report = verify_folder(&self.folder).map_err(|source| Failure::File {
            what: "read",
            path: self.folder.clone(),
            source,
        })?;
        session.print(&render(&report, &session.screen))?;
        Ok(if report.problem_count == 0 { Exit::Ok } else { Exit::JobFailed })
    }
}

/// What was found: the problems, then the sums.
pub fn render(report: &FolderReport, screen: &Screen) -> String {
    if screen.json {
        let problems = report.problems.iter().map(|problem| {
            json!({"record": problem.index, "file": problem.path, "line": problem.line,
                   "what": problem.what})
        });
        return screen.value(&json!({
            "verified": report.problem_count == 0, "records": report.lines,
            "files": report.files, "pruned": report.pruned, "from": report.from,
            "to": report.to, "head": report.head, "problems": report.problem_count,
            "first_problems": problems.collect::<Vec<_>>(),
        }));
    }
    let mut text = String::new();
    for problem in &report.problems {
        let line = problem.to_string();
        let _ = writeln!(text, "{}", screen.toned(&screen.line(&line), Tone::Bad));
    }
    let left = report.problem_count.saturating_sub(report.problems.len() as u64);
    if left > 0 {
        let _ = writeln!(text, "and {left} more problems");
    }
    let _ = writeln!(
        text,
        "records {} to {}: {} in the chain, {} job files hold, {} pruned",
        report.from, report.to, report.lines, report.files, report.pruned
    );
    let _ = writeln!(text, "head {}", screen.line(&report.head));
    let verdict = match report.problem_count {
        0 => screen.toned("verified", Tone::Good),
        1 => screen.toned("1 problem", Tone::Bad),
        n => screen.toned(&format!("{n} problems"), Tone::Bad),
    };
    let _ = writeln!(text, "{verdict}");
    text
}
