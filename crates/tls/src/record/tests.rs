use corelane_testkit::pki::Authority;
use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;

use super::*;
use crate::testing::{Client, Served, server};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

fn connected(version: &'static SupportedProtocolVersion) -> (Client, Served) {
    let authority = Authority::new("fleet");
    let mut served = Served::new(server(&authority, None));
    let mut client = Client::new(authority.client(None, &[version]));
    client.shake_hands(&mut served, usize::MAX).unwrap();
    (client, served)
}

/// With this cipher suite alone.
fn connected_by(suite: SupportedCipherSuite) -> (Client, Served) {
    let authority = Authority::new("fleet");
    let mut served = Served::new(server(&authority, None));
    let provider = CryptoProvider { cipher_suites: vec![suite], ..rustls::crypto::ring::default_provider() };
    let mut client = Client::new(authority.client_with(provider, None, &[suite.version()]));
    client.shake_hands(&mut served, usize::MAX).unwrap();
    (client, served)
}

#[test]
fn every_cipher_suite_carries_data_both_ways() {
    for suite in rustls::crypto::ring::ALL_CIPHER_SUITES {
        // Suites of TLS 1.2 that sign by RSA do not go with this certificate.
        if format!("{:?}", suite.suite()).contains("RSA") {
            continue;
        }
        let (mut client, mut served) = connected_by(*suite);
        let up: Vec<u8> = (0..60_000u32).map(|at| (at % 251) as u8).collect();
        for round in 0..3 {
            assert_eq!(client.exchange(&mut served, &up, &up[..40_000 + round]), up[..40_000 + round], "{suite:?}");
            assert_eq!(std::mem::take(&mut served.received), up, "{suite:?}");
        }
        assert!(client.close(&mut served), "{suite:?}");
    }
}

#[test]
fn both_sides_may_change_their_keys() {
    let (mut client, mut served) = connected(&rustls::version::TLS13);
    for round in 0..3 {
        client.tls.refresh_traffic_keys().unwrap();
        assert_eq!(client.exchange(&mut served, b"up", b"down"), b"down", "round {round}");
        served.records.as_mut().unwrap().owes_key_update = true;
        assert_eq!(client.exchange(&mut served, b"up", b"down"), b"down", "round {round}");
        assert!(!served.records.as_ref().unwrap().owes_key_update);
    }
    assert_eq!(served.received, b"up".repeat(6));
}

#[test]
fn keys_are_changed_before_they_are_used_up_and_without_a_way_to_the_connection_ends() {
    for version in VERSIONS {
        let (_, mut served) = connected(version);
        let records = served.records.as_mut().unwrap();
        let limit = confidentiality_limit(records.keys.negotiated_cipher_suite());
        if limit == u64::MAX {
            continue;
        }
        // As if so many had been sealed: the client would not understand.
        records.sealed = limit - 2;
        let mut out = Vec::new();
        records.seal(b"the last but one", &mut out).unwrap();
        let is_tls13 = records.keys.protocol_version() == ProtocolVersion::TLSv1_3;
        assert_eq!(records.seal(b"the next", &mut out).is_ok(), is_tls13);
        assert_eq!(records.sealed, if is_tls13 { 1 } else { limit - 1 });
    }
}

#[test]
fn a_record_that_was_touched_is_refused() {
    for version in VERSIONS {
        for bit in [0, 9, 13, 40] {
            let (mut client, mut served) = connected(version);
            client.queue(b"a frame, as it were");
            let mut sent = Vec::new();
            client.tls.write_tls(&mut sent).unwrap();
            let at = RECORD_HEADER_BYTES.max(bit.min(sent.len() - 1));
            sent[at] ^= 1;
            let fault = served.take(&sent).unwrap_err();
            assert_eq!(fault, TlsFault::AlertSent(20), "bad_record_mac");
            assert!(served.received.is_empty());
            served.end(Some(fault));
            assert!(client.was_told(&mut served));
        }
    }
}

#[test]
fn records_out_of_turn_are_refused() {
    for version in VERSIONS {
        for typ in [20, 22] {
            let (_, mut served) = connected(version);
            assert!(served.take(&[typ, 3, 3, 0, 1, 1]).is_err(), "a record of type {typ} in clear");
        }
        let (mut client, mut served) = connected(version);
        client.queue(b"once");
        let mut sent = Vec::new();
        client.tls.write_tls(&mut sent).unwrap();
        served.take(&sent).unwrap();
        assert_eq!(served.take(&sent).unwrap_err(), TlsFault::AlertSent(20), "a record that came before");
    }
}

#[test]
fn a_flood_of_key_updates_ends_unless_there_is_data_between() {
    let flood = |data: usize| {
        let (mut client, mut served) = connected(&rustls::version::TLS13);
        (0..=IDLE_RECORDS_MAX).find_map(|_| {
            client.queue(&vec![7; data]);
            client.tls.refresh_traffic_keys().unwrap();
            client.pass(&mut served, usize::MAX).err()
        })
    };
    assert_eq!(flood(0), Some(TlsFault::AlertSent(10)), "unexpected_message");
    assert_eq!(flood(1), Some(TlsFault::AlertSent(10)), "unexpected_message");
    assert_eq!(flood(BYTES_AN_IDLE_RECORD), None);
}

#[test]
fn bytes_in_clear_are_answered_with_an_alert_and_an_alert_with_a_close() {
    let (mut client, mut served) = connected(&rustls::version::TLS13);
    let fault = served.take(b"\0\0\0\x05").unwrap_err();
    served.end(Some(fault));
    assert!(client.was_told(&mut served));
    let (mut client, mut served) = connected(&rustls::version::TLS13);
    served.end(Some(TlsFault::received(AlertDescription::UnknownCA)));
    assert!(!client.was_told(&mut served));
}

#[test]
fn a_close_notify_is_understood() {
    for version in VERSIONS {
        let (mut client, mut served) = connected(version);
        client.tls.send_close_notify();
        client.pass(&mut served, 1).unwrap();
        assert!(served.is_closed);
    }
}
