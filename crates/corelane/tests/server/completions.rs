//! Completions and man pages know every command and flag.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use corelane_testkit::server::command;

use crate::BINARY;

fn printed(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = command(BINARY).args(arguments).output().unwrap();
    assert_eq!((status.code(), stderr.len()), (Some(0), 0), "{arguments:?}");
    String::from_utf8(stdout).unwrap()
}

/// The commands, as the help lists them, but for `help` itself.
fn commands() -> Vec<String> {
    let help = printed(&["--help"]);
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let lines = list.lines().take_while(|line| !line.is_empty());
    // A line that is indented further goes on with the one before.
    let names = lines.filter(|line| !line.starts_with("   ")).map(|line| line.split_whitespace().next().unwrap());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_shell_is_told_every_command() {
    let commands = commands();
    assert!(
        ["serve", "top", "send", "man"].iter().all(|name| commands.iter().any(|known| known == name)),
        "{commands:?}"
    );
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&["completions", shell]);
        for name in &commands {
            assert!(script.contains(name.as_str()), "{shell} does not know {name}");
        }
        assert!(script.contains("max-connections-per-ip"), "{shell} does not know the flags");
    }
}

#[test]
fn bash_completes_what_was_begun() {
    let script = printed(&["completions", "bash"]);
    // As bash calls it at `corelane de` and a tab.
    let ask = "COMP_WORDS=(corelane de); COMP_CWORD=1; _corelane corelane de corelane; echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(format!("{script}\n{ask}\n").as_bytes()).unwrap();
    let Output { status, stdout, .. } = bash.wait_with_output().unwrap();
    assert!(status.success());
    assert_eq!(String::from_utf8(stdout).unwrap().trim(), "decode");
}

#[test]
fn every_command_has_its_page() {
    let page = printed(&["man"]);
    assert!(page.contains(".TH corelane 1") && page.contains("corelane\\-serve(1)"), "{page}");
    for name in commands() {
        let page = printed(&["man", &name]);
        assert!(
            page.contains(&format!(".TH corelane\\-{name} 1")) || page.contains(&format!(".TH corelane-{name} 1")),
            "{page}"
        );
        assert!(page.contains(".SH SYNOPSIS"), "{name}");
    }
    assert!(printed(&["man", "serve"]).contains("max\\-connections\\-per\\-ip"));
    let unknown = command(BINARY).args(["man", "serv"]).output().unwrap();
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(said.contains("\"serv\" is no command") && said.contains("serve"), "{said}");
}

#[test]
fn the_help_of_every_command_fits_a_terminal() {
    for name in commands() {
        // Without a terminal, the help is 100 columns wide.
        let help = printed(&[&name, "--help"]);
        assert!(help.contains("Usage: corelane"), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}
