//! How the other threads of the process speak to the control plane: two flags and a wish in, one flag out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Holds a permit from the wish until it is met.
    reload: Notify,
    /// Holds a permit once stopped, so that a stop before the start is not missed.
    stop: Notify,
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
    /// ring is drained a last time.
    pub fn stop(&self) {
        self.shared.stop.notify_one();
    }

    /// Reads the certificate and the token again, changed or not. Does not wait for it; the log tells how it went.
    pub fn reload(&self) {
        self.shared.reload.notify_one();
    }

    /// Whether the control plane serves and has heard of every shard that it accepts. Never turns back to false.
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }

    pub(crate) fn set_ready(&self) {
        self.shared.ready.store(true, Ordering::Release);
    }

    pub(crate) async fn reload_asked(&self) {
        self.shared.reload.notified().await;
    }

    pub(crate) async fn stopped(&self) {
        self.shared.stop.notified().await;
    }
}
