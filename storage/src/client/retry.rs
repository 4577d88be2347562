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
/// UNAVAILABLE; the transport gives it the code that its HTTP/2 error resembles
/// (RESOURCE_EXHAUSTED for ENHANCE_YOUR_CALM, say). A status that the peer sent has
/// no source.
#[must_use]
pub fn classify(status: Status) -> Status {
    if status.source().is_none() || status.code() == Code::Unavailable {
        return status;
    }
    Status::unavailable(format!("connection lost: {}", status.message()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    async fn attempts(answers: impl Fn(u32) -> Result<u32, Status>) -> (u32, Result<u32, Status>) {
        let made = Cell::new(0);
        let answer = retry(|| {
            made.set(made.get() + 1);
            std::future::ready(answers(made.get()))
        })
        .await;
        (made.get(), answer)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unavailable_is_tried_again_a_few_times() {
        let (made, answer) = attempts(Ok).await;
        assert_eq!((made, answer.unwrap()), (1, 1));
        let away = |made| match made {
            3 => Ok(made),
            _ => Err(Status::unavailable("away")),
        };
        let (made, answer) = attempts(away).await;
        assert_eq!((made, answer.unwrap()), (3, 3));
        let begun = tokio::time::Instant::now();
        let (made, answer) = attempts(|_| Err(Status::unavailable("away"))).await;
        assert_eq!(
            (made, answer.unwrap_err().code()),
            (ATTEMPTS, Code::Unavailable)
        );
        // 25 + 75 + 225 + 675 ms, each half to one and a half of it.
        let waited = begun.elapsed().as_millis();
        assert!((500..=1500).contains(&waited), "{waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_peer_refused_is_not() {
        for code in [Code::NotFound, Code::Internal, Code::Unknown] {
            let (made, answer) = attempts(|_| Err(Status::new(code, "no"))).await;
            assert_eq!((made, answer.unwrap_err().code()), (1, code));
        }
    }

    #[test]
    fn a_broken_connection_is_unavailable() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let status = Status::from_error(Box::new(broken));
        assert_eq!(classify(status).code(), Code::Unavailable);
        let mut exhausted = Status::resource_exhausted("h2 protocol error");
        exhausted.set_source(std::sync::Arc::new(std::io::Error::other("h2")));
        assert_eq!(classify(exhausted).code(), Code::Unavailable);
        let sent = Status::resource_exhausted("by the peer");
        assert_eq!(classify(sent).code(), Code::ResourceExhausted);
    }
}
