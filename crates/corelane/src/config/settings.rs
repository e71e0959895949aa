//! The one table of settings: each is a flag, a key of the file and an environment variable.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// One setting of `serve`.
pub(crate) struct Setting {
    /// Key in the file. The flag is the same with dashes; the variable is `CORELANE_` and the key in capitals.
    pub(crate) key: &'static str,
    value: &'static str,
    /// As the file would have it; `None` where the host decides, and the help says how.
    pub(crate) default: Option<&'static str>,
    help: &'static str,
    /// The flag may be said more than once; what was said is joined by commas.
    repeats: bool,
    /// The flag alone means `true`.
    is_switch: bool,
    /// A file with a secret. A running server reports only whether there is one.
    pub(crate) is_secret: bool,
}

/// Every setting, in the order of the help.
pub(crate) const SETTINGS: &[Setting] = &[
    setting("listen", "ADDR", Some("127.0.0.1:7600"), "Address of the data port; port 0 picks one"),
    setting(
        "tls_cert",
        "FILE",
        None,
        "PEM certificates for TLS on the data port, read again when they change [default: plain TCP]",
    ),
    Setting { is_secret: true, ..setting("tls_key", "FILE", None, "PEM key of --tls-cert") },
    setting(
        "tls_client_ca",
        "FILE",
        None,
        "PEM certificates of authorities; clients need a certificate of one of them [default: none is asked for]",
    ),
    setting(
        "tls_client_crl",
        "FILE",
        None,
        "PEM revocation lists of the authorities in --tls-client-ca, which may hold them, too [default: none]",
    ),
    setting("handshake_timeout", "DUR", Some("10s"), "How long a connection may take to agree on TLS"),
    setting("control", "ADDR", Some("127.0.0.1:9600"), "Address of the control plane's HTTP port; port 0 picks one"),
    setting(
        "control_tls_cert",
        "FILE",
        None,
        "PEM certificates for HTTPS on the control port, read again when they change [default: plain HTTP]",
    ),
    Setting { is_secret: true, ..setting("control_tls_key", "FILE", None, "PEM key of --control-tls-cert") },
    Setting {
        is_secret: true,
        ..setting(
            "control_token_file",
            "FILE",
            None,
            "File whose first line the control port asks for as bearer token or password [default: none]",
        )
    },
    Setting {
        repeats: true,
        ..setting(
            "control_host",
            "NAME",
            None,
            "Host name that a control port without a token answers to; repeatable [default: localhost and IP addresses \
             on loopback, else any]",
        )
    },
    setting(
        "probe",
        "ADDR",
        None,
        "Address of a second HTTP port that serves /healthz and /readyz only; port 0 picks one [default: off]",
    ),
    setting(
        "cores",
        "LIST",
        None,
        "Data cores, one shard each, as 0-3,8 [default: every allowed core but the control core]",
    ),
    setting("control_core", "N", None, "Core of the control-plane thread [default: the last allowed core]"),
    setting("pool_bytes", "SIZE", Some("64MiB"), "Receive buffers of all shards together"),
    setting("max_connections", "N", Some("10000"), "Connections of all shards together"),
    setting("max_connections_per_ip", "N", Some("0"), "Connections of one address, all shards together; 0 = no limit"),
    setting("max_accept_rate_per_ip", "N", Some("0"), "New connections of one address a second; 0 = no limit"),
    setting(
        "ipv6_prefix",
        "N",
        Some("64"),
        "Leading bits of an IPv6 address that limits by address count as one address",
    ),
    setting(
        "max_rate_per_connection",
        "SIZE",
        Some("0"),
        "Bytes a second that are read of one connection; 0 = no limit",
    ),
    setting(
        "max_connection_age",
        "DUR",
        Some("0"),
        "Close a connection of that age, up to a tenth later, right after an answered commit request; 0 = never",
    ),
    Setting {
        repeats: true,
        ..setting("allow", "CIDR", None, "Who may connect to the data port, as 10.0.0.0/8; repeatable [default: any]")
    },
    setting("max_series", "N", Some("65536"), "Live series a shard; the one silent longest makes room"),
    setting("idle_timeout", "DUR", Some("5m"), "Close a connection that sends no byte for so long; 0 = never"),
    setting("frame_timeout", "DUR", Some("10s"), "From a frame's first byte to its last"),
    setting("drain_timeout", "DUR", Some("10s"), "At shutdown, how long a frame that was begun may take to finish"),
    setting("backlog", "N", Some("4096"), "Connections that wait to be accepted, a shard; net.core.somaxconn caps it"),
    Setting {
        is_switch: true,
        ..setting(
            "takeover",
            "BOOL",
            Some("false"),
            "Take the listening sockets over from the server that has them now",
        )
    },
    setting(
        "takeover_path",
        "FILE",
        None,
        "Socket at which a successor asks for the listening sockets, mode 0600 [default: in the runtime directory]",
    ),
    setting("log_format", "text|json", None, "Format of the log on stderr [default: text on a terminal, else json]"),
];

const fn setting(key: &'static str, value: &'static str, default: Option<&'static str>, help: &'static str) -> Setting {
    Setting { key, value, default, help, repeats: false, is_switch: false, is_secret: false }
}

impl Setting {
    pub(crate) fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    pub(crate) fn variable(&self) -> String {
        variable(self.key)
    }
}

/// The environment variable of a key.
pub(crate) fn variable(key: &str) -> String {
    format!("CORELANE_{}", key.to_uppercase())
}

/// What the command line says of the settings, as text; the values are read where all layers meet.
#[derive(Clone, Debug, Default)]
pub(crate) struct SettingArgs {
    pub(crate) config: Option<String>,
    pub(crate) settings: Vec<(&'static str, String)>,
}

impl SettingArgs {
    /// The file that a flag or the environment names.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| std::env::var(variable("config")).ok()).map(PathBuf::from)
    }
}

/// Once, since in every line it would be half of the help.
const EVERYWHERE: &str = "Each setting is a flag, a variable and a key of the file: --max-series, CORELANE_MAX_SERIES, \
    max_series. A flag wins over the environment, the environment over the file.";

impl Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("TOML file with keys as the flags, in snake_case");
        SETTINGS.iter().fold(command.arg(config).after_help(EVERYWHERE), |command, setting| {
            let default = setting.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
            let help = format!("{}{default}", setting.help);
            let arg = Arg::new(setting.key).long(setting.flag()).value_name(setting.value).help(help);
            let arg = arg.action(if setting.repeats { ArgAction::Append } else { ArgAction::Set });
            command.arg(if setting.is_switch {
                arg.num_args(0..=1).require_equals(true).default_missing_value("true")
            } else {
                arg
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let said = |key: &str| {
            let values = matches.get_many::<String>(key)?;
            Some(values.map(String::as_str).collect::<Vec<_>>().join(","))
        };
        let settings = SETTINGS.iter().filter_map(|setting| Some((setting.key, said(setting.key)?))).collect();
        Ok(Self { config: said("config"), settings })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
