//! `tiebeam jobs`: what the cluster can do.

use super::exit::Exit;
use super::failure::Failure;
use super::screen::{Screen, Tone};
use super::session::Session;
use super::table::Run;
use crate::JobDescription;
use serde_json::{Value, json};

/// List the jobs of the cluster
///
/// With name, group, kind (read, modify, act) and what it does. In a pipe: tab-separated.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "jobs", verbatim_doc_comment)]
pub struct Jobs {
    /// Only this group, e.g. users
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Only jobs whose name or description holds this text
    #[arg(value_name = "TEXT")]
    text: Option<String>,
}

impl Run for Jobs {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let client = session.client()?;
        let mut jobs = client.job_descs(&client.job_list()?)?;
        jobs.retain(|job| self.wants(job));
        session.print(&render(&jobs, &session.screen))?;
        Ok(Exit::Ok)
    }
}

impl Jobs {
    fn wants(&self, job: &JobDescription) -> bool {
        let group = self.group.as_ref().is_none_or(|group| *group == job.group);
        let text = self.text.as_ref().is_none_or(|text| {
            let text = text.to_lowercase();
            job.name.contains(&text) || job.summary.to_lowercase().contains(&text)
        });
        group && text
    }
}

/// The jobs by group and name.
pub fn render(jobs: &[JobDescription], screen: &Screen) -> String {
    let mut jobs: Vec<_> = jobs.iter().collect();
    jobs.sort_by_key(|job| (job.group.as_str(), job.name.as_str()));
    if screen.json {
        let list = jobs.iter().map(|job| {
            json!({"name": job.name, "group": job.group, "kind": job.kind,
                   "description": job.summary})
        });
        return screen.value(&Value::from_iter(list));
    }
    let rows: Vec<Vec<_>> = jobs
        .iter()
        .map(|job| {
            let tone = match job.kind.as_str() {
                "read" => Tone::Good,
                "act" => Tone::Doubtful,
                _ => Tone::Plain,
            };
            vec![
                (job.name.clone(), Tone::Plain),
                (job.group.clone(), Tone::Plain),
                (job.kind.clone(), tone),
                (job.summary.clone(), Tone::Plain),
            ]
        })
        .collect();
    screen.rows(&["job", "group", "kind", "what it does"], &rows)
}
