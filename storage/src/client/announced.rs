//! What a server announces.

use proto::wire::rev2::{CacheCapabilities, compressor};

/// What a batch may carry where the server does not say: what bb_storage is
/// deployed with.
const DEFAULT_BATCH: u64 = 2 << 20;
/// And at most, whatever the server says: gRPC's default message size. More would
/// only hold up other calls.
const MAXIMUM_BATCH: u64 = 4 << 20;

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

#[cfg(test)]
mod tests {
    use super::*;

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
