//! Work that may wait for a disk or takes long.

use tokio::task::JoinHandle;

use crate::error::Error;

/// Runs it on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    joined(tokio::task::spawn_blocking(work)).await
}

/// What such work came to.
pub(crate) async fn joined<T>(work: JoinHandle<T>) -> Result<T, Error> {
    work.await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Error::Stopping,
    })
}
