//! Large blobs, in pieces: a piece is read or written on a thread that may wait
//! for the disk while the one before it is on its way to or from the client.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use proto::Hasher;
use tokio::task::JoinHandle;

use super::blobs::Inner;
use super::files::failed;
use super::key::Key;
use super::writing::Writing;
use crate::blocking::{blocking, joined};
use crate::error::Error;
use crate::store::ByteStream;
use crate::verify;

/// How much is read or written at a time.
const PIECE: u64 = 1 << 20;

/// What a piece that waits to be written takes beside its bytes, roughly. Clients
/// choose how small their pieces are.
const PIECE_OVERHEAD: u64 = 64;

/// Writes a blob as its bytes come.
pub(super) async fn write(inner: Arc<Inner>, key: Key, mut bytes: ByteStream) -> Result<(), Error> {
    let creating = inner.clone();
    let mut writing: JoinHandle<Result<Writing, Error>> =
        tokio::task::spawn_blocking(move || creating.create(key));
    let mut pieces = Vec::new();
    let mut gathered = 0;
    while let Some(piece) = bytes.try_next().await? {
        if piece.is_empty() {
            continue;
        }
        gathered += piece.len() as u64 + PIECE_OVERHEAD;
        pieces.push(piece);
        if gathered >= PIECE {
            let incoming = joined(writing).await??;
            writing = append(incoming, std::mem::take(&mut pieces));
            gathered = 0;
        }
    }
    let incoming = joined(writing).await??;
    let incoming = joined(append(incoming, pieces)).await??;
    blocking(move || inner.publish(key, incoming.finish()?, None)).await?
}

fn append(mut incoming: Writing, pieces: Vec<Bytes>) -> JoinHandle<Result<Writing, Error>> {
    tokio::task::spawn_blocking(move || {
        for piece in pieces {
            incoming.append(&piece)?;
        }
        Ok(incoming)
    })
}

/// What is left to read. While a piece is with the consumer, the next is read.
struct Reading {
    inner: Arc<Inner>,
    key: Key,
    file: File,
    position: u64,
    end: u64,
    /// Of what was read, where the whole blob is.
    hasher: Option<Hasher>,
}

type Step = Result<(Bytes, Option<Reading>), Error>;

impl Reading {
    /// Reads the next piece; with the last one comes the verdict on all.
    fn step(mut self) -> Step {
        let length = (self.end - self.position).min(PIECE);
        let mut piece = vec![0; length as usize];
        if let Err(source) = self.file.read_exact_at(&mut piece, self.position) {
            if source.kind() == std::io::ErrorKind::UnexpectedEof {
                let error = Error::Size {
                    digest: self.key.digest,
                    actual: self.file.metadata().map_or(0, |metadata| metadata.len()),
                };
                self.inner.damaged(&self.key, &self.file, &error);
                return Err(error);
            }
            let path = self.inner.path(&self.key);
            return Err(failed("read", &path)(source));
        }
        self.position += length;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&piece);
        }
        if self.position < self.end {
            return Ok((piece.into(), Some(self)));
        }
        if let Some(hasher) = self.hasher.take()
            && let Err(error) = verify::hashed(self.key.digest, hasher)
        {
            self.inner.damaged(&self.key, &self.file, &error);
            return Err(error);
        }
        Ok((piece.into(), None))
    }
}

/// Reads part of a blob, or all of it and verifies it.
pub(super) fn read(
    inner: Arc<Inner>,
    key: Key,
    file: File,
    offset: u64,
    length: u64,
) -> ByteStream {
    let digest = key.digest;
    let whole = offset == 0 && length == digest.size();
    let reading = Reading {
        inner,
        key,
        file,
        position: offset,
        end: offset + length,
        hasher: whole.then(|| Hasher::new(digest.function(), digest.size())),
    };
    let begin = |reading: Reading| tokio::task::spawn_blocking(move || reading.step());
    let first = (length > 0).then(|| begin(reading));
    futures::stream::try_unfold(first, move |step: Option<JoinHandle<Step>>| async move {
        let Some(step) = step else {
            return Ok(None);
        };
        let (piece, rest) = joined(step).await??;
        Ok(Some((piece, rest.map(begin))))
    })
    .boxed()
}
