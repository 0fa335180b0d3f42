//! The jobs, one file each, and the small API they see.
//!
//! A job is a static [`Job`]: a declaration (the one source of help, schema, rights, locks and
//! secrets) and one async function that sees only a [`run::Run`]. Job functions touch no file,
//! clock or network; they ask the [`world::World`]. To add a job, write its file and name it in
//! [`JOBS`]; the tests of this crate check everything else.
//!
//! Beside the jobs: `app_section` (writing below `app`), `restore` (what a rollback may bring
//! back), `nodes` and `batch` (doing something on many nodes), `systemctl`, `users`.

mod app_section;
mod batch;
pub mod error;
mod nodes;
mod restore;
pub mod run;
mod systemctl;
mod user_init;
mod users;
pub mod world;

pub use error::JobError;
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

macro_rules! jobs {
    ($($module:ident),* $(,)?) => {
        $(mod $module;)*

        /// Every job, in the order of names.
        pub static JOBS: &[&Job] = &[$(&$module::JOB),*];
    };
}

jobs! {
    cert_info,
    cert_update,
    cluster_info,
    command_run,
    config_blame,
    config_delete,
    config_diff,
    config_get,
    config_log,
    config_merge,
    config_rollback,
    config_schema_set,
    config_set,
    config_wait,
    db_list,
    general_settings,
    group_create,
    group_delete,
    group_info,
    group_list,
    history_verify,
    lock_list,
    lock_release,
    log_collect,
    node_info,
    node_list,
    node_state,
    right_check,
    service_list,
    service_restart,
    service_start,
    service_state,
    service_stop,
    settings_list,
    user_create,
    user_delete,
    user_info,
    user_list,
    user_modify,
    user_passwd,
}

/// The job of this name.
pub fn find(name: &str) -> Option<&'static Job> {
    JOBS.binary_search_by(|job| job.declaration.name.cmp(name)).ok().map(|at| JOBS[at])
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
