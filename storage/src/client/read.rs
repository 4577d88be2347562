//! ByteStream.Read.
//!
//! *Opened* at an offset → *receiving* → at the last byte, *verified*. When the
//! stream breaks or stands still it is opened again where it broke; each byte that
//! comes makes the attempts start anew. bb_storage knows neither limits nor, in
//! compressed streams, offsets: none of these is sent to any server.

use bytes::Bytes;
use daemon::CallContext;
use futures::{StreamExt as _, TryStreamExt as _};
use proto::resource_name::Compressor;
use proto::wire::bytestream::ReadRequest;
use proto::wire::bytestream::byte_stream_client::ByteStreamClient;
use proto::{Digest, Hasher, InstanceName, ResourceName};
use tokio::sync::OwnedSemaphorePermit;

use super::caller::{Attempts, Caller, classify, patiently};
use super::pool::Pool;
use super::remote::about;
use crate::compression;
use crate::error::Error;
use crate::store::ByteStream;
use crate::verify;

/// What is read, and of whom.
pub(super) struct Read {
    pub(super) client: ByteStreamClient<Pool>,
    pub(super) caller: Caller,
    pub(super) instance: InstanceName,
    pub(super) digest: Digest,
    /// Whether the server has it packed and that is worth it.
    pub(super) packed: bool,
}

impl Read {
    /// Opens a stream of the bytes from an offset on.
    async fn open(&self, offset: u64) -> Result<ByteStream, Error> {
        let digest = self.digest;
        let mut name = ResourceName::read(self.instance.clone(), digest);
        let packed = self.packed && offset == 0;
        if packed {
            name.compressor = Compressor::Zstd;
        }
        let request = ReadRequest {
            resource_name: name.to_string(),
            read_offset: i64::try_from(offset).unwrap_or(i64::MAX),
            read_limit: 0,
        };
        let call = || patiently(async { self.client.clone().read(request.clone()).await });
        let stream = self.caller.again(call).await;
        let stream = stream.map_err(|status| about(digest, status))?.into_inner();
        let bytes = futures::stream::try_unfold(stream, move |mut stream| async move {
            let message = patiently(stream.message()).await;
            let message = message.map_err(|status| about(digest, classify(status)))?;
            Ok(message.map(|message| (Bytes::from(message.data), stream)))
        })
        .boxed();
        Ok(if packed {
            compression::unpacked(digest, digest.size(), bytes)
        } else {
            bytes
        })
    }

    /// Reads part of a blob, or all of it and verifies it.
    pub(super) async fn part(self, offset: u64, length: u64) -> Result<ByteStream, Error> {
        let place = self.caller.place().await.map_err(Error::Remote)?;
        let stream = self.open(offset).await?;
        let digest = self.digest;
        let whole = offset == 0 && length == digest.size();
        let receiving = Receiving {
            attempts: Attempts::new(&self.caller),
            context: CallContext::current(),
            read: self,
            stream,
            offset,
            rest: length,
            hasher: whole.then(|| Hasher::new(digest.function(), digest.size())),
            _place: place,
        };
        Ok(
            futures::stream::try_unfold(receiving, |mut receiving| async move {
                let piece = receiving.next().await?;
                Ok(piece.map(|piece| (piece, receiving)))
            })
            .boxed(),
        )
    }
}

/// What is left to receive.
struct Receiving {
    read: Read,
    attempts: Attempts,
    context: CallContext,
    stream: ByteStream,
    /// Of the next byte.
    offset: u64,
    /// Bytes still to come.
    rest: u64,
    /// Of what came, where the whole blob is read.
    hasher: Option<Hasher>,
    _place: OwnedSemaphorePermit,
}

impl Receiving {
    /// The next piece, or the verdict at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.rest == 0 && self.hasher.is_none() {
                // What was asked for is there, though the server would send on.
                return Ok(None);
            }
            match self.stream.try_next().await {
                Ok(Some(piece)) if piece.is_empty() => {}
                Ok(Some(piece)) => return self.take(piece).map(Some),
                Ok(None) => return self.end().map(|()| None),
                Err(Error::Remote(status)) => {
                    self.attempts.failed(status).await.map_err(Error::Remote)?;
                    let opened = self.read.open(self.offset);
                    self.stream = self.context.clone().scope(opened).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, mut piece: Bytes) -> Result<Bytes, Error> {
        self.attempts = Attempts::new(&self.read.caller);
        let length = piece.len() as u64;
        if length > self.rest {
            if self.hasher.is_some() {
                return Err(self.size(self.offset + length));
            }
            // It fits: it is less than the piece's length.
            piece.truncate(self.rest as usize);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&piece);
        }
        self.offset += piece.len() as u64;
        self.rest -= piece.len() as u64;
        Ok(piece)
    }

    fn size(&self, actual: u64) -> Error {
        Error::Size {
            digest: self.read.digest,
            actual,
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        self.read.caller.earn();
        match self.hasher.take() {
            Some(hasher) => verify::hashed(self.read.digest, hasher),
            None if self.rest > 0 => Err(self.size(self.offset)),
            None => Ok(()),
        }
    }
}
