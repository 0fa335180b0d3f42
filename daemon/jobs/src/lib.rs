//! The jobs, one file each, and the small API they see.
//!
//! A job is a static [`Job`]: a declaration (the one source of help, schema, rights, locks and
//! secrets) and one async function that sees only a [`run::Run`]. Job functions touch no file,
//! clock or network; they ask the [`world::World`]. To add a job, write its file and name it in
//! [`JOBS`]; the tests of this crate check everything else.

pub mod error;
pub mod run;
pub mod world;

pub use error::JobError;
pub use run::Run;
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
    config_set,
    node_list,
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
mod tests {
    use super::*;

    #[test]
    fn jobs_stand_in_the_order_of_their_names() {
        assert!(JOBS.windows(2).all(|pair| pair[0].declaration.name < pair[1].declaration.name));
    }

    #[test]
    fn every_example_passes_its_own_declaration() {
        for job in JOBS {
            let declaration = &job.declaration;
            assert!(!declaration.examples.is_empty(), "{} has no example", declaration.name);
            assert_eq!(
                declaration.example_values().len(),
                declaration.examples.len(),
                "an example of {} is not JSON",
                declaration.name
            );
            for example in declaration.example_values() {
                let object = example.as_object().expect("an example is an object");
                let checked = tiebeam_core::admit::check_params(declaration, object);
                checked.unwrap_or_else(|error| panic!("{}: {error}", declaration.name));
            }
        }
    }
}
