//! Real measurements through `corelane send`: what the server learned is what an independent computation says.
//!
//! The data is that of the Numenta Anomaly Benchmark, in the folder next to the repository; without it, and without
//! Python, the tests say so and pass.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use corelane_testkit::server::command;
use corelane_testkit::{Server, host};
use serde_json::Value;

use crate::BINARY;

/// Every file of the data set, in order.
fn files() -> Option<Vec<PathBuf>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/nab"));
    let Ok(entries) = folder.read_dir() else {
        println!("SKIPPED: there is no {}", folder.display());
        return None;
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.filter(|path| path.extension().is_some_and(|ending| ending == "csv")).collect();
    files.sort();
    Some(files)
}

/// What Python makes of the files: an object for each source with one for each sensor.
fn expected(files: &[PathBuf]) -> Option<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nab.py");
    let Ok(Output { status, stdout, stderr }) = Command::new("python3").arg(script).args(files).output() else {
        println!("SKIPPED: there is no python3");
        return None;
    };
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    Some(serde_json::from_slice(&stdout).unwrap())
}

/// Sends the files at once, each over its own connection, and compares every series.
fn compare(files: &[PathBuf], flags: &[&str]) {
    let Some(expected) = expected(files) else { return };
    let server = Server::start(BINARY, flags);
    let mut send = command(BINARY);
    let Output { status, stdout, stderr } =
        send.args(["send", "--to", &server.listen.to_string()]).args(files).output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success() && stderr.is_empty(), "{stderr}");
    println!("{}", String::from_utf8_lossy(&stdout).trim_end());

    let expected = expected.as_object().unwrap();
    assert_eq!(expected.len(), files.len());
    let series = || expected.values().flat_map(|sensors| sensors.as_object().unwrap().values());
    // One row is one event, and every row of these files has one value.
    let rows = series().map(|sensor| sensor["count"].as_u64().unwrap()).sum();
    let metrics = server.assert_accounted(rows);
    assert_eq!((metrics.accepted(), metrics.count("corelane_points_total", &[])), (rows, rows));
    let connections = metrics.count("corelane_connections_accepted_total", &[]);
    assert_eq!(connections, files.len() as u64);
    for shard in metrics.label_values("corelane_connections_accepted_total", "shard") {
        let connections = metrics.count("corelane_connections_accepted_total", &[("shard", shard)]);
        println!("shard {shard}: {connections} connections");
    }

    for (id, sensors) in expected {
        let told = server.sensors_of(id);
        assert_eq!(told.len(), sensors.as_object().unwrap().len(), "{id}: {told:?}");
        for sensor in told {
            let expected = &sensors[sensor["sensor"].as_str().unwrap()];
            for exact in ["count", "min", "max", "last", "last_timestamp"] {
                let (told, expected) = (&sensor[exact], &expected[exact]);
                assert!(same(told, expected), "{id}: {exact} is {told}, and should be {expected}");
            }
            let (told, expected) = (sensor["mean"].as_f64().unwrap(), expected["mean"].as_f64().unwrap());
            let off = (told - expected).abs() / expected.abs().max(1.0);
            assert!(off <= 1e-9, "{id}: the mean is {told}, and should be {expected}");
        }
    }
}

/// The same number, be it written as a whole one or not.
fn same(told: &Value, expected: &Value) -> bool {
    match (told.as_u64(), expected.as_u64()) {
        (Some(told), Some(expected)) => told == expected,
        _ => told.as_f64() == expected.as_f64(),
    }
}

#[test]
fn one_file_is_what_python_says() {
    let Some(files) = files() else { return };
    let file = files.into_iter().find(|path| path.ends_with("machine_temperature_system_failure.csv")).unwrap();
    compare(&[file], &[]);
}

#[test]
fn all_files_at_once_are_what_python_says() {
    let Some(files) = files() else { return };
    assert_eq!(files.len(), 17);
    compare(&files, &[]);
}

#[test]
fn all_files_at_once_on_two_shards_are_what_python_says() {
    let Some(files) = files() else { return };
    match host::cores_for(2) {
        Some(cores) => compare(&files, &["--cores", &cores]),
        None => println!("SKIPPED: this machine has one core"),
    }
}
