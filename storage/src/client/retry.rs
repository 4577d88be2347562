//! Trying again.

use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use rand::RngExt as _;
use tonic::{Code, Status};

/// How often a call is made at most.
const ATTEMPTS: u32 = 5;
/// The pause before the second attempt; each later one is three times as long.
const PAUSE: Duration = Duration::from_millis(25);

/// Makes a call that does no harm when it is made twice, again after a pause
/// while the server is UNAVAILABLE: about a second in all. The pauses vary, so
/// that clients that lost a server together do not return together.
pub(super) async fn retry<T, F: Future<Output = Result<T, Status>>>(
    mut call: impl FnMut() -> F,
) -> Result<T, Status> {
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS {
        match call().await.map_err(classify) {
            Err(status) if status.code() == Code::Unavailable => {
                tracing::debug!(%status, "trying again");
                let share = rand::rng().random_range(0.5..1.5);
                tokio::time::sleep(pause.mul_f64(share)).await;
                pause *= 3;
            }
            other => return other,
        }
    }
    call().await.map_err(classify)
}

/// A connection that broke in the middle of a call is what gRPC calls
/// UNAVAILABLE; the transport does not always say so. A status that the peer sent
/// has no source.
#[must_use]
pub fn classify(status: Status) -> Status {
    let broken = matches!(
        status.code(),
        Code::Unknown | Code::Internal | Code::Cancelled
    ) && status.source().is_some();
    if broken {
        return Status::unavailable(format!("connection lost: {}", status.message()));
    }
    status
}
