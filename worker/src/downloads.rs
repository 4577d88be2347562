//! What bounds the downloads of all slots together.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::Error;

/// What all downloads under way may hold in memory, in KiB. 32 MiB keep a fast
/// network busy and do not grow with the number of slots.
const MEMORY: u32 = 32 << 10;
/// What a stream holds of its blob at a time, in bytes.
pub(crate) const STREAM: u64 = 1 << 20;

/// Downloads wait here for their turn, in the order in which they come.
pub struct Downloads {
    calls: Semaphore,
    memory: Semaphore,
}

/// The right to one download.
pub(crate) struct Turn<'a> {
    _call: SemaphorePermit<'a>,
    _memory: SemaphorePermit<'a>,
}

impl Downloads {
    /// Allows this many at a time, and as many as there is memory for.
    #[must_use]
    pub fn new(concurrency: usize) -> Self {
        Self {
            calls: Semaphore::new(concurrency.min(Semaphore::MAX_PERMITS)),
            memory: Semaphore::new(MEMORY as usize),
        }
    }

    /// Waits for the turn of a download that holds this many bytes in memory.
    pub(crate) async fn turn(&self, bytes: u64) -> Result<Turn<'_>, Error> {
        let closed = |error: tokio::sync::AcquireError| Error::Internal(error.to_string());
        let size = u32::try_from(bytes.div_ceil(1024)).unwrap_or(MEMORY);
        Ok(Turn {
            _call: self.calls.acquire().await.map_err(closed)?,
            _memory: self
                .memory
                .acquire_many(size.clamp(1, MEMORY))
                .await
                .map_err(closed)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_bounds_what_the_number_does_not() {
        let downloads = Downloads::new(8);
        let half = u64::from(MEMORY) * 1024 / 2;
        let first = downloads.turn(half).await.unwrap();
        let _second = downloads.turn(half - 2048).await.unwrap();
        let mut third = Box::pin(downloads.turn(half));
        assert!(futures::poll!(&mut third).is_pending());
        // First come, first served: the small one does not overtake.
        let mut small = Box::pin(downloads.turn(1));
        assert!(futures::poll!(&mut small).is_pending());
        drop(first);
        let third = third.await.unwrap();
        assert!(futures::poll!(&mut small).is_ready());
        drop(third);
        // One that is larger than all of it waits until it is alone.
        drop(small);
        drop(_second);
        assert!(downloads.turn(u64::MAX).await.is_ok());
    }

    #[tokio::test]
    async fn no_more_are_made_at_a_time_than_allowed() {
        let downloads = Downloads::new(1);
        let first = downloads.turn(1).await.unwrap();
        let mut second = Box::pin(downloads.turn(1));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.is_ok());
    }
}
