//! What others make of a scrape: the lint of Prometheus, and the reference parser of OpenMetrics.

use std::io::Write;
use std::process::{Command, Stdio};

use corelane_metrics::{FAMILIES, Kind};
use corelane_testkit::frames::event;
use corelane_testkit::http::HttpConnection;
use corelane_testkit::{Server, tools};
use serde_json::{Value, json};

use crate::BINARY;

/// Runs a command over a text, and returns what it prints.
fn run(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (told, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && errors.is_empty(), "{command:?}: {told}{errors}");
    told
}

#[test]
fn the_text_format_passes_the_lint_of_prometheus() {
    let Some(tools) = tools::prometheus() else { return };
    let server = Server::start(BINARY, &[]);
    let mut lint = Command::new(tools.join("promtool"));
    assert_eq!(run(lint.args(["check", "metrics"]), &server.get("/metrics").body), "");
}

#[test]
fn open_metrics_is_what_its_reference_parser_reads() {
    let Some(python) = tools::python("prometheus_client") else { return };
    let server = Server::start(BINARY, &[]);
    let mut peer = server.connect();
    peer.send(&event("device", 1));
    assert_eq!(peer.commit().committed, 1);
    // What Prometheus 2.42 sends.
    let accept = "Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                  text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";
    let scrape = HttpConnection::open(server.control).unwrap().get_with("/metrics", accept).unwrap();
    assert!(scrape.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", scrape.head);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/open_metrics.py");
    let families: Value = serde_json::from_str(&run(Command::new(python).arg(script), &scrape.body)).unwrap();

    // Without TLS there is no certificate to tell of.
    let told = FAMILIES.iter().filter(|family| !family.name.starts_with("corelane_tls_"));
    assert_eq!(families.as_object().unwrap().len(), told.clone().count());
    for family in told {
        let base = family.name.strip_suffix("_total").unwrap_or(family.name);
        let read = &families[base];
        let kind = format!("{:?}", family.kind).to_lowercase();
        let (unit, help) = (family.unit.unwrap_or(""), family.help);
        assert_eq!((&read["type"], &read["unit"], &read["help"]), (&kind.into(), &unit.into(), &help.into()), "{base}");
        let names = match family.kind {
            Kind::Histogram => json!(["_bucket", "_count", "_sum"].map(|suffix| format!("{base}{suffix}"))),
            _ => json!([family.name]),
        };
        assert_eq!(read["names"], names, "{base}");
    }
    for (name, number) in [("corelane_frames_accepted", 1.0), ("corelane_points", 14.0), ("corelane_connections", 1.0)]
    {
        assert_eq!(families[name]["sum"], number, "{name}");
    }
}
