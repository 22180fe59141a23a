//! A client that sees every byte: one request per connection, chunked bodies put together.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value as Json;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The `data:` events; panics on a frame of any other form than one line of data or comment.
    pub fn events(&self) -> Vec<String> {
        let text = self.text();
        assert!(text.is_empty() || text.ends_with("\n\n"), "the last frame is not whole: {text:?}");
        let frames = text.split_terminator("\n\n");
        frames
            .filter_map(|frame| {
                assert!(!frame.contains('\n'), "a frame of more than one line: {frame:?}");
                let data = frame.strip_prefix("data: ").map(str::to_owned);
                assert!(data.is_some() || frame.starts_with(": "), "neither data nor comment: {frame:?}");
                data
            })
            .collect()
    }

    /// The events of a complete stream as JSON, without `[DONE]`.
    pub fn chunks(&self) -> Vec<Json> {
        let mut events = self.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

pub async fn post(address: SocketAddr, path: &str, body: &Json) -> Reply {
    send(address, "POST", path, &[("content-type", "application/json")], body.to_string().as_bytes()).await
}

pub async fn get(address: SocketAddr, path: &str) -> Reply {
    send(address, "GET", path, &[], b"").await
}

pub async fn send(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    parse(&read_to_end(open(address, method, path, headers, body).await).await)
}

/// The status of `/v1/models` when the server is addressed as `host`.
pub async fn addressed_as(address: SocketAddr, host: &str) -> u16 {
    let request = format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    parse(&read_to_end(write(address, request.into_bytes()).await).await).status
}

/// Sends a request and leaves the reading to the caller.
pub async fn open(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    write!(head, "content-length: {}\r\n", body.len()).unwrap();
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    head += "\r\n";
    write(address, [head.as_bytes(), body].concat()).await
}

async fn write(address: SocketAddr, bytes: Vec<u8>) -> TcpStream {
    let write = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        // A refused body may close the connection early.
        let _ = stream.write_all(&bytes);
        stream
    };
    tokio::task::spawn_blocking(write).await.unwrap()
}

pub async fn read_to_end(mut stream: TcpStream) -> Vec<u8> {
    let read = move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes)
    };
    tokio::task::spawn_blocking(read).await.unwrap().unwrap()
}

fn parse(bytes: &[u8]) -> Reply {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| panic!("no head: {bytes:?}"));
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let pair = |line: &str| line.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).unwrap();
    let headers: Vec<_> = lines.map(pair).collect();
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let rest = &bytes[end + 4..];
    Reply { status, headers, body: if chunked { dechunk(rest) } else { rest.to_vec() } }
}

fn dechunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
}
