//! `deploy/container`: the Dockerfile is linted, its image is made as it says, and a container runtime runs it under the
//! seccomp profile, without root, capabilities or a file system that can be written.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use corelane_testkit::{Peer, frames, http, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::BINARY;
const IO_URING: [&str; 3] = ["io_uring_enter", "io_uring_register", "io_uring_setup"];
/// As the Dockerfile has it.
const USER: u32 = 65532;

fn deployed(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/container").join(name)).unwrap()
}

fn profile() -> Value {
    serde_json::from_str(&deployed("seccomp.json")).unwrap()
}

/// Every system call that a profile permits to somebody.
fn permitted(profile: &Value) -> Vec<&str> {
    let rules = profile["syscalls"].as_array().unwrap().iter();
    let allowing = rules.filter(|rule| rule["action"] == "SCMP_ACT_ALLOW");
    allowing.flat_map(|rule| rule["names"].as_array().unwrap()).map(|name| name.as_str().unwrap()).collect()
}

/// The instructions of the Dockerfile, those over several lines as one.
fn instructions() -> Vec<String> {
    let text = deployed("Dockerfile");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.join("\n").replace("\\\n", " ").lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_dockerfile_is_clean_and_says_the_same_as_the_rest() {
    let instructions = instructions();
    let has = |line: &str| instructions.iter().any(|instruction| instruction == line);
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml")).unwrap();
    let version = manifest.split_once("rust-version = \"").unwrap().1.split('"').next().unwrap();
    assert!(has(&format!("FROM rust:{version}-slim-bookworm AS build")), "{version} is what the workspace asks for");
    assert!(has(&format!("USER {USER}:{USER}")));
    match std::env::var_os("CORELANE_TEST_DEPLOY_TOOLS") {
        None => eprintln!("SKIPPED: CORELANE_TEST_DEPLOY_TOOLS is not set, as scripts/test.sh does: no hadolint"),
        Some(tools) => {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/container/Dockerfile");
            let lint = Command::new(PathBuf::from(tools).join("bin/hadolint")).arg(path).output().unwrap();
            assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
        }
    }
}

#[test]
fn the_profile_permits_no_more_than_the_default_one_and_io_uring() {
    let profile = profile();
    let ours = permitted(&profile);
    assert!(IO_URING.iter().all(|name| ours.contains(name)));
    let mut once = ours.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), ours.len(), "none is named twice");
    let Ok(text) = fs::read_to_string("/usr/share/containers/seccomp.json") else {
        eprintln!("SKIPPED: no default profile of a runtime here; scripts/test.sh installs one");
        return;
    };
    let default: Value = serde_json::from_str(&text).unwrap();
    let default = permitted(&default);
    let more: Vec<&&str> = ours.iter().filter(|name| !default.contains(name)).collect();
    assert!(more.iter().all(|name| IO_URING.contains(name)), "{more:?}");
}

/// An OCI bundle: the image that the Dockerfile makes of this binary, and how to run it.
struct Bundle {
    directory: TempDir,
}

impl Bundle {
    /// `None` where no container may be run; `scripts/test.sh` finds out.
    fn new(profile: &Value) -> Option<Self> {
        if std::env::var_os("CORELANE_TEST_BOOT").is_none() {
            eprintln!("SKIPPED: CORELANE_TEST_BOOT is not set, as scripts/test.sh does where it may run containers");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("target/release")).unwrap();
        fs::copy(BINARY, directory.path().join("target/release/corelane")).unwrap();
        let instructions = instructions();
        let install = instructions.iter().find_map(|line| line.strip_prefix("RUN install ")).unwrap();
        let made = Command::new("bash")
            .args(["-o", "pipefail", "-c", &format!("install {install}")])
            .current_dir(directory.path())
            .status()
            .unwrap();
        assert!(made.success(), "{install}");
        let none: Vec<&str> = Vec::new();
        let capabilities: Value = ["bounding", "effective", "permitted", "inheritable", "ambient"]
            .map(|set| (set.to_owned(), json!(none)))
            .into_iter()
            .collect::<serde_json::Map<_, _>>()
            .into();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": USER, "gid": USER},
                "args": ["/usr/local/bin/corelane", "serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"],
                "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": capabilities,
            },
            "root": {"path": "image", "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
                "readonlyPaths": ["/proc/sys"],
                "seccomp": profile,
            },
        });
        fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        Some(Self { directory })
    }

    fn run(&self) -> Child {
        // The runtime knows one hierarchy of control groups only: in a mount namespace of its own it sees one.
        let command = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec crun --cgroup-manager=disabled --root state \
                       run \"$0\"";
        let mut child = Command::new("unshare");
        child.args(["--mount", "sh", "-c", command, self.name()]).current_dir(self.directory.path());
        child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn name(&self) -> &str {
        self.directory.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.')
    }

    /// `/proc/PID/status` of the program.
    fn status(&self) -> String {
        let path = self.directory.path().join("state").join(self.name()).join("status");
        let state: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        fs::read_to_string(format!("/proc/{}/status", state["pid"])).unwrap()
    }
}

#[test]
fn the_image_serves_under_the_profile_without_privileges() {
    let Some(bundle) = Bundle::new(&profile()) else { return };
    let mut child = scopeguard::guard(bundle.run(), |mut child| drop(child.kill()));
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let address = |name: &str| -> SocketAddr {
        let value = ready.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("a ready line with {name}, not {ready:?}"))
    };
    let (listen, control) = (address("listen"), address("control"));
    let status = bundle.status();
    for line in [
        format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}"),
        "NoNewPrivs:\t1".into(),
        "Seccomp:\t2".into(),
        "CapBnd:\t0000000000000000".into(),
    ] {
        assert!(status.contains(&line), "{line}: {status}");
    }
    let mut peers: Vec<Peer> = (0..50).map(|_| Peer::connect(listen)).collect();
    for peer in &mut peers {
        (1..=20).for_each(|number| peer.send(&frames::event("contained", number)));
        assert_eq!(peer.commit().committed, 20);
    }
    for (path, holds) in [("/metrics", "corelane_series{"), ("/api/v1/sensors", "contained"), ("/healthz", "healthy")] {
        let response = http::get(control, path).unwrap();
        assert!(response.status == 200 && response.body.contains(holds), "{path}: {}", response.body);
    }
    // The runtime passes it on.
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let ended = wait_for("the container ends", || child.try_wait().unwrap());
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(ended.code(), Some(0), "{log}");
    assert!(log.contains(r#""message":"stopped","accepted":1000,"#), "{log}");
}

#[test]
fn without_the_three_calls_it_says_what_is_missing() {
    let mut profile = profile();
    for rule in profile["syscalls"].as_array_mut().unwrap() {
        rule["names"].as_array_mut().unwrap().retain(|name| !IO_URING.contains(&name.as_str().unwrap()));
    }
    profile["syscalls"].as_array_mut().unwrap().retain(|rule| rule["names"] != json!([]));
    let Some(bundle) = Bundle::new(&profile) else { return };
    let ended = bundle.run().wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{log}");
    assert!(log.contains("use a seccomp profile that permits io_uring_setup"), "{log}");
}
