//! Real processes: a node of its own for every test, seen through the wire by the clients that
//! people have. Each module holds a part of the contract; nothing here looks inside the daemon.

mod smoke;
