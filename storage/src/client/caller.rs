//! How calls are made: so many at a time, each with an end, and again where that
//! does no harm.

use std::error::Error as _;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

/// How often a call is made at most.
pub(super) const ATTEMPTS: u32 = 5;
/// The pause before the second attempt; each later one is three times as long.
const PAUSE: Duration = Duration::from_millis(25);

/// How long one attempt of a unary call may take, and how long a stream may stand
/// still. The largest message passes in that time at 70 kB/s.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Calls and streams under way together.
const PARALLEL: usize = 128;

/// Further attempts that may be made before others succeed.
const BUDGET: f64 = 500.0;
/// What a success adds to the budget.
const EARNED: f64 = 0.2;

/// Makes the calls of one client. Clones share what bounds them.
#[derive(Clone)]
pub(super) struct Caller {
    places: Arc<Semaphore>,
    budget: Arc<Mutex<f64>>,
}

impl Caller {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(PARALLEL)),
            budget: Arc::new(Mutex::new(BUDGET)),
        }
    }

    /// A place among the calls that are under way, held while the call is.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = self.places.clone().acquire_owned().await;
        place.map_err(|_| Status::internal("the client is closed"))
    }

    /// Makes a unary call that does no harm when it is made twice, again after a
    /// pause while the server is UNAVAILABLE: about a second in all.
    pub(super) async fn unary<T, F: Future<Output = Result<T, Status>>>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> Result<T, Status> {
        let _place = self.place().await?;
        self.again(|| patiently(call())).await
    }

    /// As [`Self::unary`], by somebody who has a place.
    pub(super) async fn again<T, F: Future<Output = Result<T, Status>>>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> Result<T, Status> {
        let mut attempts = Attempts::new(self);
        loop {
            match call().await.map_err(classify) {
                Ok(answer) => {
                    self.earn();
                    return Ok(answer);
                }
                Err(status) => attempts.failed(status).await?,
            }
        }
    }

    /// A success allows others a little more.
    pub(super) fn earn(&self) {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        *budget = (*budget + EARNED).min(BUDGET);
    }

    /// Whether a further attempt may be made. Where many fail, each of them tries
    /// less: a storage that is overloaded must not be asked five times as much.
    fn spend(&self) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = *budget >= 1.0;
        if allowed {
            *budget -= 1.0;
        }
        allowed
    }
}

/// The attempts at one thing.
pub(super) struct Attempts {
    caller: Caller,
    left: u32,
    pause: Duration,
}

impl Attempts {
    pub(super) fn new(caller: &Caller) -> Self {
        Self {
            caller: caller.clone(),
            left: ATTEMPTS - 1,
            pause: PAUSE,
        }
    }

    /// Returns after a pause when another attempt is to be made, and otherwise with
    /// the failure. The pauses vary, so that clients that lost a server together do
    /// not return together.
    pub(super) async fn failed(&mut self, status: Status) -> Result<(), Status> {
        if status.code() != Code::Unavailable || self.left == 0 || !self.caller.spend() {
            return Err(status);
        }
        self.left -= 1;
        tracing::debug!(%status, "trying again");
        let share = rand::rng().random_range(0.5..1.5);
        tokio::time::sleep(self.pause.mul_f64(share)).await;
        self.pause *= 3;
        Ok(())
    }
}

/// Gives up what takes too long, as if the connection were lost.
pub(super) async fn patiently<T>(
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer,
        Err(_) => Err(stalled()),
    }
}

/// What took too long.
pub(super) fn stalled() -> Status {
    Status::unavailable(format!("nothing was heard for {} s", PATIENCE.as_secs()))
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

    async fn attempts(
        caller: &Caller,
        answers: impl Fn(u32) -> Result<u32, Status>,
    ) -> (u32, Result<u32, Status>) {
        let made = Cell::new(0);
        let call = || {
            made.set(made.get() + 1);
            std::future::ready(answers(made.get()))
        };
        let answer = caller.unary(call).await;
        (made.get(), answer)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unavailable_is_tried_again_a_few_times() {
        let caller = Caller::new();
        let (made, answer) = attempts(&caller, Ok).await;
        assert_eq!((made, answer.unwrap()), (1, 1));
        let away = |made| match made {
            3 => Ok(made),
            _ => Err(Status::unavailable("away")),
        };
        let (made, answer) = attempts(&caller, away).await;
        assert_eq!((made, answer.unwrap()), (3, 3));
        let begun = tokio::time::Instant::now();
        let (made, answer) = attempts(&caller, |_| Err(Status::unavailable("away"))).await;
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
            let (made, answer) = attempts(&Caller::new(), |_| Err(Status::new(code, "no"))).await;
            assert_eq!((made, answer.unwrap_err().code()), (1, code));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_for_long_is_asked_once_each_time() {
        let caller = Caller::new();
        let away = |_| Err(Status::unavailable("away"));
        let mut made = 0;
        for _ in 0..1000 {
            made += attempts(&caller, away).await.0;
        }
        assert_eq!(made, 1000 + 500);
        // And when it is back, successes pay for further attempts.
        for _ in 0..5 {
            assert_eq!(attempts(&caller, Ok).await.0, 1);
        }
        assert_eq!(attempts(&caller, away).await.0, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_nobody_answers_ends() {
        let begun = tokio::time::Instant::now();
        let never = || std::future::pending::<Result<(), Status>>();
        let answer = Caller::new().unary(never).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
        assert!(begun.elapsed() >= PATIENCE * ATTEMPTS);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_calls_at_a_time_and_given_up_ones_leave_their_place() {
        let caller = Caller::new();
        let never = || std::future::pending::<Result<(), Status>>();
        let mut waiting: Vec<_> = (0..PARALLEL)
            .map(|_| Box::pin(caller.unary(never)))
            .collect();
        for call in &mut waiting {
            assert!(futures::poll!(call).is_pending());
        }
        let mut next = Box::pin(caller.unary(|| std::future::ready(Ok(()))));
        assert!(futures::poll!(&mut next).is_pending());
        waiting.pop();
        next.await.unwrap();
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
