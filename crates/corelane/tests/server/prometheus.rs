//! A real Prometheus with the shipped configuration learns from a real server what was sent to it, to the frame.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use corelane_testkit::frames::{EVENT_POINTS, event, header, invalid_frames};
use corelane_testkit::{Peer, Server, host, http, tools, wait_for, wait_until};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use tempfile::TempDir;

use crate::BINARY;
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy");

/// A vector as Prometheus answers it: labels and value.
type Series = Vec<(BTreeMap<String, String>, f64)>;

/// A running Prometheus that watches one server.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Prometheus {
    /// Starts it in `folder` with the shipped files, changed as `change` says; `None` where there is none.
    fn start(folder: TempDir, control: SocketAddr, change: impl Fn(String) -> String) -> Option<Self> {
        let tools = tools::prometheus()?;
        for rules in ["rules.yml", "alerts.yml"] {
            fs::copy(Path::new(DEPLOY).join("prometheus").join(rules), folder.path().join(rules)).unwrap();
        }
        let shipped = fs::read_to_string(Path::new(DEPLOY).join("prometheus/prometheus.yml")).unwrap();
        let config = change(replace(&shipped, "\"127.0.0.1:9600\"", &format!("\"{control}\"")));
        // The windows of the rules need four scrapes, and a test should not wait for a minute.
        fs::write(folder.path().join("prometheus.yml"), replace(&config, ": 15s", ": 1s")).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(tools.join("prometheus"));
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"]);
        command.current_dir(folder.path()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut prometheus = Self { child, address: control, folder };
        prometheus.address = wait_for("the port of Prometheus", || {
            let log = prometheus.log();
            let (_, rest) = log.split_once("msg=\"Listening on\" address=")?;
            rest.lines().next()?.parse().ok()
        });
        wait_until("Prometheus is ready", || http::get(prometheus.address, "/-/ready").unwrap().status == 200);
        Some(prometheus)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn get(&self, path: &str) -> Value {
        let answer = http::get(self.address, path).unwrap();
        let value: Value = serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!((answer.status, &value["status"]), (200, &"success".into()), "{path}: {value}");
        value["data"].clone()
    }

    /// The answer to a query, `more` being further parameters.
    fn query(&self, expression: &str, more: &str) -> Series {
        let encoded = expression.bytes().fold(String::new(), |mut text, byte| {
            write!(text, "%{byte:02X}").unwrap();
            text
        });
        let data = self.get(&format!("/api/v1/query?query={encoded}{more}"));
        assert_eq!(data["resultType"], "vector", "{expression}");
        let sample = |sample: &Value| {
            let number = sample["value"][1].as_str().unwrap().parse().unwrap();
            (serde_json::from_value(sample["metric"].clone()).unwrap(), number)
        };
        data["result"].as_array().unwrap().iter().map(sample).collect()
    }

    /// The only number that a query answers, if it answers.
    fn number(&self, expression: &str) -> Option<f64> {
        match &self.query(expression, "")[..] {
            [] => None,
            [(_, number)] => Some(*number),
            many => panic!("{expression}: {many:?}"),
        }
    }

    fn wait_number(&self, expression: &str, number: f64) {
        let mut told = None;
        wait_until(&format!("{expression} is {number}"), || {
            let last = std::mem::replace(&mut told, self.number(expression));
            if last != told {
                println!("{expression}: {told:?}");
            }
            told == Some(number)
        });
    }

    /// Asserts that it scrapes its target and evaluates its rules without a fault or a warning.
    fn assert_content(&self) {
        wait_until("the last scrape of the only target went well", || {
            let targets = self.get("/api/v1/targets");
            let [target] = &targets["activeTargets"].as_array().unwrap()[..] else { panic!("one target: {targets}") };
            target["health"] == "up" && target["lastError"] == ""
        });
        for rule in self.rules() {
            assert_eq!((&rule["health"], &rule["lastError"]), (&"ok".into(), &Value::Null), "{rule}");
        }
        let log = self.log();
        let complaints: Vec<_> = log.lines().filter(|line| !line.to_lowercase().contains("level=info")).collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }

    fn rules(&self) -> Vec<Value> {
        let data = self.get("/api/v1/rules");
        let groups = data["groups"].as_array().unwrap().iter();
        groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }

    /// Runs a query of the dashboard as Grafana would for the only server, and asserts that it answers with numbers.
    fn assert_answers(&self, title: &str, expression: &str, instance: SocketAddr, shards: &str) {
        let instance = instance.to_string().replace('.', "\\\\.");
        let variables =
            [("$__rate_interval", "5m"), ("$job", "corelane"), ("$instance", &instance), ("$shard", shards)];
        let asked = variables.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
        assert!(!asked.contains('$'), "{title}: an unknown variable: {asked}");
        let answer = self.query(&asked, "");
        let numbers = answer.iter().all(|(_, number)| number.is_finite());
        assert!(!answer.is_empty() && numbers, "{title}: {asked}: {answer:?}");
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As `str::replace`, for what has to be there.
fn replace(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "{old} is in the shipped file");
    text.replace(old, new)
}

/// Takes the `#` off settings, and leaves it on sentences: those have a blank and a word after it.
fn uncommented(config: &str) -> String {
    let line = |line: &str| {
        let Some((indent, rest)) = line.split_once('#') else { return line.to_owned() };
        let mut start = rest.chars();
        let sentence = start.next() == Some(' ') && start.next() != Some(' ');
        if sentence || !indent.trim().is_empty() { line.to_owned() } else { format!("{indent}{rest}") }
    };
    config.lines().map(|text| line(text) + "\n").collect()
}

/// Every query of the dashboard, with the title of its panel or the name of its variable.
fn dashboard_queries() -> Vec<(String, String)> {
    let text = fs::read_to_string(Path::new(DEPLOY).join("grafana/corelane.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push((panel["title"].to_string(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        queries.extend(annotation["expr"].as_str().map(|expr| (annotation["name"].to_string(), expr.to_owned())));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        // A function of Grafana's own: the values of a label, without the empty one.
        let Some(query) = variable["query"]["query"].as_str() else { continue };
        let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
        let (metric, label) = inner.rsplit_once(", ").unwrap();
        queries.push((
            variable["name"].to_string(),
            format!("group by ({label}) ({metric}) unless on ({label}) vector(1)"),
        ));
    }
    // The scan found every query that the file holds.
    let whole = text.matches("\"expr\":").count() + text.matches("label_values(").count() / 2;
    assert_eq!(queries.len(), whole);
    queries
}

/// What was sent.
#[derive(Default)]
struct Sent {
    accepted: u64,
    rejected: BTreeMap<&'static str, u64>,
    bytes: u64,
}

impl Sent {
    fn send(&mut self, peer: &mut Peer, frame: &[u8]) {
        peer.send(frame);
        self.bytes += frame.len() as u64;
    }

    /// So many events, every tenth followed by a frame that is refused.
    fn events(&mut self, peer: &mut Peer, id: &str, count: u64) {
        let invalid = invalid_frames();
        for number in 0..count {
            self.send(peer, &event(id, number));
            if number % 10 == 9 {
                let refused = &invalid[number as usize / 10 % invalid.len()];
                self.send(peer, &refused.bytes);
                *self.rejected.entry(refused.reason.label()).or_default() += 1;
            }
        }
        self.accepted += count;
        assert_eq!(peer.commit().committed, count);
        self.bytes += corelane_testkit::frames::COMMIT_REQUEST.len() as u64;
    }

    /// A frame too large to be read, and the end of its peer.
    fn oversize(&mut self, mut peer: Peer) {
        self.send(&mut peer, &header(1 << 24));
        *self.rejected.entry("oversize").or_default() += 1;
        peer.half_close();
        assert_eq!(peer.reply(), None);
    }

    fn rejected(&self) -> u64 {
        self.rejected.values().sum()
    }
}

#[test]
fn what_prometheus_learns_is_what_was_sent() {
    let shards = host::allowed_cores().len().min(2);
    let server = Server::start(BINARY, &["--cores", &host::cores_for(shards).unwrap()]);
    let Some(prometheus) = Prometheus::start(tempfile::tempdir().unwrap(), server.control, |config| config) else {
        return;
    };
    // From a scrape that has seen nothing, rates are exact.
    prometheus.wait_number("sum(corelane_frames_accepted_total)", 0.0);

    let mut sent = Sent::default();
    let mut peers = [server.connect(), server.connect(), server.connect()];
    for (number, peer) in peers.iter_mut().enumerate() {
        sent.events(peer, &format!("device-{number}"), 400 + 100 * number as u64);
    }
    sent.oversize(server.connect());
    server.assert_accounted(sent.accepted + sent.rejected());
    let (accepted, rejected) = (sent.accepted as f64, sent.rejected() as f64);

    prometheus.wait_number("sum(corelane_frames_accepted_total)", accepted);
    prometheus.wait_number("sum(corelane_frames_rejected_total)", rejected);
    for (reason, count) in &sent.rejected {
        prometheus.wait_number(&format!("sum(corelane_frames_rejected_total{{reason=\"{reason}\"}})"), *count as f64);
    }
    for (expression, number) in [
        ("sum(corelane_points_total)", accepted * EVENT_POINTS as f64),
        ("sum(corelane_received_bytes_total)", sent.bytes as f64),
        ("sum(corelane_connections_accepted_total)", 4.0),
        ("sum(corelane_connections_closed_total{reason=\"oversize\"})", 1.0),
        ("sum(corelane_connections_closed_total)", 1.0),
        ("sum(corelane_security_events_total)", 1.0),
        ("sum(corelane_ingest_latency_seconds_count)", accepted + rejected),
        ("sum(corelane_ingest_latency_seconds_bucket{le=\"+Inf\"})", accepted + rejected),
        ("count(corelane_frames_accepted_total > 0)", shards as f64),
        ("instance:corelane_connections:sum", 3.0),
        ("instance:corelane_ingest_backlog_bytes:sum", 0.0),
        ("changes(process_start_time_seconds[5m])", 0.0),
    ] {
        prometheus.wait_number(expression, number);
    }
    let samples = server.get("/metrics").body.lines().filter(|line| !line.starts_with('#')).count();
    prometheus.wait_number("scrape_samples_scraped", samples as f64);

    rules_record_what_their_expressions_say(&prometheus);
    let share = rejected / (accepted + rejected);
    wait_until("the recorded share of rejected frames is the true one", || {
        let told = prometheus.number("instance:corelane_frames_rejected:ratio_rate5m");
        told.is_some_and(|told| (told - share).abs() < 1e-12)
    });

    // Only OpenMetrics tells units.
    let metadata = prometheus.get("/api/v1/targets/metadata?metric=corelane_received_bytes");
    assert_eq!((&metadata[0]["type"], &metadata[0]["unit"]), (&"counter".into(), &"bytes".into()), "{metadata}");

    let shards = (0..shards).map(|shard| shard.to_string()).collect::<Vec<_>>().join("|");
    for (title, expression) in dashboard_queries() {
        // There is no certificate without TLS, see the other test.
        if !expression.contains("corelane_tls_") {
            prometheus.assert_answers(&title, &expression, server.control, &shards);
        }
    }

    // A tenth of the frames was rejected, which has to go on for a while before anybody is told.
    prometheus.wait_number("count(ALERTS{alertname=\"CorelaneFramesRejected\", alertstate=\"pending\"})", 1.0);
    assert_eq!(prometheus.query("ALERTS{alertstate=\"firing\"}", ""), []);
    prometheus.assert_content();
}

/// Every recorded series is there, and has the value that its expression has at that time.
fn rules_record_what_their_expressions_say(prometheus: &Prometheus) {
    let rules: Vec<_> = prometheus.rules().into_iter().filter(|rule| rule["type"] == "recording").collect();
    assert!(!rules.is_empty());
    for rule in rules {
        let (name, expression) = (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap());
        // A scrape may be under way at the very moment of an evaluation, so it is looked at again.
        wait_until(&format!("{name} is {expression}"), || {
            let recorded = prometheus.query(name, "");
            let Some((_, time)) = prometheus.query(&format!("timestamp({name})"), "").first().cloned() else {
                return false;
            };
            let mut expected = prometheus.query(expression, &format!("&time={time}"));
            for (labels, _) in &mut expected {
                labels.insert("__name__".to_owned(), name.to_owned());
            }
            !recorded.is_empty() && recorded == expected
        });
    }
}

#[test]
fn the_lines_for_tls_and_token_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (params, key) = (CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap(), KeyPair::generate().unwrap());
    let expiry = params.not_after.unix_timestamp() as f64;
    fs::write(path("corelane-ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(path("key"), key.serialize_pem()).unwrap();
    fs::write(path("corelane.token"), "s3cret\n").unwrap();
    let (certificate, key, token) = (path("corelane-ca.crt"), path("key"), path("corelane.token"));
    let flags = ["--control-tls-cert", &certificate, "--control-tls-key", &key, "--control-token-file", &token];
    let server = Server::start(BINARY, &flags);

    let here = format!("{}/", folder.path().display());
    let change = |config: String| replace(&uncommented(&config), "/etc/prometheus/", &here);
    let Some(prometheus) = Prometheus::start(folder, server.control, change) else { return };
    let mut sent = Sent::default();
    sent.events(&mut server.connect(), "device", 200);
    prometheus.wait_number("up", 1.0);
    prometheus.wait_number("sum(corelane_frames_accepted_total)", sent.accepted as f64);
    prometheus.wait_number("sum(corelane_frames_rejected_total)", sent.rejected() as f64);
    prometheus.wait_number("corelane_tls_certificate_expiry_timestamp_seconds", expiry);

    let mut panels = dashboard_queries();
    panels.retain(|(_, expression)| expression.contains("corelane_tls_"));
    assert_eq!(panels.len(), 1);
    prometheus.assert_answers(&panels[0].0, &panels[0].1, server.control, "0");
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(expiry - now > 30.0 * 86_400.0, "the certificate of this test lives long");
    prometheus.assert_content();
}
