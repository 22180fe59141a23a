//! Connections over their whole life: clients that send slowly or not at all are dropped, everybody else is not.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Setup, TestServer, ask, with};

const RECEIVE: Duration = Duration::from_millis(300);
const CHAT: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";

async fn server() -> TestServer {
    let mut setup = Setup::new().chat("hi", "abcdefghijklmnopqrst").slow(Duration::from_millis(30));
    setup.receive = RECEIVE;
    setup.start().await
}

/// Runs a client that blocks.
async fn client<T: Send + 'static>(address: SocketAddr, talk: impl FnOnce(TcpStream) -> T + Send + 'static) -> T {
    let connect = move || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        talk(stream)
    };
    tokio::task::spawn_blocking(connect).await.unwrap()
}

/// What comes until the server closes the connection, and when it does.
fn rest(stream: &mut TcpStream) -> (String, Duration) {
    let (started, mut bytes) = (Instant::now(), Vec::new());
    // Unread input makes a reset of the close.
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    (String::from_utf8(bytes).unwrap(), started.elapsed())
}

/// One answer of known length.
fn reply(stream: &mut TcpStream) -> String {
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.ends_with("\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        text.push(char::from(byte[0]));
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    text + std::str::from_utf8(&body).unwrap()
}

fn request(body: &serde_json::Value) -> String {
    let body = body.to_string();
    format!("{CHAT}content-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_request_whose_head_never_arrives_is_dropped() {
    let server = server().await;
    for beginning in ["", "POST /v1/chat/comp", CHAT] {
        let talk = move |mut stream: TcpStream| {
            stream.write_all(beginning.as_bytes()).unwrap();
            rest(&mut stream)
        };
        let (answer, after) = client(server.address, talk).await;
        assert!(answer.is_empty(), "{answer}");
        assert!(after > RECEIVE / 2 && after < 4 * RECEIVE, "{beginning:?}: closed after {after:?}");
    }
}

#[tokio::test]
async fn a_head_that_comes_in_drops_is_dropped() {
    let server = server().await;
    let talk = |mut stream: TcpStream| {
        let started = Instant::now();
        let sent = CHAT.bytes().take_while(|byte| {
            std::thread::sleep(RECEIVE / 10);
            stream.write_all(&[*byte]).is_ok()
        });
        (sent.count(), started.elapsed())
    };
    let (sent, after) = client(server.address, talk).await;
    assert!(sent < CHAT.len() && after < 4 * RECEIVE, "{sent} bytes were taken in {after:?}");
}

#[tokio::test]
async fn a_body_that_never_arrives_is_answered_and_dropped() {
    let server = server().await;
    for path in ["/v1/chat/completions", "/nowhere", "/health"] {
        let talk = move |mut stream: TcpStream| {
            write!(stream, "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{\"messages\": ").unwrap();
            rest(&mut stream)
        };
        let (answer, after) = client(server.address, talk).await;
        let status = match path {
            "/health" => "405",
            "/nowhere" => "404",
            _ => "408",
        };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        assert!(status != "408" || answer.contains("\"code\":\"timeout\""), "{answer}");
        assert!(after < 4 * RECEIVE, "{path}: closed after {after:?}");
    }
}

#[tokio::test]
async fn kept_connections_and_long_streams_live_on() {
    let server = server().await;
    let stream_body = with(ask("hi"), json!({"stream": true}));
    let talk = move |mut stream: TcpStream| {
        for _ in 0..3 {
            stream.write_all(request(&ask("hi")).as_bytes()).unwrap();
            assert!(reply(&mut stream).contains("abcdefghijklmnopqrst"));
            std::thread::sleep(RECEIVE / 3);
        }
        stream.write_all(request(&stream_body).as_bytes()).unwrap();
        rest(&mut stream)
    };
    let (answer, after) = client(server.address, talk).await;
    assert!(answer.contains("data: [DONE]"), "{answer}");
    assert!(after > 2 * RECEIVE, "the stream was to take longer than a request may: {after:?}");
}

#[tokio::test]
async fn closing_finishes_answers_and_drops_the_idle() {
    let server = server().await;
    let address = server.address;
    let mut idle = TcpStream::connect(address).unwrap();
    let stream_body = with(ask("hi"), json!({"stream": true}));
    let running = tokio::spawn(client(address, move |mut stream| {
        stream.write_all(request(&stream_body).as_bytes()).unwrap();
        rest(&mut stream)
    }));
    server.runs(1).await;
    server.close().await;
    assert!(running.await.unwrap().0.contains("data: [DONE]"));
    assert!(rest(&mut idle).1 < RECEIVE, "an idle connection is not waited for");
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn no_more_connections_are_served_than_there_is_room_for() {
    let mut setup = Setup::new().chat("hi", "ok");
    setup.settings = vec![("server.max_connections", "2")];
    let server = setup.start().await;
    let talk = move |mut first: TcpStream| {
        let connect = || TcpStream::connect(first.peer_addr().unwrap()).unwrap();
        let (mut second, mut third) = (connect(), connect());
        let get = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
        for stream in [&mut first, &mut second, &mut third] {
            stream.write_all(get).unwrap();
        }
        assert!(reply(&mut first).starts_with("HTTP/1.1 200") && reply(&mut second).starts_with("HTTP/1.1 200"));
        third.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(third.read(&mut [0]).is_err(), "the third one waits");
        drop(first);
        third.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(reply(&mut third).starts_with("HTTP/1.1 200"));
    };
    client(server.address, talk).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let server = server().await;
    let talk = |mut stream: TcpStream| {
        let requests = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2000);
        let _ = stream.write_all(requests.as_bytes());
        std::thread::sleep(RECEIVE * 5);
        let (mut read, mut buffer) = (0, vec![0; 1 << 16]);
        let end = loop {
            match stream.read(&mut buffer) {
                Ok(0) => break Ok(read),
                Ok(count) => read += count,
                Err(error) => break Err(error.kind()),
            }
        };
        (end, read)
    };
    let (end, read) = client(server.address, talk).await;
    assert_ne!(end, Err(std::io::ErrorKind::WouldBlock), "the connection is still open");
    assert!(read > 0, "what was sent before the stall arrives");
}
