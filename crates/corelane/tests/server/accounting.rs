//! `sent = accepted + rejected`, per connection and in sum, whatever the peers do.

use std::collections::BTreeMap;
use std::thread::scope;

use corelane_testkit::frames::{self, COMMIT_REQUEST, EVENT_POINTS, InvalidFrame, invalid_frames};
use corelane_testkit::server::smallest_pool;
use corelane_testkit::{Peer, Random, Reply, Server, host};
use corelane_wire::{Answer, MAX_FRAME_SIZE};

use crate::BINARY;

/// After so many rejected frames with no accepted one between, the server closes.
const REJECTED_RUN_MAX: u32 = 64;

/// How a peer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    PeerClosed,
    PeerReset,
    Truncated,
    Oversize,
    RejectedFrames,
}

impl End {
    fn label(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::PeerReset => "peer_reset",
            Self::Truncated => "truncated",
            Self::Oversize => "oversize",
            Self::RejectedFrames => "rejected_frames",
        }
    }
}

/// What one peer is going to do, and what the server has to make of it.
struct Plan {
    id: String,
    bytes: Vec<u8>,
    end: End,
    /// To every commit request.
    answers: Vec<Answer>,
    decided: Answer,
    points: u64,
    rejected: BTreeMap<&'static str, u64>,
    /// Rejected frames since the last accepted one.
    rejected_run: u32,
}

impl Plan {
    fn new(id: String, random: &mut Random, invalid: &[InvalidFrame]) -> Self {
        let mut plan = Self {
            id,
            bytes: Vec::new(),
            end: *random.pick(&[End::PeerClosed, End::PeerReset, End::Truncated, End::Oversize, End::RejectedFrames]),
            answers: Vec::new(),
            decided: Answer { committed: 0, rejected: 0 },
            points: 0,
            rejected: BTreeMap::new(),
            rejected_run: 0,
        };
        // A reset destroys what the server has not read yet, so whoever resets has to know that nothing is left.
        let asks = plan.end == End::PeerReset || random.below(3) > 0;
        for number in 0..200 + random.below(400) as u64 {
            match random.below(20) {
                0..8 => plan.accept(frames::event(&plan.id, number), EVENT_POINTS),
                8..12 => plan.accept(frames::small_event(&plan.id, "small", number, 0.25), 1),
                12 => plan.accept(frames::event_of(&plan.id, number, 400 + random.below(MAX_FRAME_SIZE - 400)), 1),
                13 if asks => plan.ask(),
                _ if plan.rejected_run + 1 < REJECTED_RUN_MAX => plan.reject(random.pick(invalid)),
                _ => {}
            }
        }
        if asks {
            plan.ask();
        }
        match plan.end {
            End::PeerClosed | End::PeerReset => {}
            End::Truncated => {
                let frame = frames::event(&plan.id, 0);
                let cut = *random.pick(&[1, 3, 4, 5, 500, frame.len() - 1]);
                plan.bytes.extend(&frame[..cut]);
            }
            End::Oversize => {
                let declared = *random.pick(&[MAX_FRAME_SIZE as u32 + 1, 1 << 24, u32::MAX]);
                plan.bytes.extend(frames::header(declared));
                plan.count_rejected("oversize");
                // What follows is nobody's frame.
                plan.bytes.extend(frames::event(&plan.id, 0).repeat(random.below(3)));
            }
            End::RejectedFrames => {
                plan.accept(frames::small_event(&plan.id, "small", 0, 0.5), 1);
                (0..REJECTED_RUN_MAX).for_each(|_| plan.reject(random.pick(invalid)));
                plan.bytes.extend(frames::event(&plan.id, 0).repeat(random.below(3)));
            }
        }
        plan
    }

    fn accept(&mut self, frame: Vec<u8>, points: u64) {
        self.bytes.extend(frame);
        self.decided.committed += 1;
        self.points += points;
        self.rejected_run = 0;
    }

    fn reject(&mut self, frame: &InvalidFrame) {
        self.bytes.extend(&frame.bytes);
        self.count_rejected(frame.reason.label());
    }

    fn count_rejected(&mut self, reason: &'static str) {
        self.decided.rejected += 1;
        self.rejected_run += 1;
        *self.rejected.entry(reason).or_default() += 1;
    }

    fn ask(&mut self) {
        self.bytes.extend(COMMIT_REQUEST);
        self.answers.push(self.decided);
    }

    /// Does it, cutting the stream at random, and checks every reply.
    fn carry_out(&self, peer: Peer, random: &mut Random) {
        let mut writer = peer.share();
        let mut reader = peer;
        scope(|scope| {
            scope.spawn(move || {
                let mut rest = &self.bytes[..];
                while !rest.is_empty() {
                    let bytes_max = *random.pick(&[8, 300, 5_000, 100_000]);
                    let bytes = (1 + random.below(bytes_max)).min(rest.len());
                    let (piece, after) = rest.split_at(bytes);
                    writer.send(piece);
                    rest = after;
                }
                if self.end != End::PeerReset {
                    writer.half_close();
                }
            });
            for expected in &self.answers {
                assert_eq!(reader.answer(), *expected, "{}", self.id);
            }
            match self.end {
                End::PeerClosed => assert_eq!(reader.reply(), None),
                End::PeerReset => {}
                _ if self.answers.is_empty() => assert_eq!(reader.reply(), None, "who never asked is written nothing"),
                _ => {
                    let replies = reader.replies();
                    let [Reply::Closing { code, answer, .. }] = &replies[..] else { panic!("{replies:?}") };
                    assert_eq!((code.as_str(), *answer), (self.end.label(), self.decided), "{}", self.id);
                }
            }
        });
        if self.end == End::PeerReset {
            reader.reset();
        }
    }
}

fn account_for(flags: &[&str], random: &mut Random) {
    let server = Server::start(BINARY, flags);
    let invalid = invalid_frames();
    let plans: Vec<Plan> = (0..60).map(|index| Plan::new(format!("peer-{index}"), random, &invalid)).collect();
    scope(|scope| {
        for plan in &plans {
            let (server, mut random) = (&server, random.split());
            scope.spawn(move || plan.carry_out(server.connect(), &mut random));
        }
    });

    let sum = |of: &dyn Fn(&Plan) -> u64| plans.iter().map(of).sum::<u64>();
    let (accepted, rejected) = (sum(&|plan| plan.decided.committed), sum(&|plan| plan.decided.rejected));
    server.assert_accounted(accepted + rejected);
    let metrics = server.wait_metrics("all peers left", |metrics| metrics.closed() == plans.len() as u64);
    assert_eq!((metrics.accepted(), metrics.rejected()), (accepted, rejected));
    for reason in metrics.label_values("corelane_frames_rejected_total", "reason") {
        let expected = sum(&|plan| plan.rejected.get(reason).copied().unwrap_or(0));
        assert_eq!(metrics.rejected_for(reason), expected, "{reason}");
    }
    for end in [End::PeerClosed, End::PeerReset, End::Truncated, End::Oversize, End::RejectedFrames] {
        let expected = sum(&|plan| u64::from(plan.end == end));
        assert_eq!(metrics.closed_for(end.label()), expected, "{end:?}");
        if matches!(end, End::Oversize | End::RejectedFrames) {
            assert_eq!(metrics.count("corelane_security_events_total", &[("kind", end.label())]), expected, "{end:?}");
        }
    }
    assert_eq!(metrics.count("corelane_points_total", &[]), sum(&|plan| plan.points));
    assert_eq!(metrics.count("corelane_connections_accepted_total", &[]), plans.len() as u64);
    assert_eq!(metrics.count("corelane_received_bytes_total", &[]), sum(&|plan| plan.bytes.len() as u64));
    assert_eq!(metrics.connections(), 0);
    for plan in &plans {
        let count: u64 = server.sensors_of(&plan.id).iter().map(|sensor| sensor["count"].as_u64().unwrap()).sum();
        assert_eq!(count, plan.points, "{}", plan.id);
    }
    server.wait_metrics("every buffer came home", |metrics| metrics.buffers_in_use() == 0);
    let waits = metrics.count("corelane_pool_waits_total", &[]);
    println!("{flags:?}: {accepted} accepted, {rejected} rejected, {waits} pool waits");
}

#[test]
fn every_frame_is_accounted_for() {
    let mut random = Random::from_environment();
    let smallest = smallest_pool(BINARY);
    for _ in 0..3 {
        account_for(&[], &mut random);
        account_for(&["--pool-bytes", &smallest], &mut random);
        match host::cores_for(2) {
            Some(cores) => account_for(&["--cores", &cores], &mut random),
            None => println!("SKIPPED with two shards: this machine has one core"),
        }
    }
}
