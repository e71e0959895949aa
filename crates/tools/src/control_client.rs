//! A client of the control port, for the commands that look at a running server.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use corelane_command::Failure;
use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// What a protected control port asks for.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ControlAccess {
    /// Speak HTTPS to the control port; its certificate is checked against those of this file, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) control_ca: Option<PathBuf>,

    /// File whose first line is the token of the control port.
    #[arg(long, value_name = "FILE")]
    pub(crate) control_token_file: Option<PathBuf>,
}

/// Where and how to ask.
#[derive(Debug)]
pub(crate) struct ControlClient {
    agent: Agent,
    /// Without a slash at its end.
    base: String,
    authorization: Option<String>,
}

impl ControlClient {
    /// `address` is `host:port`, or a URL. No certificate is trusted but those of the file: a control port is a private
    /// place.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else; HTTPS without one.
    pub(crate) fn new(address: &str, access: &ControlAccess) -> Result<Self, Failure> {
        let authority = access.control_ca.as_deref();
        let scheme = if authority.is_some() { "https" } else { "http" };
        let base = if address.contains("://") { address.to_owned() } else { format!("{scheme}://{address}") };
        if base.starts_with("https:") && authority.is_none() {
            return Err(Failure::usage("--control: for HTTPS, name the certificates to trust with --control-ca"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
        if let Some(file) = authority {
            tls = tls.root_certs(RootCerts::from(certificates(file)?));
        }
        let authorization = access.control_token_file.as_deref().map(|file| {
            let text = read("--control-token-file", file)?;
            Ok(format!("Bearer {}", text.lines().next().unwrap_or_default().trim()))
        });
        let agent = Agent::config_builder()
            .timeout_global(Some(ANSWER_TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .tls_config(tls.build())
            .build();
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { agent: agent.into(), base, authorization: authorization.transpose()? })
    }

    /// The address for people.
    pub(crate) fn shown(&self) -> &str {
        self.base.strip_prefix("http://").unwrap_or(&self.base)
    }

    /// Asks once.
    ///
    /// # Errors
    /// No answer, or one of somebody else; for people.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str, parameters: &[(&str, &str)]) -> Result<T, String> {
        let mut request = self.agent.get(format!("{}{path}", self.base)).query_pairs(parameters.iter().copied());
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut answer = request.call().map_err(|error| error.to_string())?;
        let text = answer.body_mut().read_to_string().map_err(|error| error.to_string())?;
        match answer.status().as_u16() {
            200 => {}
            401 => return Err("it asks for a token: name its file with --control-token-file".to_owned()),
            status => return Err(format!("it answered {status}: {}", text.lines().next().unwrap_or_default())),
        }
        serde_json::from_str(&text).map_err(|error| format!("this is no control port of corelane's: {error}"))
    }
}

fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>, Failure> {
    let text = read("--control-ca", file)?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    let certificates: Vec<_> = parse_pem(text.as_bytes()).filter_map(certificate).collect();
    if certificates.is_empty() {
        return Err(Failure::usage(format!("--control-ca: {} holds no certificate in PEM", file.display())));
    }
    Ok(certificates)
}

fn read(flag: &str, file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| Failure::usage(format!("{flag}: cannot read {}: {error}", file.display())))
}

/// As long as a server may take that does everything else first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
