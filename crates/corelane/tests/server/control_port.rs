//! The control port, exposed: HTTPS, the token, files that change, peers that dawdle.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use corelane_testkit::http::{HttpConnection, Response};
use corelane_testkit::server::command;
use corelane_testkit::{Server, wait_until};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::BINARY;

/// A self-signed certificate for 127.0.0.1 that expires with a year.
struct Pair {
    certificate: String,
    der: CertificateDer<'static>,
    key: String,
    expires: i64,
}

impl Pair {
    fn new(year: i32) -> Self {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let (expires, key) = (params.not_after.unix_timestamp(), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate: certificate.pem(), der: certificate.der().clone(), key: key.serialize_pem(), expires }
    }
}

/// The files that protect a server.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn flag(&self, flag: &str, name: &str) -> [String; 2] {
        [flag.to_owned(), self.path(name).to_str().unwrap().to_owned()]
    }

    /// As administrators and their tools do it: a new file takes the place of the old one.
    fn replace(&self, name: &str, text: &str) {
        fs::write(self.path("next"), text).unwrap();
        fs::rename(self.path("next"), self.path(name)).unwrap();
    }

    fn replace_pair(&self, pair: &Pair) {
        self.replace("tls.crt", &pair.certificate);
        self.replace("tls.key", &pair.key);
    }

    fn tls_flags(&self) -> Vec<String> {
        [self.flag("--control-tls-cert", "tls.crt"), self.flag("--control-tls-key", "tls.key")].concat()
    }
}

fn start(flags: &[String]) -> Server {
    Server::start(BINARY, &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

type Https = HttpConnection<StreamOwned<ClientConnection, TcpStream>>;

/// Connects as a client that trusts these certificates.
fn connect(address: SocketAddr, trusted: &[&Pair]) -> Https {
    let mut roots = RootCertStore::empty();
    trusted.iter().for_each(|pair| roots.add(pair.der.clone()).unwrap());
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::from(address.ip());
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    HttpConnection::over(StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream))
}

/// The certificate that new connections are shown.
fn shown(server: &Server, trusted: &[&Pair]) -> CertificateDer<'static> {
    let mut connection = connect(server.control, trusted);
    assert_eq!(connection.get("/healthz").unwrap().status, 200);
    connection.stream().conn.peer_certificates().unwrap()[0].clone().into_owned()
}

fn errors(server: &Server) -> usize {
    server.stderr().lines().filter(|line| line.contains("\"ERROR\"")).count()
}

#[test]
fn the_token_is_needed_for_everything_but_the_probes() {
    let files = Files::new();
    fs::write(files.path("token"), "s3cret\n").unwrap();
    let server = start(&files.flag("--control-token-file", "token"));
    let mut connection = HttpConnection::open(server.control).unwrap();
    let mut get = |path: &str, header: &str| connection.get_with(path, header).unwrap();
    for path in ["/healthz", "/readyz", "/healthz?verbose"] {
        assert_eq!(get(path, "").status, 200, "{path}");
        assert_eq!(get(path, "Authorization: Bearer wrong\r\n").status, 200, "{path}");
    }
    // "any:s3cret", and "s3cret:any".
    let (password, user) = ("Basic YW55OnMzY3JldA==", "Basic czNjcmV0OmFueQ==");
    for path in ["/metrics", "/api/v1/stats", "/api/v1/sensors", "/api/v1/events"] {
        for good in ["Bearer s3cret", "bearer s3cret", password] {
            assert_eq!(get(path, &format!("Authorization: {good}\r\n")).status, 200, "{path} {good}");
        }
    }
    // Every path once: after ten wrong tokens, the answers to further ones are held back for a second each.
    let paths = ["/metrics", "/api/v1/stats", "/api/v1/sensors", "/api/v1/events", "/", "/no/such/path"];
    for (path, bad) in paths.iter().zip(["Bearer s3cre", "Bearer s3crets", "Bearer ", "s3cret", "Basic s3cret", user]) {
        assert_eq!(get(path, &format!("Authorization: {bad}\r\n")).status, 401, "{path} {bad}");
    }
    for path in ["/metrics", "/api/v1/stats", "/api/v1/sensors", "/", "/no/such/path", "/healthz/", "//healthz"] {
        let Response { status, head, body } = get(path, "");
        assert_eq!(status, 401, "{path}: {body}");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("www-authenticate: bearer") && head.contains("www-authenticate: basic"), "{head}");
    }
    assert_eq!(get("/no/such/path", "Authorization: Bearer s3cret\r\n").status, 404);

    // A new one takes the place of the old one, which a bad one does not.
    let status = |token: &str| {
        let mut connection = HttpConnection::open(server.control).unwrap();
        connection.get_with("/metrics", &format!("Authorization: Bearer {token}\r\n")).unwrap().status
    };
    files.replace("token", "n3w");
    wait_until("the new token is asked for", || status("n3w") == 200);
    assert_eq!(status("s3cret"), 401);
    files.replace("token", "\n");
    wait_until("the empty file is complained of", || errors(&server) == 1);
    assert!(server.stderr().contains("--control-token-file") && server.stderr().contains("first line is empty"));
    assert_eq!(status("n3w"), 200);
    assert!(!server.stderr().contains("n3w"), "no secret in the log");
}

#[test]
fn https_is_spoken_alone() {
    let (files, pair) = (Files::new(), Pair::new(2090));
    files.replace_pair(&pair);
    let server = start(&files.tls_flags());
    let mut connection = connect(server.control, &[&pair]);
    for path in ["/healthz", "/readyz", "/metrics", "/api/v1/sensors"] {
        assert_eq!(connection.get(path).unwrap().status, 200, "{path}");
    }
    let scrape = connection.get("/metrics").unwrap().body;
    let told = scrape.lines().find_map(|line| line.strip_prefix("corelane_tls_certificate_expiry_timestamp_seconds "));
    assert_eq!(told.unwrap().parse::<f64>().unwrap(), pair.expires as f64);

    // Somebody who forgot the s of https, and somebody who talks nonsense.
    let plain = server.get("/metrics");
    assert_eq!((plain.status, plain.body.as_str()), (400, "this port speaks HTTPS\n"));
    let mut nonsense = TcpStream::connect(server.control).unwrap();
    nonsense.write_all(&[0x16, 0x03, 0x01, 0x00, 0x02, 0xff, 0xff]).unwrap();
    let mut answer = Vec::new();
    nonsense.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = nonsense.read_to_end(&mut answer);
    assert!(answer.len() < 20, "an alert at most: {answer:?}");
    // And a client that trusts somebody else.
    assert!(connect(server.control, &[&Pair::new(2090)]).get("/healthz").is_err());

    assert_eq!(connection.get("/healthz").unwrap().status, 200);
    assert_eq!(server.terminate().status.code(), Some(0));
}

#[test]
fn a_replaced_certificate_is_shown_to_new_connections_and_a_broken_one_is_not() {
    let (files, pairs) = (Files::new(), [Pair::new(2090), Pair::new(2091), Pair::new(2092)]);
    let trusted: Vec<&Pair> = pairs.iter().collect();
    files.replace_pair(&pairs[0]);
    let server = start(&files.tls_flags());
    assert_eq!(shown(&server, &trusted), pairs[0].der);
    let mut old = connect(server.control, &trusted);
    assert_eq!(old.get("/healthz").unwrap().status, 200);

    files.replace_pair(&pairs[1]);
    wait_until("the new certificate is shown", || shown(&server, &trusted) == pairs[1].der);
    let scrape = old.get("/metrics").expect("the old connection goes on").body;
    let expiry = format!("corelane_tls_certificate_expiry_timestamp_seconds {}\n", pairs[1].expires);
    assert!(scrape.contains(&expiry), "of the certificate in use now: {scrape}");
    assert_eq!(old.stream().conn.peer_certificates().unwrap()[0], pairs[0].der);

    files.replace("tls.crt", "-----BEGIN CERTIFICATE-----\n");
    wait_until("the broken one is complained of", || errors(&server) == 1);
    sleep(Duration::from_millis(2_500));
    let log = server.stderr();
    assert_eq!(errors(&server), 1, "once: {log}");
    assert!(log.contains("--control-tls-cert") && log.contains("tls.crt") && log.contains("stays"), "{log}");
    assert_eq!(shown(&server, &trusted), pairs[1].der);

    // Asked to, it reads at once.
    files.replace_pair(&pairs[2]);
    server.signal(Signal::HUP);
    wait_until("the third certificate is shown", || shown(&server, &trusted) == pairs[2].der);
    assert_eq!(old.get("/healthz").unwrap().status, 200);
    assert_eq!(server.terminate().status.code(), Some(0));
}

#[test]
fn sighup_without_files_changes_nothing() {
    let server = Server::start(BINARY, &[]);
    server.signal(Signal::HUP);
    sleep(Duration::from_millis(100));
    assert_eq!(server.get("/readyz").status, 200);
    assert!(!server.metrics().types().contains_key("corelane_tls_certificate_expiry_timestamp_seconds"));
    assert_eq!(server.terminate().status.code(), Some(0));
}

/// Peers that hold connections: a third says nothing, a third sends a byte a second, a third asks and never reads.
fn dawdle(address: SocketAddr, count: usize, tls: bool, done: &AtomicBool) {
    let open = |index: usize| {
        let mut stream = TcpStream::connect(address).unwrap();
        let words: &[u8] = match (index % 3, tls) {
            (0, _) => b"",
            // The start of a handshake.
            (1, true) => &[0x16, 0x03],
            (1, false) => b"GET /metrics HTTP/1.1\r\nX: ",
            _ => {
                b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\nGET /api/v1/stats HTTP/1.1\r\nHost: localhost\r\n\r\n"
            }
        };
        let _ = stream.write_all(words);
        stream
    };
    let mut streams: Vec<TcpStream> = (0..count).map(open).collect();
    let mut trickled = Instant::now();
    while !done.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(20));
        if trickled.elapsed() < Duration::from_secs(1) {
            continue;
        }
        trickled = Instant::now();
        for (index, stream) in streams.iter_mut().enumerate() {
            // Who was closed comes back.
            if index % 3 == 1 && stream.write_all(b"x").is_err() {
                *stream = open(index);
            }
        }
    }
}

/// Ends the dawdling however a test ends.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn two_hundred_slow_clients_do_not_keep_the_probes_waiting() {
    let (files, pair) = (Files::new(), Pair::new(2090));
    files.replace_pair(&pair);
    for tls in [false, true] {
        let server = start(&if tls { files.tls_flags() } else { Vec::new() });
        let done = AtomicBool::new(false);
        scope(|scope| {
            let _done = SetAtEnd(&done);
            scope.spawn(|| dawdle(server.control, 200, tls, &done));
            let mut waits = Vec::new();
            for _ in 0..20 {
                sleep(Duration::from_millis(300));
                let asked = Instant::now();
                let answer = match tls {
                    true => connect(server.control, &[&pair]).get("/healthz"),
                    false => HttpConnection::open(server.control).and_then(|mut probe| probe.get("/healthz")),
                };
                waits.push(match answer {
                    Ok(answer) if answer.status == 200 => asked.elapsed(),
                    _ => Duration::MAX,
                });
            }
            // Two may have come at a bad moment of the machine. One that has to wait for a slow client waits for 5 s, which is
            // the time that a header may take.
            waits.sort();
            assert!(waits[17] < Duration::from_secs(4), "tls: {tls}, {waits:?}");
        });
        assert_eq!(server.terminate().status.code(), Some(0));
    }
}

#[test]
fn a_body_beyond_its_bound_is_refused() {
    let server = Server::start(BINARY, &[]);
    let mut stream = TcpStream::connect(server.control).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.write_all(&[b'x'; 100_000]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[test]
fn wrong_files_are_wrong_usage() {
    let (files, pair, other) = (Files::new(), Pair::new(2090), Pair::new(2090));
    files.replace_pair(&pair);
    files.replace("other.key", &other.key);
    files.replace("empty", "");
    let refused = |flags: &[[String; 2]], parts: &[&str]| {
        let mut serve = command(BINARY);
        serve.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]).args(flags.concat());
        let output = serve.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
        parts.iter().for_each(|part| assert!(stderr.contains(part), "{part:?} is not in: {stderr}"));
    };
    let certificate = || files.flag("--control-tls-cert", "tls.crt");
    refused(&[certificate()], &["--control-tls-cert:", "--control-tls-key", "both or neither"]);
    let key = files.flag("--control-tls-key", "tls.key");
    refused(&[key], &["--control-tls-key:", "--control-tls-cert", "both or neither"]);
    let key = files.flag("--control-tls-key", "other.key");
    refused(&[certificate(), key], &["--control-tls-cert", "other.key", "is not the key of"]);
    let missing = files.flag("--control-tls-key", "missing.key");
    refused(&[certificate(), missing], &["missing.key", "No such file"]);
    let empty = files.flag("--control-tls-cert", "empty");
    refused(&[empty, files.flag("--control-tls-key", "tls.key")], &["empty", "has no certificate"]);
    refused(&[files.flag("--control-token-file", "empty")], &["--control-token-file", "first line is empty"]);

    // `check` knows them, and looks at no file but its own.
    let check = |text: &str| {
        files.replace("corelane.toml", text);
        let output = command(BINARY).arg("check").arg(files.path("corelane.toml")).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(check("control_tls_cert = \"a\"\ncontrol_tls_key = \"b\"\ncontrol_token_file = \"c\"\n").0, Some(0));
    let (code, stderr) = check("control_tls_cert = \"a\"\n");
    assert!(code == Some(2) && stderr.contains("corelane.toml:1: `control_tls_cert`"), "{stderr}");
}
