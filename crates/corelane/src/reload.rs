//! What may change while the server runs. On SIGHUP the address rules, certificates and tokens are read again; the rules
//! also when the configuration file changes, certificates of the data port when their files do. The control plane watches
//! its own files itself.

use std::sync::Arc;

use corelane_control::ControlHandle;
use corelane_files::{FileWatch, LoadError};
use corelane_shard::{AccessRules, Shards};
use corelane_tls::DataPortTls;
use jiff::Timestamp;

use crate::config::{Config, SettingArgs};

/// Reads the configuration again for running shards.
pub(crate) struct Reloader {
    flags: SettingArgs,
    tls: Option<Arc<DataPortTls>>,
    shards: Shards,
    control: ControlHandle,
    /// Whether not everybody may connect now.
    is_limited: bool,
    /// The configuration file, if there is one.
    file: FileWatch,
}

impl Reloader {
    /// `file` was made before the configuration was read for the first time.
    pub(crate) fn new(
        flags: SettingArgs,
        file: FileWatch,
        rules: &AccessRules,
        tls: Option<Arc<DataPortTls>>,
        shards: Shards,
        control: ControlHandle,
    ) -> Self {
        Self { flags, tls, shards, control, is_limited: !rules.allow.is_empty(), file }
    }

    /// Whether there are files that could change.
    pub(crate) fn has_files(&self) -> bool {
        !self.file.paths().is_empty() || self.tls.is_some()
    }

    /// Reads files again whose change rests. A configuration file that is gone changes nothing.
    pub(crate) fn reload_if_changed(&mut self) {
        if let Some(outcome) = self.tls.as_ref().and_then(|tls| tls.reload_if_changed()) {
            self.set_tls(outcome);
        }
        if self.file.has_changed_and_rests() && self.file.paths().iter().all(|file| file.exists()) {
            self.reload();
        }
    }

    /// Reads everything again.
    pub(crate) fn reload_all(&mut self) {
        self.control.reload();
        if let Some(outcome) = self.tls.as_ref().map(|tls| tls.reload()) {
            self.set_tls(outcome);
        }
        self.reload();
    }

    /// Gives the shards what was read of certificates. What is no good changes nothing.
    fn set_tls(&self, read: Result<(), LoadError>) {
        let Some(tls) = &self.tls else { return };
        match read {
            Ok(()) => {
                self.shards.set_tls(&tls.config());
                let expires = Timestamp::from_second(tls.expires_unix_seconds()).unwrap_or(Timestamp::MAX);
                tracing::info!(%expires, "read the data port's certificates again");
            }
            Err(error) => tracing::error!("TLS of the data port: {error}; what is in use stays"),
        }
    }

    /// Reads the configuration again and gives the shards its address rules. A bad one changes nothing.
    fn reload(&mut self) {
        self.file.mark_read();
        // A pipe may have been read once; opening it again would wait for a writer, and a stop behind it.
        if let Some(file) = self.file.paths().iter().find(|file| file.metadata().is_ok_and(|data| !data.is_file())) {
            let file = file.display();
            tracing::error!("{file}: not a regular file, so it cannot be read again; what was set stays");
            return;
        }
        match Config::resolve(&self.flags) {
            // A file that was emptied by mistake must not open the door to everybody.
            Ok(Config { allow: None, .. }) if self.is_limited => tracing::error!(
                "`allow` is gone from the configuration, what was set stays; to let everybody in, write \
                 allow = [\"0.0.0.0/0\", \"::/0\"]"
            ),
            Ok(config) => {
                let rules = AccessRules { allow: config.allow.unwrap_or_default() };
                self.is_limited = !rules.allow.is_empty();
                self.shards.set_rules(&rules);
                // The one setting that can change; the others stay what they were at the start.
                if let Some(allow) = config.told.into_iter().find(|told| told.key == "allow") {
                    self.control.configure(allow);
                }
                tracing::info!(allow = rules.allow.len(), "address rules read again");
            }
            Err(failure) => tracing::error!("the configuration was not read again, what was set stays: {failure}"),
        }
    }
}
