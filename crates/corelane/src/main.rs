//! The `corelane` command: a thread-per-core telemetry ingestion server, and the tools around it.
//!
//! In reading order: `serve` (start, signals, stop), `config` and `host` (what is asked for, what is granted), `sockets`
//! and `takeover` (where listeners come from and go to), `reload`, `allocator`, `log`, `escape`, `failure`; `plan` and `doctor` tell
//! what `serve` will use and whether this host grants it; `send`, `load`, `decode`, `check`, `top`, `completions` are
//! commands of their own; `control_client` asks a running server for `load` and `top`.

mod allocator;
mod check;
mod completions;
mod config;
mod control_client;
mod decode;
mod doctor;
mod escape;
mod failure;
mod host;
mod load;
mod log;
mod plan;
mod reload;
mod send;
mod serve;
mod sockets;
mod takeover;
mod top;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

const START: &str = "Begin with `corelane serve`, then `corelane top`, or http://127.0.0.1:9600/ in a browser. Exit codes: \
    0 done, 1 failed, 2 wrong usage or configuration.";

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
    Top(top::TopArgs),
    Send(send::SendArgs),
    Load(Box<load::LoadArgs>),
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
        Command::Send(args) => send::run(args),
        Command::Load(args) => load::run(&args),
        Command::Decode(args) => decode::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Check(args) => check::run(&args),
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
