//! The loop that accepts connections and speaks HTTP/1.1 on them, encrypted or not, with a limit on their number, on how
//! long a request's head may take and on how long a peer may not read, and an end in good order. Must not know what is
//! served.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::stall::Stalling;
use super::{AppState, Tls, checks, router};

/// Serves until `shutdown` is done and the last answer is sent.
pub async fn serve(
    mut listener: TcpListener,
    tls: Option<Tls>,
    state: AppState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let patience = state.config.receive;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience);
    let places = Arc::new(Semaphore::new(state.config.max_connections));
    let app = TowerToHyperService::new(router(state.clone()));
    let connections = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    let watching = tokio::spawn(checks::watch(state.clone()));
    let renewal = tls.clone().map(|tls| tokio::spawn(tls.renew()));
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let (place, (stream, address)) = tokio::select! {
            () = &mut shutdown => break,
            accepted = async { (place.await, Listener::accept(&mut listener).await) } => accepted,
        };
        // Small events must not wait for each other.
        let _ = stream.set_nodelay(true);
        let stream = Stalling::new(stream, patience);
        let connection = Connection { http: http.clone(), app: app.clone(), address, watcher: connections.watcher() };
        let tls = tls.clone();
        tokio::spawn(async move {
            let _place = place;
            let Some(tls) = tls else { return connection.run(stream).await };
            match tokio::time::timeout(patience, tls.acceptor().accept(stream)).await {
                Ok(Ok(stream)) => connection.run(stream).await,
                Ok(Err(error)) => tracing::debug!(%address, "TLS: {error}"),
                Err(_) => tracing::debug!(%address, "TLS: the handshake took too long"),
            }
        });
    }
    drop(listener);
    connections.shutdown().await;
    if let Some(renewal) = renewal {
        renewal.abort();
    }
    watching.abort();
}

/// One connection.
struct Connection {
    http: http1::Builder,
    app: TowerToHyperService<Router>,
    address: SocketAddr,
    watcher: Watcher,
}

impl Connection {
    async fn run(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Self { http, app, address, watcher } = self;
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(address));
            app.call(request)
        });
        if let Err(error) = watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await {
            tracing::debug!(%address, "connection: {error}");
        }
    }
}
