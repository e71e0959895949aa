//! The descriptors of a server, term by term, and how many connections the host's limit leaves room for.

use corelane_command::{Failure, raise_descriptors};
use corelane_control::HttpLimits;
use corelane_shard::limits::CLOSING_MAX;
use serde::Serialize;

use crate::config::Said;
use crate::takeover;

/// Descriptors for one purpose.
#[derive(Debug, Serialize)]
pub(crate) struct DescriptorTerm {
    pub(crate) what: &'static str,
    pub(crate) count: u64,
}

/// Descriptors that a shard may need and does not hold: what the executor opens for a moment.
const SHARD_RESERVE: u64 = 15;
/// Standard streams, and the pair of sockets by which signals come.
const DESCRIPTORS_OF_MAIN: u64 = 3 + 2;
/// The listeners of the control port and of the port for probes again, and what successors ask at.
const DESCRIPTORS_OF_TAKEOVER: u64 = 2 + takeover::DESCRIPTORS_MAX;
/// Descriptors for what is not known here: those inherited from whoever started the process.
const RESERVE: u64 = 17;

/// Descriptors of a server with so many connections and shards.
pub(crate) fn terms(connections: usize, shards: usize) -> Vec<DescriptorTerm> {
    let term = |what, count| DescriptorTerm { what, count };
    let shards = shards as u64;
    vec![
        term("connections", connections as u64),
        term("connections that linger", shards * CLOSING_MAX as u64),
        term("shards: listener, rings, eventfds", shards * corelane_shard::needs::DESCRIPTORS as u64),
        term("shards: listener again, for a successor", shards),
        term("shards: reserve", shards * SHARD_RESERVE),
        term("HTTP connections", HttpLimits::default().descriptors() as u64),
        term("HTTP connections of probes", HttpLimits::PROBE_PORT.descriptors() as u64),
        term("control plane: listeners, epoll, /proc", corelane_control::needs::DESCRIPTORS as u64),
        term("standard streams, signals", DESCRIPTORS_OF_MAIN),
        term("takeover", DESCRIPTORS_OF_TAKEOVER),
        term("reserve: inherited ones", RESERVE),
    ]
}

/// Sum of the [`terms`].
fn sum(connections: usize, shards: usize) -> u64 {
    terms(connections, shards).iter().map(|term| term.count).sum()
}

/// Raises the descriptor limit to what is needed, as far as it is allowed, and fits the connections into it. The second
/// value is a warning.
pub(crate) fn connections_max(wanted: &Said<usize>, shards: usize) -> Result<(usize, Option<String>), Failure> {
    fit_connections(wanted, shards, raise_descriptors(sum(wanted.value, shards)))
}

/// Fits the connections into so many descriptors. The second value is a warning.
pub(crate) fn fit_connections(
    wanted: &Said<usize>,
    shards: usize,
    granted: u64,
) -> Result<(usize, Option<String>), Failure> {
    let needed = sum(wanted.value, shards);
    if granted >= needed {
        return Ok((wanted.value, None));
    }
    let mend = format!(
        "{} connections need {needed} descriptors, and this process may open {granted}; raise the limit (`ulimit -n {needed}`, \
         LimitNOFILE={needed} in a unit)",
        wanted.value
    );
    let possible = granted.saturating_sub(sum(0, shards)) as usize;
    if wanted.is_stated() || possible == 0 {
        let lower = if possible > 0 { format!(" or set it to {possible} at most") } else { String::new() };
        return Err(Failure::usage(format!("{}: {mend}{lower}", wanted.source)));
    }
    Ok((possible, Some(format!("{mend}; going on with --max-connections {possible}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    #[test]
    fn descriptors_grow_with_connections_and_shards() {
        assert_eq!(sum(10_000, 1), 10_360);
        assert_eq!(sum(10_000, 3), 10_360 + 2 * 152);
    }

    #[test]
    fn a_stated_number_of_connections_must_fit_and_the_default_is_lowered() {
        let default = Said { value: 10_000, source: Source::Default("max-connections".into()) };
        let (fits, warning) = fit_connections(&default, 1, 1024).unwrap();
        assert_eq!(fits, 1024 - 360);
        assert!(warning.unwrap().contains("ulimit -n 10360"));
        let stated = Said { value: 10_000, source: Source::Flag("max-connections".into()) };
        assert_eq!(fit_connections(&default, 1, 20_000).unwrap(), (10_000, None));
        assert!(fit_connections(&stated, 1, 1024).unwrap_err().to_string().contains("set it to 664 at most"));
        assert!(fit_connections(&default, 1, 100).is_err());
    }
}
