//! `corelane doctor`: checks this host for a configuration, and says what to change. Changes nothing itself.
//!
//! In reading order: here what a check is and how it is told; `grants` and `process` are what a server cannot start
//! without, which `serve` asks too; `advice` is what it only runs better with; `files` and `cgroup` read what the kernel tells.

mod advice;
mod cgroup;
mod files;
mod grants;
mod process;

use corelane_command::{Failure, descriptors_allowed};
use serde::Serialize;

use self::files::Files;
use crate::config::{Config, SettingArgs};
use crate::descriptors::fit_connections;
use crate::host::Setup;
use crate::plan::{Plan, to_json};

/// Check this host: kernel, io_uring, limits, cores; say what to change.
#[derive(clap::Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingArgs,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    /// What would make it better.
    mend: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// The server runs, but not as well as it could, or this could not be looked at.
    Warn,
    /// `serve` refuses to start.
    Fail,
}

#[derive(Serialize)]
struct Report {
    verdict: Verdict,
    checks: Vec<Check>,
}

/// Checks everything and prints a line for each.
pub(crate) fn run(args: DoctorArgs) -> Result<(), Failure> {
    let config = Config::resolve(&args.settings)?;
    let mut setup = Setup::of(&config)?;
    let placement = &setup.placement;
    let fit = fit_connections(&config.max_connections, placement.data.len(), descriptors_allowed());
    if let Ok((connections_max, _)) = &fit {
        setup.limits.connections_max = *connections_max;
    }
    let files = Files::of_this_host();
    let plan = Plan::of(&setup);
    let mut checks = grants::all(&files, &plan);
    checks.extend(process::all(&plan));
    checks.push(grants::descriptors(&fit));
    checks.extend(advice::all(&files, &setup.placement, config.backlog));
    let verdict = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
    let fails = checks.iter().filter(|check| check.verdict == Verdict::Fail).count();
    let report = Report { verdict, checks };
    print!("{}", if args.json { to_json(&report) } else { report.to_text() });
    match fails {
        0 => Ok(()),
        fails => Err(Failure::failed(format!("{fails} check(s) failed; serve would not start here"))),
    }
}

/// Refuses to start where the host does not grant what the plan needs.
pub(crate) fn require_grants(plan: &Plan) -> Result<(), Failure> {
    // A ring needs address space, too, so that comes first.
    let refused = process::all(plan).into_iter().find(Check::is_fail);
    match refused.or_else(|| grants::all(&Files::of_this_host(), plan).into_iter().find(Check::is_fail)) {
        None => Ok(()),
        Some(Check { found, mend: Some(mend), .. }) => Err(Failure::failed(format!("{found}; {mend}"))),
        Some(Check { found, mend: None, .. }) => Err(Failure::failed(found)),
    }
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), mend: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), mend: Some(mend.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(name, found, mend) }
    }

    fn is_fail(&self) -> bool {
        self.verdict == Verdict::Fail
    }

    /// The kernel, or the container, does not show what would have to be looked at.
    fn unseen(name: &'static str, path: &str) -> Self {
        let found = format!("not checked: {path} is not there");
        Self { name, verdict: Verdict::Warn, found, mend: None }
    }
}

impl Report {
    fn to_text(&self) -> String {
        let line = |check: &Check| {
            let verdict = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "fail",
            };
            let mend = check.mend.as_ref().map(|mend| format!("\n     {:16} mend: {mend}", "")).unwrap_or_default();
            format!("{verdict:4} {:16} {}{mend}\n", check.name, check.found)
        };
        self.checks.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_verdict_name_finding_and_remedy() {
        let checks = vec![Check::ok("kernel", "6.1"), Check::warn("cores", "busy", "isolcpus=1")];
        let report = Report { verdict: Verdict::Warn, checks };
        assert_eq!(
            report.to_text(),
            "ok   kernel           6.1\nwarn cores            busy\n                      mend: isolcpus=1\n"
        );
    }

    #[test]
    fn verdicts_are_ordered_by_their_weight() {
        assert!(Verdict::Ok < Verdict::Warn && Verdict::Warn < Verdict::Fail);
    }
}
