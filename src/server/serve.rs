//! The loop that accepts connections and speaks HTTP/1.1 on them, with a limit on how long a request's head may take and
//! an end in good order. Must not know what is served.

use std::pin::pin;

use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use super::{AppState, router};

/// Serves until `shutdown` is done and the last answer is sent.
pub async fn serve(mut listener: TcpListener, state: AppState, shutdown: impl Future<Output = ()> + Send + 'static) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(state.config.receive);
    let app = TowerToHyperService::new(router(state));
    let connections = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, address) = tokio::select! {
            () = &mut shutdown => break,
            accepted = Listener::accept(&mut listener) => accepted,
        };
        // Small events must not wait for each other.
        let _ = stream.set_nodelay(true);
        let app = app.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(address));
            app.call(request)
        });
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, "connection: {error}");
            }
        });
    }
    drop(listener);
    connections.shutdown().await;
}
