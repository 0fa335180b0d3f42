//! `tiebeam exec`: run a job, wait, print its output. Also what `confd_client` does.

use super::exit::Exit;
use super::failure::Failure;
use super::invocation::Invocation;
use super::session::Session;
use super::table::Run;
use super::{help, outcome, progress};
use std::time::Duration;
use tiebeam_proto::outcome::UNFINISHED;

/// Time before a person is shown that it still runs.
const QUIET: Duration = Duration::from_secs(1);

/// Run a job, wait for its last stage, print its output
///
/// Parameters are inline YAML, and are typed by the job's declaration:
///
///   tiebeam exec user_create username: alice userid: 1001 group: exausers
///   tiebeam exec node_label nid: 11 set: '{rack: 7}'
///   tiebeam exec cert_update cert: '"{< server.pem}"' key: '"{< server.key}"'
///   tiebeam exec -c user_create -a '{username: alice, userid: 1001, group: exausers}'
///   tiebeam exec -c user_create -A '{"username": "alice", "userid": 1001}'
///
/// `{< FILE}` within a value is the file's content, `{< -}` standard input. A value that holds
/// `: ` must be one word of the shell. `exec help JOB` explains a job, `exec list` lists them.
///
/// Standard output gets the job's output only: a bare text, or YAML; JSON with -j. Warnings and
/// errors go to standard error.
///
/// Exit status: 0 ok, 1 job failed, 2 usage or invalid parameter, 3 forbidden or no login,
/// 4 unreachable or no master, 5 unfinished, 6 indeterminate.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "exec", verbatim_doc_comment)]
pub struct Exec {
    #[command(flatten)]
    invocation: Invocation,
}

impl Run for Exec {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        let (name, words) = self.invocation.split()?;
        // Two words that confd_client takes in a job's place.
        match name {
            "list" => return help::print_list(session),
            "help" => {
                let about = self.invocation.yaml.as_deref().or(words.first().map(String::as_str));
                return match about.map(str::trim).filter(|job| !job.is_empty()) {
                    Some(job) => help::print_help(job, session),
                    None => help::print_list(session),
                };
            }
            _ => {}
        }
        let (name, params) = self.invocation.resolve(session)?;
        let options = self.invocation.options();
        let client = session.client()?;
        let mut result = if progress::wanted() {
            client.exec_within(&name, params, &options, QUIET)?
        } else {
            client.exec(&name, params, &options)?
        };
        if result.result_code == UNFINISHED {
            let id = result.result_jobid;
            progress::watch(&client, &id)?;
            result = client.result(&id)?;
        }
        outcome::print(&result, session)
    }
}
