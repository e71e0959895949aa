use corelane_wire::{Step, encode_answer, encode_closing, encode_event, next_step};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;
use crate::Closing;

const TIMEOUT: Duration = Duration::from_secs(5);

/// What the server in these tests does once it has answered `answers` commit requests.
enum Then {
    Go,
    /// Writes a last frame, half-closes, and reads to the end, as a corelane server does.
    Explain,
    /// Closes with bytes unread, which resets the connection.
    Vanish,
}

/// Counts frames as committed, answers commit requests, and tells how many frames it took.
async fn serve(listener: TcpListener, answers: usize, then: Then) -> u64 {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut kept = Vec::new();
    let mut answer = Answer::default();
    let mut answered = 0;
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut bytes).await.unwrap();
        if count == 0 {
            return answer.committed;
        }
        kept.extend_from_slice(&bytes[..count]);
        let mut unread = &kept[..];
        loop {
            match next_step(&mut unread) {
                Step::CommitRequest => {
                    stream.write_all(encode_answer(answer).as_slice()).await.unwrap();
                    answered += 1;
                }
                Step::Frame(_) => answer.committed += 1,
                Step::NeedMore { .. } => break,
                Step::Oversize { .. } => panic!("the tests send no such frame"),
            }
        }
        kept = unread.to_vec();
        if answered == answers && answer.committed > 0 {
            match then {
                Then::Go => (),
                Then::Explain => {
                    stream.write_all(encode_closing("drained", "shutdown", answer).as_slice()).await.unwrap();
                    stream.shutdown().await.unwrap();
                    while stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
                    return answer.committed;
                }
                Then::Vanish => return answer.committed,
            }
        }
    }
}

async fn start(answers: usize, then: Then) -> (String, JoinHandle<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (address, tokio::spawn(serve(listener, answers, then)))
}

/// A server that reads a little, writes `bytes` and keeps the connection open.
async fn start_other(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        std::future::pending::<()>().await;
    });
    address
}

fn event() -> Vec<u8> {
    let mut frames = Vec::new();
    encode_event(&mut frames, "a", 1, None, [("s", 1.0, None)].into_iter()).unwrap();
    frames
}

#[tokio::test]
async fn what_was_sent_is_what_is_committed() {
    let (address, server) = start(usize::MAX, Then::Go).await;
    let mut client = Client::connect(&address, TIMEOUT).await.unwrap();
    for _ in 0..10_000 {
        client.send(&event()).await.unwrap();
    }
    assert_eq!(client.commit().await.unwrap().committed, 10_000);
    client.send(&event()).await.unwrap();
    assert_eq!(client.finish().await.unwrap(), Answer { committed: 10_001, rejected: 0 });
    assert_eq!(server.await.unwrap(), 10_001);
}

#[tokio::test]
async fn answers_come_in_the_order_of_their_requests() {
    let (address, _server) = start(usize::MAX, Then::Go).await;
    let mut client = Client::connect(&address, TIMEOUT).await.unwrap();
    for _ in 0..3 {
        client.send(&event()).await.unwrap();
        client.request_commit().await.unwrap();
    }
    for committed in 1..=3 {
        assert_eq!(client.answer().await.unwrap().committed, committed);
    }
}

#[tokio::test]
async fn a_million_requests_block_neither_side() {
    let (address, _server) = start(usize::MAX, Then::Go).await;
    let mut client = Client::connect(&address, TIMEOUT).await.unwrap();
    // Some 30 MB of answers, more than the sockets hold: they must be read while the requests are written.
    for _ in 0..1_000_000 {
        client.request_commit().await.unwrap();
    }
    client.flush().await.unwrap();
    assert_eq!(client.commit().await.unwrap(), Answer::default());
}

#[tokio::test]
async fn no_more_requests_are_without_an_answer_than_the_protocol_allows() {
    const ROUNDS: usize = 3;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let answer = encode_answer(Answer::default());
        stream.read_exact(&mut [0; 4]).await.unwrap();
        stream.write_all(answer.as_slice()).await.unwrap();
        // Answers as late as it can: only when the client may not ask again.
        let mut bytes = vec![0; 64 * 1024];
        for _ in 0..ROUNDS {
            let mut came = 0;
            while came < 4 * UNANSWERED_REQUESTS_MAX {
                came += stream.read(&mut bytes).await.unwrap();
            }
            assert_eq!(came, 4 * UNANSWERED_REQUESTS_MAX);
            stream.write_all(&answer.as_slice().repeat(UNANSWERED_REQUESTS_MAX)).await.unwrap();
        }
    });
    let mut client = Client::connect(&address, TIMEOUT).await.unwrap();
    for _ in 0..ROUNDS * UNANSWERED_REQUESTS_MAX {
        client.request_commit().await.unwrap();
    }
    for _ in 0..ROUNDS * UNANSWERED_REQUESTS_MAX {
        client.answer().await.unwrap();
    }
    server.await.unwrap();
}

#[tokio::test]
async fn a_close_in_the_middle_of_a_long_write_is_explained() {
    let (address, server) = start(1, Then::Explain).await;
    let mut client = Client::connect(&address, TIMEOUT).await.unwrap();
    let frames = event().repeat(1000);
    let error = loop {
        if let Err(error) = client.send(&frames).await {
            break error;
        }
    };
    drop(client);
    let answer = Answer { committed: server.await.unwrap(), rejected: 0 };
    let ClientError::Closed(closing) = error else { panic!("{error}") };
    assert_eq!(closing, Closing { error: "drained".into(), code: "shutdown".into(), answer });
}

#[tokio::test]
async fn a_close_while_nothing_is_sent_is_noticed() {
    let (address, _server) = start(1, Then::Explain).await;
    let mut client = Client::connect(&address, TIMEOUT).await.unwrap();
    client.send(&event()).await.unwrap();
    let error = client.closed().await;
    assert!(matches!(&error, ClientError::Closed(closing) if closing.code == "shutdown"), "{error}");
}

#[tokio::test]
async fn a_lost_connection_tells_the_last_answer() {
    let (address, _server) = start(2, Then::Vanish).await;
    let mut client = Client::connect(&address, TIMEOUT).await.unwrap();
    client.send(&event()).await.unwrap();
    assert_eq!(client.commit().await.unwrap().committed, 1);
    let error = client.closed().await;
    assert!(matches!(error, ClientError::Lost { .. }), "{error}");
    assert_eq!(error.answer(), Some(Answer { committed: 1, rejected: 0 }));
}

#[tokio::test]
async fn a_reset_does_not_hide_a_last_frame_that_came() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        stream.write_all(encode_answer(Answer::default()).as_slice()).await.unwrap();
        stream.read_exact(&mut [0; 64]).await.unwrap();
        stream.write_all(encode_closing("too long", "oversize", Answer::default()).as_slice()).await.unwrap();
        // Dropped here with unread bytes: a reset follows the last frame.
    });
    let mut client = Client::connect(&address, TIMEOUT).await.unwrap();
    client.outgoing.extend_from_slice(&[1; 1024]);
    client.stream.writable().await.unwrap();
    client.write().unwrap();
    server.await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.outgoing.extend_from_slice(&[1; 1024]);
    let error = loop {
        if let Err(error) = client.write() {
            break error;
        }
        client.outgoing.extend_from_slice(&[1; 1024]);
    };
    assert!(matches!(&error, ClientError::Closed(closing) if closing.code == "oversize"), "{error}");
}

#[tokio::test]
async fn a_connection_refused_names_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = Client::connect(&address, TIMEOUT).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&address));
}

#[tokio::test]
async fn a_silent_server_is_no_corelane() {
    let address = start_other(b"").await;
    let error = Client::connect(&address, Duration::from_millis(50)).await.unwrap_err();
    assert!(error.to_string().contains("did not answer a commit request"), "{error}");
}

#[tokio::test]
async fn an_http_server_is_no_corelane() {
    let address = start_other(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let error = Client::connect(&address, TIMEOUT).await.unwrap_err();
    assert!(error.to_string().contains("answered HTTP"), "{error}");
}

#[tokio::test]
async fn another_protocol_is_no_corelane() {
    // A TLS alert.
    let address = start_other(b"\x15\x03\x01\x00\x02\x02\x46").await;
    let error = Client::connect(&address, TIMEOUT).await.unwrap_err();
    assert!(error.to_string().contains("another protocol"), "{error}");
}

#[tokio::test]
async fn a_server_that_closes_at_once_is_no_corelane() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
    let error = Client::connect(&address, TIMEOUT).await.unwrap_err();
    assert!(error.to_string().contains("closed the connection before it answered"), "{error}");
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_ends_the_connection() {
    let address = start_other(Box::leak(Box::new([encode_answer(Answer::default()).as_slice(); 2].concat()))).await;
    // Both may come in one read, or the second one later.
    let error = match Client::connect(&address, TIMEOUT).await {
        Ok(mut client) => client.closed().await,
        Err(error) => error,
    };
    assert!(matches!(error, ClientError::InvalidReply | ClientError::NotCorelane { .. }), "{error}");
}
