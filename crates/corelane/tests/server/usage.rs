//! Wrong usage: one clear line that says what, where and how to mend it, and the exit code.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use corelane_testkit::server::command;
use corelane_testkit::{Server, host};

use crate::BINARY;

/// `serve` on free ports, which a wrong setting keeps from starting.
fn serve(flags: &[&str]) -> Command {
    let mut serve = command(BINARY);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]).args(flags);
    serve
}

/// Runs a command that has to fail with this code, and returns what it says: one line after `error:`.
fn refusal(command: &mut Command, code: i32) -> String {
    let Output { status, stdout, stderr } = command.env("RUST_BACKTRACE", "1").output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{command:?}: {stderr}");
    assert!(stdout.is_empty(), "{command:?}: {}", String::from_utf8_lossy(&stdout));
    assert!(!stderr.contains("backtrace") && !stderr.contains("panicked"), "{stderr}");
    stderr
}

/// [`refusal`] in one line that has all of `parts`.
fn assert_refused(command: &mut Command, code: i32, parts: &[&str]) {
    let stderr = refusal(command, code);
    let lines: Vec<&str> = stderr.lines().collect();
    let [line] = lines[..] else { panic!("one line, not: {stderr}") };
    assert!(line.starts_with("error: "), "{line}");
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
}

fn file_with(directory: &Path, text: &str) -> String {
    let path = directory.join("corelane.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_used_port_is_refused_with_its_flag() {
    let server = Server::start(BINARY, &[]);
    let (listen, control) = (server.listen.to_string(), server.control.to_string());
    let mend = "another process serves it";
    let mut second = command(BINARY);
    second.args(["serve", "--listen", &listen, "--control", "127.0.0.1:0"]);
    assert_refused(&mut second, 1, &["--listen", &listen, mend]);
    let mut second = command(BINARY);
    second.args(["serve", "--listen", "127.0.0.1:0", "--control", &control]);
    assert_refused(&mut second, 1, &["--control", &control, mend]);

    // Also one that is held by something else.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let mut second = command(BINARY);
    second.args(["serve", "--listen", &address, "--control", "127.0.0.1:0"]);
    assert_refused(&mut second, 1, &["--listen", &address, mend]);

    // The one that was there first is none the worse for it.
    let mut peer = server.connect();
    peer.send(&corelane_testkit::frames::event("device", 1));
    assert_eq!(peer.commit().committed, 1);
    server.assert_accounted(1);
}

#[test]
fn an_unknown_flag_or_command_is_refused() {
    let stderr = refusal(&mut serve(&["--lisen", "127.0.0.1:1"]), 2);
    assert!(stderr.starts_with("error: ") && stderr.contains("'--lisen'") && stderr.contains("'--listen'"), "{stderr}");
    let stderr = refusal(command(BINARY).arg("server"), 2);
    assert!(stderr.starts_with("error: ") && stderr.contains("serve"), "{stderr}");
    let stderr = refusal(command(BINARY).args(["send", "--to", "127.0.0.1:1"]), 2);
    assert!(stderr.starts_with("error: ") && stderr.contains("FILE"), "{stderr}");
}

#[test]
fn a_key_that_does_not_exist_is_refused_with_file_line_and_the_nearest() {
    let directory = tempfile::tempdir().unwrap();
    let file = file_with(directory.path(), "# a comment\npool_bytes = \"64MiB\"\nidle_timout = \"5m\"\n");
    let parts = [&file[..], ":3", "idle_timout", "unknown key", "did you mean `idle_timeout`?"];
    assert_refused(&mut serve(&["--config", &file]), 2, &parts);
    // Whoever names the file, and whoever reads it.
    assert_refused(serve(&[]).env("CORELANE_CONFIG", &file), 2, &parts);
    assert_refused(command(BINARY).args(["check", &file]), 2, &parts);

    let file = file_with(directory.path(), "pool_bytes = \n");
    assert_refused_on_lines(&mut serve(&["--config", &file]), &[&file, "not valid TOML"]);
    let missing = directory.path().join("missing.toml");
    let missing = missing.to_str().unwrap();
    assert_refused(&mut serve(&["--config", missing]), 2, &[missing, "No such file", "--config"]);
}

/// A refusal that quotes a line of a file below it.
fn assert_refused_on_lines(command: &mut Command, parts: &[&str]) {
    let stderr = refusal(command, 2);
    assert!(stderr.starts_with("error: "), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
    }
}

#[test]
fn a_bad_value_is_refused_with_the_place_that_it_comes_from() {
    let directory = tempfile::tempdir().unwrap();
    for (key, value, mend) in [
        ("pool_bytes", "lots", "64MiB"),
        ("pool_bytes", "4KiB", "give at least"),
        ("max_connections", "0", "from 1 to"),
        ("max_connections", "-5", "from 1 to"),
        ("frame_timeout", "10", "write a number and a unit"),
        ("frame_timeout", "0", "write"),
        ("idle_timeout", "soon", "write a number and a unit"),
        ("log_format", "xml", "text or json"),
        ("cores", "zero", "0-3,8"),
        ("cores", "3-1", "0-3,8"),
        ("cores", "0,0", "twice"),
        ("control", "nowhere", "HOST:PORT"),
        ("backlog", "65536", "from 1 to 65535"),
    ] {
        let flag = format!("--{}", key.replace('_', "-"));
        // `=`, since one value looks like a flag.
        let mut wrong = command(BINARY);
        assert_refused(wrong.args(["serve", &format!("{flag}={value}")]), 2, &[&flag, mend]);
        let variable = format!("CORELANE_{}", key.to_uppercase());
        assert_refused(command(BINARY).arg("serve").env(&variable, value), 2, &[&variable, mend]);
        let file = file_with(directory.path(), &format!("\n{key} = \"{value}\"\n"));
        let mut wrong = command(BINARY);
        assert_refused(wrong.args(["serve", "--config", &file]), 2, &[&file, ":2", key, mend]);
    }
}

#[test]
fn a_core_that_does_not_exist_is_refused_with_those_that_do() {
    let allowed = host::allowed_cores();
    let parts = ["core 4095", "choose among", &allowed[0].to_string()];
    assert_refused(&mut serve(&["--cores", "4095"]), 2, &[&["--cores"][..], &parts].concat());
    assert_refused(&mut serve(&["--control-core", "4095"]), 2, &[&["--control-core"][..], &parts].concat());
    assert_refused(serve(&[]).env("CORELANE_CORES", "4095"), 2, &[&["CORELANE_CORES"][..], &parts].concat());
}

#[test]
fn too_few_descriptors_are_refused_with_the_number_to_set() {
    let limited = |limit: u32, flags: &str| {
        let mut shell = command("sh");
        let serve = "serve --listen 127.0.0.1:0 --control 127.0.0.1:0 --log-format json";
        shell.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" {serve} {flags}"), BINARY]);
        shell
    };
    assert_refused(&mut limited(100, ""), 2, &["may open 100", "ulimit -n"]);
    // A stated number has to fit.
    assert_refused(
        &mut limited(1_000, "--max-connections 900"),
        2,
        &["--max-connections", "may open 1000", "ulimit -n"],
    );
    // The default is lowered, with one warning, and then holds.
    let cores = host::cores_for(1).unwrap();
    let server = Server::spawn(&mut limited(400, &format!("--cores {cores}")));
    let warnings = server.stderr();
    assert_eq!(warnings.lines().filter(|line| line.contains("--max-connections")).count(), 1, "{warnings}");
    let mut peers: Vec<_> = (0..300).map(|_| server.connect()).collect();
    let metrics = server.wait_metrics("all are accepted or refused", |metrics| {
        metrics.count("corelane_connections_accepted_total", &[]) == 300
    });
    let refused = metrics.closed_for("refused");
    assert_eq!((metrics.connections() + refused, metrics.closed()), (300, refused));
    assert!(refused > 0, "300 do not fit 400 descriptors");
    // Those that are in are served; the others see the end.
    let mut sent = 0;
    for peer in &mut peers {
        if !peer.has_reply() {
            peer.send(&corelane_testkit::frames::event("device", 1));
            assert_eq!(peer.commit().committed, 1);
            sent += 1;
        }
    }
    assert_eq!(sent, metrics.connections());
    server.assert_accounted(sent);
}

#[test]
fn input_that_does_not_exist_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.csv");
    let missing = missing.to_str().unwrap();
    // Before anything is sent, so that no server is needed.
    assert_refused(command(BINARY).args(["send", "--to", "127.0.0.1:1", missing]), 2, &[missing, "No such file"]);
    assert_refused(command(BINARY).args(["decode", missing]), 2, &[missing, "No such file"]);
    assert_refused(command(BINARY).args(["check", missing]), 2, &[missing, "No such file"]);
    // And no server is a failure, not wrong usage.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let present = directory.path().join("present.csv");
    fs::write(&present, "timestamp,value\n2024-01-01 00:00:00,1\n").unwrap();
    let mut send = command(BINARY);
    send.args(["send", "--quiet", "--to", &free]).arg(&present);
    let Output { status, stderr, .. } = send.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.contains(&free), "{stderr}");
}
