//! Places for connections: how many there are, how long each may be held, and who has to leave for somebody new.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

/// Bounds of the HTTP side.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Connections open at once. Each may hold 16 KiB of request header, an answer that its peer has not taken yet, and
    /// 64 KiB of TLS. One more takes the place of the one that has been without a request longest.
    pub connections_max: usize,
    /// From the start of a connection, or a header's first byte on one that is kept, to the end of the header; also for
    /// the TLS handshake before it.
    pub header_timeout: Duration,
    /// From one answer to the next request on the same connection. The default is longer than common scrape intervals.
    pub idle_timeout: Duration,
    /// From the end of a request's header until the peer has taken the whole answer.
    pub answer_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(30),
        }
    }
}

/// Every connection that is open.
pub(crate) struct Connections {
    limits: HttpLimits,
    /// Locks here and in [`Peer`] are taken by the one thread of the runtime, never across an `await`: nobody waits.
    open: Mutex<Vec<Arc<Peer>>>,
    closed: Notify,
}

impl Connections {
    pub(crate) fn new(limits: HttpLimits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default(), closed: Notify::new() })
    }

    /// A place for one more connection. When all are taken, somebody is made to leave, at once or within a second.
    pub(crate) async fn place(self: &Arc<Self>) -> Place {
        loop {
            {
                let mut open = lock(&self.open);
                if open.len() < self.limits.connections_max {
                    let peer = Arc::new(Peer::new(self.limits));
                    open.push(Arc::clone(&peer));
                    return Place { peer, connections: Arc::clone(self) };
                }
                make_room(&open);
            }
            // Looks again without a close, too: an answer may have taken long enough by then.
            let _ = timeout(LOOK_INTERVAL, self.closed.notified()).await;
        }
    }

    /// Waits until no connection is open.
    pub(crate) async fn all_closed(&self) {
        while !lock(&self.open).is_empty() {
            self.closed.notified().await;
        }
    }
}

/// Tells the connection to leave that has been without a request longest; if all have one, the one that has been at its
/// answer longest. Nobody leaves who has not had a fair chance yet: else a burst of new connections would push out who
/// has just come, before its request is here.
fn make_room(open: &[Arc<Peer>]) {
    let states = open.iter().map(|peer| *lock(&peer.state));
    if states.clone().any(|state| state.leaving) {
        return;
    }
    let had_a_chance = states.enumerate().filter(|(_, state)| match state.phase {
        Phase::Header => state.since.elapsed() >= HEADER_UNDISTURBED,
        Phase::Idle | Phase::Lingering => true,
        Phase::Answering { .. } => state.busy_since.elapsed() >= ANSWER_UNDISTURBED,
    });
    let longest = |state: &State| match state.phase {
        Phase::Answering { .. } => (true, state.busy_since),
        _ => (false, state.since),
    };
    if let Some((index, _)) = had_a_chance.min_by_key(|(_, state)| longest(state)) {
        lock(&open[index].state).leaving = true;
        open[index].leave.notify_one();
    }
}

/// A place, free again when this is dropped.
pub(crate) struct Place {
    pub(crate) peer: Arc<Peer>,
    connections: Arc<Connections>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.connections.open).retain(|peer| !Arc::ptr_eq(peer, &self.peer));
        self.connections.closed.notify_one();
    }
}

/// How far one connection is, as told by the one who serves it.
pub(crate) struct Peer {
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
    leaving: bool,
    /// A request came with a body, of which bytes may be unread.
    had_body: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// In the TLS handshake, before the end of the first header, or inside a later one.
    Header,
    /// Between two requests.
    Idle,
    /// From the end of a header to the last byte of its answer; `handed_over` when only bytes are left to write.
    Answering { handed_over: bool },
    /// After our last byte.
    Lingering,
}

impl Peer {
    fn new(limits: HttpLimits) -> Self {
        let state = State {
            phase: Phase::Header,
            since: Instant::now(),
            busy_since: Instant::now(),
            leaving: false,
            had_body: false,
        };
        Self { limits, state: Mutex::new(state), leave: Notify::new() }
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

    /// The whole answer is on its way.
    pub(crate) fn handed_over(&self) {
        lock(&self.state).phase = Phase::Answering { handed_over: true };
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
                Phase::Header => self.limits.header_timeout,
                Phase::Idle => self.limits.idle_timeout,
                Phase::Answering { .. } => self.limits.answer_timeout,
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

    fn peer(since: Instant, phase: Phase) -> Arc<Peer> {
        let peer = Peer::new(HttpLimits::default());
        *lock(&peer.state) = State { phase, since, busy_since: since, leaving: false, had_body: false };
        Arc::new(peer)
    }

    fn leaving(open: &[Arc<Peer>]) -> Vec<usize> {
        let leaving = open.iter().enumerate().filter(|(_, peer)| lock(&peer.state).leaving);
        leaving.map(|(index, _)| index).collect()
    }

    /// A peer whose phase began so many milliseconds ago.
    fn ago(millis: u64, phase: Phase) -> Arc<Peer> {
        peer(Instant::now() - Duration::from_millis(millis), phase)
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
        open.iter().for_each(|peer| {
            peer.handed_over();
            peer.flushed();
            peer.asked(false);
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
