//! How one connection ends: answers, the last frame, our FIN, and a patient moment before the socket is closed.

use corelane_metrics::{CloseReason, SecurityDetail, SecurityKind, cell};
use corelane_wire::{Answer, encode_closing};

use crate::connection::Broken;
use crate::kernel::{Kernel, Socket};
use crate::limits::{LINGER, LINGER_BYTES_MAX, REJECTED_RUN_MAX};
use crate::output::Output;
use crate::peer::{Peer, Phase, Receiving};
use crate::shard::Shard;

impl<K: Kernel> Shard<K> {
    /// Closes a connection for a reason that says everything.
    pub(crate) fn close(&mut self, slot: usize, reason: CloseReason) {
        let detail = match (reason, self.peers.get_mut(slot)) {
            (CloseReason::FrameTimeout, Some(peer)) => SecurityDetail::PartialFrameBytes(peer.partial_bytes() as u32),
            _ => SecurityDetail::None,
        };
        self.close_broken(slot, Broken { reason, detail });
    }

    /// Decides that a connection ends: counts it, tells the peer if it listens, and gives up what is not decided yet.
    pub(crate) fn close_broken(&mut self, slot: usize, Broken { reason, detail }: Broken) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if peer.phase != Phase::Open {
            return;
        }
        while self.inboxes.pop_front(&mut peer.inbox).is_some() {}
        peer.drop_partial();
        peer.phase = Phase::Answering { until: self.now + self.config.limits.frame_timeout };
        let decided = peer.connection.decided();
        let tell = peer.connection.asked() && is_told(reason);
        let address_entry = peer.address_entry.take();
        self.note_breach(slot, reason, detail);
        self.connections -= 1;
        self.config.shards.leave(self.config.index, address_entry);
        self.core.pipeline.metrics.add(cell::connections_closed(reason), 1);
        self.count_connections();
        if tell {
            let text = explain(reason, detail, decided);
            self.core.answers.extend_from_slice(encode_closing(&text, reason.label(), decided).as_slice());
        }
        self.leave_handshake(slot);
        // Answers that were given up may have left a record half sent: no other may follow it.
        if reason != CloseReason::UnreadAnswers
            && let Some(Peer { tls: Some(tls), connection, .. }) = self.peers.get_mut(slot)
        {
            tls.seal_end(connection.asked(), &mut self.core);
        }
        self.send_answers(slot);
        self.flush();
        let answered = self.peers.get_mut(slot).is_some_and(|peer| peer.output.is_none());
        if answered || !is_told(reason) {
            self.linger(slot);
        }
    }

    /// A close that is a security event, too.
    fn note_breach(&mut self, slot: usize, reason: CloseReason, detail: SecurityDetail) {
        let kind = match reason {
            CloseReason::Oversize => SecurityKind::Oversize,
            CloseReason::RejectedFrames => SecurityKind::RejectedFrames,
            CloseReason::FrameTimeout => SecurityKind::FrameTimeout,
            CloseReason::UnreadAnswers => SecurityKind::UnreadAnswers,
            CloseReason::HandshakeTimeout => SecurityKind::HandshakeTimeout,
            CloseReason::Tls => SecurityKind::Tls,
            _ => return,
        };
        let address = self.peers.get_mut(slot).map(|peer| peer.socket.peer_address());
        if let Some(address) = address {
            self.note_security(kind, detail, || address);
        }
    }

    /// Sends what `core.answers` holds, as far as the socket takes it; keeps the rest.
    pub(crate) fn send_answers(&mut self, slot: usize) {
        if let Some(tls) = self.peers.get_mut(slot).and_then(|peer| peer.tls.as_mut()) {
            tls.seal(&mut self.core);
        }
        if self.core.answers.is_empty() {
            return;
        }
        // What an answer tells is in the next scrape.
        self.flush();
        let spare = self.buffers_promised();
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let answers = &self.core.answers;
        let sent = if peer.output.is_some() { Some(0) } else { peer.socket.send(answers) };
        let Some(sent) = sent else {
            // Nobody is there to read them; the receive that is under way ends the connection.
            return self.core.answers.clear();
        };
        let kept = Output::keep(&mut peer.output, &answers[sent..], self.now, |bytes| {
            self.core.pool.acquire_small(bytes, spare)
        });
        self.core.answers.clear();
        if !kept {
            // Of a connection that is closing already, only the answers are given up.
            self.give_up_output(slot);
            self.close(slot, CloseReason::UnreadAnswers);
        } else if peer.output.is_some() && !peer.waits_writable {
            peer.waits_writable = true;
            self.kernel.wait_writable(&peer.socket, slot);
        }
    }

    pub(crate) fn writable(&mut self, slot: usize) {
        let now = self.now;
        let peer = self.peers.get_mut(slot).expect("an operation under way keeps its slot");
        peer.waits_writable = false;
        if let Some(output) = &mut peer.output {
            // What cannot be sent any more counts as sent: there is nobody to send it to.
            let unsent = output.unsent();
            let sent = peer.socket.send(unsent).unwrap_or(unsent.len());
            output.sent(sent, now);
            if !output.unsent().is_empty() {
                peer.waits_writable = true;
                self.kernel.wait_writable(&peer.socket, slot);
                return;
            }
            // Owed answers stop the idle clock.
            peer.last_byte_at = now;
            peer.output = None;
        }
        match (peer.phase, peer.ended()) {
            (Phase::Open, Some(errno)) if peer.inbox.is_empty() => self.bytes_ended(slot, errno),
            (Phase::Open, _) => {}
            (Phase::Answering { .. }, _) => self.linger(slot),
            _ => self.finish(slot),
        }
    }

    /// Throws away answers that cannot be delivered any more.
    pub(crate) fn give_up_output(&mut self, slot: usize) {
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.output = None;
        }
    }

    /// Sends our FIN and lets the peer's last bytes come, so that closing does not destroy the answers before it.
    pub(crate) fn linger(&mut self, slot: usize) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        peer.output = None;
        peer.phase = Phase::Lingering { until: self.now + LINGER, discarded: 0 };
        peer.socket.end_writing();
        if matches!(peer.receiving, Receiving::Throttled { .. } | Receiving::Queued { .. } | Receiving::Paused { .. }) {
            return self.arm(slot);
        }
        if matches!(peer.receiving, Receiving::Ended { .. }) {
            self.finish(slot);
        }
    }

    /// Counts bytes that came after the end was decided.
    pub(crate) fn discard(&mut self, slot: usize, bytes: u64) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if let Phase::Lingering { until, discarded } = peer.phase {
            peer.phase = Phase::Lingering { until, discarded: discarded + bytes };
            if discarded + bytes > LINGER_BYTES_MAX {
                self.finish(slot);
            }
        }
    }

    /// Ends the receive of a connection that is done, then closes its socket: a slot lives as long as the kernel works on it.
    pub(crate) fn finish(&mut self, slot: usize) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        peer.output = None;
        let first = std::mem::replace(&mut peer.phase, Phase::Closed) != Phase::Closed;
        if peer.is_in_flight() {
            if first {
                // Ends receives and waits for readiness with a completion each.
                peer.socket.shut_down();
            }
            return;
        }
        if matches!(peer.receiving, Receiving::Waiting { .. } | Receiving::Parked { .. }) {
            self.supply.stop_waiting(slot);
        }
        self.peers.remove(slot);
    }
}

/// Whether the last frame names the reason, if the peer ever asked for an answer: when it is us who end the connection, or its
/// stream ended where it should not.
fn is_told(reason: CloseReason) -> bool {
    !matches!(
        reason,
        CloseReason::PeerClosed
            | CloseReason::PeerReset
            | CloseReason::HalfOpen
            | CloseReason::UnreadAnswers
            | CloseReason::Error
    )
}

/// The `error` text of the last frame.
fn explain(reason: CloseReason, detail: SecurityDetail, decided: Answer) -> String {
    if let SecurityDetail::DeclaredBytes(bytes) = detail {
        return format!(
            "frame {} declares {bytes} bytes of payload; at most {} are accepted",
            decided.committed + decided.rejected,
            corelane_wire::MAX_FRAME_SIZE
        );
    }
    match reason {
        CloseReason::RejectedFrames => {
            format!(
                "{REJECTED_RUN_MAX} frames were rejected with no accepted one between; check the schema of the events"
            )
        }
        CloseReason::IdleTimeout => "no byte came for the idle timeout".into(),
        CloseReason::FrameTimeout => "a frame did not arrive whole in time".into(),
        CloseReason::Truncated => "the connection was closed inside a frame".into(),
        CloseReason::MaxAge => {
            "the connection is as old as it may become; connect again and resume after the decided frames".into()
        }
        CloseReason::Shutdown => "the server stops; connect again and resume after the decided frames".into(),
        CloseReason::Tls => "a TLS record broke the rules; connect again and resume after the decided frames".into(),
        CloseReason::Panic => "internal error; the frames after the decided ones were not taken".into(),
        other => other.label().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol.md"));

    /// The names in backquotes.
    fn names(text: &str) -> Vec<&str> {
        text.split('`').skip(1).step_by(2).collect()
    }

    #[test]
    fn the_page_of_the_protocol_lists_every_code_of_a_last_frame_and_every_reason_without_one() {
        let table = PAGE.split("| code | why |").nth(1).unwrap().split("\n\n").next().unwrap();
        let rows: Vec<_> = table.lines().filter_map(|row| names(row).first().copied()).collect();
        let others = PAGE.split("The other reasons of the metric").nth(1).unwrap().split("\n\n").next().unwrap();
        // These end a connection before it can have asked for an answer.
        let is_sent =
            |reason| is_told(reason) && !matches!(reason, CloseReason::Refused | CloseReason::HandshakeTimeout);
        let (sent, unsent): (Vec<_>, Vec<_>) = CloseReason::ALL.into_iter().partition(|&reason| is_sent(reason));
        for (reasons, mut listed) in [(sent, rows), (unsent, names(others))] {
            let mut labels: Vec<_> = reasons.into_iter().map(CloseReason::label).collect();
            labels.sort_unstable();
            listed.sort_unstable();
            assert_eq!(listed, labels);
        }
    }
}
