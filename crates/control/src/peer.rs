//! One HTTP connection: handshake, requests, and an end that its peer gets to read.
//!
//! However it ends, timeouts, resets and a panic in a request included, only its peer is concerned.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::select;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::connections::{Peer, Place};

/// What all connections have in common.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) router: Router,
    pub(crate) tls: Option<TlsAcceptor>,
    /// True once no further request is wanted.
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Serving {
    /// Serves one connection to its end, in this place.
    pub(crate) async fn serve(self, stream: TcpStream, place: Place) {
        let peer = Arc::clone(&place.peer);
        match self.tls.clone() {
            None => self.requests(stream, peer).await,
            Some(tls) => match peer.while_welcome(shake_hands(&tls, stream)).await {
                Some(Ok(Secured::Tls(stream))) => {
                    peer.shook_hands();
                    self.requests(*stream, peer).await;
                }
                Some(Ok(Secured::PlainHttp(stream))) => last_words(stream, PLAIN_HTTP_ANSWER, &peer).await,
                Some(Err(_)) | None => (),
            },
        }
        drop(place);
    }

    async fn requests<S: AsyncRead + AsyncWrite + Unpin>(mut self, stream: S, peer: Arc<Peer>) {
        let router = TowerToHyperService::new(self.router);
        let service = service_fn(|request: Request<Incoming>| {
            peer.asked(request.body().size_hint().upper() != Some(0));
            let (answer, peer) = (router.call(request), Arc::clone(&peer));
            Box::pin(async move {
                let answer: Response<Body> = answer.await?;
                Ok::<_, Infallible>(answer.map(|body| WatchedBody { body, peer }))
            })
        });
        let stream = TokioIo::new(WatchedStream { stream, peer: Arc::clone(&peer) });
        // Timeouts are those of the peer's phases.
        let mut http = http1::Builder::new();
        http.header_read_timeout(None).max_buf_size(HEADER_BYTES_MAX);
        let mut connection = http.serve_connection(stream, service);
        let served = peer.while_welcome(async {
            select! {
                done = poll_fn(|context| connection.poll_without_shutdown(context)) => return done,
                _ = self.stopping.wait_for(|&stopping| stopping) => (),
            }
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|context| connection.poll_without_shutdown(context)).await
        });
        let Some(served) = served.await else { return };
        let mut stream = connection.into_parts().io.into_inner().stream;
        if served.is_err_and(|error| error.is_parse()) || peer.had_body() {
            last_words(stream, &[], &peer).await;
        } else {
            let _ = peer.while_welcome(stream.shutdown()).await;
        }
    }
}

/// Sends the last bytes, and throws away what still comes: closing with unread bytes would reset the connection, and
/// the peer might never read why.
async fn last_words<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, words: &[u8], peer: &Peer) {
    peer.lingers();
    let end = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _ = peer.while_welcome(end).await;
}

enum Secured {
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// Somebody speaks HTTP without TLS.
    PlainHttp(TcpStream),
}

async fn shake_hands(tls: &TlsAcceptor, stream: TcpStream) -> io::Result<Secured> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    // A handshake begins with the byte 22, a request with its method.
    if first[0].is_ascii_alphabetic() {
        return Ok(Secured::PlainHttp(stream));
    }
    Ok(Secured::Tls(Box::new(tls.accept(stream).await?)))
}

/// A stream that tells the peer's state what goes through it.
struct WatchedStream<S> {
    stream: S,
    peer: Arc<Peer>,
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (this, filled) = (self.get_mut(), into.filled().len());
        ready!(Pin::new(&mut this.stream).poll_read(context, into))?;
        if into.filled().len() > filled {
            this.peer.sent_bytes();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes once it has written all it has, so after the last byte of an answer, too.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(context))?;
        this.peer.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// The body of an answer, which hyper drops once it has taken all of it.
struct WatchedBody {
    body: Body,
    peer: Arc<Peer>,
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        self.peer.handed_over();
    }
}

/// Longest request header.
pub(crate) const HEADER_BYTES_MAX: usize = 16 * 1024;
/// How much of what a peer still sends is thrown away at the end.
const LINGER_BYTES_MAX: u64 = 1024 * 1024;
/// To a request without TLS on a port that has it.
const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 23\r\n\
    Connection: close\r\n\r\nthis port speaks HTTPS\n";
