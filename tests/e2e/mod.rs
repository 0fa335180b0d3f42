//! Real processes: a node of its own for every test, seen through the wire by the clients that
//! people have. Each module holds a part of the contract; nothing here looks inside the daemon.

mod certificates;
mod change_story;
mod clients;
mod cluster;
mod command_line;
mod completion;
mod damaged;
mod draining;
mod endpoints;
mod events;
mod faults;
mod joining;
mod kwargs;
mod last_admin;
mod offline;
mod reads;
mod recorded;
mod reserve;
mod restart;
mod retention;
mod settings;
mod smoke;
mod starting;
mod terminal;
mod transcripts;
mod unix_socket;
