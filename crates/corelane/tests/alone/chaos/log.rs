//! Attacks on the log: peers that cause lines, a stderr that nobody reads, that is closed, or whose disk is full; and
//! more signals than the server can act on.

use std::fs::{self, File, OpenOptions};
use std::io::PipeReader;
use std::path::Path;
use std::process::Stdio;

use rustix::io::ioctl_fionbio;
use rustix::process::Signal;

use super::*;

/// Peers whose first bytes are not a frame, one after the other; each is a security event.
fn greet_wrongly(server: &Server, count: usize) {
    for _ in 0..count {
        let mut stream = TcpStream::connect(server.listen).unwrap();
        stream.write_all(&[0xff; 4]).unwrap();
        // Its FIN, or a reset.
        let _ = stream.read(&mut [0; 16]);
    }
}

fn dropped(server: &Server) -> u64 {
    server.metrics().count("corelane_log_lines_dropped_total", &[])
}

/// Attacks a server whose log goes to `stderr` until lines are dropped, and stops it. Returns an honest peer's share of
/// its throughput, the lines dropped, and how long the stop took.
fn attack(stderr: Stdio) -> (f64, u64, Duration) {
    let server = Server::spawn_logging_to(&mut Server::command(BINARY, &[]), stderr);
    let before = honest_before(&server);
    let over = AtomicBool::new(false);
    let share = scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                greet_wrongly(&server, 1);
                // More would be an attack on the core, not on the log.
                sleep(Duration::from_millis(10));
            }
        });
        let share = honest_share(&server, scaled(8, 2), before);
        over.store(true, Ordering::Relaxed);
        share
    });
    assert_eq!(server.get("/healthz").status, 200);
    let dropped = dropped(&server);
    let start = Instant::now();
    assert_eq!(server.terminate().status.code(), Some(0), "stops in order");
    (share, dropped, start.elapsed())
}

/// A pipe without room.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    ioctl_fionbio(&writer, false).unwrap();
    (reader, writer.into())
}

fn holds(attack: &str, share: f64, dropped: u64, stop: Duration) {
    figure(
        attack,
        &format!(
            "an honest peer keeps {share:.2} of its throughput, {dropped} lines dropped; SIGTERM: exit 0 after {stop:.1?}"
        ),
    );
    assert!(share >= SHARE_MIN, "{share}");
    assert!(stop < Duration::from_secs(5), "{stop:?}");
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let _turn = turn();
    let (_reader, writer) = full_pipe();
    let (share, dropped, stop) = attack(writer);
    holds("stderr is a full pipe that nobody reads", share, dropped, stop);
}

#[test]
fn a_log_whose_reader_is_gone_stops_nothing() {
    let _turn = turn();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let (share, dropped, stop) = attack(writer.into());
    assert!(dropped > 0);
    holds("the reader of stderr is gone", share, dropped, stop);
}

/// A file system of 64 KiB, unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k", "corelane-chaos"]).arg(directory.path());
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_stops_nothing_and_the_log_goes_on_when_there_is_room() {
    let _turn = turn();
    let Some(disk) = SmallDisk::mount() else { return println!("SKIPPED: this user may not mount a file system") };
    let (log, filler) = (disk.path().join("log"), disk.path().join("filler"));
    // No room is left, not even in the page that the log is in.
    let file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
    let mut rest = File::create(&filler).unwrap();
    while rest.write(&[0; 4096]).is_ok_and(|bytes| bytes > 0) {}
    let server = Server::spawn_logging_to(&mut Server::command(BINARY, &[]), file.into());
    let before = honest_before(&server);
    greet_wrongly(&server, scaled(2_000, 20));
    wait_until("a line is dropped", || dropped(&server) > 0);
    let share = honest_share(&server, scaled(8, 2), before);
    let start = Instant::now();
    while is_full() && start.elapsed() < Duration::from_secs(5) {
        greet_wrongly(&server, 1);
        sleep(Duration::from_millis(10));
    }
    fs::remove_file(&filler).unwrap();
    drop(rest);
    let told = || fs::read_to_string(&log).unwrap();
    wait_until("the log goes on", || told().contains("log lines were dropped"));
    let lines = dropped(&server);
    let start = Instant::now();
    assert_eq!(server.terminate().status.code(), Some(0));
    assert!(told().contains("\"message\":\"stopped\""), "{}", told());
    holds("the disk of the log is full", share, lines, start.elapsed());
}

/// A TLS hello for a host of this name, which is not a valid one.
fn hello(name: &[u8]) -> Vec<u8> {
    let long = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let entry = [&[0][..], &long(name)].concat();
    let extension = [&[0, 0][..], &long(&long(&entry))].concat();
    let start = [&[3, 3][..], &[7; 32], &[0], &long(&[0x13, 1]), &[1, 0]].concat();
    let body = [start, long(&extension)].concat();
    let message = [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    message.chunks(16_000).flat_map(|part| [&[22, 3, 1][..], &long(part)].concat()).collect()
}

#[test]
fn tls_garbage_writes_no_log_of_its_own() {
    let _turn = turn();
    let authority = Authority::new("fleet");
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.issue("localhost").write(directory.path(), "server");
    let [certificate, key] = [certificate, key].map(|path| path.to_str().unwrap().to_owned());
    let server = Server::start(BINARY, &["--tls-cert", &certificate, "--tls-key", &key]);
    let mut bad_name = hello(&[1; 15_000]);
    // Behind the hello something that is not TLS, so that the connection ends at once.
    bad_name.extend([0xff; 64]);
    let garbage: [&[u8]; 4] =
        [&bad_name, &hello(b"a..b\x9b2J"), &[22, 3, 1, 0, 4, 1, 0, 0, 0], &[21, 3, 3, 0, 2, 2, 255]];
    let count = scaled(3_000, 25);
    let start = Instant::now();
    scope(|scope| {
        for bytes in garbage {
            let server = &server;
            scope.spawn(move || {
                for _ in 0..count {
                    let mut stream = TcpStream::connect(server.listen).unwrap();
                    // The server may have closed it meanwhile.
                    let _ = stream.write_all(bytes);
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                    while stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {}
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    server.wait_metrics("all have ended", |metrics| metrics.connections() == 0);
    let log = server.stderr();
    let longest = log.lines().map(str::len).max().unwrap_or(0);
    let (lines, bytes) = (log.lines().count(), log.len());
    figure(
        &format!(
            "{} connections that send TLS garbage and bad names, {:.0} a second",
            4 * count,
            4.0 * count as f64 / seconds
        ),
        &format!("{lines} log lines, {bytes} bytes, the longest {longest}"),
    );
    // A line a second for each kind of security event, of which there are two here; and the server's own few.
    assert!(lines as f64 <= 2.0 * (seconds + 2.0) + 5.0, "{lines} lines in {seconds:.1} s:\n{log}");
    assert!(longest <= 4096, "{longest}");
    assert!(!log.contains("SNI") && !log.contains("hostname"), "{log}");
}

#[test]
fn hangups_do_not_delay_the_stop() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("corelane.toml");
    fs::write(&file, "allow = [\"127.0.0.0/8\"]\n").unwrap();
    let server = Server::start(BINARY, &["--config", file.to_str().unwrap()]);
    let count = scaled(13_000, 1_000);
    for _ in 0..count {
        server.signal(Signal::HUP);
        // Else the kernel merges them before the server knows.
        std::thread::yield_now();
    }
    let reloads = || server.stderr().matches("address rules read again").count();
    wait_until("the last of them is acted on", || reloads() > 0);
    let start = Instant::now();
    let ended = server.terminate();
    let stop = start.elapsed();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let reloads = ended.stderr.matches("address rules read again").count();
    figure(
        &format!("{count} SIGHUPs, then SIGTERM"),
        &format!("{reloads} lines about reloads, exit 0 after {stop:.1?}"),
    );
    assert!(stop < Duration::from_secs(2), "{stop:?}");
}
