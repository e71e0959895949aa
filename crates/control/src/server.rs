//! The control plane running: its tasks, the accept loop, the stop.
//!
//! Each task that everything hangs on is watched: one that ends before the stop ends the control plane with an error, so
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

use crate::connections::Connections;
use crate::http::{Desks, router};
use crate::peer::Serving;
use crate::{ControlHandle, ControlPlane, answers, sensors};

impl ControlPlane {
    /// Serves until [`ControlHandle::stop`], on the calling thread, and returns the last totals.
    ///
    /// # Errors
    /// When the runtime cannot be set up on the listener, or a task of the control plane panicked.
    pub fn run(self, listener: TcpListener, handle: ControlHandle) -> io::Result<Totals> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        runtime.block_on(serve(self, listener, handle))
    }
}

async fn serve(mut plane: ControlPlane, listener: TcpListener, handle: ControlHandle) -> io::Result<Totals> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (limits, protection) = (plane.config.http, plane.config.protection.clone());
    let (sensors, rounds) = sensors::desk(std::mem::take(&mut plane.series));
    let (answers, drainer) = answers::desk(plane, handle.clone());
    let (stop, stopping) = watch::channel(false);
    let (end, ended) = oneshot::channel();
    let tls = protection.certificates.clone().map(|source| TlsAcceptor::from(Arc::new(server_config(source, ALPN))));
    let router = router(Desks { answers, sensors }, protection.token.clone());
    let connections = Connections::new(limits);

    let mut drainer = tokio::spawn(drainer.run(ended));
    let mut rounds = tokio::spawn(rounds);
    let mut files = tokio::spawn(protection.keep_fresh(handle.clone()));
    select! {
        never = accept(listener, &handle, &connections, limits.answer_timeout, Serving { router, tls, stopping }) => match never {},
        broken = &mut drainer => return Err(ended_early("drains", broken.err())),
        broken = &mut rounds => return Err(ended_early("asks for series", broken.err())),
        broken = &mut files => return Err(ended_early("reads files again", broken.err())),
        () = handle.stopped() => (),
    }
    let _ = stop.send(true);
    // Answers that take longer are cut off; the process is about to end.
    let _ = timeout(LAST_ANSWERS_MAX, connections.all_closed()).await;
    let _ = end.send(());
    drainer.await.map_err(|error| ended_early("drains", Some(error)))
}

fn ended_early(what: &str, error: Option<JoinError>) -> io::Error {
    let how = error.map_or_else(|| "ended".to_owned(), |error| error.to_string());
    io::Error::other(format!("the task that {what} is gone: {how}"))
}

enum Never {}

/// Accepts until it is told to leave that to another process.
async fn accept(
    listener: tokio::net::TcpListener,
    handle: &ControlHandle,
    connections: &Arc<Connections>,
    answer_timeout: Duration,
    serving: Serving,
) -> Never {
    loop {
        let accepted = select! {
            accepted = listener.accept() => accepted,
            () = handle.told_to_leave() => break,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, mostly: the accept queue stays readable, so do not spin on it.
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Also holds for what the kernel has yet to send when we are through with the connection.
        if SockRef::from(&stream).set_tcp_user_timeout(Some(answer_timeout)).is_err() {
            // The peer is gone already.
            continue;
        }
        let place = connections.place().await;
        tokio::spawn(serving.clone().serve(stream, place));
    }
    drop(listener);
    pending().await
}

/// What is spoken over TLS.
const ALPN: &[&[u8]] = &[b"http/1.1"];
/// How long answers under way may take after the stop.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(1);
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
