//! Server-sent events: framing, headers, and the end of everything when the client leaves.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

/// Events written ahead of a slow client; the rest waits as pieces, never in the engine.
const AHEAD: usize = 16;

/// The client has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// The writing end of an event stream.
#[derive(Debug)]
pub struct Events {
    sender: mpsc::Sender<Bytes>,
}

impl Events {
    /// One `data:` event.
    pub async fn data(&mut self, value: &impl Serialize) -> Result<(), Gone> {
        let mut frame = b"data: ".to_vec();
        // Compact JSON holds no line break, so one line is the whole event.
        serde_json::to_writer(&mut frame, value).map_err(|_| Gone)?;
        frame.extend_from_slice(b"\n\n");
        self.send(frame.into()).await
    }

    /// A comment, which clients pass over.
    pub async fn comment(&mut self, text: &str) -> Result<(), Gone> {
        self.send(format!(": {text}\n\n").into()).await
    }

    /// The event that ends a complete answer.
    pub async fn done(&mut self) -> Result<(), Gone> {
        self.send(Bytes::from_static(b"data: [DONE]\n\n")).await
    }

    async fn send(&mut self, frame: Bytes) -> Result<(), Gone> {
        self.sender.send(frame).await.map_err(|_| Gone)
    }
}

/// Answers with the events that `write` sends. When the client leaves, `write` is dropped wherever it stands.
pub fn respond<F, W>(write: F) -> Response
where
    F: FnOnce(Events) -> W,
    W: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(AHEAD);
    let closed = sender.clone();
    let writing = write(Events { sender });
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = closed.closed() => {}
            _ = writing => {}
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, Infallible>));
    let headers = [
        (CONTENT_TYPE.as_str(), "text/event-stream; charset=utf-8"),
        (CACHE_CONTROL.as_str(), "no-cache"),
        ("x-accel-buffering", "no"),
    ];
    (headers, body).into_response()
}
