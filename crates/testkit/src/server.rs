//! The process under test.
//!
//! Owns the child and kills it on drop, so a failed test leaves nothing behind; what it wrote to stderr is shown then.

use std::env;
use std::fs::DirBuilder;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, panicking, sleep, spawn};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::http::{self, Response};
use crate::{DEADLINE, Metrics, Peer, host, wait_for, wait_until};

/// A running `corelane serve`.
#[derive(Debug)]
pub struct Server {
    child: Killed,
    /// Data port.
    pub listen: SocketAddr,
    /// HTTP port.
    pub control: SocketAddr,
    /// How many shards it runs, as it says itself.
    pub shards: usize,
    stdout: Output,
    stderr: Output,
}

/// A server that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// Its log.
    pub stderr: String,
}

/// The last line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastTotals {
    /// Frames accepted in the life of the server.
    pub accepted: u64,
    /// Frames rejected.
    pub rejected: u64,
}

/// A command that hears nothing of the settings in this process's environment.
pub fn command(binary: &str) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CORELANE_")) {
        command.env_remove(name);
    }
    command
}

/// Where servers put the sockets at which successors ask.
pub const RUNTIME_DIRECTORY: &str = "RUNTIME_DIRECTORY";

/// The directory of the servers of all tests of this user. A killed server leaves its socket there, which the next one of
/// the same port replaces.
///
/// # Panics
/// When it cannot be made.
pub fn runtime_directory() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    let directory = env::temp_dir().join(format!("corelane-testkit-{user}"));
    match DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => panic!("{}: {error}", directory.display()),
        _ => directory,
    }
}

/// The smallest pool that one shard can be given, as the server says itself when it is given less.
///
/// # Panics
/// When it says something else.
pub fn smallest_pool(binary: &str) -> String {
    let core = host::cores_for(1).expect("a core is allowed");
    let refused = command(binary).args(["serve", "--cores", &core, "--pool-bytes", "1"]).output();
    let refused = refused.unwrap_or_else(|error| panic!("cannot start {binary}: {error}"));
    let text = String::from_utf8_lossy(&refused.stderr);
    let (_, smallest) = text.trim_end().rsplit_once("give at least ").unwrap_or_else(|| panic!("{text}"));
    smallest.to_owned()
}

impl Server {
    /// Starts on free ports and waits for the ready line. One shard on the first allowed core, unless `flags` have
    /// `--cores`.
    ///
    /// # Panics
    /// When it does not get ready; the message has its log.
    pub fn start(binary: &str, flags: &[&str]) -> Self {
        Self::spawn(&mut Self::command(binary, flags))
    }

    /// What [`start`](Self::start) runs.
    ///
    /// # Panics
    /// When no core is allowed.
    pub fn command(binary: &str, flags: &[&str]) -> Command {
        let mut command = command(binary);
        command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--log-format", "json"]);
        if !flags.contains(&"--cores") {
            command.args(["--cores", &host::cores_for(1).expect("a core is allowed")]);
        }
        command.args(flags);
        command
    }

    /// Starts a command that becomes a server.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_logging_to(command, Stdio::piped())
    }

    /// The same with another stderr; [`stderr`](Self::stderr) is empty then.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn spawn_logging_to(command: &mut Command, stderr: Stdio) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        if command.get_envs().all(|(name, _)| name != RUNTIME_DIRECTORY) {
            command.env(RUNTIME_DIRECTORY, runtime_directory());
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let mut child = Killed(child);
        let stdout = Output::collect(child.0.stdout.take().expect("stdout is piped"));
        let stderr = match child.0.stderr.take() {
            Some(stderr) => Output::collect(stderr),
            None => Output::collect(std::io::empty()),
        };
        let ready = wait_for("the ready line", || {
            if let Some(status) = child.0.try_wait().expect("a child can be waited for") {
                panic!("ended without getting ready: {status}; stderr:\n{}", stderr.whole());
            }
            stdout.text().split_once('\n').map(|(line, _)| line.to_owned())
        });
        let field = |name: &str| {
            let words = ready.strip_prefix("corelane ready ").into_iter().flat_map(|rest| rest.split(' '));
            let mut values = words.filter_map(|word| word.split_once('=')).filter(|(key, _)| *key == name);
            values.next().unwrap_or_else(|| panic!("no {name} in the ready line: {ready}")).1.to_owned()
        };
        assert_eq!(field("pid"), child.0.id().to_string(), "the ready line tells the process");
        let address = |name: &str| field(name).parse().unwrap_or_else(|_| panic!("{name} is an address: {ready}"));
        let shards = field("shards").parse().unwrap_or_else(|_| panic!("shards is a number: {ready}"));
        let (listen, control) = (address("listen"), address("control"));
        Self { child, listen, control, shards, stdout, stderr }
    }

    /// Process number.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// A new peer of the data port.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn connect(&self) -> Peer {
        Peer::connect(self.listen)
    }

    /// Asks the control port.
    ///
    /// # Panics
    /// When no answer comes.
    pub fn get(&self, path: &str) -> Response {
        http::get(self.control, path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// Asks the control port for JSON.
    ///
    /// # Panics
    /// When no good answer comes.
    pub fn json(&self, path: &str) -> Value {
        let Response { status, body, .. } = self.get(path);
        assert_eq!(status, 200, "GET {path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("GET {path}: {error}: {body}"))
    }

    /// The live series of one source.
    ///
    /// # Panics
    /// When no good answer comes.
    pub fn sensors_of(&self, id: &str) -> Vec<Value> {
        let answer = self.json(&format!("/api/v1/sensors?limit=10000&id={id}"));
        answer["sensors"].as_array().expect("sensors are a list").clone()
    }

    /// Scrapes.
    ///
    /// # Panics
    /// When no good answer comes.
    pub fn metrics(&self) -> Metrics {
        let Response { status, body, .. } = self.get("/metrics");
        assert_eq!(status, 200, "GET /metrics: {body}");
        Metrics::parse(&body)
    }

    /// Scrapes until `holds`, and returns that scrape.
    ///
    /// # Panics
    /// After [`DEADLINE`], with the last scrape.
    pub fn wait_metrics(&self, what: &str, mut holds: impl FnMut(&Metrics) -> bool) -> Metrics {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let metrics = self.metrics();
            if holds(&metrics) {
                return metrics;
            }
            assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}; the last scrape:\n{metrics}");
            sleep(Duration::from_millis(5));
        }
    }

    /// Waits until every frame that was sent is decided, and checks that none is counted twice:
    /// `sent = accepted + rejected`.
    ///
    /// # Panics
    /// When the sum is another.
    pub fn assert_accounted(&self, sent: u64) -> Metrics {
        let decided = |metrics: &Metrics| metrics.accepted() + metrics.rejected();
        let metrics = self.wait_metrics(&format!("{sent} frames are decided"), |metrics| decided(metrics) >= sent);
        assert_eq!(decided(&metrics), sent, "sent = accepted + rejected");
        metrics
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child.0);
        kill_process(pid, signal).expect("the server runs");
    }

    /// What it has logged so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn terminate(self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When it does not come, or when stdout has more than the ready line.
    pub fn wait(mut self) -> Ended {
        let status = wait_for("the server ends", || self.child.0.try_wait().expect("a child can be waited for"));
        let stdout = self.stdout.whole();
        assert_eq!(stdout.lines().count(), 1, "stdout has the ready line only: {stdout}");
        Ended { status, stderr: self.stderr.whole() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if panicking() {
            eprintln!("log of the server with pid {}:\n{}", self.pid(), self.stderr());
        }
    }
}

/// A child that does not outlive its owner.
#[derive(Debug)]
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Ended {
    /// Asserts exit code 0 and returns the totals of the last line.
    ///
    /// # Panics
    /// When the server failed or told no totals.
    pub fn totals(&self) -> LastTotals {
        assert_eq!(self.status.code(), Some(0), "{}", self.stderr);
        let last = self.stderr.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
        let last = last.unwrap_or_else(|| panic!("a last line of JSON: {}", self.stderr));
        let number = |key: &str| last[key].as_u64().unwrap_or_else(|| panic!("no {key} in {last}"));
        LastTotals { accepted: number("accepted"), rejected: number("rejected") }
    }
}

/// What a child writes, taken in as it comes.
#[derive(Debug)]
struct Output {
    text: Arc<Mutex<String>>,
    end: JoinHandle<()>,
}

impl Output {
    fn collect(stream: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let target = Arc::clone(&text);
        let end = spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let mut target = target.lock().unwrap_or_else(PoisonError::into_inner);
                target.push_str(&line);
                target.push('\n');
            }
        });
        Self { text, end }
    }

    /// What has come so far, in whole lines.
    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All of it. For a child that has ended.
    fn whole(&self) -> String {
        wait_until("the pipe of an ended child closes", || self.end.is_finished());
        self.text()
    }
}
