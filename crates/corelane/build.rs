//! Tells the program which revision it was built from.

use std::process::Command;

fn main() {
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let revision =
        git.ok().filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok());
    println!("cargo::rustc-env=CORELANE_REVISION={}", revision.as_deref().map_or("unknown", str::trim));
    println!("cargo::rerun-if-changed=../../.git/logs/HEAD");
}
