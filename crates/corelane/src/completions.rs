//! `corelane completions` and `corelane man`: what a shell and `man` want to know of the command line, made from it.

use std::io::{self, Write};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use corelane_command::Failure;

/// Print the completions of a shell.
#[derive(clap::Args, Debug)]
#[command(after_help = "As in: corelane completions bash >/etc/bash_completion.d/corelane")]
pub(crate) struct CompletionsArgs {
    /// Whose.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Print the man page, of the command or of one of its commands.
#[derive(clap::Args, Debug)]
#[command(after_help = "As in: corelane man serve | man -l -")]
pub(crate) struct ManArgs {
    /// Command whose page it is [default: the one of all].
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Prints the completions for `command`.
pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "corelane", &mut text);
    print(&text)
}

/// Prints the page of `command`, or of one of its commands.
pub(crate) fn man(args: &ManArgs, mut command: Command) -> Result<(), Failure> {
    // Names, usages and global flags of the commands below.
    command.build();
    let page = match &args.command {
        None => command,
        Some(name) => {
            let found = command.get_subcommands().find(|known| known.get_name() == name).cloned();
            let found = found.ok_or_else(|| {
                let names: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
                Failure::usage(format!("{name:?} is no command; the commands are {}", names.join(", ")))
            })?;
            // Or the page would be called `serve`.
            let title = format!("corelane-{name}");
            found.display_name(title)
        }
    };
    let mut text = Vec::new();
    Man::new(page)
        .source(concat!("corelane ", env!("CARGO_PKG_VERSION")))
        .render(&mut text)
        .map_err(|error| Failure::failed(format!("cannot make the page: {error}")))?;
    print(&text)
}

fn print(text: &[u8]) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text) {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
