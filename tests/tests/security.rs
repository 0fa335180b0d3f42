//! Security, tested on a running node through the wire alone.
//!
//! `table` asks every method, job and HTTP door as every kind of caller in every form; `hostile`
//! sends what no client should; `canaries` plants secrets and looks for them everywhere;
//! `visibility` holds users' jobs apart; `login` is about passwords and tokens; `throughput_shape`
//! holds that finished jobs cost nothing. `forms` and `people` are what they share.

mod canaries;
mod forms;
mod hostile;
mod login;
mod people;
mod table;
mod throughput_shape;
mod visibility;
