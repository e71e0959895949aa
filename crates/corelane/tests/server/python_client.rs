//! The client of the documentation, written in another language with its stock CBOR library.

use std::process::{Command, Output};

use corelane_testkit::{Server, tools};

use crate::BINARY;

#[test]
fn the_python_client_of_the_documentation_works() {
    let Some(python) = tools::python("cbor2") else { return };
    let server = Server::start(BINARY, &[]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/clients/python.py");
    let (host, port) = (server.listen.ip().to_string(), server.listen.port().to_string());
    let Output { status, stdout, stderr } = Command::new(python).args([script, &host, &port]).output().unwrap();
    let stdout = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{stdout}{}", String::from_utf8_lossy(&stderr));
    assert_eq!(stdout.trim_end(), "{'committed': 10, 'rejected': 0}");
    let metrics = server.assert_accounted(10);
    assert_eq!(metrics.accepted(), 10);
    let sensors = server.sensors_of("python");
    let [sensor] = &sensors[..] else { panic!("one series, not {sensors:?}") };
    assert_eq!((&sensor["sensor"], &sensor["count"]), (&"temperature".into(), &10.into()));
    assert_eq!((&sensor["min"], &sensor["max"], &sensor["last"]), (&20.5.into(), &29.5.into(), &29.5.into()));
    assert_eq!(sensor["mean"], 25.0);
}
