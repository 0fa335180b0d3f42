//! Job files: records as YAML, for people (wire.md section 8, ruling 17).
//!
//! It owns two things. Rendering: the text of any archived job, from the history, whether or not
//! there is a file ([`of_job`]). And the projection: a thread of low priority that keeps files of
//! the newest jobs and a day's `chain.jsonl` under `<data>/jobs/`. Neither is truth: what is
//! deleted here is rendered again, what is edited here is found by the check. Nobody who waits
//! for a job waits for a file.

mod folder;
mod lines;
mod projection;
mod render;

pub use folder::Limits;
pub use projection::{Metrics, Projection, Start};
pub use render::{of_job, of_record, unarchived};
