//! The server that corelane replaces: lines out of a stream that has none. It holds what it has not understood, and
//! that is everything.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use super::Counted;

pub(super) fn run(listener: TcpListener, counted: Arc<Counted>) -> io::Result<()> {
    super::tokio_decode::on_one_thread(listener, move |stream| serve(stream, Arc::clone(&counted)))
}

async fn serve(stream: TcpStream, counted: Arc<Counted>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match reader.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(bytes) => {
                counted.add_frames(1);
                counted.add_bytes(bytes);
            }
        }
    }
}
