use corelane_testkit::pki::{Authority, Identity};
use rustls::{ALL_VERSIONS, ClientConfig, ServerConfig};

use super::*;
use crate::testing::{Client, Served, server};

#[test]
fn a_handshake_cut_at_every_byte_leads_to_the_same_records() {
    let authority = Authority::new("fleet");
    let device = authority.issue("device");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for piece in [1, 2, 7, 100, 5_000] {
            let mut served = Served::new(server(&authority, Some(&[])));
            let mut client = Client::new(authority.client(Some(&device), &[version]));
            client.shake_hands(&mut served, piece).unwrap();
            assert_eq!(client.exchange(&mut served, b"up", b"down"), b"down");
            assert_eq!(served.received, b"up");
        }
    }
}

#[test]
fn what_comes_in_the_last_flight_is_left_to_the_records() {
    let authority = Authority::new("fleet");
    let mut served = Served::new(server(&authority, None));
    let mut client = Client::new(authority.client(None, &[&rustls::version::TLS13]));
    // Queued before the handshake: rustls sends it with its Finished.
    client.queue(b"early bird");
    client.shake_hands(&mut served, usize::MAX).unwrap();
    assert_eq!(served.received, b"early bird");
}

fn refused(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> TlsFault {
    let (mut client, mut served) = (Client::new(client), Served::new(server));
    let fault = client.shake_hands(&mut served, usize::MAX).unwrap_err();
    assert!(client.was_told(&mut served), "an alert tells the client");
    fault
}

#[test]
fn clients_are_refused_for_the_right_reason() {
    let (authority, other) = (Authority::new("fleet"), Authority::new("elsewhere"));
    let (good, lost) = (authority.issue("good"), authority.issue("lost"));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let fault = |identity: Option<&Identity>| {
            refused(authority.client(identity, &[version]), server(&authority, Some(&[&lost])))
        };
        assert_eq!(fault(None), TlsFault::AlertSent(116), "certificate_required");
        assert_eq!(fault(Some(&authority.issue_until("device", 2010))), TlsFault::AlertSent(45), "certificate_expired");
        assert_eq!(fault(Some(&lost)), TlsFault::AlertSent(44), "certificate_revoked");
        assert_eq!(fault(Some(&other.issue("device"))), TlsFault::AlertSent(48), "unknown_ca");
        assert_eq!(fault(Some(&Identity::self_signed("device"))), TlsFault::AlertSent(48), "unknown_ca");
        let mut served = Served::new(server(&authority, Some(&[&lost])));
        Client::new(authority.client(Some(&good), &[version])).shake_hands(&mut served, usize::MAX).unwrap();
    }
}

#[test]
fn a_client_that_refuses_us_is_heard() {
    let (authority, other) = (Authority::new("fleet"), Authority::new("elsewhere"));
    let (mut client, mut served) =
        (Client::new(other.client(None, ALL_VERSIONS)), Served::new(server(&authority, None)));
    assert_eq!(client.shake_hands(&mut served, usize::MAX).unwrap_err(), TlsFault::AlertReceived(48), "its unknown_ca");
}

#[test]
fn other_protocols_are_told_by_their_first_bytes() {
    let authority = Authority::new("fleet");
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], &[0, 0, 0, 20], &[22, 2], &[0x80]] {
        let mut handshake = Handshake::new(server(&authority, None)).unwrap();
        assert_eq!(handshake.advance(&mut &*bytes, &mut Vec::new()), Err(TlsFault::NotTls), "{bytes:?}");
    }
    let mut handshake = Handshake::new(server(&authority, None)).unwrap();
    let too_long = [22, 3, 1, 0xff, 0xff];
    assert_eq!(
        handshake.advance(&mut &too_long[..], &mut Vec::new()).unwrap_err(),
        TlsFault::AlertSent(22),
        "record_overflow"
    );
}

#[test]
fn a_handshake_keeps_no_more_than_its_bound() {
    let authority = Authority::new("fleet");
    let mut handshake = Handshake::new(server(&authority, None)).unwrap();
    // The start of a message of 16 MiB, in as many records as it takes.
    let mut record = vec![22, 3, 1, 0x40, 0];
    record.extend_from_slice(&[1, 0xff, 0xff, 0xff]);
    record.resize(5 + 0x4000, 0);
    let outcome = (0..100).find_map(|_| handshake.advance(&mut &record[..], &mut Vec::new()).err());
    assert!(outcome.is_some());
    assert!(handshake.pending.capacity() <= HANDSHAKE_BYTES_MAX);
}

#[test]
fn a_fault_in_clear_is_answered_once() {
    let authority = Authority::new("fleet");
    for bytes in [[22, 3, 1, 0, 0], [20, 3, 3, 0, 0], [21, 3, 3, 0, 0]] {
        let mut handshake = Handshake::new(server(&authority, None)).unwrap();
        let mut out = Vec::new();
        assert!(handshake.advance(&mut &bytes[..], &mut out).is_err(), "{bytes:?}");
        assert_eq!((out[0], out.len()), (21, 7), "one alert");
    }
}

#[test]
fn a_chain_that_is_too_long_is_refused() {
    let authority = Authority::new("fleet");
    let mut device = authority.issue("device");
    for _ in 0..40 {
        device.certificate += &Identity::self_signed("between").certificate;
    }
    assert_eq!(
        refused(authority.client(Some(&device), ALL_VERSIONS), server(&authority, Some(&[]))),
        TlsFault::AlertSent(42),
        "bad_certificate"
    );
}
