//! Text to values. An error continues the sentence `<where>: "<text>" …` and says what would do.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;

use super::LogFormat;

/// Longest path of a Unix socket: `sun_path` without the zero at its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Longest host name, its last dot included (RFC 1035 section 2.3.4).
const HOST_NAME_BYTES_MAX: usize = 254;

/// `127.0.0.1:7600`, `[::1]:7600`, `localhost:7600`.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let mend = "write HOST:PORT, as 127.0.0.1:7600 or [::]:7600";
    if !text.contains(':') {
        return Err(format!("has no port; {mend}"));
    }
    let mut addresses = text.to_socket_addrs().map_err(|error| format!("is not an address ({error}); {mend}"))?;
    addresses.next().ok_or_else(|| format!("resolves to no address; {mend}"))
}

/// A file, which is not looked at here.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("is no path; write that of a file".to_owned());
    }
    Ok(text.into())
}

/// The file of a Unix socket.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, String> {
    if text.len() > SOCKET_PATH_BYTES_MAX {
        return Err(format!(
            "has {} bytes, and the path of a socket has at most {SOCKET_PATH_BYTES_MAX}; choose a shorter one",
            text.len()
        ));
    }
    path(text)
}

/// `0-3,8`: each core once, in order.
pub(crate) fn core_list(text: &str) -> Result<Vec<usize>, String> {
    let mend = "write core numbers and ranges, as 0-3,8";
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| format!("is not a list of cores; {mend}"));
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if last < first || last - first > 4096 {
            return Err(format!("has a range that runs backwards or too far; {mend}"));
        }
        cores.extend(first..=last);
    }
    cores.sort_unstable();
    if let Some(pair) = cores.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("names core {} twice; one shard runs on each core", pair[0]));
    }
    Ok(cores)
}

/// `10.0.0.0/8,192.0.2.7`: ranges of addresses; one without a prefix length is a single one.
pub(super) fn address_ranges(text: &str) -> Result<Vec<IpNet>, String> {
    let range = |part: &str| {
        let part = part.trim();
        let single = || part.parse::<IpAddr>().ok().map(IpNet::from);
        let range = part.parse().ok().or_else(single);
        range.ok_or_else(|| format!("has {part:?}, which is no range of addresses; write 10.0.0.0/8 or 2001:db8::/32"))
    };
    text.split(',').map(range).collect()
}

/// `metrics.example,db1`: host names, each without port or scheme.
pub(super) fn host_names(text: &str) -> Result<Vec<String>, String> {
    let name = |part: &str| {
        let part = part.trim();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_right = !part.is_empty() && part.len() <= HOST_NAME_BYTES_MAX && part.bytes().all(is_name);
        is_right.then(|| part.to_owned()).ok_or_else(|| {
            format!("has {part:?}, which is not a host name; write it without scheme and port, for example db1.example")
        })
    };
    text.split(',').map(name).collect()
}

/// A whole number within `range`.
pub(super) fn number(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, String> {
    move |text| match text.trim().parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(match *range.end() {
            usize::MAX => "is not a whole number".to_owned(),
            end => format!("is not a whole number from {} to {end}", range.start()),
        }),
    }
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "is neither true nor false".to_owned())
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is not a log format; write text or json".to_owned()),
    }
}
