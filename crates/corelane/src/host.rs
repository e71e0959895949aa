//! What a configuration comes to on this host: cores, buffers. Refuses what does not fit, with the number to set; so does
//! `descriptors` with connections. What else the host has to grant is asked by `doctor`.

use corelane_command::Failure;
use corelane_metrics::RING_SLOTS_MIN;
use corelane_pool::{BUFFER_BYTES, BUFFERS_MAX};
use corelane_shard::limits::POOL_BUFFERS_MIN;
use corelane_shard::{Limits, TlsLimits};

use crate::config::{Config, Said};

/// Slots of a shard's TelemetryRing: several drains' worth at full load, 32 bytes each.
pub(crate) const RING_SLOTS: usize = 16 * 1024;
const _: () = assert!(RING_SLOTS >= RING_SLOTS_MIN);

/// A configuration, settled: which cores, and what each shard may use.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) placement: Placement,
    pub(crate) limits: Limits,
}

impl Setup {
    /// On the cores that this process may use, with the connections that are asked for.
    pub(crate) fn of(config: &Config) -> Result<Self, Failure> {
        let placement = place(config)?;
        let limits = Limits {
            pool_buffers: pool_buffers(&config.pool_bytes, placement.data.len())?,
            connections_max: config.max_connections.value,
            connections_per_ip_max: config.max_connections_per_ip,
            accepts_per_ip_max: config.max_accept_rate_per_ip,
            ipv6_prefix: config.ipv6_prefix,
            rate_per_connection: config.max_rate_per_connection,
            connection_age_max: config.max_connection_age,
            series_max: config.max_series,
            idle_timeout: config.idle_timeout,
            frame_timeout: config.frame_timeout,
            tls: config.tls.as_ref().map(|_| TlsLimits {
                handshake_timeout: config.handshake_timeout,
                is_mutual: config.tls_client_ca.is_some(),
            }),
            drain_timeout: config.drain_timeout,
        };
        Ok(Self { placement, limits })
    }
}

/// Which core does what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// One shard each.
    pub(crate) data: Vec<usize>,
    pub(crate) control: usize,
}

impl Placement {
    /// The core that carries a shard and the control plane, if one does.
    pub(crate) fn shared_core(&self) -> Option<usize> {
        self.data.contains(&self.control).then_some(self.control)
    }
}

/// Chooses the cores, from those that this process may use.
fn place(config: &Config) -> Result<Placement, Failure> {
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    place_among(&allowed, config.cores.as_ref(), config.control_core.as_ref())
}

fn place_among(
    allowed: &[usize],
    cores: Option<&Said<Vec<usize>>>,
    control_core: Option<&Said<usize>>,
) -> Result<Placement, Failure> {
    let refuse = |source: &dyn std::fmt::Display, core: usize| {
        Failure::usage(format!(
            "{source}: core {core} is not one that this process may use; choose among {} (taskset and cgroups narrow them)",
            list(allowed)
        ))
    };
    let last =
        *allowed.last().ok_or_else(|| Failure::failed("the kernel does not tell which cores this process may use"))?;
    let control = match control_core {
        Some(said) if !allowed.contains(&said.value) => return Err(refuse(&said.source, said.value)),
        Some(said) => said.value,
        None => last,
    };
    let data = match cores {
        Some(said) => match said.value.iter().find(|core| !allowed.contains(core)) {
            Some(&core) => return Err(refuse(&said.source, core)),
            None => said.value.clone(),
        },
        // With one core the control plane shares it.
        None if allowed.len() == 1 => vec![last],
        None => allowed.iter().copied().filter(|&core| core != control).collect(),
    };
    Ok(Placement { data, control })
}

/// Buffers of each shard's pool.
fn pool_buffers(pool_bytes: &Said<u64>, shards: usize) -> Result<usize, Failure> {
    let buffers = usize::try_from(pool_bytes.value).unwrap_or(usize::MAX) / BUFFER_BYTES / shards;
    let kib = |buffers: usize| format!("{}KiB", buffers * BUFFER_BYTES * shards / 1024);
    if buffers < POOL_BUFFERS_MIN {
        return Err(Failure::usage(format!(
            "{}: {} bytes are too few for {shards} shard(s); give at least {}",
            pool_bytes.source,
            pool_bytes.value,
            kib(POOL_BUFFERS_MIN)
        )));
    }
    if buffers > BUFFERS_MAX {
        return Err(Failure::usage(format!(
            "{}: {} bytes are more than {shards} shard(s) can use; give at most {}",
            pool_bytes.source,
            pool_bytes.value,
            kib(BUFFERS_MAX)
        )));
    }
    Ok(buffers)
}

/// `0-3,8`
pub(crate) fn list(cores: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &core in cores {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => runs.push((core, core)),
        }
    }
    let run =
        |&(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn said<T>(value: T) -> Said<T> {
        Said { value, source: Source::Flag("flag".into()) }
    }

    #[test]
    fn the_control_plane_gets_the_last_core_and_the_shards_the_others() {
        let placed = place_among(&[2, 3, 5], None, None).unwrap();
        assert_eq!(placed, Placement { data: vec![2, 3], control: 5 });
        let placed = place_among(&[2, 3, 5], None, Some(&said(2))).unwrap();
        assert_eq!(placed, Placement { data: vec![3, 5], control: 2 });
        let placed = place_among(&[2, 3, 5], Some(&said(vec![3, 5])), None).unwrap();
        assert_eq!(placed, Placement { data: vec![3, 5], control: 5 });
    }

    #[test]
    fn one_allowed_core_carries_both() {
        assert_eq!(place_among(&[4], None, None).unwrap(), Placement { data: vec![4], control: 4 });
    }

    #[test]
    fn a_core_that_is_not_allowed_is_refused_with_those_that_are() {
        let error = place_among(&[0, 1, 2, 6], Some(&said(vec![0, 9])), None).unwrap_err();
        assert!(
            error.to_string().starts_with("--flag: core 9 is not one that this process may use; choose among 0-2,6")
        );
        assert!(place_among(&[0, 1], None, Some(&said(7))).is_err());
    }

    #[test]
    fn a_pool_too_small_for_its_shards_is_refused_with_the_size_that_is_not() {
        let error = pool_buffers(&said(1 << 20), 2).unwrap_err().to_string();
        assert!(error.ends_with(&format!("give at least {}KiB", POOL_BUFFERS_MIN * 2 * 128)), "{error}");
        assert_eq!(pool_buffers(&said(64 << 20), 2).unwrap(), 256);
    }
}
