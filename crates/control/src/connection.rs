//! One HTTP connection: handshake, requests, and an end that its peer gets to read.
//!
//! However it ends, timeouts, resets and a panic in a request included, only its peer is concerned.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
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

use crate::connections::{Connection, Place};
use crate::http::{Client, is_probe};

/// What all connections have in common.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) router: Router,
    pub(crate) tls: Option<TlsAcceptor>,
    /// True once no further request is wanted.
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Serving {
    /// Serves one connection to its end: first it waits without a place until bytes are here.
    pub(crate) async fn serve(self, stream: TcpStream, address: SocketAddr, waiting: Place) {
        let first = waiting.connection.while_welcome(looks_like_probe(&stream)).await;
        let Some(Ok(is_probe)) = first else { return };
        let Some(place) = waiting.into_served(is_probe && self.tls.is_none()).await else { return };
        let client = Client { connection: Arc::clone(&place.connection), address };
        // In a box of its own, so that a connection that waits does not take the memory of one that is served.
        Box::pin(self.serve_placed(stream, client)).await;
        drop(place);
    }

    async fn serve_placed(self, stream: TcpStream, client: Client) {
        match self.tls.clone() {
            None => self.requests(stream, client).await,
            Some(tls) => match client.connection.while_welcome(shake_hands(&tls, stream)).await {
                Some(Ok(Secured::Tls(stream))) => {
                    client.connection.shook_hands();
                    self.requests(*stream, client).await;
                }
                Some(Ok(Secured::PlainHttp(stream))) => last_words(stream, PLAIN_HTTP_ANSWER, &client.connection).await,
                Some(Err(_)) | None => (),
            },
        }
    }

    async fn requests<S: AsyncRead + AsyncWrite + Unpin>(mut self, stream: S, client: Client) {
        let router = TowerToHyperService::new(self.router);
        let connection = Arc::clone(&client.connection);
        let service = service_fn(|mut request: Request<Incoming>| {
            connection.asked(request.body().size_hint().upper() != Some(0));
            request.extensions_mut().insert(client.clone());
            let (answer, connection) = (router.call(request), Arc::clone(&connection));
            Box::pin(async move {
                let answer: Response<Body> = answer.await?;
                connection.sends();
                Ok::<_, Infallible>(answer.map(|body| WatchedBody { body, connection }))
            })
        });
        let stream = TokioIo::new(WatchedStream { stream, connection: Arc::clone(&connection) });
        // Timeouts are those of the connection's phases.
        let mut http = http1::Builder::new();
        http.header_read_timeout(None).max_buf_size(HEADER_BYTES_MAX).keep_alive(!connection.is_brief());
        let mut exchange = http.serve_connection(stream, service);
        let served = connection.while_welcome(async {
            select! {
                done = poll_fn(|context| exchange.poll_without_shutdown(context)) => return done,
                _ = self.stopping.wait_for(|&stopping| stopping) => (),
            }
            Pin::new(&mut exchange).graceful_shutdown();
            poll_fn(|context| exchange.poll_without_shutdown(context)).await
        });
        let Some(served) = served.await else { return };
        let mut stream = exchange.into_parts().io.into_inner().stream;
        if connection.is_brief() {
            // Its place is for one answer, which the kernel has by now.
            return;
        }
        if served.is_err_and(|error| error.is_parse()) || connection.had_body() {
            last_words(stream, &[], &connection).await;
        } else {
            let _ = connection.while_welcome(stream.shutdown()).await;
        }
    }
}

/// Waits for the first bytes of a connection and leaves them unread. Returns whether they are a whole request of a probe.
async fn looks_like_probe(stream: &TcpStream) -> io::Result<bool> {
    poll_fn(|context| {
        let mut bytes = [0; PROBE_BYTES_MAX];
        match ready!(stream.poll_peek(context, &mut ReadBuf::new(&mut bytes)))? {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            count => Poll::Ready(Ok(is_probe(&bytes[..count]))),
        }
    })
    .await
}

/// Sends the last bytes, and throws away what still comes: closing with unread bytes would reset the connection, and
/// the peer might never read why.
async fn last_words<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, words: &[u8], connection: &Connection) {
    connection.lingers();
    let end = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _ = connection.while_welcome(end).await;
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

/// A stream that reports to its connection what goes through it.
struct WatchedStream<S> {
    stream: S,
    connection: Arc<Connection>,
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (this, filled) = (self.get_mut(), into.filled().len());
        ready!(Pin::new(&mut this.stream).poll_read(context, into))?;
        if into.filled().len() > filled {
            this.connection.sent_bytes();
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
        this.connection.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// The body of an answer, which hyper drops once it has taken all of it.
struct WatchedBody {
    body: Body,
    connection: Arc<Connection>,
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
        self.connection.handed_over();
    }
}

/// Longest request that is taken for one of a probe; those of kubelets and load balancers have some 150 bytes.
const PROBE_BYTES_MAX: usize = 1024;
/// Longest request header.
pub(crate) const HEADER_BYTES_MAX: usize = 16 * 1024;
/// How much of what a peer still sends is thrown away at the end.
const LINGER_BYTES_MAX: u64 = 1024 * 1024;
/// To a request without TLS on a port that has it.
const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 23\r\n\
    Connection: close\r\n\r\nthis port speaks HTTPS\n";
