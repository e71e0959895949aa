//! The server as a process, and the commands around it, one module a subject.
//!
//! One program, because each would be linked with all of the server's crates. Its tests run side by side, so none may
//! change what belongs to the whole process: environment, working directory, umask. What a test sets of a thread (user,
//! namespace, core) it sets on a thread of its own. Tests that measure, or take all that the machine has, are in
//! `tests/alone`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod access;
mod accounting;
mod bad_peers;
mod commits;
mod completions;
mod container;
mod control_port;
mod cuts;
mod dashboard;
mod doctor;
mod exposition;
mod kubernetes;
mod load;
mod log;
mod metrics;
mod monitoring;
mod odd_limits;
mod plan;
mod pool;
mod probes;
mod prometheus;
mod python_client;
mod real_data;
mod sigterm;
mod systemd;
mod takeover;
mod takeover_users;
mod timeouts;
mod tls;
mod top;
mod tuning;
mod usage;

const BINARY: &str = env!("CARGO_BIN_EXE_corelane");
