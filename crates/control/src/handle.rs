//! How the other threads of the process speak to the control plane: flags, wishes and the configuration in, readiness
//! and a pulse out.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Steers a running control plane from any thread.
#[derive(Clone, Default)]
pub struct ControlHandle {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    draining: AtomicBool,
    ready: AtomicBool,
    pulse: AtomicU64,
    configuration: Mutex<Vec<Configured>>,
    /// Holds a permit from the wish until it is met.
    leave: Notify,
    /// Holds a permit from the wish until it is met.
    reload: Notify,
    /// Holds a permit once stopped, so that a stop before the start is not missed.
    stop: Notify,
}

/// One setting of the process, for those who ask what it runs with. No secret belongs in here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// Key in the configuration file.
    pub key: &'static str,
    /// As the file would have it; `None` where nothing is set.
    pub value: Option<String>,
    /// Who said so: `default`, `flag`, `environment` or `file`.
    pub source: &'static str,
}

impl ControlHandle {
    /// A handle of a control plane that is neither draining nor stopping.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on `/readyz` answers 503, so that load balancers send no new peers.
    pub fn set_draining(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Ends [`ControlPlane::run`](crate::ControlPlane::run): answers under way may finish within a second, then every
    /// ring is read a last time.
    pub fn stop(&self) {
        self.shared.stop.notify_one();
    }

    /// Accepts no more connections: another process has the listener, too, and serves it.
    pub fn stop_accepting(&self) {
        self.shared.leave.notify_one();
    }

    /// A number that grows several times a second, for as long as the control plane runs and hears from every shard.
    pub fn pulse(&self) -> u64 {
        self.shared.pulse.load(Ordering::Relaxed)
    }

    /// Reads the certificate and the token again, changed or not. Does not wait for it; the log tells how it went.
    pub fn reload(&self) {
        self.shared.reload.notify_one();
    }

    /// Whether the control plane serves and has heard of every shard that it accepts. Never turns back to false.
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire)
    }

    /// From now on this setting is told, in place of what was told of its key.
    pub fn configure(&self, setting: Configured) {
        let mut settings = self.shared.configuration.lock().unwrap_or_else(PoisonError::into_inner);
        match settings.iter_mut().find(|known| known.key == setting.key) {
            Some(known) => *known = setting,
            None => settings.push(setting),
        }
    }

    pub(crate) fn configuration(&self) -> Vec<Configured> {
        self.shared.configuration.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }

    pub(crate) fn set_ready(&self) {
        self.shared.ready.store(true, Ordering::Release);
    }

    pub(crate) fn beat(&self) {
        self.shared.pulse.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) async fn told_to_leave(&self) {
        self.shared.leave.notified().await;
    }

    pub(crate) async fn reload_asked(&self) {
        self.shared.reload.notified().await;
    }

    pub(crate) async fn stopped(&self) {
        self.shared.stop.notified().await;
    }
}
