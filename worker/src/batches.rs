//! Cutting a transfer into requests: small blobs together, large ones alone.

use proto::Digest;

/// Blobs up to this size are transferred together with others.
const SMALL: u64 = 1 << 20;
/// What one batch holds at most, in bytes. Several batches under way use the
/// connection better than one large one.
const BATCH_BYTES: u64 = 2 << 20;
/// What one batch holds at most, in blobs.
pub(crate) const BATCH_BLOBS: usize = 512;

/// One request to the storage: blobs, each with what it comes from or becomes.
pub(crate) enum Request<T> {
    Batch(Vec<(Digest, T)>),
    Stream((Digest, T)),
}

/// The requests that transfer these blobs.
pub(crate) fn requests<T>(blobs: impl IntoIterator<Item = (Digest, T)>) -> Vec<Request<T>> {
    let mut requests = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    for (digest, blob) in blobs {
        if digest.size() > SMALL {
            requests.push(Request::Stream((digest, blob)));
            continue;
        }
        if bytes + digest.size() > BATCH_BYTES || batch.len() == BATCH_BLOBS {
            requests.push(Request::Batch(std::mem::take(&mut batch)));
            bytes = 0;
        }
        bytes += digest.size();
        batch.push((digest, blob));
    }
    if !batch.is_empty() {
        requests.push(Request::Batch(batch));
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::DigestFunction;

    /// How many blobs each request has; 0 for a stream.
    fn cut(sizes: impl IntoIterator<Item = u64>) -> Vec<usize> {
        let hash = Digest::of(DigestFunction::Sha256, b"").hash();
        let blob = |size| {
            (
                Digest::new(DigestFunction::Sha256, &hash, size).unwrap(),
                (),
            )
        };
        let blobs: Vec<_> = sizes.into_iter().map(blob).collect();
        let count = |request: &Request<()>| match request {
            Request::Batch(blobs) => blobs.len(),
            Request::Stream(_) => 0,
        };
        requests(blobs).iter().map(count).collect()
    }

    #[test]
    fn batches_are_full_but_not_fuller() {
        assert!(cut([]).is_empty());
        assert_eq!(cut([1, SMALL + 1, 1]), [0, 2]);
        assert_eq!(cut([SMALL, SMALL, 1]), [2, 1]);
        assert_eq!(cut(vec![1; BATCH_BLOBS + 1]), [BATCH_BLOBS, 1]);
    }
}
