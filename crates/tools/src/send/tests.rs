use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread::JoinHandle,
};

use ::clap::Parser;
use corelane_wire::{Answer, Step, encode_answer, encode_closing, next_step};

use super::{feed::tests::events_of, *};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: SendArgs,
}

/// How the server in these tests treats the events of its connections.
#[derive(Clone, Copy)]
enum Server {
    Commits,
    Rejects,
    /// Closes after the first event with this code.
    Closes(&'static str),
}

impl Server {
    /// Serves `connections` of them; gives the events of each, in the order of accepting.
    fn start(self, connections: usize) -> (String, JoinHandle<Vec<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let accepted = (0..connections).map(|_| listener.accept().unwrap().0);
            let served: Vec<_> = accepted.map(|stream| std::thread::spawn(move || self.serve(stream))).collect();
            served.into_iter().map(|connection| connection.join().unwrap()).collect()
        });
        (address, server)
    }

    fn serve(self, mut stream: TcpStream) -> Vec<String> {
        let mut bytes = [0; 64 * 1024];
        let mut kept = Vec::new();
        let mut frames = Vec::new();
        let mut answer = Answer::default();
        loop {
            let count = stream.read(&mut bytes).unwrap();
            if count == 0 {
                return events_of(&frames);
            }
            kept.extend_from_slice(&bytes[..count]);
            let mut unread = &kept[..];
            loop {
                match next_step(&mut unread) {
                    Step::NeedMore { .. } => break,
                    Step::CommitRequest => stream.write_all(encode_answer(answer).as_slice()).unwrap(),
                    Step::Frame(payload) => {
                        frames.extend_from_slice(&(payload.len() as u32).to_be_bytes());
                        frames.extend_from_slice(payload);
                        match self {
                            Self::Commits => answer.committed += 1,
                            Self::Rejects => answer.rejected += 1,
                            Self::Closes(code) => {
                                answer.committed += 1;
                                stream.write_all(encode_closing("enough", code, answer).as_slice()).unwrap();
                                stream.shutdown(Shutdown::Write).unwrap();
                                while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
                                return events_of(&frames);
                            }
                        }
                    }
                    Step::Oversize { .. } => panic!("no such frame is sent"),
                }
            }
            kept = unread.to_vec();
        }
    }
}

/// Files in a folder of their own, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("corelane-send-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn send(arguments: &[&str]) -> Result<(), Failure> {
    let arguments = ["send"].iter().chain(arguments);
    run(Command::try_parse_from(arguments).unwrap().args)
}

/// The text of a failure with this exit code.
fn failure(arguments: &[&str], exit_code: u8) -> String {
    let failure = send(arguments).unwrap_err();
    assert_eq!(failure.exit_code(), exit_code, "{failure}");
    failure.to_string()
}

/// An address that nothing listens on: whoever connects to it fails with exit code 1, not 2.
const NOWHERE: &str = "127.0.0.1:1";

#[test]
fn every_file_goes_over_its_own_connection() {
    let folder = Folder::new("files");
    let csv = folder.file("pump.csv", "time,x\n1,2\n2,3\n");
    let ndjson = folder.file("log", "{\"id\":\"n\",\"timestamp\":5,\"telemetry\":[]}\n");
    let (address, server) = Server::Commits.start(2);
    send(&["--to", &address, &csv, &ndjson]).unwrap();
    let mut connections = server.join().unwrap();
    connections.sort();
    assert_eq!(connections, [vec!["n@5"], vec!["pump@1000000000 x=2", "pump@2000000000 x=3"]]);
}

#[test]
fn more_files_than_connections_all_arrive() {
    let folder = Folder::new("many");
    let files: Vec<_> = (0..CONNECTIONS_MAX + 9).map(|n| folder.file(&format!("{n}.csv"), "time,x\n1,2\n")).collect();
    let (address, server) = Server::Commits.start(files.len());
    let mut arguments = vec!["--to", &address];
    arguments.extend(files.iter().map(String::as_str));
    send(&arguments).unwrap();
    let mut events: Vec<_> = server.join().unwrap().concat();
    let mut expected: Vec<_> = (0..files.len()).map(|n| format!("{n}@1000000000 x=2")).collect();
    events.sort();
    expected.sort();
    assert_eq!(events, expected);
}

#[test]
fn a_file_of_many_batches_arrives_whole() {
    let folder = Folder::new("batches");
    let rows: String = (0..20_000).map(|n| format!("{n},{n}\n")).collect();
    let file = folder.file("big.csv", format!("time,x\n{rows}"));
    let (address, server) = Server::Commits.start(1);
    send(&["--to", &address, &file]).unwrap();
    let events = &server.join().unwrap()[0];
    assert_eq!(events.len(), 20_000);
    assert_eq!(events[19_999], "big@19999000000000 x=19999");
}

#[test]
fn flags_reach_the_reader() {
    let folder = Folder::new("flags");
    let file = folder.file("a.txt", "when:who:x:y\n1:p:2:3\n");
    let (address, server) = Server::Commits.start(1);
    let flags = ["--delimiter", ":", "--time-column", "when", "--time-format", "ms", "--id-column", "who"];
    let more = ["--ignore-column", "y", "--format", "csv", "--quiet", "--rate", "1000", "--to", &address, &file];
    send(&[&flags[..], &more].concat()).unwrap();
    assert_eq!(server.join().unwrap(), [["p@1000000 x=2"]]);
}

#[test]
fn a_rate_is_kept() {
    let folder = Folder::new("rate");
    let file = folder.file("a.csv", "time,x\n1,1\n2,2\n3,3\n4,4\n5,5\n6,6\n");
    let (address, server) = Server::Commits.start(1);
    let started = Instant::now();
    send(&["--to", &address, "--rate", "50", &file]).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(100), "5 waits of 20 ms");
    assert_eq!(server.join().unwrap()[0].len(), 6);
}

#[test]
fn a_fault_in_any_file_is_found_before_anything_is_sent() {
    let folder = Folder::new("faults");
    let good = folder.file("good.csv", "time,x\n1,2\n");
    let bad = folder.file("bad.csv", "a,b\n1,2\n");
    let empty = folder.file("empty.csv", "");
    let text = failure(&["--to", NOWHERE, &good, "/nowhere/a.csv"], 2);
    assert!(text.contains("/nowhere/a.csv") && text.contains("check the path"), "{text}");
    let text = failure(&["--to", NOWHERE, &good, &bad], 2);
    assert!(text.contains("bad.csv:1: no time column"), "{text}");
    assert!(failure(&["--to", NOWHERE, &empty], 2).contains("empty.csv:1"));
    assert!(failure(&["--to", NOWHERE, "--id", "", &good], 2).contains("the id is empty"));
    assert!(failure(&["--to", NOWHERE, "--id", &"x".repeat(257), &good], 2).contains("256"));
    assert!(failure(&["--to", NOWHERE, "-", "-"], 2).contains("twice"));
    let ndjson = folder.file("a.ndjson", "");
    assert!(failure(&["--to", NOWHERE, "--delimiter", ";", &ndjson], 2).contains("for CSV"));
}

#[test]
fn a_bad_row_fails_and_what_came_before_it_is_committed() {
    let folder = Folder::new("row");
    let file = folder.file("a.csv", "time,x\n1,2\n2,3\n3,oops\n");
    let (address, server) = Server::Commits.start(1);
    let text = failure(&["--to", &address, &file], 1);
    assert!(text.contains("a.csv:4: column \"x\": \"oops\"") && text.contains("the 2 events before it"), "{text}");
    assert_eq!(server.join().unwrap()[0].len(), 2);
}

#[test]
fn a_rejected_event_is_a_failure() {
    let folder = Folder::new("rejected");
    let file = folder.file("a.csv", "time,x\n1,2\n2,3\n");
    let (address, server) = Server::Rejects.start(1);
    assert!(failure(&["--to", &address, &file], 1).contains("rejected 2 of 2 events"));
    server.join().unwrap();
}

#[test]
fn a_close_says_why_and_where_to_go_on() {
    let folder = Folder::new("closed");
    let file = folder.file("a.csv", "time,x\n1,2\n2,3\n3,4\n");
    for (code, expected) in [("shutdown", "send again from row 2"), ("oversize", "row 1 or the one after it")] {
        let (address, server) = Server::Closes(code).start(1);
        let text = failure(&["--to", &address, &file], 1);
        assert!(text.contains(code) && text.contains("enough") && text.contains(expected), "{text}");
        server.join().unwrap();
    }
}

#[test]
fn a_close_is_noticed_while_a_pipe_is_silent() {
    let (reader, mut pipe) = io::pipe().unwrap();
    pipe.write_all(b"time,x\n1,2\n").unwrap();
    let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let (address, server) = Server::Closes("max_age").start(1);
    let text = failure(&["--to", &address, "--id", "a", &path], 1);
    assert!(text.contains("max_age"), "{text}");
    assert_eq!(server.join().unwrap(), [["a@1000000000 x=2"]]);
    drop(pipe);
}

#[test]
fn one_closed_port_is_told_once() {
    let folder = Folder::new("port");
    let files = ["a.csv", "b.csv"].map(|name| folder.file(name, "time,x\n1,2\n"));
    let text = failure(&["--to", NOWHERE, &files[0], &files[1]], 1);
    assert!(text.contains(NOWHERE) && text.lines().count() == 1, "{text}");
}

#[test]
fn this_host_sends_what_it_was_asked_for() {
    let (address, server) = Server::Commits.start(1);
    send(&["--to", &address, "--host", "--id", "me", "--interval", "20ms", "--count", "3"]).unwrap();
    let events = &server.join().unwrap()[0];
    assert_eq!(events.len(), 3);
    assert!(events.iter().all(|event| event.starts_with("me@") && event.contains(" cpu_busy_percent=")), "{events:?}");
}

#[test]
fn the_summary_counts_everything() {
    let outcome = Outcome { events: 22_695, points: 22_695, committed: 22_695, ..Outcome::default() };
    assert_eq!(
        summary(&outcome, "1 file", Duration::from_millis(312)),
        "sent 22695 events (22695 points) from 1 file in 0.3 s: 22695 committed, 0 rejected, 0 empty cells skipped"
    );
}

#[test]
fn an_answer_for_fewer_events_is_a_failure() {
    let mut outcome = Outcome { events: 3, ..Outcome::default() };
    outcome.settle("a.csv", Ok(Answer { committed: 1, rejected: 1 }));
    assert_eq!(outcome.errors, ["a.csv: the server answered for 2 of 3 events"]);
}

#[test]
fn wrong_usage_is_refused() {
    for arguments in [
        &["a.csv"][..],
        &["--to", NOWHERE],
        &["--to", "localhost", "a.csv"],
        &["--to", "localhost:0", "a.csv"],
        &["--to", ":7600", "a.csv"],
        &["--to", NOWHERE, "--host", "a.csv"],
        &["--to", NOWHERE, "a.csv", "--count", "1"],
        &["--to", NOWHERE, "a.csv", "--id", "a", "--id-column", "b"],
        &["--to", NOWHERE, "a.csv", "--delimiter", ",,"],
        &["--to", NOWHERE, "a.csv", "--delimiter", "\""],
        &["--to", NOWHERE, "a.csv", "--rate", "0"],
        &["--to", NOWHERE, "--host", "--interval", "0s"],
        &["--to", NOWHERE, "--host", "--interval", "soon"],
    ] {
        assert!(Command::try_parse_from(["send"].iter().chain(arguments)).is_err(), "{arguments:?}");
    }
    assert_eq!(parse_delimiter("tab"), Ok(b'\t'));
    assert_eq!(parse_interval("1m30s"), Ok(Duration::from_secs(90)));
}
