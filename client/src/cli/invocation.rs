//! Which job, with which parameters and options: what `exec` and `start` take.

use super::failure::Failure;
use super::files::{self, RealContents};
use super::words::{self, Parameters};
use super::{coerce, session::Session};
use crate::StartOptions;
use clap::Args;
use serde_json::Value;
use std::time::Duration;

/// A job and how it is to run.
#[derive(Args, Clone, Debug, Default)]
pub struct Invocation {
    /// The job, unless it is the first word
    #[arg(short = 'c', long = "job", value_name = "JOB")]
    pub job: Option<String>,
    /// Parameters as one YAML mapping
    #[arg(short = 'a', long = "args", value_name = "YAML", allow_hyphen_values = true)]
    pub yaml: Option<String>,
    /// Parameters as one JSON object
    #[arg(short = 'A', long = "json-args", value_name = "JSON", conflicts_with = "yaml")]
    pub json_args: Option<String>,
    /// Why this is done; kept in the job's record
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Stop the job if it has not finished in this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub deadline: Option<u64>,
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Keep no record (reading jobs only)
    #[arg(long)]
    pub volatile: bool,
    /// Idempotency key: the same key never runs twice. One is made unless you give one
    #[arg(long, value_name = "KEY")]
    pub request_id: Option<String>,
    /// Do not begin before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub not_before: Option<String>,
    /// Undo the change unless `config_confirm` comes in this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub confirm_within: Option<u64>,
    /// Do exactly the plan of this token, from a dry run
    #[arg(long, value_name = "TOKEN")]
    pub plan: Option<String>,
    /// The job and its parameters: `JOB name: value name: value …`
    #[arg(value_name = "JOB [NAME: VALUE …]")]
    pub words: Vec<String>,
}

impl Invocation {
    /// The job's name and the words behind it.
    ///
    /// # Errors
    /// There is no name.
    pub fn split(&self) -> Result<(&str, &[String]), Failure> {
        match (&self.job, self.words.split_first()) {
            (Some(job), _) => Ok((job, &self.words)),
            (None, Some((job, rest))) => Ok((job, rest)),
            (None, None) => Err(Failure::usage_hint(
                "no job is named",
                "`tiebeam jobs` lists them, `tiebeam help JOB` explains one",
            )),
        }
    }

    /// The options of the start.
    pub fn options(&self) -> StartOptions {
        StartOptions {
            reason: self.reason.clone(),
            deadline: self.deadline.map(Duration::from_secs),
            dry_run: self.dry_run,
            volatile: self.volatile,
            request_id: self.request_id.clone(),
            not_before: self.not_before.clone(),
            confirm_within: self.confirm_within.map(Duration::from_secs),
            plan: self.plan.clone(),
        }
    }

    /// The parameters as typed, from all three forms.
    ///
    /// # Errors
    /// They cannot be read, or one is given twice.
    pub fn parameters(&self) -> Result<Parameters, Failure> {
        let (_, inline) = self.split()?;
        let mut parameters = words::parse_words(inline)?;
        if let Some(yaml) = &self.yaml {
            words::merge(&mut parameters, words::parse_yaml(yaml)?)?;
        }
        if let Some(json) = &self.json_args {
            words::merge(&mut parameters, words::parse_json(json)?)?;
        }
        Ok(parameters)
    }

    /// The job's name and the `params` to send: files in place, types as the job declares them.
    ///
    /// # Errors
    /// As [`parameters`](Self::parameters); a file cannot be read; the job does not exist.
    pub fn resolve(&self, session: &mut Session) -> Result<(String, Value), Failure> {
        let (name, _) = self.split()?;
        let mut parameters = self.parameters()?;
        files::substitute(&mut parameters, &mut RealContents::default())?;
        if parameters.is_empty() {
            return Ok((name.to_owned(), Value::Null));
        }
        let job = session.client()?.job_desc(name)?;
        Ok((name.to_owned(), coerce::params(parameters, &job)))
    }
}
