//! `corelane top` on a terminal of its own: it starts, shows the server's numbers, outlives the server, and leaves the
//! terminal as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Child, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::spawn;

use corelane_testkit::server::command;
use corelane_testkit::{Server, frames, host, wait_for, wait_until};
use rcgen::generate_simple_self_signed;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::BINARY;

/// A terminal with `corelane top` on it.
struct Terminal {
    top: Child,
    ours: File,
    theirs: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
    before: String,
}

impl Terminal {
    fn start(flags: &[&str]) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let (rows, columns) = (40, 150);
        tcsetwinsize(&theirs, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let before = settings(&theirs);
        let stream = || Stdio::from(theirs.try_clone().unwrap());
        let mut top = command(BINARY);
        top.args(["top", "--interval", "200ms"]).args(flags).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let top = top.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows.try_into().unwrap(), columns.try_into().unwrap(), 0)));
        let ours = File::from(ours);
        let (mut reader, target) = (ours.try_clone().unwrap(), Arc::clone(&screen));
        spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = reader.read(&mut bytes) {
                target.lock().unwrap().process(&bytes[..count]);
            }
        });
        Self { top, ours, theirs, screen, before }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until the screen has a line with all these parts.
    fn wait(&self, parts: &[&str]) {
        let shown = || self.text().lines().any(|line| parts.iter().all(|part| line.contains(part)));
        let guard = Shown(self);
        wait_until(&format!("{parts:?} on the screen"), shown);
        std::mem::forget(guard);
    }

    fn press(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the end, and checks that nothing of it is left on the terminal.
    fn assert_left_clean(mut self) {
        let status = wait_for("top ends", || self.top.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{}", self.text());
        wait_until("the screen of before is back", || !self.screen.lock().unwrap().screen().alternate_screen());
        let screen = self.screen.lock().unwrap();
        assert!(!screen.screen().hide_cursor() && screen.screen().contents().trim().is_empty());
        assert_eq!(settings(&self.theirs), self.before, "echo, lines, signals");
    }
}

struct Shown<'t>(&'t Terminal);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        eprintln!("the screen shows:\n{}", self.0.text());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.top.kill();
        let _ = self.top.wait();
    }
}

fn settings(terminal: &OwnedFd) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}

fn start_at(control: &str) -> Server {
    let cores = host::cores_for(1).unwrap();
    let mut serve = command(BINARY);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--control", control, "--log-format", "json", "--cores", &cores]);
    Server::spawn(&mut serve)
}

#[test]
fn top_shows_the_servers_numbers_and_outlives_it() {
    let control = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let server = start_at(&control);
    let mut peer = server.connect();
    (1..=1_234).for_each(|time| peer.send(&frames::small_event("pump \u{1b}[2J 7", "rpm", time, 12.5)));
    peer.send(&frames::frame(&[0xff]));
    peer.commit();
    let mut terminal = Terminal::start(&["--control", &control]);
    terminal.wait(&["corelane", &control, "live"]);
    terminal.wait(&["accepting"]);
    terminal.wait(&["malformed", "1"]);
    // The sensor's name is shown, and commands nothing.
    terminal.wait(&["pump ?[2J 7", "rpm", "12.50", "1,234"]);

    terminal.press("/rp");
    terminal.wait(&["search: rp"]);
    terminal.press("m\r");
    terminal.wait(&["Sensors", "with “rpm”"]);
    terminal.press("p");
    terminal.wait(&["paused"]);
    terminal.press("p");
    terminal.wait(&["live"]);

    assert_eq!(server.terminate().status.code(), Some(0));
    terminal.wait(&["no answer since "]);
    let server = start_at(&control);
    terminal.wait(&["corelane", "live"]);
    assert_eq!(server.metrics().accepted(), 0);
    terminal.press("q");
    terminal.assert_left_clean();
}

#[test]
fn ctrl_c_and_a_signal_leave_the_terminal_as_it_was() {
    let server = Server::start(BINARY, &[]);
    let control = server.control.to_string();
    let mut terminal = Terminal::start(&["--control", &control]);
    terminal.wait(&["live"]);
    terminal.press("\u{3}");
    terminal.assert_left_clean();

    let terminal = Terminal::start(&["--control", &control]);
    terminal.wait(&["live"]);
    kill_process(Pid::from_child(&terminal.top), Signal::TERM).unwrap();
    terminal.assert_left_clean();
}

#[test]
fn top_gets_through_a_certificate_and_a_token() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let pair = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(path("tls.crt"), pair.cert.pem()).unwrap();
    std::fs::write(path("tls.key"), pair.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("token"), "s3cret\n").unwrap();
    let (certificate, key, token) = (path("tls.crt"), path("tls.key"), path("token"));
    let server = Server::start(
        BINARY,
        &["--control-tls-cert", &certificate, "--control-tls-key", &key, "--control-token-file", &token],
    );
    let control = format!("https://{}", server.control);
    let mut terminal = Terminal::start(&["--control", &control, "--control-ca", &certificate]);
    terminal.wait(&["no answer since ", "--control-token-file"]);
    terminal.press("q");
    terminal.assert_left_clean();
    let mut terminal =
        Terminal::start(&["--control", &control, "--control-ca", &certificate, "--control-token-file", &token]);
    terminal.wait(&[&control, "live"]);
    terminal.press("q");
    terminal.assert_left_clean();
}

#[test]
fn top_without_a_terminal_or_with_wrong_files_says_what_to_do() {
    let said = |flags: &[&str]| {
        let Output { status, stdout, stderr } = command(BINARY).arg("top").args(flags).output().unwrap();
        assert_eq!((status.code(), stdout.len()), (Some(2), 0));
        String::from_utf8(stderr).unwrap()
    };
    assert!(said(&[]).contains("/api/v1/stats"));
    assert!(
        said(&["--control-token-file", "/no/such/file"]).contains("--control-token-file: cannot read /no/such/file")
    );
    assert!(said(&["--control", "https://127.0.0.1:1"]).contains("--control-ca"));
    assert!(said(&["--interval", "1ms"]).contains("200ms to 1m"));
}
