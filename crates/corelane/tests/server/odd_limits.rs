//! A start under limits that nobody meant: one line that names what is missing and what to do, never an abort.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use corelane_testkit::server::command;
use corelane_testkit::{Server, frames, wait_until};

use crate::BINARY;

/// `serve` on free ports behind a command that changes what it may do.
fn serve_behind(program: &str, arguments: &[&str]) -> Command {
    let serve = Server::command(BINARY, &[]);
    let mut behind = command(program);
    behind.args(arguments).arg(serve.get_program()).args(serve.get_args());
    behind
}

/// Runs a shell's commands, then `serve` in its place.
fn serve_after(commands: &str) -> Command {
    serve_behind("bash", &["-c", &format!("{commands} && exec \"$0\" \"$@\"")])
}

/// `serve` without some system calls, by their numbers on x86-64; they fail with EPERM.
fn serve_without(calls: &str) -> Command {
    // BPF: load the number, compare it with each, return ALLOW or ERRNO | EPERM (seccomp(2)).
    const SCRIPT: &str = "import ctypes, os, struct, sys\n\
        calls = [int(call) for call in sys.argv[1].split(',')]\n\
        code = [struct.pack('HBBI', 0x20, 0, 0, 0)]\n\
        code += [struct.pack('HBBI', 0x15, len(calls) - i, 0, call) for i, call in enumerate(calls)]\n\
        code += [struct.pack('HBBI', 0x06, 0, 0, 0x7fff0000), struct.pack('HBBI', 0x06, 0, 0, 0x00050001)]\n\
        text = ctypes.create_string_buffer(b''.join(code))\n\
        program = struct.pack('HxxxxxxP', len(code), ctypes.addressof(text))\n\
        libc = ctypes.CDLL(None)\n\
        assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0\n\
        os.execv(sys.argv[2], sys.argv[2:])\n";
    serve_behind("python3", &["-c", SCRIPT, calls])
}

/// The one line of a start that is refused.
fn refusal(command: &mut Command, code: i32) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(code), "{command:?}: {status}: {stderr}");
    assert!(stdout.is_empty() && stderr.starts_with("error: "), "{command:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{command:?}: {stderr}");
    stderr
}

fn assert_refused(command: &mut Command, parts: &[&str]) {
    let line = refusal(command, 1);
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
}

#[test]
fn too_little_memory_is_refused_with_the_limit_that_is_enough() {
    for (flag, name, limits) in [
        ("-v", "address space", [60_000, 120_000, 180_000, 250_000, 400_000]),
        ("-d", "data segment", [50_000, 70_000, 100_000, 150_000, 200_000]),
    ] {
        let mut enough = String::new();
        for kib in limits {
            let line = refusal(&mut serve_after(&format!("ulimit {flag} {kib}")), 1);
            assert!(line.contains(&format!("the limit of the {name} is {kib} KiB")), "{line}");
            let (_, rest) = line.split_once(&format!("`ulimit {flag} ")).unwrap();
            enough = rest.split_once('`').unwrap().0.to_owned();
        }
        let server = Server::spawn(&mut serve_after(&format!("ulimit {flag} {enough}")));
        let mut peer = server.connect();
        peer.send(&frames::event("device", 1));
        assert_eq!(peer.commit().committed, 1);
        assert!(!server.sensors_of("device").is_empty());
        assert_eq!(server.terminate().status.code(), Some(0));
    }
}

#[test]
fn an_allocation_that_fails_is_an_error_and_not_an_abort() {
    // The program itself hardly fits, so that it depends on the host where it ends.
    for kib in [20_000, 24_000, 28_000, 32_000] {
        let Output { status, stderr, .. } = serve_after(&format!("ulimit -v {kib}")).output().unwrap();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        // 126 and 127: the shell or the loader could not even begin.
        assert!([1, 126, 127].map(Some).contains(&status.code()), "{kib} KiB: {status}: {stderr}");
    }
}

#[test]
fn a_call_that_a_policy_forbids_is_named() {
    let policy = "look at the seccomp profile";
    for (calls, parts) in [
        ("203", &["a thread cannot be pinned", "permits sched_setaffinity"][..]),
        ("426", &["io_uring is not available", "Operation not permitted", "io_uring_enter"]),
        ("56,435", &["threads cannot be started", "permits clone"]),
        ("49", &["--listen 127.0.0.1:0: bind: ", policy]),
        ("50", &["--listen 127.0.0.1:0: listen: ", policy]),
        ("54", &["--listen 127.0.0.1:0: setsockopt: ", policy]),
    ] {
        assert_refused(&mut serve_without(calls), parts);
    }
}

#[test]
fn too_few_threads_are_refused() {
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED: only root can become a user that has no other process");
    }
    // Another user has to reach the binary.
    let directory = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let binary = directory.path().join("corelane");
    fs::copy(BINARY, &binary).unwrap();
    let mut serve = command("setpriv");
    serve.args(["--reuid", "4242", "--regid", "4242", "--clear-groups", "bash", "-c"]);
    serve.arg("ulimit -u 4 && exec \"$0\" \"$@\"").arg(binary).args(Server::command(BINARY, &[]).get_args());
    assert_refused(&mut serve, &["threads cannot be started", "ulimit -u"]);
}

#[test]
fn a_hidden_sys_is_refused() {
    let hide = "mount -t tmpfs none /sys";
    if !command("unshare").args(["--mount", "sh", "-c", hide]).output().is_ok_and(|output| output.status.success()) {
        return println!("SKIPPED: this user may not mount a file system");
    }
    let serve = format!("{hide} && exec \"$0\" \"$@\"");
    assert_refused(
        &mut serve_behind("unshare", &["--mount", "sh", "-c", &serve]),
        &["cannot be read from /sys", "mount sysfs"],
    );
}

#[test]
fn a_file_without_end_is_refused() {
    let mut serve = Server::command(BINARY, &["--config", "/dev/zero"]);
    assert!(refusal(&mut serve, 2).contains("/dev/zero: is longer than 1048576 bytes"));
    assert!(refusal(command(BINARY).args(["check", "/dev/zero"]), 2).contains("is longer than"));
    for flag in ["--control-token-file", "--tls-client-ca"] {
        let mut serve = Server::command(BINARY, &[flag, "/dev/zero"]);
        if flag == "--tls-client-ca" {
            serve.args(["--tls-cert", "/dev/zero", "--tls-key", "/dev/zero"]);
        }
        assert!(refusal(&mut serve, 2).contains("/dev/zero: is not a regular file"));
    }
}

#[test]
fn a_configuration_from_a_pipe_is_read_once_and_delays_no_stop() {
    let serve = Server::command(BINARY, &[]);
    let mut shell = command("bash");
    shell
        .args(["-c", "exec \"$0\" \"$@\" --config <(echo 'max_series = 100')"])
        .arg(serve.get_program())
        .args(serve.get_args());
    let server = Server::spawn(&mut shell);
    server.signal(rustix::process::Signal::HUP);
    wait_until("it is refused", || server.stderr().contains("not a regular file"));
    assert_eq!(server.terminate().status.code(), Some(0));
}
