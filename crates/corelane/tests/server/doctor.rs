//! `doctor` on this machine, and `serve` where it would fail.

use std::process::{Command, Output};

use corelane_testkit::server::command;
use corelane_testkit::{Server, host};
use serde_json::Value;

use crate::BINARY;

/// A command of corelane under a limit of the shell's `ulimit`.
fn limited(limit: &str, arguments: &str) -> Command {
    let mut shell = command("sh");
    shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" {arguments}"), BINARY]);
    shell
}

/// The report in JSON and the exit code that goes with it.
fn report(command: &mut Command) -> (Value, i32) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let report = serde_json::from_slice(&stdout).unwrap_or_else(|error| panic!("{error}: {stderr:?}"));
    (report, status.code().unwrap())
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap()
}

#[test]
fn the_exit_code_is_what_the_lines_say_and_serve_agrees() {
    let cores = host::cores_for(1).unwrap();
    let flags = ["--cores", &cores];
    let Output { status, stdout, stderr } = command(BINARY).arg("doctor").args(flags).output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    let verdicts: Vec<&str> =
        text.lines().filter(|line| !line.starts_with(' ')).map(|line| line.split(' ').next().unwrap()).collect();
    assert!(verdicts.iter().all(|verdict| ["ok", "warn", "fail"].contains(verdict)), "{text}");
    let fails = verdicts.contains(&"fail");
    assert_eq!(status.code(), Some(i32::from(fails)), "{text}");
    assert_eq!(stderr.is_empty(), !fails);

    let (report, code) = report(command(BINARY).args(["doctor", "--json"]).args(flags));
    assert_eq!(Some(code), status.code());
    let told: Vec<&str> =
        report["checks"].as_array().unwrap().iter().map(|check| check["verdict"].as_str().unwrap()).collect();
    assert_eq!(told, verdicts, "{text}{report:#}");
    for check in report["checks"].as_array().unwrap() {
        assert!(text.contains(check["found"].as_str().unwrap()), "{check} is not in {text}");
    }
    // Where nothing fails, a server starts.
    if !fails {
        drop(Server::start(BINARY, &flags));
    }
}

#[test]
fn too_little_locked_memory_fails_and_keeps_serve_from_starting() {
    let (report, code) = report(&mut limited("-l 256", "doctor --json"));
    let locked = check(&report, "locked memory");
    assert_eq!((code, &locked["verdict"]), (1, &Value::from("fail")), "{report:#}");
    assert_eq!(report["verdict"], "fail");

    let serve = limited("-l 256", "serve --listen 127.0.0.1:0 --control 127.0.0.1:0").output().unwrap();
    let stderr = String::from_utf8(serve.stderr).unwrap();
    assert_eq!((serve.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(serve.stdout.is_empty());
    for part in ["error: the limit of locked memory is 256 KiB", "512 KiB", "`ulimit -l ", "LimitMEMLOCK="] {
        assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
    }
    // The number that it names is enough.
    let number = stderr.split("`ulimit -l ").nth(1).unwrap().split('`').next().unwrap();
    let cores = host::cores_for(1).unwrap();
    let flags = format!("serve --listen 127.0.0.1:0 --control 127.0.0.1:0 --cores {cores}");
    drop(Server::spawn(&mut limited(&format!("-l {number}"), &flags)));
}

#[test]
fn descriptors_that_do_not_fit_fail_when_stated_and_warn_when_not() {
    let (report_, code) = report(&mut limited("-n 400", "doctor --json --max-connections 900"));
    let descriptors = check(&report_, "descriptors");
    assert_eq!((code, &descriptors["verdict"]), (1, &Value::from("fail")));
    assert!(descriptors["found"].as_str().unwrap().contains("ulimit -n"), "{descriptors}");
    let cores = host::cores_for(1).unwrap();
    let (report, _) = report(&mut limited("-n 400", &format!("doctor --json --cores {cores}")));
    assert_eq!(check(&report, "descriptors")["verdict"], "warn", "{report:#}");
}

#[test]
fn the_configuration_that_is_checked_is_the_one_of_the_flags() {
    let (report, _) = report(command(BINARY).args(["doctor", "--json", "--backlog", "65535"]));
    let queue = check(&report, "accept queue");
    assert!(queue["found"].as_str().unwrap().contains("--backlog 65535"), "{queue}");
}
