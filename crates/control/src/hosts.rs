//! The names that a port answers to, against DNS rebinding.
//!
//! A page in a browser on this host may have a name that its owner lets point to 127.0.0.1, and then reads what a port
//! without a token answers. The browser still writes that name into `Host`, so a port that answers its own names only
//! tells such a page nothing. A request without `Host` is answered: no browser sends one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::http::uri::Authority;
use axum::http::{HeaderValue, Request, header};

/// The names that one port answers to.
#[derive(Clone, Debug)]
pub(crate) enum HostRule {
    Any,
    /// Names of the loopback, IP literals, and these names in lower case.
    Named(Arc<[String]>),
}

impl HostRule {
    /// The rule of a port that asks for no token, by the address that it listens on and the configured names.
    pub(crate) fn new(address: IpAddr, names: &[String]) -> Self {
        if !address.to_canonical().is_loopback() && names.is_empty() {
            return Self::Any;
        }
        Self::Named(names.iter().map(|name| normal(name)).collect())
    }

    /// The first name in a request that this port does not answer to, if there is one.
    pub(crate) fn refuses<B>(&self, request: &Request<B>) -> Option<String> {
        let Self::Named(names) = self else { return None };
        let refuses = |name: &str| (!is_own(name, names)).then(|| name.to_owned());
        // A target with an authority counts in place of `Host`, so both have to be right.
        let target = request.uri().authority().map(Authority::as_str).and_then(refuses);
        let mut hosts = request.headers().get_all(header::HOST).iter();
        target.or_else(|| hosts.find_map(|host: &HeaderValue| refuses(&String::from_utf8_lossy(host.as_bytes()))))
    }
}

/// Whether a host, with or without a port, is one of the loopback's names, an IP literal, or one of these.
fn is_own(host: &str, names: &[String]) -> bool {
    let host = host.trim();
    // Sent where the target has no host, and by no browser.
    if host.is_empty() {
        return true;
    }
    if let Some(literal) = host.strip_prefix('[') {
        let Some((literal, port)) = literal.split_once(']') else { return false };
        // The zone of a link-local address is the sender's own.
        let literal = literal.split_once('%').map_or(literal, |(literal, _)| literal);
        return literal.parse::<Ipv6Addr>().is_ok() && is_port(port);
    }
    let name = match host.split_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) => return false,
        None => host,
    };
    let name = normal(name);
    name == "localhost" || name.ends_with(".localhost") || name.parse::<Ipv4Addr>().is_ok() || names.contains(&name)
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A name in lower case, without the dot that ends an absolute one.
fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(rule: &HostRule, target: &str, hosts: &[&str]) -> bool {
        let request = Request::builder().uri(target);
        let request = hosts.iter().fold(request, |request, host| request.header("host", *host)).body(()).unwrap();
        rule.refuses(&request).is_some()
    }

    #[test]
    fn a_port_on_loopback_answers_its_own_names_alone() {
        let rule = HostRule::new("127.0.0.1".parse().unwrap(), &["Metrics.Example.".to_owned()]);
        for own in [
            "localhost",
            "LOCALHOST:9600",
            "localhost.",
            "localhost.:9600",
            "a.b.localhost",
            "127.0.0.1",
            "127.0.0.1:9600",
            "127.8.8.8:1",
            "192.0.2.7:9600",
            "[::1]",
            "[::1]:9600",
            "[fe80::1%eth0]:9600",
            "metrics.example",
            "METRICS.example.:80",
            "localhost:",
            "",
            " localhost ",
        ] {
            assert!(!refused(&rule, "/", &[own]), "{own}");
        }
        for foreign in [
            "evil.example",
            "evil.example:9600",
            "localhost.evil.example",
            "evillocalhost",
            "127.0.0.1.evil.example",
            "127.0.0.1:80:80",
            "1.2.3",
            "0x7f000001",
            "2130706433",
            "[::1",
            "[::1].evil.example",
            "[evil.example]",
            "::1",
            "localhost:evil",
            "user@localhost",
            "metrics.example.evil",
            ".",
            "localhost..",
        ] {
            assert!(refused(&rule, "/", &[foreign]), "{foreign}");
        }
    }

    #[test]
    fn a_request_without_host_is_answered_and_every_name_in_it_counts() {
        let rule = HostRule::new("::1".parse().unwrap(), &[]);
        assert!(!refused(&rule, "/", &[]));
        assert!(refused(&rule, "/", &["localhost", "evil.example"]));
        assert!(refused(&rule, "/", &["evil.example", "localhost"]));
        assert!(!refused(&rule, "http://localhost:9600/metrics", &["localhost:9600"]));
        assert!(refused(&rule, "http://evil.example/metrics", &["localhost"]));
        assert!(refused(&rule, "http://localhost/metrics", &["evil.example"]));
    }

    #[test]
    fn other_addresses_answer_every_name_unless_names_are_given() {
        let names = ["metrics.example".to_owned()];
        for (address, names, is_refused) in [
            ("0.0.0.0", &[][..], false),
            ("192.0.2.1", &[], false),
            ("::", &[], false),
            ("0.0.0.0", &names, true),
            ("127.3.2.1", &[], true),
            ("::1", &[], true),
            ("::ffff:127.0.0.1", &[], true),
        ] {
            let rule = HostRule::new(address.parse().unwrap(), names);
            assert_eq!(refused(&rule, "/", &["evil.example"]), is_refused, "{address} {names:?}");
            assert!(!refused(&rule, "/", &["192.0.2.1:9600"]), "{address} {names:?}");
        }
    }
}
