//! `corelane check`: validates a configuration file and starts nothing.

use std::path::PathBuf;

use corelane_command::Failure;

use crate::config::Config;

/// Validate a configuration file and exit.
#[derive(clap::Args, Debug)]
pub(crate) struct CheckArgs {
    /// TOML file, as for `serve --config`.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Reads the file as `serve` would; flags and environment play no part.
pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    Config::from_file(&args.file)?;
    println!("{}: ok", args.file.display());
    Ok(())
}
