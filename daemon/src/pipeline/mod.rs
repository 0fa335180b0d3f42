//! The life of a job on the master: admission and proposal (`submit`), scheduling, running and the
//! committed stamp (`conductor`), the outside that job functions ask for (`world`), parts of a job
//! that are jobs of their own (`part`), what commands print while they run (`live`), and on every
//! node the commands it is to run (`agent`).

pub mod agent;
pub mod conductor;
pub mod execute;
pub mod flight;
pub mod live;
mod part;
pub mod result;
pub mod submit;
pub mod volatile;
pub mod waiting;
pub mod world;
