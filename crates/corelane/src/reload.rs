//! What may change while the server runs. On SIGHUP the address rules, certificates and tokens are read again; the rules
//! also when the configuration file changes, while the control plane watches the other files itself.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use corelane_control::ControlHandle;
use corelane_shard::{AccessRules, Shards};

use crate::config::{Config, SettingArgs};

/// Reads the configuration again for running shards.
pub(crate) struct Reloader {
    flags: SettingArgs,
    shards: Shards,
    control: ControlHandle,
    /// Whether not everybody may connect now.
    is_limited: bool,
    file: Option<PathBuf>,
    /// Of the file as it was read, and as it was last looked at.
    read: Stamp,
    seen: Stamp,
}

impl Reloader {
    /// `stamp` was taken before the configuration was read for the first time.
    pub(crate) fn new(
        flags: SettingArgs,
        stamp: Stamp,
        rules: &AccessRules,
        shards: Shards,
        control: ControlHandle,
    ) -> Self {
        let file = flags.file();
        Self { flags, shards, control, is_limited: !rules.allow.is_empty(), file, read: stamp, seen: None }
    }

    /// Whether there is a file that could change.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Reads the file again if it has changed, but not since the last look: half a file may be a valid one, with rules that
    /// nobody meant.
    pub(crate) fn reload_if_changed(&mut self) {
        let modified = self.look();
        let stands_still = modified == std::mem::replace(&mut self.seen, modified);
        if stands_still && modified.is_some() && modified != self.read {
            self.reload();
        }
    }

    /// Reads everything again.
    pub(crate) fn reload_all(&mut self) {
        self.control.reload();
        self.reload();
    }

    /// Reads the configuration again and gives the shards its address rules. A bad one changes nothing.
    fn reload(&mut self) {
        self.read = self.look();
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

    fn look(&self) -> Stamp {
        stamp(self.file.as_deref())
    }
}

/// When a file was last changed; `None` without one.
pub(crate) type Stamp = Option<SystemTime>;

/// The stamp of a configuration file.
pub(crate) fn stamp(file: Option<&Path>) -> Stamp {
    file?.metadata().ok()?.modified().ok()
}
