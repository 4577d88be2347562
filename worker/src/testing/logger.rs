//! A service that is told of completed actions.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{Stream, StreamExt};
use proto::wire::completedactionlogger::CompletedAction;
use proto::wire::completedactionlogger::completed_action_logger_server::CompletedActionLogger;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

/// Passes on what it is told.
pub(crate) struct FakeLogger {
    pub(crate) heard: mpsc::UnboundedSender<CompletedAction>,
    /// How many messages to receive without acknowledging them: the stream then
    /// breaks.
    pub(crate) breaks: AtomicUsize,
}

type Answers = Pin<Box<dyn Stream<Item = Result<(), Status>> + Send>>;

#[tonic::async_trait]
impl CompletedActionLogger for FakeLogger {
    type LogCompletedActionsStream = Answers;

    async fn log_completed_actions(
        &self,
        request: Request<Streaming<CompletedAction>>,
    ) -> Result<Response<Answers>, Status> {
        let mut incoming = request.into_inner();
        // As servers of other languages do: nothing is said before the first
        // message.
        let first = incoming.message().await?;
        let less = |breaks: usize| breaks.checked_sub(1);
        let breaks = self
            .breaks
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        let heard = self.heard.clone();
        let all = futures::stream::iter(first.map(Ok)).chain(incoming);
        let answers = all.map(move |action| {
            let _ = heard.send(action?);
            match breaks {
                Ok(_) => Err(Status::unavailable("full")),
                Err(_) => Ok(()),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
