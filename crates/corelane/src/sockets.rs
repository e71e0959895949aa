//! Where the listening sockets come from: a service manager, the process that serves now, or nobody, and then they are
//! bound.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use corelane_command::Failure;
use corelane_shard::{adopt_listeners, bind_listeners};
use listenfd::ListenFd;

use crate::config::Config;
use crate::takeover::{Place, Predecessor};

/// How long the kernel may take to release a killed server's port.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// The sockets of a server, listening.
pub(crate) struct Sockets {
    /// One for each shard.
    pub(crate) data: Vec<TcpListener>,
    pub(crate) control: TcpListener,
    /// That of the port for probes, if there is one.
    pub(crate) probe: Option<TcpListener>,
    /// Whom they were taken over from.
    pub(crate) predecessor: Option<Predecessor>,
    /// Where a successor asks for them, besides the abstract name.
    pub(crate) takeover_path: Option<PathBuf>,
    pub(crate) listen: SocketAddr,
    pub(crate) control_address: SocketAddr,
    pub(crate) probe_address: Option<SocketAddr>,
}

impl Sockets {
    /// One for each shard, and one for the control plane.
    pub(crate) fn open(config: &Config, shards: usize) -> Result<Self, Failure> {
        let place = Place::of(config)?;
        let (predecessor, given) = if config.takeover {
            let path = place.path(config.listen);
            let (predecessor, sockets) = Predecessor::ask(config.listen, path.as_deref())
                .map_err(|error| cannot_take_over(config, path.as_deref(), &error))?;
            (Some(predecessor), sockets)
        } else {
            (None, inherited()?)
        };
        let (mut data, mut control, mut probe) = (Vec::new(), None, None);
        for socket in given {
            let address = local_address(&socket)?;
            match port_of(address, config, control.is_some()) {
                Some(Port::Data) => data.push(socket),
                Some(Port::Control) => control = Some(socket),
                Some(Port::Probe) => probe = Some(socket),
                None => return Err(foreign(address, config)),
            }
        }
        if data.len() > shards {
            return Err(Failure::failed(format!(
                "{} sockets of the data port were passed in for {shards} shard(s), and nobody would accept from the \
                 others; give --cores as many cores",
                data.len()
            )));
        }
        let data = if data.is_empty() {
            bind_data_port(config.listen, shards, config.backlog)
        } else {
            adopt_listeners(data, shards, config.backlog)
        };
        let data = data.map_err(|error| cannot_listen("--listen", config.listen, &error))?;
        let bind = |flag, address| TcpListener::bind(address).map_err(|error| cannot_listen(flag, address, &error));
        let control = control.map_or_else(|| bind("--control", config.control), Ok)?;
        // One that was passed in is served only where it is asked for.
        let probe = match (probe, config.probe) {
            (None, Some(address)) => Some(bind("--probe", address)?),
            (probe, _) => probe,
        };
        let probe_address = probe.as_ref().map(local_address).transpose()?;
        let (listen, control_address) = (local_address(&data[0])?, local_address(&control)?);
        let takeover_path = place.path(listen);
        Ok(Self { data, control, probe, predecessor, takeover_path, listen, control_address, probe_address })
    }

    /// All of them again, for a successor: data first.
    pub(crate) fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let sockets = self.data.iter().chain([&self.control]).chain(&self.probe);
        sockets.map(|socket| socket.try_clone().map(OwnedFd::from)).collect()
    }
}

/// Sockets of a service manager (sd_listen_fds(3)); none without one.
fn inherited() -> Result<Vec<TcpListener>, Failure> {
    let mut descriptors = ListenFd::from_env();
    let count = descriptors.len();
    let socket = |index| {
        let taken =
            descriptors.take_tcp_listener(index).and_then(|socket| socket.ok_or(io::ErrorKind::NotFound.into()));
        taken.map_err(|error| Failure::failed(format!("socket {index} of LISTEN_FDS is no TCP listener: {error}")))
    };
    (0..count).map(socket).collect()
}

/// A killed server's sockets live for a moment after it, until the kernel has taken its rings apart: a port in use is
/// tried again for that long.
fn bind_data_port(address: SocketAddr, shards: usize, backlog: u32) -> io::Result<Vec<TcpListener>> {
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    loop {
        match bind_listeners(address, shards, backlog) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            bound => return bound,
        }
    }
}

/// What a socket that was passed in is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Data,
    Control,
    Probe,
}

/// The port that a socket with this address is for: the one with exactly this address, else one that may have any port
/// number. Of two such the control port comes first, until it has a socket.
fn port_of(address: SocketAddr, config: &Config, has_control: bool) -> Option<Port> {
    let mut asked = vec![(Port::Control, config.control), (Port::Data, config.listen)];
    if let Some(probe) = config.probe {
        asked.insert(usize::from(!has_control), (Port::Probe, probe));
    }
    let exactly = asked.iter().find(|(_, asked)| *asked == address);
    exactly.or_else(|| asked.iter().find(|(_, asked)| is_same(address, *asked))).map(|(port, _)| *port)
}

fn foreign(address: SocketAddr, config: &Config) -> Failure {
    let probe = config.probe.map(|probe| format!(", --probe {probe}")).unwrap_or_default();
    Failure::failed(format!(
        "a socket that was passed in listens on {address}, which is not the address of --listen {}, --control {}{probe}; \
         fix the socket unit or the flags",
        config.listen, config.control
    ))
}

/// Whether a socket bound to `bound` is what was asked for: any port will do for port 0.
fn is_same(bound: SocketAddr, asked: SocketAddr) -> bool {
    bound.ip() == asked.ip() && (bound.port() == asked.port() || asked.port() == 0)
}

fn cannot_take_over(config: &Config, path: Option<&Path>, error: &io::Error) -> Failure {
    let place = path.map(|path| format!(" at {}", path.display())).unwrap_or_default();
    let mend = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "no server of this host serves exactly that address; start without --takeover, or give the --listen and the \
             --takeover-path that it was started with"
        }
        io::ErrorKind::PermissionDenied => {
            "run the new server as the user of the one that serves; root needs the --takeover-path of that one, in \
             directories that only root and that user can write to"
        }
        _ => "it goes on serving",
    };
    Failure::failed(format!("--takeover: cannot take {} over{place}: {error}; {mend}", config.listen))
}

fn cannot_listen(flag: &str, address: SocketAddr, error: &io::Error) -> Failure {
    let mend = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process serves it; stop that one, take over from it (--takeover), or choose another port (port 0 \
             picks a free one)"
        }
        io::ErrorKind::AddrNotAvailable => "no interface of this host has that address",
        io::ErrorKind::PermissionDenied if (1..1024).contains(&address.port()) => {
            "ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one"
        }
        io::ErrorKind::PermissionDenied => {
            "a policy of this host forbids that call; look at the seccomp profile, SELinux or AppArmor"
        }
        _ => "choose another address",
    };
    Failure::failed(format!("{flag} {address}: {error}; {mend}"))
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(|error| Failure::failed(format!("cannot tell the address of a listener: {error}")))
}
