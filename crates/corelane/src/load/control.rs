//! The server's own numbers, asked of its control port.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;
use ureq::{
    Agent,
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
};

use crate::failure::Failure;

/// Where and how to ask.
#[derive(Debug)]
pub(super) struct Control {
    agent: Agent,
    url: String,
    authorization: Option<String>,
}

/// What the server said of itself at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// When the answer came.
    pub(super) at: Instant,
    pub(super) stats: Stats,
}

/// The answer of `/api/v1/stats`, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Stats {
    pub(super) uptime_seconds: f64,
    pub(super) totals: Totals,
    pub(super) shards: Vec<Shard>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Totals {
    pub(super) frames_accepted: u64,
    pub(super) frames_rejected: BTreeMap<String, u64>,
    pub(super) connections_accepted: u64,
    pub(super) pool_waits: u64,
    pub(super) process_resident_memory_bytes: f64,
    pub(super) process_cpu_seconds: f64,
}

/// One data core.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Shard {
    pub(super) shard: u64,
    pub(super) frames_accepted: u64,
    pub(super) shard_cpu_seconds: f64,
    pub(super) allocations: u64,
}

impl Control {
    /// `address` is `host:port`; with `authority`, a file of certificates, it speaks HTTPS.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else.
    pub(super) fn new(address: &str, authority: Option<&Path>, token: Option<&Path>) -> Result<Self, Failure> {
        let scheme = if authority.is_some() { "https" } else { "http" };
        let authorization = token.map(|file| {
            let text = read("--control-token-file", file)?;
            Ok(format!("Bearer {}", text.lines().next().unwrap_or_default().trim()))
        });
        let mut tls =
            TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        if let Some(file) = authority {
            let text = read("--control-ca", file)?;
            let certificates: Vec<Certificate<'static>> = parse_pem(text.as_bytes())
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if certificates.is_empty() {
                return Err(Failure::usage(format!("--control-ca: {} holds no certificate in PEM", file.display())));
            }
            tls = tls.root_certs(RootCerts::from(certificates));
        }
        let agent = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .tls_config(tls.build())
            .build();
        let url = format!("{scheme}://{address}/api/v1/stats");
        Ok(Self { agent: agent.into(), url, authorization: authorization.transpose()? })
    }

    /// Asks once. The answer has everything that a commit answer told before.
    ///
    /// # Errors
    /// No answer, or one of somebody else.
    pub(super) fn sample(&self) -> Result<Sample, String> {
        let mut request = self.agent.get(&self.url);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut response = request.call().map_err(|error| format!("cannot ask {}: {error}", self.url))?;
        let at = Instant::now();
        let status = response.status();
        let body = response.body_mut().read_to_string().map_err(|error| format!("{}: {error}", self.url))?;
        if status.as_u16() == 401 {
            return Err(format!("{} asks for a token: give its file with --control-token-file", self.url));
        }
        if !status.is_success() {
            return Err(format!("{} answered {status}: {}", self.url, body.lines().next().unwrap_or_default()));
        }
        match serde_json::from_str(&body) {
            Ok(stats) => Ok(Sample { at, stats }),
            Err(error) => Err(format!("{} is no control port of this version of corelane: {error}", self.url)),
        }
    }
}

fn read(flag: &str, file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| Failure::usage(format!("{flag}: cannot read {}: {error}", file.display())))
}

/// As long as a server may take that does everything else first.
const TIMEOUT: Duration = Duration::from_secs(5);
