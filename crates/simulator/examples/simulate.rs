//! Runs seeds: one, or as many as there is time for.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use corelane_simulator::{Report, run};

/// Simulate whole shards, seed by seed, until time is up or one fails.
#[derive(Parser)]
struct Arguments {
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// The first seed of a series.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run seeds for so many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (first, last) = arguments.seed.map_or((arguments.from, u64::MAX), |seed| (seed, seed));
    let (start, mut seeds, mut sum) = (Instant::now(), 0, Report::default());
    for seed in first..=last {
        match run(seed) {
            Ok(report) => sum = sum + report,
            Err(failure) => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
        }
        seeds += 1;
        if start.elapsed() >= Duration::from_secs(arguments.seconds) {
            break;
        }
    }
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    println!(
        "{seeds} seeds from {first}, {} steps, {} connections ({:.0} a minute), {} complete, {} frames, {:.1} simulated hours a minute",
        sum.steps,
        sum.connections,
        sum.connections as f64 / minutes,
        sum.complete,
        sum.frames,
        sum.time.as_secs_f64() / 3600.0 / minutes
    );
    ExitCode::SUCCESS
}
