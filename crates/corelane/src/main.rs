//! The `corelane` command: a thread-per-core telemetry ingestion server, and the tools around it.
//!
//! In reading order: `serve` (start, signals, stop), `config`, `host` and `descriptors` (what is asked for, what is
//! granted), `sockets` and `takeover` (where listeners come from and go to), `reload`, `allocator`, `log`; `plan` and
//! `doctor` tell what `serve` will use and whether this host grants it; `check` and `completions` are commands of their
//! own. Those that are not the server's (`send`, `load`, `decode`, `top`) are the crate `corelane-tools`, behind the feature
//! `tools`.
//!
//! Imports point one way, `config` knows no other module: `serve`, `doctor`, `plan`, then `descriptors` and `sockets`, then
//! `host`, `takeover`, `log` and `reload`, then `config`.

mod allocator;
mod check;
mod completions;
mod config;
mod descriptors;
mod doctor;
mod host;
mod log;
mod plan;
mod reload;
mod serve;
mod sockets;
mod takeover;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
#[cfg(feature = "tools")]
use corelane_tools::{decode, load, send, top};

/// What the help ends with.
const START: &str = if cfg!(feature = "tools") {
    "Begin with `corelane serve`, then `corelane top`, or http://127.0.0.1:9600/ in a browser. Exit codes: \
    0 done, 1 failed, 2 wrong usage or configuration."
} else {
    "Begin with `corelane serve`, then http://127.0.0.1:9600/ in a browser. Exit codes: 0 done, 1 failed, 2 wrong usage \
    or configuration."
};

/// Thread-per-core telemetry ingestion: length-prefixed CBOR over TCP in, counted events out.
#[derive(Parser)]
#[command(version, propagate_version = true, after_help = START)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    Serve(config::SettingArgs),
    #[cfg(feature = "tools")]
    Top(top::TopArgs),
    #[cfg(feature = "tools")]
    Send(send::SendArgs),
    #[cfg(feature = "tools")]
    Load(Box<load::LoadArgs>),
    #[cfg(feature = "tools")]
    Decode(decode::DecodeArgs),
    Plan(plan::PlanArgs),
    Doctor(doctor::DoctorArgs),
    Check(check::CheckArgs),
    Completions(completions::CompletionsArgs),
    Man(completions::ManArgs),
}

fn main() -> ExitCode {
    // At every end, that of a panic included.
    let _flush = scopeguard::guard((), |()| log::flush(log::FLUSH_TIMEOUT));
    let done = match Arguments::parse().command {
        Command::Serve(flags) => serve::run(flags),
        #[cfg(feature = "tools")]
        Command::Send(args) => send::run(args),
        #[cfg(feature = "tools")]
        Command::Load(args) => load::run(&args),
        #[cfg(feature = "tools")]
        Command::Decode(args) => decode::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Check(args) => check::run(&args),
        #[cfg(feature = "tools")]
        Command::Top(args) => top::run(args),
        Command::Completions(args) => completions::completions(&args, Arguments::command()),
        Command::Man(args) => completions::man(&args, Arguments::command()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log::print_error(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}
