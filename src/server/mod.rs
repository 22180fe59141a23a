//! HTTP only: routes, bodies, errors, events. What an answer is made of is `generate`'s business.

mod ask;
mod body;
mod client;
mod docs;
mod envelope;
mod error;
pub mod fuzz;
mod health;
mod messages;
mod openai;
mod problem;
mod router;
mod sse;
mod state;
mod tokens;

use std::net::SocketAddr;

use tokio::net::TcpListener;

pub use docs::ApiDoc;
pub use openai::unix_time;
pub use router::router;
pub use state::{AppState, Phase};

/// Serves until `shutdown` is done and the last answer is sent.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let app = router(state).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).with_graceful_shutdown(shutdown).await
}
