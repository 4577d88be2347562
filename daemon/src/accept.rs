//! Accepting connections, also when descriptors run out.
//!
//! A connection that cannot be accepted for want of a descriptor stays in the
//! socket's queue, and `accept(2)` fails at once when it is called again. So this
//! *accepts* until that error comes, then *pauses*, then accepts again: descriptors
//! come back when connections end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Sleep;
use tokio_stream::Stream;

/// How long nothing is accepted after descriptors ran out.
const PAUSE: Duration = Duration::from_millis(50);

/// Of this process, of the whole host.
const NO_DESCRIPTORS: [i32; 2] = [Errno::EMFILE as i32, Errno::ENFILE as i32];

/// The connections of a listener.
pub(crate) struct Accept<L> {
    listener: L,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<L> Accept<L> {
    pub(crate) fn new(listener: L) -> Self {
        Self {
            listener,
            pause: None,
        }
    }
}

impl<C, L: Stream<Item = io::Result<C>> + Unpin> Stream for Accept<L> {
    type Item = io::Result<C>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(Pin::new(&mut self.listener).poll_next(context)) {
                Some(Err(error))
                    if error
                        .raw_os_error()
                        .is_some_and(|code| NO_DESCRIPTORS.contains(&code)) =>
                {
                    tracing::warn!(%error, "cannot accept a connection now");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
                other => return Poll::Ready(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    #[tokio::test(start_paused = true)]
    async fn without_descriptors_it_pauses_and_then_goes_on() {
        let attempts = [
            Ok(1),
            Err(Errno::EMFILE.into()),
            Err(Errno::ENFILE.into()),
            Ok(2),
            Err(io::ErrorKind::ConnectionAborted.into()),
            Ok(3),
        ];
        let mut accept = Accept::new(tokio_stream::iter(attempts));
        let begun = tokio::time::Instant::now();
        assert_eq!(accept.next().await.unwrap().unwrap(), 1);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(accept.next().await.unwrap().unwrap(), 2);
        // Of the virtual clock: a pause for each.
        assert!(begun.elapsed() >= 2 * PAUSE);
        assert!(accept.next().await.unwrap().is_err());
        assert_eq!(accept.next().await.unwrap().unwrap(), 3);
    }
}
