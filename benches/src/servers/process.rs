//! One server in a process of its own, from outside.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use corelane_testkit::{Metrics, http};

use super::{Kind, SERVE};

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Where data goes.
    pub address: SocketAddr,
    /// The control port of one that has it.
    control: Option<SocketAddr>,
}

/// What a server's process has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// CPU time of all threads.
    pub time: Duration,
    /// Resident memory.
    pub resident_bytes: u64,
    /// The most that ever was resident.
    pub resident_bytes_max: u64,
}

/// What a server has counted so far.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Frames taken.
    pub frames: u64,
    /// Frames refused.
    pub rejected: u64,
    /// Bytes received, headers included.
    pub bytes: u64,
    /// Calls to the allocator by the threads that handle data.
    pub allocations: u64,
    /// CPU time of those threads, of a server that tells.
    pub data_time: Duration,
}

impl Server {
    /// Starts one and waits until it accepts connections.
    pub fn start(kind: Kind, shards: usize) -> Self {
        let mut command = Command::new(env::current_exe().expect("the benchmark has a path"));
        command.args([SERVE, kind.name(), &shards.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the benchmark's binary starts");
        let questions = child.stdin.take().expect("piped");
        let mut answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut ready = String::new();
        answers.read_line(&mut ready).expect("the server's output can be read");
        let words: Vec<_> = ready.split_whitespace().collect();
        let ["ready", address, control] = words[..] else { panic!("{}: not ready: {ready:?}", kind.name()) };
        let address = address.parse().expect("an address");
        let control = control.parse().ok();
        Self { child, questions, answers, address, control }
    }

    /// What it has used. Cheap: asking is not seen in the numbers.
    pub fn usage(&mut self) -> Usage {
        let [time, resident_bytes, resident_bytes_max, ..] = self.ask();
        Usage { time: Duration::from_nanos(time), resident_bytes, resident_bytes_max }
    }

    /// What it has counted. From corelane through its control port, which takes CPU time of its control plane.
    pub fn counts(&mut self) -> Counts {
        let Some(control) = self.control else {
            let [.., frames, rejected, bytes, allocations] = self.ask();
            return Counts { frames, rejected, bytes, allocations, data_time: Duration::ZERO };
        };
        let response = http::get(control, "/metrics").expect("the control port answers");
        let metrics = Metrics::parse(&response.body);
        Counts {
            frames: metrics.accepted(),
            rejected: metrics.rejected(),
            bytes: metrics.count("corelane_received_bytes_total", &[]),
            allocations: metrics.count("corelane_allocations_total", &[]),
            data_time: Duration::from_secs_f64(metrics.sum("corelane_shard_cpu_seconds_total", &[])),
        }
    }

    /// Process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn ask(&mut self) -> [u64; 7] {
        writeln!(self.questions).expect("the server hears questions");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the server's output can be read");
        let numbers: Vec<_> = answer.split_whitespace().map(|word| word.parse().expect("a number")).collect();
        numbers.try_into().unwrap_or_else(|_| panic!("seven numbers, not {answer:?}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
