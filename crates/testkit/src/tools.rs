//! Programs of others that some tests need. `scripts/test.sh` brings them; without one a test says so and passes.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// A Python that has `module`: the one that `CORELANE_TEST_PYTHON` names, or the one that is there.
pub fn python(module: &str) -> Option<String> {
    if let Ok(named) = env::var("CORELANE_TEST_PYTHON") {
        return Some(named);
    }
    let found = Command::new("python3").args(["-c", &format!("import {module}")]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some("python3".to_owned());
    }
    eprintln!("SKIPPED: python3 has no {module}, and CORELANE_TEST_PYTHON names no Python that has it");
    None
}

/// The folder that has `prometheus` and `promtool`: the one that `CORELANE_TEST_PROMETHEUS_DIR` names, or one of `PATH`.
pub fn prometheus() -> Option<PathBuf> {
    if let Some(named) = env::var_os("CORELANE_TEST_PROMETHEUS_DIR") {
        return Some(named.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found =
        env::split_paths(&path).find(|folder| ["prometheus", "promtool"].iter().all(|tool| folder.join(tool).exists()));
    if found.is_none() {
        eprintln!("SKIPPED: there is no prometheus, and CORELANE_TEST_PROMETHEUS_DIR names no folder that has it");
    }
    found
}
