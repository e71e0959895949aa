use std::io::Write;

use super::*;

/// The error of a file with this text, without its path.
fn error_of(text: &str) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let Err(Failure::Usage(error)) = Config::from_file(file.path()) else { panic!("{text:?} is no usage error") };
    error.replace(&file.path().display().to_string(), "FILE")
}

fn config_of(text: &str) -> Config {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Config::from_file(file.path()).unwrap()
}

#[test]
fn the_defaults_are_those_of_the_interface() {
    let config = config_of("");
    assert_eq!(config.listen, "127.0.0.1:7600".parse().unwrap());
    assert_eq!(config.control, "127.0.0.1:9600".parse().unwrap());
    assert_eq!((config.pool_bytes.value, config.max_connections.value, config.max_series), (64 << 20, 10_000, 65_536));
    assert_eq!(config.idle_timeout, Duration::from_secs(300));
    assert_eq!((config.frame_timeout, config.drain_timeout), (Duration::from_secs(10), Duration::from_secs(10)));
    assert!(!config.max_connections.is_stated() && config.cores.is_none() && config.backlog == 4096);
}

#[test]
fn the_control_port_is_protected_by_files() {
    let config = config_of("control_tls_cert = \"a\"\ncontrol_tls_key = \"b\"\ncontrol_token_file = \"c\"\n");
    let files = config.control_tls.unwrap();
    let paths = [files.certificate.value, files.key.value, config.control_token_file.unwrap().value];
    assert_eq!(paths, ["a", "b", "c"].map(PathBuf::from));
}

#[test]
fn a_running_server_reports_no_path_of_a_secret() {
    let config = config_of(
        "tls_cert = \"a\"\ntls_key = \"b\"\ncontrol_tls_cert = \"c\"\ncontrol_tls_key = \"d\"\n\
         control_token_file = \"e\"\n",
    );
    let told = |key: &str| config.told.iter().find(|told| told.key == key).unwrap().value.clone();
    for key in ["tls_key", "control_tls_key", "control_token_file"] {
        assert_eq!(told(key).as_deref(), Some("set"), "{key}");
    }
    assert_eq!((told("tls_cert").as_deref(), told("probe")), (Some("a"), None));
    assert_eq!(config_of("").told.iter().find(|told| told.key == "tls_key").unwrap().value, None);
}

#[test]
fn names_of_the_control_port_are_a_list_and_probes_may_have_a_port() {
    let config = config_of("control_host = [\"db1\", \"metrics.example.\"]\nprobe = \"127.0.0.1:9601\"\n");
    assert_eq!(config.control_hosts, ["db1", "metrics.example."]);
    assert_eq!(config.probe, Some("127.0.0.1:9601".parse().unwrap()));
    let config = config_of("");
    assert!(config.control_hosts.is_empty() && config.probe.is_none());
}

#[test]
fn a_file_may_use_numbers_texts_and_arrays() {
    let config = config_of("cores = [0, \"2-3\"]\npool_bytes = 8388608\nidle_timeout = 0\nlog_format = \"json\"\n");
    assert_eq!(config.cores.unwrap().value, [0, 2, 3]);
    assert_eq!((config.pool_bytes.value, config.idle_timeout), (8 << 20, Duration::ZERO));
    assert_eq!(config.log_format, Some(LogFormat::Json));
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    assert_eq!(
        error_of("\nidle_timout = \"5m\"\n"),
        "FILE:2: `idle_timout`: unknown key; did you mean `idle_timeout`?"
    );
    assert!(error_of("zzzzzzzzzzzz = 1").contains("known keys: listen, tls_cert"));
}

#[test]
fn errors_say_what_where_and_how_to_mend_it() {
    for (text, error) in [
        (
            "listen = \"7600\"",
            "FILE:1: `listen`: \"7600\" has no port; write HOST:PORT, as 127.0.0.1:7600 or [::]:7600",
        ),
        (
            "frame_timeout = \"10\"",
            "FILE:1: `frame_timeout`: \"10\" is not a duration; write a number and a unit, as 10s, 5m or 250ms",
        ),
        ("frame_timeout = \"0s\"", "FILE:1: `frame_timeout`: \"0s\" is out of range; write 1ms to 31536000s"),
        ("cores = \"0,0\"", "FILE:1: `cores`: \"0,0\" names core 0 twice; one shard runs on each core"),
        (
            "cores = \"3-1\"",
            "FILE:1: `cores`: \"3-1\" has a range that runs backwards or too far; write core numbers and ranges, as 0-3,8",
        ),
        ("pool_bytes = \"many\"", "FILE:1: `pool_bytes`: \"many\" is not a size; write a number and a unit, as 64MiB"),
        ("backlog = 0", "FILE:1: `backlog`: \"0\" is not a whole number from 1 to 65535"),
        ("log_format = \"xml\"", "FILE:1: `log_format`: \"xml\" is not a log format; write text or json"),
        (
            "control_tls_cert = \"a.pem\"",
            "FILE:1: `control_tls_cert`: means nothing without --control-tls-key; give both or neither",
        ),
        (
            "\ncontrol_tls_key = \"a.pem\"",
            "FILE:2: `control_tls_key`: means nothing without --control-tls-cert; give both or neither",
        ),
        (
            "tls_client_ca = \"ca.pem\"",
            "FILE:1: `tls_client_ca`: means nothing without --tls-cert; give both or neither",
        ),
        (
            "tls_cert = \"a\"\ntls_key = \"b\"\ntls_client_crl = \"c\"",
            "FILE:3: `tls_client_crl`: means nothing without --tls-client-ca; give both or neither",
        ),
        (
            &format!("takeover_path = \"/{}\"", "x".repeat(107)),
            &format!(
                "FILE:1: `takeover_path`: \"/{}\" has 108 bytes, and the path of a socket has at most 107; choose a shorter one",
                "x".repeat(107)
            ),
        ),
        (
            "control_host = \"http://db1:9600\"",
            "FILE:1: `control_host`: \"http://db1:9600\" has \"http://db1:9600\", which is not a host name; write it \
             without scheme and port, for example db1.example",
        ),
        (
            "control = \"127.0.0.1:9601\"\nprobe = \"127.0.0.1:9601\"",
            "FILE:2: `probe`: 127.0.0.1:9601 is the address of --control; choose another port",
        ),
        ("probe = \"9601\"", "FILE:1: `probe`: \"9601\" has no port; write HOST:PORT, as 127.0.0.1:7600 or [::]:7600"),
        ("control_token_file = \"\"", "FILE:1: `control_token_file`: \"\" is no path; write that of a file"),
        ("listen = 1.5", "FILE:1: `listen`: must be text, a number, or an array of these, as in the help of --listen"),
    ] {
        assert_eq!(error_of(text), error);
    }
    assert!(error_of("listen = ").starts_with("FILE: not valid TOML"));
}

#[test]
fn a_missing_file_is_named() {
    let Err(Failure::Usage(error)) = Config::from_file(Path::new("/no/such.toml")) else { panic!() };
    assert!(error.starts_with("/no/such.toml: No such file"));
}

#[test]
fn a_flag_wins_over_a_file_and_a_file_over_the_default() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"backlog = 7\nmax_series = 8\n").unwrap();
    let flags =
        SettingArgs { config: Some(file.path().display().to_string()), settings: vec![("backlog", "9".to_owned())] };
    let config = Config::resolve(&flags).unwrap();
    assert_eq!((config.backlog, config.max_series), (9, 8));
}

#[test]
fn the_sample_file_holds_every_key_with_its_default() {
    let sample = include_str!("../../../../deploy/corelane.toml");
    // A comment has a blank behind its `#`, a key without default has none.
    let whole: String = sample
        .lines()
        .map(|line| line.strip_prefix('#').filter(|key| key.starts_with(char::is_alphabetic)).unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    config_of(sample);
    config_of(&whole);
    let keys = |text: &str| toml::from_str::<toml::Table>(text).unwrap();
    let (stated, all) = (keys(sample), keys(&whole));
    assert_eq!(all.len(), settings::SETTINGS.len());
    for setting in settings::SETTINGS {
        let text = stated.get(setting.key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        assert_eq!(text.as_deref(), setting.default, "{}", setting.key);
        assert!(all.contains_key(setting.key), "{}", setting.key);
    }
}
