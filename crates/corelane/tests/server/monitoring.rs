//! The files of `deploy/prometheus` and `deploy/grafana` are right by themselves, and complete.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use corelane_metrics::FAMILIES;
use corelane_testkit::tools;
use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files that hold cases for `promtool test rules`.
fn cases() -> Vec<PathBuf> {
    let folder = Path::new(ROOT).join("deploy/prometheus/tests");
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// What follows `- key: ` in a file of rules or cases.
fn entries<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let key = format!("- {key}: ");
    text.lines().filter_map(|line| line.trim_start().strip_prefix(&key)).collect()
}

#[test]
fn promtool_finds_nothing_wrong_and_every_case_holds() {
    let Some(tools) = tools::prometheus() else { return };
    let folder = Path::new(ROOT).join("deploy/prometheus");
    let promtool = |arguments: &[&str], files: &[PathBuf]| {
        let mut command = Command::new(tools.join("promtool"));
        let output = command.args(arguments).args(files).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&told));
    };
    promtool(&["check", "config"], &[folder.join("prometheus.yml")]);
    let rules = ["rules.yml", "alerts.yml"].map(|file| folder.join(file));
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &rules);
    promtool(&["test", "rules"], &cases());
}

#[test]
fn every_alert_has_a_case_either_way_and_a_part_in_the_documentation() {
    let (alerts, operations) = (read("deploy/prometheus/alerts.yml"), read("docs/operations.md"));
    let cases: String = cases().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let names = entries(&alerts, "alert");
    assert!(!names.is_empty());
    for name in &names {
        let begin = format!("- alertname: {name}\n");
        let silent = |case: &str| case.lines().nth(1).is_some_and(|line| line.trim() == "exp_alerts: []");
        let (silent, firing): (Vec<_>, Vec<_>) = cases.split(&begin).skip(1).partition(|case| silent(case));
        assert!(!silent.is_empty() && !firing.is_empty(), "{name}: {} and {}", silent.len(), firing.len());
        assert!(operations.contains(&format!("\n### {name}\n\n*")), "{name} is not in docs/operations.md");
        let runbook = format!("runbook: docs/operations.md#{}\n", name.to_lowercase());
        assert_eq!(alerts.matches(&runbook).count(), 1, "{name}");
    }
    assert_eq!(entries(&cases, "alertname").iter().collect::<BTreeSet<_>>(), names.iter().collect());
    let parts = operations.lines().filter_map(|line| line.strip_prefix("### Corelane")).count();
    assert_eq!(parts, names.len(), "alarms in docs/operations.md");
}

#[test]
fn every_recording_rule_has_a_case() {
    let rules = read("deploy/prometheus/rules.yml");
    let cases = read("deploy/prometheus/tests/rules.yml");
    let names: BTreeSet<_> = entries(&rules, "record").into_iter().collect();
    assert_eq!(entries(&cases, "expr").into_iter().collect::<BTreeSet<_>>(), names);
}

#[test]
fn the_dashboard_is_laid_out_well_and_shows_every_metric() {
    let text = read("deploy/grafana/corelane.json");
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    let mut queries = String::new();
    for panel in panels {
        let title = panel["title"].as_str().filter(|title| !title.is_empty()).unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: an id twice");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(w > 0 && x + w <= 24, "{title}: beyond the edge");
        for cell in (y..y + h).flat_map(|y| (x..x + w).map(move |x| (x, y))) {
            assert!(taken.insert(cell), "{title}: over another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{title}: no description");
        let unit = [&panel["fieldConfig"]["defaults"]["unit"], &panel["options"]["yAxis"]["unit"]];
        assert!(unit.iter().any(|unit| unit.is_string()), "{title}: no unit");
        for target in panel["targets"].as_array().unwrap() {
            queries += target["expr"].as_str().unwrap();
            queries.push('\n');
        }
    }
    for family in FAMILIES {
        assert!(queries.contains(family.name), "{} is nowhere on the dashboard", family.name);
    }
    let rules = read("deploy/prometheus/rules.yml");
    for line in queries.lines().filter(|line| line.contains("instance:") || line.contains("instance_shard:")) {
        let known = entries(&rules, "record").iter().any(|rule| line.contains(rule));
        assert!(known, "no rule records what this asks: {line}");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter().map(|variable| &variable["name"]);
    assert_eq!(variables.collect::<Vec<_>>(), ["datasource", "job", "instance", "shard"]);
}
