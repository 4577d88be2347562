//! ByteStream.

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use proto::wire::bytestream::byte_stream_client::ByteStreamClient;
use proto::wire::bytestream::{ReadRequest, ReadResponse, WriteRequest};
use proto::{Digest, Hasher, InstanceName, ResourceName};
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::remote::{about, lost};
use super::retry::retry;
use crate::error::Error;
use crate::store::ByteStream;
use crate::verify;

/// How much one message carries at most.
const PIECE: usize = 512 << 10;

fn wire(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What is left to receive.
struct Receiving {
    stream: Streaming<ReadResponse>,
    digest: Digest,
    /// Bytes still to come.
    rest: u64,
    /// Of what came, where the whole blob is read.
    hasher: Option<Hasher>,
    received: u64,
}

impl Receiving {
    /// The next piece, or the verdict at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(message) =
                self.stream
                    .message()
                    .await
                    .map_err(|status| match lost(status) {
                        Error::Remote(status) => about(self.digest, status),
                        other => other,
                    })?
            else {
                return self.end().map(|()| None);
            };
            let mut piece = Bytes::from(message.data);
            self.received += piece.len() as u64;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&piece);
                if self.received > self.digest.size() {
                    return self.end().map(|()| None);
                }
            }
            piece.truncate(usize::try_from(self.rest).unwrap_or(usize::MAX));
            self.rest -= piece.len() as u64;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
            // What was asked for is there, and the server sends on.
            if self.rest == 0 && self.hasher.is_none() {
                return Ok(None);
            }
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        match self.hasher.take() {
            Some(hasher) => verify::hashed(self.digest, hasher),
            None if self.rest > 0 => Err(Error::Size {
                digest: self.digest,
                actual: self.digest.size() - self.rest,
            }),
            None => Ok(()),
        }
    }
}

/// Reads part of a blob, or all of it and verifies it.
///
/// No limit is sent: bb_storage does not know limits. What exceeds it is not
/// taken from the server.
pub(super) async fn read(
    client: &ByteStreamClient<Channel>,
    instance: &InstanceName,
    digest: Digest,
    offset: u64,
    length: u64,
) -> Result<ByteStream, Error> {
    let request = ReadRequest {
        resource_name: ResourceName::read(instance.clone(), digest).to_string(),
        read_offset: wire(offset),
        read_limit: 0,
    };
    let call = || async { client.clone().read(request.clone()).await };
    let stream = retry(call)
        .await
        .map_err(|status| about(digest, status))?
        .into_inner();
    let whole = offset == 0 && length == digest.size();
    let receiving = Receiving {
        stream,
        digest,
        rest: length,
        hasher: whole.then(|| Hasher::new(digest.function())),
        received: 0,
    };
    Ok(
        futures::stream::try_unfold(receiving, |mut receiving| async move {
            if receiving.rest == 0 && receiving.hasher.is_none() {
                return Ok(None);
            }
            let piece = receiving.next().await?;
            Ok(piece.map(|piece| (piece, receiving)))
        })
        .boxed(),
    )
}

/// The messages of an upload, and where to hear that its source failed. The
/// stream then stays open, for the call is to be given up, not ended.
fn messages(
    instance: &InstanceName,
    digest: Digest,
    bytes: ByteStream,
) -> (
    impl Stream<Item = WriteRequest> + Send + 'static,
    oneshot::Receiver<Error>,
) {
    struct Sending {
        bytes: ByteStream,
        piece: Bytes,
        name: String,
        offset: u64,
        failed: Option<oneshot::Sender<Error>>,
        finished: bool,
    }
    let (failed, failure) = oneshot::channel();
    let upload = uuid::Uuid::new_v4().to_string();
    let sending = Sending {
        bytes,
        piece: Bytes::new(),
        name: ResourceName::write(instance.clone(), upload, digest).to_string(),
        offset: 0,
        failed: Some(failed),
        finished: false,
    };
    let messages = futures::stream::unfold(sending, |mut sending| async move {
        if sending.finished {
            return None;
        }
        while sending.piece.is_empty() {
            match sending.bytes.next().await {
                Some(Ok(piece)) => sending.piece = piece,
                Some(Err(error)) => {
                    if let Some(failed) = sending.failed.take() {
                        let _ = failed.send(error);
                    }
                    std::future::pending::<()>().await;
                }
                None => {
                    sending.finished = true;
                    break;
                }
            }
        }
        let length = sending.piece.len().min(PIECE);
        let data = sending.piece.split_to(length);
        let message = WriteRequest {
            // Needed in the first message only.
            resource_name: std::mem::take(&mut sending.name),
            write_offset: wire(sending.offset),
            finish_write: sending.finished,
            data: data.into(),
        };
        sending.offset += length as u64;
        Some((message, sending))
    });
    (messages, failure)
}

/// Stores a blob. The server may answer before all is sent, when it has it.
pub(super) async fn write(
    client: &ByteStreamClient<Channel>,
    instance: &InstanceName,
    digest: Digest,
    bytes: ByteStream,
) -> Result<(), Error> {
    let (messages, failure) = messages(instance, digest, bytes);
    let mut client = client.clone();
    let response = tokio::select! {
        response = client.write(messages) => response.map_err(lost)?.into_inner(),
        Ok(error) = failure => return Err(error),
    };
    if response.committed_size != wire(digest.size()) {
        return Err(Error::Remote(Status::internal(format!(
            "blob {digest} was acknowledged with {} bytes",
            response.committed_size,
        ))));
    }
    Ok(())
}
