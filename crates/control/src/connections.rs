//! Places for connections: how many there are, how long each may be held, and which connection has to leave for
//! another.
//!
//! A connection that was accepted first waits, which costs a descriptor and little else, until its first bytes are here.
//! Only then it needs a place, so silent peers hold none however many connect. A few places are kept back for whole
//! requests of probes, which take one for as long as a small answer needs.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

/// Bounds of the HTTP side.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Connections with a place at once. Each may hold 16 KiB of request header and 64 KiB of TLS besides its answer.
    /// One more takes the place of the one that has been without a request longest.
    pub connections_max: usize,
    /// Connections that wait: nothing has come of them yet, or all places are taken. Each holds a descriptor and a few
    /// hundred bytes. One more closes the one that has been silent longest.
    pub waiting_max: usize,
    /// Places besides, for requests of probes while all others are taken.
    pub probes_max: usize,
    /// From the start of a connection, or a header's first byte on one that is kept, to the end of the header; also for
    /// the TLS handshake before it.
    pub header_timeout: Duration,
    /// From one answer to the next request on the same connection. The default is longer than common scrape intervals.
    pub idle_timeout: Duration,
    /// From the end of a request's header until the peer has taken the whole answer.
    pub answer_timeout: Duration,
}

impl HttpLimits {
    /// Bounds of the port for probes: nothing is slow there, so few places are enough.
    pub const PROBE_PORT: Self = Self { connections_max: 8, waiting_max: 16, probes_max: 4, ..Self::DEFAULT };

    const DEFAULT: Self = Self {
        connections_max: 64,
        // 600 connects a second leave each of them 100 ms to send its first byte.
        waiting_max: 64,
        probes_max: 8,
        header_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(30),
        answer_timeout: Duration::from_secs(30),
    };

    /// Most connections that are open at once, which is the number of their descriptors.
    pub const fn descriptors(&self) -> usize {
        self.connections_max + self.waiting_max + self.probes_max
    }
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Every connection of one port that is open.
pub(crate) struct Connections {
    limits: HttpLimits,
    /// Locks here and in [`Connection`] are taken by the one thread of the runtime, never across an `await`: nobody waits.
    open: Mutex<Open>,
    closed: Notify,
    /// Held by the connection that gets the next place.
    next: tokio::sync::Mutex<()>,
}

/// Invariant: each list is at most as long as its limit.
#[derive(Default)]
struct Open {
    waiting: Vec<Arc<Connection>>,
    placed: Vec<Arc<Connection>>,
    probes: Vec<Arc<Connection>>,
}

impl Connections {
    pub(crate) fn new(limits: HttpLimits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default(), closed: Notify::new(), next: tokio::sync::Mutex::default() })
    }

    /// Takes a connection in, without a place. Does not wait longer than it takes the one that leaves for it to end.
    pub(crate) async fn enter(self: &Arc<Self>) -> Place {
        loop {
            {
                let mut open = lock(&self.open);
                if open.waiting.len() < self.limits.waiting_max {
                    let connection = Arc::new(Connection::new(self.limits));
                    open.waiting.push(Arc::clone(&connection));
                    return Place { connection, connections: Arc::clone(self), list: |open| &mut open.waiting };
                }
                turn_away(&open.waiting);
            }
            let _ = timeout(LOOK_INTERVAL, self.closed.notified()).await;
        }
    }

    /// A place for a connection of which bytes are here. When all are taken, another connection is made to leave, at
    /// once or within a second; a probe takes one of those kept back instead. None when the connection has to go first.
    pub(crate) async fn place(self: &Arc<Self>, waiting: Place, is_probe: bool) -> Option<Place> {
        waiting.connection.waits_for_place();
        // Connections that wait already come first.
        let at_once = self.next.try_lock().ok().and_then(|_next| self.try_place(&waiting.connection));
        if let Some(place) = at_once.or_else(|| is_probe.then(|| self.try_probe(&waiting.connection))?) {
            return Some(place);
        }
        waiting.connection.while_welcome(self.next_place(&waiting.connection)).await
    }

    async fn next_place(self: &Arc<Self>, connection: &Arc<Connection>) -> Place {
        let _next = self.next.lock().await;
        loop {
            if let Some(place) = self.try_place(connection) {
                return place;
            }
            make_room(&lock(&self.open).placed);
            // Looks again without a close, too: an answer may have taken long enough by then.
            let _ = timeout(LOOK_INTERVAL, self.closed.notified()).await;
        }
    }

    fn try_place(self: &Arc<Self>, connection: &Arc<Connection>) -> Option<Place> {
        self.move_to(|open| &mut open.placed, self.limits.connections_max, connection)
    }

    fn try_probe(self: &Arc<Self>, connection: &Arc<Connection>) -> Option<Place> {
        let place = self.move_to(|open| &mut open.probes, self.limits.probes_max, connection)?;
        lock(&connection.state).is_brief = true;
        Some(place)
    }

    fn move_to(self: &Arc<Self>, list: List, places: usize, connection: &Arc<Connection>) -> Option<Place> {
        let mut open = lock(&self.open);
        let open = list(&mut open);
        if open.len() >= places {
            return None;
        }
        open.push(Arc::clone(connection));
        connection.begin(Phase::Header);
        Some(Place { connection: Arc::clone(connection), connections: Arc::clone(self), list })
    }

    /// Ends the connection whose peer has not taken its answer for longest, if that is long enough: its memory is
    /// needed for other answers.
    pub(crate) fn end_longest_answer(&self) {
        let open = lock(&self.open);
        let since = |connection: &Arc<Connection>| {
            lock(&connection.state).sends_since.filter(|since| since.elapsed() >= ANSWER_UNDISTURBED)
        };
        if let Some((_, connection)) =
            open.placed.iter().filter_map(|connection| Some((since(connection)?, connection))).min_by_key(|(at, _)| *at)
        {
            connection.has_to_leave();
        }
    }

    /// Waits until no connection has a place.
    pub(crate) async fn all_closed(&self) {
        let is_open = || {
            let open = lock(&self.open);
            !open.placed.is_empty() || !open.probes.is_empty()
        };
        while is_open() {
            self.closed.notified().await;
        }
    }
}

/// Tells the connection to leave that has been silent longest; if none is silent, the one that has waited longest.
fn turn_away(waiting: &[Arc<Connection>]) {
    let states = waiting.iter().map(|connection| *lock(&connection.state));
    if states.clone().any(|state| state.leaving) {
        return;
    }
    let longest = |state: &State| (state.phase != Phase::Silent, state.since);
    if let Some((index, _)) = states.enumerate().min_by_key(|(_, state)| longest(state)) {
        waiting[index].has_to_leave();
    }
}

/// Tells the connection to leave that has been without a request longest; if all have one, the one that has been at its
/// answer longest. Nobody leaves who has not had a fair chance yet: else a burst of new connections would push out who
/// has just come, before its request is here.
fn make_room(open: &[Arc<Connection>]) {
    let states = open.iter().map(|connection| *lock(&connection.state));
    if states.clone().any(|state| state.leaving) {
        return;
    }
    let had_a_chance = states.enumerate().filter(|(_, state)| match state.phase {
        Phase::Header => state.since.elapsed() >= HEADER_UNDISTURBED,
        Phase::Silent | Phase::Queued | Phase::Idle | Phase::Slowed | Phase::Lingering => true,
        Phase::Answering { .. } => state.busy_since.elapsed() >= ANSWER_UNDISTURBED,
    });
    let longest = |state: &State| match state.phase {
        Phase::Answering { .. } => (true, state.busy_since),
        _ => (false, state.since),
    };
    if let Some((index, _)) = had_a_chance.min_by_key(|(_, state)| longest(state)) {
        open[index].has_to_leave();
    }
}

/// Which list a place is in.
type List = fn(&mut Open) -> &mut Vec<Arc<Connection>>;

/// A place of any kind, free again when this is dropped.
pub(crate) struct Place {
    pub(crate) connection: Arc<Connection>,
    connections: Arc<Connections>,
    list: List,
}

impl Place {
    /// A place for a connection of which bytes are here, in return for this one.
    pub(crate) async fn into_served(self, is_probe: bool) -> Option<Self> {
        let connections = Arc::clone(&self.connections);
        connections.place(self, is_probe).await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        (self.list)(&mut lock(&self.connections.open)).retain(|connection| !Arc::ptr_eq(connection, &self.connection));
        self.connections.closed.notify_waiters();
    }
}

/// How far one connection is, as told by the one who serves it.
pub(crate) struct Connection {
    limits: HttpLimits,
    state: Mutex<State>,
    leave: Notify,
}

#[derive(Clone, Copy)]
struct State {
    phase: Phase,
    /// When the phase began.
    since: Instant,
    /// When the request came that was not there before: pipelined ones follow each other without an end.
    busy_since: Instant,
    /// Since when an answer is there whose bytes hyper has not all taken.
    sends_since: Option<Instant>,
    leaving: bool,
    /// It has one of the places kept back: one answer, and no wait for the peer afterwards.
    is_brief: bool,
    /// A request came with a body, of which bytes may be unread.
    had_body: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Without a place, and no byte has come.
    Silent,
    /// Without a place; bytes have come.
    Queued,
    /// In the TLS handshake, before the end of the first header, or inside a later one.
    Header,
    /// Between two requests.
    Idle,
    /// From the end of a header to the last byte of its answer; `handed_over` when only bytes are left to write.
    Answering { handed_over: bool },
    /// The token was wrong, and the answer is held back for a while.
    Slowed,
    /// After our last byte.
    Lingering,
}

impl Connection {
    fn new(limits: HttpLimits) -> Self {
        let state = State {
            phase: Phase::Silent,
            since: Instant::now(),
            busy_since: Instant::now(),
            sends_since: None,
            leaving: false,
            is_brief: false,
            had_body: false,
        };
        Self { limits, state: Mutex::new(state), leave: Notify::new() }
    }

    /// First bytes came, and a place is needed.
    fn waits_for_place(&self) {
        // The time goes on: it counts from the start of the connection.
        lock(&self.state).phase = Phase::Queued;
    }

    fn has_to_leave(&self) {
        lock(&self.state).leaving = true;
        self.leave.notify_one();
    }

    /// The TLS handshake is done.
    pub(crate) fn shook_hands(&self) {
        self.begin(Phase::Header);
    }

    /// Bytes came.
    pub(crate) fn sent_bytes(&self) {
        if self.phase() == Phase::Idle {
            self.begin(Phase::Header);
        }
    }

    /// A whole header came.
    pub(crate) fn asked(&self, has_body: bool) {
        if self.phase() == Phase::Header {
            lock(&self.state).busy_since = Instant::now();
        }
        self.begin(Phase::Answering { handed_over: false });
        lock(&self.state).had_body |= has_body;
    }

    /// The answer is held back because of a wrong token.
    pub(crate) fn slowed(&self) {
        self.begin(Phase::Slowed);
    }

    /// The answer is there, and goes out as the peer takes it.
    pub(crate) fn sends(&self) {
        let mut state = lock(&self.state);
        (state.phase, state.sends_since) = (Phase::Answering { handed_over: false }, Some(Instant::now()));
    }

    /// The whole answer is on its way.
    pub(crate) fn handed_over(&self) {
        let mut state = lock(&self.state);
        (state.phase, state.sends_since) = (Phase::Answering { handed_over: true }, None);
    }

    /// The kernel has taken everything that is on its way.
    pub(crate) fn flushed(&self) {
        if self.phase() == (Phase::Answering { handed_over: true }) {
            self.begin(Phase::Idle);
        }
    }

    /// Nothing more will be sent.
    pub(crate) fn lingers(&self) {
        self.begin(Phase::Lingering);
    }

    pub(crate) fn is_brief(&self) -> bool {
        lock(&self.state).is_brief
    }

    pub(crate) fn had_body(&self) -> bool {
        lock(&self.state).had_body
    }

    /// Does `work` while the connection may stay: None when its time is up, or its place is needed.
    pub(crate) async fn while_welcome<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let (mut work, mut leave) = (pin!(work), pin!(self.leave.notified()));
        let mut time = pin!(sleep_until(self.deadline()));
        std::future::poll_fn(|context| {
            if leave.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            // The work is what moves the phase.
            let deadline = self.deadline();
            if time.deadline() != deadline {
                time.as_mut().reset(deadline);
            }
            time.as_mut().poll(context).map(|()| None)
        })
        .await
    }

    fn deadline(&self) -> Instant {
        let State { phase, since, .. } = *lock(&self.state);
        since
            + match phase {
                Phase::Silent | Phase::Queued | Phase::Header => self.limits.header_timeout,
                Phase::Idle => self.limits.idle_timeout,
                Phase::Answering { .. } | Phase::Slowed => self.limits.answer_timeout,
                Phase::Lingering => LINGER_MAX,
            }
    }

    fn phase(&self) -> Phase {
        lock(&self.state).phase
    }

    fn begin(&self, phase: Phase) {
        let mut state = lock(&self.state);
        (state.phase, state.since) = (phase, Instant::now());
    }
}

/// A panic in one connection leaves whole states behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a header may take before it has to make room: enough for a TLS handshake over some distance. 64 places then
/// take 256 connections a second that never ask.
const HEADER_UNDISTURBED: Duration = Duration::from_millis(250);
/// How long a request may be under way before it has to make room, if everybody else has one under way, too.
const ANSWER_UNDISTURBED: Duration = Duration::from_secs(1);
/// Between two looks for somebody who can leave.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long what a peer still sends is thrown away after our last byte, so that it gets to read that.
const LINGER_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(since: Instant, phase: Phase) -> Arc<Connection> {
        let connection = Connection::new(HttpLimits::default());
        {
            let mut state = lock(&connection.state);
            (state.phase, state.since, state.busy_since) = (phase, since, since);
        }
        Arc::new(connection)
    }

    fn leaving(open: &[Arc<Connection>]) -> Vec<usize> {
        let leaving = open.iter().enumerate().filter(|(_, connection)| lock(&connection.state).leaving);
        leaving.map(|(index, _)| index).collect()
    }

    /// A connection whose phase began this many milliseconds ago.
    fn ago(millis: u64, phase: Phase) -> Arc<Connection> {
        connection(Instant::now() - Duration::from_millis(millis), phase)
    }

    const ANSWERING: Phase = Phase::Answering { handed_over: false };

    #[test]
    fn the_one_without_a_request_longest_leaves_first() {
        let open =
            [ago(9_000, ANSWERING), ago(1_000, Phase::Idle), ago(3_000, Phase::Header), ago(2_000, Phase::Lingering)];
        make_room(&open);
        assert_eq!(leaving(&open), [2]);
        make_room(&open);
        assert_eq!(leaving(&open), [2], "one is enough");
    }

    #[test]
    fn a_header_has_a_fair_chance() {
        let open = [ago(100, Phase::Header), ago(9_000, ANSWERING), ago(0, Phase::Idle), ago(10, Phase::Header)];
        make_room(&open);
        assert_eq!(leaving(&open), [2]);
        let open = [ago(100, Phase::Header), ago(10, Phase::Header)];
        make_room(&open);
        assert!(leaving(&open).is_empty());
    }

    #[test]
    fn an_answer_is_disturbed_only_if_nobody_else_can_leave_and_only_after_a_while() {
        let open = [ago(300, ANSWERING), ago(500, ANSWERING), ago(0, ANSWERING)];
        make_room(&open);
        assert!(leaving(&open).is_empty());
        let open = [ago(1_500, ANSWERING), ago(4_000, ANSWERING), ago(0, Phase::Header)];
        make_room(&open);
        assert_eq!(leaving(&open), [1]);
    }

    #[test]
    fn requests_that_follow_each_other_without_an_end_keep_no_place_for_ever() {
        let open = [ago(1_500, ANSWERING), ago(3_000, ANSWERING)];
        open.iter().for_each(|connection| {
            connection.handed_over();
            connection.flushed();
            connection.asked(false);
        });
        make_room(&open);
        assert_eq!(leaving(&open), [1]);
        // A request whose bytes came after the last answer is a new one.
        let open = [ago(1_500, ANSWERING)];
        open[0].handed_over();
        open[0].flushed();
        open[0].sent_bytes();
        open[0].asked(false);
        make_room(&open);
        assert!(leaving(&open).is_empty());
    }
}
