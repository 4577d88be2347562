//! What a server announces.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::wire::rev2::{CacheCapabilities, compressor};
use tokio::time::Instant;
use tonic::Code;

use crate::error::Error;

/// What a batch may carry where the server does not say: what bb_storage is
/// deployed with.
const DEFAULT_BATCH: u64 = 2 << 20;
/// And at most, whatever the server says: gRPC's default message size. More would
/// only hold up other calls.
const MAXIMUM_BATCH: u64 = 4 << 20;

/// How long the client goes by what a server said: servers are replaced by others.
const REMEMBERED: Duration = Duration::from_secs(300);

/// What of a server's capabilities the client goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    /// What a batch may carry, its digests included, in bytes.
    pub(super) batch: u64,
    /// Whether streams, and batches that are read, may be packed.
    pub(super) packed_reads: bool,
    /// Whether batches that are written may.
    pub(super) packed_batches: bool,
}

impl Announced {
    /// Of a server that announces nothing.
    pub(super) const NOTHING: Self = Self {
        batch: DEFAULT_BATCH,
        packed_reads: false,
        packed_batches: false,
    };

    pub(super) fn by(cache: Option<&CacheCapabilities>) -> Self {
        let Some(cache) = cache else {
            return Self::NOTHING;
        };
        let zstd = |compressors: &[i32]| compressors.contains(&(compressor::Value::Zstd as i32));
        Self {
            batch: match u64::try_from(cache.max_batch_total_size_bytes) {
                Ok(0) | Err(_) => DEFAULT_BATCH,
                Ok(limit) => limit.min(MAXIMUM_BATCH),
            },
            packed_reads: zstd(&cache.supported_compressors),
            packed_batches: zstd(&cache.supported_batch_update_compressors),
        }
    }

    /// As if no compressor were announced.
    pub(super) fn unpacked(self) -> Self {
        Self {
            packed_reads: false,
            packed_batches: false,
            ..self
        }
    }
}

/// What a server said of itself, and when it is to be asked again: after some time, and
/// when it refuses something, which may be because it is another one now. Clones share
/// it.
#[derive(Clone, Debug, Default)]
pub(super) struct Remembered(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    announced: Option<Announced>,
    /// None: at once.
    ask: Option<Instant>,
}

impl Remembered {
    fn with<T>(&self, act: impl FnOnce(&mut Memory) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What it said, if it is not to be asked now. Where it has been asked before one
    /// caller is told to; the others go by what it said meanwhile.
    pub(super) fn get(&self) -> Option<Announced> {
        let now = Instant::now();
        self.with(|memory| {
            let due = memory.ask.is_none_or(|ask| ask <= now);
            if due && memory.announced.is_some() {
                memory.ask = Some(now + REMEMBERED);
            }
            memory.announced.filter(|_| !due)
        })
    }

    /// What it said before.
    pub(super) fn earlier(&self) -> Option<Announced> {
        self.with(|memory| memory.announced)
    }

    /// Notes what it says now.
    pub(super) fn set(&self, announced: Announced) {
        self.with(|memory| {
            memory.announced = Some(announced);
            memory.ask = Some(Instant::now() + REMEMBERED);
        });
    }

    /// Hears how a call ended that went by it.
    pub(super) fn hear<T>(&self, ended: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Remote(status)) = &ended
            && matches!(
                status.code(),
                Code::Unimplemented | Code::InvalidArgument | Code::ResourceExhausted
            )
        {
            self.with(|memory| memory.ask = None);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    #[tokio::test(start_paused = true)]
    async fn a_server_is_asked_again_after_a_while_and_when_it_refuses() {
        let remembered = Remembered::default();
        assert_eq!(remembered.get(), None);
        assert_eq!(remembered.get(), None);
        remembered.set(Announced::NOTHING);
        tokio::time::advance(REMEMBERED - Duration::from_secs(1)).await;
        assert_eq!(remembered.get(), Some(Announced::NOTHING));
        tokio::time::advance(Duration::from_secs(1)).await;
        // By one.
        assert_eq!(remembered.get(), None);
        assert_eq!(remembered.get(), Some(Announced::NOTHING));
        let failed = |code| Err::<(), _>(Error::Remote(Status::new(code, "")));
        remembered.hear(failed(Code::Unavailable)).unwrap_err();
        assert_eq!(remembered.get(), Some(Announced::NOTHING));
        remembered.hear(failed(Code::InvalidArgument)).unwrap_err();
        assert_eq!(remembered.get(), None);
        assert_eq!(remembered.earlier(), Some(Announced::NOTHING));
    }

    #[test]
    fn what_is_not_said_is_assumed() {
        let by = |batch, streams: &[i32], batches: &[i32]| {
            let announced = Announced::by(Some(&CacheCapabilities {
                max_batch_total_size_bytes: batch,
                supported_compressors: streams.to_vec(),
                supported_batch_update_compressors: batches.to_vec(),
                ..Default::default()
            }));
            let Announced {
                batch,
                packed_reads,
                packed_batches,
            } = announced;
            (batch, packed_reads, packed_batches)
        };
        assert_eq!(by(0, &[], &[]), (2 << 20, false, false));
        assert_eq!(by(-1, &[0], &[2, 3]), (2 << 20, false, false));
        assert_eq!(by(1000, &[0, 1], &[]), (1000, true, false));
        assert_eq!(by(1 << 40, &[], &[1]), (4 << 20, false, true));
    }
}
