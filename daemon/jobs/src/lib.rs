//! The jobs, one file each, and the small API they see.
//!
//! A job is a static [`Job`]: a declaration (the one source of help, schema, rights, locks and
//! secrets) and one async function that sees only a [`run::Run`]. Job functions touch no file,
//! clock or network; they ask the [`world::World`]. To add a job, write its file and name it in
//! [`JOBS`]; the tests of this crate check everything else.
//!
//! Beside the jobs: `app_section` (writing below `app`), `restore` and `rollback` (what may
//! come back, and how), `nodes` and `batch` (doing something on many nodes), `systemctl`,
//! `journal`, `seats` (who may leave the raft group), `users`, `reserved` (names of later jobs).

mod app_section;
mod batch;
mod cert_info;
mod cert_update;
mod clock_accept;
mod cluster_info;
mod command_run;
mod config_blame;
mod config_delete;
mod config_diff;
mod config_get;
mod config_log;
mod config_merge;
mod config_rollback;
mod config_schema_set;
mod config_set;
mod config_wait;
mod db_list;
mod debug_collect;
pub mod error;
mod general_settings;
mod group_create;
mod group_delete;
mod group_info;
mod group_list;
mod history_verify;
mod job_retention;
mod journal;
#[cfg(feature = "next-level")]
mod level_probe;
mod lock_list;
mod lock_release;
mod log_collect;
mod master_change;
mod node_add;
mod node_demote;
mod node_info;
mod node_label;
mod node_list;
mod node_modify;
mod node_promote;
mod node_remove;
mod node_resume;
mod node_state;
mod node_suspend;
mod node_token;
mod node_wait_offline;
mod node_wait_ready;
mod nodes;
pub mod reserved;
mod restore;
mod right_check;
mod rollback;
pub mod run;
mod seats;
mod service_list;
mod service_restart;
mod service_start;
mod service_state;
mod service_stop;
mod settings_list;
mod systemctl;
mod user_create;
mod user_delete;
mod user_info;
mod user_init;
mod user_list;
mod user_modify;
mod user_passwd;
mod users;
pub mod world;

pub use error::JobError;
pub use node_add::NODE_JOIN;
pub use run::Run;
pub use user_init::USER_INIT;
pub use world::{CommandWish, World};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tiebeam_core::declaration::{Declaration, Params};
use tiebeam_core::proposal::Needs;

/// A job function: an output (null for none), or why not.
pub type JobFn = fn(Run) -> BoxFuture<'static, Result<Value, JobError>>;

/// A job.
#[derive(Clone, Copy)]
pub struct Job {
    /// What it says of itself.
    pub declaration: Declaration,
    /// What it does.
    pub run: JobFn,
}

/// Every job, in the order of names.
pub static JOBS: &[&Job] = &[
    &cert_info::JOB,
    &cert_update::JOB,
    &clock_accept::JOB,
    &cluster_info::JOB,
    &command_run::JOB,
    &config_blame::JOB,
    &config_delete::JOB,
    &config_diff::JOB,
    &config_get::JOB,
    &config_log::JOB,
    &config_merge::JOB,
    &config_rollback::JOB,
    &config_schema_set::JOB,
    &config_set::JOB,
    &config_wait::JOB,
    &db_list::JOB,
    &debug_collect::JOB,
    &general_settings::JOB,
    &group_create::JOB,
    &group_delete::JOB,
    &group_info::JOB,
    &group_list::JOB,
    &history_verify::JOB,
    &job_retention::JOB,
    #[cfg(feature = "next-level")]
    &level_probe::JOB,
    &lock_list::JOB,
    &lock_release::JOB,
    &log_collect::JOB,
    &master_change::JOB,
    &node_add::JOB,
    &node_demote::JOB,
    &node_info::JOB,
    &node_label::JOB,
    &node_list::JOB,
    &node_modify::JOB,
    &node_promote::JOB,
    &node_remove::JOB,
    &node_resume::JOB,
    &node_state::JOB,
    &node_suspend::JOB,
    &node_token::JOB,
    &node_wait_offline::JOB,
    &node_wait_ready::JOB,
    &right_check::JOB,
    &service_list::JOB,
    &service_restart::JOB,
    &service_start::JOB,
    &service_state::JOB,
    &service_stop::JOB,
    &settings_list::JOB,
    &user_create::JOB,
    &user_delete::JOB,
    &user_info::JOB,
    &user_list::JOB,
    &user_modify::JOB,
    &user_passwd::JOB,
];

/// The job of this name.
pub fn find(name: &str) -> Option<&'static Job> {
    JOBS.binary_search_by(|job| job.declaration.name.cmp(name)).ok().map(|at| JOBS[at])
}

/// The jobs of a cluster at this feature level, in the order of names (ruling 12).
pub fn listed(level: u32) -> impl Iterator<Item = &'static Job> {
    JOBS.iter().copied().filter(move |job| job.declaration.since_level <= level)
}

/// The job of this name, if a cluster at this feature level has it.
pub fn find_at(name: &str, level: u32) -> Option<&'static Job> {
    find(name).filter(|job| job.declaration.since_level <= level)
}

/// What a caller needs for a job with these parameters; travels in the entry (ruling 12).
pub fn needs(declaration: &Declaration, params: &Params) -> Needs {
    let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
    let about = declaration.self_param.and_then(|name| params.get(name)?.as_str());
    Needs {
        users: owned(declaration.users),
        groups: owned(declaration.groups),
        self_user: about.map(str::to_owned),
        everyone: declaration.everyone,
    }
}

#[cfg(test)]
mod tests;
