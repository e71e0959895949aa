//! Crowds of peers that hold what belongs to all of them: partial frames, unread answers, places for handshakes. Measured
//! is what ten honest peers and a row of newcomers get beside them.
//!
//! [`play`] runs any number of crowds at once, from one thread; another one drives the honest peers. Neither ever waits
//! for the server, so a server that stalls is measured and not waited for.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;

use corelane_testkit::server::command;
use corelane_wire::{HEADER_BYTES, decode_answer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tempfile::TempDir;

use super::*;

/// Honest peers together, in frames a second of 1 KB; each asks for an answer every [`TICK`].
const HONEST_RATE: usize = 5_000;
const HONEST_PEERS: usize = 10;
const TICK: Duration = Duration::from_millis(20);

/// A connection that never blocks.
struct Wire {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    unsent: Vec<u8>,
    received: Vec<u8>,
}

/// How to reach the data port.
#[derive(Clone)]
struct Way {
    address: SocketAddr,
    source: Ipv4Addr,
    tls: Option<Arc<ClientConfig>>,
    /// The least that the kernel buffers for a peer, so that what the server writes stays with the server.
    takes_little: bool,
}

impl Way {
    fn from(&self, source: Ipv4Addr) -> Self {
        Self { source, ..self.clone() }
    }

    fn taking_little(&self) -> Self {
        Self { takes_little: true, ..self.clone() }
    }

    fn connect(&self) -> std::io::Result<Wire> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        if self.takes_little {
            sockopt::set_socket_recv_buffer_size(&socket, 1)?;
        }
        rustix::net::bind(&socket, &SocketAddr::from((self.source, 0)))?;
        match rustix::net::connect(&socket, &self.address) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        let tls = self.tls.as_ref().map(|config| {
            let mut tls =
                ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost").unwrap()).unwrap();
            tls.set_buffer_limit(None);
            Box::new(tls)
        });
        Ok(Wire { stream, tls, unsent: Vec::new(), received: Vec::new() })
    }
}

impl Wire {
    fn queue(&mut self, bytes: &[u8]) {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(bytes).unwrap(),
            None => self.unsent.extend_from_slice(bytes),
        }
    }

    fn wants_write(&self) -> bool {
        !self.unsent.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write() || tls.is_handshaking())
    }

    /// Writes what the socket takes.
    fn write_some(&mut self) -> std::io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.unsent)?;
            }
        }
        let mut written = 0;
        let done = loop {
            if written == self.unsent.len() {
                break Ok(());
            }
            match self.stream.write(&self.unsent[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.unsent.drain(..written);
        done
    }

    /// Reads what has come, at most so many bytes; an end is an error.
    fn read_some(&mut self, mut at_most: usize) -> std::io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        while at_most > 0 {
            let room = chunk.len().min(at_most);
            let count = match self.stream.read(&mut chunk[..room]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            at_most -= count;
            match &mut self.tls {
                None => self.received.extend_from_slice(&chunk[..count]),
                Some(tls) => {
                    let mut records = &chunk[..count];
                    while !records.is_empty() {
                        tls.read_tls(&mut records)?;
                        tls.process_new_packets().map_err(std::io::Error::other)?;
                        match tls.reader().read_to_end(&mut self.received) {
                            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                            _ => {}
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes and reads all that is possible.
    fn pump(&mut self) -> std::io::Result<()> {
        self.write_some()?;
        self.read_some(usize::MAX)?;
        self.write_some()
    }

    /// The next answer that has come whole: how many frames are committed. A last frame is an error.
    fn answer(&mut self) -> std::io::Result<Option<u64>> {
        let Some(header) = self.received.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let end = HEADER_BYTES + u32::from_be_bytes(*header) as usize;
        let Some(payload) = self.received.get(HEADER_BYTES..end) else { return Ok(None) };
        let committed = match decode_answer(payload).unwrap() {
            corelane_wire::Reply::Committed(answer) => Ok(Some(answer.committed)),
            corelane_wire::Reply::Closing { code, .. } => Err(std::io::Error::other(format!("closing: {code}"))),
        };
        self.received.drain(..end);
        committed
    }
}

/// Waits until one of them can go on, or for a time.
fn wait<'w>(wires: impl Iterator<Item = &'w Wire>, time: Duration) {
    let interest = |wire: &Wire| if wire.wants_write() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    let mut polled: Vec<_> = wires.map(|wire| PollFd::new(&wire.stream, interest(wire))).collect();
    let _ = poll(&mut polled, Some(&Timespec::try_from(time).unwrap()));
}

/// Off the first allowed core, which the shard has, if there is another.
pub(super) fn leave_the_data_core() {
    let mut set = CpuSet::new();
    host::allowed_cores().into_iter().skip(1).for_each(|core| set.set(core));
    if set.count() > 0 {
        sched_setaffinity(None, &set).unwrap();
    }
}

// ---- the attack ----

/// What one peer of a crowd does; gives the time until it does something again. An error means that the server has
/// closed it. The number is the peer's own, 0 when it has just connected.
type Act = Box<dyn FnMut(&mut Wire, &mut usize) -> std::io::Result<Duration> + Send>;

/// Peers that do the same.
struct Crowd {
    ways: Vec<Way>,
    places: Vec<Place>,
    act: Act,
    /// A peer has begun when its number is at least this, and all is written.
    begins: usize,
    /// How long a peer that was closed waits until it connects again; `None` if it stays away.
    returns_after: Option<Duration>,
    closed: usize,
}

enum Place {
    Empty { connects: Instant },
    Taken { wire: Wire, number: usize, next: Instant },
    Left,
}

impl Crowd {
    fn new(ways: Vec<Way>, peers: usize, act: Act) -> Self {
        let places = (0..peers).map(|_| Place::Empty { connects: Instant::now() }).collect();
        Self { ways, places, act, begins: 1, returns_after: None, closed: 0 }
    }

    fn returning(self, after: Duration) -> Self {
        Self { returns_after: Some(after), ..self }
    }

    /// Whatever is due.
    fn step(&mut self, now: Instant) {
        let mut connects_left = 64;
        for (index, place) in self.places.iter_mut().enumerate() {
            if let Place::Empty { connects } = place
                && *connects <= now
                && connects_left > 0
            {
                connects_left -= 1;
                if let Ok(wire) = self.ways[index % self.ways.len()].connect() {
                    *place = Place::Taken { wire, number: 0, next: now };
                }
            }
            let Place::Taken { wire, number, next } = place else { continue };
            if *next > now {
                continue;
            }
            match (self.act)(wire, number) {
                Ok(pause) => *next = now + pause,
                Err(_) => {
                    self.closed += 1;
                    *place = match self.returns_after {
                        Some(pause) => Place::Empty { connects: now + pause },
                        None => Place::Left,
                    };
                }
            }
        }
    }

    /// Whether each peer has connected and written how it begins, or was closed before that.
    fn is_set_up(&self) -> bool {
        self.closed >= self.places.len()
            || self.places.iter().all(|place| match place {
                Place::Empty { .. } => self.closed > 0,
                Place::Taken { wire, number, .. } => *number >= self.begins && !wire.wants_write(),
                Place::Left => true,
            })
    }
}

/// Peers that send the start of a frame, and then a byte in each period or nothing.
fn partial_frames(ways: Vec<Way>, peers: usize, start_bytes: usize, trickle: Option<Duration>) -> Crowd {
    const LOOK: Duration = Duration::from_millis(200);
    let frame = frames::event_of("partial", 1, 60_000);
    let act = move |wire: &mut Wire, sent: &mut usize| {
        if *sent == 0 {
            wire.queue(&frame[..start_bytes]);
            *sent = start_bytes;
        } else if !wire.wants_write()
            && trickle.is_some()
            && let Some(byte) = frame.get(*sent)
        {
            wire.queue(&[*byte]);
            *sent += 1;
        }
        wire.pump()?;
        Ok(if wire.wants_write() { LOOK } else { trickle.unwrap_or(LOOK) })
    };
    Crowd::new(ways, peers, Box::new(act))
}

/// How many answers of a peer that reads nothing the server and the kernel keep, before the server closes it.
fn answers_kept(field: &Field) -> usize {
    const MOST: usize = 400_000;
    const CHUNK: usize = 500;
    let closed = || field.server.metrics().closed_for("unread_answers");
    let (mut wire, before, mut sent) = (field.way.taking_little().connect().unwrap(), closed(), 0);
    while closed() == before && sent < MOST {
        if wire.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            wire.pump().unwrap();
        } else if !wire.wants_write() {
            wire.queue(&frames::COMMIT_REQUEST.repeat(CHUNK));
            sent += CHUNK;
        }
        if wire.write_some().is_err() {
            break;
        }
        sleep(Duration::from_millis(2));
    }
    sent - CHUNK
}

/// Peers that ask for as many answers as the server keeps, and read `bytes` of them in each period.
fn slow_readers(field: &Field, ways: &[Way], peers: usize, bytes: usize, period: Duration) -> Crowd {
    const CHUNK: usize = 500;
    let most = answers_kept(field);
    let ways = ways.iter().map(Way::taking_little).collect();
    let act = move |wire: &mut Wire, sent: &mut usize| {
        if wire.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            wire.pump()?;
            return Ok(period / 10);
        }
        if !wire.wants_write() && *sent < most {
            let count = CHUNK.min(most - *sent);
            wire.queue(&frames::COMMIT_REQUEST.repeat(count));
            *sent += count;
        }
        wire.write_some()?;
        if *sent < most {
            return Ok(period / 500);
        }
        wire.read_some(bytes)?;
        wire.received.clear();
        Ok(period)
    };
    // One that asked for too much comes back, so that most of them hold something.
    Crowd { begins: most, ..Crowd::new(ways, peers, Box::new(act)) }.returning(period)
}

/// Peers that shake hands, a byte of their hello in each period.
fn slow_handshakes(way: &Way, sources: &[Ipv4Addr], peers: usize, period: Duration) -> Crowd {
    let mut hello = Vec::new();
    let config = Arc::clone(way.tls.as_ref().unwrap());
    ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap().write_tls(&mut hello).unwrap();
    let act = move |wire: &mut Wire, sent: &mut usize| {
        if let Some(byte) = hello.get(*sent) {
            wire.queue(&[*byte]);
            *sent += 1;
        }
        wire.pump()?;
        Ok(period)
    };
    let ways = sources.iter().map(|source| Way { tls: None, ..way.from(*source) }).collect();
    Crowd::new(ways, peers, Box::new(act))
}

// ---- the honest ----

struct Honest {
    way: Way,
    peers: Vec<HonestPeer>,
    time: u64,
}

struct HonestPeer {
    wire: Wire,
    id: String,
    /// Answers that are still to come.
    asked: VecDeque<Asked>,
    committed: u64,
    is_closed: bool,
}

struct Asked {
    since: Instant,
    /// Frames since the commit request before it.
    frames: usize,
    /// Whether it was late at the end of a measurement, and counts there.
    is_counted: bool,
}

/// Answers that came in a measurement.
#[derive(Default)]
struct Answered {
    waits: Vec<Duration>,
    frames: usize,
}

/// What honest peers got in some time.
#[derive(Default)]
struct Got {
    frames_a_second: f64,
    answer_p99: Duration,
    closed: usize,
    newcomers: usize,
    /// How many newcomers got no answer, and how many were closed.
    unanswered: usize,
    refused: usize,
    newcomer_longest: Duration,
}

impl Honest {
    /// Ten connections, each with an answer.
    fn connect(way: &Way) -> Self {
        let peer = |number| HonestPeer {
            wire: way.connect().unwrap(),
            id: format!("honest-{number}"),
            asked: VecDeque::new(),
            committed: 0,
            is_closed: false,
        };
        Self { way: way.clone(), peers: (0..HONEST_PEERS).map(peer).collect(), time: 0 }
    }

    /// Queues frames and a commit request on each connection.
    fn send(&mut self, frames_each: usize) {
        for peer in self.peers.iter_mut().filter(|peer| !peer.is_closed) {
            for _ in 0..frames_each {
                self.time += 1;
                peer.wire.queue(&frames::event(&peer.id, self.time));
            }
            peer.wire.queue(&frames::COMMIT_REQUEST);
            peer.asked.push_back(Asked { since: Instant::now(), frames: frames_each, is_counted: false });
        }
    }

    /// Pumps all connections. Answers of what was asked before this measurement count nowhere.
    fn pump(&mut self, answered: &mut Answered) {
        for peer in self.peers.iter_mut().filter(|peer| !peer.is_closed) {
            let pumped = peer.wire.pump().and_then(|()| {
                while let Some(committed) = peer.wire.answer()? {
                    peer.committed = committed;
                    let asked = peer.asked.pop_front().expect("no answer without a request");
                    if !asked.is_counted {
                        answered.waits.push(asked.since.elapsed());
                        answered.frames += asked.frames;
                    }
                }
                Ok(())
            });
            if let Err(error) = pumped {
                eprintln!("an honest connection ended: {error}");
                peer.is_closed = true;
            }
        }
    }

    fn committed(&self) -> u64 {
        self.peers.iter().map(|peer| peer.committed).sum()
    }

    /// Sends at `rate` for some time, with a newcomer now and then.
    fn paced(&mut self, rate: usize, time: Duration, newcomer_every: Duration) -> Got {
        let start = Instant::now();
        let (mut answered, mut newcomer_waits) = (Answered::default(), Vec::new());
        let mut newcomers: Vec<(Wire, Instant)> = Vec::new();
        let (mut tick, mut came, mut refused) = (0, 0, 0);
        let frames_each = (rate as f64 / HONEST_PEERS as f64 * TICK.as_secs_f64()).ceil() as usize;
        while start.elapsed() < time {
            if start.elapsed() >= TICK * tick {
                tick += 1;
                self.send(frames_each);
            }
            if start.elapsed() >= newcomer_every.saturating_mul(came + 1) {
                came += 1;
                let mut wire = self.way.connect().unwrap();
                wire.queue(&frames::event("newcomer", u64::from(came)));
                wire.queue(&frames::COMMIT_REQUEST);
                newcomers.push((wire, Instant::now()));
            }
            self.pump(&mut answered);
            newcomers.retain_mut(|(wire, since)| match wire.pump().and_then(|()| wire.answer()) {
                Ok(None) => true,
                Ok(Some(_)) => {
                    newcomer_waits.push(since.elapsed());
                    false
                }
                Err(_) => {
                    refused += 1;
                    false
                }
            });
            let due = (start + TICK * tick).saturating_duration_since(Instant::now());
            let open = self.peers.iter().filter(|peer| !peer.is_closed).map(|peer| &peer.wire);
            wait(open.chain(newcomers.iter().map(|(wire, _)| wire)), due);
        }
        let Answered { mut waits, frames } = answered;
        let frames_a_second = frames as f64 / start.elapsed().as_secs_f64();
        // An answer that has not come is as late as it is until now, and counts once.
        for asked in self.peers.iter_mut().flat_map(|peer| &mut peer.asked) {
            if !std::mem::replace(&mut asked.is_counted, true) {
                waits.push(asked.since.elapsed());
            }
        }
        waits.sort_unstable();
        let unanswered = newcomers.len();
        let waiting = newcomers.iter().map(|(_, since)| since.elapsed());
        Got {
            frames_a_second,
            answer_p99: waits.get((waits.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default(),
            newcomers: came as usize,
            unanswered,
            refused,
            newcomer_longest: newcomer_waits.into_iter().chain(waiting).max().unwrap_or_default(),
            closed: self.peers.iter().filter(|peer| peer.is_closed).count(),
        }
    }

    /// Frames a second when each connection has a chunk of frames under way at all times.
    fn flat_out(&mut self, time: Duration) -> f64 {
        const CHUNK: usize = 50;
        let (start, before) = (Instant::now(), self.committed());
        while start.elapsed() < time {
            self.pump(&mut Answered::default());
            if self.peers.iter().any(|peer| !peer.is_closed && peer.asked.is_empty()) {
                for peer in self.peers.iter_mut().filter(|peer| !peer.is_closed && peer.asked.is_empty()) {
                    self.time += 1;
                    let frame = frames::event(&peer.id, self.time);
                    (0..CHUNK).for_each(|_| peer.wire.queue(&frame));
                    peer.wire.queue(&frames::COMMIT_REQUEST);
                    peer.asked.push_back(Asked { since: Instant::now(), frames: CHUNK, is_counted: true });
                }
                continue;
            }
            let open = self.peers.iter().filter(|peer| !peer.is_closed).map(|peer| &peer.wire);
            wait(open, Duration::from_millis(5));
        }
        let frames_a_second = (self.committed() - before) as f64 / start.elapsed().as_secs_f64();
        // What is under way is not counted for what comes next, if the server answers at all.
        let end = Instant::now() + Duration::from_secs(1);
        while self.peers.iter().any(|peer| !peer.is_closed && !peer.asked.is_empty()) && Instant::now() < end {
            self.pump(&mut Answered::default());
            sleep(Duration::from_millis(1));
        }
        frames_a_second
    }
}

// ---- one beside the other ----

/// A server, and how to reach it.
struct Field {
    server: Server,
    /// From 127.0.0.1.
    way: Way,
    /// Memory at most, as `plan` prints it.
    planned_bytes: u64,
    _files: TempDir,
}

impl Field {
    fn new(is_tls: bool, flags: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mut flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let tls = is_tls.then(|| {
            let authority = Authority::new("fleet");
            let (certificate, key) = authority.issue("localhost").write(files.path(), "server");
            let [certificate, key] = [certificate, key].map(|path| path.to_str().unwrap().to_owned());
            flags.extend(["--tls-cert".to_owned(), certificate, "--tls-key".to_owned(), key]);
            authority.client(None, rustls::ALL_VERSIONS)
        });
        if !is_full() && !flags.iter().any(|flag| flag == "--pool-bytes") {
            flags.extend(["--pool-bytes".to_owned(), "8MiB".to_owned()]);
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let cores = host::cores_for(1).unwrap();
        let plan = command(BINARY).args(["plan", "--json", "--cores", &cores]).args(&flags).output().unwrap();
        let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
        let server = Server::start(BINARY, &flags);
        let way = Way { address: server.listen, source: Ipv4Addr::LOCALHOST, tls, takes_little: false };
        Self { server, way, planned_bytes: plan["memory_bytes_max"].as_u64().unwrap(), _files: files }
    }

    /// The most that was ever resident.
    fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }
}

/// Plays crowds all at once beside honest peers, reports, and checks what holds for every attack.
fn play(attack: &str, field: &Field, crowds: Vec<Crowd>) -> Got {
    play_with(attack, field, &field.way, crowds)
}

/// As [`play`], with honest peers that come this way.
fn play_with(attack: &str, field: &Field, honest: &Way, mut crowds: Vec<Crowd>) -> Got {
    let peers: usize = crowds.iter().map(|crowd| crowd.places.len()).sum();
    host::allow_descriptors(peers as u64 + 1_000);
    let rate = scaled(HONEST_RATE, 500);
    let newcomer_every = Duration::from_millis(scaled(250, 100) as u64);
    let [begins, is_set_up, over] = [const { AtomicBool::new(false) }; 3];
    let times = |full, few| Duration::from_millis(scaled(full, few) as u64);
    let (before, before_flat_out, got, got_flat_out, buffers) = scope(|scope| {
        let _end = scopeguard::guard((), |()| over.store(true, Ordering::Relaxed));
        scope.spawn(|| {
            leave_the_data_core();
            while !begins.load(Ordering::Relaxed) && !over.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(1));
            }
            let start = Instant::now();
            while !over.load(Ordering::Relaxed) {
                crowds.iter_mut().for_each(|crowd| crowd.step(Instant::now()));
                // A server that is stuck may never take all of it.
                let waited = start.elapsed() > times(30_000, 2_000);
                if waited || crowds.iter().all(Crowd::is_set_up) {
                    is_set_up.store(true, Ordering::Relaxed);
                }
                sleep(Duration::from_millis(1));
            }
        });
        let honest = scope.spawn(|| {
            let _end = scopeguard::guard((), |()| over.store(true, Ordering::Relaxed));
            leave_the_data_core();
            let mut honest = Honest::connect(honest);
            // Connections and tables come to be.
            honest.paced(rate, Duration::from_millis(300), newcomer_every);
            let before = honest.paced(rate, times(6_000, 600), newcomer_every);
            let before_flat_out = honest.flat_out(times(3_000, 200));
            begins.store(true, Ordering::Relaxed);
            while !is_set_up.load(Ordering::Relaxed) {
                honest.paced(rate, Duration::from_millis(100), Duration::MAX);
            }
            let got = honest.paced(rate, times(15_000, 1_200), newcomer_every);
            let got_flat_out = honest.flat_out(times(3_000, 200));
            (before, before_flat_out, got, got_flat_out)
        });
        let mut buffers = 0;
        while !honest.is_finished() {
            if is_set_up.load(Ordering::Relaxed) {
                buffers = buffers.max(field.server.metrics().buffers_in_use());
            }
            sleep(Duration::from_millis(100));
        }
        let (before, before_flat_out, got, got_flat_out) = honest.join().unwrap();
        (before, before_flat_out, got, got_flat_out, buffers)
    });
    let closed = crowds.iter().map(|crowd| crowd.closed).sum::<usize>();
    let share = got.frames_a_second / before.frames_a_second;
    let (resident, planned) = (field.resident_bytes(), field.planned_bytes);
    figure(
        attack,
        &format!(
            "honest peers: {share:.2} of their rate ({:.0} frames/s, before {:.0}), flat out {:.2} ({:.0} frames/s, \
             before {:.0}), answers p99 {:.1?} (before {:.1?}), {} closed; {} newcomers, {} unanswered, {} refused, \
             longest wait {:.1?} (before {:.1?}); attackers: {peers}, closed {closed} times, {buffers} buffers in use at \
             most; {:.0} MB resident at most, \
             planned {:.0} MB",
            got.frames_a_second,
            before.frames_a_second,
            got_flat_out / before_flat_out,
            got_flat_out,
            before_flat_out,
            got.answer_p99,
            before.answer_p99,
            got.closed,
            got.newcomers,
            got.unanswered,
            got.refused,
            got.newcomer_longest,
            before.newcomer_longest,
            resident as f64 / 1e6,
            planned as f64 / 1e6
        ),
    );
    assert_eq!(got.closed, 0, "no honest connection is closed");
    assert_eq!(got.refused, 0, "no newcomer is refused");
    assert!(resident <= planned, "{resident} bytes were resident, {planned} planned");
    // In the tests a rate that any machine can do; before it went to nothing.
    let least = if is_full() { 0.9 } else { 0.5 };
    assert!(share >= least, "{share:.2} of the rate before");
    got
}

/// Six addresses, none of them that of the honest peers.
fn six_addresses(way: &Way) -> Vec<Way> {
    (2..8).map(|number| way.from(Ipv4Addr::new(127, 0, 0, number))).collect()
}

/// 9 MB once, then 800 bytes a second.
fn trickling(ways: Vec<Way>) -> Crowd {
    partial_frames(ways, scaled(540, 100), 17_000, Some(Duration::from_millis(700)))
}

fn silent(ways: Vec<Way>) -> Crowd {
    partial_frames(ways, scaled(3_000, 100), 59_000, None)
}

/// Plays one of the attacks with partial frames in a way to connect.
fn partial(attack: &str, is_tls: bool, from_six: bool, crowd: impl Fn(Vec<Way>) -> Crowd) {
    let _turn = turn();
    let flags: &[&str] = if from_six { &["--max-connections-per-ip", "100"] } else { &[] };
    let field = Field::new(is_tls, flags);
    let ways = if from_six { six_addresses(&field.way) } else { vec![field.way.clone()] };
    let got = play(attack, &field, vec![crowd(ways)]);
    assert!(2 * got.unanswered < got.newcomers, "newcomers are answered meanwhile");
    assert!(!is_full() || got.newcomer_longest < Duration::from_secs(2), "{:?}", got.newcomer_longest);
}

#[test]
fn trickled_frames_take_no_buffers_from_others() {
    partial("540 peers trickle a frame, a byte every 0.7 s", false, false, trickling);
}

#[test]
fn trickled_frames_take_no_buffers_from_others_over_tls() {
    partial("540 peers trickle a frame, over TLS", true, false, trickling);
}

#[test]
fn trickled_frames_take_no_buffers_from_others_from_six_addresses() {
    partial("540 peers of six addresses trickle a frame", false, true, trickling);
}

#[test]
fn trickled_frames_take_no_buffers_when_their_peers_come_back() {
    partial("540 peers trickle a frame and come back 1 s after they are closed", false, false, |ways| {
        trickling(ways).returning(Duration::from_secs(1))
    });
}

#[test]
fn silent_frames_take_no_buffers_from_others() {
    partial("3 000 peers fall silent 1 KB before the end of a frame", false, false, silent);
}

#[test]
fn silent_frames_take_no_buffers_from_others_over_tls() {
    partial("3 000 peers fall silent in a frame, over TLS", true, false, silent);
}

#[test]
fn silent_frames_take_no_buffers_from_others_from_six_addresses() {
    // As many as the limit lets in.
    partial("600 peers of six addresses fall silent in a frame", false, true, |ways| {
        partial_frames(ways, scaled(600, 100), 59_000, None)
    });
}

#[test]
fn slowly_read_answers_take_no_buffers_from_others() {
    let _turn = turn();
    let field = Field::new(false, if is_full() { &[] } else { &["--pool-bytes", "2MiB"] });
    let ways = [field.way.clone()];
    let crowd = slow_readers(&field, &ways, scaled(512, 20), 3, Duration::from_secs(1));
    let got = play("512 peers ask and read three bytes of the answers a second", &field, vec![crowd]);
    assert!(2 * got.unanswered < got.newcomers, "newcomers are answered meanwhile");
    assert!(!is_full() || got.newcomer_longest < Duration::from_secs(2), "{:?}", got.newcomer_longest);
}

#[test]
fn slow_handshakes_take_no_places_from_others() {
    let _turn = turn();
    let field = Field::new(true, &[]);
    // More than there are places for handshakes; small would hold nobody up.
    let crowd = slow_handshakes(&field.way, &[Ipv4Addr::new(127, 0, 0, 66)], 700, Duration::from_secs(1));
    let honest = field.way.from(Ipv4Addr::new(127, 0, 0, 77));
    let crowd = crowd.returning(Duration::ZERO);
    let got = play_with("700 TLS peers trickle a handshake and come back", &field, &honest, vec![crowd]);
    assert!(2 * got.unanswered < got.newcomers, "newcomers agree on TLS meanwhile");
    assert!(!is_full() || got.newcomer_longest < Duration::from_secs(3), "{:?}", got.newcomer_longest);
}

#[test]
fn all_crowds_at_once_stay_within_the_plan() {
    let _turn = turn();
    let field = Field::new(true, &[]);
    let elsewhere = |number| vec![field.way.from(Ipv4Addr::new(127, 0, 0, number))];
    let crowds = vec![
        trickling(elsewhere(2)),
        silent(elsewhere(3)),
        slow_readers(&field, &elsewhere(4), scaled(512, 80), 3, Duration::from_secs(1)),
        slow_handshakes(&field.way, &[Ipv4Addr::new(127, 0, 0, 66)], 700, Duration::from_secs(1))
            .returning(Duration::ZERO),
    ];
    play("all of these at once, over TLS", &field, crowds);
}
