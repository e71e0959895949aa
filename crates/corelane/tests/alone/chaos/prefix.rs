//! One host with all addresses of its IPv6 network.

use std::collections::VecDeque;
use std::fs::File;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::*;

const NETWORK: &str = "corelane-prefix";

/// A peer with this address, if it may connect.
fn connect(source: Ipv6Addr, port: u16) -> std::io::Result<Peer> {
    let socket = rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None)?;
    sockopt::set_ipv6_freebind(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
    rustix::net::connect(&socket, &SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), port)))?;
    Ok(Peer::of(TcpStream::from(socket)))
}

#[test]
fn all_addresses_of_an_ipv6_network_count_as_one() {
    let _turn = turn();
    let ip = |line: &str| {
        let ran = Command::new("ip").args(line.split(' ')).output();
        ran.is_ok_and(|output| output.status.success())
    };
    ip(&format!("netns del {NETWORK}"));
    // All of 2001:db8::/32 are addresses of this network's only host.
    let made = ip(&format!("netns add {NETWORK}"))
        && ip(&format!("-n {NETWORK} link set lo up"))
        && ip(&format!("-n {NETWORK} -6 route add local 2001:db8::/32 dev lo"));
    let _end = scopeguard::guard((), |()| {
        ip(&format!("netns del {NETWORK}"));
    });
    if !made {
        return println!("SKIPPED: this machine makes no network namespaces");
    }
    let cores = host::cores_for(1).unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", NETWORK, BINARY, "serve", "--listen", "[::]:0", "--control", "127.0.0.1:0"]);
    command.args(["--log-format", "json", "--cores", &cores, "--max-connections-per-ip", "50"]);
    let server = Server::spawn(&mut command);
    let count = scaled(20_000, 300);
    let (taken, refused) = scope(|scope| {
        let play = scope.spawn(|| {
            let network = File::open(format!("/var/run/netns/{NETWORK}")).unwrap();
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let port = server.listen.port();
            let mut held = VecDeque::new();
            for number in 0..count as u32 {
                let [high, low] = [(number >> 16) as u16, number as u16];
                held.push_back(connect(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 7, high, low), port).unwrap());
                if held.len() > 200 {
                    // Not the first, which have been taken.
                    held.remove(100);
                }
            }
            let mut neighbour = connect(Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1), port).unwrap();
            neighbour.send(&frames::event("neighbour", 1));
            assert_eq!(neighbour.commit().committed, 1);
            let metrics = server.wait_metrics("the refusals", |metrics| {
                metrics.connections() + metrics.closed_for("refused") > count as u64
            });
            (metrics.connections() - 1, metrics.closed_for("refused"))
        });
        play.join().unwrap()
    });
    assert_eq!(taken, 50);
    figure(
        &format!("{count} connections from as many addresses of one IPv6 network"),
        &format!("{taken} taken, {refused} refused, a neighbour served"),
    );
}
