//! What one writes first: `read_exact` of the header, `read_exact` of the payload, serde into structs. Keeps no series.

use std::hint::black_box;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use corelane_wire::HEADER_BYTES;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{Counted, add};
use crate::baseline::OwnedEvent;

pub(super) fn run(listener: TcpListener, counted: Arc<Counted>) -> io::Result<()> {
    super::tokio_decode::on_one_thread(listener, move |stream| serve(stream, Arc::clone(&counted)))
}

async fn serve(mut stream: TcpStream, counted: Arc<Counted>) {
    let mut header = [0; HEADER_BYTES];
    let mut payload = Vec::new();
    while stream.read_exact(&mut header).await.is_ok() {
        payload.resize(u32::from_be_bytes(header) as usize, 0);
        if stream.read_exact(&mut payload).await.is_err() {
            return;
        }
        match ciborium::from_reader::<OwnedEvent<f64>, _>(&payload[..]) {
            Ok(event) => {
                black_box(&event);
                counted.add_frames(1);
            }
            Err(_) => add(&counted.rejected, 1),
        }
        counted.add_bytes(HEADER_BYTES + payload.len());
    }
}
