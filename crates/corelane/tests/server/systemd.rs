//! `deploy/systemd` and the install steps of `docs/operations.md`: checked by systemd's own tools, and played on a systemd
//! that is booted for it in namespaces of its own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corelane_testkit::server::command;
use corelane_testkit::{Peer, Reply, frames, host, http, tools, wait_until};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tempfile::TempDir;

use crate::BINARY;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The `sh` blocks of a section of a document, down to the next heading.
fn commands_of(document: &str, heading: &str) -> String {
    let text = fs::read_to_string(repository().join(document)).unwrap();
    let (_, section) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no `{heading}`"));
    let section = section.split("\n#").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let commands: String = blocks.collect();
    assert!(!commands.is_empty(), "`{heading}` has commands");
    commands
}

fn systemd_analyze(arguments: &[&str]) -> Option<(bool, String)> {
    let analyzed = Command::new("systemd-analyze").args(arguments).current_dir(repository()).output();
    let Ok(output) = analyzed else {
        eprintln!("SKIPPED: no systemd-analyze here; scripts/test.sh installs it");
        return None;
    };
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    Some((output.status.success(), text))
}

#[test]
fn systemd_knows_every_line_of_the_units() {
    let [service, socket] = ["deploy/systemd/corelane.service", "deploy/systemd/corelane.socket"];
    let tuning = "deploy/tuning/corelane-tuning.service";
    let Some((_, text)) = systemd_analyze(&["verify", "--man=no", service, socket, tuning]) else { return };
    // Nothing of it is installed on the machine that tests.
    let told: Vec<&str> = text.lines().filter(|line| !line.contains(" is not executable: No such file")).collect();
    assert!(told.is_empty(), "{text}");
}

#[test]
fn the_unit_exposes_little() {
    // In tenths; from 2.0 on there is something worth closing.
    let unit = "deploy/systemd/corelane.service";
    if let Some((good, text)) = systemd_analyze(&["security", "--offline=true", "--threshold=15", "--no-pager", unit]) {
        assert!(good && text.contains("Overall exposure level"), "{text}");
    }
}

/// What a line of the unit sets.
fn set_by_the_unit(name: &str) -> String {
    let unit = fs::read_to_string(repository().join("deploy/systemd/corelane.service")).unwrap();
    let value = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in the unit")).to_owned()
}

#[test]
fn the_limits_of_the_unit_allow_what_its_cores_use() {
    let Some(two) = host::cores_for(2) else {
        println!("SKIPPED: this machine has one core");
        return;
    };
    let plan = |cores: &str| -> Value {
        let mut plan = command(BINARY);
        plan.args(["plan", "--json", "--cores", cores, "--config"]).arg(repository().join("deploy/corelane.toml"));
        serde_json::from_slice(&plan.output().unwrap().stdout).unwrap()
    };
    let (one, two) = (plan(&host::cores_for(1).unwrap()), plan(&two));
    // Three shards; each adds the same.
    assert_eq!(set_by_the_unit("CPUAffinity"), "0-3");
    let used = |name: &str| 2 * two[name].as_u64().unwrap() - one[name].as_u64().unwrap();
    let number = |text: &str| -> u64 {
        text.trim_end_matches('M').parse::<u64>().unwrap() << if text.ends_with('M') { 20 } else { 0 }
    };
    for (limit, used) in [
        ("MemoryMax", used("memory_bytes_max") * 5 / 4),
        ("LimitNOFILE", used("descriptors_max")),
        ("LimitMEMLOCK", two["locked_limit_min"].as_u64().unwrap() * 2),
    ] {
        let allowed = number(&set_by_the_unit(limit));
        assert!(used <= allowed, "{limit}: {used} are used, {allowed} allowed");
    }
}

/// A systemd of its own, on a copy of this host's files that vanishes with it.
struct Machine {
    script: Child,
    /// Process 1 inside.
    init: u32,
    _directory: TempDir,
}

impl Machine {
    /// `None` where it may not be done; `scripts/test.sh` finds out.
    fn boot() -> Option<Self> {
        if std::env::var_os("CORELANE_TEST_BOOT").is_none() {
            eprintln!("SKIPPED: CORELANE_TEST_BOOT is not set, as scripts/test.sh does where systemd can be booted");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let script = repository().join("crates/corelane/tests/deploy/machine.sh");
        let mut script = Command::new("unshare")
            .args(["--mount", "bash"])
            .args([script.as_path(), directory.path(), &repository(), Path::new(BINARY)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let init = line.trim().parse().unwrap_or_else(|_| panic!("the number of a process, not {line:?}"));
        let machine = Self { script, init, _directory: directory };
        wait_until("systemd is up", || machine.try_run("systemctl is-active multi-user.target").is_ok());
        Some(machine)
    }

    /// Runs commands as root, in `/src`, until the first that fails.
    fn try_run(&self, commands: &str) -> Result<String, String> {
        let root = format!("/proc/{}/root", self.init);
        let ran = Command::new("timeout")
            .args(["60", "nsenter", "--target", &self.init.to_string()])
            .args(["--mount", "--pid", "--net", "--cgroup", "--ipc", "--uts"])
            .args([format!("--root={root}"), format!("--wd={root}/src")])
            .args(["env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_PAGER="])
            .args(["bash", "-euo", "pipefail", "-c", commands])
            .output()
            .unwrap();
        let [stdout, stderr] = [ran.stdout, ran.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        if ran.status.success() { Ok(stdout) } else { Err(format!("{commands}\n{}\n{stdout}\n{stderr}", ran.status)) }
    }

    fn run(&self, commands: &str) -> String {
        self.try_run(commands).unwrap_or_else(|failure| panic!("{failure}\n{}", self.journal()))
    }

    fn journal(&self) -> String {
        self.try_run("journalctl --unit corelane --output cat").unwrap_or_else(|failure| failure)
    }

    /// A property of the service.
    fn property(&self, name: &str) -> String {
        self.run(&format!("systemctl show corelane --property {name} --value")).trim().to_owned()
    }

    /// A line of the main process's `/proc/PID/status`.
    fn status(&self, name: &str) -> String {
        let field = self.run(&format!("grep ^{name}: /proc/{}/status", self.property("MainPID")));
        field.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Writes a drop-in of the service.
    fn drop_in(&self, name: &str, lines: &str) {
        let directory = "/etc/systemd/system/corelane.service.d";
        self.run(&format!("mkdir -p {directory}; printf '[Service]\\n{lines}\\n' >{directory}/{name}.conf"));
        self.run("systemctl daemon-reload");
    }

    /// Runs this in the network of the machine.
    fn inside<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                let network = File::open(format!("/proc/{}/ns/net", self.init)).unwrap();
                move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                run()
            });
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the journal:\n{}", self.journal());
        }
        // Its input closes.
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

fn data_port() -> SocketAddr {
    "127.0.0.1:7600".parse().unwrap()
}

fn get(path: &str) -> String {
    let response = http::get("127.0.0.1:9600".parse().unwrap(), path).unwrap();
    assert_eq!(response.status, 200, "{path}: {}", response.body);
    response.body
}

/// While `change` runs, and for a moment more, one connection after the other is made and asks. Nobody is refused or reset,
/// or this panics.
fn while_connecting(machine: &Machine, change: impl FnOnce()) {
    let (over, begun) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let _end = scopeguard::guard((), |()| over.store(true, Ordering::Relaxed));
        scope.spawn(|| {
            machine.inside(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut peer = Peer::connect(data_port());
                    peer.send(&frames::event("loop", 1));
                    peer.send(&frames::COMMIT_REQUEST);
                    // Who is taken in at the last moment may be closed, in order, before its request has come.
                    let reply = peer.reply();
                    assert!(matches!(reply, None | Some(Reply::Committed(_) | Reply::Closing { .. })));
                    begun.store(true, Ordering::Relaxed);
                }
            });
        });
        wait_until("somebody connects", || begun.load(Ordering::Relaxed));
        change();
        thread::sleep(Duration::from_millis(200));
    });
}

#[test]
fn the_steps_of_the_documentation_lead_to_a_hardened_running_unit() {
    let Some(machine) = Machine::boot() else { return };
    println!("{}", machine.run(&commands_of("docs/operations.md", "### As a systemd service")));
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(machine.inside(|| get("/readyz")), "ready\n");

    // What the unit says holds for the process: no root, no capability, a filter of system calls.
    let user = machine.run("id --user corelane");
    assert_eq!(machine.status("Uid"), [user.trim(); 4].join(" "));
    assert_ne!(user.trim(), "0");
    assert_eq!(machine.status("CapBnd"), "0000000000000000");
    assert_eq!((machine.status("NoNewPrivs").as_str(), machine.status("Seccomp").as_str()), ("1", "2"));
    let limits = machine.run(&format!("cat /proc/{}/limits", machine.property("MainPID")));
    let limit = |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(limit("Max open files").contains(" 16384 "), "{limits}");
    assert!(limit("Max locked memory").contains(" 8388608 "), "{limits}");
    let cores: Vec<String> = host::allowed_cores().iter().filter(|core| **core < 4).map(ToString::to_string).collect();
    let affinity = machine.run(&format!("taskset --pid --cpu-list {}", machine.property("MainPID")));
    if cores == ["0", "1"] {
        assert!(affinity.ends_with("0,1\n") || affinity.ends_with("0-1\n"), "{affinity}");
    }

    let process = machine.property("MainPID");
    machine.run("systemctl reload corelane");
    wait_until("SIGHUP has reached it", || machine.journal().contains("address rules read again"));
    assert_eq!(machine.property("MainPID"), process);

    println!("{}", machine.run(&commands_of("docs/operations.md", "### Fitting it to the machine")));
    assert!(machine.property("MemoryMax").parse::<u64>().unwrap() > 768 << 20, "the drop-in counts");

    let process = machine.property("MainPID");
    while_connecting(&machine, || {
        println!("{}", machine.run(&commands_of("docs/operations.md", "### Upgrading: restart")));
    });
    assert_ne!(machine.property("MainPID"), process);

    machine.run("systemctl stop corelane.socket corelane.service");
    assert_eq!([machine.property("Result"), machine.property("ExecMainStatus")], ["success", "0"]);
    assert!(machine.journal().contains(r#""message":"stopped""#));
    assert!(machine.inside(|| TcpStream::connect(data_port())).is_err());
}

#[test]
fn the_steps_of_the_documentation_lead_on_to_a_scraped_prometheus_and_a_graph() {
    let (Some(machine), Some(prometheus)) = (Machine::boot(), tools::prometheus()) else { return };
    machine.run(&commands_of("docs/operations.md", "### As a systemd service"));
    machine.inside(|| {
        let mut peer = Peer::connect(data_port());
        peer.send(&frames::event("fleet", 1).repeat(123));
        assert_eq!(peer.commit().committed, 123);
    });
    // The machine has no network to install from: Debian's programs are there already, and get a unit of their own.
    let block = commands_of("docs/operations.md", "## Prometheus and Grafana");
    let mut query = String::new();
    for line in block.lines().take_while(|line| !line.starts_with("install ")) {
        if line.starts_with("apt-get install") {
            machine.run("mkdir -p /etc/prometheus");
            for tool in ["prometheus", "promtool"] {
                let inside = format!("/proc/{}/root/usr/local/bin/{tool}", machine.init);
                fs::copy(prometheus.join(tool), inside).unwrap();
            }
        } else if line.starts_with("systemctl restart prometheus") {
            machine.run(
                "systemd-run --quiet --unit=prometheus prometheus --config.file=/etc/prometheus/prometheus.yml \
                 --storage.tsdb.path=/tmp/prometheus",
            );
        } else if let Some(curl) = line.strip_prefix("curl ") {
            query = format!("curl {}", curl.split('#').next().unwrap());
        } else {
            machine.run(line);
        }
    }
    wait_until("the server is scraped", || machine.try_run(&query).is_ok_and(|answer| answer.contains(",\"1\"]")));
    let accepted = query.replace("up{", "corelane_frames_accepted_total{");
    // The one is of the documentation's own `corelane send`.
    assert!(machine.run(&accepted).contains(",\"124\"]"), "{}", machine.run(&accepted));

    let browser = "chromium --headless --no-sandbox --disable-gpu --virtual-time-budget=5000 --dump-dom \
                   http://127.0.0.1:9600/ 2>/dev/null";
    match machine.try_run("command -v chromium") {
        Ok(_) => wait_until("the dashboard shows them", || machine.run(browser).contains(">124</span>")),
        Err(_) => eprintln!("SKIPPED: no chromium here; scripts/test.sh installs it"),
    }
}

#[test]
fn a_successor_becomes_the_main_process_and_is_watched() {
    let Some(machine) = Machine::boot() else { return };
    machine.run(&commands_of("docs/operations.md", "### As a systemd service"));
    machine.run(&commands_of("docs/operations.md", "### Upgrading: takeover"));
    const WATCHDOG: Duration = Duration::from_secs(3);
    // After the drop-in of the documentation, in the order of names.
    machine.drop_in("test", "WatchdogSec=3\\nEnvironment=WATCHDOG_USEC=3000000");
    machine.run("systemctl restart corelane");
    let mut process = machine.property("MainPID");
    while_connecting(&machine, || {
        for _ in 0..3 {
            let before = process.clone();
            machine.run("systemctl reload corelane");
            wait_until("another is the main process", || {
                process = machine.property("MainPID");
                process != before
            });
            wait_until("the one before ends", || machine.try_run(&format!("test -d /proc/{before}")).is_err());
        }
    });
    // They met at the private socket of the runtime directory, which the last one has now.
    let socket = machine.run("stat --format '%F %U %a' /run/corelane/127.0.0.1:7600.sock");
    assert_eq!(socket, "socket corelane 600\n");
    assert!(!machine.journal().contains("no takeover over"), "{}", machine.journal());
    // It tells that all is well, or it would be killed in this time.
    let until = Instant::now() + WATCHDOG * 2;
    while Instant::now() < until {
        assert_eq!((machine.property("MainPID"), machine.property("NRestarts").as_str()), (process.clone(), "0"));
        thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(machine.inside(|| get("/healthz")), "healthy\n");

    // One that cannot start changes nothing.
    machine.run("echo nonsense >>/etc/corelane/corelane.toml");
    assert!(machine.try_run("systemctl reload corelane").is_err());
    assert_eq!((machine.property("MainPID"), machine.property("ActiveState").as_str()), (process.clone(), "active"));
    machine.run("sed -i '$d' /etc/corelane/corelane.toml");

    // One that hangs is replaced.
    machine.run(&format!("kill -STOP {process}"));
    wait_until("the watchdog has seen it", || machine.property("NRestarts") == "1");
    wait_until("it serves again", || machine.property("ActiveState") == "active");
    machine.inside(|| assert_eq!(Peer::connect(data_port()).commit().committed, 0));
}

#[test]
fn shards_share_a_socket_that_another_user_made() {
    let Some(machine) = Machine::boot() else { return };
    let Some(cores) = host::cores_for(2) else {
        println!("SKIPPED: this machine has one core");
        return;
    };
    machine.run(&commands_of("docs/operations.md", "### As a systemd service"));
    machine.drop_in("cores", &format!("CPUAffinity=\\nEnvironment=CORELANE_CORES={cores}"));
    let serve = || {
        machine.inside(|| {
            let mut peers: Vec<Peer> = (0..16).map(|_| Peer::connect(data_port())).collect();
            for peer in &mut peers {
                peer.send(&frames::event("shared", 1));
                assert_eq!(peer.commit().committed, 1);
            }
            let metrics = get("/metrics");
            let open: Vec<&str> = metrics.lines().filter(|line| line.starts_with("corelane_connections{")).collect();
            assert_eq!(open, ["corelane_connections{shard=\"0\"} 8", "corelane_connections{shard=\"1\"} 8"]);
        });
    };
    for _ in 0..3 {
        while_connecting(&machine, || drop(machine.run("systemctl restart corelane")));
        serve();
    }
}
