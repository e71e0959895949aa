//! Local users who stand in the way of a takeover.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};

use corelane_testkit::server::runtime_directory;
use rustix::process::{Uid, geteuid};
use rustix::thread::set_thread_res_uid;

use super::*;

#[test]
fn local_users_do_not_delay_a_takeover() {
    let _turn = turn();
    if !geteuid().is_root() {
        return println!("SKIPPED: another user can be played by root only");
    }
    let held = scaled(2_000, 100);
    host::allow_descriptors(held as u64);
    let server = Server::start(BINARY, &[]);
    let before = honest_before(&server);
    let name = UnixAddress::from_abstract_name(format!("corelane/{}", server.listen)).unwrap();
    let path = runtime_directory().join(format!("{}.sock", server.listen));
    // Processes of the same user that connect and are silent.
    let silent: Vec<_> = (0..scaled(100, 10)).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let (over, count) = (AtomicBool::new(false), std::sync::atomic::AtomicUsize::new(0));
    let start = Instant::now();
    let (share, longest, lines) = scope(|scope| {
        let _end = scopeguard::guard((), |()| over.store(true, Ordering::Relaxed));
        scope.spawn(|| {
            let nobody = Uid::from_raw(65_534);
            set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let connect = || {
                let stream = UnixStream::connect_addr(&name)?;
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::io::Error>(stream)
            };
            let mut held: Vec<_> = (0..held).map_while(|_| connect().ok()).collect();
            while !over.load(Ordering::Relaxed) {
                let next = count.load(Ordering::Relaxed) % held.len();
                match connect() {
                    Ok(stream) => held[next] = stream,
                    // Between two servers.
                    Err(_) => sleep(Duration::from_micros(100)),
                }
            }
        });
        wait_until("they connect", || count.load(Ordering::Relaxed) > held);
        let share = honest_share(&server, 3, before);
        let (mut server, mut longest, mut lines) = (server, Duration::ZERO, 0);
        for _ in 0..scaled(20, 2) {
            let (listen, control) = (server.listen.to_string(), server.control.to_string());
            let mut command = Command::new(BINARY);
            command.args(["serve", "--takeover", "--listen", &listen, "--control", &control, "--log-format", "json"]);
            let cores = host::cores_for(1).unwrap();
            let start = Instant::now();
            let next = Server::spawn(command.args(["--cores", &cores]));
            longest = longest.max(start.elapsed());
            let ended = std::mem::replace(&mut server, next).wait();
            assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
            lines = lines.max(ended.stderr.matches("takeover was refused").count());
            assert_eq!(server.connect().commit().committed, 0);
        }
        (share, longest, lines)
    });
    drop(silent);
    let rate = count.into_inner() as f64 / start.elapsed().as_secs_f64();
    figure(
        &format!("a local user connects to the takeover socket {rate:.0} times a second, {held} at a time"),
        &format!(
            "a takeover took {longest:.2?} at most, {lines} log lines a server, an honest peer kept {share:.2} of its \
             throughput"
        ),
    );
    assert!(longest < Duration::from_secs(10) && lines <= 2);
}
