//! `tiebeam help JOB`: the job's own help, from its declaration.

use super::exit::Exit;
use super::failure::Failure;
use super::screen::Screen;
use super::session::Session;
use super::table::{self, Run};
use serde_json::{Value, json};

/// Explain a job: parameters, who may run it, examples; or a command of this program
///
/// The text comes from the cluster, so it is right for the version that runs there. With -j: the
/// declaration itself, with the JSON Schema of the parameters.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "help", verbatim_doc_comment)]
pub struct Help {
    /// A job or a command; without it, what this program can do
    #[arg(value_name = "JOB")]
    job: Option<String>,
}

impl Run for Help {
    fn run(self, session: &mut Session) -> Result<Exit, Failure> {
        match &self.job {
            None => session.print(&table::root().render_long_help().to_string())?,
            Some(name) => {
                let mut root = table::root();
                root.build();
                match root.find_subcommand_mut(name) {
                    Some(command) => {
                        session.print(&command.render_long_help().to_string())?;
                    }
                    None => return print_help(name, session),
                }
            }
        }
        Ok(Exit::Ok)
    }
}

/// Prints a job's help.
///
/// # Errors
/// There is no such job, or the call failed.
pub fn print_help(job: &str, session: &mut Session) -> Result<Exit, Failure> {
    let client = session.client()?;
    if session.screen.json {
        session.print_value(&json!(client.job_desc(job)?.details))?;
    } else {
        // job_help of an unknown job may be a text like any other; job_desc says so typed.
        client.job_desc(job)?;
        session.print(&render(&client.job_help(job)?, &session.screen))?;
    }
    Ok(Exit::Ok)
}

/// Prints the names of all jobs, as `confd_client -c list` does.
///
/// # Errors
/// The call failed.
pub fn print_list(session: &mut Session) -> Result<Exit, Failure> {
    let names = session.client()?.job_list()?;
    session.print_value(&Value::from(names))?;
    Ok(Exit::Ok)
}

/// The help text; on a terminal with its headings in bold.
pub fn render(text: &str, screen: &Screen) -> String {
    if screen.json || !screen.colour {
        return screen.value(&json!(text));
    }
    let mut rendered = String::new();
    for line in screen.text(text).lines() {
        match line.split_once(':') {
            Some((heading, rest))
                if line.starts_with(|c: char| c.is_ascii_uppercase()) && heading.len() < 30 =>
            {
                rendered.push_str(&format!("{}{rest}\n", screen.bold(&format!("{heading}:"))));
            }
            _ => rendered.push_str(&format!("{line}\n")),
        }
    }
    rendered
}
