//! `deploy/tuning/tune.sh`, on a made-up host: nothing of this one is changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A host with four cores whose settings are as bad as they come.
const HOST: [(&str, &str); 17] = [
    ("sys/devices/system/cpu/online", "0-3"),
    ("proc/cmdline", "quiet nohz_full=0-2"),
    ("proc/sys/net/core/somaxconn", "128"),
    ("proc/sys/net/core/netdev_max_backlog", "1000"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "65536"),
    ("proc/sys/net/ipv4/tcp_syncookies", "1"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456"),
    ("proc/sys/kernel/io_uring_disabled", "2"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave"),
    ("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave"),
    ("sys/devices/virtual/workqueue/cpumask", "00000000,0000000f"),
    ("proc/irq/default_smp_affinity", "f"),
    ("proc/irq/24/smp_affinity_list", "0-3"),
    ("proc/irq/25/smp_affinity_list", "0,2"),
    ("proc/irq/26/smp_affinity_list", "3"),
    ("run/irqbalance/irqbalance42.sock", ""),
];

/// What is to become of it with data cores 0 to 2.
const TUNED: [(&str, &str); 10] = [
    ("proc/sys/net/core/somaxconn", "4096"),
    ("proc/sys/net/core/netdev_max_backlog", "16384"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096 131072 16777216"),
    ("proc/sys/kernel/io_uring_disabled", "0"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "madvise"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance"),
    ("sys/devices/virtual/workqueue/cpumask", "00000000,00000008"),
    ("proc/irq/default_smp_affinity", "8"),
    ("proc/irq/24/smp_affinity_list", "3"),
    ("proc/irq/25/smp_affinity_list", "3"),
];

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/tuning/tune.sh")
}

fn host() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in HOST {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }
    root
}

fn read(root: &TempDir) -> BTreeMap<&'static str, String> {
    let text = |path| fs::read_to_string(root.path().join(path)).unwrap().trim_end().to_owned();
    HOST.iter().map(|(path, _)| (*path, text(*path))).collect()
}

/// Runs it, and gives its exit code and what it said.
fn tune(root: &TempDir, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(script());
    command.arg("--root").arg(root.path()).arg("--state").arg(root.path().join("undo"));
    let output = command.args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn it_shows_first_changes_when_told_and_takes_it_back() {
    let root = host();
    let before: BTreeMap<&str, String> = HOST.map(|(path, text)| (path, text.to_owned())).into();
    let (code, shown) = tune(&root, &["--cores", "0-2"]);
    assert_eq!((code, read(&root)), (Some(0), before.clone()), "{shown}");
    assert!(!root.path().join("undo").exists());
    for (path, wanted) in TUNED {
        let line = shown.lines().find(|line| line.starts_with(&format!("change  /{path}: ")));
        assert!(line.is_some_and(|line| line.ends_with(&format!(" -> {wanted}"))), "{path}: {shown}");
    }
    assert_eq!(shown.matches("change ").count(), TUNED.len(), "{shown}");
    for hint in ["isolcpus=0-2", "ok      kernel parameter nohz_full", "IRQBALANCE_BANNED_CPULIST=0-2"] {
        assert!(shown.contains(hint), "{shown}");
    }

    let mut tuned = before.clone();
    tuned.extend(TUNED.map(|(path, text)| (path, text.to_owned())));
    // The second time there is nothing left to do, and what was there first is still known.
    for changes in [TUNED.len(), 0] {
        let (code, text) = tune(&root, &["--cores", "0-2", "--apply"]);
        assert_eq!((code, text.matches("change ").count(), read(&root)), (Some(0), changes, tuned.clone()), "{text}");
    }
    let (code, text) = tune(&root, &["--undo"]);
    let mut undone = before;
    // Where the kernel shows all choices, one is written.
    undone.insert("sys/kernel/mm/transparent_hugepage/enabled", "always".into());
    assert_eq!((code, read(&root)), (Some(0), undone), "{text}");
    let (code, text) = tune(&root, &["--undo"]);
    assert!(code == Some(2) && text.contains("nothing to undo"), "{text}");
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let root = host();
    let before = read(&root);
    for (arguments, told) in [
        (&["--apply"][..], "--cores is missing"),
        (&["--cores", "0-2,9", "--apply"], "no core 9"),
        (&["--cores", "all", "--apply"], "is no list of cores"),
        (&["--cores"], "a value is missing"),
        (&["--aply"], "unknown argument"),
    ] {
        let (code, text) = tune(&root, arguments);
        assert!(code == Some(2) && text.contains(told), "{arguments:?}: {code:?} {text}");
    }
    assert_eq!(read(&root), before);
    let (code, text) = tune(&root, &["--cores", "0-3"]);
    assert!(code == Some(0) && text.contains("nowhere else to go") && !text.contains("/proc/irq"), "{text}");
}

#[test]
fn a_real_kernel_takes_what_it_writes() {
    if std::env::var_os("CORELANE_TEST_BOOT").is_none() {
        eprintln!("SKIPPED: CORELANE_TEST_BOOT is not set, as scripts/test.sh does where it may make namespaces");
        return;
    }
    // These belong to the network namespace, so one of its own is enough to leave the host as it is.
    let root = host();
    let names = ["net/core/somaxconn", "net/ipv4/tcp_max_syn_backlog"];
    for name in names {
        let path = root.path().join("proc/sys").join(name);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(Path::new("/proc/sys").join(name), path).unwrap();
    }
    let commands = format!(
        "cd /proc/sys; echo 100 | tee {0} {1} >/dev/null; \"$0\" \"$@\" --cores 0 --apply >&2; cat {0} {1}; \
         \"$0\" \"$@\" --undo >&2; cat {0} {1}",
        names[0], names[1]
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "bash", "-euo", "pipefail", "-c", &commands]).arg(script());
    command.arg("--root").arg(root.path()).arg("--state").arg(root.path().join("undo"));
    let output = command.output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "4096\n8192\n100\n100\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn shellcheck_has_nothing_to_say() {
    let Some(tools) = std::env::var_os("CORELANE_TEST_DEPLOY_TOOLS") else {
        eprintln!("SKIPPED: CORELANE_TEST_DEPLOY_TOOLS is not set, as scripts/test.sh does: no shellcheck");
        return;
    };
    let machine = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/machine.sh");
    let checked =
        Command::new(PathBuf::from(tools).join("bin/shellcheck")).arg(script()).arg(machine).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}
