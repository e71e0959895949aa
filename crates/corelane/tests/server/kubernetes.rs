//! `deploy/kubernetes`: every manifest is what its schema says, and what one file says fits what the others, the server and
//! the image say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use corelane_testkit::server::command;
use corelane_testkit::{Server, host};
use serde_json::Value;

use crate::BINARY;
/// The oldest that has all that is used, and the newest that there are schemas of.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes")
}

/// Reads the manifests of a directory by file name, or says which is not as its schema wants.
fn validate(directory: &Path) -> Option<Result<Value, String>> {
    let (Some(python), Some(tools)) =
        (std::env::var_os("CORELANE_TEST_PYTHON"), std::env::var_os("CORELANE_TEST_DEPLOY_TOOLS"))
    else {
        eprintln!("SKIPPED: CORELANE_TEST_DEPLOY_TOOLS is not set, as scripts/test.sh does: no schemas of Kubernetes");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/manifests.py");
    let checked = Command::new(python).arg(script).arg(tools).arg(directory).args(VERSIONS).output().unwrap();
    Some(if checked.status.success() {
        Ok(serde_json::from_slice(&checked.stdout).unwrap())
    } else {
        Err(String::from_utf8(checked.stderr).unwrap())
    })
}

fn manifests() -> Option<Value> {
    Some(validate(&directory())?.unwrap_or_else(|error| panic!("{error}")))
}

/// A setting of the pods.
fn setting(name: &str) -> String {
    let text = fs::read_to_string(directory().join("corelane.toml")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    table[name].as_str().map_or_else(|| table[name].to_string(), str::to_owned)
}

/// `10s`, `5m`
fn duration(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        _ => panic!("{text}"),
    };
    Duration::from_secs(number.parse::<u64>().unwrap() * seconds)
}

fn gibibytes(text: &Value) -> u64 {
    text.as_str().unwrap().strip_suffix("Gi").unwrap().parse::<u64>().unwrap() << 30
}

fn seconds(value: &Value) -> Duration {
    Duration::from_secs(value.as_u64().unwrap())
}

#[test]
fn every_manifest_is_valid_and_taken_in() {
    let Some(manifests) = manifests() else { return };
    let listed = manifests["kustomization.yaml"]["resources"].as_array().unwrap();
    let listed: BTreeSet<&str> = listed.iter().map(|name| name.as_str().unwrap()).collect();
    let besides = ["kustomization.yaml", "prometheus-adapter.yaml", "kubelet.yaml"];
    let there = manifests.as_object().unwrap().keys().map(String::as_str);
    assert_eq!(listed, there.filter(|name| !besides.contains(name)).collect());
    let labels = &manifests["deployment.yaml"]["spec"]["template"]["metadata"]["labels"];
    for (file, selector) in [
        ("deployment.yaml", "/spec/selector/matchLabels"),
        ("service.yaml", "/spec/selector"),
        ("networkpolicy.yaml", "/spec/podSelector/matchLabels"),
        ("poddisruptionbudget.yaml", "/spec/selector/matchLabels"),
    ] {
        assert_eq!(manifests[file].pointer(selector), Some(labels), "{file}");
    }
}

#[test]
fn kustomize_puts_them_together() {
    let Ok(built) = Command::new("kubectl").arg("kustomize").arg(directory()).output() else {
        eprintln!("SKIPPED: no kubectl here; scripts/test.sh installs it");
        return;
    };
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let directory = tempfile::tempdir().unwrap();
    let built = String::from_utf8(built.stdout).unwrap();
    for (number, manifest) in built.split("\n---\n").enumerate() {
        fs::write(directory.path().join(format!("{number}.yaml")), manifest).unwrap();
    }
    let Some(manifests) = validate(directory.path()) else { return };
    let manifests = manifests.unwrap();
    let of_kind =
        |kind: &str| manifests.as_object().unwrap().values().find(|manifest| manifest["kind"] == kind).unwrap();
    let (pods, config) = (of_kind("Deployment"), of_kind("ConfigMap"));
    let pod = &pods["spec"]["template"]["spec"];
    assert_eq!(pod["volumes"][0]["configMap"]["name"], config["metadata"]["name"]);
    assert_eq!(pod["containers"][0]["image"], format!("corelane:{}", env!("CARGO_PKG_VERSION")));
    assert!(config["data"]["corelane.toml"].as_str().unwrap().contains("max_connection_age"));
}

#[test]
fn a_wrong_manifest_is_found() {
    let broken = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(directory().join("deployment.yaml")).unwrap();
    fs::write(broken.path().join("deployment.yaml"), text.replace("minReadySeconds", "minReadySecond")).unwrap();
    let Some(checked) = validate(broken.path()) else { return };
    assert!(checked.unwrap_err().contains("minReadySecond"));
}

#[test]
fn the_pod_fits_the_server_and_the_image() {
    let config = directory().join("corelane.toml");
    let checked = command(BINARY).arg("check").arg(&config).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let Some(manifests) = manifests() else { return };
    let pod = &manifests["deployment.yaml"]["spec"]["template"]["spec"];
    let container = &pod["containers"][0];

    // The ports are those of the configuration, the image and the scraper.
    let dockerfile = fs::read_to_string(directory().join("../container/Dockerfile")).unwrap();
    for (port, name, key) in [(0, "data", "listen"), (1, "control", "control")] {
        let port = &container["ports"][port];
        assert_eq!(port["name"], name);
        assert_eq!(setting(key), format!("0.0.0.0:{}", port["containerPort"]));
        assert!(
            dockerfile
                .lines()
                .any(|line| line.starts_with("EXPOSE") && line.contains(&port["containerPort"].to_string()))
        );
    }
    let probe = &container["ports"][2];
    assert_eq!(setting("probe"), format!("0.0.0.0:{}", probe["containerPort"]));
    for kind in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert_eq!(container[kind]["httpGet"]["port"], probe["name"], "{kind}");
    }
    let annotations = &manifests["deployment.yaml"]["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], container["ports"][1]["containerPort"].to_string());
    let context = &pod["securityContext"];
    assert!(dockerfile.contains(&format!("USER {}:{}", context["runAsUser"], context["runAsGroup"])));
    assert_eq!(pod["enableServiceLinks"], false, "the Service's variables would be taken for settings");

    // Guaranteed, with whole cores.
    let resources = &container["resources"];
    assert_eq!(resources["requests"], resources["limits"]);
    let cores: u64 = resources["limits"]["cpu"].as_str().unwrap().parse().expect("a whole number of CPUs");
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);

    // Whoever is stopped has time for it.
    let needed = seconds(&container["lifecycle"]["preStop"]["sleep"]["seconds"]) + duration(&setting("drain_timeout"));
    assert!(seconds(&pod["terminationGracePeriodSeconds"]) >= needed + Duration::from_secs(3));
    let start = &container["startupProbe"];
    assert!(start["failureThreshold"].as_u64().unwrap() * start["periodSeconds"].as_u64().unwrap() > 30);

    // The memory limit allows what the plan adds up to, which grows by the same with each shard, and the kernel's part.
    let Some(two) = host::cores_for(2) else {
        println!("SKIPPED: this machine has one core");
        return;
    };
    let plan = |cores: &str| {
        let planned = command(BINARY).args(["plan", "--json", "--cores", cores, "--config"]).arg(&config).output();
        let plan: Value = serde_json::from_slice(&planned.unwrap().stdout).unwrap();
        plan["memory_bytes_max"].as_u64().unwrap()
    };
    let (one, two) = (plan(&host::cores_for(1).unwrap()), plan(&two));
    let planned = one + (cores - 2) * (two - one);
    let limit = gibibytes(&resources["limits"]["memory"]);
    assert!((planned * 5 / 4..planned * 2).contains(&limit), "{planned} planned, {limit} granted");
}

/// Prometheus understands it.
fn check_query(query: &str) {
    assert!(query.ends_with(") by (pod)") && !query.contains("<<"), "{query}");
    let Some(folder) = std::env::var_os("CORELANE_TEST_PROMETHEUS_DIR") else {
        eprintln!("SKIPPED: CORELANE_TEST_PROMETHEUS_DIR is not set: {query} is not checked");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let rules = serde_json::json!({"groups": [{"name": "query", "rules": [{"record": "checked", "expr": query}]}]});
    fs::write(directory.path().join("rules.json"), rules.to_string()).unwrap();
    let promtool = Path::new(&folder).join("promtool");
    let checked =
        Command::new(promtool).args(["check", "rules"]).arg(directory.path().join("rules.json")).output().unwrap();
    assert!(checked.status.success(), "{query}: {}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn the_autoscaler_asks_for_metrics_that_there_are_and_waits_for_connections_to_move() {
    let Some(manifests) = manifests() else { return };
    let server = Server::start(BINARY, &[]);
    let metrics = server.get("/metrics").body;
    let scaler = &manifests["horizontalpodautoscaler.yaml"]["spec"];
    let rules = manifests["prometheus-adapter.yaml"]["rules"]["custom"].as_array().unwrap();
    let asked = scaler["metrics"].as_array().unwrap();
    assert_eq!(asked.len(), rules.len());
    for metric in asked {
        let name = metric["pods"]["metric"]["name"].as_str().unwrap();
        let rule = rules.iter().find(|rule| rule["name"]["as"] == name).unwrap_or_else(|| panic!("no rule for {name}"));
        let series = rule["seriesQuery"].as_str().unwrap().split('{').next().unwrap();
        assert!(metrics.contains(&format!("# TYPE {series} gauge\n")), "{series}: {metrics}");
        let query = rule["metricsQuery"].as_str().unwrap();
        let query = query.replace("<<.Series>>", series).replace("<<.LabelMatchers>>", "pod=~\"a|b\"");
        check_query(&query.replace("<<.GroupBy>>", "pod"));
    }
    assert_eq!(scaler["scaleTargetRef"]["name"], manifests["deployment.yaml"]["metadata"]["name"]);
    let age = duration(&setting("max_connection_age"));
    assert!(age > Duration::ZERO, "a new pod would get none of the connections that are there");
    for direction in ["scaleUp", "scaleDown"] {
        let behavior = &scaler["behavior"][direction];
        assert!(seconds(&behavior["stabilizationWindowSeconds"]) > Duration::ZERO);
        for policy in behavior["policies"].as_array().unwrap() {
            assert!(seconds(&policy["periodSeconds"]) >= age, "{policy}");
        }
    }
}
