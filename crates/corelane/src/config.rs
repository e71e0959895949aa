//! Configuration of `serve`: raw text from flags, environment and file becomes [`Config`], typed and checked.
//!
//! In reading order: `settings` (the one table of keys), `layers` (who said what, flag over environment over file over
//! default), `values` (text to values), and here their sum. Knows nothing of the host: `host` checks what it grants.

mod layers;
mod settings;
mod values;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use corelane_command::{Failure, duration, size};
use corelane_control::Configured;
use corelane_shard::ACCEPT_RATE_MAX;
use ipnet::IpNet;

use self::layers::Layers;
pub(crate) use self::layers::Said;
#[cfg(test)]
pub(crate) use self::layers::Source;
pub(crate) use self::settings::SettingArgs;
pub(crate) use self::values::core_list;

/// Everything that is configured, with its range checked.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    /// TLS on the data port.
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) tls_client_ca: Option<Said<PathBuf>>,
    pub(crate) tls_client_crl: Option<Said<PathBuf>>,
    pub(crate) handshake_timeout: Duration,
    pub(crate) control: SocketAddr,
    /// HTTPS on the control port.
    pub(crate) control_tls: Option<TlsFiles>,
    pub(crate) control_token_file: Option<Said<PathBuf>>,
    /// Names that a control port without a token answers to.
    pub(crate) control_hosts: Vec<String>,
    /// The port for probes.
    pub(crate) probe: Option<SocketAddr>,
    /// Data cores; `None` is every allowed core but the control core.
    pub(crate) cores: Option<Said<Vec<usize>>>,
    /// `None` is the last allowed core.
    pub(crate) control_core: Option<Said<usize>>,
    pub(crate) pool_bytes: Said<u64>,
    pub(crate) max_connections: Said<usize>,
    pub(crate) max_connections_per_ip: u32,
    pub(crate) max_accept_rate_per_ip: u32,
    pub(crate) ipv6_prefix: u8,
    pub(crate) max_rate_per_connection: u64,
    pub(crate) max_connection_age: Duration,
    /// `None` allows any address.
    pub(crate) allow: Option<Vec<IpNet>>,
    pub(crate) max_series: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) frame_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) backlog: u32,
    pub(crate) takeover: bool,
    /// `None` is a file in the runtime directory.
    pub(crate) takeover_path: Option<Said<PathBuf>>,
    /// `None` is text on a terminal, else JSON.
    pub(crate) log_format: Option<LogFormat>,
    /// Every setting as it was said, for those who ask a running server.
    pub(crate) told: Vec<Configured>,
}

/// A certificate and its key, as files.
#[derive(Debug)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: Said<PathBuf>,
    pub(crate) key: Said<PathBuf>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Longest timeout. Longer ones are typing errors.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

impl Config {
    /// From all layers; `flags` names the file if there is one.
    pub(crate) fn resolve(flags: &SettingArgs) -> Result<Self, Failure> {
        Self::from_layers(&Layers::collect(flags)?)
    }

    /// From one file alone, for `check`.
    pub(crate) fn from_file(path: &Path) -> Result<Self, Failure> {
        Self::from_layers(&Layers::of_file(path)?)
    }

    fn from_layers(layers: &Layers) -> Result<Self, Failure> {
        let probe = layers.parse_optional("probe", values::address)?;
        for other in ["listen", "control"] {
            let taken = layers.parse(other, values::address)?.value;
            if let Some(probe) = probe.as_ref().filter(|probe| probe.value == taken && taken.port() != 0) {
                let text = format!("{}: {taken} is the address of --{other}; choose another port", probe.source);
                return Err(Failure::usage(text));
            }
        }
        let timeout = Duration::from_millis(1)..=TIMEOUT_MAX;
        Ok(Self {
            listen: layers.parse("listen", values::address)?.value,
            tls: tls_files(layers, "tls_cert", "tls_key")?,
            tls_client_ca: only_with(layers, "tls_client_ca", "tls_cert")?,
            tls_client_crl: only_with(layers, "tls_client_crl", "tls_client_ca")?,
            handshake_timeout: layers.parse("handshake_timeout", duration(timeout.clone()))?.value,
            control: layers.parse("control", values::address)?.value,
            control_tls: tls_files(layers, "control_tls_cert", "control_tls_key")?,
            control_token_file: layers.parse_optional("control_token_file", values::path)?,
            control_hosts: layers
                .parse_optional("control_host", values::host_names)?
                .map_or_else(Vec::new, |said| said.value),
            probe: probe.map(|said| said.value),
            cores: layers.parse_optional("cores", values::core_list)?,
            control_core: layers.parse_optional("control_core", values::number(0..=usize::MAX))?,
            pool_bytes: layers.parse("pool_bytes", size)?,
            max_connections: layers.parse("max_connections", values::number(1..=1_000_000))?,
            max_connections_per_ip: layers.parse("max_connections_per_ip", values::number(0..=1_000_000))?.value as u32,
            max_accept_rate_per_ip: layers
                .parse("max_accept_rate_per_ip", values::number(0..=ACCEPT_RATE_MAX as usize))?
                .value as u32,
            ipv6_prefix: layers.parse("ipv6_prefix", values::number(1..=128))?.value as u8,
            max_rate_per_connection: layers.parse("max_rate_per_connection", size)?.value,
            max_connection_age: layers.parse("max_connection_age", duration(Duration::ZERO..=TIMEOUT_MAX))?.value,
            allow: layers.parse_optional("allow", values::address_ranges)?.map(|said| said.value),
            max_series: layers.parse("max_series", values::number(1..=16_777_216))?.value,
            idle_timeout: layers.parse("idle_timeout", duration(Duration::ZERO..=TIMEOUT_MAX))?.value,
            frame_timeout: layers.parse("frame_timeout", duration(timeout.clone()))?.value,
            drain_timeout: layers.parse("drain_timeout", duration(timeout))?.value,
            backlog: layers.parse("backlog", values::number(1..=65_535))?.value as u32,
            takeover: layers.parse("takeover", values::switch)?.value,
            takeover_path: layers.parse_optional("takeover_path", values::socket_path)?,
            log_format: layers.parse_optional("log_format", values::log_format)?.map(|said| said.value),
            told: layers.told(),
        })
    }
}

/// A file that another one needs.
fn only_with(layers: &Layers, key: &str, needed: &str) -> Result<Option<Said<PathBuf>>, Failure> {
    match layers.parse_optional(key, values::path)? {
        Some(said) if layers.parse_optional(needed, values::path)?.is_none() => Err(alone(&said, needed)),
        said => Ok(said),
    }
}

fn alone(said: &Said<PathBuf>, missing: &str) -> Failure {
    let missing = missing.replace('_', "-");
    Failure::usage(format!("{}: means nothing without --{missing}; give both or neither", said.source))
}

/// Both files or neither.
fn tls_files(layers: &Layers, certificate: &str, key: &str) -> Result<Option<TlsFiles>, Failure> {
    match (layers.parse_optional(certificate, values::path)?, layers.parse_optional(key, values::path)?) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
        (None, None) => Ok(None),
        (Some(said), None) => Err(alone(&said, key)),
        (None, Some(said)) => Err(alone(&said, certificate)),
    }
}

#[cfg(test)]
mod tests;
