//! Security events: all counted, the first of each second and kind told.

use std::net::SocketAddr;

use corelane_metrics::{SecurityDetail, SecurityEvent, SecurityKind, cell};

use crate::clock::{Instant, unix_nanoseconds};
use crate::kernel::Kernel;
use crate::limits::SECURITY_EVENTS_A_SECOND;
use crate::shard::Shard;

/// How many of each kind were told in the second at hand.
#[derive(Debug, Default)]
pub(crate) struct SecurityLog {
    second: u64,
    told: [u32; SecurityKind::ALL.len()],
}

impl SecurityLog {
    fn may_tell(&mut self, kind: SecurityKind, now: Instant) -> bool {
        let second = now.nanoseconds() / 1_000_000_000;
        if second != self.second {
            *self = Self { second, ..Self::default() };
        }
        let told = &mut self.told[kind.index()];
        *told += 1;
        *told <= SECURITY_EVENTS_A_SECOND
    }
}

impl<K: Kernel> Shard<K> {
    /// Counts a security event, and tells of it unless a flood of its kind is under way. Asks for the address only then.
    pub(crate) fn note_security(
        &mut self,
        kind: SecurityKind,
        detail: SecurityDetail,
        peer: impl FnOnce() -> SocketAddr,
    ) {
        self.core.pipeline.metrics.add(cell::security_events(kind), 1);
        if self.security_log.may_tell(kind, self.now) {
            let event = SecurityEvent { unix_nanos: unix_nanoseconds(), kind, peer: peer(), detail };
            self.config.events.push(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_of_one_kind_leaves_room_for_the_others_and_for_the_next_second() {
        let mut log = SecurityLog::default();
        let now = Instant::default() + Duration::from_secs(7);
        let told = |log: &mut SecurityLog, kind, now| (0..1_000).filter(|_| log.may_tell(kind, now)).count();
        let most = SECURITY_EVENTS_A_SECOND as usize;
        assert_eq!(told(&mut log, SecurityKind::NotAllowed, now), most);
        assert_eq!(told(&mut log, SecurityKind::Oversize, now + Duration::from_millis(500)), most);
        assert_eq!(told(&mut log, SecurityKind::NotAllowed, now + Duration::from_millis(999)), 0);
        assert_eq!(told(&mut log, SecurityKind::NotAllowed, now + Duration::from_secs(1)), most);
    }
}
