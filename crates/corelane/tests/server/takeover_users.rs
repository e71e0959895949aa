//! Who may take the listening sockets over, and who cannot stand in the way: other users, silent processes, files that
//! are left behind. Some of it needs root, and is skipped without.

use std::fs::{self, Permissions};
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use corelane_testkit::server::runtime_directory;
use corelane_testkit::{Server, host, wait_until};
use rustix::process::{Signal, Uid, geteuid};
use rustix::thread::set_thread_res_uid;
use tempfile::TempDir;

use crate::BINARY;

/// A user without any rights, on every Linux.
const NOBODY: u32 = 65534;

/// The command of a server on this address, with flags.
fn serve(listen: &str, control: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    let cores = host::cores_for(1).unwrap();
    command.args(["serve", "--listen", listen, "--control", control, "--log-format", "json", "--cores", &cores]);
    command.args(flags);
    command
}

fn start(flags: &[&str]) -> Server {
    Server::spawn(&mut serve("127.0.0.1:0", "127.0.0.1:0", flags))
}

fn successor_of(server: &Server, flags: &[&str]) -> Command {
    let mut command = serve(&server.listen.to_string(), &server.control.to_string(), flags);
    command.arg("--takeover");
    command
}

/// Lets a successor take over, and checks that the predecessor ends in order.
fn take_over(server: Server, flags: &[&str]) -> Server {
    let next = Server::spawn(&mut successor_of(&server, flags));
    server.wait().totals();
    assert_eq!(next.connect().commit().committed, 0);
    next
}

/// The error of a command that fails.
fn error_of(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.env("RUNTIME_DIRECTORY", runtime_directory()).output().unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8_lossy(&stderr).into_owned()
}

fn as_nobody(command: &mut Command) -> Command {
    let mut other = Command::new("setpriv");
    other.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]);
    other.arg(command.get_program()).args(command.get_args());
    other
}

/// Runs this in a thread of another user.
fn in_thread_of_nobody<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    scope(|scope| {
        let thread = scope.spawn(|| {
            let nobody = Uid::from_raw(NOBODY);
            set_thread_res_uid(nobody, nobody, nobody).unwrap();
            run()
        });
        thread.join().unwrap()
    })
}

fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("SKIPPED: another user can be played by root only");
    }
    root
}

fn abstract_name(listen: SocketAddr) -> UnixAddress {
    UnixAddress::from_abstract_name(format!("corelane/{listen}")).unwrap()
}

/// The path of a socket in a directory of its own.
fn private_path() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("takeover.sock");
    (directory, path)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn connections_of_other_users_do_not_delay_a_successor() {
    if !is_root() {
        return;
    }
    let server = start(&[]);
    let (name, over, refused) = (abstract_name(server.listen), AtomicBool::new(false), AtomicBool::new(false));
    scope(|scope| {
        let _end = scopeguard::guard((), |()| over.store(true, Ordering::Relaxed));
        scope.spawn(|| {
            in_thread_of_nobody(|| {
                let _held: Vec<_> = (0..100).map_while(|_| UnixStream::connect_addr(&name).ok()).collect();
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut stream) = UnixStream::connect_addr(&name) else { break };
                    // Neither a socket nor a byte comes.
                    let end = stream.read(&mut [0]);
                    assert!(matches!(end, Ok(0) | Err(_)));
                    refused.store(true, Ordering::Relaxed);
                }
            });
        });
        wait_until("a refusal", || refused.load(Ordering::Relaxed));
        wait_until("a log line", || server.stderr().contains("takeover was refused"));
        let started = Instant::now();
        let next = Server::spawn(&mut successor_of(&server, &[]));
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        let lines = server.wait().stderr.matches("takeover was refused").count();
        assert_eq!(lines, 1, "a line a minute");
        assert_eq!(next.connect().commit().committed, 0);
    });
}

#[test]
fn silent_processes_of_the_same_user_do_not_delay_a_successor() {
    let server = start(&[]);
    let path = runtime_directory().join(format!("{}.sock", server.listen));
    let name = abstract_name(server.listen);
    let connect = |number| match number % 2 {
        0 => UnixStream::connect(&path).unwrap(),
        _ => UnixStream::connect_addr(&name).unwrap(),
    };
    // More than may be under way at a time: the newest replace the oldest.
    let mut silent: Vec<_> = (0..9).map(connect).collect();
    let mut first = Vec::new();
    silent[0].read_to_end(&mut first).unwrap();
    assert_eq!(first, [2, b'-'], "it got two sockets, and was refused later");
    let started = Instant::now();
    let next = take_over(server, &[]);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let mut last = Vec::new();
    silent[8].read_to_end(&mut last).unwrap();
    assert_eq!(last, [2, b'-'], "another successor was faster");
    next.terminate().totals();
}

#[test]
fn the_socket_is_private_and_goes_with_its_server() {
    let (_directory, path) = private_path();
    let server = start(&["--takeover-path", text(&path)]);
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let told = server.json("/api/v1/stats")["configuration"].as_array().unwrap().clone();
    assert!(told.iter().any(|setting| setting["key"] == "takeover_path" && setting["value"] == text(&path)));
    // The abstract name alone still leads to it, for a successor of an earlier version.
    let (_other_directory, other) = private_path();
    let next = take_over(server, &["--takeover-path", text(&other)]);
    assert!(!path.exists() && other.exists());
    next.terminate().totals();
    assert!(!other.exists());

    // Without the flag, it is in the runtime directory.
    let server = start(&[]);
    let path = runtime_directory().join(format!("{}.sock", server.listen));
    assert!(path.exists());
    server.terminate().totals();
    assert!(!path.exists());
}

#[test]
fn the_socket_of_a_killed_server_is_replaced_and_nothing_else_is() {
    let (directory, path) = private_path();
    let flags = ["--takeover-path", text(&path)];
    let killed = start(&flags);
    killed.signal(Signal::KILL);
    wait_until("nobody listens", || UnixStream::connect(&path).is_err());
    assert!(path.exists());
    let server = start(&flags);
    assert!(UnixStream::connect(&path).is_ok());

    // Another server cannot have it meanwhile, and does not end for that.
    let other = start(&flags);
    assert!(other.stderr().contains("another process listens there"), "{}", other.stderr());
    other.terminate().totals();
    let next = take_over(server, &flags);
    next.terminate().totals();

    let file = directory.path().join("file");
    fs::write(&file, "kept").unwrap();
    let server = start(&["--takeover-path", text(&file)]);
    assert!(server.stderr().contains("the file is not a socket"), "{}", server.stderr());
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    server.terminate().totals();
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let (directory, path) = private_path();
    let mut command = serve("127.0.0.1:0", "127.0.0.1:0", &["--takeover-path", text(&path)]);
    fs::set_permissions(directory.path(), Permissions::from_mode(0o770)).unwrap();
    let error = error_of(&mut command);
    assert!(error.contains("can be written by other users; choose another directory"), "{error}");
    drop(directory);
    let error = error_of(&mut command);
    assert!(error.starts_with("error: --takeover-path: ") && error.contains("No such file"), "{error}");
    // Where nothing is configured, a server does without.
    let (directory, _) = private_path();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let mut command = serve("127.0.0.1:0", "127.0.0.1:0", &[]);
    let server = Server::spawn(command.env("RUNTIME_DIRECTORY", directory.path()));
    assert!(server.stderr().contains("set --takeover-path"), "{}", server.stderr());
    take_over(server, &[]).terminate().totals();
}

#[test]
fn root_takes_over_from_another_user_and_not_the_other_way() {
    if !is_root() {
        return;
    }
    // Root gives the directory to the user, as systemd does; /tmp would not do, where anybody can make one.
    let directory = PathBuf::from(format!("/run/corelane-test-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let directory = scopeguard::guard(directory, |directory| drop(fs::remove_dir_all(directory)));
    fs::set_permissions(&*directory, Permissions::from_mode(0o700)).unwrap();
    chown(&*directory, Some(NOBODY), Some(NOBODY)).unwrap();
    let path = directory.join("takeover.sock");
    let flags = ["--takeover-path", text(&path)];
    let server = Server::spawn(&mut as_nobody(&mut serve("127.0.0.1:0", "127.0.0.1:0", &flags)));
    assert!(!server.stderr().contains("no takeover"), "{}", server.stderr());

    // By the abstract name, whose owner could be anybody, root does not.
    let error = error_of(&mut successor_of(&server, &[]));
    assert!(error.contains("belongs to another user; run the new server as the user"), "{error}");
    let root = take_over(server, &flags);

    let error = error_of(&mut as_nobody(&mut successor_of(&root, &flags)));
    assert!(error.contains("it closed without sending its sockets"), "{error}");
    take_over(root, &flags).terminate().totals();
}

#[test]
fn root_does_not_take_over_from_a_user_who_chose_the_place() {
    if !is_root() {
        return;
    }
    // In /tmp any user can make the directory that root will ask in.
    let (directory, path) = private_path();
    chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let flags = ["--takeover-path", text(&path)];
    let server = Server::spawn(&mut as_nobody(&mut serve("127.0.0.1:0", "127.0.0.1:0", &flags)));
    let error = error_of(&mut successor_of(&server, &flags));
    assert!(error.contains("belongs to another user"), "{error}");
    server.terminate().totals();
}

#[test]
fn another_user_who_has_the_abstract_name_is_not_trusted() {
    if !is_root() {
        return;
    }
    // A port that is free now.
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let squatter = in_thread_of_nobody(|| UnixListener::bind_addr(&abstract_name(listen)).unwrap());
    let server = Server::spawn(&mut serve(&listen.to_string(), "127.0.0.1:0", &[]));
    assert!(server.stderr().contains("its abstract name: Address already in use"), "{}", server.stderr());
    let (_directory, elsewhere) = private_path();
    let error = error_of(&mut successor_of(&server, &["--takeover-path", text(&elsewhere)]));
    assert!(error.contains("belongs to another user"), "{error}");
    take_over(server, &[]).terminate().totals();
    drop(squatter);
}
