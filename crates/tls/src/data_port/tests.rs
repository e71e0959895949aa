use std::fs;

use corelane_testkit::pki::{Authority, Identity};
use tempfile::TempDir;

use super::*;
use crate::testing::{Client, Served};

struct Port {
    _directory: TempDir,
    files: DataPortFiles,
}

fn port(authority: &Authority) -> Port {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.issue("localhost").write(directory.path(), "server");
    let [ca, crl] = ["ca.pem", "crl.pem"].map(|name| directory.path().join(name));
    fs::write(&ca, authority.certificate()).unwrap();
    fs::write(&crl, authority.revocation_list(&[])).unwrap();
    let files = DataPortFiles { certificate, key, client_ca: Some(ca), client_crl: Some(crl) };
    Port { _directory: directory, files }
}

fn takes(tls: &DataPortTls, authority: &Authority, identity: &Identity) -> bool {
    let mut client = Client::new(authority.client(Some(identity), rustls::ALL_VERSIONS));
    client.shake_hands(&mut Served::new(tls.config()), usize::MAX).is_ok()
}

#[test]
fn a_certificate_is_refused_once_a_list_with_it_is_read_and_a_bad_list_changes_nothing() {
    let authority = Authority::new("fleet");
    let (one, other) = (authority.issue("one"), authority.issue("other"));
    let Port { _directory, files } = port(&authority);
    let tls = DataPortTls::load(files.clone()).unwrap();
    assert!(takes(&tls, &authority, &one) && takes(&tls, &authority, &other));
    let crl = files.client_crl.unwrap();
    fs::write(&crl, authority.revocation_list(&[&one])).unwrap();
    tls.reload().unwrap();
    assert!(!takes(&tls, &authority, &one) && takes(&tls, &authority, &other));
    for broken in ["", "nonsense", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"] {
        fs::write(&crl, broken).unwrap();
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.contains("crl.pem: has"), "{error}");
        assert!(!takes(&tls, &authority, &one) && takes(&tls, &authority, &other));
    }
}

#[test]
fn where_there_are_lists_each_authority_needs_one() {
    let (listed, unlisted) = (Authority::new("listed"), Authority::new("unlisted"));
    let Port { _directory, files } = port(&listed);
    fs::write(files.client_ca.as_ref().unwrap(), listed.certificate() + &unlisted.certificate()).unwrap();
    let tls = DataPortTls::load(files).unwrap();
    assert!(takes(&tls, &listed, &listed.issue("device")));
    assert!(!takes(&tls, &listed, &unlisted.issue("device")));
}

#[test]
fn an_authority_without_certificates_is_an_error_that_names_its_file() {
    let authority = Authority::new("fleet");
    let Port { _directory, files } = port(&authority);
    let ca = files.client_ca.clone().unwrap();
    for (text, why) in [
        (String::new(), "has neither"),
        (authority.revocation_list(&[]), "no certificate of an authority"),
        (authority.issue("localhost").key, "has neither"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), "certificate 1 of the file"),
    ] {
        fs::write(&ca, text).unwrap();
        let error = DataPortTls::load(files.clone()).unwrap_err().to_string();
        assert!(error.contains("ca.pem: ") && error.contains(why), "{error}");
    }
}
