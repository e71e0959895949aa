//! Simulated TCP connections: what each side's kernel holds of the stream, and how the stream ends.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use corelane_shard::kernel::{Instant, Socket};
use corelane_testkit::Random;
use rustix::io::Errno;

/// All connections of a run, its clock and its source of chance.
pub(crate) struct Network {
    pub(crate) now: Instant,
    pub(crate) random: Random,
    pub(crate) links: Vec<Link>,
    /// By shard: connections that wait to be accepted.
    pub(crate) backlogs: Vec<VecDeque<usize>>,
    /// Whether the shards have been asked to stop.
    pub(crate) is_stopping: bool,
    /// How old a connection may become; zero for any age.
    pub(crate) age_max: Duration,
}

/// The network, shared by everything in a run.
pub(crate) type SharedNetwork = Rc<RefCell<Network>>;

/// One connection.
pub(crate) struct Link {
    /// Received by the server's kernel, not by the server.
    pub(crate) to_server: VecDeque<u8>,
    /// How much of that there may be.
    pub(crate) window: usize,
    /// Sent by the server, not read by the device.
    pub(crate) to_device: VecDeque<u8>,
    /// How much of that there may be.
    send_room: usize,
    /// The device sends no more.
    pub(crate) device_ended: bool,
    /// The device has reset the connection, or closed it with bytes unread.
    pub(crate) is_reset: bool,
    /// The server sends no more.
    pub(crate) server_ended: bool,
    /// The server has ended both directions.
    pub(crate) is_shut: bool,
    /// The server holds the socket no more.
    pub(crate) is_closed: bool,
    /// When the server received bytes last.
    pub(crate) received_at: Instant,
}

impl Network {
    pub(crate) fn new(random: Random, shards: usize, age_max: Duration) -> SharedNetwork {
        let start = Instant::default() + Duration::from_secs(1_000);
        let backlogs = (0..shards).map(|_| VecDeque::new()).collect();
        Rc::new(RefCell::new(Self { now: start, random, links: Vec::new(), backlogs, is_stopping: false, age_max }))
    }

    /// A device connects, and `send_room` bytes of answers fit on their way to it; the kernel deals it to the listener of some
    /// shard.
    pub(crate) fn connect(&mut self, send_room: usize) -> usize {
        let id = self.links.len();
        self.links.push(Link {
            to_server: VecDeque::new(),
            window: *self.random.pick(&[2_000, 16_000, 65_000, 200_000]),
            to_device: VecDeque::new(),
            send_room,
            device_ended: false,
            is_reset: false,
            server_ended: false,
            is_shut: false,
            is_closed: false,
            received_at: self.now,
        });
        let shard = self.random.below(self.backlogs.len());
        self.backlogs[shard].push_back(id);
        id
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Any duration up to `most`.
    pub(crate) fn some_time(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.random.below(1_001) as f64 / 1_000.0)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { to_server, to_device, device_ended, is_reset, server_ended, is_shut, is_closed, .. } = self;
        let (unread, unsent) = (to_server.len(), to_device.len());
        write!(f, "{unread} bytes unread, {unsent} on their way back; ended {device_ended} {server_ended}, ")?;
        write!(f, "reset {is_reset}, shut {is_shut}, closed {is_closed}")
    }
}

impl Link {
    /// Whether a receive would complete.
    pub(crate) fn is_readable(&self) -> bool {
        !self.to_server.is_empty() || self.device_ended || self.is_reset || self.is_shut
    }

    /// Whether a wait until it can be written to would complete.
    pub(crate) fn is_writable(&self) -> bool {
        self.is_reset || self.is_shut || self.to_device.len() * 3 <= self.send_room * 2
    }

    /// Takes what has come, at most as much as `into` holds: how many bytes, 0 at the end of the stream.
    pub(crate) fn receive(&mut self, into: &mut [u8], now: Instant) -> Result<usize, Errno> {
        let bytes = into.len().min(self.to_server.len());
        if bytes > 0 {
            for (at, byte) in into.iter_mut().zip(self.to_server.drain(..bytes)) {
                *at = byte;
            }
            self.received_at = now;
            return Ok(bytes);
        }
        match self {
            Self { is_reset: true, .. } => Err(Errno::CONNRESET),
            Self { device_ended: true, .. } | Self { is_shut: true, .. } => Ok(0),
            _ => Err(Errno::AGAIN),
        }
    }
}

/// The server's end of a connection.
pub(crate) struct SimSocket {
    pub(crate) id: usize,
    network: SharedNetwork,
}

impl SimSocket {
    pub(crate) fn new(id: usize, network: &SharedNetwork) -> Self {
        Self { id, network: Rc::clone(network) }
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimSocket({})", self.id)
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let link = &mut self.network.borrow_mut().links[self.id];
        link.is_closed = true;
        if !link.to_server.is_empty() {
            // The kernel resets a connection that is closed with bytes unread, and the device loses what it has not read.
            link.is_reset = true;
            link.to_device.clear();
        }
    }
}

impl Socket for SimSocket {
    fn send(&self, bytes: &[u8]) -> Option<usize> {
        let network = &mut *self.network.borrow_mut();
        let link = &mut network.links[self.id];
        assert!(!link.server_ended, "nothing is sent behind our FIN");
        if link.is_reset || link.is_shut {
            return None;
        }
        let room = link.send_room.saturating_sub(link.to_device.len()).min(bytes.len());
        let sent = if network.random.below(8) == 0 { network.random.below(room + 1) } else { room };
        link.to_device.extend(&bytes[..sent]);
        Some(sent)
    }

    fn receive(&self, into: &mut [u8]) -> Result<usize, Errno> {
        let network = &mut *self.network.borrow_mut();
        let most = if network.random.below(4) == 0 { 1 + network.random.below(into.len()) } else { into.len() };
        network.links[self.id].receive(&mut into[..most], network.now)
    }

    fn unread_bytes(&self) -> u64 {
        self.network.borrow().links[self.id].to_server.len() as u64
    }

    fn has_ended(&self) -> bool {
        let link = &self.network.borrow().links[self.id];
        link.device_ended || link.is_reset || link.is_shut
    }

    fn is_readable(&self) -> bool {
        self.network.borrow().links[self.id].is_readable()
    }

    fn end_writing(&self) {
        self.network.borrow_mut().links[self.id].server_ended = true;
    }

    fn shut_down(&self) {
        let link = &mut self.network.borrow_mut().links[self.id];
        (link.server_ended, link.is_shut) = (true, true);
    }

    fn peer_address(&self) -> SocketAddr {
        let [high, low] = ((self.id % 1_000) as u16).to_be_bytes();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), 1_000)
    }

    fn make_room_for_frame(&self) {
        let link = &mut self.network.borrow_mut().links[self.id];
        link.window = link.window.max(2 * corelane_wire::MAX_FRAME_SIZE);
    }
}
