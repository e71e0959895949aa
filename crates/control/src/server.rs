//! The control plane running: its tasks, its ports, the stop.
//!
//! Each task and thread that everything hangs on is watched: one that ends before the stop ends the control plane with an error, so
//! that it is never half alive.

use std::future::pending;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use corelane_metrics::Totals;
use corelane_tls::server_config;
use socket2::SockRef;
use tokio::select;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinError;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::budget::Budget;
use crate::connection::Serving;
use crate::connections::Connections;
use crate::hosts::HostRule;
use crate::http::{Admission, Desks, probe_router, router};
use crate::{ControlHandle, ControlPlane, HttpLimits, answers, sensors};

impl ControlPlane {
    /// Serves until [`ControlHandle::stop`], on the calling thread, and returns the last totals. `probe` is the listener
    /// of the port for probes, if there is one.
    ///
    /// # Errors
    /// When the runtime cannot be set up on a listener, or a task of the control plane panicked.
    pub fn run(self, listener: TcpListener, probe: Option<TcpListener>, handle: ControlHandle) -> io::Result<Totals> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        runtime.block_on(serve(self, listener, probe, handle))
    }
}

async fn serve(
    mut plane: ControlPlane,
    control: TcpListener,
    probe: Option<TcpListener>,
    handle: ControlHandle,
) -> io::Result<Totals> {
    let (limits, protection) = (plane.config.http, plane.config.protection.clone());
    let (wrong_tokens, budget) = (Arc::clone(&plane.wrong_tokens), Budget::new(plane.totals().shard_count()));
    let (sensors, mut series_ended) = sensors::start(std::mem::take(&mut plane.series), budget.clone())?;
    let (answers, collector) = answers::desk(plane, handle.clone(), budget);
    let (stop, stopping) = watch::channel(false);
    let (end, ended) = oneshot::channel();
    let tls = protection.certificates.clone().map(|source| TlsAcceptor::from(Arc::new(server_config(source, ALPN))));
    let connections = Connections::new(limits);
    let desks = Arc::new(Desks { answers, sensors, connections: Arc::clone(&connections) });
    let admission = |listener: &TcpListener, token| -> io::Result<Admission> {
        let hosts = HostRule::new(listener.local_addr()?.ip(), &protection.hosts);
        Ok(Admission { token, wrong_tokens: Arc::clone(&wrong_tokens), hosts })
    };
    let router = router(Arc::clone(&desks), admission(&control, protection.token.clone())?);
    let control =
        Port::new(control, Arc::clone(&connections), limits, Serving { router, tls, stopping: stopping.clone() });
    let probe = match probe {
        Some(listener) => {
            let router = probe_router(desks, admission(&listener, None)?);
            let limits = HttpLimits::PROBE_PORT;
            Some(Port::new(listener, Connections::new(limits), limits, Serving { router, tls: None, stopping })?)
        }
        None => None,
    };

    let mut collector = tokio::spawn(collector.run(ended));
    let mut files = tokio::spawn(protection.keep_fresh(handle.clone()));
    select! {
        never = accept(control?, probe, &handle) => match never {},
        broken = &mut collector => return Err(ended_early("reads the rings", broken.err())),
        _ = &mut series_ended => return Err(io::Error::other("the thread that asks for series has ended")),
        broken = &mut files => return Err(ended_early("reads files again", broken.err())),
        () = handle.stopped() => (),
    }
    let _ = stop.send(true);
    // Answers that take longer are cut off; the process is about to end.
    let _ = timeout(LAST_ANSWERS_MAX, connections.all_closed()).await;
    let _ = end.send(());
    collector.await.map_err(|error| ended_early("reads the rings", Some(error)))
}

fn ended_early(what: &str, error: Option<JoinError>) -> io::Error {
    let how = error.map_or_else(|| "ended".to_owned(), |error| error.to_string());
    io::Error::other(format!("the task that {what} is gone: {how}"))
}

enum Never {}

/// A listener and how its connections are served.
struct Port {
    listener: tokio::net::TcpListener,
    connections: Arc<Connections>,
    answer_timeout: Duration,
    serving: Serving,
}

impl Port {
    fn new(
        listener: TcpListener,
        connections: Arc<Connections>,
        limits: HttpLimits,
        serving: Serving,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        // Accepted sockets inherit it. The kernel doubles the number, and keeps at most that for a reader that takes
        // nothing, instead of the 4 MiB to which it lets a buffer grow by itself.
        SockRef::from(&listener).set_send_buffer_size(SEND_BUFFER_BYTES)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        Ok(Self { listener, connections, answer_timeout: limits.answer_timeout, serving })
    }

    /// Closes the listener alone.
    fn close(self) -> Serving {
        self.serving
    }

    /// Accepts for ever. Never waits for a peer: a connection that was accepted waits by itself.
    async fn accept(&self) -> Never {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else {
                // Out of descriptors, mostly: the accept queue stays readable, so do not spin on it.
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // Also holds for what the kernel has yet to send when we are through with the connection.
            if SockRef::from(&stream).set_tcp_user_timeout(Some(self.answer_timeout)).is_err() {
                // The peer is gone already.
                continue;
            }
            let waiting = self.connections.enter().await;
            tokio::spawn(self.serving.clone().serve(stream, address, waiting));
        }
    }
}

/// Accepts until another process takes over.
async fn accept(control: Port, probe: Option<Port>, handle: &ControlHandle) -> Never {
    let accept_probes = async {
        match &probe {
            Some(probe) => probe.accept().await,
            None => pending().await,
        }
    };
    select! {
        never = control.accept() => match never {},
        never = accept_probes => match never {},
        () = handle.told_to_leave() => (),
    }
    // Connections that are open go on, and with them what answers them.
    let _serving = (control.close(), probe.map(Port::close));
    pending().await
}

/// What is spoken over TLS.
const ALPN: &[&[u8]] = &[b"http/1.1"];
/// How long answers under way may take after the stop.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(1);
/// Send buffer of a connection, as the kernel is asked for it: enough for 2 MB/s over 100 ms.
const SEND_BUFFER_BYTES: usize = 128 << 10;
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
