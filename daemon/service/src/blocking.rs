//! Work that may block, on the thread pool for it.

use ingle_protocol::error::{ErrorBody, ErrorCode};
use tracing::Span;

/// Runs `work` on the pool for blocking work, in the current span.
///
/// # Errors
/// The error of the work; `INTERNAL` when it panics.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ErrorBody> + Send + 'static,
) -> Result<T, ErrorBody> {
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?
}
